"""Damaged pictures and domains.toml files, drawn at random: the readers give something valid or an InputError.

A few hundred cases each in `make test`, always the same; `make fuzz` draws 10,000 new ones each (FUZZ=10000).
"""

import faulthandler
import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, currently_in_test_context, event, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from data.domains import Domain, Options, read_domains
from data.images import read_image
from data.masks import Values, read_mask

CASES = int(os.environ.get("FUZZ", 0))
MEMORY = 2 << 20  # KiB that reading one small file may take at most
SECONDS = 20  # that it may take

cases = settings(
    max_examples=CASES or 250, derandomize=not CASES, database=None, deadline=1000 * SECONDS, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip


# ---- real files ----------------------------------------------------------------------------------------------------


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 256, (40, 33), dtype=np.uint8), (0, 0), 2)
    colour, deep = np.dstack([grey, grey[::-1], 255 - grey]), grey.astype(np.uint16) * 257
    alpha = np.dstack([colour, grey])
    found = [cv2.imencode(".png", pixels)[1] for pixels in (grey, colour, deep, alpha, colour.astype(np.uint16) * 257)]
    found += [cv2.imencode(".png", grey // 200 * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1]]
    found += [cv2.imencode(".jpg", pixels)[1] for pixels in (grey, colour)]
    found += [cv2.imencode(".jpg", colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]]
    found += [cv2.imencode(".bmp", pixels)[1] for pixels in (grey, colour, alpha)]
    ramp = np.stack([np.arange(256, dtype=np.uint16) * 257] * 3)
    for pixels, options in (
        (grey, {}),
        (deep, {"byteorder": ">"}),
        (colour, {"photometric": "rgb", "compression": "deflate", "predictor": True}),
        (colour.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        (alpha, {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "lzw"}),
        (grey, {"tile": (16, 16), "compression": "zstd"}),
        (grey, {"photometric": "palette", "colormap": ramp}),
        (grey, {"photometric": "miniswhite", "bigtiff": True}),
        (grey > 127, {"compression": "packbits"}),
        ((grey / np.float32(255)), {"rowsperstrip": 7}),
        (colour, {"photometric": "ycbcr", "compression": "jpeg"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        found.append(file.getvalue())
    return [bytes(content) for content in found]


PICTURES = _pictures()
DOMAINS = """[options]
reference = "source"
scale = 0.5
tile = 512
overlap = 62
field_of_view = [2048, 1433]
seed = 0

[domains.source]
images = "images"
masks = "masks"
mask_suffix = "_mask"
foreground = [255, "#ff0000"]
background = "rest"
pixel_size_nm = 27.7
folds = 2
test = ["c"]

[domains.t3]
images = "images"
pixel_size_nm = 126
information_bar = 80
invert = true
"""

# ---- damage --------------------------------------------------------------------------------------------------------

place = st.floats(0, 1, exclude_max=True)
number = st.sampled_from([0, 1, 2, 3, 4, 7, 8, 9, 16, 255, 256, 32767, 32768, 60000, 65535, 1 << 20, (1 << 31) - 1,
                          1 << 31, (1 << 32) - 1]) | st.integers(0, (1 << 32) - 1)  # fmt: skip
damage = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(1, 255)),
    st.tuples(st.just("cut"), place),
    st.tuples(st.just("lose"), place, st.integers(1, 64)),
    st.tuples(st.just("double"), place, st.integers(1, 64)),
    st.tuples(st.just("splice"), place, place, st.integers(0, len(PICTURES) - 1)),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=16)),
    # Most of what matters of a header is in its first 200 bytes, and of some TIFF files at the end.
    st.tuples(st.just("number"), place | st.floats(0, 0.1) | st.floats(0.9, 1, exclude_max=True), number,
              st.sampled_from([2, 4]), st.sampled_from(["little", "big"])),
)  # fmt: skip


def damaged(content: bytes, steps) -> bytes:
    """The content after some damages, each (kind, place as a fraction of the length, ...)."""
    for kind, where, *values in steps:
        at = int(where * len(content))
        before, after = content[:at], content[at:]
        if kind == "flip":
            content = before + bytes(byte ^ values[0] for byte in after[:1]) + after[1:]
        elif kind == "cut":
            content = before
        elif kind == "lose":
            content = before + after[values[0] :]
        elif kind == "double":
            content = before + after[: values[0]] + after
        elif kind == "splice":
            other = PICTURES[values[1]]
            content = before + other[int(values[0] * len(other)) :]
        elif kind == "insert":
            content = before + values[0] + after
        else:
            value, size, order = values
            content = before + (value % (1 << 8 * size)).to_bytes(size, order) + after[size:]
    return content


def with_checksums(content: bytes) -> bytes:
    """Make the checksums of a PNG's chunks right again, so that what was damaged is read."""
    if not content.startswith(b"\x89PNG"):
        return content
    parts, at = [content[:8]], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4])
        body = content[at + 4 : at + 8 + size]
        parts.append(content[at : at + 4] + body + zlib.crc32(body).to_bytes(4))
        at += 12 + size
    return b"".join(parts)


pictures = st.builds(
    lambda content, steps, repair: with_checksums(damaged(content, steps)) if repair else damaged(content, steps),
    st.sampled_from(PICTURES), st.lists(damage, max_size=6), st.booleans(),
)  # fmt: skip
values = st.sampled_from([
    "0", "1", "2", "3", "16", "0.5", "27.7", "false", '"source"', '"t3"', '["b"]', '["a", "b"]', "[640, 480]",
    "-1", "255", "1e308", "nan", "inf", "-inf", "true", "1979-05-27T07:32:00Z", "99:99:99",
    '""', '"."', '".."', '"../.."', '"/"', '"images"', '"masks"', '"rest"', '"a\\u0000b"', '"\\ud7ff"',
    "[]", "[[]]", "[0]", "[1.5]", "[true]", '["a"]', '["a", "a"]', '["#FF00ff"]', "{}", "{a = 1}",
    "0x" + "f" * 4000, "9" * 5000, '"' + "x" * 5000 + '"', "[" * 3000, "{a=" * 500,
]) | st.integers(-(1 << 80), 1 << 80).map(str) | st.text(max_size=20).map(repr)  # fmt: skip


@st.composite
def domain_files(draw) -> bytes:
    """A domains.toml of which values or keys were replaced, then perhaps bytes damaged."""
    lines = DOMAINS.splitlines()
    for line, value in draw(st.lists(st.tuples(st.integers(0, len(lines) - 1), values), max_size=3)):
        key = lines[line].partition(" = ")[0]
        lines[line] = f"{key} = {value}" if " = " in lines[line] else f"[domains.{value}]"
    for line in draw(st.lists(st.integers(0, len(lines) - 1), max_size=2)):
        lines.append(lines[line])
    content = "\n".join(lines).encode(errors="replace")
    return damaged(content, draw(st.lists(damage, max_size=3))) if draw(st.booleans()) else content


# ---- properties ----------------------------------------------------------------------------------------------------


def peak() -> int:
    """Return the KiB of memory that this process had at most since /proc/self/clear_refs was told 5 (Linux)."""
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))


def read(reader, path: Path, content: bytes, *arguments):
    """Give a file's content to a reader: its result, or None for an InputError, which names the file.

    A reader that hangs ends the tests with its traceback; one that takes too much memory fails.
    """
    path.write_bytes(content)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    try:
        outcome = reader(path, *arguments)
        if currently_in_test_context():
            event("valid")  # --hypothesis-show-statistics tells how many are
    except InputError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
        outcome = None
    faulthandler.cancel_dump_traceback_later()
    assert peak() - before < MEMORY
    return outcome


@cases
@given(content=pictures)
def test_a_damaged_picture_is_an_array_or_an_error(tmp_path, content):
    grey = read(read_image, tmp_path / "picture.tif", content)
    assert grey is None or (grey.dtype == np.uint8 and grey.ndim == 2 and grey.size)


@cases
@given(content=pictures, background=st.sampled_from([None, (0,), (0, (1, 2, 3))]))
def test_a_damaged_mask_is_an_array_or_an_error(tmp_path, content, background):
    mask = read(read_mask, tmp_path / "mask.png", content, Values((255, (255, 0, 0)), background))
    assert mask is None or (mask.dtype == np.uint8 and mask.ndim == 2 and mask.size and mask.max() <= 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder where a domains.toml finds its own: three images with masks."""
    path = tmp_path_factory.mktemp("domains")
    for part, ending in (("images", ""), ("masks", "_mask")):
        (path / part).mkdir()
        for name in "abc":
            (path / part / f"{name}{ending}.png").touch()
    return path


@cases
@given(content=domain_files())
def test_a_damaged_domains_file_is_domains_or_an_error(folder, content):
    outcome = read(read_domains, folder / "domains.toml", content)
    if outcome is not None:
        options, domains = outcome
        assert isinstance(options, Options) and options.reference in domains
        for name, domain in domains.items():
            assert isinstance(domain, Domain) and domain.micrographs
            assert (folder / name).resolve().parent == folder.resolve(), "a name that is a file's"


def test_what_is_damaged_here_is_whole(tmp_path, folder):
    for content in PICTURES:
        assert read(read_image, tmp_path / "whole", content).shape == (40, 33)
        assert with_checksums(content) == content
    assert set(read(read_domains, folder / "domains.toml", DOMAINS.encode())[1]) == {"source", "t3"}
