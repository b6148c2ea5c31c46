"""Steps of launch/adapt.sh as SLURM jobs, each after what it needs."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError

if TYPE_CHECKING:
    from launch.adapt import Launch

JOBS = Path("runs/jobs")
CPUS = 8  # of a process, where CPUS does not say otherwise


def submit(launch: "Launch") -> None:
    """Submit a job for what comes first, one for each fold's training, one for what follows, and print their ids.

    What the gap report decides is not known yet: a job that it makes needless ends at once. InputError where sbatch
    fails.
    """
    trained = [f"supervised {fold}" for fold in launch.folds]
    before = None
    for name, lines, gpus in (
        ("prepare", [["prepare"]], 0),
        ("supervised", [[step] for step in trained], launch.options.processes),
        ("gap", [["gap", "remedied"]], 1),
        *((kind, [[f"{kind} {fold}"] for fold in launch.folds], launch.options.processes) for kind in launch.adapted),
        ("report", [["choose", "segment", "report"]], 1),
    ):
        given = ["python", "-m", "launch.adapt", *_without(launch.options.given, "--submit")]
        given += ["--processes", str(launch.options.processes), "--experiments", *launch.options.experiments]
        rest = ["--", *launch.options.rest] if launch.options.rest else []
        before = _sbatch(name, [shlex.join([*given, "--only", *steps, *rest]) for steps in lines], gpus, before)
        print(f"{name}: {before}")


def _without(words: list[str], word: str) -> list[str]:
    return [one for one in words if one != word]


def _sbatch(name: str, lines: list[str], gpus: int, after: str | None) -> str:
    """Submit lines as an array of launch/slurm/jobs.sbatch; return its id."""
    JOBS.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=JOBS, prefix=f"{name}.", delete=False) as file:
        file.write("\n".join(lines) + "\n")
    resources = os.environ.get("SBATCH_GRES") or (f"gpu:{gpus}" if gpus else "none")
    cores = int(os.environ.get("CPUS", CPUS)) * max(1, gpus)
    command = ["sbatch", "--parsable", f"--job-name={name}", f"--array=0-{len(lines) - 1}", f"--gres={resources}"]
    command += [f"--cpus-per-task={cores}", "--kill-on-invalid-dep=yes"]  # else a job would wait for ever
    command += [f"--dependency=afterok:{after}"] if after else []
    try:
        found = subprocess.run(
            [*command, "launch/slurm/jobs.sbatch", file.name], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        raise InputError(f"sbatch: {str(said).strip()}. Submit from a machine of the cluster.") from error
    return found.stdout.strip().partition(";")[0]
