"""The native micrographs of a domain as a store names them: files, digests, scale, and how they are read."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import InputError
from common.files import sha256_of
from common.parallel import all_of
from data.decoding import SUFFIXES, look
from data.domains import Domain, NativeMicrograph, Options
from data.survey import oddly_read, settled
from data.table import FILE

# What a source has for every micrograph, and what only some need. A file that was moved is the same.
_ALWAYS = ("name", "sha256", "mask_sha256", "fold", "test")
_SOMETIMES = ("pixel_size_nm", "information_bar", "read", "mask_read")


@dataclass(frozen=True)
class Described:
    """A native micrograph, settled: its entry in the store's sources, and how it is brought to the working scale.

    factor: of its one resize. shape: (h, w) of the file, upright. origin: what to check where it cannot be right.
    orientations: of the image and of its mask, 1 .. 8 as of TIFF and EXIF.
    """

    native: NativeMicrograph
    source: dict
    information_bar: int
    factor: float
    shape: tuple[int, int]
    origin: str
    orientations: tuple[int, int]


def describe(options: Options, domain: Domain, workers: int, quiet: bool = False) -> list[Described]:
    """Settle every micrograph of a domain by what its files say. `quiet`: without warnings of what contradicts them."""
    found = all_of(partial(_described, options=options, domain=domain, quiet=quiet), domain.micrographs, workers)
    turned = [one.native for one in found if one.native.mask and len({*one.orientations}) > 1]
    if turned and not quiet:
        others = f" (and {len(turned) - 1} others)" if len(turned) > 1 else ""
        print(
            f"warning: {turned[0].image}{others}: its mask {turned[0].mask.name} has another orientation, by which one "
            "of them is turned. If the contact sheet shows that it does not lie on the picture, save both upright.",
            file=sys.stderr,
        )
    white = [one.native.mask for one in found if one.source.get("mask_read", {}).get("white_is_zero")]
    if white and not quiet:
        print(
            f"remark: {white[0]}: white is zero in {len(white)} masks of {domain.name} (ImageJ's inverting table). "
            "Their numbers are taken as they stand in the file: 255 is what a viewer shows black.",
            file=sys.stderr,
        )
    return found


def same_files(there: Sequence[dict], asked: Sequence[dict]) -> bool:
    """Tell if two lists of sources name the same files, read in the same way. KeyError for what is no source."""
    return _identities(there) == _identities(asked)


def _identities(sources: Sequence[dict]) -> list[tuple]:
    return sorted(
        tuple(map(str, [*(source[key] for key in _ALWAYS), *(source.get(key) for key in _SOMETIMES)]))
        for source in sources
    )


def _described(native: NativeMicrograph, options: Options, domain: Domain, quiet: bool) -> Described:
    source = _digests(native, domain.root)
    facts = look(native.image, native.page)
    size, bar = settled(native.image, native.page, native.given, quiet)
    if domain.each or FILE in (domain.pixel_size_nm, domain.information_bar):
        source |= {"pixel_size_nm": size, "information_bar": bar}
    odd = ({"page": native.page} if native.page else {}) | oddly_read(facts)
    is_picture = native.mask and native.mask.suffix.lower() in SUFFIXES
    facts_of_mask = look(native.mask) if is_picture else None
    odd_mask = oddly_read(facts_of_mask, mask=True) if is_picture else {}
    source |= ({"read": odd} if odd else {}) | ({"mask_read": odd_mask} if odd_mask else {})
    origin = (
        f"pixel_size_nm = {size:g} of {domain.name}, {options.reference_pixel_size_nm:g} of the reference "
        f"{options.reference}, and scale = {options.scale:g}"
    )
    factor = size / options.reference_pixel_size_nm * options.scale
    orientations = facts.orientation, facts_of_mask.orientation if is_picture else 1
    return Described(native, source, bar, factor, (facts.height, facts.width), origin, orientations)


def _digests(native: NativeMicrograph, root: Path) -> dict:
    try:
        sha256, mask_sha256 = sha256_of(native.image), native.mask and sha256_of(native.mask)
    except OSError as error:
        message = f"{error.filename}: cannot be read ({error.strerror}); check it and its permissions"
        raise InputError(message) from error
    return {
        "name": native.name,
        "file": Path(os.path.relpath(native.image, root)).as_posix(),
        "sha256": sha256,
        "mask_file": native.mask and Path(os.path.relpath(native.mask, root)).as_posix(),
        "mask_sha256": mask_sha256,
        "fold": native.fold,
        "test": native.test,
    }
