"""The record of a run: metrics.jsonl, the progress bar, Weights & Biases."""

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from common.errors import InputError
from common.files import write_file
from training.distributed import Processes

if TYPE_CHECKING:
    import wandb


_PATIENCE = 10  # seconds for W&B's server to answer at the start, and to take what is left at the end
_offline: list[Exception] = []  # why W&B could not be reached, in this process


class Tracker:
    """Logs scalars under the same names to the progress bar, metrics.jsonl and W&B. Only the first process writes.

    W&B gets its lines with the checkpoint that covers them (`commit`), so that a continued run repeats none.
    """

    def __init__(self, folder: Path, config: dict, step: int, processes: Processes):
        """`step`: the step that the run goes on from; lines of metrics.jsonl beyond it are dropped."""
        self.on = processes.is_main
        self.wandb = None
        if not self.on:
            return
        self.path, self.sent = folder / "metrics.jsonl", folder / "wandb_sent"
        kept = self._keep_lines_until(step)
        self.file = self.path.open("ab", buffering=0)
        self.unwritten, self.unsent = b"", []
        self.bar = tqdm(
            total=config["iterations"], initial=step, desc=config["experiment"], dynamic_ncols=True, mininterval=1
        )
        if config["wandb"] != "disabled":
            self.wandb = _start_wandb(folder, config, self.say)
            sent = int(self.sent.read_text()) if self.sent.exists() else 0
            self.unsent = [line for line in kept if line["step"] > sent]

    def log(self, step: int, values: dict[str, float]) -> None:
        """One line: the state after `step` updates."""
        if not self.on:
            return
        self.unwritten += (json.dumps({"step": step, **values}) + "\n").encode()
        self._write()
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix({k: f"{v:.3g}" for k, v in values.items() if k.startswith(("loss", "miou", "accuracy"))})
        if self.wandb:
            self.unsent.append({"step": step, **values})

    def flush(self) -> None:
        """Put every line on the disk. InputError where that fails."""
        if error := self._write():
            raise InputError(
                f"{self.path}: cannot be written ({error}). The checkpoint before is intact: free space, then start "
                "the same command again."
            )
        os.fsync(self.file.fileno())

    def commit(self, step: int) -> None:
        """Send W&B the lines up to a checkpoint that is saved."""
        if not self.on or not self.wandb:
            return
        for line in self.unsent:
            self.wandb.log({key: value for key, value in line.items() if key != "step"}, step=line["step"])
        self.unsent = []
        write_file(self.sent, str(step))

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.on:
            self.bar.write(text)

    def close(self, summary: dict | None = None) -> None:
        """End bar, file and W&B run, whose summary gets these values."""
        if not self.on:
            return
        self.bar.close()
        self.file.close()
        if self.wandb:
            self.wandb.summary.update(summary or {})
            _finish(self.wandb, self.path.parent, self.say)

    def _write(self) -> str | None:
        """Append the unwritten lines, all or none; else say why not. They stay for the next time."""
        length = os.fstat(self.file.fileno()).st_size
        try:
            written = self.file.write(self.unwritten)
        except OSError as error:
            return error.strerror
        if written < len(self.unwritten):
            self.file.truncate(length)
            return "the disk is full"
        self.unwritten = b""
        return None

    def _keep_lines_until(self, step: int) -> list[dict]:
        if not self.path.exists():
            return []
        kept = []
        for text in self.path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
                if line["step"] <= step:
                    kept.append(line)
            except (ValueError, TypeError, KeyError):  # the last line of a killed run may be cut
                continue
        write_file(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept


def default_wandb_mode() -> str:
    """W&B's own WANDB_MODE where it is set; else online where a key is configured, offline otherwise."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    netrc = Path(os.path.expanduser("~/.netrc"))  # which stays as it is where nobody has a home
    has_key = bool(os.environ.get("WANDB_API_KEY")) or (netrc.is_file() and "wandb" in netrc.read_text())
    return "online" if has_key else "offline"


def variant_of(score: dict) -> str:
    """Name of a score's variant, with 'transductive' before it where a model has seen the images that are scored."""
    parts = ["transductive"] if score.get("transductive") else []
    parts += [score["variant"]] if score["variant"] != "plain" else []
    return ".".join(parts) or "plain"


def method_of(score: dict) -> str:
    """How a score came about: 'supervised' on the source, 'generalization', 'uda', or the variant's name."""
    if (variant := variant_of(score)) != "plain":
        return variant
    if score["target"]:
        return "uda"
    return "supervised" if score["domain"] == score["source"] else "generalization"


def record_score(folder: Path, score: dict, mode: str, project: str) -> None:
    """One W&B run of job type 'evaluation' for a score.json: what is compared as config and tags, scores as summary."""
    if mode == "disabled":
        return
    names = ("experiment", "configuration", "model", "source", "target", "seed", "fold", "domain", "variant")
    config = {name: score[name] for name in (*names, "checkpoint")} | {"method": method_of(score)}
    place = [] if score["fold"] is None else [f"fold{score['fold']}"]
    tags = [*place, f"domain:{score['domain']}", f"method:{config['method']}"]
    name = f"{score['experiment']}-{folder.name}"
    run = _init_wandb(folder, mode, project, name, "evaluation", tags, config, print)
    run.summary.update({name: value for name, value in score.items() if isinstance(value, float)})
    run.summary.update({f"iou_{name}": value for name, value in score["iou"].items()})
    _finish(run, folder, print)


def _start_wandb(folder: Path, config: dict, say: Callable[[str], None]) -> "wandb.Run":
    place = [f"fold{config['fold']}"] if "fold" in config else []
    tags = [*place, *([f"target:{config['target']}"] if config.get("target") else [])]
    name = "-".join([config["experiment"], *place])
    return _init_wandb(folder, config["wandb"], config["wandb_project"], name, config["script"], tags, config, say)


def _init_wandb(
    folder: Path,
    mode: str,
    project: str,
    name: str,
    job_type: str,
    tags: list[str],
    config: dict,
    say: Callable[[str], None],
) -> "wandb.Run":
    """Start a W&B run. Where the server cannot be reached it is offline, and so are all after it; `say` tells so."""
    # Read at the import. The reports go to a server of their own, for which the process would wait at its exit.
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(folder)  # W&B looks for settings there, and fails where nobody has a home
    import wandb  # slow to import, and not needed when disabled

    identity = folder / "wandb_id"
    if not identity.exists():
        write_file(identity, secrets.token_hex(4))

    def start(mode: str) -> "wandb.Run":
        return wandb.init(
            project=project,
            id=identity.read_text(),
            resume="allow",
            mode=mode,
            dir=str(folder),
            name=name,
            group=config["experiment"],
            job_type=job_type,
            tags=tags,
            config=config,
            settings=wandb.Settings(
                silent=True, init_timeout=_PATIENCE, finish_timeout=_PATIENCE, finish_timeout_raises=True
            ),
        )

    if mode == "offline" or _offline:
        return start("offline")
    try:
        return start(mode)
    except Exception as error:  # of the network, of the key, of W&B itself: the record never ends a run
        _offline.append(error)
        wandb.teardown()  # it holds the identity
        reason = str(error).strip().partition("\n")[0]
        say(f"warning: W&B cannot be reached ({reason}). It goes on offline: wandb sync {folder}/wandb/offline-run-*")
        return start("offline")


def _finish(run: "wandb.Run", folder: Path, say: Callable[[str], None]) -> None:
    try:
        run.finish()
    except TimeoutError:
        say(f"warning: W&B has not taken all of it in {_PATIENCE} s. Send it with: wandb sync {folder}/wandb/run-*")
