"""The measures agree with counting by hand and with the study's own numbers."""

import math

import numpy as np
import pytest

from evaluation.metrics import Confusion, rdt

PREDICTED = np.array([[1, 1, 0], [0, 1, 0]], np.uint8)
LABEL = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)


def test_measures_equal_a_count_by_hand():
    confusion = Confusion.of(PREDICTED, LABEL)
    assert confusion.counts.tolist() == [[2, 1], [1, 2]]
    assert confusion.iou() == [2 / 4, 2 / 4]
    assert confusion.miou == 0.5
    assert confusion.predicted == confusion.labelled == [3 / 6, 3 / 6]


def test_measures_of_three_phases_equal_a_count_by_hand():
    label = np.array([[0, 0, 0, 1, 1, 2, 255]], np.uint8)
    predicted = np.array([[0, 0, 1, 1, 1, 1, 2]], np.uint8)
    confusion = Confusion.of(predicted, label, 4)
    assert confusion.counts[:3, :3].tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert confusion.iou()[:3] == [2 / 3, 2 / 4, 0.0] and math.isnan(confusion.iou()[3])
    assert confusion.miou == pytest.approx((2 / 3 + 2 / 4 + 0) / 3), "the fourth phase is nowhere"
    assert confusion.labelled == [3 / 6, 2 / 6, 1 / 6, 0] and confusion.predicted == [2 / 6, 4 / 6, 0, 0]


def test_counts_are_pooled_over_micrographs_not_averaged():
    all_right = Confusion.of(np.ones((10, 10)), np.ones((10, 10)))
    pooled = Confusion.of(PREDICTED, LABEL) + all_right
    both = (np.concatenate([array.ravel(), np.ones(100)]) for array in (PREDICTED, LABEL))
    assert (pooled.counts == Confusion.of(*both).counts).all()
    assert pooled.iou()[1] == 102 / 104


def test_a_class_that_occurs_nowhere_has_no_iou_and_does_not_enter_the_mean():
    empty = Confusion.of(np.zeros((4, 4)), np.zeros((4, 4)))
    assert math.isnan(empty.iou()[1])
    assert empty.miou == 1.0
    assert math.isnan(Confusion.none(2).miou) and math.isnan(Confusion.none(2).labelled[1])


def test_a_class_predicted_but_not_labelled_scores_zero():
    assert Confusion.of(np.ones((2, 2)), np.zeros((2, 2))).miou == 0.0


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        Confusion.of(np.ones((2, 2)), np.ones((2, 3)))


def test_rdt_of_the_study():
    # S.10 has 79.4 % on the source; applied to T3 without adaptation (T3.1) it has 49.7 %.
    assert round(100 * rdt(0.497, 0.794), 1) == -37.4
    # The examples of Section 2.4.5.
    assert round(rdt(0.65, 0.70), 2) == -0.07
    assert rdt(0.70, 0.80) == pytest.approx(-0.125)
