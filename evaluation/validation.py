"""Validation during training: the score on the held-out source fold, and pictures of fixed micrographs."""

from functools import partial
from pathlib import Path

import torch

from common.errors import make_folder
from data.store import Store
from evaluation.figures import LEGEND, LEGEND_PREDICTION, overlay, panel
from evaluation.inference import predict
from evaluation.metrics import Confusion
from evaluation.scoring import Predictor, score
from models import classes, set_domain
from training.distributed import Processes, broadcast_buffers, total


def validate(model: torch.nn.Module, source: Store, fold: int, processes: Processes) -> float:
    """mIoU (fraction of 1) on the source micrographs of `fold`, which the processes divide; the same on all.

    The only score that training ever sees. The model is left in training mode.
    """
    micrographs = source.validation_micrographs(fold)[processes.rank :: processes.world]
    broadcast_buffers(model, processes)
    confusion, _ = score(_predictor(model, "source", source, processes), source, micrographs)
    model.train()
    return Confusion(*total([confusion.tp, confusion.fp, confusion.fn, confusion.tn], processes)).miou


def save_panel(
    path: Path, model: torch.nn.Module, source: Store, target: Store | None, fold: int, processes: Processes
) -> None:
    """Save a picture of the first held-out source micrograph with its errors, and of a target training micrograph.

    The target's has no label here. The model is left in training mode.
    """
    if not processes.is_main:
        return
    make_folder(path.parent)
    first = source.validation_micrographs(fold)[0]
    image = source.image(first)
    prediction = classes(_predictor(model, "source", source, processes)(image))
    columns = [("source, held out", image), ("prediction", overlay(image, prediction, source.mask(first)))]
    if target is not None:
        image = target.image(target.tile_micrograph[target.training_tiles(fold, labelled=False)[0]])
        prediction = classes(_predictor(model, "target", source, processes)(image))
        columns += [(f"{target.domain}, for training", image), ("prediction", overlay(image, prediction))]
    panel(path, columns, legend=LEGEND if target is None else LEGEND + LEGEND_PREDICTION)
    model.train()


def _predictor(model: torch.nn.Module, domain: str, store: Store, processes: Processes) -> Predictor:
    model.eval()
    set_domain(model, domain)
    return partial(predict, model, tile=store.tile, overlap=store.overlap, device=processes.device)
