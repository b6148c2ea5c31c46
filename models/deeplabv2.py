"""DeepLabv2 with a main and an auxiliary head, as AdaptSegNet has it (Tsai et al., CVPR 2018)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from models.phases import channels
from models.segmenter import Segmenter

RESNET_MODULES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


class DeepLabV2(Segmenter):
    """A dilated backbone with the main head on its last stage and the auxiliary head on the one before.

    `backbone` maps (N, 3, H, W) to the features of these two stages, auxiliary first, at `backbone.stride`
    and with `backbone.channels` channels.
    """

    levels = ("main", "aux")

    def __init__(self, backbone: nn.Module, phases: int = 2):
        super().__init__(phases)
        self.backbone = backbone
        aux_channels, main_channels = backbone.channels
        self.aux_head = DilatedHead(aux_channels, channels(phases))
        self.main_head = DilatedHead(main_channels, channels(phases))
        self.features = main_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        aux_features, main_features = self.backbone(self.normalise(images))
        main_features, verdicts = self.attended(main_features)
        main, aux = (
            upsample(logits, self.backbone.stride, images.shape[-2:])
            for logits in (self.main_head(main_features), self.aux_head(aux_features))
        )
        return {"main": main, "aux": aux} | verdicts


class DilatedHead(nn.Module):
    """Atrous spatial pyramid: the sum of four dilated 3x3 convolutions, (N, C, h, w) -> logits (N, outputs, h, w).

    All four act; the published code returns after the first two (Chen et al., DeepLabv2, TPAMI 2018).
    """

    def __init__(self, width: int, outputs: int = 1, dilations: tuple[int, ...] = (6, 12, 18, 24)):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(width, outputs, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, features: Tensor) -> Tensor:
        # Four convolutions to one channel would read a thousand channels four times. One product makes the 36 maps of
        # all their taps; each branch's nine are then moved into place and added. float32, as the sums inside a
        # convolution are. Gains 5 to 7 % of a step on the CPU (benchmarks.clever).
        outputs = self.branches[0].out_channels
        taps = torch.cat([branch.weight.flatten(2).transpose(1, 2).flatten(0, 1) for branch in self.branches])
        maps = F.conv2d(features, taps[..., None, None]).float()
        logits = sum(branch.bias for branch in self.branches).view(1, -1, 1, 1)
        for branch, of_branch in zip(self.branches, maps.split(9 * outputs, dim=1), strict=True):
            dilation, size = branch.dilation[0], features.shape[-2:]
            # fold adds a tap where it points from, a convolution where it points to: hence the flip.
            moved = of_branch.unflatten(1, (outputs, 9)).flip(2).flatten(1, 2).flatten(2)
            logits = logits + F.fold(moved, size, 3, dilation=dilation, padding=dilation)
        return logits


def upsample(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Bilinear from (N, C, h, w) to (N, C, *size), float32; cell i stays at its centre, pixel i * stride.

    Stretching the grid to `size` would shift predictions by up to half a stride where `size` is no multiple
    of the stride (a tile of 636), and differently in windows of different size.
    """
    height, width = logits.shape[-2:]
    extended = F.pad(logits.float(), (0, 1, 0, 1), mode="replicate")
    fine = F.interpolate(extended, size=(height * stride + 1, width * stride + 1), mode="bilinear", align_corners=True)
    return fine[..., : size[0], : size[1]]


class ResNetBackbone(nn.Module):
    """torchvision's ResNet, under its key names, at output stride 8: dilation 2 in layer3, 4 in layer4."""

    stride = 8

    def __init__(self, constructor: Callable[..., nn.Module]):
        super().__init__()
        if constructor is resnet.resnet18:  # its blocks accept no dilation on construction
            network = constructor(weights=None)
            dilate(network.layer3, first=1, rest=2)
            dilate(network.layer4, first=2, rest=4)
        else:
            network = constructor(weights=None, replace_stride_with_dilation=[False, True, True])
        for name in RESNET_MODULES:
            self.add_module(name, getattr(network, name))
        self.channels = (network.fc.in_features // 2, network.fc.in_features)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer2(self.layer1(features))
        aux_features = self.layer3(features)
        return aux_features, self.layer4(aux_features)


class SmallBackbone(nn.Module):
    """Residual network of about half a million parameters at output stride 4, for a machine without a GPU."""

    stride = 4

    channels = (64, 96)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.stage1 = _stage(24, 48, stride=2)
        self.stage2 = _stage(48, 64)
        self.stage3 = _stage(64, 96)
        dilate(self.stage2, first=1, rest=2)
        dilate(self.stage3, first=2, rest=4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        aux_features = self.stage2(self.stage1(self.stem(images)))
        return aux_features, self.stage3(aux_features)


def _stage(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    projection = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    first = resnet.BasicBlock(channels, width, stride, projection)
    return nn.Sequential(first, resnet.BasicBlock(width, width))


def dilate(stage: nn.Sequential, first: int, rest: int) -> None:
    """Replace the stride of a stage of BasicBlocks by dilation, as torchvision does for Bottleneck.

    The convolution that had the stride keeps the dilation of the stage before (`first`); others get `rest`.
    """
    for number, block in enumerate(stage):
        for convolution, dilation in ((block.conv1, rest if number else first), (block.conv2, rest)):
            convolution.stride = (1, 1)
            convolution.dilation = convolution.padding = (dilation, dilation)
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)
