"""Pictures of PNG, JPEG and BMP files."""

import re
import struct
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from common.errors import InputError
from data.file_facts import ORIENTATION, TURNED, Facts, check_size

OTHER_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")

_JPEG_END = b"\xff\xd9"
# Frame header of a JPEG (or of a preview inside it): process, length, 8 bit, height, width, number of components.
_JPEG_FRAME = re.compile(rb"\xff([\xc0-\xcf])\0[\x0b\x0e\x11\x14]\x08(..)(..)([\x01-\x04])", re.DOTALL)

# What these libraries print about a damaged file comes as an error of ours, once.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")  # reads EXIF
Image.MAX_IMAGE_PIXELS = None  # the limit is that of check_size, and an error


def facts_of(path: Path, content: bytes) -> Facts:
    """Read the head of a PNG, JPEG or BMP. InputError for one that is animated, damaged at its head, or too large."""
    bits, exif, lossy = 8, b"", False
    if content.startswith(b"\x89PNG"):
        chunks = _png_chunks(path, content)
        if b"acTL" in chunks:
            raise InputError(f"{path}: animated PNG; export one micrograph a file")
        bits, kind = int.from_bytes(content[24:25]), content[25:26]
        channels = {b"\0": 1, b"\2": 3}.get(kind, 4)  # as OpenCV decodes grey, RGB, and the other types
        frames = [(*_sides(">II", content[16:24]), channels * (2 if bits == 16 else 1))]
        bits = 8 if kind == b"\3" or not bits else bits  # a palette's colours have 8
        start = chunks.get(b"eXIf")
        exif = content[start : start + int.from_bytes(content[start - 8 : start - 4])] if start else b""
    elif content.startswith(b"BM"):
        os2 = content[14:15] == b"\x0c"  # has a short header
        frames = [(*(_sides("<HH4x", content[18:22]) if os2 else _sides("<ii", content[18:26])), 4)]
    else:
        lossy, exif = True, _exif_of_jpeg(content)
        found = _JPEG_FRAME.findall(content)
        if any(channels == b"\4" for *_, channels in found):
            raise InputError(f"{path}: colour space CMYK; save it as grey or RGB")
        frames = [  # a progressive one is decoded in coefficients of 16 bit
            (int.from_bytes(width), int.from_bytes(height), channels[0] * (1 if process in b"\xc0\xc1" else 3))
            for process, height, width, channels in found
        ]
    for width, height, size in frames:
        check_size(path, width, height, width * height * size)
    width, height = max(((width, height) for width, height, _ in frames), default=(0, 0))
    orientation = _orientation(exif)
    sides = (height, width) if orientation < 5 else (width, height)
    return Facts(*sides, bits, orientation, lossy=lossy)


def decoded(path: Path, content: bytes) -> np.ndarray:
    """Decode to pixels (h, w), (h, w, 3) RGB or (h, w, 4), uint8 or uint16. InputError where it cannot be."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # instead of None for sides that OpenCV takes for impossible
        pixels = None
    if pixels is None:
        raise InputError(f"{path}: damaged or truncated; copy or export the file again")
    if content.startswith(b"\xff\xd8"):
        require_whole_jpeg(path, content)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:  # OpenCV decodes to BGR(A); a reversed copy would double the memory
        blue = pixels[..., 0].copy()
        pixels[..., 0] = pixels[..., 2]
        pixels[..., 2] = blue
    return pixels


def require_whole_jpeg(path: Path, content: bytes) -> None:
    """Raise InputError for a JPEG that is damaged in its middle: decoders fill the rest with what never was there.

    Zeros before its end, with which some programs fill it up, are no damage.
    """
    wrong = _wrong_with(content)
    body = content[: content.rfind(_JPEG_END)].rstrip(b"\0")  # its last bytes may be zeros too
    if wrong and all(_wrong_with(body + bytes(zeros) + _JPEG_END) for zeros in range(3)):
        with suppress(ValueError):  # of a kind that this library cannot read at all
            simplejpeg.decode_jpeg(content, "GRAY", strict=False)
            raise InputError(f"{path}: damaged ({wrong}); copy or export the file again")


def _wrong_with(content: bytes) -> str:
    """Say what a strict decoder finds wrong with a JPEG; '' where it finds nothing."""
    try:
        simplejpeg.decode_jpeg(content, "GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return ""


def numbers_of_palette(content: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Numbers and palette of a PNG or BMP that has one, which OpenCV decodes to colours; None for another file."""
    palettes = content.startswith(b"BM") or content[25:26] == b"\3"
    if content.startswith(b"\xff") or not palettes:
        return None
    try:
        with Image.open(BytesIO(content)) as image:
            if image.mode != "P":
                return None
            colours = np.reshape(image.getpalette("RGB"), (-1, 3))
            numbers = np.array(image)
    except Exception:  # a damaged file fails anywhere in Pillow; OpenCV's error is the one to show
        return None
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours)] = colours
    return numbers, palette


def transparent_numbers(content: bytes) -> list[int]:
    """Numbers of a PNG's palette, or its grey level, that are wholly transparent; of colours OpenCV gives the alpha."""
    if not content.startswith(b"\x89PNG"):
        return []
    try:
        with Image.open(BytesIO(content)) as image:
            found = image.info.get("transparency")
    except Exception:  # as in numbers_of_palette
        return []
    if isinstance(found, bytes):
        return [number for number, alpha in enumerate(found) if alpha == 0]
    return [found] if isinstance(found, int) else []


def _exif_of_jpeg(content: bytes) -> bytes:
    """EXIF of a JPEG, empty where it has none."""
    place = 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4])
        if marker == 0xE1 and content[place + 4 : place + 10] == b"Exif\0\0":
            return content[place + 4 : place + 2 + length]
        if marker == 0xDA:  # pixels begin
            break
        place += 2 + length
    return b""


def _orientation(exif: bytes) -> int:
    """Orientation 1 .. 8 that EXIF says; 1 where it says none, or is damaged: viewers leave such a picture as it is."""
    found = Image.Exif()
    try:
        found.load(exif)
        orientation = found.get(ORIENTATION)
    except Exception:
        return 1
    return orientation if orientation in TURNED else 1


def _sides(layout: str, content: bytes) -> tuple[int, int]:
    """Width and height in a header; 0 in one that is cut."""
    return tuple(map(abs, struct.unpack(layout, content.ljust(8, b"\0"))))


def _png_chunks(path: Path, content: bytes) -> dict[bytes, int]:
    """Places of a PNG's chunks by name. InputError where one is longer than the file: OpenCV would take the memory."""
    found, position = {}, 8
    while b"IEND" not in found:
        found.setdefault(content[position + 4 : position + 8], position + 8)
        position += 12 + int.from_bytes(content[position : position + 4])
        if position > len(content):
            raise InputError(f"{path}: damaged or truncated; copy or export the file again")
    return found
