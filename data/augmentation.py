"""The study's augmentation policies (paper Section 2.4.4), built with albumentations, seeded for each sample."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise every import asks the internet for a newer version

import albumentations as A
import cv2
import numpy as np

POLICIES = ("none", "basic", "extended")
_MIRROR = cv2.BORDER_REFLECT_101


def _basic() -> list:
    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5)]


def _extended() -> list:
    # The study's parameters are in a supplement that is not available; these are chosen for lath structures. The
    # elastic field has a standard deviation of about 5 pixels (alpha x 0.577 / (2 sqrt(pi) sigma)): packets bend
    # visibly, films do not tear. albumentations' defaults (alpha 1, sigma 50) would move nothing.
    return [
        *_basic(),
        A.Affine(
            scale=(0.85, 1.15), rotate=(-20, 20), translate_percent=(-0.06, 0.06), border_mode=_MIRROR, p=0.5
        ),
        A.ElasticTransform(alpha=600, sigma=20, border_mode=_MIRROR, p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.4),
        A.RandomGamma(gamma_limit=(75, 130), p=0.3),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.3),
        A.GaussianBlur(blur_limit=(3, 5), p=0.2),
    ]


class Augmentation:
    """Callable policy: (image uint8 (h, w), mask uint8 (h, w) or None, rng) -> the same, transformed together.

    The result is a pure function of its arguments, whatever the worker, process or epoch before.
    """

    def __init__(self, policy: str):
        """`policy`: one of POLICIES. ValueError otherwise."""
        if policy not in POLICIES:
            raise ValueError(f"augmentation {policy!r} is none of {', '.join(POLICIES)}")
        transforms = {"none": list, "basic": _basic, "extended": _extended}[policy]()
        self._compose = A.Compose(transforms) if transforms else None

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator):
        if self._compose is None:
            return image, mask
        # Compose.set_random_seed would give every transform the same seed, so that all of them act or none.
        for transform in self._compose.transforms:
            transform.set_random_seed(int(rng.integers(2**31)))
        inputs = {"image": image[..., None]} if mask is None else {"image": image[..., None], "mask": mask}
        result = self._compose(**inputs)
        return result["image"][..., 0], result.get("mask")
