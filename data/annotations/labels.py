"""Label arrays in HDF5, as ilastik writes them."""

import json
from pathlib import Path

import h5py
import numpy as np

from common.errors import InputError

_USUAL = "exported_data"  # ilastik's name
_MOST = 3 << 29  # bytes


def read_labels(path: Path) -> np.ndarray:
    """Read the whole numbers (h, w) of an HDF5 file: its data set `exported_data`, or its only one. InputError."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = []
            file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
            name = _USUAL if _USUAL in found else found[0] if len(found) == 1 else None
            if name is None:
                named = ", ".join(found[:6]) or "none"
                raise InputError(f"{path}: data sets are {named}; export the labels as one, called '{_USUAL}'")
            data = file[name]
            if data.external or data.is_virtual:
                raise InputError(f"{path}: '{name}' lies in another file; export the labels into this one")
            sides = tuple(side for side in data.shape if side != 1)
            if data.dtype.kind not in "ui" or len(sides) != 2:
                raise InputError(
                    f"{path}: '{name}' is {data.dtype} {data.shape}, no whole numbers of one image; export the labels "
                    "(ilastik: Simple Segmentation)"
                )
            if data.size * data.dtype.itemsize > _MOST:
                raise InputError(f"{path}: '{name}' {data.shape} takes more than {_MOST >> 20} MiB; crop it")
            labels = data[()].reshape(sides)
            return labels.T if _by_columns(data) else labels
    except InputError:
        raise
    except Exception as error:  # damaged bytes make HDF5 raise anything
        raise InputError(f"{path}: no readable HDF5 file ({error}); export the labels again") from error


def _by_columns(data: h5py.Dataset) -> bool:
    """Tell if x stands before y in the axes that ilastik names; without names y is first."""
    axes = [axis["key"] for axis in json.loads(data.attrs.get("axistags", '{"axes": []}'))["axes"]]
    return "y" in axes and "x" in axes[: axes.index("y")]
