"""Clean a folder of SEM pictures, one sub-folder a class, into the store that pretrain_nanosem.py reads.

    python -m data.nanosem nanosem                                    # writes nanosem.h5 and nanosem.review/
    python -m data.nanosem nanosem --corrections corrections.txt      # again, with a person's corrections
    python -m data.nanosem drawn --score drawn/truth.csv              # how well it cleans: precision and recall

As the study did (paper Section 2.3): information bars are cropped, and pictures with many burned-in measurements are
discarded, because a network would learn both instead of the class. `<out>.review/` shows what was found: review.csv and
contact sheets. Corrections are lines `keep FILE`, `discard FILE`, `bar FILE ROW`; docs/nanosem.md says more.
"""

import argparse
import csv
import functools
import os
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.arguments import at_least, positive
from common.errors import InputError, exits_cleanly
from common.limits import SMALLEST_INPUT
from common.parallel import in_processes
from data.images import SUFFIXES, list_images, read_picture, to_grey
from data.nanosem.image_store import ImageStoreWriter, image_store_path
from data.nanosem.marks import find_bar, find_marks
from data.nanosem.review import Corrections, Review, read_corrections, thumbnail

SIZE = 224  # px: what VGG16's ImageNet weights were trained on
MANY = 3  # marks that make a picture one with many of them


class Cleaned(NamedTuple):
    """Outcome of cleaning one file: its row of the review, the picture for the store, the thumbnail for the sheet."""

    row: dict
    image: np.ndarray | None
    thumbnail: np.ndarray | None


def classes_of(folder: Path | str) -> dict[str, list[str]]:
    """List the pictures of each class, as paths relative to the folder; classes and pictures are ordered by name.

    InputError: no such folder, fewer than two classes, or a class without a picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds one sub-folder a class")
    found = {}
    for sub in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        found[sub.name] = sorted(file.relative_to(folder).as_posix() for file in list_images(sub, recursive=True))
        if not found[sub.name]:
            raise InputError(f"{sub}: class without a picture ({', '.join(SUFFIXES)}); fill the folder or remove it")
    if len(found) < 2:
        raise InputError(f"{folder}: {len(found)} class folders; a classification needs two or more")
    return found


def clean(file: str, folder: Path | str, size: int, many: int, corrections: Corrections) -> Cleaned:
    """Read one picture, crop its bar, count its marks, decide, and reduce it to a square of `size` px.

    Whoever looks at the picture is right: corrections win over what was found. An unreadable file is discarded.
    """
    row = {"file": file, "class": file.split("/")[0], "decision": "discard"}
    try:
        picture = read_picture(Path(folder, file))
    except InputError as error:
        return Cleaned(row | {"reason": f"unreadable: {error}"}, None, None)
    grey = to_grey(picture)
    height, width = grey.shape
    bar_row = min(corrections.bars.get(file, find_bar(grey)), height)
    row |= {"height": height, "width": width, "bar_row": bar_row}
    if min(bar_row, width) < SMALLEST_INPUT:
        return Cleaned(row | {"reason": f"smaller than {SMALLEST_INPUT} px"}, None, None)
    marks, ink = find_marks(picture[:bar_row])
    decision, reason = ("discard", "many marks") if marks >= many else ("keep", "")
    if file in corrections.decisions:
        decision, reason = corrections.decisions[file], "corrected"
    row |= {"marks": marks, "decision": decision, "reason": reason}
    image = _square(grey[:bar_row], size) if decision == "keep" else None
    return Cleaned(row, image, thumbnail(picture, bar_row, ink))


def _square(grey: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle square of a picture (h, w) and resize its side to `size` px: the pixels stay square."""
    side = min(grey.shape)
    top, left = ((length - side) // 2 for length in grey.shape)
    square = grey[top : top + side, left : left + side]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def clean_folder(
    folder: Path | str, out: Path | str, size: int, many: int, corrections_file: Path | str | None, workers: int
) -> list[dict]:
    """Clean every picture of a folder of classes into the store `out`, and write its review; returns the review's rows.

    InputError, and no store, where a class has fewer than two pictures left: none to train on or none to test.
    """
    classes = classes_of(folder)
    files = [file for members in classes.values() for file in members]
    corrections = read_corrections(corrections_file, files) if corrections_file else Corrections({}, {})
    review = Review(Path(out).with_suffix(".review"))
    labels = {name: label for label, name in enumerate(classes)}
    work = functools.partial(clean, folder=folder, size=size, many=many, corrections=corrections)
    with (
        ImageStoreWriter(out, size) as writer,
        closing(in_processes(work, files, workers, "cleaning")) as cleaning,
    ):
        for cleaned in cleaning:
            row = cleaned.row
            review.add(row, cleaned.thumbnail)
            if cleaned.image is not None:
                facts = {key: row[key] for key in ("file", "bar_row", "marks")}
                writer.add(cleaned.image, labels[row["class"]], **facts)
        review.finish()
        kept = Counter(row["class"] for row in review.rows if row["decision"] == "keep")
        few = [f"{name} ({kept[name]})" for name in classes if kept[name] < 2]
        if few:
            raise InputError(
                f"{folder}: fewer than two pictures left in {', '.join(few)}; see {review.folder / 'review.csv'}, and "
                "raise --many or correct with --corrections"
            )
        writer.finish(list(classes), {"size": size, "many": many})
        writer.place()
    return review.rows


def report(rows: list[dict], out: Path | str) -> None:
    """Say what was kept, what was discarded and why, and which files could not be read."""
    kept = Counter(row["class"] for row in rows if row["decision"] == "keep")
    why = Counter(row["reason"].partition(":")[0] for row in rows if row["decision"] == "discard")
    bars = sum(row["bar_row"] < row["height"] for row in rows if "bar_row" in row)
    print(f"{out}: {sum(kept.values())} of {len(rows)} pictures kept, {bars} information bars cropped")
    print("kept: " + ", ".join(f"{name} {count}" for name, count in kept.items()))
    if why:
        print("discarded: " + ", ".join(f"{count} {reason}" for reason, count in why.items()))
    for row in rows:
        if row["reason"].startswith("unreadable"):
            print(f"discarded as {row['reason']}")
    print(f"review: {Path(out).with_suffix('.review')}")


def score(rows: list[dict], truth_file: Path | str, many: int) -> dict[str, float]:
    """Compare what was found with a truth file of data.synthetic_nanosem: fractions of 1.

    Annotated is a picture with one mark or more, crowded one with `many` or more; a bar is right within 2 rows, and
    where there is none, none may be found.
    """
    try:
        with Path(truth_file).open(newline="", encoding="utf-8-sig") as file:
            truth = {row["file"]: row for row in csv.DictReader(file)}
        pairs = [(row, truth[row["file"]]) for row in rows if "marks" in row]
    except (OSError, KeyError) as error:
        raise InputError(
            f"{truth_file}: no truth about these pictures ({error}); data.synthetic_nanosem writes one"
        ) from error
    result = {"pictures": len(pairs)}
    for name, least in (("annotated", 1), ("crowded", many)):
        found = np.array([row["marks"] >= least for row, _ in pairs])
        right = np.array([int(known["marks"]) >= least for _, known in pairs])
        both = int((found & right).sum())
        result[f"{name}_pictures"] = int(right.sum())
        result[f"{name}_precision"] = both / max(int(found.sum()), 1)
        result[f"{name}_recall"] = both / max(int(right.sum()), 1)
    off = [abs(row["bar_row"] - int(known["bar_row"] or row["height"])) for row, known in pairs]
    with_bar = np.array([known["bar_row"] != "" for _, known in pairs])
    near = np.array(off) <= 2
    result["bars"] = int(with_bar.sum())
    result["bars_within_2_px"] = float(near[with_bar].mean()) if with_bar.any() else 1.0
    result["false_bars"] = int((~near & ~with_bar).sum())
    return result


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="data.nanosem", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="holds one sub-folder of pictures a class")
    parser.add_argument("--out", help="the store; by default <folder>.h5, where --data <folder> finds it")
    parser.add_argument(
        "--size", type=at_least(SMALLEST_INPUT), default=SIZE, help=f"px of the squares (default {SIZE})"
    )
    parser.add_argument("--many", type=positive, default=MANY, help=f"marks from which a picture is discarded ({MANY})")
    parser.add_argument("--corrections", metavar="FILE", help="a person's corrections of the review")
    parser.add_argument("--score", metavar="TRUTH", help="report precision and recall against a drawn set's truth.csv")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes that clean")
    options = parser.parse_args(arguments)
    out = Path(options.out) if options.out else image_store_path(options.folder)
    rows = clean_folder(options.folder, out, options.size, options.many, options.corrections, options.workers)
    report(rows, out)
    if options.score:
        for name, value in score(rows, options.score, options.many).items():
            print(f"{name}: {value if isinstance(value, int) else format(value, '.3f')}")
