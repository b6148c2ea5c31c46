"""The launcher's own batch files on a real SLURM: a disturbed job comes back and ends as an undisturbed run does.

`make test-slurm` runs this; its name keeps it out of `make test`. All jobs are submitted at once and disturbed while
they train, each by a thread of its own; the tests look at what became of them. SLURM_TABLE=FILE writes the table, and
SLURM_JOBS="requeue usr1" takes some of the jobs only.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from cluster import GRACE, Cluster
from conftest import ROOT

STEPS, LONG = 60, 300  # LONG: a run that still trains when SLURM warns of a limit of one minute
DISTURBED = 12  # steps that are on record before a job is disturbed
PATIENCE = 600  # seconds for a job, with all others beside it on two cores
SLURM = ROOT / "launch" / "slurm"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


def options(stores: Path, run: Path, steps: int = STEPS) -> list[object]:
    """Of a short adaptation whose result depends on nothing but the number of processes."""
    return [
        "train_uda.py", "--experiment", "demo.uda", "--target", "labelled", "--data", stores, "--run-dir", run,
        "--steps", steps, "--batch-size", 4, "--log-every", 1, "--validate-every", 30, "--checkpoint-every", 10,
        "--panels-every", 1000, "--batch-norm", "frozen", "--workers", 0, "--wandb", "disabled",
    ]  # fmt: skip


# ---- how a job is disturbed ---------------------------------------------------------------------------------------


def signalled(name: str) -> Callable:
    return lambda job: job.cluster.run("scancel", f"--signal={name}", "--batch", job.id)


def requeued(job: "Job") -> None:
    job.cluster.run("scontrol", "requeue", job.id)


def cancelled(job: "Job") -> None:
    job.cluster.run("scancel", job.id)


def preempted(job: "Job") -> None:
    """A job of a partition of higher priority wants both nodes."""
    log = job.log.with_suffix(".urgent")
    job.cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", f"--output={log}", "--wrap=sleep 1")


def one_process_killed(job: "Job") -> None:
    """SIGKILL to the training process of rank 1, as the kernel does where memory runs out."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(job.run).encode() in words and b"RANK=1" in environment and b"torchrun" not in b" ".join(words):
            os.kill(int(folder.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process of rank 1 of {job.run}")


def left_alone(job: "Job") -> None:
    """The time limit comes by itself, a failure too."""


@dataclass
class Job:
    """One job: how it is submitted, disturbed, and what is expected of it. Its thread fills in the rest."""

    name: str
    file: str  # the batch file, or the list of one command for jobs.sbatch
    what: str  # the disturbance in words
    disturb: Callable[["Job"], object]
    sbatch: list[str] = field(default_factory=list)
    more: list[object] = field(default_factory=list)
    steps: int = STEPS
    fold: int = 0
    state: str = "COMPLETED"
    returns: bool = True  # whether it has to come back at least once

    def start(self, cluster: Cluster, stores: Path, folder: Path) -> None:
        self.cluster, self.run, self.log = cluster, folder / self.name, folder / f"{self.name}.log"
        arguments = [*options(stores, self.run, self.steps), *self.more]
        sbatch = ["sbatch", "--parsable", "--gres=none", f"--output={self.log}", *self.sbatch]
        if self.file == "jobs.sbatch":
            command = ["torchrun", "--standalone", "--nproc_per_node=2", *map(str, arguments)]
            then = f"echo scored >> {self.run}/scored"
            (folder / "list").write_text(f"{' '.join(command)} && {then}\n")
            arguments = [folder / "list"]
        self.id = cluster.run(*sbatch, SLURM / self.file, *arguments, **self.environment())
        if "--array=0" in self.sbatch:
            self.id += "_0"

    def environment(self) -> dict[str, str]:
        return {"PROCESSES": "1" if self.file == "multinode.sbatch" else "2"}

    def follow(self) -> "Job":
        """Disturb it while it trains; return it when it is over."""
        deadline = time.monotonic() + PATIENCE
        if self.disturb is not left_alone:
            while not _steps_on_record(self.run) >= DISTURBED:
                assert time.monotonic() < deadline, f"{self.name} does not train"
                time.sleep(0.1)
            self.disturb(self)
        self.facts = self.cluster.show(self.id)
        while self.facts["JobState"] not in OVER:
            assert time.monotonic() < deadline, f"{self.name} does not end"
            time.sleep(1)
            self.facts = self.cluster.show(self.id)
        return self

    @property
    def text(self) -> str:
        """Its log without progress bars."""
        lines = re.split(r"[\r\n]", self.log.read_text(errors="replace")) if self.log.exists() else []
        return "\n".join(line for line in lines if line.strip() and "it/s" not in line and "?it" not in line)


TRAIN, MANY = "train.sbatch", "multinode.sbatch"
JOBS = [
    Job("time_limit", TRAIN, "limit of 1 minute", left_alone, ["--time=1", "--signal=B:USR1@15"], steps=LONG),
    Job("requeue", TRAIN, "`scontrol requeue`", requeued),
    Job("usr1", TRAIN, "`scancel --signal=USR1 --batch`", signalled("USR1")),
    Job("term", "jobs.sbatch", "`scancel --signal=TERM --batch`", signalled("TERM"), ["--array=0"]),
    Job("killed", TRAIN, "one process killed (SIGKILL)", one_process_killed, returns=False),
    Job("nodes_usr1", MANY, "`scancel --signal=USR1 --batch`", signalled("USR1")),
    Job("nodes_requeue", MANY, "`scontrol requeue`", requeued),
    Job("preempted", TRAIN, "preempted", preempted, ["--partition=spot"]),
    Job("nodes_preempted", MANY, f"preempted, GraceTime {GRACE} s", preempted, ["--partition=grace"]),
    Job("fails", TRAIN, "a loss that is not finite", left_alone, [], ["--learning-rate", 1e30], state="FAILED",
        returns=False),
    Job("cancelled", TRAIN, "`scancel`", cancelled, state="CANCELLED", returns=False),
]  # fmt: skip
CHOSEN = os.environ.get("SLURM_JOBS", "").split() or [*(job.name for job in JOBS), "array", "family"]
JOBS = [job for job in JOBS if job.name in CHOSEN]


# The least that launch/family.sh takes: one supervised experiment in two folds, and its scores on a target.
STUDY = """
base = "{root}/launch/experiments.toml"
runs = "{folder}/study"
["S.1"]
model = "unet_small"
epochs = 6
batch_size = 4
milestones = []
folds = 2
amp = "off"
workers = 0
checkpoint_every = 10
log_every = 1
["T1.1"]
domain = "labelled"
["T2.1"]
domain = "labelled"
"""
LISTS = ROOT / "runs" / "jobs"


def _steps_on_record(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    try:
        cluster.__enter__()
    except AssertionError as error:  # a container without what the daemons need says nothing about the jobs
        pytest.skip(f"no SLURM runs on this machine: {error}")
    yield cluster
    cluster.__exit__(None)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def undisturbed(stores, folder) -> dict[tuple[int, int], Path]:
    """(steps, fold) -> a run of two processes that SLURM had nothing to do with."""
    runs = {}
    array = {(STEPS, 0), (STEPS, 1)} if "array" in CHOSEN else set()
    for steps, fold in sorted(array | {(job.steps, job.fold) for job in JOBS if job.state == "COMPLETED"}):
        run = runs[steps, fold] = folder / f"undisturbed{steps}.{fold}"
        command = [".venv/bin/torchrun", "--standalone", "--nproc_per_node=2", *options(stores, run, steps)]
        subprocess.run([*map(str, command), "--fold", str(fold)], cwd=ROOT, check=True, capture_output=True)
    return runs


@pytest.fixture(scope="session")
def jobs(cluster, stores, folder):
    """All jobs, submitted together, disturbed, and over."""
    began = time.monotonic()
    for job in JOBS:
        job.start(cluster, stores, folder)
    followed = {job.name: job.follow for job in JOBS}
    for name, one in (("array", follow_array), ("family", follow_family)):
        if name in CHOSEN:
            followed[name] = partial(one, cluster, stores, folder)
    outcomes = Outcomes()

    def follow(name: str) -> None:
        try:
            outcomes[name] = followed[name]()
        except Exception as error:
            outcomes.errors[name] = error

    threads = [threading.Thread(target=follow, args=(name,), daemon=True) for name in followed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes["seconds"] = time.monotonic() - began
    return outcomes


class Outcomes(dict):
    """What became of the jobs; a job whose thread failed raises what it met."""

    def __init__(self):
        super().__init__()
        self.errors = {}

    def __missing__(self, name: str):
        raise AssertionError(f"{name}: {self.errors.get(name)}") from self.errors.get(name)


def follow_array(cluster: Cluster, stores: Path, folder: Path) -> dict[int, tuple[Path, dict, bool]]:
    """Folds 0 and 1 by train.sbatch; one is told to stop. fold -> (run, facts, whether it was told)."""
    study = folder / "array.toml"  # runs go where an experiments file says, one folder a fold
    study.write_text(f'base = "{ROOT}/launch/experiments.toml"\nruns = "{folder}"\n[array]\nextends = "demo.uda"\n')
    arguments = [word for word in options(stores, folder) if word not in ("--run-dir", folder)]
    arguments[arguments.index("demo.uda")] = "array"
    array = cluster.run(
        "sbatch", "--parsable", "--gres=none", "--array=0-1", f"--output={folder}/array.%a.log", SLURM / TRAIN,
        *arguments, "--experiments", study,
    )  # fmt: skip
    tasks = {fold: f"{array}_{fold}" for fold in (0, 1)}
    runs = {fold: folder / "array" / f"fold{fold}" for fold in tasks}
    _until(lambda: _steps_on_record(runs[1]) >= DISTURBED)
    assert cluster.show(tasks[1])["JobId"] == array, "the last task of an array keeps its id"
    cluster.run("scancel", "--signal=USR1", "--batch", tasks[1])
    _until(lambda: all(cluster.show(task)["JobState"] in OVER for task in tasks.values()))
    return {fold: (runs[fold], cluster.show(task), fold == 1) for fold, task in tasks.items()}


def follow_family(cluster: Cluster, stores: Path, folder: Path) -> dict:
    """A family submitted as an array, another that depends on it, and a task told to stop in between."""
    study = folder / "study.toml"
    study.write_text(STUDY.format(root=ROOT, folder=folder))
    environment = {
        "STUDY": str(study), "DATA": str(stores), "PROCESSES": "1", "SBATCH_GRES": "none",
        "SBATCH_OUTPUT": f"{folder}/%x.%a.log", "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    }  # fmt: skip
    launcher = ("bash", ROOT / "launch" / "family.sh")
    before = set(LISTS.glob("*"))
    first = cluster.run(*launcher, "supervised", "--submit", "S.1", **environment)
    needs = f"afterok:{first}"
    second = cluster.run(*launcher, "generalization", "--submit", "S.1", **environment, DEPENDENCY=needs)
    runs = [folder / "study" / "S.1" / f"fold{fold}" for fold in (0, 1)]
    _until(lambda: _steps_on_record(runs[0]) >= 5)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{first}_0")
    _until(lambda: cluster.show(f"{first}_0")["Restarts"] == "1")
    waiting = cluster.show(second)
    _until(lambda: all(task["JobState"] in OVER for array in (first, second) for task in cluster.tasks(array)))
    for path in set(LISTS.glob("*")) - before:
        if str(folder) in path.read_text():
            path.unlink()
    return {
        "waiting": (waiting["JobState"], waiting["Reason"]),
        "states": {task["JobState"] for array in (first, second) for task in cluster.tasks(array)},
        "runs": runs,
        "left": cluster.run(*launcher, "supervised", "--dry-run", "S.1", **environment),
    }


def differences(one: Path, other: Path) -> list[str]:
    """What of two runs' results is not equal bit for bit: paths of tensors and numbers in the checkpoints, metrics."""
    found = []

    def compare(a, b, path: str) -> None:
        if isinstance(a, torch.Tensor):
            if not (isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)):
                found.append(path)
        elif isinstance(a, dict | list | tuple):
            pairs = a.items() if isinstance(a, dict) else enumerate(a)
            if len(a) != len(b):
                found.append(path)
            else:
                for key, value in pairs:
                    compare(value, b[key], f"{path}/{key}")
        elif a != b:
            found.append(path)

    for name, keys in (
        ("last.pt", ("model", "discriminators", "optimizers", "scaler", "step", "best")),
        ("best.pt", ("model", "discriminators", "step")),
    ):
        a, b = (torch.load(run / name, weights_only=True) for run in (one, other))
        for key in keys:
            compare(a[key], b[key], f"{name}/{key}")
    compare(*[[json.loads(x) for x in (r / "metrics.jsonl").read_text().splitlines()] for r in (one, other)], "metrics")
    compare(*[json.loads((r / "finished.json").read_text()) for r in (one, other)], "finished.json")
    return found


@pytest.mark.parametrize("name", [job.name for job in JOBS if job.state == "COMPLETED"])
def test_a_disturbed_job_ends_with_the_weights_of_an_undisturbed_run(jobs, undisturbed, name):
    job = jobs[name]
    assert job.facts["JobState"] == "COMPLETED", job.text[-4000:]
    assert differences(job.run, undisturbed[job.steps, job.fold]) == []
    count = int(job.facts["Restarts"])
    if job.returns:
        assert count >= 1 and re.search(r"stopped by \w+ after [1-9]\d* of", job.text), job.text[-4000:]
    else:
        assert count == 0
    if name == "term":
        assert (job.run / "scored").read_text() == "scored\n", "what follows training in the line runs once"


@pytest.mark.parametrize("name", [job.name for job in JOBS if job.state != "COMPLETED"])
def test_a_job_that_failed_or_was_cancelled_does_not_come_back(jobs, name):
    job = jobs[name]
    assert job.facts["JobState"] == job.state and job.facts["Restarts"] == "0", job.text[-4000:]
    assert not (job.run / "finished.json").exists()
    assert "queued again" not in job.text
    if name == "fails":
        assert "is not finite" in job.text


@pytest.mark.skipif("array" not in CHOSEN, reason="not in SLURM_JOBS")
def test_one_fold_of_an_array_comes_back_alone(jobs, undisturbed):
    """The task whose job id is that of the array is signalled: named by that id, all tasks would be queued again."""
    for fold, (run, facts, signalled) in jobs["array"].items():
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1" if signalled else "0")
        assert differences(run, undisturbed[STEPS, fold]) == []


@pytest.mark.skipif("family" not in CHOSEN, reason="not in SLURM_JOBS")
def test_a_family_is_submitted_with_what_it_needs(jobs):
    """launch/family.sh as launch/study.sh calls it: an array, and another that waits also while a task is requeued."""
    outcome = jobs["family"]
    assert outcome["waiting"] == ("PENDING", "Dependency")
    assert outcome["states"] == {"COMPLETED"}
    for run in outcome["runs"]:
        assert (run / "evaluation" / "source" / "score.json").exists()
        assert (run / "evaluation" / "labelled" / "score.json").exists()
    assert outcome["left"] == "", "a second submission would have nothing to do"


def test_the_table(jobs, undisturbed, cluster):
    """What was measured, printed, and written to SLURM_TABLE where that is given."""
    lines = [
        "| job | batch file | disturbance | stopped after step | restarts by SLURM | state | as undisturbed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for job in (job for job in JOBS if job.name in jobs):
        steps = ", ".join(f"{s} of {job.steps}" for s in re.findall(r"stopped by \w+ after (\d+) of", job.text)) or "-"
        equal = "-"
        if job.state == "COMPLETED":
            found = differences(job.run, undisturbed[job.steps, job.fold])
            equal = f"{len(found)} differences" if found else "bit for bit"
        facts = job.facts
        lines.append(
            f"| {job.name} | {job.file} | {job.what} | {steps} | {facts['Restarts']} | {facts['JobState']} | {equal} |"
        )
    table = "\n".join(lines)
    print(f"\n{table}\n{jobs['seconds']:.0f} s from the submission of the first job to the end of the last")
    if path := os.environ.get("SLURM_TABLE"):
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(f"{_report(jobs, cluster, table)}\n")


def _report(jobs: dict, cluster: Cluster, table: str) -> str:
    own = re.compile(r"asked|SIG\w+, stopping|stopped|queued again|CANCELLED|death signal|exitcode|not finite")
    excerpts = []
    for job in (job for job in JOBS if job.name in jobs):
        text = job.text.replace(f"{job.run}", "<run>").replace(f"{ROOT}/", "")
        lines = [line[:150] for line in text.splitlines() if own.search(line)]
        excerpts += [f"{job.name} (job {job.id})", *[f"    {line}" for line in dict.fromkeys(lines)], ""]
    events = re.compile(r"JobId=\d+.*(WEXITSTATUS|requeue|Time limit|KILL_JOB|NODE)|Requeuing|preempted")
    controller = [line[:150] for line in cluster.log().splitlines() if events.search(line)]
    version = cluster.run("sbatch", "--version")
    return f"""# Jobs of a real SLURM, disturbed

Written by `SLURM_TABLE=runs/slurm.md make test-slurm`: {version} with four nodes on
one machine, torch {torch.__version__}, on the CPU. Each job trains `demo.uda` with two processes (`multinode.sbatch`:
one on each of two nodes) and is submitted with the batch file of `launch/slurm` as it is. "As undisturbed" compares
weights, discriminators, optimisers, best.pt, metrics.jsonl and finished.json with those of a run outside of SLURM.

{table}

All jobs together took {jobs["seconds"]:.0f} s.

## What the jobs said

```
{chr(10).join(excerpts).strip()}
```

## What the controller said

```
{chr(10).join(controller)}
```"""


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.5)
