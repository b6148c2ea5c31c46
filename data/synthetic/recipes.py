"""Recipes of the drawn micrographs: etchants, microscopes, and the sizes of what is drawn."""

from dataclasses import dataclass

SEM_PIXEL, LIGHT_PIXEL, LIGHT_SUPERSAMPLING = 27.7, 126.6, 3  # nm, nm, drawn pixels a camera pixel


@dataclass(frozen=True)
class Etching:
    """Effect of an etchant: widths in nm, counts per 1000 um2, the rest grey (1 = white)."""

    film: float
    widening: float  # of films and islands
    island: float
    boundary: float
    boundary_width: float
    fading: float  # fraction of the boundaries' contrast that follows their inclination
    wall: float  # sub-grain boundaries
    crystal: float
    lath: float
    roughness: float
    plate: float = 0.0  # how far the plates between films stay unetched (fraction of the films' mean contrast)
    stains: float = 0.0  # rings and ellipses left by drying etchant
    residues: float = 0.0  # bright particles


@dataclass(frozen=True)
class Microscope:
    """An instrument with its detector settings: grey values relative to full scale."""

    brightness: float
    contrast: float
    blur: float  # sigma of the point spread, nm
    noise: float
    shading: float
    edge: float = 0.0  # SEM: extra signal of slopes
    tilt: float = 0.0  # SEM: signal of slopes that face the detector
    scratches: float = 0.0  # light: expected number an image


@dataclass(frozen=True)
class Recipe:
    """A way to etch and image the steel, and the mean bainite fractions of training and test images."""

    etching: Etching
    microscope: Microscope
    fraction: float
    test_fraction: float = 0.44
    light: bool = False


STRUERS = Etching(
    film=0.34,
    widening=0.0,
    island=0.24,
    boundary=0.24,
    boundary_width=42.0,
    fading=0.85,
    wall=0.0,
    crystal=0.06,
    lath=0.012,
    roughness=0.028,
)
NITAL = Etching(
    film=0.30,
    widening=6.0,
    island=0.24,
    boundary=0.28,
    boundary_width=46.0,
    fading=0.75,
    wall=0.16,
    crystal=0.075,
    lath=0.03,
    roughness=0.035,
    stains=6.0,
    residues=25.0,
)
LONG_NITAL = Etching(
    film=0.33,
    widening=45.0,
    island=0.38,
    boundary=0.40,
    boundary_width=80.0,
    fading=0.95,
    wall=0.12,
    crystal=0.11,
    lath=0.06,
    roughness=0.07,
    stains=8.0,
    residues=45.0,
)
# The gap of t3: `blur` (FWHM 350 nm) leaves streaks of the films, `film` against `island` is their contrast. Without
# `plate` bainite would be as bright and blotchy here as islands are in the source.
LIGHT_NITAL = Etching(
    film=0.80,
    widening=8.0,
    island=0.60,
    boundary=0.60,
    boundary_width=110.0,
    fading=0.9,
    wall=0.06,
    crystal=0.07,
    lath=0.05,
    roughness=0.03,
    plate=0.8,
    stains=3.0,
)
SEM_1 = Microscope(brightness=0.31, contrast=1.0, blur=19.0, noise=0.038, shading=0.03, edge=0.10, tilt=0.05)
SEM_2 = Microscope(brightness=0.32, contrast=1.1, blur=52.0, noise=0.07, shading=0.07, edge=0.16, tilt=0.10)
BRIGHT_FIELD = Microscope(brightness=0.74, contrast=1.1, blur=150.0, noise=0.022, shading=0.06, scratches=0.7)
DOMAINS = {
    "source": Recipe(STRUERS, SEM_1, fraction=0.53),
    "t1": Recipe(NITAL, SEM_1, fraction=0.53),
    "t2": Recipe(LONG_NITAL, SEM_2, fraction=0.29, test_fraction=0.47),
    "t3": Recipe(LIGHT_NITAL, BRIGHT_FIELD, fraction=0.53, light=True),
}


@dataclass(frozen=True)
class Size:
    """Image shapes (h, w), images of each domain as (training, test), and how the tile stores are cut."""

    electron: tuple[int, int]
    light: tuple[int, int]
    tile: int
    overlap: int
    images: dict[str, tuple[int, int]]


SIZES = {
    "demo": Size((716, 1024), (180, 256), 112, 8, {"source": (20, 0), "t1": (12, 6), "t2": (12, 6), "t3": (24, 8)}),
    "study": Size((1433, 2048), (336, 448), 512, 62, {"source": (35, 0), "t1": (20, 5), "t2": (12, 3), "t3": (59, 50)}),
}
