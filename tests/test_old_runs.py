"""A run begun by an older version goes on by the present one, bit for bit, and scores as it did.

The older version is the commit BEFORE, of the time before batch norms, networks and options got their present homes.
It is taken from git and trains in a folder of its own.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT, command, run
from short_runs import STEPS, differences, metrics, steps_on_record, stopped_after, supervised_arguments, uda_arguments

from training import checkpoint

# The demonstration then cut its batch: a run of it goes on with --micro-batch 4.
BEFORE = "18ec2f5bc6d90b508d96e413e02d15462652fc03"
SUPERVISED = ("--model", "unet_small", "--steps", 5, "--validate-every", 5, "--checkpoint-every", 3, "--micro-batch", 4)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """The folder of the older version's code."""
    try:
        archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the commit before is not to be had here, as in a tarball or a shallow clone ({error})")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def adapted(before, stores, tmp_path_factory) -> Path:
    """An adaptation that the older version finished."""
    folder = tmp_path_factory.mktemp("runs") / "adapted"
    run("train_uda.py", *adaptation(stores, folder), code=before)
    return folder


@pytest.fixture(scope="module")
def old_source_run(before, stores, tmp_path_factory) -> Path:
    """A supervised run of a U-Net that it finished."""
    folder = tmp_path_factory.mktemp("runs") / "supervised"
    run("train_supervised.py", *supervised_arguments(stores, folder, *SUPERVISED), code=before)
    return folder


def adaptation(stores, folder):
    return uda_arguments(stores, folder, "--checkpoint-every", 5, "--micro-batch", 4)


def forget_looks(folder):
    """Take the looks at the target out of a record: the older version made none."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(line for line in lines if "judge_" not in line))


def test_an_adaptation_that_an_older_version_was_stopped_in_goes_on_bit_for_bit(before, stores, adapted, tmp_path):
    line = command("train_uda.py", *adaptation(stores, tmp_path / "run"))
    said, status = stopped_after(line, tmp_path / "run", 7, signal.SIGTERM, code=before)
    assert status == 75, said
    stopped = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert 7 <= stopped < STEPS
    run(*line[1:])
    forget_looks(tmp_path / "run")
    assert differences(adapted, tmp_path / "run") == []
    assert steps_on_record(tmp_path / "run") == STEPS


def test_a_control_of_an_older_version_goes_on_without_its_discriminators(before, stores, tmp_path):
    """They did not touch the model: it gets the bits that it would have had, and the old checkpoint can be read."""
    control = ("--steps", 6, "--checkpoint-every", 3, "--lambda-adv-main", 0, "--lambda-adv-aux", 0)
    full, folder = tmp_path / "full", tmp_path / "resumed"
    run("train_uda.py", *adaptation(stores, full), *control, code=before)
    shutil.copytree(full, folder)
    for name in ("best.pt", "finished.json"):
        (folder / name).unlink()
    os.replace(folder / "previous.pt", folder / "last.pt")
    assert {"model", "discriminators"} <= checkpoint.load(folder).keys() and checkpoint.load_model(folder)[1][
        "step"
    ] == 3
    run("train_uda.py", *adaptation(stores, folder), *control)
    then, now = checkpoint.load(full), checkpoint.load(folder)
    assert then["step"] == now["step"] == 6 and "discriminators" not in now
    assert all(torch.equal(value, now["model"][key]) for key, value in then["model"].items())
    assert torch.equal(then["optimizers"][0]["state"][0]["exp_avg"], now["optimizers"][0]["state"][0]["exp_avg"])
    forget_looks(folder)
    then, now = (metrics(one)[-2] for one in (full, folder))
    assert now["step"] == 6 and all(value == then[name] for name, value in now.items())
    assert then.keys() - now.keys() == {
        name for name in then if name.startswith(("loss_adv", "loss_D", "gradient_norm_D"))
    }


def test_a_supervised_run_of_an_older_version_goes_on_bit_for_bit(stores, old_source_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(old_source_run, folder)
    for name in ("best.pt", "finished.json"):  # what the checkpoint before the last knew nothing of
        (folder / name).unlink()
    os.replace(folder / "previous.pt", folder / "last.pt")
    assert checkpoint.load(folder)["step"] == 3
    run("train_supervised.py", *supervised_arguments(stores, folder, *SUPERVISED))
    assert differences(old_source_run, folder) == []


def test_a_run_that_an_older_version_finished_is_finished(stores, adapted, old_source_run):
    for folder, script, arguments in (
        (adapted, "train_uda.py", adaptation(stores, adapted)),
        (old_source_run, "train_supervised.py", supervised_arguments(stores, old_source_run, *SUPERVISED)),
    ):
        content = (folder / "last.pt").read_bytes()
        assert "finished" in run(script, *arguments).stdout
        assert (folder / "last.pt").read_bytes() == content


def test_a_model_of_an_older_version_is_loaded(adapted, old_source_run):
    for folder in (adapted, old_source_run):
        for which in ("last", "best", "previous"):
            model, state = checkpoint.load_model(folder, which)
            assert model.state_dict().keys() == state["model"].keys()


@pytest.mark.parametrize("method", ["supervised", "adabn", "uda"])
def test_a_run_of_an_older_version_scores_as_it_did(before, stores, adapted, old_source_run, method):
    folder, domain = (adapted, "labelled") if method == "uda" else (old_source_run, "source")
    more = ["--adabn"] if method == "adabn" else []
    arguments = ("evaluate.py", folder, "--data", stores, "--domain", domain, "--wandb", "disabled", *more)
    scores = []
    for code in (before, ROOT):
        run(*arguments, code=code)
        (path,) = (folder / "evaluation").rglob("score.json")
        scores.append(json.loads(path.read_text()))
        shutil.rmtree(folder / "evaluation")
    then, now = scores
    for key in then.keys() - {"configuration", "seconds"}:
        assert now[key] == then[key], key
