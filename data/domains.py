"""domains.toml: which folders make up a domain and how its micrographs are cut (docs/data_format.md)."""

import re
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import InputError, require_file_name
from data.decoding import SUFFIXES, Page
from data.files import Found, find
from data.masks import MaskValue, Values
from data.survey import Given, middle, settled
from data.table import FILE, composed, page_of, pixel_size_of, read_table

T = TypeVar("T")

_OPTIONS = {"reference", "pixel_size_nm", "scale", "tile", "overlap", "field_of_view", "seed"}
_OF_MASKS = ("mask_suffix", "foreground", "background", "ignore", "threshold", "instances")
_DOMAIN = {
    "images", "masks", "pixel_size_nm", "information_bar", "micrographs", "page", "invert", "match", "folds", "test",
    *_OF_MASKS,
}  # fmt: skip

_LARGEST = 1 << 32  # of a number in a mask
_MATCH = "the name of another domain, whose grey levels are taken and which has no `match` itself"
TOO_FEW_ANNOTATED = (
    "annotated micrographs outside the test set: {count}. One is held out and others are trained on, so it takes two. "
    "Annotate another, or crop one and its mask into two files, and prepare the domain with folds = 2"
)


@dataclass(frozen=True)
class Options:
    """Options of cutting tile stores: px at working scale, except field_of_view (width, height) in reference px."""

    reference: str
    reference_pixel_size_nm: float
    scale: float
    tile: int
    overlap: int
    field_of_view: tuple[int, int] | None
    seed: int


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
    table has it of each. each: some micrographs have their own. match: name of the domain whose grey levels its
    micrographs are given, or None.
    """

    name: str
    root: Path
    values: Values | None
    pixel_size_nm: float | str | None
    information_bar: int | str
    each: bool
    page: Page
    invert: bool
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
    except (ValueError, RecursionError) as error:  # also of text, and of numbers and nesting without end
        raise InputError(f"{path}: not valid TOML ({_cut(str(error))}); mend the line named") from error
    top = _Table(path, "", document, {"options", "domains"})
    entries = top.take("domains", dict, "a table [domains.NAME] for every domain")
    tables = {}
    for name, entry in entries.items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
            raise InputError(
                f"{path}: domain name '{name[:200]}' becomes a file name; use up to 100 letters, digits, _ . - only"
            )
        tables[name] = _Table(path, f"domains.{name}", entry, _DOMAIN)
    table = _Table(path, "options", top.take("options", dict, "a table", {}), _OPTIONS)
    seed = table.take("seed", int, "an integer from 0", 0, lambda value: value >= 0)
    reference = table.take("reference", str, "the domain whose pixel size is the common one")
    if reference not in tables:
        raise table.error("reference", reference, f"no such domain; there are {', '.join(tables) or 'none'}")
    domains = {name: _domain(name, entry, seed) for name, entry in tables.items()}
    options = _options(table, domains[reference], seed)
    for name, domain in domains.items():
        if domain.match and (domain.match == name or domain.match not in domains or domains[domain.match].match):
            raise tables[name].error("match", domain.match, f"it must be {_MATCH}; there are {', '.join(domains)}")
    return options, domains


def split_in_folds(names: Iterable[str], folds: int, seed: int | list[int]) -> dict[str, int]:
    """Assign every name a fold 0 .. folds - 1 at random, by the seed; sizes differ by one at most."""
    order = np.random.default_rng(seed).permutation(sorted(names))
    return {str(name): position % folds for position, name in enumerate(order)}


class _Table:
    """A TOML table whose keys are checked as they are taken."""

    def __init__(self, path: Path, where: str, entries: dict, known: set[str]):
        self.path, self.where, self.entries = path, where, entries
        if not isinstance(entries, dict):
            raise self.error("", entries, "make it a table")
        for key in entries:
            if key not in known:
                raise self.error(key, entries[key], f"unknown key; known are {', '.join(sorted(known))}")

    def error(self, key: str, value: object, remedy: str) -> InputError:
        """Make the error about a key's value, with file, place, value and remedy."""
        place = _cut(".".join(part for part in (self.where, key) if part))
        shown = "" if isinstance(value, dict) else f" = {_shown(value)}"
        return InputError(f"{self.path}: {place}{shown}: {remedy}")

    def take(
        self,
        key: str,
        kind: type[T] | tuple[type[T], ...],
        remedy: str,
        default: T | None = None,
        valid: Callable[[T], bool] = lambda value: True,
    ) -> T:
        """Take the value of a key. InputError, with `remedy`, where it is missing without a default or is not valid."""
        if key not in self.entries:
            if default is None:
                raise InputError(f"{self.path}: {self.where or 'top level'} lacks the key '{key}'; add {remedy}")
            return default
        value = self.entries[key]
        kinds = (int, float) if kind is float else kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool) or not valid(value):
            raise self.error(key, value, f"it must be {remedy}")
        if isinstance(value, int) and value.bit_length() > 63:
            raise self.error(key, value, "TOML's integers have 64 bit; it must be " + remedy)
        return value

    def found(self, key: str, remedy: str) -> Found:
        """Find the files that a key names, relative to the file. InputError where there is no such place."""
        value = self.take(key, str, remedy)
        try:
            return find(self.path.parent, value)
        except OSError as error:  # a name that is too long, a folder above that may not be entered
            raise self.error(key, value, f"{error.strerror}; correct the path or its permissions") from error
        except ValueError as error:
            raise self.error(key, value, str(error)) from error


def _shown(value: object) -> str:
    """A value as a message shows it, however long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints, more brackets than it follows
        return f"a {type(value).__name__} too long to be shown"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}"


def _options(table: _Table, reference: Domain, seed: int) -> Options:
    field = table.take(
        "field_of_view", list, "[width, height] of 64 or more pixels of the reference", [],
        lambda sides: len(sides) == 2 and all(type(side) is int and side >= 64 for side in sides),
    )  # fmt: skip
    common = _pixel_size(table) if "pixel_size_nm" in table.entries else None
    if common == FILE:
        raise table.error("pixel_size_nm", common, "it must be a number; the reference's is taken without this key")
    return Options(
        reference=reference.name,
        reference_pixel_size_nm=common or _common_pixel_size(reference),
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


def _pixel_size(table: _Table) -> float | str:
    remedy = f'the pixel size in nm, above 0, or "{FILE}" for what each file says'
    return _checked(table, "pixel_size_nm", remedy, pixel_size_of)


def _checked(table: _Table, key: str, remedy: str, check: Callable[[object], T]) -> T:
    value = table.take(key, (int, float, str), remedy)
    try:
        return check(value)
    except ValueError as error:
        raise table.error(key, value, f"it must be {error}") from None


def _domain(name: str, table: _Table, seed: int) -> Domain:
    images, masks = _files(table)
    rows = _rows(table, images, masks)
    values = None
    if masks:
        values = _values_of(table)
    else:
        for key in (*_OF_MASKS, "folds"):
            if key in table.entries:
                raise table.error(key, table.entries[key], "there are no masks; add the key 'masks' or remove this one")
    stems = {composed(stem): stem for stem in images}
    test = table.take("test", list, "a list of names (file names without suffix)", [],
                      lambda names: all(isinstance(name, str) for name in names))  # fmt: skip
    test = {stems.get(composed(name), name) for name in test} | {stem for stem in rows if rows[stem].get("test")}
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
        invert=table.take("invert", bool, "true or false", False),
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


def _folds(table: _Table, candidates: list[str], rows: dict[str, dict], seed: list[int]) -> tuple[int, dict[str, int]]:
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
        return count, fold
    if folds and len(candidates) < 2:
        raise table.error("folds", folds, TOO_FEW_ANNOTATED.format(count=len(candidates)))
    if len(candidates) < folds:
        raise table.error(
            "folds", folds, f"only {len(candidates)} annotated micrographs outside the test set; lower it"
        )
    return folds, split_in_folds(candidates, folds, seed) if folds else {}


def _scale(table: _Table, images: dict[str, Path], rows: dict[str, dict]) -> tuple[float | str | None, int | str]:
    """Give pixel size and bar of all micrographs; None for the first where the table has it of each."""
    of_each = all("pixel_size_nm" in rows.get(stem, {}) for stem in images)
    size = None if of_each and "pixel_size_nm" not in table.entries else _pixel_size(table)
    bar = table.take("information_bar", (int, str), f'a number of pixels from 0, or "{FILE}"', 0,
                     lambda value: value == FILE or (isinstance(value, int) and value >= 0))  # fmt: skip
    return size, bar


def _given(table: _Table, row: dict, size: float | str | None, bar: int | str) -> Given:
    own = f"{table.path}: {table.where}"
    named = {
        key: f"{key} in {table.entries['micrographs']}" if key in row else f"{own}.{key}"
        for key in ("pixel_size_nm", "information_bar")
    }
    return Given(row.get("pixel_size_nm", size), row.get("information_bar", bar), *named.values())


def _rows(table: _Table, images: dict[str, Path], masks: dict[str, Path]) -> dict[str, dict]:
    """Read the table of micrographs, where there is one, and add the masks that it names to `masks`."""
    if "micrographs" not in table.entries:
        return {}
    name = table.take("micrographs", str, "a table (CSV) relative to this file")
    rows = read_table(table.path.parent / name, images)
    for stem, row in rows.items():
        if mask := row.get("mask"):
            places = [table.path.parent / mask, *(file.parent / mask for file in list(masks.values())[:1])]
            if not any(place.is_file() for place in places):
                remedy = f"no such file, relative to {table.path.name} or to the other masks; correct it"
                raise InputError(f"{table.path.parent / name}: mask = '{mask[:200]}': {remedy}")
            masks[stem] = next(place for place in places if place.is_file())
    return rows


def _files(table: _Table) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images by stem, and masks by the stem of their image. InputError for names that a store cannot have.

    A name is the same in any Unicode form: macOS writes an umlaut as two letters, others as one.
    """
    found = table.found("images", "a folder relative to this file, or a pattern like lom/*.tif")
    images, masks = _listing(table, "images", found.images), {}
    if "masks" in table.entries:
        of_masks = table.found("masks", "a folder relative to this file, or a pattern like lom/*.png")
        suffix = composed(table.take("mask_suffix", str, "the end of a mask's name", ""))
        listed = _listing(table, "masks", of_masks.masks)
        shared = set(found.images) & set(listed.values())
        if shared:
            if not suffix and len(shared) == len(listed):
                raise table.error("masks", table.entries["masks"], "the images' own folder; then mask_suffix is needed")
            listed = {
                stem: file
                for stem, file in listed.items()
                if (composed(stem).endswith(suffix) if suffix else file not in shared)
            }
            images = {stem: file for stem, file in images.items() if file not in listed.values()}
        names = {composed(stem): stem for stem in images}
        for stem, file in listed.items():
            name = composed(stem)
            if not name.endswith(suffix) or name.removesuffix(suffix) not in names:
                raise table.error(
                    "masks", file.name, f"no image in {found.folder} belongs to it; check names and mask_suffix"
                )
            masks[names[name.removesuffix(suffix)]] = file
        if not masks:
            remedy = f"no mask in {of_masks.folder}; add some or remove the key"
            raise table.error("masks", table.entries["masks"], remedy)
    if not images:
        kinds = " ".join(SUFFIXES)
        raise table.error("images", table.entries["images"], f"no {kinds} file in {found.folder}; add some")
    _check_names(table, images)
    taken = {*images.values(), *masks.values(), table.path.parent / str(table.entries.get("micrographs"))}
    if left := found.left(taken):
        print(f"remark: {table.path}: {table.where}.images: not taken from {found.folder}: {left}", file=sys.stderr)
    return images, masks


def _check_names(table: _Table, images: dict[str, Path]) -> None:
    alike = {}
    for stem, file in images.items():
        require_file_name(stem, f"{table.path}: {table.where}.images", ending=file.suffix)
        other = alike.setdefault(stem.casefold(), stem)
        if other != stem:
            print(
                f"warning: {table.path}: {table.where}.images: '{other}' and '{stem}' differ in case only. On a disk "
                "that does not tell them apart, the prediction of one replaces the other's. Rename one.",
                file=sys.stderr,
            )


def _listing(table: _Table, key: str, files: list[Path]) -> dict[str, Path]:
    listed, names = {}, {}
    for file in files:
        other = names.setdefault(composed(file.stem), file)
        if other != file:
            form = "" if other.stem == file.stem else ", written with other Unicode characters"
            raise table.error(key, file.name, f"{other.name} has the same name{form}; rename or remove one")
        listed[file.stem] = file
    return listed


def _values_of(table: _Table) -> Values:
    """Values of the masks. InputError where one has two meanings."""
    instances = table.take("instances", bool, "true or false", False)
    threshold = table.take("threshold", int, "a grey level 1 .. 255", 0, lambda value: 1 <= value <= 255) or None
    for key in ("foreground", "background", "threshold"):
        if (instances or (threshold and key != "threshold")) and key in table.entries:
            other = "instances" if instances else "threshold"
            if not (instances and key == "background"):
                raise table.error(key, table.entries[key], f"`{other}` says already what is foreground; remove one")
    foreground = () if instances or threshold else _values(table, "foreground")
    background = () if threshold else _values(table, "background", [0])
    ignore = _values(table, "ignore", [])
    if foreground is None and background is None:
        raise table.error("background", "rest", "foreground is the rest already; list the values of one of the two")
    groups = {"foreground": foreground or (), "background": background or (), "ignore": ignore}
    for one, other in (("background", "foreground"), ("ignore", "foreground"), ("ignore", "background")):
        shared = set(groups[one]) & set(groups[other])
        if shared:
            raise table.error(one, table.entries.get(one, [0]), f"{shared.pop()} is {other} too")
    return Values(foreground, background, ignore, threshold, instances)


def _values(table: _Table, key: str, default: list | None = None) -> tuple[MaskValue, ...] | None:
    """Mask values of a key: ints for numbers, (r, g, b) for colours, None for "rest"."""
    rest = key != "ignore"
    remedy = 'grey values 0 .. 255 or other whole numbers, or colours "#rrggbb", in a list' + ', or "rest"' * rest
    values = table.take(
        key, (list, str) if rest else list, remedy, default,
        lambda value: value == "rest" or (isinstance(value, list) and bool(value)),
    )  # fmt: skip
    if values == "rest":
        return None
    parsed = []
    for value in values:
        if type(value) is int and -_LARGEST <= value <= _LARGEST:
            parsed.append(value)
        elif isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
            parsed.append(tuple(bytes.fromhex(value[1:])))
        else:
            raise table.error(key, value, f"it must be {remedy}")
    return tuple(parsed)
