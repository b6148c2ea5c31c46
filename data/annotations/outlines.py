"""Files with outlines, and which of a folder's images they annotate."""

import functools
from pathlib import Path

from common.errors import InputError
from data.annotations import programs
from data.annotations.shapes import Annotated
from data.decoding import SUFFIXES
from data.table import composed

OME = ".ome"  # before the ending of an OME-TIFF


def outlines(path: Path) -> dict[str | None, Annotated]:
    """Read a file with outlines: what is annotated by the stem of its image, None for the image of the file's name.

    InputError for a file that is damaged, or of no program that is known.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return _read(path, stat.st_mtime_ns, stat.st_size)


def of_image(path: Path, stem: str) -> Annotated | None:
    """Give what a file annotates of an image, None where it does not. InputError as of `outlines`.

    The image may be named without the `.ome` of its name, and in a file of its own without its folders.
    """
    found, name = outlines(path), composed(stem)
    known = [one for one in (name, name.removesuffix(OME), None) if one in found]
    known += [one for one in found if len(found) == 1 and name.endswith(f"_{one}")]
    return found[known[0]] if known else None


@functools.lru_cache(maxsize=4)  # one file may be of all images
def _read(path: Path, changed: int, size: int) -> dict[str | None, Annotated]:
    try:
        document = programs.read(path)
        found = {stem_of(name): annotated for name, annotated in document.items()}
    except Exception as error:  # a damaged file fails anywhere
        kind = str(error) or type(error).__name__
        raise InputError(
            f"{path}: no readable annotation ({kind[:200]}); export it again from LabelMe, VIA, COCO, CVAT or ImageJ"
        ) from error
    if len(found) < len(document):
        raise InputError(f"{path}: annotates two images whose names differ in their ending only; rename one")
    return found


def stem_of(name: str | None) -> str | None:
    """Name of an image as micrographs have it, without an image's ending; None for None."""
    if name is None:
        return None
    return composed(Path(name).stem if name.lower().endswith(SUFFIXES) else name)
