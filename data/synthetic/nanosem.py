"""Drawn SEM pictures in ten classes, with information bars and burned-in measurements like those of NanoSEM.

    python -m data.synthetic_nanosem --out nanosem [--images 500] [--height 768] [--seed 0] [--workers 2]

writes one folder a class, as the published data set has them (Aversa et al. 2018, Sci. Data 5:180172), and
`<out>/truth.csv`: the first row of each picture's information bar and the number of marks burned into it. From these
`python -m data.nanosem <out> --score <out>/truth.csv` reports the precision and recall of the cleaning.
A picture is a pure function of (seed, index, height). `data.synthetic.nanosem_subjects` draws what is imaged.
"""

import argparse
import functools
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.arguments import at_least, positive, whole
from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_csv, write_image
from common.parallel import in_processes
from common.seeds import generator
from data.synthetic.microstructure import smooth_noise
from data.synthetic.nanosem_subjects import SUBJECTS

Colour = tuple[int, int, int]  # RGB
TRUTH = ("file", "class", "height", "width", "bar_row", "marks")
_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSerif.ttf")
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "light grey": (215, 215, 215), "green": (0, 255, 0),
            "red": (255, 0, 0), "yellow": (255, 255, 0), "cyan": (0, 220, 255)}  # fmt: skip
_PROBABILITIES = (0.42, 0.08, 0.14, 0.12, 0.12, 0.08, 0.04)  # of _COLOURS


class Picture(NamedTuple):
    """A drawn picture, RGB or grey uint8, and the truth about it: bar_row is None without an information bar."""

    pixels: np.ndarray
    subject: str
    bar_row: int | None
    marks: int


def draw(index: int, seed: int = 0, height: int = 768) -> Picture:
    """Draw picture `index`, `height` px high and 4:3; the classes take turns. Returns a Picture."""
    rng = generator(seed, "drawn NanoSEM", index, height)
    shape = (height, height * 4 // 3)
    subject = list(SUBJECTS)[index % len(SUBJECTS)]
    grey = _imaged(rng, SUBJECTS[subject](rng, shape))
    canvas = np.repeat(grey[..., None], 3, axis=2)
    bar_row = height - round(rng.uniform(40, 110) / 768 * height) if rng.random() < 0.88 else None
    marks = 0 if rng.random() < 0.6 else int(rng.choice([1, 2, 3, 4, 5, 6, 8, 10]))
    if marks:
        canvas[:bar_row] = _measured(rng, canvas[:bar_row], marks)
    if bar_row is not None:
        canvas[bar_row:] = _information_bar(rng, (height - bar_row, shape[1]))
    grey_only = not np.ptp(canvas, axis=2).any()
    return Picture(canvas[..., 0] if grey_only and rng.random() < 0.7 else canvas, subject, bar_row, marks)


def _imaged(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Image a signal as a microscope does: point spread, gain, shading, shot noise, scan lines; uint8 (h, w)."""
    shape = signal.shape
    # The point spread in pixels does not shrink with the picture: a microscope's pixels are chosen to match it.
    signal = cv2.GaussianBlur(signal.astype(np.float32), (0, 0), rng.uniform(0.6, 2.0))
    signal = rng.uniform(0.75, 1.25) * signal + rng.uniform(-0.04, 0.08)
    if rng.random() < 0.1:
        signal = _charged(rng, signal)
    signal *= 1 + 0.06 * smooth_noise(rng, shape, shape[0] / 3)
    noise = rng.standard_normal(shape, dtype=np.float32)
    signal += rng.uniform(0.012, 0.07) * np.sqrt(np.clip(signal, 0.04, 1)) * noise
    signal += 0.006 * rng.standard_normal(shape, dtype=np.float32)  # of the amplifier, in the dark too
    signal += rng.choice([0, 0.01]) * rng.standard_normal((shape[0], 1), dtype=np.float32)
    return np.clip(np.round(signal * 255), 0, 255).astype(np.uint8)


def _charged(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Streaks of a charged sample: single scan lines too bright, fading to the right; no point spread blurs them."""
    height, width = signal.shape
    for _ in range(rng.integers(5, 60)):
        row, start = rng.integers(height), rng.integers(width)
        fading = np.exp(-np.arange(width - start) / rng.uniform(0.02, 0.2) / width)
        signal[row, start:] += rng.uniform(0.1, 0.9) * fading
    return signal


def _information_bar(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """An information bar of one of several makes, RGB uint8 (h, w, 3): flat ground, text, scale bar, often a frame."""
    height, width = shape
    makes = [(0, 255), (255, 0), (rng.integers(40, 110), 255), (rng.integers(130, 220), 0)]
    ground, ink = ((int(level),) * 3 for level in makes[rng.choice(4, p=(0.5, 0.2, 0.2, 0.1))])
    bar = np.empty((height, width, 3), np.uint8)
    bar[:] = ground
    lines = 1 if height < 0.065 * width else 2
    size = max(7, int(0.55 * height / lines))
    text = [
        f"Mag = {rng.uniform(1, 300):.2f} K X",
        f"EHT = {rng.uniform(1, 20):.2f} kV",
        f"WD = {rng.uniform(2, 12):.1f} mm",
        f"Signal A = {rng.choice(['InLens', 'SE2', 'ESB'])}",
        f"Date :{rng.integers(1, 29)} Apr 20{rng.integers(10, 18)}",
        f"File Name = s{rng.integers(100)}_{rng.integers(100)}.tif",
    ]
    rng.shuffle(text)
    scale = int(rng.uniform(0.08, 0.2) * width)
    left = int(rng.uniform(0.01, 0.05) * width)
    middle = height // 2
    thickness = max(1, round(height / 40))
    cv2.line(bar, (left, middle), (left + scale, middle), ink, thickness)
    for x in (left, left + scale):
        cv2.line(bar, (x, middle - height // 6), (x, middle + height // 6), ink, thickness)
    bar = _write(rng, bar, (left, 1), f"{rng.choice([1, 2, 10, 20, 100, 200])} {rng.choice(['nm', 'um'])}", size, ink)
    columns = 3 if lines == 2 else rng.integers(2, 5)
    start = left + scale + 0.04 * width
    for k, entry in enumerate(text[: columns * lines]):
        x = int(start + (k % columns) * (width - start) / columns)
        bar = _write(rng, bar, (x, int((k // columns + 0.15) * height / lines)), entry, size, ink)
        if rng.random() < 0.3:
            cv2.line(bar, (x - 5, 0), (x - 5, height), ink, 1)
    frame = rng.choice([0, 0, 1, 2])
    if frame:
        cv2.rectangle(bar, (0, 0), (width - 1, height - 1), ink, int(frame))
    return bar


def _measured(rng: np.random.Generator, picture: np.ndarray, marks: int) -> np.ndarray:
    """The picture (h, w, 3) with `marks` measurements burned in, all in the one or two colours of a session."""
    names = list(_COLOURS)
    brightness = picture.mean()
    # A person chooses a colour that can be seen.
    palette = [_COLOURS[names[k]] for k in rng.choice(len(names), 12, p=_PROBABILITIES)]
    visible = [colour for colour in palette if np.ptp(colour) or abs(colour[0] - brightness) > 60] or [(0, 255, 0)]
    colours = visible[: rng.integers(1, 3)]
    unit = picture.shape[0] / 700
    thickness = max(1, round(rng.uniform(1, 3.4) * unit))
    smooth = cv2.LINE_AA if rng.random() < 0.35 else cv2.LINE_8
    picture = np.ascontiguousarray(picture)
    for _ in range(marks):
        colour = colours[rng.integers(len(colours))]
        kind = rng.choice(["line", "box", "circle", "arrow", "text"], p=(0.45, 0.15, 0.12, 0.13, 0.15))
        picture = _mark(rng, picture, kind, colour, thickness, smooth, unit)
    return picture


def _mark(
    rng: np.random.Generator, picture: np.ndarray, kind: str, colour: Colour, thickness: int, smooth: int, unit: float
) -> np.ndarray:
    height, width = picture.shape[:2]
    size = max(9, int(rng.uniform(16, 30) * unit))
    start = np.array([rng.uniform(0.05, 0.8) * width, rng.uniform(0.08, 0.85) * height])
    angle = rng.choice([0, np.pi / 2, rng.uniform(-np.pi, np.pi)])
    reach = rng.uniform(40, 260) * unit
    end = np.clip(start + reach * np.array([np.cos(angle), np.sin(angle)]), 4, (width - 5, height - 5))
    first, last = (tuple(np.round(p).astype(int).tolist()) for p in (start, end))
    label = rng.choice([f"{rng.uniform(5, 900):.1f} nm", f"{rng.uniform(1, 20):.2f} µm", f"Pa {rng.integers(1, 9)}"])
    corner = (first[0] + round(8 * unit), first[1] + round(6 * unit))
    if kind == "line":
        cv2.line(picture, first, last, colour, thickness, smooth)
        normal = np.array([-(last[1] - first[1]), last[0] - first[0]]) / max(np.hypot(*np.subtract(last, first)), 1)
        for point in (first, last):
            tick = [tuple(np.round(point + s * 8 * unit * normal).astype(int).tolist()) for s in (-1, 1)]
            cv2.line(picture, *tick, colour, thickness, smooth)
    elif kind == "box":
        other = (first[0] + round(rng.uniform(40, 200) * unit), first[1] + round(rng.uniform(30, 140) * unit))
        cv2.rectangle(picture, first, other, colour, thickness, smooth)
    elif kind == "circle":
        cv2.circle(picture, first, round(rng.uniform(15, 90) * unit), colour, thickness, smooth)
    elif kind == "arrow":
        cv2.arrowedLine(picture, first, last, colour, thickness, smooth, tipLength=0.15)
    if kind in ("line", "text") or rng.random() < 0.4:
        ground = None if rng.random() < 0.75 else (0, 0, 0) if sum(colour) > 200 else (255, 255, 255)
        picture = _write(rng, picture, corner, label, size, colour, ground)
    return picture


def _write(
    rng: np.random.Generator,
    picture: np.ndarray,
    corner: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    ground: Colour | None = None,
) -> np.ndarray:
    """Text with its upper left corner at `corner` (x, y), on an opaque `ground` if one is given."""
    if rng.random() < 0.4:  # OpenCV's strokes, as in many programs for measurements
        weight = max(1, round(size / 16))
        scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, max(5, int(0.7 * size)), weight)
        box, below = cv2.getTextSize(text := text.replace("µ", "u"), cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
        picture = np.ascontiguousarray(picture)
        if ground is not None:
            other = (corner[0] + box[0] + 4, corner[1] + box[1] + below + 4)
            cv2.rectangle(picture, (corner[0] - 4, corner[1] - 4), other, ground, -1)
        base = (corner[0], corner[1] + box[1])
        cv2.putText(picture, text, base, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_8)
        return picture
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    font = ImageFont.truetype(str(folder / rng.choice(_FONTS)), size)
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    if ground is not None:
        left, top, right, bottom = pen.textbbox(corner, text, font=font)
        pen.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill=ground)
    pen.text(corner, text, fill=colour, font=font)
    return np.array(image)


def write_pictures(out: Path | str, images: int, height: int, seed: int, workers: int) -> None:
    """Draw `images` pictures into class folders under `out` with `workers` processes, then truth.csv.

    InputError if `out` has a truth.csv already: nothing is overwritten.
    """
    out = Path(out)
    if (out / "truth.csv").exists():
        raise InputError(f"{out / 'truth.csv'}: exists already; give --out a new folder or remove it")
    for subject in SUBJECTS:
        make_folder(out / subject)
    write = functools.partial(_save, out=out, seed=seed, height=height)
    write_csv(out / "truth.csv", list(in_processes(write, range(images), workers, "drawing")), TRUTH)


def _save(index: int, out: Path, seed: int, height: int) -> dict:
    picture = draw(index, seed, height)
    rng = generator(seed, "drawn NanoSEM file", index)
    jpeg = rng.random() < 0.7  # the published pictures are JPEG files, a laboratory's own are TIFF
    name = f"{picture.subject}/L{seed:02d}_{index:05d}.{'jpg' if jpeg else 'tif'}"
    write_image(out / name, picture.pixels, jpeg_quality=int(rng.integers(82, 97)))
    shape = dict(zip(("height", "width"), picture.pixels.shape, strict=False))
    bar = "" if picture.bar_row is None else picture.bar_row
    return {"file": name, "class": picture.subject, **shape, "bar_row": bar, "marks": picture.marks}


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="new folder for the class folders")
    parser.add_argument("--images", type=positive, default=500, help="number of pictures, divided among ten classes")
    parser.add_argument("--height", type=at_least(96), default=768, help="px of each picture; small ones are quick")
    parser.add_argument("--seed", type=whole, default=0, help="another seed draws other pictures")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes that draw")
    options = parser.parse_args(arguments)
    write_pictures(options.out, options.images, options.height, options.seed, options.workers)
