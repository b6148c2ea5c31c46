"""domains.toml: which folders make up a domain and how its micrographs are cut (docs/data_format.md)."""

import re
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import InputError
from data.entries import SLASHES, Table
from data.files import cut
from data.mask_readings import Values
from data.mask_values import OF_MASKS, classes_of, values_of
from data.pairs import files_of
from data.survey import Given, middle, settled
from data.table import FILE, composed, page_of, pixel_size_of, without_ending
from data.tiff import Page

T = TypeVar("T")

_OPTIONS = {"reference", "pixel_size_nm", "scale", "tile", "overlap", "field_of_view", "seed", "classes"}
_DOMAIN = {
    "images", "masks", "pixel_size_nm", "information_bar", "micrographs", "page", "invert", "match", "folds", "test",
    *OF_MASKS,
}  # fmt: skip

_ATOM = 0.25  # nm, of iron's diameter
AUTO = "auto"  # of `invert`: what evaluation.gap recommends
_INVERT = 'true, false, or "auto" for what evaluation.gap recommends'
_MATCH = "the name of another domain, whose grey levels are taken and which has no `match` itself"
TOO_FEW_ANNOTATED = (
    "annotated micrographs outside the test set: {count}. One is held out and others are trained on, so it takes two. "
    "Annotate another, or crop one and its mask into two files, and prepare the domain with folds = 2"
)


@dataclass(frozen=True)
class Options:
    """Options of cutting tile stores: px at working scale, except field_of_view (width, height) in reference px.

    classes: names of the phases, in the order of their classes; empty for foreground and background.
    """

    reference: str
    reference_pixel_size_nm: float
    scale: float
    tile: int
    overlap: int
    field_of_view: tuple[int, int] | None
    seed: int
    classes: tuple[str, ...] = ()

    @property
    def phases(self) -> int:
        """Number of phases."""
        return len(self.classes) or 2


@dataclass(frozen=True)
class NativeMicrograph:
    """A micrograph as it was taken: `name` is its stem, `mask` None where not annotated, `fold` -1 where in none.

    given: its scale as it was asked for; data.survey.settled makes numbers of it. page: of an image file of several.
    """

    name: str
    image: Path
    mask: Path | None
    fold: int
    test: bool
    given: Given
    page: Page = None


@dataclass(frozen=True)
class Domain:
    """One entry of domains.toml, its folders listed. `values` are those of its masks, None without masks.

    pixel_size_nm, information_bar: as given for all its micrographs, numbers or "file"; the first may be None where a
    table has it of each. each: some micrographs have their own. invert: AUTO stands for what is not decided yet. match:
    name of the domain whose grey levels its micrographs are given, or None.
    """

    name: str
    root: Path
    values: Values | None
    pixel_size_nm: float | str | None
    information_bar: int | str
    each: bool
    page: Page
    invert: bool | str
    match: str | None
    folds: int
    micrographs: tuple[NativeMicrograph, ...]


def read_domains(path: Path | str) -> tuple[Options, dict[str, Domain]]:
    """Parse a domains.toml and list its folders. InputError names file, key, value and remedy."""
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows writes a mark
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a domains.toml") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8 in your editor") from error
    except (ValueError, RecursionError) as error:  # also of text, and of numbers and nesting without end
        remedy = "mend the line named" + f"; a path: {SLASHES}" * bool(re.search(r"\\|hex", str(error)))
        raise InputError(f"{path}: not valid TOML ({cut(str(error))}); {remedy}") from error
    top = Table(path, "", document, {"options", "domains"})
    entries = top.take("domains", dict, "a table [domains.NAME] for every domain")
    tables = {}
    for name, entry in entries.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
            raise InputError(
                f"{path}: domain name '{name[:200]}' becomes a file name; use up to 100 letters, digits, _ . - only"
            )
        tables[name] = Table(path, f"domains.{name}", entry, _DOMAIN)
    table = Table(path, "options", top.take("options", dict, "a table", {}), _OPTIONS)
    seed = table.take("seed", int, "an integer from 0", 0, lambda value: value >= 0)
    reference = table.take("reference", str, "the domain whose pixel size is the common one")
    if reference not in tables:
        raise table.error("reference", reference, f"no such domain; there are {', '.join(tables) or 'none'}")
    classes = classes_of(table)
    domains = {name: _domain(name, entry, seed, classes) for name, entry in tables.items()}
    options = replace(_options(table, domains[reference], seed), classes=classes)
    for name, domain in domains.items():
        if domain.match and (domain.match == name or domain.match not in domains or domains[domain.match].match):
            raise tables[name].error("match", domain.match, f"it must be {_MATCH}; there are {', '.join(domains)}")
    return options, domains


def split_in_folds(names: Iterable[str], folds: int, seed: int | list[int]) -> dict[str, int]:
    """Assign every name a fold 0 .. folds - 1 at random, by the seed; sizes differ by one at most.

    The same names in another Unicode form have the same folds.
    """
    order = np.random.default_rng(seed).permutation(sorted(names, key=composed))
    return {str(name): position % folds for position, name in enumerate(order)}


def _options(table: Table, reference: Domain, seed: int) -> Options:
    field = table.take(
        "field_of_view", list, "[width, height] of 64 or more pixels of the reference", [],
        lambda sides: len(sides) == 2 and all(type(side) is int and side >= 64 for side in sides),
    )  # fmt: skip
    common = _pixel_size(table) if "pixel_size_nm" in table.entries else None
    if common == FILE:
        raise table.error("pixel_size_nm", common, "it must be a number; the reference's is taken without this key")
    common = common or _common_pixel_size(reference)
    if common < _ATOM:
        print(f"warning: {table.path}: a pixel of {common:g} nm is smaller than an atom: is it in µm?", file=sys.stderr)
    return Options(
        reference=reference.name,
        reference_pixel_size_nm=common,
        scale=float(table.take("scale", float, "a factor above 0, at most 4", 0.5, lambda value: 0 < value <= 4)),
        tile=table.take("tile", int, "16 .. 4096 pixels", 512, lambda value: 16 <= value <= 4096),
        overlap=table.take("overlap", int, "0 .. 1024 pixels", 62, lambda value: 0 <= value <= 1024),
        field_of_view=tuple(field) or None,
        seed=seed,
    )


def _common_pixel_size(reference: Domain) -> float:
    """Give the reference's pixel size in nm: the middle one of its micrographs' where they differ."""
    if not reference.each and reference.pixel_size_nm != FILE:
        return reference.pixel_size_nm
    return middle(settled(one.image, one.page, one.given, quiet=True)[0] for one in reference.micrographs)


def _pixel_size(table: Table) -> float | str:
    remedy = f'the pixel size in nm, above 0, or "{FILE}" for what each file says'
    return _checked(table, "pixel_size_nm", remedy, pixel_size_of)


def _checked(table: Table, key: str, remedy: str, check: Callable[[object], T]) -> T:
    value = table.take(key, (int, float, str), remedy)
    try:
        return check(value)
    except ValueError as error:
        raise table.error(key, value, f"it must be {error}") from None


def _domain(name: str, table: Table, seed: int, classes: tuple[str, ...]) -> Domain:
    images, masks, rows = files_of(table)
    values = None
    if masks:
        values = values_of(table, masks, classes)
    else:
        for key in (*OF_MASKS, "folds"):
            if key in table.entries:
                raise table.error(key, table.entries[key], "there are no masks; add the key 'masks' or remove this one")
    stems = {composed(stem): stem for stem in images}
    test = table.take("test", list, "a list of names (file names without suffix)", [],
                      lambda names: all(isinstance(name, str) for name in names))  # fmt: skip
    written = [(name, composed(name).replace("/", "_")) for name in test]
    test = {stems.get(place) or stems.get(without_ending(place), name) for name, place in written}
    for stem in sorted(test):
        if rows.get(stem, {}).get("test") is False:
            raise table.error("test", stem, f"{table.entries['micrographs']} says that it is none; correct one of them")
    test |= {stem for stem in rows if rows[stem].get("test")}
    for missing, problem in ((test - set(images), "no image"), (test - set(masks), "no mask")):
        if missing:
            raise table.error("test", sorted(missing)[0], f"{problem} of this name; correct or remove it")
    folds, fold = _folds(table, sorted(set(masks) - test), rows, [seed, zlib.crc32(name.encode())])
    page = None
    if "page" in table.entries:
        page = _checked(table, "page", 'a number from 1, "image" or "largest"', page_of)
    size, bar = _scale(table, images, rows)
    return Domain(
        name=name,
        root=table.path.parent,
        values=values,
        pixel_size_nm=size,
        information_bar=bar,
        each=any(row.keys() & {"pixel_size_nm", "information_bar"} for row in rows.values()),
        page=page,
        invert=table.take("invert", (bool, str), _INVERT, False, lambda value: value in (False, True, AUTO)),
        match=table.take("match", str, _MATCH, "") or None,
        folds=folds,
        micrographs=tuple(
            NativeMicrograph(
                stem,
                image,
                masks.get(stem),
                fold.get(stem, -1),
                stem in test,
                _given(table, rows.get(stem, {}), size, bar),
                rows.get(stem, {}).get("page", page),
            )
            for stem, image in images.items()
        ),
    )


def _folds(table: Table, candidates: list[str], rows: dict[str, dict], seed: list[int]) -> tuple[int, dict[str, int]]:
    """Give the number of folds, and the fold of each annotated micrograph: the table's, or a random split."""
    folds = table.take("folds", int, "2 or more", 0, lambda value: value >= 2)
    fold = {name: row["fold"] for name, row in rows.items() if "fold" in row}
    if fold:
        strange = sorted(fold.keys() - set(candidates))
        if strange:
            fault = "has a fold, but no mask, or is in the test set; remove the fold"
            raise InputError(f"{table.path.parent / table.entries['micrographs']}: '{strange[0]}' {fault}")
        count = max(folds, max(fold.values()) + 1)
        if folds not in (0, count) or count < 2 or set(fold.values()) != set(range(count)):
            fault = f"fold = {sorted(set(fold.values()))}: folds are 0, 1, ... without a gap, as many as `folds` says"
            raise InputError(f"{table.path.parent / table.entries['micrographs']}: {fault}")
        others = [name for name in candidates if name not in fold]
        if others and not folds:
            print(
                f"warning: {table.path.parent / table.entries['micrographs']}: no fold for {len(others)} annotated "
                f"micrographs ({others[0]}, ...), so every training takes them; give `folds`, or a fold of each",
                file=sys.stderr,
            )
        return count, fold | (split_in_folds(others, count, seed) if folds else {})
    if folds and len(candidates) < 2:
        raise table.error("folds", folds, TOO_FEW_ANNOTATED.format(count=len(candidates)))
    if len(candidates) < folds:
        raise table.error(
            "folds", folds, f"only {len(candidates)} annotated micrographs outside the test set; lower it"
        )
    return folds, split_in_folds(candidates, folds, seed) if folds else {}


def _scale(table: Table, images: dict[str, Path], rows: dict[str, dict]) -> tuple[float | str | None, int | str]:
    """Give pixel size and bar of all micrographs; None for the first where the table has it of each."""
    of_each = all("pixel_size_nm" in rows.get(stem, {}) for stem in images)
    size = None if of_each and "pixel_size_nm" not in table.entries else _pixel_size(table)
    bar = table.take("information_bar", (int, str), f'a number of pixels from 0, or "{FILE}"', 0,
                     lambda value: value == FILE or (isinstance(value, int) and value >= 0))  # fmt: skip
    return size, bar


def _given(table: Table, row: dict, size: float | str | None, bar: int | str) -> Given:
    own = f"{table.path}: {table.where}"
    named = {
        key: f"{key} in {table.entries['micrographs']}" if key in row else f"{own}.{key}"
        for key in ("pixel_size_nm", "information_bar")
    }
    return Given(row.get("pixel_size_nm", size), row.get("information_bar", bar), *named.values())
