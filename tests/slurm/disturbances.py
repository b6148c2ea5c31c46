"""Jobs of the launcher's batch files: how each is submitted, disturbed, and followed to its end."""

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cluster import GRACE, Cluster
from conftest import ROOT
from short_runs import steps_on_record, uda_arguments

STEPS, LONG = 60, 300  # LONG: a run that still trains when SLURM warns of a limit of one minute
DISTURBED = 12  # steps that are on record before a job is disturbed
PATIENCE = 600  # seconds for a job, with all others beside it on two cores
SLURM = ROOT / "launch" / "slurm"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}


def options(stores: Path, run: Path, steps: int = STEPS) -> list[str]:
    """Return the options of a short adaptation whose result depends on nothing but the number of processes."""
    more = ("--steps", steps, "--validate-every", 30, "--checkpoint-every", 10, "--batch-norm", "frozen")
    return ["train_uda.py", *uda_arguments(stores, run, *more)]


# ---- how a job is disturbed ---------------------------------------------------------------------------------------


def signalled(name: str) -> Callable:
    return lambda job: job.cluster.run("scancel", f"--signal={name}", "--batch", job.id)


def requeued(job: "Job") -> None:
    job.cluster.run("scontrol", "requeue", job.id)


def cancelled(job: "Job") -> None:
    job.cluster.run("scancel", job.id)


def preempted(job: "Job") -> None:
    """Submit a job of a partition of higher priority that wants both nodes."""
    log = job.log.with_suffix(".urgent")
    job.cluster.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", f"--output={log}", "--wrap=sleep 1")


def one_process_killed(job: "Job") -> None:
    """Send SIGKILL to the training process of rank 1, as the kernel does where memory runs out."""
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
    """Do nothing: the time limit comes by itself, a failure too."""


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
    returns: bool = True  # it has to come back at least once

    def start(self, cluster: Cluster, stores: Path, folder: Path) -> None:
        self.cluster, self.run, self.log = cluster, folder / self.name, folder / f"{self.name}.log"
        arguments = [*options(stores, self.run, self.steps), *map(str, self.more)]
        sbatch = ["sbatch", "--parsable", "--gres=none", f"--output={self.log}", *self.sbatch]
        if self.file == "jobs.sbatch":
            command = ["torchrun", "--standalone", "--nproc_per_node=2", *arguments]
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
            while not steps_on_record(self.run) >= DISTURBED:
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
CHOSEN = os.environ.get("SLURM_JOBS", "").split() or [*(job.name for job in JOBS), "array", "family", "laboratory"]
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


def follow_array(cluster: Cluster, stores: Path, folder: Path) -> dict[int, tuple[Path, dict, bool]]:
    """Train folds 0 and 1 by train.sbatch, and tell one to stop; fold -> (run, facts, True where it was told)."""
    study = folder / "array.toml"  # runs go where an experiments file says, one folder a fold
    study.write_text(f'base = "{ROOT}/launch/experiments.toml"\nruns = "{folder}"\n[array]\nextends = "demo.uda"\n')
    arguments = options(stores, folder)
    arguments[arguments.index("demo.uda")] = "array"
    del arguments[(place := arguments.index("--run-dir")) : place + 2]
    array = cluster.run(
        "sbatch", "--parsable", "--gres=none", "--array=0-1", f"--output={folder}/array.%a.log", SLURM / TRAIN,
        *arguments, "--experiments", study,
    )  # fmt: skip
    tasks = {fold: f"{array}_{fold}" for fold in (0, 1)}
    runs = {fold: folder / "array" / f"fold{fold}" for fold in tasks}
    _until(lambda: steps_on_record(runs[1]) >= DISTURBED)
    assert cluster.show(tasks[1])["JobId"] == array, "the last task of an array keeps its id"
    cluster.run("scancel", "--signal=USR1", "--batch", tasks[1])
    _until(lambda: all(cluster.show(task)["JobState"] in OVER for task in tasks.values()))
    return {fold: (runs[fold], cluster.show(task), fold == 1) for fold, task in tasks.items()}


def follow_family(cluster: Cluster, stores: Path, folder: Path) -> dict:
    """Submit a family as an array and another that depends on it, and tell a task to stop in between."""
    study = folder / "study.toml"
    study.write_text(STUDY.format(root=ROOT, folder=folder))
    environment = {
        "STUDY": str(study), "DATA": str(stores), "PROCESSES": "1", "SBATCH_GRES": "none", "CPUS": "32",
        "SBATCH_OUTPUT": f"{folder}/%x.%a.log", "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    }  # fmt: skip
    launcher = ("bash", ROOT / "launch" / "family.sh")
    before = set(LISTS.glob("*"))
    first = cluster.run(*launcher, "supervised", "--submit", "S.1", **environment)
    needs = f"afterok:{first}"
    second = cluster.run(*launcher, "generalization", "--submit", "S.1", **environment, DEPENDENCY=needs)
    runs = [folder / "study" / "S.1" / f"fold{fold}" for fold in (0, 1)]
    _until(lambda: steps_on_record(runs[0]) >= 5)
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


def follow_laboratory(cluster: Cluster, stores: Path, folder: Path) -> dict:
    """Submit the steps of launch/adapt.sh, and tell a training to stop: what waits for it goes on after it."""
    out = folder / "laboratory"
    environment = {
        "PROCESSES": "1", "SBATCH_GRES": "none", "CPUS": "32", "SBATCH_OUTPUT": f"{folder}/%x.%a.log",
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    }  # fmt: skip
    before = set(LISTS.glob("*"))
    submitted = cluster.run(
        "bash", ROOT / "launch" / "adapt.sh", stores.parent / "domains.toml", "--source", "source", "--target",
        "labelled", "--out", out, "--folds", 2, "--experiments", "demo.supervised", "demo.uda", "--always-adapt",
        "--submit", "--", "--steps", 40, "--batch-size", 4, "--workers", 0, **environment,
    )  # fmt: skip
    ids = dict(line.split(": ") for line in submitted.splitlines())
    _until(lambda: steps_on_record(out / "supervised" / "fold0") >= 2)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{ids['supervised']}_0")
    waiting = cluster.show(ids["gap"])
    _until(lambda: all(task["JobState"] in OVER for array in ids.values() for task in cluster.tasks(array)))
    for path in set(LISTS.glob("*")) - before:
        if str(folder) in path.read_text():
            path.unlink()
    tasks = [task for array in ids.values() for task in cluster.tasks(array)]
    return {"waiting": (waiting["JobState"], waiting["Reason"]), "states": [t["JobState"] for t in tasks], "out": out}


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.5)
