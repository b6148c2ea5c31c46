"""Warnings about the adversarial game, from values that a run logs anyway (no labels)."""

import math

_MEMORY = 0.9  # of the running means, in logging steps
_PATIENCE = 10  # logging steps before the first judgement: the discriminators start blind by construction


class Health:
    """Running means of what `observe` is given; it returns each warning once, when it first holds."""

    def __init__(self, gan: str):
        """`gan`: the kind of GAN loss, which decides what a guess costs."""
        self.blind = {"vanilla": math.log(2), "least_squares": 0.25}[gan]
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
            if name.startswith("loss_D_") and abs(mean - self.blind) < 0.015 * self.blind:
                found[name + " blind"] = (
                    f"{name} stays at {mean:.3f}: the discriminator is blind, so nothing is adapted. Train longer or "
                    "raise --discriminator-learning-rate."
                )
            if name.startswith("loss_D_") and mean < 0.15 * self.blind:
                found[name + " wins"] = (
                    f"{name} is down at {mean:.3f}: the discriminator wins. Raise --lambda-adv-main and "
                    "--lambda-adv-aux, or lower --discriminator-learning-rate."
                )
        fraction = self.means.get("target_phase_fraction")
        if fraction is not None and not 0.02 < fraction < 0.98:
            found["fraction"] = (
                f"the predicted phase fraction on the target is {fraction:.3f}: the model collapses to one class. "
                "Lower --lambda-adv-main and --lambda-adv-aux."
            )
        return found
