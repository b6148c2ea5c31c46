"""domains.toml: which folders make up a domain and how its micrographs are cut (docs/data_format.md)."""

import re
import sys
import tomllib
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import InputError, require_file_name
from data.images import SUFFIXES, MaskValue, list_images

T = TypeVar("T")

_OPTIONS = {"reference", "scale", "tile", "overlap", "field_of_view", "seed"}
_DOMAIN = {
    "images", "masks", "mask_suffix", "foreground", "background",
    "pixel_size_nm", "information_bar", "invert", "match", "folds", "test",
}  # fmt: skip

AUTO = "auto"  # of `invert`: what evaluation.gap recommends
_INVERT = 'true, false, or "auto" for what evaluation.gap recommends'
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
    """A micrograph as it was taken: `name` is its stem, `mask` None where not annotated, `fold` -1 where in none."""

    name: str
    image: Path
    mask: Path | None
    fold: int
    test: bool


@dataclass(frozen=True)
class Domain:
    """One entry of domains.toml, its folders listed. background None stands for "rest".

    invert: AUTO stands for what is not decided yet. match: name of the domain whose grey levels its micrographs are
    given, or None.
    """

    name: str
    root: Path
    foreground: tuple[MaskValue, ...]
    background: tuple[MaskValue, ...] | None
    pixel_size_nm: float
    information_bar: int
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
    options = _options(_Table(path, "options", top.take("options", dict, "a table", {}), _OPTIONS), tables)
    domains = {name: _domain(name, table, options.seed) for name, table in tables.items()}
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
        kinds = (int, float) if kind is float else kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or not valid(value):
            raise self.error(key, value, f"it must be {remedy}")
        if isinstance(value, int) and value.bit_length() > 63:
            raise self.error(key, value, "TOML's integers have 64 bit; it must be " + remedy)
        return value

    def folder(self, key: str) -> Path:
        """Take the folder that a key names, relative to the file. InputError where there is none."""
        value = self.take(key, str, "a folder relative to this file")
        folder = self.path.parent / value
        try:
            found = folder.is_dir()
        except OSError as error:  # a name that is too long, a folder above that may not be entered
            raise self.error(key, value, f"{error.strerror}; correct the path or its permissions") from error
        if not found:
            raise self.error(key, value, f"no folder {_shown(str(folder))}; create it or correct the path")
        return folder


def _shown(value: object) -> str:
    """A value as a message shows it, however long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints, more brackets than it follows
        return f"a {type(value).__name__} too long to be shown"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}"


def _options(table: _Table, domains: dict[str, _Table]) -> Options:
    reference = table.take("reference", str, "the domain whose pixel size is the common one")
    if reference not in domains:
        raise table.error("reference", reference, f"no such domain; there are {', '.join(domains) or 'none'}")
    field = table.take(
        "field_of_view", list, "[width, height] of 64 or more pixels of the reference", [],
        lambda sides: len(sides) == 2 and all(type(side) is int and side >= 64 for side in sides),
    )  # fmt: skip
    return Options(
        reference=reference,
        reference_pixel_size_nm=_pixel_size(domains[reference]),
        scale=float(table.take("scale", float, "a factor above 0, at most 4", 0.5, lambda value: 0 < value <= 4)),
        tile=table.take("tile", int, "16 .. 4096 pixels", 512, lambda value: 16 <= value <= 4096),
        overlap=table.take("overlap", int, "0 .. 1024 pixels", 62, lambda value: 0 <= value <= 1024),
        field_of_view=tuple(field) or None,
        seed=table.take("seed", int, "an integer from 0", 0, lambda value: value >= 0),
    )


def _pixel_size(table: _Table) -> float:
    return float(table.take("pixel_size_nm", float, "the pixel size in nm, above 0", None, lambda v: 0 < v < 1e6))


def _domain(name: str, table: _Table, seed: int) -> Domain:
    images, masks = _files(table)
    if masks:
        foreground = _values(table, "foreground")
        background = _values(table, "background", [0])
        shared = set(foreground) & set(background or ())
        if shared:
            raise table.error("background", table.entries.get("background", [0]), f"{shared.pop()} is foreground too")
    else:
        foreground, background = (), None
        for key in ("mask_suffix", "foreground", "background", "folds"):
            if key in table.entries:
                raise table.error(key, table.entries[key], "there are no masks; add the key 'masks' or remove this one")
    stems = {_composed(stem): stem for stem in images}
    test = table.take("test", list, "a list of names (file names without suffix)", [],
                      lambda names: all(isinstance(name, str) for name in names))  # fmt: skip
    test = {stems.get(_composed(name), name) for name in test}
    for missing, problem in ((test - set(images), "no image"), (test - set(masks), "no mask")):
        if missing:
            raise table.error("test", sorted(missing)[0], f"{problem} of this name; correct or remove it")
    folds = table.take("folds", int, "2 or more", 0, lambda value: value >= 2)
    candidates = sorted(set(masks) - test)
    if folds and len(candidates) < 2:
        raise table.error("folds", folds, TOO_FEW_ANNOTATED.format(count=len(candidates)))
    if len(candidates) < folds:
        raise table.error(
            "folds", folds, f"only {len(candidates)} annotated micrographs outside the test set; lower it"
        )
    fold = split_in_folds(candidates, folds, [seed, zlib.crc32(name.encode())]) if folds else {}
    return Domain(
        name=name,
        root=table.path.parent,
        foreground=foreground,
        background=background,
        pixel_size_nm=_pixel_size(table),
        information_bar=table.take("information_bar", int, "a number of pixels from 0", 0, lambda value: value >= 0),
        invert=table.take("invert", (bool, str), _INVERT, False, lambda value: value in (False, True, AUTO)),
        match=table.take("match", str, _MATCH, "") or None,
        folds=folds,
        micrographs=tuple(
            NativeMicrograph(stem, image, masks.get(stem), fold.get(stem, -1), stem in test)
            for stem, image in images.items()
        ),
    )


def _files(table: _Table) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images by stem, and masks by the stem of their image. InputError for names that a store cannot have.

    A name is the same in any Unicode form: macOS writes an umlaut as two letters, others as one.
    """
    folder = table.folder("images")
    images = _listing(table, "images", folder)
    masks = {}
    if "masks" in table.entries:
        mask_folder = table.folder("masks")
        suffix = _composed(table.take("mask_suffix", str, "the end of a mask's name", ""))
        found = _listing(table, "masks", mask_folder)
        if mask_folder.resolve() == folder.resolve():
            if not suffix:
                raise table.error("masks", table.entries["masks"], "the images' own folder; then mask_suffix is needed")
            found = {stem: file for stem, file in found.items() if _composed(stem).endswith(suffix)}
            images = {stem: file for stem, file in images.items() if stem not in found}
        names = {_composed(stem): stem for stem in images}
        for stem, file in found.items():
            name = _composed(stem)
            if not name.endswith(suffix) or name.removesuffix(suffix) not in names:
                raise table.error(
                    "masks", file.name, f"no image in {folder} belongs to it; check names and mask_suffix"
                )
            masks[names[name.removesuffix(suffix)]] = file
        if not masks:
            raise table.error("masks", table.entries["masks"], f"no mask in {mask_folder}; add some or remove the key")
    if not images:
        raise table.error("images", table.entries["images"], f"no {' '.join(SUFFIXES)} file in {folder}; add some")
    _check_names(table, images)
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


def _composed(name: str) -> str:
    """A name with every letter and its accents as one character, where Unicode has it (NFC)."""
    return unicodedata.normalize("NFC", name)


def _listing(table: _Table, key: str, folder: Path) -> dict[str, Path]:
    files, names = {}, {}
    for file in list_images(folder):
        other = names.setdefault(_composed(file.stem), file)
        if other != file:
            form = "" if other.stem == file.stem else ", written with other Unicode characters"
            raise table.error(key, file.name, f"{other.name} has the same name{form}; rename or remove one")
        files[file.stem] = file
    return files


def _values(table: _Table, key: str, default: list | None = None) -> tuple[MaskValue, ...] | None:
    """Mask values of a key: ints for grey, (r, g, b) for colours, None for "rest"."""
    kinds = (list, str) if key == "background" else list
    remedy = 'grey values 0 .. 255 or colours "#rrggbb" in a list' + (', or "rest"' if key == "background" else "")
    values = table.take(
        key, kinds, remedy, default, lambda value: value == "rest" or (isinstance(value, list) and value)
    )
    if values == "rest":
        return None
    parsed = []
    for value in values:
        if type(value) is int and 0 <= value <= 255:
            parsed.append(value)
        elif isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
            parsed.append(tuple(bytes.fromhex(value[1:])))
        else:
            raise table.error(key, value, f"it must be {remedy}")
    return tuple(parsed)
