"""Image files to pixels as they are stored, with what the file says of them: depth, polarity, orientation, pages."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile

from common.errors import InputError
from data import other_formats
from data.file_facts import TURNED, Facts
from data.other_formats import OTHER_MAGIC
from data.tiff import TIFF_MAGIC, Page, chosen_picture, damage_named

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Decoded:
    """A file's pixels, turned as its orientation says: (h, w), or (h, w, 3) RGB, in the file's own numbers.

    palette: colours (values, 3) of what the pixels are the numbers of; None for other images. hidden: bool (h, w) of
    wholly transparent pixels; None where all pixels have the same alpha.
    """

    pixels: np.ndarray
    palette: np.ndarray | None
    facts: Facts
    hidden: np.ndarray | None = None


def decode(path: Path | str, page: Page = None, numbers: bool = False) -> Decoded:
    """Read an image file (TIFF, PNG, JPEG, BMP). InputError if it is not exactly one grey or colour image.

    page: which one, of a TIFF with several. numbers: as of a TIFF, palette images of the other formats come as their
    numbers with a palette, not as colours, and grey of less than 8 bit is not spread over 8.
    """
    path, hidden = Path(path), None
    content = _content(path)
    if content.startswith(TIFF_MAGIC):
        with damage_named(path), tifffile.TiffFile(path) as tiff:
            chosen = chosen_picture(path, tiff, page)
            facts = chosen.facts
            pixels, palette = chosen.read(path)
    else:
        _require_one_page(path, page)
        facts = other_formats.facts_of(path, content)
        found = other_formats.numbers_of_palette(content) if numbers else None
        pixels, palette = found or (other_formats.decoded(path, content), None)
        if facts.bits < 8:  # OpenCV has spread them over 8 bit
            pixels = pixels // (255 // (2**facts.bits - 1)) if numbers else pixels
            facts = facts if numbers else replace(facts, bits=8)
        if numbers and pixels.ndim == 2 and (clear := other_formats.transparent_numbers(content)):
            hidden = np.isin(pixels, clear)
            hidden = None if hidden.all() or not hidden.any() else hidden
    if pixels.ndim == 3:
        *colours, alpha = (pixels[..., channel] for channel in range(pixels.shape[2]))
        if len(colours) in (1, 3) and alpha.min() < alpha.max():
            if all(one.min() == one.max() for one in colours):
                raise InputError(
                    f"{path}: its picture is in the alpha channel alone; flatten it, and save it without alpha"
                )
            hidden = alpha == 0
        pixels = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
    if (pixels.ndim != 2 and pixels.shape[2:] != (3,)) or 0 in pixels.shape:
        raise InputError(f"{path}: shape {pixels.shape} is not one image; export a single grey or RGB image")
    if facts.orientation in TURNED:
        pixels = np.ascontiguousarray(TURNED[facts.orientation](pixels))
        hidden = None if hidden is None else TURNED[facts.orientation](hidden)
    return Decoded(pixels, palette, facts, hidden)


def look(path: Path | str, page: Page = None) -> Facts:
    """Read what a file says of its pixels, without decoding them. InputError as of `decode`, as far as it shows."""
    path = Path(path)
    content = _content(path)
    if content.startswith(TIFF_MAGIC):
        with damage_named(path), tifffile.TiffFile(path) as tiff:
            return chosen_picture(path, tiff, page).facts
    _require_one_page(path, page)
    facts = other_formats.facts_of(path, content)
    return replace(facts, bits=max(facts.bits, 8))  # what they are decoded to


def _content(path: Path) -> bytes:
    """Bytes of an image file; of a TIFF only the first. InputError where it is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(16)
            content += b"" if content.startswith(TIFF_MAGIC) else file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not content.startswith((*TIFF_MAGIC, *OTHER_MAGIC)):
        kind = "is empty" if not content else "is not a TIFF, PNG, JPEG or BMP file, whatever its name says"
        raise InputError(f"{path}: {kind}; export the micrograph again or remove the file")
    return content


def _require_one_page(path: Path, page: Page) -> None:
    if isinstance(page, int) and page > 1:
        raise InputError(f"{path}: 1 page, and page = {page} names none; only a TIFF has several")
