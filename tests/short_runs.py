"""Short runs of the demonstration's network, how they are started, and what they leave."""

import json
import os
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from conftest import ROOT, run

import train_uda
from training import distributed
from training.configuration import parse

STEPS = 20


def uda_arguments(stores: Path, folder: Path, *more: object, target: str = "labelled") -> list[str]:
    """Return the options of an adaptation in STEPS updates; where `more` gives one of them again, it wins."""
    return ["--experiment", "demo.uda", "--target", target, *_arguments(stores, folder, more)]


def supervised_arguments(stores: Path, folder: Path, *more: object) -> list[str]:
    """Return the same of a training on the source alone."""
    return ["--experiment", "demo.supervised", *_arguments(stores, folder, more)]


def selftraining_arguments(stores: Path, folder: Path, *more: object, target: str = "labelled") -> list[str]:
    """Return the same of a self-training."""
    return ["--experiment", "small.DACS-t3", "--target", target, *_arguments(stores, folder, more)]


def translation_arguments(stores: Path, folder: Path, *more: object) -> list[str]:
    """Return the same of a translation, without the pictures that the others draw."""
    words = _arguments(stores, folder, more)
    at = words.index("--panels-every")
    return ["--experiment", "small.translation-t3", "--target", "labelled", *words[:at], *words[at + 2 :]]


def _arguments(stores: Path, folder: Path, more: tuple) -> list[str]:
    common = (
        "--data", stores, "--run-dir", folder, "--steps", STEPS, "--batch-size", 4, "--log-every", 1,
        "--validate-every", 10, "--checkpoint-every", 7, "--panels-every", 1000, "--workers", 0, "--wandb", "disabled",
    )  # fmt: skip
    return list(map(str, (*common, *more)))


def uda(
    stores: Path, folder: Path, *more: object, target: str = "labelled", processes: int = 0, ok: bool = True
) -> subprocess.CompletedProcess:
    """Adapt with frozen batch norm, under torchrun where `processes` are given.

    The arithmetic then depends neither on the number of processes nor on the size of the micro-batches.
    """
    arguments = uda_arguments(stores, folder, "--batch-norm", "frozen", *more, target=target)
    return run("train_uda.py", *arguments, processes=processes, ok=ok)


def adapt_arguments(trained: Path, *more: object) -> tuple:
    """Options of an adaptation in 4 updates from a trained model. The rates are low, so that rounding does not grow."""
    rates = ("--learning-rate", 5e-4, "--discriminator-learning-rate", 1e-4)
    short = ("--steps", 4, "--validate-every", 1000, "--batch-norm", "frozen")
    return (*short, "--pretraining", trained / "last.pt", *rates, *more)


def adapt(stores: Path, trained: Path, folder: Path, *more: object, processes: int = 0) -> None:
    """Run the adaptation that adapt_arguments describes."""
    uda(stores, folder, *adapt_arguments(trained, *more), processes=processes)


def uda_here(stores: Path, folder: Path, *more: object) -> None:
    """Adapt in this process, where a test may replace parts of the program."""
    config = parse("train_uda", "", uda_arguments(stores, folder, *more))
    distributed.together(train_uda.train, SimpleNamespace(**config))


def metrics(folder: Path) -> list[dict]:
    """Read the lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps_on_record(folder: Path) -> int:
    """Count the lines that updates left in metrics.jsonl, while the run writes it or before it does."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b'"learning_rate":') if path.exists() else 0


def stopped_after(
    line: list[str], folder: Path, step: int, number: int, code: Path = ROOT, seconds: float = 120
) -> tuple[str, int]:
    """Start a command line, and send a signal to rank 0 (or the only process) when so many steps are on record.

    Returns what was printed and the exit status. code: the folder that the command is started in.
    """
    process = subprocess.Popen(line, cwd=code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + seconds
    while steps_on_record(folder) < step:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    under_torchrun = "torch.distributed.run" in line
    os.kill(int(children.split()[0]) if under_torchrun else process.pid, number)
    return process.communicate(timeout=seconds)[0], process.returncode


def weights(folder: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """Read the weights of every network from one of a run's checkpoints."""
    state = torch.load(folder / name, weights_only=True)
    networks = {key: value for key, value in state.items() if isinstance(value, dict)}
    named = ((f"{key}.{name}", value) for key, network in networks.items() for name, value in network.items())
    return {name: value for name, value in named if isinstance(value, torch.Tensor)}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


def differences(one: Path, other: Path, tolerance: float = 0.0) -> list[str]:
    """Name what differs between the results of two runs; nothing does where both are equal bit for bit.

    Compared are both checkpoints without their configuration (it names the folder), metrics.jsonl and finished.json.
    With a tolerance, numbers may differ relatively by so much, or by a hundredth of it.
    """
    found = []
    for name in ("last.pt", "best.pt", "metrics.jsonl", "finished.json"):
        ours, theirs = (_leaves(_read(folder / name)) for folder in (one, other))
        found += [f"{name}{key} in one of them" for key in sorted(ours.keys() ^ theirs.keys())]
        found += [f"{name}{k}" for k in ours if k in theirs and not _same(ours[k], theirs[k], tolerance)]
    return found


def _read(path: Path) -> object:
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)
    return [json.loads(line) for line in path.read_text().splitlines()]


def _leaves(value: object, name: str = "") -> dict:
    """List the leaves of nested dicts and lists by their path."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in items if key != "config" for k, v in _leaves(part, f"{name}/{key}").items()}


def _same(one: object, other: object, tolerance: float) -> bool:
    if tolerance and isinstance(one, torch.Tensor | float):
        one, other = (torch.as_tensor(value, dtype=torch.float64) for value in (one, other))
        return torch.allclose(one, other, rtol=tolerance, atol=tolerance / 100)
    if torch.is_tensor(one):
        return torch.is_tensor(other) and one.dtype == other.dtype and torch.equal(one, other)
    return one == other
