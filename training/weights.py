"""Starting weights: ImageNet's from torchvision, or a file of the user's (paper 2.3)."""

import fcntl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.distributed as dist
from torchvision import models as torchvision_models

from common.errors import InputError
from common.files import sha256_of
from data.store import TWO_PHASES, classes_of
from models.attention import PREFIX, has_attention
from models.batchnorm import without_domains
from models.segmenter import Network, Segmenter

# The first weights of each: those of the study's time.
IMAGENET_WEIGHTS = {
    "deeplabv2_resnet101": torchvision_models.ResNet101_Weights.IMAGENET1K_V1,
    "deeplabv2_resnet50": torchvision_models.ResNet50_Weights.IMAGENET1K_V1,
    "deeplabv2_resnet18": torchvision_models.ResNet18_Weights.IMAGENET1K_V1,
    "unet_vgg16": torchvision_models.VGG16_Weights.IMAGENET1K_V1,
}
CLASSIFIER = ("fc.", "classifier.")
WHOLE = "whole"  # in place of digests: of a domain of which an older version kept none
REMEDY = "Choose the --model that the file was saved from, or another file"


def load_pretraining(model: Network, name: str, pretraining: str, classes: Sequence[str] = TWO_PHASES) -> None:
    """Load starting weights into `model`, the network called `name`, before any per-domain batch norm.

    pretraining: 'random' leaves the model alone; 'imagenet' fills the backbone from torchvision's weights;
    else it is a file: a torchvision state dict fills the backbone, a checkpoint of ours the whole model.
    From a checkpoint only its model is taken, never a teacher; of statistics per domain, the source's. An unused
    classifier of a backbone is printed.
    classes: names of the phases that the model is to tell apart.
    InputError: no such weights or file, keys or shapes that differ from the model's, or a checkpoint of other phases.
    """
    if pretraining == "random":
        return
    if pretraining == "imagenet":
        _load_backbone(model, _read(imagenet_file(name)), f"the ImageNet weights of {name}")
        return
    state = _read(file_of(pretraining))
    if "model" in state:
        changes = state.get("remedy", {}).get("changes", {})
        if changes.get("invert") or changes.get("match") or changes.get("scale", 1) != 1:
            raise InputError(
                f"--pretraining {pretraining}: its network is shown changed micrographs ({changes}), which training "
                "does not do. Start from the run itself; in domains.toml, polarity, scale and the source's grey levels "
                "are for training too."
            )
        learnt = classes_of(state.get("preparation", {}))
        if learnt != tuple(classes):
            raise InputError(
                f"--pretraining {pretraining}: has learnt the phases {', '.join(learnt)}, and the source has "
                f"{', '.join(classes)}. Names and order have to be the same: give the `classes` of [options] that it "
                "was trained with, or another --pretraining."
            )
        _load(model, without_domains(state["model"]), f"{pretraining} (key 'model')")
    else:
        _load_backbone(model, state, pretraining)


def load_for_target(model: Segmenter, pretraining: str, target: str) -> None:
    """Load what a checkpoint that was adapted to that target has for it alone; else leave the model.

    That is its running statistics, and its attention, which the model then gets too. The model has statistics for each
    domain. Without this a run that goes on from an adapted one would begin with the source's on its target.
    """
    path = file_of(pretraining)
    state = _read(path) if path.is_file() else {}
    if state.get("config", {}).get("target") == target:
        own = {k: v for k, v in state["model"].items() if ".norms.target." in k or k.startswith(PREFIX)}
        if model.attention is None and has_attention(own):
            model.attend()
        model.load_state_dict(own, strict=False)


def file_of(pretraining: str) -> Path:
    """Path of a file of weights: of a run's folder its last.pt."""
    path = Path(pretraining)
    return path / "last.pt" if path.is_dir() else path


def history(config: dict, preparation: dict) -> dict[str, dict[str, list[str]]]:
    """Return the micrographs that a checkpoint has learnt from, it or the weights and stores that it was made of.

    {'trained_on' or 'transductive': {domain: SHA-256}}. The second are held-out ones, seen without their labels.
    """
    seen = preparation.get("transductive")
    if seen is None:  # an older version kept no digests of them
        seen = {config["target"]: [WHOLE]} if config.get("transductive") else {}
    return {"trained_on": preparation.get("trained_on", {}), "transductive": seen}


def history_of(pretraining: str) -> dict[str, dict[str, list[str]]]:
    """Read the history of starting weights; of anything but a checkpoint of ours it is empty."""
    path = file_of(pretraining)
    state = _read(path) if path.is_file() else {}
    preparation = state.get("preparation")
    return history(state.get("config", {}), preparation if isinstance(preparation, dict) else {})


def weights_digest(path: Path | str, maker: str) -> str:
    """SHA-256 of a file of weights. InputError that names the command `maker` when it is not there."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: no such file of weights ({error.strerror}). Make it with {maker}") from error


def imagenet_file(name: str) -> Path:
    """Path of the ImageNet weights of the network called `name`, in torch's cache; downloaded where they are missing.

    Processes that share the cache take turns, so that one downloads. InputError: no such weights, or no way to them.
    """
    if name not in IMAGENET_WEIGHTS:
        raise InputError(
            f"--pretraining imagenet: there are no ImageNet weights for {name}; "
            f"use --pretraining random or one of {', '.join(IMAGENET_WEIGHTS)}"
        )
    url = IMAGENET_WEIGHTS[name].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks: all download, each under a name of its own
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                prefix = path.stem.rpartition("-")[2]
                torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"--pretraining imagenet: cannot download {url} ({error}). On a machine with internet, "
            f"download {path.name} and put it into {path.parent}"
        ) from error
    return path


def _read(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"--pretraining {path}: no such file; give random, imagenet, nanosem, a run or a file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the parsers raise whatever they meet
        raise InputError(
            f"{path} is not a file of weights that torch.load(weights_only=True) reads "
            f"({reason_of(error)}); replace it by a state dict saved with torch.save"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}; a state dict (name -> tensor) is needed")
    return state


def reason_of(error: Exception) -> str:
    """Why torch.load(weights_only=True) refused a file, in one line."""
    if isinstance(error, UnpicklingError):  # whose own text tells how to execute the file all the same
        return "damaged, or it holds other things than weights, which could be programs"
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _load_backbone(model: Network, state: dict, origin: str) -> None:
    unused = [key for key in state if key.startswith(CLASSIFIER)]
    _load(model.backbone, {key: value for key, value in state.items() if key not in unused}, origin)
    if unused and (not dist.is_initialized() or dist.get_rank() == 0):
        print(f"{origin}: backbone loaded; the classifier is not used ({', '.join(unused)})", flush=True)


def _load(module: torch.nn.Module, state: dict, origin: str) -> None:
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # shapes
        mismatches = _shorten(str(error).splitlines()[1:])
        raise InputError(f"{origin} does not fit the model: {mismatches}. {REMEDY}") from error
    if missing or unexpected:
        raise InputError(
            f"{origin} does not fit the model. Missing: {_shorten(missing)}. "
            f"Unexpected: {_shorten(unexpected)}. {REMEDY}"
        )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(name.strip() for name in names[:4])
    return (shown or "none") + (f" and {len(names) - 4} more" if len(names) > 4 else "")
