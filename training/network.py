"""The models and the optimizers as the options ask for them."""

from functools import partial
from types import SimpleNamespace

import torch

import models
from common.errors import InputError
from training.distributed import Processes, first_alone
from training.weights import load_pretraining


def build_model(options: SimpleNamespace, processes: Processes) -> torch.nn.Module:
    """The model with its pre-trained weights, per-domain statistics for UDA, and the batch norm asked for.

    Every process draws the same initial weights from `options.seed`.
    """
    torch.manual_seed(options.seed)
    model = models.build(options.model)
    _pretrain(model, options, processes)
    if options.script == "train_uda":
        models.domain_batch_norm(model)
    if options.batch_norm == "frozen":
        models.freeze_batch_norm(model)
    elif options.batch_norm == "sync" and processes.world > 1 and processes.device.type == "cuda":
        if options.compile:
            raise InputError(
                "--compile: torch cannot compile synchronised batch norm. Leave it out, or give --batch-norm local or "
                "frozen, each of which is another method."
            )
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Convolutions are faster in channels-last, on the CPU and on tensor cores.
    return model.to(processes.device, memory_format=torch.channels_last).train()


def build_classifier(options: SimpleNamespace, classes: int, processes: Processes) -> torch.nn.Module:
    """A classifier on the encoder of the network asked for, with its pre-trained weights, the same on every process."""
    torch.manual_seed(options.seed)
    model = models.Classifier(models.build(options.model), classes)
    _pretrain(model, options, processes)
    return model.to(processes.device, memory_format=torch.channels_last).train()


def _pretrain(model: torch.nn.Module, options: SimpleNamespace, processes: Processes) -> None:
    weights = options.pretraining_file or options.pretraining
    # The first process downloads weights, the others then find them.
    load = partial(load_pretraining, model, options.model, weights)
    first_alone(load, processes)
    if not processes.first:
        load()


def build_optimizer(name: str, groups: list[dict], weight_decay: float, **adam) -> torch.optim.Optimizer:
    """Adam, or SGD with momentum 0.9, over parameter groups with their own `lr`; remembers each as `initial_lr`.

    Fused: one pass over the parameters, which skips an update that `Precision.gradient_norm` found not finite.
    """
    if name == "adam":
        optimizer = torch.optim.Adam(groups, weight_decay=weight_decay, fused=True, **adam)
    else:
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=weight_decay, fused=True)
        for group in groups:  # torch leaves these uninitialised where the first update is skipped
            optimizer.state |= {p: {"momentum_buffer": torch.zeros_like(p)} for p in group["params"]}
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
