"""Micrographs a second and peak memory of data.prepare, reading one micrograph at a time against several.

    python -m benchmarks.prepare                                         # what docs/performance.md shows
    python -m benchmarks.prepare --sides 8192 --micrographs 6 --rgb

Each turn is the command of its own process; those with one worker and with several take turns.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.prepare")

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import tifffile

from benchmarks.driver import report, spread
from common.arguments import at_least, positive
from common.errors import exits_cleanly
from data.synthetic import micrographs

_TOML = """
[options]
reference = "source"

[domains.source]
images = "images"
masks = "masks"
foreground = [255]
pixel_size_nm = 27.7
"""
# What a turn runs: data.prepare, its seconds and its peak memory, without the start of the interpreter.
_TURN = """
import json, sys, time
from pathlib import Path
from data.prepare import main
began = time.perf_counter()
main(sys.argv[1:])
seconds = time.perf_counter() - began
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
print(json.dumps([seconds, peak]))
"""


@exits_cleanly
def main() -> None:
    options = parse()
    rows = []
    for side in options.sides:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            draw(folder, side, options.micrographs, options.rgb, options.compression)
            counts = (1, options.workers)
            turns = [[turn(folder, workers) for workers in counts] for _ in range(options.repeats + 1)][1:]
        one, several = ([each[n] for each in turns] for n in range(2))
        pairs = zip(one, several, strict=True)
        ratio = spread([alone / together for (alone, _), (together, _) in pairs])
        for workers, measured in zip(counts, (one, several), strict=True):
            rows.append({
                "micrographs": f"{options.micrographs} of {side} x {side}",
                "workers": workers,
                "micrographs/s": spread([options.micrographs / seconds for seconds, _ in measured]),
                "resident, GB": spread([peak for _, peak in measured]),
                "times one worker": ratio if workers > 1 else None,
            })  # fmt: skip
    kind = f"{'RGB' if options.rgb else 'grey'} TIFF ({options.compression or 'not compressed'}), masks PNG"
    report(f"data.prepare, {kind}", rows, options.json)


def draw(folder: Path, side: int, count: int, colour: bool, compression: str | None) -> None:
    """Micrographs (side, side) as TIFF with masks as PNG: one of the study's size, mirrored and shifted."""
    drawn = micrographs.draw("source", 0, size="study")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for n in range(count):
        grey, mask = (np.pad(pixels, [(0, side)] * 2, mode="symmetric")[n : n + side, n : n + side] for pixels in drawn)
        pixels = np.repeat(grey[..., None], 3, axis=2) if colour else grey
        tifffile.imwrite(folder / "images" / f"m{n}.tif", pixels, compression=compression)
        cv2.imwrite(str(folder / "masks" / f"m{n}.png"), mask)
    (folder / "domains.toml").write_text(_TOML)


def turn(folder: Path, workers: int) -> list[float]:
    """Seconds and peak memory in GB of one data.prepare."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        arguments = [folder / "domains.toml", "--out", out, "--workers", workers]
        command = [sys.executable, "-c", _TURN, *map(str, arguments)]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return json.loads(said.splitlines()[-1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=at_least(16), nargs="+", default=[2048, 8192], help="px of the micrographs")
    parser.add_argument("--micrographs", type=positive, default=12)
    parser.add_argument("--rgb", action="store_true", help="micrographs in colour")
    parser.add_argument("--compression", choices=("deflate", "lzw"), help="of the TIFF files (default: none)")
    parser.add_argument("--workers", type=positive, default=4, help="micrographs read at once, against one")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of each")
    parser.add_argument("--folder", help="where the micrographs are written (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
