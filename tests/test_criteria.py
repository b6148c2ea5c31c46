"""The judge's parts: criteria, calibration, remedies, disturbances, advice and choice."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import models
from benchmarks import methods
from benchmarks.judge import main as judge_table
from benchmarks.judge import row_of as judge_row
from benchmarks.judge import summary
from common.errors import InputError
from data.levels import grey_levels, matched
from data.store import TWO_PHASES
from evaluation import page
from evaluation.inference import predict
from evaluation.judge.advice import Tried, advise, remarks, unlike, unlike_remarks
from evaluation.judge.calibration import Alone, Calibration, Expected
from evaluation.judge.choice import Candidate, choose, grouped
from evaluation.judge.criteria import CRITERIA, VOTE, Shapes, criteria, shape_of
from evaluation.judge.disturbances import Disturbance
from evaluation.judge.judge import Look, _iou_of_labelled
from evaluation.judge.pages import choice_page
from evaluation.judge.remedies import HALF, Remedy, remedies
from evaluation.judge.vote import compared, dissent
from evaluation.judge.windows import places, scaled_places, side_of, windows
from evaluation.members import Member
from evaluation.metrics import Confusion
from evaluation.segment_folder import _repeats

_REMEDY = Remedy(adabn=True)
_ANY = np.array([[0.0, 1.0], [0.0, 1.0]])  # fractions of a source that has micrographs of all


def test_an_adaptation_that_cannot_be_told_from_the_safer_model_votes_with_it():
    """Losses of 0.15 logits are trusted here, 3.6 points at 60 %, and gains of twice as much."""
    taken_by_gain = ((0.05, "safe and bold"), (-0.02, "safe and bold"), (0.08, "bold"), (-0.05, "safe"))
    for gain, taken in taken_by_gain:
        found = choice_of({"safe": 0.6, "bold": 0.6 + gain}, found_by={"safe": 0.2, "bold": 0.3})
        assert found.chosen.candidate.name == taken, gain
        assert ("so they vote" in found.sentence) == (taken == "safe and bold")
        if taken == "safe and bold":
            assert [part.name for part in found.chosen.parts] == ["bold", "safe"]
            assert [str(member.run) for member in found.chosen.candidate.members] == ["bold", "safe"]
            assert found.chosen.expected.miou == pytest.approx(0.6 + gain / 2, abs=0.001)
            assert found.chosen.fractions == pytest.approx([0.75, 0.25], abs=0.001)
            assert [one.candidate.name for one in found.ranked][1] == taken


def test_adaptations_that_cannot_be_told_from_each_other_vote():
    """Two trainings at most, the best network of each; with the safer model where that is not surely worse."""
    found = choice_of({"safe": 0.6, "bold": 0.61, "teacher": 0.615, "other": 0.605, "third": 0.6})
    assert [part.name for part in found.chosen.parts] == ["teacher", "other", "safe"]
    assert found.chosen.candidate.name == "safe and teacher and other"
    assert found.sentence.startswith("not one of the source's model as it is (60 (50 to 70)) and teacher")
    assert found.chosen.expected.miou == pytest.approx((0.6 + 0.615 + 0.605) / 3, abs=0.001)
    found = choice_of({"safe": 0.6, "bold": 0.75, "teacher": 0.74, "other": 0.73})
    assert [part.name for part in found.chosen.parts] == ["other", "bold"]
    assert "are expected to be better than the source's model as it is (60 (50 to 70)), and either" in found.sentence


def test_only_adaptations_that_are_surely_better_than_the_safer_model_vote_without_it():
    """Gains of 0.3 logits are sure here: 7 points over 60 %."""
    for other, taken in ((0.67, "bold and other"), (0.645, "bold")):
        assert choice_of({"safe": 0.6, "bold": 0.675, "other": other}).chosen.candidate.name == taken
    on_its_way = {"safe": 0.6, "bold": 0.3, "on the way": 0.75, "other": 0.73}
    assert choice_of(on_its_way).chosen.candidate.name == "on the way"


def test_one_adaptation_alone_votes_where_the_source_model_finds_another_fraction():
    """Two would outvote it, and they err alike."""
    expected, labelled = {"safe": 0.6, "bold": 0.62, "other": 0.615}, np.array([[0.5, 0.7], [0.3, 0.5]])
    for found_by, taken in ((0.1, "safe and bold"), (0.4, "safe and bold and other")):
        found = choice_of(expected, labelled, {"safe": found_by, "bold": 0.4, "other": 0.4})
        assert found.chosen.candidate.name == taken


def test_where_the_source_model_finds_another_fraction_an_adaptation_votes_if_it_gains():
    """The target may be so, or the model may be wrong. Then the adaptation may find another fraction too."""
    labelled = np.array([[0.5, 0.7], [0.3, 0.5]])
    for found_by, taken in ((0.35, ("safe and bold", "safe and bold")), (0.1, ("safe and bold", "safe"))):
        for gain, name in zip((0.02, -0.02), taken, strict=True):
            found = choice_of({"safe": 0.6, "bold": 0.6 + gain}, labelled, {"safe": found_by, "bold": 0.4})
            assert found.chosen.candidate.name == name, (found_by, gain)
    for found_by, taken in ((0.1, "safe and bold"), (0.4, "safe")):  # else it contradicts itself
        found = choice_of({"safe": 0.6, "bold": 0.9}, labelled, {"safe": found_by, "bold": 0.2})
        assert found.chosen.candidate.name == taken, found_by


def test_a_remedy_that_cannot_be_told_does_not_vote():
    """Remedies without a training do harm more often; and models of two polarities cannot vote."""
    for remedy in (Remedy(adabn=True), Remedy(scale=2.0)):
        found = choice_of({"safe": 0.6, "remedy": 0.62}, remedy=remedy)
        assert found.chosen.candidate.name == "safe" and "the safer one is kept" in found.sentence
    sure = {"safe": 0.6, "remedy": 0.8, "bold": 0.8}
    assert choice_of({"safe": 0.6, "remedy": 0.8, "bold": 0.83}).chosen.candidate.name == "remedy and bold"
    assert choice_of({"safe": 0.6, "remedy": 0.8, "bold": 0.9}).chosen.candidate.name == "bold"
    found = choice_of(sure)
    assert found.chosen.candidate.name == "remedy and bold"
    assert found.sentence.startswith(
        "not one of remedy (80 (70 to 90)) and bold (80 (70 to 90)) can be trusted alone, against the source's model "
        "as it is (60 (50 to 70)); so they vote"
    )
    assert choice_of(sure, remedy=Remedy(scale=2.0)).chosen.candidate.name == "remedy and bold"
    assert choice_of(sure, remedy=Remedy(invert=True)).chosen.candidate.name == "remedy"


def test_halfway_is_taken_for_any_gain_and_stands_for_the_source_model_in_a_vote():
    """A loss of 0.15 logits is sure here, 3.6 points at 60 %."""
    halfway = Remedy(match=HALF, adabn=HALF)
    for expected, alone, voting in ((0.62, "remedy", "remedy"), (0.58, "safe", "remedy"), (0.55, "safe", "safe")):
        sure = {"safe": 0.6, "remedy": expected}
        assert choice_of(sure, remedy=halfway).chosen.candidate.name == alone
        assert choice_of(sure | {"bold": 0.61}, remedy=halfway).chosen.candidate.name == f"{voting} and bold", expected
    labelled, found_by = np.array([[0.5, 0.7], [0.3, 0.5]]), {"safe": 0.0, "remedy": 0.2}
    for expected, taken in ((0.55, "safe"), (0.65, "remedy")):  # of 0.6, between one phase everywhere and the source's
        found = choice_of({"safe": 0.5, "remedy": expected}, labelled, found_by, remedy=halfway)
        assert found.chosen.candidate.name == taken, "the target may have none of a phase that halfway finds"
        assert ("is the right one" in " ".join(found.remarks)) == (taken == "remedy")


def drawn_votes(seed, count):
    """Votes of four: a criterion that says how good the vote is, and how far each voter is from it."""
    rng, found = np.random.default_rng(seed), []
    for group in range(count):
        quality = rng.uniform(0.3, 0.95)
        for _ in range(4):
            agreement = rng.uniform(0.4, 1)
            miou = np.clip(quality * agreement + 0.03 * rng.standard_normal(), 0.02, 0.98)
            found.append(({"a": 1 - miou + 0.05 * rng.standard_normal(), VOTE: 1 - agreement}, miou, group))
    return list(zip(*found, strict=True))


def test_what_is_expected_of_voters_is_what_they_are_worth():
    samples, miou, groups = drawn_votes(0, 40)
    fitted = Calibration.fit(samples, miou, groups, [False] * len(groups))
    assert fitted.mae < 0.07 and fitted.spearman > 0.9 and fitted.power == pytest.approx(1, abs=0.15)
    others, truth, _ = drawn_votes(1, 400)
    votes = [slice(first, first + 4) for first in range(0, 1600, 4)]
    expected = [one for vote in votes for one in fitted.expected(others[vote])]
    assert np.mean([one.low <= true <= one.high for one, true in zip(expected, truth, strict=True)]) > 0.85
    half = Calibration.fit(samples, miou, groups, [False] * len(groups), 0.5)
    logits = [np.log(one.miou / (1 - one.miou)) for of in (fitted, half) for one in of.expected(others[:4])]
    by_itself = [fitted.alone.logit(other) for other in others[:4]]
    assert logits[4:] == pytest.approx(np.mean([logits[:4], by_itself], axis=0))
    alone = fitted.expected(others[:4])
    assert fitted.expected(others[:4], [1.0] * 4) == alone
    assert fitted.expected(others[:4], [1.0, 1e9, 1.0, 1.0]) != alone, "whose voice counts says how good the vote is"


def test_more_of_any_criterion_never_lets_expect_more():
    rng = np.random.default_rng(0)
    samples = [dict(zip("abc", rng.random(3), strict=True)) for _ in range(80)]
    truth = [1 / (1 + np.exp(4 * each["a"] + 2 * each["b"] - 3)) for each in samples]
    alone = Alone.fit(samples, truth)
    assert alone.weights[0] > alone.weights[1] > alone.weights[2] >= 0
    for name in "abc":
        values = [alone.logit(samples[0] | {name: value}) for value in np.linspace(-1, 3, 20)]
        assert (np.diff(values) <= 0).all()
    samples, miou, groups = drawn_votes(2, 24)
    fitted = Calibration.fit(samples, miou, groups, [False] * len(groups))
    for name in ("a", VOTE):
        values = [fitted.expected([samples[0] | {name: away}, *samples[1:4]])[0].miou for away in np.linspace(0, 1, 20)]
        assert name == "a" or (np.diff(values) <= 0).all()


def test_a_vote_that_is_worse_than_all_that_were_tried_adds_nothing():
    """Voters that see nothing agree too."""
    samples, miou, groups = drawn_votes(0, 40)
    fitted = Calibration.fit(samples, miou, groups, [False] * len(groups))
    alone = [fitted.alone.logit({"a": away, VOTE: 0.0}) for away in (0.2, 5.0)]
    least, most = fitted.seen
    assert least < alone[0] < most and alone[1] < least - (most - least) / 2
    seen, blind = (fitted.expected([{"a": away, VOTE: 0.0}] * 4)[0].miou for away in (0.2, 5.0))
    logit = np.log(blind / (1 - blind))
    assert logit <= alone[1] + 1e-6 and blind < 0.3 < seen
    halfway = fitted.expected([{"a": a, VOTE: 0.0} for a in np.full(4, 1.2)])[0].miou
    assert blind <= halfway <= seen


def test_gains_are_trusted_from_where_they_were_real():
    """Voters of one kind promise more than they hold: those that keep the polarity, or the others, or none."""
    for wrong in (None, 1, 3):
        samples, miou, groups = drawn_votes(4, 60)
        worse = [each / 2 if k % 4 == wrong else each for k, each in enumerate(miou)]
        found = Calibration.fit(samples, worse, groups, [False, False, False, True] * 60)
        assert (found.trusted_gain > 0.4) == (wrong == 1) and (found.trusted_turn > 0.4) == (wrong == 3), wrong
        assert min(found.trusted_gain, found.trusted_turn) >= found.error / 3, "what is badly known tells nothing apart"
        assert found.trusted(Remedy()) == found.trusted_gain and found.trusted(Remedy(True)) == found.trusted_turn
        beyond = max(found.trusted_gain, found.error)
        untried = (found.trusted(one) for one in (Remedy(scale=2.0), Remedy(match=True), Remedy(adabn=True)))
        assert [*untried, found.trusted(Remedy(), adapted=True)] == [beyond] * 4, "no trial has scales or fractions"
        halfway = Remedy(match=HALF, adabn=HALF)
        assert found.trusted(halfway) == 0 and found.trusted(halfway, adapted=True) == beyond, "it has little to lose"
        assert found.trusted(replace(halfway, scale=2.0)) == beyond
        assert found.trusted(replace(halfway, invert=True)) == found.trusted_turn
    assert Calibration.fit(samples, miou, groups, [False] * 240).trusted_turn == np.inf, "nothing was tried"


def test_a_gain_that_is_not_trusted_is_left():
    mious = {Remedy(): 0.75, Remedy(match=True): 0.84}
    found = [tried(*each) for each in mious.items()]
    assert advise(found, "t", "s", 0.93, 0.3, _ANY, trusted=lambda remedy: 0.3).recommended.remedy == Remedy(match=True)
    kept = advise(found, "t", "s", 0.93, 0.3, _ANY, trusted=lambda remedy: 1.0)
    assert kept.recommended.remedy == Remedy() and "no remedy surely helps" in kept.sentence


def test_what_helps_one_micrograph_and_harms_another_is_left():
    """A target of several conditions: the mean gains, and one of three micrographs loses."""
    before = Expected(0.5, 0.4, 0.6, (0.5, 0.5, 0.5))
    for single, helps in (((0.9, 0.9, 0.4), False), ((0.7, 0.7, 0.8), True), ((0.9, 0.8, float("nan")), True)):
        after = Expected(0.75, 0.7, 0.8, single)
        assert after.surely_over(before, 0.1) == helps
        found = [Tried(Remedy(), {}, before, [0.7, 0.3], []), Tried(Remedy(match=True), {}, after, [0.7, 0.3], [])]
        assert advise(found, "t", "s", 0.9, 0.3, _ANY).recommended.remedy == Remedy(match=helps)
    assert not Expected(0.75, 0.7, 0.8, (0.7, 0.7, 0.8)).surely_over(before, 2.0), "too little"
    assert Expected(0.75, 0.7, 0.8, (0.9,) * 4 + (0.4,)).surely_over(Expected(0.5, 0.4, 0.6, (0.5,) * 5), 0.1)
    assert after.numbers()["by_micrograph"] == [0.9, 0.8, None]


@pytest.mark.parametrize(
    ("remedy", "found", "labelled", "taken"),
    [
        (Remedy(adabn=True), 0.27, (0.38, 0.47), False),  # odds of 0.37, and 0.41 are two thirds of the least
        (Remedy(adabn=True), 0.30, (0.38, 0.47), True),
        (Remedy(match=True), 0.56, (0.38, 0.47), True),
        (Remedy(match=True), 0.58, (0.38, 0.47), False),
        (Remedy(match=True), 0.0, (0.0, 0.3), True),
        (Remedy(match=True), 1.0, (0.9, 1.0), True),
        (Remedy(match=True), 1.0, (0.9, 0.95), False),
        (Remedy(scale=2.0), 0.27, (0.38, 0.47), True),  # it assumes nothing of fractions
    ],
)
def test_what_assumes_like_fractions_and_finds_others_is_left(remedy, found, labelled, taken):
    ranges = np.array([[1 - labelled[1], 1 - labelled[0]], labelled])
    before = Tried(Remedy(), {}, Expected(0.5, 0.4, 0.6), [0.9, 0.1], [])
    after = Tried(remedy, {}, Expected(0.7, 0.6, 0.8), [1 - found, found], [])
    chosen = advise([after, before], "t", "s", 0.9, 0.3, ranges).recommended
    assert (chosen is after) == taken
    assert bool(remarks([after, before], advise([after, before], "t", "s", 0.9, 0.3, ranges), ranges, TWO_PHASES)) == (
        not taken or found == 0.27
    )


def test_an_adapted_model_that_finds_what_no_source_has_is_left():
    """All of them find no pixel of the phase here, and a source's micrograph has 30 % or more, or may have none."""
    for least, taken in ((0.3, "safe"), (0.0, "bold")):
        found = choice_of({"safe": 0.6, "bold": 0.9}, np.array([[0.4, 1 - least], [least, 0.6]]))
        assert found.chosen.candidate.name == taken
        assert bool(found.remarks) == (taken == "safe") == ("cannot be trusted over" in found.sentence)


def test_what_finds_nothing_of_a_phase_that_all_have_needs_a_label():
    """Whether there is none of it, or the model does not see it, nobody can tell; what aligns finds it anyhow."""
    labelled = np.array([[0.6, 0.8], [0.2, 0.4]])
    blind = Tried(Remedy(), {}, Expected(0.87, 0.8, 0.9), [0.999, 0.001], [])
    forced = Tried(Remedy(match=True), {}, Expected(0.5, 0.4, 0.6), [0.7, 0.3], [])
    kept = advise([blind, forced], "t", "s", 0.9, 0.3, labelled)
    assert kept.kind == "label" and "finds next to nothing of a phase" in kept.sentence
    assert len(remarks([blind, forced], kept, labelled, TWO_PHASES)) == 1, "an unlike fraction"
    everywhere = Tried(Remedy(), {}, Expected(0.87, 0.8, 0.9), [0.01, 0.99], [])
    assert advise([everywhere], "t", "s", 0.9, 0.3, labelled).kind == "label"
    assert advise([blind], "t", "s", 0.9, 0.3, np.array([[0.6, 1.0], [0.0, 0.4]])).kind == "as it is", "one has none"
    forced = replace(forced, expected=Expected(0.95, 0.9, 0.97))
    taken = advise([forced, blind], "t", "s", 0.9, 0.3, labelled)
    (said,) = remarks([forced, blind], taken, labelled, ("matrix", "pores"))
    assert taken.recommended is forced and "finds 0.1 % of pores" in said and "30 %" in said

    found = choice_of({"safe": 0.5, "bold": 0.9}, labelled, {"safe": 0.0, "bold": 0.3})
    assert found.chosen.candidate.name == "bold" and "finds 0 % of foreground" in found.remarks[0]
    # Nearer to one phase everywhere than to the source's score: it may have made up what is not there.
    assert choice_of({"safe": 0.2, "bold": 0.55}, labelled, {"safe": 0.0, "bold": 0.3}).chosen.candidate.name == "safe"
    assert choice_of({"safe": 0.2, "bold": 0.55}, labelled, {"safe": 0.02, "bold": 0.3}).chosen.candidate.name == "bold"
    doubtful = replace(forced, expected=Expected(0.55, 0.4, 0.7))
    low = replace(blind, expected=Expected(0.2, 0.1, 0.3))
    assert advise([doubtful, low], "t", "s", 0.9, 0.3, labelled).recommended is low


def test_the_choice_says_what_the_store_has_been_given():
    assert choice_of({"safe": 0.6, "bold": 0.9}).sentence.endswith("60 (50 to 70) of the source's model as it is.")
    advised = {"invert": True, "match": "sem"}
    found = choice_of({"safe": 0.6, "bold": 0.3}, gap=advised, **advised)
    assert "as it is, on micrographs that were prepared inverted and with the source's grey levels:" in found.sentence


def test_a_model_that_has_learnt_nothing_is_named():
    labelled = np.array([[0.0, 1.0], [0.0, 1.0]])
    as_is = [tried(Remedy(), 0.87)]
    found = advise(as_is, "t", "s", 0.38, 0.33, labelled)
    assert found.kind == "train" and "mIoU of 38 %" in found.sentence and "33 %" in found.sentence
    assert advise(as_is, "t", "s", 0.45, 0.33, labelled).kind == "as it is"
    (said,) = remarks(as_is, found, labelled, ("matrix", "pores"), [0.8, 0.04])
    assert "has not learnt pores" in said and "4 %" in said
    assert remarks(as_is, found, labelled, ("matrix", "pores"), [0.8, float("nan")]) == []


def test_runs_that_differ_in_the_fold_alone_are_one_candidate(tmp_path):
    def member(name, **more):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
        start = f"runs/S/fold{more['fold']}"
        config = {"script": "train_uda", "target": "t", "seed": 0, "pretraining": start} | more
        return Member(tmp_path / name, "last", torch.nn.Identity(), config, {}, 10)

    members = [member("fold1", fold=1), member("fold0", fold=0), member("seed1", fold=0, seed=1)]
    members += [member("weak", fold=0, lambda_adv_main=0.9), member("weak1", fold=1, lambda_adv_main=0.9)]
    found = {one.name: [of.run.name for of in one.members] for one in grouped(members)}
    folds = {f"{tmp_path / 'fold0'}, fold1": ["fold0", "fold1"], f"{tmp_path / 'weak'}, weak1": ["weak", "weak1"]}
    assert found == folds | {str(tmp_path / "seed1"): ["seed1"]}
    assert [one.name for one in grouped(members[:2])] == [str(tmp_path)], "named after the folder where that is enough"
    (tmp_path / "exported").mkdir()
    files = [Member(tmp_path / "exported", name, torch.nn.Identity(), {"fold": 0}, {}, 10) for name in "ab"]
    assert len(grouped([files[0], replace(files[1], remedy=Remedy(scale=2.0))])) == 2, "which show different pictures"


def test_matching_gives_the_levels_asked_for_and_keeps_their_order():
    rng = np.random.default_rng(2)
    image = np.clip(rng.normal(60, 15, (200, 200)), 0, 255).astype(np.uint8)
    other = np.clip(rng.normal(150, 40, (200, 200)), 0, 255).astype(np.uint8)
    changed = matched(image, grey_levels([other]))
    assert changed.mean() == pytest.approx(other.mean(), abs=1) and changed.std() == pytest.approx(other.std(), abs=1.5)
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(changed.ravel()[order].astype(int)) >= 0).all()
    assert np.abs(matched(image, grey_levels([image])).astype(int) - image).max() <= 1
    uniform = np.full((20, 20), 7, np.uint8)
    assert len(np.unique(matched(uniform, grey_levels([other])))) == 1


def test_remedies_are_what_they_say():
    image = np.random.default_rng(3).integers(0, 256, (40, 60), np.uint8)
    levels = grey_levels([image])
    np.testing.assert_array_equal(Remedy(invert=True).apply(image, levels), 255 - image)
    assert Remedy(scale=0.5).apply(image, levels).shape == (20, 30)
    assert str(Remedy()) == "as it is" and Remedy().changes == 0
    both = Remedy(True, True, 2.0, True)
    assert both.changes == 4 and all(word in str(both) for word in ("inverted", "grey levels", "2", "statistics"))
    ends = [one.apply(image, levels).astype(float) for one in (Remedy(), Remedy(match=1.0))]
    middle = Remedy(match=HALF).apply(image, levels)
    assert np.abs(middle - np.mean(ends, axis=0)).max() <= 0.5, "in the middle of what they are and are to be"
    halves = (Remedy(match=HALF, adabn=HALF), Remedy(match=HALF), Remedy(adabn=HALF))
    assert list(map(str, halves)) == ["halfway", "half grey levels of the source", "half statistics of the target"]


def test_grey_levels_that_are_there_already_do_not_vote_twice():
    assert len(remedies(adabn=True)) == 10 and len(remedies(adabn=False)) == 6
    found = [str(one) for one in remedies(adabn=False, matched=True)]
    assert found == ["as it is", "inverted, grey levels of the source"], "which the other polarity has lost"
    assert "halfway" in map(str, remedies(adabn=True, matched=True)), "half of the statistics are left to take"


def test_shapes_of_what_one_can_count():
    square = np.zeros((64, 64), bool)
    square[16:48, 16:48] = True
    size, chord, boundary = shape_of(square)
    assert np.exp(size) == 32 * 32 and np.exp(chord) == pytest.approx(32)
    assert np.exp(boundary) * square.size == 4 * 32
    nothing = shape_of(np.zeros((64, 64), bool))
    assert np.isfinite(nothing).all() and nothing[0] == 0
    shapes = Shapes.of([square.astype(np.uint8)] * 3, 2)
    assert shapes.distance(square.astype(np.uint8)) == 0 and shapes.distance(np.zeros((64, 64), np.uint8)) > 5


def test_looking_at_a_model_leaves_it_as_it_was():
    model = models.build("deeplabv2_small").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = np.random.default_rng(4).integers(0, 256, (64, 64), np.uint8)
    shapes = Shapes.of([(image > 100).astype(np.uint8)] * 2, 2)
    found, (predicted,) = criteria([model], image, shapes, (48, 8))
    again, _ = criteria([model], image, shapes, (48, 8))
    assert found == again and set(found) == set(CRITERIA) - {"models", VOTE} and predicted.shape == image.shape
    assert all(np.isfinite(value) and value >= 0 for value in found.values())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("number", range(40))
def test_disturbances_keep_mask_and_image_together(number):
    rng = np.random.default_rng(number)
    disturbance = Disturbance.draw(rng)
    image = np.full((96, 120), 60, np.uint8)
    image[24:72, 30:90] = 180
    mask = (image > 100).astype(np.uint8)
    changed, moved = disturbance.apply(image, mask, rng)
    assert changed.shape == moved.shape and changed.dtype == moved.dtype == np.uint8
    assert moved.mean() == pytest.approx(mask.mean(), abs=0.02) and 1 <= len(disturbance.steps) <= 3


def choice_of(expected, fractions=_ANY, found_by=None, voices_heard=None, remedy=_REMEDY, **parameters):
    """The choice between a source model, safe, and adapted ones, of which so much is expected.

    found_by: fraction of the second phase that each finds, 0 by default. voices_heard: a list that gets the voices.
    remedy: of the source's model that is called "remedy". parameters: of the target's store.
    """
    members = {
        "safe": Member(Path("safe"), "last", torch.nn.Identity(), {"fold": 0}, {}, 10),
        "bold": Member(Path("bold"), "last", torch.nn.Identity(), {"fold": 0, "target": "t"}, {}, 20),
        "early": Member(Path("safe"), "step000005", torch.nn.Identity(), {"fold": 0}, {}, 5),
        "on the way": Member(Path("bold"), "step000005", torch.nn.Identity(), {"fold": 0, "target": "t"}, {}, 5),
        "other": Member(Path("other"), "last", torch.nn.Identity(), {"fold": 0, "target": "t"}, {}, 20),
        "third": Member(Path("third"), "last", torch.nn.Identity(), {"fold": 0, "target": "t"}, {}, 20),
        "remedy": Member(Path("remedy"), "last", torch.nn.Identity(), {"fold": 0}, {}, 10, remedy),
        "translated": Member(Path("translated"), "last", torch.nn.Identity(), {"fold": 0}, {}, 20),
    }
    order = list(expected)
    image = np.zeros((32, 32), np.uint8)
    shares = iter([(found_by or {}).get(name, 0.0) for name in order] + [0.0] * 99)

    def look(images, remedy, networks=None):
        predicted = (np.arange(image.size).reshape(image.shape) < image.size * next(shares)).astype(np.uint8)
        return Look([{}], [image], [[predicted]], [image[None]])

    found = [({}, Expected(miou, miou - 0.1, miou + 0.1)) for miou in expected.values()]

    def trusted(remedy, adapted=False):
        if remedy.is_halfway and not adapted:
            return 0.0
        return 0.3 if adapted or remedy.aligns or remedy.scale != 1 else 0.15

    trusting = SimpleNamespace(trusted=trusted, trusted_gain=0.15)
    judge = SimpleNamespace(
        adabn=True,
        source=SimpleNamespace(domain="s"),
        phases=2,
        fractions=fractions,
        floor=0.3,
        source_miou=0.9,
        images_of=lambda target: [image],
        look=look,
    )

    def expecting(looks, voices, share):
        if voices_heard is not None:
            voices_heard.extend(voices[: len(order)])
        return found, trusting

    judge.expected = expecting
    candidates = [
        Candidate(name, (members.get(name, members["bold"]),), foreign=name == "translated") for name in order
    ]
    target = SimpleNamespace(domain="t", classes=TWO_PHASES, metadata={"parameters": parameters})
    return choose(judge, candidates, target)


@pytest.mark.parametrize("other", ["early", "translated"])
def test_only_the_end_of_a_training_on_the_source_is_the_safe_one(other):
    """A checkpoint on its way, and a model of a source that is drawn like the target, have to gain as others do."""
    assert choice_of({other: 0.83, "safe": 0.81}).chosen.candidate.name == "safe"
    assert choice_of({other: 0.95, "safe": 0.81}).chosen.candidate.name == other


def test_more_adaptations_are_not_more_voices():
    heard = []
    choice_of({"bold": 0.8, "safe": 0.7, "other": 0.8}, voices_heard=heard)
    assert heard == [0.5, 1, 0.5]


def test_a_rare_phase_is_not_unlike_by_a_few_pixels():
    labelled = np.array([[0.9, 1.0], [0.001, 0.003], [0.0, 0.0], [0.04, 0.08]])
    assert unlike([0.93, 0.005, 0.0001, 0.06], labelled) == []
    assert unlike([0.83, 0.02, 0.0, 0.15], labelled) == [1, 3]
    (said,) = unlike_remarks([0.92, 0.02, 0.0, 0.06], labelled, ("matrix", "carbide", "pores", "grains"))
    assert "finds 2 % of carbide, and the source's labels have 0.1 to 0.3 %" in said


def test_a_phase_without_a_label_has_no_iou_of_a_single_pixel():
    label = np.zeros((10, 10), np.uint8)
    label[:5] = 1
    found = label.copy()
    found[0, 0] = 2
    assert np.isnan(_iou_of_labelled(Confusion.of(found, label, 3))[2])
    assert _iou_of_labelled(Confusion.of(label, found, 3))[2] == 0


def tried(remedy, miou):
    return Tried(remedy, {}, Expected(miou, miou - 0.05, miou + 0.05), [0.7, 0.3], [])


@pytest.mark.parametrize(
    ("mious", "kind", "words"),
    [
        ({Remedy(): 0.85, Remedy(invert=True): 0.3}, "as it is", "as it is"),
        ({Remedy(): 0.08, Remedy(invert=True): 0.88}, "remedy", "`invert = true` for lom: expected mIoU 8 -> 88"),
        (
            {Remedy(): 0.30, Remedy(scale=2.0): 0.86},
            "remedy",
            "2 times too small: check pixel_size_nm, 2 times its value",
        ),
        ({Remedy(): 0.30, Remedy(adabn=True): 0.6}, "adapt", "batch-norm statistics of lom"),
        (
            {Remedy(): 0.30, Remedy(match=HALF, adabn=HALF): 0.6},
            "adapt",
            "take grey levels and batch-norm statistics halfway between sem and lom",
        ),
        ({Remedy(): 0.60, Remedy(match=True): 0.61}, "adapt", "no remedy helps"),
        ({Remedy(): 0.30, Remedy(match=True): 0.33}, "label", "label five micrographs"),
    ],
)
def test_advice_follows_what_is_expected(mious, kind, words):
    found = advise([tried(*each) for each in mious.items()], "lom", "sem", source_miou=0.9, floor=0.25, labelled=_ANY)
    assert found.kind == kind and words in found.sentence


def test_a_person_is_told_what_to_check():
    """An unlike fraction, and a scale that is not sure."""
    mious = {Remedy(scale=0.5): 0.72, Remedy(): 0.7, Remedy(scale=2.0): 0.7}
    found = [tried(*each) for each in mious.items()]
    kept = advise(found, "t", "s", 0.9, 0.3, _ANY, trusted=lambda remedy: 0.3)
    assert kept.recommended.remedy == Remedy()
    scale, fraction = remarks(found, kept, np.array([[0.92, 0.96], [0.04, 0.08]]), ("matrix", "pores"))
    assert "look 2 times too large: check pixel_size_nm, 0.5 times" in scale and "Not sure" in scale
    assert "finds 30 % of pores, and the source's labels have 4 to 8 %" in fraction
    assert len(remarks(found[::-1], kept, np.array([[0.6, 0.8], [0.2, 0.4]]), ("matrix", "pores"))) == 0, "no better"
    best = advise(found, "t", "s", 0.9, 0.3, _ANY)
    assert remarks(found[1:], best, np.array([[0.6, 0.8], [0.2, 0.4]]), ("matrix", "pores")) == []


def test_a_polarity_has_to_gain_over_all_that_keeps_it():
    """Phases that change places may look as plausible."""
    mious = {Remedy(): 0.3, Remedy(match=True): 0.8, Remedy(True): 0.83}
    for gain, kept in ((0.1, False), (0.5, True)):

        def trusted(remedy, gain=gain):
            return gain if remedy.invert else 0.1

        found = advise([tried(*each) for each in mious.items()], "t", "s", 0.9, 0.3, _ANY, trusted)
        assert found.recommended.remedy == (Remedy(match=True) if kept else Remedy(True))


def test_the_simplest_of_remedies_that_are_as_good_is_recommended():
    mious = {Remedy(): 0.3, Remedy(True, True, 1.41, True): 0.89, Remedy(True): 0.88, Remedy(True, True): 0.87}
    assert advise([tried(*each) for each in mious.items()], "t", "s", 0.9, 0.3, _ANY).recommended.remedy == Remedy(True)


def test_windows_have_whole_tiles():
    assert [side_of(tile) for tile in (64, 96, 128, 512)] == [256, 288, 256, 512]


def test_the_judge_sees_what_is_segmented():
    """It cuts a window as evaluate.py does, so that it judges the prediction that a person gets."""
    model = models.build("deeplabv2_small").eval()
    image = np.random.default_rng(6).integers(0, 256, (192, 192), np.uint8)
    shapes = Shapes.of([(image > 100).astype(np.uint8)] * 2, 2)
    _, (predicted,) = criteria([model], image, shapes, (64, 16))
    assert np.array_equal(predicted, models.classes(predict(model, image, 64, 16)))


def test_windows_lie_in_the_micrograph_and_show_its_bottom():
    image = np.arange(400 * 500, dtype=np.int32).reshape(400, 500)
    one, *_ = windows(image, 3, 256)
    assert one.shape == (256, 256) and one[-1, 0] == image[-1, 0]
    assert {window.shape for window in windows(image, 3, 256)} == {(256, 256)}
    assert windows(image[:30, :40], 1, 256)[0].shape == (30, 40)


@pytest.mark.parametrize("factor", [0.5, 0.71, 1.0, 1.41, 2.0])
def test_windows_of_all_scales_are_compared_at_the_same_places(factor):
    """Each pixel says where it is: what a scaled window sees is what is there in the micrograph as it is."""
    shape = (400, 500)
    rows, columns = np.mgrid[:400, :500] // 2
    for along in (rows, columns):
        image = along.astype(np.uint8)
        for scaled, place in zip(scaled_places([shape], factor, 3, 256), places(shape, 3, 256), strict=True):
            assert scaled.original_place == place
            seen = scaled.unscaled(Remedy(scale=factor).apply(image, grey_levels([image]))[scaled.place])
            there = seen != 255
            assert np.abs(seen[there].astype(int) - image[place][there]).max() <= 1
            assert there.mean() == pytest.approx(1 if factor <= 1 else 1 / factor**2, abs=0.02)


def dissents(*voters):
    return [dissent(windows) for windows in compared(*voters)]


def test_who_is_wrong_alone_is_far_from_the_vote():
    """Three voters err in places of their own; their vote is the truth, and their distance is their error."""
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 2, (2, 60, 60), np.uint8)
    ballots, errors = [], []
    for share in (0.02, 0.05, 0.1):
        wrong = rng.random(truth.shape) < share
        ballots.append([(truth ^ wrong)[k][None] for k in range(2)])
        errors.append(1 - Confusion.of(truth ^ wrong, truth).miou)
    right = [window[None] for window in truth]
    found = dissents([right, right, *ballots], [1.0] * 5, 2)
    assert found[:2] == pytest.approx([0, 0], abs=0.01) and found[2:] == pytest.approx(errors, abs=0.01)
    assert dissents([right, right, ballots[2], ballots[2]], [1.0, 1.0, 1.0, 9.0], 2)[2] == 0, "the weights decide"
    assert dissents([right, ballots[2]], [1.0, 9.0], 2)[0] == pytest.approx(errors[2], abs=0.01), "nobody's own voice"
    blind = [window.copy() for window in right]
    blind[0][:, 10:] = 255
    blind[0][:, :10] ^= 1
    seen = dissents([right, right, blind], [1.0, 1.0, 1.0], 2)[2]
    assert seen == pytest.approx(
        1 - Confusion.of(np.r_[truth[0][:10] ^ 1, truth[1]], np.r_[truth[0][:10], truth[1]]).miou
    )


def test_the_benchmark_sums_up_how_right_the_judge_was():
    """On two pairs: a remedy 10 points short of the best, and a choice 4 points below generalization."""
    row = {"pair": "a", "as it is": 0.6, "best remedy": 0.8, "recommended": 0.7, "adaptation": 0.9, "chosen": 0.9}
    row |= {"best candidate": 0.9, "expected as it is": 0.5, "expected recommended": 0.8, "expected adaptation": 0.9}
    other = {name: value if name == "pair" else value / 2 for name, value in row.items()} | {"chosen": 0.26}
    said = "\n".join(summary([row, other]))
    assert "within 3 points of the best: 0 pairs; mean 7.5, most 10.0" in said
    assert "below the best candidate: mean 9.5, most 19.0" in said and "below generalization: most 4.0" in said
    assert "mean absolute error 5.0 points, Spearman correlation 1.00" in said


def test_methods_are_measured_against_generalization_and_the_oracle():
    """A pair without an oracle counts for the gains, and not for the gap."""
    row = {"pair": "t3.0", "generalization": 0.5, "DACS": 0.6, "judge's choice": 0.6, "oracle": 0.9}
    rows = [row, row | {"pair": "t3.1", "DACS": 0.42, "judge's choice": 0.8}]
    rows.append({"pair": "ebc.0", "generalization": 0.7, "judge's choice": 0.66})
    assert methods.table(rows)[2:] == [
        "| judge's choice | 70 | 66 | 12.0 (-4.0 to 30.0) | 3 |",
        "| generalization | 50 | 70 | 0.0 (0.0 to 0.0) | 3 |",
        "| oracle | 90 |  | 40.0 (40.0 to 40.0) | 2 |",
        "| DACS | 51 |  | 1.0 (-8.0 to 10.0) | 2 |",
    ]
    closed, below = methods.summary(rows)
    assert "50 % of the gap" in closed and "2 pairs" in closed and below.endswith("-4.0 points")


def test_both_choices_of_a_pair_are_read_and_one_that_broke_off_is_an_error(tmp_path):
    """The choice among all methods, and that among the launcher's trainings."""
    pair = tmp_path / "t3.0"
    (pair / "methods").mkdir(parents=True)
    (pair / "row.csv").write_text("as it is,best remedy,recommended,adaptation,chosen\n0.5,0.62,0.6,0.7,0.68\n")
    (pair / "truth.json").write_text(json.dumps({str(_REMEDY): 0.55}))
    adaptation = pair / "uda" / "fold0" / "config.json"
    adaptation.parent.mkdir(parents=True)
    adaptation.write_text('{"experiment": "demo.half-histogram"}')
    whole = (pair / "row.csv").read_text()
    (pair / "row.csv").write_text(whole.replace("chosen", "taken"))
    with pytest.raises(InputError, match=r"row\.csv: has no column chosen"):
        methods.row_of(pair)
    (pair / "row.csv").write_text(whole)
    before = methods.row_of(pair)
    assert (before["remedy"], before["choice of launch/pairs.sh"]) == (0.6, 0.68) and methods.CHOICE not in before
    for of, chosen in (("choice", "a"), ("launcher", "b")):
        folder = pair / "methods" / of
        folder.mkdir()
        (folder / "choice.json").write_text(json.dumps({"chosen": chosen, "ranked": []}))
        (folder / "scores.json").write_text(json.dumps({"a": 0.6, "b": 0.65}))
    row = methods.row_of(pair)
    assert (row[methods.CHOICE], row[methods.CANDIDATE]) == (0.6, 0.65)
    assert (row[methods.LAUNCHER], row[methods.OF_LAUNCHER]) == (0.65, 0.65)
    (pair / "methods/launcher/scores.json").unlink()
    with pytest.raises(InputError, match=r"scores\.json: missing"):
        methods.row_of(pair)


def test_only_the_end_of_an_adaptation_votes():
    assert choice_of({"safe": 0.6, "bold": 0.3, "on the way": 0.62}).chosen.candidate.name == "safe"
    assert choice_of({"safe": 0.6, "bold": 0.61, "on the way": 0.65}).chosen.candidate.name == "safe and bold"


def test_a_fraction_far_from_the_sources_is_said_of_each_that_votes():
    """The mean of too little and too much would be like the source's."""
    labelled = np.array([[0.34, 0.6], [0.4, 0.66]])
    said = choice_of({"safe": 0.6, "bold": 0.62}, labelled, {"safe": 0.1, "bold": 0.8}).remarks
    assert len(said) == 2 and said[0].startswith("The model finds 10 % of foreground")
    assert said[1].startswith("By itself, each that votes finds: bold 80 % of foreground; safe 10 % of foreground. Com")


def test_models_vote_in_equal_shares():
    """So as many of either kind, of the same folds; a vote of the folds' models is scored by fold."""

    def of(fold, **config):
        return Member(Path(str(config), f"fold{fold}"), "last", torch.nn.Identity(), {"fold": fold, **config}, {}, 10)

    source, adapted = ([of(fold, **config) for fold in (0, 1)] for config in ({}, {"target": "t"}))
    two, one, other = (Candidate("adapted", members) for members in (adapted, adapted[:1], (adapted[0], adapted[0])))
    safe = Candidate("safe", source)
    assert two.votes_with(safe) and not one.votes_with(safe) and not other.votes_with(safe)
    assert not safe.votes_with(safe) and not two.votes_with(two) and not replace(two, foreign=True).votes_with(safe)
    taught = [of(fold, target="t", script="train_selftraining") for fold in (0, 1)]
    assert two.votes_with(Candidate("taught", taught))
    assert _repeats([*adapted, *source]) == [[0, 2], [1, 3]]
    assert _repeats([*adapted, *taught]) == [[0], [1], [2], [3]], "experiments may be an ensemble"
    assert _repeats([*adapted, *taught], vote=True) == [[0, 2], [1, 3]]
    assert _repeats([*adapted, *taught, *source]) == [[0, 2, 4], [1, 3, 5]]
    assert _repeats(source) == [[0], [1]] and _repeats([*adapted, source[0]]) == [[0], [1], [2]]


def test_the_benchmark_names_both_that_vote_and_takes_no_vote_for_a_candidate(tmp_path, monkeypatch):
    expected = {"miou": 0.7}
    ranked = [
        {"name": "bold", "adapted": True, "remedy": "as it is", "parts": [], "expected": expected},
        {"name": "safe and bold", "adapted": True, "remedy": "as it is", "parts": ["bold", "safe"]},
        {"name": "safe", "adapted": False, "remedy": "statistics of the target", "parts": []},
    ]
    tried = {"remedy": "as it is", "expected": expected}
    files = {
        "gap/gap.json": {"source_miou": 0.9, "as_it_is": tried, "recommended": tried, "advice": "adapt"},
        "choice/choice.json": {"chosen": "safe and bold", "ranked": ranked},
        "choice/scores.json": {"bold": 0.8, "safe": 0.6, "safe and bold": 0.85},
        "truth.json": {"as it is": 0.6, "inverted": 0.5},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    row = judge_row(tmp_path, "cpu")
    assert row["of it"] == "statistics of the target and adaptation"
    assert (row["adaptation"], row["chosen"], row["best candidate"]) == (0.8, 0.85, 0.8)
    words = ["judge", tmp_path, "--out", tmp_path / "table.csv", "--remedies", tmp_path / "remedies.csv"]
    monkeypatch.setattr("sys.argv", list(map(str, [*words, "--device", "cpu"])))
    judge_table()
    assert (tmp_path / "remedies.csv").read_text().split() == [
        "pair,as",
        "it",
        "is,inverted",
        f"{tmp_path.name},0.6,0.5",
    ]


def test_all_that_vote_are_shown(monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "drawn", lambda draw, shown, classes: drawn.extend(name for name, *_ in shown) or "")
    choice_page(choice_of({"early": 0.9, "bold": 0.61, "other": 0.605, "safe": 0.6}), {})
    assert drawn[:2] == ["safe", "early"], "which is taken"
    drawn.clear()
    found = choice_page(choice_of({"early": 0.62, "bold": 0.61, "other": 0.605, "safe": 0.6}), {})
    assert drawn == ["safe", "bold", "other", "early"] and found.count("<td>votes</td>") == 3


def test_a_choice_is_shown_beside_the_model_as_it_is(monkeypatch):
    """Left of what was taken, wherever it ranks."""
    drawn = []
    monkeypatch.setattr(page, "drawn", lambda draw, shown, classes: drawn.extend(name for name, *_ in shown) or "")
    mious = {"bold": 0.9, "second": 0.8, "later": 0.7, "fourth": 0.65, "safe": 0.5}
    found = choice_page(choice_of(mious), {})
    assert drawn == ["safe", "bold", "second", "later"] and "take bold" in found
