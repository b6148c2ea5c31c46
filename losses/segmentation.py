"""The supervised loss."""

import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (N, 1, H, W) on their central h x w region (paper 2.2).

    mask: (N, 1, h, w) uint8, 0 background and 1 foreground; tiles carry context around it that is not scored.
    Returns a float32 scalar, under autocast too. The mean over equal shards is the mean over the whole batch.
    """
    height, width = mask.shape[-2:]
    top, left = (logits.shape[-2] - height) // 2, (logits.shape[-1] - width) // 2
    centre = logits[..., top : top + height, left : left + width]
    return F.binary_cross_entropy_with_logits(centre.float(), mask.float())
