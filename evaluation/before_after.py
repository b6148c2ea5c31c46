"""Picture of an adaptation: a test micrograph, its label, and its prediction before and after.

    python -m evaluation.before_after runs/demo/seed0/supervised/fold0 runs/demo/seed0/uda/fold0 \
        --data runs/demo/seed0/stores --domain t3 --out docs/images/before_after.jpg

Both runs are scored on the domain before, by evaluate.py: its score.json and predictions/ are read here.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.before_after")

import argparse
import io
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_image
from data.pictures import palette_of, read_classes
from data.store import Store, store_path
from evaluation.figures import Legend, grid, legend_of, side_by_side
from evaluation.metrics import Confusion
from evaluation.scoring import read_score, score_folder

JPEG_QUALITY = 82  # a picture that a page loads at once


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.before_after", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, metavar="RUN_BEFORE", help="run folder without adaptation")
    parser.add_argument("after", type=Path, metavar="RUN_AFTER", help="run folder after adaptation")
    parser.add_argument("--data", type=Path, default=Path("stores"), help="folder of tile stores (default: stores)")
    parser.add_argument("--domain", required=True, help="domain that both runs were scored on")
    parser.add_argument("--micrograph", metavar="NAME", help="default: the first that was scored")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    options = parser.parse_args()
    if options.out.suffix not in (".jpg", ".png"):
        parser.error(f"argument --out: {options.out} ends neither with .jpg nor with .png")
    store = Store(store_path(options.data, options.domain))
    make_folder(options.out.parent)
    write_image(options.out, picture(options.before, options.after, store, options.micrograph), JPEG_QUALITY)
    print(options.out)


def picture(before: Path, after: Path, store: Store, name: str | None = None) -> np.ndarray:
    """Draw micrograph, label and the two predictions side by side, RGB uint8 (h, w, 3).

    Above each prediction stand the mIoU of the whole test set, from score.json, and that of this micrograph.
    InputError where a run was not scored on this store, or the micrograph not in both.
    """
    folders = [score_folder(run, store.domain, "last", "plain") for run in (before, after)]
    scores = [read_score(folder / "score.json") for folder in folders]
    for folder, score in zip(folders, scores, strict=True):
        if score.get("store_fingerprint") != store.fingerprint:
            raise InputError(f"{folder}: is no score on {store.path}; run evaluate.py with --data {store.path.parent}")
    predicted = [{path.stem: path for path in (folder / "predictions").glob("*.png")} for folder in folders]
    shown = [m for m in store.micrographs if name in (None, m.name) and all(m.name in of_run for of_run in predicted)]
    if not shown:
        raise InputError(f"{folders[0]} and {folders[1]}: no prediction of {name or 'one micrograph'} in both")
    index, name = shown[0].index, shown[0].name
    image, label = store.image(index), store.mask(index)
    predictions = []
    for when, score, of_run in zip(("before", "after"), scores, predicted, strict=True):
        mask = read_classes(of_run[name])
        if mask is None or mask.shape != label.shape:
            raise InputError(f"{of_run[name]}: no prediction of this micrograph; run evaluate.py again")
        own = 100 * Confusion.of(mask, label, store.phases).miou
        text = f"{when} adaptation: mIoU {100 * score['miou']:.1f} %\nof {score['images']} test micrographs"
        predictions.append((f"{text}; of this one {own:.1f} %", mask))
    columns = side_by_side(f"test micrograph {name}", image, label, predictions, errors=False, classes=store.classes)
    drawn = io.BytesIO()
    grid(drawn, [columns], _legend(store), width=10, dpi=150)
    return cv2.imdecode(np.frombuffer(drawn.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _legend(store: Store) -> Legend:
    if store.phases > 2:
        return legend_of(store.classes)
    palette = palette_of(store.classes)
    return ((f"{store.classes[1]}, labelled or predicted", palette.colours[1]), ("its outline", palette.outlines[1]))


if __name__ == "__main__":
    main()
