"""The learning rate as a pure function of the step."""

import torch

SCHEDULES = ("constant", "polynomial")


def factor(schedule: str, step: int, steps: int, power: float) -> float:
    """Factor on the initial learning rate at `step` of `steps`: 1, or (1 - step / steps) ** power."""
    return 1.0 if schedule == "constant" else (1 - step / steps) ** power


def set_learning_rate(optimizers: list[torch.optim.Optimizer], scale: float) -> None:
    """Set every parameter group to `scale` times the rate that it was built with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = scale * group["initial_lr"]
