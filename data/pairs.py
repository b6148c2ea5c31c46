"""The images of a domain and their masks, found by their names."""

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from common.errors import InputError, require_file_name
from data.annotations import OF_ONE
from data.annotations import SUFFIXES as OUTLINES
from data.annotations.outlines import OME, of_image, outlines, stem_of
from data.decoding import SUFFIXES
from data.entries import Table
from data.files import Found, as_written
from data.table import composed, read_table

# Folders of masks: a micrograph and its mask have one name, and are not of two specimens.
_OF_MASKS = re.compile(r"mask|label|annot|segment|truth|(^|[^a-z])gt([^a-z]|$)", re.IGNORECASE)


def files_of(table: Table) -> tuple[dict[str, Path], dict[str, Path], dict[str, dict]]:
    """Images by stem, masks by the stem of their image, and the rows of the table of micrographs by it.

    A name is the same in any Unicode form: macOS writes an umlaut as two letters, others as one. Where folders have
    files of one name, the folders' names come before it. InputError for names that a store cannot have.
    """
    found = table.found("images", "a folder relative to this file, or a pattern like lom/*.tif")
    of_masks, masks = None, {}
    if "masks" in table.entries:
        remedy = "a folder relative to this file, a pattern like lom/*.png, or a file with outlines"
        of_masks = table.found("masks", remedy)
    by_folder = _alike(table, found, of_masks)
    images = _required(table, found, _listing(table, "images", found, found.images, by_folder))
    rows = _rows(table, images, by_folder)
    named = _named_masks(table, rows, of_masks)
    images = _required(table, found, _without_masks(table, images, rows, named))
    if of_masks:
        images, masks = _paired(table, found, of_masks, images, named, by_folder)
    masks |= named
    _check_names(table, _required(table, found, images))
    _warn_of_masks(table, images, masks)
    _remark(table, found, of_masks, images, masks, by_folder)
    return images, masks, rows


def _required(table: Table, found: Found, images: dict[str, Path]) -> dict[str, Path]:
    """Give the images back. InputError where there are none."""
    if not images:
        left = found.left(())
        remedy = f"no image ({' '.join(SUFFIXES)}) in {found.folder}" + f", only {left}" * bool(left) + "; add some"
        masks = found.pattern is None and any(_OF_MASKS.search(place.name) for place in found.folder.iterdir())
        if found.pattern is None and "with images" in left and not masks:
            remedy += f", or give a pattern: {table.entries['images'].rstrip('/')}/**/*"
        raise table.error("images", table.entries["images"], remedy)
    return images


def _alike(table: Table, found: Found, of_masks: Found | None) -> bool:
    """Tell if several folders have images of one name, those apart that are masks; and print how they are named."""
    of_names, suffix = {}, composed(str(table.entries.get("mask_suffix", "")))
    masks = _in_both(of_masks.files if of_masks else (), found.images)
    masks = {file for file in masks if _without(suffix, file.stem) is not None}
    folders = {file.parent.relative_to(found.folder) for file in found.images if file not in masks}
    if any(_OF_MASKS.search(part) for folder in folders for part in folder.parts):
        return False
    for file in found.images:
        other = of_names.setdefault(composed(file.stem), file) if file not in masks else file
        if other.parent != file.parent:
            print(
                f"remark: {found.folder}: several folders have an image {file.stem}, so all are named by their "
                f"folders too: {found.name(other, True)}, {found.name(file, True)}",
                file=sys.stderr,
            )
            return True
    return False


def _rows(table: Table, images: dict[str, Path], by_folder: bool) -> dict[str, dict]:
    """Read the table of micrographs, where there is one."""
    if "micrographs" not in table.entries:
        return {}
    name = table.take("micrographs", str, "a table (CSV) relative to this file")
    return read_table(table.path.parent / name, images, by_folder)


def _named_masks(table: Table, rows: dict[str, dict], of_masks: Found | None) -> dict[str, Path]:
    """Masks that the table of micrographs names, by the stem of their image. InputError where one is not there."""
    folders = [table.path.parent, *dict.fromkeys(file.parent for file in (of_masks.files if of_masks else ()))]
    named = {}
    for stem, row in rows.items():
        if mask := row.get("mask"):
            there = (as_written(folder, mask) for folder in folders)
            named[stem] = next((file for file in there if file.is_file()), None)
            if named[stem] is None:
                remedy = f"no such file, relative to {table.path.name} or to the other masks; correct it"
                raise InputError(f"{_table_of(table)}: mask = '{mask[:200]}': {remedy}")
    return named


def _without_masks(
    table: Table, images: dict[str, Path], rows: dict[str, dict], named: dict[str, Path]
) -> dict[str, Path]:
    """Give the images that the table does not name as masks. InputError where it calls a micrograph a mask."""
    used = _in_both(named.values(), images.values())
    for stem in [stem for stem, file in images.items() if file in used]:
        (of, *_) = [one for one, file in named.items() if _in_both([file], [images[stem]])]
        if of == stem or rows.get(stem):
            fault = f"is the micrograph '{stem}' itself; name the mask"
            raise InputError(f"{_table_of(table)}: mask = '{rows[of]['mask'][:200]}' of '{of}' {fault}")
        rows.pop(stem, None)
    return {stem: file for stem, file in images.items() if file not in used}


def _table_of(table: Table) -> Path:
    return table.path.parent / table.entries["micrographs"]


def _warn_of_masks(table: Table, images: dict[str, Path], masks: dict[str, Path]) -> None:
    """Print a warning of a mask that a table gives to two images, and of outlines that name another image."""
    used = {}
    for stem, file in masks.items() if "micrographs" in table.entries else ():
        other = used.setdefault(file.resolve(), stem)
        if other != stem and file.suffix.lower() not in OUTLINES:
            print(f"warning: {_table_of(table)}: {file} is the mask of '{other}' and of '{stem}'", file=sys.stderr)
    names = {composed(stem): stem for stem in images}
    for stem, file in masks.items():
        if file.suffix.lower() == ".json":
            with suppress(InputError):  # which is said where the mask is read
                annotated = of_image(file, stem)
                drawn_on = stem_of(annotated.image) if annotated else None
                other = names.get(drawn_on)
                if other not in (None, stem) and drawn_on != composed(images[stem].stem):
                    print(
                        f"warning: {file}: is the mask of '{stem}' by its name, and was drawn on '{other}' "
                        f"(imagePath = '{annotated.image[:200]}'). Rename it if that is right.",
                        file=sys.stderr,
                    )


def _remark(
    table: Table,
    found: Found,
    of_masks: Found | None,
    images: dict[str, Path],
    masks: dict[str, Path],
    by_folder: bool,
) -> None:
    """Print what lies in the folders of the images and of the masks and was not taken."""
    taken = {*images.values(), *masks.values(), table.path.parent / str(table.entries.get("micrographs"))}
    places = {"images": found}
    if of_masks and not of_masks.alone and of_masks.folder.resolve() != found.folder.resolve():
        places["masks"] = of_masks
        suffix, names = composed(table.entries.get("mask_suffix", "")), _names(images)
        strays = [
            file for file in of_masks.annotations if _without(suffix, of_masks.name(file, by_folder)) not in names
        ]
        if strays:
            others = f" (nor to {len(strays) - 1} others)" if len(strays) > 1 else ""
            print(
                f"warning: {table.path}: {table.where}.masks: no image in {found.folder} belongs to "
                f"{strays[0].name}{others}; check names and mask_suffix",
                file=sys.stderr,
            )
        taken |= {*of_masks.annotations}
    for key, place in places.items():
        if left := place.left(taken):
            print(f"remark: {table.path}: {table.where}.{key}: not taken from {place.folder}: {left}", file=sys.stderr)


def _paired(
    table: Table, found: Found, of_masks: Found, images: dict[str, Path], named: dict[str, Path], by_folder: bool
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Give the images that are no masks, and the masks by the stem of their image; `named` belong where a table says.

    A picture goes before a file with outlines of the same name, from which it may have been made. Files with outlines,
    and arrays, that belong to no image are none.
    """
    suffix = composed(table.take("mask_suffix", str, "the end of a mask's name", ""))
    pictures = _listing(table, "masks", of_masks, of_masks.images, by_folder)
    others = _listing(table, "masks", of_masks, of_masks.annotations, by_folder)
    shared = _in_both(found.images, pictures.values())
    if shared:
        if not suffix and len(shared) == len(pictures) and not others:
            raise table.error("masks", table.entries["masks"], "the images' own folder; then mask_suffix is needed")
        pictures = {
            stem: file
            for stem, file in pictures.items()
            if (_without(suffix, stem) is not None if suffix else file not in shared)
        }
        used = _in_both(pictures.values(), images.values())
        images = {stem: file for stem, file in images.items() if file not in used}
    names, masks, painted = _names(images), {}, {*pictures.values()}
    for stem, file in {**others, **pictures}.items():
        image = names.get(_without(suffix, stem))
        if image is not None:
            if masks.get(image) in painted:
                raise table.error("masks", file.name, f"{masks[image].name} is a mask of this image too; remove one")
            masks[image] = file
        elif stem in pictures and not _in_both(named.values(), [file]):
            same = [one.name for one in found.folder.glob("*") if one.stem == _without(suffix, stem)]
            unread = f" ({min(same)} is no image that can be read; save it as TIFF or PNG)" if same else ""
            remedy = f"no image in {found.folder} belongs to it{unread}; check names and mask_suffix"
            raise table.error("masks", file.name, remedy)
    if of_masks.alone:
        (file,) = of_masks.annotations
        masks = masks or _of_one_file(table, file, names)
    if not masks and not named:
        left = of_masks.left(())
        remedy = f"no mask in {of_masks.folder}" + f", only {left}" * bool(left) + "; add some or remove the key"
        if others:
            first = next(iter(others.values()))
            if first.suffix.lower() in OF_ONE:
                remedy += f"; {first.name} is of one image: rename it, as {next(iter(images))}{first.suffix}"
            else:
                remedy += f"; if {first.name} has the outlines of many images, give its path"
        raise table.error("masks", table.entries["masks"], remedy)
    return images, masks


def _names(images: Iterable[str]) -> dict[str, str]:
    """Names that a mask may have, and those of their images: the mask of m0.ome.tif may be m0.png."""
    names = {composed(stem): stem for stem in images}
    return {name.removesuffix(OME): stem for name, stem in names.items()} | names


def _without(suffix: str, stem: str) -> str | None:
    """Name of a mask's image: the mask's own without the suffix, in whatever case; None where it lacks it."""
    name = composed(stem)
    end = len(name) - len(suffix)
    return name[:end] if end >= 0 and name[end:].casefold() == suffix.casefold() else None


def _in_both(some: Iterable[Path], others: Iterable[Path]) -> set[Path]:
    """Give those of `others` that are among `some`, by whatever path their folder is named."""
    folders = {}

    def place(file: Path) -> tuple[Path, str]:
        if file.parent not in folders:
            folders[file.parent] = file.parent.resolve()
        return folders[file.parent], file.name

    known = {place(file) for file in some}
    return {file for file in others if place(file) in known}


def _of_one_file(table: Table, file: Path, names: dict[str, str]) -> dict[str, Path]:
    """Give the masks that one file with outlines has of many images: those on which something is drawn."""
    document = {} if file.suffix.lower() in OF_ONE else outlines(file)
    if file.suffix.lower() in OF_ONE or None in document:
        remedy = (
            f"it is of one image only, and none has its name; rename it, as {next(iter(names.values()))}{file.suffix}"
        )
        raise table.error("masks", file.name, remedy)
    there = {stem: one for stem, one in document.items() if stem in names}
    drawn = {names[stem]: file for stem, one in there.items() if one.shapes}
    if there and not drawn:
        lines = sum(one.lines for one in there.values())
        why = f"has no outline on the images, and {lines} boxes, lines or points, which have no area; draw outlines"
        raise table.error("masks", file.name, why)
    if not drawn:
        named = ", ".join(f"'{stem}'" for stem in list(document)[:5])
        raise table.error("masks", file.name, f"annotates {named}, none of the images; name the images as it does")
    for count, what in (
        (len(document) - len(there), "of images that are not in the folder"),
        (len(there) - len(drawn), "without an area, which are taken for not annotated"),
    ):
        if count:
            print(f"remark: {file}: {count} entries {what}", file=sys.stderr)
    return drawn


def _check_names(table: Table, images: dict[str, Path]) -> None:
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


def _listing(table: Table, key: str, found: Found, files: list[Path], by_folder: bool) -> dict[str, Path]:
    listed, names = {}, {}
    for file in files:
        name = found.name(file, by_folder)
        other = names.setdefault(composed(name), file)
        if other != file:
            form = "" if found.name(other, by_folder) == name else ", written with other Unicode characters"
            where = other.name if other.parent == file.parent else os.path.relpath(other, table.path.parent)
            raise table.error(key, file.name, f"{where} has the same name{form}; rename or remove one")
        listed[name] = file
    return listed
