"""Gradient accumulation: one update from several backward passes, so that fewer devices can do the study's batch."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def micro_batches(
    batch: Sequence[Tensor], size: int | None, modules: Sequence[nn.Module]
) -> Iterator[tuple[tuple[Tensor, ...], float]]:
    """Cut a process's batch into micro-batches of at most `size` tiles, each with its weight: 1 / their number.

    Run forward and backward of `modules` inside the loop: gradients add up, DDP reduces them with the last one only.
    """
    cut = list(zip(*(tensor.split(size or len(tensor)) for tensor in batch), strict=True))
    for number, micro_batch in enumerate(cut, start=1):
        with ExitStack() as stack:
            if number < len(cut):
                for module in modules:
                    if isinstance(module, DistributedDataParallel):
                        stack.enter_context(module.no_sync())
            yield micro_batch, 1 / len(cut)


class Tally(dict):
    """Scalars by name, averaged over the micro-batches of a batch without leaving the device."""

    def add(self, values: dict[str, Tensor | float], weight: float = 1.0) -> None:
        """Add `weight` times each value, a tensor without its graph or a plain number."""
        for name, value in values.items():
            self[name] = self.get(name, 0) + weight * (value.detach() if isinstance(value, Tensor) else value)
