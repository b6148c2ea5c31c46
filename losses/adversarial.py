"""The adversarial loss on a discriminator's logits (Tsai et al., CVPR 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor

LABELS = {"source": 0.0, "target": 1.0}
KINDS = {"vanilla": F.binary_cross_entropy_with_logits, "least_squares": F.mse_loss}


class GanLoss:
    """How far a discriminator's logits are from saying `label`.

    kind: 'vanilla', binary cross-entropy on logits (the study's), or 'least_squares' (Mao et al., 2017).
    """

    def __init__(self, kind: str = "vanilla"):
        self.distance = KINDS[kind]

    def __call__(self, discriminator_logits: Tensor, label: str) -> Tensor:
        """Logits (N, 1, h, w) and 'source' or 'target' -> float32 scalar, the mean over all positions."""
        logits = discriminator_logits.float()
        return self.distance(logits, torch.full_like(logits, LABELS[label]))


def least_squares(verdicts: Tensor, wanted: float) -> Tensor:
    """Mean squared distance of verdicts, of any shape, from the number that is wanted (LSGAN, Mao et al., 2017)."""
    return (verdicts.float() - wanted).square().mean()


def grey_distance(one: Tensor, other: Tensor) -> Tensor:
    """Mean distance of images (N, 1, H, W) in 0..255 from others, as a share of all grey levels."""
    return (one.float() - other.float()).abs().mean() / 255
