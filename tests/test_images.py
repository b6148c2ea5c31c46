"""Reading micrographs and masks of every kind a laboratory has, and tiling that loses nothing."""

import os
import struct

import cv2
import numpy as np
import pytest
import tifffile

from common.errors import InputError
from data.images import cut_tiles, list_images, mirror_pad, prepare_mask, prepare_micrograph, read_image
from data.masks import Values, read_mask

GREY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)


def stitch(tiles, positions, overlap, shape) -> np.ndarray:
    """Put the centres of tiles (n, T, T) together to (h, w) = shape: the inverse of `cut_tiles`."""
    tile = tiles.shape[1] - 2 * overlap
    canvas = np.empty([-(-side // tile) * tile for side in shape], tiles.dtype)
    for pixels, (row, column) in zip(tiles, positions, strict=True):
        canvas[row : row + tile, column : column + tile] = pixels[overlap : overlap + tile, overlap : overlap + tile]
    return canvas[: shape[0], : shape[1]]


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (16, 16), (17, 31), (32, 48), (33, 95), (100, 3)])
@pytest.mark.parametrize("overlap", [0, 3, 40])
def test_stitched_tiles_are_the_image(shape, overlap):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    tiles, positions = cut_tiles(image, 16, overlap)
    assert tiles.shape[1:] == (16 + 2 * overlap,) * 2
    assert len(tiles) == -(-shape[0] // 16) * -(-shape[1] // 16)
    np.testing.assert_array_equal(stitch(tiles, positions, overlap, shape), image)


def test_overlap_of_a_tile_is_its_neighbour():
    tiles, positions = cut_tiles(GREY, 16, 4)
    right = next(index for index, (row, column) in enumerate(positions) if (row, column) == (0, 16))
    np.testing.assert_array_equal(tiles[0][4:-4, -4:], tiles[right][4:-4, 4:8])


def test_padding_mirrors_beyond_the_image():
    np.testing.assert_array_equal(mirror_pad(np.array([[1, 2, 3]]), 0, 0, 1, 6), [[2, 1, 2, 3, 2, 1, 2, 3, 2, 1]])


def test_study_micrograph_gives_four_tiles():
    grey = np.zeros((1433 + 100, 2048), np.uint8)
    image = prepare_micrograph(grey, 0.5, information_bar=100)
    assert image.shape == (716, 1024)
    assert cut_tiles(image, 512, 62)[0].shape == (4, 636, 636)


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".png", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_formats_give_the_same_grey(tmp_path, suffix, channels):
    pixels = GREY if channels == 1 else np.dstack([GREY] * 3 + [np.full_like(GREY, 128)] * (channels - 3))
    path = tmp_path / f"image{suffix}"
    _write(path, pixels)
    np.testing.assert_array_equal(read_image(path), GREY)


def test_colour_becomes_luma_in_either_format(tmp_path):
    rgb = np.random.default_rng(2).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    _write(tmp_path / "a.tif", rgb)
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    expected = rgb @ np.array([0.299, 0.587, 0.114])
    for name in ("a.tif", "a.png"):
        assert np.abs(read_image(tmp_path / name) - expected).max() <= 1


@pytest.mark.parametrize(("pixels", "expected"), [
    (GREY.astype(np.uint16), GREY),  # 8 bit in 16
    (np.full((8, 8), 4095, np.uint16), np.full((8, 8), 255)),  # 12 bit in 16
    (GREY.astype(np.uint16) * 257, GREY),
    (GREY / np.float32(255), GREY),
    (GREY > 127, np.where(GREY > 127, 255, 0)),
])  # fmt: skip
def test_every_depth_fills_eight_bit(tmp_path, pixels, expected):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_tiff_shows_as_a_viewer_shows_it(tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", 255 - GREY, photometric="miniswhite")
    ramp = np.arange(255, -1, -1, dtype=np.uint16) * 257
    tifffile.imwrite(tmp_path / "palette.tif", 255 - GREY, photometric="palette", colormap=np.stack([ramp] * 3))
    with tifffile.TiffWriter(tmp_path / "preview.tif") as tiff:
        tiff.write(GREY)
        tiff.write(GREY[::4, ::4].copy(), subfiletype=1)
    for name in ("white.tif", "palette.tif", "preview.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), GREY)


@pytest.mark.parametrize("times", [1, 256, 257])
def test_a_palette_of_a_tiff_has_the_colours_that_were_saved(tmp_path, times):
    """Pillow and ImageJ write v * 256, others v * 257, and some v."""
    ramp = np.arange(256)
    tifffile.imwrite(
        tmp_path / "a.tif", GREY, photometric="palette", colormap=np.stack([ramp * times] * 3).astype(np.uint16)
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GREY)
    colours = np.random.default_rng(1).permuted(np.tile(ramp, (3, 1)), axis=1)  # every component is there once
    tifffile.imwrite(tmp_path / "b.tif", GREY, photometric="palette", colormap=(colours * times).astype(np.uint16))
    for number in range(0, 256, 5):
        colour = tuple(colours[:, number].tolist())
        np.testing.assert_array_equal(read_mask(tmp_path / "b.tif", Values((colour,), None)), number == GREY)


def test_pictures_that_tifffile_wrote_behind_one_directory_are_pages(tmp_path):
    for pictures, kind in (
        (np.stack([GREY, 255 - GREY]), "minisblack"),
        (np.stack([np.dstack([GREY] * 3), np.dstack([255 - GREY] * 3)]), "rgb"),
    ):
        tifffile.imwrite(tmp_path / "a.tif", pictures, truncate=True, photometric=kind)
        for page, expected in ((1, GREY), (2, 255 - GREY)):
            np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=page), expected)


def test_a_jpeg_that_is_filled_up_before_its_end_is_whole(tmp_path):
    content = cv2.imencode(".jpg", GREY)[1].tobytes()
    for name, filling in (("a", 0), ("b", 16)):
        (tmp_path / f"{name}.jpg").write_bytes(content[:-2] + bytes(filling) + content[-2:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), read_image(tmp_path / "b.jpg"))


@pytest.mark.parametrize("colours", [True, False])
def test_a_bitmap_of_os2_is_read(tmp_path, colours):
    """Its header is short; rows stand from the bottom up, filled to 4 bytes."""
    pixels = np.dstack([GREY] * 3) if colours else GREY
    palette = b"" if colours else bytes(np.repeat(np.arange(256, dtype=np.uint8), 3))
    bits, start = (24, 26) if colours else (8, 26 + 768)
    head = struct.pack("<2sIHHI", b"BM", start + pixels.nbytes, 0, 0, start)
    head += struct.pack("<IHHHH", 12, GREY.shape[1], GREY.shape[0], 1, bits)
    (tmp_path / "a.bmp").write_bytes(head + palette + pixels[::-1].tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.bmp"), GREY)
    (tmp_path / "cut.bmp").write_bytes(head[:20])
    with pytest.raises(InputError, match=r"cut\.bmp: damaged"):
        read_image(tmp_path / "cut.bmp")


def _bad_files(folder):
    """Name, what the message must say, and the file."""
    tifffile.imwrite(folder / "good.tif", GREY)
    _write(folder / "good.png", GREY)
    cv2.imwrite(str(folder / "good.jpg"), GREY)
    for name in ("good.tif", "good.png", "good.jpg"):
        content = (folder / name).read_bytes()
        (folder / f"truncated_{name}").write_bytes(content[: len(content) // 2])
        yield f"truncated_{name}", "truncated|damaged"
    tifffile.imwrite(folder / "deflated.tif", GREY, compression="deflate")
    (folder / "cut.tif").write_bytes((folder / "deflated.tif").read_bytes()[:-200])
    yield "cut.tif", "truncated|damaged"
    tifffile.imwrite(folder / "pages.tif", np.stack([GREY, GREY]), photometric="minisblack")
    yield "pages.tif", "2 pages"
    tifffile.imwrite(folder / "cmyk.tif", np.dstack([GREY] * 4), photometric="separated")
    yield "cmyk.tif", "SEPARATED"
    ycbcr = cv2.cvtColor(np.dstack([GREY] * 3), cv2.COLOR_RGB2YCrCb)
    for compression in (None, "lzw"):
        name = f"ycbcr_{compression}.tif"
        tifffile.imwrite(folder / name, ycbcr, photometric="ycbcr", subsampling=(1, 1), compression=compression)
        yield name, "YCBCR; save it as grey or RGB"
    signed = {"cf": 0, "c0": -32768.0, "c1": 1.0, "vunit": "Gray Value"}
    tifffile.imwrite(folder / "imagej.tif", GREY.astype(np.uint16) + 32768, imagej=True, metadata=signed)
    yield "imagej.tif", "signed 16-bit numbers"
    behind = np.stack([GREY, 255 - GREY, GREY])
    tifffile.imwrite(folder / "behind.tif", behind, truncate=True, photometric="minisblack")
    yield "behind.tif", "3 pages"
    tifffile.imwrite(folder / "nan.tif", np.where(GREY > 9, 0.5, np.nan).astype(np.float32))
    yield "nan.tif", "NaN"
    tifffile.imwrite(folder / "counts.tif", GREY.astype(np.float32))
    yield "counts.tif", "outside 0 .. 1"
    tifffile.imwrite(folder / "signed.tif", GREY.astype(np.int16))
    yield "signed.tif", "int16"
    (folder / "text.tif").write_text("not a picture")
    yield "text.tif", "not a TIFF"
    (folder / "empty.png").write_bytes(b"")
    yield "empty.png", "empty"
    png = (folder / "good.png").read_bytes()
    (folder / "animated.png").write_bytes(png[:33] + b"\0\0\0\x08acTL" + bytes(12) + png[33:])
    yield "animated.png", "animated"
    yield "missing.tif", "cannot be read"


def test_a_listing_has_images_and_broken_links_in_order(tmp_path):
    for name in ("b.TIF", "a.png", "sub/c.jpg", "notes.txt", ".hidden.png", "folder.png/d.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    assert [file.name for file in list_images(tmp_path)] == ["a.png", "b.TIF", "link.png"]
    below = ["a.png", "b.TIF", "folder.png/d.bmp", "link.png", "sub/c.jpg"]
    assert [file.relative_to(tmp_path).as_posix() for file in list_images(tmp_path, recursive=True)] == below


def test_bad_images_are_named_with_a_remedy(tmp_path):
    for name, message in _bad_files(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)


def test_masks_by_grey_value_and_by_colour(tmp_path):
    _write(tmp_path / "index.png", np.array([[0, 1], [2, 0]], np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / "index.png", Values((1, 2), (0,))), [[0, 1], [1, 0]])
    overlay = np.array([[[9, 9, 9], [0, 0, 255]], [[255, 0, 0], [0, 255, 0]]])
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        pixels = np.dstack([overlay * factor, np.full((2, 2), 255 * factor)]).astype(dtype)
        tifffile.imwrite(tmp_path / "overlay.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
        mask = read_mask(tmp_path / "overlay.tif", Values(((0, 0, 255), (255, 0, 0)), None))
        np.testing.assert_array_equal(mask, [[0, 1], [1, 0]])
        with pytest.raises(InputError, match='"#00ff00" is neither'):
            read_mask(tmp_path / "overlay.tif", Values(((0, 0, 255), (255, 0, 0)), (9,)))


def test_mask_stays_on_its_micrograph_whatever_the_scale():
    mask = (cv2.GaussianBlur(GREY, (0, 0), 4) > 127).astype(np.uint8)
    for factor in (0.5, 0.73, 1.0, 2.285):
        image = prepare_micrograph(mask * 255, factor)
        assert image.shape == prepare_mask(mask, factor).shape
        assert ((image > 127) == prepare_mask(mask, factor)).mean() > 0.98
    np.testing.assert_array_equal(prepare_micrograph(GREY, 1, invert=True), 255 - GREY)


def test_impossible_scale_is_an_error():
    with pytest.raises(InputError, match="pixel_size_nm"):
        prepare_micrograph(GREY, 0.01)


def _write(path, pixels):
    if path.suffix.lower().startswith(".tif"):
        tifffile.imwrite(path, pixels, photometric="minisblack" if pixels.ndim == 2 else "rgb")
    else:
        assert cv2.imwrite(str(path), pixels)
