"""Grey levels of micrographs, and micrographs that are given those of others."""

from collections.abc import Iterable

import numpy as np


def grey_levels(images: Iterable[np.ndarray]) -> np.ndarray:
    """Share of the pixels, float64 (256,), at each grey level of several micrographs uint8 (h, w)."""
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in images)
    return counts / counts.sum()


FEW_LEVELS, _NEARLY_ALL = 4, 0.9  # levels of a mask, and share of its pixels that has them when it is resized


def has_few_levels(image: np.ndarray) -> bool:
    """True where nearly all pixels of a micrograph uint8 (h, w) have one of FEW_LEVELS: it may be a mask."""
    return bool(np.sort(grey_levels([image]))[-FEW_LEVELS:].sum() > _NEARLY_ALL)


def matched(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Micrograph uint8 (h, w) whose grey levels are replaced, in their order, so that they are spread as `levels`."""
    return transfer(grey_levels([image]), levels)[image]


def transfer(own: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Table, uint8 (256,), that replaces grey levels spread as `own` in their order by levels spread as `levels`."""
    place = np.cumsum(own) - own / 2  # of each level in the order of all pixels
    table = np.interp(place, np.cumsum(levels) - levels / 2, np.arange(256))
    return np.rint(table).astype(np.uint8)
