"""Overlap-tile inference gives what the network gives for the whole micrograph, at bounded memory."""

import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.inference import predict, predict_bands


class Output(NamedTuple):
    main: torch.Tensor
    aux: None = None


class Convolutions(nn.Module):
    """Receptive radius `radius`, without padding of its own that would show at a window's edge."""

    def __init__(self, radius):
        super().__init__()
        torch.manual_seed(radius)
        layers = [[nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1), nn.Tanh()] for i in range(radius - 1)]
        last = nn.Conv2d(4 if radius > 1 else 1, 1, 3, padding=1)
        self.layers = nn.Sequential(*(module for pair in layers for module in pair), last)

    def forward(self, images):
        return Output(4 * self.layers(images.float() / 255))


def micrograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def whole(model, image, overlap):
    padded = np.pad(image, overlap, mode="reflect")
    with torch.no_grad():
        logits = model(torch.from_numpy(padded)[None, None]).main[0, 0]
    return logits.sigmoid().numpy()[overlap:-overlap, overlap:-overlap]


@pytest.mark.parametrize("shape", [(101, 67), (64, 64), (33, 130), (7, 9)])
@pytest.mark.parametrize(("overlap", "radius"), [(8, 4), (7, 3), (2, 1)])
def test_tiled_prediction_equals_the_whole_image(shape, overlap, radius):
    model, image = Convolutions(radius), micrograph(*shape)
    tiled = predict(model, image, tile=32, overlap=overlap, batch_size=3)
    np.testing.assert_allclose(tiled, whole(model, image, overlap), atol=1e-5)


def test_overlap_may_be_larger_than_the_tile_and_the_micrograph():
    model, image = Convolutions(3), micrograph(23, 5)
    np.testing.assert_allclose(predict(model, image, 6, 20), whole(model, image, 20), atol=1e-5)


def test_without_overlap_the_tiles_are_predicted_side_by_side():
    model, image = Convolutions(2), micrograph(16, 24)
    with torch.no_grad():
        corner = model(torch.from_numpy(image[8:, 8:16].copy())[None, None]).main[0, 0].sigmoid().numpy()
    np.testing.assert_allclose(predict(model, image, 8, 0)[8:, 8:16], corner, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (50, 31), (200, 3)])
@pytest.mark.parametrize("overlap", [0, 5, 30])
def test_blending_keeps_a_constant(shape, overlap):
    def constant(images):
        return Output(torch.full(images.shape, 0.3))

    probability = predict(constant, micrograph(*shape), 16, overlap)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-0.3)), atol=1e-6)


def test_windows_that_disagree_are_blended_without_a_step():
    def brightness_of_the_window(images):
        return Output((images.float().mean((2, 3), keepdim=True) / 32 - 4).expand(images.shape))

    image = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None], 32, 0)

    def largest_step(overlap):
        return np.abs(np.diff(predict(brightness_of_the_window, image, 32, overlap), axis=1)).max()

    assert largest_step(16) < largest_step(0) / 8


def test_bands_are_consecutive_and_make_up_the_prediction():
    model, image = Convolutions(2), micrograph(75, 40)
    bands = list(predict_bands(model, image, 16, 4))
    assert [row for row, _ in bands] == list(np.cumsum([0] + [len(band) for _, band in bands[:-1]]))
    np.testing.assert_array_equal(np.concatenate([band for _, band in bands]), predict(model, image, 16, 4))


def test_memory_does_not_grow_with_the_height():
    def cheap(images):
        return Output(images.float())

    def peak(height):
        image = np.zeros((height, 64), np.uint8)
        tracemalloc.start()
        for _, band in predict_bands(cheap, image, 32, 8):
            assert len(band) <= 32 + 2 * 8
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(64)
    assert peak(64 * 256) < 1.5 * peak(64 * 4)
