"""The world around the program: what it meets is said in one message, and good files stay as they are."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, annotated, command, domains_toml, draw, run
from short_runs import supervised_arguments, uda_arguments

from data.domains import read_domains
from training import checkpoint

NOBODY = ["unshare", "-U", "--map-user=12345", "--map-group=12345"]


def said_by(line: list[str], env: dict[str, str | None] | None = None) -> subprocess.CompletedProcess:
    """Run a command in an environment with these variables, or without where they are None."""
    variables = {name: value for name, value in (os.environ | (env or {})).items() if value is not None}
    return subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=200, check=False)


def refused(ended: subprocess.CompletedProcess, *words: str) -> None:
    """Assert one message with these words, and no traceback."""
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert ended.stderr.count("error: ") == 1
    for word in words:
        assert word in ended.stderr, ended.stderr


def test_a_byte_order_mark_is_read(tmp_path):
    """As Windows' editors write it, in domains and in experiments."""
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    text = domains_toml(source=annotated("source", folds=2))
    (tmp_path / "domains.toml").write_text(text, encoding="utf-8-sig")
    assert list(read_domains(tmp_path / "domains.toml")[1]) == ["source"]
    own = tmp_path / "own.toml"
    own.write_text(f'base = "{ROOT}/launch/experiments.toml"\n', encoding="utf-8-sig")
    run("train_uda.py", "--target", "t3", "--dry-run", "--experiments", own, "--data", tmp_path)


def test_a_target_that_is_all_test_set_is_told_of_transductive(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    draw(tmp_path / "target", 2, seed=2, contrast=0.5)
    domains = {"source": annotated("source", folds=2), "labelled": annotated("target", test=["m0", "m1"])}
    (tmp_path / "domains.toml").write_text(domains_toml(**domains))
    run("-m", "data.prepare", tmp_path / "domains.toml", "--out", tmp_path / "stores")
    arguments = uda_arguments(tmp_path / "stores", tmp_path / "run", "--steps", 1, "--batch-size", 2)
    refused(said_by(command("train_uda.py", *arguments)), "labelled.h5", "`test`", "--transductive")
    run("train_uda.py", *arguments, "--transductive")


@pytest.mark.parametrize("folds", [None, 2])
def test_one_annotated_micrograph_is_one_message(tmp_path, folds):
    """With folds and without it says the same, not one thing after another."""
    draw(tmp_path / "source", 1, seed=1, contrast=1.0)
    domains = {"source": annotated("source", folds=folds) if folds else annotated("source")}
    domains["source"] = {key: value for key, value in domains["source"].items() if value is not None}
    (tmp_path / "domains.toml").write_text(domains_toml(**domains))
    ended = said_by(command("-m", "data.prepare", tmp_path / "domains.toml", "--out", tmp_path / "stores"))
    if folds is None:
        assert ended.returncode == 0
        arguments = supervised_arguments(tmp_path / "stores", tmp_path / "run", "--steps", 1)
        ended = said_by(command("train_supervised.py", *arguments))
    refused(ended, "annotated micrographs outside the test set: 1", "two files")


def test_a_world_size_without_the_rest_is_told_of_torchrun(stores, tmp_path):
    line = command("train_supervised.py", *supervised_arguments(stores, tmp_path / "run", "--steps", 1))
    refused(said_by(line, {"WORLD_SIZE": "2", "RANK": None}), "WORLD_SIZE=2", "RANK", "torchrun")
    refused(said_by(line, {"WORLD_SIZE": "many"}), "WORLD_SIZE=many", "unset")


@pytest.mark.parametrize("threads", ["2,1", ""])
def test_a_list_of_threads_or_none_is_understood(stores, tmp_path, threads):
    line = command("train_supervised.py", *supervised_arguments(stores, tmp_path / "run", "--steps", 1))
    ended = said_by(line, {"OMP_NUM_THREADS": threads})
    assert ended.returncode == 0, ended.stderr


def test_nobody_without_a_home_can_train(stores, tmp_path):
    """A container may run as a number that no file knows."""
    if said_by([*NOBODY, "true"]).returncode:
        pytest.skip("no user namespaces here")
    tmp_path.chmod(0o777)
    arguments = supervised_arguments(stores, tmp_path / "run", "--steps", 1, "--wandb", "offline")
    ended = said_by(
        [*NOBODY, *command("train_supervised.py", *arguments)],
        {"HOME": None, "USER": None, "LOGNAME": None, "WANDB_MODE": None},
    )
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_a_checkpoint_that_may_not_be_read_is_not_damaged(stores, tmp_path):
    if said_by([*NOBODY, "true"]).returncode:
        pytest.skip("no user namespaces here")
    folder = tmp_path / "run"
    run("train_supervised.py", *supervised_arguments(stores, folder, "--steps", 4, "--checkpoint-every", 2))
    before = (folder / "last.pt").read_bytes()
    (folder / "last.pt").chmod(0)
    code = f"from training import checkpoint; from pathlib import Path; checkpoint.load_newest(Path({str(folder)!r}))"
    ended = said_by([*NOBODY, sys.executable, "-c", code])
    assert ended.returncode and "InputError" in ended.stderr and "Permission denied" in ended.stderr
    assert (folder / "last.pt").read_bytes() == before and not (folder / "last.pt.damaged").exists()


def test_a_checkpoint_that_memory_does_not_hold_is_not_damaged(tmp_path):
    """With an address space that ends before the tensors do."""
    checkpoint.save(tmp_path / "last.pt", {"config": {}, "model": {"w": torch.zeros(100, 1 << 20)}})
    shutil.copy(tmp_path / "last.pt", tmp_path / "previous.pt")
    code = (
        "import resource; from pathlib import Path; from training import checkpoint\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 20), -1))\n"
        f"checkpoint.load_newest(Path({str(tmp_path)!r}))"
    )
    ended = said_by([sys.executable, "-c", code])
    assert ended.returncode and "too little memory" in ended.stderr, ended.stderr
    assert not (tmp_path / "last.pt.damaged").exists()
    state = json.dumps(sorted(checkpoint.load(tmp_path / "last.pt")))
    assert "model" in state
