"""U-Net on torchvision's VGG16, the study's second architecture (paper 2.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import vgg

from models.phases import channels
from models.segmenter import Segmenter

DECODER_WIDTHS = (256, 128, 64, 32, 16)
SKIP_WIDTHS = (512, 512, 256, 128, 0)  # stride 16, 8, 4, 2; the last stage has no skip connection


class UNet(Segmenter):
    """VGG16 without batch norm as encoder, a centre, five decoder stages, one head.

    The layout is that of Segmentation Models PyTorch of 2021, which the study probably used.
    """

    def __init__(self, phases: int = 2, narrowing: int = 1):
        """`narrowing`: divides the widths of all layers, for a small network of the same layout."""
        super().__init__(phases)
        self.backbone = VGG16Backbone(narrowing)
        widths, skips = ([width // narrowing for width in layer] for layer in (DECODER_WIDTHS, SKIP_WIDTHS))
        deepest = self.backbone.channels
        self.centre = _convolutions(deepest, deepest)
        self.decoder = nn.ModuleList(
            _convolutions(below + skip, width)
            for below, skip, width in zip((deepest, *widths[:-1]), skips, widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], channels(phases), 3, padding=1)
        self.features = widths[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        full, *skips, bottom = self.backbone(self.normalise(images))
        features = self.centre(bottom)
        for stage, skip in zip(self.decoder, reversed(skips), strict=False):
            # The skip's own size: halving an odd size rounds down, so doubling would not meet it.
            features = F.interpolate(features, size=skip.shape[-2:])
            features = stage(torch.cat([features, skip], dim=1))
        features = self.decoder[-1](F.interpolate(features, size=full.shape[-2:]))
        features, verdicts = self.attended(features)
        return {"main": self.head(features).float()} | verdicts


class VGG16Backbone(nn.Module):
    """VGG16's convolutions under torchvision's key names (`features.*`).

    (N, 3, H, W) -> six feature maps: each of the five stages before its pooling (strides 1 to 16), then the
    last pooling (stride 32), of `channels` channels.
    """

    def __init__(self, narrowing: int = 1):
        super().__init__()
        self.channels = 512 // narrowing
        self.features = vgg.make_layers([part if part == "M" else part // narrowing for part in vgg.cfgs["D"]])
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        features = images
        for module in self.features:
            if isinstance(module, nn.MaxPool2d):
                maps.append(features)
            features = module(features)
        return [*maps, features]


def _convolutions(channels: int, width: int) -> nn.Sequential:
    layers = []
    for inputs in (channels, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    return nn.Sequential(*layers)
