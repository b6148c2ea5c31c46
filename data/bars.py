"""Information bars that are still below micrographs."""

from collections.abc import Sequence

import numpy as np

from data.images import bands

_LEAST, _MOST = 8, 3  # rows of a bar, and the part of a micrograph, a third, that it takes at most
_NEAR = 4  # grey levels, by which JPEG changes the uniform ground of a bar
_GROUND = 0.3  # share of each of its rows that has the ground's level, at least: the rest is text
_CLEAN = 0.7  # the same of the two rows at its edge, and of most rows
_DROP = 0.4  # how much less have as many rows above it, of which the lowest may be mixed with the bar
_LINE = 0.9  # share of a row that has one level, whichever: a frame
_TEXT = 64  # grey levels, by which text is away from the ground
_LETTERS, _SPREAD = 2, 0.1  # rows that have text, and the part of the width that it is spread over, at least
_AGREE = 2  # rows by which bars of one domain differ, where JPEG blurs their edge
_FEW, _NAMED = 0.1, 3  # share of the images that is told of, and how many are named


def bar_rows(grey: np.ndarray) -> int:
    """Count the lowest rows of a native micrograph uint8 (h, w) that look like an information bar; 0 where none do.

    A bar is ground of one level with text on it, and ends at a full-width edge. Resin below a specimen has no text.
    """
    most = len(grey) // _MOST
    if most < _LEAST:
        return 0
    from_below = grey[: -2 * most - 1 : -1]
    level = int(np.bincount(from_below[:_LEAST].ravel(), minlength=256).argmax())
    low, high = max(level - _NEAR, 0), min(level + _NEAR, 255)
    ground = np.concatenate([((band >= low) & (band <= high)).mean(axis=1) for band in bands(from_below)])
    for row in np.flatnonzero(ground < _GROUND):
        if np.bincount(from_below[row]).max() > _LINE * grey.shape[1]:
            ground[row] = _LINE
    dense = np.flatnonzero(ground[:most] < _GROUND)
    for rows in range(dense[0] if len(dense) else most, _LEAST - 1, -1):
        clean = min(ground[rows - 2 : rows].min(), np.median(ground[:rows]))
        if clean >= _CLEAN and ground[rows + 1 : 2 * rows].max() <= clean - _DROP:
            return rows if _has_text(from_below[:rows], level) else 0
    return 0


def _has_text(bar: np.ndarray, level: int) -> bool:
    """Tell if some rows of a bar uint8 (h, w) have pixels far from its ground, not all of them in one place."""
    there = np.abs(bar.astype(np.int16) - level) > _TEXT
    there[there.mean(axis=1) > _CLEAN] = False  # a frame
    columns = np.flatnonzero(there.any(axis=0))
    return np.count_nonzero(there.any(axis=1)) >= _LETTERS and bool(np.ptp(columns) >= _SPREAD * bar.shape[1])


def bars_left(names: Sequence[str], rows: Sequence[int], cut: Sequence[int], what: str) -> tuple[str, int | None]:
    """Say which images of a domain look as if they had an information bar still; '' where none, or too few, do.

    rows: of the bar of each, 0 without; cut: those of them that are cut off. what: the images, in the plural. Few of
    many may only look so; but not a tenth of them, where a bar is cut off and more of it is left. Returns its rows too,
    None where the images have bars of several heights.
    """
    left = [place for place, of_image in enumerate(rows) if of_image]
    middle = np.median([rows[place] for place in left]) if left else 0
    alike = [place for place in left if abs(rows[place] - middle) <= _AGREE]
    left = alike if 2 * len(alike) > len(rows) else left
    if few := 2 * len(left) <= len(rows):
        left = [place for place in left if cut[place]]
        left = left if len(left) >= _FEW * len(rows) else []
    if not left:
        return "", None
    least, most = (int(end([rows[place] for place in left])) for end in (min, max))
    which = f" ({', '.join(names[place] for place in left[:_NAMED])}{', ...' * (len(left) > _NAMED)})" * few
    height = f"{least} to {most}" if most - least > 2 * _AGREE else str(most)
    said = f"the lowest {height} rows of {len(left)} of {len(rows)} {what}{which} look like an information bar"
    return said, None if few or most - least > 2 * _AGREE else most
