"""Advice about a gap between source and target, from what is expected with and without remedies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.judge.calibration import Expected
from evaluation.judge.remedies import HALF, Remedy

_AS_GOOD = 0.01  # mIoU: a simpler remedy that is expected to lose no more is as good
ENOUGH = 0.9  # of what the source's own micrographs score: no training is worth its hours
_FAR = 1.5  # ratio of odds f / (1 - f): area fractions that are farther apart are not alike
_NEAR = 0.01  # area: fractions of a rare phase that are no farther apart are alike, whatever their ratio
_LITTLE = 0.25  # of the way from one phase everywhere to the source's score: there is too little to adapt
_NOTHING = 0.1  # of the way from one phase everywhere to 1: a source's model below that has learnt next to nothing
_ABSENT = 0.05  # of the least fraction that a labelled source micrograph has of a phase: it is as good as not found
_UNLEARNT = 0.1  # IoU of a phase on the source


@dataclass(frozen=True)
class Tried:
    """A remedy: its criteria, what they let expect, the phases' area fractions, and some windows with predictions."""

    remedy: Remedy
    criteria: dict[str, float]
    expected: Expected
    fractions: list[float]
    pictures: list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Advice:
    """Kind is 'as it is', 'remedy', 'adapt', 'label' or 'train'; what is recommended; and a sentence for a person."""

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
    labelled: np.ndarray,
    trusted: Callable[[Remedy], float] = lambda remedy: 0.0,
    inverted: bool = False,
) -> Advice:
    """Choose the simplest remedy that is as good as the best, and say whether it is enough.

    source_miou: of held-out source micrographs; floor: of one phase everywhere. Both fractions of 1. labelled: of the
    source's phases, as Judge.fractions; a remedy that aligns contradicts itself with others. trusted: what
    a remedy has to be expected to gain over the model as it is, and the other polarity over all that keeps it, as of
    Calibration; what gains less is left. inverted: if the store already is.
    """
    before = as_it_is(tried)
    least = (floor + source_miou) / 2 if absent(before.fractions, labelled) else 0.0
    kept = max((each for each in tried if not each.remedy.invert), key=lambda each: each.expected.miou)
    taken = [before]
    for each in tried:
        # In the wrong polarity phases may change places, and look as plausible: it has to gain over all in the right,
        # those that contradict themselves too: else drawn t2, whose polarity is right, would be turned.
        safer = kept if each.remedy.invert else before
        contradicted = implausible(each.remedy, each.fractions, each.expected, labelled, least)
        gains = each is not before and each.expected.surely_over(safer.expected, trusted(each.remedy))
        if gains and not contradicted:
            taken.append(each)
    best = max(each.expected.miou for each in taken)
    good = [each for each in taken if each.expected.miou >= best - _AS_GOOD]
    chosen = min(good, key=lambda each: (each.remedy.changes, -each.expected.miou))
    if source_miou < floor + _NOTHING * (1 - floor):
        return Advice(
            "train", before,
            f"the model of {source} has learnt next to nothing: on held-out micrographs of {source} itself it has a "
            f"mIoU of {100 * source_miou:.0f} %, and one phase everywhere has {100 * floor:.0f} %. Compare images and "
            f"masks of {source}, and train it longer. Nothing can be said of {target} by it.",
        )  # fmt: skip
    known = f"expected mIoU {chosen.expected}, the source's own is {100 * source_miou:.0f}"
    if absent(chosen.fractions, labelled):
        return Advice(
            "label", chosen,
            f"on {target} the model of {source} finds next to nothing of a phase that all labelled micrographs of "
            f"{source} have. Either there is none, or the model does not see it; nobody can tell without a label. "
            f"Compare the pictures, and label five micrographs of {target}.",
        )  # fmt: skip
    if chosen.expected.miou < floor + _LITTLE * (source_miou - floor):
        return Advice(
            "label", chosen,
            f"on {target} the model of {source} is hardly better than one phase everywhere: {known}, and no remedy "
            f"helps enough. Check scale and polarity in the pictures. Adaptation may help all the same: look at what "
            f"it finds, and label five micrographs of {target}.",
        )  # fmt: skip
    enough = chosen.expected.miou >= ENOUGH * source_miou
    if chosen is before:
        if enough:
            return Advice("as it is", chosen, f"use the model on {target} as it is: {known}.")
        surely = "" if len(taken) == len(tried) else " surely"
        return Advice("adapt", chosen, f"no remedy{surely} helps on {target}: {known}. Adaptation is worth its hours.")
    gain = f"expected mIoU {100 * before.expected.miou:.0f} -> {chosen.expected}, the source's own is"
    sentence = f"{_asked(chosen.remedy, target, source, inverted)}: {gain} {100 * source_miou:.0f}."
    if enough:
        return Advice("remedy", chosen, sentence)
    then = "Adaptation from there" if chosen.remedy.invert or chosen.remedy.match == 1 else "Adaptation"
    then = "Correct that first; then adaptation" if chosen.remedy.scale != 1 else then
    return Advice("adapt", chosen, f"{sentence} {then} is worth its hours.")


def remarks(
    tried: Sequence[Tried],
    advice: Advice,
    labelled: np.ndarray,
    classes: Sequence[str],
    source_iou: Sequence[float] = (),
) -> list[str]:
    """List in sentences what a person should check. labelled: of the source's phases, as Judge.fractions.

    source_iou: of each phase on held-out source micrographs.
    """
    found, best, chosen = [], tried[0], advice.recommended
    found += [
        f"The source's model has not learnt {name}: its IoU is {100 * iou:.0f} % on held-out micrographs of the source."
        for name, iou in zip(classes, source_iou, strict=False)
        if iou < _UNLEARNT
    ]
    better = best.expected.miou > chosen.expected.miou + _AS_GOOD
    if better and best.remedy.scale not in (1, chosen.remedy.scale):
        known = f"expected mIoU {best.expected} against {chosen.expected}"
        found.append(f"Not sure, but {scale_asked(best.remedy.scale)}: {known}.")
    aligned = chosen.fractions if chosen.remedy.moves else None
    found += absent_remarks(as_it_is(tried).fractions, aligned, labelled, classes)
    return found + unlike_remarks(chosen.fractions, labelled, classes)


def unlike(fractions: Sequence[float], labelled: np.ndarray) -> list[int]:
    """Phases, but the first, whose area fraction is far from all that the source's labelled micrographs have.

    Its odds f / (1 - f) are half as much again as the most of them, or the least are so beside it. Windows show too
    little of a rare phase for that alone, so it is to differ by a hundredth of the area too.
    """

    def more(one: float, other: float) -> bool:
        return one - other > _NEAR and one * (1 - other) > _FAR * other * (1 - one)

    ranges = list(enumerate(zip(fractions, labelled, strict=True)))[1:]
    return [phase for phase, (found, (least, most)) in ranges if more(found, most) or more(least, found)]


class Moving(Protocol):
    """Remedy, or candidate of the choice: if it moves the target's distribution to the source's, and all of the way."""

    @property
    def moves(self) -> bool: ...

    @property
    def aligns(self) -> bool: ...


def implausible(
    what: Moving, fractions: Sequence[float], expected: Expected, labelled: np.ndarray, least: float
) -> bool:
    """Tell if something that assumes fractions like the source's contradicts itself, or has too little to show.

    least: mIoU that it is to be expected to have. Where the model as it is finds nothing of a phase, it is halfway from
    one phase everywhere to the source's score: in a target without that phase, such a thing finds it all the same.
    """
    return (what.aligns and bool(unlike(fractions, labelled))) or (what.moves and expected.miou < least)


def absent(fractions: Sequence[float], labelled: np.ndarray) -> list[int]:
    """Phases that are as good as not found, although every labelled micrograph of the source has them."""
    return [phase for phase, (least, _) in enumerate(labelled) if fractions[phase] < _ABSENT * least]


def absent_remarks(
    before: Sequence[float], aligned: Sequence[float] | None, labelled: np.ndarray, classes: Sequence[str]
) -> list[str]:
    """Say which phase the model as it is does not find, and what assumes like fractions does; a sentence, or none.

    before, aligned: what either finds of each phase; aligned is None where nothing that is taken assumes that.
    """
    for phase in absent(before, labelled)[:1] if aligned is not None else ():
        return [
            f"As it is, the model finds {100 * before[phase]:.2g} % of {classes[phase]}. What is taken finds "
            f"{100 * aligned[phase]:.0f} %, and it assumes fractions like the source's. If the target has no "
            f"{classes[phase]}, the model as it is is the right one. Compare the pictures."
        ]
    return []


def unlike_remarks(fractions: Sequence[float], labelled: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Say which phase is not as in the source, and what that may mean: in a sentence for a person, or none."""
    for phase in unlike(fractions, labelled)[:1]:  # what one phase has too much of, others have too little of
        found, least, most = map(_percent, (fractions[phase], *labelled[phase]))
        return [
            f"The model finds {found} % of {classes[phase]}, and the source's labels have {least} "
            f"to {most} % in a micrograph. If the target is so, adaptation may do harm: it assumes like fractions. If "
            "not, the model is wrong. Compare pictures, and label five images."
        ]
    return []


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f}" if fraction >= 0.01 else f"{100 * fraction:.1g}"


def scale_asked(scale: float) -> str:
    """Say what a scale that looks better means. scale: what a micrograph had to be resized by."""
    how = f"{max(scale, 1 / scale):.3g} times too {'small' if scale > 1 else 'large'}"
    return f"the target's structures look {how}: check pixel_size_nm, {scale:g} times its value would fit"


def _asked(remedy: Remedy, target: str, source: str, inverted: bool) -> str:
    """Say what a person is asked to do for a remedy."""
    keys = [f"`invert = {'false' if inverted else 'true'}`"] * remedy.invert
    keys += [f'`match = "{source}"`'] * (remedy.match == 1)
    asked = [f"set {' and '.join(keys)} for {target}"] if keys else []
    if remedy.scale != 1:
        asked.append(scale_asked(remedy.scale))
    halved = ["grey levels"] * (remedy.match == HALF) + ["batch-norm statistics"] * (remedy.adabn == HALF)
    if halved:
        what = " and ".join(halved)
        asked.append(f"take {what} halfway between {source} and {target} (the checkpoints beside this report do)")
    if remedy.adabn == 1:
        asked.append(f"take batch-norm statistics of {target} (the checkpoints beside this report have them)")
    return "; ".join(asked)
