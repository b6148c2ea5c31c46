"""The yardstick of benchmarks and tests: AdaptSegNet's step as published (Tsai et al., CVPR 2018), plainly."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from models import set_domain
from models.deeplabv2 import DilatedHead

GAN = {"vanilla": F.binary_cross_entropy_with_logits, "least_squares": F.mse_loss}


class PlainHead(nn.Module):
    """A head as published, but with all of its dilations: a convolution each, and their sum."""

    def __init__(self, head: DilatedHead):
        super().__init__()
        self.branches = head.branches

    def forward(self, features: Tensor) -> Tensor:
        return sum(branch(features) for branch in self.branches)


class PublishedStep:
    """Eager, fp32, memory in torch's default format; a backward pass for each domain and three passes of each
    discriminator, whose parameters are switched off and on; the study's losses (paper Section 2.4.3).
    """

    def __init__(
        self,
        model: nn.Module,
        discriminators: nn.ModuleDict,
        optimizer: Optimizer,
        optimizers_D: dict[str, Optimizer],
        lambda_aux: float,
        lambda_adv: dict[str, float],
        gan: str = "vanilla",
    ):
        """`discriminators` and `optimizers_D`: by level, 'main' and 'aux'. `lambda_adv`: by level."""
        self.model, self.discriminators = model, discriminators
        self.optimizers = [optimizer, *optimizers_D.values()]
        self.lambda_seg, self.lambda_adv, self.distance = {"main": 1.0, "aux": lambda_aux}, lambda_adv, GAN[gan]

    def __call__(self, images: Tensor, masks: Tensor, target_images: Tensor) -> dict[str, Tensor]:
        """Update with source images uint8 (N, 1, T, T), masks (N, 1, t, t) and target images; the losses by name."""
        losses = {}
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self._train_discriminators(False)

        set_domain(self.model, "source")
        from_source = self.model(images)
        margin = (images.shape[-1] - masks.shape[-1]) // 2
        centre = slice(margin, margin + masks.shape[-1])
        for level in self.lambda_seg:
            logits = from_source[level][:, :, centre, centre]
            losses[f"loss_seg_{level}"] = F.binary_cross_entropy_with_logits(logits, masks.float())
        sum(weight * losses[f"loss_seg_{level}"] for level, weight in self.lambda_seg.items()).backward()

        set_domain(self.model, "target")
        from_target = self.model(target_images)
        for level in self.lambda_adv:
            losses[f"loss_adv_{level}"] = self._verdict(level, from_target[level], 0.0)
        sum(weight * losses[f"loss_adv_{level}"] for level, weight in self.lambda_adv.items()).backward()

        self._train_discriminators(True)
        for level in self.lambda_adv:
            of_source = self._verdict(level, from_source[level].detach(), 0.0) / 2
            of_source.backward()
            of_target = self._verdict(level, from_target[level].detach(), 1.0) / 2
            of_target.backward()
            losses[f"loss_D_{level}"] = of_source + of_target
        for optimizer in self.optimizers:
            optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def _verdict(self, level: str, logits: Tensor, label: float) -> Tensor:
        p = torch.sigmoid(logits)
        verdict = self.discriminators[level](self.shown(torch.cat([1 - p, p], 1)))
        return self.distance(verdict, torch.full_like(verdict, label))

    def shown(self, maps: Tensor) -> Tensor:
        """Probability maps (N, 2, H, W) as the discriminators see them; another method shows others."""
        return maps

    def _train_discriminators(self, on: bool) -> None:
        for level in self.discriminators:
            for parameter in self.discriminators[level].parameters():
                parameter.requires_grad = on
