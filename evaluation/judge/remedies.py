"""Remedies that need no training: polarity, scale, grey levels of the source, statistics of the target, halfway."""

from dataclasses import dataclass, replace
from itertools import product

import cv2
import numpy as np

from data.levels import grey_levels, transfer

HALF = 0.5  # of the way: as far as is safe where nobody knows if the target's phase fractions are the source's


@dataclass(frozen=True)
class Remedy:
    """Change of a micrograph, and of the network, before it is segmented.

    invert: 255 - grey. match: its grey levels go this share of the way to the source's distribution. scale: resize by
    this factor. adabn: the batch-norm statistics go this share of the way to those of the target's micrographs; 1 in
    their place (Li et al., 2016).
    """

    invert: bool = False
    match: float = 0.0
    scale: float = 1.0
    adabn: float = 0.0

    def __str__(self) -> str:
        halfway = self.match == self.adabn == HALF
        levels = [("" if self.match == 1 else "half ") + "grey levels of the source"] * (self.match > 0 and not halfway)
        parts = ["inverted"] * self.invert + ["halfway"] * halfway + levels
        parts += [f"scaled by {self.scale:g}"] * (self.scale != 1)
        parts += [("" if self.adabn == 1 else "half ") + "statistics of the target"] * (self.adabn > 0 and not halfway)
        return ", ".join(parts) or "as it is"

    @property
    def changes(self) -> float:
        """Number of things that are changed; what goes half of the way counts half."""
        return self.invert + self.match + (self.scale != 1) + self.adabn

    @property
    def is_halfway(self) -> bool:
        """True for what goes half of the way and does nothing else."""
        return self == Remedy(match=HALF, adabn=self.adabn) and self.adabn in (0, HALF)

    @property
    def moves(self) -> bool:
        """True where it moves the target's distribution towards the source's, by half or all of the way."""
        return self.match > 0 or self.adabn > 0

    @property
    def aligns(self) -> bool:
        """True where it makes the target's distribution the source's: that assumes like phase fractions."""
        return self.match == 1 or self.adabn == 1

    @property
    def shown(self) -> "Remedy":
        """Leave what changes the micrograph: the model has its statistics already."""
        return replace(self, adabn=0.0)

    def votes_with(self, other: "Remedy") -> bool:
        """True where the models that they are for can vote: those of one polarity."""
        return self.invert == other.invert

    def apply(self, image: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Micrograph uint8 (h, w) -> uint8 (scale h, scale w). levels: of the source, as of grey_levels."""
        image = 255 - image if self.invert else image
        if self.match:
            own = np.arange(256.0)
            table = own + self.match * (transfer(grey_levels([image]), levels) - own)
            image = np.rint(table).astype(np.uint8)[image]
        return scaled(image, self.scale)


def remedies(adabn: bool, matched: bool = False) -> list[Remedy]:
    """Remedies but scales, the first of which changes nothing.

    adabn: if the models have batch-norm statistics. matched: if the micrographs have the source's grey levels already:
    the same once more would vote twice. Inverted, they have lost them, and get them anew.
    """
    ways = [*product((0.0, 1.0), (0.0, 1.0) if adabn else (0.0,)), (HALF, HALF if adabn else 0.0)]
    tried = [Remedy(invert, match, 1.0, share) for invert in (False, True) for match, share in ways]
    return [each for each in tried if not matched or each.match == each.invert or (adabn and each.is_halfway)]


def scaled(image: np.ndarray, factor: float) -> np.ndarray:
    """Micrograph uint8 (h, w), resized by a factor."""
    if factor == 1:
        return image
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, scaled_shape(image.shape, factor)[::-1], interpolation=how)


def scaled_shape(shape: tuple[int, ...], factor: float) -> tuple[int, int]:
    """Rows and columns of a micrograph that is resized by a factor, 1 at least."""
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
