"""Words of a microscope in or beside an image file: its pixel size, and the rows of its information bar.

TIFF's resolution tags are no source of it: in nearly all of these files they are a printer's settings.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from common.errors import InputError
from data.decoding import look
from data.tiff import Page, tiff_page

_ZEISS, _FEI, _TESCAN, _OLYMPUS = 34118, (34680, 34682), 50431, (33560, 33471)  # TIFF tags
_NANOMETRES = {
    "pm": 1e-3, "å": 0.1, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0, "nanometre": 1.0,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "micrometer": 1e3, "micrometre": 1e3,
    "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9,
}  # fmt: skip
TOLERANCE = 0.02  # of a pixel size
_MIRRORED = 2  # orientation of TIFF and EXIF that leaves each row where it is, as 1 does; larger ones do not
_COARSEST = 50_000  # nm; above it stand the 72 dots an inch of a screen, taken for a calibration
_INCH, _MOST_DOTS, _ROUND = 25.4e6, 5000, 2e-4  # nm; a scanner's or a printer's dots an inch are hundreds; their share
_PAGES = 8  # that are looked into
_TEXT = 1 << 20  # bytes of a text beside an image; a longer one is no microscope's
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Header:
    """Facts that a file states of itself: its maker, nm a pixel, rows of the bar, width in px when it was written.

    None is what it does not say. pixel_height_nm: from row to row. bar_maker: who says the bar, where it is another.
    doubts: in what its facts contradict each other, a sentence each. unread: text of a pixel size that cannot be used.
    turned: its orientation moves the bar away from the bottom, so that information_bar is None.
    """

    maker: str
    pixel_size_nm: float | None = None
    information_bar: int | None = None
    width: int | None = None
    pixel_height_nm: float | None = None
    bar_maker: str | None = None
    doubts: tuple[str, ...] = ()
    unread: str = ""
    turned: bool = False


def read_header(path: Path, page: Page = None) -> Header | None:
    """Read what the microscope wrote into a file, or into a text beside it; None where there is nothing, or damage.

    page: of a TIFF with several.
    """
    try:
        with tiff_page(path, page) as opened:
            sources = _of_tiff(*opened) if opened else []
            size = (opened[1].imagelength, opened[1].imagewidth) if opened else None
            found = [_checked(header) for source in (*sources, _beside(path, size)) for header in _undamaged(source)]
    except InputError:
        return None
    except Exception:  # a damaged tag fails anywhere; reading the picture says what is wrong with the file
        return None
    told = [header for header in found if header]
    if not told:
        return None
    sized = next((one for one in told if one.pixel_size_nm), told[0])
    barred = next((one for one in told if one.information_bar is not None), sized)
    bar_maker = barred.maker if barred.maker != sized.maker else None
    doubts, bar = tuple(_doubts(sized, barred, told)), barred.information_bar
    turned = bool(bar) and look(path, page).orientation > _MIRRORED
    bar = None if turned else bar
    return replace(sized, information_bar=bar, bar_maker=bar_maker, doubts=doubts, turned=turned)


def _undamaged(source: Iterable[Header]) -> Iterator[Header]:
    """Yield what a source says before it turns out to be damaged, which may be anywhere; the others may be whole."""
    try:
        yield from source
    except InputError:
        raise
    except Exception:
        return


def _doubts(sized: Header, barred: Header, told: list[Header]) -> Iterator[str]:
    """Yield where pixels are not square, and where what is taken of the size and the bar is contradicted."""
    size, height, bar = sized.pixel_size_nm, sized.pixel_height_nm, barred.information_bar
    if size and height and abs(height / size - 1) > TOLERANCE:
        yield (
            f"its {sized.maker} header says {size:.4g} nm a pixel across and {height:.4g} down. Square "
            "pixels of the first are assumed: the picture's tilt is not corrected."
        )
    for one in told:
        if one.pixel_size_nm and abs(one.pixel_size_nm / size - 1) > TOLERANCE:
            yield _differs(f"{size:.4g} nm a pixel", sized, f"{one.pixel_size_nm:.4g}", one)
        if one.information_bar not in (None, bar):
            yield _differs(f"that the information bar has {bar} rows", barred, f"{one.information_bar}", one)


def _differs(said: str, first: Header, otherwise: str, other: Header) -> str:
    """Sentence about two sources in one file, of which the first is taken."""
    name = f"another {other.maker}" if other.maker == first.maker else f"its {other.maker}"
    why = "The first is what the file says; correct the other, or give a number"
    return f"its {first.maker} header says {said}, and {name} header {otherwise}. {why}."


def texts_beside(path: Path) -> list[Path]:
    """Files in which a microscope may have written about an image: JEOL's and Hitachi's .txt, Tescan's .hdr."""
    endings = dict.fromkeys((path.suffix[1:], path.suffix[1:].lower()))
    names = [f"{path.stem}{ending}" for ending in (".txt", ".TXT", ".Txt", ".hdr", *(f"-{one}.hdr" for one in endings))]
    return [path.with_name(name) for name in names]


def _checked(header: Header) -> Header | None:
    """A header of possible numbers only; None where none is left, and no text that might be one."""
    size, height = (
        float(side) if side is not None and math.isfinite(side) and 0 < side <= _COARSEST else None
        for side in (header.pixel_size_nm, header.pixel_height_nm)
    )
    bar = header.information_bar if (header.information_bar or 0) >= 0 else None
    if size is None and bar is None and not header.unread:
        return None
    unread = "" if size else header.unread
    return replace(header, pixel_size_nm=size, information_bar=bar, pixel_height_nm=height, unread=unread)


def _of_tiff(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> list[Iterator[Header]]:
    """Sources of what a TIFF says, each by itself, the surest first."""
    return [_of_pages(tiff, page), _of_ome(tiff, page), _of_imagej(tiff, page)]


def _of_pages(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Header]:
    """Yield what stands in the tags of a page, or of others of its width where it has none."""
    others = [one for one in islice(tiff.pages, _PAGES) if one is not page and one.imagewidth == page.imagewidth]
    for tags in (one.tags for one in (page, *others)):
        of_page = [*_of_tags(tags, page)]
        yield from of_page
        if of_page:
            break


def _of_ome(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Header]:
    if tiff.is_ome:
        yield _ome(tiff.ome_metadata, page)


def _of_imagej(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Header]:
    if tiff.is_imagej:
        (size, said), (height, _) = (_imagej(tiff, page, tag) for tag in (282, 283))
        yield Header("ImageJ", pixel_size_nm=size, pixel_height_nm=height, unread=said)


def _of_tags(tags: tifffile.TiffTags, page: tifffile.TiffPage) -> Iterator[Header]:
    if isinstance(zeiss := tags.valueof(_ZEISS), dict):
        yield from _zeiss(zeiss, page)
    for tag in _FEI:
        if isinstance(fei := tags.valueof(tag), dict):
            yield _fei(fei, page)
    if isinstance(tescan := tags.valueof(_TESCAN), bytes | str):
        yield _tescan(tescan if isinstance(tescan, str) else tescan.decode("latin-1"))
    for tag in _OLYMPUS:
        olympus = tags.valueof(tag)
        if isinstance(olympus, dict) and isinstance(olympus.get("pixelsizex"), int | float):
            sides = (olympus["pixelsizex"] * 1e9, olympus.get("pixelsizey", math.nan) * 1e9)
            yield Header("Olympus SIS", pixel_size_nm=sides[0], pixel_height_nm=sides[1])


def _zeiss(values: dict, page: tifffile.TiffPage) -> Iterator[Header]:
    """Read SmartSEM's values; `ap_pixel_size` is none of them, because it is of another raster in many files."""
    stored = values.get("dp_image_store")
    sides = re.findall(r"\d+", str(stored[1])) if isinstance(stored, tuple) and len(stored) > 1 else []
    width = int(sides[0]) if len(sides) == 2 else None
    said, whole = (_text_of(values.get(key)) for key in ("ap_image_pixel_size", "ap_width"))
    size, by_width = _length_of(said), (_length_of(whole) or math.nan) / (width or page.imagewidth)
    if size and math.isfinite(size):
        yield Header("Zeiss", size, None, width)
        yield Header("Zeiss AP_WIDTH", by_width)
    else:
        yield Header("Zeiss", by_width, None, width, unread=said)


def _text_of(entry: object) -> str:
    """A length with its unit, of SmartSEM's (name, value, unit); of (name, text) where a comma parts the decimals."""
    text = " ".join(map(str, entry[1:])) if isinstance(entry, tuple) else ""
    return text if " " in text else ""


def _fei(values: dict, page: tifffile.TiffPage) -> Header:
    """Read FEI's sections; `DatabarHeight` is none of the values, because it is 0 in files with a bar."""
    named = _section(values, "Beam").get("Scan")
    sections = [_section(values, name) for name in (named, "Scan", "EScan", "IScan")]
    sides = [[one.get(key) for key in ("PixelWidth", "PixelHeight")] for one in sections]
    said = next((width for width, _ in sides if isinstance(width, str)), "")
    sides = [[side * 1e9 if isinstance(side, int | float) else None for side in one] for one in sides]
    size, below = next((one for one in sides if one[0]), (None, None))
    image = _section(values, "Image")
    rows, width = image.get("ResolutionY"), image.get("ResolutionX")
    same = isinstance(rows, int) and width == page.imagewidth
    return Header("FEI", size, page.imagelength - rows if same else None, width, below, unread=said)


def _section(values: dict, name: object) -> dict:
    found = values.get(name) if isinstance(name, str) else None
    return found if isinstance(found, dict) else {}


def _tescan(text: str) -> Header:
    lines = _lines(text)
    size, below = (_length_of(lines.get(key), "m") for key in ("pixelsizex", "pixelsizey"))
    strip = _number(lines.get("imagestripsize"))
    said = lines.get("pixelsizex", "")
    return Header("Tescan", size, None if strip is None else round(strip), pixel_height_nm=below, unread=said)


def _ome(text: str | None, page: tifffile.TiffPage) -> Header:
    """Read an OME-XML: sizes of the image that a page belongs to, or that all images have where it says no pages."""
    images = [one for one in ElementTree.fromstring(text or "<none/>").iter() if _kind(one) == "Pixels"]
    images = [one for one in images if _has_page(one, page.index)] or images
    sides, said = [], ""
    for key in ("PhysicalSizeX", "PhysicalSizeY"):
        texts = [f"{one.get(key)} {one.get(f'{key}Unit', 'µm')}" for one in images if key in one.attrib]
        lengths = {*map(_length_of, texts)}
        sides.append(lengths.pop() if len(lengths) == 1 else None)
        said = said or ", ".join(dict.fromkeys(texts))
    return Header("OME-XML", sides[0], pixel_height_nm=sides[1], unread=said)


def _has_page(pixels: ElementTree.Element, index: int) -> bool:
    """Tell if the pixels of an image are said to be in a page, counted from 0."""
    for data in pixels:
        if _kind(data) == "TiffData":
            first = int(data.get("IFD", 0))
            count = int(data.get("PlaneCount", 0)) or (1 if "IFD" in data.attrib else math.inf)
            if first <= index < first + count:
                return True
    return False


def _kind(element: ElementTree.Element) -> str:
    """Name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _imagej(tiff: tifffile.TiffFile, page: tifffile.TiffPage, tag: int) -> tuple[float | None, str]:
    """Nanometres a pixel of ImageJ's calibration in a tag, where there is a unit, and no printer's; and its text."""
    values = tiff.imagej_metadata or {}
    unit = values.get("yunit" if tag == 283 else "unit") or values.get("unit", "")
    resolution = page.tags.valueof(tag)
    if not isinstance(resolution, tuple) or not all(resolution):
        return None, ""
    unit = str(unit).replace("\\u00B5", "µ")
    size = _nanometres(unit) * resolution[1] / resolution[0]
    said = f"{resolution[0] / resolution[1]:.6g} pixels a {unit}" if unit.strip() not in ("", "pixel") else ""
    dots = _INCH / size  # nan for an unknown unit
    printed = dots < _MOST_DOTS and abs(dots / 100 - round(dots / 100)) < _ROUND * dots / 100
    return (math.nan if unit.strip().lower() == "cm" and printed else size), said


def _beside(path: Path, size: tuple[int, int] | None) -> Iterator[Header]:
    """Yield what stands in texts beside an image of (h, w) = size, None for one that is no TIFF."""
    for file in texts_beside(path):
        if not file.is_file() or file.stat().st_size > _TEXT:
            continue
        if size is None:
            facts = look(path)
            size = facts.height, facts.width
        text = _text(file.read_bytes())
        lines = _lines(text)
        if "sm_micron_marker" in lines:
            yield _jeol(lines, *size)
        elif "pixelsizex" in lines:
            yield _tescan(text)
        elif "pixelsize" in lines and "[semimagefile]" in text.lower():
            # A picture of that size may have its bar inside.
            bar, width = _below(lines.get("datasize", ""), *size)
            said = lines["pixelsize"]
            yield Header("Hitachi", _length_of(said, "nm"), bar or None, width, unread=said)


def _jeol(lines: dict[str, str], height: int, width: int) -> Header:
    """Read JEOL's text: a scale bar of so many pixels, and the length that stands beside it."""
    said = lines["sm_micron_marker"]
    pixels, length = _number(lines.get("sm_micron_bar")), _length_of(said)
    size = length / pixels if length and pixels else None
    return Header("JEOL", size, *_below(lines.get("cm_full_size", ""), height, width), unread=said)


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
        parts = line.split(None if line.startswith("$") else "=", 1)
        if len(parts) == 2:
            found.setdefault(parts[0].strip().lstrip("$").lower(), parts[1].strip())
    return found


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:2]:  # of the first letter's two bytes
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        for mu in (b"\x83\xca", b"\xa6\xcc"):  # of Shift-JIS and of GBK
            content = content.replace(mu, b"\xb5")
        return content.decode("latin-1")


def _number(text: str | None) -> float | None:
    """The number that a text begins with."""
    found = _NUMBER.match((text or "").strip().replace(",", "."))
    return float(found[0]) if found else None


def _length_of(text: str | None, unit: str = "") -> float | None:
    """Nanometres of the number that a text begins with, in the unit behind it, or in `unit`; nan for an unknown one."""
    number = _number(text)
    if number is None:
        return None
    behind = _NUMBER.sub("", text.strip().replace(",", "."), count=1).strip()
    return number * _nanometres(behind or unit)


def _nanometres(unit: str) -> float:
    """Nanometres of a unit of length, nan for what is none."""
    unit = unit.strip().lower()
    return _NANOMETRES.get(unit, _NANOMETRES.get(unit.removesuffix("s"), math.nan))
