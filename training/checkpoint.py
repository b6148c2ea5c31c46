"""Checkpoints: one plain dict, written so that a killed process never leaves a half-written one."""

import errno
import os
from pathlib import Path

import torch

import models
from data.errors import InputError

VERSION = 1


def save(path: Path, state: dict, keep: Path | None = None) -> None:
    """Write `state` to `path` through a temporary file: flushed, then renamed. What was at `path` becomes `keep`.

    InputError on a full disk.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            keep.unlink(missing_ok=True)
            os.link(path, keep)  # so that `path` never lacks
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        temporary.unlink(missing_ok=True)
        reason = "the disk is full" if getattr(error, "errno", None) == errno.ENOSPC else str(error)
        raise InputError(
            f"{path}: cannot be written ({reason}). The checkpoint before is intact: free space, then start the same "
            "command again."
        ) from error


def load(path_or_run: Path | str, which: str = "last") -> dict:
    """Read a checkpoint file, or `which` ('last' or 'best') of a run folder, onto the CPU, weights only.

    Keys: version, config, preparation, step, best, model, and for UDA discriminators; optimizers, scaler.
    InputError when it is missing, damaged, no checkpoint of ours, or of another version.
    """
    path = Path(path_or_run)
    if path.is_dir():
        path = path / f"{which}.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint. Give a run folder that holds {which}.pt, or a .pt file.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise whatever its parser meets
        raise InputError(
            f"{path}: not a readable checkpoint ({type(error).__name__}). Put {path.with_name('previous.pt')} in its "
            "place, if that exists, or delete it."
        ) from error
    if not isinstance(state, dict) or "version" not in state or "model" not in state:
        raise InputError(f"{path}: not a checkpoint of this project. Give one that a training script wrote.")
    if state["version"] != VERSION:
        raise InputError(
            f"{path}: checkpoint version {state['version']}, this code reads version {VERSION}. Use the matching code."
        )
    return state


def load_model(path_or_run: Path | str, which: str = "last") -> tuple[torch.nn.Module, dict]:
    """The segmentation model of a checkpoint on the CPU in eval mode, and the checkpoint."""
    state = load(path_or_run, which)
    model = models.build(state["config"]["model"])
    if state["config"].get("target"):
        models.domain_batch_norm(model)
    model.load_state_dict(state["model"])
    return model.eval(), state
