"""How unsure a prediction is, pixel by pixel (Vu et al., CVPR 2019)."""

import math

import torch
from torch import Tensor

from models.phases import probabilities

_TINY = 1e-30  # as published; a float32, so that the logarithm of a probability that is 0 has a gradient


def self_information(maps: Tensor) -> Tensor:
    """Probabilities (N, C, H, W) -> weighted self-information of each phase, -p log2(p) / log2(C), of that shape.

    Its sum over the phases is the normalised entropy: 0 where the prediction is sure, 1 where all phases are as likely.
    """
    return -maps * torch.log2(maps + _TINY) / math.log2(maps.shape[1])


def entropy_loss(logits: Tensor, power: float | None = None) -> Tensor:
    """Mean normalised entropy of logits (N, 1 or C, H, W) over all pixels (MinEnt). Returns a float32 scalar.

    power: take (entropy^2 + 1e-8)^power of each pixel, which above 1/2 heeds sure pixels less (FDA's Charbonnier
    penalty, Yang and Soatto, CVPR 2020).
    """
    entropy = self_information(probabilities(logits)).sum(1)
    return (entropy if power is None else (entropy.square() + 1e-8) ** power).mean()
