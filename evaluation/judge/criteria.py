"""Criteria without labels: how little a model's prediction of a micrograph looks like one that is right.

Each is 0 or more and grows as predictions get worse. None is right always: a model may be sure and wrong, or unsure of
a picture whose regions look just as the source's labels do. So `judge.calibration` joins them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from evaluation.metrics import Confusion
from models import classes, probabilities

VOTE = "vote"
CRITERIA = {
    "entropy": "entropy of the prediction",
    "views": "disagreement between turned, flipped and darker views",
    "models": "disagreement of the folds' models",
    "shape": "size and chords of regions, and length of boundaries, from the labels'",
    VOTE: "disagreement with the vote of all that was tried",
}
_GAMMA = 1.2  # too little to mislead a model that is right. Noise would: what is little on one detector is not on all
_LEAST = np.array([0.15, 0.1, 0.1])  # standard deviations of shape_of that a few micrographs may understate
_MOST = 8.0  # standard deviations; what is farther away is as bad


@dataclass(frozen=True)
class Shapes:
    """How the regions of labels are shaped: mean and standard deviation between windows, of shape_of for each phase.

    Both are float64 (C - 1, 3). The first phase is what the others leave.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, masks: Sequence[np.ndarray], phases: int) -> Self:
        """Shapes of masks, class indices uint8 (h, w)."""
        found = np.array([_shapes(mask, phases) for mask in masks])
        return cls(found.mean(0), np.maximum(found.std(0), _LEAST))

    def distance(self, mask: np.ndarray) -> float:
        """Distance of a mask's shapes in standard deviations, the mean over shapes and phases."""
        away = np.abs(_shapes(mask, len(self.mean) + 1) - self.mean) / self.std
        return float(np.minimum(away, _MOST).mean())


@torch.inference_mode()
def criteria(
    models: Sequence[nn.Module],
    image: np.ndarray,
    shapes: Shapes,
    device: torch.device | str = "cpu",
    judged: Sequence[int] | None = None,
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Criteria of models' predictions of a window uint8 (h, w), the mean over the models; and what each predicts.

    judged: positions of the models that count; the others are only there to disagree with. By default all.
    Returns criteria by name ('models' of several models only), and class indices uint8 (h, w) by judged model.
    """
    judged = range(len(models)) if judged is None else judged
    each = [_probabilities(model, image, device, position in judged) for position, model in enumerate(models)]
    found, predictions = [], []
    for position in judged:
        views = each[position]
        phases = views.shape[1]
        predicted = classes(views)
        of_model = {
            "entropy": float(-(views[0] * np.log(np.maximum(views[0], 1e-6))).sum(0).mean() / np.log(len(views[0]))),
            "views": float(np.mean([_disagreement(predicted[0], other, phases) for other in predicted[1:]])),
        }
        if len(models) > 1:
            others = np.mean([of_other[0] for other, of_other in enumerate(each) if other != position], axis=0)
            of_model["models"] = _disagreement(predicted[0], classes(others), phases)
        of_model["shape"] = shapes.distance(predicted[0])
        found.append(of_model)
        predictions.append(predicted[0])
    return {name: float(np.mean([of[name] for of in found])) for name in found[0]}, predictions


def _probabilities(model: nn.Module, image: np.ndarray, device: torch.device | str, all_views: bool) -> np.ndarray:
    """Probabilities (views, C, h, w): of the window, and of its other views turned back."""
    levels = 255 * (np.arange(256) / 255) ** _GAMMA
    views = [image]
    if all_views:
        views += [np.rint(levels).astype(np.uint8)[image][:, ::-1], np.rot90(image)]

    def found(*some: np.ndarray) -> Tensor:
        batch = torch.from_numpy(np.stack(some))[:, None].to(device)
        return probabilities(model(batch)["main"])

    turned = views.pop() if all_views and image.shape[0] != image.shape[1] else None
    seen = list(found(*views))
    seen += [] if turned is None else list(found(turned))
    if all_views:
        seen = [seen[0], seen[1].flip(-1), seen[2].rot90(-1, (-2, -1))]
    return torch.stack(seen).cpu().numpy()


def _disagreement(one: np.ndarray, other: np.ndarray, phases: int) -> float:
    """1 - mIoU between two predictions."""
    return 1 - Confusion.of(one, other, phases).miou


def _shapes(mask: np.ndarray, phases: int) -> np.ndarray:
    return np.array([shape_of(mask == phase) for phase in range(1, phases)])


def shape_of(region: np.ndarray) -> np.ndarray:
    """Describe the regions of a mask, bool (h, w): float64 (3,).

    They are log of the mean region size in px (weighted by size); log of the mean chord in px (E112's intercept); log
    of the boundary's px for each px of the window. All of a window without a region have the values of a single pixel.
    """
    region = region.astype(np.uint8)
    boundary = np.count_nonzero(region[1:] != region[:-1]) + np.count_nonzero(region[:, 1:] != region[:, :-1])
    areas = cv2.connectedComponentsWithStats(region, connectivity=8)[2][1:, cv2.CC_STAT_AREA].astype(float)
    if not len(areas):
        return np.array([0.0, 0.0, np.log(1 / region.size)])
    chords = np.count_nonzero(region[:, 1:] > region[:, :-1]) + np.count_nonzero(region[:, 0])
    chords += np.count_nonzero(region[1:] > region[:-1]) + np.count_nonzero(region[0])
    size, chord = np.log((areas**2).sum() / areas.sum()), np.log(2 * areas.sum() / chords)
    return np.array([size, chord, np.log(max(boundary, 1) / region.size)])
