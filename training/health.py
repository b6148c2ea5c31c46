"""Warnings about an adaptation that goes wrong, from values that a run logs anyway (no labels)."""

import math
from collections.abc import Sequence
from types import SimpleNamespace

from torch import Tensor

from data.store import reported
from losses import BLIND
from models import probabilities

_MEMORY = 0.9  # of the running means, in logging steps
FRACTION = "target_phase_fraction"
_PATIENCE = 10  # logging steps before the first judgement: the discriminators start blind by construction


class Health:
    """Running means of what `observe` is given; it returns each warning once, when it first holds."""

    def __init__(self, options: SimpleNamespace, levels: Sequence[str]):
        """Options: gan, which decides what a guess costs, and the weights of the losses on the target's `levels`.

        A discriminator whose verdict has weight 0 adapts nothing and is not judged.
        """
        judged = {level: BLIND[options.gan] for level in levels} | {"feature": BLIND["least_squares"]}
        weights = (f"lambda_{term}_{level}" for term, of in (("adv", judged), ("entropy", levels)) for level in of)
        self.acting = [name for name in weights if getattr(options, name)]
        self.blind = {f"loss_D_{k}": value for k, value in judged.items() if f"lambda_adv_{k}" in self.acting}
        self.means: dict[str, float] = {}
        self.observed = 0
        self.warned: set[str] = set()

    def observe(self, values: dict[str, float]) -> list[str]:
        """`values`: logged scalars. New warnings as sentences with what to do."""
        for name, value in values.items():
            self.means[name] = _MEMORY * self.means.get(name, value) + (1 - _MEMORY) * value
        self.observed += 1
        if self.observed < _PATIENCE:
            return []
        new = {key: text for key, text in self._findings().items() if key not in self.warned}
        self.warned |= new.keys()
        return list(new.values())

    def _findings(self) -> dict[str, str]:
        found = {}
        for name, mean in self.means.items():
            blind = self.blind.get(name, math.nan)
            if abs(mean - blind) < 0.015 * blind:
                found[name + " blind"] = (
                    f"{name} stays at {mean:.3f}: the discriminator is blind and adapts nothing. Train longer or "
                    "raise --discriminator-learning-rate."
                )
            if mean < 0.15 * blind:
                found[name + " wins"] = (
                    f"{name} is down at {mean:.3f}: the discriminator wins. Raise --lambda-adv-"
                    f"{name.removeprefix('loss_D_')}, or lower --discriminator-learning-rate."
                )
        for name, fraction in self.means.items():
            of_phase = name.removeprefix(FRACTION)
            # Of more phases than two a rare one may be as rare; one that is nearly everything is a collapse.
            if of_phase == name or (fraction < 0.98 and (of_phase or fraction > 0.02)):
                continue
            options = " and ".join(f"--{name.replace('_', '-')}" for name in self.acting)
            remedy = f"Lower {options}" if options else "No loss of this run adapts it: see what evaluation.gap says"
            found["fraction"] = (
                f"the predicted phase fraction{of_phase.replace('_', ' of ', 1)} on the target is {fraction:.3f}: the "
                f"model collapses to one class. {remedy}."
            )
        return found


def phase_fractions(logits: Tensor, classes: Sequence[str]) -> dict[str, Tensor]:
    """Predicted area fractions of the target by their logged names: of two phases the second, else of each.

    logits: (N, 1 or C, H, W).
    """
    maps = probabilities(logits)
    return {f"{FRACTION}{suffix}": maps[:, phase].mean() for suffix, phase in reported(classes).items()}
