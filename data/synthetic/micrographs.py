"""Synthetic complex-phase-steel micrographs with exact masks, in four domains like the paper's (Table 1).

    python -m data.synthetic --out demo [--size demo|study] [--seed 0] [--phases 3] [--changed] [--workers 2]

writes ordinary folders `<out>/<domain>/images`, `<out>/<domain>/masks` and `<out>/domains.toml`, so that the
demo takes the road of a laboratory's own data. One microstructure (`data.synthetic.microstructure`) is etched and
imaged four ways: source (Struers A2, SEM), t1 (Nital, the same SEM), t2 (over-etched, another SEM) and t3
(light-optical, bright field). As in the study, t1 and t2 have masks for their test images only; t3 has masks
for its training images too, meant for a supervised reference on the target alone. An image is a pure function
of (seed, domain, index). With --phases 3 the same images have masks of three phases: ferrite, bainite and the
islands of second phase that lie in both. With --changed three more targets are drawn (`data.synthetic.changes`).
"""

import argparse
import functools
import json
import os
from pathlib import Path

import cv2
import numpy as np

from common.arguments import positive, whole
from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_file, write_image
from common.parallel import in_processes
from data.synthetic.changes import CHANGES
from data.synthetic.microstructure import Microstructure, microstructure, smooth_noise
from data.synthetic.recipes import DOMAINS, LIGHT_PIXEL, LIGHT_SUPERSAMPLING, SEM_PIXEL, SIZES, Etching, Recipe, Size

CLASSES = ("ferrite", "bainite", "islands")  # of three phases


def draw(domain: str, index: int, seed: int = 0, size: str = "demo", phases: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw micrograph `index` of a domain: (image, mask), uint8 (h, w) at native pixels; mask 0 or 255, or as VALUES.

    Indices from the number of training images on are test images. Light-optical micrographs are bright-field,
    not inverted yet.
    """
    recipe, plan = _recipe(domain), SIZES[size]
    rng = np.random.default_rng([seed, index, *domain.encode()])
    training = _images(plan, domain)[0]
    mean = recipe.fraction if index < training else recipe.test_fraction
    # Fractions vary evenly around the mean (golden-ratio sequence), so that even a few images keep it.
    position = index if index < training else index - training
    fraction = mean + 0.26 * ((0.5 + position * 0.6180339887 + 0.31 * (seed % 7)) % 1 - 0.5)
    if not recipe.light:
        structure = microstructure(rng, plan.electron, SEM_PIXEL, fraction)
        shares = [share.astype(np.float32) for share in _regions(structure, phases)]
        drawn = electron_image(rng, structure, recipe), _mask(shares, recipe)
        return CHANGES[domain](rng, *drawn) if domain in CHANGES else drawn
    fine = tuple(LIGHT_SUPERSAMPLING * side for side in plan.light)
    structure = microstructure(rng, fine, LIGHT_PIXEL / LIGHT_SUPERSAMPLING, fraction)
    shares = [
        cv2.resize(share.astype(np.float32), plan.light[::-1], interpolation=cv2.INTER_AREA)
        for share in _regions(structure, phases)
    ]
    return light_image(rng, structure, recipe), _mask(shares, recipe)


def _recipe(domain: str) -> Recipe:
    """Recipe of a domain; changed ones are drawn as the source."""
    return DOMAINS["source" if domain in CHANGES else domain]


def _images(plan: Size, domain: str) -> tuple[int, int]:
    """Numbers of training and test images of a domain."""
    return plan.images["source" if domain in CHANGES else domain]


def _regions(structure: Microstructure, phases: int) -> list[np.ndarray]:
    """Regions bool (h, w) of all phases but ferrite: bainite, and of three phases the islands, which cut into it."""
    if phases == 2:
        return [structure.bainite]
    islands = structure.island > 0
    return [structure.bainite & ~islands, islands]


def _mask(shares: list[np.ndarray], recipe: Recipe) -> np.ndarray:
    """Mask of the shares, float32 (h, w), that each phase but ferrite has of a pixel: from half of it upwards.

    Of several the larger share counts.
    """
    if len(shares) == 1:
        return np.where(shares[0] >= 0.5, np.uint8(255), np.uint8(0))
    both = np.stack([1 - sum(shares), *shares])
    return np.array(values_of(recipe), np.uint8)[both.argmax(axis=0)]


def values_of(recipe: Recipe) -> tuple[int, ...]:
    """Values of ferrite, bainite and islands in masks of three phases: two people annotated, each in their own way."""
    return (0, 1, 2) if recipe.light else (0, 128, 255)


def electron_image(rng: np.random.Generator, structure: Microstructure, recipe: Recipe) -> np.ndarray:
    """Secondary-electron micrograph, uint8 (h, w): proud bright films and islands on a dark matrix."""
    etching, microscope, pixel = recipe.etching, recipe.microscope, structure.pixel
    shape = structure.film.shape
    film, island, wall, boundary = _revealed(structure, etching)
    rough = _roughness(rng, shape, pixel)
    height = film + 0.9 * island + 0.25 * structure.crystal - 0.2 * boundary + 0.06 * rough
    height = cv2.GaussianBlur(height, (0, 0), 26 / pixel)
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.25)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.25)
    mottle = smooth_noise(rng, shape, 60 / pixel)
    grey = (
        microscope.brightness
        + etching.crystal * structure.crystal
        + etching.lath * structure.lath
        + etching.film * film
        + etching.island * island * (0.8 + 0.25 * mottle)
        + etching.boundary * boundary
        + etching.wall * wall
        + etching.roughness * rough
        + microscope.edge * np.sqrt(cv2.magnitude(slope_x, slope_y)) * 2
        + microscope.tilt * (slope_x + 0.6 * slope_y) * 4
    )
    grey += _artefacts(rng, shape, pixel, etching)
    grey = cv2.GaussianBlur(grey, (0, 0), microscope.blur / pixel)
    grey += microscope.shading * smooth_noise(rng, shape, 9000 / pixel)
    grey = 0.4 + microscope.contrast * (grey - 0.4)
    grain = rng.standard_normal(shape, dtype=np.float32)
    grain = 0.85 * grain + 0.6 * cv2.blur(grain, (3, 1))  # neighbours on a scan line correlate
    return _quantise(grey + microscope.noise * np.sqrt(np.clip(grey, 0.05, 1.2)) * grain)


def light_image(rng: np.random.Generator, structure: Microstructure, recipe: Recipe) -> np.ndarray:
    """Bright-field light-optical micrograph, uint8 (h, w) at the camera's pixel: etched features are dark."""
    etching, microscope, pixel = recipe.etching, recipe.microscope, structure.pixel
    shape = structure.film.shape
    film, island, wall, boundary = _revealed(structure, etching)
    mottle = smooth_noise(rng, shape, 300 / pixel)
    streaks = film - etching.plate * cv2.GaussianBlur(film, (0, 0), 900 / pixel)
    grey = (
        microscope.brightness
        + etching.crystal * structure.crystal
        + etching.lath * structure.lath
        - etching.film * streaks
        - etching.island * island * (0.8 + 0.2 * mottle)
        - etching.boundary * boundary
        - etching.wall * wall
    )
    grey += etching.roughness * _roughness(rng, shape, pixel) - _artefacts(rng, shape, pixel, etching)
    for _ in range(rng.poisson(microscope.scratches)):
        grey = _scratched(rng, grey)
    grey = cv2.GaussianBlur(grey, (0, 0), microscope.blur / pixel)
    grey += microscope.shading * smooth_noise(rng, shape, 12000 / pixel)
    camera = (shape[1] // LIGHT_SUPERSAMPLING, shape[0] // LIGHT_SUPERSAMPLING)
    grey = cv2.resize(grey, camera, interpolation=cv2.INTER_AREA)
    grey = 0.6 + microscope.contrast * (grey - 0.6)
    return _quantise(grey + microscope.noise * rng.standard_normal(grey.shape, dtype=np.float32))


def _revealed(structure: Microstructure, etching: Etching) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Films, islands, sub-grain boundaries, boundaries as the etchant shows them: arrays (h, w) in 0..1."""
    soft = 1.2 * structure.pixel
    film = _ramp(structure.film + etching.widening, soft)
    island = _ramp(structure.island + etching.widening, 2 * soft)
    wall = _ramp(structure.wall, soft)
    seen = 1 - etching.fading * (1 - structure.inclination)
    boundary = seen * np.exp(-((structure.boundary / etching.boundary_width) ** 2))
    return film, island, wall, boundary


def _ramp(depth: np.ndarray, softness: float) -> np.ndarray:
    """Ramp from 0 outside to 1 inside, linear over `softness` nm around the outline."""
    return np.clip(depth / softness + 0.5, 0, 1)


def _roughness(rng: np.random.Generator, shape: tuple[int, int], pixel: float) -> np.ndarray:
    """Roughness of the etched surface (h, w), about unit variance, on scales from 40 nm to 1.6 um."""
    return sum(
        weight * smooth_noise(rng, shape, sigma / pixel)
        for sigma, weight in ((40.0, 0.5), (130.0, 0.5), (450.0, 0.5), (1600.0, 0.5))
    )


def _artefacts(rng: np.random.Generator, shape: tuple[int, int], pixel: float, etching: Etching) -> np.ndarray:
    """Grey (h, w) added by residues (bright particles) and by stains (faint ellipses of dried etchant)."""
    layer = np.zeros(shape, np.float32)
    area = shape[0] * shape[1] * pixel**2 / 1e9
    for _ in range(rng.poisson(etching.residues * area)):
        centre = (rng.random(2) * shape[::-1]).astype(int).tolist()
        axes = np.maximum(1, rng.uniform(40, 170, 2) / pixel).astype(int).tolist()
        cv2.ellipse(layer, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.2, 0.6), -1)
    for _ in range(rng.poisson(etching.stains * area)):
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        a, b = rng.uniform(900, 3200, 2) / pixel
        radius = np.hypot((x - rng.random() * shape[1]) / a, (y - rng.random() * shape[0]) / b)
        radius += 0.07 * smooth_noise(rng, shape, 600 / pixel)
        layer += rng.uniform(0.05, 0.16) * np.exp(-(((radius - 1) * min(a, b) * pixel / 140) ** 2))
        layer += rng.uniform(-0.07, 0.05) * _ramp(1 - radius, 0.2)
    return layer


def _scratched(rng: np.random.Generator, grey: np.ndarray) -> np.ndarray:
    """Add one polishing scratch across the field to `grey`."""
    height, width = grey.shape
    start, angle = rng.random(2) * (width, height), rng.uniform(0, np.pi)
    reach = rng.uniform(0.2, 1.0) * width * np.array([np.cos(angle), np.sin(angle)])
    line = np.zeros_like(grey)
    ends = [(start + side * reach).astype(int).tolist() for side in (-1, 1)]
    cv2.line(line, *ends, 1.0, 2)
    return grey + rng.uniform(-0.25, 0.12) * line


def _quantise(grey: np.ndarray) -> np.ndarray:
    return np.clip(np.round(grey * 255), 0, 255).astype(np.uint8)


def write_domains(out: Path | str, size: str, seed: int, workers: int, phases: int = 2, changed: bool = False) -> None:
    """Draw all domains of a `size` into the folder `out` with `workers` processes; write its domains.toml.

    With `changed` CHANGES are three domains more.
    InputError if `out` has a domains.toml already: nothing is overwritten.
    """
    out, plan = Path(out), SIZES[size]
    if (out / "domains.toml").exists():
        raise InputError(f"{out / 'domains.toml'}: exists already; give --out a new folder or remove it")
    domains = [*plan.images, *(CHANGES if changed else ())]
    jobs = [(domain, index) for domain in domains for index in range(sum(_images(plan, domain)))]
    for domain in domains:
        for folder in ("images", "masks"):
            make_folder(out / domain / folder)
    write = functools.partial(_write, out=out, seed=seed, size=size, phases=phases)
    for _ in in_processes(write, jobs, workers, "drawing"):
        pass
    write_file(out / "domains.toml", _domains_toml(plan, domains, phases))


def _write(job: tuple[str, int], out: Path, seed: int, size: str, phases: int) -> None:
    domain, index = job
    image, mask = draw(domain, index, seed, size, phases)
    stem = f"{domain}_{index:03d}"
    # PNG for the light microscope, TIFF for the SEM: both occur in a laboratory, so the demo reads both.
    write_image(out / domain / "images" / (stem + (".png" if _recipe(domain).light else ".tif")), image)
    if domain not in ("t1", "t2") or index >= SIZES[size].images[domain][0]:
        write_image(out / domain / "masks" / f"{stem}.png", mask)


def _domains_toml(plan: Size, domains: list[str], phases: int) -> str:
    text = f'[options]\nreference = "source"\nscale = 0.5\ntile = {plan.tile}\noverlap = {plan.overlap}\n'
    text += f"classes = {json.dumps(CLASSES)}\n" if phases == 3 else ""
    for domain in domains:
        (training, test), light = _images(plan, domain), _recipe(domain).light
        text += f'\n[domains.{domain}]\nimages = "{domain}/images"\nmasks = "{domain}/masks"\n'
        text += "" if phases == 3 else "foreground = [255]\n"
        text += f"pixel_size_nm = {LIGHT_PIXEL if light else SEM_PIXEL}\n"
        text += "invert = true\n" if light else ""
        names = json.dumps([f"{domain}_{index:03d}" for index in range(training, training + test)])
        text += f"test = {names}\n" if test else "folds = 5\n"
        if phases == 3:
            ferrite, bainite, islands = values_of(_recipe(domain))
            text += f"[domains.{domain}.values]\nferrite = [{ferrite}]\nbainite = [{bainite}]\nislands = [{islands}]\n"
    return text


@exits_cleanly
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="new folder for the domains")
    parser.add_argument("--size", choices=SIZES, default="demo", help="demo is quick, study as the paper's")
    parser.add_argument("--seed", type=whole, default=0, help="another seed draws other micrographs")
    parser.add_argument("--phases", type=int, choices=(2, 3), default=2, help="of the masks; 3: islands are one too")
    parser.add_argument("--changed", action="store_true", help=f"three more targets: {', '.join(CHANGES)}")
    parser.add_argument("--workers", type=positive, default=os.cpu_count(), help="processes that draw")
    options = parser.parse_args(arguments)
    write_domains(options.out, options.size, options.seed, options.workers, options.phases, options.changed)
