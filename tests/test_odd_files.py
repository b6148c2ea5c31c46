"""Files that a laboratory has and that were once read wrongly without a word."""

import zipfile

import numpy as np
import pytest
import roifile
import tifffile
from conftest import draw
from microscope_files import zeiss
from PIL import Image
from test_pairs import prepared, warnings

from common.errors import InputError
from data.annotations.shapes import draw as pixels_of
from data.annotations.shapes import rectangle
from data.decoding import decode
from data.headers import read_header
from data.images import brightest, read_image
from data.levels import has_few_levels
from data.mask_readings import Values
from data.masks import read_mask

GREY = np.random.default_rng(0).normal(120, 30, (96, 80)).clip(0, 255).astype(np.uint8)
TWO = Values((1,), (0,))


def test_white_is_zero_is_inverted_at_the_depth_of_the_camera(tmp_path):
    """Twelve bits in a file of sixteen, as of a camera with an inverted lookup table; sixteen stay as they were."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, 4080 - GREY.astype(np.uint16) * 16, photometric="miniswhite")
    assert brightest(path).level < 4096
    assert np.abs(read_image(path, 12) - GREY.astype(float)).max() <= 1 and read_image(path, 12).std() > 25
    tifffile.imwrite(path, 65535 - GREY.astype(np.uint16) * 257, photometric="miniswhite")
    assert np.array_equal(read_image(path), GREY)


def test_what_a_file_does_not_say_is_not_inverted(tmp_path):
    """Without its tag, tifffile takes a TIFF for white at zero."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY)
    content = path.read_bytes()
    tag = (262).to_bytes(2, "little") + (3).to_bytes(2, "little")
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag, (65000).to_bytes(2, "little") + tag[2:]))
    assert np.array_equal(read_image(path), GREY)


def test_parts_that_were_never_written_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(GREY, (2, 2)), tile=(64, 64), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages[0].tags
        for code in (324, 325):
            tags[code].overwrite([0, *tags[code].value[1:]])
    with pytest.raises(InputError, match="1 of its 9 parts were never written"):
        read_image(path)


def test_a_lone_page_counts_though_it_calls_itself_reduced(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "a.tif"), GREY)


def test_transparent_numbers_of_a_mask_are_told_of(tmp_path, capsys):
    """Of a palette, and of grey: the colour beneath is not seen, and counts."""
    phase = GREY > 120
    palette = Image.fromarray(phase.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 255, 0, 0])
    for image, values in (
        (palette, Values((0,), (1,))),
        (Image.fromarray(np.where(phase, 0, 9).astype(np.uint8)), TWO),
    ):
        image.save(tmp_path / "a.png", transparency=0 if image is palette else 9)
        assert np.array_equal(decode(tmp_path / "a.png", numbers=True).hidden, phase ^ True)
        read_mask(tmp_path / "a.png", values if image is palette else Values((9,), (0,)))
        assert f"{np.count_nonzero(~phase)} transparent pixels are of a phase" in capsys.readouterr().err
        image.save(tmp_path / "a.png")
        assert decode(tmp_path / "a.png", numbers=True).hidden is None


def test_a_mask_of_numbers_beyond_a_sign_is_refused_by_name(tmp_path):
    mask = np.where(GREY > 120, 1, 0).astype(np.int64)
    mask[0] = -1
    tifffile.imwrite(tmp_path / "a.tif", mask.astype(np.uint64))
    for values in (TWO, Values((1,), None)):
        with pytest.raises(InputError, match="18446744073709551615 is beyond 64 bit with a sign; where -1 was meant"):
            read_mask(tmp_path / "a.tif", values)


def test_a_damaged_source_does_not_hide_another(tmp_path):
    """SmartSEM's tag is whole, and the OME description is no XML."""
    zeiss(tmp_path / "a.tif", GREY, 5.0, description="<OME a=></OME>")
    assert read_header(tmp_path / "a.tif").pixel_size_nm == pytest.approx(5)


def test_what_macos_packs_beside_outlines_is_none(tmp_path):
    roi = roifile.ImagejRoi.frompoints([(10, 10), (50, 10), (50, 40)])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.roi", roi.tobytes())
        archive.writestr("__MACOSX/._one.roi", b"\x00\x05\x16\x07" + bytes(60))
    assert read_mask(tmp_path / "a.zip", Values(None, (0,)), GREY.shape).any()


def test_rounded_corners_are_cut(tmp_path):
    area = pixels_of(rectangle("a", 10, 10, 70, 50, arc=40), GREY.shape)[1].sum()
    assert area == pytest.approx(60 * 40 - (4 - np.pi) * 20**2, rel=0.01)
    assert pixels_of(rectangle("a", 10, 10, 70, 50, arc=400), GREY.shape)[1].sum() == pytest.approx(
        np.pi * 600, rel=0.01
    )


@pytest.fixture
def four(tmp_path):
    draw(tmp_path / "source", 4, seed=7, contrast=1.0)
    return tmp_path


def test_a_fold_that_a_table_leaves_open_is_drawn(four):
    (four / "t.csv").write_text("name,fold\nm0,0\nm1,1\nm2,\nm3,\n")
    entry = {"foreground": [255], "micrographs": "t.csv"}
    store, printed = prepared(four, folds=2, **entry)
    assert sorted(one.fold for one in store.micrographs) == [0, 0, 1, 1] and not warnings(printed)
    store, printed = prepared(four, **entry)
    (said,) = warnings(printed)
    assert [one.fold for one in store.micrographs][2:] == [-1, -1] and "no fold for 2 annotated micrographs (m2" in said


def test_a_table_that_contradicts_the_test_set_is_refused(four):
    (four / "t.csv").write_text("name,test\nm0,no\n")
    printed = prepared(four, ok=False, foreground=[255], micrographs="t.csv", test=["m0"])[1]
    assert "test = 'm0'" in printed.replace('"', "'") and "t.csv says that it is none" in printed


def test_values_of_the_background_are_asked_for_where_the_default_is_in_the_way(four):
    printed = prepared(four, ok=False, foreground=[0])[1]
    assert "0 is foreground too; this is the default, so list the values of `background` too" in printed


def test_a_mask_among_micrographs_is_known_by_its_levels():
    assert has_few_levels(np.where(GREY > 120, 255, 0).astype(np.uint8)) and not has_few_levels(GREY)
