"""Files as microscopes write them, drawn: a picture, and what each maker puts into or beside it."""

import struct
from pathlib import Path

import numpy as np
import tifffile


def zeiss(
    path: Path,
    pixels: np.ndarray,
    nanometres: float,
    stored: str = "",
    comma: bool = False,
    width: float = 0,
    said: str = "",
    **more: object,
) -> None:
    """Write SmartSEM's tag. `AP_PIXEL_SIZE` is wrong by a factor of 2, as in many files. comma: parts the decimals.

    width: of the picture in µm, where it is written too. said: in place of the pixel size with its unit.
    """
    unit, value = ("nm", nanometres) if nanometres < 1000 else ("µm", nanometres / 1000)
    lines = ["AP_PIXEL_SIZE", f"Pixel Size = {2 * value:.6g} {unit}"]
    lines += ["AP_IMAGE_PIXEL_SIZE", f"Image Pixel Size = {said or f'{value:.6g} {unit}'}"]
    lines += ["AP_WIDTH", f"Width = {width:.6g} µm"] if width else []
    lines += ["DP_IMAGE_STORE", f"Store resolution = {stored or f'{pixels.shape[1]} * {pixels.shape[0]}'}", ""]
    text = "\r\n".join(lines)
    _tagged(path, pixels, 34118, (text.replace(".", ",") if comma else text).encode("cp1252"), **more)


def zeiss_by_width(path: Path, pixels: np.ndarray, nanometres: float) -> None:
    """Write SmartSEM's tag with the picture's width only."""
    lines = ["AP_WIDTH", f"Width = {nanometres * pixels.shape[1] / 1000:.6g} µm", ""]
    _tagged(path, pixels, 34118, "\r\n".join(lines).encode("cp1252"))


def fei(
    path: Path,
    pixels: np.ndarray,
    nanometres: float,
    bar: int = 0,
    tag: int = 34682,
    scan: str = "Scan",
    more: str = "",
    orientation: int = 1,
) -> None:
    rows = pixels.shape[0] - bar
    text = (
        f"[User]\r\nUser=x\r\n[Beam]\r\nBeam=EBeam\r\nScan=EScan\r\n[{scan}]\r\nPixelWidth={nanometres * 1e-9:.10g}\r\n"
    )
    text += f"{more}[Image]\r\nDigitalContrast=1\r\nResolutionX={pixels.shape[1]}\r\nResolutionY={rows}\r\n"
    _tagged(path, pixels, tag, (text + "[PrivateFei]\r\nDatabarHeight=0\r\n").encode(), orientation)


def tescan(path: Path, pixels: np.ndarray, nanometres: float, bar: int = 0, more: str = "") -> None:
    text = f"[MAIN]\r\nDevice=MIRA3\r\nImageStripSize={bar}\r\nPixelSizeX={nanometres * 1e-9:.10g}\r\n{more}"
    _tagged(path, pixels, 50431, b"\x01\x05\0\0" + text.encode())


def olympus(path: Path, pixels: np.ndarray, nanometres: float) -> None:
    """Write an RGB rendering, and then the 16-bit picture with the maker's structure."""
    picture = (pixels.astype(np.uint16) * 257).astype(np.uint16)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.dstack([pixels] * 3), photometric="rgb", compression="jpeg", metadata=None)
        tiff.write(picture, photometric="minisblack", metadata=None, extratags=[(33560, "B", 4, b"\0\0\0\0", False)])
    content = bytearray(path.read_bytes())
    offset = content.rindex(struct.pack("<HHI", 33560, 1, 4))
    start = len(content)
    general = start + 60 + 8
    head = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 0, 1, 1, 120, b"picture", 1)
    entry = struct.pack("<hhI", 1, 1, general)
    calibration = struct.pack("<10xhdd8xd2x34s32s", -9, nanometres, nanometres, 100.0, b"camera", b"")
    content += head + entry + calibration.ljust(220, b"\0")
    content[offset + 4 : offset + 12] = struct.pack("<II", 220, start)
    path.write_bytes(bytes(content))


def ome(path: Path, pixels: np.ndarray, nanometres: float, **more: float | str) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": nanometres / 1000, "PhysicalSizeXUnit": "µm"} | more
    tifffile.imwrite(path, pixels, ome=True, metadata=metadata, photometric="minisblack")


def imagej(path: Path, pixels: np.ndarray, nanometres: float, unit: str = "um") -> None:
    of_unit = {"um": 1000.0, "micron": 1000.0, "\\u00B5m": 1000.0, "nm": 1.0, "inch": 25.4e6, "cm": 1e7}[unit]
    resolution = (of_unit / nanometres, of_unit / nanometres)
    tifffile.imwrite(path, pixels, imagej=True, resolution=resolution, metadata={"unit": unit})


def plain(path: Path, pixels: np.ndarray, dots: float = 96) -> None:
    """Write a TIFF that knows a printer's dots an inch only."""
    tifffile.imwrite(path, pixels, resolution=(dots, dots), resolutionunit="inch", photometric="minisblack")


def jeol(path: Path, pixels: np.ndarray, nanometres: float, bar: int = 0) -> None:
    plain(path, pixels)
    text = f"$CM_FORMAT 1\r\n$CM_FULL_SIZE {pixels.shape[1]} {pixels.shape[0] - bar}\r\n"
    text += f"$$SM_MICRON_BAR 50\r\n$$SM_MICRON_MARKER {50 * nanometres / 1000:g}um\r\n"
    path.with_suffix(".txt").write_bytes(text.encode("cp932"))


def hitachi(path: Path, pixels: np.ndarray, nanometres: float, bar: int = 0, encoding: str = "utf-16") -> None:
    plain(path, pixels)
    text = f"[SemImageFile]\r\nInstructName=S-4800\r\nDataSize={pixels.shape[1]}x{pixels.shape[0] - bar}\r\n"
    path.with_suffix(".txt").write_bytes((text + f"PixelSize={nanometres:.7g}\r\n").encode(encoding))


def packed(path: Path, pixels: np.ndarray, bits: int, white_is_zero: bool = False, orientation: int = 1) -> None:
    """Write a grey TIFF of `bits` a sample, packed: each row begins at a byte."""
    samples = (pixels.astype(np.uint32)[..., None] >> np.arange(bits)[::-1]) & 1
    content = np.packbits(samples.reshape(len(pixels), -1).astype(np.uint8), axis=1).tobytes()
    height, width = pixels.shape
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 8)]
    tags += [(274, orientation), (277, 1), (278, height), (279, len(content))]
    start = 8 + len(content) + len(content) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + content.ljust(start - 8, b"\0") + directory)


def _tagged(path: Path, pixels: np.ndarray, tag: int, content: bytes, orientation: int = 1, **more) -> None:
    options = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", "metadata": None} | more
    extra = [(tag, "B" if tag == 50431 else "s", len(content), content, False)]
    extra += [(274, "H", 1, orientation, True)] if orientation > 1 else []
    tifffile.imwrite(path, pixels, resolution=(96, 96), resolutionunit="inch", extratags=extra, **options)
