"""The supervised loss."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.limits import IGNORED


def segmentation_loss(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of logits (N, 1, H, W) on their central h x w region (paper 2.2).

    Of logits (N, C, H, W) of three phases and more the cross-entropy of their softmax.
    mask: (N, 1, h, w) uint8, class indices, 255 ignored; tiles carry context around it that is not scored.
    weight: of each pixel, broadcast to the mask's shape. The mean is taken over a tile's pixels that are not ignored,
    then over tiles, so that the mean over equal shards of a batch is the mean over the batch. A tile that is ignored
    altogether counts as 0. Returns a float32 scalar, under autocast too.
    """
    height, width = mask.shape[-2:]
    counted = (mask != IGNORED).float()
    # One wherever nothing is ignored, to the bit.
    factor = counted * (height * width / counted.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1))
    if weight is not None:
        factor = factor * weight
    if logits.shape[1] > 1:
        labels = torch.where(mask == IGNORED, 0, mask)[:, 0].long()  # whose factor is 0
        return (
            F.cross_entropy(centre(logits, (height, width)).float(), labels, reduction="none") * factor[:, 0]
        ).mean()
    return F.binary_cross_entropy_with_logits(centre(logits, (height, width)).float(), (mask == 1).float(), factor)


def by_level(
    logits: dict[str, Tensor], levels: Iterable[str], mask: Tensor, weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Give the segmentation loss of each of these levels of the model's output."""
    return {level: segmentation_loss(logits[level], mask, weight) for level in levels}


def centre(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., H, W) -> a view of their central region of this size."""
    top, left = ((whole - part) // 2 for whole, part in zip(maps.shape[-2:], size, strict=True))
    return maps[..., top : top + size[0], left : left + size[1]]
