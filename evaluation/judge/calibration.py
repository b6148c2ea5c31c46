"""From criteria to the mIoU that they let expect, learnt where the truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr, theilslopes

from evaluation.judge.criteria import VOTE
from evaluation.judge.remedies import Remedy

_LIMITS = (-3.0, 4.0)  # standard deviations of the samples; a criterion does not count for more
_EQUAL = 100  # samples that equal weights count as: of a hundred real ones a criterion may look useless by chance
_PARTS = 8  # of the cross-validation
_LEVEL = 0.9  # share of the samples that the interval holds
_SHARE = 0.8  # of trials, and of micrographs, that a gain is trusted by
_NO_LOSS = 0.05  # logits: a point of mIoU in the middle
_LEAST = 0.1  # logits: a smaller gain is not trusted
_FEW = 4  # gains, and fewer have no share
_BEYOND = 0.5  # of the range of the votes that were tried: as far below it a vote adds nothing to what one has alone
_OF_ERROR = 1 / 3  # of what nine of ten expectations were not wrong by: a smaller gain is not trusted


@dataclass(frozen=True)
class Expected:
    """Expected mIoU with its interval, fractions of 1; nine of ten disturbed source micrographs lay within it.

    by_micrograph: what is expected of each micrograph by itself, where that is known.
    """

    miou: float
    low: float
    high: float
    by_micrograph: tuple[float, ...] = ()

    def gain_over(self, other: Self) -> float:
        """Gain over another expectation, in logits of the mIoU."""
        return float(_logit(self.miou) - _logit(other.miou))

    def surely_over(self, other: Self, least: float) -> bool:
        """True where the gain is `least` or more, and is one on four of five micrographs.

        What helps one micrograph and harms others may do harm on those to come: a target may be several conditions.
        """
        pairs = zip(self.by_micrograph, other.by_micrograph, strict=True)
        gains = [mine > theirs for mine, theirs in pairs if np.isfinite(mine) and np.isfinite(theirs)]
        return self.gain_over(other) >= least and (not gains or float(np.mean(gains)) >= _SHARE)

    @classmethod
    def middle(cls, several: Sequence[Self]) -> Self:
        """Give the expectation in the middle of several, the mean of their logits."""
        by_micrograph = zip(*(one.by_micrograph for one in several), strict=True)
        ends = ([getattr(one, name) for one in several] for name in ("miou", "low", "high"))
        return cls(*map(_middle, ends), tuple(map(_middle, by_micrograph)))

    def numbers(self) -> dict[str, float | list[float]]:
        """Give its values for a JSON file; of a micrograph where nothing is known, None."""
        single = [round(miou, 4) if np.isfinite(miou) else None for miou in self.by_micrograph]
        found = {name: round(value, 4) for name, value in vars(self).items() if name != "by_micrograph"}
        return found | {"by_micrograph": single}

    def __str__(self) -> str:
        return f"{100 * self.miou:.0f} ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class Alone:
    """Monotone model of one prediction: logit(mIoU) = intercept - sum of weight * (standardised criterion).

    The weights are 0 or more, fitted by least squares, and drawn towards the one weight that fits best for all.
    """

    names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, samples: Sequence[dict[str, float]], miou: Sequence[float]) -> Self:
        """Fit to the criteria of predictions with their true mIoU. The vote is none of these criteria."""
        names = tuple(name for name in samples[0] if name != VOTE)
        values = np.array([[sample[name] for name in names] for sample in samples])
        mean, std = values.mean(0), values.std(0) + 1e-9
        away, logit = np.clip((values - mean) / std, *_LIMITS), _logit(np.asarray(miou))
        good, centred = away.mean(0) - away, logit - logit.mean()
        together = good.sum(1)
        equal = np.full(len(names), max(0.0, together @ centred / (together @ together + 1e-9)))
        pulled = np.sqrt(_EQUAL) * np.eye(len(names))
        weights = nnls(np.vstack([good, pulled]), np.concatenate([centred, pulled @ equal]))[0]
        return cls(names, mean, std, weights, float(logit.mean() + away.mean(0) @ weights))

    def logit(self, criteria: dict[str, float]) -> float:
        """Logit of the mIoU that a prediction with these criteria lets expect."""
        values = np.array([criteria[name] for name in self.names])
        return float(self.intercept - np.clip((values - self.mean) / self.std, *_LIMITS) @ self.weights)

    def weight(self, criteria: dict[str, float]) -> float:
        """Weight of such a prediction in the vote of several: the odds of its mIoU."""
        return float(np.exp(self.logit(criteria)))


@dataclass(frozen=True)
class Calibration:
    """Model of predictions that have voted: mIoU = quality of the vote * (agreement with it) ** power.

    alone: of each prediction by itself, which gives the weights in the vote. quality: intercept and slope of the logit
    of the vote's mIoU, over the weighted mean of the voters' logits. seen: least and greatest of these means. share: of
    this in the expected logit; the rest is what each lets expect alone. error: what the logit was wrong by, in nine of
    ten samples that the fit had not seen. mae, spearman: of their mIoU. trusted_gain: least gain over a model as it is
    that is trusted, in logits, a third of the error or more; trusted_turn: that of another polarity over the best that
    keeps it.
    """

    alone: Alone
    power: float
    quality: tuple[float, float]
    seen: tuple[float, float]
    share: float = 1.0
    error: float = float("nan")
    mae: float = float("nan")
    spearman: float = float("nan")
    trusted_gain: float = float("inf")
    trusted_turn: float = float("inf")

    @classmethod
    def fit(
        cls,
        samples: Sequence[dict[str, float]],
        miou: Sequence[float],
        groups: Sequence[int],
        turned: Sequence[bool],
        share: float = 1.0,
    ) -> Self:
        """Fit to samples of criteria, the vote among them, with their true mIoU.

        Samples of one group have voted together. They are left out together to test it; the first of them is the one
        that the others are to gain over. turned: if a sample is of the other polarity.
        """
        truth, groups = np.asarray(miou), np.asarray(groups)
        votes = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        found = np.empty(len(truth))
        for part in range(min(_PARTS, len(votes))):
            learnt = np.concatenate([vote for k, vote in enumerate(votes) if k % _PARTS != part] or votes)
            of_others = replace(_fit([samples[k] for k in learnt], truth[learnt], groups[learnt]), share=share)
            for vote in votes[part::_PARTS]:
                found[vote] = of_others._logits([samples[k] for k in vote])
        both = np.array([found, _logit(truth)])
        gains, turns = [], []
        for vote in votes:
            kept = [k for k in vote if not turned[k]]
            gains.append(both[:, kept[1:]] - both[:, kept[:1]])
            best = kept[int(np.argmax(found[kept]))]
            turns.append(both[:, [k for k in vote if turned[k]]] - both[:, [best]])
        gains, turns = (np.concatenate(of, axis=1) for of in (gains, turns))
        error = float(np.quantile(np.abs(found - _logit(truth)), _LEVEL))
        # A target is farther away than the trials are from each other, so what these tell apart it need not.
        least = max(_LEAST, _OF_ERROR * error)
        return replace(
            _fit(samples, truth, groups),
            share=share,
            error=error,
            mae=float(np.abs(_share(found) - truth).mean()),
            spearman=float(spearmanr(found, truth)[0]),
            trusted_gain=max(least, _trusted(*gains)),
            trusted_turn=max(least, _trusted(*turns)),
        )

    def trusted(self, remedy: Remedy, adapted: bool = False) -> float:
        """Least gain that is trusted, in logits, of a remedy or a model that was adapted to the target.

        No trial has tried a scale, or phase fractions other than the source's, as adaptations and some remedies assume
        them. Then the gain is to be beyond what the expectation may be wrong by. What goes half of the way has little
        to lose, so it is to gain at all.
        """
        if remedy.is_halfway and not adapted:
            return 0.0
        least = self.trusted_turn if remedy.invert else self.trusted_gain
        return max(least, self.error) if adapted or remedy.aligns or remedy.scale != 1 else least

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the criteria by name; that of the vote is its power."""
        return dict(zip(self.alone.names, self.alone.weights.tolist(), strict=True)) | {VOTE: self.power}

    def expected(
        self,
        voters: Sequence[dict[str, float]],
        voices: Sequence[float] | None = None,
        single: Sequence[Sequence[dict[str, float]]] = (),
    ) -> list[Expected]:
        """Expected mIoU of predictions that have voted together, by their criteria, the vote among them.

        voices: factors that their weights in the vote had; all 1 by default. single: the same voters' criteria by
        micrograph.
        """
        by_micrograph = [_share(self._logits(of_one, voices)) for of_one in single]
        return [
            Expected(
                *(float(_share(logit + away)) for away in (0, -self.error, self.error)),
                tuple(float(of_one[voter]) for of_one in by_micrograph),
            )
            for voter, logit in enumerate(self._logits(voters, voices))
        ]

    def _logits(self, voters: Sequence[dict[str, float]], voices: Sequence[float] | None = None) -> np.ndarray:
        vote, (least, most) = _of_vote(self.alone, voters, voices), self.seen
        voted = _logit(_share(self.quality[0] + self.quality[1] * vote) * np.exp(self.power * _agreement(voters)))
        alone = np.array([self.alone.logit(voter) for voter in voters])
        # Voters that see nothing agree too. Of a vote that is worse than all that were tried, no trial tells the worth.
        beyond = np.clip((least - vote) / (_BEYOND * (most - least) + 1e-9), 0, 1)
        voted += beyond * np.minimum(alone - voted, 0)
        return self.share * voted + (1 - self.share) * alone


def _fit(samples: Sequence[dict[str, float]], truth: np.ndarray, groups: np.ndarray) -> Calibration:
    alone, votes = Alone.fit(samples, truth), [np.flatnonzero(groups == group) for group in np.unique(groups)]
    agreed = [_agreement([samples[k] for k in vote]) for vote in votes]
    real = [np.log(np.clip(truth[vote], 0.02, 1)) for vote in votes]
    along, up = (np.concatenate([each - each.mean() for each in of]) for of in (agreed, real))
    power = float(np.clip(along @ up / (along @ along + 1e-9), 0, 1))
    expected, quality = [], []
    for vote, agreement, log_miou in zip(votes, agreed, real, strict=True):
        voters = [samples[k] for k in vote]
        weights = [alone.weight(voter) for voter in voters]
        expected.append(_of_vote(alone, voters))
        quality.append(_logit(np.exp(np.average(log_miou - power * agreement, weights=weights))))
    # Medians: where all voters were wrong alike, the vote says nothing of what it is worth elsewhere.
    slope = max(0.0, float(theilslopes(quality, expected)[0])) if len(set(expected)) > 1 else 0.0
    line = float(np.median(np.array(quality) - slope * np.array(expected))), slope
    return Calibration(alone, power, line, (min(expected), max(expected)))


def _of_vote(alone: Alone, voters: Sequence[dict[str, float]], voices: Sequence[float] | None = None) -> float:
    """Mean of what voters let expect alone, as logit, by their weight in the vote."""
    weights = np.array([alone.weight(voter) for voter in voters]) * (1 if voices is None else np.asarray(voices))
    return float(np.average([alone.logit(voter) for voter in voters], weights=weights))


def _agreement(voters: Sequence[dict[str, float]]) -> np.ndarray:
    """Logarithms of the mIoU between predictions and the vote."""
    return np.log(np.clip([1 - voter[VOTE] for voter in voters], 0.02, 1))


def _trusted(expected: np.ndarray, real: np.ndarray) -> float:
    """Least gain, in logits, that is trusted, by either of two shares of the trials; infinite where nothing was tried.

    _SHARE of the gains that were expected to be at least as large were gains; or _SHARE of all were overestimated by no
    more. The first is blind where gains are rare, as with polarity; the second where most trials are hopeless.
    """
    if not len(expected):
        return float("inf")
    order, count = np.argsort(-expected), np.arange(1, len(expected) + 1)
    largest, gained = expected[order], real[order] > -_NO_LOSS
    good = np.flatnonzero((largest > 0) & (np.cumsum(gained) >= _SHARE * count) & (count >= _FEW))
    of_gains = largest[good[-1]] if len(good) else np.inf
    return float(min(of_gains, np.quantile(expected - real, _SHARE)))


def _middle(several: Sequence[float]) -> float:
    return float(_share(np.mean(_logit(np.array(several)))))


def _logit(share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0.02, 0.98)
    return np.log(share / (1 - share))


def _share(logit: np.ndarray | float) -> np.ndarray | float:
    return 1 / (1 + np.exp(-logit))
