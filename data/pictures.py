"""Masks drawn over micrographs, and the colours of phases."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.files import write_file, write_image
from common.limits import IGNORED

Colour = tuple[int, int, int]  # RGB
# Okabe and Ito's palette: told apart with every kind of colour blindness, and against grey.
FOREGROUND = (0, 158, 115)
HATCH = (204, 121, 167)
FALSE_POSITIVE, FALSE_NEGATIVE = (230, 120, 0), (0, 114, 230)
CONTOUR = (240, 228, 66)
# Of more than two phases; the first is dark, and past the others they come again, half as bright.
_FIRST, _OTHERS = (40, 40, 40), (FOREGROUND, (230, 159, 0), (0, 114, 178), (240, 228, 66), (213, 94, 0), (86, 180, 233))


class Palette(NamedTuple):
    """Colours of the phases by class: of each, where a prediction wrongly says it, and of its outline.

    The first phase has no tint and no outline: it stays grey.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    wrong: tuple[Colour, ...]
    outlines: tuple[Colour, ...]

    @property
    def tints(self) -> dict[int, Colour]:
        """Colours of all phases but the first, by class."""
        return dict(list(enumerate(self.colours))[1:])


def palette_of(classes: Sequence[str]) -> Palette:
    """Palette of the phases with these names."""
    if len(classes) == 2:
        colours = ((0, 0, 0), FOREGROUND)
        return Palette(tuple(classes), colours, (FALSE_NEGATIVE, FALSE_POSITIVE), ((0, 0, 0), CONTOUR))
    rounds = [(_OTHERS[place % len(_OTHERS)], place // len(_OTHERS)) for place in range(len(classes) - 1)]
    colours = (_FIRST, *(tuple(level >> halved for level in colour) for colour, halved in rounds))
    return Palette(tuple(classes), colours, colours, colours)


def write_classes(path: Path, mask: np.ndarray, classes: Sequence[str]) -> None:
    """Write class indices uint8 (h, w) as PNG: two phases as 0 and 255, more as they are, with the palette's colours.

    data.decoding reads the latter as numbers.
    """
    if len(classes) == 2:
        return write_image(path, 255 * mask)
    picture, content = Image.fromarray(mask), io.BytesIO()
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(classes)] = palette_of(classes).colours
    picture.putpalette(colours.tobytes())
    picture.save(content, "PNG")
    return write_file(path, content.getvalue())


def read_classes(path: Path) -> np.ndarray | None:
    """Read class indices uint8 (h, w) that `write_classes` wrote; None where they are damaged.

    OSError where there is no such file.
    """
    try:
        picture = Image.open(io.BytesIO(path.read_bytes()))
        pixels = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        return None
    if pixels.ndim != 2:
        return None
    return pixels if picture.mode == "P" else (pixels > 0).astype(np.uint8)


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
