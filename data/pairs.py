"""The images of a domain and their masks, found by their names."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from common.errors import require_file_name
from data.annotations import SUFFIXES as OUTLINES
from data.annotations.outlines import outlines
from data.decoding import SUFFIXES
from data.entries import Table
from data.files import Found
from data.table import composed


def files_of(table: Table) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images by stem, and masks by the stem of their image. InputError for names that a store cannot have.

    A name is the same in any Unicode form: macOS writes an umlaut as two letters, others as one.
    """
    found = table.found("images", "a folder relative to this file, or a pattern like lom/*.tif")
    images, masks = _listing(table, "images", found.images), {}
    if "masks" in table.entries and images:
        images, masks = _paired(table, found, images)
    if not images:
        kinds = " ".join(SUFFIXES)
        raise table.error("images", table.entries["images"], f"no image ({kinds}) in {found.folder}; add some")
    _check_names(table, images)
    taken = {*images.values(), *masks.values(), table.path.parent / str(table.entries.get("micrographs"))}
    if left := found.left(taken):
        print(f"remark: {table.path}: {table.where}.images: not taken from {found.folder}: {left}", file=sys.stderr)
    return images, masks


def _paired(table: Table, found: Found, images: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Give the images that are no masks, and the masks by the stem of their image.

    A picture goes before a file with outlines of the same name, from which it may have been made. Files with outlines,
    and arrays, that belong to no image are none.
    """
    of_masks = table.found("masks", "a folder relative to this file, a pattern like lom/*.png, or a file with outlines")
    suffix = composed(table.take("mask_suffix", str, "the end of a mask's name", ""))
    pictures = _listing(table, "masks", of_masks.images)
    others = _listing(table, "masks", of_masks.annotations)
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
    names, masks, painted = {composed(stem): stem for stem in images}, {}, {*pictures.values()}
    for stem, file in {**others, **pictures}.items():
        image = names.get(_without(suffix, stem))
        if image is not None:
            if masks.get(image) in painted:
                raise table.error("masks", file.name, f"{masks[image].name} is a mask of this image too; remove one")
            masks[image] = file
        elif stem in pictures:
            raise table.error(
                "masks", file.name, f"no image in {found.folder} belongs to it; check names and mask_suffix"
            )
    if of_masks.alone:
        (file,) = of_masks.annotations
        masks = masks or _of_one_file(table, file, names)
    if not masks:
        remedy = f"no mask in {of_masks.folder}; add some or remove the key"
        if others:
            remedy += f"; if {next(iter(others.values())).name} has the outlines of many images, give its path"
        raise table.error("masks", table.entries["masks"], remedy)
    return images, masks


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
    if file.suffix.lower() not in OUTLINES:
        raise table.error("masks", file.name, "it has the labels of one image only, and none has its name; rename one")
    document = outlines(file)
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


def _listing(table: Table, key: str, files: list[Path]) -> dict[str, Path]:
    listed, names = {}, {}
    for file in files:
        other = names.setdefault(composed(file.stem), file)
        if other != file:
            form = "" if other.stem == file.stem else ", written with other Unicode characters"
            where = other.name if other.parent == file.parent else os.path.relpath(other, table.path.parent)
            raise table.error(key, file.name, f"{where} has the same name{form}; rename or remove one")
        listed[file.stem] = file
    return listed
