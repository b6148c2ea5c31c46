"""Low precision loses no term: an adversary's gradient, a thousandth of the supervised one, reaches every weight."""

import pytest
import torch
from torch import Tensor, nn

import models
from losses import GanLoss, segmentation_loss
from training.precision import Precision

LAMBDA_ADV = {"main": 1e-3, "aux": 2e-4}  # the study's
SIDE, TILE = 96, 64


def adaptation(name: str) -> tuple[nn.Module, nn.Module, list[Tensor]]:
    """Make a network with statistics for each domain, discriminators, and source tiles, masks and target tiles."""
    torch.manual_seed(0)
    model = models.domain_batch_norm(models.build(name)).train()
    images, target = torch.randint(0, 256, (2, 2, 1, SIDE, SIDE), dtype=torch.uint8)
    masks = torch.randint(0, 2, (2, 1, TILE, TILE), dtype=torch.uint8)
    return model, models.Discriminators(model.levels), [images, masks, target]


def gradients(
    amp: str, networks: tuple[nn.Module, nn.Module, list[Tensor]], seg: float, adv: float
) -> dict[str, Tensor]:
    """Gradients of `seg` times the supervised loss plus `adv` times the adversarial one, by one backward pass."""
    model, discriminators, (images, masks, target) = networks
    precision, gan = Precision(amp, torch.device("cpu")), GanLoss()
    model.zero_grad()
    with precision.autocast():
        of_source, of_target = models.SourceAndTarget(model)(images, target)
        (verdicts,) = discriminators({level: models.probabilities(logits) for level, logits in of_target.items()})
        loss_seg = segmentation_loss(of_source["main"], masks) + 0.1 * segmentation_loss(of_source["aux"], masks)
        loss_adv = sum(LAMBDA_ADV[level] * gan(verdicts[level], "source") for level in model.levels)
        loss = seg * loss_seg + adv * loss_adv
    precision.backward(loss, model)
    scale = precision.scaler.get_scale() if amp == "fp16" else 1.0
    return {name: parameter.grad.double() / scale for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["deeplabv2_small", "deeplabv2_resnet18"])
def test_the_adversarial_gradient_survives_beside_the_supervised_one(name, amp):
    """The difference of two backward passes, with it and without, is what a pass of its own gives, to 5 %."""
    networks = adaptation(name)
    with_adversary, without = gradients(amp, networks, 1, 1), gradients(amp, networks, 1, 0)
    alone = gradients(amp, networks, 0, 1)
    lost = {
        key: float((with_adversary[key] - without[key] - alone[key]).norm() / alone[key].norm())
        for key in alone
        if alone[key].any()
    }
    assert len(lost) > 0.9 * len(alone)
    assert {key: share for key, share in lost.items() if share > 0.05} == {}
