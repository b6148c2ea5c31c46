"""The teacher of a self-training: a running mean of the model, and whether its labels drift away (Tarvainen and
Valpola, NeurIPS 2017)."""

import copy
import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import models
from common.errors import InputError
from losses import centre, sure_labels
from training.distributed import Processes

_FRACTION = "pseudo_fraction_"
_FIRST = 20  # updates whose pseudo-labels are those of the starting model
_MEMORY = 0.9  # of the running mean, in logging steps
_PATIENCE = 10  # logging steps before the first judgement
_APART = 4.0  # times the odds that a phase had


def build_teacher(model: models.Segmenter, options: SimpleNamespace, processes: Processes) -> models.Segmenter:
    """Copy a model that has batch-norm statistics for each domain. The copy learns nothing by itself.

    With --teacher-statistics batch it normalises the target by each batch, and keeps running statistics of these; else
    by the model's running ones. InputError where these would be other ones in each process.
    """
    own_statistics = options.teacher_statistics == "batch"
    if processes.world > 1 and options.batch_norm == "local" and not own_statistics:
        raise InputError(
            f"--teacher-statistics running with --batch-norm local: the teachers of {processes.world} processes would "
            "label by statistics of their own, until a checkpoint makes them equal. Give --batch-norm sync."
        )
    teacher = copy.deepcopy(model).requires_grad_(False).train(own_statistics)
    models.set_domain(teacher, "target")
    return teacher


@torch.no_grad()
def follow(teacher: models.Segmenter, model: models.Segmenter, decay: float) -> None:
    """Move the teacher's parameters 1 - `decay` of the way to the model's.

    Running statistics become the model's; the target's do not where the teacher has its own.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(model.parameters()), 1 - decay)
    domains = ("source",) if teacher.training else ("source", "target")
    models.take_statistics(teacher, model, domains)


@torch.no_grad()
def pseudo_labels(
    teacher: models.Segmenter, images: Tensor, size: tuple[int, int], options: SimpleNamespace
) -> tuple[Tensor, Tensor]:
    """Label the central `size` of target tiles (N, 1, T, T) by the teacher: phases and weights as of sure_labels."""
    logits = centre(teacher(images)["main"], size)
    return sure_labels(logits, options.sure, options.surest, options.pseudo_weight == "pixel")


class Drift(nn.Module):
    """Phase fractions of the first pseudo-labels, kept with the run, and a warning where later ones leave them."""

    def __init__(self, classes: Sequence[str], from_model: bool):
        """from_model: the run starts from a trained model, which has an opinion of the target."""
        super().__init__()
        self.register_buffer("first", torch.zeros(len(classes)))
        self.classes, self.from_model = classes, from_model
        self.now: list[float] = []
        self.observed, self.warned = 0, False

    def observe(self, labels: Tensor, step: int, weight: float) -> dict[str, Tensor]:
        """Take pseudo-labels (N, 1, h, w), a part of those of update number `step`, from 0 on, with this weight.

        Returns their phase fractions by logged name.
        """
        fractions = torch.stack([(labels == phase).float().mean() for phase in range(len(self.classes))])
        if step < _FIRST:
            self.first += weight * fractions / _FIRST
        return {_FRACTION + name: value for name, value in zip(self.classes, fractions, strict=True)}

    def warnings(self, values: dict[str, float]) -> list[str]:
        """Warn, once, where the running mean of logged fractions has left what the first ones were."""
        fractions = [values[_FRACTION + name] for name in self.classes]
        self.now = [_MEMORY * a + (1 - _MEMORY) * b for a, b in zip(self.now or fractions, fractions, strict=True)]
        self.observed += 1
        if self.warned or not self.from_model or self.observed < _PATIENCE:
            return []
        shares = [
            f"{name} has {100 * now:.1f} % of the pixels, and had {100 * first:.1f} %"
            for name, now, first in zip(self.classes, self.now, self.first.tolist(), strict=True)
            if abs(math.log(_odds(now) / _odds(first))) > math.log(_APART)
        ]
        self.warned = bool(shares)
        return shares and [
            f"the pseudo-labels leave those of the starting model: {', '.join(shares)}. Look at panels/. Where a phase "
            "vanishes, give --surest 0.5, or a lower --lambda-mixed and --lambda-masked."
        ]


def _odds(fraction: float) -> float:
    fraction = min(max(fraction, 1e-4), 1 - 1e-4)
    return fraction / (1 - fraction)
