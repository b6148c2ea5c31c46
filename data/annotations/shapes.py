"""Outlined areas with a label, and the pixels that they cover."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

_BEYOND, _BEYOND_SHARE = 16, 0.02  # px beyond an image, and share of its longer side: more is not its outline
_FARTHEST = 1e6  # px of a coordinate
_LARGEST = 1 << 30  # px of a part
_AT_ONCE = 1 << 22  # crossings of rows with edges


@dataclass(frozen=True)
class Shape:
    """An area of an image. `rings` are outlines, float64 (n, 2) of x and y in px; what an odd number encloses is in it.

    A pixel covers x .. x + 1 and y .. y + 1. pixels, corner: in place of outlines, bool (h, w) and the row and column
    of its upper left pixel. centred: it was drawn about a centre, and may reach beyond the image. slice: of a stack, on
    which it was drawn, its number from 1 or a text; empty for all. traits: what is said of it besides the label, names
    and values.
    """

    label: str
    rings: tuple[np.ndarray, ...] = ()
    pixels: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)
    centred: bool = False
    slice: str = ""
    traits: tuple[tuple[str, str], ...] = ()

    @property
    def extent(self) -> np.ndarray:
        """Least and greatest x and y, float64 (2, 2), of what was drawn; of a centred one, its centre."""
        if self.pixels is not None:
            corner = np.array(self.corner[::-1], np.float64)
            return np.stack([corner, corner + self.pixels.shape[::-1]])
        points = np.concatenate(self.rings)
        return np.stack([points.mean(axis=0)] * 2 if self.centred else [points.min(axis=0), points.max(axis=0)])


@dataclass
class Annotated:
    """Annotation of one image: its shapes, the later ones above; its (h, w) if the file says it.

    lines: number of points and lines, which have no area. image: name of the image that a file of one names itself.
    """

    shapes: list[Shape] = field(default_factory=list)
    size: tuple[int, int] | None = None
    lines: int = 0
    image: str | None = None


def polygon(label: str, *rings: Sequence[Sequence[float]]) -> Shape | None:
    """Shape of outlines, each a list of (x, y); None without an area. ValueError for what is no list of points."""
    found = []
    for ring in rings:
        points = np.asarray(ring, np.float64).reshape(-1, 2)
        if not np.isfinite(points).all() or (np.abs(points) > _FARTHEST).any():
            raise ValueError("a coordinate is no number of pixels")
        found += [points] if len(points) > 2 else []
    return Shape(label, tuple(found)) if found else None


def rectangle(
    label: str, left: float, top: float, right: float, bottom: float, degrees: float = 0, arc: float = 0
) -> Shape | None:
    """Shape of a rectangle, turned clockwise about its centre. arc: diameter in px of its rounded corners."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    if arc > 0:
        radii = np.minimum(arc, (right - left, bottom - top)) / 2
        middles = corners + radii * [(1, 1), (-1, 1), (-1, -1), (1, -1)]
        angles = np.linspace(0, np.pi / 2, 90) + np.pi / 2 * np.array([[2], [3], [0], [1]])
        corners = middles[:, None] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        corners = corners.reshape(-1, 2)
    shape = polygon(label, _turned(corners, degrees))
    return replace(shape, centred=True) if degrees else shape


def ellipse(label: str, x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Shape | None:
    """Shape of an ellipse about a centre, turned clockwise about it."""
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    points = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
    return replace(polygon(label, _turned(points, degrees)), centred=True)


def of_page(shapes: Sequence[Shape], page: int | str | None) -> list[Shape]:
    """Give the shapes of a page of a stack, and those of all slices.

    Where no number of a page is given, all have to be of one slice. ValueError where it cannot be told.
    """
    slices = {one.slice for one in shapes} - {""}
    named = ", ".join(sorted(slices)[:6])
    if isinstance(page, int) and all(one.isdecimal() for one in slices):
        found = [one for one in shapes if one.slice in ("", str(page))]
        if shapes and not found:
            raise ValueError(f"its outlines lie on slices {named} of a stack, and none on page {page}; correct `page`")
        return found
    if len(slices) > 1:
        raise ValueError(
            f"its outlines lie on slices {named} of a stack; give `page` the number of one, or save those of one only"
        )
    return [*shapes]


def misfit(shapes: Sequence[Shape], size: tuple[int, int]) -> str:
    """Say how shapes do not fit an image (h, w) = size, and what to do; empty where they do.

    A few pixels beyond it are a hand's that drew along the border.
    """
    height, width = size
    extents = [one.extent for one in shapes]
    outlined = all(one.pixels is None for one in shapes)
    if shapes and outlined and np.min(extents) >= 0 and np.max(extents) <= 1:
        return "all coordinates are 0 .. 1, as shares of the image; export them in px"
    for one, extent in zip(shapes, extents, strict=True):
        if max(*-extent[0], *(extent[1] - (width, height))) > max(_BEYOND, _BEYOND_SHARE * max(size)):
            (left, top), (right, bottom) = extent.round().astype(int)
            return (
                f"an outline of '{one.label[:100]}' has x {left} .. {right} and y {top} .. {bottom}, and the image is "
                f"{width} x {height} px; annotate the micrograph itself"
            )
    return ""


def draw(shape: Shape, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Pixels of an image (h, w) = size whose centre lies in a shape: the slices of a part of it, and bool of that part.

    The part may be empty.
    """
    if shape.pixels is not None:
        return _placed(shape, size)
    starts = np.concatenate(shape.rings)
    stops = np.concatenate([np.roll(ring, -1, axis=0) for ring in shape.rings])
    both = np.concatenate([starts, stops])
    left, top = np.clip(np.floor(both.min(axis=0)).astype(int), 0, size[::-1])
    right, bottom = np.clip(np.ceil(both.max(axis=0)).astype(int), (left, top), size[::-1])
    # From the first pixel on whose centre lies right of an edge, outside becomes inside, or the reverse.
    low, high = (np.ceil(fold(starts[:, 1], stops[:, 1]) - 0.5).astype(int) for fold in (np.minimum, np.maximum))
    low, high = np.clip(low, top, bottom), np.clip(high, top, bottom)
    changes = np.zeros((bottom - top, right - left + 1), np.int32)
    for some in np.array_split(np.arange(len(starts)), 1 + (high - low).sum() // _AT_ONCE):
        counts = (high - low)[some]
        edge = np.repeat(some, counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + low[edge]
        (x0, y0), (x1, y1) = starts[edge].T, stops[edge].T
        column = np.ceil(x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0) - 0.5)
        np.add.at(changes, (row - top, np.clip(column, left, right).astype(int) - left), 1)
    inside = (np.cumsum(changes, axis=1) % 2).astype(bool)[:, :-1]
    return (slice(top, bottom), slice(left, right)), inside


def of_runs(counts: Sequence[int], height: int, width: int, by_columns: bool) -> np.ndarray:
    """Pixels bool (h, w) of run lengths, which begin with pixels outside. ValueError where they do not fill it."""
    runs = np.asarray(counts, np.int64)
    if height < 1 or width < 1 or height * width > _LARGEST or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not fill {width} x {height} px")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T if by_columns else pixels.reshape(height, width)


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    centre, angle = points.mean(axis=0), np.radians(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre if degrees else points


def _placed(shape: Shape, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Part of a shape's pixels that lies in the image."""
    places, parts = [], []
    for corner, length, side in zip(shape.corner, shape.pixels.shape, size, strict=True):
        start, stop = min(max(corner, 0), side), min(max(corner + length, 0), side)
        places.append(slice(start, stop))
        parts.append(slice(start - corner, stop - corner))
    return tuple(places), shape.pixels[tuple(parts)]
