"""The study's Figures 1, 2 and 4 to 7, drawn from our runs. A missing piece leaves a marked gap."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from data.pictures import read_classes
from data.store import TWO_PHASES, Store, store_path
from evaluation.figures import annotation, caption, grid, heat, legend_of, overlay
from evaluation.metrics import Confusion
from evaluation.study import published
from evaluation.study.schematic import Drawn, pretraining
from evaluation.study.study_tables import adapted_pair

FRAME = (215, 25, 28)
DETAIL = 4  # the detail view shows a micrograph's side divided by this
SHOWN = 2  # test micrographs in Figures 4 to 6
NO_RUN, NO_DATA = "no run", "no data"


def draw_all(runs: published.StudyRuns, folder: Path) -> list[Drawn]:
    """Draw all figures of a StudyRuns into a folder: [(title, explanation, path)]."""
    targets = list(published.phase_fractions())
    made = [domains(runs, folder / "figure1.png"), pretraining(runs, folder / "figure2.png")]
    made += [predictions(runs, domain, folder / f"figure{n}.png") for n, domain in enumerate(targets, 4)]
    return [*made, attention(runs, targets[0], folder / "figure7.png")]


def domains(runs: published.StudyRuns, path: Path) -> Drawn:
    """Figure 1: of each domain a test micrograph, with its annotation, and a detail view."""
    rows = []
    for domain in ("source", *published.phase_fractions()):
        store, fold = _store(runs, domain)
        shown = _micrographs(store, fold)[:1]
        if not shown:
            rows.append([(domain, NO_DATA), ("annotation", NO_DATA), ("detail", NO_DATA)])
            continue
        image, label = store.image(shown[0]), store.mask(shown[0])
        top = (f"{domain}: {store.micrographs[shown[0]].name}", framed(image, label))
        rows.append([top, ("annotation", annotation(image, label)), ("detail", image[detail(label)])])
    grid(path, rows, legend_of(TWO_PHASES, label=True))
    text = "Each domain: a test micrograph, the same with its annotation, and the framed detail."
    return "Figure 1. The domains", text, path


def predictions(runs: published.StudyRuns, domain: str, path: Path) -> Drawn:
    """Figure 4, 5 or 6: two test micrographs of a target as generalization and as adaptation segment them."""
    pair = adapted_pair(domain)
    store, fold = _store(runs, domain, pair)
    rows = []
    for m in _micrographs(store, fold)[:SHOWN]:
        image, label = store.image(m), store.mask(m)
        name = store.micrographs[m].name
        row = []
        for kind, experiment in zip(("DG", "UDA"), pair, strict=True):
            predicted = _prediction(runs, experiment, store, fold, name)
            if isinstance(predicted, str):
                row.append((f"{kind} {experiment}, {name}", predicted))
            else:
                text = caption(f"{kind} {experiment}, {name}", Confusion.of(predicted, label))
                row.append((text, overlay(image, predicted, label)))
        rows.append(row)
    missing = [[(f"DG {pair[0]}", NO_DATA), (f"UDA {pair[1]}", NO_DATA)]]
    grid(path, rows or missing, legend_of(TWO_PHASES, errors=True))
    number = {"t1": 4, "t2": 5, "t3": 6}[domain]
    title = f"Figure {number}. Predictions on {domain}"
    return title, f"Left: generalization ({pair[0]}). Right: adaptation ({pair[1]}). Fold {fold}.", path


def attention(runs: published.StudyRuns, target: str, path: Path) -> Drawn:
    """Figure 7: Grad-CAM of the supervised DeepLabv2 on the source and on the first target."""
    experiment, found, layers = "S.10", {}, set()
    for domain in ("source", target):
        store, fold = _store(runs, domain, (experiment,))
        shown = _micrographs(store, fold)[:1]
        score = runs.scores(experiment, domain).get(fold)
        folder = score["folder"] / "gradcam" if score else Path()
        file = folder / f"{store.micrographs[shown[0]].name}.npy" if shown else None
        if file and score and file.is_file() and score["store_fingerprint"] == store.fingerprint:
            found[domain] = (store.image(shown[0]), store.mask(shown[0]), np.load(file))
            layers.add(json.loads((folder / "gradcam.json").read_text())["layer"])
    top = max((np.nanmax(attribution) for *_, attribution in found.values()), default=1)
    rows = []
    for domain in ("source", target):
        if domain not in found:
            rows.append([(f"Grad-CAM, {domain}", NO_RUN), ("label", NO_RUN), ("detail", NO_RUN)])
            continue
        image, label, attribution = found[domain]
        coloured = heat(image, attribution, top)
        mean = f"Grad-CAM, {domain}: mean {np.nanmean(attribution) / top:.3f} of the scale"
        row = [
            (mean, framed(coloured, label)),
            ("label", annotation(image, label)),
            ("detail", coloured[detail(label)]),
        ]
        rows.append(row)
    grid(path, rows, legend_of(TWO_PHASES, label=True))
    text = (
        f"What {experiment} recognises the foreground by, at layer {', '.join(sorted(layers)) or '(no run)'}: dark to "
        "bright on one scale for both domains."
    )
    return "Figure 7. Grad-CAM on the source and on t1", text, path


def framed(picture: np.ndarray, label: np.ndarray) -> np.ndarray:
    """A picture with the frame of its detail view, RGB uint8 (h, w, 3). label: mask (h, w)."""
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    rows, columns = detail(label)
    width = max(2, label.shape[1] // 150)
    return cv2.rectangle(rgb, (columns.start, rows.start), (columns.stop - 1, rows.stop - 1), FRAME, width)


def detail(label: np.ndarray) -> tuple[slice, slice]:
    """The slices (rows, columns) of the detail view: the place on a grid with the most even phases."""
    height, width = (max(1, side // DETAIL) for side in label.shape)
    rows, columns = (range(0, side - step + 1, step) for side, step in zip(label.shape, (height, width), strict=True))
    corners = [(row, column) for row in rows for column in columns]
    uneven = [abs(float(np.mean(label[r : r + height, c : c + width] == 1)) - 0.5) for r, c in corners]
    row, column = corners[int(np.argmin(uneven))]
    return slice(row, row + height), slice(column, column + width)


def _store(runs: published.StudyRuns, domain: str, experiments: Sequence[str] = ()) -> tuple[Store | None, int]:
    """Store of a domain and fold, as the runs of these experiments used them; (None, fold) without a store.

    The fold is the first that all of the experiments have scores of, else the first of any.
    """
    chosen = experiments or [line.experiment for line in published.findings()]
    places = [place for name in chosen if (place := runs.place(name))]
    configs = [config for place in places for config in runs.configs(place.run).items()]
    scored = [runs.scores(place.run, domain).keys() for place in places] if experiments else []
    common = set.intersection(*map(set, scored)) if scored else set()
    fold = min(common or {f for folds in scored for f in folds} or {f for f, _ in configs} or {0})
    for _, config in configs:
        path = store_path(config.get("data", "stores"), domain)
        try:
            return Store(path), fold
        except InputError as error:
            remark = f"no pictures of {domain}: {error}"
    if configs and remark not in runs.remarks:
        runs.remarks.append(remark)
    return None, fold


def _micrographs(store: Store | None, fold: int) -> list[int]:
    return store.evaluation_micrographs(fold if fold < store.folds else 0) if store else []


def _prediction(runs: published.StudyRuns, experiment: str, store: Store, fold: int, name: str) -> np.ndarray | str:
    """The prediction of a run on a micrograph, uint8 (h, w); a text that says why there is none."""
    place = runs.place(experiment)
    score = runs.scores(place.run, store.domain).get(fold) if place else None
    path = score["folder"] / "predictions" / f"{name}.png" if score else None
    if path is None or not path.is_file():
        return NO_RUN
    if score["store_fingerprint"] != store.fingerprint:
        return "of another version of the data"
    predicted = read_classes(path)
    return "damaged" if predicted is None else predicted
