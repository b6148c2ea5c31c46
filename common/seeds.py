"""Every random draw is a pure function of (seed, purpose, where), so none depends on what was drawn before."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *where: int) -> np.random.Generator:
    """An independent generator for one draw, e.g. `generator(seed, "augmentation", epoch, sample)`."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *where])
