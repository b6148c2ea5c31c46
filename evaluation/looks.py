"""Picture of the looks that --looks gives the source's tiles: a tile as it is, and several draws of each.

    python -m evaluation.looks --data runs/demo/seed0/stores --source source --target t3 --out docs/images/looks.jpg

The last column is a tile of the target, whose looks `fourier` and `histogram` take.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.looks")

import argparse
import io
from pathlib import Path

import cv2
import numpy as np

from common.arguments import whole
from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_image
from common.seeds import generator
from data.looks import OF_SOURCE, Fourier, Histogram, Looks, levels_by_micrograph
from data.store import Store, store_path
from evaluation.before_after import JPEG_QUALITY
from evaluation.figures import Captioned, grid

DRAWS = 3
BETAS = (0.01, 0.05, 0.09)  # that FDA publishes


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.looks", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("stores"), help="folder of tile stores (default: stores)")
    parser.add_argument("--source", default="source", help="annotated domain (default: source)")
    parser.add_argument("--target", required=True, help="domain that looks are taken from")
    parser.add_argument("--tile", type=whole, default=0, help="number of the source's training tile (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    options = parser.parse_args()
    source = Store(store_path(options.data, options.source))
    target = Store(store_path(options.data, options.target), labels=False)
    if source.preparation != target.preparation:
        raise InputError(f"{target.path}: prepared otherwise than {source.path}. Prepare both from one domains.toml.")
    if options.out.suffix not in (".jpg", ".png"):
        parser.error(f"argument --out: {options.out} ends neither with .jpg nor with .png")
    drawn = io.BytesIO()
    grid(drawn, rows(source, target, options.tile), legend=(), width=9, dpi=100)
    picture = cv2.imdecode(np.frombuffer(drawn.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    make_folder(options.out.parent)
    write_image(options.out, picture, JPEG_QUALITY)
    print(options.out)


def rows(source: Store, target: Store, number: int) -> list[list[Captioned]]:
    """Rows of pictures: the tile as it is and DRAWS of each look. InputError where there is no such tile."""
    tiles, donors = source.training_tiles(None, labelled=True), target.training_tiles(None, labelled=False)
    if number >= len(tiles) or not len(donors):
        raise InputError(f"--tile {number}: {source.path} has {len(tiles)} of them, {target.path} {len(donors)}.")
    tile = int(tiles[number])
    image, mask, micrograph = source.tile_image(tile), source.tile_mask(tile), int(source.tile_micrograph[tile])
    donor = target.tile_image(int(donors[0]))
    histogram = Histogram(
        levels_by_micrograph(source, tiles[[number]]), list(levels_by_micrograph(target, donors).values())
    )
    kinds = {name: Looks(look) for name, look in OF_SOURCE.items()}
    kinds |= {"convolutions by region": Looks(OF_SOURCE["convolutions"], by_region=True), "histogram": Looks(histogram)}
    kinds |= {f"fourier, beta {beta:g}": Looks(Fourier(target, donors, beta)) for beta in BETAS}
    found = []
    for name, looks in kinds.items():
        draws = [(name, looks(image, mask, micrograph, generator(0, name, draw))) for draw in range(DRAWS)]
        found.append([(f"tile of {source.domain}", image), *draws, (f"tile of {target.domain}", donor)])
    return found


if __name__ == "__main__":
    main()
