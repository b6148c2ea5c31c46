"""A pair made of one folder of micrographs: the darker half is the source and the brighter the target, or the reverse.

    python -m benchmarks.halves micrographs/uhcs --foreground 170 --out runs/pairs/micrographs/uhcs_dark [--bright]

writes links to the files in `images` and `masks` of the folder, and a domains.toml of one phase against the rest, cut
as docs/examples/uhcs.toml cuts them.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.halves")

import argparse
from pathlib import Path

import cv2

from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_file

_OPTIONS = """[options]
reference = "source"
scale = 0.5
tile = 112
overlap = 8
"""
_DOMAIN = """
[domains.{name}]
images = "{name}/images"
masks = "{name}/masks"
foreground = [{foreground}]
background = "rest"
pixel_size_nm = 1.0
folds = 3
"""


def write_halves(folder: Path, foreground: int, out: Path, bright: bool) -> None:
    """Write both halves of a folder to `out`. InputError where it has no images, or `out` is there."""
    images = sorted((folder / "images").glob("*"), key=lambda path: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).mean())
    if not images:
        raise InputError(f"{folder / 'images'}: no images; give a folder with images and masks")
    if out.exists():
        raise InputError(f"{out}: exists already; give --out a new folder or remove it")
    halves, text = [images[: len(images) // 2], images[len(images) // 2 :]], _OPTIONS
    for name, half in zip(("source", "target"), halves[::-1] if bright else halves, strict=True):
        for kind in ("images", "masks"):
            links = make_folder(out / name / kind)
            for image in half:
                (links / image.name).symlink_to((folder / kind / image.name).resolve())
        text += _DOMAIN.format(name=name, foreground=foreground)
    write_file(out / "domains.toml", text)


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="with images and masks of the same names")
    parser.add_argument("--foreground", type=int, required=True, help="value of the phase in the masks")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--bright", action="store_true", help="the brighter half is the source")
    options = parser.parse_args()
    write_halves(options.folder, options.foreground, options.out, options.bright)


if __name__ == "__main__":
    main()
