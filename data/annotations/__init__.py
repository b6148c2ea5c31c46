"""Annotations that are no pictures: outlines of several programs, and label arrays in HDF5."""

SUFFIXES = (".json", ".xml", ".roi", ".zip")  # of files with outlines
LABEL_SUFFIXES = (".h5", ".hdf5")  # of files with an array of labels
OF_ONE = (".roi", ".zip", *LABEL_SUFFIXES)  # of files that annotate one image, that of their name
