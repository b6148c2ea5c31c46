"""Pictures of predictions: errors in colour over the micrograph, panels side by side, training curves."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.files import write_figure
from common.limits import IGNORED
from data.pictures import Colour, hatched, palette_of, tint
from data.store import TWO_PHASES, reported
from evaluation.metrics import Confusion

Captioned = tuple[str, np.ndarray | str | None]  # caption, and a picture or what is missing
Legend = tuple[tuple[str, Colour], ...]

OPACITY = 0.6
_PREDICTED = "phase_fraction_predicted"  # of a score; of more phases than two with the name of each


def legend_of(classes: Sequence[str], errors: bool = False, label: bool = False, prediction: bool = False) -> Legend:
    """Legend of what is tinted: errors of a prediction, a label, a prediction."""
    palette = palette_of(classes)
    if len(classes) > 2:
        names = list(zip(palette.names, palette.colours, strict=True))
        if not errors:
            return tuple(names[1:])
        return tuple(
            (f"{name}{' (predicted wrongly)' * (not place)}", colour) for place, (name, colour) in enumerate(names)
        )
    found = []
    if errors:
        found += [("false positive", palette.wrong[1]), ("false negative", palette.wrong[0])]
        found += [("outline of the prediction", palette.outlines[1])]
    kinds = ["labelled"] * label + ["predicted"] * prediction
    return (*found, *((f"{kind} {classes[1]}", palette.colours[1]) for kind in kinds))


def overlay(
    image: np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray | None = None,
    classes: Sequence[str] = TWO_PHASES,
) -> np.ndarray:
    """The micrograph in grey with a prediction in colour, RGB uint8 (h, w, 3).

    image: uint8 (h, w); prediction, label: class indices (h, w). With a label what is wrong is tinted, by what was
    predicted there, what is right stays grey, and what the label leaves out (IGNORED) is hatched; without one the
    phases found are tinted. They are outlined in both cases.
    """
    rgb, palette = np.repeat(image[..., None], 3, axis=2), palette_of(classes)
    if label is None:
        for phase, colour in palette.tints.items():
            tint(rgb, prediction == phase, colour, 0.35)
    else:
        wrong = (prediction != label) & (label != IGNORED)
        for phase, colour in enumerate(palette.wrong):
            tint(rgb, wrong & (prediction == phase), colour, OPACITY)
    for phase in palette.tints:
        region = (prediction == phase).astype(np.uint8)
        contours, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(rgb, contours, -1, palette.outlines[phase], 1)
    return rgb if label is None else hatched(rgb, label)


def annotation(image: np.ndarray, label: np.ndarray, classes: Sequence[str] = TWO_PHASES) -> np.ndarray:
    """The micrograph in grey with its label in colour, RGB uint8 (h, w, 3); IGNORED pixels of the label are hatched."""
    return hatched(overlay(image, label, classes=classes), label)


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
    classes: Sequence[str] = TWO_PHASES,
) -> list[Captioned]:
    """Columns for panel(): a micrograph, its label, and predictions of it with their captions.

    image: uint8 (h, w); label and predictions: class indices (h, w), None leaves a gap. With `errors` the wrong
    pixels are tinted, without them the phases found; see overlay().
    """
    compared = label if errors else None
    shown = [(text, mask if mask is None else overlay(image, mask, compared, classes)) for text, mask in predictions]
    text = "label" + " (hatched: does not count)" * bool((label == IGNORED).any())
    return [(title, image), (text, annotation(image, label, classes)), *shown]


def panel(
    path: Path | io.BytesIO,
    columns: list[Captioned],
    legend: Legend = (),
    title: str | None = None,
) -> None:
    """Save pictures side by side. columns: list of (caption, picture), as in grid()."""
    grid(path, [columns], legend, title, width=3.6 * len(columns), dpi=150)


def grid(
    path: Path | io.BytesIO,
    rows: list[list[Captioned]],
    legend: Legend = (),
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
            if lines > 2:  # what is left over goes above the pictures, or a long caption is cut
                axes.set_anchor("S")
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


def caption(name: str, confusion: Confusion, classes: Sequence[str] = TWO_PHASES) -> str:
    """A panel's caption: what it is, its mIoU, and the phase fractions predicted and labelled."""
    found = fractions_text(confusion, classes)
    text = f"{name}\nmIoU {100 * confusion.miou:.1f} %, phase fraction"
    if len(classes) == 2:
        return text + found[0]
    found = [line.strip().replace("label ", "") for line in found]
    pairs = [", ".join(found[place : place + 2]) for place in range(0, len(found), 2)]
    return "\n".join([f"{text} (label)", *pairs])


def fractions_text(confusion: Confusion, classes: Sequence[str]) -> list[str]:
    """Say each reported phase's fraction, predicted and labelled, after its name."""
    return [
        f"{end.replace('_', ' ', 1)} {100 * confusion.predicted[phase]:.1f} % "
        f"(label {100 * confusion.labelled[phase]:.1f} %)"
        for end, phase in reported(classes).items()
    ]


def comparison(path: Path | io.BytesIO, scores: dict[str, dict[str, dict]], methods: list[str]) -> None:
    """Save mIoU and phase fraction of each method on each domain, a dot for each seed, the label as a line.

    scores: {domain: {method: {seed: dict with miou, phase_fraction_predicted, phase_fraction_label}}}.
    """
    found = (key for of_method in scores.values() for seeds in of_method.values() for s in seeds.values() for key in s)
    ends = list(dict.fromkeys(key.removeprefix(_PREDICTED) for key in found if key.startswith(_PREDICTED)))
    shown = ["miou", *(f"{_PREDICTED}{end}" for end in ends)]
    figure = Figure((2.6 * len(scores) + 1, 2.1 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(scores), squeeze=False, sharey=True)
    for column, (domain, of_method) in zip(grid.T, scores.items(), strict=True):
        for axes, key in zip(column, shown, strict=True):
            for position, method in enumerate(methods):
                values = [v for score in of_method.get(method, {}).values() if (v := score.get(key)) is not None]
                axes.plot(np.multiply(values, 100), [position] * len(values), f"C{position}o", alpha=0.7)
            axes.set_yticks(range(len(methods)), methods, fontsize=8)
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.set_xlim(0, 100)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
        column[0].set_title(domain, fontsize=10, parse_math=False)
        column[0].set_xlabel("mIoU [%]", fontsize=8)
        for axes, end in zip(column[1:], ends, strict=True):
            key, each = f"phase_fraction_label{end}", (one for of in of_method.values() for one in of.values())
            for label in {score[key] for score in each if score.get(key) is not None}:
                axes.axvline(100 * label, color="black", linewidth=1)
            axes.set_xlabel(f"{end[1:] or 'phase fraction'} [%], line: label", fontsize=8, parse_math=False)
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
