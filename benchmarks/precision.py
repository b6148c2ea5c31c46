"""Mixed precision against fp32: curves of several seeds in both, and the difference beside the noise.

    make demo && python -m benchmarks.precision --jobs 2 --picture docs/images/precision.png

Trains `demo.supervised` on the demonstration's stores with --amp off and with --amp bf16 (or fp16), a run a seed.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.precision")

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.driver import report
from common.arguments import positive, whole
from common.errors import InputError, exits_cleanly

WINDOW = 100  # steps over which a loss is averaged


@exits_cleanly
def main() -> None:
    options = parse()
    precisions = ("off", options.amp)
    curves = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        wanted = [(amp, seed) for seed in options.seeds for amp in precisions]
        for key, curve in zip(wanted, pool.map(lambda key: train(Path(name), *key, options), wanted), strict=True):
            curves[key] = curve
            print(f"--amp {key[0]} --seed {key[1]}: done", flush=True)
    rows = []
    for measure, percent in (("loss_seg_main", 1), ("miou_source_validation", 100)):
        steps = next(iter(curves.values()))[measure][0]
        values = {
            amp: percent * np.array([curves[amp, seed][measure][1] for seed in options.seeds]) for amp in precisions
        }
        for place, step in enumerate(steps):
            fp32, low = (values[amp][:, place] for amp in precisions)
            row = {"measure": measure, "step": int(step), "fp32": f"{fp32.mean():.4g} ± {fp32.std(ddof=1):.2g}"}
            row |= {options.amp: f"{low.mean():.4g} ± {low.std(ddof=1):.2g}"}
            paired = low - fp32
            rows.append(row | {"difference, seed by seed": f"{paired.mean():+.2g} ± {paired.std(ddof=1):.2g}"})
    report(f"{options.amp} against fp32, {len(options.seeds)} seeds", rows, options.json)
    if options.picture:
        draw(curves, options)


def train(folder: Path, amp: str, seed: int, options: argparse.Namespace) -> dict[str, tuple]:
    """The curve of a run: measure -> (steps, values), the loss averaged over WINDOW steps."""
    run = folder / f"{amp}-{seed}"
    command = [
        sys.executable, "train_supervised.py", "--experiment", "demo.supervised", "--data", options.data, "--amp", amp,
        "--seed", seed, "--run-dir", run, "--log-every", 1, "--validate-every", WINDOW, "--panels-every", 10**6,
        "--wandb", "disabled", "--workers", 0, *(["--steps", options.steps] if options.steps else []),
    ]  # fmt: skip
    trained = subprocess.run([str(word) for word in command], check=False, stderr=subprocess.PIPE, text=True)
    if trained.returncode:
        raise InputError(f"{run}: training ended with status {trained.returncode}: {trained.stderr[-500:]}")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = np.array([line["loss_seg_main"] for line in lines if "loss_seg_main" in line])
    windows = losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(axis=1)
    scores = [(line["step"], line["miou_source_validation"]) for line in lines if "miou_source_validation" in line]
    return {
        "loss_seg_main": (WINDOW * np.arange(1, len(windows) + 1), windows),
        "miou_source_validation": tuple(map(np.array, zip(*scores, strict=True))),
    }


def draw(curves: dict, options: argparse.Namespace) -> None:
    """Every run's curve, fp32 and mixed precision in two colours."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for (amp, seed), curve in curves.items():
        for axis, (measure, (steps, values)) in zip(axes, curve.items(), strict=True):
            label = ("fp32" if amp == "off" else amp) if seed == options.seeds[0] else None
            axis.plot(steps, values, color="C0" if amp == "off" else "C1", label=label, marker=".")
            axis.set(title=measure, xlabel="step")
    axes[0].legend()
    figure.savefig(options.picture, dpi=90)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="runs/demo/seed0/stores", help="stores of make demo")
    parser.add_argument("--amp", choices=("bf16", "fp16"), default="bf16")
    parser.add_argument("--seeds", type=whole, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=positive, help="by default the experiment's")
    parser.add_argument("--jobs", type=positive, default=1, help="runs at once")
    parser.add_argument("--picture", metavar="FILE", help="draw the curves")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
