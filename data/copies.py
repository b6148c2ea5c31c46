"""Micrographs of one field: equal ones, and such that were re-saved, given another contrast or drawn upon."""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_SIDE, _SMOOTH = 64, 2  # cells of a pattern, and of the Gaussian that is taken from it: vignettes and drift go
_FLAT, _SHOWN = 0.5, 0.25  # grey levels below which a cell shows nothing, and the share that has to show something
# Correlation from which two patterns are of one field. Different fields of three published sets and the drawn one have
# 0.13 at most, above a common bar of text 0.40. Copies as JPEG, of half the size or another contrast have 0.6 and more.
_ALIKE = 0.5
_GROUPS, _NAMES = 3, 4  # that are named


def pattern(image: np.ndarray) -> np.ndarray:
    """Signs, int8 (_SIDE * _SIDE,), of what is brighter (1) and darker (-1) than its surroundings in a micrograph.

    Signs, because a bright bar would outweigh all else. Layers along an axis are left out, which many fields share.
    Zeros stand for a micrograph uint8 (h, w) that shows next to nothing, or the same again and again, as a grating.
    """
    cells = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    cells -= cv2.GaussianBlur(cells, (0, 0), _SMOOTH, borderType=cv2.BORDER_REFLECT)
    shown = np.abs(cells) > _FLAT  # before the means: black around a round field of view shows nothing
    cells -= cells.mean(axis=0) + cells.mean(axis=1, keepdims=True)
    signs = (np.sign(cells) * (shown & (np.abs(cells) > _FLAT))).astype(np.int8)
    return signs.ravel() * (np.count_nonzero(signs) > _SHOWN * signs.size and not _repeats_itself(signs))


def _repeats_itself(signs: np.ndarray) -> bool:
    """Tell if signs (_SIDE, _SIDE) are alike to themselves elsewhere, so that other fields may be alike too."""
    shifted = np.fft.ifft2(np.abs(np.fft.fft2(signs)) ** 2).real
    shift = np.abs(np.fft.fftfreq(_SIDE, 1 / _SIDE))
    far = np.maximum(shift[:, None], shift) > 2 * _SMOOTH
    return np.abs(shifted[far]).max() > _ALIKE * shifted[0, 0]


def of_one_field(patterns: Sequence[np.ndarray], digests: Sequence[str]) -> list[list[int]]:
    """Group the places of micrographs that are equal by their digests, or alike by their patterns; two or more each."""
    if not patterns:
        return []
    labels = np.unique(digests, return_inverse=True)[1]
    signs = np.array(patterns, np.float32)
    signs /= np.maximum(np.linalg.norm(signs, axis=1, keepdims=True), 1)
    for start in range(0, len(signs), _SIDE):  # a part of all pairs in memory
        one, other = np.nonzero(np.abs(signs[start : start + _SIDE] @ signs.T) > _ALIKE)
        first = np.unique(labels, return_index=True)[1][labels]  # place of each one's group, as found until now
        ends = np.append(one + start, np.arange(len(signs))), np.append(other, first)
        graph = coo_array((np.ones(len(ends[0])), ends), shape=(len(signs),) * 2)
        labels = connected_components(graph, directed=False)[1]
    groups = {}
    for place, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(place)
    return [group for group in groups.values() if len(group) > 1]


def listed(groups: Sequence[Sequence[str]]) -> str:
    """Name groups of micrographs in one line."""
    named = [_first(sorted(group), ", ", _NAMES) for group in groups]
    return _first(named, "; ", _GROUPS)


def _first(names: Sequence[str], between: str, count: int) -> str:
    more = [f"{len(names) - count} more"] * (len(names) > count)
    return between.join([*names[:count], *more])
