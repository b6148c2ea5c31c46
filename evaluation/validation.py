"""Validation during training: the score on the held-out source fold, and pictures of fixed micrographs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.errors import make_folder
from data.store import Store
from evaluation.figures import legend_of, overlay, panel
from evaluation.inference import predict
from evaluation.metrics import Confusion
from evaluation.scoring import Predictor, score
from models import classes, domain_in_use, set_domain
from training.distributed import Processes, broadcast_buffers, total


def validate(model: torch.nn.Module, source: Store, fold: int, processes: Processes) -> float:
    """mIoU (fraction of 1) on the source micrographs of `fold`, which the processes divide; the same on all.

    The only score that training ever sees. The model is left in the mode and domain that it was in.
    """
    micrographs = source.validation_micrographs(fold)[processes.rank :: processes.world]
    broadcast_buffers(model, processes)
    with _predicting(model, source, processes) as under:
        confusion, _ = score(under("source"), source, micrographs)
    return miou_of_all(confusion, processes)


def miou_of_all(confusion: Confusion, processes: Processes) -> float:
    """mIoU of what all processes have counted."""
    counts = total(confusion.counts.ravel().tolist(), processes)
    return Confusion(np.array(counts).reshape(confusion.counts.shape)).miou


def save_panel(
    path: Path, model: torch.nn.Module, source: Store, target: Store | None, fold: int, processes: Processes
) -> None:
    """Save a picture of the first held-out source micrograph with its errors, and of a target training micrograph.

    The target's has no label here. The model is left in the mode and domain that it was in.
    """
    if not processes.is_main:
        return
    make_folder(path.parent)
    first = source.validation_micrographs(fold)[0]
    image, names = source.image(first), source.classes
    with _predicting(model, source, processes) as under:
        prediction = classes(under("source")(image))
        columns = [("source, held out", image), ("prediction", overlay(image, prediction, source.mask(first), names))]
        if target is not None:
            image = target.image(target.tile_micrograph[target.training_tiles(fold, labelled=False)[0]])
            prediction = classes(under("target")(image))
            shown = overlay(image, prediction, classes=names)
            columns += [(f"{target.domain}, for training", image), ("prediction", shown)]
    panel(path, columns, legend_of(names, errors=True, prediction=target is not None))


@contextmanager
def _predicting(model: torch.nn.Module, store: Store, processes: Processes) -> Iterator[Callable[[str], Predictor]]:
    """Give the predictor under a domain's statistics, by its name. Mode and domain are then as they were."""
    training, domain = model.training, domain_in_use(model)

    def under(name: str) -> Predictor:
        set_domain(model, name)
        return partial(predict, model, tile=store.tile, overlap=store.overlap, device=processes.device)

    model.eval()
    try:
        yield under
    finally:
        model.train(training)
        set_domain(model, domain)
