"""Masks drawn over micrographs."""

import numpy as np

from common.limits import IGNORED

Colour = tuple[int, int, int]  # RGB
# Okabe and Ito's palette: told apart with every kind of colour blindness, and against grey.
FOREGROUND = (0, 158, 115)
HATCH = (204, 121, 167)


def tint(rgb: np.ndarray, where: np.ndarray, colour: Colour, opacity: float) -> None:
    """Lay a colour over the pixels bool (h, w) of a picture RGB uint8 (h, w, 3), in place."""
    rgb[where] = ((1 - opacity) * rgb[where] + opacity * np.array(colour)).astype(np.uint8)


def hatched(rgb: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Draw lines over what is IGNORED in a label (h, w), in place. Returns the picture, RGB uint8 (h, w, 3)."""
    rows, columns = np.nonzero(label == IGNORED)
    period = max(8, max(label.shape) // 100)
    line = (rows + columns) % period < max(1, period // 8)
    rgb[rows[line], columns[line]] = HATCH
    return rgb
