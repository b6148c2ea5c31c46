"""Images of a folder that are there twice, or look it, or have an information bar."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.bars import bar_rows, bars_left
from data.copies import listed, of_one_field, pattern
from data.images import crop_information_bar
from data.store import digest


@dataclass(frozen=True)
class Noticed:
    """An image's name, pattern (data.copies), the digest of its pixels, and the rows of its bar, if it looks like one.

    There is no digest of a uniform image, which is like any other of its kind. cut: rows that are cut off.
    """

    file: str
    pattern: np.ndarray
    digest: str | None
    bar: int
    cut: int

    @classmethod
    def of(cls, file: str, grey: np.ndarray, cut: int) -> "Noticed":
        """Look at a native image uint8 (h, w), of which the lowest `cut` rows are cut off."""
        bar = bar_rows(crop_information_bar(grey, cut))
        return cls(file, pattern(grey), digest(grey) if np.ptp(grey) else None, bar and bar + cut, cut)


def repeats(noticed: Sequence[Noticed]) -> dict[str, str]:
    """Give the names of images that are equal to an earlier one, with that one's."""
    first, found = {}, {}
    for one in noticed:
        if one.digest and (earlier := first.setdefault(one.digest, one.file)) != one.file:
            found[one.file] = earlier
    return found


def warnings_of(noticed: Sequence[Noticed]) -> list[str]:
    """List what is wrong with the fractions if these images are what they look like."""
    found, again = [], repeats(noticed)
    if again:
        same = listed([[name, earlier] for name, earlier in again.items()])
        found.append(f"{len(again)} images have the pixels of another, so each counts once in the last row: {same}")
    once = [one for one in noticed if one.file not in again]
    groups = of_one_field([one.pattern for one in once], [one.file for one in once])
    if groups:
        alike = listed([[once[place].file for place in group] for group in groups])
        found.append(f"{alike}: look like one field with other grey levels, and count as several. If so, keep one")
    names, bars, cut = ([getattr(one, key) for one in noticed] for key in ("file", "bar", "cut"))
    said, rows = bars_left(names, bars, cut, "images")
    each = "a domains.toml with the rows of each in a table (`micrographs`), and --images-of"
    if said:
        give = f"--information-bar {rows}, or in domains.toml information_bar" if rows else each
        found.append(f"{said}, and count as specimen. If so, give {give}")
    return found
