"""Generators and discriminators of a translation between two kinds of micrographs (CycleGAN, Zhu et al., ICCV 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.phases import probabilities

_STRIDE = 4  # of the deepest features
_DARKEST = 1 / 512  # half a grey level: the inverse of a sigmoid needs numbers above 0 and below 1


class Generator(nn.Module):
    """Residual network from grey images (N, 1, H, W) in 0..255 to others of that size.

    Two steps down, `blocks` residual blocks, two steps up. What it finds is added to the image before the last sigmoid.
    Without normalisation: a pixel's grey level then depends on what surrounds it alone, so a
    micrograph that is translated in windows has no seams.
    """

    def __init__(self, width: int, blocks: int):
        super().__init__()
        down = [nn.Conv2d(1, width, 7, padding=3, padding_mode="reflect"), nn.ReLU(inplace=True)]
        for outputs in (2 * width, 4 * width):
            down += [nn.Conv2d(outputs // 2, outputs, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
        up = []
        for inputs in (4 * width, 2 * width):  # transposed convolutions would leave a checkerboard
            up += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, inputs // 2, 3, padding=1), nn.ReLU(inplace=True)]
        last = nn.Conv2d(width, 1, 7, padding=3, padding_mode="reflect")
        self.layers = nn.Sequential(*down, *(_Block(4 * width) for _ in range(blocks)), *up, last)

    def logits(self, images: Tensor) -> Tensor:
        """Images -> logits (N, 1, H, W), float32, of which models.probabilities makes the translated ones' brightness.

        So a micrograph is translated in windows as one is segmented.
        """
        height, width = images.shape[-2:]
        share = (images.float() / 255).clamp(_DARKEST, 1 - _DARKEST)
        lacking = [-height % _STRIDE, -width % _STRIDE]
        found = self.layers(F.pad(2 * share - 1, (0, lacking[1], 0, lacking[0]), mode="replicate"))
        return share.logit() + found[..., :height, :width].float()

    def forward(self, images: Tensor) -> Tensor:
        """Images -> translated images (N, 1, H, W), float32 in 0..255."""
        return 255 * probabilities(self.logits(images))[:, 1:]


class Translators(nn.Module):
    """The generators in both directions. One forward makes all that a step needs, so that DDP sees one."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.to_target, self.to_source = Generator(width, blocks), Generator(width, blocks)

    def forward(self, source: Tensor, target: Tensor, same: bool) -> dict[str, dict[str, Tensor]]:
        """Images of both domains -> images float32, by the domain that they look like.

        'translated' into it, 'back' in it after two translations, and, where asked for, put through its generator
        though in it ('same').
        """
        translated = {"source": self.to_source(target), "target": self.to_target(source)}
        back = {"source": self.to_source(translated["target"]), "target": self.to_target(translated["source"])}
        left = {"source": self.to_source(source), "target": self.to_target(target)} if same else {}
        return {"translated": translated, "back": back, "same": left}


class RealOrTranslated(nn.Module):
    """A patch discriminator for each domain: images (N, 1, H, W) -> verdicts (N, 1, h, w), 1 real, 0 translated.

    Four convolutions of 4x4, three of stride 2, and one to the verdict: each sees 46 px a side.
    """

    def __init__(self, width: int):
        super().__init__()
        self.networks = nn.ModuleDict({domain: _patches(width) for domain in ("source", "target")})

    def forward(self, *images: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """Images by domain -> by domain the verdicts on each, float32, in one call for DDP."""
        return {
            domain: [network(2 * of_domain[domain].float() / 255 - 1).float() for of_domain in images]
            for domain, network in self.networks.items()
        }


class _Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(torch.relu(self.first(features)))


def _patches(width: int) -> nn.Sequential:
    layers, channels = [], 1
    for outputs in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = outputs
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))
