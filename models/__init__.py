"""Segmentation networks, a classifier on their encoders, and discriminators; all of them emit logits."""

from torchvision.models import resnet

from common.errors import InputError
from models.batchnorm import (
    SourceAndTarget,
    domain_batch_norm,
    domain_in_use,
    freeze_batch_norm,
    mix_statistics,
    reestimate_statistics,
    set_domain,
    synchronise_batch_norm,
    take_statistics,
    without_domains,
)
from models.classifier import Classifier
from models.deeplabv2 import DeepLabV2, ResNetBackbone, SmallBackbone
from models.discriminator import Discriminators
from models.phases import classes, logits_of, probabilities
from models.segmenter import Segmenter
from models.unet import UNet

__all__ = [
    "MODELS",
    "UNETS",
    "Classifier",
    "Discriminators",
    "Segmenter",
    "SourceAndTarget",
    "build",
    "classes",
    "domain_batch_norm",
    "domain_in_use",
    "freeze_batch_norm",
    "logits_of",
    "mix_statistics",
    "parameter_groups",
    "probabilities",
    "reestimate_statistics",
    "set_domain",
    "synchronise_batch_norm",
    "take_statistics",
    "without_domains",
]

_BUILDERS = {
    "deeplabv2_resnet101": lambda phases: DeepLabV2(ResNetBackbone(resnet.resnet101), phases),
    "deeplabv2_resnet50": lambda phases: DeepLabV2(ResNetBackbone(resnet.resnet50), phases),
    "deeplabv2_resnet18": lambda phases: DeepLabV2(ResNetBackbone(resnet.resnet18), phases),
    "deeplabv2_small": lambda phases: DeepLabV2(SmallBackbone(), phases),
    "unet_vgg16": UNet,
    "unet_small": lambda phases: UNet(phases, narrowing=8),
}
MODELS = tuple(_BUILDERS)
UNETS = ("unet_vgg16", "unet_small")  # without auxiliary head; their encoders can be pre-trained on a classification


def build(name: str, phases: int = 2) -> Segmenter:
    """The network `name` of MODELS for so many phases, randomly initialised by torch's global generator.

    InputError: unknown name.
    """
    if name not in _BUILDERS:
        raise InputError(f"unknown model {name!r}; choose one of {', '.join(MODELS)}")
    return _BUILDERS[name](phases)


def parameter_groups(model: Segmenter, learning_rate: float, backbone_factor: float = 0.1) -> list[dict]:
    """Groups for a torch optimizer: the backbone at `backbone_factor` times the heads' learning rate.

    Every parameter is in exactly one group; the published code lists the backbone's three to four times.
    """
    return [
        {"params": model.backbone_parameters(), "lr": backbone_factor * learning_rate},
        {"params": model.head_parameters(), "lr": learning_rate},
    ]
