"""Nothing that makes training fast changes it, and the benchmarks run."""

import importlib
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, run
from short_runs import metrics, uda, weights
from torch.utils.flop_counter import FlopCounterMode

import data.store
import models
from data.store import Store
from data.tiles import LabelledTiles, UnlabelledTiles


def test_tiles_held_in_memory_are_the_tiles_of_the_file(stores, monkeypatch):
    held = LabelledTiles(Store(stores / "source.h5"), 0, "extended", 0)
    monkeypatch.setattr(data.store, "HELD", 0)
    read = LabelledTiles(Store(stores / "source.h5"), 0, "extended", 0)
    assert held.store._held and not read.store._held
    for index in range(len(held)):
        for a, b in zip(held[3, index], read[3, index], strict=True):
            assert torch.equal(a, b)
    first = held.store.tile_image(held.tiles[0])
    first[:] = 0
    assert held.store.tile_image(held.tiles[0]).any(), "what a caller does to a tile stays with the caller"


def test_compiled_equals_eager(stores, tmp_path):
    for name, more in (("eager", ()), ("compiled", ("--compile",))):
        uda(stores, tmp_path / name, "--steps", 3, "--validate-every", 3, "--learning-rate", 5e-4, *more)
    compiled, eager = (metrics(tmp_path / name) for name in ("compiled", "eager"))
    for a, b in zip(compiled, eager, strict=True):
        assert a == pytest.approx(b, rel=2e-3, abs=1e-4)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights(tmp_path / "eager").values(), weights(tmp_path / "compiled").values(), strict=True)
    ), "other kernels round otherwise: the option does something"


def test_the_benchmark_of_the_step_compares_like_with_like(tmp_path):
    small = ["--model", "deeplabv2_small", "--tile", 48, "--overlap", 8, "--amp", "off", "--blocks", 2]
    run("-m", "benchmarks.step", *small, "--batch-size", 2, "--profile", 3, "--json", tmp_path / "step.json")
    (row,) = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert row["losses differ, first block"] < 1e-5 and row["TFLOP"] > 0 and row["times faster"]["least"] > 0
    run("-m", "benchmarks.step", *small, "--script", "train_supervised", "--loader", "--json", tmp_path / "step.json")
    (row,) = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert 0 < row["waited for tiles"] < 1 and "times faster" not in row


@pytest.mark.parametrize("adapting", [True, False])
def test_the_arithmetic_of_a_step_is_counted_without_doing_it(monkeypatch, adapting):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as below
    step = importlib.import_module("benchmarks.step")
    model = models.domain_batch_norm(models.build("deeplabv2_small")).train()
    discriminators = models.Discriminators(model.levels) if adapting else None
    batch = [torch.zeros(3, 1, side, side, dtype=torch.uint8) for side in (64, 48, 64)]
    counted = step.arithmetic(model, discriminators, batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    with FlopCounterMode(display=False) as done:
        if adapting:
            step.published_step(model, discriminators)(*batch)
        else:
            sum(logits.mean() for logits in model(batch[0]).values()).backward()
    assert counted == done.get_total_flops() > 0


def test_the_benchmark_of_the_step_knows_how_long_it_waited_for_tiles(tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the benchmarks set it for good on import, for this test alone
    step = importlib.import_module("benchmarks.step")
    read = UnlabelledTiles.__getitem__

    def slow(tiles, key):
        time.sleep(0.2)
        return read(tiles, key)

    monkeypatch.setattr(UnlabelledTiles, "__getitem__", slow)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    written = tmp_path / "step.json"
    monkeypatch.setattr(sys, "argv", [
        "step", "--model", "deeplabv2_small", "--tile", "48", "--overlap", "8", "--amp", "off", "--steps", "3",
        "--blocks", "2", "--loader", "--no-published", "--json", str(written),
    ])  # fmt: skip
    step.main()
    (row,) = json.loads(written.read_text())["rows"]
    assert row["waited for tiles"] * row["seconds"]["median"] == pytest.approx(0.2, rel=0.5), "a tile a step"
    assert not torch.backends.cudnn.allow_tf32, "--amp off, as in training"


def test_the_benchmark_of_the_loader(tmp_path):
    run("-m", "benchmarks.loader", "--tile", 48, "--overlap", 8, "--tiles", 3, "--rounds", 2, "--workers", 0, 1,
        "--picture", tmp_path / "elastic.png", "--json", tmp_path / "loader.json")  # fmt: skip
    rows = {name: json.loads((tmp_path / f"loader_{name}.json").read_text())["rows"] for name in ("core", "workers")}
    assert [row["policy"] for row in rows["core"]] == ["none", "basic", "extended", "grey"]
    assert [row["workers"] for row in rows["workers"]] == [0, 1]
    assert (tmp_path / "elastic.png").stat().st_size > 1000


def test_the_benchmark_of_scaling(tmp_path):
    run("-m", "benchmarks.scaling", "--processes", 1, 2, "--model", "deeplabv2_small", "--tile", 48, "--overlap", 8,
        "--blocks", 2, "--json", tmp_path / "scaling.json")  # fmt: skip
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2] and rows[0]["efficiency"] == 1
    shares = [row["share of exchanging gradients"] for row in rows]
    assert shares[0] is None and np.isfinite(shares[1]["median"])


def test_the_script_for_gpus_asks_the_benchmarks_for_what_they_have(tmp_path):
    """Without a GPU the benchmarks only read their options here."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"""#!{sys.executable}
import importlib, os, sys
from pathlib import Path
if sys.argv[1] != "-m":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
sys.path.insert(0, os.getcwd())
sys.argv = sys.argv[2:]
Path(importlib.import_module(sys.argv[0]).parse().json).write_text('{{"rows": []}}')
print("| read |")
""")
    stand_in.chmod(0o755)
    command = ["bash", "benchmarks/gpu.sh", str(tmp_path / "out")]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"PYTHON": str(stand_in)})
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())
    asked_for = dict(re.findall(r"^ *part (\w+) (\d+)", (ROOT / "benchmarks" / "gpu.sh").read_text(), re.M))
    assert sorted(parts) == sorted(asked_for) != []
    assert sum(int(limit) + 2 for limit in asked_for.values()) <= 9 * 60, "nine minutes, as it says"
    assert (tmp_path / "out" / "gpu.log").read_text().count("| read |") == len(parts)
