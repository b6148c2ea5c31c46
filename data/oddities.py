"""Oddities of a store: what is allowed and rarely meant, of which data.verify warns."""

from collections import defaultdict

import numpy as np

from common.limits import IGNORED
from data.copies import listed, of_one_field, pattern
from data.levels import FEW_LEVELS, has_few_levels
from data.masks import phase_fraction
from data.store import Store

_ALIKE, _FAR = 0.1, 3  # phase fractions, and times their median distance


def oddities(store: Store) -> list[str]:
    """List what is allowed and rarely meant: micrographs of few grey levels or of one field, masks without foreground.

    Of more than two phases: a phase that no annotation has.
    """
    found = _of_one_field(store)
    for micrograph in store.micrographs:
        image = store.image(micrograph.index)
        mask = store.mask(micrograph.index) if micrograph.labelled else None
        if image.min() == image.max():
            found.append(f"micrograph '{micrograph.name}' is uniform, grey level {image.min()}; check the image file")
        elif has_few_levels(image):
            found.append(
                f"micrograph '{micrograph.name}' has {FEW_LEVELS} grey levels or fewer nearly everywhere; is it a mask?"
            )
        if mask is not None and (mask == IGNORED).all():
            found.append(f"mask of '{micrograph.name}' is all ignored; check the mask file and `ignore`")
        elif mask is not None and store.phases == 2 and not (mask == 1).any():
            found.append(f"mask of '{micrograph.name}' has no foreground; check the mask file and `foreground`")
    return found + (_swapped(store) if store.phases == 2 else _absent(store))


def _of_one_field(store: Store) -> list[str]:
    """Warn of micrographs that count as several, and show one field; a line for those that a score is too good by."""
    shown = [place for place, one in enumerate(store.micrographs) if np.ptp(store.image(one.index))]
    patterns = [pattern(store.image(store.micrographs[place].index)) for place in shown]
    digests = [store.metadata["micrographs"][place]["image_digest"] for place in shown]
    apart, together = {}, {}
    for group in of_one_field(patterns, digests):
        micrographs = [store.micrographs[shown[place]] for place in group]
        names = tuple(dict.fromkeys(one.parent for one in micrographs))
        if len(names) > 1:
            held_out_alone = len({(one.fold, one.test) for one in micrographs}) > 1
            (apart if held_out_alone else together)[names] = None
    found = []
    if apart:
        found.append(
            f"{listed([*apart])}: look like one field, but lie in different folds or in test and training, so that "
            "scores are too good. If so, keep one of them, or give them one fold in a table"
        )
    if together:
        found.append(f"{listed([*together])}: look like one field and count as several. If so, keep one of them")
    return found


def _absent(store: Store) -> list[str]:
    """Warn of phases that are on no mask of a domain, and have values there."""
    there = {phase for m in store.micrographs if m.labelled for phase in np.unique(store.mask(m.index)).tolist()}
    values = store.metadata["parameters"].get("values", {})
    listed = [phase for phase, name in enumerate(store.classes) if values.get(name) != []]
    absent = [store.classes[phase] for phase in listed if there and phase not in there]
    return [f"no mask has {name}; check the mask files and `values`" for name in absent]


def _swapped(store: Store) -> list[str]:
    """Warnings of masks whose phase fraction is about 1 - that of the others: their values may be swapped."""
    shares = defaultdict(list)
    for micrograph in store.micrographs:
        if micrograph.labelled:
            shares[micrograph.parent].append(phase_fraction(store.mask(micrograph.index)))
    fractions = {name: float(np.mean(of)) for name, of in shares.items() if not np.isnan(np.mean(of))}
    found = []
    for name, fraction in fractions.items():
        others = np.array([other for one, other in fractions.items() if one != name])
        usual = np.median(others) if len(others) > 1 else 0.5
        far = abs(fraction - usual) > _FAR * np.median(np.abs(others - usual)) if len(others) > 1 else False
        if far and abs(fraction - (1 - usual)) < _ALIKE < abs(usual - 0.5):
            found.append(
                f"mask of '{name}' has {100 * fraction:.0f} % foreground, and the others {100 * usual:.0f} %, about as "
                "much as it has background: are its values swapped?"
            )
    return found
