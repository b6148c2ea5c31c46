"""Files that programs leave behind: each appears in one piece, or an InputError says why it could not."""

import csv
import hashlib
import io
import math
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # takes a second to import


@contextmanager
def replacing(
    path: Path, partial: Path | None = None, durable: bool = False, keep: Path | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside `path`: what the block writes there is renamed to `path` when the block ends well.

    By default no other process has its name, on any machine that shares the disk. `partial`: another name for it, where
    the caller knows that nobody else writes. durable: the content is on the disk before it is renamed, so a machine
    that fails leaves no empty file. `keep`: what was at `path` is renamed to this. After an error `path` is as it was
    and the temporary file is gone. OSError where writing or renaming fails.
    """
    partial = partial or path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # the folder itself may be the trouble
            partial.unlink()
        raise


def write_file(path: Path | str, content: str | bytes) -> None:
    """Write a file in one piece: what was there before stays until the new file is whole.

    InputError where that fails (full disk, permission, a folder that vanished).
    """
    path = Path(path)
    try:
        with replacing(path) as partial:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}). Free space, or give another folder."
        ) from error


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal. OSError where it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_csv(path: Path | str, rows: list[dict], columns: Iterable[str] | None = None) -> None:
    """Write dicts as CSV, by default in the columns of the first. None and undefined numbers are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns or (rows[0] if rows else []))
    writer.writeheader()
    for row in rows:
        writer.writerow({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    write_file(path, text.getvalue())


def write_image(path: Path | str, picture: np.ndarray, jpeg_quality: int = 95) -> None:
    """Write uint8 (h, w) grey or (h, w, 3) RGB in the format of the file's ending."""
    colours = picture if picture.ndim == 2 else picture[..., ::-1]
    ending = Path(path).suffix
    quality = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if ending == ".jpg" else []  # OpenCV 4.14 warns of it elsewhere
    write_file(path, cv2.imencode(ending, colours, quality)[1].tobytes())


def write_figure(path: Path | str | io.BytesIO, figure: "Figure", dpi: int = 120) -> None:
    """Write a matplotlib figure as PNG, into a file or, in memory, an io.BytesIO."""
    content = path if isinstance(path, io.BytesIO) else io.BytesIO()
    figure.savefig(content, dpi=dpi)
    if content is not path:
        write_file(path, content.getvalue())


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Write a NumPy array as .npy."""
    content = io.BytesIO()
    np.save(content, array)
    write_file(path, content.getvalue())
