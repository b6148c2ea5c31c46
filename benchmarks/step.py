"""Time, arithmetic and memory of a training step, against the step as published.

    python -m benchmarks.step --tile 256 --overlap 32 --batch-size 1 --amp off     # what docs/performance.md shows, CPU
    python -m benchmarks.step --batch-size 8 --no-published                        # T3.2's on a GPU: 8 + 8 tiles of 636
    python -m benchmarks.step --script train_supervised --no-published

The step is that of the training script itself, its own loop under a clock. The published one (benchmarks/published.py)
starts from the same weights on the same tiles and takes its turns in the same process, block by block.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.step")

import argparse
import copy
import importlib
import resource
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.driver import TimedRun, draw_stores, drive, matrix_rate, report, spread
from benchmarks.published import PlainHead, PublishedStep
from common.arguments import positive, whole
from common.errors import exits_cleanly
from data.store import Store
from data.tiles import LabelledTiles, UnlabelledTiles
from training.device import choose_algorithms, choose_device
from training.distributed import Processes
from training.precision import PRECISIONS

ITERATIONS = 42_000  # of experiment T3.2
WARM_UP = 5  # steps, until the allocators have the memory they need, cuDNN has chosen and everything is compiled


@exits_cleanly
def main() -> None:
    options = parse()
    processes = Processes(0, 1, choose_device())
    torch.set_num_threads(options.threads)
    choose_algorithms(deterministic=False, amp=options.amp)
    with tempfile.TemporaryDirectory() as name:
        stores = draw_stores(Path(name), options.tile, options.overlap)
        measure(options, processes, stores, Path(name) / "run")


def measure(options: argparse.Namespace, processes: Processes, stores: Path, run: Path) -> None:
    """Run the script's loop and the published step by turns, and print what it took."""
    adapting, device = options.script == "train_uda", processes.device
    fixed = batch_of(stores, options.batch_size, device)[: 3 if adapting else 2]
    arguments = [
        "--data", stores, "--run-dir", run, "--model", options.model, "--pretraining", "random", "--wandb", "disabled",
        "--batch-size", options.batch_size, "--amp", options.amp, "--steps", 10**6, "--schedule", "constant",
        "--log-every", options.steps, "--workers", options.workers,
        *(["--micro-batch", options.micro_batch] if options.micro_batch else []),
        *(["--compile"] if options.compile else []), *(["--target", "t3"] if adapting else []),
    ]  # fmt: skip
    published, losses, flops, memory = None, [], None, []
    seconds = {"this": [], "published": []}

    def before(run: TimedRun) -> None:
        """The published step's turn."""
        nonlocal published, flops
        if cuda_memory := device.type == "cuda":
            memory.append(torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        if flops is None:
            flops = arithmetic(run.networks["model"], run.networks.get("discriminators"), fixed)
        if not options.published:
            return
        if published is None:
            published = published_step(run.networks["model"], run.networks["discriminators"])
        began = time.perf_counter()
        for _ in range(options.steps):
            values = published(*fixed)
        if cuda_memory:
            torch.cuda.synchronize()
        seconds["published"].append((time.perf_counter() - began) / options.steps)
        losses.append({key: float(value) for key, value in values.items()})
        if cuda_memory:
            torch.cuda.reset_peak_memory_stats()

    warm_up = -(-WARM_UP // options.steps)
    blocks, traces, watched = warm_up + options.blocks, [], 0
    if options.profile:
        blocks += 1  # a last one, which the profiler slows down

    def watch() -> AbstractContextManager:
        nonlocal watched
        watched += 1
        if not options.profile or watched < blocks:
            return nullcontext()
        traces.append(traced())
        return traces[-1]

    given = None if options.loader else fixed
    script = importlib.import_module(options.script)
    run = drive(script, arguments, processes, given, blocks, options.steps, before, watch)
    seconds["this"] = [value / options.steps for value in run.seconds]

    dtype = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[options.amp]
    peak = matrix_rate(device, dtype)
    measured = slice(warm_up, warm_up + options.blocks)
    mine = seconds["this"][measured]
    row = {
        "step": options.script, "model": options.model, "tile px": options.tile + 2 * options.overlap,
        "batch": f"{options.batch_size} + {options.batch_size}" if adapting else str(options.batch_size),
        "amp": options.amp, "compiled": options.compile, "seconds": spread(mine), "TFLOP": flops / 1e12,
        "TFLOP/s": flops / 1e12 / spread(mine)["median"], "matrix TFLOP/s": peak / 1e12,
        "share of it": flops / spread(mine)["median"] / peak,
        "peak GiB": max(memory[1:]) / 2**30 if device.type == "cuda" else resident() / 2**30,
    }  # fmt: skip
    if options.published:
        theirs = seconds["published"][measured]
        row["published, seconds"] = spread(theirs)
        row["times faster"] = spread([plain / this for plain, this in zip(theirs, mine, strict=True)])
        differences = [
            abs(theirs[key] - ours[key]) / abs(theirs[key])
            for theirs, ours in zip(losses, run.logged, strict=True)
            for key in theirs
        ]
        row["losses differ, first block"] = max(differences[: len(losses[0])])
        row["last block"] = max(differences[-len(losses[0]) :])
    if options.loader:
        row["waited for tiles"] = sum(run.waits[measured]) / sum(run.seconds[measured])
    if adapting and device.type == "cuda":
        row[f"hours for {ITERATIONS} steps"] = spread(mine)["median"] * ITERATIONS / 3600
    report("A training step", [row], options.json)
    if options.profile:
        table(traces[-1], "this step", options.profile)
        if options.published:
            with traced() as trace:
                published(*fixed)
            table(trace, "the published step", options.profile)


def batch_of(stores: Path, size: int, device: torch.device) -> list[torch.Tensor]:
    """Make a batch of images, masks and target images: the first tiles of both stores, as often as it takes."""
    source = LabelledTiles(Store(stores / "source.h5"), 0, "none", 0)
    target = UnlabelledTiles(Store(stores / "t3.h5", labels=False), 0, "none", 0)
    items = [source[(0, n % len(source))] + target[(0, n % len(target))] for n in range(size)]
    return [torch.stack(tensors).to(device) for tensors in zip(*items, strict=True)]


def published_step(model: torch.nn.Module, discriminators: torch.nn.Module) -> PublishedStep:
    """On copies of the networks in torch's default memory format, with the optimizers of T3.2."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    model.main_head, model.aux_head = PlainHead(model.main_head), PlainHead(model.aux_head)
    judges = copy.deepcopy(discriminators).to(memory_format=torch.contiguous_format).networks
    optimizer = torch.optim.Adam(models.parameter_groups(model, 1e-3, 0.1))
    optimizers_D = {
        level: torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.9, 0.99)) for level, network in judges.items()
    }
    return PublishedStep(model, judges, optimizer, optimizers_D, 0.1, {"main": 1e-3, "aux": 2e-4})


def arithmetic(model: torch.nn.Module, discriminators: torch.nn.Module | None, fixed: list) -> int:
    """FLOP of the published step, counted by torch from the shapes: nothing is computed, and the networks stay.

    Without discriminators: those of a forward and a backward pass.
    """
    shapes = [tensor.to("meta") for tensor in fixed]
    model = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        if discriminators is None:
            sum(logits.mean() for logits in model(shapes[0]).values()).backward()
        else:
            published_step(model, copy.deepcopy(discriminators).to("meta"))(*shapes)
    return counter.get_total_flops()


def resident() -> int:
    """Bytes that this process has had in memory at most, with the published step's where that was run."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def traced() -> profile:
    """A profiler of the operations, and of the kernels where there is a GPU."""
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * torch.cuda.is_available())])


def table(trace: profile, name: str, rows: int) -> None:
    """The operations that took most of the time themselves; on a GPU the time of the kernels that each started."""
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    events = [e for e in trace.key_averages() if e.device_type == torch.autograd.DeviceType.CPU]
    events = sorted((e for e in events if not e.is_user_annotation), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    print(f"\nOperations of {name}, {total / 1e3:.0f} ms in all\n\n| operation | calls | ms | share |")
    print("|---|---|---|---|")
    for event in events[:rows]:
        took = getattr(event, key)
        print(f"| {event.key} | {event.count} | {took / 1e3:.1f} | {took / total:.1%} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", choices=("train_uda", "train_supervised"), default="train_uda")
    parser.add_argument("--model", choices=models.MODELS, default="deeplabv2_resnet101")
    parser.add_argument("--tile", type=int, default=512, help="px (default: the study's 512)")
    parser.add_argument("--overlap", type=int, default=62, help="px of context on each side (default: 62)")
    parser.add_argument("--batch-size", type=positive, default=1, help="tiles of each domain")
    parser.add_argument("--micro-batch", type=positive, help="as the training scripts have it")
    parser.add_argument("--amp", choices=PRECISIONS, default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-published", dest="published", action="store_false", help="leave out the yardstick")
    parser.add_argument("--loader", action="store_true", help="tiles from the script's own loader, and its waits")
    parser.add_argument("--workers", type=whole, default=0, help="processes of the loader for each domain")
    parser.add_argument("--steps", type=positive, default=1, help="in a block, between two looks at the clock")
    parser.add_argument("--blocks", type=positive, default=5, help=f"measured, after {WARM_UP} steps of warming up")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--profile", type=whole, metavar="ROWS", default=0, help="list the costliest operations")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.script == "train_supervised":
        options.published = False  # it has no published recipe to compare with
    return options


if __name__ == "__main__":
    main()
