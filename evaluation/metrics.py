"""Counts of right and wrong pixels, and the study's measures of them (paper 2.4.5, eq. 1 and 2)."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from common.limits import IGNORED


@dataclass(frozen=True)
class Confusion:
    """Pixel counts of a binary segmentation, foreground positive. Counts of several micrographs add up."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def of(cls, predicted: np.ndarray, label: np.ndarray) -> Self:
        """Count a prediction (h, w) against a label (h, w); zero is background, anything else foreground.

        Pixels that are IGNORED in the label do not count.
        """
        predicted, label = np.asarray(predicted), np.asarray(label)
        if predicted.shape != label.shape:
            raise ValueError(f"prediction {predicted.shape} and label {label.shape} differ in shape")
        counted = label != IGNORED
        if not counted.all():
            predicted, label = predicted[counted], label[counted]
        predicted, label = predicted.astype(bool), label.astype(bool)
        tp = int(np.count_nonzero(predicted & label))
        fp = int(np.count_nonzero(predicted)) - tp
        fn = int(np.count_nonzero(label)) - tp
        return cls(tp, fp, fn, predicted.size - tp - fp - fn)

    def __add__(self, other: Self) -> Self:
        return Confusion(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    def iou(self) -> dict[str, float]:
        """Intersection over union of both classes, fractions of 1 (eq. 1).

        nan for a class that is neither labelled nor predicted anywhere: its IoU is undefined.
        """
        wrong = self.fp + self.fn
        return {
            "background": _ratio(self.tn, self.tn + wrong),
            "foreground": _ratio(self.tp, self.tp + wrong),
        }

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that have one, fraction of 1; nan without a pixel."""
        defined = [value for value in self.iou().values() if not np.isnan(value)]
        return float(np.mean(defined)) if defined else float("nan")

    @property
    def phase_fraction_predicted(self) -> float:
        """Area fraction of predicted foreground."""
        return _ratio(self.tp + self.fp, self.pixels)

    @property
    def phase_fraction_label(self) -> float:
        """Area fraction of labelled foreground."""
        return _ratio(self.tp + self.fn, self.pixels)


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
