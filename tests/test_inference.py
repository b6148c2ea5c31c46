"""Overlap-tile inference gives what the network gives for the whole micrograph, at bounded memory."""

import json
import re
import sys
import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import models
from benchmarks import inference as benchmark
from common.errors import InputError
from data.images import prepare_micrograph
from evaluation.figures import overlay
from evaluation.inference import (
    by_symmetries,
    for_inference,
    predict,
    predict_bands,
    resized,
    segment,
    window_batches,
)
from evaluation.members import Member
from evaluation.segment_folder import SPECIMEN, segment_folder


class Convolutions(nn.Module):
    """Receptive radius `radius`, without padding of its own that would show at a window's edge."""

    def __init__(self, radius):
        super().__init__()
        torch.manual_seed(radius)
        layers = [[nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1), nn.Tanh()] for i in range(radius - 1)]
        last = nn.Conv2d(4 if radius > 1 else 1, 1, 3, padding=1)
        self.layers = nn.Sequential(*(module for pair in layers for module in pair), last)

    def forward(self, images):
        return {"main": 4 * self.layers(images.float() / 255)}


def micrograph(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def whole(model, image, overlap):
    padded = np.pad(image, overlap, mode="reflect")
    with torch.no_grad():
        logits = model(torch.from_numpy(padded)[None, None])["main"]
    return models.probabilities(logits)[0].numpy()[:, overlap:-overlap, overlap:-overlap]


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
        corner = models.probabilities(model(torch.from_numpy(image[8:, 8:16].copy())[None, None])["main"])[0].numpy()
    np.testing.assert_allclose(predict(model, image, 8, 0)[:, 8:, 8:16], corner, atol=1e-6)


@pytest.mark.parametrize("phases", [1, 3])
def test_symmetries_are_averaged_in_probability(phases):
    """As of whole micrographs turned and mirrored, where the windows of these lie on the same pixels."""
    torch.manual_seed(0)
    layer, image = nn.Conv2d(1, phases, 5, padding=2), micrograph(64, 32)

    def network(images):
        return {"main": 9 * layer(images.float() / 255)}

    each = []
    for mirrored in (False, True):
        for turns in range(4):
            seen = np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))
            back = np.rot90(predict(network, seen, 32, 8), -turns, (1, 2))
            each.append(back[:, :, ::-1] if mirrored else back)
    found = predict(by_symmetries(network), image, 32, 8)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)
    assert np.std(each, axis=0).max() > 0.05 and found.shape[0] == max(phases, 2)
    np.testing.assert_allclose(predict(by_symmetries(network), np.rot90(image).copy(), 32, 8),
                               np.rot90(found, 1, (1, 2)), atol=1e-5)  # fmt: skip
    sure = by_symmetries(lambda images: {"main": torch.full_like(images, 1e4, dtype=torch.float32)})
    assert predict(sure, image, 32, 8)[1].min() == 1, "a probability of 0 has a logarithm too"


@pytest.mark.parametrize("shape", [(100, 90), (48, 48), (10, 130)])
def test_batches_of_windows_are_those_that_are_predicted(shape):
    seen, image = [], micrograph(*shape)

    def network(images):
        seen.append(images.clone())
        return {"main": images.float()}

    predict(network, image, 48, 8)
    batches = list(window_batches(image, 48, 8, "cpu", size=4))
    assert torch.equal(torch.cat(batches), torch.cat(seen))
    assert max(map(len, batches)) <= 4 and max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (50, 31), (200, 3)])
@pytest.mark.parametrize("overlap", [0, 5, 30])
def test_blending_keeps_a_constant(shape, overlap):
    def constant(images):
        return {"main": torch.full(images.shape, 0.3)}

    _, probability = predict(constant, micrograph(*shape), 16, overlap)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-0.3)), atol=1e-6)


def test_windows_that_disagree_are_blended_without_a_step():
    def brightness_of_the_window(images):
        return {"main": (images.float().mean((2, 3), keepdim=True) / 32 - 4).expand(images.shape)}

    image = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None], 32, 0)

    def largest_step(overlap):
        return np.abs(np.diff(predict(brightness_of_the_window, image, 32, overlap), axis=2)).max()

    assert largest_step(16) < largest_step(0) / 8


def test_bands_are_consecutive_and_make_up_the_prediction():
    model, image = Convolutions(2), micrograph(75, 40)
    bands = list(predict_bands(model, image, 16, 4))
    assert [row for row, _ in bands] == list(np.cumsum([0] + [band.shape[1] for _, band in bands[:-1]]))
    np.testing.assert_array_equal(np.concatenate([band for _, band in bands], axis=1), predict(model, image, 16, 4))


def test_memory_does_not_grow_with_the_height():
    def cheap(images):
        return {"main": images.float()}

    def peak(height):
        image = np.zeros((height, 64), np.uint8)
        tracemalloc.start()
        for _, band in predict_bands(cheap, image, 32, 8):
            assert band.shape[1] <= 32 + 2 * 8
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(64)
    assert peak(64 * 256) < 1.5 * peak(64 * 4)


def adapted(name):
    """A random network whose two domains have different statistics, and logits as large as a trained one's."""
    torch.manual_seed(0)
    model = models.domain_batch_norm(models.build(name)).eval()
    images = torch.from_numpy(np.stack([micrograph(64, 80, seed)[None] for seed in range(4)]))
    for domain, brightness in (("source", 1), ("target", 0.5)):
        models.set_domain(model, domain)
        models.reestimate_statistics(model, [images * brightness])
    with torch.no_grad():
        logits = model(images)["main"]
        heads = model.main_head.branches if hasattr(model, "main_head") else [model.head]
        heads[0].bias -= logits.median()
        for parameter in (parameter for head in heads for parameter in head.parameters()):
            parameter /= max(1, logits.std())
    return model


@pytest.mark.parametrize("name", ["deeplabv2_small", "deeplabv2_resnet18", "deeplabv2_resnet50", "unet_small"])
def test_the_copy_for_inference_predicts_what_the_network_does(name):
    model, image = adapted(name), micrograph(90, 70)
    found = {}
    for domain in ("source", "target"):
        models.set_domain(model, domain)
        fast, found[domain] = for_inference(model), predict(model, image, 48, 8)
        models.set_domain(model, "source")  # what happens to the network later does not matter
        np.testing.assert_allclose(predict(fast, image, 48, 8), found[domain], atol=1e-4)  # rounding
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert name == "unet_small" or np.abs(found["source"] - found["target"]).max() > 1e-3


def test_a_network_is_the_same_after_its_copy_for_inference():
    model = adapted("deeplabv2_small").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for_inference(model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_folder_is_segmented_as_each_micrograph_alone(tmp_path):
    """Reading ahead and writing behind change neither the files nor the order of results and errors."""
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    pictures = {f"m{n}.png": cv2.GaussianBlur(micrograph(40 + n, 60 - n, n), (0, 0), 2) for n in range(6)}
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / name), picture)
    for name in ("m1.png", "m4.png"):
        (folder / name).write_bytes(b"")
    (folder / "m2.tif").write_bytes((folder / "m2.png").read_bytes())  # sorted before the m2.png that is the same
    model = adapted("deeplabv2_small")
    native = {"pixel_size_nm": 2.0, "invert": True, "information_bar": 3}
    preparation = {"tile": 48, "overlap": 8, "scale": 0.5, "reference_pixel_size_nm": 1.6, "native": native}
    member = Member(folder, "last", model, {"target": "t"}, preparation, 0)
    options = dict.fromkeys(("pixel_size", "invert", "information_bar", "page", "images_of"))
    with pytest.raises(InputError) as caught:
        segment_folder([member], SimpleNamespace(images=folder, out=out, **options), "cpu")
    assert re.findall(r"m\d\.\w+(?=: is empty|: another)", str(caught.value)) == ["m1.png", "m2.tif", "m4.png"]

    network = for_inference(model)
    rows = [row.split(",") for row in (out / "phase_fractions.csv").read_text().splitlines()[1:]]
    good = ["m0.png", "m2.png", "m3.png", "m5.png"]
    assert [row[0] for row in rows] == [*good, SPECIMEN] and sorted(f.name for f in (out / "masks").iterdir()) == good
    for name, row in zip(good, rows, strict=False):
        picture = pictures[name]
        working = prepare_micrograph(picture, 0.625, invert=True, information_bar=3)
        found = segment([network], [working], 48, 8, picture[:-3].shape)
        mask = np.pad(255 * found.classes, ((0, 3), (0, 0)))
        assert 0 < found.classes.mean() < 1 and float(row[4]) == found.classes.mean()
        assert 0.5 <= float(row[-1]) == pytest.approx(found.confidence.mean() / 255)
        np.testing.assert_array_equal(cv2.imread(str(out / "masks" / name), cv2.IMREAD_UNCHANGED), mask)
        shown = cv2.imread(str(out / "overlays" / name))[..., ::-1]
        np.testing.assert_array_equal(shown, overlay(picture, mask // 255))
        assert cv2.imread(str(out / "confidence" / name)).shape == (*picture.shape, 3)


def test_models_that_are_shown_other_sizes_vote_by_the_mean_of_their_probabilities():
    image = np.random.default_rng(3).integers(0, 256, (150, 170), np.uint8)
    networks = [for_inference(models.build("deeplabv2_small").eval()) for _ in range(3)]
    shown = [image, cv2.resize(image, None, fx=0.5, fy=0.5), cv2.resize(image, None, fx=1.4, fy=1.4)]
    largest = shown[2].shape
    found = segment(networks, shown, 48, 8, largest)
    alone = [predict(network, seen, 48, 8) for network, seen in zip(networks, shown, strict=True)]
    mean = np.mean([resized(one, largest) for one in alone], axis=0)
    assert mean.shape == (2, *largest) and np.mean(found.classes == mean.argmax(0)) > 0.999
    assert np.mean(found.classes == alone[2].argmax(0)) < 0.99, "they differ, or nothing would be seen here"
    for place, one in enumerate(alone):
        of_all = [(resized(one, largest).argmax(0) == phase).mean() for phase in range(2)]
        assert found.fractions[place] == pytest.approx(of_all, abs=1e-6)


def test_the_benchmark_compares_with_the_plain_loop(tmp_path, monkeypatch):
    found = tmp_path / "found.json"
    options = ["--sides", "--crop", 100, "--tile", 48, "--overlap", 8, "--repeats", 1]
    options += ["--device", "cpu", "--json", found]
    monkeypatch.setattr(sys, "argv", ["inference", *map(str, options)])
    benchmark.main()
    (row,) = json.loads(found.read_text())["rows"]
    assert row["times the loop"]["least"] > 0 and row["greatest difference of probability"] < 1e-4
    row = benchmark.whole(benchmark.parse(), 100, colour=True)
    assert row["micrograph"].startswith("100 x 100 RGB") and 0 < row["resident, GB"] < 8
