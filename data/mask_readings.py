"""Readings of a mask's pixels as numbers or colours, and the classes that a domain's values give them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.limits import IGNORED
from data.decoding import Decoded
from data.images import bands, colours_of, in_bands, to_uint8

MaskValue = int | str | tuple[int, int, int]  # a number, the label of an outline, or (r, g, b) of 8 bit
INSTANCES = 64  # more values than phases
SOFT = 8  # values in between
_UNKNOWN = 254  # in place of a class
_SOFT_SHARE = 0.8  # of pixels that have values in between; a photograph has more
_SMOOTHED = 3  # values in between, as of a mask that is moved by half a pixel or halved
_RARE, _EVEN = 0.01, 0.3  # of the pixels: less than a phase has; of a value's: fewer than in any area are alike
_BEGINNING = 0.5  # of the pixels of an area: fewer are its upper left corners, unless it is of one or two
_CORNERS = np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1]


@dataclass(frozen=True)
class Values:
    """Values of a domain's masks. Those of one phase may be None, "rest": all that are not listed.

    background is the first phase, foreground the second, more are the others. ignore: those that count in no loss,
    score or fraction. Of two phases only: threshold, the grey level from which a pixel is foreground, whatever is
    listed; instances: every value above 0 is foreground.
    """

    foreground: tuple[MaskValue, ...] | None
    background: tuple[MaskValue, ...] | None
    ignore: tuple[MaskValue, ...] = ()
    threshold: int | None = None
    instances: bool = False
    more: tuple[tuple[MaskValue, ...] | None, ...] = ()

    @property
    def of_phases(self) -> tuple[tuple[MaskValue, ...] | None, ...]:
        """Values of each phase, in the order of the classes."""
        return (self.background, self.foreground, *self.more)

    @property
    def rest(self) -> int | None:
        """Class of all values that are not listed; None where these are unknown."""
        return next((phase for phase, values in enumerate(self.of_phases) if values is None), None)


def readings(path: Path, decoded: Decoded) -> Iterator[np.ndarray]:
    """Yield what the pixels may be meant as: numbers (h, w), colours (h, w, 3); the likeliest first."""
    pixels, palette = decoded.pixels, decoded.palette
    if pixels.dtype == np.bool_:
        pixels = shown(decoded)
        yield pixels.astype(np.uint8) * 255
        yield pixels.astype(np.uint8)
        return
    if pixels.dtype.kind not in "ui":
        raise InputError(f"{path}: a mask of type {pixels.dtype} is not supported; save it with 8 or 16 bit a channel")
    if pixels.dtype == np.uint64 and (most := int(pixels.max())) >= 1 << 63:
        raise InputError(
            f"{path}: {most} is beyond 64 bit with a sign; where -1 was meant, save the mask with a sign (int32)"
        )
    if palette is not None:
        colours = colours_of(palette)
        yield from (colours[pixels], pixels) if palette.dtype == np.uint8 else (pixels, colours[pixels])
    elif pixels.ndim == 3:
        if pixels.dtype.kind == "i" or pixels.dtype.itemsize > 2:
            if pixels.min() < 0 or pixels.max() > 255:
                raise InputError(f"{path}: colours of type {pixels.dtype} beyond 0 .. 255; save them with 8 bit")
            pixels = pixels.astype(np.uint8)
        yield to_uint8(pixels, (8, 16))
    else:
        bits = decoded.facts.bits
        if bits < 8:
            yield (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
        elif pixels.dtype == np.uint16 and pixels.max() > 255 and not (pixels % 257).any():
            yield (pixels // 257).astype(np.uint8)
        yield pixels


def shown(decoded: Decoded) -> np.ndarray:
    """Pixels of one bit, only here as a viewer shows them: nobody thinks of white-is-zero at one bit."""
    return ~decoded.pixels if decoded.facts.white_is_zero else decoded.pixels


class Judged:
    """A reading of a mask: each of its values, as an index into `codes`, with the class that the domain gives it."""

    def __init__(self, reading: np.ndarray, values: Values):
        self.reading, self.colours = reading, reading.ndim == 3
        self.codes, self.counts = self._count()
        wanted = [self._wanted(listed) for listed in values.of_phases]
        of = [np.isin(self.codes, listed) for listed in wanted]
        ignored = np.isin(self.codes, self._wanted(values.ignore))
        self.wanted = sorted(code for listed in wanted for code in listed)
        self.is_listed = np.any([*of, ignored], axis=0)
        self.listed = np.count_nonzero(self.is_listed)
        self.two = not values.more
        self.classes = np.full(len(self.codes), _UNKNOWN if values.rest is None else values.rest, np.uint8)
        if values.instances:
            of[1] = self.codes > 0
            self.classes[self.codes < 0] = _UNKNOWN
        for phase, found in enumerate(of):
            self.classes[found] = phase
        self.classes[ignored] = IGNORED

    @property
    def known(self) -> bool:
        return not (self.classes == _UNKNOWN).any()

    @property
    def is_instance_map(self) -> bool:
        """Many values in even areas, of which few pixels are listed: neither soft borders nor a photograph.

        Soft lines on an even background are none either: a grain is one area, and a grey level is scattered along them.
        """
        if not self.two or self.colours or len(self.codes) <= INSTANCES or self.codes[0] < 0:
            return False
        pixels = {kind: self.counts[self.classes == kind].sum() for kind in (1, _UNKNOWN)}
        even = np.mean(self.reading[:, 1:] == self.reading[:, :-1])
        return bool(pixels[_UNKNOWN] > pixels[1] and even > 0.5 and not self._scattered)

    @property
    def is_soft(self) -> bool:
        """Values between those that are listed, on few pixels: borders that were smoothed.

        Of colours, unknown ones that are no grey: a micrograph under an annotation is grey.
        """
        codes, unknown = self.codes, self.classes == _UNKNOWN
        if self.counts[unknown].sum() > _SOFT_SHARE * self.counts.sum() or not (unknown.sum() > SOFT or self.smooth):
            return False
        if self.colours and (codes % 0x010101).any():
            return bool(self.counts[unknown & (codes % 0x010101 > 0)].sum() > self.counts[unknown].sum() / 2)
        between, listed = codes[unknown], codes[~unknown]
        # The core of a thin line may be softened too, so that its own value is nowhere.
        listed = self.wanted if len(listed) < 2 and self._scattered else listed
        return len(listed) > 1 and bool(between.min() > min(listed) and between.max() < max(listed))

    @property
    def _scattered(self) -> bool:
        """Most pixels of unknown values differ from those left of them and above: few belong to an even area."""
        unknown = self._of_each(self.classes)[1:, 1:] == _UNKNOWN
        here, left, above = self.reading[1:, 1:], self.reading[1:, :-1], self.reading[:-1, 1:]
        begins = (here != left)[unknown] & (here != above)[unknown]
        return begins.size > 0 and bool(begins.mean() > _BEGINNING)

    @property
    def smooth(self) -> bool:
        """Values that are not listed, between the lowest and the highest, nowhere an area: borders that were smoothed.

        Of colours, such that are no grey, as above. A frequent value on areas is a phase's, and fewer than three others
        may be lines of more phases. Few pixels, beside those of the listed values or the others, move no border.
        """
        odd = ~self.is_listed
        if self.colours and (self.codes % 0x010101).any():
            odd &= self.codes % 0x010101 > 0
        else:
            ends = [*self.codes[[0, -1]], *self.wanted]
            odd &= (self.codes > min(ends)) & (self.codes < max(ends))
        total, listed = self.counts.sum(), self.counts[self.is_listed].sum()
        least = _RARE * max(_RARE * total, min(listed, total - listed))
        if odd.sum() < _SMOOTHED or self.counts[odd].sum() <= least:
            return False
        each = self._of_each(np.arange(len(odd), dtype=np.int32))
        corners, alike = np.zeros((2, len(odd)), np.int64)
        for here, right, below in zip(*(bands(each[part]) for part in _CORNERS), strict=True):
            corners += np.bincount(here.ravel(), minlength=len(odd))
            alike += np.bincount(here[(here == right) & (here == below)], minlength=len(odd))
        odd &= (self.counts < _RARE * total) | (alike < _EVEN * corners)
        return bool(
            odd.sum() >= _SMOOTHED and self.counts[odd].sum() > least and alike[odd].sum() < _EVEN * corners[odd].sum()
        )

    def mask(self) -> np.ndarray:
        """Classes uint8 (h, w)."""
        return self._of_each(self.classes)

    def _of_each(self, of_code: np.ndarray) -> np.ndarray:
        """Values of the codes (n,) at each pixel (h, w)."""
        if self.small:
            table = np.zeros(np.iinfo(self.reading.dtype).max + 1, of_code.dtype)
            table[self.codes] = of_code
            return in_bands(lambda band: table[band], self.reading)
        return in_bands(lambda band: of_code[np.searchsorted(self.codes, self._codes(band))], self.reading)

    def unknown(self) -> dict[str, int]:
        """Number of pixels of each value that is not listed, the most frequent first."""
        found = np.flatnonzero(self.classes == _UNKNOWN)
        order = found[np.argsort(-self.counts[found], kind="stable")]
        return {self._shown(int(self.codes[one])): int(self.counts[one]) for one in order}

    @property
    def small(self) -> bool:
        """Numbers few enough for a table."""
        return not self.colours and self.reading.dtype in (np.uint8, np.uint16)

    def _count(self) -> tuple[np.ndarray, np.ndarray]:
        """The values that occur, int64 (n,), ascending, and the number of pixels of each."""
        if self.small:
            most = np.iinfo(self.reading.dtype).max + 1
            counts = sum(np.bincount(band.ravel(), minlength=most) for band in bands(self.reading))
            codes = np.flatnonzero(counts)
            return codes, counts[codes]
        found = Counter()
        for band in bands(self.reading):
            codes, counts = np.unique(self._codes(band), return_counts=True)
            found.update(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
        codes = np.array(sorted(found), np.int64)
        return codes, np.array([found[code] for code in codes.tolist()], np.int64)

    def _codes(self, band: np.ndarray) -> np.ndarray:
        if not self.colours:
            return band
        return band.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)

    def _wanted(self, values: tuple[MaskValue, ...] | None) -> list[int]:
        """Codes of values; grey is a colour too."""
        if self.colours:
            listed = [value for value in values or () if not isinstance(value, str)]
            triples = [(value,) * 3 if isinstance(value, int) else value for value in listed]
            return [red << 16 | green << 8 | blue for red, green, blue in triples if 0 <= red <= 255]
        return [number for number in greys_of(values or ()) if -(1 << 63) <= number < 1 << 63]

    def _shown(self, code: int) -> str:
        return f'"#{code:06x}"' if self.colours and code % 0x010101 else str(code & 0xFF if self.colours else code)


def is_grey(value: MaskValue) -> bool:
    return isinstance(value, int) or (isinstance(value, tuple) and len(set(value)) == 1)


def greys_of(values: Sequence[MaskValue]) -> list[int]:
    """Numbers among mask values; a colour that is grey is one too."""
    return [value if isinstance(value, int) else value[0] for value in values if is_grey(value)]
