"""Annotations that are no pictures: outlines of several programs, and label arrays in HDF5."""

SUFFIXES = (".json", ".xml", ".roi", ".zip")  # of files with outlines
LABEL_SUFFIXES = (".h5", ".hdf5")  # of files with an array of labels
