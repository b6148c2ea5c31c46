"""Efficiency and communication of adaptation steps on 1, 2 and 4 processes.

    python -m benchmarks.scaling --processes 1 2 4

Every process has the same number of tiles whatever their number, so an ideal machine needs the same time for a step.
Steps that exchange gradients are compared with steps that do not, by turns in one run; synchronised batch norm (GPUs)
is in both.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.scaling")

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from torch.nn.parallel import DistributedDataParallel

import models
import train_uda
from benchmarks.driver import TimedRun, draw_stores, drive, report, spread
from benchmarks.step import batch_of
from common.arguments import positive
from common.errors import exits_cleanly
from training import distributed
from training.configuration import parse as parse_training
from training.precision import PRECISIONS


@exits_cleanly
def main() -> None:
    options = parse()
    if "RANK" in os.environ:
        training = SimpleNamespace(**parse_training("train_uda", "", training_arguments(options)))
        return distributed.together(lambda _, processes: one_process(options, processes), training)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_stores(folder, options.tile, options.overlap)
        rows = []
        for count in options.processes:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
            command = [sys.executable, *launcher, "-m", "benchmarks.scaling", *sys.argv[1:], "--folder", name]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            outcome = json.loads((folder / "outcome.json").read_text())
            rows.append({"processes": count, "step, seconds": spread(outcome["sharing"])})
            rows[-1]["efficiency"] = rows[0]["step, seconds"]["median"] / rows[-1]["step, seconds"]["median"]
            pairs = zip(outcome["sharing"], outcome["alone"], strict=True)
            shares = [1 - alone / sharing for sharing, alone in pairs]
            rows[-1]["share of exchanging gradients"] = spread(shares) if count > 1 else None
    size = f"{options.batch_size} + {options.batch_size} tiles of {options.tile + 2 * options.overlap} px a process"
    report(f"Scaling of {options.model}, {size}, amp {options.amp}", rows, options.json)


def one_process(options: argparse.Namespace, processes: distributed.Processes) -> None:
    """Process that torchrun starts: blocks with and without the exchange of gradients, by turns."""
    folder = Path(options.folder)
    fixed, turn = batch_of(folder / "stores", options.batch_size, processes.device), 0

    def before(run: TimedRun) -> None:
        nonlocal turn
        for module in run.wrapped:
            if isinstance(module, DistributedDataParallel):
                module.require_backward_grad_sync = turn % 2 == 0
        turn += 1

    blocks = 2 * (options.blocks + 1)
    run = drive(train_uda, training_arguments(options), processes, fixed, blocks, options.steps, before)
    seconds = [value / options.steps for value in run.seconds[2:]]  # the first of each kind warms up
    if processes.is_main:
        outcome = {"sharing": seconds[::2], "alone": seconds[1::2]}
        (folder / "outcome.json").write_text(json.dumps(outcome))


def training_arguments(options: argparse.Namespace) -> list[str]:
    """Arguments of train_uda.py in a process that torchrun started."""
    world, folder = int(os.environ["WORLD_SIZE"]), Path(options.folder)
    arguments = [
        "--target", "t3", "--data", folder / "stores", "--run-dir", folder / f"run{world}", "--model", options.model,
        "--pretraining", "random", "--wandb", "disabled", "--batch-size", options.batch_size * world,
        "--amp", options.amp, "--steps", 10**6, "--schedule", "constant", "--log-every", options.steps,
    ]  # fmt: skip
    return list(map(str, arguments))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=positive, nargs="+", default=[1, 2, 4])
    parser.add_argument("--model", choices=models.MODELS, default="deeplabv2_resnet18")
    parser.add_argument("--tile", type=int, default=256, help="px")
    parser.add_argument("--overlap", type=int, default=32, help="px of context on each side")
    parser.add_argument("--batch-size", type=positive, default=1, help="tiles of each domain for a process")
    parser.add_argument("--amp", choices=PRECISIONS, default="off")
    parser.add_argument("--steps", type=positive, default=1, help="in a block, between two looks at the clock")
    parser.add_argument("--blocks", type=positive, default=5, help="of each kind")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
