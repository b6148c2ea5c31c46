"""Pixel size, information bar and depth of a domain's files before they are read, and what contradicts them."""

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.parallel import all_of
from data.decoding import look
from data.file_facts import Facts
from data.headers import TOLERANCE, Header, read_header
from data.images import DEPTHS, DEPTHS_BEFORE, Brightest, brightest
from data.table import FILE
from data.tiff import Page

_DARK = 8  # times darker than white
_CLIPPED = frozenset(2**bits - 1 for bits in DEPTHS)  # white of cameras, of which a merely dark picture has none
_UPRIGHT = 4  # orientation of TIFF and EXIF that leaves rows rows; larger ones make columns of them
_SIXTEEN = 16  # bits of files whose camera may have had less


@dataclass(frozen=True)
class Given:
    """Scale that is asked of a micrograph: numbers, or FILE. The names say where it was asked for, in a message."""

    pixel_size_nm: float | str
    information_bar: int | str
    named_size: str
    named_bar: str


def settled(path: Path, page: Page, given: Given, quiet: bool = False) -> tuple[float, int]:
    """Give a micrograph's pixel size in nm and the rows of its bar; FILE is what its file says.

    Prints a warning where the file contradicts what is given, unless `quiet`. InputError where it does not say what it
    is asked for.
    """
    header = read_header(path, page)
    size, bar = given.pixel_size_nm, given.information_bar
    for value, key, named in ((size, "pixel_size_nm", given.named_size), (bar, "information_bar", given.named_bar)):
        if value == FILE and (header is None or getattr(header, key) is None):
            look(path, page)  # which says what is wrong with the file, if anything is
            table = "for this one in a table (`micrographs`)"
            if named.startswith("--"):
                table = "or with --images-of a domains.toml, where a table (`micrographs`) has one for this"
            raise InputError(f'{path}: {named} = "{FILE}", but {_lacking(header, key)}; give a number, {table}')
    if header and not quiet:
        for warning in _contradictions(path, page, header, given):
            print(f"warning: {warning}", file=sys.stderr)
    return (header.pixel_size_nm if size == FILE else size), (header.information_bar if bar == FILE else bar)


def _lacking(header: Header | None, key: str) -> str:
    """Say why a file does not say its pixel size or its bar."""
    if header is None:
        return "it has no microscope's header"
    if key == "information_bar" and header.turned:
        return (
            f"it is turned by its orientation, so the bar of its {header.bar_maker or header.maker} header is not below"
        )
    if key == "pixel_size_nm" and header.unread:
        return f"its {header.maker} header says '{header.unread[:100]}', which is no pixel size"
    return f"its {header.maker} header does not say it"


def _contradictions(path: Path, page: Page, header: Header, given: Given) -> Iterable[str]:
    yield from (f"{path}: {doubt}" for doubt in header.doubts)
    if header.pixel_size_nm:
        yield from _other_size(path, page, header, given)
    said, typed = header.information_bar, given.information_bar
    if said is not None and typed not in (FILE, said):
        yield (
            f"{path}: its {header.bar_maker or header.maker} header says that the information bar has {said} rows, but "
            f'{given.named_bar} = {typed}. If the picture still has its bar, correct it, or give "{FILE}".'
        )


def _other_size(path: Path, page: Page, header: Header, given: Given) -> Iterable[str]:
    """Say that a pixel size is another than the header's, which was written for another width if it was resized."""
    said, typed = header.pixel_size_nm, given.pixel_size_nm
    right = header.width is None if typed == FILE else abs(typed / said - 1) <= TOLERANCE
    if right:  # without opening the picture
        return
    facts = look(path, page)
    width = facts.height if facts.orientation > _UPRIGHT else facts.width
    before = width if header.width in (None, facts.width, facts.height) else header.width
    resized = said * before / width
    wrong = typed != FILE and all(abs(typed / size - 1) > TOLERANCE for size in (said, resized))
    named = f"{path}: its {header.maker} header says {said:.4g} nm a pixel"
    named += f", but {given.named_size} = {typed:g}" if wrong else ""
    if before != width and (wrong or typed == FILE):
        yield (
            f"{named}. It was {before} px wide then, and is {width}: {said:.4g} is right if it was cropped, "
            f"{resized:.4g} if it was resized."
        )
    elif wrong:
        yield f'{named}. A wrong scale changes every phase fraction: correct it, or give "{FILE}".'


def middle(sizes: Iterable[float]) -> float:
    """The middle one of several pixel sizes, one that is there."""
    return statistics.median_low(sizes)


def depth_of(
    pictures: Iterable[tuple[Path, Page, int]], workers: int, broken: bool = False, least: int = 0
) -> tuple[int | None, bool]:
    """Depth in bits of a domain's camera: the smallest of DEPTHS that holds all its micrographs of 16-bit samples.

    pictures: files with their page and the rows of their bar, which do not count, as lone pixels do not; of these it
    prints a warning, and of files that are nearly black at that depth, or whose brightest level is white at a smaller
    one. None where there are no such micrographs. And whether each by itself would have been read so, as before there
    was a common depth. broken: files that cannot be read are passed over, where InputError would be raised. least: a
    depth that is known already.
    """
    pictures = list(pictures)
    found = all_of(partial(_brightest, broken=broken), pictures, workers)
    found = {picture[0]: one for picture, one in zip(pictures, found, strict=True) if one is not None}
    if not found:
        return None, True
    most = max(one.scanned for one in found.values())
    depth = max(least, next(depth for depth in DEPTHS if most < 2**depth))
    odd = [path for path, one in found.items() if one.lone and one.level >= 2**depth]
    if odd:
        others = f" (and lone pixels of {len(odd) - 1} other files)" if len(odd) > 1 else ""
        print(
            f"warning: {odd[0]}: {found[odd[0]].lone} pixels{others} are far brighter than all others, which "
            f"{depth} bits hold. They are taken for defects or a text, and shown white.",
            file=sys.stderr,
        )
    dark = [path for path, one in found.items() if one.scanned < 2**depth / _DARK]
    if dark:
        others = f" (and {len(dark) - 1} other files)" if len(dark) > 1 else ""
        print(
            f"warning: {dark[0]}{others}: its brightest grey level is {found[dark[0]].scanned}, of {2**depth - 1} that "
            f"{depth} bits have, by which all are read: nearly black. Keep files of another camera apart.",
            file=sys.stderr,
        )
    clipped = [path for path, one in found.items() if one.scanned in _CLIPPED - {2**depth - 1} and path not in dark]
    if clipped:
        others = f" (and {len(clipped) - 1} other files)" if len(clipped) > 1 else ""
        white = found[clipped[0]].scanned
        bits = white.bit_length()
        print(
            f"warning: {clipped[0]}{others}: its brightest grey level is {white}, white at {bits} bits, and all are "
            f"read by {depth}: {2 ** (depth - bits)} times too dark if its camera has {bits}. Keep files of another "
            "camera apart.",
            file=sys.stderr,
        )
    each = {next(bits for bits in DEPTHS_BEFORE if one.level < 2**bits) for one in found.values()}
    return depth, each == {depth}


def nearly_black(path: Path, page: Page, grey: np.ndarray) -> bool:
    """Tell if a micrograph that was read as uint8 (h, w) is nearly black; of 16-bit samples `depth_of` has said it."""
    return bool(grey.max() < 2**8 / _DARK) and look(path, page).bits != _SIXTEEN


def warn_of_black(files: Sequence[Path]) -> None:
    """Print one warning of all files that are nearly black, where there are any."""
    if files:
        others = f" (and {len(files) - 1} other files)" if len(files) > 1 else ""
        print(
            f"warning: {files[0]}{others}: nearly black, no pixel has an eighth of white. Export again, all images "
            "of the domain by one factor.",
            file=sys.stderr,
        )


def _brightest(picture: tuple[Path, Page, int], broken: bool) -> Brightest | None:
    path, page, bar = picture
    try:
        return brightest(path, page, bar) if look(path, page).bits == _SIXTEEN else None
    except InputError:
        if broken:
            return None
        raise


def oddly_read(facts: Facts, mask: bool = False) -> dict:
    """Facts by which a file is read otherwise than an earlier version did; empty for nearly all files."""
    found = {}
    if facts.orientation != 1:
        found["orientation"] = facts.orientation
    if facts.bits not in (1, 8, 16) and not mask:
        found["bits"] = facts.bits
    if mask and facts.white_is_zero and facts.bits > 1:
        found["white_is_zero"] = True
    return found
