"""Pictures of a TIFF: its pages, slices that stand behind one page, and channels of a page."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile

from common.errors import InputError
from data.file_facts import ORIENTATION, TURNED, Facts, check_size
from data.other_formats import require_whole_jpeg

Page = int | str | None  # of a file of several: its number from 1, "image", "largest"; None where there is one
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_MAKERS = (34118, 34680, 34682, 50431, 33560, 33471)  # tags in which microscopes write: Zeiss, FEI, Tescan, Olympus
_PHOTOMETRIC = 262  # tag
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6  # its values
_JPEG = 7  # tag 259
_JPEG_IN_TIFF = (6, _JPEG, 33007, 34892)
_ALPHA = (1, 2)  # tag 338
_SOFTWARE = 305  # tag
_MOST_PAGES = 32
_PAGES_NAMED = 6

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it prints of a damaged file comes as an error of ours


@contextmanager
def tiff_page(path: Path, page: Page = None) -> Iterator[tuple[tifffile.TiffFile, tifffile.TiffPage] | None]:
    """Open a TIFF and choose its page; None where the file is no TIFF. InputError where it has none such."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic not in TIFF_MAGIC:
        yield None
        return
    with tifffile.TiffFile(path) as tiff:
        yield tiff, chosen_picture(path, tiff, page).page


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what tifffile and its codecs raise over a damaged file into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a damaged file fails anywhere in tifffile or a codec, with any exception
        raise InputError(f"{path}: damaged TIFF ({error}); copy or export the file again") from error


@dataclass(frozen=True)
class Picture:
    """One picture of a TIFF: a page, a slice of several that stand behind one page, or a channel of a page."""

    page: tifffile.TiffPage
    slice: int = 0
    channel: int | None = None

    @property
    def facts(self) -> Facts:
        """Give what its page states, turned as a viewer shows it."""
        page = self.page
        orientation = page.tags.valueof(ORIENTATION, 1)
        orientation = orientation if orientation in TURNED else 1
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
        """Name its size, type and colours for a person."""
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
        if page.imagedepth > 1:
            raise InputError(f"{path}: a volume of {page.imagedepth} slices behind one page; export one slice a file")
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
        check_size(path, page.imagewidth, page.imagelength, size * (6 if page.photometric == _PALETTE else 1))
        if self.slice:
            kind = page.dtype.newbyteorder(page.parent.byteorder)
            start = page.dataoffsets[0] + self.slice * page.nbytes
            pixels = np.fromfile(path, kind, page.nbytes // kind.itemsize, offset=start).reshape(page.shape)
            pixels = pixels.astype(page.dtype)
        else:
            pixels = page.asarray()
            if page.compression == _JPEG and page.dtype == np.uint8:
                _require_whole_jpegs(path, page, parts)
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


def chosen_picture(path: Path, tiff: tifffile.TiffFile, page: Page) -> Picture:
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


def _require_whole_jpegs(path: Path, page: tifffile.TiffPage, parts: list[tuple[int, int]]) -> None:
    """Raise InputError where a strip or tile, (offset, bytes), is a damaged JPEG. Tables may be the page's."""
    tables = page.jpegtables[:-2] if page.jpegtables else b""
    with path.open("rb") as file:
        for offset, count in parts:
            file.seek(offset)
            part = file.read(count)
            require_whole_jpeg(path, tables + part[2 * bool(tables) :])


def _of_kind(pictures: list[Picture], kind: str) -> list[Picture]:
    """Pictures of which "image" or "largest" names the one, if there is one.

    "image": those with what the microscope wrote, or the grey ones, or all; and of these the largest.
    """
    if kind == "image":
        signed = [one for one in pictures if any(tag in one.page.tags for tag in _MAKERS)]
        grey = [one for one in (signed or pictures) if _channels(one.page) == 1]
        pictures = grey or signed or pictures
    largest = max((one.size for one in pictures), default=None)
    return [one for one in pictures if one.size == largest]


def _pictures(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, alone: bool) -> Iterator[Picture]:
    if alone and page.is_contiguous and (slices := _slices(tiff, page)) > 1:
        yield from (Picture(page, number) for number in range(slices))
        return
    channels = _channels(page)
    if channels > 1 and page.photometric in (_MINISWHITE, _MINISBLACK):
        channels = 1 if _alike(path, page, channels) else channels
        yield from (Picture(page, channel=number) for number in range(channels))
    else:
        yield Picture(page)


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
    check_size(path, page.imagewidth, page.imagelength, page.nbytes)
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
