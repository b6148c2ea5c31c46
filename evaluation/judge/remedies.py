"""Remedies that need no training: polarity, scale, grey levels of the source, statistics of the target."""

from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from data.levels import matched


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

    @property
    def aligns(self) -> bool:
        """True where it makes the target's distribution the source's: that assumes like phase fractions."""
        return self.match or self.adabn

    @property
    def shown(self) -> "Remedy":
        """Leave what changes the micrograph: models that are shown the same one can vote, pixel by pixel."""
        return replace(self, adabn=False)

    def apply(self, image: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Micrograph uint8 (h, w) -> uint8 (scale h, scale w). levels: of the source, as of grey_levels."""
        image = 255 - image if self.invert else image
        image = matched(image, levels) if self.match else image
        return scaled(image, self.scale)


def remedies(adabn: bool, matched: bool = False) -> list[Remedy]:
    """Remedies but scales, the first of which changes nothing.

    adabn: if the models have batch-norm statistics. matched: if the micrographs have the source's grey levels already:
    the same once more would vote twice. Inverted, they have lost them, and get them anew.
    """
    statistics = (False, True)[: 1 + adabn]
    tried = [Remedy(*parts) for parts in product((False, True), (False, True), (1.0,), statistics)]
    return [each for each in tried if not matched or each.match == each.invert]


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Micrograph uint8 (h, w), resized by a factor."""
    if factor == 1:
        return image
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, scaled_shape(image.shape, factor)[::-1], interpolation=how)


def scaled_shape(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Rows and columns of a micrograph that is resized by a factor, 1 at least."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
