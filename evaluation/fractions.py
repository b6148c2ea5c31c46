"""Phase fractions of a specimen with their uncertainty, from the fractions of its fields (ASTM E562, E1245).

A field is a random sample of the specimen. The mean of n fields has the 95 % confidence interval +- t s / sqrt(n): s is
the standard deviation between the fields, t is Student's quantile of n - 1 degrees of freedom. The relative accuracy is
half the interval over the mean. None of it knows whether the segmentation is right; what several models disagree about
is a part of that, and is stated beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # Student's t; scipy.stats takes a second to import

FIELD = 512  # px of a micrograph as imaged: the side of a field where micrographs are too few to be fields themselves
FEW = 5  # micrographs
ACCURACY = 0.1  # relative accuracy below which ASTM E562 calls a fraction accurate enough for most purposes
_ENOUGH = 10_000  # fields; more are as good as never


@dataclass(frozen=True)
class Fraction:
    """Fraction of a phase, with what is known of its error. All fractions of 1; nan where it cannot be known.

    std: sample standard deviation between the `fields`. ci95: half the 95 % confidence interval of the mean.
    std_models: sample standard deviation between the models' own fractions. ci95_with_models: half the interval with
    it, as if the truth were one more model.
    """

    mean: float
    fields: int
    std: float
    ci95: float
    std_models: float
    ci95_with_models: float

    @classmethod
    def of(cls, fields: Sequence[float], models: Sequence[float]) -> "Fraction":
        """Fraction from those of fields, and from those that each model by itself finds in all of them."""
        std, ci95 = _spread(fields)
        ci95 /= np.sqrt(len(fields))
        std_models, interval = _spread(models)
        both = np.hypot(ci95, interval * np.sqrt(1 + 1 / len(models)))
        return cls(float(np.mean(fields)), len(fields), std, float(ci95), std_models, float(both))

    @property
    def relative_accuracy(self) -> float:
        """Half the 95 % confidence interval over the mean; nan without either."""
        return self.ci95 / self.mean if self.mean else float("nan")

    @property
    def fields_needed(self) -> int | None:
        """Number of such fields for a relative accuracy of ACCURACY; None where it cannot be known or is no use."""
        if not self.mean or not np.isfinite(self.std):
            return None
        count = np.arange(2, _ENOUGH)
        enough = stdtrit(count - 1, 0.975) * self.std / np.sqrt(count) <= ACCURACY * self.mean
        return int(count[np.argmax(enough)]) if enough.any() else None


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Sample standard deviation, and Student's t of 95 % times it; nan of a single value."""
    if len(values) < 2:
        return float("nan"), float("nan")
    std = float(np.std(values, ddof=1))
    return std, float(stdtrit(len(values) - 1, 0.975) * std)


def fields_of(mask: np.ndarray, phase: int = 1) -> list[float]:
    """Fraction of a phase in each field of class indices (h, w), whose sides are FIELD px or a little more."""
    rows = np.array_split(mask == phase, max(1, mask.shape[0] // FIELD), axis=0)
    return [float(part.mean()) for row in rows for part in np.array_split(row, max(1, row.shape[1] // FIELD), 1)]


def of_specimen(images: Sequence[Sequence[float]], models: Sequence[Sequence[float]]) -> tuple[Fraction, str]:
    """Fraction of a specimen and what was taken as a field: 'image', or '512 px' where images are few.

    images: the fractions of each micrograph's fields; models: those of each micrograph by each model. The fields of one
    micrograph lie side by side, so they are no independent samples: the interval of few micrographs is too narrow.
    """
    whole, parts = [float(np.mean(fields)) for fields in images], [value for fields in images for value in fields]
    by_model = np.mean(models, axis=0)
    if len(images) < FEW and len(parts) > len(images):
        return Fraction.of(parts, by_model), f"{FIELD} px"
    return Fraction.of(whole, by_model), "image"


def sentence(fraction: Fraction, field: str, phase: str = "") -> str:
    """Say what a person quotes of a specimen, with a warning where it is too uncertain to be quoted."""
    text = f"phase fraction{f' of {phase}' * bool(phase)} {100 * fraction.mean:.1f} %"
    if np.isnan(fraction.ci95):
        return f"{text}, of one field; its error is unknown. Give more micrographs."
    kind = "images" if field == "image" else f"fields of {field}"
    text += f" ± {100 * fraction.ci95:.1f} % (95 % confidence, {fraction.fields} {kind}"
    text += (
        "" if np.isnan(fraction.std_models) else f"; ± {100 * fraction.ci95_with_models:.1f} % with the models' spread"
    )
    text += f"), relative accuracy {100 * fraction.relative_accuracy:.0f} %" if fraction.mean else ")"
    if fraction.relative_accuracy > ACCURACY:
        needed = fraction.fields_needed
        text += f"\nwarning: too few fields for {100 * ACCURACY:.0f} % relative accuracy (ASTM E562)"
        text += f"; it takes about {needed} such {kind}" if needed else ""
    return text
