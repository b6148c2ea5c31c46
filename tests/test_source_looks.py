"""Looks of the source: each equals its published recipe, and nothing but its place decides what a tile gets."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from short_runs import supervised_arguments, uda_arguments, weights

import train_supervised
from common.errors import InputError
from common.seeds import generator
from data.levels import grey_levels, matched, transfer
from data.looks import OF_SOURCE, Fourier, Histogram, Looks, convolutions, curves, with_amplitude_of
from data.store import Store
from data.tiles import LabelledTiles
from training import distributed
from training.configuration import parse
from training.preparation import labelled_tiles, unlabelled_tiles

PLACES = [(0, epoch, sample) for epoch in range(3) for sample in range(10)]


@pytest.fixture(scope="module")
def tile():
    """A tile of uneven sides, and its mask of two phases."""
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.normal(size=(70, 64)), (0, 0), 2)
    return ((image - image.min()) * 200 / np.ptp(image)).astype(np.uint8), (image > 0).astype(np.uint8)


def options_of(stores, folder, *more):
    return SimpleNamespace(**parse("train_uda", "", uda_arguments(stores, folder, *more)))


def rng_of(place):
    return generator(*place[:1], "looks", *place[1:])


def test_curves_are_those_of_models_genesis(tile):
    """Bezier points as published, their x sorted; the reversed ones, half of all, with y from 1 to 0."""
    image, reversed_ones = tile[0], 0
    for place in PLACES:
        rng = rng_of(place)
        (x1, y1), (x2, y2) = rng.random((2, 2))
        falls = rng.random() < 0.5
        t = np.linspace(0, 1, 100_000)
        weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
        x = np.sort(sum(w * p for w, p in zip(weights, (0, x1, x2, 1), strict=True)))
        y = sum(w * p for w, p in zip(weights, (0, y1, y2, 1), strict=True))
        expected = 255 * np.interp(image / 255, x, 1 - y if falls else y)
        assert np.abs(curves(image, 0, rng_of(place)) - expected).max() < 1
    for place in PLACES:
        looked = curves(np.arange(256, dtype=np.uint8)[None], 0, rng_of(place))[0].astype(int)
        assert {*looked[[0, -1]]} == {0, 255}
        falls = looked[0] == 255
        assert (np.diff(looked) * (-1 if falls else 1) >= 0).all(), "monotone"
        reversed_ones += falls
    assert 0.25 < reversed_ones / len(PLACES) < 0.75


def test_convolutions_are_those_of_gin(tile):
    """Its network written with torch: four layers, kernels of 1 or 3, leaky ReLU but after the last, Frobenius norm."""
    for place in PLACES:
        rng = rng_of(place)
        image = torch.from_numpy(tile[0]).double()
        mean, std = image.mean(), image.std(correction=0)
        x_in = ((image - mean) / std)[None, None]
        x = x_in
        for out in (2, 2, 2, 1):
            k = int(rng.choice([1, 3]))
            kernel = torch.from_numpy(rng.standard_normal((out, x.shape[1], k, k), dtype=np.float32)).double()
            shift = torch.from_numpy(rng.standard_normal(out, dtype=np.float32)).double()
            x = F.conv2d(F.pad(x, [k // 2] * 4, mode="reflect"), kernel) + shift.view(1, -1, 1, 1)
            x = x if out == 1 else F.leaky_relu(x)
        alpha = rng.random()
        mixed = alpha * x + (1 - alpha) * x_in
        mixed = mixed * x_in.norm(p="fro") / (mixed.norm(p="fro") + 1e-5)
        expected = (mixed[0, 0] * std + mean).clamp(0, 255)
        assert (torch.from_numpy(convolutions(tile[0], 0, rng_of(place))) - expected).abs().max() < 0.51


@pytest.mark.parametrize("beta", [0, 0.01, 0.05, 0.09, 0.49])
def test_low_frequencies_are_swapped_as_fda_publishes(tile, beta):
    donor = 255 - cv2.GaussianBlur(tile[0], (0, 0), 3) // 2
    spectrum, other = np.fft.fft2(tile[0]), np.fft.fft2(donor)
    amplitude, taken = np.fft.fftshift(np.abs(spectrum)), np.fft.fftshift(np.abs(other))
    h, w = amplitude.shape
    b = int(np.floor(min(h, w) * beta))
    centre = slice(h // 2 - b, h // 2 + b + 1), slice(w // 2 - b, w // 2 + b + 1)
    amplitude[centre] = taken[centre]
    swapped = np.fft.ifft2(np.fft.ifftshift(amplitude) * np.exp(1j * np.angle(spectrum)))
    assert np.abs(swapped.imag).max() < 1e-6
    expected = swapped.real.clip(0, 255)
    assert np.abs(with_amplitude_of(donor, tile[0], beta) - expected).max() < 0.501
    assert abs(float(swapped.real.mean()) - donor.mean()) < 1e-6, "the mean grey level is the donor's"


def test_donors_are_training_tiles_and_micrographs_of_the_target(stores, tmp_path):
    """None of its test set, of which m4 and m5 are; and grey levels are matched from micrograph to micrograph."""
    options = options_of(stores, tmp_path, "--looks", "fourier", "--looks-beta", 0.1)
    target = unlabelled_tiles(options)
    source = labelled_tiles(options, target)
    assert isinstance(source.looks.look, Fourier) and source.looks.look.beta == 0.1
    allowed = {one.index for one in target.store.micrographs if not one.test}
    assert {*target.store.tile_micrograph[source.looks.look.tiles]} == allowed
    image, rng = source.store.tile_image(0), generator(5, "x")
    donor = target.store.tile_image(int(generator(5, "x").choice(target.tiles)))
    assert np.array_equal(source.looks.look(image, 0, rng), with_amplitude_of(donor, image, 0.1))

    options = options_of(stores, tmp_path, "--looks", "histogram")
    source = labelled_tiles(options, target)
    look = source.looks.look
    assert isinstance(look, Histogram) and len(look.target) == len(allowed)
    assert look.own.keys() == {*source.store.tile_micrograph[source.tiles]}
    number = next(iter(look.own))
    whole = source.store.image(number)
    assert any(np.array_equal(look(whole, number, generator(5, "x")), matched(whole, one)) for one in look.target)


def test_a_table_of_grey_levels_is_that_of_the_match(tile):
    levels = grey_levels([255 - tile[0] // 2])
    assert np.array_equal(transfer(grey_levels([tile[0]]), levels)[tile[0]], matched(tile[0], levels))


@pytest.mark.parametrize("look", OF_SOURCE.values(), ids=OF_SOURCE)
def test_a_region_has_a_draw_of_its_own(tile, look):
    image, mask = tile
    for place in PLACES[:5]:
        rng = rng_of(place)
        rng.random()
        each = [look(image, 0, rng) for _ in (0, 1)]
        assert np.array_equal(Looks(look, 1.0, True)(image, mask, 0, rng_of(place)), np.where(mask == 0, *each))
        assert not np.array_equal(*each)


def test_a_share_of_the_tiles_gets_another_look(tile):
    looks = Looks(curves, share=0.3)
    same = [
        np.array_equal(looks(*tile, 0, rng_of((seed, *place[1:]))), tile[0]) for seed in range(7) for place in PLACES
    ]
    assert 0.6 < np.mean(same) < 0.8


@pytest.mark.parametrize("look", OF_SOURCE.values(), ids=OF_SOURCE)
def test_any_micrograph_has_a_look(look):
    """One grey level only, all black, all white, one pixel wide: an image of that size, and no warning."""
    for image in (np.full((40, 33), 7), np.zeros((5, 5)), np.full((3, 4), 255), np.eye(8), np.full((1, 9), 3)):
        for place in PLACES:
            looked = look(image.astype(np.uint8), 0, rng_of(place))
            assert looked.shape == image.shape and looked.dtype == np.uint8


def test_a_tile_depends_on_its_place_alone_and_its_mask_on_no_look(stores):
    store = Store(stores / "source.h5")
    plain, one, other = (
        LabelledTiles(store, 0, "basic", 0, looks) for looks in (None, Looks(convolutions), Looks(convolutions))
    )
    for epoch, index in ((0, 3), (2, 5), (0, 3)):
        other[7, index]
        (image, mask), again, before = one[epoch, index], other[epoch, index], plain[epoch, index]
        assert torch.equal(image, again[0]) and torch.equal(mask, again[1]) and torch.equal(mask, before[1])
        assert not torch.equal(image, before[0])
    bare = {seed: LabelledTiles(store, 0, "none", seed, Looks(convolutions)) for seed in (0, 1)}
    looked = [bare[seed][epoch, 3][0] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(looked[i], looked[j]) for i, j in ((0, 1), (0, 2), (1, 2))), "each epoch, each seed"


def test_a_look_for_each_region_goes_with_looks_that_need_no_target(stores, tmp_path):
    for looks in ("none", "fourier", "histogram"):
        with pytest.raises(InputError, match=f"--looks-by-region: not with --looks {looks}. Give --looks curves or"):
            options_of(stores, tmp_path, "--looks", looks, "--looks-by-region")


def test_supervised_training_takes_the_looks_that_need_no_target(stores, tmp_path, capsys):
    found = []
    for looks in ("none", "curves", "convolutions"):
        words = supervised_arguments(stores, tmp_path / looks, "--steps", 2, "--looks", looks)
        distributed.together(train_supervised.train, SimpleNamespace(**parse("train_supervised", "", words)))
        found.append(weights(tmp_path / looks)["model.main_head.branches.0.weight"])
    assert not any(torch.equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(SystemExit):
        parse("train_supervised", "", supervised_arguments(stores, tmp_path, "--looks", "fourier"))
    assert "invalid choice: 'fourier'" in capsys.readouterr().err
