"""Pictures of predictions: errors in colour over the micrograph, panels side by side, training curves."""

import io
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.files import write_figure
from common.limits import IGNORED
from data.pictures import FOREGROUND, Colour, hatched, tint
from evaluation.metrics import Confusion

Captioned = tuple[str, np.ndarray | str | None]  # caption, and a picture or what is missing
Legend = tuple[tuple[str, Colour], ...]

# Okabe and Ito's palette: told apart with every kind of colour blindness, and against grey.
FALSE_POSITIVE = (230, 120, 0)
FALSE_NEGATIVE = (0, 114, 230)
CONTOUR = (240, 228, 66)
OPACITY = 0.6
LEGEND = (
    ("false positive", FALSE_POSITIVE),
    ("false negative", FALSE_NEGATIVE),
    ("outline of the prediction", CONTOUR),
)
LEGEND_PREDICTION = (("predicted foreground", FOREGROUND),)
LEGEND_LABEL = (("labelled foreground", FOREGROUND),)


def overlay(image: np.ndarray, prediction: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """The micrograph in grey with a prediction in colour, RGB uint8 (h, w, 3).

    image: uint8 (h, w); prediction, label: masks (h, w), zero is background. With a label the false positives
    and false negatives are tinted and what is right stays grey, and what the label leaves out (IGNORED) is hatched;
    without one the foreground found is tinted. The prediction is outlined in both cases.
    """
    rgb = np.repeat(image[..., None], 3, axis=2)
    prediction = prediction.astype(bool)
    if label is None:
        tint(rgb, prediction, FOREGROUND, 0.35)
    else:
        tint(rgb, prediction & (label == 0), FALSE_POSITIVE, OPACITY)
        tint(rgb, ~prediction & (label != 0) & (label != IGNORED), FALSE_NEGATIVE, OPACITY)
    contours, _ = cv2.findContours(prediction.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(rgb, contours, -1, CONTOUR, 1)
    return rgb if label is None else hatched(rgb, label)


def annotation(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The micrograph in grey with its label in colour, RGB uint8 (h, w, 3); IGNORED pixels of the label are hatched."""
    return hatched(overlay(image, label == 1), label)


def heat(image: np.ndarray, attribution: np.ndarray, top: float) -> np.ndarray:
    """The map in colour over the micrograph, RGB uint8 (h, w, 3); `top` is the map's value of the last colour."""
    colour = colormaps["inferno"](np.clip(np.nan_to_num(attribution) / (top or 1), 0, 1))[..., :3] * 255
    grey = np.repeat(image[..., None], 3, axis=2)
    return np.where(np.isnan(attribution)[..., None], grey, (1 - OPACITY) * grey + OPACITY * colour).astype(np.uint8)


def side_by_side(
    title: str,
    image: np.ndarray,
    label: np.ndarray,
    predictions: list[tuple[str, np.ndarray | None]],
    errors: bool = True,
) -> list[Captioned]:
    """Columns for panel(): a micrograph, its label, and predictions of it with their captions.

    image: uint8 (h, w); label and predictions: masks (h, w), None leaves a gap. With `errors` the wrong pixels are
    tinted, without them the foreground found; see overlay().
    """
    compared = label if errors else None
    shown = [(text, mask if mask is None else overlay(image, mask, compared)) for text, mask in predictions]
    text = "label" + " (hatched: does not count)" * bool((label == IGNORED).any())
    return [(title, image), (text, annotation(image, label)), *shown]


def panel(
    path: Path | io.BytesIO,
    columns: list[Captioned],
    legend: Legend = LEGEND,
    title: str | None = None,
) -> None:
    """Save pictures side by side. columns: list of (caption, picture), as in grid()."""
    grid(path, [columns], legend, title, width=3.6 * len(columns), dpi=150)


def grid(
    path: Path | io.BytesIO,
    rows: list[list[Captioned]],
    legend: Legend = LEGEND,
    title: str | None = None,
    width: float = 11.0,
    dpi: int = 110,
) -> None:
    """Save rows of equal length of (caption, picture), the pictures uint8 (h, w) or RGB (h, w, 3).

    None or a text in a picture's place leaves a gap that says so. width: of all, in inches.
    """
    pictures = [picture for row in rows for _, picture in row if isinstance(picture, np.ndarray)]
    height = width / len(rows[0]) * (pictures[0].shape[0] / pictures[0].shape[1] if pictures else 0.25)
    lines = max(text.count("\n") for row in rows for text, _ in row)
    size = (width, (height + 0.18 * lines + 0.3) * len(rows) + 0.4)
    figure = Figure(size, layout="constrained")
    for line, row in zip(figure.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True):
        for axes, (text, picture) in zip(line, row, strict=True):
            axes.set_axis_off()
            axes.set_title(text, fontsize=8, parse_math=False)
            if isinstance(picture, np.ndarray):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            else:
                missing = picture or "no run"
                axes.text(0.5, 0.5, missing, ha="center", va="center", color="grey", transform=axes.transAxes)
    if title:
        figure.suptitle(title, fontsize=10, parse_math=False)
    patches = [Patch(color=np.divide(colour, 255), label=name) for name, colour in legend]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize=9)
    write_figure(path, figure, dpi)


def caption(name: str, confusion: Confusion) -> str:
    """A panel's caption: what it is, its mIoU, and the phase fraction predicted and labelled."""
    return (
        f"{name}\nmIoU {100 * confusion.miou:.1f} %, phase fraction "
        f"{100 * confusion.phase_fraction_predicted:.1f} % (label {100 * confusion.phase_fraction_label:.1f} %)"
    )


def comparison(path: Path | io.BytesIO, scores: dict[str, dict[str, dict]], methods: list[str]) -> None:
    """Save mIoU and phase fraction of each method on each domain, a dot for each seed, the label as a line.

    scores: {domain: {method: {seed: dict with miou, phase_fraction_predicted, phase_fraction_label}}}.
    """
    figure = Figure((2.6 * len(scores) + 1, 4.2), layout="constrained")
    grid = figure.subplots(2, len(scores), squeeze=False, sharey=True)
    for column, (domain, of_method) in zip(grid.T, scores.items(), strict=True):
        for axes, key in zip(column, ("miou", "phase_fraction_predicted"), strict=True):
            for position, method in enumerate(methods):
                values = [score[key] for score in of_method.get(method, {}).values() if score[key] is not None]
                axes.plot(np.multiply(values, 100), [position] * len(values), f"C{position}o", alpha=0.7)
            axes.set_yticks(range(len(methods)), methods, fontsize=8)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlim(0, 100)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
        labels = {score["phase_fraction_label"] for scored in of_method.values() for score in scored.values()}
        for label in labels:
            column[1].axvline(100 * label, color="black", linewidth=1)
        column[0].set_title(domain, fontsize=10, parse_math=False)
        column[0].set_xlabel("mIoU [%]", fontsize=8)
        column[1].set_xlabel("phase fraction [%], line: label", fontsize=8)
    write_figure(path, figure)


def curves(path: Path | io.BytesIO, runs: dict[str, list[dict]]) -> None:
    """Save training curves, one small plot for every logged quantity.

    runs: dict name -> list of dicts with `step`, the lines of metrics.jsonl; every number in them is drawn.
    """
    keys = sorted({key for lines in runs.values() for line in lines for key in line if _drawable(line, key)})
    if not keys:
        return
    columns = min(4, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure((3.2 * columns, 2.2 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(keys) :]:
        axes.set_axis_off()
    handles = {}
    for axes, key in zip(grid, keys, strict=False):
        for number, (name, lines) in enumerate(runs.items()):
            points = [(line["step"], line[key]) for line in lines if _drawable(line, key)]
            if points:
                steps, values = zip(*points, strict=True)
                marker = "." if len(points) < 12 else ""
                (handles[name],) = axes.plot(steps, values, f"C{number}", marker=marker, linewidth=1, label=name)
        axes.set_title(key, fontsize=8, parse_math=False)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.supxlabel("step", fontsize=8)
    figure.legend(handles=handles.values(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    write_figure(path, figure)


def _drawable(line: dict, key: str) -> bool:
    value = line.get(key)
    return key != "step" and isinstance(value, int | float) and np.isfinite(value)
