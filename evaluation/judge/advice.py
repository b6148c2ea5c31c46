"""Advice about a gap between source and target, from what is expected with and without remedies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.judge.calibration import Expected
from evaluation.judge.remedies import Remedy

_AS_GOOD = 0.02  # mIoU: a simpler remedy that is expected to lose no more is as good
ENOUGH = 0.9  # of what the source's own micrographs score: no training is worth its hours
_LITTLE = 0.25  # of the way from one phase everywhere to the source's score: there is too little to adapt


@dataclass(frozen=True)
class Tried:
    """A remedy with what is expected of it, the criteria behind that, and some windows with their predictions."""

    remedy: Remedy
    criteria: dict[str, float]
    expected: Expected
    pictures: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Advice:
    """Kind is 'as it is', 'remedy', 'adapt' or 'label'; what is recommended; and a sentence for a person."""

    kind: str
    recommended: Tried
    sentence: str


def as_it_is(tried: Sequence[Tried]) -> Tried:
    """Find what is expected without a remedy."""
    return next(each for each in tried if each.remedy == Remedy())


def advise(
    tried: Sequence[Tried],
    target: str,
    source: str,
    source_miou: float,
    floor: float,
    trusted_gain: float = 0.0,
    trusted_turn: float = 0.0,
    inverted: bool = False,
) -> Advice:
    """Choose the simplest remedy that is as good as the best, and say whether it is enough.

    source_miou: of held-out source micrographs; floor: of one phase everywhere. Both fractions of 1. trusted_gain: what
    a remedy has to be expected to gain over the model as it is; what gains less is left. trusted_turn: what the other
    polarity has to gain over all that keeps it. Both as of Calibration. inverted: if the store already is.
    """
    before = as_it_is(tried)
    kept = max((each for each in tried if not each.remedy.invert), key=lambda each: each.expected.miou)
    # In the wrong polarity phases may change places, and look as plausible: it has to gain over all in the right one.
    over = {False: (before, trusted_gain), True: (kept, trusted_turn)}
    trusted = [before]
    for each in tried:
        safer, gain = over[each.remedy.invert]
        if each is not before and each.expected.gain_over(safer.expected) >= gain:
            trusted.append(each)
    best = max(each.expected.miou for each in trusted)
    good = [each for each in trusted if each.expected.miou >= best - _AS_GOOD]
    chosen = min(good, key=lambda each: (each.remedy.changes, -each.expected.miou))
    known = f"expected mIoU {chosen.expected}, the source's own is {100 * source_miou:.0f}"
    if chosen.expected.miou < floor + _LITTLE * (source_miou - floor):
        return Advice(
            "label", chosen,
            f"{source} and {target} share too little: {known}, and no remedy helps enough. Check scale and "
            f"polarity in the pictures; if these are right, label five micrographs of {target}.",
        )  # fmt: skip
    enough = chosen.expected.miou >= ENOUGH * source_miou
    if chosen is before:
        if enough:
            return Advice("as it is", chosen, f"use the model on {target} as it is: {known}.")
        surely = "" if len(trusted) == len(tried) else " surely"
        return Advice("adapt", chosen, f"no remedy{surely} helps on {target}: {known}. Adaptation is worth its hours.")
    gain = f"expected mIoU {100 * before.expected.miou:.0f} -> {chosen.expected}, the source's own is"
    sentence = f"{_asked(chosen.remedy, target, source, inverted)}: {gain} {100 * source_miou:.0f}."
    if enough:
        return Advice("remedy", chosen, sentence)
    return Advice("adapt", chosen, f"{sentence} Adaptation from there is worth its hours.")


def _asked(remedy: Remedy, target: str, source: str, inverted: bool) -> str:
    """Say what a person is asked to do for a remedy."""
    keys = [f"`invert = {'false' if inverted else 'true'}`"] * remedy.invert + [f'`match = "{source}"`'] * remedy.match
    asked = [f"set {' and '.join(keys)} for {target}"] if keys else []
    if remedy.scale != 1:
        asked.append(f"its scale looks wrong by {max(remedy.scale, 1 / remedy.scale):.3g}: check pixel_size_nm")
    if remedy.adabn:
        asked.append(f"take batch-norm statistics of {target} (the checkpoints beside this report have them)")
    return "; ".join(asked)
