"""The attention of DAST (Yu et al., AAAI 2021): a discriminator of features, whose verdict re-weights the target's."""

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

PREFIX = "attention."  # of its weights' names in a segmentation model


class Attention(nn.Module):
    """Discriminator of the features that the main head takes, and the weights that it gives those of the target.

    Four 3x3 convolutions of stride 1 with a half, a quarter, an eighth of the features' channels and 1, LeakyReLU 0.2
    between them, as published. So there is a verdict at every place of the features, a number that least squares draw
    to 0 for the source and to 1 for the target. `domain` says whose features come.

    The paper re-weights the features before the network's last block, with the verdict's absolute value. Here they are
    the last ones, which all networks have, and the sign stays: what is taken for the source for sure gets less weight.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.domain = "source"
        widths, layers = [max(channels // divisor, 1) for divisor in (1, 2, 4, 8)], []
        for width in pairwise(widths):
            layers += [nn.Conv2d(*width, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (N, C, h, w) -> those that the head takes, and {"feature": verdicts (N, 1, h, w)} while it learns.

        Target features F become F (1 + tanh(verdict)), with gradients through both. The source's stay as they are, and
        its verdict has no gradient of them.
        """
        learns = self.training and self.layers[0].weight.requires_grad
        if self.domain == "source":
            return features, {"feature": self.layers(features.detach())} if learns else {}
        verdict = self.layers(features)
        return features * (1 + verdict.tanh()), {"feature": verdict} if learns else {}


def has_attention(names: Iterable[str]) -> bool:
    """Tell from the names of a segmentation model's weights if it has an attention."""
    return any(str(name).startswith(PREFIX) for name in names)
