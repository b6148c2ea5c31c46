"""A run: its folder, where it stands, what it logs and what it saves."""

import fcntl
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from common.errors import InputError
from common.files import sha256_of, write_file
from data.tiles import batches, names_of_batch
from training import checkpoint, distributed
from training.agreement import refuse_differences, standing
from training.configuration import open_run, refuse_changes, summary
from training.distributed import Processes, mean, on_main_process
from training.network import require_batch_statistics
from training.precision import Precision
from training.preemption import Interrupted, Preempted, StopRequest
from training.preparation import preparation
from training.tracking import Tracker
from training.weights import file_of

# After how many updates a process looks at what its device has computed. On a GPU it waits for that.
LOOK_EVERY = {"cpu": 1, "cuda": 20}
_PATIENCE = 20  # seconds: longer than processes take to notice that the one they serve, or torchrun, is gone


class NonFiniteLoss(InputError):
    """A loss or a gradient is NaN or infinite; raised on all processes, before it gets into a checkpoint."""


class Run:
    """A training run that goes on from its folder's last checkpoint.

    `step` counts the updates made. `networks`, `optimizers` and the scaler of `precision` are its state.
    """

    def __init__(
        self,
        options: SimpleNamespace,
        processes: Processes,
        datasets: Sequence[Dataset],
        networks: dict[str, nn.Module],
        optimizers: Sequence[Optimizer],
        precision: Precision,
        facts: dict | None = None,
        measure: str = "miou_source_validation",
    ):
        """Take up the state of the folder's last checkpoint, if there is one.

        datasets: what the batches are taken from, the source first. networks: by the name under which checkpoints hold
        them; the first is 'model'. facts: about the data, that must not change; those of tile stores by default.
        measure: the name of the score that `record_validation` is told, 'miou_...' or 'accuracy_...'.
        InputError when the folder holds another configuration or other data.
        """
        self.options, self.processes, self.datasets = options, processes, datasets
        self.networks, self.optimizers, self.scaler = networks, list(optimizers), precision.scaler
        if not facts:
            facts, store = preparation(options, [dataset.store for dataset in datasets]), datasets[0].store
            require_batch_statistics(networks["model"], store.tile + 2 * store.overlap, options, processes)
        self.facts = facts
        self.measure, self.kind = measure, measure.partition("_")[0]
        self.step, self.best, self.overflows = 0, {"step": 0, self.kind: -1.0}, 0
        self.start = _start_of(options)
        self._unseen, self._values = [], {}  # tallies that nobody has looked at yet; of the last one, what was seen
        self.folder = Path(options.run_dir)
        on_main_process(self._open, processes)
        self._resume()
        self.finished = self.step >= options.iterations
        if self.finished:
            self._mark_finished()  # lacking after a kill between the last checkpoint and the mark
            print(f"{self.folder}: finished after {self.step} steps, nothing to do.")
            return
        if processes.is_main:
            print(summary(options, datasets, processes), flush=True)
            if self.step:
                print(f"  goes on from step {self.step}", flush=True)
        self.stop_request, self.stopping = StopRequest(), False
        self.tracker = Tracker(self.folder, vars(options), self.step, processes)

    def parallel(self, module: nn.Module) -> nn.Module:
        """Put a module on the process's device, its gradients averaged over all processes."""
        return distributed.parallel(module, self.processes)

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield this process's batch of each step to come: the tensors of all datasets, one after the other.

        One process alone that is asked to stop saves and is Preempted without waiting for the batch, which may never
        come. Several have to agree first, in the step.
        """
        options = self.options
        span = (options.batch_size, self.step, options.iterations, options.workers, self.processes)
        stream = zip(*(batches(dataset, *span) for dataset in self.datasets), strict=True)
        alone = self.processes.world == 1
        while self.step < options.iterations:
            try:
                with self.stop_request.interrupts() if alone else nullcontext():
                    batch = next(stream)
            except Interrupted:
                self.stopping = True
                self.save()
            yield tuple(tensor for of_dataset in batch for tensor in of_dataset)

    def due(self, every: int) -> bool:
        """Tell if something done every so many steps is due after `step` updates. It always is after the last."""
        return self.step % every == 0 or self.step == self.options.iterations

    @property
    def must_save(self) -> bool:
        """True where a checkpoint is due, one is to be kept, or the run was asked to stop."""
        return bool(self.due(self.options.checkpoint_every) or self.milestone or self._kept or self.stopping)

    @property
    def _kept(self) -> bool:
        """True where the model alone is kept, after every so many steps but the last."""
        every = self.options.keep_every
        return bool(every and self.step % every == 0 and self.step < self.options.iterations)

    @property
    def milestone(self) -> str | None:
        """Name of the milestone (`epoch100`) that `step` updates reach, if any."""
        return self.options.milestone_steps.get(str(self.step))

    @property
    def picture(self) -> Path:
        """Path of this step's panel."""
        return self.folder / "panels" / f"step{self.step:06d}.png"

    def check(self, tally: dict[str, Tensor | float]) -> None:
        """Take the scalars of an update to come. NonFiniteLoss, on all processes, where one is NaN or infinite.

        The processes look at them every LOOK_EVERY steps, before the update: one reduction and one wait for the device,
        for all tallies since the last look. They also learn then of a request to stop that any of them got, so that
        they stop together. An update that is not finite is not made in the meantime: `Precision` sees to that.
        """
        self._unseen.append(dict(tally))
        if (self.step + 1) % LOOK_EVERY[self.processes.device.type] == 0:
            self._look(self.step + 1)

    @property
    def values(self) -> dict[str, float]:
        """Scalars of the last update, averaged over processes. Asking for them is a look: do it on all processes."""
        self._look(self.step)
        return self._values

    def log(self, values: dict[str, float]) -> None:
        """Record values of the present step under their names."""
        self.tracker.log(self.step, values)

    def warn(self, warnings: Sequence[str]) -> None:
        """Say sentences above the progress bar."""
        for warning in warnings:
            self.tracker.say(f"warning: {warning}")

    def record_validation(self, value: float) -> None:
        """Record the measure, a score on the source; keep the networks as best.pt when it is the best so far."""
        self.log({self.measure: value})
        if value > self.best[self.kind]:
            self.best = {"step": self.step, self.kind: value}
            self._save("best.pt", self.networks)

    def save(self) -> None:
        """Write last.pt; the one before becomes previous.pt. A milestone is kept under its own name, for ever.

        Preempted, on all processes, when the run was asked to stop: everything is saved then.
        """
        if self.milestone:
            self._save(f"{self.milestone}.pt", self.networks)
        if self._kept:
            self._save(f"step{self.step:06d}.pt", {"model": self.networks["model"]})
        self._save("last.pt", self._state(), self.folder / "previous.pt")
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

    def _look(self, last: int) -> None:
        """Look at what was not seen yet, the tallies of updates up to number `last`, counted from 1."""
        if not self._unseen:
            return
        # Each tally has its own names: a term may begin after a warm-up, or be there in every n-th step only.
        device, request = self.processes.device, float(bool(self.stop_request))
        values = [*(value for tally in self._unseen for value in tally.values()), request]
        scalars = [torch.as_tensor(value, device=device).detach().float() for value in values]
        *numbers, request = mean(torch.stack(scalars), self.processes)
        self.stopping, numbers = request > 0, iter(numbers)
        looked_at = [{name: next(numbers) for name in tally} for tally in self._unseen]
        self._unseen = []
        for number, values in enumerate(looked_at, start=last + 1 - len(looked_at)):
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if self.options.amp == "fp16" and all(name.startswith("gradient_norm") for name in bad):
                self.overflows += bool(bad)  # the scaler skips this update and lowers its scale
                values = {name: values[name] for name in values if name not in bad} | {"overflows": self.overflows}
            elif bad:
                raise self._not_finite(bad, number)
        self._values = values

    def _not_finite(self, names: list[str], number: int) -> NonFiniteLoss:
        samples = [
            f"{one.store.domain}: {', '.join(names_of_batch(one, self.options.batch_size, number - 1))}"
            for one in self.datasets
        ]
        return NonFiniteLoss(
            f"{self.folder}: {', '.join(names)} is not finite in step {number}, on {'; '.join(samples)}. Stopped "
            "without that update: last.pt and previous.pt are as they were. Start in another --run-dir with a lower "
            "--learning-rate, or with --amp bf16 or off."
        )

    def _open(self) -> None:
        """Make the folder with its config.json, and a lock on it that this process holds until it ends."""
        open_run(vars(self.options))
        self.lock = (self.folder / ".lock").open("w")
        for _ in range(_PATIENCE):
            try:
                return fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps by a process of a run just killed
                time.sleep(1)
            except OSError:  # a file system without locks
                return None
        raise InputError(f"{self.folder}: another process is training here. Wait for it, or give another --run-dir.")

    def _mark_finished(self) -> None:
        """Write finished.json, by which launchers know that nothing is left to do, unless it is there."""
        if self.processes.is_main and not (self.folder / "finished.json").exists():
            write_file(self.folder / "finished.json", json.dumps({"step": self.step, "best": self.best}) + "\n")

    def _state(self) -> dict[str, object]:
        return {**self.networks, "optimizers": self.optimizers, "scaler": self.scaler}

    def _save(self, name: str, state: dict[str, object], keep: Path | None = None) -> None:
        """Metrics first, so that no checkpoint is ahead of them. A full disk stops all processes.

        All processes take the main one's buffers, as they will when they go on from the checkpoint: a network that
        predicts by its running statistics, such as a teacher, then does what it would do after a stop.
        """
        self._look(self.step)
        for network in self.networks.values():
            distributed.broadcast_buffers(network, self.processes)

        def write() -> None:
            self.tracker.flush()
            content = {"config": vars(self.options), "preparation": self.facts}
            content |= {"step": self.step, "best": self.best, "overflows": self.overflows}
            content |= {"start": self.start} if self.start else {}
            content |= {key: _state_dict(value) for key, value in state.items()}
            checkpoint.save(self.folder / name, content, keep)

        on_main_process(write, self.processes)

    def _resume(self) -> None:
        """Take up the last checkpoint, on all processes the same one. InputError on all where one cannot."""
        # The main process alone sets a damaged checkpoint aside; the others then read what it read.
        found, error, at = [], None, None
        on_main_process(lambda: found.append(checkpoint.load_newest(self.folder)), self.processes)
        try:
            saved = found[0] if found else checkpoint.load_newest(self.folder, set_aside=False)
            if saved:
                self._take_up(saved)
                state = {key: value for key, value in saved.items() if key not in ("config", "preparation")}
                at = f"step {self.step}, state {checkpoint.digest_of(state)[:8]}" if self.processes.world > 1 else None
        except InputError as caught:
            error = caught
        own = standing(vars(self.options), checkpoint.digest_of(self.facts), at, error)
        refuse_differences(self.folder, distributed.gather(own, self.processes), self.processes.rank)

    def _take_up(self, saved: dict) -> None:
        """Load a checkpoint's state. InputError where it belongs to another run."""
        refuse_changes(self.folder, saved["config"], vars(self.options))
        lacking = [key for key in self._state() if key not in saved]
        if lacking:
            raise InputError(
                f"{self.folder / 'last.pt'}: has no {', '.join(lacking)} to go on from (best.pt has not). Put "
                "previous.pt in its place, or start in another --run-dir."
            )
        changed = [key for key, value in saved["preparation"].items() if value != self.facts.get(key)]
        if changed:
            raise InputError(
                f"{self.folder}: its checkpoint was trained on other stores ({', '.join(changed)} differ). Restore the "
                "stores, or give another --run-dir."
            )
        if (began := saved.get("start", self.start)) != self.start:
            text = f"{self.folder}: began from other weights than --pretraining {self.options.pretraining} holds now"
            if saved["step"] >= self.options.iterations:
                raise InputError(f"{text}. To train from these, remove the folder or give another --run-dir.")
            if self.processes.is_main:
                print(f"remark: {text}, and goes on", file=sys.stderr)
        self.start = began
        for key, network in self.networks.items():
            try:
                network.load_state_dict(saved[key])
            except RuntimeError as error:
                raise InputError(
                    f"{self.folder}: its checkpoint has other {key}, trained by another version. Start in another "
                    f"--run-dir, with --pretraining {self.folder / 'last.pt'}."
                ) from error
        # A control without adversary had discriminators once, and an optimizer of theirs: they did not touch the model.
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=False):
            _restore(optimizer, state)
        self.scaler.load_state_dict(saved["scaler"])
        self.step, self.best, self.overflows = saved["step"], saved["best"], saved["overflows"]


def _start_of(options: SimpleNamespace) -> str | None:
    """SHA-256 of the file of weights that a run starts from; None where it is none."""
    name = vars(options).get("pretraining_file") or vars(options).get("pretraining") or ""
    path = file_of(name)
    return sha256_of(path) if name and path.is_file() else None


def _restore(optimizer: Optimizer, state: dict) -> None:
    """Moments as saved, in the memory format of their weights: fused kernels walk all of them as flat memory."""
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _state_dict(part: object) -> dict | list[dict]:
    return [one.state_dict() for one in part] if isinstance(part, list) else part.state_dict()
