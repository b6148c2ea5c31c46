"""Gradient accumulation: one update from several backward passes, so that fewer devices can do the study's batch."""

from collections.abc import Iterator
from contextlib import ExitStack

import torch
from torch.nn.parallel import DistributedDataParallel


def in_parts(
    batch: list[torch.Tensor], size: int | None, modules: list[torch.nn.Module]
) -> Iterator[tuple[list[torch.Tensor], float]]:
    """Equal parts of a process's batch, at most `size` tiles each, with the weight of each part: 1 / their number.

    Run forward and backward of `modules` inside the loop: gradients add up, DDP reduces them with the last part only.
    """
    parts = list(zip(*(tensor.split(size or len(tensor)) for tensor in batch), strict=True))
    for number, part in enumerate(parts, start=1):
        with ExitStack() as stack:
            if number < len(parts):
                for module in modules:
                    if isinstance(module, DistributedDataParallel):
                        stack.enter_context(module.no_sync())
            yield list(part), 1 / len(parts)


class Tally(dict):
    """Scalars by name, averaged over the parts of a batch without leaving the device."""

    def add(self, values: dict[str, torch.Tensor], weight: float) -> None:
        """Add `weight` times each value, without its graph."""
        for name, value in values.items():
            self[name] = self.get(name, 0) + weight * value.detach()
