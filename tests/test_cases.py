"""The shared cases that concern what files say: each comes out as its table says."""

import shutil

import cv2
import numpy as np
import pytest
from bad_input import call
from conftest import ROOT

from data.store import Store, store_path

CASES = ROOT.parent / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")


def prepared(tmp_path, case, *changes, ok=True):
    """Prepare and verify a case with texts of its domains.toml replaced: its stores by name, and what was printed."""
    folder = tmp_path / case
    shutil.copytree(CASES / case, folder)
    toml = folder / "domains.toml"
    for old, new in changes:
        toml.write_text(toml.read_text().replace(old, new))
    status, printed = call(f"prepare {toml} --out {folder / 'stores'}")
    assert (status == 0) == ok, printed
    if not ok:
        return {}, printed
    status, said = call(f"verify {folder / 'stores'}")
    assert status == 0, said
    return {path.stem: Store(path) for path in (folder / "stores").glob("*.h5")}, printed + said


def fraction(store):
    masks = np.concatenate([store.mask(one.index).ravel() for one in store.micrographs if one.labelled])
    return float((masks[masks != 255] == 1).mean())


def contrast(store):
    """Difference of grey between phase and background: large where the masks lie on what they annotate."""
    images, masks = (
        np.concatenate([read(one.index).ravel() for one in store.micrographs]) for read in (store.image, store.mask)
    )
    return images[masks == 1].mean() - images[masks == 0].mean()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("base"), "base")[0]["sem"]


@pytest.mark.parametrize("case", ["exif_rotated_180", "tiff_orientation"])
def test_turned_pictures_lie_under_their_masks(tmp_path, base, case):
    store = prepared(tmp_path, case)[0]["sem"]
    assert contrast(store) == pytest.approx(contrast(base), rel=0.05)


def test_inverting_tables(tmp_path):
    stores, printed = prepared(tmp_path, "imagej_inverting_lut_mask")
    assert fraction(stores["sem"]) == pytest.approx(0.4, abs=0.04) and "white is zero" in printed
    assert contrast(stores["sem"]) > 40


def test_one_depth(tmp_path):
    store = prepared(tmp_path, "sixteen_bit_one_dark")[0]["lom"]
    means = [store.image(one.index).mean() for one in store.micrographs]
    assert means[2] < 0.3 * means[0] and means[0] == pytest.approx(means[1], rel=0.1)


def test_slices_behind_one_directory(tmp_path):
    _, printed = prepared(tmp_path, "imagej_stack_one_ifd", ok=False)
    assert "3 pages (1: 120 x 100 uint8, 2:" in printed


@pytest.mark.parametrize(("case", "word"), [("jpeg_masks", "JPEG"), ("soft_borders_mask", "smooth")])
def test_soft_values(tmp_path, base, case, word):
    _, printed = prepared(tmp_path, case, ok=False)
    assert word in printed and "threshold = 128" in printed and '"rest"' not in printed
    store = prepared(tmp_path / "asked", case, ("foreground = [255]", "threshold = 128"))[0]["sem"]
    assert fraction(store) == pytest.approx(fraction(base), abs=0.01)


def test_ignored_values(tmp_path):
    _, printed = prepared(tmp_path, "ignore_label", ok=False)
    assert "255 (3000 px in a0.png, 3000 px in a1.png)" in printed and "`ignore`" in printed
    store = prepared(tmp_path / "asked", "ignore_label", ("foreground = [1]", "foreground = [1]\nignore = [255]"))[0][
        "sem"
    ]
    assert [np.count_nonzero(store.mask(n) == 255) for n in range(2)] == [3000, 3000]


def test_numbers_in_headers(tmp_path):
    _, printed = prepared(tmp_path, "pixel_size_in_header")
    (warning,) = [line for line in printed.splitlines() if "pixel_size_nm = 50" in line]
    assert "b0.tif" in warning and "5 nm" in warning and "domains.lom.pixel_size_nm = 50" in warning
    lom = '[domains.lom]\nimages = "lom/images"\npixel_size_nm = '
    store = prepared(tmp_path / "asked", "pixel_size_in_header", (f"{lom}50", f'{lom}"file"'))[0]["lom"]
    assert [(one.pixel_size_nm, one.height) for one in store.micrographs] == [(5, 10), (50, 100)]


def test_values_in_the_bar(tmp_path, base):
    store = prepared(tmp_path, "mask_with_bar")[0]["sem"]
    assert fraction(store) == pytest.approx(fraction(base), abs=0.04) and store.micrographs[0].height == 100


def test_many_fields(tmp_path):
    store = prepared(tmp_path, "many_fields_names")[0]["lom"]
    assert len({one.name for one in store.micrographs}) == len(store.micrographs) == 145


def test_outlines_and_real_files_become_a_store(tmp_path):
    (tmp_path / "via").mkdir()
    cv2.imwrite(str(tmp_path / "via" / "Sc1Tile_001-001-000_0-000.png"), np.full((1024, 1536), 90, np.uint8))
    shutil.copy(CASES / "files" / "zeiss_111.6nm_rgb_crop.tif", tmp_path)
    shutil.copy(CASES / "files" / "via_one_image.json", tmp_path)
    (tmp_path / "domains.toml").write_text(
        '[options]\nreference = "zeiss"\nscale = 1.0\n[domains.zeiss]\nimages = "*.tif"\npixel_size_nm = "file"\n'
        '[domains.via]\nimages = "via"\nmasks = "via_one_image.json"\npixel_size_nm = 111.6\n'
    )
    status, printed = call(f"prepare {tmp_path / 'domains.toml'} --out {tmp_path / 'stores'}")
    assert status == 0, printed
    assert Store(store_path(tmp_path / "stores", "zeiss")).micrographs[0].pixel_size_nm == 111.6
    assert 0.1 < fraction(Store(store_path(tmp_path / "stores", "via"))) < 0.9
