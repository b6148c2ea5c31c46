"""Floors that a network has to beat: predictors that have learnt nothing."""

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from common.limits import IGNORED
from data.store import Store
from evaluation.metrics import Confusion
from evaluation.scoring import Predictor, score


def otsu_floor(store: Store, micrographs: list[int]) -> Predictor:
    """Predictor by Otsu's grey-level thresholds in each image, one fewer than there are phases.

    Which band of grey levels is which phase is what scores highest on these micrographs' labels: the floor gets every
    advantage.
    """
    if store.phases == 2:
        return max((_brighter, _darker), key=lambda predictor: score(predictor, store, micrographs)[0].miou)
    counts = Confusion.none(store.phases)
    for m in micrographs:
        counts += Confusion.of(bands(store.image(m), store.phases), store.mask(m), store.phases)
    both = counts.counts
    iou = both / np.maximum(both.sum(0) + both.sum(1)[:, None] - both, 1)  # of each phase, were it each band
    phases, of_phase = linear_sum_assignment(iou, maximize=True)

    def predictor(image: np.ndarray) -> np.ndarray:
        found = bands(image, store.phases)
        return np.stack([found == of_phase[phase] for phase in phases]).astype(np.float32)

    return predictor


def majority_floor(store: Store, micrographs: list[int]) -> Predictor:
    """Predictor of one phase everywhere: the one that most pixels of these micrographs' labels are of."""
    counts = sum(np.bincount(store.mask(m).ravel(), minlength=IGNORED + 1)[: store.phases] for m in micrographs)
    chosen = (np.arange(store.phases) == counts.argmax()).astype(np.float32)[:, None, None]
    return lambda image: np.broadcast_to(chosen, (store.phases, *image.shape))


def bands(image: np.ndarray, count: int) -> np.ndarray:
    """Band of grey levels that each pixel lies in, uint8 (h, w), 0 the darkest: those of greatest variance between.

    That is Otsu's criterion for several thresholds, which dynamic programming meets exactly.
    """
    share = np.bincount(image.ravel(), minlength=256) / image.size
    weight, first = np.cumsum([0, *share]), np.cumsum([0, *(share * np.arange(256))])
    below = np.maximum(weight[None] - weight[:, None], 1e-12)  # of the band from each level to below each other
    ends_after = np.arange(257)[None] >= np.arange(257)[:, None]
    gain = np.where(ends_after, (first[None] - first[:, None]) ** 2 / below, -np.inf)
    best, cuts = gain[0], []
    for _ in range(count - 1):
        extended = best[:, None] + gain
        cuts.append(extended.argmax(0))
        best = extended.max(0)
    limits = [256]
    for cut in reversed(cuts):
        limits.append(int(cut[limits[-1]]))
    return np.searchsorted(limits[:0:-1], np.arange(256), side="right").astype(np.uint8)[image]


def _brighter(image: np.ndarray) -> np.ndarray:
    bright = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    return np.stack([1 - bright, bright])


def _darker(image: np.ndarray) -> np.ndarray:
    return _brighter(image)[::-1]
