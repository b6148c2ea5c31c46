"""The networks and their optimizers as the options ask for them."""

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn
from torch.optim import Optimizer

import models
from common.errors import InputError
from data.store import TWO_PHASES, Store, differences
from models.translator import RealOrTranslated, Translators
from training import distributed
from training.checkpoint import load_model
from training.distributed import Processes, on_main_process
from training.weights import history, load_for_target, load_pretraining

SINGLE_VALUE = "more than 1 value per channel"  # of torch's error where batch norm has nothing to take a variance of


def build_model(
    options: SimpleNamespace, processes: Processes, classes: Sequence[str] = TWO_PHASES
) -> tuple[nn.Module, Optimizer]:
    """Build the segmentation model with its pre-trained weights and the batch norm asked for, and its optimizer.

    classes: names of the phases that it tells apart, those of the source's store. A run that has a target gets
    batch-norm statistics for each domain. Its model gets an attention where `lambda_adv_feature` has a weight, or the
    checkpoint that it starts from has one of this target. Without the weight that learns nothing more. Every process
    draws the same initial weights from `options.seed`.
    """
    _require_compiler(options, processes.device)
    torch.manual_seed(options.seed)
    model = models.build(options.model, len(classes))
    _pretrain(model, options, processes, classes)
    if "target" in vars(options):
        models.domain_batch_norm(model)
        learns = bool(vars(options).get("lambda_adv_feature"))
        if learns:
            model.attend()
        load_for_target(model, options.pretraining_file or options.pretraining, options.target)
        if model.attention is not None:
            model.attention.requires_grad_(learns)
    if options.batch_norm == "frozen":
        models.freeze_batch_norm(model)
    elif options.batch_norm == "sync" and processes.world > 1:
        models.synchronise_batch_norm(model, distributed.new_group())
    model = _placed(model, processes).train()
    groups = models.parameter_groups(model, options.learning_rate, options.backbone_factor)
    if options.optimizer == "adam":
        return model, build_adam(groups, weight_decay=options.weight_decay)
    return model, build_sgd(groups, weight_decay=options.weight_decay)


def build_discriminators(
    options: SimpleNamespace, model: nn.Module, processes: Processes
) -> tuple[models.Discriminators, list[Optimizer]]:
    """Build a discriminator for each level of the model's output, and their optimizer (Tsai et al., CVPR 2018).

    None is built for a level where the adversarial loss has weight 0. An attention that learns is the model's, and
    this optimizer's too. Without any there is no optimizer. InputError where all losses with a weight are at levels
    that the model lacks.
    """
    adapting = ("lambda_adv_", "lambda_entropy_")
    given = {name: weight for name, weight in vars(options).items() if weight and name.startswith(adapting)}
    if given and not any(name.endswith((*model.levels, "feature")) for name in given):
        words = ", ".join(f"--{name.replace('_', '-')} {weight:g}" for name, weight in given.items())
        raise InputError(
            f"{words}: adapts nothing, as --model {options.model} has no auxiliary head. Give the main head's loss a "
            "weight, or 0 here too for a control run."
        )
    levels = tuple(level for level in model.levels if getattr(options, f"lambda_adv_{level}"))
    discriminators = _placed(models.Discriminators(levels, options.discriminator_width, model.phases), processes)
    attention = model.attention.parameters() if options.lambda_adv_feature else ()
    learning = [*discriminators.parameters(), *attention]
    groups = [{"params": learning, "lr": options.discriminator_learning_rate}]
    return discriminators, [build_adam(groups, betas=(0.9, 0.99))] if learning else []


def build_translators(
    options: SimpleNamespace, processes: Processes
) -> tuple[Translators, RealOrTranslated, list[Optimizer]]:
    """Build the generators of a translation, the discriminators of both domains, and the optimizer of either."""
    torch.manual_seed(options.seed)
    translators = _placed(Translators(options.generator_width, options.generator_blocks), processes)
    discriminators = _placed(RealOrTranslated(options.discriminator_width), processes)
    networks = ((translators, options.learning_rate), (discriminators, options.discriminator_learning_rate))
    groups = [[{"params": network.parameters(), "lr": rate}] for network, rate in networks]
    return translators, discriminators, [build_adam(group, betas=(0.5, 0.999)) for group in groups]


def frozen_reference(run: str | None, source: Store, fold: int, device: torch.device | str) -> models.Segmenter:
    """Load the source model of `--reference`, which learns nothing here, to see micrographs of the source's store.

    InputError where there is none, where its data was prepared otherwise or has other phases, and where it was trained
    on a micrograph that the fold holds out: it is scored on these.
    """
    if not run:
        raise InputError("--reference: give a supervised run on the source, which says if the phases stay in place.")
    model, state = load_model(run)
    if different := differences(state["preparation"], source.preparation, "in the run", "in the store"):
        raise InputError(
            f"--reference {run}: its data was prepared otherwise than {source.path} ({different}). Give a supervised "
            "run on this store."
        )
    trained_on = history(state["config"], state["preparation"])["trained_on"]
    seen = {digest for digests in trained_on.values() for digest in digests}
    held_out = (source.micrographs[index] for index in source.validation_micrographs(fold))
    if known := [one.name for one in held_out if one.sha256 in seen]:
        raise InputError(
            f"--reference {run}: was trained on '{known[0]}', on which it is to be scored, as fold {fold} of "
            f"{source.path} holds it out. Give a supervised run of fold {fold}."
        )
    return model.to(device, memory_format=torch.channels_last).requires_grad_(False)


def build_classifier(options: SimpleNamespace, classes: int, processes: Processes) -> tuple[nn.Module, Optimizer]:
    """Build a classifier on the encoder of the network asked for, with its pre-trained weights, and its optimizer."""
    _require_compiler(options, processes.device)
    torch.manual_seed(options.seed)
    model = models.Classifier(models.build(options.model), classes)
    _pretrain(model, options, processes, TWO_PHASES)
    model = _placed(model, processes).train()
    return model, build_adam([{"params": model.parameters(), "lr": options.learning_rate}])


def build_adam(groups: list[dict], **settings: object) -> Optimizer:
    """Build Adam over parameter groups with their own `lr`, which each remembers as `initial_lr`.

    Fused: one pass over the parameters, which skips an update that `Precision.gradient_norm` found not finite.
    """
    return _remembering(torch.optim.Adam(groups, fused=True, **settings))


def build_sgd(groups: list[dict], **settings: object) -> Optimizer:
    """Build SGD with momentum 0.9, as `build_adam`."""
    optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True, **settings)
    for group in optimizer.param_groups:  # torch leaves these uninitialised where the first update is skipped
        optimizer.state |= {p: {"momentum_buffer": torch.zeros_like(p)} for p in group["params"]}
    return _remembering(optimizer)


def _require_compiler(options: SimpleNamespace, device: torch.device) -> None:
    """InputError where --compile lacks the compiler that torch calls, C++ for the CPU and C (Triton's) for a GPU."""
    if not options.compile:
        return
    if device.type == "cuda":
        language, variable, names = "C", "CC", ("gcc", "clang")
    else:
        language, variable, names = "C++", "CXX", ("clang++" if sys.platform == "darwin" else "g++",)
    names = (os.environ[variable],) if variable in os.environ else names
    if not any(_runs(name) for name in names):
        raise InputError(
            f"--compile: needs a {language} compiler, and {' and '.join(names)} cannot be run. Install one, set "
            f"{variable} to it, or leave --compile out."
        )


def _runs(program: str) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _remembering(optimizer: Optimizer) -> Optimizer:
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def require_batch_statistics(model: nn.Module, side: int, options: SimpleNamespace, processes: Processes) -> None:
    """InputError where a pass takes one tile of `side` px, and a batch norm then gets one value a channel.

    That has no variance. A trial of the model's shapes, without numbers, tells it.
    """
    local = options.batch_size // processes.world
    norms = {type(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    if min(options.micro_batch or local, local) > 1 or norms != {nn.BatchNorm2d}:  # others take values of all processes
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model).to("meta")(torch.empty(1, 1, side, side, dtype=torch.uint8, device="meta"))
    except ValueError as error:
        if SINGLE_VALUE not in str(error):
            raise
        asked = f"--batch-size {options.batch_size} over {processes.world} processes"
        if options.micro_batch and local > 1:
            asked = f"--micro-batch {options.micro_batch}"
        raise InputError(
            f"{asked}: one tile of {side} px at a time, of which batch norm gets a single value a channel in the "
            f"deepest map of {options.model}. Give {2 * processes.world} or more tiles (a --micro-batch of 2 or more), "
            "larger tiles (data.prepare), or --batch-norm frozen."
        ) from error


def _placed(module: nn.Module, processes: Processes) -> nn.Module:
    # Convolutions are faster in channels-last, on the CPU and on tensor cores.
    return module.to(processes.device, memory_format=torch.channels_last)


def _pretrain(model: nn.Module, options: SimpleNamespace, processes: Processes, classes: Sequence[str]) -> None:
    load = partial(load_pretraining, model, options.model, options.pretraining_file or options.pretraining, classes)
    # The main process says for all what is wrong with a file of weights.
    on_main_process(load, processes)
    if not processes.is_main:
        load()
