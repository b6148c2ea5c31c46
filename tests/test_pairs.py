"""Images and their masks: by name, by a table, and what belongs to none."""

import json
import shutil

import cv2
import numpy as np
import pytest
import roifile
from bad_input import call
from conftest import annotated, domains_toml, draw
from microscope_files import ome
from test_annotations import FILE, labelme, via

from data.store import Store, store_path

SMALL = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}
SIZE = (100, 90)
SQUARE = [("phase", [(9, 9), (60, 70)], "rectangle")]


def prepared(folder, ok=True, **entry):
    """Prepare a domain of the drawn micrographs: its store, and what was printed."""
    entry = {"images": "source/images", "masks": "source/masks", "pixel_size_nm": 50} | entry
    (folder / "domains.toml").write_text(domains_toml(SMALL, source={k: v for k, v in entry.items() if v is not None}))
    status, printed = call(f"prepare {folder / 'domains.toml'} --out {folder / 'stores'} --force")
    assert (status == 0) == ok, printed
    return (Store(store_path(folder / "stores", "source")) if ok else None), printed


def warnings(printed):
    return [line for line in printed.splitlines() if line.startswith("warning")]


@pytest.fixture
def masks(tmp_path):
    """The folder of the masks of four drawn micrographs, empty."""
    draw(tmp_path / "source", 4, seed=7, contrast=1.0)
    for file in (tmp_path / "source" / "masks").iterdir():
        file.unlink()
    return tmp_path / "source" / "masks"


def test_outlines_that_belong_to_no_image_are_named_and_other_files_counted(tmp_path, masks):
    for name in ("m0", "M1", "m2 (1)"):
        labelme(masks / name, SQUARE, SIZE).rename(masks / f"{name}.json")
    cv2.imwrite(str(masks / "m0.png"), np.full(SIZE, 255, np.uint8))  # made of the outlines, which are no stray
    np.save(masks / "m3.npy", np.zeros(SIZE))
    (masks / "m2.gif").write_bytes(b"GIF")
    store, printed = prepared(tmp_path, foreground=[255])
    assert [one.labelled for one in store.micrographs] == [True, False, False, False]
    (said,) = warnings(printed)
    assert "belongs to M1.json (nor to 1 others); check names" in said
    assert "remark" in printed and "masks: not taken from" in printed and "1 .npy" in printed and "1 .gif" in printed
    for file in masks.glob("*[!0].*"):
        file.unlink()
    assert "source.masks" not in prepared(tmp_path, foreground=[255])[1]


def test_outlines_that_were_drawn_on_another_image_are_told_of(tmp_path, masks):
    """LabelMe names the image; a name that no image has, as of a renamed one, is nothing."""
    for name, path in (("m0", "m1.png"), ("m1", "..\\images\\m0.tif"), ("m2", "../images/m2.jpg"), ("m3", FILE)):
        file = labelme(masks / name, SQUARE, SIZE)
        file.write_text(json.dumps(json.loads(file.read_text()) | {"imagePath": path}))
    _, printed = prepared(tmp_path)
    assert len(warnings(printed)) == 2, printed
    for name, other in (("m0", "m1"), ("m1", "m0")):
        assert f"{name}.json: is the mask of '{name}' by its name, and was drawn on '{other}'" in printed


@pytest.mark.parametrize("ending", ["zip", "roi"])
def test_rois_of_one_image_are_to_be_renamed(tmp_path, masks, ending):
    roi = roifile.ImagejRoi.frompoints(np.array([(9, 9), (60, 9), (60, 70)], np.float32), name="phase")
    roifile.roiwrite(masks / f"RoiSet.{ending}", [roi] if ending == "zip" else roi)
    for place in ("source/masks", f"source/masks/RoiSet.{ending}"):
        printed = prepared(tmp_path, ok=False, masks=place)[1]
        assert "of one image" in printed and f"rename it, as m0.{ending}" in printed
    (masks / f"RoiSet.{ending}").rename(masks / f"m0.{ending}")
    assert prepared(tmp_path)[0].mask(0).any()


def test_masks_that_a_table_names_are_no_micrographs(tmp_path, masks):
    """Among the images, or in the masks' folder by names of their own."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :40] = 255
    cv2.imwrite(str(masks.parent / "images" / "m0_gt.png"), mask)
    cv2.imwrite(str(masks / "other.png"), mask)
    table = tmp_path / "table.csv"
    table.write_text("name;mask\nm0;source/images/m0_gt.png\nm0_gt;\nm1;other.png\n")
    store, printed = prepared(tmp_path, foreground=[255], micrographs="table.csv")
    assert [(one.name, one.labelled) for one in store.micrographs] == [
        ("m0", True), ("m1", True), ("m2", False), ("m3", False),
    ]  # fmt: skip
    assert all(np.array_equal(store.mask(number), mask > 0) for number in (0, 1)) and not warnings(printed)
    for row in ("m0;source/images/m0.png\n", "m0;source/images/m1.png\nm1;other.png\n"):
        table.write_text(f"name;mask\n{row}")
        _, printed = prepared(tmp_path, ok=False, foreground=[255], micrographs="table.csv")
        assert "table.csv: mask = 'source/images/m" in printed and "itself; name the mask" in printed
    table.write_text("name;mask\nm0;source/images/m0_gt.png\n")
    assert prepared(tmp_path, foreground=[255], masks=None, micrographs="table.csv")[0].mask(0).any()


def test_numbers_of_a_table_as_pandas_and_spreadsheets_write_them(tmp_path):
    draw(tmp_path / "source", 4, seed=7, contrast=1.0)
    table = tmp_path / "table.csv"
    table.write_text("name,pixel_size_nm,information_bar,fold\nm0,50.0,6.0,0.0\nm1,,,1.0\n")
    entry = annotated("source", micrographs="table.csv")
    store, _ = prepared(tmp_path, **entry)
    assert [(one.information_bar, one.fold) for one in store.micrographs] == [(6, 0), (0, 1), (0, -1), (0, -1)]
    for text, point in (('name,pixel_size_nm\nm0,"12,5"\n', True), ("name;pixel_size_nm\nm0;1.250,5\n", False)):
        table.write_text(text)
        printed = prepared(tmp_path, ok=False, **entry)[1]
        assert "pixel_size_nm = '" in printed and ("decimals have a point" in printed) == point


def test_one_name_in_several_folders_gets_the_folders_names(tmp_path):
    """As numbered by a microscope anew for each specimen; masks beside them, or in folders of their own."""
    for specimen, seed in (("A", 1), ("B", 2)):
        draw(tmp_path / specimen, 2, seed=seed, contrast=1.0)
    rows = ("A/images/m0.png,0", "A/m1,0", "lom\\B\\m0.png,1", "B_m1,1")
    (tmp_path / "table.csv").write_text("\n".join(["name,fold", *rows]))
    places = {"images": "*/images/*.png", "masks": "**/masks/*.png", "foreground": [255], "micrographs": "table.csv"}
    store, printed = prepared(tmp_path, **places)
    assert [(one.name, one.fold, one.labelled) for one in store.micrographs] == [
        ("A_m0", 0, True), ("A_m1", 0, True), ("B_m0", 1, True), ("B_m1", 1, True)
    ]  # fmt: skip
    assert "several folders have an image m0" in printed and "A_m0, B_m0" in printed
    for one in store.micrographs:
        specimen, _, name = one.name.partition("_")
        mask = cv2.imread(str(tmp_path / specimen / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(store.mask(one.index), mask // 255)
    (tmp_path / "table.csv").write_text("name,fold\nC/m0.png,0\n")
    assert "'C/m0.png' is no image of the domain" in prepared(tmp_path, ok=False, **places)[1]
    places |= {"micrographs": None, "test": ["A/m0", "B_m0"]}
    (tmp_path / "table.csv").unlink()
    assert [one.name for one in prepared(tmp_path, **places)[0].micrographs if one.test] == ["A_m0", "B_m0"]
    beside = {"images": "*/*.png", "masks": "*/*.png", "mask_suffix": "_mask", "test": []}
    for specimen in "AB":
        for kind, end in (("images", ""), ("masks", "_mask")):
            for number in range(2):
                shutil.copy(tmp_path / specimen / kind / f"m{number}.png", tmp_path / specimen / f"m{number}{end}.png")
    assert all(one.labelled for one in prepared(tmp_path, **places | beside)[0].micrographs)
    (tmp_path / "A/images/m0.jpg").write_bytes(b"")
    assert "m0.jpg has the same name" in prepared(tmp_path, ok=False, **places | {"images": "*/images/*"})[1]


def outlined(path, program):
    """Write a file of a program that annotates m0.png."""
    program(path)
    path.write_text(path.read_text().replace(FILE, "m0.png").replace("60", "100").replace("80", "90"))


@pytest.mark.parametrize("program", [labelme, via])
def test_outlines_are_found_by_the_folders_names_too(tmp_path, program):
    for specimen, seed in (("A", 1), ("B", 2)):
        draw(tmp_path / "images" / specimen, 1, seed=seed, contrast=1.0)
        (tmp_path / "outlines" / specimen).mkdir(parents=True)
        outlined(tmp_path / "outlines" / specimen / "m0.json", program)
    store, printed = prepared(tmp_path, images="images/*/images/*", masks="outlines/*/*.json")
    assert [(one.name, one.labelled) for one in store.micrographs] == [("A_m0", True), ("B_m0", True)]
    assert not warnings(printed) and store.mask(0).any()


def test_the_mask_of_an_ome_tiff_needs_no_ome_in_its_name(tmp_path, masks):
    for number in range(4):
        image = tmp_path / "source" / "images" / f"m{number}.png"
        ome(image.with_name(f"m{number}.ome.tif"), cv2.imread(str(image), cv2.IMREAD_GRAYSCALE), 50)
        image.unlink()
        name = f"m{number}.png" if number < 2 else f"m{number}.ome.png"
        cv2.imwrite(str(masks / name), np.full(SIZE, 255, np.uint8))
    store, _ = prepared(tmp_path, foreground=[255], pixel_size_nm="file")
    assert [(one.name, one.labelled) for one in store.micrographs] == [(f"m{n}.ome", True) for n in range(4)]
    for file in masks.iterdir():
        file.unlink()
    for program in (labelme, via):
        outlined(masks / "m0.json", program)
        store, printed = prepared(tmp_path, pixel_size_nm="file")
        assert [one.labelled for one in store.micrographs] == [True] + 3 * [False] and not warnings(printed)


def test_what_stands_in_place_of_masks_or_of_a_folder_is_said(tmp_path, masks):
    (masks / "m0.geojson").write_text("{}")
    assert f"no mask in {masks}, only 1 .geojson; add some" in prepared(tmp_path, ok=False)[1]
    said = prepared(tmp_path, ok=False, images="source/images/m0.png")[1]
    assert "m0.png', but a file; give its folder, or a pattern" in said
    (tmp_path / "table.csv").write_bytes(b"PK\x03\x04\xff")
    assert "table.csv: a spreadsheet; export it as CSV" in prepared(tmp_path, ok=False, micrographs="table.csv")[1]


def test_what_stands_in_place_of_the_images_is_said(tmp_path, masks):
    for name in ("m0", "m4"):
        cv2.imwrite(str(masks / f"{name}.png"), np.full(SIZE, 255, np.uint8))
    (tmp_path / "source/images/m4.webp").write_bytes(b"RIFF")
    assert "m4.webp is no image that can be read" in prepared(tmp_path, ok=False, foreground=[255])[1]
    printed = prepared(tmp_path, ok=False, images="source", masks=None)[1]
    assert "only 2 folders with images; add some" in printed and "pattern" not in printed, "it would take the masks too"
    printed = prepared(tmp_path, ok=False, images="source/**/*", masks=None)[1]
    assert "has the same name" in printed, "masks are no micrographs"
    (tmp_path / "source/masks").rename(tmp_path / "source/B")
    printed = prepared(tmp_path, ok=False, images="source", masks=None)[1]
    assert "only 2 folders with images; add some, or give a pattern: source/**/*" in printed


def test_a_pixel_smaller_than_an_atom_is_asked_about(tmp_path, masks):
    for size, odd in ((0.05, True), (0.3, False)):
        printed = prepared(tmp_path, masks=None, pixel_size_nm=size)[1]
        assert ("0.05 nm is smaller than an atom: is it in µm?" in printed) == odd
