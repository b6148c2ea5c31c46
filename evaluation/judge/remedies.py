"""Remedies that need no training: polarity, scale, grey levels of the source, statistics of the target."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Remedy:
    """Change of a micrograph, and of the network, before it is segmented.

    invert: 255 - grey. match: its grey levels get the source's distribution. scale: resize by this factor.
    adabn: batch-norm statistics are re-estimated on the target's micrographs (Li et al., 2016).
    """

    invert: bool = False
    match: bool = False
    scale: float = 1.0
    adabn: bool = False

    def __str__(self) -> str:
        parts = ["inverted"] * self.invert + ["grey levels of the source"] * self.match
        parts += [f"scaled by {self.scale:g}"] * (self.scale != 1) + ["statistics of the target"] * self.adabn
        return ", ".join(parts) or "as it is"

    @property
    def changes(self) -> int:
        """Number of things that are changed."""
        return self.invert + self.match + (self.scale != 1) + self.adabn

    def apply(self, image: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Micrograph uint8 (h, w) -> uint8 (scale h, scale w). levels: of the source, as of grey_levels."""
        image = 255 - image if self.invert else image
        image = matched(image, levels) if self.match else image
        return scaled(image, self.scale)


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Micrograph uint8 (h, w), resized by a factor."""
    if factor == 1:
        return image
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=how)


def grey_levels(images: Iterable[np.ndarray]) -> np.ndarray:
    """Share of the pixels, float64 (256,), at each grey level of several micrographs uint8 (h, w)."""
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in images)
    return counts / counts.sum()


def matched(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Micrograph uint8 (h, w) whose grey levels are replaced, in their order, so that they are spread as `levels`."""
    own = grey_levels([image])
    place = np.cumsum(own) - own / 2  # of each level in the order of all pixels
    table = np.interp(place, np.cumsum(levels) - levels / 2, np.arange(256))
    return np.rint(table).astype(np.uint8)[image]
