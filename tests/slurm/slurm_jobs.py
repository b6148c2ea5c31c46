"""The launcher's own batch files on a real SLURM: a disturbed job comes back and ends as an undisturbed run does.

`make test-slurm` runs this; its name keeps it out of `make test`. All jobs are submitted at once and disturbed while
they train, each by a thread of its own; the tests look at what became of them. SLURM_TABLE=FILE writes the table, and
SLURM_JOBS="requeue usr1" takes some of the jobs only.
"""

import os
import re
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from cluster import Cluster
from conftest import ROOT, run
from disturbances import CHOSEN, JOBS, STEPS, follow_array, follow_family, follow_laboratory, options
from short_runs import differences


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
    """Runs of two processes that SLURM had nothing to do with, by (steps, fold)."""
    runs = {}
    array = {(STEPS, 0), (STEPS, 1)} if "array" in CHOSEN else set()
    for steps, fold in sorted(array | {(job.steps, job.fold) for job in JOBS if job.state == "COMPLETED"}):
        runs[steps, fold] = folder / f"undisturbed{steps}.{fold}"
        run(*options(stores, runs[steps, fold], steps), "--fold", fold, processes=2, timeout=600)
    return runs


@pytest.fixture(scope="session")
def jobs(cluster, stores, folder):
    """All jobs, when they were submitted together, were disturbed, and are over."""
    began = time.monotonic()
    for job in JOBS:
        job.start(cluster, stores, folder)
    followed = {job.name: job.follow for job in JOBS}
    for name, one in (("array", follow_array), ("family", follow_family), ("laboratory", follow_laboratory)):
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
    """Outcomes of the jobs; one whose thread failed raises what that met."""

    def __init__(self):
        super().__init__()
        self.errors = {}

    def __missing__(self, name: str):
        raise AssertionError(f"{name}: {self.errors.get(name)}") from self.errors.get(name)


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
    for fold, (folder, facts, signalled) in jobs["array"].items():
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1" if signalled else "0")
        assert differences(folder, undisturbed[STEPS, fold]) == []


@pytest.mark.skipif("family" not in CHOSEN, reason="not in SLURM_JOBS")
def test_a_family_is_submitted_with_what_it_needs(jobs):
    """launch/study.sh calls launch/family.sh so: an array, and another that waits also while a task is requeued."""
    outcome = jobs["family"]
    assert outcome["waiting"] == ("PENDING", "Dependency")
    assert outcome["states"] == {"COMPLETED"}
    for folder in outcome["runs"]:
        assert (folder / "evaluation" / "source" / "score.json").exists()
        assert (folder / "evaluation" / "labelled" / "score.json").exists()
    assert outcome["left"] == "", "a second submission would have nothing to do"


@pytest.mark.skipif("laboratory" not in CHOSEN, reason="not in SLURM_JOBS")
def test_a_laboratory_is_submitted_in_steps_that_wait_for_each_other(jobs):
    outcome = jobs["laboratory"]
    assert outcome["waiting"] == ("PENDING", "Dependency")
    assert outcome["states"] == ["COMPLETED"] * 7
    out = outcome["out"]
    assert all(
        (out / kind / f"fold{fold}" / "finished.json").exists() for kind in ("supervised", "uda") for fold in (0, 1)
    )
    report = (out / "report.html").read_text()
    assert "What to check" in report
    done = ("data.prepare", "train_supervised.py", "evaluation.gap", "train_uda.py", "evaluation.choose", "evaluate.py")
    assert all(command in report for command in done), "the commands of all jobs, to repeat it"


def test_the_table(jobs, undisturbed, cluster):
    """The measurements are printed, and written to SLURM_TABLE where that is given."""
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
