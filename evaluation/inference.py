"""Overlap-tile inference on whole micrographs (paper 2.2, after Ronneberger et al.), in bounded memory."""

import cv2
import numpy as np
import torch


@torch.inference_mode()
def predict_bands(model, image, tile, overlap, device="cpu", batch_size=4):
    """Yield the foreground probability of a micrograph from top to bottom, in bands of finished rows.

    Windows of tile + 2 * overlap pixels stand `tile` apart, as the training tiles do; the micrograph is
    mirrored beyond its edges. Where windows meet, their probabilities are blended linearly over the middle
    half of what they share, so that pixels within overlap / 2 of a window's edge do not count: a model whose
    receptive radius is at most overlap / 2 gives exactly what it gives for the whole micrograph. Besides the
    micrograph itself, memory holds one row of windows, however tall the micrograph is.

    model: callable, (N, 1, T, T) uint8 on `device` -> Logits, main (N, 1, T, T); a module is in eval mode.
    image: uint8 (h, w). Yields (row, probability float32 (rows, w)), rows consecutive from 0 to h.
    """
    height, width = image.shape
    window = tile + 2 * overlap
    columns = -(-width // tile)
    rows = -(-height // tile)
    column_index = _mirrored(-overlap, columns * tile + overlap, width)
    column_weights = [_weight(tile, overlap, c == 0, c == columns - 1) for c in range(columns)]
    band = np.zeros((window, columns * tile + 2 * overlap), np.float32)
    for r in range(rows):
        top = r * tile - overlap
        strip = image[_mirrored(top, top + window, height)][:, column_index]
        row_weight = _weight(tile, overlap, r == 0, r == rows - 1)[:, None]
        for first in range(0, columns, batch_size):
            batch = range(first, min(first + batch_size, columns))
            windows = np.stack([strip[:, c * tile : c * tile + window] for c in batch])[:, None]
            logits = model(torch.from_numpy(windows).to(device)).main
            for c, probability in zip(batch, logits.float().sigmoid()[:, 0].cpu().numpy(), strict=True):
                band[:, c * tile : c * tile + window] += probability * row_weight * column_weights[c]
        # The windows of the next row begin `tile` lower: what lies above is finished.
        start, stop = max(top, 0), height if r == rows - 1 else top + tile
        if stop > start:
            yield start, band[start - top : stop - top, overlap : overlap + width].copy()
        band[:-tile] = band[tile:].copy()
        band[-tile:] = 0


def predict(model, image, tile, overlap, device="cpu", batch_size=4):
    """Foreground probability float32 (h, w) of a whole micrograph uint8 (h, w); see predict_bands."""
    probability = np.empty(image.shape, np.float32)
    for row, band in predict_bands(model, image, tile, overlap, device, batch_size):
        probability[row : row + len(band)] = band
    return probability


def segment(models, image, tile, overlap, shape, device="cpu"):
    """Mask of 0 and 1, uint8 (h, w) = shape, of a micrograph uint8 at working scale: the models' mean probability,
    resized to `shape`, from 0.5 upwards.
    """
    # Kept in 255 steps, so that a stitched micrograph needs a byte for a pixel; 128 is the first from 0.5 upwards.
    probability = np.empty(image.shape, np.uint8)
    bands = [predict_bands(model, image, tile, overlap, device) for model in models]
    for parts in zip(*bands, strict=True):
        row, mean = parts[0][0], np.mean([band for _, band in parts], axis=0)
        probability[row : row + len(mean)] = np.rint(255 * mean)
    smaller = shape[0] < image.shape[0]
    size = (shape[1], shape[0])
    resized = cv2.resize(probability, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return (resized >= 128).astype(np.uint8)


def _mirrored(start, stop, size):
    """Indices into an axis of `size` pixels for positions start..stop, mirrored at both ends, repeatedly."""
    period = max(2 * (size - 1), 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros_like(position)


def _weight(tile, overlap, first, last):
    """Blending weight (tile + 2 * overlap,) of a window; the weights of all windows on an axis sum to one."""
    position = np.arange(tile + 2 * overlap) + 0.5 - overlap

    def step(distance):
        return np.clip(distance / overlap + 0.5, 0, 1) if overlap else (distance > 0).astype(float)

    rise = np.ones(len(position)) if first else step(position)
    fall = np.zeros(len(position)) if last else step(position - tile)
    return (rise - fall).astype(np.float32)
