"""The study's network on the study's tiles: one step of adaptation on the CPU."""

import json
import resource
import sys

import torch
from conftest import annotated, domains_toml, draw, run, unannotated


def test_one_step_at_the_studys_size(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0, size=(1433, 2048))
    draw(tmp_path / "t3", 1, seed=2, contrast=0.5, size=(336, 448))
    text = domains_toml(
        {"reference": "source"},
        source=annotated("source", pixel_size_nm=27.7, folds=2),
        t3=unannotated("t3", pixel_size_nm=126.6, invert=True),
    )
    (tmp_path / "domains.toml").write_text(text)
    run("-m", "data.prepare", tmp_path / "domains.toml", "--out", tmp_path / "stores")
    run(
        "train_uda.py", "--target", "t3", "--model", "deeplabv2_resnet101", "--pretraining", "random", "--amp", "off",
        "--steps", 1, "--batch-size", 1, "--data", tmp_path / "stores", "--run-dir", tmp_path / "run", "--workers", 0,
        "--wandb", "disabled", timeout=1200, child=True,
    )  # fmt: skip
    losses = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert all(abs(value) < 100 for name, value in losses.items() if name.startswith("loss"))
    assert all(value == value and abs(value) != float("inf") for value in losses.values())
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit < 12e9
