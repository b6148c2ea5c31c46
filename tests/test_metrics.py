"""The measures agree with counting by hand and with the study's own numbers."""

import math

import numpy as np
import pytest

from evaluation.metrics import Confusion, rdt

PREDICTED = np.array([[1, 1, 0], [0, 1, 0]], np.uint8)
LABEL = np.array([[1, 0, 0], [1, 1, 0]], np.uint8)


def test_measures_equal_a_count_by_hand():
    confusion = Confusion.of(PREDICTED, LABEL)
    assert confusion == Confusion(tp=2, fp=1, fn=1, tn=2)
    assert confusion.iou() == {"background": 2 / 4, "foreground": 2 / 4}
    assert confusion.miou == 0.5
    assert confusion.phase_fraction_predicted == 3 / 6
    assert confusion.phase_fraction_label == 3 / 6


def test_counts_are_pooled_over_micrographs_not_averaged():
    all_right = Confusion.of(np.ones((10, 10)), np.ones((10, 10)))
    pooled = Confusion.of(PREDICTED, LABEL) + all_right
    assert pooled == Confusion.of(
        np.concatenate([PREDICTED.ravel(), np.ones(100)]), np.concatenate([LABEL.ravel(), np.ones(100)])
    )
    assert pooled.iou()["foreground"] == 102 / 104


def test_a_class_that_occurs_nowhere_has_no_iou_and_does_not_enter_the_mean():
    empty = Confusion.of(np.zeros((4, 4)), np.zeros((4, 4)))
    assert math.isnan(empty.iou()["foreground"])
    assert empty.miou == 1.0
    assert math.isnan(Confusion().miou) and math.isnan(Confusion().phase_fraction_label)


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
