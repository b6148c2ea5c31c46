"""Losses; all of them take logits."""

from losses.adversarial import BLIND, KINDS, GanLoss, grey_distance, least_squares
from losses.classification import classification_loss
from losses.entropy import entropy_loss, self_information
from losses.segmentation import by_level, centre, segmentation_loss
from losses.selftraining import Labelled, class_mix, sure_labels
from losses.terms import named, weighted

__all__ = [
    "BLIND",
    "KINDS",
    "GanLoss",
    "Labelled",
    "by_level",
    "centre",
    "class_mix",
    "classification_loss",
    "entropy_loss",
    "grey_distance",
    "least_squares",
    "named",
    "segmentation_loss",
    "self_information",
    "sure_labels",
    "weighted",
]
