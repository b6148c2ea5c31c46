"""Validation during training: the score on the held-out source fold, and pictures of fixed micrographs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from common.errors import make_folder
from data.store import Store
from evaluation.figures import LEGEND, LEGEND_PREDICTION, overlay, panel
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
    return Confusion(*total([confusion.tp, confusion.fp, confusion.fn, confusion.tn], processes)).miou


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
    image = source.image(first)
    with _predicting(model, source, processes) as under:
        prediction = classes(under("source")(image))
        columns = [("source, held out", image), ("prediction", overlay(image, prediction, source.mask(first)))]
        if target is not None:
            image = target.image(target.tile_micrograph[target.training_tiles(fold, labelled=False)[0]])
            prediction = classes(under("target")(image))
            columns += [(f"{target.domain}, for training", image), ("prediction", overlay(image, prediction))]
    panel(path, columns, legend=LEGEND if target is None else LEGEND + LEGEND_PREDICTION)


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
