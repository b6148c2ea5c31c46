"""Losses; all of them take logits."""

from losses.adversarial import GanLoss
from losses.segmentation import segmentation_loss

__all__ = ["GanLoss", "segmentation_loss"]
