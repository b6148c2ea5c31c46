"""The microstructure behind the synthetic micrographs: lath bainite and polygonal ferrite, in nanometres.

Every feature is a signed depth or a distance, so that an etchant can widen or fade it (paper, Sections 2.1
and 2.2). `data.synthetic` etches and images it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# Layout, in nm: regions stand for prior austenite grains, cells for their packets and for ferrite grains.
REGION_SPACING, CELL_SPACING = 10500.0, 4300.0
FILM_SPACING, FILM_HALF_WIDTH = (250.0, 470.0), (24.0, 42.0)
SEAM_TEETH = 260.0  # laths end unevenly at the ferrite: amplitude of the teeth
REACH = 11000.0  # a cell never owns ground farther from its centre
LATHS, ACROSS_STEP, ALONG_STEP = 96, 10.0, 80.0  # resolution of the per-packet tables


@dataclass(frozen=True)
class Microstructure:
    """One field of view: arrays (h, w), float32, on a grid of `pixel` nm; depths in nm, positive inside."""

    pixel: float
    bainite: np.ndarray  # bool, the exact mask
    film: np.ndarray  # depth inside the carbide films between laths
    wall: np.ndarray  # depth inside the sub-grain boundaries of bainite
    island: np.ndarray  # depth inside second-phase and MA islands
    boundary: np.ndarray  # distance to the next grain, packet or phase boundary
    inclination: np.ndarray  # how steeply that boundary meets the surface: 0 fades, 1 stands out
    crystal: np.ndarray  # etching response of the grain or packet, about -1..1
    lath: np.ndarray  # the same, lath by lath, zero in ferrite


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Gaussian random field (h, w) float32 of unit variance and correlation length `sigma` pixels."""
    step = max(1, int(sigma / 2))
    small = rng.standard_normal((shape[0] // step + 4, shape[1] // step + 4), dtype=np.float32)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / step, 0.3))
    small *= 2.0 * np.sqrt(np.pi) * max(sigma / step, 0.3)
    if step == 1:
        return small[: shape[0], : shape[1]]
    size = (small.shape[1] * step, small.shape[0] * step)
    large = cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)
    return large[step : step + shape[0], step : step + shape[1]]


def scattered(rng: np.random.Generator, extent: tuple[float, float], spacing: float) -> np.ndarray:
    """Points (n, 2) x, y in nm over `extent` (height, width) and a margin, none closer than 0.6 `spacing`."""
    margin = 1.5 * spacing
    sides = np.array([extent[1], extent[0]]) + 2 * margin
    wanted = int(sides.prod() / spacing**2)
    points = np.empty((0, 2))
    for candidate in rng.random((6 * wanted, 2)) * sides - margin:
        if len(points) < wanted and np.all(np.hypot(*(points - candidate).T) > 0.6 * spacing):
            points = np.vstack([points, candidate])
    return points


def nearest_cells(
    x: np.ndarray, y: np.ndarray, step: float, centres: np.ndarray, metrics: np.ndarray, chosen: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances (h, w) to the nearest and second-nearest of the `chosen` cells, and the index of the nearest.

    x, y (h, w) nm are the warped coordinates of a grid of `step` nm; metrics (n, 2, 2) stretch the cells.
    """
    first = np.full(x.shape, 4 * REACH, np.float32)
    second = first.copy()
    label = np.full(x.shape, chosen[0], np.int32)
    for cell in chosen:
        column, row = centres[cell] / step
        reach = REACH / step
        window = (
            slice(max(0, int(row - reach)), max(0, int(row + reach))),
            slice(max(0, int(column - reach)), max(0, int(column + reach))),
        )
        dx, dy = x[window] - np.float32(centres[cell, 0]), y[window] - np.float32(centres[cell, 1])
        (a, b), (c, d) = metrics[cell].astype(np.float32)
        distance = cv2.magnitude(a * dx + b * dy, c * dx + d * dy) if dx.size else dx
        closer = distance < first[window]
        second[window] = np.where(closer, first[window], np.minimum(second[window], distance))
        first[window] = np.minimum(first[window], distance)
        label[window][closer] = cell
    return first, second, label


def microstructure(rng: np.random.Generator, shape: tuple[int, int], pixel: float, fraction: float) -> Microstructure:
    """Draw a Microstructure of `shape` (h, w) at `pixel` nm whose bainite covers about `fraction` of it."""
    extent = (shape[0] * pixel, shape[1] * pixel)
    half = (shape[0] // 2 + 1, shape[1] // 2 + 1)  # cells on every second pixel: four times faster
    rows, columns = np.mgrid[: half[0], : half[1]].astype(np.float32) * np.float32(2 * pixel)
    warp = [
        sum(
            amplitude * smooth_noise(rng, half, sigma / (2 * pixel))
            for sigma, amplitude in ((1900.0, 420.0), (480.0, 120.0), (140.0, 24.0))
        )
        for _ in range(2)
    ]
    x, y = columns + warp[0], rows + warp[1]

    centres = scattered(rng, extent, CELL_SPACING)
    regions = scattered(rng, extent, REGION_SPACING)
    region = np.hypot(*(centres[:, None] - regions[None]).transpose(2, 0, 1)).argmin(1)
    # Most packets of an austenite grain share a habit plane; the others lie at 60 degrees to it.
    variant = rng.choice(3, len(centres), p=(0.5, 0.3, 0.2)) * np.pi / 3 + rng.normal(0, 0.2, len(centres))
    angle = rng.random(len(regions))[region] * np.pi + variant
    metrics = _metrics(angle, rng.uniform(1.0, 1.7, len(centres)), np.exp(rng.normal(0, 0.15, len(centres))))

    priority = rng.random(len(regions))[region] + rng.normal(0, 0.12, len(centres))
    everywhere = nearest_cells(x[::8, ::8], y[::8, ::8], 16 * pixel, centres, metrics, range(len(centres)))[2]
    area = np.bincount(everywhere.ravel(), minlength=len(centres)) / everywhere.size
    order = np.argsort(priority)
    count = np.clip(np.searchsorted(np.cumsum(area[order]), fraction) + 1, 1, len(centres) - 1)
    to_packet, next_packet, packet = nearest_cells(x, y, 2 * pixel, centres, metrics, order[:count])
    to_grain, next_grain, grain = nearest_cells(x, y, 2 * pixel, centres, metrics, order[count:])

    def full(array: np.ndarray, how: int = cv2.INTER_LINEAR) -> np.ndarray:
        size = (2 * half[1], 2 * half[0])
        return cv2.resize(array, size, interpolation=how)[: shape[0], : shape[1]]

    packet = full(packet, cv2.INTER_NEAREST)
    laths = _laths(rng, shape, pixel, centres, angle, packet)
    phase = full((to_grain - to_packet) / 2) + SEAM_TEETH * laths["teeth"]
    # The last step to the wanted fraction: a shift of the phase boundary, too small to undo the layout.
    bainite = _without_specks(phase > np.clip(np.quantile(phase[::4, ::4], 1 - fraction), -700, 700), pixel)
    phase = pixel * (_distance_inside(bainite) + _distance_inside(~bainite) - 0.5)
    inside = np.where(bainite, full((next_packet - to_packet) / 2), full((next_grain - to_grain) / 2))
    boundary = np.minimum(inside, phase)
    cell = np.where(bainite, packet, full(grain, cv2.INTER_NEAREST))

    taper = np.clip(boundary / 350 - 0.1, 0, 1)  # films thin out where laths meet a boundary
    film = np.where(bainite, laths["film"] - 45 * (1 - taper), -1000).astype(np.float32)
    wall = np.where(bainite, laths["wall"], -1000).astype(np.float32)
    crystal = np.clip(rng.normal(0, 0.55, len(centres)), -1.2, 1.2).astype(np.float32)[cell]
    inclination = 0.5 * smooth_noise(rng, shape, 1500 / pixel) + 0.25 * smooth_noise(rng, shape, 190 / pixel)
    inclination = np.clip(0.5 + inclination, 0, 1) * np.where(bainite, 0.7, 1)
    return Microstructure(
        pixel,
        bainite,
        film,
        wall,
        _islands(rng, shape, pixel, bainite, boundary, cell, len(centres)),
        boundary.astype(np.float32),
        inclination.astype(np.float32),
        crystal,
        np.where(bainite, laths["tint"], 0).astype(np.float32),
    )


def _distance_inside(region: np.ndarray) -> np.ndarray:
    """Distance in pixels (at most REACH) from inside a bool region to its outside; 0 outside."""
    return np.minimum(cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5), REACH)


def _without_specks(region: np.ndarray, pixel: float) -> np.ndarray:
    """Remove islands and holes under 0.5 um2, which no annotator would draw, from `region`."""
    for value in (True, False):
        part = (region == value).astype(np.uint8)
        _, label, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=4)
        speck = stats[:, cv2.CC_STAT_AREA] * pixel**2 < 5e5
        speck[0] = False
        region = np.where(speck[label], not value, region)
    return region


def _metrics(angle: np.ndarray, elongation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Matrices (n, 2, 2) that shorten distance along `angle` and lengthen it across."""
    c, s = np.cos(angle), np.sin(angle)
    along, across = scale / np.sqrt(elongation), scale * np.sqrt(elongation)
    return np.stack([np.stack([along * c, along * s], 1), np.stack([-across * s, across * c], 1)], 1)


def _laths(
    rng: np.random.Generator,
    shape: tuple[int, int],
    pixel: float,
    centres: np.ndarray,
    angle: np.ndarray,
    packet: np.ndarray,
) -> dict[str, np.ndarray]:
    """Lath pattern (h, w), continued beyond the packets: film, wall (depths, nm), teeth, tint (-1..1)."""
    used, local = np.unique(packet, return_inverse=True)
    local = local.reshape(shape).astype(np.int32)
    across = np.arange(-REACH, REACH, ACROSS_STEP)
    nearest = np.empty((len(used), len(across)), np.int32)
    middle = np.empty((len(used), LATHS), np.float32)
    for p in range(len(used)):
        gaps = rng.uniform(*FILM_SPACING) * np.exp(rng.normal(0, 0.28, LATHS))
        middle[p] = np.cumsum(gaps) - gaps[: LATHS // 2].sum()
        nearest[p] = np.searchsorted((middle[p, 1:] + middle[p, :-1]) / 2, across)

    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * np.float32(pixel)
    dx = columns - centres[used, 0].astype(np.float32)[local]
    dy = rows - centres[used, 1].astype(np.float32)[local]
    c, s = np.cos(angle[used]).astype(np.float32)[local], np.sin(angle[used]).astype(np.float32)[local]
    u, v = c * dx + s * dy, c * dy - s * dx
    v += (
        230 * smooth_noise(rng, shape, 1700 / pixel)
        + 60 * smooth_noise(rng, shape, 600 / pixel)
        + 20 * smooth_noise(rng, shape, 200 / pixel)
    )
    k = np.clip((v + REACH) / ACROSS_STEP, 0, len(across) - 1).astype(np.int32)
    film = local * LATHS + nearest.ravel()[local * len(across) + k]
    offset = v - middle.ravel()[film]
    lath = np.minimum(film + (offset > 0), len(used) * LATHS - 1)

    def along(table: np.ndarray, row: np.ndarray, where: np.ndarray) -> np.ndarray:
        position = np.clip((where + REACH) / ALONG_STEP, 0, table.shape[1] - 1)
        return cv2.remap(table, position, row.astype(np.float32), cv2.INTER_LINEAR)

    count = len(used) * LATHS
    samples = (count, int(2 * REACH / ALONG_STEP))

    def varying(length: float) -> np.ndarray:  # unit variance, correlated over `length` samples along each lath
        table = cv2.GaussianBlur(rng.standard_normal(samples, dtype=np.float32), (0, 1), length, sigmaY=1e-3)
        return table * np.float32(np.sqrt(2 * np.sqrt(np.pi) * length))

    def per_packet(low: float, high: float) -> np.ndarray:
        return np.repeat(rng.uniform(low, high, len(used)), LATHS)[:, None].astype(np.float32)

    # Films run from continuous to strings of short particles, packet by packet; each swells and thins out.
    broken = per_packet(0.2, 0.9)
    swelling = np.sqrt(1 - broken**2) * varying(9.0) + broken * varying(2.6) + per_packet(-0.5, 0.9)
    swelling += rng.normal(0, 0.4, (count, 1)).astype(np.float32)
    depth = per_packet(*FILM_HALF_WIDTH) * np.where(swelling > 0, np.sqrt(np.abs(swelling)), 2 * swelling)
    within = 17 * (varying(3.0) + per_packet(-2.2, -0.6))  # thin carbides inside the laths
    tints = np.clip(rng.normal(0, 0.6, count), -1, 1).astype(np.float32)
    axis = (middle.ravel()[np.maximum(lath - 1, 0)] + middle.ravel()[lath]) / 2
    return {
        "film": np.maximum(along(depth, film, u) - np.abs(offset), along(within, lath, u) - np.abs(v - axis)),
        "wall": 22 - 110 * np.abs(along(varying(3.2), lath, u + 0.45 * offset)),
        "teeth": tints[::-1][lath] + 0.5 * smooth_noise(rng, shape, 180 / pixel),
        "tint": tints[lath],
    }


def _islands(
    rng: np.random.Generator,
    shape: tuple[int, int],
    pixel: float,
    bainite: np.ndarray,
    boundary: np.ndarray,
    cell: np.ndarray,
    cells: int,
) -> np.ndarray:
    """Depth (nm) inside second-phase islands: irregular blobs of two sizes that prefer boundaries."""
    # Each grain has its own density of islands, from almost clean to granular.
    threshold = rng.uniform(1.1, 2.5, cells).astype(np.float32)[cell]
    threshold = threshold + np.where(bainite, 0.9, 0).astype(np.float32)
    attraction = 0.9 * np.exp(-((boundary / 260) ** 2))
    coarse = smooth_noise(rng, shape, 185 / pixel) + 0.35 * smooth_noise(rng, shape, 70 / pixel)
    fine = smooth_noise(rng, shape, 85 / pixel)
    depth = np.maximum((coarse + attraction - threshold) * 160, (fine - threshold - 0.75) * 75)
    return depth.astype(np.float32)
