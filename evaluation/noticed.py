"""What is noticed of the images of a folder beside their segmentation: those that are there twice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.store import digest


@dataclass(frozen=True)
class Noticed:
    """An image's name, and the digest of its pixels; None of a uniform one, which is like any other of its kind."""

    file: str
    digest: str | None

    @classmethod
    def of(cls, file: str, grey: np.ndarray) -> "Noticed":
        """Look at a native image uint8 (h, w)."""
        return cls(file, digest(grey) if np.ptp(grey) else None)


def repeats(noticed: Sequence[Noticed]) -> dict[str, str]:
    """Give the names of images that are equal to an earlier one, with that one's."""
    first, found = {}, {}
    for one in noticed:
        if one.digest and (earlier := first.setdefault(one.digest, one.file)) != one.file:
            found[one.file] = earlier
    return found
