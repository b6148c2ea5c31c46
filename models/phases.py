"""The gates between phases, logits and probabilities. Nothing else knows how many channels a phase has."""

import numpy as np
import torch
from torch import Tensor


def channels(phases: int) -> int:
    """Number of channels of the logits: one of two phases, else one a phase."""
    return 1 if phases == 2 else phases


def probabilities(logits: Tensor) -> Tensor:
    """Logits (N, 1, H, W) or (N, C, H, W) -> float32 probabilities of each phase (N, C, H, W), C >= 2.

    One channel is the logit of the second of two phases: [1 - p, p] by a sigmoid. Several channels: softmax.
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        return torch.sigmoid(torch.cat([-logits, logits], dim=1))
    return logits.softmax(dim=1)


def logits_of(logits: Tensor, phase: int) -> Tensor:
    """Logits (N, 1, H, W) or (N, C, H, W) -> those of one phase, (N, H, W)."""
    if logits.shape[1] == 1:
        return logits[:, 0] if phase else -logits[:, 0]
    return logits[:, phase]


def classes(probabilities: Tensor | np.ndarray, certain: float = 1.0) -> Tensor | np.ndarray:
    """Probabilities (..., C, H, W), a tensor or an array -> index of the likeliest phase, uint8 (..., H, W).

    certain: the number that stands for probability 1, 255 where probabilities are kept in bytes. Of two phases the
    second is taken from half of it upwards.
    """
    two = probabilities.shape[-3] == 2
    index = probabilities[..., 1, :, :] >= certain / 2 if two else probabilities.argmax(-3)
    return index.to(torch.uint8) if isinstance(index, Tensor) else index.astype(np.uint8)
