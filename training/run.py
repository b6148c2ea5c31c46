"""A run: its folder, where it stands, what it logs and what it saves."""

import math
from pathlib import Path
from types import SimpleNamespace

import torch

from data.errors import InputError
from data.store import Store
from models.discriminator import SMALLEST_INPUT
from training import checkpoint
from training.distributed import Processes, first_alone, mean
from training.tracking import Tracker, open_run, refuse_changes

# How native micrographs of the domain in question were read: evaluate.py --images takes these as defaults.
NATIVE = ("pixel_size_nm", "invert", "information_bar")


class NonFiniteLoss(InputError):
    """A loss is NaN or infinite; raised on all processes before the update."""


class Run:
    """Goes on from the folder's last checkpoint. `parts` are the objects whose state makes the run."""

    def __init__(
        self, options: SimpleNamespace, stores: list[Store], parts: dict[str, object], processes: Processes
    ):
        """`stores`: source first. InputError when the folder holds another configuration or other data."""
        self.options, self.parts, self.processes = options, parts, processes
        _check_stores(options, stores)
        native = {key: stores[-1].metadata["parameters"][key] for key in NATIVE}
        self.preparation = {
            **stores[0].preparation,
            "native": native,
            "fingerprints": {s.domain: s.fingerprint for s in stores},
        }
        self.step, self.best = 0, {"step": 0, "miou": -1.0}
        first_alone(lambda: open_run(vars(options)), processes)
        self.folder = Path(options.run_dir)
        if (self.folder / "last.pt").exists():
            self._resume()
        self.finished = self.step >= options.iterations
        if not self.finished:
            self.tracker = Tracker(self.folder, vars(options), self.step, processes)

    def due(self, every: int) -> bool:
        """Whether something done every so many steps is due after `self.step` updates (always after the last)."""
        return self.step % every == 0 or self.step == self.options.iterations

    @property
    def picture(self) -> Path:
        """Where this step's panel goes."""
        return self.folder / "panels" / f"step{self.step:06d}.png"

    def log(self, values: dict[str, float]) -> None:
        self.tracker.log(self.step, values)

    def check_finite(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        """The losses averaged over processes, as floats. NonFiniteLoss, on all of them, names the term and the step."""
        values = mean(losses, self.processes)
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteLoss(
                f"{self.folder}: {', '.join(bad)} is not finite in step {self.step + 1} (batch {self.step} of seed "
                f"{self.options.seed}). Stopped before the update: last.pt and "
                "previous.pt are as they were. Start in another --run-dir with a lower --learning-rate, or with --amp "
                "bf16 or off."
            )
        return values

    def judge(self, miou: float) -> None:
        """Record the source validation mIoU; keep the model as best.pt when it is the best so far."""
        self.log({"miou_source_validation": miou})
        if miou > self.best["miou"]:
            self.best = {"step": self.step, "miou": miou}
            self._save("best.pt", ("model", "discriminators"))

    def save(self) -> None:
        """Write last.pt; the one before becomes previous.pt."""
        self._save("last.pt", tuple(self.parts), self.folder / "previous.pt")

    def close(self) -> None:
        self.tracker.close({"best_step": self.best["step"], "miou_source_validation_best": self.best["miou"]})

    def _save(self, name: str, keys: tuple[str, ...], keep: Path | None = None) -> None:
        if not self.processes.first:
            return
        states = {key: _state(self.parts[key]) for key in keys if key in self.parts}
        checkpoint.save(
            self.folder / name,
            {
                "config": vars(self.options),
                "preparation": self.preparation,
                "step": self.step,
                "best": self.best,
                **states,
            },
            keep,
        )

    def _resume(self) -> None:
        state = checkpoint.load(self.folder)
        refuse_changes(self.folder, state["config"], vars(self.options))
        lacking = [key for key in self.parts if key not in state]
        if lacking:
            raise InputError(
                f"{self.folder / 'last.pt'}: has no {', '.join(lacking)} to go on from (best.pt has not). Put "
                "previous.pt in its place, or start in another --run-dir."
            )
        before, now = state["preparation"], self.preparation
        if before != now:
            changed = [key for key in now if before.get(key) != now[key]]
            raise InputError(
                f"{self.folder}: its checkpoint was trained on other stores ({', '.join(changed)} differ). Restore the "
                "stores, or give another --run-dir."
            )
        for key, part in self.parts.items():
            if isinstance(part, list):
                for one, saved in zip(part, state[key], strict=True):
                    one.load_state_dict(saved)
            else:
                part.load_state_dict(state[key])
        self.step, self.best = state["step"], state["best"]


def _check_stores(options: SimpleNamespace, stores: list[Store]) -> None:
    source = stores[0]
    for store in stores:
        if store.preparation != source.preparation:
            raise InputError(
                f"{store.path}: prepared as {store.preparation}, {source.path} as {source.preparation}. Prepare both "
                "from one domains.toml."
            )
        if store.tile + 2 * store.overlap < SMALLEST_INPUT:
            raise InputError(
                f"{store.path}: tiles of {store.tile} + 2 x {store.overlap} px, the networks need {SMALLEST_INPUT}. "
                "Prepare it with larger tiles."
            )
        if not len(store.training_tiles(options.fold, labelled=store.labels)):
            raise InputError(f"{store.path}: no training tile in fold {options.fold}. Add micrographs to the domain.")
    if not source.validation_micrographs(options.fold):
        raise InputError(
            f"{source.path}: holds out no annotated micrograph in fold {options.fold}. Give the domain `folds` in "
            "domains.toml and prepare it again."
        )


def _state(part):
    return [one.state_dict() for one in part] if isinstance(part, list) else part.state_dict()
