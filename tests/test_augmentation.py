"""Augmentation policies: what they move, what they keep, and that nothing but the seed decides."""

import cv2
import numpy as np
import pytest

from common.seeds import generator
from data.augmentation import POLICIES, Augmentation, Elastic


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.normal(size=(128, 128)), (0, 0), 3)
    return ((image - image.min()) * 255 / np.ptp(image)).astype(np.uint8), (image > 0).astype(np.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_sample_is_a_pure_function_of_its_place(pair, policy):
    augment, other = Augmentation(policy), Augmentation(policy)
    for _ in range(5):
        augment(*pair, generator(9, "elsewhere", 1))
    for sample in range(8):
        first = augment(*pair, generator(0, "augmentation", 3, sample))
        second = other(*pair, generator(0, "augmentation", 3, sample))
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_samples_and_epochs_differ(pair):
    augment = Augmentation("extended")
    places = [(epoch, sample) for epoch in range(4) for sample in range(4)]
    images = [augment(*pair, generator(0, "augmentation", *place))[0] for place in places]
    assert len({image.tobytes() for image in images}) == len(images)


def test_none_changes_nothing(pair):
    image, mask = Augmentation("none")(*pair, generator(0, "x"))
    assert np.array_equal(image, pair[0]) and np.array_equal(mask, pair[1])


def test_basic_is_any_of_the_eight_symmetries(pair):
    """All eight come, so flips and turns are drawn independently: a seed shared by all transforms gives only two."""
    image, _ = pair
    symmetries = {np.ascontiguousarray(np.rot90(m, k)).tobytes() for m in (image, image.T) for k in range(4)}
    seen = {Augmentation("basic")(*pair, generator(0, "x", n))[0].tobytes() for n in range(100)}
    assert seen <= symmetries and len(seen) == 8


@pytest.mark.parametrize("policy", ["basic", "extended"])
def test_image_and_mask_move_together(pair, policy):
    """The mask is the image's bright part, so it must stay so wherever grey levels were not changed too."""
    image, mask = pair
    augment = Augmentation(policy)
    for n in range(20):
        moved, moved_mask = augment(255 * mask, mask, generator(0, "x", n))
        assert moved.shape == image.shape and set(np.unique(moved_mask)) <= {0, 1}
        agreement = np.mean((moved > moved.mean()) == (moved_mask == 1))
        assert agreement > (0.999 if policy == "basic" else 0.9)


def test_extended_bends_visibly_and_evenly():
    """The elastic displacement has the standard deviation that the policy says, near the border as inside."""
    elastic = next(one for one in Augmentation("extended")._compose.transforms if isinstance(one, Elastic))
    for side in (256, 636):
        rows, columns = np.indices((side, side), np.float32)
        drawn = []
        for seed in range(40):
            elastic.set_random_seed(seed)
            drawn.append(elastic.draw((side, side)) - np.stack([columns, rows], axis=-1))
        drawn = np.stack(drawn)
        border = np.concatenate([drawn[:, :8].ravel(), drawn[:, -8:].ravel(), drawn[:, :, :8].ravel()])
        assert drawn.std() == pytest.approx(2.5, rel=0.1) and border.std() == pytest.approx(2.5, rel=0.15)
        assert abs(drawn).max() < 6 * 2.5 and abs(np.diff(drawn, axis=1)).max() < 1, "no tear"
