"""Files that programs leave behind: each appears in one piece, or an InputError says why it could not."""

import csv
import io
import math
import os
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError


def write_file(path, content: str | bytes) -> None:
    """Write under a temporary name, then rename: what was there before stays until the new file is whole.

    InputError where that fails (full disk, permission, a folder that vanished).
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Free space, or give another folder."
        ) from error


def write_csv(path, rows: list[dict], columns=None) -> None:
    """Dicts as CSV, by default in the columns of the first; None and undefined numbers are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns or (rows[0] if rows else []))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    write_file(path, text.getvalue())


def write_image(path, picture, jpeg_quality: int = 95) -> None:
    """uint8 (h, w) grey or (h, w, 3) RGB, in the format of the file's ending."""
    colours = picture if picture.ndim == 2 else picture[..., ::-1]
    write_file(path, cv2.imencode(Path(path).suffix, colours, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1].tobytes())


def write_figure(path, figure, dpi: int = 120) -> None:
    """A matplotlib figure as PNG, into a file or, in memory, an io.BytesIO."""
    content = path if isinstance(path, io.BytesIO) else io.BytesIO()
    figure.savefig(content, dpi=dpi)
    if content is not path:
        write_file(path, content.getvalue())


def write_array(path, array) -> None:
    """A NumPy array as .npy."""
    content = io.BytesIO()
    np.save(content, array)
    write_file(path, content.getvalue())
