"""Masks that do not lie on their micrographs are warned of, and no others."""

import cv2
import numpy as np
import pytest
from conftest import annotated, domains_toml, draw

from data.domains import read_domains
from data.oddities import oddities
from data.prepare import prepare_domain
from data.store import Store

COUNT = 5


def said_of(folder, change, size=(160, 150), draws=draw, **entry):
    """Change the masks {name: pixels} of drawn micrographs, and prepare them: what is warned of."""
    draws(folder / "source", COUNT, seed=3, contrast=1.0, size=size)
    place = folder / "source" / "masks"
    masks = {f"m{k}": cv2.imread(str(place / f"m{k}.png"), cv2.IMREAD_GRAYSCALE) for k in range(COUNT)}
    for name, pixels in change(masks).items():
        cv2.imwrite(str(place / f"{name}.png"), pixels)
    (folder / "domains.toml").write_text(domains_toml(source=annotated("source", **entry)))
    options, domains = read_domains(folder / "domains.toml")
    return oddities(Store(prepare_domain(options, domains["source"], folder / "stores")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda mask: mask[:, ::-1], "mirrored left to right"),
        (lambda mask: mask[::-1], "mirrored top to bottom"),
        (lambda mask: mask[::-1, ::-1], "turned by 180 degrees"),
        (lambda mask: np.rot90(mask), "turned by 270 degrees"),
        (lambda mask: np.rot90(mask, 3), "turned by 90 degrees"),
        (lambda mask: mask.T, "turned and mirrored ("),
    ],
)
def test_masks_that_were_turned_are_told_how_to_lie_right(tmp_path, change, said):
    (found,) = said_of(tmp_path, lambda masks: {name: change(mask) for name, mask in masks.items()}, size=(160, 160))
    assert f"better when they are {said}" in found and "contact sheet" in found


def test_masks_of_other_micrographs_are_named(tmp_path):
    (found,) = said_of(tmp_path, lambda masks: masks | {"m1": masks["m3"], "m3": masks["m1"]})
    assert "that of 'm3' fits 'm1', that of 'm1' fits 'm3'." in found


def test_only_those_that_were_exchanged_are_named(tmp_path):
    """Among others of which nothing can be told."""

    def draws(folder, count, seed, contrast, size):
        _shaded(folder, 3 * count, seed, contrast, size)
        draw(folder / "good", count, seed + 1, contrast, size)
        for kind in ("images", "masks"):
            for k in range(count):
                (folder / "good" / kind / f"m{k}.png").replace(folder / kind / f"m{k}.png")

    (found,) = said_of(tmp_path, lambda masks: masks | {"m1": masks["m3"], "m3": masks["m1"]}, draws=draws)
    assert "that of 'm3' fits 'm1', that of 'm1' fits 'm3'." in found


def test_a_number_that_is_one_too_high_is_noticed(tmp_path):
    def next_one(masks):
        return {name: masks[f"m{(int(name[1:]) + 1) % COUNT}"] for name in masks}

    (found,) = said_of(tmp_path, next_one)
    assert "that of 'm4' fits 'm0'" in found and "and 2 others" in found


def _symmetrical(folder, count, seed, contrast, size):
    """Draw layers, which are their own mirror images."""
    draw(folder, count, seed, contrast, size)
    rng = np.random.default_rng(seed)
    for k in range(count):
        mask = np.zeros(size, np.uint8)
        mask[60:100] = 255
        cv2.imwrite(str(folder / "masks" / f"m{k}.png"), mask)
        cv2.imwrite(str(folder / "images" / f"m{k}.png"), (mask // 2 + rng.integers(60, 100, size)).astype(np.uint8))


def _plain(folder, count, seed, contrast, size):
    """Draw noise that knows nothing of its mask."""
    draw(folder, count, seed, contrast, size)
    rng = np.random.default_rng(seed)
    for k in range(count):
        cv2.imwrite(str(folder / "images" / f"m{k}.png"), rng.integers(60, 200, size).astype(np.uint8))


def _section(folder, count, seed, contrast, size):
    """Draw cross sections: a layer at the top that hardly differs, and black resin, or a bar, at the bottom."""
    draw(folder, count, seed, contrast, size)
    rng = np.random.default_rng(seed)
    for k in range(count):
        edge = 25 + 4 * cv2.GaussianBlur(rng.normal(size=(1, size[1])), (0, 0), 3)[0]
        mask = np.arange(size[0])[:, None] < edge
        image = 140 + 8 * mask + 8 * rng.normal(size=size)
        image[-30 - k :] = 15
        cv2.imwrite(str(folder / "masks" / f"m{k}.png"), (255 * mask).astype(np.uint8))
        cv2.imwrite(str(folder / "images" / f"m{k}.png"), image.clip(0, 255).astype(np.uint8))


def _shaded(folder, count, seed, contrast, size):
    """Draw phases of no contrast under a light from one side."""
    draw(folder, count, seed, contrast, size)
    rng = np.random.default_rng(seed)
    for k in range(count):
        light = np.linspace(-60, 60, size[1])[None] + np.linspace(-20, 20, size[0])[:, None]
        image = 128 + light + 5 * rng.normal(size=size)
        cv2.imwrite(str(folder / "images" / f"m{k}.png"), image.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("draws", [draw, _symmetrical, _plain, _section, _shaded])
def test_right_masks_and_what_cannot_be_told_are_not_warned_of(tmp_path, draws):
    found = said_of(tmp_path, lambda masks: masks, draws=draws)
    assert not [line for line in found if "better" in line]


def test_two_masks_and_ignored_ones_are_no_evidence(tmp_path):
    """Two masks may fit better by chance, and what is ignored shows nothing."""

    def mostly_ignored(masks):
        turned = {name: mask[:, ::-1].copy() for name, mask in masks.items()}
        for name in ("m0", "m1", "m2"):
            turned[name][:60] = 77
        return turned

    assert said_of(tmp_path, mostly_ignored, ignore=[77]) == []
