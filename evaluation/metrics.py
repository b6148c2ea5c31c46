"""Counts of right and wrong pixels, and the study's measures of them (paper 2.4.5, eq. 1 and 2)."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from common.limits import IGNORED


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pixel counts of a segmentation, int64 (C, C): labelled phase by predicted one. Those of several images add up."""

    counts: np.ndarray

    @classmethod
    def none(cls, phases: int) -> Self:
        """Counts of no pixel."""
        return cls(np.zeros((phases, phases), np.int64))

    @classmethod
    def of(cls, predicted: np.ndarray, label: np.ndarray, phases: int = 2) -> Self:
        """Count a prediction against a label, class indices (h, w), which do not count where the label is IGNORED."""
        predicted, label = np.asarray(predicted), np.asarray(label)
        if predicted.shape != label.shape:
            raise ValueError(f"prediction {predicted.shape} and label {label.shape} differ in shape")
        counted = label != IGNORED
        if not counted.all():
            predicted, label = predicted[counted], label[counted]
        predicted = predicted.astype(np.uint8)
        counts = [np.bincount(predicted[label == phase], minlength=phases)[:phases] for phase in range(phases)]
        return cls(np.array(counts, np.int64))

    def __add__(self, other: Self) -> Self:
        return Confusion(self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts.sum())

    def iou(self) -> list[float]:
        """Intersection over union of each phase, fractions of 1 (eq. 1).

        nan for a phase that is neither labelled nor predicted anywhere: its IoU is undefined.
        """
        right = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - right
        return [_ratio(*of_phase) for of_phase in zip(right.tolist(), union.tolist(), strict=True)]

    @property
    def miou(self) -> float:
        """Mean IoU over the phases that have one, fraction of 1; nan without a pixel."""
        defined = [value for value in self.iou() if not np.isnan(value)]
        return float(np.mean(defined)) if defined else float("nan")

    @property
    def predicted(self) -> list[float]:
        """Predicted area fraction of each phase."""
        return [_ratio(count, self.pixels) for count in self.counts.sum(0).tolist()]

    @property
    def labelled(self) -> list[float]:
        """Labelled area fraction of each phase."""
        return [_ratio(count, self.pixels) for count in self.counts.sum(1).tolist()]


def rdt(target: float, source: float) -> float:
    """Relative domain transferability (eq. 2): target mIoU relative to the supervised source mIoU."""
    return (target - source) / source


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and count of the values that are not None; None where there are too few."""
    values = [value for value in values if value is not None]
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None, len(values)


def percent(values: Iterable[float | None]) -> str:
    """Mean ± standard deviation in percent as text; empty without a value."""
    mean, std, _ = mean_std(values)
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _ratio(count: int, total: int) -> float:
    return count / total if total else float("nan")
