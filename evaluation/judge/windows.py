"""Windows of micrographs that the judge looks at, and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.limits import IGNORED
from evaluation.judge.remedies import scaled_shape

_LEAST = 256  # px of a side at working scale
Place = tuple[slice, slice]  # rows and columns


def side_of(tile: int) -> int:
    """Side of a window in px: whole tiles, and 256 px at least."""
    return tile * -(-_LEAST // tile)


def windows(image: np.ndarray, count: int, side: int) -> list[np.ndarray]:
    """Windows of up to `side` px a side of an array (h, w), the first at the bottom, where information bars are."""
    return [np.ascontiguousarray(image[place]) for place in places(image.shape, count, side)]


def places(shape: tuple[int, ...], count: int, side: int) -> list[Place]:
    """Places of the windows of an array (h, w)."""
    height, width = (min(side, length) for length in shape)
    along = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    columns = np.rint(along * (shape[1] - width)).astype(int).tolist()
    rows = np.rint((1 - (along if count > 1 else 0 * along)) * (shape[0] - height)).astype(int).tolist()
    return [(slice(r, r + height), slice(c, c + width)) for r, c in zip(rows, columns, strict=True)]


@dataclass(frozen=True)
class Scaled:
    """Window of a scaled micrograph, and the window of the micrograph itself that it is looked at from.

    place: in the scaled micrograph, of this shape. original_place, original_shape: the same before scaling.
    """

    place: Place
    shape: tuple[int, int]
    original_place: Place
    original_shape: tuple[int, int]

    def unscaled(self, predicted: np.ndarray) -> np.ndarray:
        """Show a prediction in the original's window: class indices uint8, IGNORED where the scaled one did not reach.

        predicted: class indices uint8 of the scaled window.
        """
        rows, columns = (self._along(axis) for axis in (0, 1))
        height, width = predicted.shape
        seen = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
        found = np.full((len(rows), len(columns)), IGNORED, np.uint8)
        found[seen] = predicted[np.ix_(rows[seen[0][:, 0]], columns[seen[1][0]])]
        return found

    def _along(self, axis: int) -> np.ndarray:
        """Positions in the scaled window of the original window's pixels, by their middles."""
        middles = np.arange(self.original_place[axis].start, self.original_place[axis].stop) + 0.5
        there = np.floor(middles * self.shape[axis] / self.original_shape[axis]).astype(int)
        return there - self.place[axis].start


def scaled_places(shapes: Sequence[tuple[int, int]], factor: float, count: int, side: int) -> list[Scaled]:
    """Places of the windows of micrographs of these shapes, `count` of each, that are scaled by a factor."""
    found = []
    for shape in shapes:
        after = scaled_shape(shape, factor)
        both = zip(places(after, count, side), places(shape, count, side), strict=True)
        found += [Scaled(place, after, original, shape) for place, original in both]
    return found


def labelled_part(mask: np.ndarray, side: int) -> Place:
    """Rows and columns of class indices (h, w) outside of which nothing is labelled, up to `side` px at least."""
    there = (np.flatnonzero(np.any(mask != IGNORED, axis=axis)) for axis in (1, 0))
    return tuple(_span(labelled, length, side) for labelled, length in zip(there, mask.shape, strict=True))


def _span(there: np.ndarray, length: int, side: int) -> slice:
    """Positions from the first to the last one that is there, and more around them up to `side`."""
    if not len(there):
        return slice(0, length)
    first, last = int(there[0]), int(there[-1]) + 1
    lacking = max(0, min(side, length) - (last - first))
    start = min(max(0, first - lacking // 2), length - (last - first) - lacking)
    return slice(start, start + (last - first) + lacking)
