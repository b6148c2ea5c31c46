"""Looks of the source: its tiles in other grey levels and textures, so that a network relies on neither.

`curves` and `convolutions` need no target (single-source generalization). `fourier` and `histogram` take the looks of
the target's training micrographs, without their labels. All leave masks and places as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from data.levels import grey_levels, transfer
from data.store import Store

Look = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # tile, number of its micrograph, draws -> tile
_DENSE = 1024  # points of a curve that is read at 256 levels
_LEAK = 0.01  # slope of a leaky ReLU below zero, torch's default


class Looks(NamedTuple):
    """Callable: (tile uint8 (h, w), mask (h, w), number of its micrograph, rng) -> the tile as it looks now.

    share: of the tiles that get another look. by_region: each phase of the mask gets a look of its own.
    """

    look: Look
    share: float = 1.0
    by_region: bool = False

    def __call__(self, image: np.ndarray, mask: np.ndarray, micrograph: int, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.share:
            return image
        if not self.by_region:
            return self.look(image, micrograph, rng)
        looked = np.empty_like(image)
        for phase in np.unique(mask):
            region = mask == phase
            looked[region] = self.look(image, micrograph, rng)[region]
        return looked


def curves(image: np.ndarray, _: int, rng: np.random.Generator) -> np.ndarray:
    """Put the grey levels through a random cubic Bezier curve, half of the time reversed (Zhou et al., MICCAI 2019).

    It leads from (0, 0) to (1, 1), or from (0, 1) to (1, 0); its two control points are drawn from the unit square.
    """
    t = np.linspace(0, 1, _DENSE)
    controls = np.array([(0, 0), *rng.random((2, 2)), (1, 1)])
    x, y = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1).dot(controls).T
    table = np.interp(np.arange(256) / 255, x, y)  # x never turns back: both control points are between 0 and 1
    if rng.random() < 0.5:
        table = 1 - table
    return _grey(255 * table)[image]


def convolutions(image: np.ndarray, _: int, rng: np.random.Generator) -> np.ndarray:
    """Mix the tile with what a random network of four layers makes of it (GIN, Ouyang et al., TMI 2022).

    Its convolutions are 1x1 or 3x3 and two channels wide, with leaky ReLU between them; weights and biases are normal.
    The share of the mixture is uniform, and the tile's norm is restored. Grey levels are centred and scaled before.
    """
    mean, deviation = float(image.mean()), max(float(image.std()), 1e-3)
    own = (image.astype(np.float32) - mean) / deviation
    channels = [own]
    for layer, width in enumerate((2, 2, 2, 1)):
        size = int(rng.choice([1, 3]))
        kernels = rng.standard_normal((width, len(channels), size, size), dtype=np.float32)
        biases = rng.standard_normal(width, dtype=np.float32)
        if layer:
            channels = [np.where(one > 0, one, _LEAK * one) for one in channels]
        channels = [
            sum(cv2.filter2D(one, -1, kernel) for one, kernel in zip(channels, of_output, strict=True)) + bias
            for of_output, bias in zip(kernels, biases, strict=True)
        ]
    share = np.float32(rng.random())
    mixed = share * channels[0] + (1 - share) * own
    mixed *= np.linalg.norm(own) / (np.linalg.norm(mixed) + 1e-5)
    return _grey(deviation * mixed + mean)


class Fourier(NamedTuple):
    """Look by the low frequencies of a target tile's amplitude (FDA, Yang and Soatto, CVPR 2020).

    tiles: the target's training tiles, one of which is drawn. beta: half side of the window of frequencies that is
    taken over, as a share of the tile's side.
    """

    target: Store
    tiles: np.ndarray
    beta: float

    def __call__(self, image: np.ndarray, _: int, rng: np.random.Generator) -> np.ndarray:
        return with_amplitude_of(self.target.tile_image(int(rng.choice(self.tiles))), image, self.beta)


class Histogram(NamedTuple):
    """Look by the grey levels of a micrograph of the target, which is drawn.

    own: grey levels, float64 (256,), of each of the source's micrographs by number; target: of the target's. The levels
    of the whole micrograph are matched: those of a tile would follow the phases that it happens to show.
    """

    own: dict[int, np.ndarray]
    target: list[np.ndarray]

    def __call__(self, image: np.ndarray, micrograph: int, rng: np.random.Generator) -> np.ndarray:
        return transfer(self.own[micrograph], self.target[rng.integers(len(self.target))])[image]


OF_SOURCE = {"curves": curves, "convolutions": convolutions}
OF_TARGET = ("fourier", "histogram")


def with_amplitude_of(donor: np.ndarray, image: np.ndarray, beta: float) -> np.ndarray:
    """Give an image uint8 (h, w) the amplitude of a donor of its size, for frequencies up to floor(min(h, w) beta)."""
    reach = int(min(image.shape) * beta)
    window = np.ix_(np.arange(-reach, reach + 1), np.arange(reach + 1))  # the other half is the complex conjugate
    spectrum, other = np.fft.rfft2(image), np.fft.rfft2(donor)
    spectrum[window] = np.abs(other[window]) * np.exp(1j * np.angle(spectrum[window]))
    return _grey(np.fft.irfft2(spectrum, image.shape))


def levels_by_micrograph(store: Store, tiles: np.ndarray) -> dict[int, np.ndarray]:
    """Grey levels, float64 (256,), of each micrograph that one of the tiles is of, by its number."""
    return {int(m): grey_levels([store.image(int(m))]) for m in np.unique(store.tile_micrograph[tiles])}


def _grey(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
