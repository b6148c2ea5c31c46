"""Image files with several pages, odd depths and orientations; patterns of files, and tables of micrographs."""

import json
import os
import pty
import subprocess
import tomllib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from bad_input import call
from conftest import ROOT, annotated, command, domains_toml, draw, unannotated
from microscope_files import fei, olympus, packed, zeiss
from PIL import Image

from common.errors import InputError
from data.domains import _DOMAIN as KEYS
from data.domains import _OPTIONS as OPTIONS
from data.domains import read_domains
from data.images import brightest, read_image
from data.store import Store, store_path
from data.survey import Given
from data.table import read_table
from evaluation.members import load_member
from evaluation.segment_folder import _depth as depth_of_folder
from models import classes

GREY = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
OTHER = 255 - GREY
CASES = ROOT.parent / "shared" / "cases"
SMALL = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}


def prepared(folder, ok=True, **domains):
    """Prepare domains; their stores by name, or without `ok` what is said."""
    (folder / "domains.toml").write_text(domains_toml(SMALL, **domains))
    status, printed = call(f"prepare {folder / 'domains.toml'} --out {folder / 'stores'} --force --yes")
    assert (status == 0) == ok, printed
    return {name: Store(store_path(folder / "stores", name)) for name in domains} if ok else printed


# ---- pages --------------------------------------------------------------------------------------------------------


def _two_detectors(path):
    zeiss(path, GREY, 5.0)
    tifffile.imwrite(path, OTHER, append=True, photometric="minisblack", metadata=None)


def _preview_first(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.dstack([OTHER[::4, ::4]] * 3), photometric="rgb", metadata=None)
        tiff.write(GREY, photometric="minisblack", metadata=None)


def _imagej_slices(path):
    """As above 4 GB: several slices behind one directory."""
    tifffile.imwrite(path, np.stack([GREY, OTHER]), imagej=True)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].offset + 2 + 12 * len(tiff.pages[0].tags)
    content = bytearray(path.read_bytes())
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)


def _channels(path):
    tifffile.imwrite(path, np.dstack([GREY, OTHER, OTHER]), photometric="minisblack", planarconfig="contig")


@pytest.mark.parametrize(("write", "pages"), [
    (lambda path: olympus(path, GREY, 5.0), {"image": GREY, 2: GREY}),
    (_two_detectors, {1: GREY, 2: OTHER, "image": GREY}),
    (_preview_first, {2: GREY, "image": GREY, "largest": GREY}),
    (_imagej_slices, {1: GREY, 2: OTHER}),
    (_channels, {1: GREY, 2: OTHER}),
    (lambda path: tifffile.imwrite(path, np.stack([GREY, OTHER]), ome=True, photometric="minisblack"),
     {1: GREY, 2: OTHER}),
])  # fmt: skip
def test_a_page_is_chosen_and_several_are_named(tmp_path, write, pages):
    write(tmp_path / "a.tif")
    for page, expected in pages.items():
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", page=page), expected)
    with pytest.raises(InputError, match=r"[23] pages \(1: \d+ x \d+ uint8.*, 2: 56 x 40 uint.*give `page`"):
        read_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match="page = 9 names none"):
        read_image(tmp_path / "a.tif", page=9)


def test_slices_without_end_are_not_counted(tmp_path):
    _imagej_slices(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    assert content.count(b"images=2\nchannels=2") == 1
    (tmp_path / "a.tif").write_bytes(content.replace(b"images=2\nchannels=2", b"images=99999999999\n"))
    with pytest.raises(InputError, match="32 or more pages"):
        read_image(tmp_path / "a.tif")


def test_channels_that_are_equal_are_one_picture_and_transparency_is_none(tmp_path):
    for layout, axis in (("contig", -1), ("separate", 0)):
        thrice = np.stack([GREY] * 3, axis=axis)
        tifffile.imwrite(tmp_path / "a.tif", thrice, photometric="minisblack", planarconfig=layout)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GREY)
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([GREY, OTHER]), photometric="minisblack", extrasamples=["unassalpha"]
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GREY)


def test_the_page_of_a_domain_is_in_its_store_and_in_its_models(tmp_path):
    draw(tmp_path / "source", 4, seed=1, contrast=1.0)
    for path in sorted((tmp_path / "source" / "images").iterdir()):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        tifffile.imwrite(path.with_suffix(".tif"), np.stack([255 - grey, grey]), photometric="minisblack")
        path.unlink()
    said = prepared(tmp_path, ok=False, source=annotated("source", folds=2))
    assert "m0.tif: 2 pages (1: 90 x 100 uint8, 2: 90 x 100 uint8)" in said
    store = prepared(tmp_path, source=annotated("source", folds=2, page=2))["source"]
    np.testing.assert_array_equal(store.image(3), grey)
    run = tmp_path / "run"
    train = f"train_supervised --experiment demo.supervised --data {tmp_path / 'stores'} --steps 2 --batch-size 2"
    assert call(f"{train} --workers 0 --run-dir {run}")[0] == 0
    segment = f"evaluate {run} --images {tmp_path / 'source' / 'images'} --device cpu --out {tmp_path}"
    assert call(f"{segment}/one")[0] == 0 and call(f"{segment}/other --page 1")[0] == 0
    one, other = (cv2.imread(str(tmp_path / name / "overlays" / "m3.png")).mean() for name in ("one", "other"))
    assert one != other
    status, printed = call(f"{segment}/none --page 0")
    assert status == 2 and "0 is not a number from 1" in printed


# ---- depth and orientation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_bits_of_a_sample_are_honoured(tmp_path, bits, white_is_zero):
    most = 2**bits - 1
    pixels = np.random.default_rng(bits).integers(0, most // 2 + 1, (24, 30))  # no pixel is the brightest there can be
    packed(tmp_path / "a.tif", pixels, bits, white_is_zero)
    shown = most - pixels if white_is_zero else pixels
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), shown * 255 / most, atol=0.51)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, bool])
def test_white_is_zero_at_every_type(tmp_path, kind):
    pixels = {bool: GREY > 99, np.float32: GREY / np.float32(255)}.get(
        kind, GREY.astype(kind) * (257 if kind == np.uint16 else 1)
    )
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite", software="scanner")
    expected = np.where(GREY > 99, 0, 255) if kind is bool else 255 - GREY
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


def test_one_depth_for_a_domain(tmp_path):
    """A camera of 14 bit in files of 16, one of them exposed a quarter as long."""
    (tmp_path / "source").mkdir()
    for name, factor in (("a", 60), ("b", 15), ("c", 4)):
        cv2.imwrite(str(tmp_path / "source" / f"{name}.png"), GREY.astype(np.uint16) * factor)
    cv2.imwrite(str(tmp_path / "source" / "eight.png"), GREY)
    entry = {"images": "source", "pixel_size_nm": 50}
    store = prepared(tmp_path, source=entry)["source"]
    assert store.metadata["parameters"]["depth"] == 14
    for index, factor in enumerate((60, 15, 4)):
        np.testing.assert_allclose(store.image(index), GREY * (factor * 255.0 / 16383), atol=0.51)
    np.testing.assert_array_equal(store.image(3), GREY)
    (tmp_path / "source" / "a.png").unlink()
    assert prepared(tmp_path, source=entry)["source"].metadata["parameters"]["depth"] == 12


def test_a_store_without_a_common_depth_is_kept_where_it_holds_the_same(tmp_path, monkeypatch):
    """As earlier versions wrote it."""
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    for path in sorted((tmp_path / "source" / "images").iterdir()):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16) * 257)
    from data import prepare

    real = prepare._parameters
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_parameters", lambda *given: {k: v for k, v in real(*given).items() if k != "depth"})
        assert "depth" not in prepared(tmp_path, source=annotated("source", folds=2))["source"].metadata["parameters"]
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=annotated("source", folds=2)))
    assert "up to date" in call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")[1]


def _turned(pixels, orientation):
    """Pixels as they are stored so that a viewer shows `pixels`: the inverse of what it does."""
    stored = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1], 5: lambda p: p.T,
        6: lambda p: np.rot90(p, 1), 7: lambda p: p[::-1, ::-1].T, 8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    return np.ascontiguousarray(stored[orientation](pixels))


@pytest.mark.parametrize("ending", ["tif", "png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_read_as_a_viewer_shows_it(tmp_path, orientation, ending):
    smooth = cv2.GaussianBlur(GREY, (0, 0), 5)
    path, stored = tmp_path / f"a.{ending}", _turned(smooth, orientation)
    if ending == "tif":
        tifffile.imwrite(path, stored, extratags=[(274, "H", 1, orientation, False)], photometric="minisblack")
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif, **({"quality": 100} if ending == "jpg" else {}))
    assert np.abs(read_image(path).astype(int) - smooth).max() <= 2


def test_a_turned_picture_and_its_mask_lie_on_each_other(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    plain = prepared(tmp_path, source=annotated("source", folds=2))["source"]
    before = plain.image(0), plain.mask(0)
    for part in ("images", "masks"):
        path = tmp_path / "source" / part / "m0.png"
        turned = _turned(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), 6)
        path.unlink()
        tifffile.imwrite(
            path.with_suffix(".tif"), turned, extratags=[(274, "H", 1, 6, False)], photometric="minisblack"
        )
    store = prepared(tmp_path, source=annotated("source", folds=2))["source"]
    np.testing.assert_array_equal(store.image(0), before[0])
    np.testing.assert_array_equal(store.mask(0), before[1])


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_picture_that_is_turned_without_its_mask_is_warned_of(tmp_path, part):
    """Or the mask without its picture. Where the sides differ, they do not fit."""
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    entry, path = annotated("source", folds=2), tmp_path / "source" / part / "m0.png"
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    path.unlink()
    for orientation in (1, 3, 6):
        extra = [(274, "H", 1, orientation, False)]
        tifffile.imwrite(path.with_suffix(".tif"), pixels, extratags=extra, photometric="minisblack")
        (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=entry))
        status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'} --force")
        assert (status == 0) == (orientation < 6) and ("has another orientation" in printed) == (orientation > 1)
        assert ("It lies on its side: one of the files is turned" in printed) == (orientation == 6)


# ---- patterns and tables --------------------------------------------------------------------------------------------


def test_images_may_be_a_pattern_and_what_is_left_is_said(tmp_path):
    for name in (
        "lom/a.tif",
        "lom/deep/b.tif",
        "lom/c.png",
        "lom/notes.txt",
        "lom/raw.czi",
        "lom/raw2.czi",
        "lom/.hidden",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, GREY) if path.suffix == ".tif" else path.write_bytes(cv2.imencode(".png", GREY)[1])
    for pattern, names, left in (
        ("lom/*.tif", ["a"], "1 folders with images"), ("lom/**/*.tif", ["a", "b"], "1 .png"),
        ("lom", ["a", "c"], "2 .czi"),
        ("lom/**/*", ["a", "b", "c"], "2 .czi"), ("lom/[ab].*", ["a"], "1 .png"),
    ):  # fmt: skip
        (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source={"images": pattern, "pixel_size_nm": 50}))
        status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'} --force --yes")
        assert status == 0, printed
        (remark,) = [line for line in printed.splitlines() if "not taken from" in line]
        assert left in remark and "2 .czi" in remark and "1 .txt" in remark and "hidden" not in remark
        store = Store(store_path(tmp_path / "stores", "source"))
        assert sorted(one.name for one in store.micrographs) == names
    said = prepared(tmp_path, ok=False, source={"images": "lom/*.jpg", "pixel_size_nm": 50})
    assert "domains.source.images" in said and "lom/*.jpg" in said
    said = prepared(tmp_path, ok=False, source={"images": "lim/*.tif", "pixel_size_nm": 50})
    assert "no folder" in said and "lim" in said


def test_a_pattern_below_a_folder_with_brackets_in_its_name(tmp_path):
    draw(tmp_path / "[2024]-study" / "lom", 2, seed=1, contrast=1.0)
    entry = {"images": "lom/im*/*.png", "masks": "lom/../lom/masks", "foreground": [255], "pixel_size_nm": 50}
    store = prepared(tmp_path / "[2024]-study", source=entry)["source"]
    assert [one.labelled for one in store.micrographs] == [True, True]


def test_a_folder_of_a_pattern_may_have_brackets(tmp_path):
    """Also where the brackets would name another folder, or the rest of the path is not there."""
    for folder, names in (("run [1]", "ab"), ("run 1", "z")):
        (tmp_path / folder / "deep").mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(tmp_path / folder / "deep" / f"{name}.png"), GREY)
    for pattern, names in (
        ("run [1]/deep/[a].png", ["a"]), ("run [1]/**/*.png", ["a", "b"]), ("run [12]/deep/*.png", ["z"]),
    ):  # fmt: skip
        store = prepared(tmp_path, source={"images": pattern, "pixel_size_nm": 50})["source"]
        assert [one.name for one in store.micrographs] == names
    said = prepared(tmp_path, ok=False, source={"images": "run [1]/nowhere", "pixel_size_nm": 50})
    assert "no folder" in said and "run [1]/nowhere" in said


@pytest.mark.parametrize("line", [
    "images = '.\\source\\images'", 'images = "source\\new"', 'images = "C:\\source"', 'images = "C:\\Users\\me"',
])  # fmt: skip
def test_a_path_with_backslashes_is_told_the_remedy(tmp_path, line):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    text = domains_toml(SMALL, source={"images": "source/images", "pixel_size_nm": 50})
    (tmp_path / "domains.toml").write_text(text.replace('images = "source/images"', line))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 2 and "forward slashes" in printed and len(printed.strip().splitlines()) == 1


def test_the_case_of_a_suffix_makes_no_micrograph_of_a_mask(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    images, masks = (tmp_path / "source" / part for part in ("images", "masks"))
    (masks / "m0.png").rename(images / "m0_Mask.PNG")
    (masks / "m1.png").rename(images / "m1_mask.png")
    entry = annotated("source", masks="source/images", mask_suffix="_mask")
    store = prepared(tmp_path, source=entry)["source"]
    assert [(one.name, one.labelled) for one in store.micrographs] == [("m0", True), ("m1", True)]
    (images / "m1_MASK.png").write_bytes((images / "m1_mask.png").read_bytes())
    assert "m1_MASK.png is a mask of this image too" in prepared(tmp_path, ok=False, source=entry)


def test_odd_masks_are_warned_of(tmp_path):
    """A mask among the images, one that is all ignored, and one that the table gives to two."""
    draw(tmp_path / "source", 3, seed=1, contrast=1.0)
    images, masks = (tmp_path / "source" / part for part in ("images", "masks"))
    (images / "stray.png").write_bytes((masks / "m2.png").read_bytes())
    cv2.imwrite(str(masks / "m1.png"), np.full((100, 90), 77, np.uint8))
    (masks / "m2.png").unlink()
    (tmp_path / "table.csv").write_text("name,mask\nm2,source\\masks\\..\\masks\\m0.png\n")
    entry = annotated("source", micrographs="table.csv", ignore=[77])
    for scale in (1.0, 0.5):
        (tmp_path / "domains.toml").write_text(domains_toml(SMALL | {"scale": scale}, source=entry))
        status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'} --force")
        others = printed.count("warning") - printed.count("mirror them")
        assert status == 0 and "m0.png is the mask of 'm0' and of 'm2'" in printed and others == 1
        status, printed = call(f"verify {tmp_path / 'stores'}")
        lines = [line for line in printed.splitlines() if line.startswith("warning")]
        assert status == 0 and len(lines) == 3 and "m0, m2: have one mask" in printed, printed
        assert "mask of 'm1' is all ignored" in printed and "'stray' has 4 grey levels or fewer" in printed


def test_one_folder_by_two_paths_is_one(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    for number in range(2):
        masks = tmp_path / "source" / "masks" / f"m{number}.png"
        masks.rename(tmp_path / "source" / "images" / f"m{number}_label.png")
    entry = annotated("source", masks="source/masks/../images")
    assert "mask_suffix is needed" in prepared(tmp_path, ok=False, source=entry)
    store = prepared(tmp_path, source=entry | {"mask_suffix": "_label"})["source"]
    assert [(one.name, one.labelled) for one in store.micrographs] == [("m0", True), ("m1", True)]


def test_masks_beside_the_images_may_be_a_pattern(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    for number in range(2):
        (tmp_path / "source" / "masks" / f"m{number}.png").rename(
            tmp_path / "source" / "images" / f"m{number}_label.png"
        )
    entry = {"images": "source/images/*.png", "masks": "source/images/*_label.png", "mask_suffix": "_label"}
    store = prepared(tmp_path, source=annotated("source", folds=2) | entry)["source"]
    assert [one.name for one in store.micrographs] == ["m0", "m1"] and all(one.labelled for one in store.micrographs)


TABLE = """\
name;pixel_size_nm;information_bar;test;fold;mask
m0;25,5;10;;0;
m1.png;file;file;;1;
m2;50;;yes;;
m3;;0;no;0;../extra/other.png
"""


def test_a_table_says_what_no_file_says(tmp_path):
    draw(tmp_path / "source", 5, seed=1, contrast=1.0)
    images = tmp_path / "source" / "images"
    fei(images / "m1.tif", cv2.imread(str(images / "m1.png"), cv2.IMREAD_GRAYSCALE), 100.0, 7)
    (images / "m1.png").unlink()
    (tmp_path / "source" / "extra").mkdir()
    (tmp_path / "source" / "masks" / "m3.png").rename(tmp_path / "source" / "extra" / "other.png")
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.encode())
    entry = annotated("source", micrographs="table.csv")
    store = prepared(tmp_path, source=entry)["source"]
    found = {one.name: (one.pixel_size_nm, one.information_bar, one.fold, one.test) for one in store.micrographs}
    assert found == {
        "m0": (25.5, 10, 0, False), "m1": (100, 7, 1, False), "m2": (50, 0, -1, True), "m3": (50, 0, 0, False),
        "m4": (50, 0, -1, False),
    }  # fmt: skip
    assert store.folds == 2 and all(one.labelled for one in store.micrographs)
    assert store.reference_pixel_size_nm == 50  # the middle one
    sizes = {one.name: (one.height, one.width) for one in store.micrographs}
    assert sizes["m0"] == (46, 46) and sizes["m1"] == (186, 180)
    (tmp_path / "table.csv").write_text(TABLE.replace("25,5", "26"))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 2 and "how they are read" in printed
    assert json.dumps(store.metadata)


@pytest.mark.parametrize(("table", "says"), [
    ("name,pixel\nm0,3", "column 'pixel' is unknown"), ("pixel_size_nm\n3", "no column 'name'"),
    ("name,pixel_size_nm\nm9,3", "line 2: 'm9' is no image"), ("name,test\nm0,1\nm0,1", "line 3: 'm0' is there twice"),
    ("name,pixel_size_nm\nm0,-3", "pixel_size_nm = '-3'"), ("name,pixel_size_nm\nm0,nan", "pixel_size_nm = 'nan'"),
    ("name,information_bar\nm0,1.5", "information_bar = '1.5'"), ("name,test\nm0,maybe", "test = 'maybe'"),
    ("name,page\nm0,0", "page = '0'"), ("name,fold\nm0,0\nm1,2", "without a gap"), ("name,fold\nm0,0", "without a gap"),
    ("name,test,fold\nm0,yes,0\nm1,,1", "has a fold, but"), ("name,mask\nm0,nowhere.png", "no such file"),
    ("name,test\nm0,1,2", "line 2 has 3 cells"), ("", "no column 'name'"),
])  # fmt: skip
def test_a_bad_table_is_named_with_line_and_value(tmp_path, table, says):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    (tmp_path / "table.csv").write_text(table)
    said = prepared(tmp_path, ok=False, source=annotated("source", micrographs="table.csv"))
    assert says in said and "table.csv" in said


@pytest.mark.parametrize("table", [
    "sep=;\r\nname;pixel_size_nm\r\nm0;12,5\r\n", "name;pixel_size_nm;;\r\nm0;12,5;;\r\n;;;\r\n",
    "name;pixel_size_nm;\nm0;12,5\n", 'sep=,\nname,pixel_size_nm\nm0,"12.5",\n',
])  # fmt: skip
def test_what_spreadsheets_add_to_a_table_is_passed_over(tmp_path, table):
    (tmp_path / "table.csv").write_text(table, newline="")
    assert read_table(tmp_path / "table.csv", ["m0"]) == {"m0": {"pixel_size_nm": 12.5}}
    (tmp_path / "table.csv").write_text(table.replace("m0", "m1"), newline="")
    with pytest.raises(InputError, match=f"line {2 + table.startswith('sep')}: 'm1' is no image"):
        read_table(tmp_path / "table.csv", ["m0"])


def test_a_table_of_all_pixel_sizes_needs_no_number_for_the_domain(tmp_path):
    draw(tmp_path / "source", 2, seed=1, contrast=1.0)
    (tmp_path / "domains.toml").write_text(
        domains_toml(SMALL, source={"images": "source/images", "micrographs": "table.csv"})
    )
    (tmp_path / "table.csv").write_text("name\tpixel_size_nm\nm0\t20\nm1\t40\n")
    options, _ = read_domains(tmp_path / "domains.toml")
    assert options.reference_pixel_size_nm == 20
    (tmp_path / "table.csv").write_text("name\tpixel_size_nm\nm0\t20\n")
    with pytest.raises(InputError, match="lacks the key 'pixel_size_nm'"):
        read_domains(tmp_path / "domains.toml")


def test_the_common_pixel_size_may_be_set(tmp_path):
    draw(tmp_path / "source", 1, seed=1, contrast=1.0)
    options = SMALL | {"pixel_size_nm": 25}
    (tmp_path / "domains.toml").write_text(domains_toml(options, source=unannotated("source")))
    assert call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")[0] == 0
    store = Store(store_path(tmp_path / "stores", "source"))
    assert (store.reference_pixel_size_nm, store.micrographs[0].height) == (25, 200)


# ---- sizes that are asked about -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nanometres", "size", "says"), [
    (9, (100, 90), "resized 0.18 times"), (210, (30, 30), "resized 4.2 times"),
    (190, (100, 90), "times as many a micrograph"),
    (45, (100, 90), None), (195, (20, 20), None), (50, (500, 600), None),
])  # fmt: skip
def test_odd_sizes_are_asked_about_before_anything_is_written(tmp_path, nanometres, size, says):
    draw(tmp_path / "source", 1, seed=1, contrast=1.0)
    draw(tmp_path / "lom", 1, seed=2, contrast=1.0, size=size)
    lom = unannotated("lom", pixel_size_nm=nanometres)
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=unannotated("source"), lom=lom))
    line = f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}"
    status, printed = call(line)
    assert (status == 0) == (says is None), printed
    if says:
        assert says in printed and "--yes" in printed and f"pixel_size_nm = {nanometres}" in printed
        assert [path.name for path in (tmp_path / "stores").iterdir()] == ["source.h5"]
        assert call(f"{line} --yes")[0] == 0 and "up to date" in call(line)[1]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_person_at_a_terminal_is_asked(tmp_path, answer):
    draw(tmp_path / "source", 1, seed=1, contrast=1.0)
    lom = unannotated("source", pixel_size_nm=500)
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL, source=unannotated("source"), lom=lom))
    ours, theirs = pty.openpty()
    line = command("-m", "data.prepare", tmp_path / "domains.toml", "--out", tmp_path / "stores")
    os.write(ours, f"{answer}\n".encode())
    ended = subprocess.run(line, cwd=ROOT, stdin=theirs, capture_output=True, text=True, timeout=100, check=False)
    os.close(ours), os.close(theirs)
    assert "resized 10 times" in ended.stdout and "Is it meant? [y/N]" in ended.stdout
    assert (ended.returncode == 0) == store_path(tmp_path / "stores", "lom").exists() == (answer == "y")


def test_segmentation_takes_the_depth_of_the_domain(tmp_path):
    """A dark micrograph of a 14-bit camera, alone in its folder, is as dark as among the others."""
    draw(tmp_path / "source", 4, seed=1, contrast=1.0)
    for number, path in enumerate(sorted((tmp_path / "source" / "images").iterdir())):
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
        cv2.imwrite(str(path), grey * (64, 64, 64, 15)[number])
    store = prepared(tmp_path, source=annotated("source", folds=2))["source"]
    train = f"train_supervised --experiment demo.supervised --data {tmp_path / 'stores'} --steps 2 --batch-size 2"
    status, printed = call(f"{train} --workers 0 --run-dir {tmp_path / 'run'}")
    assert status == 0, printed
    (tmp_path / "new").mkdir()
    (tmp_path / "source" / "images" / "m3.png").rename(tmp_path / "new" / "m3.png")
    status, printed = call(
        f"evaluate {tmp_path / 'run'} --images {tmp_path / 'new'} --device cpu --out {tmp_path / 'out'}"
    )
    assert status == 0, printed
    member = load_member(tmp_path / "run", "last", "cpu")
    assert member.preparation["native"]["depth"] == 14
    found = classes(member.predictor("cpu")(store.image(3)))
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "m3.png"), cv2.IMREAD_GRAYSCALE)
    assert np.mean(mask // 255 == found) > 0.99


def test_a_folder_has_one_depth_when_it_is_segmented(tmp_path, capsys):
    """That of the training domain, or of its own camera where the domain had none of 16 bit, or fewer."""
    asked = {}
    for name, most in (("a", 1000), ("b", 400)):
        grey = np.random.default_rng(0).integers(0, most, (40, 50)).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"{name}.png"), grey)
        asked[tmp_path / f"{name}.png"] = (name, None, Given(50.0, 0, "--pixel-size", "--information-bar"))
    asked[tmp_path / "broken.png"] = asked[tmp_path / "a.png"]
    (tmp_path / "broken.png").write_bytes(b"")

    def depth(learnt):
        return depth_of_folder(asked, [SimpleNamespace(run="run", preparation={"native": {"depth": learnt}})])

    assert [depth(learnt) for learnt in (None, 8, 12)] == [10, 10, 12]
    assert "fill 10 bits, and the model's training domain 8" in capsys.readouterr().err
    grey[3, 4] = 65535
    cv2.imwrite(str(tmp_path / "b.png"), grey)
    assert depth(None) == 10 and "b.png: 1 pixels are far brighter" in capsys.readouterr().err
    assert depth(16) == 16
    said = capsys.readouterr().err
    assert "far brighter" not in said and "a.png (and 1 other files): its brightest" in said


@pytest.mark.parametrize("odd", ["hot pixel", "bar"])
def test_a_hot_pixel_and_a_bar_do_not_change_the_depth(tmp_path, capsys, odd):
    """Of a camera of 12 bit. What is cut off does not count at all, and what is far above all else is told of."""
    specimen = np.random.default_rng(0).integers(200, 4000, (2, 60, 50)).astype(np.uint16)
    (tmp_path / "lom").mkdir()
    for number, image in enumerate(specimen):
        if number and odd == "bar":
            image = np.vstack([image, np.full((9, 50), 65535, np.uint16)])
        elif number:
            image[30, 20] = 65535
        else:
            image = np.vstack([image, image[:9]]) if odd == "bar" else image
        cv2.imwrite(str(tmp_path / "lom" / f"m{number}.png"), image)
    lom = {"images": "lom", "pixel_size_nm": 50, "information_bar": 9 if odd == "bar" else 0}
    (tmp_path / "domains.toml").write_text(domains_toml(SMALL | {"reference": "lom"}, lom=lom))
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 0 and ("lom/m1.png: 1 pixels are far brighter" in printed) == (odd == "hot pixel")
    store = Store(store_path(tmp_path / "stores", "lom"))
    assert store.metadata["parameters"]["depth"] == 12
    for number, image in enumerate(specimen):
        np.testing.assert_array_equal(store.image(number), np.rint(np.minimum(image, 4095) * (255 / 4095)))


@pytest.mark.parametrize(("levels", "lone", "found"), [
    ((0, 900), (), 10), ((0, 900), (5000,), 10), ((0, 900), (1500, 5000, 30000), 15), ((0, 9), (300,), 9),
])  # fmt: skip
def test_a_bright_tail_is_no_defect(tmp_path, levels, lone, found):
    """Lone pixels are those with nothing between them and the others. found: bits of the brightest that is none."""
    pixels = np.random.default_rng(0).integers(*levels, (60, 50)).astype(np.uint16)
    pixels.flat[: len(lone)] = lone
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    assert 2 ** (found - 1) <= brightest(tmp_path / "a.png").scanned < 2**found


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")
def test_real_files_of_odd_depth(tmp_path):
    found = read_image(CASES / "files" / "hopper_gray_4bpp.tif")
    assert (found.min(), found.max()) == (17, 221)
    found = read_image(CASES / "files" / "12bit_white_is_zero.tiff")
    assert (found.min(), found.max()) == (0, 16)


def test_the_page_on_data_has_every_key_and_no_other():
    page = (ROOT / "docs" / "data_format.md").read_text(encoding="utf-8")
    blocks = [tomllib.loads(part.partition("```")[0]) for part in page.split("```toml\n")[1:]]
    shown = {"options": set(), "domains": set()}
    for block in blocks:
        shown["options"] |= block.get("options", {}).keys()
        for entry in block["domains"].values():
            shown["domains"] |= entry.keys()
    assert shown == {"options": set(OPTIONS), "domains": set(KEYS)} and len(blocks) > 8
