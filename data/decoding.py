"""Image files to pixels as they are stored, with what the file says of them: depth, polarity, orientation, pages."""

import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

from common.errors import InputError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp")
Page = int | str | None  # of a file of several: its number from 1, "image", "largest"; None where there is one
MAKERS = (34118, 34680, 34682, 50431, 33560, 33471)  # TIFF tags in which microscopes write: Zeiss, FEI, Tescan, Olympus

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")
# Frame header of a JPEG (or of a preview inside it): process, length, 8 bit, height, width, number of components.
_JPEG_FRAME = re.compile(rb"\xff([\xc0-\xcf])\0[\x0b\x0e\x11\x14]\x08(..)(..)([\x01-\x04])", re.DOTALL)
_PHOTOMETRIC = 262  # TIFF tag
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # its values
_JPEG_IN_TIFF = (6, 7, 33007, 34892)  # TIFF tag 259
_ORIENTATION = 274  # tag of TIFF and EXIF
_ALPHA = (1, 2)  # TIFF tag 338
_SOFTWARE = 305  # TIFF tag
_MOST_PAGES = 32
_PAGES_NAMED = 6
_MOST = 3 << 29  # bytes of decoded pixels; a header of few bytes can ask for more than the machine has
# What a viewer does to pixels (h, w, ...) of each orientation.
_TURNED = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

# What these libraries print about a damaged file comes as an error of ours, once.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")  # reads EXIF
Image.MAX_IMAGE_PIXELS = None  # the limit is _MOST, and an error


@dataclass(frozen=True)
class Facts:
    """Facts that an image file states of its pixels. height, width: px, as a viewer shows it.

    bits: of a sample, 8 where the format has no other. orientation: 1 .. 8 as of TIFF and EXIF, 1 is upright.
    white_is_zero: 0 is shown white. lossy: the pixels went through JPEG.
    """

    height: int
    width: int
    bits: int = 8
    orientation: int = 1
    white_is_zero: bool = False
    lossy: bool = False


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
    if content.startswith(_TIFF_MAGIC):
        with _damage_named(path), tifffile.TiffFile(path) as tiff:
            chosen = _chosen(path, tiff, page)
            facts = chosen.facts
            pixels, palette = chosen.read(path)
    else:
        _require_one_page(path, page)
        facts = _facts_of_other(path, content)
        found = _numbers_of_palette(content) if numbers else None
        pixels, palette = found or (_decode_other(path, content), None)
        if facts.bits < 8:  # OpenCV has spread them over 8 bit
            pixels = pixels // (255 // (2**facts.bits - 1)) if numbers else pixels
            facts = facts if numbers else replace(facts, bits=8)
        if numbers and pixels.ndim == 2 and (clear := _transparent_numbers(content)):
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
    if facts.orientation in _TURNED:
        pixels = np.ascontiguousarray(_TURNED[facts.orientation](pixels))
        hidden = None if hidden is None else _TURNED[facts.orientation](hidden)
    return Decoded(pixels, palette, facts, hidden)


def look(path: Path | str, page: Page = None) -> Facts:
    """Read what a file says of its pixels, without decoding them. InputError as of `decode`, as far as it shows."""
    path = Path(path)
    content = _content(path)
    if content.startswith(_TIFF_MAGIC):
        with _damage_named(path), tifffile.TiffFile(path) as tiff:
            return _chosen(path, tiff, page).facts
    _require_one_page(path, page)
    facts = _facts_of_other(path, content)
    return replace(facts, bits=max(facts.bits, 8))  # what they are decoded to


@contextmanager
def tiff_page(path: Path, page: Page = None) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage] | None]:
    """Open a TIFF and choose its page; None where the file is no TIFF. InputError where it has none such."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in _TIFF_MAGIC:
        yield None
        return
    with tifffile.TiffFile(path) as tiff:
        yield tiff, _chosen(path, tiff, page).page


def _content(path: Path) -> bytes:
    """Bytes of an image file; of a TIFF only the first. InputError where it is none, or cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(16)
            content += b"" if content.startswith(_TIFF_MAGIC) else file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if not content.startswith((*_TIFF_MAGIC, *_OTHER_MAGIC)):
        kind = "is empty" if not content else "is not a TIFF, PNG, JPEG or BMP file, whatever its name says"
        raise InputError(f"{path}: {kind}; export the micrograph again or remove the file")
    return content


# ---- TIFF -------------------------------------------------------------------------------------------------------


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file fails anywhere in tifffile or a codec, with any exception
        raise InputError(f"{path}: damaged TIFF ({error}); copy or export the file again") from error


@dataclass(frozen=True)
class _Picture:
    """One picture of a TIFF: a page, a slice of several that stand behind one page, or a channel of a page."""

    page: tifffile.TiffPage
    slice: int = 0
    channel: int | None = None

    @property
    def facts(self) -> Facts:
        page = self.page
        orientation = page.tags.valueof(_ORIENTATION, 1)
        orientation = orientation if orientation in _TURNED else 1
        sides = page.imagelength, page.imagewidth
        sides = sides if orientation < 5 else sides[::-1]
        counted = page.dtype is not None and page.dtype.kind in "bu" and page.photometric != _PALETTE
        bits = page.bitspersample if counted and isinstance(page.bitspersample, int) else 8
        white_is_zero = page.photometric == _MINISWHITE and _PHOTOMETRIC in page.tags  # tifffile assumes it
        if bits == 1 and str(page.tags.valueof(_SOFTWARE, "")).startswith("tifffile"):
            white_is_zero = False  # it calls True black unasked, and who saves a mask as bool means white
        return Facts(*sides, bits, orientation, white_is_zero, page.compression in _JPEG_IN_TIFF)

    @property
    def kind(self) -> str:
        colour = " palette" if self.page.photometric == _PALETTE else " RGB" * (_channels(self.page) == 3)
        return f"{self.page.imagewidth} x {self.page.imagelength} {self.page.dtype}{colour * (self.channel is None)}"

    @property
    def size(self) -> tuple[int, int]:
        """Measure of "largest": pixels, then bits of a pixel's sample."""
        return self.page.imagewidth * self.page.imagelength, self.page.dtype.itemsize

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels as they are stored, and their palette. InputError for what is no such picture or is not all there."""
        page = self.page
        # tifffile converts YCbCr of a JPEG only.
        known = (_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, *([_YCBCR] * (page.compression in _JPEG_IN_TIFF)))
        if page.photometric not in known:
            raise InputError(f"{path}: colour space {page.photometric.name}; save it as grey or RGB")
        calibration = page.parent.imagej_metadata if page.parent.is_imagej else None
        if page.dtype == np.uint16 and (calibration or {}).get("c0") == -(1 << 15):
            raise InputError(f"{path}: ImageJ's signed 16-bit numbers (c0 = -32768); make it 8-bit in ImageJ")
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(map(sum, parts), default=0) + self.slice * page.nbytes > path.stat().st_size:
            raise InputError(f"{path}: truncated, pixel data is missing at the end; copy the file again")
        if unwritten := sum(not (start and count) for start, count in parts):
            raise InputError(
                f"{path}: {unwritten} of its {len(parts)} parts were never written, they would be black; export the "
                "file again"
            )
        tile = page.tilewidth * page.tilelength * page.tiledepth * page.samplesperpixel if page.is_tiled else 0
        size = max(page.nbytes, tile * page.dtype.itemsize)
        _check_size(path, page.imagewidth, page.imagelength, size * (6 if page.photometric == _PALETTE else 1))
        if self.slice:
            kind = page.dtype.newbyteorder(page.parent.byteorder)
            start = page.dataoffsets[0] + self.slice * page.nbytes
            pixels = np.fromfile(path, kind, page.nbytes // kind.itemsize, offset=start).reshape(page.shape)
            pixels = pixels.astype(page.dtype)
        else:
            pixels = page.asarray()
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        if self.channel is not None:
            pixels = np.ascontiguousarray(pixels[..., self.channel])
        palette = np.asarray(page.colormap).T if page.photometric == _PALETTE else None
        if palette is not None:
            pixels = pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels
            if pixels.dtype.kind != "u" or pixels.ndim != 2 or pixels.max() >= len(palette):
                raise InputError(
                    f"{path}: its palette does not fit its pixels (damaged, or with transparency); flatten it, or "
                    "export it again"
                )
        return pixels, palette


def _chosen(path: Path, tiff: tifffile.TiffFile, page: Page) -> _Picture:
    """Choose the picture that is asked for. InputError, which names them all, where there is not one such."""
    most = max(_MOST_PAGES, page if isinstance(page, int) else 0)
    pages = list(islice(tiff.pages, most))  # in a damaged file they may go on for ever
    pages = [one for one in pages if not one.is_reduced] or pages  # microscopes add previews as reduced pages
    alone = len(pages) == 1
    pictures = list(islice((picture for one in pages for picture in _pictures(path, tiff, one, alone)), most))
    more = " or more" * (most in (len(pages), len(pictures)))
    if isinstance(page, int) and page <= len(pictures):
        return pictures[page - 1]
    found = pictures if page is None or isinstance(page, int) else _of_kind(pictures, page)
    if len(found) == 1 and not isinstance(page, int):
        return found[0]
    if not pictures:
        raise InputError(f"{path}: 0 pages; export one micrograph a file")
    named = [f"{number}: {picture.kind}" for number, picture in enumerate(pictures, 1)]
    listed = ", ".join(named[:_PAGES_NAMED]) + ", ..." * (len(named) > _PAGES_NAMED)
    asked = "" if page is None else f", and page = {page!r} names {'none' if isinstance(page, int) else 'several'}"
    raise InputError(
        f"{path}: {len(pictures)}{more} pages ({listed}){asked}; give `page` with a number (of an image), or export "
        "one micrograph a file"
    )


def _of_kind(pictures: list[_Picture], kind: str) -> list[_Picture]:
    """Pictures of which "image" or "largest" names the one, if there is one.

    "image": those with what the microscope wrote, or the grey ones, or all; and of these the largest.
    """
    if kind == "image":
        signed = [one for one in pictures if any(tag in one.page.tags for tag in MAKERS)]
        grey = [one for one in (signed or pictures) if _channels(one.page) == 1]
        pictures = grey or signed or pictures
    largest = max((one.size for one in pictures), default=None)
    return [one for one in pictures if one.size == largest]


def _pictures(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, alone: bool) -> Iterator[_Picture]:
    if alone and page.is_contiguous and (slices := _slices(tiff, page)) > 1:
        yield from (_Picture(page, number) for number in range(slices))
        return
    channels = _channels(page)
    if channels > 1 and page.photometric in (_MINISWHITE, _MINISBLACK):
        channels = 1 if _alike(path, page, channels) else channels
        yield from (_Picture(page, channel=number) for number in range(channels))
    else:
        yield _Picture(page)


def _slices(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> int:
    """Number of pictures that ImageJ, or tifffile with `truncate`, says it wrote behind the only directory."""
    try:
        if tiff.is_imagej:
            return int((tiff.imagej_metadata or {}).get("images", 1))
        written = tiff.shaped_metadata[0] if tiff.is_shaped else {}
        return math.prod(written["shape"]) // page.size if written.get("truncated") else 1
    except (TypeError, ValueError):
        return 1


def _alike(path: Path, page: tifffile.TiffPage, channels: int) -> bool:
    """Tell if the channels of a page are one grey picture, written several times."""
    _check_size(path, page.imagewidth, page.imagelength, page.nbytes)
    pixels = page.asarray()
    pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
    return all(np.array_equal(pixels[..., 0], pixels[..., number]) for number in range(1, channels))


def _channels(page: tifffile.TiffPage) -> int:
    """Number of samples of a pixel, without those for transparency."""
    extra = page.extrasamples
    alpha = sum(int(one) in _ALPHA for one in (extra if isinstance(extra, tuple) else ()))
    if page.photometric in (_RGB, _YCBCR):
        return min(page.samplesperpixel, 3)
    return max(1, page.samplesperpixel - alpha)


# ---- PNG, JPEG, BMP ---------------------------------------------------------------------------------------------


def _require_one_page(path: Path, page: Page) -> None:
    if isinstance(page, int) and page > 1:
        raise InputError(f"{path}: 1 page, and page = {page} names none; only a TIFF has several")


def _facts_of_other(path: Path, content: bytes) -> Facts:
    """Read the head of a PNG, JPEG or BMP. InputError for one that is animated, damaged at its head, or too large."""
    bits, exif, lossy = 8, b"", False
    if content.startswith(b"\x89PNG"):
        chunks = _png_chunks(path, content)
        if b"acTL" in chunks:
            raise InputError(f"{path}: animated PNG; export one micrograph a file")
        bits, kind = int.from_bytes(content[24:25]), content[25:26]
        channels = {b"\0": 1, b"\2": 3}.get(kind, 4)  # as OpenCV decodes grey, RGB, and the other types
        frames = [(*_sides(">II", content[16:24]), channels * (2 if bits == 16 else 1))]
        bits = 8 if kind == b"\3" or not bits else bits  # a palette's colours have 8
        start = chunks.get(b"eXIf")
        exif = content[start : start + int.from_bytes(content[start - 8 : start - 4])] if start else b""
    elif content.startswith(b"BM"):
        os2 = content[14:15] == b"\x0c"  # has a short header
        frames = [(*(_sides("<HH4x", content[18:22]) if os2 else _sides("<ii", content[18:26])), 4)]
    else:
        lossy, exif = True, _exif_of_jpeg(content)
        found = _JPEG_FRAME.findall(content)
        if any(channels == b"\4" for *_, channels in found):
            raise InputError(f"{path}: colour space CMYK; save it as grey or RGB")
        frames = [  # a progressive one is decoded in coefficients of 16 bit
            (int.from_bytes(width), int.from_bytes(height), channels[0] * (1 if process in b"\xc0\xc1" else 3))
            for process, height, width, channels in found
        ]
    for width, height, size in frames:
        _check_size(path, width, height, width * height * size)
    width, height = max(((width, height) for width, height, _ in frames), default=(0, 0))
    orientation = _orientation(exif)
    sides = (height, width) if orientation < 5 else (width, height)
    return Facts(*sides, bits, orientation, lossy=lossy)


def _decode_other(path: Path, content: bytes) -> np.ndarray:
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


def _numbers_of_palette(content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers and palette of a PNG or BMP that has one, which OpenCV decodes to colours; None for another file."""
    palettes = content.startswith(b"BM") or content[25:26] == b"\3"
    if content.startswith(b"\xff") or not palettes:
        return None
    try:
        with Image.open(BytesIO(content)) as image:
            if image.mode != "P":
                return None
            colours = np.reshape(image.getpalette("RGB"), (-1, 3))
            numbers = np.array(image)
    except Exception:  # a damaged file fails anywhere in Pillow; OpenCV's error is the one to show
        return None
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    return numbers, palette


def _transparent_numbers(content: bytes) -> list[int]:
    """Numbers of a PNG's palette, or its grey level, that are wholly transparent; of colours OpenCV gives the alpha."""
    if not content.startswith(b"\x89PNG"):
        return []
    try:
        with Image.open(BytesIO(content)) as image:
            found = image.info.get("transparency")
    except Exception:  # as in _numbers_of_palette
        return []
    if isinstance(found, bytes):
        return [number for number, alpha in enumerate(found) if alpha == 0]
    return [found] if isinstance(found, int) else []


def _exif_of_jpeg(content: bytes) -> bytes:
    """EXIF of a JPEG, empty where it has none."""
    place = 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            return content[place + 4 : place + 2 + length]
        if marker == 0xDA:  # pixels begin
            break
        place += 2 + length
    return b""


def _orientation(exif: bytes) -> int:
    """Orientation 1 .. 8 that EXIF says; 1 where it says none, or is damaged: viewers leave such a picture as it is."""
    found = Image.Exif()
    try:
        found.load(exif)
        orientation = found.get(_ORIENTATION)
    except Exception:
        return 1
    return orientation if orientation in _TURNED else 1


def _sides(layout: str, content: bytes) -> tuple[int, int]:
    """Width and height in a header; 0 in one that is cut."""
    return tuple(map(abs, struct.unpack(layout, content.ljust(8, b"\0"))))


def _png_chunks(path: Path, content: bytes) -> dict[bytes, int]:
    """Places of a PNG's chunks by name. InputError where one is longer than the file: OpenCV would take the memory."""
    found, position = {}, 8
    while b"IEND" not in found:
        found.setdefault(content[position + 4 : position + 8], position + 8)
        position += 12 + int.from_bytes(content[position : position + 4])
        if position > len(content):
            raise InputError(f"{path}: damaged or truncated; copy or export the file again")
    return found


def _check_size(path: Path, width: int, height: int, size: int) -> None:
    if size > _MOST:
        raise InputError(
            f"{path}: {width} x {height} px take {size >> 20} MiB, more than {_MOST >> 20}; crop the micrograph, or "
            "export it again if that is not its size"
        )
