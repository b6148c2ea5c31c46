"""Files that an entry of domains.toml names: a folder, or a pattern."""

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from data import annotations
from data.decoding import SUFFIXES
from data.headers import texts_beside
from data.images import list_images
from data.table import composed

_PATTERN = re.compile(r"[*?\[]")
_ANNOTATIONS = (*annotations.SUFFIXES, *annotations.LABEL_SUFFIXES)
_ENDINGS = 8  # that are named


@dataclass(frozen=True)
class Found:
    """Files that were found, sorted: in `folder`, those that `pattern` names, or all that can be images or masks.

    alone: it is the one file that was named.
    """

    folder: Path
    pattern: str | None
    files: tuple[Path, ...]
    alone: bool = False

    @property
    def images(self) -> list[Path]:
        return [file for file in self.files if file.suffix.lower() in SUFFIXES]

    @property
    def annotations(self) -> list[Path]:
        """Files that are no images and may be masks."""
        return [file for file in self.files if file.suffix.lower() in _ANNOTATIONS]

    def name(self, file: Path, by_folder: bool) -> str:
        """Name one of the files: by its stem, or after the folders too that the pattern's wildcards stand for."""
        if not by_folder or self.pattern is None:
            return file.stem
        folders, written = file.relative_to(self.folder).parent.parts, Path(composed(self.pattern)).parts
        return "_".join([*(part for part in folders if composed(part) not in written), file.stem])

    def left(self, taken: Collection[Path]) -> str:
        """Say what lies in the folder, and for a pattern with ** below it, and was not taken: endings and counts."""
        beside = {text for file in taken for text in texts_beside(file)}
        recursive = self.pattern is not None and "**" in self.pattern
        counts, folders = Counter(), 0
        for file in self.folder.rglob("*") if recursive else self.folder.iterdir():
            if file.name.startswith(".") or file in taken or file in beside:
                continue
            if file.is_file():
                counts[file.suffix or "without ending"] += 1
            elif not recursive and file.is_dir() and not any(file in one.parents for one in taken):
                folders += bool(_images_in(file))
        named = [f"{count} {ending}" for ending, count in counts.most_common(_ENDINGS)]
        named += [f"{len(counts) - _ENDINGS} other endings"] if len(counts) > _ENDINGS else []
        return ", ".join(named + [f"{folders} folders with images"] * bool(folders))


def as_written(root: Path, value: str) -> Path:
    """Give a path relative to `root`, with its accents as they are there: Macs write a letter and its accent as two."""
    forms = [root / unicodedata.normalize(form, value) for form in ("NFC", "NFD")]
    return next((place for place in (root / value, *forms) if place.exists()), root / value)


def find(root: Path, value: str) -> Found:
    """Find what a folder's path or a pattern names, relative to `root`. ValueError where there is no such folder."""
    place = as_written(root, value)
    if place.is_file() and place.suffix.lower() in _ANNOTATIONS:
        return Found(place.parent, None, (place,), alone=True)
    if not place.is_dir() and _PATTERN.search(value):
        folder, parts = root, list(Path(value).parts)
        # A folder may have a bracket in its name.
        while parts and (not _PATTERN.search(parts[0]) or (folder / parts[0]).is_dir()):
            folder = as_written(folder, parts.pop(0))
        if not folder.is_dir():
            raise ValueError(f"no folder '{cut(str(folder))}'; create it or correct the path")
        found = sorted(_matching(folder, str(Path(*parts))))
        files = [file for file in found if file.is_file() or (file.is_symlink() and not file.exists())]
        return Found(folder, value, tuple(files))
    if place.is_file():
        raise ValueError(f"no folder '{cut(str(place))}', but a file; give its folder, or a pattern")
    if not place.is_dir():
        raise ValueError(f"no folder '{cut(str(place))}'; create it or correct the path")
    return Found(place, None, tuple(sorted([*list_images(place), *_annotations_in(place)])))


def _matching(folder: Path, pattern: str) -> set[Path]:
    """Find what a pattern names below a folder, with accents in either form."""
    parts = Path(pattern).parts
    if "**" not in parts:
        forms = {pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD"))}
        return {folder / name for form in forms for name in glob.glob(form, root_dir=folder)}
    before, after = parts[: parts.index("**")], parts[parts.index("**") + 1 :]
    tops = _matching(folder, str(Path(*before))) if before else {folder}
    below = (place for top in tops if top.is_dir() for place in _folders_below(top))
    return {file for place in below for file in _matching(place, str(Path(*after)) if after else "*")}


def _folders_below(top: Path) -> Iterator[Path]:
    """Yield a folder and all below it, each once: a link may lead to one that it lies in. Hidden ones are left out."""
    seen, own, links = set(), [top], []
    while own or links:
        place = own.pop() if own else links.pop(0)
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        yield place
        for one in sorted(place.iterdir()) if os.access(place, os.R_OK | os.X_OK) else ():
            if not one.name.startswith(".") and one.is_dir():
                (links if one.is_symlink() else own).append(one)


def _annotations_in(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return [file for file in files if file.suffix.lower() in _ANNOTATIONS and file.is_file()]


def cut(text: str) -> str:
    """Shorten a text to what a message shows, on one line."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-100:]}"


def _images_in(folder: Path) -> list[Path]:
    return list_images(folder) if os.access(folder, os.R_OK | os.X_OK) else []
