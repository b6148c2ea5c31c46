"""The teacher of a self-training: a running mean of the model, and whether its labels drift away (Tarvainen and
Valpola, NeurIPS 2017)."""

import copy
import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import models
from losses import centre, sure_labels

_FIRST = 20  # updates whose pseudo-labels are those of the starting model
_MEMORY = 0.9  # of the running mean, in logging steps
_PATIENCE = 10  # logging steps before the first judgement
_APART = 4.0  # times the odds that a phase had


def build_teacher(model: models.Segmenter, own_statistics: bool) -> models.Segmenter:
    """Copy a model that has batch-norm statistics for each domain. The copy learns nothing by itself.

    own_statistics: it normalises the target by each batch, and keeps running statistics of these; else by the model's
    running ones.
    """
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

    def __init__(self, phases: int, from_model: bool):
        """from_model: the run starts from a trained model, which has an opinion of the target."""
        super().__init__()
        self.register_buffer("first", torch.zeros(phases))
        self.phases, self.from_model = phases, from_model
        self.now: list[float] = []
        self.observed, self.warned = 0, False

    def add(self, fractions: Tensor, step: int) -> None:
        """Take the phase fractions (C,) of the pseudo-labels of update number `step`, from 0 on."""
        if step < _FIRST:
            self.first += fractions.float() / _FIRST

    def observe(self, values: dict[str, float]) -> list[str]:
        """Warn, once, where the running mean of logged fractions, one a phase, has left what the first ones were."""
        fractions = [values[f"pseudo_fraction_{phase}"] for phase in range(self.phases)]
        self.now = [_MEMORY * a + (1 - _MEMORY) * b for a, b in zip(self.now or fractions, fractions, strict=True)]
        apart = [abs(math.log(_odds(a) / _odds(b))) for a, b in zip(self.now, self.first.tolist(), strict=True)]
        left = [phase for phase in range(self.phases) if apart[phase] > math.log(_APART)]
        self.observed += 1
        if not (left and self.from_model) or self.warned or self.observed < _PATIENCE:
            return []
        self.warned = True
        shares = ", ".join(
            f"phase {phase} has {100 * self.now[phase]:.1f} % of the pixels, and had {100 * self.first[phase]:.1f} %"
            for phase in left
        )
        return [
            f"the pseudo-labels leave those of the starting model: {shares}. Look at panels/. Where a phase vanishes, "
            "give --surest 0.5, or a lower --lambda-mixed and --lambda-masked."
        ]


def _odds(fraction: float) -> float:
    fraction = min(max(fraction, 1e-4), 1 - 1e-4)
    return fraction / (1 - fraction)
