"""Oddities of a store: what is allowed and rarely meant, of which data.verify warns."""

from collections import defaultdict

import numpy as np

from common.limits import IGNORED
from data.copies import listed, of_one_field, pattern
from data.fit import basis, misfits, planes
from data.levels import FEW_LEVELS, has_few_levels
from data.masks import phase_fraction
from data.store import Micrograph, Store

_ALIKE, _FAR = 0.1, 3  # phase fractions, and times their median distance


def oddities(store: Store) -> list[str]:
    """List what is allowed and rarely meant: micrographs of few grey levels or of one field, masks of one phase.

    Masks that several have, or that lie on the wrong micrograph. Of more than two phases: a phase that no annotation
    has.
    """
    found, shown, patterns, laid = [], [], [], []
    one_field = len({micrograph.parent for micrograph in store.micrographs}) == len(store.micrographs)
    for micrograph in store.micrographs:
        image = store.image(micrograph.index)
        if image.min() < image.max():  # uniform ones are alike, and no copies
            shown.append(micrograph)
            patterns.append(pattern(image))
        mask = store.mask(micrograph.index) if micrograph.labelled else None
        if image.min() == image.max():
            found.append(f"micrograph '{micrograph.name}' is uniform, grey level {image.min()}; check the image file")
        elif has_few_levels(image):
            found.append(
                f"micrograph '{micrograph.name}' has {FEW_LEVELS} grey levels or fewer nearly everywhere; is it a mask?"
            )
        if mask is not None and (mask == IGNORED).all():
            found.append(f"mask of '{micrograph.name}' is all ignored; check the mask file and `ignore`")
        elif mask is not None and store.phases == 2 and len(there := np.unique(mask[mask != IGNORED])) == 1:
            absent = store.classes[1 - there[0]]
            found.append(f"mask of '{micrograph.name}' has no {absent}; check the mask file and `foreground`")
        if mask is not None and one_field and (areas := planes(mask, store.phases)) is not None:
            laid.append((micrograph, basis(image), areas))
    digests = [store.metadata["micrographs"][one.index]["image_digest"] for one in shown]
    groups = [[shown[place] for place in group] for group in of_one_field(patterns, digests)]
    fields = [group for group in groups if len({one.parent for one in group}) > 1]
    found = _of_one_field(fields) + _equal_masks(store, fields) + found
    found += misfits(
        [one.name for one, _, _ in laid], *([each[part] for each in laid] for part in (1, 2)),
        square=all(one.height == one.width for one, _, _ in laid),
    )  # fmt: skip
    return found + (_swapped(store) if store.phases == 2 else _absent(store))


def _of_one_field(fields: list[list[Micrograph]]) -> list[str]:
    """Warn of micrographs that count as several, and show one field; a line for those that a score is too good by."""
    apart = [group for group in fields if _lie_apart(group)]
    together = [group for group in fields if group not in apart]
    found = []
    if apart:
        found.append(
            f"{_names(apart)}: look like one field, but lie in different folds or in test and training, so that "
            "scores are too good. If so, keep one of them, or give them one fold in a table"
        )
    if together:
        found.append(f"{_names(together)}: look like one field and count as several. If so, keep one of them")
    return found


def _equal_masks(store: Store, fields: list[list[Micrograph]]) -> list[str]:
    """Warn of micrographs that have equal masks and do not look like one field. Masks of one phase are often equal."""
    equal = defaultdict(list)
    for micrograph, entry in zip(store.micrographs, store.metadata["micrographs"], strict=True):
        if micrograph.labelled:
            equal[entry["mask_digest"]].append(micrograph)
    groups = []
    for group in equal.values():
        several = len({one.parent for one in group}) > 1 and not any(set(group) <= set(field) for field in fields)
        mask = store.mask(group[0].index) if several else None
        if several and len(np.unique(mask[mask != IGNORED])) > 1:
            groups.append(group)
    apart = "; in different folds or in test and training, scores are then too good" * any(map(_lie_apart, groups))
    said = f"{_names(groups)}: have one mask and other pictures; was it copied, or is it one field{apart}?"
    return [said] if groups else []


def _lie_apart(group: list[Micrograph]) -> bool:
    return len({(one.fold, one.test) for one in group}) > 1


def _names(groups: list[list[Micrograph]]) -> str:
    """Name the files of groups, those that have several of the fields of view in common once."""
    return listed([*dict.fromkeys(tuple(sorted({one.parent for one in group})) for group in groups)])


def _absent(store: Store) -> list[str]:
    """Warn of phases that are on no mask of a domain, and have values there."""
    there = {phase for m in store.micrographs if m.labelled for phase in np.unique(store.mask(m.index)).tolist()}
    values = store.metadata["parameters"].get("values", {})
    wanted = [phase for phase, name in enumerate(store.classes) if values.get(name) != []]
    absent = [store.classes[phase] for phase in wanted if there and phase not in there]
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
