"""The domain discriminators of AdaptSegNet, one for each level of output (Tsai et al., CVPR 2018)."""

from torch import Tensor, nn

from common.errors import InputError
from common.limits import SMALLEST_INPUT


class Discriminators(nn.Module):
    """One fully convolutional discriminator for each level of output.

    Each has five 4x4 convolutions of stride 2 with width, 2, 4, 8 times width and 1 channels, LeakyReLU 0.2
    between them and no normalisation.
    """

    def __init__(self, levels: tuple[str, ...], width: int = 64, phases: int = 2):
        super().__init__()
        self.networks = nn.ModuleDict({level: _discriminator(phases, width) for level in levels})

    def forward(self, *of_domains: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Judge the maps of domains: level -> (N, C, H, W) each, to level -> logits (N, 1, h, w) of 'this is target'.

        All levels and domains in one call, so that DDP sees one forward. InputError: maps under 32 pixels a side.
        """
        return [{level: self._judge(level, maps) for level, maps in domain.items()} for domain in of_domains]

    def _judge(self, level: str, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        if min(height, width) < SMALLEST_INPUT:
            raise InputError(
                f"the discriminators cannot judge a prediction of {height} x {width} pixels: "
                f"choose tiles of at least {SMALLEST_INPUT} x {SMALLEST_INPUT}"
            )
        return self.networks[level](maps)


def _discriminator(channels: int, width: int) -> nn.Sequential:
    layers = []
    for outputs in (width, 2 * width, 4 * width, 8 * width):
        layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = outputs
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, stride=2, padding=1))
