"""The launchers run what is missing, once, in an order in which nothing waits for what comes later."""

import os
import re
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from conftest import ROOT

from launch.plan import FAMILIES, Study
from training.experiments import EXPERIMENTS

STUDIES = ("launch/experiments.toml", "launch/small.toml")


def launch(script, *arguments, ok=True, **environment):
    path = f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", ROOT / "launch" / script, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **environment},
    )  # fmt: skip
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result.stdout if ok else result.stderr


def jobs(study):
    options = Namespace(only=None, experiments=ROOT / study, data="stores", processes=4, rest=[])
    return [job for family in FAMILIES for job in getattr(Study(options), family)()]


@pytest.mark.parametrize("study", STUDIES)
def test_a_dry_run_lists_every_job_once_and_needs_before_what_needs_them(study):
    lines = launch("study.sh", "--dry-run", STUDY=study).splitlines()
    assert lines == list(dict.fromkeys(lines)) and len(lines) == len(jobs(study))
    made = set()
    for line in lines:
        for command in line.split(" && "):
            words = shlex.split(command)
            if "--experiment" in words:
                name = words[words.index("--experiment") + 1]
                fold = f"fold{words[words.index('--fold') + 1]}" if "--fold" in words else ""
                assert (name, fold) not in made, "trained twice"
                made.add((name, fold))
            else:
                for run in re.findall(r"(?<=runs/)(?:small/)?([ST]\S+)/(fold\d)", command):
                    assert run in made, f"{run} is scored before it is trained: {command}"
                for file in re.findall(r"--selection (\S+)", command):
                    assert any(f"--out {file} " in earlier for earlier in lines[: lines.index(line)])
    names = {name for name, _ in made}
    assert {f"S.{n}" for n in range(1, 11)} | {"T1.11", "T2.11", "T3.2", "T3v", "NanoSEM"} <= names
    nanosem = next(i for i, line in enumerate(lines) if "pretrain_nanosem" in line)
    assert nanosem < next(i for i, line in enumerate(lines) if "S.7" in line)


def test_what_is_done_is_not_done_again(tmp_path):
    """With all outcomes there nothing is left; with one removed, its job alone."""
    (tmp_path / "study.toml").write_text(f'base = "{EXPERIMENTS}"\nruns = "{tmp_path}/runs"\n'
                                         f'[T3v]\nselection = "{tmp_path}/runs/selections/t3v.json"\n')  # fmt: skip
    study = tmp_path / "study.toml"
    for job in jobs(study):
        job.outcome.parent.mkdir(parents=True, exist_ok=True)
        job.outcome.touch()
    assert launch("study.sh", "--dry-run", STUDY=str(study)) == ""
    assert launch("study.sh", STUDY=str(study)) == ""
    (tmp_path / "runs" / "S.4" / "fold2" / "evaluation" / "source" / "score.json").unlink()
    (line,) = launch("study.sh", "--dry-run", STUDY=str(study)).splitlines()
    assert "--experiment S.4" in line and "--fold 2" in line
    assert launch("supervised.sh", "--dry-run", "S.5", STUDY=str(study)) == ""


def test_a_row_of_another_adaptation_script_is_launched_like_the_others(tmp_path):
    row = '[own]\nextends = "T3.2"\nscript = "train_other"\nstudy = true\nfolds = 2\n'
    (tmp_path / "study.toml").write_text(f'base = "{EXPERIMENTS}"\n{row}')
    commands = [job.command for job in jobs(tmp_path / "study.toml") if job.experiment == "own"]
    assert ["train_other.py --experiment own" in command for command in commands] == [True, True, False]
    assert "--ensemble" in commands[-1]


def test_options_after_the_dashes_reach_the_training_scripts():
    line = launch("uda.sh", "--dry-run", "T1.11", "--", "--amp", "fp16").splitlines()[0]
    assert "--amp fp16 &&" in line and "evaluate.py" in line
    assert "--wrong" in launch("uda.sh", "--wrong", ok=False)


def test_submission_makes_an_array_a_family_with_its_dependencies(tmp_path):
    """What is handed to sbatch; that a real SLURM runs it is another test's business."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\nwc -l < {tmp_path}/calls\n')
    sbatch.chmod(0o755)
    path = f"{tmp_path}:{Path(os.sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", ROOT / "launch" / "study.sh", "--submit"], env={**os.environ, "PATH": path}, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    by_family = {re.search(r"--job-name=(\w+)", call)[1]: call for call in calls}
    assert list(by_family) == list(FAMILIES)
    needs = {name: re.findall(r"(?<=:)\d+", " ".join(re.findall(r"afterok\S*", c))) for name, c in by_family.items()}
    number = {name: str(i) for i, name in enumerate(FAMILIES, start=1)}
    assert needs["pretrain"] == [] and needs["supervised"] == [number["pretrain"]]
    assert needs["uda"] == [number["supervised"]] and needs["shifted"] == [number["selection"]]
    for name, call in by_family.items():
        options = Namespace(only=None, experiments=EXPERIMENTS, data="stores", processes=4, rest=[])
        count = len(list(getattr(Study(options), name)()))
        assert f"--array=0-{count - 1}" in call
        listed = (ROOT / call.split()[-1]).read_text().splitlines()
        assert len(listed) == count
        (ROOT / call.split()[-1]).unlink()
