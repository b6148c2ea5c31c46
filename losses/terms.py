"""Losses by level of a network's output: their weighted sum, and their names in a record."""

from torch import Tensor


def weighted(weights: dict[str, float], losses: dict[str, Tensor]) -> Tensor | int:
    """Sum losses by level, each times its weight; 0 where there are none."""
    return sum(weights[level] * value for level, value in losses.items())


def named(**losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flatten losses by level: loss_seg={"main": x} -> {"loss_seg_main": x}."""
    return {f"{name}_{level}": value for name, levels in losses.items() for level, value in levels.items()}
