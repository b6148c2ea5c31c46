"""Images of a folder that are there twice, or look it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.copies import listed, of_one_field, pattern
from data.store import digest


@dataclass(frozen=True)
class Noticed:
    """An image's name, pattern (data.copies) and the digest of its pixels.

    That is None of a uniform image, which is like any other of its kind.
    """

    file: str
    pattern: np.ndarray
    digest: str | None

    @classmethod
    def of(cls, file: str, grey: np.ndarray) -> "Noticed":
        """Look at a native image uint8 (h, w)."""
        return cls(file, pattern(grey), digest(grey) if np.ptp(grey) else None)


def repeats(noticed: Sequence[Noticed]) -> dict[str, str]:
    """Give the names of images that are equal to an earlier one, with that one's."""
    first, found = {}, {}
    for one in noticed:
        if one.digest and (earlier := first.setdefault(one.digest, one.file)) != one.file:
            found[one.file] = earlier
    return found


def look_alike(noticed: Sequence[Noticed]) -> str:
    """Name the images of one field that are not equal; empty where there are none."""
    again = repeats(noticed)
    once = [one for one in noticed if one.file not in again]
    groups = of_one_field([one.pattern for one in once], [one.file for one in once])
    return listed([[once[place].file for place in group] for group in groups])
