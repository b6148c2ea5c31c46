"""Masks that do not lie on their micrographs: mirrored or turned ones, and those of other micrographs.

Where phases differ in grey level or texture, a mask fits its own micrograph better than a mirrored one, and than any
other. That says nothing where they hardly differ, or where a structure is its own mirror image, as layers are.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from common.limits import IGNORED

_SIDE = 96  # px, to which micrographs and masks are reduced
_WIDTH = 3.0  # px at working scale: standard deviation of the window in which texture is measured
_LEAST, _MOST = 3, 500  # masks, below which chance decides, and above which it takes too long
_BETTER, _GAIN = 2, 0.1  # times the fit, and what it has to gain at least
_OFTEN = 0.75  # of the masks
_LITTLE = 0.1  # of a mask's pixels may be ignored
_TURNS = {
    "mirrored left to right": lambda planes: planes[:, :, ::-1],
    "mirrored top to bottom": lambda planes: planes[:, ::-1],
    "turned by 180 degrees": lambda planes: planes[:, ::-1, ::-1],
}
_OF_SQUARES = {
    "turned by 90 degrees": lambda planes: np.rot90(planes, axes=(1, 2)),
    "turned by 270 degrees": lambda planes: np.rot90(planes, 3, axes=(1, 2)),
    "turned and mirrored": lambda planes: planes.transpose(0, 2, 1),
    "turned and mirrored the other way": lambda planes: planes[:, ::-1, ::-1].transpose(0, 2, 1),
}


def basis(image: np.ndarray) -> np.ndarray:
    """Grey level, its mean and its deviation nearby, of uint8 (h, w), as orthonormal columns (side x side, 3)."""
    grey = image.astype(np.float32)
    mean = cv2.GaussianBlur(grey, (0, 0), _WIDTH)
    deviation = np.sqrt(np.maximum(cv2.GaussianBlur(grey * grey, (0, 0), _WIDTH) - mean * mean, 0))
    columns = np.stack([_reduced(plane).ravel() for plane in (grey, mean, deviation)], axis=1)
    return np.linalg.qr(columns - columns.mean(axis=0))[0]


def planes(mask: np.ndarray, phases: int) -> np.ndarray | None:
    """Areas of the phases on a mask (phases, side, side), without their means, of length 1; None where they say little.

    They do so on masks of one phase, and where much is ignored.
    """
    areas = np.stack([_reduced((mask == phase).astype(np.float32)) for phase in range(phases)])
    areas -= areas.mean(axis=(1, 2), keepdims=True)
    length = np.linalg.norm(areas)
    return areas / length if length > 1 and (mask == IGNORED).mean() <= _LITTLE else None


def misfits(names: Sequence[str], bases: Sequence[np.ndarray], masks: Sequence[np.ndarray], square: bool) -> list[str]:
    """Say of a set's masks that they fit better another way round, or on other micrographs; a line for each, or none.

    bases, masks: as of `basis` and `planes`. square: a quarter turn leaves all micrographs their shape.
    """
    if not _LEAST <= len(names) <= _MOST:
        return []
    turns = _TURNS | _OF_SQUARES if square else _TURNS
    fits = {what: _fits(bases, [turn(one) for one in masks]) for what, turn in turns.items()}
    what = max(fits, key=lambda turn: fits[turn].trace())
    as_they_are = _fits(bases, masks)
    best, own = fits[what].diagonal(), as_they_are.diagonal()
    # What a turned mask gains on others' micrographs too is of their layout or shading, and no evidence.
    chance = max((of_turn.sum() - of_turn.trace()) / (of_turn.size - len(of_turn)) for of_turn in fits.values())
    least = max(_BETTER * own.mean(), own.mean() + _GAIN + _BETTER * chance)
    if best.mean() > least and (best > own).mean() >= _OFTEN:
        return [
            f"the masks fit their micrographs better when they are {what} (a fit of {best.mean():.2f}, and of "
            f"{own.mean():.2f} as they are; 1 is the most). Look at the contact sheet: were they saved so?"
        ]
    by_chance = _exchanged(fits["turned by 180 degrees"])  # which none fits but so
    least = _GAIN + _BETTER * max([gain for gain, _ in by_chance], default=0.0)
    found = [(gain, cycle) for gain, cycle in _exchanged(as_they_are) if gain > max(least, own[cycle].mean())]
    if found:
        moved = [
            f"that of '{names[mask]}' fits '{names[place]}'"
            for _, cycle in sorted(found, reverse=True)
            for place, mask in zip(cycle, cycle[1:] + cycle[:1], strict=True)
        ]
        more = f" and {len(moved) - 3} others" if len(moved) > 3 else ""
        return [
            f"masks fit other micrographs better than their own: {', '.join(moved[:3])}{more}. Look at the contact "
            "sheet: do the names belong together?"
        ]
    return []


def _fits(bases: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Share of a mask's variance that a micrograph explains (R^2 of a linear regression): (micrographs, masks)."""
    flat = np.concatenate([mask.reshape(len(mask), -1) for mask in masks])
    return np.stack([np.square(flat @ basis).reshape(len(masks), -1).sum(axis=1) for basis in bases])


def _exchanged(fits: np.ndarray) -> list[tuple[float, list[int]]]:
    """Lay masks on micrographs so that the sum of fits is largest: those that change places, and their mean gain.

    They are cycles: the first micrograph of one has the mask of the second, and the last that of the first.
    """
    _, places = linear_sum_assignment(-fits)
    found, left = [], {place for place, mask in enumerate(places) if mask != place}
    while left:
        cycle = [min(left)]
        while (mask := int(places[cycle[-1]])) != cycle[0]:
            cycle.append(mask)
        left -= {*cycle}
        gains = [fits[place, places[place]] - fits[places[place], places[place]] for place in cycle]
        found.append((float(np.mean(gains)), cycle))
    return found


def _reduced(plane: np.ndarray) -> np.ndarray:
    return cv2.resize(plane, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
