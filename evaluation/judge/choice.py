"""The choice among trained models for an unlabelled target: the source's model, until another is surely better.

Where it cannot tell adaptations from a safer model, or from each other, they vote.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import models
from common.errors import InputError
from data.store import Store
from evaluation.judge.advice import absent, absent_remarks, implausible, unlike, unlike_remarks
from evaluation.judge.calibration import Calibration, Expected
from evaluation.judge.judge import WINDOWS, Judge
from evaluation.judge.remedies import Remedy, remedies
from evaluation.members import Member, by_fold
from evaluation.scoring import spread
from training.configuration import digest_of

_VOTE = 0.5  # share of the vote: models of the source outvote one that has learnt what they do not know
_AS_GOOD = 0.01  # a safer candidate that is expected to lose no more is as good
_ADAPTED = 2  # adaptations that vote: the launcher has as many, and each of their models segments every image


@dataclass(frozen=True)
class Candidate:
    """Models of one kind, such as the folds of an experiment, which segment as an ensemble."""

    name: str
    members: tuple[Member, ...]
    foreign: bool = False  # of another source than the others are measured against, such as a translated one

    @property
    def remedy(self) -> Remedy:
        """Remedy that its checkpoints carry; none for a run."""
        return self.members[0].remedy

    @property
    def is_generalization(self) -> bool:
        """True for a model of the source as it is."""
        return not self.is_adapted and self.remedy == Remedy()

    @property
    def is_adapted(self) -> bool:
        """True for a model that was trained on a target too, or for one, on a source that is drawn like it."""
        return self.foreign or bool(self.members[0].config.get("target"))

    @property
    def aligns(self) -> bool:
        """True where it has learnt, or is shown, the target as if its phase fractions were like the source's."""
        return self.is_adapted or self.remedy.aligns

    @property
    def moves(self) -> bool:
        """True where it has learnt, or is shown, the target as if it were more like the source than it is."""
        return self.is_adapted or self.remedy.moves

    def votes_with(self, other: "Candidate") -> bool:
        """True for an adaptation to the target that can vote with another candidate, which is not of its training.

        The models of both are of the same folds, so that their shares are equal; they see the same polarity; and
        they know how these were taken, which a model of a translated source does not.
        """
        folds = (sorted(str(member.config.get("fold")) for member in one.members) for one in (self, other))
        of_target = self.is_adapted and not self.foreign and not other.foreign and self.origin != other.origin
        return of_target and self.remedy.votes_with(other.remedy) and len(set(map(tuple, folds))) == 1

    def of_same_models(self, other: "Candidate") -> bool:
        """True where both are the same models of the source, under whichever remedy."""
        mine, theirs = ([(member.config, member.step) for member in one.members] for one in (self, other))
        return not self.is_adapted and mine == theirs

    @property
    def risk(self) -> tuple[int, int, int]:
        """Order from safe to bold: source model, with a remedy, adapted; then the later checkpoint."""
        return self.is_adapted, self.remedy.changes, -self.members[0].step

    @property
    def origin(self) -> tuple[Path, Remedy]:
        """Training that it is a checkpoint of, and its remedy: what is of one origin errs alike."""
        return self.members[0].run, self.remedy

    @property
    def paths(self) -> list[str]:
        """Files or folders that evaluate.py takes; a teacher's with --network teacher."""
        return [str(m.run if m.label == "last" else m.run / f"{m.label}.pt") for m in self.members]


@dataclass(frozen=True)
class Ranked:
    """A candidate: its criteria, what they let expect, the phases' area fractions, and windows with its predictions.

    parts: the candidates that vote, adaptations first, where this entry is their vote. Criteria and pictures are in
    their own entries.
    """

    candidate: Candidate
    criteria: dict[str, float]
    expected: Expected
    fractions: list[float]
    pictures: list[tuple[np.ndarray, np.ndarray]]
    parts: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The candidates, best first, the one that is chosen, why, and what to check. safe: the source's model as it is."""

    target: str
    classes: tuple[str, ...]
    ranked: list[Ranked]
    chosen: Ranked
    safe: Ranked
    sentence: str
    remarks: list[str]

    def as_json(self, paths: Sequence[Path | str]) -> str:
        """Give the content of choice.json. paths: checkpoints or runs of what is chosen, as its folder sees them."""
        ranked = [
            {
                "name": one.candidate.name,
                "runs": one.candidate.paths,
                "adapted": one.candidate.is_adapted,
                "parts": [part.name for part in one.parts],
                "remedy": str(one.candidate.remedy),
                "expected": one.expected.numbers(),
                "criteria": {name: round(value, 4) for name, value in one.criteria.items()},
                "fractions": [round(fraction, 4) for fraction in one.fractions],
            }
            for one in self.ranked
        ]
        chosen = {"chosen": self.chosen.candidate.name, "runs": [str(path) for path in paths]}
        chosen["vote"] = bool(self.chosen.parts)
        said = {"sentence": self.sentence, "remarks": self.remarks}
        return json.dumps({"target": self.target, **chosen, **said, "ranked": ranked}, indent=2) + "\n"


def grouped(members: Sequence[Member]) -> list[Candidate]:
    """Candidates of members: those that differ in fold only are one, in the order of the folds."""
    groups: dict[tuple, list[Member]] = {}
    for member in by_fold(members):
        of_run = (member.run / "config.json").is_file()
        label = member.label if member.network == "model" else member.network
        key = (member.run.parent, label) if of_run else (member.run, "")
        facts = (member.config.get(name) for name in ("experiment", "target", "seed"))
        groups.setdefault((*facts, digest_of(member.config), member.remedy, *key), []).append(member)
    found, places = [], Counter(key[-2:] for key in groups)
    for (*_, folder, label), group in groups.items():
        alike = places[folder, label] > 1  # as trainings of one folder that differ in more than the fold
        runs = ", ".join(one.run.name for one in group[1:])
        name = str(group[0].run) if len(group) == 1 else f"{group[0].run}, {runs}" if alike else str(folder)
        name += f", {label}" if label not in ("", "last") else ""
        name += f", {group[0].remedy}" if group[0].remedy != Remedy() else ""
        found.append(Candidate(name, tuple(group)))
    return found


def choose(judge: Judge, candidates: Sequence[Candidate], target: Store) -> Choice:
    """Rank candidates for a target, whose store is opened without labels. InputError without generalization."""
    images = spread(judge.images_of(target), WINDOWS)
    looks = []
    for candidate in candidates:
        for member in candidate.members:
            models.set_domain(member.model, "target" if member.config.get("target") == target.domain else "source")
        networks = [member.model.eval() for member in candidate.members]
        looks.append(judge.look(images, candidate.remedy.shown, networks=networks))  # it has its statistics already
    matched = target.metadata["parameters"].get("match") == judge.source.domain
    free = {candidate.remedy for candidate in candidates if not candidate.is_adapted}
    scales, voters = {remedy.scale for remedy in free} - {1.0}, remedies(judge.adabn, matched)
    voters += [replace(one, scale=scale) for scale in sorted(scales) for one in voters if not one.invert]
    remedied = [judge.look(images, remedy) for remedy in voters if remedy not in free]  # only to vote
    runs = Counter(candidate.origin for candidate in candidates)
    # Adaptations of one source model err alike, so all of them have one voice: more of them would not be more to trust.
    adapted = len({candidate.origin for candidate in candidates if candidate.is_adapted})
    of = [runs[candidate.origin] * (adapted if candidate.is_adapted else 1) for candidate in candidates]
    voices = [1 / number for number in of] + [1.0] * len(remedied)
    expected, calibration = judge.expected(looks + remedied, voices, _VOTE)
    ranked = [
        Ranked(candidate, *of_look, look.fractions(judge.phases), look.pictures())
        for candidate, of_look, look in zip(candidates, expected, looks, strict=False)
    ]
    ranked.sort(key=lambda one: -one.expected.miou)
    general = [one for one in ranked if one.candidate.is_generalization]
    if not general:
        raise InputError("no source-trained run is among the candidates, which the choice must not fall behind; add it")
    safe = _ends(general)[0]
    model = f"the source's model {_as_prepared(target)}"
    chosen, sentence = _decide(ranked, safe, judge, calibration, model)
    if chosen.parts:
        ranked = sorted([*ranked, chosen], key=lambda one: -one.expected.miou)
    by_name = {one.candidate.name: one for one in ranked}
    segmenting = [by_name[part.name] for part in chosen.parts] or [chosen]  # of a vote the safer one last
    aligned = chosen.fractions if segmenting[0].candidate.moves else None
    said = absent_remarks(safe.fractions, aligned, judge.fractions, target.classes)
    found = [remark for one in segmenting for remark in unlike_remarks(one.fractions, judge.fractions, target.classes)]
    said += found[-1:]  # the safer one's, of a vote
    said += _apart(segmenting, target.classes)
    return Choice(target.domain, target.classes, ranked, chosen, safe, sentence, said)


def _decide(
    ranked: Sequence[Ranked], safe: Ranked, judge: Judge, calibration: Calibration, model: str
) -> tuple[Ranked, str]:
    """Choose among the ranked, and say why. safe: the source's model, which is called `model` in the sentence.

    Where an adaptation may be better or worse than what is safer, they vote: their mean loses less than the worse of
    them, and gains most of what the better one does. So do adaptations of which either may be the better one. In a vote
    halfway stands for the source's model: it loses little, and is more often the better one.

    What assumes phase fractions like the source's is wrong on a target that has others, and no trial has tried one. So
    it is taken alone only where its gain is beyond what the expectation may be wrong by. Where the safer one finds
    other fractions, an adaptation votes if it is expected to gain at all: the one may find too little where the other
    finds too much.
    """
    labelled = judge.fractions
    least = (judge.floor + judge.source_miou) / 2 if absent(safe.fractions, labelled) else 0.0
    plausible = [
        one for one in ranked
        if one is not safe
        and not implausible(one.candidate, one.fractions, one.expected, labelled, least)
    ]  # fmt: skip

    def trusted(one: Ranked) -> float:
        return calibration.trusted(one.candidate.remedy, adapted=one.candidate.is_adapted)

    def over(other: Ranked, one: Ranked) -> bool:
        return one.expected.surely_over(other.expected, trusted(one))

    better = [one for one in plausible if over(safe, one)]
    safer = _best([safe, *(one for one in better if not one.candidate.is_adapted)])
    alone = [
        one for one in better
        if one.candidate.is_adapted and (over(safer, one) or not one.candidate.votes_with(safer.candidate))
    ]  # fmt: skip
    chosen = _best([safer, *alone])
    voters, loss, most = plausible, calibration.trusted_gain, _ADAPTED
    if chosen.candidate.is_adapted:
        voters, most = alone, _ADAPTED - 1
    elif unlike(chosen.fractions, labelled):  # two adaptations, which err alike, would outvote it
        seen = (one for one in ranked if not absent(one.fractions, labelled))
        voters, loss, most = [one for one in seen if one.expected.miou >= least], 0.0, 1
    ends = [id(one) for one in _ends([one for one in ranked if one.candidate.is_adapted])]
    close = [
        one for one in voters
        if id(one) in ends and (chosen is safer or id(chosen) in ends) and one.candidate.votes_with(chosen.candidate)
        and one.expected.gain_over(chosen.expected) > -loss
    ]  # fmt: skip
    if close:
        voting = [chosen, *_of_each_training(close)[:most]]
        if chosen is safe:
            halfway = [
                one for one in plausible
                if one.candidate.remedy.is_halfway and one.candidate.of_same_models(safe.candidate)
                and one.expected.gain_over(safe.expected) > -loss
                and all(other.candidate.votes_with(one.candidate) for other in voting[1:])
            ]  # fmt: skip
            voting[:1] = halfway[:1] or [safe]
        return _together(voting), _vote(voting, safe, model)
    if chosen is safe and ranked[0].expected.miou > safe.expected.miou + _AS_GOOD:
        return safe, _undecided(ranked[0], safe, model)
    return chosen, _decided(chosen, safe, model)


def _ends(some: Sequence[Ranked]) -> list[Ranked]:
    """Leave the last checkpoint of each training: what it kept on its way has to gain as others do."""
    last: dict[tuple[Path, Remedy], int] = {}
    for one in some:
        origin, step = one.candidate.origin, one.candidate.members[0].step
        last[origin] = max(step, last.get(origin, 0))
    return [one for one in some if one.candidate.members[0].step == last[one.candidate.origin]]


def _best(some: Sequence[Ranked]) -> Ranked:
    """Find the safest of those that are as good as the best of some."""
    best = max(one.expected.miou for one in some)
    good = [one for one in some if one.expected.miou >= best - _AS_GOOD]
    return min(good, key=lambda one: (one.candidate.risk, -one.expected.miou))


def _of_each_training(some: Sequence[Ranked]) -> list[Ranked]:
    """Leave the best network of each training, of the model and its teacher one; the best of them first."""
    best: dict[tuple[Path, Remedy], Ranked] = {}
    for one in sorted(some, key=lambda one: -one.expected.miou):
        best.setdefault(one.candidate.origin, one)
    return list(best.values())


def _together(voting: Sequence[Ranked]) -> Ranked:
    """Let candidates vote, by the mean of their models' probabilities. voting: the safer one first.

    What is expected, and the fractions, are in the middle of theirs.
    """
    parts = tuple(one.candidate for one in (*voting[1:], voting[0]))
    candidate = Candidate(" and ".join(one.candidate.name for one in voting), sum((part.members for part in parts), ()))
    fractions = np.mean([one.fractions for one in voting], axis=0).tolist()
    return Ranked(candidate, {}, Expected.middle([one.expected for one in voting]), fractions, [], parts)


def _as_prepared(target: Store) -> str:
    """Say how the source's model sees a target: its store may have polarity and grey levels that gap.json advised."""
    advised = target.metadata["parameters"].get("gap") or {}
    names = {"invert": "inverted", "match": "with the source's grey levels"}
    changes = [words for key, words in names.items() if advised.get(key)]
    return "as it is" + f", on micrographs that were prepared {' and '.join(changes)}" * bool(changes)


def _apart(segmenting: Sequence[Ranked], classes: Sequence[str]) -> list[str]:
    """Say what each that votes finds by itself, in a sentence; nothing of one."""
    if len(segmenting) < 2:
        return []
    found = (
        f"{one.candidate.name} "
        + ", ".join(f"{100 * one.fractions[k]:.0f} % of {classes[k]}" for k in range(1, len(classes)))
        for one in segmenting
    )
    return [
        f"By itself, each that votes finds: {'; '.join(found)}. Compare their pictures on the page of the choice: one "
        "of them may be wrong."
    ]


def _vote(voting: Sequence[Ranked], safe: Ranked, model: str) -> str:
    known = f"{model} ({safe.expected})"
    names = " and ".join(known if one is safe else f"{one.candidate.name} ({one.expected})" for one in voting)
    against = "" if voting[0] is safe else f", against {known}"
    if voting[0].candidate.is_adapted:
        known = f"{names} are expected to be better than {known}, and either may be the best"
    else:
        known = f"not one of {names} can be trusted alone{against}"
    return f"{known}; so they vote: each pixel gets the phase that they together hold for the most probable."


def _undecided(chosen: Ranked, safe: Ranked, model: str) -> str:
    return (
        f"{chosen.candidate.name} ({chosen.expected}) cannot be trusted over {model} "
        f"({safe.expected}), so the safer one is kept: {safe.candidate.name}."
    )


def _decided(chosen: Ranked, safe: Ranked, model: str) -> str:
    if chosen is safe:
        known = f"{safe.candidate.name}, expected mIoU {safe.expected}"
        return f"nothing is expected to be better than {model}: {known}."
    return f"take {chosen.candidate.name}: expected mIoU {chosen.expected}, against {safe.expected} of {model}."
