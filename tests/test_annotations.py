"""Outlines and label arrays of the usual programs are masks."""

import base64
import json
import zipfile

import cv2
import h5py
import numpy as np
import pytest
import roifile
import tifffile
from bad_input import call
from conftest import ROOT, domains_toml

from common.errors import InputError
from data.annotations.shapes import Shape, draw, ellipse, polygon, rectangle
from data.masks import Values, read_mask
from data.store import Store, store_path

SIZE = (60, 80)
SMALL = {"reference": "source", "scale": 1.0, "tile": 48, "overlap": 8}
CASES = ROOT.parent / "shared" / "cases"
TRIANGLE = [(10, 5), (70.5, 20), (30, 50.25)]
FILE = "a.png"


def expected(points=TRIANGLE, size=SIZE):
    """Pixels whose centre lies in a polygon, by the point test of OpenCV."""
    ring = np.float32(points)[:, None]
    rows, columns = np.indices(size)
    inside = [
        cv2.pointPolygonTest(ring, (x + 0.5, y + 0.5), False) for y, x in zip(rows.flat, columns.flat, strict=True)
    ]
    return np.reshape(inside, size) > 0


# ---- shapes ---------------------------------------------------------------------------------------------------------


def test_a_polygon_covers_the_pixels_whose_centre_lies_in_it():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = cv2.convexHull(rng.uniform((-15, -15), (95, 75), (12, 2)).astype(np.float32))[:, 0]
        part, inside = draw(polygon("x", points), SIZE)
        mask = np.zeros(SIZE, bool)
        mask[part] = inside
        assert np.count_nonzero(mask != expected(points)) <= 2  # centres on an edge


def test_areas_are_exact_whatever_the_size():
    for shape, area in (
        (rectangle("x", 3, 4, 13, 24), 200), (rectangle("x", 20, 20, 40, 30, 90), 200),
        (ellipse("x", 40, 30, 20, 10), 628.3), (ellipse("x", 40, 30, 20, 10, 45), 628.3),
        (rectangle("x", -10, -10, 5, 5), 25), (rectangle("x", 90, 90, 99, 99), 0),
    ):  # fmt: skip
        assert draw(shape, SIZE)[1].sum() == pytest.approx(area, abs=6)
    hole = polygon("x", [(0, 0), (40, 0), (40, 40), (0, 40)], [(10, 10), (20, 10), (20, 20), (10, 20)])
    assert draw(hole, SIZE)[1].sum() == 1500
    part, inside = draw(Shape("x", pixels=np.ones((20, 20), bool), corner=(50, -5)), SIZE)
    assert inside.shape == (10, 15) and part == (slice(50, 60), slice(0, 15))


# ---- programs -------------------------------------------------------------------------------------------------------


def labelme(path, shapes=(("phase", TRIANGLE, "polygon"),), size=SIZE):
    entries = [{"label": label, "points": points, "shape_type": kind} for label, points, kind in shapes]
    content = {"shapes": entries, "imagePath": FILE, "imageHeight": size[0], "imageWidth": size[1]}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path.with_suffix(".json")


def labelme_mask(path):
    mask = expected()
    corner = [[20, 10], [60, 45]]
    coded = base64.b64encode(cv2.imencode(".png", mask[10:46, 20:61] * 255)[1].tobytes()).decode()
    entry = {"label": "phase", "points": corner, "shape_type": "mask", "mask": coded}
    path.with_suffix(".json").write_text(json.dumps({"shapes": [entry], "imageHeight": 60, "imageWidth": 80}))
    return path.with_suffix(".json")


def via(path):
    x, y = zip(*TRIANGLE, strict=True)
    drawn = {"name": "polygon", "all_points_x": x, "all_points_y": y}
    regions = [{"shape_attributes": drawn, "region_attributes": {"Label": "phase"}}]
    content = {"_via_img_metadata": {"a.png123": {"filename": FILE, "size": 123, "regions": regions}}}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path.with_suffix(".json")


def via_one(path):
    """As of VIA 1: regions by number, and no frame."""
    content = json.loads(via(path).read_text())["_via_img_metadata"]
    regions = content["a.png123"]["regions"]
    content["a.png123"]["regions"] = {str(number): region for number, region in enumerate(regions)}
    path.with_suffix(".json").write_text(json.dumps(content))
    return path.with_suffix(".json")


def coco(path, drawn=None):
    drawn = drawn or [[side for point in TRIANGLE for side in point]]
    content = {
        "images": [{"id": 7, "file_name": f"some/folder/{FILE}", "height": 60, "width": 80}],
        "categories": [{"id": 3, "name": "phase"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": drawn}],
    }
    path.with_suffix(".json").write_text(json.dumps(content))
    return path.with_suffix(".json")


def _runs(pixels):
    changes = np.flatnonzero(np.diff(np.concatenate([[0], pixels.astype(int), [1 - int(pixels[-1])]])))
    return np.diff(np.concatenate([[0], changes])).tolist()


def _compressed(counts):
    """COCO's text of run lengths, written from its definition."""
    text = ""
    for number, value in enumerate(counts):
        value -= counts[number - 2] if number > 2 else 0
        more = True
        while more:
            letter, value = value & 0x1F, value >> 5
            more = value != (-1 if letter & 0x10 else 0)
            text += chr((letter | 0x20 * more) + 48)
    return text


def coco_runs(path):
    return coco(path, {"size": list(SIZE), "counts": _runs(expected().T.ravel())})


def coco_text(path):
    return coco(path, {"size": list(SIZE), "counts": _compressed(_runs(expected().T.ravel()))})


def cvat(path):
    points = ";".join(f"{x},{y}" for x, y in TRIANGLE)
    text = f'<annotations><image id="0" name="{FILE}" width="80" height="60"><polygon label="phase" points="{points}"/>'
    path.with_suffix(".xml").write_text(text + "</image></annotations>")
    return path.with_suffix(".xml")


def cvat_mask(path):
    part = expected()[4:52, 9:72]
    runs = ", ".join(map(str, _runs(part.ravel())))
    text = (
        f'<annotations><image name="{FILE}" width="80" height="60"><mask label="phase" rle="{runs}" left="9" top="4" '
    )
    path.with_suffix(".xml").write_text(text + 'width="63" height="48"/></image></annotations>')
    return path.with_suffix(".xml")


def roi(path):
    roifile.ImagejRoi.frompoints(np.array(TRIANGLE, np.float32)).tofile(path.with_suffix(".roi"))
    return path.with_suffix(".roi")


def roi_set(path):
    found = roifile.ImagejRoi.frompoints(np.array(TRIANGLE, np.float32)).tobytes()
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.writestr("0026-0040.roi", found)
    return path.with_suffix(".zip")


@pytest.mark.parametrize("write", [
    labelme, labelme_mask, via, via_one, coco, coco_runs, coco_text, cvat, cvat_mask, roi, roi_set,
])  # fmt: skip
def test_outlines_of_every_program_are_a_mask(tmp_path, write):
    path = write(tmp_path / "a")
    mask = read_mask(path, Values(None, (0,)), SIZE, 0, "a")
    wrong = expected() != mask
    wrong[:, :20] &= write is not labelme_mask  # which holds a part of it
    wrong[46:] &= write is not labelme_mask
    wrong[:, 61:] &= write is not labelme_mask
    wrong[:10] &= write is not labelme_mask
    assert wrong.sum() <= 2 and mask.dtype == np.uint8


def test_labels_are_values_and_later_outlines_lie_above(tmp_path):
    shapes = [
        ("ferrite", [(0, 0), (80, 60)], "rectangle"), ("bainite", [(20, 20), (60, 50)], "rectangle"),
        ("__ignore__", [(40, 30), (50, 30)], "circle"), ("scratch", [(0, 0), (9, 9)], "line"),
    ]  # fmt: skip
    path = labelme(tmp_path / "a", shapes)
    mask = read_mask(path, Values(("bainite",), ("ferrite",), ignore=("__ignore__",)))
    assert mask[25, 25] == 1 and mask[5, 5] == 0 and mask[30, 40] == 255
    assert (mask == 255).sum() == pytest.approx(314, abs=6)
    with pytest.raises(InputError, match=r"labels 'ferrite' \(4800 px\), .*neither.*\"rest\""):
        read_mask(path, Values(("grain",), (0,)))


def test_an_information_bar_may_have_been_there_when_it_was_drawn(tmp_path):
    for size in (SIZE, (70, 80)):
        mask = read_mask(labelme(tmp_path / "a", size=size), Values(None, (0,)), (70, 80), 10)
        assert mask.shape == SIZE and np.count_nonzero(mask != expected()) <= 2
    with pytest.raises(InputError, match="was drawn on an image of 40 x 30 px"):
        read_mask(labelme(tmp_path / "a", size=(30, 40)), Values(None, (0,)), (70, 80), 10)


@pytest.mark.parametrize("shape", [SIZE, (1, *SIZE, 1)])
def test_ilastiks_labels_are_a_mask(tmp_path, shape):
    labels = (expected() + 1).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exported_data"] = labels.reshape(shape)
        file["other"] = 3
    np.testing.assert_array_equal(read_mask(tmp_path / "a.h5", Values((2,), (1,)), SIZE), expected())


@pytest.mark.parametrize("axes", ["yx", "xy", "txyzc", "tzyxc", "cyx"])
def test_ilastik_says_where_x_and_y_are(tmp_path, axes):
    """Also of a square picture, whose sides say nothing."""
    square = np.pad(expected(), ((0, 20), (0, 0)))
    labels = square.T if axes.index("x") < axes.index("y") else square
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exported_data"] = labels.astype(np.uint8).reshape([80 if axis in "xy" else 1 for axis in axes])
        tags = [{"key": axis, "typeFlags": 2, "resolution": 0, "description": ""} for axis in axes]
        file["exported_data"].attrs["axistags"] = json.dumps({"axes": tags})
    np.testing.assert_array_equal(read_mask(tmp_path / "a.h5", Values((1,), (0,)), square.shape), square)


def rois(path, **named):
    """A RoiSet.zip: by name, the points of a polygon, or the values of another shape."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, drawn in named.items():
            name = name.replace("_", "-")
            shape = roifile.ImagejRoi(name=name, **drawn) if isinstance(drawn, dict) else None
            shape = shape or roifile.ImagejRoi.frompoints(np.array(drawn, np.float32), name=name)
            archive.writestr(f"{name}.roi", shape.tobytes())
    return path


def test_imagejs_words_and_pictures_have_no_area(tmp_path, capsys):
    box = {"roitype": roifile.ROI_TYPE.RECT, "left": 50, "top": 40, "right": 80, "bottom": 60}
    kinds = {kind.name: box | {"subtype": kind} for kind in (roifile.ROI_SUBTYPE.TEXT, roifile.ROI_SUBTYPE.IMAGE)}
    mask = read_mask(rois(tmp_path / "a.zip", phase=TRIANGLE, **kinds), Values(("phase",), (0,)), SIZE)
    assert np.count_nonzero(mask != expected()) <= 2 and "2 points or lines" in capsys.readouterr().err


def test_imagejs_numbered_names_are_one_label(tmp_path):
    """Where there is one without a number: other names may end so."""
    other = [(0, 50), (9, 50), (9, 60), (0, 60)]
    path = rois(tmp_path / "a.zip", bainite=TRIANGLE, bainite_1=other, M_23=other)
    mask = read_mask(path, Values(("bainite",), ("M-23",)), SIZE)
    assert np.count_nonzero(mask[:50] != expected()[:50]) <= 2 and not mask[55, 5]
    with pytest.raises(InputError, match="label 'M-23' is neither"):
        read_mask(path, Values(("bainite",), (0,)), SIZE)


def test_coco_that_is_incomplete_is_told_what_it_lacks(tmp_path):
    laboratory(tmp_path)
    content = json.loads(coco(tmp_path / "coco").read_text())
    (drawn,) = content["annotations"]
    box = {key: value for key, value in drawn.items() if key != "segmentation"} | {"bbox": [9, 9, 20, 20]}
    for wrong, says in (
        (
            content | {"annotations": [box, box | {"segmentation": []}]},
            "no outline on the images, and 2 boxes, lines or points",
        ),
        (content | {"annotations": [drawn, drawn | {"image_id": 99}]}, "annotation of image 99, which is none of its"),
        ([drawn], "a list without `images`, as COCO's results are"),
    ):
        (tmp_path / "coco.json").write_text(json.dumps(wrong))
        _, printed = prepared(tmp_path, ok=False, masks="coco.json")
        assert says in printed and "coco.json" in printed, printed


def test_bad_annotations_are_named(tmp_path):
    with h5py.File(tmp_path / "probabilities.h5", "w") as file:
        file["exported_data"] = np.zeros((*SIZE, 2), np.float32)
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = labels = np.zeros((2, *SIZE), np.uint8)
    assert labels.any() == 0
    (tmp_path / "text.h5").write_text("nothing")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "half.json").write_text(labelme(tmp_path / "good").read_text()[:90])
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "voc.xml").write_text("<annotation><object/></annotation>")
    (tmp_path / "bad.roi").write_bytes(roi(tmp_path / "good").read_bytes()[:70])
    (tmp_path / "bad.zip").write_bytes(b"PK")
    coco(tmp_path / "runs", {"size": list(SIZE), "counts": [5, 5]})
    (tmp_path / "nan.json").write_text(
        labelme(tmp_path / "x", [("p", [[0, 0], [float("nan"), 3], [9, 9]], "polygon")]).read_text()
    )
    for path in sorted(tmp_path.iterdir()):
        if path.stem not in ("good", "x"):
            with pytest.raises(InputError, match=path.name):
                read_mask(path, Values(None, (0,)), SIZE, 0, "a")


@pytest.mark.parametrize("write", [labelme, labelme_mask, via, coco, coco_text, cvat, cvat_mask, roi, roi_set])
def test_a_damaged_annotation_is_a_mask_or_an_error(tmp_path, write):
    whole, rng = write(tmp_path / "a").read_bytes(), np.random.default_rng(0)
    for number in range(60):
        content, place = bytearray(whole), int(rng.integers(len(whole)))
        if number % 3 == 0:
            content[place] ^= int(rng.integers(1, 256))
        elif number % 3 == 1:
            del content[place : place + int(rng.integers(1, 9))]
        else:
            content[place:place] = [b"9" * 12, b"null", b"-1", b"{}", b"1e400"][number % 5]
        path = tmp_path / f"damaged{number}{write(tmp_path / 'a').suffix}"
        path.write_bytes(content)
        try:
            mask = read_mask(path, Values(None, (0,)), SIZE, 0, "a")
        except InputError as error:
            assert path.name in str(error)
        else:
            assert mask.shape == SIZE and mask.dtype == np.uint8 and mask.max() <= 1


def laboratory(folder, names="abc"):
    """Images of which each has a triangle on it."""
    (folder / "images").mkdir()
    for name in names:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), (expected() * 100 + 50).astype(np.uint8))


def prepared(folder, ok=True, folds=True, **entry):
    entry = {"images": "images", "pixel_size_nm": 50} | ({"folds": 2} if folds else {}) | entry
    (folder / "domains.toml").write_text(domains_toml(SMALL, source=entry))
    status, printed = call(f"prepare {folder / 'domains.toml'} --out {folder / 'stores'} --force")
    assert (status == 0) == ok, printed
    return (Store(store_path(folder / "stores", "source")) if ok else None), printed


def test_a_file_beside_each_image(tmp_path):
    laboratory(tmp_path)
    for name in "ab":
        labelme(tmp_path / "images" / name)
    roi(tmp_path / "images" / "c")
    (tmp_path / "images" / "project.json").write_text("{}")
    store, printed = prepared(tmp_path, masks="images", foreground="rest")
    assert [one.labelled for one in store.micrographs] == [True] * 3 and "1 .json" in printed
    assert all(np.count_nonzero(store.mask(number) != expected()) <= 2 for number in range(3))


def test_one_file_for_all_images(tmp_path):
    laboratory(tmp_path, "abcd")
    content = json.loads(coco(tmp_path / "coco").read_text())
    images = [
        {"id": number, "file_name": f"{name}.png", "height": 60, "width": 80} for number, name in enumerate("abcz")
    ]
    drawn = [content["annotations"][0] | {"image_id": number} for number in (0, 1, 3)]
    (tmp_path / "coco.json").write_text(json.dumps(content | {"images": images, "annotations": drawn}))
    store, printed = prepared(tmp_path, masks="coco.json")
    assert [one.labelled for one in store.micrographs] == [True, True, False, False]
    assert store.metadata["parameters"]["foreground"] == ["phase"]
    assert "1 entries of images that are not in the folder" in printed and "1 entries without an area" in printed
    drawn[1] = drawn[1] | {"category_id": 4}
    (tmp_path / "coco.json").write_text(json.dumps(content | {"images": images, "annotations": drawn}))
    _, printed = prepared(tmp_path, ok=False, masks="coco.json")
    assert 'lacks the key \'foreground\'; labels are "4", "phase"' in printed


def test_one_file_for_all_in_a_folder_of_its_own_is_told_from_none(tmp_path):
    laboratory(tmp_path)
    (tmp_path / "masks").mkdir()
    coco(tmp_path / "masks" / "instances")
    _, printed = prepared(tmp_path, ok=False, masks="masks")
    assert "instances.json has the outlines of many images, give its path" in printed


def test_a_picture_goes_before_the_outlines_that_it_was_made_of(tmp_path):
    laboratory(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in "abc":
        labelme(tmp_path / "masks" / name)
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.full(SIZE, 255, np.uint8))
    store, _ = prepared(tmp_path, masks="masks", foreground=[255, "phase"])
    assert store.mask(0).all() and not store.mask(1).all()


def test_napari_writes_whole_numbers(tmp_path):
    laboratory(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in "abc":
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", expected().astype(np.int64))
    store, _ = prepared(tmp_path, masks="masks", foreground=[1])
    np.testing.assert_array_equal(store.mask(2), expected())


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the shared cases are not at {CASES}")
def test_real_annotations(tmp_path):
    folder = CASES / "files"
    name, values = "Sc1Tile_001-001-000_0-000", Values(("Powder",), (0,))
    mask = read_mask(folder / "via_one_image.json", values, (1024, 1536), 0, name)
    with pytest.raises(InputError, match=r"an outline of 'Powder' has x .*, and the image is 1024 x 768 px"):
        read_mask(folder / "via_one_image.json", values, (768, 1024), 0, name)
    assert 0.1 < mask.mean() < 0.9
    mask = read_mask(folder / "cvat_for_images.xml", Values(("label1", ""), (0,)), (8, 8), 0, "img0")
    assert mask[2:4, :4].all() and mask.sum() == 8
    mask = read_mask(folder / "cvat_for_images.xml", Values(None, (0,)), (10, 10), 0, "img1")
    assert 1 <= int(mask.sum()) <= 3  # a triangle of 2 px
    mask = read_mask(folder / "imagej_freehand.roi", Values(None, (0,)), (2000, 2000), 0, "x")
    found = roifile.roiread(folder / "imagej_freehand.roi").coordinates().astype(np.float32)
    assert mask.sum() == pytest.approx(cv2.contourArea(found), rel=0.02)
