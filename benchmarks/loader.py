"""Tiles a second from the store, by policy and number of workers, and what the policies are worth beside plain ones.

    python -m benchmarks.loader                           # what docs/performance.md shows
    python -m benchmarks.loader --picture docs/images/elastic.png

On one core: tiles as training gets them, the same policies written with albumentations' own transformations (elastic
not approximate, RGB), and a bare read of tile and mask, by turns in one process. Then the loader by workers.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.loader")

import argparse
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import albumentations as A
import cv2
import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.driver import draw_stores, report, spread
from common.arguments import positive, whole
from common.errors import exits_cleanly
from data.augmentation import POLICIES, Augmentation, Elastic
from data.store import Store
from data.tiles import LabelledTiles, batches, require_sockets

# As wide as Elastic's, to hundredths of a pixel in the standard deviation over a tile of 636.
PLAIN_ELASTIC = A.ElasticTransform(alpha=600, sigma=20, border_mode=cv2.BORDER_REFLECT_101, p=0.3)


class PlainTiles:
    """Base of the plain tiles: the store opened, the tile as RGB, one Compose of albumentations."""

    def __init__(self, store: Store, policy: str):
        self.store = store
        transforms = Augmentation(policy)._compose.transforms if policy != "none" else []
        self.compose = A.Compose([PLAIN_ELASTIC if isinstance(one, Elastic) else one for one in transforms])

    def __call__(self, tile: int) -> torch.Tensor:
        rgb = cv2.cvtColor(self.store.tile_image(tile), cv2.COLOR_GRAY2RGB)
        result = self.compose(image=rgb, mask=self.store.tile_mask(tile))
        return torch.from_numpy(np.ascontiguousarray(result["image"].transpose(2, 0, 1)))


def on_one_core(path: Path, policy: str, rounds: int, tiles: int) -> dict:
    """A row: milliseconds a tile, in three ways by turns."""
    own, store = LabelledTiles(Store(path), 0, policy, 0), Store(path)
    plain = PlainTiles(store, policy)
    ways = {
        "this": lambda n: own[(n // len(own), n % len(own))],
        "albumentations": lambda n: plain(int(own.tiles[n % len(own)])),
        "bare read": lambda n: (store.tile_image(own.tiles[n % len(own)]), store.tile_mask(own.tiles[n % len(own)])),
    }
    took = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            for n in range(turn * tiles, (turn + 1) * tiles):
                way(n)
            took[name].append((time.perf_counter() - began) / tiles)
    took = {name: values[1:] for name, values in took.items()}  # the first round warms up
    ratios = [a / b for a, b in zip(took["albumentations"], took["this"], strict=True)]
    row = {f"{name}, ms a tile": spread([1e3 * value for value in values]) for name, values in took.items()}
    rate = {"tiles/s": 1 / spread(took["this"])["median"], "times faster than albumentations": spread(ratios)}
    return {"policy": policy} | row | rate


def by_workers(path: Path, policy: str, workers: int, steps: int, batch_size: int) -> dict:
    """A row: tiles a second of the training scripts' own loader, after its start."""
    processes = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"))
    tiles = LabelledTiles(Store(path), 0, policy, 0)
    stream = batches(tiles, batch_size, 0, 10**6, workers, processes)
    for _ in range(2 * workers + 1):  # what the workers had prepared ahead does not count
        next(stream)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(steps):
            next(stream)
        seconds.append((time.perf_counter() - began) / (steps * batch_size))
    stream.close()
    return {"policy": policy, "workers": workers, "tiles/s": spread([1 / value for value in seconds])}


def displacements(side: int, draws: int) -> tuple[list[dict], dict]:
    """Rows of statistics of both elastic fields over tiles of `side` px, and one field of each, (h, w, 2)."""
    rows, fields = [], {}
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).astype(np.float32)
    margin = side // 8
    for name, transform in (("this", Elastic(std=2.5, sigma=20, p=1.0)), ("albumentations", PLAIN_ELASTIC)):
        transform.set_random_seed(1)
        drawn, seconds = [], []
        for _ in range(draws):
            began = time.perf_counter()
            params = transform.get_params_dependent_on_data({"shape": (side, side)}, {})
            seconds.append(time.perf_counter() - began)
            source = params["field"] if "field" in params else np.stack([params["map_x"], params["map_y"]], axis=-1)
            drawn.append(source - grid)
        fields[name], stack = drawn[0], np.stack(drawn)
        inside = stack[:, margin:-margin, margin:-margin]
        rows.append(
            {
                "elastic field": name, "std px": float(stack.std()), "std px inside": float(inside.std()),
                "largest px": float(abs(stack).max()), "largest px inside": float(abs(inside).max()),
                "correlated over px": correlation_length(inside), "ms": spread([1e3 * value for value in seconds]),
            }
        )  # fmt: skip
    return rows, fields


def correlation_length(stack: np.ndarray) -> int | None:
    """The distance along rows, in px, at which the correlation of the displacements has fallen to 1/e; None in small
    tiles, where it does not.
    """
    variance = (stack**2).mean()
    distances = range(1, stack.shape[2])
    return next((d for d in distances if (stack[:, :, d:] * stack[:, :, :-d]).mean() < variance / np.e), None)


def draw(fields: dict, tile: np.ndarray, path: Path) -> None:
    """A grid and a tile bent by either field, side by side."""
    side = len(tile)
    lines = np.full((side, side), 255, np.uint8)
    lines[::20] = lines[1::20] = lines[:, ::20] = lines[:, 1::20] = 0
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 8.4), layout="constrained")
    for row, picture in zip(axes, (lines, tile), strict=True):
        row[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        for axis, field in zip(row[1:], fields.values(), strict=True):
            columns, rows = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
            moved = (columns + field[..., 0], rows + field[..., 1])
            bent = cv2.remap(picture, *moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            axis.imshow(bent, cmap="gray", vmin=0, vmax=255)
    for axis, title in zip(axes[0], ("not bent", "this project's field", "albumentations' field"), strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=80)


@exits_cleanly
def main() -> None:
    options = parse()
    require_sockets(max(options.workers))
    cv2.setNumThreads(0)  # as in a loader worker
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        stores = draw_stores(Path(name), options.tile, options.overlap)
        path = stores / "source.h5"
        rows = [on_one_core(path, policy, options.rounds, options.tiles) for policy in POLICIES]
        report(f"Tiles of {options.tile + 2 * options.overlap} px on one core", rows, _file(options.json, "core"))
        rows = [by_workers(path, "extended", n, options.tiles, options.batch_size) for n in options.workers]
        report(f"The loader, batches of {options.batch_size}", rows, _file(options.json, "workers"))
        rows, fields = displacements(options.tile + 2 * options.overlap, options.rounds)
        report("Elastic displacement along an axis", rows, _file(options.json, "elastic"))
        if options.picture:
            draw(fields, Store(path).tile_image(0), Path(options.picture))


def _file(path: str | None, part: str) -> str | None:
    """One JSON file for each table: loader.json becomes loader_core.json."""
    return path and str(Path(path).with_name(f"{Path(path).stem}_{part}.json"))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loader", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tile", type=int, default=512, help="px (default: the study's 512)")
    parser.add_argument("--overlap", type=int, default=62, help="px of context on each side (default: 62)")
    parser.add_argument("--tiles", type=positive, default=100, help="in a round; batches in one, with workers")
    parser.add_argument("--rounds", type=positive, default=7, help="that count; one before them warms up")
    parser.add_argument("--workers", type=whole, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=positive, default=8)
    parser.add_argument("--picture", metavar="FILE", help="draw both elastic fields side by side")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
