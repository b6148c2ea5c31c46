"""Micrograph and mask files to arrays at the working scale, and arrays to tiles (paper Section 2.2)."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError
from common.limits import IGNORED
from data.decoding import SUFFIXES, Decoded, decode
from data.tiff import Page

DEPTHS = (8, 10, 12, 14, 16)  # bits of cameras that write 16-bit files
DEPTHS_BEFORE = (8, 12, 16)  # as of stores that do not say which depth their micrographs have
_LONE = 1e-3  # share of pixels, far above all others, that are a defect or a text
SMALLEST, _LARGEST = 8, 32767  # px of a side at working scale; OpenCV cannot resize beyond the latter
ODDLY_RESIZED, MOST_ENLARGED = 4, 16  # times a side
_BYTES_ENLARGED = 8  # of a micrograph and its mask, for each pixel at working scale
_BAND = 1 << 24  # bytes of pixels that are converted at once


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Files of a folder, or of all below it, that are images by their ending; sorted, without hidden ones.

    A broken link is listed, so that reading it is an error; a pipe, which would never end, is not.
    """
    files = folder.rglob("*") if recursive else folder.iterdir()
    named = (file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in named if file.is_file() or (file.is_symlink() and not file.exists()))


def read_image(path: Path | str, depth: int | None = None, page: Page = None) -> np.ndarray:
    """Read one micrograph (TIFF, PNG, JPEG or BMP; grey, palette, RGB or RGBA) as uint8 (h, w) grey, upright.

    Colour becomes luma, alpha is dropped, white-is-zero is inverted. Samples of a depth that the file states are scaled
    by it. Cameras of 10 to 14 bit write 16-bit files: these are scaled by `depth` (bits), and what is brighter is
    white, or by the smallest of DEPTHS that holds their maximum. Float must lie in 0..1. page: of a TIFF with several.
    Raises InputError if the file is not exactly one such image.
    """
    decoded = _read_pixels(path, page)
    return _shown(decoded, to_uint8(to_grey(decoded.pixels), _depths(decoded, (depth,) if depth else DEPTHS)))


def read_picture(path: Path | str) -> np.ndarray:
    """Read one picture as `read_image` does, in colour: uint8 (h, w), or RGB (h, w, 3) of colour channels."""
    decoded = _read_pixels(path)
    return _shown(decoded, to_uint8(decoded.pixels, _depths(decoded, DEPTHS_BEFORE)))


def colours_of(palette: np.ndarray) -> np.ndarray:
    """Palette of 8 or 16 bit as uint8 (values, 3); there are writers of TIFF that put 8 bit into 16 as they are.

    Of 16 bit the upper 8 count: some write v * 256, others v * 257.
    """
    return (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)


class Brightest(NamedTuple):
    """Brightest grey level of a micrograph, of its scanned rows without lone pixels, and the number of these."""

    level: int
    scanned: int
    lone: int


def brightest(path: Path | str, page: Page = None, information_bar: int = 0) -> Brightest:
    """Look for the brightest pixels of a micrograph of 16-bit samples. InputError as of read_image.

    Lone pixels are at least twice as bright as the depth of DEPTHS that holds all others: a few hot ones, or any number
    of 65535 each, as a scale bar is drawn in.
    """
    grey = to_grey(_read_pixels(path, page).pixels)
    scanned = grey[: max(1, len(grey) - information_bar)]
    counts = sum(np.bincount(band.ravel(), minlength=1 << 16) for band in bands(scanned))
    from_level = counts[::-1].cumsum()[::-1]  # pixels of this level or a brighter one
    for depth in DEPTHS[:-1]:
        lone = from_level[1 << depth]
        few, drawn_in = lone <= _LONE * scanned.size, lone == counts[-1] and counts[1 : 1 << depth].any()
        if lone and (few or drawn_in) and lone == from_level[2 << depth]:
            return Brightest(int(grey.max()), int(counts[: 1 << depth].nonzero()[0].max()), int(lone))
    return Brightest(int(grey.max()), int(scanned.max()), 0)


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (h, w) of grey (h, w) or RGB (h, w, 3) pixels, in their type."""
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def crop_information_bar(pixels: np.ndarray, information_bar: int) -> np.ndarray:
    """Drop the lowest `information_bar` px rows of a native image."""
    return pixels[: pixels.shape[0] - information_bar]


def prepare_micrograph(
    grey: np.ndarray,
    factor: float,
    invert: bool = False,
    information_bar: int = 0,
    origin: str = "pixel_size_nm and scale",
    memory: int = sys.maxsize,
) -> np.ndarray:
    """Bring native grey uint8 (h, w) to the working scale: bar cropped, polarity, one resize by `factor`.

    factor is pixel_size / reference_pixel_size * scale; origin says what to check where it cannot be right; memory:
    bytes that the micrograph may take. Raises InputError if nothing usable is left, or more than is sensible.
    """
    if information_bar >= grey.shape[0]:
        raise InputError(
            f"information_bar = {information_bar} px leaves nothing of an image {grey.shape[0]} px high; lower it"
        )
    grey = crop_information_bar(grey, information_bar)
    _check_working_size(grey.shape, factor, origin, memory)
    return _resize(255 - grey if invert else grey, factor, cv2.INTER_CUBIC)


def warn_of_enlargement(factor: float, origin: str) -> None:
    """Print a warning where `factor` enlarges more than a microscope's pixels are good for; origin as above."""
    if factor > ODDLY_RESIZED:
        print(f"warning: micrographs are enlarged {factor:.4g} times; check {origin}", file=sys.stderr)


def prepare_mask(mask: np.ndarray, factor: float, phases: int = 2) -> np.ndarray:
    """Bring a native mask, class indices and IGNORED uint8 (h, w) (bar cropped), to the working scale.

    A pixel counts from half coverage. It is of the phase that covers most of it; of two, of the second from half of
    what counts.
    """
    if working_size(mask.shape, factor) == mask.shape:
        return mask.copy()  # without the memory that float32 takes
    counted = mask != IGNORED
    if phases > 2:
        most, found = _share(mask == 0, factor), 0
        for phase in range(1, phases):
            share = _share(mask == phase, factor)
            found = np.where(share > most, np.uint8(phase), found)
            most = np.maximum(share, most)
        return np.where(_share(counted, factor) >= 0.5, found, IGNORED).astype(np.uint8)
    share = _share(mask == 1, factor)
    if counted.all():
        return (share >= 0.5).astype(np.uint8)
    of_counted = _share(counted, factor)
    return np.where(of_counted >= 0.5, share >= of_counted / 2, IGNORED).astype(np.uint8)


def mirror_pad(array: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Mirror (h, w) about its border pixels, as often as the widths (px) ask: they may exceed the image."""
    return np.pad(array, ((top, bottom), (left, right)), mode="reflect")


def tile_positions(shape: tuple[int, int], tile: int) -> np.ndarray:
    """Rows and columns, int64 (n, 2), of the upper left corners of the tile centres that cover (h, w) = shape."""
    rows, columns = (np.arange(0, side, tile) for side in shape)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def cut_tiles(array: np.ndarray, tile: int, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut (h, w) into overlapping tiles (n, T, T), T = tile + 2 overlap, and positions int64 (n, 2) (2.2).

    The array is mirror-padded at the bottom and right to multiples of `tile` and by `overlap` px of context
    on all sides; positions are row and column of a tile's centre region in the array.
    """
    height, width = array.shape
    padded = mirror_pad(array, overlap, overlap + -height % tile, overlap, overlap + -width % tile)
    side = tile + 2 * overlap
    positions = tile_positions(array.shape, tile)
    return np.stack([padded[row : row + side, column : column + side] for row, column in positions]), positions


def _read_pixels(path: Path | str, page: Page = None) -> Decoded:
    """Decode a micrograph to uint8 or uint16 pixels (h, w) or RGB (h, w, 3). InputError for anything else.

    What is white at zero is inverted, but for 16 bit: a camera's depth is to be found first, so that waits.
    """
    decoded = decode(path, page)
    pixels, facts = decoded.pixels, decoded.facts
    if decoded.palette is not None:
        pixels, facts = colours_of(decoded.palette)[pixels], replace(facts, bits=8)
    if pixels.dtype == np.bool_:
        pixels, facts = pixels.astype(np.uint8) * 255, replace(facts, bits=8)
    if pixels.dtype.kind == "f":
        pixels, facts = _float_to_uint8(pixels, path), replace(facts, bits=8)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: pixels of type {pixels.dtype} are not supported; save it with 8 or 16 bit a channel")
    inverted = facts.white_is_zero and decoded.palette is None
    if inverted and facts.bits != 16:
        pixels = np.minimum(pixels, 2**facts.bits - 1, dtype=pixels.dtype)
        pixels = pixels.dtype.type(2**facts.bits - 1) - pixels
    facts = replace(facts, white_is_zero=inverted and facts.bits == 16)
    return Decoded(np.ascontiguousarray(pixels), None, facts)


def _shown(decoded: Decoded, grey: np.ndarray) -> np.ndarray:
    """Grey levels uint8 as a viewer shows them, where `_read_pixels` has left them white at zero."""
    return 255 - grey if decoded.facts.white_is_zero else grey


def _depths(decoded: Decoded, of_sixteen: tuple[int, ...]) -> tuple[int, ...]:
    """Depths, in bits, by which a file's samples may be scaled; those of 16 bit may have less."""
    bits = decoded.facts.bits
    return of_sixteen if bits == 16 else (bits, 8 * decoded.pixels.itemsize)


def _float_to_uint8(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    if np.isnan(pixels).any():
        raise InputError(f"{path}: holds NaN; export the micrograph as 8 or 16 bit grey")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise InputError(f"{path}: float values {low:g} .. {high:g} outside 0 .. 1; export it as 8 or 16 bit grey")
    return in_bands(lambda band: np.rint(band * 255).astype(np.uint8), pixels)


def to_uint8(pixels: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    """Scale pixels to uint8 by the smallest of `depths` that holds them; beyond the last they are white."""
    depth = next((depth for depth in depths if pixels.max() < 2**depth), depths[-1])
    if pixels.dtype == np.uint8 and depth == 8:
        return pixels
    white = pixels.dtype.type(2**depth - 1)
    factor = np.float32(255 / (2**depth - 1))
    return in_bands(lambda band: np.rint(np.minimum(band, white) * factor).astype(np.uint8), pixels)


def in_bands(convert: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Convert all rows, some at a time: the memory in between stays small, whatever the image's size."""
    return np.concatenate([convert(band) for band in bands(pixels)])


def bands(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an image's rows, as many at a time as take little memory."""
    rows = max(1, _BAND // max(1, pixels[:1].nbytes))
    for row in range(0, len(pixels), rows):
        yield pixels[row : row + rows]


def _check_working_size(shape: tuple[int, int], factor: float, origin: str, memory: int) -> None:
    """InputError where a micrograph (h, w) = shape times `factor` cannot be meant or takes more than `memory` bytes."""
    height, width = working_size(shape, factor)
    needed = height * width * _BYTES_ENLARGED
    if factor > MOST_ENLARGED:
        problem = f"micrographs are enlarged up to {MOST_ENLARGED} times"
    elif min(height, width) < SMALLEST or max(height, width) > _LARGEST:
        problem = f"sides must have {SMALLEST} .. {_LARGEST} px"
    elif factor > 1 and needed > memory:  # what is not enlarged takes less than it took to read
        problem = (
            f"they take {needed / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} are free for each that is read at once"
        )
    else:
        return
    raise InputError(
        f"{shape[1]} x {shape[0]} px times {factor:.4g} gives {width} x {height} px; {problem}; check {origin}"
    )


def working_size(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    return tuple(round(side * factor) for side in shape)


def _share(where: np.ndarray, factor: float) -> np.ndarray:
    """Share, float32, of each pixel at the working scale that a region bool (h, w) covers."""
    return _resize(where.astype(np.float32), factor, cv2.INTER_LINEAR)


def _resize(pixels: np.ndarray, factor: float, enlarging: int) -> np.ndarray:
    height, width = working_size(pixels.shape, factor)
    if (height, width) == pixels.shape:
        return pixels.copy()
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else enlarging)
