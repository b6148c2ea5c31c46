"""Masks as people have them: any numbers, what does not count, soft borders, instance numbers, bars."""

import re

import cv2
import numpy as np
import pytest
import tifffile
import torch
from bad_input import call
from conftest import ROOT, annotated, domains_toml, draw
from microscope_files import packed
from PIL import Image

from common.errors import InputError
from data.augmentation import Augmentation
from data.contact_sheet import draw_contact_sheet
from data.images import prepare_mask
from data.masks import Values, phase_fraction, read_mask
from data.store import Store, store_path
from evaluation.figures import annotation, overlay
from evaluation.metrics import Confusion
from losses.segmentation import segmentation_loss

CASES = ROOT.parent / "shared" / "cases"
SMALL = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}
NUMBERS = np.repeat(np.repeat(np.array([[0, 1, 2], [3, 0, 1]]), 20, axis=0), 20, axis=1)  # 40 x 60


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64])
def test_any_whole_numbers_are_a_mask(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", NUMBERS.astype(kind), photometric="minisblack")
    mask = read_mask(tmp_path / "a.tif", Values((1, 3), (0,), ignore=(2,)))
    np.testing.assert_array_equal(mask, np.select([NUMBERS == 2, NUMBERS == 0], [255, 0], 1))


def test_negative_and_large_numbers_may_be_listed(tmp_path):
    numbers = np.where(NUMBERS == 2, -1, NUMBERS).astype(np.int64)  # the UHCS data set's micron bar is -1
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="minisblack")
    mask = read_mask(tmp_path / "a.tif", Values((1, 3), (0,), ignore=(-1,)))
    np.testing.assert_array_equal(mask == 255, numbers == -1)
    cv2.imwrite(str(tmp_path / "b.png"), np.where(NUMBERS == 2, 40000, 0).astype(np.uint16))
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png", Values((40000,), (0,))), NUMBERS == 2)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_a_palette_image_has_numbers_and_colours(tmp_path, ending):
    """As of Pascal VOC and LabelMe: the number 255 is left out, its colour is a pale yellow."""
    colours = np.random.default_rng(0).integers(1, 255, (256, 3), dtype=np.uint8)
    colours[0] = 0
    numbers = np.where(NUMBERS == 3, 255, NUMBERS).astype(np.uint8)
    if ending == "tif":
        table = colours.T.astype(np.uint16) * 257
        tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=table)
    else:
        image = Image.fromarray(numbers)
        image.putpalette(colours.tobytes())
        image.save(tmp_path / f"a.{ending}")
    expected = np.select([numbers == 255, numbers == 0], [255, 0], 1)
    mask = read_mask(tmp_path / f"a.{ending}", Values((1, 2), (0,), ignore=(255,)))
    np.testing.assert_array_equal(mask, expected)
    one, two, left = (tuple(int(value) for value in colours[number]) for number in (1, 2, 255))
    mask = read_mask(tmp_path / f"a.{ending}", Values((one, two), (0,), ignore=(left,)))
    np.testing.assert_array_equal(mask, expected)
    mask = read_mask(tmp_path / f"a.{ending}", Values((1, 2), None, ignore=(255,)))
    np.testing.assert_array_equal(mask, expected)
    mask = read_mask(tmp_path / f"a.{ending}", Values(None, (0, 2), ignore=(255,)))
    np.testing.assert_array_equal(mask, np.select([numbers == 255, numbers == 1], [255, 1], 0))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_few_bits_are_numbers_or_grey(tmp_path, bits, ending):
    most = 2**bits - 1
    numbers = np.where(NUMBERS == 2, most, 0).astype(np.uint8)
    path = tmp_path / f"a.{ending}"
    if ending == "tif" and bits == 1:
        tifffile.imwrite(path, numbers.astype(bool), photometric="minisblack")
    elif ending == "tif":
        packed(path, numbers, bits)
    elif bits == 1:
        Image.fromarray(numbers * 255).convert("1").save(path)
    else:
        rows = np.packbits(
            np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :].reshape(len(numbers), -1), axis=1
        )
        path.write_bytes(_png(numbers.shape, bits, rows))
    for value in {most, 255}:
        mask = read_mask(path, Values((value,), (0,)))
        np.testing.assert_array_equal(mask, NUMBERS == 2)


def _png(shape, bits, rows):
    import zlib

    from bad_input import png_chunk

    header = shape[1].to_bytes(4) + shape[0].to_bytes(4) + bytes([bits, 0, 0, 0, 0])
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_foreground_may_be_the_rest(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), NUMBERS.astype(np.uint8))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", Values(None, (0, 2))), np.isin(NUMBERS, (1, 3)))


def test_all_unknown_values_of_all_masks_are_named(tmp_path):
    draw(tmp_path / "source", 3, seed=1, contrast=1.0)
    for number, values in enumerate(((7, 9), (9, 11), ())):
        path = str(tmp_path / "source" / "masks" / f"m{number}.png")
        mask = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        for row, value in enumerate(values):
            mask[row, : 10 + number] = value
        cv2.imwrite(path, mask)
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=annotated("source", folds=2)))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 2 and "m0.png: mask values 7 (10 px), 9 (10 px) are neither" in printed
    assert "7 (10 px in m0.png); 9 (10 px in m0.png, 11 px in m1.png); 11 (11 px in m1.png)" in printed


def test_a_jpeg_and_smooth_borders_are_called_so_and_have_a_threshold(tmp_path):
    truth = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(100, 100)), (0, 0), 8) > 0
    cv2.imwrite(str(tmp_path / "a.jpg"), truth * 255, [cv2.IMWRITE_JPEG_QUALITY, 75])
    cv2.imwrite(str(tmp_path / "soft.png"), cv2.GaussianBlur(truth * 255.0, (0, 0), 1.2))
    for name, word in (("a.jpg", "JPEG"), ("soft.png", "smooth")):
        with pytest.raises(InputError, match=f"{word}.*threshold = 128") as caught:
            read_mask(tmp_path / name, Values((255,), (0,)))
        assert '"rest"' not in str(caught.value)
        assert np.mean(read_mask(tmp_path / name, Values((), (), threshold=128)) != truth) < 0.01


def test_smooth_borders_of_colours_and_of_a_dark_phase_get_no_threshold(tmp_path):
    truth = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(100, 100)), (0, 0), 8) > 0
    red = cv2.GaussianBlur(np.where(truth[..., None], (0, 0, 255), 0).astype(np.float32), (0, 0), 1.2)
    cv2.imwrite(str(tmp_path / "red.png"), red)
    cv2.imwrite(str(tmp_path / "dark.jpg"), 255 - truth * 255)
    grey = cv2.GaussianBlur(truth * 255.0, (0, 0), 1.2)
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack([grey] * 3))
    over = np.random.default_rng(1).integers(60, 200, (100, 100, 1), dtype=np.uint8) * np.ones(3, np.uint8)
    cv2.imwrite(str(tmp_path / "over.png"), np.where(truth[..., None], (0, 0, 255), over).astype(np.uint8))
    for name, values, says, not_said in (
        ("red.png", Values(((255, 0, 0),), (0,)), "smooth.*as PNG", "threshold|rest"),
        ("dark.jpg", Values((0,), (255,)), "JPEG.*as PNG", "threshold|rest"),
        ("rgb.png", Values((255,), (0,)), "smooth.*threshold = 128", "rest"),
        ("over.png", Values(((255, 0, 0),), (0,)), 'background = "rest"', "smooth"),  # drawn on the micrograph itself
    ):
        with pytest.raises(InputError, match=says) as caught:
            read_mask(tmp_path / name, values)
        assert not re.search(not_said, str(caught.value).partition("neither")[2])


def test_a_jpeg_whose_rest_is_background_is_warned_of(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.jpg"), NUMBERS * 80)
    read_mask(tmp_path / "a.jpg", Values((255,), None))
    assert "threshold = 128" in capsys.readouterr().err


def test_instance_numbers_are_foreground_when_asked_for_or_many(tmp_path, capsys):
    grains = np.kron(np.arange(1, 301).reshape(15, 20), np.ones((6, 6))).astype(np.uint16)
    grains[::6] = 0
    cv2.imwrite(str(tmp_path / "many.png"), grains)
    np.testing.assert_array_equal(read_mask(tmp_path / "many.png", Values((1,), (0,))), grains > 0)
    assert "all above 0 are foreground" in capsys.readouterr().err
    few = np.where(grains > 40, 0, grains)
    cv2.imwrite(str(tmp_path / "few.png"), few)
    with pytest.raises(InputError, match="instances = true"):
        read_mask(tmp_path / "few.png", Values((1,), (0,)))
    np.testing.assert_array_equal(read_mask(tmp_path / "few.png", Values((), (0,), instances=True)), few > 0)
    assert not capsys.readouterr().err


def test_a_photograph_is_no_instance_map(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8))
    with pytest.raises(InputError, match="mask values"):
        read_mask(tmp_path / "a.png", Values((255,), (0,)))


def test_soft_lines_and_pictures_are_no_instance_maps_and_small_grains_are(tmp_path, capsys):
    rng = np.random.default_rng(3)
    lines, fine = np.zeros((2, 256, 256), np.uint8)
    for ends in rng.integers(0, 256, (14, 2, 2)).tolist():
        cv2.line(lines, *ends, 255, 2)
        cv2.line(fine, *ends, 255, 1, cv2.LINE_AA)
    grey = cv2.resize(rng.integers(20, 235, (32, 32)).astype(np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
    grey[:150] = 0
    thin = cv2.GaussianBlur(lines, (0, 0), 1.5)
    assert thin.max() < 255
    for pixels in (cv2.GaussianBlur(lines, (0, 0), 1), thin, fine, grey):
        cv2.imwrite(str(tmp_path / "soft.png"), pixels)
        with pytest.raises(InputError, match=r"borders are smooth.*threshold = 128") as caught:
            read_mask(tmp_path / "soft.png", Values((255,), (0,)))
        assert "instances" not in str(caught.value)
    for side in (2, 3, 5):
        grains = rng.permutation(255).reshape(15, 17) + 1  # 8-bit numbers up to the listed 255, touching
        even = np.kron(np.pad(grains, ((0, 30), (0, 0))), np.ones((side, side))).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "grains.png"), even)
        np.testing.assert_array_equal(read_mask(tmp_path / "grains.png", Values((255,), (0,))), even > 0)
        assert "all above 0 are foreground" in capsys.readouterr().err


def test_values_in_the_bar_do_not_count_and_a_mask_may_lack_it(tmp_path):
    numbers = (NUMBERS > 0).astype(np.uint8)
    with_bar = np.vstack([numbers, np.full((9, 60), 77, np.uint8)])
    cv2.imwrite(str(tmp_path / "whole.png"), with_bar)
    cv2.imwrite(str(tmp_path / "scanned.png"), numbers)
    for name in ("whole.png", "scanned.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name, Values((1,), (0,)), (49, 60), 9), numbers)
    with pytest.raises(InputError, match="information_bar = 9"):
        read_mask(tmp_path / "scanned.png", Values((1,), (0,)), (49, 60), 0)


def test_white_is_zero_keeps_the_numbers_of_a_mask(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.where(NUMBERS == 2, 255, 0).astype(np.uint8), photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif", Values((255,), (0,))), NUMBERS == 2)
    # One bit: as a viewer shows it; but tifffile calls True black unasked, so its own files as they were saved.
    for software, expected in (("scanner", NUMBERS != 2), ("tifffile.py", NUMBERS == 2)):
        tifffile.imwrite(tmp_path / "b.tif", NUMBERS == 2, photometric="miniswhite", software=software)
        for values in (Values((255,), (0,)), Values(None, (0,)), Values((255,), (0,), threshold=128)):
            np.testing.assert_array_equal(read_mask(tmp_path / "b.tif", values), expected)


def smoothed(mask):
    """Borders as a drawing program smooths them, uint8."""
    return cv2.GaussianBlur(np.where(mask, 255, 0).astype(np.uint8), (0, 0), 0.8)


LARGE = np.kron(NUMBERS == 2, np.ones((6, 6), bool))


def test_smooth_borders_under_rest_are_told_of(tmp_path, capsys):
    """Of grey and of colours, by "rest" of either phase; areas of many values are none, nor a micrograph below."""
    cv2.imwrite(str(tmp_path / "grey.png"), smoothed(LARGE))
    colours = np.dstack([smoothed(~LARGE), np.zeros_like(LARGE, np.uint8), smoothed(LARGE)])
    cv2.imwrite(str(tmp_path / "colours.png"), colours)
    for name, one, other in (("grey", 255, 0), ("colours", (255, 0, 0), (0, 0, 255))):
        for values in (Values((one,), None), Values(None, (other,))):
            read_mask(tmp_path / f"{name}.png", values)
            assert "borders are smooth" in capsys.readouterr().err, (name, values)
    rng = np.random.default_rng(0)
    grains = np.kron(rng.permutation(100).reshape(10, 10), np.ones((12, 12))).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "grains.png"), grains)
    read_mask(tmp_path / "grains.png", Values(None, (0,)))
    below = np.where(LARGE[..., None], (0, 0, 255), rng.integers(0, 256, (*LARGE.shape, 1))).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "below.png"), below)
    found = read_mask(tmp_path / "below.png", Values(((255, 0, 0),), None))
    np.testing.assert_array_equal(found, LARGE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lowest", [0, 85])
@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_borders_of_few_levels_are_told_of_and_a_third_phase_is_not(tmp_path, capsys, lowest, channels):
    """Moved by half a pixel, or halved, a mask has three values in between; beside a third phase there are more."""
    rng = np.random.default_rng(0)
    field = cv2.GaussianBlur(rng.normal(size=(200, 240)), (0, 0), 9)
    sharp = np.select([field > 0.02, field < -0.02], [255, 0], lowest).astype(np.uint8)
    moved = cv2.warpAffine(sharp, np.float32([[1, 0, 0.5], [0, 1, 0.5]]), sharp.shape[::-1], borderMode=1)
    halved = cv2.resize(sharp, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert lowest or set(np.unique(moved)) == set(np.unique(halved)) == {0, 64, 128, 191, 255}
    lines = sharp.copy()
    for column, value in ((30, 90), (90, 170)):
        lines[:, column] = value
    for pixels, warned in ((moved, True), (halved, True), (sharp, False), (sharp // 4 * 4, False), (lines, False)):
        cv2.imwrite(str(tmp_path / "a.png"), np.dstack([pixels] * channels))
        for values in (Values((int(pixels.max()),), None), Values(None, (0,))):
            read_mask(tmp_path / "a.png", values)
            assert ("borders are smooth" in (printed := capsys.readouterr().err)) == warned == bool(printed)
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([halved] * channels))
    with pytest.raises(InputError, match=r"its borders are smooth.*threshold = 170"):
        read_mask(tmp_path / "a.png", Values((255,), (0, 85)))


def test_transparent_pixels_of_a_phase_are_warned_of(tmp_path, capsys):
    """A constant alpha hides nothing, nor does one over the background, whatever its colour."""
    red, phase = (255, 0, 0), LARGE & (np.arange(LARGE.shape[1]) % 40 < 20)
    for name, below, alpha, values, warned in (
        ("erased", np.where(LARGE[..., None], red, 0), np.where(phase, 255, 0), Values((red,), None), True),
        ("grey", np.where(LARGE, 255, 0)[..., None], np.where(phase, 255, 0), Values((255,), (0,)), True),
        ("threshold", np.where(LARGE, 255, 0)[..., None], np.where(phase, 255, 0), Values((), (), threshold=99), True),
        ("cut out", np.where(LARGE[..., None], red, 0), np.where(LARGE, 255, 0), Values((red,), (0,)), False),
        ("white", np.where(LARGE[..., None], 0, 255), np.where(LARGE, 255, 0), Values((0,), (255,)), False),
        ("constant", np.where(LARGE[..., None], red, 0), np.full(LARGE.shape, 128), Values((red,), None), False),
    ):
        Image.fromarray(np.dstack([below, alpha]).astype(np.uint8)).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", values), LARGE)
        printed, count = capsys.readouterr().err, np.count_nonzero(LARGE & ~phase)
        assert (f"{name}.png: {count} transparent pixels are of a phase" in printed) == warned == bool(printed), name


@pytest.mark.parametrize("colour", [(0, 0, 0), (0, 0, 255), (9,)])
def test_a_mask_in_the_alpha_channel_alone_is_refused(tmp_path, colour):
    alpha = np.where(LARGE, 255, 0).astype(np.uint8)
    pixels = np.dstack([*(np.full_like(alpha, value) for value in colour), alpha])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="in the alpha channel alone"):
        read_mask(tmp_path / "a.png", Values((255,), None))


def test_a_palette_that_can_be_read_in_two_ways_is_asked_about(tmp_path):
    image = Image.fromarray((NUMBERS == 2).astype(np.uint8), "P")
    image.putpalette([255] * 3 + [0] * 3)
    image.save(tmp_path / "a.png")
    for values in (Values(None, (0,)), Values(None, (0,), instances=True)):
        with pytest.raises(InputError, match="colours of its palette or numbers"):
            read_mask(tmp_path / "a.png", values)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", Values((1,), (0,))), NUMBERS == 2)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", Values(((0, 0, 0),), ((255,) * 3,))), NUMBERS == 2)


def test_a_threshold_is_of_white_whatever_the_depth(tmp_path, capsys):
    values = Values((255,), (0,), threshold=128)
    tifffile.imwrite(tmp_path / "a.tif", np.where(LARGE, 4095, 0).astype(np.uint16))
    assert not read_mask(tmp_path / "a.tif", values).any()
    assert "no pixel reaches threshold = 128 of 255: the brightest is 4095" in capsys.readouterr().err
    for bits in (4, 12):
        packed(tmp_path / "b.tif", np.where(LARGE, 2**bits - 1, 0), bits)
        np.testing.assert_array_equal(read_mask(tmp_path / "b.tif", values), LARGE)
    assert capsys.readouterr().err == ""


def test_a_threshold_is_of_grey_and_what_is_ignored_may_have_a_colour(tmp_path):
    rng = np.random.default_rng(0)
    values, size = Values((), (), threshold=128), LARGE.shape
    soft = cv2.GaussianBlur(np.where(LARGE, 255, 0).astype(np.uint8), (0, 0), 1.2)
    tinted = np.clip(np.dstack([soft] * 3) + rng.integers(-9, 10, (*size, 3)), 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "tinted.jpg"), tinted, [cv2.IMWRITE_JPEG_QUALITY, 80])
    assert np.mean(read_mask(tmp_path / "tinted.jpg", values) != LARGE) < 0.01
    for ending in ("png", "jpg"):
        for number, colour in enumerate(((255, 0, 0), (0, 0, 255), (255, 255, 0))):
            path = tmp_path / f"{number}.{ending}"
            Image.fromarray(np.where(LARGE[..., None], colour, 0).astype(np.uint8)).save(path)
            with pytest.raises(InputError, match=f"{path.name}.* threshold = 128 is of grey levels; export"):
                read_mask(path, values)
    marked = np.dstack([np.where(LARGE, 255, 0)] * 3).astype(np.uint8)
    marked[-30:] = (255, 0, 0)
    Image.fromarray(marked).save(tmp_path / "marked.png")
    with pytest.raises(InputError, match="#ff0000"):
        read_mask(tmp_path / "marked.png", values)
    grey = np.where(LARGE, 255, 0).astype(np.uint8)
    grey[-30:] = 100
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    expected = np.where(np.arange(size[0])[:, None] < size[0] - 30, LARGE, 255)
    for name, left in (("marked", (255, 0, 0)), ("grey", (100, 100, 100)), ("grey", 100)):
        found = read_mask(tmp_path / f"{name}.png", Values((), (), (left,), threshold=128))
        np.testing.assert_array_equal(found, expected)


def test_a_micrograph_in_place_of_its_mask_is_warned_of_under_a_threshold(tmp_path, capsys):
    """Neither are masks of three levels, soft ones, JPEGs of either, and pictures where they are ignored."""
    draw(tmp_path, 1, seed=1, contrast=1.0)
    picture = cv2.imread(str(tmp_path / "images" / "m0.png"), cv2.IMREAD_GRAYSCALE)
    levels = cv2.resize((NUMBERS * 80).astype(np.uint8), None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST)
    soft = cv2.GaussianBlur(np.where(LARGE, 255, 0).astype(np.uint8), (0, 0), 3)
    beside = np.hstack([picture, np.full_like(picture, 7)])
    for pixels, ignore, warned in (
        (picture, (), True), (picture.astype(np.uint16) * 257, (), True), (np.dstack([picture] * 3), (), True),
        (levels, (), False), (soft, (), False), (cv2.GaussianBlur(levels, (0, 0), 1), (), False),
        (beside, (), False), (beside, (7,), True),
    ):  # fmt: skip
        for ending in ("png", "jpg")[: 2 if pixels.dtype == np.uint8 and not ignore else 1]:
            cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels)
            read_mask(tmp_path / f"a.{ending}", Values((), (), ignore, threshold=128))
            said = f"a.{ending}: most of it is grey levels that differ from pixel to pixel"
            assert (said in (printed := capsys.readouterr().err)) == warned == bool(printed)


# ---- what does not count ------------------------------------------------------------------------------------------


def test_ignored_pixels_stay_on_their_place_at_any_scale():
    mask = np.select([NUMBERS == 2, NUMBERS > 0], [255, 1], 0).astype(np.uint8)
    for factor in (0.5, 1, 1.7, 2):
        found = prepare_mask(mask, factor)
        side = tuple(round(length * factor) for length in mask.shape[::-1])
        expected = cv2.resize(mask, side, interpolation=cv2.INTER_NEAREST_EXACT)
        assert set(np.unique(found)) == {0, 1, 255} and np.mean(found == expected) > 0.96
        assert phase_fraction(found) == pytest.approx(phase_fraction(mask), abs=0.02)


def test_ignored_pixels_count_in_no_score_loss_and_fraction():
    rng = np.random.default_rng(0)
    label, predicted = rng.integers(0, 2, (2, 40, 40)).astype(np.uint8)
    ignored = rng.random((40, 40)) < 0.3
    masked = np.where(ignored, 255, label).astype(np.uint8)
    assert (Confusion.of(predicted, masked).counts == Confusion.of(predicted[~ignored], label[~ignored]).counts).all()
    assert phase_fraction(masked) == label[~ignored].mean()
    logits = torch.randn(1, 1, 40, 40)
    changed = torch.where(torch.from_numpy(ignored), 50.0, logits)
    mask = torch.from_numpy(masked)[None, None]
    assert torch.equal(segmentation_loss(logits, mask), segmentation_loss(changed, mask))


def test_ignored_pixels_count_in_no_grey_levels(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    for number in range(2):
        image, mask = (str(tmp_path / "source" / part / f"m{number}.png") for part in ("images", "masks"))
        for path, value in ((image, 255), (mask, 77)):
            pixels = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            pixels[-30:] = value  # a bar that belongs to the micrograph
            cv2.imwrite(path, pixels)
    entry = annotated("source", folds=2, ignore=[77])
    other = {"images": "source/images", "pixel_size_nm": 50, "match": "source"}
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=entry, other=other))
    assert call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")[0] == 0
    store = Store(store_path(tmp_path / "stores", "source"))
    pixels = np.concatenate([store.image(number)[:-30].ravel() for number in range(2)])
    levels = Store(store_path(tmp_path / "stores", "other")).metadata["parameters"]["levels"]
    np.testing.assert_allclose(levels, np.bincount(pixels, minlength=256) / len(pixels))
    assert f"mean {pixels.mean():.1f}," in call(f"verify {tmp_path / 'stores'}")[1]


def test_augmentation_makes_no_other_numbers():
    mask = np.select([NUMBERS == 2, NUMBERS > 0], [255, 1], 0).astype(np.uint8)
    for number in range(20):
        _, found = Augmentation("extended")(mask, mask, np.random.default_rng(number))
        assert set(np.unique(found)) <= {0, 1, 255}


def test_ignored_pixels_are_hatched_and_neither_right_nor_wrong():
    image = np.full((64, 64), 100, np.uint8)
    label = np.zeros((64, 64), np.uint8)
    label[:, :32] = 255
    for picture in (overlay(image, np.zeros_like(label), label), annotation(image, label)):
        assert (picture[:, 32:] == 100).all()
        lines = (picture[:, :32] != 100).any(axis=2).mean()
        assert 0.05 < lines < 0.5
    wrong = overlay(image, np.ones_like(label), label)
    assert (wrong[20, 40] != 100).any() and np.mean((wrong[:, 2:30] == 100).all(axis=2)) > 0.5


def test_a_domain_with_ignored_pixels_is_trained_on_and_scored(tmp_path):
    """Values under the ignored pixels, and what is found there, change nothing."""
    scores = []
    for number in range(2):
        folder = tmp_path / str(number)
        draw(folder / "source", 4, seed=1, contrast=1.0)
        for path in sorted((folder / "source" / "masks").iterdir()):
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            mask[10:40, 10:50] = (90, 91)[number]
            cv2.imwrite(str(path), mask)
        entry = annotated("source", folds=2, ignore=[(90, 91)[number]])
        (folder / "domains.toml").write_text(domains_toml(SMALL, source=entry))
        for command in (
            f"prepare {folder / 'domains.toml'} --out {folder / 'stores'}",
            f"verify {folder / 'stores'}",
            f"train_supervised --experiment demo.supervised --data {folder / 'stores'} --steps 3 --batch-size 2 "
            f"--workers 0 --run-dir {folder / 'run'}",
            f"evaluate {folder / 'run'} --data {folder / 'stores'} --domain source --device cpu",
        ):
            status, printed = call(command)
            assert status == 0, printed
        store = Store(store_path(folder / "stores", "source"))
        assert store.metadata["parameters"]["ignore"] == entry["ignore"]
        assert all((store.mask(one.index)[10:40, 10:50] == 255).all() for one in store.micrographs)
        scores.append((folder / "run" / "evaluation" / "source" / "images.csv").read_text())
        assert f",{100 * 90 - 30 * 40}," not in scores[-1]
        rows = [
            dict(zip(scores[-1].split()[0].split(","), row.split(","), strict=True)) for row in scores[-1].split()[1:]
        ]
        assert all(sum(int(row[key]) for key in ("tp", "fp", "fn", "tn")) == 100 * 90 - 30 * 40 for row in rows)
    assert scores[0] == scores[1]


def test_swapped_values_are_warned_of_and_the_contact_sheet_is_tinted(tmp_path):
    folder = tmp_path / "source"
    draw(folder, 4, seed=1, contrast=1.0)
    for number in range(4):
        mask = np.zeros((100, 90), np.uint8)
        mask[:, : 25 + number] = 255
        cv2.imwrite(str(folder / "masks" / f"m{number}.png"), 255 - mask if number == 2 else mask)
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=annotated("source", folds=2)))
    call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    status, printed = call(f"verify {tmp_path / 'stores'}")
    lines = [line for line in printed.splitlines() if "values swapped?" in line]
    assert status == 0 and len(lines) == 1 and "'m2'" in lines[0]
    store = Store(store_path(tmp_path / "stores", "source"))
    draw_contact_sheet([store], tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png")).astype(int)
    assert np.mean(sheet[..., 1] - sheet[..., 2] > 25) > 0.02  # green, where only outlines were yellow


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")
def test_real_white_is_zero_masks():
    found = read_mask(CASES / "files" / "nist_steel_boundaries_inverting_lut.tif", Values((255,), (0,)))
    assert phase_fraction(found) == pytest.approx(0.107, abs=0.001)
    found = read_mask(CASES / "imagej_inverting_lut_mask/sem/masks/a0.tif", Values((255,), (0,)))
    assert phase_fraction(found) == pytest.approx(0.4, abs=0.001)
