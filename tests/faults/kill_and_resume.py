"""Break runs at random moments in every way, start the same command again, and compare with an undisturbed run.

    python tests/faults/kill_and_resume.py [RUNS] [--seed 0] [--jobs 2] [--table runs/kills.md]
    python tests/faults/kill_and_resume.py 28 --scripts train_translation

The five training scripts with one process and with two under torchrun, without loader processes and with two for each
domain, on real stores. Exit status 1 unless every run is gone in time after its disturbance, and the same command again
ends with the bits of the undisturbed run: weights, discriminators, optimizers, scaler, best checkpoint and metrics.
Where another number of processes goes on, equal to float tolerance is enough.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from conftest import command, draw_domains, run  # noqa: E402
from short_runs import (  # noqa: E402
    differences,
    selftraining_arguments,
    steps_on_record,
    supervised_arguments,
    translation_arguments,
    uda_arguments,
)

STEPS, EVERY = 20, 4
COMMON = [
    "--steps", STEPS, "--batch-size", 4, "--log-every", 1, "--validate-every", 10, "--checkpoint-every", EVERY,
]  # fmt: skip
# A disturbance, and the seconds in which the whole program is gone after it on two busy cores: torchrun gives what it
# stops 30.
FAULTS = {
    "SIGKILL to all": 10, "SIGTERM": 60, "loader process killed": 60, "two SIGTERM": 60, "SIGKILL to one process": 60,
    "two Ctrl-C": 60, "SIGKILL during a save": 10, "loader processes stopped, two SIGTERM": 60, "SIGUSR1": 60,
    "Ctrl-C": 60, "SIGKILL to torchrun": 60, "full disk": 60, "other number of workers": 10,
    "other number of processes": 10,
}  # fmt: skip
LOADER = ("loader process killed", "loader processes stopped, two SIGTERM", "other number of workers")
WHOLE = 600  # seconds for a run to its end, on a busy machine
TOLERANCE, EQUAL = 1e-4, "equal to 1e-4"
SCRIPTS = ("train_supervised", "train_uda", "train_selftraining", "train_translation", "pretrain_nanosem")


class Script:
    """A training script's command, in a number of processes, and what an undisturbed run of it leaves."""

    def __init__(self, name: str, arguments: Callable[..., list], options: list, folder: Path, processes: int):
        """`arguments(run, *more)` are those of a run in that folder; `options` are added to them."""
        self.name, self.arguments, self.options, self.processes = name, arguments, [*COMMON, *options], processes
        self.folder = folder / f"{name}.{processes}{'.parts' if '--micro-batch' in options else ''}"
        self.folder.mkdir()
        self.reference, self.seconds = self.folder / "reference", 0.0

    def run_reference(self) -> None:
        began = time.monotonic()
        outcome = self.start(self.reference, 0).wait(WHOLE)
        assert outcome == 0, (self.folder / "reference.log").read_text()
        self.seconds = time.monotonic() - began

    def start(self, run: Path, workers: int, processes: int | None = None) -> subprocess.Popen:
        processes = self.processes if processes is None else processes
        arguments = self.arguments(run, *self.options, "--workers", workers)
        line = command(f"{self.name}.py", *arguments, processes=processes if processes > 1 else 0)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        with (self.folder / f"{run.name}.log").open("a") as file:
            return subprocess.Popen(line, cwd=ROOT, stdout=file, stderr=file, env=environment, start_new_session=True)


def family(process: subprocess.Popen) -> list[list[psutil.Process]]:
    """Return the generations of a run's processes: torchrun if there is one, training processes, loader processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        me = psutil.Process(process.pid)
        torchrun = [me] if "torch.distributed.run" in me.cmdline() else []
        training = me.children() if torchrun else [me]
        return [torchrun, training, [worker for one in training for worker in one.children()]]
    return [[], [], []]


def send(number: int, processes: list[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Wait for a condition; True where it came true while the process lived."""
    end = time.monotonic() + WHOLE
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.002)
    return False


def disturb(fault: str, process: subprocess.Popen, run: Path, script: Script, rng: random.Random) -> tuple[str, list]:
    """Wait for a random moment and do it. Returns the moment, in words, and who was there; nothing if it was too late.

    One moment in six is anywhere between the start of the command and the end; the others are some time after a step.
    """
    step, later = rng.randrange(STEPS), rng.uniform(0, 0.3)
    if fault == "SIGKILL during a save":
        reached = wait_for(lambda: steps_on_record(run) >= step and (run / ".last.pt.partial").exists(), process)
        when = "while .last.pt.partial was being written"
    elif rng.random() < 1 / 6 and fault not in (*LOADER, "full disk"):
        moment = time.monotonic() + rng.uniform(0, script.seconds)
        reached = wait_for(lambda: time.monotonic() >= moment, process)
        when = f"after {steps_on_record(run)} steps, by the clock"
    else:

        def ready() -> bool:  # a loader can be disturbed when it is there
            return steps_on_record(run) >= step and (run / "config.json").exists() and (
                fault not in LOADER or bool(family(process)[2]))  # fmt: skip

        reached = wait_for(ready, process)
        time.sleep(later)
        when = f"{later:.2f} s after step {step}"
    torchrun, training, loaders = family(process)
    everyone = [*torchrun, *training, *loaders]
    if not reached or not training or (fault in LOADER and not loaders):
        return "", everyone
    chosen = [rng.choice(training)]
    if fault.startswith(("SIGKILL to all", "SIGKILL during", "other")):
        send(signal.SIGKILL, everyone)
    elif fault == "SIGKILL to one process":
        send(signal.SIGKILL, chosen)
    elif fault == "SIGKILL to torchrun":
        send(signal.SIGKILL, torchrun or training)
    elif fault == "SIGUSR1":
        send(signal.SIGUSR1, chosen)
    elif fault == "loader process killed":
        send(signal.SIGKILL, [rng.choice(loaders)])
    elif fault == "Ctrl-C" or fault == "two Ctrl-C":  # a terminal signals all of them
        send(signal.SIGINT, everyone)
        if fault == "two Ctrl-C":
            time.sleep(rng.uniform(0, 1))
            send(signal.SIGINT, everyone)
    else:  # SIGTERM, to torchrun or to one of its processes
        chosen = rng.choice([torchrun or training, chosen])
        if "stopped" in fault:
            send(signal.SIGSTOP, loaders)
            time.sleep(0.5)
        send(signal.SIGTERM, chosen)
        if "two" in fault:
            time.sleep(rng.uniform(0.5 if "stopped" in fault else 0, 1))
            send(signal.SIGTERM, training if "stopped" in fault else chosen)
    return when, everyone


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int):
    """Mount a file system of a few megabytes; it needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def fill(process: subprocess.Popen, run: Path, filler: Path) -> tuple[str, list]:
    """Fill the run's disk after its first checkpoint. Returns what `disturb` does."""
    if not wait_for((run / "last.pt").exists, process):
        return "", []
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return "after the first checkpoint", [one for generation in family(process) for one in generation]


def gone(process: subprocess.Popen, everyone: list[psutil.Process], seconds: float) -> float | None:
    """Wait until a program and all its processes are gone. Returns how long it took; None, and kills them, if too long.

    A worker that was stopped ends with its parent too.
    """
    began = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    _, alive = psutil.wait_procs(everyone, max(1, seconds - (time.monotonic() - began)))
    if process.poll() is None or alive:
        send(signal.SIGKILL, [*alive, *(one for generation in family(process) for one in generation)])
        return None
    return time.monotonic() - began


def run_case(number: int, script: Script, fault: str, workers: int, seed: int) -> dict:
    """Break a run and go on; the moments are drawn anew while the run is too fast for the disturbance."""
    with contextlib.ExitStack() as stack:
        folder = script.folder
        if fault == "full disk":
            folder = stack.enter_context(small_disk(folder / f"disk{number}", 64))
        for attempt in range(5):
            rng = random.Random(f"{seed} {number} {attempt}")
            run = folder / f"case{number}.{attempt}"
            process = script.start(run, workers)
            if fault == "full disk":
                when, everyone = fill(process, run, folder / "filler")
            else:
                when, everyone = disturb(fault, process, run, script, rng)
            seconds = gone(process, everyone, FAULTS[fault] if when else WHOLE)
            if when:
                break
            shutil.rmtree(run, ignore_errors=True)
        (folder / "filler").unlink(missing_ok=True)
        saved = (run / "last.pt").exists() or (run / "previous.pt").exists()
        row = {
            "case": number, "script": script.name, "processes": script.processes, "workers": workers, "fault": fault,
            "when": when or "the run was too fast", "status": process.returncode,
            "seconds": seconds if seconds is None else round(seconds, 1), "checkpoint": "yes" if saved else "none yet",
        }  # fmt: skip
        if seconds is None:
            return row | {"outcome": f"not gone after {FAULTS[fault]} s"}
        again = script.start(
            run, 2 - workers if "workers" in fault else workers, 1 if "of processes" in fault else script.processes
        )
        if gone(again, [], WHOLE) is None:
            return row | {"outcome": f"the same command again not finished after {WHOLE} s"}
        if again.returncode:
            return row | {"outcome": f"the same command again ended with {again.returncode}"}
        found = next(iter(differences(run, script.reference)), "")
        if found and "of processes" in fault:
            found = next(iter(differences(run, script.reference, TOLERANCE)), EQUAL)
        if not found:
            shutil.rmtree(run)
        return row | {"outcome": found or "bit-identical"}


def nanosem_arguments(pictures: Path, run: Path, *more: object) -> list[object]:
    """Return the options of a pre-training; where `more` gives one of them again, it wins."""
    return [
        "--experiment", "NanoSEM", "--model", "unet_small", "--pretraining", "random", "--data", pictures,
        "--run-dir", run, "--amp", "off", *more,
    ]  # fmt: skip


def scripts_in(folder: Path) -> dict[tuple[str, int, bool], Script]:
    """Make the data and the commands, by name, number of processes, and if a batch is taken in parts."""
    stores, pictures, reference = draw_domains(folder / "domains"), folder / "pictures", folder / "frozen"
    run("train_supervised.py", *supervised_arguments(stores, reference, "--steps", 2))
    run("-m", "data.synthetic_nanosem", "--out", pictures, "--images", 60)
    run("-m", "data.nanosem", pictures, "--size", 64)
    names = {
        "train_supervised": (partial(supervised_arguments, stores), []),
        "train_uda": (partial(uda_arguments, stores), ["--amp", "bf16"]),
        "train_selftraining": (partial(selftraining_arguments, stores), ["--lambda-masked", 1]),
        "train_translation": (
            lambda run, *more: translation_arguments(stores, run, "--reference", reference, *more),
            [],
        ),
        "pretrain_nanosem": (partial(nanosem_arguments, pictures), []),
    }
    found = {}
    for name, (arguments, options) in names.items():
        for processes in (1, 2):
            found[name, processes, False] = Script(name, arguments, options, folder, processes)
        # With frozen batch norm and equal parts of the batch the arithmetic does not depend on the number of processes.
        frozen = [] if name in ("train_translation", "pretrain_nanosem") else ["--batch-norm", "frozen"]
        found[name, 2, True] = Script(name, arguments, ["--micro-batch", 2, *frozen], folder, 2)
    return found


def table(rows: list[dict], columns: list[str]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]


def summary(rows: list[dict]) -> list[str]:
    """Lines of a table by disturbance and number of processes: how many, how many as undisturbed, the longest wait."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["fault"], row["processes"]].append(row)
    lines = [
        {
            "disturbance": fault, "processes": processes, "runs": len(group),
            "as undisturbed": sum(row["outcome"] in ("bit-identical", EQUAL) for row in group),
            "gone after, s (longest)": max(float("inf") if row["seconds"] is None else row["seconds"] for row in group),
        }
        for (fault, processes), group in sorted(groups.items())
    ]  # fmt: skip
    return table(lines, list(lines[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=int, nargs="?", default=25, help="how many are broken (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time (default: a core each)")
    parser.add_argument("--table", type=Path, help="write the tables here too, as Markdown")
    parser.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="which (default: all)")
    options = parser.parse_args()
    began, rows, names = time.monotonic(), [], options.scripts
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        scripts = scripts_in(Path(name))
        plan = []
        for number in range(options.runs):  # a disturbance meets all scripts, numbers of processes and of workers
            turn, place = divmod(number, len(FAULTS))
            fault, round_of = list(FAULTS)[place], turn // len(names)
            processes = 2 if fault == "other number of processes" else 1 + (round_of + place) % 2
            workers = 2 if fault in LOADER else 2 * ((round_of // 2 + place // 2) % 2)
            script = scripts[names[(turn + place) % len(names)], processes, "of processes" in fault]
            plan.append((number, script, fault, workers))
        list(pool.map(Script.run_reference, {script for _, script, _, _ in plan}))
        print(f"{time.monotonic() - began:.0f} s: data and undisturbed runs are there", flush=True)
        futures = [pool.submit(run_case, *one, options.seed) for one in plan]
        for done in as_completed(futures):
            rows.append(done.result())
            print(f"{len(rows)} of {options.runs}, {time.monotonic() - began:.0f} s:", json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: row["case"])
    good = sum(row["outcome"] in ("bit-identical", EQUAL) for row in rows)
    lines = [*table(rows, list(rows[0])), "", *summary(rows), ""]
    lines.append(
        f"{good} of {len(rows)} as undisturbed, in {(time.monotonic() - began) / 60:.0f} minutes, seed {options.seed}."
    )
    print("\n".join(lines))
    if options.table:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text("\n".join(lines) + "\n")
    return good < len(rows)


if __name__ == "__main__":
    sys.exit(main())
