"""Patches of like phase fraction for the discriminators, in place of whole tiles (end of paper Section 4.3).

Where source and target differ in phase fraction, a discriminator can tell their predictions apart by that alone, and
the segmentation model is pushed to predict the source's fraction. Of patches that were chosen to have the same
predicted fraction it has to judge the morphology.
"""

import torch
from torch import Tensor

from common.errors import InputError
from common.seeds import generator
from models.discriminator import SMALLEST_INPUT

_CANDIDATES = 4  # places of a patch per its own side, in each direction


class BalancedPatches:
    """Cuts the patches that the discriminators see; with side None it hands the whole maps through.

    The place of a source patch, and which of several equally near target patches is taken, are drawn from (seed, step,
    place in the global batch): neither depends on the number of processes or on the parts of a batch.
    """

    def __init__(self, side: int | None, tile: int, seed: int, first: int):
        """`side` of the patches and `tile`, of the tiles with their context, in px; `first`: place in the global batch
        of this process's first tile. InputError for a side that cannot be.
        """
        if side is not None and not SMALLEST_INPUT <= side <= tile:
            raise InputError(
                f"--discriminator-patch {side}: the discriminators need {SMALLEST_INPUT} px, the tiles have {tile}. "
                "Give a side between the two."
            )
        self.side, self.seed, self.first = side, seed, first
        self.step, self.place = None, first

    def __call__(
        self, source: dict[str, Tensor], target: dict[str, Tensor], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Probability maps, level -> (N, 2, H, W), to patches (N, 2, side, side), the same window of each level.

        A source patch lies at random. Of the target tile beside it that patch of a grid is taken whose fraction of
        foreground in the main prediction (from 0.5 upwards) is nearest to the source patch's. Gradients pass through.
        Several calls with one `step` are taken for consecutive parts of this process's batch.
        """
        if self.side is None:
            return source, target
        if step != self.step:
            self.step, self.place = step, self.first
        windows = {"source": [], "target": []}
        fractions = _window_fractions(source["main"], self.side), _window_fractions(target["main"], self.side)
        for of_source, of_target in zip(*fractions, strict=True):
            rng = generator(self.seed, "discriminator patch", step, self.place)
            self.place += 1
            row, column = (int(rng.integers(size)) for size in of_source.shape)
            rows, columns = (_grid(size, self.side, rng) for size in of_target.shape)
            grid = of_target[rows][:, columns]
            nearest = int((grid - of_source[row, column]).abs().argmin())
            windows["source"].append((row, column))
            windows["target"].append((rows[nearest // len(columns)], columns[nearest % len(columns)]))
        return self._cut(source, windows["source"]), self._cut(target, windows["target"])

    def _cut(self, maps: dict[str, Tensor], windows: list[tuple[int, int]]) -> dict[str, Tensor]:
        def cut(of_level: Tensor) -> Tensor:
            pairs = zip(of_level, windows, strict=True)
            return torch.stack([one[:, r : r + self.side, c : c + self.side] for one, (r, c) in pairs])

        return {level: cut(of_level) for level, of_level in maps.items()}


@torch.no_grad()
def _window_fractions(maps: Tensor, side: int) -> Tensor:
    """Foreground pixels of every window, int32 (N, H - side + 1, W - side + 1) on the CPU, of maps (N, 2, H, W).

    Counts are integers, so that they are the same on every device. One transfer for the whole batch.
    """
    counts = torch.nn.functional.pad((maps[:, 1] >= 0.5).int(), (1, 0, 1, 0)).cumsum(1).cumsum(2).int()
    rows = counts[:, side:] - counts[:, :-side]
    return (rows[:, :, side:] - rows[:, :, :-side]).cpu()


def _grid(size: int, side: int, rng) -> list[int]:
    """Starts of candidate patches along an axis with `size` possible ones, evenly over all of it, in random order."""
    count = 1 + -(-(size - 1) * _CANDIDATES // side)
    return rng.permutation(torch.linspace(0, size - 1, count).round().long().numpy()).tolist()
