"""The base of every network: its input, its two parameter groups; and the output of those that segment."""

import torch
from torch import Tensor, nn

from models.attention import Attention

# Channel statistics that torchvision's ImageNet weights expect, for RGB in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """Base of the networks: `backbone` is what pre-training fills, everything else counts as head.

    forward takes grey images (N, 1, H, W), uint8 or float in 0..255, H and W >= SMALLEST_INPUT (common.limits).
    """

    backbone: nn.Module

    def __init__(self):
        super().__init__()
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Grey images (N, 1, H, W) in 0..255 -> (N, 3, H, W) float32, as ImageNet weights expect."""
        return (images.float() - self.mean) / self.std

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters that pre-training sets, and that learn at a fraction of the rate."""
        return list(self.backbone.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """All others but an attention's, which has a loss of its own."""
        heads = [child for name, child in self.named_children() if name not in ("backbone", "attention")]
        return [parameter for head in heads for parameter in head.parameters()]


class Segmenter(Network):
    """Base of the segmentation networks: forward(images) gives logits by level.

    They are {"main": logits} or {"main": logits, "aux": logits}, each float32 (N, 1, H, W) at the input's size, or
    (N, C, H, W) of three phases and more. `levels` names them in this order. `features` is the number of channels that
    the main head takes. While an `attention` learns, there are its verdicts on these too, as "feature".
    """

    levels: tuple[str, ...] = ("main",)
    features: int

    def __init__(self, phases: int):
        super().__init__()
        self.phases = phases
        self.attention: Attention | None = None

    def attend(self) -> None:
        """Give it an attention (DAST), randomly initialised by torch's global generator."""
        self.attention = Attention(self.features)

    def attended(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features as the main head takes them, and an attention's verdicts on them, where there is one that learns."""
        return (features, {}) if self.attention is None else self.attention(features)
