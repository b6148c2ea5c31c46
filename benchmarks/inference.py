"""Megapixels a second and peak memory of segmenting whole micrographs, against a loop over its tiles.

    python -m benchmarks.inference                                  # what docs/performance.md shows, CPU
    python -m benchmarks.inference --sides 20000 --rgb --model deeplabv2_resnet101 --device cuda

The micrographs go the whole road of evaluate.py --images, from file to file, each in a process of its own. On a crop,
inference and the plain loop take turns in one process; what they find is compared. Sides are px at working scale.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.inference")

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

os.environ["TQDM_DISABLE"] = ""  # a large micrograph takes minutes: its progress is shown, against benchmarks.driver

import numpy as np
import tifffile
import torch

import models
from benchmarks.driver import report, spread
from benchmarks.published import PlainHead
from common.arguments import positive
from common.errors import exits_cleanly
from common.signals import serve
from data.synthetic import micrographs
from evaluation.inference import for_inference, predict
from evaluation.members import Member
from evaluation.segment_folder import segment_folder
from models.deeplabv2 import DilatedHead
from training.device import choose_algorithms, choose_device


@exits_cleanly
def main() -> None:
    options = parse()
    rows = [compare(options)]
    for side in options.sides:
        for colour in (False, True) if options.rgb else (False,):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=serve) as fresh:
                rows.append(fresh.submit(whole, options, side, colour).result())
    size = f"windows of {options.tile + 2 * options.overlap} px, {options.tile} apart"
    report(f"Inference with {options.model}, {size}, fp32", rows, options.json)


def compare(options: argparse.Namespace) -> dict:
    """A row: inference on a crop against the plain loop, the two by turns."""
    choose_algorithms(deterministic=False, amp="off")
    device, cut, image = options.device, (options.tile, options.overlap), micrograph(options.crop)
    model = drawn_model(options.model).to(device)
    fast, plain = for_inference(model), plain_heads(model)
    seconds, found = {"this": [], "loop": []}, {}
    for _ in range(options.repeats + 1):  # the first of each warms up
        for name, run in (("loop", lambda: per_tile(plain, image, *cut, device)),
                          ("this", lambda: predict(fast, image, *cut, device))):  # fmt: skip
            began = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - began)
    pairs = list(zip(seconds["this"], seconds["loop"], strict=True))[1:]
    megapixels = image.size / 1e6
    difference = np.abs(found["this"] - found["loop"]).max()
    return {
        "micrograph": f"{options.crop} x {options.crop}, in memory",
        "Mpx/s": spread([megapixels / this for this, _ in pairs]),
        "Mpx/s of the loop": spread([megapixels / loop for _, loop in pairs]),
        "times the loop": spread([loop / this for this, loop in pairs]),
        "greatest difference of probability": float(difference),
        "pixels of the mask that differ": int((models.classes(found["this"]) != models.classes(found["loop"])).sum()),
        "seconds": None, "resident, GB": None, "on the GPU, GB": None,
    }  # fmt: skip


def whole(options: argparse.Namespace, side: int, colour: bool) -> dict:
    """A row: a micrograph from file to file. To be run in a fresh process: nothing else is resident in it."""
    choose_algorithms(deterministic=False, amp="off")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        (folder / "images").mkdir()
        grey = micrograph(side)
        tifffile.imwrite(folder / "images" / "whole.tif", np.repeat(grey[..., None], 3, axis=2) if colour else grey)
        del grey
        preparation = {"tile": options.tile, "overlap": options.overlap, "scale": 1.0, "reference_pixel_size_nm": 1.0}
        preparation["native"] = {"pixel_size_nm": 1.0, "invert": False, "information_bar": 0}
        model = drawn_model(options.model).to(options.device, memory_format=torch.channels_last)
        member = Member(folder, "last", model, {"target": "t3"}, preparation, 0)
        choices = dict.fromkeys(("pixel_size", "invert", "information_bar", "page", "images_of"))
        choices = SimpleNamespace(images=folder / "images", out=folder / "out", **choices)
        forget_peak_memory()
        began = time.perf_counter()
        segment_folder([member], choices, options.device)
        seconds = time.perf_counter() - began
    cuda = options.device != "cpu"
    return {
        "micrograph": f"{side} x {side} {'RGB' if colour else 'grey'}, file to file",
        "Mpx/s": side**2 / 1e6 / seconds,
        "Mpx/s of the loop": None, "times the loop": None,
        "greatest difference of probability": None, "pixels of the mask that differ": None,
        "seconds": seconds,
        "resident, GB": peak_memory(),
        "on the GPU, GB": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
    }  # fmt: skip


@torch.no_grad()
def per_tile(model: torch.nn.Module, image: np.ndarray, tile: int, overlap: int, device: str) -> np.ndarray:
    """The yardstick, as one would write it: window by window, the probability of the whole micrograph in memory."""
    window = tile + 2 * overlap
    extra = [(overlap, overlap + -side % tile) for side in image.shape]
    padded = np.pad(image, extra, mode="reflect")
    ramp = np.clip((np.arange(window) + 0.5 - overlap / 2) / overlap, 0, 1)
    weight = np.outer(*[np.minimum(ramp, ramp[::-1]).astype(np.float32)] * 2)
    total, weights = np.zeros((2, *padded.shape), np.float32), np.zeros(padded.shape, np.float32)
    for row in range(0, image.shape[0], tile):
        for column in range(0, image.shape[1], tile):
            place = (slice(row, row + window), slice(column, column + window))
            logits = model(torch.from_numpy(padded[place].copy())[None, None].to(device))["main"]
            total[:, *place] += weight * models.probabilities(logits)[0].cpu().numpy()
            weights[place] += weight
    inner = tuple(slice(overlap, overlap + side) for side in image.shape)
    return total[:, *inner] / weights[inner]


def plain_heads(model: torch.nn.Module) -> torch.nn.Module:
    """The network with heads as published."""
    for name, head in list(model.named_children()):
        if isinstance(head, DilatedHead):
            setattr(model, name, PlainHead(head))
    return model


def micrograph(side: int) -> np.ndarray:
    """A drawn micrograph, uint8 (side, side): one of the study's size, mirrored as often as it takes."""
    drawn, _ = micrographs.draw("source", 0, size="study")
    for axis in (0, 1):
        drawn = np.concatenate([drawn, np.flip(drawn, axis)], axis)
    height, width = drawn.shape
    return drawn[np.arange(side) % height][:, np.arange(side) % width]


def drawn_model(name: str) -> torch.nn.Module:
    """A random network, the same each time, with statistics of its own for the target; its logits vary as a trained
    one's do, around 0: of 0 and 1 nothing could differ."""
    torch.manual_seed(0)
    model = models.domain_batch_norm(models.build(name))
    models.set_domain(model, "target")
    images = torch.from_numpy(micrograph(512).reshape(2, 256, 2, 256).swapaxes(1, 2).reshape(4, 1, 256, 256))
    models.reestimate_statistics(model, [images])
    heads = model.main_head.branches if hasattr(model, "main_head") else [model.head]
    with torch.no_grad():
        logits = model.eval()(images)["main"]
        heads[0].bias -= logits.median()
        for parameter in (parameter for head in heads for parameter in head.parameters()):
            parameter *= 2 / logits.std()
    return model


def forget_peak_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """GB that this process was resident with at most since forget_peak_memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=positive, nargs="*", default=[2000, 20000], help="px of the whole micrographs")
    parser.add_argument("--rgb", action="store_true", help="each of them in colour too")
    parser.add_argument("--crop", type=positive, default=2048, help="px of the side on which the loop is measured")
    parser.add_argument("--model", choices=models.MODELS, default="deeplabv2_small")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--tile", type=int, default=512, help="px between windows")
    parser.add_argument("--overlap", type=int, default=62, help="px of context on each side")
    parser.add_argument("--repeats", type=positive, default=5, help="turns of inference and loop")
    parser.add_argument("--folder", help="where the micrographs are written (default: a temporary folder)")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    options.device = str(choose_device(options.device))
    return options


if __name__ == "__main__":
    main()
