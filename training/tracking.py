"""What a run leaves behind: its folder, metrics.jsonl, the progress bar, Weights & Biases."""

import json
import os
import secrets
from pathlib import Path

from tqdm import tqdm

from data.errors import InputError, make_folder
from training.distributed import Processes

# Options that may differ between a run and its continuation: they change neither the data nor the arithmetic.
OPERATIONAL = {
    "data", "run_dir", "workers", "wandb", "wandb_project", "checkpoint_every", "panels_every", "log_every",
    "compile",
}  # fmt: skip


def open_run(config: dict) -> Path:
    """Make the run's folder and its config.json, or check that what is there is the same run.

    InputError names the first options that differ: nothing is overwritten by another configuration.
    """
    folder = make_folder(Path(config["run_dir"]))
    path = folder / "config.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}). Delete it: the checkpoint holds a copy.") from error
        refuse_changes(folder, before, config)
    else:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(config, indent=2) + "\n")
        os.replace(partial, path)
    return folder


def refuse_changes(folder: Path, before: dict, config: dict) -> None:
    """InputError that names every option in which a run's configuration differs from what its folder holds."""
    ignored = OPERATIONAL | ({"iterations"} if before.get("steps") != config.get("steps") else set())
    names = sorted((before.keys() | config.keys()) - ignored)
    changed = [
        f"--{n.replace('_', '-')} {before.get(n)} -> {config.get(n)}" for n in names if before.get(n) != config.get(n)
    ]
    if changed:
        raise InputError(
            f"{folder}: holds a run of another configuration ({'; '.join(changed)}). Give the options of that run, or "
            "another --run-dir."
        )


class Tracker:
    """Logs scalars under the same names to the progress bar, metrics.jsonl and W&B. Only the first process writes."""

    def __init__(self, folder: Path, config: dict, step: int, processes: Processes):
        """`step`: the step that the run goes on from; lines of metrics.jsonl beyond it are dropped."""
        self.on = processes.first
        self.wandb = None
        if not self.on:
            return
        self.path = folder / "metrics.jsonl"
        self._keep_lines_until(step)
        self.file = self.path.open("a")
        self.bar = tqdm(
            total=config["iterations"], initial=step, desc=config["experiment"], dynamic_ncols=True, mininterval=1
        )
        if config["wandb"] != "disabled":
            self.wandb = _start_wandb(folder, config)

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line: the state after `step` updates."""
        if not self.on:
            return
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in values.items() if k.startswith(("loss", "miou"))})
        if self.wandb:
            self.wandb.log(values, step=step)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.on:
            self.bar.write(text)

    def close(self, summary: dict | None = None) -> None:
        if not self.on:
            return
        self.bar.close()
        self.file.close()
        if self.wandb:
            self.wandb.summary.update(summary or {})
            self.wandb.finish()

    def _keep_lines_until(self, step: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, TypeError, KeyError):  # the last line of a killed run may be cut
                continue
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept))
        os.replace(partial, self.path)


def default_wandb_mode() -> str:
    """Online where a key is configured, offline otherwise."""
    netrc = Path.home() / ".netrc"
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text())
    return "online" if has_key else "offline"


def _start_wandb(folder: Path, config: dict):
    import wandb  # slow to import, and not needed when disabled

    identity = folder / "wandb_id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(4))
    return wandb.init(
        project=config["wandb_project"],
        id=identity.read_text(),
        resume="allow",
        mode=config["wandb"],
        dir=str(folder),
        name=f"{config['experiment']}-fold{config['fold']}",
        group=config["experiment"],
        job_type=config["script"],
        tags=[f"fold{config['fold']}", *([f"target:{config['target']}"] if config.get("target") else [])],
        config=config,
        settings=wandb.Settings(silent=True),
    )
