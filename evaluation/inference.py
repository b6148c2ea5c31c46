"""Overlap-tile inference on whole micrographs (paper 2.2, after Ronneberger et al.), in bounded memory."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.experimental import optimization
from tqdm import tqdm

from models.batchnorm import DomainBatchNorm
from models.deeplabv2 import DilatedHead
from models.phases import classes, probabilities

Network = Callable[[Tensor], dict[str, Tensor]]  # uint8 (N, 1, T, T) -> level -> logits
_ROWS = 256  # of a mask that are decided at once


@dataclass(frozen=True)
class Segmentation:
    """A micrograph, segmented: class indices and confidence, both uint8 (h, w), and what each model finds by itself.

    confidence: probability of the class that was chosen, in 255 steps. fractions: float64 (models, C), area fraction of
    each phase by each model.
    """

    classes: np.ndarray
    confidence: np.ndarray
    fractions: np.ndarray


class _Tracer(fx.Tracer):
    """Tracer that leaves heads as they are: their loops cannot be traced, and nothing in them can be folded."""

    def is_leaf_module(self, module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, DilatedHead) or super().is_leaf_module(module, name)


def for_inference(model: torch.nn.Module) -> fx.GraphModule:
    """Copy a network to one that gives the same `main` logits, to rounding, with less work. It gives no others.

    The batch norms of the domain in use are folded into the convolutions before them, and what only the auxiliary
    head needs is left out. Later changes of the network do not reach the copy, nor does another choice of domain.
    Input and output are the network's; there are no gradients.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DomainBatchNorm):
                setattr(parent, name, child.norms[child.domain])
    traced = optimization.fuse(fx.GraphModule(model, _Tracer().trace(model)), inplace=True, no_trace=True)
    (output,) = traced.graph.find_nodes(op="output")
    output.args = ({"main": output.args[0]["main"]},)
    traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.to(memory_format=torch.channels_last)


def by_symmetries(network: Network) -> Network:
    """Make a network whose probabilities are the mean over the eight symmetries of a window, T x T px.

    It returns their logarithms as logits of each phase, from which models.probabilities makes the mean again.
    """

    def averaged(windows: Tensor) -> dict[str, Tensor]:
        found = 0
        for mirrored, turns in product((False, True), range(4)):
            seen = torch.rot90(windows.flip(3) if mirrored else windows, turns, (2, 3)).contiguous()
            back = torch.rot90(probabilities(network(seen)["main"]), -turns, (2, 3))
            found = found + (back.flip(3) if mirrored else back) / 8
        return {"main": found.log()}

    return averaged


def window_batches(
    image: np.ndarray, tile: int, overlap: int, device: torch.device | str, size: int = 16
) -> Iterator[Tensor]:
    """Yield the windows of a micrograph that predict_bands looks at, uint8 (n, 1, T, T), n up to `size`, equal to one.

    They are on the device.
    """
    corners = list(product(*(range(-overlap, side - overlap, tile) for side in image.shape)))
    for batch in np.array_split(corners, -(-len(corners) // size)):
        places = [[_mirrored(at, at + tile + 2 * overlap, side) for at, side in zip(corner, image.shape, strict=True)]
                  for corner in batch]  # fmt: skip
        yield _send(np.stack([image[np.ix_(*place)] for place in places])[:, None], torch.device(device))


@torch.inference_mode()
def predict_bands(
    model: Network,
    image: np.ndarray,
    tile: int,
    overlap: int,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the probabilities of a micrograph's phases from top to bottom, in bands of finished rows.

    Windows of tile + 2 * overlap pixels stand `tile` apart, as the training tiles do. The micrograph is mirrored
    beyond its edges. Where two windows overlap, their probabilities are blended linearly over the middle half of the
    overlap, so that pixels within overlap / 2 of a window's edge do not count. A model whose receptive radius is at
    most overlap / 2 then gives exactly what it gives for the whole micrograph. Besides the micrograph, memory holds
    one row of windows, however tall the micrograph is.

    model: callable, (N, 1, T, T) uint8 on `device` -> {"main": logits (N, 1 or C, T, T)}; a module is in eval mode.
    image: uint8 (h, w). Yields (row, probabilities float32 (C, rows, w)), rows consecutive from 0 to h.
    batch_size: windows at once; by default 4 on a GPU and 1 on the CPU, whose cache holds what one window needs.
    """
    ready = None
    for row, fetch in _bands(model, image, tile, overlap, torch.device(device), batch_size):
        # The band before is fetched and used while a GPU computes this one: neither waits for the other.
        if ready:
            yield ready[0], ready[1]()
        ready = row, fetch
    yield ready[0], ready[1]()


def _bands(
    model: Network, image: np.ndarray, tile: int, overlap: int, device: torch.device, batch_size: int | None
) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
    """Yield as predict_bands does, but in place of each band the function that waits for it."""
    height, width = image.shape
    window = tile + 2 * overlap
    columns = -(-width // tile)
    rows = -(-height // tile)
    batch_size = batch_size or (1 if device.type == "cpu" else 4)
    column_index = torch.from_numpy(_mirrored(-overlap, columns * tile + overlap, width)).to(device)
    weights = {ends: _weight(tile, overlap, *ends).to(device) for ends in product((False, True), repeat=2)}
    band = None
    for r in range(rows):
        top = r * tile - overlap
        strip = _send(image[_mirrored(top, top + window, height)], device)[:, column_index]
        windows = strip.unfold(1, window, tile).transpose(0, 1)[:, None]
        row_weight = weights[r == 0, r == rows - 1][:, None]
        for first in range(0, columns, batch_size):
            found = probabilities(model(windows[first : first + batch_size].contiguous())["main"])
            if band is None:
                band = torch.zeros(found.shape[1], window, columns * tile + 2 * overlap, device=device)
            for c, of_window in enumerate(found, first):
                weight = row_weight * weights[c == 0, c == columns - 1]
                band[..., c * tile : c * tile + window].addcmul_(of_window, weight)
        # The windows of the next row begin `tile` lower: what lies above is finished.
        start, stop = max(top, 0), height if r == rows - 1 else top + tile
        if stop > start:
            yield start, _fetch(band[:, start - top : stop - top, overlap : overlap + width])
        band[:, :-tile] = band[:, tile:].clone()
        band[:, -tile:] = 0


def predict(
    model: Network,
    image: np.ndarray,
    tile: int,
    overlap: int,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> np.ndarray:
    """Probabilities float32 (C, h, w) of the phases of a whole micrograph uint8 (h, w); see predict_bands."""
    return np.concatenate([band for _, band in predict_bands(model, image, tile, overlap, device, batch_size)], axis=1)


def segment(
    models: list[Network],
    shown: Sequence[np.ndarray],
    tile: int,
    overlap: int,
    shape: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Segmentation:
    """Segment a micrograph by the models' mean probabilities, resized to `shape`.

    shown: the micrograph as each model is shown it, uint8; what a model finds at a smaller scale is resized to the
    largest.

    Returns a Segmentation of (h, w) = shape. Memory holds, for every phase, one byte a pixel of the micrograph and of
    the mask, and four for each model that is shown a smaller one. A bar shows the progress of a large
    micrograph.
    """
    kept = None  # in 255 steps, without the first phase, which has what the others leave
    image, bands, whole = max(shown, key=np.size), {}, {}
    for place, (model, seen) in enumerate(zip(models, shown, strict=True)):
        if seen.shape == image.shape:
            bands[place] = predict_bands(model, seen, tile, overlap, device)
        else:
            whole[place] = resized(predict(model, seen, tile, overlap, device), image.shape)
    with tqdm(total=len(image), unit="row", leave=False, delay=10) as progress:
        for found in zip(*bands.values(), strict=True):
            row, height = found[0][0], found[0][1].shape[1]
            there = {place: probabilities[:, row : row + height] for place, probabilities in whole.items()}
            there |= zip(bands, (band for _, band in found), strict=True)
            each = np.stack([there[place] for place in range(len(models))])
            mean = each.mean(axis=0)
            if kept is None:
                kept = np.empty((len(mean) - 1, *image.shape), np.uint8)
                pixels = np.zeros((len(models), len(mean)))
            kept[:, row : row + mean.shape[1]] = np.rint(255 * mean[1:])
            for model, band in enumerate(each):
                pixels[model] += np.bincount(classes(band).ravel(), minlength=len(mean))
            progress.update(mean.shape[1])
    how = cv2.INTER_AREA if shape[0] < image.shape[0] else cv2.INTER_LINEAR
    full = np.stack([cv2.resize(phase, shape[::-1], interpolation=how) for phase in kept])
    del kept
    confidence = np.empty(shape, np.uint8)
    for row in range(0, shape[0], _ROWS):  # in place, some rows at a time
        rows = full[:, row : row + _ROWS].astype(np.int16)
        phases = np.concatenate([255 - rows.sum(0, keepdims=True), rows])
        confidence[row : row + _ROWS] = phases.max(0)
        full[0, row : row + _ROWS] = classes(phases, certain=255)
    return Segmentation(full[0], confidence, pixels / image.size)


def resized(probabilities: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Probabilities float32 (C, h, w), resized to the shape (h, w) of a micrograph."""
    if probabilities.shape[1:] == shape:
        return probabilities
    return np.stack([cv2.resize(phase, shape[::-1], interpolation=cv2.INTER_LINEAR) for phase in probabilities])


def _send(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on the device, from pinned memory: nothing waits for what a GPU still computes."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _fetch(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Begin to copy a tensor to the CPU. Returns the function that waits for the copy and gives it as an array."""
    copied = tensor.to("cpu", non_blocking=True, copy=True)
    done = torch.cuda.current_stream(tensor.device).record_event() if tensor.is_cuda else None

    def wait() -> np.ndarray:
        if done:
            done.synchronize()
        return copied.numpy()

    return wait


def _mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices into an axis of `size` pixels for positions start..stop, mirrored at both ends, repeatedly."""
    period = max(2 * (size - 1), 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros_like(position)


def _weight(tile: int, overlap: int, first: bool, last: bool) -> Tensor:
    """Blending weight (tile + 2 * overlap,) of a window; the weights of all windows on an axis sum to one."""
    position = np.arange(tile + 2 * overlap) + 0.5 - overlap

    def step(distance: np.ndarray) -> np.ndarray:
        return np.clip(distance / overlap + 0.5, 0, 1) if overlap else (distance > 0).astype(float)

    rise = np.ones(len(position)) if first else step(position)
    fall = np.zeros(len(position)) if last else step(position - tile)
    return torch.from_numpy((rise - fall).astype(np.float32))
