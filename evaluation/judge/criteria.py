"""Criteria without labels: how little a model's prediction of a micrograph looks like one that is right.

Each is 0 or more and grows as predictions get worse. None is right always: a model may be sure and wrong, or unsure of
a picture whose regions look just as the source's labels do. So `judge.calibration` joins them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics import Confusion
from models import classes, probabilities
from models.batchnorm import Statistics, source_statistics

CRITERIA = {
    "entropy": "entropy of the prediction",
    "views": "disagreement between turned, flipped and darker views",
    "models": "disagreement of the folds' models",
    "first norm": "grey levels as the first batch norm sees them, from the source's",
    "norms": "features as all batch norms see them, from the source's",
    "size": "size of regions, from the labels'",
    "chord": "chords through regions, from the labels'",
    "solidity": "solidity of regions, from the labels'",
    "boundary": "length of boundaries, from the labels'",
    "texture": "how alike the phases' textures are",
}
_GAMMA = 1.2  # too little to mislead a model that is right. Noise would: what is little on one detector is not on all
_SMALLEST = 16  # px of a region whose outline counts
_LEAST = np.array([0.15, 0.1, 0.02, 0.1])  # standard deviations of shape_of that a few micrographs may understate
_MOST = 8.0  # standard deviations; what is farther away is as bad


@dataclass(frozen=True)
class Shapes:
    """How the regions of labels are shaped: mean and standard deviation between windows, of shape_of for each phase.

    Both are float64 (C - 1, 4). The first phase is what the others leave.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], phases: int) -> Self:
        """Shapes of masks, class indices uint8 (h, w)."""
        found = np.array([_shapes(mask, phases) for mask in masks])
        return cls(found.mean(0), np.maximum(found.std(0), _LEAST))

    def distance(self, mask: np.ndarray) -> np.ndarray:
        """Distance of a mask's shapes in standard deviations, float64 (4,), the mean over the phases."""
        away = np.abs(_shapes(mask, len(self.mean) + 1) - self.mean) / self.std
        return np.minimum(away, _MOST).mean(0)


@dataclass
class Watched:
    """A model that is judged, in eval mode, and the batch-norm statistics that it has of the source."""

    model: nn.Module
    source: Statistics

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        return cls(model.eval(), source_statistics(model))


@torch.inference_mode()
def criteria(
    watched: Sequence[Watched],
    image: np.ndarray,
    shapes: Shapes,
    device: torch.device | str = "cpu",
    judged: Sequence[int] | None = None,
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Criteria of models' predictions of a window uint8 (h, w), the mean over the models; and what each predicts.

    judged: positions of the models that count; the others are only there to disagree with. By default all.
    Returns criteria by name ('models' of several models only), and class indices uint8 (h, w) by judged model.
    """
    judged = range(len(watched)) if judged is None else judged
    alone = len(watched) == 1
    each = [_probabilities(one, image, device, position in judged) for position, one in enumerate(watched)]
    found, predictions = [], []
    for position in judged:
        views, away = each[position]
        phases = views.shape[1]
        predicted = classes(views)
        of_model = {
            "entropy": float(-(views[0] * np.log(np.maximum(views[0], 1e-6))).sum(0).mean() / np.log(len(views[0]))),
            "views": float(np.mean([_disagreement(predicted[0], other, phases) for other in predicted[1:]])),
        }
        if not alone:
            others = np.mean([views[0] for other, (views, _) in enumerate(each) if other != position], axis=0)
            of_model["models"] = _disagreement(predicted[0], classes(others), phases)
        of_model |= {"first norm": away[0], "norms": float(np.mean(away))} if away else {}
        of_model |= dict(zip(("size", "chord", "solidity", "boundary"), shapes.distance(predicted[0]), strict=True))
        of_model["texture"] = _likeness(image, predicted[0])
        found.append(of_model)
        predictions.append(predicted[0])
    return {name: float(np.mean([of[name] for of in found])) for name in found[0]}, predictions


def _probabilities(
    watched: Watched, image: np.ndarray, device: torch.device | str, all_views: bool
) -> tuple[np.ndarray, list[float]]:
    """Probabilities (views, C, h, w), and how far each batch norm's input is from the source's."""
    levels = 255 * (np.arange(256) / 255) ** _GAMMA
    views = [image]
    if all_views:
        views += [np.rint(levels).astype(np.uint8)[image][:, ::-1], np.rot90(image)]

    def found(*some: np.ndarray) -> Tensor:
        batch = torch.from_numpy(np.stack(some))[:, None].to(device)
        return probabilities(watched.model(batch)["main"])

    turned = views.pop() if all_views and image.shape[0] != image.shape[1] else None
    with _norm_inputs(watched.model) as inputs:
        seen = list(found(*views))
    seen += [] if turned is None else list(found(turned))
    if all_views:
        seen = [seen[0], seen[1].flip(-1), seen[2].rot90(-1, (-2, -1))]
    away = [_divergence(*inputs[name], *watched.source[name]) for name in inputs]
    return torch.stack(seen).cpu().numpy(), away


def _disagreement(one: np.ndarray, other: np.ndarray, phases: int) -> float:
    """1 - mIoU between two predictions."""
    return 1 - Confusion.of(one, other, phases).miou


def _shapes(mask: np.ndarray, phases: int) -> np.ndarray:
    return np.array([shape_of(mask == phase) for phase in range(1, phases)])


def shape_of(region: np.ndarray) -> np.ndarray:
    """Describe the regions of a mask, bool (h, w): float64 (4,).

    They are log of the mean region size in px (weighted by size); log of the mean chord in px (E112's intercept);
    solidity, area over that of the convex hull; log of the boundary's px for each px of the window. All of a window
    without a region have the values of a single pixel.
    """
    region = region.astype(np.uint8)
    boundary = np.count_nonzero(region[1:] != region[:-1]) + np.count_nonzero(region[:, 1:] != region[:, :-1])
    areas = cv2.connectedComponentsWithStats(region, connectivity=8)[2][1:, cv2.CC_STAT_AREA].astype(float)
    if not len(areas):
        return np.array([0.0, 0.0, 1.0, np.log(1 / region.size)])
    chords = np.count_nonzero(region[:, 1:] > region[:, :-1]) + np.count_nonzero(region[:, 0])
    chords += np.count_nonzero(region[1:] > region[:-1]) + np.count_nonzero(region[0])
    size, chord = np.log((areas**2).sum() / areas.sum()), np.log(2 * areas.sum() / chords)
    outlines = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = np.array([(cv2.contourArea(line), cv2.contourArea(cv2.convexHull(line))) for line in outlines])
    filled = filled[filled[:, 1] >= _SMALLEST]
    solidity = filled[:, 0].sum() / filled[:, 1].sum() if len(filled) else 1.0
    return np.array([size, chord, solidity, np.log(max(boundary, 1) / region.size)])


def _likeness(image: np.ndarray, mask: np.ndarray) -> float:
    """How alike the textures of the phases are: 1 for no difference, near 0 for a clear one.

    Texture is the local deviation from a blurred picture, on a scale of some pixels.
    """
    grey = image.astype(np.float32)
    texture = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 4)), (0, 0), 4)
    phases = [texture[mask == phase] for phase in range(int(mask.max()) + 1)]
    phases = [values for values in phases if len(values) >= _SMALLEST]
    if len(phases) < 2:
        return 1.0
    within = np.mean([values.var() for values in phases])
    between = np.ptp([values.mean() for values in phases]) ** 2
    return float(1 / (1 + between / (within + 1)))


@contextmanager
def _norm_inputs(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Collect mean and variance of each channel that a batch norm gets of the first image, by the norm's name."""
    found = {}

    def keep(name: str, features: Tensor) -> None:
        mean = features.mean((0, 2, 3), keepdim=True)
        found[name] = mean.flatten(), (features - mean).square().mean((0, 2, 3))  # torch.var takes twenty times as long

    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: keep(name, given[0][:1].float()))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _divergence(mean: Tensor, variance: Tensor, source_mean: Tensor, source_variance: Tensor) -> float:
    """Kullback-Leibler divergence of two normal distributions, its logarithm averaged over the channels."""
    ratio = (variance + 1e-5) / (source_variance + 1e-5)
    divergence = (ratio + (mean - source_mean) ** 2 / (source_variance + 1e-5) - 1 - ratio.log()) / 2
    return float(divergence.clamp(min=0).log1p().mean())
