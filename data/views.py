"""Two views of each target tile for self-training, and what is drawn for its mixture with a source tile."""

import numpy as np
import torch

from common.seeds import generator
from data.augmentation import Augmentation
from data.store import Store
from data.tiles import UnlabelledTiles

_VALUES = 256  # of a mask
_GREY = 116  # what the networks normalise to about 0


class TwoViews(UnlabelledTiles):
    """Target tiles, each in a weak view, from which the teacher labels it, and a strong one, which the model learns.

    An item is (weak uint8 (1, T, T), strong uint8 (1, T, T), masked uint8 (1, T, T), order float32 (256,)). Both views
    show the same places: the tile in one of its symmetries. The strong one has other grey levels, blur and noise.
    masked is the strong view, of which random blocks are grey (MIC, Hoyer et al., CVPR 2023). order ranks the phases
    of the mixture: the first half of those that a source tile has is pasted (ClassMix, Olsson et al., WACV 2021).
    """

    def __init__(self, store: Store, fold: int | None, seed: int, block: int, masked_share: float):
        """block: side of a masked block, px. masked_share: of the blocks that are masked."""
        super().__init__(store, fold, "basic", seed)
        self.strong, self.block, self.masked_share = Augmentation("grey"), block, masked_share

    def __getitem__(self, where: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        (weak,) = super().__getitem__(where)
        rng = generator(self.seed, f"strong view of {self.store.domain}", *where)
        strong, _ = self.strong(weak[0].numpy(), None, rng)
        order = rng.random(_VALUES, dtype=np.float32)
        cells = rng.random([-(-side // self.block) for side in strong.shape]) < self.masked_share
        hidden = cells.repeat(self.block, 0).repeat(self.block, 1)[: strong.shape[0], : strong.shape[1]]
        masked = np.where(hidden, np.uint8(_GREY), strong)
        return (
            weak,
            *(torch.from_numpy(view)[None] for view in (np.ascontiguousarray(strong), masked)),
            torch.from_numpy(order),
        )
