"""Annotation files to masks: which values are which phase, and which count nowhere."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.limits import IGNORED
from data import annotations
from data.annotations.labels import read_labels
from data.annotations.outlines import of_image
from data.annotations.shapes import draw, misfit, of_page
from data.decoding import Decoded, decode
from data.file_facts import Facts
from data.images import bands, colours_of, crop_information_bar, to_grey, to_uint8
from data.mask_readings import INSTANCES, SOFT, Judged, MaskValue, Values, greys_of, is_grey, readings, shown
from data.tiff import Page

_TINT, _COLOURED = 32, 1e-3  # difference of channels that JPEG leaves in grey; share of pixels that make a colour mask
_NEAR, _PICTURE = 32, 0.5  # grey levels from black and white; share of pixels in between that makes a micrograph
_LISTED, _FILES = 24, 6  # values, and files of each, in a message


class UnknownValues(InputError):
    """A mask with values that are not listed: `pixels` has the number of each, by the value as it is written."""

    def __init__(self, path: Path, pixels: dict[str, int], values: Values, remedy: str, kind: str = "mask value"):
        names = _shortened([f"{value} ({count} px)" for value, count in pixels.items()], _LISTED)
        no_phase = "of no phase" if values.more else "neither foreground nor background"
        if len(pixels) == 1:
            ((value, count),) = pixels.items()
            said = f"{kind} {value} is {no_phase} ({count} px)"
        else:
            said = f"{kind}s {', '.join(names)} are {no_phase}"
        super().__init__(f"{path}: {said}; {remedy}")
        self.path, self.pixels = path, pixels

    @classmethod
    def of_all(cls, errors: Sequence["UnknownValues"]) -> "UnknownValues":
        """Give the first error, with the values of all, and the files of each, where there are several."""
        first = errors[0]
        if len(errors) > 1:
            files = {}
            for error in errors:
                for value, count in error.pixels.items():
                    files.setdefault(value, []).append(f"{count} px in {error.path.name}")
            named = [f"{value} ({', '.join(_shortened(counts, _FILES))})" for value, counts in files.items()]
            first.args = (f"{first}. In all masks: {'; '.join(_shortened(named, _LISTED))}",)
        return first


def read_mask(
    path: Path | str,
    values: Values,
    shape: tuple[int, int] | None = None,
    information_bar: int = 0,
    name: str = "",
    page: Page = None,
) -> np.ndarray:
    """Read one annotation as class indices uint8 (h, w): 0 background, 1 foreground, IGNORED what counts nowhere.

    Numbers are those that the file holds, also where it says that white is zero; colours are compared as RGB at 8 bit,
    alpha dropped. Of a palette image either may be listed. Numbers of 16 bit that fill them, and of less than 8 bit,
    may be listed as those of 8 bit. shape: (h, w) of the image; `information_bar` rows at the bottom of a mask of its
    size are cut off before values are judged, and a mask without them is as good. InputError for another size or type;
    UnknownValues for a value that is not listed.

    A file with outlines, or with an HDF5 array of labels, is a mask too: of outlines, those of the image `name`, and
    of its `page` where they lie on slices of a stack; their labels are the values. InputError where they do not fit.
    """
    path = Path(path)
    if path.suffix.lower() in annotations.SUFFIXES:
        return _drawn(path, values, shape, information_bar, name or path.stem, page)
    if path.suffix.lower() in annotations.LABEL_SUFFIXES:
        labels = read_labels(path)
        decoded = Decoded(labels, None, Facts(*labels.shape))
    else:
        decoded = decode(path, numbers=values.threshold is None)
    if shape is not None:
        decoded = replace(decoded, pixels=_scanned(path, decoded.pixels, shape, information_bar))
    mask = (_by_value if values.threshold is None else _by_threshold)(path, decoded, values)
    if decoded.hidden is not None:
        _warn_of_hidden(path, mask[decoded.hidden[: len(mask)]], values)
    return mask


def _by_value(path: Path, decoded: Decoded, values: Values) -> np.ndarray:
    """Mask by the listed values. UnknownValues for others."""
    judged = [Judged(reading, values) for reading in readings(path, decoded)]
    known = [one for one in judged if one.known]
    if known:
        return _likeliest(path, known, decoded.facts.lossy, values)
    first = judged[0]
    if first.is_instance_map and not decoded.facts.lossy:
        print(f"warning: {path}: more than {INSTANCES} values, so all above 0 are foreground", file=sys.stderr)
        return Judged(first.reading, Values(None, (0,), values.ignore, instances=True)).mask()
    raise UnknownValues(path, first.unknown(), values, _remedy(decoded.facts.lossy, first, values))


def _likeliest(path: Path, known: list["Judged"], lossy: bool, values: Values) -> np.ndarray:
    """Mask of that reading in which most of the listed values occur. InputError where several with as many differ."""
    most = max(one.listed for one in known)
    chosen, *others = (one for one in known if one.listed == most)
    mask = chosen.mask()
    if any(not np.array_equal(mask, other.mask()) for other in others):
        remedy = "save it without a palette" if values.instances else 'list those of every phase in place of "rest"'
        raise InputError(f"{path}: the listed values may be colours of its palette or numbers in it; {remedy}")
    if values.rest is not None or values.instances:
        why = "a JPEG has other values along the borders" if lossy else "its borders are smooth (values in between)"
        if lossy or chosen.smooth:
            takes = 'and "rest" takes them all' if values.rest is not None else "all of them above 0"
            print(f"warning: {path}: {why}, {takes}: {_exported(values)}", file=sys.stderr)
    return mask


def _warn_of_hidden(path: Path, classes: np.ndarray, values: Values) -> None:
    """Print a warning where transparent pixels, with `classes` (n,), are of another phase than the background."""
    around = [0, IGNORED] + [values.rest] * bool(values.more and values.rest)
    if count := np.count_nonzero(~np.isin(classes, around)):
        print(
            f"warning: {path}: {count} transparent pixels are of a phase by the colour that they hide. Flatten the "
            "mask on the background's colour, and save it without alpha.",
            file=sys.stderr,
        )


def counted(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Pixels of an image that count: all of it, (h, w), or where its mask has IGNORED ones, the others, (n,)."""
    if mask is None or not (mask == IGNORED).any():
        return image
    return image[mask != IGNORED]


def phase_fraction(mask: np.ndarray, phase: int = 1) -> float:
    """Share of a phase, by default of foreground, in what counts of a mask; nan where nothing does."""
    pixels = np.count_nonzero(mask != IGNORED)
    return float(np.count_nonzero(mask == phase) / pixels) if pixels else float("nan")


def phase_fractions(mask: np.ndarray, phases: int) -> np.ndarray:
    """Shares float64 (C,) of the phases in what counts of a mask; nan where nothing does."""
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)[:phases]
    return counts / counts.sum() if counts.any() else np.full(phases, np.nan)


def _scanned(path: Path, pixels: np.ndarray, shape: tuple[int, int], information_bar: int) -> np.ndarray:
    """Rows of a mask that the microscope scanned. InputError for a mask of another size than the image's, or theirs."""
    if pixels.shape[:2] == shape:
        return crop_information_bar(pixels, information_bar)
    if pixels.shape[:2] == (shape[0] - information_bar, shape[1]):
        return pixels
    height, width = pixels.shape[:2]
    remedy = "export the mask at the micrograph's size"
    if width == shape[1] and height < shape[0]:
        remedy += f", or give information_bar = {shape[0] - height} if it lacks the bar's rows"
    remedy += _lying(pixels.shape[:2], shape)
    raise InputError(
        f"{path}: {width} x {height} px, but its micrograph has {shape[1]} x {shape[0]} (information bar "
        f"{information_bar}); {remedy}"
    )


def _lying(size: tuple[int, int], shape: tuple[int, int]) -> str:
    """Say what may be wrong where a mask (h, w) has the sides of its micrograph the other way round."""
    return ". It lies on its side: one of the files is turned by its orientation (EXIF, TIFF)" * (size == shape[::-1])


def _drawn(
    path: Path, values: Values, shape: tuple[int, int] | None, information_bar: int, name: str, page: Page
) -> np.ndarray:
    """Mask of the outlines of an image, uint8 (h, w); the later ones cover the earlier, what has none is background."""
    annotated = of_image(path, name)
    if annotated is None:
        raise InputError(f"{path}: annotates no image '{name[:200]}'; name the image as the file does")
    size = annotated.size or shape
    if size is None:
        raise InputError(f"{path}: says no size of its image; give the image")
    if shape is not None and size != shape and size != (shape[0] - information_bar, shape[1]):
        raise InputError(
            f"{path}: was drawn on an image of {size[1]} x {size[0]} px, but '{name[:200]}' has {shape[1]} x "
            f"{shape[0]} (information bar {information_bar}); annotate the micrograph itself{_lying(size, shape)}"
        )
    try:
        shapes = of_page(annotated.shapes, page)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if wrong := misfit(shapes, size):
        raise InputError(f"{path}: image '{name[:200]}': {wrong}")
    if annotated.lines:
        print(
            f"warning: {path}: {annotated.lines} points or lines of '{name[:200]}' have no area and are left out",
            file=sys.stderr,
        )
    mask, unknown = np.full(size, (values.rest or 0) if values.more else 0, np.uint8), {}
    for one in shapes:
        kind = _class_of_label(one.label, values)
        part, inside = draw(one, size)
        if kind is None:
            shown = f"'{one.label[:100]}'"
            unknown[shown] = unknown.get(shown, 0) + int(inside.sum())
        else:
            mask[part][inside] = kind
    if unknown:
        remedy = _listed(values, "foreground")
        raise UnknownValues(path, unknown, values, remedy, kind=f"image '{name[:200]}', label")
    return mask if shape is None else mask[: shape[0] - information_bar]


def _class_of_label(label: str, values: Values) -> int | None:
    """Class of an outline by its label, which may be listed as text, a number or a colour; None for another."""
    for kind, listed in ((IGNORED, values.ignore), *reversed([*enumerate(values.of_phases)])):
        if label in (_as_label(value) for value in listed or ()):
            return kind
    return 1 if values.instances else values.rest


def _as_label(value: MaskValue) -> str:
    return "#{:02x}{:02x}{:02x}".format(*value) if isinstance(value, tuple) else str(value)


def _by_threshold(path: Path, decoded: Decoded, values: Values) -> np.ndarray:
    """Mask by the grey level. InputError for colours that are neither dark nor light, unless they are ignored."""
    pixels = decoded.pixels
    if decoded.palette is not None:
        pixels = colours_of(decoded.palette)[pixels]
    pixels = shown(decoded).astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: a mask of type {pixels.dtype} has no threshold; save it with 8 or 16 bit a channel")
    grey = to_uint8(to_grey(pixels), (min(8, decoded.facts.bits), decoded.facts.bits))
    if pixels.max() > 255 and grey.max() < values.threshold:
        print(
            f"warning: {path}: no pixel reaches threshold = {values.threshold} of 255: the brightest is {pixels.max()} "
            "of 65535. Save it with 8 bit if that is white.",
            file=sys.stderr,
        )
    ignored = np.isin(grey, greys_of(values.ignore))
    if pixels.ndim == 3:
        colours = to_uint8(pixels, (8, 16))
        for colour in values.ignore:
            ignored |= (colours == colour).all(axis=2) if isinstance(colour, tuple) else False
        _refuse_coloured(path, colours[~ignored], values.threshold)
    _warn_of_picture(path, grey, ~ignored)
    return np.where(ignored, IGNORED, grey >= values.threshold).astype(np.uint8)


def _refuse_coloured(path: Path, colours: np.ndarray, threshold: int) -> None:
    """Raise InputError where colours uint8 (n, 3) are on either side of a threshold, by the channel that is looked at.

    A grey picture that was saved as a colour JPEG has a tint, and no such colours.
    """
    low, high = colours.min(axis=1), colours.max(axis=1)
    odd = (high - low > _TINT) & (low < threshold) & (high >= threshold)
    if np.count_nonzero(odd) > _COLOURED * len(odd):
        found, counts = np.unique(colours[odd], axis=0, return_counts=True)
        raise InputError(
            f'{path}: {odd.sum()} px have colours such as "#{bytes(found[counts.argmax()]).hex()}", and threshold = '
            f"{threshold} is of grey levels; export it as PNG, and list its colours in `foreground` in place of "
            "threshold, or in `ignore`"
        )


def _warn_of_picture(path: Path, grey: np.ndarray, counted: np.ndarray) -> None:
    """Print a warning where most that counts of a mask of grey levels, (h, w), is neither black nor white, nor even.

    Borders are smooth on fewer pixels, and a third phase has even areas.
    """
    between = 0
    for here, left, above, counts in zip(
        *map(bands, (grey[1:, 1:], grey[1:, :-1], grey[:-1, 1:], counted[1:, 1:])), strict=True
    ):
        differs = (here != left) | (here != above)
        between += np.count_nonzero((here >= _NEAR) & (here < 256 - _NEAR) & differs & counts)
    if between > _PICTURE * np.count_nonzero(counted[1:, 1:]):
        print(
            f"warning: {path}: most of it is grey levels that differ from pixel to pixel, neither near black nor near "
            "white. If it is a micrograph in place of its mask, put the mask there.",
            file=sys.stderr,
        )


def _shortened(names: list[str], most: int) -> list[str]:
    return names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]


def _remedy(lossy: bool, judged: Judged, values: Values) -> str:
    """Remedy for values that are not listed; none that moves a border."""
    if lossy or judged.is_soft:
        why = "the file is a JPEG, which changes values" if lossy else "its borders are smooth (values in between)"
        return f"{why}: {_exported(values)}"
    remedy = _listed(values, "background")
    if len(judged.codes) > SOFT and not judged.colours and not values.more:
        remedy += ", or instances = true where each grain has a number"
    return remedy


def _listed(values: Values, rest: str) -> str:
    if values.more:
        return 'list it for a phase in `values` or in `ignore`, or give one phase "rest" in the domains file'
    return f'list it as one of the two or in `ignore`, or set {rest} = "rest" in the domains file'


def _exported(values: Values) -> str:
    half = _half_way(values)
    asked = f", or give threshold = {half}, from which a grey level is the phase" if half else ""
    return f"export the annotation as PNG without smoothing{asked}"


def _half_way(values: Values) -> int | None:
    """Grey level half-way from background to foreground; None where the foreground is no grey, or the darker one."""
    listed = [*(values.foreground or ()), *(values.background or ())]
    if values.more or not values.foreground or not all(map(is_grey, listed)):
        return None
    bright, dark = (greys_of(of or (0,)) for of in (values.foreground, values.background))
    return (min(bright) + max(dark) + 1) // 2 if max(dark) < min(bright) <= 255 else None
