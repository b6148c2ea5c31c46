"""Losses; all of them take logits."""

from losses.adversarial import GanLoss
from losses.classification import classification_loss
from losses.entropy import entropy_loss, self_information
from losses.segmentation import segmentation_loss

__all__ = ["GanLoss", "classification_loss", "entropy_loss", "segmentation_loss", "self_information"]
