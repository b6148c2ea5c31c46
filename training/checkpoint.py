"""Checkpoints: one plain dict, written so that a killed process never leaves a half-written one."""

import errno
import hashlib
import os
import shutil
import sys
import zipfile
from pathlib import Path

import torch

import models
from common.errors import InputError
from common.files import replacing
from data.store import classes_of
from models.attention import has_attention
from training.weights import reason_of

VERSION = 1


class DamagedCheckpoint(InputError):
    """A checkpoint that is there and cannot be trusted."""


def save(path: Path, state: dict, keep: Path | None = None) -> None:
    """Write `state` to `path` through a temporary file: flushed, then renamed. What was at `path` becomes `keep`.

    A process killed in between leaves `path`, or no `path` and `keep`. InputError on a full disk.
    """
    _write(path, {"version": VERSION, **state}, keep)


def save_weights(path: Path, module: torch.nn.Module) -> None:
    """Write a module's weights as torchvision does, a bare state dict, as safely. InputError on a full disk."""
    _write(path, {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def _write(path: Path, content: dict, keep: Path | None = None) -> None:
    full = False
    # Always the same name: what a killed run leaves is overwritten by the next, and a run's folder is locked.
    partial = path.with_name(f".{path.name}.partial")
    try:
        with replacing(path, partial, durable=True, keep=keep) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(content, file)
            finally:  # before the temporary file goes
                full = shutil.disk_usage(path.parent).free < 1 << 20
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        full = full or getattr(error, "errno", None) == errno.ENOSPC
        raise InputError(
            f"{path}: cannot be written ({'the disk is full' if full else error}). The checkpoint before is intact: "
            "free space, then start the same command again."
        ) from error


def load(path_or_run: Path | str, which: str = "last") -> dict:
    """Read a checkpoint file, or `which` ('last', 'best', 'epoch100') of a run folder, onto the CPU, weights only.

    Keys: version, config, preparation, step, best, overflows, each network of the run by its name, of which one is
    `model`; in last.pt and previous.pt optimizers and scaler; in what the judge exports its remedy.
    InputError when it is missing, no checkpoint of ours, or of another version; DamagedCheckpoint when a byte is not
    what was written.
    """
    path = _file(path_or_run, which)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint. Give a run folder that holds {which}.pt, or a .pt file.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch writes the checksums and does not look at them
        if damaged:
            raise zipfile.BadZipFile(f"checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the parsers raise whatever they meet
        if hindrance := _hindrance(error):
            raise InputError(f"{path}: cannot be read ({hindrance}). It is left as it is; start again then.") from error
        raise DamagedCheckpoint(
            f"{path}: not a readable checkpoint ({reason_of(error)}). Give "
            f"another one, such as {path.with_name('previous.pt')}."
        ) from error
    if not isinstance(state, dict) or not {"version", "config", "model"} <= state.keys():
        raise InputError(f"{path}: not a checkpoint of this project. Give one that a training script wrote.")
    if state["version"] != VERSION:
        raise InputError(
            f"{path}: checkpoint version {state['version']}, this code reads version {VERSION}. Use the matching code."
        )
    return state


def _hindrance(error: Exception) -> str | None:
    """Reason why a file could not be read that is not its content: permission, disk, memory. Else None."""
    if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a damaged table of contents leads to
        return f"{error.strerror}; mend permission or disk"
    if isinstance(error, MemoryError) or "memory" in str(error).lower():  # torch's allocator raises a RuntimeError
        return "too little memory; free some"
    return None


def _file(path_or_run: Path | str, which: str) -> Path:
    path = Path(path_or_run)
    return path / f"{which}.pt" if path.is_dir() else path


def load_newest(folder: Path, set_aside: bool = True) -> dict | None:
    """Load what a run goes on from: last.pt, or previous.pt where that is missing or damaged; None in a new folder.

    A damaged last.pt is set aside as last.pt.damaged, with a message; DamagedCheckpoint where it may not be.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    try:
        if last.exists():
            return load(last)
    except DamagedCheckpoint as error:
        if not (set_aside and previous.exists()):
            raise
        print(f"warning: {error} Set aside as {last.name}.damaged; going on from {previous.name}.", file=sys.stderr)
        os.replace(last, last.with_name("last.pt.damaged"))
    return load(previous) if previous.exists() else None


def digest_of(state: object) -> str:
    """SHA-256 of nested dicts and lists of tensors and plain values, each in its order."""
    digest = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(part, dict):
            for key, value in part.items():
                digest.update(f"{key!r}:".encode())
                add(value)
        elif isinstance(part, list | tuple):
            digest.update(f"{len(part)}:".encode())
            for value in part:
                add(value)
        else:
            digest.update(f"{part!r};".encode())

    add(state)
    return digest.hexdigest()


def load_model(path_or_run: Path | str, which: str = "last", network: str = "model") -> tuple[torch.nn.Module, dict]:
    """Load a segmentation model of a checkpoint, on the CPU in eval mode; returns it and the checkpoint.

    network: the name that the checkpoint has it under, where it holds several of one layout, such as 'teacher'.
    """
    state = load(path_or_run, which)
    name = state["config"].get("model")
    if network not in state:
        raise InputError(
            f"{_file(path_or_run, which)}: holds no network {network!r}. Ask for the one called 'model', or give a "
            "checkpoint of a script that trains the other."
        )
    try:
        model = models.build(name, len(classes_of(state.get("preparation", {}))))
        if "target" in state["config"]:
            models.domain_batch_norm(model)
        if has_attention(state[network]):
            model.attend()
        model.load_state_dict(state[network])
    except (InputError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{_file(path_or_run, which)}: holds no weights of the model {name} that it names "
            f"({str(error).splitlines()[-1].strip()[:200]}). Give a checkpoint as it was written."
        ) from error
    return model.eval(), state
