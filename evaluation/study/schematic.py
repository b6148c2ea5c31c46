"""Drawing of the origin of the supervised runs' weights, like the study's Figure 2."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from common.files import write_figure
from evaluation.scoring import read_config
from evaluation.study import published

Drawn = tuple[str, str, Path]  # title, explanation and file of a figure
Point = tuple[float, float]
HEIGHT = 1.25
STARTS = ("random", "imagenet", "nanosem")


def pretraining(runs: published.StudyRuns, path: Path) -> Drawn:
    """Figure 2: the two-stage pre-training and fine-tuning, as boxes with the experiments that were run."""
    of_start, stand_in = {start: [] for start in STARTS}, None
    for line in published.findings(2):
        config = next(iter(runs.configs(line.experiment).values()), None)
        start = published.option_text((config or {}).get("pretraining", line.pretraining))
        if start not in of_start and line.pretraining == "imagenet":
            start, stand_in = "imagenet", start
        of_start.setdefault(start, []).append((line.experiment, config is not None))
    pretrained = _pretrained(runs, "NanoSEM")
    figure = Figure((11, 1.75 * len(of_start) + 0.2), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 11)
    axes.set_ylim(0, 1.75 * len(of_start))
    level = {start: 1.75 * (len(of_start) - 1 - row) + 0.25 for row, start in enumerate(of_start)}
    used = pretrained or any(found for start in ("imagenet", "nanosem") for _, found in of_start[start])
    text = "1  ImageNet\nweights of the encoder"
    if stand_in:
        done = _pretrained(runs, stand_in.partition("/")[0]) or {"done": "no run"}
        text = f"1  in place of ImageNet:\n{stand_in}\n{done['done']}"
    imagenet = _box(axes, 0.1, level["imagenet"], 2.2, text, "#dbe9f6", used)
    done = f"{pretrained['done']}\nstarted from {pretrained['start']}" if pretrained else "no run"
    text = f"2  NanoSEM\nencoder with a\nclassification head\n{done}"
    nanosem = _box(axes, 3.0, level["nanosem"], 2.5, text, "#e3f1dc", pretrained)
    if not pretrained or pretrained["start"] in ("imagenet", stand_in):
        _arrow(axes, imagenet, nanosem, "encoder")
    test = _box(axes, 9.1, level["imagenet"], 1.8, "tested on the\nheld-out source,\nt1, t2 and t3", "#eeeeee")
    for start, experiments in of_start.items():
        names = ", ".join(name if found else f"({name})" for name, found in experiments) or "none"
        encoder = stand_in if start == "imagenet" and stand_in else start
        text = f"3  fine-tuning on the source\nencoder: {encoder}\nall else: random\n" + textwrap.fill(names, 32)
        end = _box(axes, 6.1, level[start], 2.6, text, "#fbe7d0", any(found for _, found in experiments))
        if start in ("imagenet", "nanosem"):
            _arrow(axes, imagenet if start == "imagenet" else nanosem, end, "encoder")
        _arrow(axes, end, test)
    write_figure(path, figure)
    text = "Which weights the supervised runs started from. In brackets or dashed: no run."
    return "Figure 2. Two-stage pre-training and fine-tuning", text, path


def _pretrained(runs: published.StudyRuns, name: str) -> dict[str, str] | None:
    """Facts of a pre-training run: `done`, and `start`, the weights that it started from; None without one."""
    folder = runs.root / name
    if not (folder / "finished.json").is_file() or not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    done = f"{config['steps']} steps" if config.get("steps") else f"{config.get('epochs')} epochs"
    return {"done": done, "start": published.option_text(config.get("pretraining"))}


def _box(
    axes: Axes, left: float, bottom: float, width: float, text: str, colour: str, found: bool = True
) -> tuple[Point, Point]:
    """A box with text; returns the middle of its left and right side."""
    edge = {"linestyle": "-" if found else "--", "edgecolor": "#444444" if found else "#999999"}
    patch = FancyBboxPatch((left, bottom), width, HEIGHT, "round,pad=0,rounding_size=0.08", facecolor=colour, **edge)
    axes.add_patch(patch)
    middle = bottom + HEIGHT / 2
    axes.text(left + width / 2, middle, text, ha="center", va="center", fontsize=9, parse_math=False)
    return (left, middle), (left + width, middle)


def _arrow(axes: Axes, start: tuple[Point, Point], end: tuple[Point, Point], text: str = "") -> None:
    """An arrow from one box's right side to the left side of another."""
    (x0, y0), (x1, y1) = start[1], end[0]
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": "#444444"})
    if text:
        aside = 0.15 if y0 != y1 else 0  # a slanted arrow has its text beside it
        place = ((x0 + x1) / 2 + aside, (y0 + y1) / 2 + 0.08)
        axes.text(*place, text, ha="left" if aside else "center", va="bottom", fontsize=8, color="#444444")
