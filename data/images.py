"""Micrograph and mask files to arrays at the working scale, and arrays to tiles (paper Section 2.2)."""

import logging
import re
import struct
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import tifffile

from common.errors import InputError

MaskValue = int | tuple[int, int, int]  # grey, or (r, g, b), of 8 bit
SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
# Frame header of a JPEG (or of a preview inside it): process, length, 8 bit, height, width, number of components.
_JPEG_FRAME = re.compile(rb"\xff([\xc0-\xcf])\0[\x0b\x0e\x11\x14]\x08(..)(..)([\x01-\x04])", re.DOTALL)
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # TIFF tag 262
_SMALLEST, _LARGEST = 8, 32767  # px of a side at working scale; OpenCV cannot resize beyond the latter
_MOST_PAGES = 32
_MOST = 3 << 29  # bytes of decoded pixels; a header of few bytes can ask for more than the machine has
_ODDLY_ENLARGED, _MOST_ENLARGED = 4, 16  # times a side
_BYTES_ENLARGED = 8  # of a micrograph and its mask, for each pixel at working scale
_BAND = 1 << 24  # bytes of pixels that are converted at once


# What these libraries print about a damaged file comes as an error of ours, once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Files of a folder, or of all below it, that are images by their ending; sorted, without hidden ones.

    A broken link is listed, so that reading it is an error; a pipe, which would never end, is not.
    """
    files = folder.rglob("*") if recursive else folder.iterdir()
    named = (file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    return sorted(file for file in named if file.is_file() or (file.is_symlink() and not file.exists()))


def read_image(path: Path | str) -> np.ndarray:
    """Read one micrograph (TIFF, PNG, JPEG or BMP; grey, palette, RGB or RGBA) as uint8 (h, w) grey.

    Colour becomes luma, alpha is dropped. uint16 is scaled from the smallest depth of 8, 12 and 16 bit that
    holds the maximum, since cameras of 12 bit write 16 bit files. Float must lie in 0..1.
    Raises InputError if the file is not exactly one such image.
    """
    return _to_uint8(to_grey(_read_pixels(path)), depths=(8, 12, 16))


def read_picture(path: Path | str) -> np.ndarray:
    """Read one picture as `read_image` does, in colour: uint8 (h, w), or RGB (h, w, 3) of colour channels."""
    return _to_uint8(_read_pixels(path), depths=(8, 12, 16))


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (h, w) of grey (h, w) or RGB (h, w, 3) pixels, in their type."""
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def read_mask(path: Path | str, foreground: Sequence[MaskValue], background: Sequence[MaskValue] | None) -> np.ndarray:
    """Read one annotation as uint8 (h, w) with 0 background and 1 foreground.

    foreground, background: sequences of grey values (int) and colours (r, g, b) at 8 bit; background None
    takes every value that is not foreground. Colours are compared as RGB, alpha dropped, 16 bit divided by
    257; numbers of a TIFF palette image are taken as they are. InputError for a value that is neither.
    """
    pixels, _ = _decode(Path(path))
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: a mask of type {pixels.dtype} is not supported; save it with 8 or 16 bit a channel")
    if pixels.ndim == 2 and pixels.dtype == np.uint16 and pixels.max() > 255 and (pixels % 257).any():
        raise InputError(f"{path}: grey values up to {pixels.max()} are no 8-bit mask values; save the mask with 8 bit")
    pixels = _to_uint8(pixels, depths=(8, 16))

    unknown = 2

    def classes(band: np.ndarray) -> np.ndarray:
        codes = _codes(band)
        found = np.isin(codes, [_code(value) for value in foreground]).astype(np.uint8)
        if background is not None:
            found[(found == 0) & ~np.isin(codes, [_code(value) for value in background])] = unknown
        return found

    mask = _in_bands(classes, pixels)
    if (mask == unknown).any():
        row, column = np.unravel_index(np.argmax(mask == unknown), mask.shape)
        code = int(_codes(pixels[row : row + 1, column : column + 1])[0, 0])
        value = f'"#{code:06x}"' if code % 0x010101 else str(code & 0xFF)
        raise InputError(
            f"{path}: mask value {value} is neither foreground nor background ({(mask == unknown).sum()} px); "
            'list it as one of the two in the domains file, or set background = "rest" there'
        )
    return mask


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
    if factor > _ODDLY_ENLARGED:
        print(f"warning: micrographs are enlarged {factor:.4g} times; check {origin}", file=sys.stderr)


def prepare_mask(mask: np.ndarray, factor: float) -> np.ndarray:
    """Bring a native mask uint8 (h, w) of 0 and 1 (bar cropped) to the working scale: 1 from half coverage."""
    if _working_size(mask.shape, factor) == mask.shape:
        return mask.copy()  # without the memory that float32 takes
    return (_resize(mask.astype(np.float32), factor, cv2.INTER_LINEAR) >= 0.5).astype(np.uint8)


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


def _read_pixels(path: Path | str) -> np.ndarray:
    """Pixels (h, w) or RGB (h, w, 3), uint8 or uint16, of one micrograph file. InputError for anything else."""
    pixels, palette = _decode(Path(path))
    if palette is not None:
        pixels = palette[pixels]
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f":
        pixels = _float_to_uint8(pixels, path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: pixels of type {pixels.dtype} are not supported; save it with 8 or 16 bit a channel")
    return np.ascontiguousarray(pixels)


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (h, w) or (h, w, 3) RGB, and the palette (values, 3) of a TIFF palette image."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if content.startswith(_TIFF_MAGIC):
        pixels, palette = _decode_tiff(path)
    elif content.startswith(_OTHER_MAGIC):
        pixels, palette = _decode_other(path, content), None
    else:
        kind = "is empty" if not content else "is not a TIFF, PNG, JPEG or BMP file, whatever its name says"
        raise InputError(f"{path}: {kind}; export the micrograph again or remove the file")
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
    if (pixels.ndim != 2 and pixels.shape[2:] != (3,)) or 0 in pixels.shape:
        raise InputError(f"{path}: shape {pixels.shape} is not one image; export a single grey or RGB image")
    return pixels, palette


def _decode_tiff(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = list(islice(tiff.pages, _MOST_PAGES))  # in a damaged file they may go on for ever
            pages = [page for page in pages if not page.is_reduced]  # microscopes add previews as reduced pages
            if len(pages) != 1:
                more = " or more" * (len(pages) == _MOST_PAGES)
                raise InputError(f"{path}: {len(pages)}{more} pages; export one micrograph a file")
            page = pages[0]
            if page.photometric not in (_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR):
                raise InputError(f"{path}: colour space {page.photometric.name}; save it as grey or RGB")
            ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
            if max(ends, default=0) > path.stat().st_size:
                raise InputError(f"{path}: truncated, pixel data is missing at the end; copy the file again")
            tile = page.tilewidth * page.tilelength * page.tiledepth * page.samplesperpixel if page.is_tiled else 0
            size = max(page.nbytes, tile * page.dtype.itemsize)
            _check_size(path, page.imagewidth, page.imagelength, size * (6 if page.photometric == _PALETTE else 1))
            pixels = page.asarray()
            if page.axes == "SYX":
                pixels = np.moveaxis(pixels, 0, -1)
            if page.photometric == _MINISWHITE:
                pixels = ~pixels if pixels.dtype == np.bool_ else np.iinfo(pixels.dtype).max - pixels
            palette = np.asarray(page.colormap).T if page.photometric == _PALETTE else None
            if palette is not None:
                pixels = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
                if pixels.dtype.kind != "u" or pixels.ndim != 2 or pixels.max() >= len(palette):
                    raise InputError(f"{path}: damaged TIFF (its palette does not fit its pixels); export it again")
            return pixels, palette
    except InputError:
        raise
    except Exception as error:  # a damaged file fails anywhere in tifffile or a codec, with any exception
        raise InputError(f"{path}: damaged TIFF ({error}); copy or export the file again") from error


def _decode_other(path: Path, content: bytes) -> np.ndarray:
    if content.startswith(b"\x89PNG"):
        if b"acTL" in _png_chunks(path, content):
            raise InputError(f"{path}: animated PNG; export one micrograph a file")
        channels = {b"\0": 1, b"\2": 3}.get(content[25:26], 4)  # as OpenCV decodes grey, RGB, and the other types
        frames = [(*_sides(">II", content[16:24]), channels * (2 if content[24:25] == b"\x10" else 1))]
    elif content.startswith(b"BM"):
        frames = [(*_sides("<ii", content[18:26]), 4)]
    else:
        found = _JPEG_FRAME.findall(content)
        if any(channels == b"\4" for *_, channels in found):
            raise InputError(f"{path}: colour space CMYK; save it as grey or RGB")
        frames = [  # a progressive one is decoded in coefficients of 16 bit
            (int.from_bytes(width), int.from_bytes(height), channels[0] * (1 if process in b"\xc0\xc1" else 3))
            for process, height, width, channels in found
        ]
    for width, height, size in frames:
        _check_size(path, width, height, width * height * size)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # instead of None for sides that OpenCV takes for impossible
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: damaged or truncated; copy or export the file again")
    if pixels.ndim == 3 and pixels.shape[2] >= 3:  # OpenCV decodes to BGR(A); a reversed copy would double the memory
        blue = pixels[..., 0].copy()
        pixels[..., 0] = pixels[..., 2]
        pixels[..., 2] = blue
    return pixels


def _sides(layout: str, content: bytes) -> tuple[int, int]:
    """Width and height in a header; 0 in one that is cut."""
    return tuple(map(abs, struct.unpack(layout, content.ljust(8, b"\0"))))


def _png_chunks(path: Path, content: bytes) -> list[bytes]:
    """Names of a PNG's chunks. InputError where one is longer than the file: OpenCV would take as much memory."""
    names, position = [], 8
    while b"IEND" not in names:
        names.append(content[position + 4 : position + 8])
        position += 12 + int.from_bytes(content[position : position + 4])
        if position > len(content):
            raise InputError(f"{path}: damaged or truncated; copy or export the file again")
    return names


def _check_size(path: Path, width: int, height: int, size: int) -> None:
    if size > _MOST:
        raise InputError(
            f"{path}: {width} x {height} px take {size >> 20} MiB, more than {_MOST >> 20}; crop the micrograph, or "
            "export it again if that is not its size"
        )


def _float_to_uint8(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    if np.isnan(pixels).any():
        raise InputError(f"{path}: holds NaN; export the micrograph as 8 or 16 bit grey")
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:
        raise InputError(f"{path}: float values {low:g} .. {high:g} outside 0 .. 1; export it as 8 or 16 bit grey")
    return _in_bands(lambda band: np.rint(band * 255).astype(np.uint8), pixels)


def _to_uint8(pixels: np.ndarray, depths: tuple[int, ...]) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    depth = next(depth for depth in depths if pixels.max() < 2**depth)
    factor = np.float32(255 / (2**depth - 1))
    return _in_bands(lambda band: np.rint(band * factor).astype(np.uint8), pixels)


def _in_bands(convert: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Convert all rows, some at a time: the memory in between stays small, whatever the image's size."""
    rows = max(1, _BAND // pixels[0].nbytes)
    return np.concatenate([convert(pixels[row : row + rows]) for row in range(0, len(pixels), rows)])


def _codes(pixels: np.ndarray) -> np.ndarray:
    """Grey or RGB uint8 pixels as uint32 0xRRGGBB."""
    if pixels.ndim == 3:
        return pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return pixels.astype(np.uint32) * np.uint32(0x010101)


def _code(value: MaskValue) -> int:
    red, green, blue = (value,) * 3 if isinstance(value, int) else value
    return red << 16 | green << 8 | blue


def _check_working_size(shape: tuple[int, int], factor: float, origin: str, memory: int) -> None:
    """InputError where a micrograph (h, w) = shape times `factor` cannot be meant or takes more than `memory` bytes."""
    height, width = _working_size(shape, factor)
    needed = height * width * _BYTES_ENLARGED
    if factor > _MOST_ENLARGED:
        problem = f"micrographs are enlarged up to {_MOST_ENLARGED} times"
    elif min(height, width) < _SMALLEST or max(height, width) > _LARGEST:
        problem = f"sides must have {_SMALLEST} .. {_LARGEST} px"
    elif factor > 1 and needed > memory:  # what is not enlarged takes less than it took to read
        problem = (
            f"they take {needed / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} are free for each that is read at once"
        )
    else:
        return
    raise InputError(
        f"{shape[1]} x {shape[0]} px times {factor:.4g} gives {width} x {height} px; {problem}; check {origin}"
    )


def _working_size(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    return tuple(round(side * factor) for side in shape)


def _resize(pixels: np.ndarray, factor: float, enlarging: int) -> np.ndarray:
    height, width = _working_size(pixels.shape, factor)
    if (height, width) == pixels.shape:
        return pixels.copy()
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else enlarging)
