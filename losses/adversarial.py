"""The adversarial loss on a discriminator's logits (Tsai et al., CVPR 2018)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LABELS = {"source": 0.0, "target": 1.0}


def cross_entropy(verdicts: Tensor, wanted: float) -> Tensor:
    """Mean binary cross-entropy of verdicts, logits of any shape, on the label that is wanted (the study's)."""
    return F.binary_cross_entropy_with_logits(verdicts.float(), torch.full_like(verdicts.float(), wanted))


def least_squares(verdicts: Tensor, wanted: float) -> Tensor:
    """Mean squared distance of verdicts, of any shape, from the number that is wanted (LSGAN, Mao et al., 2017)."""
    return (verdicts.float() - wanted).square().mean()


KINDS = {"vanilla": cross_entropy, "least_squares": least_squares}
BLIND = {"vanilla": math.log(2), "least_squares": 0.25}  # loss of a discriminator that cannot tell


class GanLoss:
    """How far a discriminator's verdicts are from saying `label`. kind: one of KINDS."""

    def __init__(self, kind: str = "vanilla"):
        self.distance = KINDS[kind]

    def __call__(self, verdicts: Tensor, label: str) -> Tensor:
        """Verdicts (N, 1, h, w) and 'source' or 'target' -> float32 scalar, the mean over all positions."""
        return self.distance(verdicts, LABELS[label])


def grey_distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean distance of images (N, 1, H, W) in 0..255 from others, as if they were in -1..1 (Zhu et al., ICCV 2017)."""
    return (one.float() - other.float()).abs().mean() / 127.5
