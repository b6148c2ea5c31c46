"""Three more drawn targets: other fields of the source's steel, each changed in one way that etching has no part in."""

from collections.abc import Callable

import cv2
import numpy as np

from data.synthetic.microstructure import smooth_noise

_BLUR, _DRIFT = 2.5, 0.14  # sigma in px; grey levels of full scale


def inverted(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn the polarity round, as a backscattered picture may be to one of secondary electrons."""
    return 255 - image, mask


def enlarged(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enlarge twice, as where a pixel size is wrong by 2."""
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), mask.repeat(2, 0).repeat(2, 1)


def blurred(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur, and let the brightness drift over the field, as where focus and detector were not adjusted."""
    height, width = image.shape
    drift = 255 * _DRIFT * smooth_noise(rng, image.shape, max(height, width) / 5)
    grey = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _BLUR) + drift
    return np.clip(np.round(grey), 0, 255).astype(np.uint8), mask


CHANGES: dict[str, Callable] = {"inverted": inverted, "enlarged": enlarged, "blurred": blurred}
