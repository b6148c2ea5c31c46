"""Disturbed micrographs whose truth is known: what microscopes, detectors and people do to a picture, at random."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.judge.remedies import scaled

_MOST_STEPS = 3


@dataclass(frozen=True)
class Disturbance:
    """Steps that are done to a micrograph one after the other: (name, strength) each; none leaves it as it is."""

    steps: tuple[tuple[str, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Disturbance":
        """Draw one to three different steps with their strengths."""
        names = rng.permutation(list(_STEPS))[: rng.integers(1, _MOST_STEPS + 1)]
        return cls(tuple((str(name), float(_STEPS[name][0](rng))) for name in names))

    def apply(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Disturb a micrograph uint8 (h, w) and its mask (class indices uint8), which changes in size only."""
        for name, strength in self.steps:
            image = _STEPS[name][1](image, strength, rng)
        if mask.shape != image.shape:
            mask = cv2.resize(mask, image.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return image, mask


def _between(low: float, high: float) -> Callable[[np.random.Generator], float]:
    """Draw a strength, all ratios alike."""
    return lambda rng: np.exp(rng.uniform(np.log(low), np.log(high)))


def _quantised(grey: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _quantised(image + strength * rng.standard_normal(image.shape, dtype=np.float32))


def _contrast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Contrast by a factor, and brightness by chance."""
    return _quantised(image.mean() + rng.uniform(-60, 60) + strength * (image - image.mean()))


def _gamma(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _quantised(255 * (image / 255) ** strength)


def _drift(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Brightness that changes over the field, as under a charging specimen or an uneven lamp."""
    coarse = rng.standard_normal((4, 4)).astype(np.float32)
    return _quantised(image + strength * cv2.resize(coarse, image.shape[::-1], interpolation=cv2.INTER_CUBIC))


def _bar(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Information bar, dark with bright text, that was not cut off."""
    image, rows = image.copy(), max(3, round(strength * len(image)))
    image[-rows:] = rng.integers(0, 30)
    image[-2 * rows // 3 : -rows // 3, 8:-8:7] = 240
    return image


_STEPS: dict[str, tuple[Callable[[np.random.Generator], float], Callable]] = {
    "polarity": (lambda rng: 1.0, lambda image, strength, rng: 255 - image),
    "blur": (_between(0.7, 6), lambda image, strength, rng: cv2.GaussianBlur(image, (0, 0), strength)),
    "noise": (_between(5, 80), _noise),
    "contrast": (_between(0.2, 2.5), _contrast),
    "gamma": (_between(1 / 3, 3), _gamma),
    "scale": (_between(0.4, 2.5), lambda image, strength, rng: scaled(image, strength)),
    "drift": (_between(10, 70), _drift),
    "bar": (_between(0.03, 0.15), _bar),
}
