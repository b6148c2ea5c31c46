"""Values of a domain's masks, as its entry lists them."""

import re
from pathlib import Path

from common.errors import InputError
from data.annotations import SUFFIXES as OUTLINES
from data.annotations.outlines import of_image
from data.annotations.shapes import Annotated
from data.entries import Table
from data.masks import MaskValue, Values

OF_MASKS = ("mask_suffix", "foreground", "background", "ignore", "threshold", "instances")  # keys
_LARGEST = 1 << 32  # of a number in a mask


def values_of(table: Table, masks: dict[str, Path]) -> Values:
    """Values of the masks. InputError where one has two meanings.

    Outlines that all have one label need no `foreground`: they are it.
    """
    drawn = {stem: file for stem, file in masks.items() if file.suffix.lower() in OUTLINES}
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
            raise table.error(one, table.entries.get(one, [0]), f"{shared.pop()} is {other} too")
    return Values(foreground, background, ignore, threshold, instances)


def _only_label(table: Table, drawn: dict[str, Path], others: tuple[MaskValue, ...]) -> tuple[MaskValue, ...]:
    """Label that all outlines have but `others`. InputError where they have several."""
    labels = {one.label for stem, file in drawn.items() for one in (of_image(file, stem) or Annotated()).shapes}
    labels = sorted(labels - set(map(str, others)))
    if len(labels) > 1:
        named = ", ".join(f'"{label[:100]}"' for label in labels[:20])
        raise InputError(f"{table.path}: {table.where} lacks the key 'foreground'; labels are {named}; or \"rest\"")
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
