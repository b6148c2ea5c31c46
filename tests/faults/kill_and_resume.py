"""Break runs at random moments in every way, start the same command again, and compare with an undisturbed run.

    python tests/faults/kill_and_resume.py [--cases 25] [--seed 0] [--table runs/kills.md]

Two processes under torchrun, the three training scripts, real stores. Exit status 1 unless every run ends
bit-identical: weights, discriminators, optimizers, scaler, best checkpoint and metrics. Where another number of
processes goes on, equal to float tolerance is enough.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from conftest import command, draw_domains, run  # noqa: E402
from short_runs import differences, steps_on_record, supervised_arguments, uda_arguments  # noqa: E402

STEPS, EVERY = 30, 6
COMMON = [
    "--steps", STEPS, "--batch-size", 4, "--log-every", 1, "--validate-every", 10, "--checkpoint-every", EVERY,
    "--workers", 2,
]  # fmt: skip
FAULTS = (
    "SIGKILL to all", "SIGTERM to torchrun", "SIGTERM to one rank", "SIGUSR1 to one rank", "SIGKILL to one rank",
    "SIGKILL during a save", "full disk", "other number of workers", "other number of processes",
)  # fmt: skip
TOLERANCE, EQUAL = 1e-4, "equal to 1e-4"


class Case:
    """A script's command and what an undisturbed run of it leaves."""

    def __init__(self, script: str, arguments: Callable[..., list], options: list, folder: Path, name="reference"):
        """`arguments(run, *more)` are those of a run in that folder; `options` are added to them."""
        self.script, self.arguments, self.options, self.folder = script, arguments, [*COMMON, *options], folder
        self.reference = folder / f"{script}.{name}"
        outcome = self.start(self.reference).wait()
        assert outcome == 0, Path(f"{self.reference}.log").read_text()

    def start(self, run: Path, *more: object, processes: int = 2) -> subprocess.Popen:
        line = command(f"{self.script}.py", *self.arguments(run, *self.options, *more), processes=processes)
        log = Path(f"{run}.log") if run.parent == self.folder else self.folder / "full_disk.log"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        with log.open("a") as file:
            return subprocess.Popen(line, cwd=ROOT, stdout=file, stderr=file, env=environment, start_new_session=True)


def ranks(process: subprocess.Popen) -> list[psutil.Process]:
    """Return the training processes below torchrun, without loader workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children()
    return []


def wait_for(condition, process: subprocess.Popen, seconds: float = 240) -> bool:
    """Wait for a condition; True where it came true while the process lived."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def kill_all(process: subprocess.Popen) -> None:
    for one in [*ranks(process), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def disturb(fault: str, process: subprocess.Popen, run: Path, step: int, victim: int) -> str:
    """Wait for the moment and do it; return what was done, in words."""
    if fault == "SIGKILL during a save":
        seen = wait_for(lambda: steps_on_record(run) >= step and (run / ".last.pt.partial").exists(), process)
        kill_all(process)
        return "while .last.pt.partial was being written" if seen else "missed: after the run"
    if not wait_for(lambda: steps_on_record(run) >= step, process):
        return "missed: after the run"
    if fault == "SIGKILL to all":
        kill_all(process)
    elif fault == "SIGTERM to torchrun":
        process.terminate()
    else:
        number = {"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1, "SIGKILL": signal.SIGKILL}[fault.split()[0]]
        children = ranks(process)
        if victim < len(children):
            os.kill(children[victim].pid, number)
    return f"after step {step}" + (f", rank {victim}" if "one rank" in fault else "")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int):
    """Mount a file system of a few megabytes; it needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def difference(run: Path, reference: Path, tolerance: float = 0.0) -> str:
    """Name the first thing in which a run differs from the undisturbed one; empty when nothing does."""
    return next(iter(differences(run, reference, tolerance)), "")


def run_case(number: int, case: Case, fault: str, rng: random.Random) -> dict:
    run, step, victim = case.folder / f"case{number}", rng.randrange(1, STEPS - 1), rng.randrange(2)
    with contextlib.ExitStack() as stack:
        if fault == "full disk":
            disk = stack.enter_context(small_disk(case.folder / f"disk{number}", 64))
            run = disk / "run"
            filler = disk / "filler"
            process = case.start(run)
            wait_for(lambda: (run / "last.pt").exists() and steps_on_record(run) >= min(step, EVERY + 1), process)
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            done, status = "filled after the first checkpoint", process.wait(timeout=300)
            filler.unlink()
        elif fault == "other number of workers":
            process = case.start(run, "--workers", 0)
            done = disturb("SIGKILL to all", process, run, step, victim) + ", workers 0 -> 2"
            status = process.wait(timeout=300)
        elif fault == "other number of processes":
            process = case.start(run)
            done = disturb("SIGKILL to all", process, run, step, victim) + ", processes 2 -> 1"
            status = process.wait(timeout=300)
        else:
            process = case.start(run)
            done = disturb(fault, process, run, step, victim)
            status = process.wait(timeout=300)
        time.sleep(0.5)
        saved = (run / "last.pt").exists() or (run / "previous.pt").exists()
        processes, more = (1 if "processes" in fault else 2), (["--workers", 2] if "workers" in fault else [])
        again = case.start(run, *more, processes=processes).wait(timeout=600)
        found = difference(run, case.reference) if again == 0 else f"the same command again ended with {again}"
        if found and processes == 1 and again == 0:
            found = difference(run, case.reference, TOLERANCE) or EQUAL
    return {
        "case": number, "script": case.script, "fault": fault, "when": done, "status": status,
        "checkpoint": "yes" if saved else "none yet", "outcome": found or "bit-identical",
    }  # fmt: skip


def nanosem_arguments(pictures: Path, run: Path, *more: object) -> list[object]:
    """Return the options of a pre-training; where `more` gives one of them again, it wins."""
    return [
        "--experiment", "NanoSEM", "--model", "unet_small", "--pretraining", "random", "--data", pictures,
        "--run-dir", run, "--amp", "off", *more,
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the table here too, as Markdown")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores, pictures = draw_domains(folder / "domains"), folder / "pictures"
        run("-m", "data.synthetic_nanosem", "--out", pictures, "--images", 60)
        run("-m", "data.nanosem", pictures, "--size", 64)
        supervised = ("train_supervised", partial(supervised_arguments, stores))
        uda = ("train_uda", partial(uda_arguments, stores))
        nanosem = ("pretrain_nanosem", partial(nanosem_arguments, pictures))
        cases = [Case(*supervised, [], folder), Case(*uda, ["--amp", "bf16"], folder), Case(*nanosem, [], folder)]
        # With frozen batch norm and equal parts of the batch the arithmetic does not depend on the number of processes.
        parts = ["--micro-batch", 2]
        alike = [
            Case(*supervised, ["--batch-norm", "frozen", *parts], folder, "parts"),
            Case(*uda, ["--batch-norm", "frozen", *parts], folder, "parts"),
            Case(*nanosem, parts, folder, "parts"),
        ]
        rows = []
        for number in range(options.cases):
            fault = FAULTS[number % len(FAULTS)]
            which = (number + number // len(FAULTS)) % 3
            row = run_case(number, (alike if fault == "other number of processes" else cases)[which], fault, rng)
            rows.append(row)
            print(json.dumps(row), flush=True)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(str, row.values())) + " |" for row in rows]
    good = sum(row["outcome"] in ("bit-identical", EQUAL) for row in rows)
    print("\n".join(lines), f"\n{good} of {len(rows)} as undisturbed")
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text("\n".join(lines) + f"\n\n{good} of {len(rows)} as undisturbed.\n")
    return good < len(rows)


if __name__ == "__main__":
    sys.exit(main())
