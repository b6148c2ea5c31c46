"""Outlines that are drawn on another image or slice, and classes that no label names."""

import json
import zipfile

import numpy as np
import pytest
import roifile
from test_annotations import SIZE, TRIANGLE, coco, expected, labelme, laboratory, prepared, rois, via

from common.errors import InputError
from data.masks import Values, read_mask


def drawn(points: list, name: str, **fields: int) -> bytes:
    """A polygon as of ImageJ, with other fields of it set."""
    one = roifile.ImagejRoi.frompoints(np.array(points, np.float32), name=name)
    one.version = 228
    for field, value in fields.items():
        setattr(one, field, value)
    return one.tobytes()


def test_rois_of_a_stack_are_those_of_the_page(tmp_path):
    """Where several slices have some, and no page is a number, nobody knows which are meant."""
    squares = [[(9 + 20 * k, 9), (19 + 20 * k, 9), (19 + 20 * k, 19), (9 + 20 * k, 19)] for k in range(3)]

    def saved(*positions, **hyperstack):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for number, (points, position) in enumerate(zip(squares, positions, strict=True)):
                one = drawn(points, f"000{number}", position=position, **{k: v[number] for k, v in hyperstack.items()})
                archive.writestr(f"{number}.roi", one)

    def found(page=None):
        mask = read_mask(tmp_path / "a.zip", Values(None, (0,)), SIZE, 0, "a", page)
        return [int(mask[14, 14 + 20 * k]) for k in range(3)]

    saved(1, 2, 0)
    assert [found(page) for page in (1, 2, 3)] == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    for page in (None, "image"):
        with pytest.raises(InputError, match=r"a\.zip: its outlines lie on slices 1, 2 of a stack; give `page`"):
            found(page)
    saved(3, 3, 3)
    assert found() == found(3) == [1, 1, 1]
    with pytest.raises(InputError, match="on slices 3 of a stack, and none on page 2"):
        found(2)
    saved(0, 0, 0, c_position=[1, 1, 1], z_position=[1, 2, 2])
    with pytest.raises(InputError, match="slices channel 1 z 1, channel 1 z 2 of a stack"):
        found()


def test_outlines_that_do_not_fit_their_image_are_refused(tmp_path):
    """A hand draws a little beyond the border, and a circle about a centre may leave the image."""
    rng = np.random.default_rng(5)
    outside = {"roitype": roifile.ROI_TYPE.RECT, "left": 300, "top": 300, "right": 380, "bottom": 390}
    twice = [(2 * x, 2 * y) for x, y in TRIANGLE]
    for path in (rois(tmp_path / "a.zip", p=outside), labelme(tmp_path / "b", [("p", twice, "polygon")])):
        with pytest.raises(InputError, match=rf"{path.name}.* an outline of 'p' has x .* and the image is 80 x 60 px"):
            read_mask(path, Values(None, (0,)), SIZE, 0, "a")
    shares = [(x / 80, y / 60) for x, y in TRIANGLE]
    with pytest.raises(InputError, match=r"all coordinates are 0 \.\. 1, as shares"):
        read_mask(
            coco(tmp_path / "c", [[side for point in shares for side in point]]), Values(None, (0,)), SIZE, 0, "a"
        )
    beyond = [(-9, -5), (80 + rng.uniform(2, 12), 20), (30, 60 + rng.uniform(2, 12))]
    shapes = [("p", beyond, "polygon"), ("p", [(75, 30), (75, 70)], "circle"), ("p", [(0, 0), (1, 1)], "rectangle")]
    assert read_mask(labelme(tmp_path / "d", shapes), Values(None, (0,)), SIZE)[30, 70] == 1


def test_classes_that_no_label_names_are_asked_about(tmp_path):
    """Groups, attributes, further attributes; a number that each outline has of its own is told how to be read too."""
    laboratory(tmp_path)
    points = ";".join(f"{x},{y}" for x, y in TRIANGLE)
    kinds = "".join(
        f'<polygon label="phase" points="{points}"><attribute name="kind">{kind}</attribute></polygon>'
        for kind in ("bainite", "ferrite")
    )
    (tmp_path / "cvat.xml").write_text(f'<annotations><image name="a.png">{kinds}</image></annotations>')
    content = json.loads(via(tmp_path / "via").read_text())
    (region,) = content["_via_img_metadata"]["a.png123"]["regions"]
    content["_via_img_metadata"]["a.png123"]["regions"] = [
        region | {"region_attributes": {"checked": {"yes": True}, "phase": phase}} for phase in ("bainite", "ferrite")
    ]
    (tmp_path / "via.json").write_text(json.dumps(content))
    content = json.loads(coco(tmp_path / "coco").read_text())
    (drawn,) = content["annotations"]
    content["annotations"] = [
        drawn | {"attributes": {"occluded": False, "rotation": turn, "kind": kind}}
        for turn, kind in enumerate(("bainite", "ferrite"))
    ]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    for file, label, name in (
        ("cvat.xml", "phase", "kind"),
        ("via.json", "yes", "phase"),
        ("coco.json", "phase", "kind"),
    ):
        _, printed = prepared(tmp_path, ok=False, masks=file, folds=False)
        assert f'outlines of label "{label}" differ in "{name}": bainite, ferrite' in printed, printed
        assert f'foreground = ["{label}"]' in printed


@pytest.mark.parametrize("named", [True, False])
def test_imagejs_groups_are_labels_where_names_are_places(tmp_path, named):
    laboratory(tmp_path, "a")
    (tmp_path / "masks").mkdir()
    other = [(0, 50), (9, 50), (9, 60), (0, 60)]
    with zipfile.ZipFile(tmp_path / "masks" / "a.zip", "w") as archive:
        for group, points in enumerate((TRIANGLE, other), 1):
            name = "phase" if named else f"000{group}-0020-0020"
            archive.writestr(f"{group}.roi", drawn(points, name, group=group))
    says = 'label "phase" differ in "group": 1, 2' if named else 'labels are "1", "2"'
    assert says in prepared(tmp_path, ok=False, masks="masks", folds=False)[1]
    store, _ = prepared(tmp_path, masks="masks", folds=False, foreground=["phase"] if named else [1], background=[2])
    assert np.count_nonzero(store.mask(0)[:50] != expected()[:50]) <= 2 and store.mask(0)[55, 5] == named
