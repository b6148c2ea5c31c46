"""Search for what a microscope's software wrote into an SEM picture: the information bar and burned-in measurements.

Both searches use what drawn pixels are and imaged ones are not: free of noise and of the blur of a point spread.
JPEG compression spoils that within its blocks of 8 pixels, which the tolerances here allow for.
"""

import cv2
import numpy as np

from data.images import to_grey

_HIGHEST, _LOWEST = 0.2, 0.02  # of the picture's height, of a bar
_BLOCK = 8  # px, of JPEG
_CELL = 1 / 64  # of the width, stretches of a row
_CONTRAST = 45  # grey values by which ink differs from its ground at least
_SHARPNESS = 0.72  # of the local contrast, that one step from pixel to pixel makes up at the edge of ink
_EVENNESS = 14  # grey values by which JPEG varies ink
_RUN, _SATURATED = 9, 245  # px of a stroke without noise; grey value from which the detector has none
_STROKE, _MARK = 12, 24  # px of ink, of a connected stroke and of a mark, at least
_SIDEWAYS = (6, 0.06)  # px and fraction of a stroke that are sharp against the left or right
_COLOURED, _MOSTLY_GREY = 48, 0.2  # range of a coloured pixel's channels; fraction of coloured pixels in a grey picture


def find_bar(grey: np.ndarray) -> int:
    """Find the first row of the information bar at the bottom of a picture, uint8 (h, w); h where there is none.

    A bar is a stretch of rows whose ground has one grey value without noise, with ink on it.
    """
    height, width = grey.shape
    first = int((1 - _HIGHEST) * height)
    rows = grey[first:]
    lowest = rows[len(rows) - max(12, height // 40) : len(rows) - 3]  # above a frame's line
    ground = int(np.bincount(lowest.ravel(), minlength=256).argmax())
    away = np.abs(rows.astype(np.int16) - ground)
    near = (away <= 12).mean(axis=1)
    # Even a row full of text has short stretches of bare ground; a row of the picture has none, be it as dark.
    cell = max(6, round(_CELL * width))
    cells = away[:, : width // cell * cell].reshape(len(rows), -1, cell)
    bare = (cells <= 1).all(axis=2).mean(axis=1)
    evidence = np.where((bare > 0.04) & (near > 0.5), 1.0, np.where(near > 0.35, -0.3, -1.0))
    top = len(rows) - int(np.argmax(np.cumsum(np.append(0.0, evidence[::-1]))))
    top = _below_black(away, bare, top)
    top = _unblock(away, top, first)
    top = _frame(rows, away, top, lowest=int(_LOWEST * height))
    return first + top if _has_ink(away[top:], height) else height


def _below_black(away: np.ndarray, bare: np.ndarray, top: int) -> int:
    """The bar's first row where the picture above it is as black as the bar, only less evenly so."""
    even = bare[top:] > 0.6 * bare[top:].max(initial=0)
    start = top + int(np.argmax(even[:-2] & even[1:-1] & even[2:])) if len(even) > 2 else top
    return top if start - top <= _BLOCK or _has_text(away[top:start]) else start


def _unblock(away: np.ndarray, top: int, first: int) -> int:
    """The first row of the bar where JPEG has mixed the rows of the block on its border."""
    start = max(top - (first + top - 1) % _BLOCK - 1, 0)
    near = (away[start : top + _BLOCK] <= 20).mean(axis=1)
    jumps = np.diff(near[: top - start + 1])
    if not jumps.size:
        return top
    row = int(jumps.argmax()) + 1
    whole = near[row : top - start].min(initial=1.0) > 0.8 * near.max()
    return start + row if jumps.max() > 0.2 and whole else top


def _frame(rows: np.ndarray, away: np.ndarray, top: int, lowest: int) -> int:
    """The first row of a frame's line, at most 4 px wide, near `top` or below it before any text; else `top`."""
    level = np.median(rows, axis=1)
    uniform = ((away > 60) & (np.abs(rows - level[:, None]) <= 12)).mean(axis=1) > 0.97
    for row in range(max(top - _BLOCK - 2, 1), len(rows) - lowest):
        if uniform[row] and not uniform[row : row + 5].all() and abs(level[row] - level[row - 1]) > 25:
            return row if row - top <= 2 * _BLOCK or not _has_text(away[top:row]) else top
    return top


def _has_text(away: np.ndarray) -> bool:
    """Detect text: a row that changes between ground and ink more often than an imaged object does."""
    ink = (away > 60).astype(np.int8)
    return bool((np.diff(ink, axis=1) > 0).sum(axis=1).max(initial=0) > 12)


def _has_ink(away: np.ndarray, height: int) -> bool:
    """Detect a bar: rows enough, mostly bare ground, with ink spread over their width."""
    if len(away) < _LOWEST * height:
        return False
    ink = away > 40
    columns = np.array_split(ink.any(axis=0), 24)
    inked = 0.002 < ink.mean() < 0.5 and sum(part.any() for part in columns) >= 5
    return inked and _has_text(away) and (away <= 12).mean() > 0.5


def find_marks(picture: np.ndarray) -> tuple[int, np.ndarray]:
    """Find measurements in a picture without its bar, uint8 (h, w) or (h, w, 3): their number, their ink (h, w).

    Ink changes to what surrounds it from one pixel to the next, along whole strokes; imaged edges spread over the
    point spread, and noise does so at single pixels only. Colour in a grey picture is ink too. Strokes that lie
    together are one mark, so overlapping measurements count once.
    """
    grey = to_grey(picture)
    ink = _strokes(grey) | _strokes(255 - grey) | _noiseless(grey) | _noiseless(255 - grey)
    if picture.ndim == 3:
        coloured = np.ptp(picture, axis=2) > _COLOURED
        if coloured.mean() < _MOSTLY_GREY:
            ink |= _large_parts(coloured, _STROKE)
    reach = max(3, round(0.012 * grey.shape[0]))
    joined = cv2.dilate(ink.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8))
    count, labels = cv2.connectedComponents(joined)
    marks = 0
    for mark in range(1, count):
        rows, columns = np.nonzero(ink & (labels == mark))
        if len(rows) >= _MARK:
            marks += 1
        else:
            ink[rows, columns] = False
    return marks, ink


def _strokes(grey: np.ndarray) -> np.ndarray:
    """Pixels at the top of their surroundings' range that a direct neighbour falls short of by nearly all of it."""
    highest = cv2.dilate(grey, np.ones((5, 5), np.uint8)).astype(np.int16)
    lowest = cv2.erode(grey, np.ones((5, 5), np.uint8)).astype(np.int16)
    least = np.maximum(_CONTRAST, _SHARPNESS * (highest - lowest))
    top = grey >= highest - _EVENNESS
    beside, above = (top & (grey - cv2.erode(grey, np.ones(k, np.uint8)) >= least) for k in ((1, 3), (3, 1)))
    strokes = _large_parts(beside | above, _STROKE)
    # The streaks of a charged sample are single scan lines: sharp against the lines above and below, not sideways.
    labels, count = _labels(strokes)
    area, sideways = (np.bincount(labels[part], minlength=count) for part in (strokes, beside & strokes))
    return (sideways >= np.maximum(_SIDEWAYS[0], _SIDEWAYS[1] * area))[labels] & strokes


def _noiseless(grey: np.ndarray) -> np.ndarray:
    """Pixels of strokes without noise along them and darker on both sides: smoothed ink, which has no sharp edge.

    What saturates the detector is noiseless too, so neither white nor black counts; nor do strokes along the scan
    lines, which the streaks of a charged sample resemble.
    """
    bright = (grey.astype(np.int16) - cv2.erode(grey, np.ones((7, 7), np.uint8)) >= _CONTRAST) & (grey < _SATURATED)
    bright &= grey >= cv2.dilate(grey, np.ones((5, 5), np.uint8)) - 3
    found = np.zeros(grey.shape, bool)
    slope = np.eye(_RUN, dtype=np.uint8)
    for line in (np.ones((_RUN, 1), np.uint8), slope, np.ascontiguousarray(slope[::-1])):
        still = cv2.dilate(grey, line).astype(np.int16) - cv2.erode(grey, line) <= 3
        found |= bright & still
    return _large_parts(found, _STROKE)


def _large_parts(mask: np.ndarray, least: int) -> np.ndarray:
    """The connected parts of a mask (h, w) that have at least `least` pixels."""
    labels, count = _labels(mask)
    return (np.bincount(labels.ravel(), minlength=count) >= least)[labels] & mask


def _labels(mask: np.ndarray) -> tuple[np.ndarray, int]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels, count
