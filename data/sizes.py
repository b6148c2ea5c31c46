"""How large what is prepared becomes: fields of view, tiles, and sizes that are rarely meant."""

import statistics
import sys
from collections.abc import Sequence

from common.errors import InputError
from data.domains import Domain, Options
from data.images import MOST_ENLARGED, ODDLY_RESIZED, SMALLEST, tile_positions, working_size
from data.sources import Described
from data.table import FILE

_ODDLY_MANY = 10  # times the reference's tiles of a micrograph
_LARGE = 1 << 30  # bytes of a store


def fields_of_view(shape: tuple[int, int], options: Options) -> list[tuple[str, tuple[slice, slice]]]:
    """Crops of a working-scale micrograph: (name suffix, (rows, columns) slices), as many as fit, centred.

    The study crops its light-optical micrographs to the field of the electron-optical ones (Section 2.2).
    A side that is smaller than the field is kept whole. Suffixes are row and column in as many digits as the largest
    number has, so no two are alike: _00 .. _11, or _0000 .. _1111.
    """
    if options.field_of_view is None:
        return [("", (slice(None), slice(None)))]
    width, height = (round(side * options.scale) for side in options.field_of_view)
    rows, columns = _fields(shape[0], height), _fields(shape[1], width)
    if len(rows) == len(columns) == 1:
        return [("", (rows[0], columns[0]))]
    digits = len(str(max(len(rows), len(columns)) - 1))
    return [
        (f"_{row:0{digits}}{column:0{digits}}", (rows[row], columns[column]))
        for row in range(len(rows))
        for column in range(len(columns))
    ]


def _fields(side: int, field: int) -> list[slice]:
    count = max(1, side // field)
    size = min(side, field)
    first = (side - count * size) // 2
    return [slice(first + number * size, first + (number + 1) * size) for number in range(count)]


def odd_sizes(options: Options, domain: Domain, described: Sequence[Described], reference: Sequence[Described]) -> str:
    """Say what is odd about the sizes that a domain is going to have: a large resize, many tiles; empty without.

    reference: empty where it cannot be read.
    Sizes that are refused anyway are not asked about, nor fine pixels where the file itself says so.
    """
    sizes = [working_size(one.shape, one.factor) for one in described]
    largest = max(one.factor for one in described)
    if largest > MOST_ENLARGED or min(map(min, sizes)) < SMALLEST:
        return ""
    for one, (height, width) in zip(described, sizes, strict=True):
        finer = one.factor < options.scale / ODDLY_RESIZED and one.native.given.pixel_size_nm != FILE
        if one.factor > ODDLY_RESIZED or finer:
            return f"{one.native.image}: resized {one.factor:.3g} times, to {width} x {height} px: check {one.origin}"
    if not reference:
        return ""
    tiles, usual = ([_tiles(options, one) for one in of] for of in (described, reference))
    ratio = statistics.fmean(tiles) / statistics.fmean(usual)
    enlarged = largest > max(one.factor for one in reference)
    size = sum(tiles) * (options.tile + 2 * options.overlap) ** 2
    if ratio > _ODDLY_MANY and (enlarged or size > _LARGE):
        return (
            f"{domain.name}: {sum(tiles)} tiles ({size / 1e9:.1f} GB), {ratio:.0f} times as many a micrograph as of "
            f"{options.reference}: check {described[0].origin}"
        )
    return ""


def confirm(doubt: str) -> None:
    """Ask the user if something odd is meant. InputError where it is not, or where nobody can be asked."""
    if not doubt:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise InputError(f"{doubt}. If it is meant, give --yes.")
    try:
        answer = input(f"{doubt}. Is it meant? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise InputError(f"{doubt}. Nothing was written.")


def _tiles(options: Options, one: Described) -> int:
    height, width = (max(1, side) for side in working_size(one.shape, one.factor))
    fields = fields_of_view((height, width), options)
    return sum(
        len(tile_positions([len(range(*part.indices(side))) for part, side in zip(field, (height, width), strict=True)],
                           options.tile))
        for _, field in fields
    )  # fmt: skip
