"""A run: its folder, where it stands, what it logs and what it saves."""

import fcntl
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import write_file
from data.tiles import names_of_batch
from training import checkpoint
from training.distributed import Processes, first_alone, mean
from training.preemption import Preempted, StopRequest
from training.tracking import Tracker, open_run, refuse_changes

# After how many updates a process looks at what its device has computed. On a GPU it waits for that.
LOOK_EVERY = {"cpu": 1, "cuda": 20}
_PATIENCE = 20  # seconds: longer than loader workers take to notice that the process they serve is gone


class NonFiniteLoss(InputError):
    """A loss or a gradient is NaN or infinite; raised on all processes, before it gets into a checkpoint."""


class Run:
    """Goes on from the folder's last checkpoint. `parts` are the objects whose state makes the run."""

    def __init__(
        self,
        options: SimpleNamespace,
        preparation: dict,
        parts: dict[str, object],
        processes: Processes,
        datasets: list[Dataset],
        measure: str = "miou_source_validation",
    ):
        """`preparation`: of the data, with fingerprints. `datasets`: what its batches are taken from, to name samples.
        `measure`: what `judge` is told, 'miou_...' or 'accuracy_...'.

        InputError when the folder holds another configuration or other data.
        """
        self.options, self.parts, self.processes, self.datasets = options, parts, processes, datasets
        self.preparation, self.measure, self.kind = preparation, measure, measure.partition("_")[0]
        self.step, self.best, self.overflows = 0, {"step": 0, self.kind: -1.0}, 0
        self.unseen = []  # the tallies that were not looked at yet
        self.folder = Path(options.run_dir)
        first_alone(self._open, processes)
        self._resume()
        self.finished = self.step >= options.iterations
        if self.finished:
            self._mark_finished()  # lacking after a kill between the last checkpoint and the mark
        else:
            self.stop_request, self.stopping = StopRequest(), False
            self.tracker = Tracker(self.folder, vars(options), self.step, processes)

    def due(self, every: int) -> bool:
        """Whether something done every so many steps is due after `self.step` updates (always after the last)."""
        return self.step % every == 0 or self.step == self.options.iterations

    @property
    def must_save(self) -> bool:
        """Whether a checkpoint is due, a milestone is reached, or the run was asked to stop."""
        return bool(self.due(self.options.checkpoint_every) or self.milestone or self.stopping)

    @property
    def milestone(self) -> str | None:
        """The name of the milestone (`epoch100`) that `self.step` updates reach, if any."""
        return self.options.milestone_steps.get(str(self.step))

    @property
    def picture(self) -> Path:
        """Where this step's panel goes."""
        return self.folder / "panels" / f"step{self.step:06d}.png"

    def log(self, values: dict[str, float]) -> None:
        """Record values of the present step under their names."""
        self.tracker.log(self.step, values)

    def check(self, tally: dict[str, torch.Tensor]) -> dict[str, float] | None:
        """The scalars of an update to come, averaged over processes, as floats; None where nobody looks at them now.

        A look is one reduction and one wait for the device, for all tallies since the last one: every step on the CPU,
        every LOOK_EVERY steps on a GPU and where the values are logged or the model is judged or saved. NonFiniteLoss,
        on all processes, then names the term and the step; `Precision` has kept it out of the weights. The processes
        also learn here of a request to stop that any of them got, so that they stop together.
        """
        self.unseen.append(torch.stack([value.detach().float() for value in tally.values()]))
        if not self._looks:
            return None
        first = self.step + 1 - len(self.unseen)
        request = torch.full_like(self.unseen[0], float(bool(self.stop_request)))
        *rows, request = mean(torch.stack([*self.unseen, request]), self.processes)
        self.unseen, self.stopping = [], request[0] > 0
        for step, row in enumerate(rows, start=first):
            values = dict(zip(tally, row, strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if self.options.amp == "fp16" and all(name.startswith("gradient_norm") for name in bad):
                self.overflows += bool(bad)  # the scaler skips this update and lowers its scale
                values = {name: values[name] for name in values if name not in bad} | {"overflows": self.overflows}
            elif bad:
                raise self._not_finite(bad, step)
        return values

    @property
    def _looks(self) -> bool:
        """Whether the step to come ends with a look at the values."""
        options, step = self.options, self.step + 1
        often = (LOOK_EVERY[self.processes.device.type], options.log_every, options.validate_every)
        often += (options.checkpoint_every, options.iterations, *map(int, options.milestone_steps))
        return any(step % every == 0 for every in often)

    def _not_finite(self, names: list[str], step: int) -> NonFiniteLoss:
        samples = [
            f"{one.store.domain}: {', '.join(names_of_batch(one, self.options.batch_size, step))}"
            for one in self.datasets
        ]
        return NonFiniteLoss(
            f"{self.folder}: {', '.join(names)} is not finite in step {step + 1}, on {'; '.join(samples)}. Stopped "
            "without that update: last.pt and previous.pt are as they were. Start in another --run-dir with a lower "
            "--learning-rate, or with --amp bf16 or off."
        )

    def judge(self, value: float) -> None:
        """Record the measure, the source validation mIoU; keep the model as best.pt when it is the best so far."""
        self.log({self.measure: value})
        if value > self.best[self.kind]:
            self.best = {"step": self.step, self.kind: value}
            self._save("best.pt", ("model", "discriminators"))

    def save(self) -> None:
        """Write last.pt; the one before becomes previous.pt. A milestone is kept under its own name, for ever.

        Preempted, on all processes, when the run was asked to stop: everything is saved then.
        """
        if self.milestone:
            self._save(f"{self.milestone}.pt", ("model",))
        self._save("last.pt", tuple(self.parts), self.folder / "previous.pt")
        self.tracker.commit(self.step)
        if self.stopping and self.step < self.options.iterations:
            signal = self.stop_request.received or "a signal to another process"
            self.tracker.say(
                f"{self.folder}: stopped by {signal} after {self.step} of {self.options.iterations} steps, all saved. "
                "The same command goes on."
            )
            self.tracker.close()
            raise Preempted

    def close(self) -> None:
        """Leave finished.json, and end the record."""
        self._mark_finished()
        self.tracker.close({"best_step": self.best["step"], f"{self.measure}_best": self.best[self.kind]})

    def _open(self) -> None:
        """The folder with its config.json, and a lock on it that this process holds until it ends."""
        open_run(vars(self.options))
        self.lock = (self.folder / ".lock").open("w")
        for _ in range(_PATIENCE):
            try:
                return fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps by a loader worker of a run just killed
                time.sleep(1)
            except OSError:  # a file system without locks
                return None
        raise InputError(f"{self.folder}: another process is training here. Wait for it, or give another --run-dir.")

    def _mark_finished(self) -> None:
        """finished.json, by which launchers know that nothing is left to do."""
        if self.processes.first:
            write_file(self.folder / "finished.json", json.dumps({"step": self.step, "best": self.best}) + "\n")

    def _save(self, name: str, keys: tuple[str, ...], keep: Path | None = None) -> None:
        """Metrics first, so that no checkpoint is ahead of them. A full disk stops all processes."""

        def write() -> None:
            self.tracker.flush()
            config = vars(self.options)
            facts = {"config": config, "preparation": self.preparation}
            facts |= {"step": self.step, "best": self.best, "overflows": self.overflows}
            states = {key: _state(self.parts[key]) for key in keys if key in self.parts}
            checkpoint.save(self.folder / name, {**facts, **states}, keep)

        first_alone(write, self.processes)

    def _resume(self) -> None:
        # The first process alone sets a damaged checkpoint aside; the others then read what it read.
        found = []
        first_alone(lambda: found.append(checkpoint.load_newest(self.folder)), self.processes)
        state = found[0] if found else checkpoint.load_newest(self.folder)
        if state is None:
            return
        refuse_changes(self.folder, state["config"], vars(self.options))
        lacking = [key for key in self.parts if key not in state]
        if lacking:
            raise InputError(
                f"{self.folder / 'last.pt'}: has no {', '.join(lacking)} to go on from (best.pt has not). Put "
                "previous.pt in its place, or start in another --run-dir."
            )
        before, now = state["preparation"], self.preparation
        changed = [key for key in before if before[key] != now.get(key)]
        if changed:
            raise InputError(
                f"{self.folder}: its checkpoint was trained on other stores ({', '.join(changed)} differ). Restore the "
                "stores, or give another --run-dir."
            )
        for key, part in self.parts.items():
            if isinstance(part, list):
                for optimizer, saved in zip(part, state[key], strict=True):
                    _restore(optimizer, saved)
            else:
                part.load_state_dict(state[key])
        self.step, self.best, self.overflows = state["step"], state["best"], state["overflows"]


def _restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Moments as saved, in the memory format of their weights: fused kernels walk all of them as flat memory."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _state(part):
    return [one.state_dict() for one in part] if isinstance(part, list) else part.state_dict()
