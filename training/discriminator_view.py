"""The view that discriminators have of a prediction: its maps, whole or as patches of like phase fraction.

The maps are probabilities (AdaptSegNet) or how unsure the prediction is (ADVENT, Vu et al., CVPR 2019).

Where source and target differ in phase fraction, a discriminator can tell their predictions apart by that alone, and
the segmentation model is pushed to predict the source's fraction. Of patches that were chosen to have the same
predicted fraction it has to judge the morphology (end of paper Section 4.3).
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.seeds import generator
from data.store import Store
from losses import self_information
from models import classes, probabilities
from models.discriminator import SMALLEST_INPUT
from training.distributed import Processes

# What the discriminators may see, made of probabilities (N, C, H, W).
SHOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda maps: maps,
    "self-information": self_information,
}
_CANDIDATES = 4  # places of a patch per its own side, in each direction


class DiscriminatorView:
    """The maps that the discriminators are shown of both domains' predictions.

    With `--discriminator-patch` they are patches. The place of a source patch, and which of several equally near target
    patches is taken, are drawn from (seed, step, place in the global batch): neither depends on the number of processes
    or on the parts of a batch.
    """

    def __init__(self, options: SimpleNamespace, levels: Sequence[str], target: Store, processes: Processes):
        """levels: those with a discriminator. Options: discriminators_see, discriminator_patch, seed, batch_size.

        InputError for patches smaller than a discriminator takes, or larger than the tiles of `target`.
        """
        side, tile = options.discriminator_patch, target.tile + 2 * target.overlap
        if side is not None and not SMALLEST_INPUT <= side <= tile:
            raise InputError(
                f"--discriminator-patch {side}: the discriminators need {SMALLEST_INPUT} px, the tiles have {tile}. "
                "Give a side between the two."
            )
        self.levels, self.side, self.seed = levels, side, options.seed
        self.shown = SHOWN[options.discriminators_see]
        self.first = processes.rank * options.batch_size // processes.world  # place in the global batch
        self.step, self.place = None, self.first

    def __call__(
        self, source: dict[str, Tensor], target: dict[str, Tensor], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Logits of both domains, level -> (N, 1 or C, H, W), to maps, level -> (N, C, H, W) or (N, C, side, side).

        A source patch lies at random. Of the target tile beside it that patch of a grid is taken whose fractions of
        the phases in the main prediction are nearest to the source patch's. All levels show the same window. Gradients
        pass through. Several calls with one `step` are taken for consecutive parts of this process's batch.
        """
        source, target = ({k: probabilities(logits[k]) for k in self.levels} for logits in (source, target))
        if self.side is not None and self.levels:
            of_source, of_target = self._windows(source["main"], target["main"], step)
            source, target = _each(self._cut, source, of_source), _each(self._cut, target, of_target)
        return _each(self.shown, source), _each(self.shown, target)

    def _windows(self, source: Tensor, target: Tensor, step: int) -> tuple[list, list]:
        """Row and column of the window of each source tile, and of each target tile."""
        if step != self.step:
            self.step, self.place = step, self.first
        windows = [], []
        fractions = _window_fractions(source, self.side), _window_fractions(target, self.side)
        for of_source, of_target in zip(*fractions, strict=True):
            rng = generator(self.seed, "discriminator patch", step, self.place)
            self.place += 1
            row, column = (int(rng.integers(size)) for size in of_source.shape[1:])
            rows, columns = (_grid(size, self.side, rng) for size in of_target.shape[1:])
            grid = of_target[:, rows][:, :, columns]
            nearest = int((grid - of_source[:, row, column, None, None]).abs().sum(0).argmin())
            windows[0].append((row, column))
            windows[1].append((rows[nearest // len(columns)], columns[nearest % len(columns)]))
        return windows

    def _cut(self, maps: Tensor, windows: list[tuple[int, int]]) -> Tensor:
        pairs = zip(maps, windows, strict=True)
        return torch.stack([one[:, r : r + self.side, c : c + self.side] for one, (r, c) in pairs])


def _each(function: Callable, levels: dict[str, Tensor], *more: object) -> dict[str, Tensor]:
    return {level: function(value, *more) for level, value in levels.items()}


@torch.no_grad()
def _window_fractions(maps: Tensor, side: int) -> Tensor:
    """Pixels of each phase but the first in every window, int32 (N, C - 1, H - side + 1, W - side + 1) on the CPU.

    maps: (N, C, H, W). Counts are integers, so that they are the same on every device. One transfer for a whole batch.
    """
    found = classes(maps)
    found = torch.stack([found == phase for phase in range(1, maps.shape[1])], dim=1)
    counts = torch.nn.functional.pad(found.int(), (1, 0, 1, 0)).cumsum(2).cumsum(3).int()
    rows = counts[:, :, side:] - counts[:, :, :-side]
    return (rows[..., side:] - rows[..., :-side]).cpu()


def _grid(size: int, side: int, rng: np.random.Generator) -> list[int]:
    """Starts of candidate patches along an axis with `size` possible ones, evenly over all of it, in random order."""
    count = 1 + -(-(size - 1) * _CANDIDATES // side)
    return rng.permutation(torch.linspace(0, size - 1, count).round().long().numpy()).tolist()
