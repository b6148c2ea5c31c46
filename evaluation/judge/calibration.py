"""From criteria to the mIoU that they let expect, learnt where the truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

_LIMITS = (-3.0, 4.0)  # standard deviations of the samples; a criterion does not count for more
_EQUAL = 100  # samples that equal weights count as: of a hundred real ones a criterion may look useless by chance
_PARTS = 8  # of the cross-validation
_LEVEL = 0.9  # share of the samples that the interval holds
_TRUSTED = 0.8  # share of the gains that were overestimated by less than the gain that is trusted


@dataclass(frozen=True)
class Expected:
    """Expected mIoU with its interval, fractions of 1; nine of ten disturbed source micrographs lay within it."""

    miou: float
    low: float
    high: float

    def gain_over(self, other: Self) -> float:
        """Gain over another expectation, in logits of the mIoU."""
        return float(_logit(self.miou) - _logit(other.miou))

    def __str__(self) -> str:
        return f"{100 * self.miou:.0f} ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class Calibration:
    """Monotone model: logit(mIoU) = intercept - sum of weight * (standardised criterion), all weights 0 or more.

    The weights are fitted by least squares, and drawn towards the one weight that fits best for all criteria.

    error: what the logit was wrong by, in nine of ten samples that the fit had not seen. mae, spearman: of their mIoU.
    trusted_gain: what four of five gains were overestimated by no more than, in logits. What is expected to gain more
    is taken to gain.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercept: float
    error: float = float("nan")
    mae: float = float("nan")
    spearman: float = float("nan")
    trusted_gain: float = float("inf")

    @classmethod
    def fit(cls, samples: Sequence[dict[str, float]], miou: Sequence[float], groups: Sequence[int]) -> Self:
        """Fit to samples of criteria with their true mIoU.

        Samples of one group are left out together to test it; the first of them is the one that the others are to gain
        over.
        """
        names = tuple(samples[0])
        values = np.array([[sample[name] for name in names] for sample in samples])
        truth, parts = np.asarray(miou), np.asarray(groups) % _PARTS
        found = np.empty(len(truth))
        for part in np.unique(parts):
            out = parts == part
            found[out] = _fit(names, values[~out], truth[~out])._logit(values[out])
        error = float(np.quantile(np.abs(found - _logit(truth)), _LEVEL))
        fitted = _fit(names, values, truth)
        of_test = {"mae": float(np.abs(_share(found) - truth).mean()), "spearman": float(spearmanr(found, truth)[0])}
        gain = _trusted_gain(found, truth, np.asarray(groups))
        return cls(
            names, fitted.mean, fitted.std, fitted.weights, fitted.intercept, error, **of_test, trusted_gain=gain
        )

    def expected(self, criteria: dict[str, float]) -> Expected:
        """Expected mIoU of predictions with these criteria."""
        logit = float(self._logit(np.array([criteria[name] for name in self.names])))
        return Expected(*(float(_share(logit + away)) for away in (0, -self.error, self.error)))

    def _logit(self, values: np.ndarray) -> np.ndarray:
        return self.intercept - np.clip((values - self.mean) / self.std, *_LIMITS) @ self.weights


def _trusted_gain(found: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> float:
    """Gain, in logits, that _TRUSTED of all gains were overestimated by no more than; infinite where none was tried."""
    first = np.array([np.flatnonzero(groups == group)[0] for group in groups])
    others = np.flatnonzero(first != np.arange(len(groups)))
    if not len(others):
        return float("inf")
    expected, real = (values[others] - values[first[others]] for values in (found, _logit(truth)))
    return max(0.0, float(np.quantile(expected - real, _TRUSTED)))


def _fit(names: tuple[str, ...], values: np.ndarray, truth: np.ndarray) -> Calibration:
    mean, std = values.mean(0), values.std(0) + 1e-9
    away, logit = np.clip((values - mean) / std, *_LIMITS), _logit(truth)
    good, centred = away.mean(0) - away, logit - logit.mean()
    together = good.sum(1)
    equal = np.full(len(names), max(0.0, together @ centred / (together @ together + 1e-9)))
    pulled = np.sqrt(_EQUAL) * np.eye(len(names))
    weights = nnls(np.vstack([good, pulled]), np.concatenate([centred, pulled @ equal]))[0]
    return Calibration(names, mean, std, weights, float(logit.mean() + away.mean(0) @ weights))


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0.02, 0.98)
    return np.log(share / (1 - share))


def _share(logit: np.ndarray | float) -> np.ndarray | float:
    return 1 / (1 + np.exp(-logit))
