"""Scores of a predictor on labelled micrographs, and the files of a score."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import InputError, make_folder
from common.files import write_csv, write_file
from data.pictures import write_classes
from data.store import TWO_PHASES, Micrograph, Store, reported
from evaluation.figures import caption, legend_of, panel, side_by_side
from evaluation.metrics import Confusion
from models import classes

Predictor = Callable[[np.ndarray], np.ndarray]  # image uint8 (h, w) -> probabilities float32 (C, h, w)
PANELS = 3
# What every reader of a score.json relies on.
_SCORE = {"experiment", "domain", "variant", "checkpoint", "miou", "iou"}


def score(
    predictor: Predictor,
    store: Store,
    micrographs: list[int],
    progress: str | None = None,
    on_image: Callable[..., None] | None = None,
) -> tuple[Confusion, list[dict]]:
    """Score a predictor on micrographs of a store, over whole micrographs without their padding (paper 2.2).

    predictor: image uint8 (h, w) -> probabilities (C, h, w).
    micrographs: indices of labelled micrographs. progress: text of a progress bar, None for no bar.
    on_image(micrograph, image, label, predicted): called with each result, predicted class indices uint8 (h, w).
    Returns (Confusion pooled over all micrographs, list of dicts with the measures of each micrograph).
    """
    pooled, rows = Confusion.none(store.phases), []
    for m in tqdm(micrographs, desc=progress, unit="image", disable=progress is None):
        image, label = store.image(m), store.mask(m)
        predicted = classes(predictor(image))
        confusion = Confusion.of(predicted, label, store.phases)
        pooled += confusion
        micrograph = store.micrographs[m]
        height, width = image.shape
        rows.append({"name": micrograph.name, "height": height, "width": width, **measures(confusion, store.classes)})
        if on_image:
            on_image(micrograph, image, label, predicted)
    return pooled, rows


def measures(confusion: Confusion, classes: Sequence[str]) -> dict[str, float]:
    """The measures of a Confusion as a flat dict, of two phases also its counts, foreground positive."""
    shown = reported(classes)
    counts = {}
    if len(classes) == 2:
        (tn, fp), (fn, tp) = confusion.counts.tolist()
        counts = {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    return {
        **counts,
        "miou": confusion.miou,
        **{f"iou_{name}": value for name, value in zip(classes, confusion.iou(), strict=True)},
        **{f"phase_fraction_predicted{end}": confusion.predicted[phase] for end, phase in shown.items()},
        **{f"phase_fraction_label{end}": confusion.labelled[phase] for end, phase in shown.items()},
    }


def ensemble(predictors: list[Predictor]) -> Predictor:
    """Predictor whose probabilities are the mean of the predictors' (bagging, paper 4.2)."""

    def predictor(image: np.ndarray) -> np.ndarray:
        return sum(member(image) for member in predictors) / len(predictors)

    return predictor


def spread(values: Sequence[int], count: int) -> list[int]:
    """Up to `count` of the values, spread evenly, the first among them."""
    return [values[k] for k in sorted(set(np.linspace(0, len(values) - 1, min(count, len(values))).astype(int)))]


def panel_positions(count: int) -> list[int]:
    """Positions of the micrographs of `count` that get pictures: up to PANELS, spread evenly, the first among them."""
    return spread(range(count), PANELS)


def score_folder(run: Path | str, domain: str, checkpoint: str, variant: str) -> Path:
    """Folder of a run's score: <run>/evaluation/<domain>, then .<checkpoint> unless last, .<variant>."""
    names = [domain, *([checkpoint] if checkpoint != "last" else []), *([variant] if variant != "plain" else [])]
    return Path(run) / "evaluation" / ".".join(names)


def read_score(path: Path | str) -> dict:
    """A score.json as dict. InputError when it is damaged."""
    return _read_json(path, _SCORE, "a readable score", "run evaluate.py again")


def read_config(run: Path | str) -> dict:
    """The config.json of a run's folder as dict. InputError when it is damaged."""
    return _read_json(Path(run) / "config.json", set(), "a readable configuration", "the run's checkpoint holds a copy")


def runs_of(path: Path, score: dict) -> list[Path]:
    """Folders of the runs that a score.json is of: the one that it lies in, of an ensemble those that it names."""
    alone = path.parents[1].name == "evaluation"
    return [path.parents[2]] if alone else [Path(run) for run in score.get("runs", ())]


def outdated(path: Path, score: dict) -> str | None:
    """Say why a score.json does not count: a run of it was scored before its end, or trained again since. Else None.

    Checkpoints that stay as they are, such as milestones, always count, and so do runs that are no longer there.
    """
    runs = runs_of(path, score)
    for run, step in zip(runs, score.get("steps") or [score.get("step")] * len(runs), strict=False):
        end = _step_at_the_end(run, score["checkpoint"])
        if None not in (step, end) and step != end:
            finished = (run / "finished.json").is_file()
            todo = f"evaluate {run} again" if finished else f"let {run} go on to its end, and evaluate it then"
            return (
                f"{path.parent} is left out: it is of step {step}, and the {score['checkpoint']} checkpoint at the "
                f"run's end of step {end}; {todo}"
            )
    return None


def on_different_stores(scores: Iterable[dict]) -> bool:
    """Tell if scores on one domain are on different versions of its store."""
    return len({score.get("store_fingerprint") for score in scores} - {None}) > 1


def _step_at_the_end(run: Path, checkpoint: str | None) -> int | None:
    config = read_config(run) if (run / "config.json").is_file() else {}
    path = run / "finished.json"
    mark = _read_json(path, set(), "readable", "remove it, and start the run's command again") if path.is_file() else {}
    ends = {"last": mark.get("step", config.get("iterations")), "best": mark.get("best", {}).get("step")}
    return ends.get(checkpoint)


def _read_json(path: Path | str, keys: set[str], kind: str, remedy: str) -> dict:
    try:
        content = json.loads(Path(path).read_text())
        if not isinstance(content, dict) or not keys <= content.keys():
            raise ValueError(f"an object with {', '.join(sorted(keys)) or 'names'} is needed")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not {kind} ({error}); {remedy}") from error
    return content


class ResultWriter:
    """Writer of a score's folder: predictions/, panels/ of a few micrographs, images.csv and, last, score.json.

    It is the `on_image` of score(). predictions/<name>.png is a mask at working scale, as write_classes writes it.
    """

    def __init__(self, folder: Path | str, count: int, name: str, classes: Sequence[str] = TWO_PHASES):
        """Start the folder. count: number of micrographs to come; name: of the model, in the panels."""
        self.folder, self.name, self.seen, self.classes = Path(folder), name, 0, tuple(classes)
        self.with_panel = panel_positions(count)
        for kind in ("predictions", "panels"):
            make_folder(self.folder / kind)

    def __call__(self, micrograph: Micrograph, image: np.ndarray, label: np.ndarray, predicted: np.ndarray) -> None:
        classes = self.classes
        write_classes(self.folder / "predictions" / f"{micrograph.name}.png", predicted, classes)
        if self.seen in self.with_panel:
            confusion = Confusion.of(predicted, label, len(classes))
            predictions = [(caption(self.name, confusion, classes), predicted)]
            columns = side_by_side(f"micrograph {micrograph.name}", image, label, predictions, classes=classes)
            path = self.folder / "panels" / f"{micrograph.name}.png"
            panel(path, columns, legend_of(classes, errors=True, label=True))
        self.seen += 1

    def finish(self, facts: dict, pooled: Confusion, rows: list[dict]) -> dict:
        """Write images.csv and score.json. Returns the content of score.json; undefined numbers are null."""
        numbers = measures(pooled, self.classes)
        iou = {name: numbers.pop(f"iou_{name}") for name in self.classes}
        score = _without_nan({**facts, **numbers, "iou": _without_nan(iou)})
        if len(self.classes) > 2:
            score["confusion"] = pooled.counts.tolist()  # labelled phase by predicted one, in the order of `iou`
        write_csv(self.folder / "images.csv", rows)
        write_file(self.folder / "score.json", json.dumps(score, indent=2) + "\n")
        return score


def _without_nan(values: dict) -> dict:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}
