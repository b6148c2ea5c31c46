"""The classification loss of the pre-training: one sigmoid a class (paper Section 2.4.2)."""

import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (N, classes) against the one-hot of labels (N,), int64."""
    wanted = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, wanted)
