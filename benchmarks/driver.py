"""Parts of all benchmarks: stores to run on, a training script's own loop under a clock, tables and JSON."""

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import torch
from torch import Tensor, nn

os.environ.setdefault("TQDM_DISABLE", "1")

from data.domains import read_domains
from data.prepare import prepare_domain
from training.configuration import parse
from training.distributed import Processes
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
    arguments: list,
    processes: Processes,
    fixed: Sequence[Tensor] | None,
    blocks: int,
    steps: int,
    before: Callable[["TimedRun"], None],
    watch: Callable[[], AbstractContextManager] = nullcontext,
) -> "TimedRun":
    """Run the loop of a training script itself, `blocks` times `steps` steps, and time each block.

    fixed: the batch of every step; None leaves the script its own loader. before(run) is called ahead of each block,
    off the clock; `watch()` is entered around each. Returns the run, with its clock's figures.
    """
    options = SimpleNamespace(**parse(script.__name__, "", list(map(str, arguments))))
    runs = []

    def timed(*given: object) -> TimedRun:
        runs.append(TimedRun(*given, fixed=fixed, blocks=blocks, steps=steps, before=before, watch=watch))
        return runs[0]

    script.train(options, processes, timed)
    return runs[0]


class TimedRun(Run):
    """A run whose batches keep the time.

    `seconds` are those of each block, `waits` those in which it waited for its tiles, `logged` the values of each step
    that is logged, `wrapped` what `parallel` made.
    """

    def __init__(
        self,
        *given: object,
        fixed: Sequence[Tensor] | None,
        blocks: int,
        steps: int,
        before: Callable,
        watch: Callable,
    ):
        self.fixed, self.blocks, self.steps, self.before, self.watch = fixed, blocks, steps, before, watch
        self.seconds, self.waits, self.logged, self.wrapped = [], [], [], []
        super().__init__(*given)

    def batches(self) -> Iterator[Sequence[Tensor]]:
        stream = super().batches() if self.fixed is None else itertools.repeat(self.fixed)
        for _ in range(self.blocks):
            self.before(self)
            self.waits.append(0.0)
            with self.watch():
                _wait(self.processes.device)
                began = time.perf_counter()
                for _ in range(self.steps):
                    asked = time.perf_counter()
                    batch = next(stream)
                    self.waits[-1] += time.perf_counter() - asked
                    yield batch
                _wait(self.processes.device)
                self.seconds.append(time.perf_counter() - began)

    def parallel(self, module: nn.Module) -> nn.Module:
        self.wrapped.append(super().parallel(module))
        return self.wrapped[-1]

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)


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


def _text(value: object) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.4g} ({value['least']:.4g} to {value['greatest']:.4g})"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
