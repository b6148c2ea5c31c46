"""Tests of a classifier, and the files that report each class."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from common.files import write_csv, write_figure
from data.nanosem.image_store import ImageStore
from training.distributed import Processes, total

_BATCH = 64


def classify(model: torch.nn.Module, store: ImageStore, pictures: np.ndarray, processes: Processes) -> np.ndarray:
    """Confusion matrix, int64 (classes, classes), true class by predicted one. The processes divide the pictures.

    The predicted class is that of the highest logit. The model is left in training mode.
    """
    count = len(store.classes)
    matrix = np.zeros((count, count), np.int64)
    mine = pictures[processes.rank :: processes.world]
    model.eval()
    with torch.inference_mode():
        for chosen in np.array_split(mine, max(1, -(-len(mine) // _BATCH))):
            if len(chosen):
                images = torch.from_numpy(np.stack([store.image(k) for k in chosen]))[:, None].to(processes.device)
                np.add.at(matrix, (store.labels[chosen], model(images).argmax(dim=1).cpu().numpy()), 1)
    model.train()
    return np.array(total(matrix.ravel().tolist(), processes)).reshape(matrix.shape)


def accuracy(matrix: np.ndarray) -> float:
    """Fraction of the pictures whose class is predicted."""
    return float(np.trace(matrix) / matrix.sum())


def class_report(matrix: np.ndarray, classes: list[str]) -> list[dict]:
    """Precision, recall, F1 (fractions of 1; nan where undefined) and support of each class, then of their mean."""
    right, predicted, support = np.diag(matrix).astype(float), matrix.sum(axis=0), matrix.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / predicted, right / support
        f1 = 2 * right / (predicted + support)
    rows = [
        {"class": name, "precision": p, "recall": r, "f1": f, "support": int(n)}
        for name, p, r, f, n in zip(classes, *(v.tolist() for v in (precision, recall, f1, support)), strict=True)
    ]
    means = {key: float(np.nanmean([row[key] for row in rows])) for key in ("precision", "recall", "f1")}
    return [*rows, {"class": "mean of classes", **means, "support": int(support.sum())}]


def write_report(folder: Path, name: str, matrix: np.ndarray, classes: list[str]) -> None:
    """Write report_<name>.csv, confusion_<name>.csv (rows: true class) and confusion_<name>.png into a folder."""
    write_csv(folder / f"report_{name}.csv", class_report(matrix, classes))
    rows = [
        {"true class": true, **dict(zip(classes, counts.tolist(), strict=True))}
        for true, counts in zip(classes, matrix, strict=True)
    ]
    write_csv(folder / f"confusion_{name}.csv", rows)
    picture = _picture(matrix, classes, f"{name}: accuracy {100 * accuracy(matrix):.1f} %")
    write_figure(folder / f"confusion_{name}.png", picture, dpi=150)


def _picture(matrix: np.ndarray, classes: list[str], title: str) -> Figure:
    """The confusion matrix, each row as fractions of its true class, counts written in."""
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.55 * len(classes)
    figure = Figure((side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(ticks, classes, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, label="fraction of the true class")
    return figure
