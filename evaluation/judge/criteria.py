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

from evaluation.inference import Network, predict
from evaluation.metrics import Confusion
from models import classes

Cut = tuple[int, int]  # tile and overlap, px

VOTE = "vote"
CRITERIA = {
    "entropy": "entropy of the prediction",
    "views": "disagreement with a view that is turned, flipped and darker",
    "models": "disagreement of the folds' models",
    "shape": "size and chords of regions, and length of boundaries, from the labels'",
    VOTE: "disagreement with the vote of all others that were tried",
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


def criteria(
    models: Sequence[Network],
    image: np.ndarray,
    shapes: Shapes,
    cut: Cut,
    device: torch.device | str = "cpu",
    judged: Sequence[int] | None = None,
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Criteria of models' predictions of a window uint8 (h, w), the mean over the models; and what each predicts.

    cut: how micrographs are cut when they are segmented; so is the window. judged: positions of the models that count;
    the others are only there to disagree with. By default all. Returns criteria by name ('models' of several models
    only), and class indices uint8 (h, w) by judged model.
    """
    judged = range(len(models)) if judged is None else judged
    each = [_views(model, image, cut, device, position in judged) for position, model in enumerate(models)]
    found, predictions = [], []
    for position in judged:
        probabilities, other = each[position]
        phases, predicted = len(probabilities), classes(probabilities)
        of_model = {
            "entropy": float(-(probabilities * np.log(np.maximum(probabilities, 1e-6))).sum(0).mean() / np.log(phases)),
            "views": _disagreement(predicted, classes(other), phases),
        }
        if len(models) > 1:
            of_others = np.mean([of[0] for other, of in enumerate(each) if other != position], axis=0)
            of_model["models"] = _disagreement(predicted, classes(of_others), phases)
        of_model["shape"] = shapes.distance(predicted)
        found.append(of_model)
        predictions.append(predicted)
    return {name: float(np.mean([of[name] for of in found])) for name in found[0]}, predictions


def _views(model: Network, image: np.ndarray, cut: Cut, device: torch.device | str, both: bool) -> list[np.ndarray]:
    """Probabilities (C, h, w) of a window, and of it turned, flipped and a little darker, turned back."""
    seen = [predict(model, image, *cut, device=device)]
    if both:
        darker = np.rint(255 * (np.arange(256) / 255) ** _GAMMA).astype(np.uint8)[image]
        other = predict(model, np.ascontiguousarray(np.rot90(darker)[:, ::-1]), *cut, device=device)
        seen.append(np.rot90(other[:, :, ::-1], -1, (1, 2)))
    return seen


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
