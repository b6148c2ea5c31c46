"""Facts that a picture's file states of its pixels, and the most of them that it may ask for."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError

ORIENTATION = 274  # tag of TIFF and EXIF
_MOST = 3 << 29  # bytes of decoded pixels; a header of few bytes can ask for more than the machine has
# What a viewer does to pixels (h, w, ...) of each orientation.
TURNED = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}


@dataclass(frozen=True)
class Facts:
    """Facts that an image file states of its pixels. height, width: px, as a viewer shows it.

    bits: of a sample, 8 where the format has no other. orientation: 1 .. 8 as of TIFF and EXIF, 1 is upright.
    white_is_zero: 0 is shown white. lossy: the pixels went through JPEG.
    """

    height: int
    width: int
    bits: int = 8
    orientation: int = 1
    white_is_zero: bool = False
    lossy: bool = False


def check_size(path: Path, width: int, height: int, size: int) -> None:
    """Raise InputError where the pixels take more bytes, `size`, than any micrograph does."""
    if size > _MOST:
        raise InputError(
            f"{path}: {width} x {height} px take {size >> 20} MiB, more than {_MOST >> 20}; crop the micrograph, or "
            "export it again if that is not its size"
        )
