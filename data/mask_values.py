"""Values of a domain's masks, as its entry lists them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from common.errors import InputError
from data.annotations import SUFFIXES as OUTLINES
from data.annotations.outlines import of_image
from data.annotations.shapes import Annotated
from data.entries import Table
from data.mask_readings import MaskValue, Values
from data.store import MOST_CLASSES, are_names

_OF_TWO = ("foreground", "background", "threshold", "instances")  # keys that are of two phases only
OF_MASKS = ("mask_suffix", "values", "ignore", *_OF_TWO)  # keys
_LARGEST = 1 << 32  # of a number in a mask


def classes_of(table: Table) -> tuple[str, ...]:
    """Names of the phases, in the order of their classes; empty where there are foreground and background."""
    remedy = f"2 .. {MOST_CLASSES} different names of phases, of letters, digits, _ . + - and spaces"
    return tuple(table.take("classes", list, remedy, [], are_names))


def values_of(table: Table, masks: dict[str, Path], classes: Sequence[str] = ()) -> Values:
    """Values of the masks. InputError where one has two meanings.

    Outlines that all have one label need no `foreground`: they are it. classes: names of the phases, where `values`
    says what is which.
    """
    drawn = {stem: file for stem, file in masks.items() if file.suffix.lower() in OUTLINES}
    if "values" in table.entries or len(classes) > 2:
        return _by_name(table, classes, bool(drawn), len(drawn) == len(masks))
    instances = table.take("instances", bool, "true or false", False)
    threshold = table.take("threshold", int, "a grey level 1 .. 255", 0, lambda value: 1 <= value <= 255) or None
    for key in ("foreground", "background", "threshold"):
        if (instances or (threshold and key != "threshold")) and key in table.entries:
            other = "instances" if instances else "threshold"
            if not (instances and key == "background"):
                raise table.error(key, table.entries[key], f"`{other}` says already what is foreground; remove one")
    background = () if threshold else _values(table, "background", [0], bool(drawn))
    ignore = _values(table, "ignore", [], bool(drawn))
    if instances or threshold:
        foreground = ()
    elif "foreground" not in table.entries and len(drawn) == len(masks):
        foreground = _only_label(table, drawn, (background or ()) + ignore)
    else:
        foreground = _values(table, "foreground", None, bool(drawn))
    if foreground is None and background is None:
        raise table.error("background", "rest", "foreground is the rest already; list the values of one of the two")
    groups = {"foreground": foreground or (), "background": background or (), "ignore": ignore}
    for one, other in (("background", "foreground"), ("ignore", "foreground"), ("ignore", "background")):
        shared = set(groups[one]) & set(groups[other])
        if shared:
            given = "" if one in table.entries else "; this is the default, so list the values of `background` too"
            raise table.error(one, table.entries.get(one, [0]), f"{shared.pop()} is {other} too{given}")
    return Values(foreground, background, ignore, threshold, instances)


def _by_name(table: Table, classes: Sequence[str], drawn: bool, only_drawn: bool) -> Values:
    """Values of masks whose phases have names. A phase without an entry is on none of them.

    Outlines without `values` have the phases' names for labels, and no others; what has none is the first phase.
    """
    if not classes:
        raise table.error("values", table.entries["values"], "name the phases in `classes` of [options], or remove it")
    for key in _OF_TWO:
        if key in table.entries:
            why = f"there are {len(classes)} phases; say in [{table.where}.values] which values are which"
            raise table.error(key, table.entries[key], why)
    default = {name: [name] for name in classes} if only_drawn else None
    listed = table.take("values", dict, f"a table [{table.where}.values] with a list for each phase", default)
    of_phases = Table(table.path, f"{table.where}.values", listed, set(classes))
    found = {name: _values(of_phases, name, labels=drawn) if name in listed else () for name in classes}
    if not any(values != () for values in found.values()):
        raise table.error("values", listed, f"list the values of each phase: {', '.join(classes)}")
    if [*found.values()].count(None) > 1:
        raise table.error("values", listed, "only one phase is the rest; list the values of the others")
    ignore = _values(table, "ignore", [], drawn)
    for (one, values), (other, others) in combinations([*found.items(), ("ignore", ignore)], 2):
        shared = set(values or ()) & set(others or ())
        if shared:
            raise of_phases.error(one, listed[one], f"{shared.pop()} is {other} too")
    background, foreground, *more = found.values()
    return Values(foreground, background, ignore, more=tuple(more))


def _only_label(table: Table, drawn: dict[str, Path], others: tuple[MaskValue, ...]) -> tuple[MaskValue, ...]:
    """Label that all outlines have but `others`. InputError where they have several, or differ in what else is said."""
    left, traits = set(map(str, others)), {}
    for stem, file in drawn.items():
        for one in (of_image(file, stem) or Annotated()).shapes:
            if one.label not in left:
                of_label = traits.setdefault(one.label, defaultdict(set))
                for name, value in one.traits:
                    of_label[name].add(value)
    labels = sorted(traits)
    if len(labels) > 1:
        named = ", ".join(f'"{label[:100]}"' for label in labels[:20])
        raise InputError(f"{table.path}: {table.where} lacks the key 'foreground'; labels are {named}; or \"rest\"")
    for name, found in traits[labels[0]].items() if labels else ():
        if len(found) > 1:
            named = ", ".join(sorted(found)[:8]) + ", ..." * (len(found) > 8)
            raise InputError(
                f'{table.path}: {table.where}.masks: outlines of label "{labels[0][:100]}" differ in "{name[:100]}": '
                f"{named[:400]}. Only labels can be phases: make labels of them, or give foreground = "
                f'["{labels[0][:100]}"] if all are the phase'
            )
    return tuple(labels)


def _values(table: Table, key: str, default: list | None = None, labels: bool = False) -> tuple[MaskValue, ...] | None:
    """Mask values of a key: ints for numbers, (r, g, b) for colours, None for "rest"; texts too where `labels`."""
    rest = key != "ignore"
    remedy = 'grey values 0 .. 255 or other whole numbers, or colours "#rrggbb", in a list' + ', or "rest"' * rest
    values = table.take(
        key, (list, str) if rest else list, remedy, default,
        lambda value: value == "rest" or (isinstance(value, list) and bool(value)),
    )  # fmt: skip
    if values == "rest":
        return None
    parsed = []
    for value in values:
        if type(value) is int and -_LARGEST <= value <= _LARGEST:
            parsed.append(value)
        elif isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
            parsed.append(tuple(bytes.fromhex(value[1:])))
        elif isinstance(value, str) and labels:
            parsed.append(value)
        else:
            raise table.error(key, value, f"it must be {remedy}")
    return tuple(parsed)
