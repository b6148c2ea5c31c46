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


# Stands in for python and torchrun where a job is meant: it leaves who ran when, on which GPUs.
RECORDER = """#!/bin/bash
case "$*" in -m\\ launch.plan*|-m\\ common.gpus*) exec {python} "$@" ;; esac
began=$(date +%s.%N)
sleep 0.4
echo "$began $(date +%s.%N) ${{CUDA_VISIBLE_DEVICES-unset}} $*" >> {folder}/calls
"""


@pytest.fixture
def recorded(tmp_path):
    """Function that runs a launcher on a small study of its own: (began, ended, GPUs, command) of each job."""
    (tmp_path / "study.toml").write_text(f'base = "{ROOT}/launch/small.toml"\nruns = "{tmp_path}/runs"\n')
    (tmp_path / "bin").mkdir()
    for name in ("python", "torchrun"):
        (tmp_path / "bin" / name).write_text(RECORDER.format(python=os.sys.executable, folder=tmp_path))
        (tmp_path / "bin" / name).chmod(0o755)

    def of(*arguments, ok=True, gpus="", **environment):
        environment |= {"STUDY": str(tmp_path / "study.toml"), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        said = launch(*arguments, ok=ok, CUDA_VISIBLE_DEVICES=gpus, **environment)
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [(float(a), float(b), c, d) for a, b, c, d in (line.split(" ", 3) for line in lines)] if ok else said

    return of


@pytest.mark.parametrize(
    ("processes", "at_once", "gpus"),
    [(1, 3, "GPU-6e0b,3,MIG-c738"), (2, 2, "7,5,3,1,0"), (1, 2, "0,0"), (1, 1, "4,5")],
)
def test_every_job_has_gpus_of_its_own(recorded, processes, at_once, gpus):
    calls = recorded("supervised.sh", "S.10", gpus=gpus, PROCESSES=str(processes), JOBS=str(at_once))
    names = gpus.split(",")
    assert len(calls) == 2 * 5, "five folds, each trained and scored"
    assert {call[2].count(",") for call in calls} == {processes - 1}
    assert {name for call in calls for name in call[2].split(",")} == set(names[: processes * at_once])
    for began, _, mine, _ in calls:
        held = [name for a, b, own, _ in calls if a <= began < b for name in own.split(",")]
        assert all(held.count(name) <= names.count(name) for name in held), (mine, held)
    if at_once > 1:
        assert any(a < began < b for began, *_ in calls for a, b, *_ in calls), "side by side"


def test_more_jobs_than_gpus_are_refused_with_the_numbers(recorded):
    said = recorded("supervised.sh", "S.10", ok=False, gpus="0,1,2,3", JOBS="4")
    assert "JOBS=4 with PROCESSES=4 need 16 GPUs, and there are 4" in said
    assert "PROCESSES=many" in recorded("supervised.sh", "S.10", ok=False, PROCESSES="many")
    calls = recorded("generalization.sh", "S.10", gpus="2")
    assert {call[2] for call in calls} == {"2"}, "scores need no more than one GPU"
    assert recorded("supervised.sh", "S.10", "--dry-run", gpus="0", JOBS="9") == []


def test_without_gpus_jobs_are_started_as_they_are(recorded):
    calls = recorded("supervised.sh", "S.10", PROCESSES="2", JOBS="5")
    assert {call[2] for call in calls} == {""} and len(calls) == 10


@pytest.mark.parametrize(
    ("processes", "gpus", "counted", "warns"), [("", "4", 4, False), ("1", "4", 1, True), ("2", "", 2, False)]
)
def test_a_batch_job_has_as_many_processes_as_gpus_or_says_that_some_are_idle(processes, gpus, counted, warns):
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "1", "SLURM_GPUS_ON_NODE": gpus, "PROCESSES": processes}
    code = "source launch/slurm/common.sh && echo $processes"
    said = subprocess.run(
        ["bash", "-c", code], cwd=ROOT, env=os.environ | job, capture_output=True, text=True, check=True
    )
    assert int(said.stdout) == counted and ("submit with --gres=gpu:1" in said.stderr) == warns


def test_submission_makes_an_array_a_family_with_its_dependencies(tmp_path):
    """What is handed to sbatch; that a real SLURM runs it is another test's business."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/bash\necho "$SBATCH_GRES $@" >> {tmp_path}/calls\nwc -l < {tmp_path}/calls\n')
    sbatch.chmod(0o755)
    path = f"{tmp_path}:{Path(os.sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", ROOT / "launch" / "study.sh", "--submit"], env={**os.environ, "PATH": path}, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    by_family = {re.search(r"--job-name=(\w+)", call)[1]: call for call in calls}
    assert list(by_family) == list(FAMILIES)
    needs = {name: re.findall(r"(?<=:)\d+", " ".join(re.findall(r"afterok\S*", c))) for name, c in by_family.items()}
    assert all(("--kill-on-invalid-dep=yes" in call) == ("afterok" in call) for call in by_family.values())
    number = {name: str(i) for i, name in enumerate(FAMILIES, start=1)}
    assert needs["pretrain"] == [] and needs["supervised"] == [number["pretrain"]]
    assert needs["uda"] == [number["supervised"]] and needs["shifted"] == [number["selection"]]
    for name, call in by_family.items():
        options = Namespace(only=None, experiments=EXPERIMENTS, data="stores", processes=4, rest=[])
        count = len(list(getattr(Study(options), name)()))
        assert f"--array=0-{count - 1}" in call
        trained = name in ("pretrain", "supervised", "uda", "shifted")
        assert call.startswith("gpu:4 " if trained else "gpu:1 ")
        assert f"--cpus-per-task={32 if trained else 8} " in call
        listed = (ROOT / call.split()[-1]).read_text().splitlines()
        assert len(listed) == count
        (ROOT / call.split()[-1]).unlink()
