"""The study's augmentation policies (paper Section 2.4.4), built with albumentations, seeded for each sample."""

import functools
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise every import asks the internet for a newer version

import albumentations as A
import cv2
import numpy as np

_MIRROR = cv2.BORDER_REFLECT_101


class Elastic(A.DualTransform):
    """Elastic transformation (Simard et al., 2003) by a Gaussian random field, from a grid as coarse as it is smooth.

    `std` is the standard deviation of the displacement along each axis and `sigma` that of the field's Gaussian kernel,
    both in px, the same over the whole tile. The field varies over several times `sigma`. So it is drawn and smoothed
    at a fifth of the resolution, then enlarged: a tenth of the time, and hundredths of a px of difference.
    albumentations' own field is scaled by its largest draw and repeats single draws along the border, where it moves
    pixels ten times as far as inside (docs/performance.md).
    """

    _CELLS = 4  # grid cells in one sigma

    def __init__(self, std: float, sigma: float, p: float):
        super().__init__(p=p)
        self.std, self.sigma = std, sigma

    def get_params_dependent_on_data(self, params: dict, data: dict) -> dict:
        return {"field": self.draw(params["shape"][:2])}

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """Draw the place that each pixel of (h, w) comes from: float32 (h, w, 2), columns and rows in px."""
        height, width = shape
        spacing, margin = self.sigma / self._CELLS, 3 * self._CELLS
        # From outside the tile too, or the field would be weaker at its border.
        rows, columns = (int(np.ceil(side / spacing)) + 2 * margin for side in shape)
        noise = self.random_generator.standard_normal((rows, columns, 2), dtype=np.float32)
        smooth = cv2.GaussianBlur(noise, (0, 0), self._CELLS)[margin:-margin, margin:-margin]
        smooth *= self.std * 2 * np.sqrt(np.pi) * self._CELLS  # smoothing leaves 1 / (2 sqrt(pi) sigma) of white noise
        size = (round(smooth.shape[1] * spacing), round(smooth.shape[0] * spacing))
        return _coordinates(shape) + cv2.resize(smooth, size)[:height, :width]

    def apply(self, img: np.ndarray, field: np.ndarray, **params: object) -> np.ndarray:
        return cv2.remap(img, field, None, cv2.INTER_LINEAR, borderMode=_MIRROR).reshape(img.shape)

    def apply_to_mask(self, mask: np.ndarray, field: np.ndarray, **params: object) -> np.ndarray:
        return cv2.remap(mask, field, None, cv2.INTER_NEAREST, borderMode=_MIRROR).reshape(mask.shape)


@functools.lru_cache(maxsize=4)
def _coordinates(shape: tuple[int, int]) -> np.ndarray:
    """Column and row of every pixel, float32 (h, w, 2)."""
    rows, columns = np.indices(shape, np.float32)
    return np.stack([columns, rows], axis=-1)


def _basic() -> list:
    return [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), A.RandomRotate90(p=0.5)]


def _extended() -> list:
    # The study's parameters are in a supplement that is not available; these are chosen for lath structures: packets
    # bend visibly, films do not tear. albumentations' defaults of ElasticTransform (alpha 1, sigma 50) move nothing.
    return [
        *_basic(),
        A.Affine(scale=(0.85, 1.15), rotate=(-20, 20), translate_percent=(-0.06, 0.06), border_mode=_MIRROR, p=0.5),
        Elastic(std=2.5, sigma=20, p=0.3),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.4),
        A.RandomGamma(gamma_limit=(75, 130), p=0.3),
        A.GaussNoise(std_range=(0.01, 0.05), p=0.3),
        A.GaussianBlur(blur_limit=(3, 5), p=0.2),
    ]


def _grey() -> list:
    # The strong view of self-training: stronger than the extended policy, and nothing moves.
    return [
        A.RandomBrightnessContrast(brightness_limit=0.3, contrast_limit=0.3, p=0.8),
        A.RandomGamma(gamma_limit=(65, 150), p=0.5),
        A.GaussNoise(std_range=(0.02, 0.08), p=0.5),
        A.GaussianBlur(blur_limit=(3, 5), p=0.3),
    ]


_TRANSFORMS = {"none": list, "basic": _basic, "extended": _extended, "grey": _grey}
POLICIES = tuple(_TRANSFORMS)


class Augmentation:
    """Callable policy: (image uint8 (h, w), mask uint8 (h, w) or None, rng) -> the same, transformed together.

    The result is a pure function of its arguments, whatever the worker, process or epoch before.
    """

    def __init__(self, policy: str):
        """Build a policy of POLICIES. ValueError for another name."""
        if policy not in POLICIES:
            raise ValueError(f"augmentation {policy!r} is none of {', '.join(POLICIES)}")
        transforms = _TRANSFORMS[policy]()
        self._compose = A.Compose(transforms) if transforms else None

    def __call__(
        self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if self._compose is None:
            return image, mask
        # Compose.set_random_seed would give every transform the same seed, so that all of them act or none.
        for transform in self._compose.transforms:
            transform.set_random_seed(int(rng.integers(2**31)))
        inputs = {"image": image[..., None]} if mask is None else {"image": image[..., None], "mask": mask}
        result = self._compose(**inputs)
        return result["image"][..., 0], result.get("mask")
