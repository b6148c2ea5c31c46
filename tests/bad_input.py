"""The corpus of test_bad_input.py: what can be wrong with input, how to make it so, and what has to be said then."""

import contextlib
import io
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch
from conftest import ROOT, annotated, domains_toml, unannotated

import evaluate
import train_supervised
import train_uda
from data import prepare, verify
from data.store import StoreWriter
from evaluation import selection, tables

DOMAINS = domains_toml(
    source=annotated("source", folds=3),
    labelled=annotated("target", test=["m2", "m3"]),
    plain=unannotated("plain"),
)
_PROGRAMS = {
    "prepare": prepare.main,
    "verify": verify.main,
    "train_supervised": train_supervised.main,
    "train_uda": train_uda.main,
    "evaluate": evaluate.main,
    "tables": tables.main,
    "selection": selection.main,
}
PREPARE = "prepare domains.toml --out stores --force"  # over stores that are there and must survive
ANEW = "prepare domains.toml --out new"
TRAIN = "train_supervised --experiment demo.supervised --data stores --steps 2 --batch-size 2 --workers 0"
ADAPT = "train_uda --experiment demo.uda --target labelled --data stores --steps 2 --batch-size 2 --workers 0"
SCORE = "evaluate runs/s --data stores --domain labelled --device cpu"
SEGMENT = "evaluate runs/s --images target/images --out new --device cpu"
RESUME = f"{TRAIN} --run-dir runs/s"

GREY = np.random.default_rng(0).integers(0, 256, (100, 90), dtype=np.uint8)
MASK = np.where(cv2.GaussianBlur(GREY, (0, 0), 9) > 127, 255, 0).astype(np.uint8)


def call(command: str) -> tuple[int, str]:
    """Run a program of the project in this process: exit status, and what it printed. Any other exception escapes."""
    program, *arguments = command.split()
    printed, before = io.StringIO(), sys.argv
    sys.argv = [program, *arguments]
    status = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            _PROGRAMS[program]()
    except SystemExit as end:
        status = end.code or 0
    finally:
        sys.argv = before
    return status, printed.getvalue()


@dataclass(frozen=True)
class Fault:
    """A fault of the input, and what the project has to say to it.

    `spoil` makes the fault in the laboratory's folder. `commands` are then given; `says` are fragments of what the last
    one prints. works: it is no fault, and the last command succeeds. leaves: below it a command may leave new files.
    permissions: the fault is about them; they do not bind root.
    """

    area: str
    name: str
    spoil: Callable[[], None]
    commands: str | tuple[str, ...]
    says: tuple[str, ...]
    works: bool = False
    leaves: str = "-"
    permissions: bool = False


# ---- ways to spoil ----------------------------------------------------------------------------------------------


def nothing() -> None:
    pass


def together(*spoils) -> Callable[[], None]:
    return lambda: [spoil() for spoil in spoils] and None


def replace(old: str, new: str, content=None) -> Callable[[], None]:
    """Put a file in another's place; content: bytes, or a function that writes the file it is given."""

    def spoil():
        before = Path(old).read_bytes()
        Path(old).unlink()
        made = before if content is None else content
        made(Path(new)) if callable(made) else Path(new).write_bytes(made)

    return spoil


def image(name: str, content) -> Callable[[], None]:
    """Put the source's second micrograph in another format, or damage it."""
    return replace("source/images/m1.png", f"source/images/{name}", content)


def mask(name: str, content) -> Callable[[], None]:
    return replace("source/masks/m1.png", f"source/masks/{name}", content)


def toml(old: str, new: str, path="domains.toml") -> Callable[[], None]:
    def spoil():
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new, 1))

    return spoil


def change(path: str, edit: Callable[[bytes], bytes]) -> Callable[[], None]:
    """Edit a file's bytes."""
    return lambda: Path(path).write_bytes(edit(Path(path).read_bytes())) and None


def folder_instead(path: str) -> Callable[[], None]:
    def spoil():
        Path(path).unlink()
        Path(path).mkdir()

    return spoil


def checkpoint(edit: Callable[[dict], object], path="runs/s/last.pt") -> Callable[[], None]:
    """Save what `edit` makes of a checkpoint's content in its place."""
    return lambda: torch.save(edit(torch.load(path, weights_only=True)), path)


def json_file(path: str, **values) -> Callable[[], None]:
    return lambda: Path(path).write_text(json.dumps(json.loads(Path(path).read_text()) | values)) and None


def text(path: str, content: str) -> Callable[[], None]:
    return lambda: Path(path).write_text(content) and None


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes, place: int | None = None) -> bytes:
    place = len(content) // 2 if place is None else place
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def gap_filled(content: bytes) -> bytes:
    """Zeros in the middle, as of a sector that cannot be read."""
    middle = len(content) // 2
    return content[: middle - 50] + bytes(100) + content[middle + 50 :]


def encoded(ending: str, pixels=GREY) -> bytes:
    return cv2.imencode(ending, pixels)[1].tobytes()


def tiff(pixels, **options) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def tiff_bytes(pixels, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def volume() -> bytes:
    content = io.BytesIO()
    tifffile.imwrite(content, np.zeros((16, 64, 80), np.uint8), volumetric=True, photometric="minisblack", tile=None)
    return content.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)


def png(width: int, height: int, kind: int, *chunks: bytes) -> bytes:
    """Make a PNG of chosen header and chunks; kind: 0 grey, 2 RGB, 3 palette."""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, kind, 0, 0, 0])
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette_png() -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in GREY)
    colours = bytes(level for grey in range(256) for level in (grey, grey, 255 - grey))
    return png(90, 100, 3, png_chunk(b"PLTE", colours), png_chunk(b"IDAT", zlib.compress(rows)))


def animated_png() -> bytes:
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in GREY))
    padding = png_chunk(b"tEXt", b"Comment\0" + bytes(range(65, 91)) * 400)  # puts what follows far from the start
    return png(90, 100, 0, padding, png_chunk(b"acTL", bytes(7) + b"\2" + bytes(4)), png_chunk(b"IDAT", rows))


def with_number(content: bytes, place: int, kind: str, *values: int) -> bytes:
    """Return the bytes with little-endian (or, kind '>H', big-endian) numbers written at a place."""
    number = np.array(values, kind).tobytes()
    return content[:place] + number + content[place + len(number) :]


def cmyk_jpeg() -> bytes:
    import imagecodecs

    return imagecodecs.jpeg8_encode(np.dstack([GREY] * 4), colorspace="CMYK", outcolorspace="CMYK")


def huge_jpeg() -> bytes:
    content = encoded(".jpg")
    return with_number(content, content.index(b"\xff\xc0") + 5, ">u2", 60000, 60000)


class Payload:
    """An attacker's object in a checkpoint: a file appears as soon as it is unpickled."""

    def __reduce__(self):
        return open, (str(Path("executed").resolve()), "w")


def seal_of(schema: int) -> Callable[[bytes], bytes]:
    return lambda whole: json.dumps(json.loads(whole[:512]) | {"schema": schema}).encode().ljust(512) + whole[512:]


def forged(path: str, rename: Callable[[dict], None]) -> Callable[[], None]:
    """Put in place a store, sealed like any other, whose metadata say what `rename` makes of them."""

    def spoil():
        metadata = {"sources": [_SOURCE | {"name": "a"}], "micrographs": [{"name": "a", "parent": "a"}]}
        metadata["parameters"] = {"domain": Path(path).stem, **_PARAMETERS}
        rename(metadata)
        with StoreWriter(path, 48, 8) as writer:
            for entry in metadata["micrographs"]:
                writer.add(GREY, MASK // 255, **entry)
            writer.finish(metadata["parameters"], metadata["sources"])
            writer.place()

    return spoil


_SOURCE = {"file": "a.png", "sha256": "0", "mask_file": "a.png", "mask_sha256": "0", "fold": -1, "test": True}
_PARAMETERS = {
    "tile": 48,
    "overlap": 8,
    "scale": 1.0,
    "reference_pixel_size_nm": 50.0,
    "folds": 0,
    "pixel_size_nm": 50.0,
    "invert": False,
    "information_bar": 0,
}


def smaller_tiles(domain: str) -> Callable[[], None]:
    """Prepare the domain's store with other tiles than the rest."""

    def spoil():
        toml("tile = 48", "tile = 32")()
        call(f"prepare domains.toml --out stores --force --domain {domain}")
        toml("tile = 32", "tile = 48")()

    return spoil


def being_written() -> None:
    """Leave the store as it is found while data.prepare is at work."""
    with StoreWriter(Path("other.h5"), 48, 8) as writer:
        writer.add(GREY, None, name="a", parent="a")
        shutil.copy(writer.partial, "stores/source.h5")


def as_text(content: bytes) -> bytes:
    return b"no picture, no store, no checkpoint\n" * 40


# ---- the faults -------------------------------------------------------------------------------------------------


def _images() -> Iterator[Fault]:
    def bad(name, file, content, *says, commands=PREPARE):
        return Fault("image", name, image(file, content), commands, (f"source/images/{file}", *says))

    def good(name, file, content, *says, commands=(ANEW, "verify new")):
        return Fault("image", name, image(file, content), commands, ("verified", *says), True, "new/")

    yield bad("truncated TIFF", "m1.tif", half(tiff_bytes(GREY)), "truncated", "copy the file again")
    yield bad("a volume behind one page", "m1.tif", volume(), "16 slices behind one page", "export one")
    yield bad("truncated compressed TIFF", "m1.tif", tiff_bytes(GREY, compression="deflate")[:-200], "copy")
    yield bad("truncated PNG", "m1.png", half(encoded(".png")), "damaged or truncated", "again")
    yield bad("PNG with one flipped byte", "m1.png", flipped(encoded(".png")), "damaged", "again")
    yield bad("truncated JPEG", "m1.jpg", half(encoded(".jpg")), "damaged or truncated", "again")
    yield bad("JPEG with a gap", "m1.jpg", gap_filled(encoded(".jpg")), "damaged (", "again")
    yield bad(
        "TIFF of a JPEG with a gap", "m1.tif", gap_filled(tiff_bytes(GREY, compression="jpeg")), "damaged", "again"
    )
    yield bad("truncated BMP", "m1.bmp", half(encoded(".bmp")), "damaged or truncated", "again")
    yield bad("only the first 8 bytes of a PNG", "m1.png", encoded(".png")[:8], "damaged", "again")
    yield bad("only the first 8 bytes of a TIFF", "m1.tif", tiff_bytes(GREY)[:8], "0 pages", "export")
    yield bad("zero bytes", "m1.png", b"", "is empty", "export")
    yield bad("text named .tif", "m1.tif", as_text(b""), "is not a TIFF", "export")
    yield bad("animated GIF named .png", "m1.png", b"GIF89a" + bytes(200), "is not a TIFF", "export")
    yield bad("CMYK JPEG", "m1.jpg", cmyk_jpeg(), "CMYK", "save it as grey or RGB")
    yield bad("CMYK TIFF", "m1.tif", tiff(np.dstack([GREY] * 4), photometric="separated"), "SEPARATED", "grey or RGB")
    yield bad(
        "TIFF of several pages",
        "m1.tif",
        tiff(np.stack([GREY, GREY]), photometric="minisblack"),
        "2 pages",
        "one micrograph a file",
    )
    yield bad("animated PNG", "m1.png", animated_png(), "animated", "one micrograph a file")
    yield bad("1 x 1 px", "m1.png", encoded(".png", GREY[:1, :1]), "1 x 1", "8 .. 32767", "pixel_size_nm")
    yield bad(
        "40,000 x 3 px", "m1.png", encoded(".png", np.tile(GREY[:3], (1, 445))[:, :40000]), "40000 x 3", "8 .. 32767"
    )
    yield bad("TIFF of 60,000 x 60,000 px in 500 bytes", "m1.tif", huge_tiff(), "60000 x 60000", "crop")
    yield bad(
        "PNG of 60,000 x 60,000 px in 100 bytes",
        "m1.png",
        png(60000, 60000, 0, png_chunk(b"IDAT", b"")),
        "60000 x 60000",
        "crop",
    )
    yield bad("JPEG of 60,000 x 60,000 px", "m1.jpg", huge_jpeg(), "60000 x 60000", "crop")
    yield bad(
        "BMP of 60,000 x 60,000 px",
        "m1.bmp",
        with_number(encoded(".bmp"), 18, "<i4", 60000, 60000),
        "60000 x 60000",
        "crop",
    )
    yield bad(
        "NaN in a float TIFF",
        "m1.tif",
        tiff(np.where(GREY > 250, np.nan, GREY / 255).astype(np.float32)),
        "NaN",
        "8 or 16 bit",
    )
    yield bad(
        "infinity in a float TIFF",
        "m1.tif",
        tiff(np.where(GREY > 250, np.inf, 0).astype(np.float32)),
        "inf",
        "outside 0 .. 1",
    )
    yield bad("counts in a float TIFF", "m1.tif", tiff(GREY.astype(np.float32)), "outside 0 .. 1", "8 or 16 bit")
    yield bad("signed TIFF", "m1.tif", tiff(GREY.astype(np.int16)), "int16", "8 or 16 bit")
    yield bad("complex TIFF", "m1.tif", tiff(GREY.astype(np.complex64)), "complex64", "8 or 16 bit")
    yield bad("a broken link", "m1.png", lambda path: path.symlink_to("nowhere.png"), "No such file", "check")
    yield Fault(
        "image", "a folder named m1.png", folder_instead("source/images/m1.png"), PREPARE, ("m1.png", "no image")
    )
    yield Fault("image", "a pipe named m1.png", image("m1.png", os.mkfifo), PREPARE, ("m1.png", "no image"))
    yield Fault(
        "image",
        "information bar of the whole height",
        toml("[domains.labelled]", "information_bar = 100\n[domains.labelled]"),
        PREPARE,
        ("m0.png", "information_bar = 100", "leaves nothing"),
    )

    yield good("16-bit PNG", "m1.png", encoded(".png", GREY.astype(np.uint16) * 257))
    yield good("palette PNG", "m1.png", palette_png())
    yield good("RGB with alpha", "m1.png", encoded(".png", np.dstack([GREY, GREY, GREY, 255 - GREY])))
    yield good(
        "16-bit RGB TIFF with alpha",
        "m1.tif",
        tiff(np.dstack([GREY] * 4).astype(np.uint16) * 257, photometric="rgb", extrasamples=["unassalpha"]),
    )
    yield good("PNG named .tif", "m1.tif", encoded(".png"))
    yield good("uniform grey", "m1.png", encoded(".png", np.full_like(GREY, 77)), "warning", "'m1'", "grey level 77")
    wide = together(
        *(
            replace(
                f"source/{part}/m1.png", f"source/{part}/m1.png", encoded(".png", np.tile(pixels, (1, 434))[:, :39000])
            )
            for part, pixels in (("images", GREY), ("masks", MASK))
        ),
        toml("scale = 1.0", "scale = 0.5"),
    )
    yield Fault("image", "39,000 x 100 px, halved", wide, (ANEW, "verify new"), ("verified",), True, "new/")


def huge_tiff() -> bytes:
    """Write a TIFF of 60,000 x 60,000 px by its header, with one strip of a few bytes."""
    content = tiff_bytes(np.zeros((8, 8), np.uint8), compression="deflate")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            kind = {3: "<u2", 4: "<u4"}[int(tags[name].dtype)]
            content = with_number(content, tags[name].valueoffset, kind, 60000)
    return content


def _masks() -> Iterator[Fault]:
    def bad(name, spoil, *says):
        return Fault("mask", name, spoil, PREPARE, says)

    file = "source/masks/m1.png"
    other = np.where(MASK > 0, 255, 0).astype(np.uint8)
    grey = other.copy()
    grey[:5] = 77
    colour = np.dstack([other] * 3)
    colour[:5] = (0, 0, 255)
    yield bad(
        "other size", mask("m1.png", encoded(".png", MASK[:50])), file, "90 x 50 px", "90 x 100", "micrograph's size"
    )
    yield bad("unknown grey value", mask("m1.png", encoded(".png", grey)), file, "mask value 77", "list it")
    yield bad("unknown colour", mask("m1.png", encoded(".png", colour)), file, '"#ff0000"', "list it")
    yield bad(
        "soft edges of a JPEG",
        mask("m1.jpg", encoded(".jpg", MASK)),
        "source/masks/m1.jpg",
        "mask value",
        "JPEG",
        "threshold",
    )
    yield bad("truncated", mask("m1.png", half(encoded(".png", MASK))), file, "damaged or truncated", "again")
    yield bad("zero bytes", mask("m1.png", b""), file, "is empty")
    yield bad(
        "probabilities in a float TIFF",
        mask("m1.tif", tiff((MASK / 255).astype(np.float32))),
        "source/masks/m1.tif",
        "float32",
        "8 or 16 bit",
    )
    yield bad("16-bit numbers", mask("m1.png", encoded(".png", MASK.astype(np.uint16) * 100)), file, "25500", "list it")
    yield bad(
        "extra mask", lambda: shutil.copy(file, "source/masks/m9.png"), "domains.source.masks", "m9.png", "no image"
    )
    yield bad(
        "no mask at all",
        lambda: [f.unlink() for f in Path("source/masks").iterdir()],
        "source/masks",
        "no mask",
        "add some",
    )
    yield bad(
        "mask of a test micrograph missing",
        lambda: Path("target/masks/m2.png").unlink(),
        "domains.labelled.test",
        "'m2'",
        "no mask",
    )
    yield bad(
        "masks of most micrographs missing",
        lambda: [Path(f"source/masks/m{k}.png").unlink() for k in (1, 2)],
        "domains.source.folds",
        "only 2 annotated",
        "lower it",
    )
    yield bad(
        "two unknown values, in two masks",
        together(*(replace(f"source/masks/m{n}.png", f"source/masks/m{n}.png", encoded(".png", grey)) for n in (1, 2))),
        "m1.png: mask value 77",
        "450 px in m1.png, 450 px in m2.png",
    )
    yield bad(
        "smooth borders",
        mask("m1.png", encoded(".png", cv2.GaussianBlur(other, (0, 0), 2))),
        file,
        "smooth",
        "threshold = 128",
    )
    outlines = '{"imageHeight": 50, "imageWidth": 90, "shapes": [{"label": "a", "points": [[0, 0], [9, 0], [9, 9]]}]}'
    yield bad(
        "outlines of another image's size",
        mask("m1.json", outlines.encode()),
        "source/masks/m1.json",
        "90 x 50 px",
        "annotate the micrograph itself",
    )
    yield bad(
        "an outline whose label is not listed",
        mask("m1.json", outlines.replace("50", "100").encode()),
        "source/masks/m1.json",
        "label 'a'",
        "list it",
    )
    yield bad(
        "half of a file with outlines",
        mask("m1.json", half(outlines.encode())),
        "source/masks/m1.json",
        "no readable annotation",
        "export it again",
    )
    yield bad(
        "a file with outlines of other images",
        together(toml('"source/masks"', '"a.json"'), text("a.json", '{"images": [], "annotations": []}')),
        "domains.source.masks",
        "a.json",
        "none of the images",
    )
    grains = np.kron(np.arange(100).reshape(10, 10), np.ones((10, 9))).astype(np.uint16)
    yield Fault(
        "mask",
        "a number for each grain",
        mask("m1.png", encoded(".png", grains)),
        ANEW,
        ("warning", "m1.png", "all above 0 are foreground"),
        True,
        "new/",
    )
    background = together(mask("m1.png", encoded(".png", 0 * MASK)), toml("folds = 3", "folds = 2"))
    yield Fault(
        "mask",
        "all background",
        background,
        (ANEW, "verify new"),
        ("warning", "'m1'", "no foreground", "verified"),
        True,
        "new/",
    )
    missing = together(lambda: Path(file).unlink(), toml("folds = 3", "folds = 2"))
    yield Fault(
        "mask", "one missing", missing, (ANEW, "verify new"), ("source", "3 annotated", "verified"), True, "new/"
    )


def _folders() -> Iterator[Fault]:
    def bad(name, spoil, *says, commands=PREPARE):
        return Fault("folder", name, spoil, commands, says, permissions="may not" in name)

    yield bad("empty", lambda: [f.unlink() for f in Path("target/images").iterdir()], "target/images", "no image")
    yield bad(
        "missing", lambda: shutil.rmtree("target/images"), "domains.labelled.images", "target/images", "create it"
    )
    yield bad(
        "a file in its place",
        together(lambda: shutil.rmtree("target/images"), text("target/images", "")),
        "domains.labelled.images",
        "no folder",
    )
    yield bad(
        "folder that may not be read",
        lambda: Path("target/images").chmod(0),
        "target/images",
        "Permission denied",
        "permissions",
    )
    yield bad(
        "file that may not be read",
        lambda: Path("source/images/m1.png").chmod(0),
        "source/images/m1.png",
        "Permission denied",
        "permissions",
    )
    yield bad(
        "--out that may not be written",
        together(toml("tile = 48", "tile = 32"), lambda: Path("stores").chmod(0o500)),
        "stores",
        "Permission denied",
        "--out",
    )
    yield bad(
        "one stem twice",
        lambda: shutil.copy("source/images/m1.png", "source/images/m1.bmp"),
        "m1.png",
        "m1.bmp",
        "rename",
    )
    yield bad("--out is a file", text("file", "mine"), "file", "another", commands="prepare domains.toml --out file")
    yield bad(
        "no store in the folder",
        lambda: Path("empty").mkdir(),
        "empty",
        "no store",
        "data.prepare",
        commands="verify empty",
    )

    def odd_names():
        for part in ("images", "masks"):
            Path(f"source/{part}/m1.png").rename(f"source/{part}/Pröbe 7 <b>& 'x' $x_$ 試料.png")

    yield Fault(
        "folder",
        "unicode, spaces and markup in names",
        odd_names,
        (ANEW, "verify new"),
        ("3 stores verified",),
        True,
        "new/",
    )

    def foreign_files():
        Path("source/images/.hidden.png").write_bytes(b"x")
        Path("source/images/notes.txt").write_text("x")

    yield Fault(
        "folder", "hidden and foreign files", foreign_files, (ANEW, "verify new"), ("3 stores verified",), True, "new/"
    )


def _tomls() -> Iterator[Fault]:
    def bad(name, old, new, *says, commands=PREPARE):
        return Fault("domains.toml", name, toml(old, new), commands, ("domains.toml", *says))

    yield Fault(
        "domains.toml",
        "missing",
        nothing,
        "prepare nowhere.toml --out new",
        ("nowhere.toml", "cannot be read", "give the path"),
    )
    yield Fault(
        "domains.toml", "a folder", nothing, "prepare source --out new", ("source", "cannot be read", "give the path")
    )
    yield Fault(
        "domains.toml", "empty", text("domains.toml", ""), PREPARE, ("domains.toml", "lacks the key 'domains'", "add")
    )
    yield Fault(
        "domains.toml",
        "bytes that are no text",
        lambda: Path("domains.toml").write_bytes(b"\xff\xfe\0a"),
        PREPARE,
        ("domains.toml", "not UTF-8", "save it as UTF-8"),
    )
    yield bad("damaged syntax", "scale = 1.0", "scale = ", "not valid TOML", "line 3", "mend")
    yield bad("nested without end", "scale = 1.0", "scale = " + "[" * 5000, "not valid TOML", "mend")
    yield bad("a number of 5,000 digits", "tile = 48", "tile = " + "9" * 5000, "not valid TOML", "mend")
    yield bad(
        "a hexadecimal number of 5,000 digits", "tile = 48", "tile = 0x" + "9" * 5000, "options.tile", "16 .. 4096"
    )
    yield bad("unknown key", "tile = 48", "tiles = 48", "options.tiles = 48", "unknown key", "known are")
    yield bad("unknown table", "[options]", "[option]", "option", "unknown key", "known are")
    yield bad("key missing", 'reference = "source"', "", "lacks the key 'reference'", "add")
    yield bad(
        "path that does not exist",
        '"source/images"',
        '"sauce/images"',
        "domains.source.images",
        "sauce/images",
        "correct the path",
    )
    yield bad(
        "path of 5,000 characters", '"source/images"', f'"{"x" * 5000}"', "domains.source.images", "correct the path"
    )
    yield bad("path with a zero byte", '"source/images"', '"a\\u0000b"', "domains.source.images", "correct the path")
    yield bad("unknown reference", 'reference = "source"', 'reference = "sauce"', "'sauce'", "there are source")
    yield bad("zero folds", "folds = 3", "folds = 0", "domains.source.folds = 0", "2 or more")
    yield bad(
        "fewer micrographs than folds",
        "folds = 3",
        "folds = 5",
        "domains.source.folds = 5",
        "only 4 annotated",
        "lower it",
    )
    yield bad("negative pixel size", "pixel_size_nm = 50", "pixel_size_nm = -50", "pixel_size_nm = -50", "above 0")
    yield bad("pixel size nan", "pixel_size_nm = 50", "pixel_size_nm = nan", "pixel_size_nm = nan", "above 0")
    yield bad("number as text", "pixel_size_nm = 50", 'pixel_size_nm = "50"', "pixel_size_nm = '50'", "it must be")
    yield bad("true for a number", "scale = 1.0", "scale = true", "options.scale = True", "it must be")
    yield bad(
        "a number for a table",
        "[domains.plain]",
        "[domains]\nplain = 3\n[domains.unused]",
        "domains.plain = 3",
        "make it a table",
    )
    yield bad("text for a list", "foreground = [255]", 'foreground = "255"', "foreground = '255'", "it must be")
    yield bad("value that is no grey value", "foreground = [255]", "foreground = [2.5]", "2.5", "0 .. 255")
    yield bad("foreground that is background too", "foreground = [255]", "foreground = [0]", "0 is foreground too")
    yield bad(
        "test micrograph that does not exist", '"m3"]', '"m33"]', "domains.labelled.test = 'm33'", "no image", "correct"
    )
    yield bad(
        "folds without masks",
        'masks = "source/masks"\nforeground = [255]\n',
        "",
        "folds",
        "there are no masks",
        "add the key",
    )
    yield bad(
        "no micrograph left for the reference's field",
        "scale = 1.0",
        "scale = 1.0\nfield_of_view = [10, 10]",
        "field_of_view = [10, 10]",
        "64 or more",
    )
    of_source = "foreground = [255]\npixel_size_nm = 50"
    for name, new, *says in (
        ("pixel size that no file says", 'foreground = [255]\npixel_size_nm = "file"', "m0.png", '"file"', "table"),
        ("pixel size that is another word", 'foreground = [255]\npixel_size_nm = "files"', "'files'", "above 0"),
        (
            "bar that is another word",
            f'information_bar = "none"\n{of_source}',
            "information_bar = 'none'",
            "it must be",
        ),
        ("page 0", f"page = 0\n{of_source}", "page = 0", "number from 1"),
        ("ignored value that is foreground too", f"ignore = [255]\n{of_source}", "255 is foreground too"),
        ("threshold beside a foreground", f"threshold = 128\n{of_source}", "foreground", "remove one"),
        ("two rests", 'background = "rest"\nforeground = "rest"\npixel_size_nm = 50', "list the values of one"),
        ("table that is not there", f'micrographs = "table.csv"\n{of_source}', "table.csv", "No such file"),
    ):
        yield Fault("domains.toml", name, toml(of_source, new), PREPARE, tuple(says))
    yield bad(
        "pattern that no file fits", '"source/images"', '"source/images/*.tif"', "domains.source.images", "add some"
    )
    yield Fault(
        "domains.toml",
        "pixel size that is ten times too large",
        toml('images = "plain/images"\npixel_size_nm = 50', 'images = "plain/images"\npixel_size_nm = 500'),
        PREPARE,
        ("plain/images/m0.png", "resized 10 times", "pixel_size_nm = 500", "--yes"),
    )
    yield bad("domain named ../../x", "[domains.plain]", '[domains."../../x"]', "'../../x'", "letters, digits")
    yield Fault(
        "domains.toml",
        "--domain that is not in it",
        nothing,
        f"{PREPARE} --domain t9",
        ("domains.toml", "no domain t9", "only source"),
    )
    yield Fault(
        "domains.toml",
        "other parameters than an existing store",
        toml("tile = 48", "tile = 32"),
        "prepare domains.toml --out stores",
        ("stores/source.h5", "differs in tile", "--force"),
    )

    def overlapping():
        shutil.copy("target/images/m2.png", "target/images/m0.png")

    yield Fault(
        "domains.toml",
        "one micrograph for testing and, under another name, for training",
        overlapping,
        (ANEW, "verify new"),
        ("m0, m2", "different folds or in test and training", "new/labelled.h5"),
        leaves="new/",
    )
    yield Fault(
        "domains.toml",
        "one domain trains on what another tests",
        lambda: shutil.copy("target/images/m2.png", "plain/images/m2.png"),
        (ANEW, "verify new"),
        ("labelled/m2 (test)", "plain/m2", "remove it from one"),
        leaves="new/",
    )


def _stores() -> Iterator[Fault]:
    def bad(name, spoil, *says, commands=TRAIN, path="stores/source.h5", leaves="-"):
        return Fault("store", name, spoil, f"{commands} --run-dir new", (path, *says), leaves=leaves)

    source, labelled = "stores/source.h5", "stores/labelled.h5"
    yield bad("missing", lambda: Path(source).unlink(), "no tile store", "data.prepare")
    yield bad("of an older schema", change(source, seal_of(0)), "schema 0", "make it again with data.prepare")
    yield bad("being written", being_written, "half-written", "run it again")
    yield bad("truncated", change(source, lambda whole: whole[:-1000]), "truncated", "make it again with data.prepare")
    yield bad("zero bytes", change(source, lambda _: b""), "half-written", "run it again")
    yield bad("text", change(source, as_text), "not a tile store", "data.prepare")
    yield bad(
        "seal whose length is no number",
        change(source, lambda whole: b'{"schema": 1, "bytes": "x"}'.ljust(512) + whole[512:]),
        "not a tile store",
        "data.prepare",
    )
    yield bad("a folder in its place", folder_instead(source), "Is a directory", "data.prepare")
    yield bad(
        "HDF5 header overwritten",
        change(source, lambda whole: whole[:512] + bytes(64) + whole[576:]),
        "damaged",
        "data.prepare",
    )
    yield bad("flipped byte in a mask", damaged_mask, "tiles/mask is damaged", "data.verify", leaves="new/")
    yield Fault(
        "store",
        "flipped byte, before training",
        change(source, flipped),
        "verify stores/source.h5",
        (source, "bytes have changed", "data.prepare"),
    )
    yield bad(
        "other tiles than the source",
        smaller_tiles("labelled"),
        "tile 32 here, 48 there",
        source,
        "one domains.toml",
        commands=ADAPT,
        path=labelled,
    )
    yield Fault(
        "store",
        "other tiles than the checkpoint",
        smaller_tiles("labelled"),
        SCORE,
        (labelled, "tile 48 in the checkpoint, 32 in the store", "data.prepare"),
    )
    yield bad(
        "another domain's store under its name",
        lambda: shutil.copy(source, labelled),
        "'source'",
        commands=ADAPT,
        path=labelled,
    )
    yield bad("without folds", prepared_with("folds = 3\n", ""), "holds out no annotated micrograph", "`folds`")
    yield bad(
        "as target without training tiles",
        prepared_with('"m2", "m3"', '"m0", "m1", "m2", "m3"'),
        "no training tile",
        "--transductive",
        commands=ADAPT,
        path=labelled,
    )
    for place in ("../../x", "/x", "..", "a\0b", ""):
        rename = forged("stores/labelled.h5", lambda m, place=place: m["micrographs"][0].update(name=place))
        yield Fault(
            "store", f"with a micrograph named {place!r}", rename, SCORE, (labelled, repr(place), "data.prepare")
        )
    yield Fault(
        "store",
        "of a domain named '../x'",
        forged(labelled, lambda m: m["parameters"].update(domain="../x")),
        SCORE,
        (labelled, "'../x'", "prepare it again"),
    )
    yield Fault("store", "with metadata that are a list", forged_list, SCORE, (labelled, "damaged", "data.prepare"))


class _ListTakenForDict(list):
    """A list that a writer asks for its phases."""

    def get(self, _name: str, default: object) -> object:
        return default


def forged_list() -> None:
    with StoreWriter("stores/labelled.h5", 48, 8) as writer:
        writer.add(GREY, None, name="a", parent="a")
        writer.finish(_ListTakenForDict(), [])
        writer.place()


def prepared_with(old: str, new: str) -> Callable[[], None]:
    """Replace the stores by those of another domains.toml."""
    return together(toml(old, new), lambda: call(PREPARE))


def damaged_mask() -> None:
    """Flip a byte in each compressed mask of the source's store, and seal it as if that were right."""
    import h5py

    path = Path("stores/source.h5")
    with h5py.File(path, "r") as file:
        masks = file["tiles/mask"]
        chunks = [masks.id.get_chunk_info(index) for index in range(masks.id.get_num_chunks())]
    content = bytearray(path.read_bytes())
    for chunk in chunks:
        content[512 + chunk.byte_offset + chunk.size // 2] ^= 0x55
    path.write_bytes(content)


def _options() -> Iterator[Fault]:
    def bad(name, arguments, *says, spoil=nothing, base=ADAPT):
        return Fault("option", name, spoil, f"{base} {arguments}", says)

    yield bad("unknown option", "--stepps 3", "--stepps")
    yield bad("shortened option", "--learn 0.1", "--learn")
    yield bad("unknown target", "--target t9 --run-dir new", "stores/t9.h5", "no tile store", "data.prepare")
    yield bad("no target", "", "--target DOMAIN", "--experiment", base="train_uda --data stores --run-dir new")
    yield bad("experiment of another script", "--experiment S.10", "S.10", "train_supervised.py")
    yield bad("target is the source", "--target source", "--target source", "another domain")
    yield bad("fold out of range", "--fold 3 --run-dir new", "fold 3 of 3", "0 .. 2", base=TRAIN)
    yield bad("negative fold", "--fold -1", "--fold -1", "from 0")
    yield bad("negative steps", "--steps -5", "--steps", "-5", "whole number from 1")
    yield bad("zero steps", "--steps 0", "--steps", "0 is not a whole number from 1")
    yield bad("steps as text", "--steps many", "--steps", "many is not a whole number")
    yield bad("steps in scientific notation", "--steps 1e3", "--steps", "1e3")
    yield bad("negative seed", "--seed -1", "--seed", "-1")
    yield bad("learning rate nan", "--learning-rate nan", "--learning-rate", "nan")
    yield bad("learning rate infinite", "--learning-rate inf", "--learning-rate", "inf")
    yield bad("negative learning rate", "--learning-rate -1", "--learning-rate", "-1")
    yield bad("unknown model", "--model resnet", "--model", "resnet", "deeplabv2_small")
    yield bad("unknown augmentation", "--augmentation all", "--augmentation", "all", "basic")
    yield bad("unknown experiment", "--experiment S.99", "--experiment S.99", "There are")
    yield bad("experiment of another script", "--experiment S.10", "--experiment S.10", "train_supervised.py")
    yield bad(
        "milestone after the end",
        "--milestones 3",
        "--milestones",
        "epoch3",
        "after the last",
        base=ADAPT.replace("--steps 2", "--epochs 2"),
    )
    yield bad("two ways to say how long", "--epochs 2", "--epochs and --steps", "give one")
    yield bad(
        "selection and test images together", "--selection chosen.json --transductive", "--transductive", "--selection"
    )
    yield bad(
        "batch that the processes cannot share",
        "--batch-size 4",
        "--batch-size 4",
        "3 processes",
        "multiple of 3",
        spoil=three_processes,
    )
    yield bad("micro-batch that does not divide", "--batch-size 4 --micro-batch 3", "--micro-batch 3", "divisor of 4")
    yield bad("experiments file missing", "--experiments nowhere.toml", "nowhere.toml", "--experiments")
    for name, old, new, says in (
        ("damaged", "steps = 2", "steps = ", ("--experiments",)),
        ("with an unknown option", "steps = 2", "stepps = 2", ("'own'", "stepps")),
        ("with negative steps", "steps = 2", "steps = -2", ("'own'", "steps", "-2")),
        ("with text for a number", "steps = 2", 'steps = "many"', ("'own'", "steps", "many")),
        ("with an unknown choice", "steps = 2", 'gan = "foo"', ("'own'", "gan", "foo", "vanilla")),
        ("that extends what is not there", 'extends = "demo.uda"', 'extends = "nothing"', ("nothing", "There are")),
        ("that extends itself", 'extends = "demo.uda"', 'extends = "own"', ("own", "There are")),
        ("without a script", 'extends = "demo.uda"', "", ("'own'", "script")),
        ("with an entry named ../../x", "[own]", '["../../x"]', ("'../../x'", "use a plain one")),
    ):
        spoil = together(text("own.toml", _OWN), toml(old, new, "own.toml"))
        yield bad(f"experiments file {name}", "--experiments own.toml --experiment own", "own.toml", *says, spoil=spoil)
    yield bad(
        "source named ../../x",
        "--source ../../x",
        "'../../x-supervised'",
        "use a plain one",
        base="train_supervised --data stores --steps 2",
    )

    def chosen(name, edit, *says):
        return bad(f"selection {name}", "--selection chosen.json --run-dir new", "chosen.json", *says, spoil=edit)

    yield chosen("missing", nothing, "No such file", "evaluation.selection")
    yield chosen("damaged", text("chosen.json", "{"), "damaged", "evaluation.selection")
    yield chosen(
        "of another store",
        together(a_selection, json_file("chosen.json", fingerprint="0")),
        "another version of",
        "Restore",
    )
    yield chosen(
        "of another domain", together(a_selection, json_file("chosen.json", domain="plain")), "'plain'", "'labelled'"
    )
    yield chosen("with a test tile", together(a_selection, json_file("chosen.json", tiles=[13])), "tile 13", "test set")
    yield chosen(
        "with a tile that does not exist", together(a_selection, json_file("chosen.json", tiles=[999])), "tile 999"
    )
    yield chosen(
        "with a micrograph named ../../x",
        together(a_selection, json_file("chosen.json", micrographs=["../../x"])),
        "'../../x'",
    )


_OWN = 'base = "BASE"\n\n[own]\nextends = "demo.uda"\nsteps = 2\n'.replace(
    "BASE", str(ROOT / "launch" / "experiments.toml")
)


def three_processes() -> None:
    os.environ["WORLD_SIZE"] = "3"


def a_selection() -> None:
    from data.selection_file import write_selection
    from data.store import Store

    write_selection("chosen.json", Store("stores/labelled.h5"), {0: 0.5, 1: 0.5}, ["m2"], {})


def _checkpoints() -> Iterator[Fault]:
    def bad(name, spoil, *says, commands=SCORE, file="runs/s/last.pt"):
        return Fault("checkpoint", name, spoil, commands, (file, *says))

    last = "runs/s/last.pt"
    anew = f"{TRAIN} --run-dir new --pretraining runs/s/last.pt"
    yield bad("truncated", change(last, half), "not a readable checkpoint", "previous.pt")
    yield bad("zero bytes", change(last, lambda _: b""), "not a readable checkpoint", "previous.pt")
    yield bad("text", change(last, as_text), "not a readable checkpoint")
    yield bad("flipped bytes at its end", change(last, lambda whole: flipped(whole, -30)), "not a readable checkpoint")
    yield bad(
        "with code in it", lambda: torch.save({"version": 1, "model": Payload()}, last), "not a readable", "programs"
    )
    yield bad("of another version", checkpoint(lambda state: state | {"version": 99}), "version 99", "matching code")
    yield bad("that is a list", checkpoint(lambda state: [1, 2]), "not a checkpoint of this project", "training script")
    yield bad(
        "that is a bare state dict", checkpoint(lambda state: state["model"]), "not a checkpoint", "training script"
    )
    yield bad(
        "without its configuration",
        checkpoint(lambda state: {k: v for k, v in state.items() if k != "config"}),
        "not a checkpoint",
    )
    yield bad(
        "of another model",
        checkpoint(lambda state: state | {"config": state["config"] | {"model": "deeplabv2_resnet18"}}),
        "no weights of the model deeplabv2_resnet18",
        "as it was written",
    )
    yield bad(
        "of a model unknown here",
        checkpoint(lambda state: state | {"config": state["config"] | {"model": "segformer"}}),
        "segformer",
        "as it was written",
    )
    yield bad("a folder in its place", folder_instead(last), "no such checkpoint", "Give")
    yield bad(
        "best.pt in place of last.pt",
        lambda: shutil.copy("runs/s/best.pt", last),
        "optimizers",
        "previous.pt",
        commands=RESUME,
    )
    yield bad(
        "of a run with other options",
        nothing,
        "--seed 0 -> 1",
        "another --run-dir",
        commands=f"{RESUME} --seed 1",
        file="runs/s",
    )
    yield bad("trained on another store", retrained, "other stores", "Restore", commands=RESUME, file="runs/s")
    yield bad(
        "config.json damaged",
        text("runs/s/config.json", "{"),
        "damaged",
        "Delete it",
        commands=RESUME,
        file="runs/s/config.json",
    )
    yield bad(
        "pre-training file missing",
        nothing,
        "no such file",
        commands=anew.replace("last.pt", "nowhere.pt"),
        file="runs/s/nowhere.pt",
    )
    yield bad("pre-training file truncated", change(last, half), "not a file of weights", "replace it", commands=anew)
    yield bad(
        "pre-training file of zero bytes",
        change(last, lambda _: b""),
        "not a file of weights",
        "replace it",
        commands=anew,
    )
    yield bad("pre-training file with code in it", lambda: torch.save(Payload(), last), "programs", commands=anew)
    yield bad(
        "pre-training file of another model",
        checkpoint(lambda s: {k: v[:1] for k, v in s["model"].items() if v.ndim}),
        "does not fit the model",
        commands=anew,
    )
    yield bad(
        "pre-training file that is a list", checkpoint(lambda state: [1]), "holds a list", "state dict", commands=anew
    )


def retrained() -> None:
    prepared_with("folds = 3", "folds = 2")()


def _evaluations() -> Iterator[Fault]:
    def bad(name, commands, *says, spoil=nothing, leaves="-"):
        return Fault("evaluate", name, spoil, commands, says, leaves=leaves, permissions="may not" in name)

    yield bad("no such run", SCORE.replace("runs/s", "runs/x"), "runs/x", "no such checkpoint", "Give")
    yield bad("no such milestone", f"{SCORE} --checkpoint epoch7", "runs/s/epoch7.pt", "no such checkpoint")
    yield bad("no such domain", SCORE.replace("labelled", "t9"), "stores/t9.h5", "data.prepare")
    yield bad(
        "domain without labels",
        SCORE.replace("labelled", "plain"),
        "stores/plain.h5",
        "no labelled micrographs",
        "--images",
    )
    yield bad("neither domain nor images", "evaluate runs/s", "--domain or --images")
    yield bad("neither run nor experiment", "evaluate --domain labelled", "runs or --experiment")
    yield bad("unknown experiment", "evaluate --experiment T9.9", "T9.9", "There are")
    yield bad("trained experiment as a row", "evaluate --experiment S.1", "S.1", "train_supervised")
    yield bad("no such device", SCORE.replace("cpu", "tpu9"), "--device tpu9", "cannot be used")
    yield bad(
        "--images: missing folder", SEGMENT.replace("target/images", "nowhere"), "nowhere", "no such folder", "give"
    )
    yield bad(
        "--images: empty folder",
        SEGMENT.replace("target/images", "empty"),
        "empty",
        "no image",
        spoil=lambda: Path("empty").mkdir(),
    )
    yield bad(
        "--images: a file",
        SEGMENT.replace("target/images", "target/images/m0.png"),
        "target/images/m0.png",
        "no such folder",
    )
    yield bad(
        "--images: the output folder",
        SEGMENT.replace("--out new", "--out target/images"),
        "target/images",
        "another --out",
    )
    yield bad(
        "--images: folder that may not be read",
        SEGMENT,
        "target/images",
        "Permission denied",
        spoil=lambda: Path("target/images").chmod(0),
    )
    yield bad("--images: --out is a file", SEGMENT.replace("new", "domains.toml"), "domains.toml", "another folder")
    yield bad("--images without --out", "evaluate runs/s --images target/images", "--out")
    yield bad(
        "--images: one of them broken",
        SEGMENT,
        "1 of 4 images not segmented",
        "target/images/m1.png",
        "is empty",
        spoil=change("target/images/m1.png", lambda _: b""),
        leaves="new/",
    )
    yield bad(
        "--images: all of them broken",
        SEGMENT,
        "4 of 4 images not segmented",
        "m3.png",
        spoil=lambda: [f.write_bytes(b"") for f in Path("target/images").iterdir()],
        leaves="new/",
    )
    yield bad("--images: pixel size zero", f"{SEGMENT} --pixel-size 0", "--pixel-size", "positive")
    yield bad("--images: pixel size nan", f"{SEGMENT} --pixel-size nan", "--pixel-size", "positive")
    yield bad(
        "--images: information bar higher than the image",
        f"{SEGMENT} --information-bar 500",
        "m0.png",
        "information_bar = 500",
        leaves="new/",
    )
    both = "evaluate runs/s runs/t --ensemble --out new --device cpu"
    other = checkpoint(lambda state: state | {"preparation": state["preparation"] | {"tile": 32}}, "runs/t/last.pt")
    yield bad(
        "ensemble of differently prepared models, images",
        f"{both} --images target/images",
        "runs/t",
        "prepared otherwise",
        "tile 32 here, 48 there",
        spoil=other,
    )
    yield bad(
        "ensemble of differently prepared models, domain",
        f"{both} --data stores --domain labelled",
        "runs/t",
        "tile 32",
        spoil=other,
    )
    yield bad(
        "ensemble over different folds",
        f"{both} --data stores --domain source",
        "different folds",
        spoil=checkpoint(lambda state: state | {"config": state["config"] | {"fold": 1}}, "runs/t/last.pt"),
    )
    yield bad("ensemble without --out", f"{SCORE} --ensemble", "--out")
    yield bad(
        "fold that the store has not",
        SCORE.replace("labelled", "source"),
        "stores/source.h5",
        "fold 7 of 3",
        "0 .. 2",
        spoil=checkpoint(lambda state: state | {"config": state["config"] | {"fold": 7}}),
    )
    yield bad(
        "selection without micrographs",
        f"{SCORE} --selection chosen.json",
        "chosen",
        "no micrographs",
        spoil=together(a_selection, json_file("chosen.json", micrographs=[])),
    )
    yield bad("unknown layer", f"{SCORE} --gradcam --layer nothing", "--layer", "nothing", leaves="runs/s/evaluation/")
    scored = "evaluate runs/t --data stores --domain labelled --device cpu"
    yield bad(
        "reference with a damaged config.json",
        scored,
        "runs/s/config.json",
        "not a readable configuration",
        spoil=text("runs/s/config.json", "{"),
        leaves="runs/t/evaluation/",
    )
    score = "runs/s/evaluation/source/score.json"
    yield bad(
        "reference with a damaged score.json",
        scored,
        score,
        "evaluate.py again",
        spoil=text(score, "{"),
        leaves="runs/t/evaluation/",
    )
    yield bad(
        "reference with a score.json of something else",
        scored,
        score,
        "miou",
        "evaluate.py again",
        spoil=text(score, "{}"),
        leaves="runs/t/evaluation/",
    )
    yield bad("tables of a folder without scores", "tables source --out new", "source", "no score.json", "evaluate.py")
    yield bad(
        "tables over a damaged score.json", "tables runs --out new", score, "evaluate.py again", spoil=text(score, "{")
    )
    yield bad(
        "tables over a score.json that is a list",
        "tables runs --out new",
        score,
        "evaluate.py again",
        spoil=text(score, "[]"),
    )
    yield bad(
        "tables over a score.json without its numbers",
        "tables runs --out new",
        score,
        "evaluate.py again",
        spoil=text(score, '{"domain": "source", "iou": {}}'),
    )
    yield bad(
        "tables over a damaged config.json",
        "tables runs --out new",
        "runs/s/config.json",
        "holds a copy",
        spoil=text("runs/s/config.json", "{"),
        leaves="new/",
    )
    choose = "selection runs/s --data stores --domain labelled --out new.json"
    yield bad("selection of a mean that cannot be", f"{choose} --mean 2", "--mean", "0 .. 1")
    yield bad(
        "selection without a checkpoint",
        f"{choose} --mean 0.3".replace("runs/s", "runs/x"),
        "runs/x",
        "no such checkpoint",
    )


FAULTS = [*_images(), *_masks(), *_folders(), *_tomls(), *_stores(), *_options(), *_checkpoints(), *_evaluations()]
