"""Words of a microscope in or beside an image file: its pixel size, and the rows of its information bar.

TIFF's resolution tags are no source of it: in nearly all of these files they are a printer's settings.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from common.errors import InputError
from data.decoding import Page, look, tiff_page

_ZEISS, _FEI, _TESCAN, _OLYMPUS = 34118, (34680, 34682), 50431, (33560, 33471)  # TIFF tags
_NANOMETRES = {
    "pm": 1e-3, "å": 0.1, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0, "nanometre": 1.0,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3, "micrometre": 1e3,
    "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9,
}  # fmt: skip
_COARSEST = 50_000  # nm; above it stand the 72 dots an inch of a screen, taken for a calibration
_PAGES = 8  # that are looked into
_TEXT = 1 << 20  # bytes of a text beside an image; a longer one is no microscope's
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Header:
    """Facts that a file states of itself: its maker, nm a pixel, rows of the bar, width in px when it was written.

    None is what it does not say.
    """

    maker: str
    pixel_size_nm: float | None = None
    information_bar: int | None = None
    width: int | None = None


def read_header(path: Path, page: Page = None) -> Header | None:
    """Read what the microscope wrote into a file, or into a text beside it; None where there is nothing, or damage.

    page: of a TIFF with several.
    """
    try:
        with tiff_page(path, page) as opened:
            found = _of_tiff(*opened) if opened else []
            size = (opened[1].imagelength, opened[1].imagewidth) if opened else None
            found = [_checked(header) for header in (*found, *_beside(path, size))]
    except InputError:
        return None
    except Exception:  # a damaged tag fails anywhere; reading the picture says what is wrong with the file
        return None
    told = [header for header in found if header]
    if not told:
        return None
    size = next((one.pixel_size_nm for one in told if one.pixel_size_nm), None)
    bar = next((one.information_bar for one in told if one.information_bar is not None), None)
    return Header(told[0].maker, size, bar, told[0].width)


def texts_beside(path: Path) -> list[Path]:
    """Files in which a microscope may have written about an image: JEOL's and Hitachi's .txt, Tescan's .hdr."""
    endings = dict.fromkeys((path.suffix[1:], path.suffix[1:].lower()))
    names = [f"{path.stem}{ending}" for ending in (".txt", ".TXT", ".Txt", ".hdr", *(f"-{one}.hdr" for one in endings))]
    return [path.with_name(name) for name in names]


def _checked(header: Header) -> Header | None:
    """A header of possible numbers only; None where none is left."""
    size, bar = header.pixel_size_nm, header.information_bar
    size = float(size) if size is not None and math.isfinite(size) and 0 < size <= _COARSEST else None
    bar = bar if bar is not None and bar >= 0 else None
    return None if size is None and bar is None else Header(header.maker, size, bar, header.width)


def _of_tiff(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Header]:
    """Yield what stands in the tags of a page, or of others of its width; of the surest source first."""
    others = [one for one in islice(tiff.pages, _PAGES) if one is not page and one.imagewidth == page.imagewidth]
    for tags in (one.tags for one in (page, *others)):
        if isinstance(zeiss := tags.valueof(_ZEISS), dict):
            yield _zeiss(zeiss, page)
        for tag in _FEI:
            if isinstance(fei := tags.valueof(tag), dict):
                yield _fei(fei, page)
        if isinstance(tescan := tags.valueof(_TESCAN), bytes | str):
            yield _tescan(tescan if isinstance(tescan, str) else tescan.decode("latin-1"))
        for tag in _OLYMPUS:
            olympus = tags.valueof(tag)
            if isinstance(olympus, dict) and isinstance(olympus.get("pixelsizex"), int | float):
                yield Header("Olympus SIS", olympus["pixelsizex"] * 1e9)
    if tiff.is_ome:
        yield Header("OME-XML", _ome(tiff.ome_metadata))
    if tiff.is_imagej:
        yield Header("ImageJ", _imagej(tiff, page))


def _zeiss(values: dict, page: tifffile.TiffPage) -> Header:
    """Read SmartSEM's values; `ap_pixel_size` is none of them, because it is of another raster in many files."""
    stored = values.get("dp_image_store")
    sides = re.findall(r"\d+", str(stored[1])) if isinstance(stored, tuple) and len(stored) > 1 else []
    width = int(sides[0]) if len(sides) == 2 else None
    size = _length(values.get("ap_image_pixel_size"))
    if not size and (whole := _length(values.get("ap_width"))):
        size = whole / (width or page.imagewidth)
    return Header("Zeiss", size, None, width)


def _length(entry: object) -> float | None:
    """Nanometres of SmartSEM's (name, value, unit)."""
    if not isinstance(entry, tuple) or len(entry) < 3 or not isinstance(entry[1], int | float):
        return None
    return entry[1] * _NANOMETRES.get(str(entry[2]).strip().lower(), math.nan)


def _fei(values: dict, page: tifffile.TiffPage) -> Header:
    """Read FEI's sections; `DatabarHeight` is none of the values, because it is 0 in files with a bar."""
    named = _section(values, "Beam").get("Scan")
    sections = [_section(values, name) for name in (named, "Scan", "EScan", "IScan")]
    sizes = [one["PixelWidth"] * 1e9 for one in sections if isinstance(one.get("PixelWidth"), int | float)]
    image = _section(values, "Image")
    rows, width = image.get("ResolutionY"), image.get("ResolutionX")
    same = isinstance(rows, int) and width == page.imagewidth
    return Header("FEI", sizes[0] if sizes else None, page.imagelength - rows if same else None, width)


def _section(values: dict, name: object) -> dict:
    found = values.get(name) if isinstance(name, str) else None
    return found if isinstance(found, dict) else {}


def _tescan(text: str) -> Header:
    lines = _lines(text)
    size, strip = _number(lines.get("pixelsizex")), _number(lines.get("imagestripsize"))
    return Header("Tescan", None if size is None else size * 1e9, None if strip is None else round(strip))


def _ome(text: str | None) -> float | None:
    """Nanometres a pixel of an OME-XML, where all its images have the same."""
    found = set()
    for element in ElementTree.fromstring(text or "<none/>").iter():
        if element.tag.rpartition("}")[2] == "Pixels" and "PhysicalSizeX" in element.attrib:
            unit = element.get("PhysicalSizeXUnit", "µm").strip().lower()
            found.add(float(element.get("PhysicalSizeX")) * _NANOMETRES.get(unit, math.nan))
    return found.pop() if len(found) == 1 else None


def _imagej(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> float | None:
    """Nanometres a pixel of ImageJ's calibration: pixels a unit, where there is a unit, and no printer's."""
    unit = str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ").strip().lower()
    resolution = page.tags.valueof(282)
    if unit not in _NANOMETRES or not isinstance(resolution, tuple) or not all(resolution):
        return None
    return _NANOMETRES[unit] * resolution[1] / resolution[0]


def _beside(path: Path, size: tuple[int, int] | None) -> Iterator[Header]:
    """Yield what stands in texts beside an image of (h, w) = size, None for one that is no TIFF."""
    for file in texts_beside(path):
        if not file.is_file() or file.stat().st_size > _TEXT:
            continue
        if size is None:
            facts = look(path)
            size = facts.height, facts.width
        lines = _lines(_text(file.read_bytes()))
        if "sm_micron_marker" in lines:
            yield _jeol(lines, *size)
        elif "pixelsizex" in lines:
            yield _tescan(_text(file.read_bytes()))
        elif "pixelsize" in lines:
            # A picture of that size may have its bar inside.
            bar, width = _below(lines.get("datasize", ""), *size)
            yield Header("Hitachi", _number(lines["pixelsize"]), bar or None, width)


def _jeol(lines: dict[str, str], height: int, width: int) -> Header:
    """Read JEOL's text: a scale bar of so many pixels, and the length that stands beside it."""
    pixels, marker = _number(lines.get("sm_micron_bar")), lines["sm_micron_marker"].lower()
    length, unit = _number(marker), re.sub(r"[\d.\s+-]", "", marker)
    size = length * _NANOMETRES[unit] / pixels if length and pixels and unit in _NANOMETRES else None
    return Header("JEOL", size, *_below(lines.get("cm_full_size", ""), height, width))


def _below(scanned: str, height: int, width: int) -> tuple[int | None, int | None]:
    """Rows of an image below the scanned ones, and their width, of a text with width and height; None where unknown."""
    sides = [int(side) for side in re.findall(r"\d+", scanned)]
    if len(sides) != 2:
        return None, None
    return (height - sides[1] if sides[0] == width else None), sides[0]


def _lines(text: str) -> dict[str, str]:
    """Entries `key=value`, or JEOL's `$key value`, of a text, by the key in small letters without `$`."""
    found = {}
    for line in re.split(r"[\r\n\0]+", text):
        line = line.strip()
        key, sign, value = line.partition(" " if line.startswith("$") else "=")
        if sign:
            found.setdefault(key.strip().lstrip("$").lower(), value.strip())
    return found


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or content[1:2] == b"\0":
        return content.decode("utf-16" if content[1:2] != b"\0" else "utf-16-le", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _number(text: str | None) -> float | None:
    """The number that a text begins with."""
    found = _NUMBER.match((text or "").strip().replace(",", "."))
    return float(found[0]) if found else None
