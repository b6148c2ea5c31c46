"""Pseudo-labels of a teacher, and their mixture with the source (DACS, Tranheden et al., WACV 2021)."""

from typing import NamedTuple

import torch
from torch import Tensor

from common.limits import IGNORED
from losses.segmentation import centre
from models.phases import classes, probabilities


class Labelled(NamedTuple):
    """Tiles uint8 (N, 1, T, T) with phases uint8 (N, 1, h, w) of their centres, each with a weight float32."""

    images: Tensor
    labels: Tensor
    weights: Tensor


def sure_labels(
    logits: Tensor, sure: float, surest: float | None = None, by_pixel: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits (N, C, h, w) of a teacher -> phases uint8 and their weights float32, both (N, 1, h, w).

    A pixel counts as sure from the probability `sure` on. surest: so does this share of each phase's pixels in a tile,
    those that the teacher is surest of, so that a rare phase keeps its labels (class-balanced self-training, Zou et
    al., ECCV 2018). All pixels of a tile weigh as much as its share of sure ones (DACS); by_pixel: a sure pixel 1,
    others 0.
    """
    found = probabilities(logits)
    labels, confidence = classes(found)[:, None], found.amax(1, keepdim=True)
    is_sure = confidence >= sure
    for phase in range(found.shape[1]) if surest else ():
        of_phase = labels == phase
        ranked = torch.where(of_phase, confidence, -1.0).flatten(1).sort(1, descending=True).values
        last = (surest * of_phase.flatten(1).sum(1, keepdim=True)).ceil().long() - 1
        is_sure |= of_phase & (confidence >= ranked.gather(1, last.clamp(min=0))[..., None, None])
    weights = is_sure.float()
    return labels, weights if by_pixel else weights.mean((2, 3), keepdim=True).expand_as(weights)


@torch.no_grad()
def class_mix(images: Tensor, masks: Tensor, target: Labelled, order: Tensor) -> Labelled:
    """Paste half of each source tile's phases, with their labels, onto a target tile (ClassMix).

    images, masks: source tiles uint8 (N, 1, T, T) and (N, 1, h, w), 255 ignored and never pasted. order: float32
    (N, 256), which ranks the phases of a tile; the first half of those present is pasted, rounded up as published. What
    is pasted has weight 1. Nothing is pasted around the centre, whose phases are not known.
    """
    places = torch.zeros(order.shape, dtype=torch.bool, device=order.device)
    present = places.scatter(1, masks.flatten(1).long(), True)
    present[:, IGNORED] = False
    ranked = torch.where(present, order, torch.inf)
    count = (present.sum(1, keepdim=True) + 1) // 2
    last = ranked.sort(1).values.gather(1, (count - 1).clamp(min=0))
    pasted = (present & (ranked <= last)).gather(1, masks.flatten(1).long()).view_as(masks)
    mixed = target.images.clone()
    inner = centre(mixed, masks.shape[-2:])
    inner.copy_(torch.where(pasted, centre(images, masks.shape[-2:]), inner))
    return Labelled(mixed, torch.where(pasted, masks, target.labels), torch.where(pasted, 1.0, target.weights))
