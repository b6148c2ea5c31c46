"""The learning rate as a pure function of the step."""

from types import SimpleNamespace

from torch.optim import Optimizer

SCHEDULES = ("constant", "polynomial")


def factor(schedule: str, step: int, steps: int, power: float) -> float:
    """Factor on the initial learning rate at `step` of `steps`: 1, or (1 - step / steps) ** power."""
    return 1.0 if schedule == "constant" else (1 - step / steps) ** power


def set_learning_rates(optimizers: list[Optimizer], options: SimpleNamespace, step: int) -> None:
    """Set every parameter group to the schedule's factor at `step` times the rate that it was built with."""
    scale = factor(options.schedule, step, options.iterations, options.power)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = scale * group["initial_lr"]
