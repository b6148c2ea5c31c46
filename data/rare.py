"""Rare phases: how much of each the training tiles hold, and what makes up for it."""

import numpy as np

from data.store import Store


def phase_pixels(store: Store, tiles: np.ndarray) -> np.ndarray:
    """Labelled pixels of each phase in the centre of each tile, int64 (n, C). InputError without labels."""
    centre = slice(store.overlap, store.overlap + store.tile)
    counts = (np.bincount(store.tile_mask(tile)[centre, centre].ravel(), minlength=store.phases) for tile in tiles)
    return np.stack([of_tile[: store.phases] for of_tile in counts])


def balanced(pixels: np.ndarray) -> np.ndarray:
    """Weights of the phases, float64 (C,): the inverse square root of their frequency, in the mean of all pixels 1.

    pixels: as of phase_pixels. A phase that has none weighs 0.
    """
    total = pixels.sum(axis=0)
    root = np.sqrt(total / max(total.sum(), 1))
    return np.divide(1, root, out=np.zeros_like(root), where=root > 0) / max(root.sum(), 1e-12)


def probabilities_of_tiles(pixels: np.ndarray) -> np.ndarray:
    """Probability of each tile, float64 (n,), that favours tiles with a rare phase (after DAFormer, CVPR 2022).

    A phase is drawn by its weight as of `balanced`, then one of the tiles that hold it, all alike.
    """
    holds, weights = pixels > 0, balanced(pixels)
    of_phase = holds / np.maximum(holds.sum(axis=0), 1)
    found = of_phase @ weights
    return found / found.sum() if found.any() else np.full(len(pixels), 1 / len(pixels))
