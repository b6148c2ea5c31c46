"""What the benchmarks share: stores to run on, a training script's own loop under a clock, tables and JSON."""

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import torch

os.environ.setdefault("TQDM_DISABLE", "1")

from data.domains import read_domains
from data.prepare import prepare_domain
from training.options import parse
from training.run import Run

_TOML = """
[options]
reference = "source"
scale = 1.0
tile = {tile}
overlap = {overlap}

[domains.source]
images = "source/images"
masks = "source/masks"
foreground = [255]
pixel_size_nm = 27.7
folds = 2

[domains.t3]
images = "t3/images"
pixel_size_nm = 27.7
"""


class _Enough(Exception):
    """Ends a script's loop."""


def draw_stores(folder: Path, tile: int, overlap: int, micrographs: int = 8) -> Path:
    """Tile stores `source` and `t3` of smoothed noise, a tile a micrograph, masks of half their pixels."""
    rng = np.random.default_rng(0)
    for domain in ("source", "t3"):
        for kind in ("images", "masks"):
            (folder / domain / kind).mkdir(parents=True)
        for n in range(micrographs):
            smooth = cv2.GaussianBlur(rng.standard_normal((tile, tile), dtype=np.float32), (0, 0), 4)
            grey = np.clip(128 + 500 * smooth + 20 * rng.standard_normal((tile, tile)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / domain / "images" / f"m{n}.png"), grey)
            cv2.imwrite(str(folder / domain / "masks" / f"m{n}.png"), 255 * (smooth > 0).astype(np.uint8))
    (folder / "domains.toml").write_text(_TOML.format(tile=tile, overlap=overlap))
    options, domains = read_domains(folder / "domains.toml")
    for domain in domains.values():
        prepare_domain(options, domain, folder / "stores")
    return folder / "stores"


def drive(
    script: ModuleType,
    experiment: str,
    arguments: list,
    processes,
    batches: list | None,
    blocks: int,
    steps: int,
    before: Callable[[SimpleNamespace], None],
    watch: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[list[float], SimpleNamespace]:
    """Run the loop of a training script itself, `blocks` times `steps` steps, and time each block.

    batches: what each of the script's streams yields every time; None leaves it its own loader. before(seen) is called
    ahead of each block, off the clock; `watch()` is entered around each. Returns the seconds of each block and what was
    seen: `model`, `discriminators`, `parallel` (what DDP wraps), `logged` (the values of each step that is logged) and
    `waits` (the seconds of each block in which the script waited for its tiles).
    """
    options = SimpleNamespace(**parse(script.__name__, experiment, "", list(map(str, arguments))))
    seconds, clock = [], 0.0
    seen = SimpleNamespace(model=None, discriminators=None, parallel=[], logged=[], waits=[])
    positions, own_batches, own_parallel = iter(range(9)), script.batches, script.distributed.parallel
    stack = ExitStack()

    def feed(tiles, *span):
        nonlocal clock, stack
        position = next(positions)
        stream = iter(own_batches(tiles, *span)) if batches is None else None
        for step in range(blocks * steps + 1):
            if position == 0 and step % steps == 0:
                _wait(processes.device)
                if step:
                    seconds.append(time.perf_counter() - clock)
                    stack.close()
                if step == blocks * steps:
                    raise _Enough
                before(seen)
                stack = ExitStack()
                stack.enter_context(watch())
                _wait(processes.device)
                seen.waits.append(0.0)
                clock = time.perf_counter()
            began = time.perf_counter()
            batch = batches[position] if stream is None else next(stream)
            seen.waits[-1] += time.perf_counter() - began
            yield batch

    def remember(name, make):
        def made(*arguments, **more):
            setattr(seen, name, make(*arguments, **more))
            return getattr(seen, name)

        return made

    def parallel(module, among):
        seen.parallel.append(own_parallel(module, among))
        return seen.parallel[-1]

    class Recorded(Run):
        def log(self, values):
            seen.logged.append(values)

    patches = {"batches": feed, "build_model": remember("model", script.build_model), "Run": Recorded}
    if hasattr(script, "Discriminators"):
        patches["Discriminators"] = remember("discriminators", script.Discriminators)
    with ExitStack() as patched:
        for name, value in patches.items():
            patched.enter_context(mock.patch.object(script, name, value))
        patched.enter_context(mock.patch.object(script.distributed, "parallel", parallel))
        with suppress(_Enough):
            script.train(options, processes)
    return seconds, seen


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product of random numbers here, the best of ten: what the hardware gives at most.

    The matrices grow until a product takes 50 ms or has 8,192 rows: a CPU may be a hundred times slower in fp16.
    """
    side, best = 256, 0.0
    while best < 0.05 and side < 8192:
        side *= 2
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        best = float("inf")
        for _ in range(10):
            _wait(device)
            began = time.perf_counter()
            a @ b
            _wait(device)
            best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest, to four digits."""
    numbers = {"median": statistics.median(values), "least": min(values), "greatest": max(values)}
    return {name: float(f"{value:.4g}") for name, value in numbers.items()}


def report(title: str, rows: list[dict], path: str | None) -> None:
    """Print rows of the same keys as a Markdown table, and write them as JSON, with what they ran on."""
    gpu = torch.cuda.is_available()
    machine = {
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
    }
    print(f"\n{title} ({', '.join(f'{k} {v}' for k, v in machine.items())})\n")
    table = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    if len(rows) == 1:  # too wide otherwise
        table = [["what", "value"], *map(list, zip(*table, strict=True))]
    for line in (table[0], ["---"] * len(table[0]), *table[1:]):
        print("| " + " | ".join(line) + " |")
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps({"title": title, "machine": machine, "rows": rows}, indent=2) + "\n")


def _text(value) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.4g} ({value['least']:.4g} to {value['greatest']:.4g})"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
