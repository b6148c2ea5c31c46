"""Ten subjects of scanning electron microscopy, one drawing function for each NanoSEM class (paper Section 2.3).

Each takes (rng, shape) and returns the signal, float32 (h, w), about 0 ... 1; sizes scale with the height, 768 px
being the height of the published pictures. Several draw on purpose what a search for burned-in marks or information
bars could mistake for them: straight bright wires and edges, saturated spheres, flat dark lower parts.
`data.synthetic_nanosem` images them.
"""

import cv2
import numpy as np

from data.synthetic.microstructure import smooth_noise

_FRACTION_BITS = 4  # OpenCV draws at a sixteenth of a pixel


def biological(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Cells and diatoms: a few large rounded bodies with pores, on a wrinkled ground."""
    unit = shape[0] / 768
    picture = 0.25 + 0.05 * smooth_noise(rng, shape, 18 * unit) + 0.04 * smooth_noise(rng, shape, 4 * unit)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for _ in range(rng.integers(3, 8)):
        centre_x, centre_y = rng.random(2) * shape[::-1]
        a, b = rng.uniform(60, 170, 2) * unit
        angle = rng.uniform(0, np.pi)
        u = ((x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)) / a
        v = ((y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)) / b
        radius = np.hypot(u, v) + 0.03 * smooth_noise(rng, shape, 25 * unit)
        pitch = rng.uniform(14, 26) * unit
        pores = np.cos(2 * np.pi * u * a / pitch) * np.cos(2 * np.pi * v * b / pitch)
        body = 0.45 + 0.3 * np.sqrt(np.clip(1 - radius**2, 0, 1)) * (1 - 0.5 * (pores > 0.45))
        body += 0.35 * np.exp(-(((radius - 0.97) / 0.04) ** 2))  # bright rim
        picture = np.where(radius < 1, body, picture)
    return picture


def fibres(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Thick bent fibres that cross."""
    unit = shape[0] / 768
    picture = np.full(shape, rng.uniform(0.06, 0.16), np.float32)
    for depth in np.linspace(0.45, 1.0, rng.integers(10, 18)):
        width = rng.uniform(26, 60) * unit
        path = _bent_path(rng, shape, bend=0.5)
        for scale in np.linspace(1, 0.12, 9):  # round cross-section with bright edges
            grey = depth * (0.35 + 0.55 * scale**2.2)
            _polyline(picture, path, float(grey), max(1, round(width * scale)))
    return picture + 0.03 * smooth_noise(rng, shape, 3 * unit)


def films(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Coated surfaces: a granular film with cracks, or its cross-section of layers over a flat dark substrate."""
    unit = shape[0] / 768
    grains = _cells(rng, shape, rng.uniform(9, 20) * unit)
    picture = 0.42 + 0.1 * grains + 0.05 * smooth_noise(rng, shape, 60 * unit)
    if rng.random() < 0.45:
        row = 0
        for k in range(rng.integers(2, 5)):
            row += int(rng.uniform(0.1, 0.3) * shape[0])
            level = rng.uniform(0.2, 0.7)
            picture[row:] = level + 0.04 * smooth_noise(rng, shape, (8 + 20 * k) * unit)[row:]
            cv2.line(picture, (0, row), (shape[1], row), float(level + 0.25), max(1, round(2 * unit)))
        substrate = int(rng.uniform(0.8, 0.94) * shape[0])
        picture[substrate:] = rng.uniform(0.0, 0.12)
    else:
        for _ in range(rng.integers(2, 7)):
            _polyline(picture, _bent_path(rng, shape, bend=1.2), 0.08, max(1, round(rng.uniform(2, 5) * unit)))
    return picture


def mems(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Electrodes: interdigitated fingers, pads and beams with straight bright edges."""
    unit = shape[0] / 768
    picture = np.full(shape, rng.uniform(0.18, 0.35), np.float32) + 0.02 * smooth_noise(rng, shape, 40 * unit)
    pitch, finger = rng.uniform(50, 110) * unit, rng.uniform(0.35, 0.6)
    metal, edge = rng.uniform(0.55, 0.8), rng.uniform(0.85, 1.3)
    turned = rng.random() < 0.5
    length, breadth = (shape[0], shape[1]) if not turned else (shape[1], shape[0])
    for k in range(int(breadth / pitch) + 1):
        first = int(k * pitch + 0.1 * pitch)
        start, stop = (0, int(0.72 * length)) if k % 2 else (int(0.28 * length), length)
        corners = ((first, start), (int(first + finger * pitch), stop))
        if turned:
            corners = tuple((y, x) for x, y in corners)
        cv2.rectangle(picture, *corners, float(metal), -1)
        cv2.rectangle(picture, *corners, float(edge), max(1, round(2.5 * unit)))
    for _ in range(rng.integers(0, 3)):
        corner = (rng.random(2) * shape[::-1]).astype(int)
        other = (corner + rng.uniform(60, 260, 2) * unit).astype(int)
        cv2.rectangle(picture, corner.tolist(), other.tolist(), float(metal + 0.1), -1)
        cv2.rectangle(picture, corner.tolist(), other.tolist(), float(edge), max(1, round(2 * unit)))
    return picture + 0.02 * smooth_noise(rng, shape, 2 * unit)


def nanowires(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Many thin straight wires, bright to saturated."""
    unit = shape[0] / 768
    picture = np.full(shape, rng.uniform(0.08, 0.25), np.float32)
    main, spread = rng.uniform(0, np.pi), rng.choice([0.15, 3.2])
    for _ in range(rng.integers(40, 140)):
        start = rng.random(2) * shape[::-1]
        angle = main + spread * rng.uniform(-0.5, 0.5)
        end = start + rng.uniform(80, 500) * unit * np.array([np.cos(angle), np.sin(angle)])
        grey = float(rng.uniform(0.45, 1.5))  # beyond 1 the detector saturates
        _polyline(picture, np.array([start, end]), grey, max(1, round(rng.uniform(1.5, 7) * unit)))
    return picture


def particles(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Separate spheres on a dark ground, bright at the rim, some saturated."""
    unit = shape[0] / 768
    picture = np.full(shape, rng.uniform(0.05, 0.2), np.float32)
    mean, charged = rng.uniform(12, 40) * unit, rng.random() < 0.35
    for _ in range(rng.integers(25, 110)):
        centre = rng.random(2) * shape[::-1]
        radius = max(3 * unit, rng.normal(mean, 0.15 * mean))
        for scale in np.linspace(1, 0.1, 8):
            grey = (0.5 + 0.5 * scale**3) * (1.7 if charged else 1.0)
            _disc(picture, centre, radius * scale, float(grey))
    return picture + 0.02 * smooth_noise(rng, shape, 5 * unit)


def porous(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Sponge: a network of bright walls around dark pores of two sizes."""
    unit = shape[0] / 768
    field = smooth_noise(rng, shape, rng.uniform(9, 16) * unit)
    walls = np.exp(-((field / 0.45) ** 2))
    fine = np.abs(smooth_noise(rng, shape, 4 * unit)) < 0.35
    return 0.08 + 0.62 * walls * (0.75 + 0.25 * fine) + 0.06 * smooth_noise(rng, shape, 40 * unit)


def patterned(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A lithographic pattern: a regular grid of lines, squares or holes, turned by any angle or by none."""
    unit = shape[0] / 768
    angle = rng.choice([0.0, rng.uniform(0, np.pi / 2)])
    pitch = rng.uniform(24, 80) * unit
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    u = ((x * np.cos(angle) + y * np.sin(angle)) / pitch) % 1 - 0.5
    v = ((y * np.cos(angle) - x * np.sin(angle)) / pitch) % 1 - 0.5
    kind, fill = rng.integers(3), rng.uniform(0.22, 0.38)
    depth = {0: np.abs(u), 1: np.maximum(np.abs(u), np.abs(v)), 2: np.hypot(u, v)}[int(kind)] - fill
    inside = depth < 0
    picture = np.where(inside, rng.uniform(0.45, 0.75), rng.uniform(0.1, 0.3)).astype(np.float32)
    picture += rng.uniform(0.3, 0.9) * np.exp(-((depth * pitch / (2.0 * unit)) ** 2))
    return picture + 0.03 * smooth_noise(rng, shape, 50 * unit)


def powder(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Densely packed angular grains, each facet of its own grey, shaded and rough."""
    unit = shape[0] / 768
    coarse = _cells(rng, shape, rng.uniform(35, 70) * unit)
    fine = _cells(rng, shape, rng.uniform(14, 22) * unit)
    return 0.5 + 0.38 * coarse + 0.16 * fine + 0.05 * smooth_noise(rng, shape, 2.5 * unit)


def tips(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One sharp tip before an empty background that may be black to the last row."""
    unit = shape[0] / 768
    height, width = shape
    picture = np.full(shape, rng.choice([0.0, rng.uniform(0.02, 0.12)]), np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    apex = np.array([rng.uniform(0.4, 0.85) * width, rng.uniform(0.2, 0.75) * height])
    angle, opening = rng.choice([0.0, rng.uniform(-0.9, 0.9)]), rng.uniform(0.08, 0.4)
    along = (apex[0] - x) * np.cos(angle) + (apex[1] - y) * np.sin(angle)
    across = (y - apex[1]) * np.cos(angle) - (x - apex[0]) * np.sin(angle)
    half = opening * np.maximum(along, 0) + 4 * unit * np.sqrt(np.maximum(along, 0) / (8 * unit))
    offset = np.abs(across) / np.maximum(half, 1e-3)
    body = 0.4 + 0.7 * offset**6 + 0.08 * smooth_noise(rng, shape, 6 * unit)
    return np.where((along > 0) & (offset < 1), body, picture)


def _bent_path(rng: np.random.Generator, shape: tuple[int, int], bend: float) -> np.ndarray:
    """Points (n, 2) x, y of a line across the picture whose direction wanders."""
    heading, points = rng.uniform(0, 2 * np.pi), []
    position = rng.random(2) * shape[::-1] - shape[0] * np.array([np.cos(heading), np.sin(heading)])
    turn = rng.normal(0, 0.03 * bend)
    for _ in range(60):
        points.append(position)
        heading += turn + rng.normal(0, 0.06 * bend)
        position = position + shape[0] / 20 * np.array([np.cos(heading), np.sin(heading)])
    return np.array(points)


def _polyline(picture: np.ndarray, path: np.ndarray, grey: float, width: int) -> None:
    points = np.round(path * 2**_FRACTION_BITS).astype(np.int32)[:, None]
    cv2.polylines(picture, [points], False, grey, width, cv2.LINE_8, _FRACTION_BITS)


def _disc(picture: np.ndarray, centre: np.ndarray, radius: float, grey: float) -> None:
    x, y, r = (round(value * 2**_FRACTION_BITS) for value in (*centre, radius))
    cv2.circle(picture, (x, y), max(r, 1), grey, -1, cv2.LINE_8, _FRACTION_BITS)


def _cells(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> np.ndarray:
    """Grains (h, w), about -1 ... 1: every point takes the shade of its nearest seed, darker towards the boundary."""
    spacing = max(spacing, 2.0)
    seeds = np.ones(shape, np.uint8)
    count = max(4, int(shape[0] * shape[1] / spacing**2))
    seeds[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.uniform(-1, 1, label.max() + 1).astype(np.float32)
    return 0.6 * shade[label] + 0.4 - 0.8 * np.clip(distance / spacing, 0, 1)


# The folder names of the published data set (Aversa et al. 2018).
SUBJECTS = {
    "Biological": biological,
    "Fibres": fibres,
    "Films_Coated_Surface": films,
    "MEMS_devices_and_electrodes": mems,
    "Nanowires": nanowires,
    "Particles": particles,
    "Porous_Sponge": porous,
    "Patterned_surface": patterned,
    "Powder": powder,
    "Tips": tips,
}
