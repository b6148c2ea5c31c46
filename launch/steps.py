"""Steps of a launcher: run one after the other under one bar, skipped where their outcome is there."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from common.errors import make_folder
from common.files import write_file

_BAR = re.compile(r"(\d+)%\|")  # of a command's own bar


@dataclass
class Step:
    """Commands, the file that they leave last, and the files that it has to be newer than.

    weight: how long it takes beside others, roughly. A step without an outcome is always run: its commands skip what is
    up to date. noted: the file in which its commands stand once they were run.
    """

    name: str
    title: str
    commands: list[list[str]]
    outcome: Path | None = None
    needs: Sequence[Path] = ()
    weight: float = 1.0
    noted: Path | None = None

    @property
    def done(self) -> bool:
        """True where the outcome is there, by these commands, and newer than what it was made of."""
        if self.outcome is None or not self.outcome.exists():
            return False
        made = self.outcome.stat().st_mtime
        if self.noted and self.noted.exists() and json.loads(self.noted.read_text())["commands"] != self.lines:
            return False
        return all(need.exists() and need.stat().st_mtime <= made for need in self.needs)

    @property
    def lines(self) -> list[str]:
        """Its commands for a shell."""
        return [shlex.join(command) for command in self.commands]

    @property
    def trains(self) -> bool:
        """True for a training, which uses all processes and goes on where it was stopped."""
        return self.outcome is not None and self.outcome.name == "finished.json"


class Failed(Exception):
    """A command has ended with an exit status other than 0."""

    def __init__(self, step: Step, command: list[str], status: int):
        super().__init__(f"{step.title} ended with status {status}: {shlex.join(command)}")
        self.status = status


def run_all(plan: Callable[[], list[Step]], out: Path, only: Sequence[str] | None = None) -> None:
    """Run what `plan` says is to be done, under a bar with the time left. Failed where a command fails.

    only: names of the steps to be run, the others are left.

    The plan is asked again after every step: a step may decide about those behind it. What the commands print goes
    above the bar and to log.txt; steps/ has the commands and seconds.
    """
    watched = sys.stderr.isatty()
    form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
    over, spent, start, asked = set(), 0.0, time.monotonic(), []

    def ahead_of(steps: list[Step]) -> list[Step]:
        return [one for one in steps if one.name not in over and (only is None or one.name in only) and not one.done]

    with tqdm(smoothing=0, bar_format=form, disable=not watched) as bar:
        bar.initial = 0.0  # what trainings that go on had behind them: it took no time now
        while ahead := ahead_of(plan()):
            step = ahead[0]
            bar.set_description(step.title)
            bar.total = spent + sum(one.weight for one in ahead)
            began = time.monotonic()
            if not watched:
                now = spent - bar.initial
                left = f", about {(began - start) / now * (bar.total - spent) / 60:.0f} min left" if now > 0 else ""
                print(f"== {step.title}{left}", flush=True)
            for number, command in enumerate(step.commands):
                shown = [spent + step.weight * part / len(step.commands) for part in (number, number + 1)]
                run(step, command, out, bar, *shown, asked)
            record(out, step, [one.name for one in plan()], round(time.monotonic() - began, 1))
            over.add(step.name)
            spent += step.weight
        bar.n = bar.total = spent or 1.0


def run(step: Step, command: list[str], out: Path, bar: tqdm, low: float, high: float, asked: list[int]) -> None:
    """Run a command, moving the bar from `low` to `high` as the command's own bars go. Failed where it does, or a
    signal has `asked` to stop.

    A command that asks a question is told that nobody answers. A training that goes on says how much it has behind it
    by where its bar begins.
    """
    goes_on = True
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with (make_folder(out) / "log.txt").open("ab") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(executable(command), **streams, env=environment)
        for number in (signal.SIGTERM, signal.SIGUSR1):  # torchrun passes on SIGTERM; the other one kills it
            signal.signal(number, lambda *_: (asked.append(signal.SIGTERM), child.terminate()))
        try:
            for text in _pieces(child, log):
                share = _BAR.search(text)
                if share:
                    there = (high - low) * int(share[1]) / 100
                    bar.initial += there if goes_on else 0.0
                    goes_on = False
                    bar.n = max(bar.n, low + there)  # a command may have several
                    bar.update(0)
                elif text.strip():
                    bar.write(f"  {text.rstrip()}")
        except KeyboardInterrupt:  # Ctrl-C reaches the command too, which saves
            child.wait()
            raise
        if child.wait() or asked:  # a command that was asked to stop may end as if it were done
            raise Failed(step, command, child.returncode or 128 + asked[0])


def record(out: Path, step: Step, plan: Sequence[str], seconds: float | None = None) -> None:
    """Note a step's commands and seconds, each step in a file of its own: jobs may run at the same time.

    seconds: None of a step that is only begun. What is noted of steps that are not in the plan any more goes.
    """
    entry = {
        "step": step.name,
        "title": step.title,
        "position": plan.index(step.name),
        "commands": step.lines,
        "seconds": seconds,
        "finished": datetime.now().isoformat(timespec="seconds"),
    }
    write_file(make_folder(out / "steps") / f"{step.name}.json", json.dumps(entry, indent=2) + "\n")
    for path in (out / "steps").glob("*.json"):
        if path.stem not in plan:
            path.unlink(missing_ok=True)


def executable(command: list[str]) -> list[str]:
    """Replace `python` and `torchrun` by those of the environment that this program runs in."""
    first, *rest = command
    return [sys.executable if first == "python" else str(Path(sys.executable).with_name(first)), *rest]


def _pieces(child: subprocess.Popen, log: object) -> list[str]:
    """Yield what a command prints, cut at line ends and at what its bars are drawn over by."""
    left = b""
    while chunk := child.stdout.read1():
        log.write(chunk)
        *whole, left = re.split(rb"[\r\n]", left + chunk)
        yield from (piece.decode(errors="replace") for piece in whole)
    yield left.decode(errors="replace")
