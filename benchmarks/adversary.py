"""How much of the adversary's gradient mixed precision leaves in the weights, beside the supervised one.

    python -m benchmarks.adversary --models deeplabv2_small deeplabv2_resnet18 deeplabv2_resnet101 --side 320

At the study's weights of the losses the adversary's gradient is a thousandth of the supervised one, or less. Kept is
the part of it that one backward pass of both losses leaves: the projection of (both losses minus the supervised one
alone) on (the adversarial one alone). It is shown as the program computes, and with autocast's own habit of keeping
the cast of a weight from the source's pass to the target's. The networks are new, tiles are noise.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.adversary")

import argparse

import numpy as np
import torch
from torch import Tensor, nn

import models
from benchmarks.driver import report
from common.arguments import positive
from common.errors import exits_cleanly
from losses import GanLoss, segmentation_loss
from training.precision import Precision

# The study's weights of the losses.
SUPERVISED = {"seg_main": 1.0, "seg_aux": 0.1}
ADVERSARIAL = {"adv_main": 1e-3, "adv_aux": 2e-4}


class KeptCasts(Precision):
    """Mixed precision as torch has it by default: the source's pass and the target's share one cast of each weight."""

    def autocast(self) -> torch.autocast:
        """As that of Precision, casts kept."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None, cache_enabled=True)


class Adaptation:
    """A network with statistics for each domain, discriminators, and tiles of noise for one step of adaptation."""

    def __init__(self, name: str, side: int, batch: int = 2):
        """Draw them: `batch` tiles of each domain, uint8 (batch, 1, side, side); of the model `name` of MODELS."""
        torch.manual_seed(0)
        self.model = models.domain_batch_norm(models.build(name)).train()
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.discriminators = models.Discriminators(self.model.levels)
        self.images, self.target = torch.randint(0, 256, (2, batch, 1, side, side), dtype=torch.uint8)
        self.masks = torch.randint(0, 2, (batch, 1, side - 32, side - 32), dtype=torch.uint8)

    def gradients(self, precision: Precision, *weights: dict[str, float]) -> dict[str, Tensor]:
        """Gradients of the losses named, weighted and added, by one backward pass: parameter -> float64."""
        model, gan = self.model, GanLoss()
        model.zero_grad()
        with precision.autocast():
            of_source, of_target = models.SourceAndTarget(model)(self.images, self.target)
            (verdicts,) = self.discriminators({k: models.probabilities(maps) for k, maps in of_target.items()})
            losses = {f"seg_{k}": segmentation_loss(of_source[k], self.masks) for k in model.levels}
            losses |= {f"adv_{k}": gan(verdicts[k], "source") for k in model.levels}
            loss = sum(factor * losses[name] for part in weights for name, factor in part.items())
        precision.backward(loss, self.optimizer)
        scale = precision.scaler.get_scale() if precision.scaler.is_enabled() else 1.0
        found = {name: parameter.grad for name, parameter in model.named_parameters()}
        return {name: gradient.double() / scale for name, gradient in found.items() if gradient is not None}


@exits_cleanly
def main() -> None:
    options = parse()
    device, rows = torch.device("cpu"), []
    for name in options.models:
        step = Adaptation(name, options.side)
        weights = [key for key, module in step.model.backbone.named_modules() if isinstance(module, nn.Conv2d)]
        names = [f"backbone.{key}.weight" for key in weights]
        for amp in options.amp:
            row = {"model": name, "amp": amp}
            for label, kind in (("casts kept", KeptCasts), ("as it is", Precision)):
                precision = kind(amp, device)
                both = step.gradients(precision, SUPERVISED, ADVERSARIAL)
                seg, adv = step.gradients(precision, SUPERVISED), step.gradients(precision, ADVERSARIAL)
                kept = [float(((both[k] - seg[k]) * adv[k]).sum() / adv[k].square().sum()) for k in names]
                ratio = np.median([float(adv[k].norm() / seg[k].norm()) for k in names])
                row["adversarial / supervised"] = f"{ratio:.1e}"
                row[f"{label}: median (least)"] = f"{np.median(kept):.1%} ({min(kept):.1%})"
            rows.append(row)
            print(f"{name}, {amp}: done", flush=True)
    report(f"Share of the adversarial gradient kept in the backbone's convolutions, {options.side} px", rows, None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adversary", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = [name for name in models.MODELS if name not in models.UNETS]
    parser.add_argument("--models", nargs="+", choices=networks, default=["deeplabv2_small"])
    parser.add_argument("--amp", nargs="+", choices=("bf16", "fp16"), default=["bf16", "fp16"])
    parser.add_argument("--side", type=positive, default=320, help="of the tiles, px")
    return parser.parse_args()


if __name__ == "__main__":
    main()
