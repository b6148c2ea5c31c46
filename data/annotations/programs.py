"""Readers of what LabelMe, VIA, COCO, CVAT and ImageJ write: shapes by the name of the image they lie on.

A name of None stands for the image beside the file. Every reader raises some exception on a file that is damaged.
"""

import base64
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import roifile

from data.annotations.shapes import Annotated, Shape, ellipse, of_runs, polygon, rectangle

Document = dict[str | None, Annotated]
_MOST = 1 << 28  # bytes of a file, or of an archive's content


def read(path: Path) -> Document:
    """Read an annotation file of any of these programs. Any exception where it is none of theirs."""
    if path.stat().st_size > _MOST:
        raise ValueError(f"it has more than {_MOST >> 20} MiB")
    ending = path.suffix.lower()
    if ending in (".roi", ".zip"):
        return {None: _imagej(path)}
    if ending == ".xml":
        return _cvat(ElementTree.fromstring(path.read_bytes()))
    content = json.loads(path.read_bytes())
    if isinstance(content, list):
        raise ValueError("it is a list without `images`, as COCO's results are")
    if "shapes" in content:
        return {None: _labelme(content)}
    if "images" in content and "annotations" in content:
        return _coco(content)
    images = content.get("_via_img_metadata", content)
    if images and all(
        isinstance(image, dict) and "regions" in image and "filename" in image for image in images.values()
    ):
        return _via(images)
    raise ValueError("it is none of LabelMe, COCO and VIA")


def _add(found: Annotated, shape: Shape | None, **more: object) -> None:
    """Add a shape, with `more` of its fields, or count what has no area."""
    found.shapes += [replace(shape, **more)] if shape else []
    found.lines += shape is None


def _labelme(content: dict) -> Annotated:
    found = Annotated(size=_size(content.get("imageHeight"), content.get("imageWidth")))
    found.image = re.split(r"[/\\]", str(content.get("imagePath") or ""))[-1] or None
    for entry in content["shapes"]:
        label, points, kind = str(entry["label"]), entry["points"], entry.get("shape_type") or "polygon"
        if kind in ("polygon", "rotation", "oriented_rectangle"):
            _add(found, polygon(label, points))
        elif kind == "rectangle":
            _add(found, rectangle(label, *np.min(points, axis=0), *np.max(points, axis=0)))
        elif kind == "circle":
            (x, y), edge = points
            radius = float(np.hypot(edge[0] - x, edge[1] - y))
            _add(found, ellipse(label, x, y, radius, radius))
        elif kind == "mask":
            coded = np.frombuffer(base64.b64decode(entry["mask"]), np.uint8)
            pixels = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) > 0
            column, row = (round(side) for side in points[0])
            _add(found, Shape(label, pixels=pixels, corner=(row, column)))
        else:
            _add(found, None)
    return found


def _via(images: dict) -> Document:
    found = {}
    for image in images.values():
        one = _of_image(found, image["filename"])
        regions = image["regions"]
        for region in regions.values() if isinstance(regions, dict) else regions:
            drawn, kind = region["shape_attributes"], region["shape_attributes"].get("name")
            label, traits = _via_label(region.get("region_attributes") or {})
            if kind == "polygon":
                points = zip(drawn["all_points_x"], drawn["all_points_y"], strict=True)
                shape = polygon(label, list(points))
            elif kind == "rect":
                right, bottom = drawn["x"] + drawn["width"], drawn["y"] + drawn["height"]
                shape = rectangle(label, drawn["x"], drawn["y"], right, bottom)
            elif kind == "circle":
                shape = ellipse(label, drawn["cx"], drawn["cy"], drawn["r"], drawn["r"])
            elif kind == "ellipse":
                degrees = float(np.degrees(drawn.get("theta", 0)))
                shape = ellipse(label, drawn["cx"], drawn["cy"], drawn["rx"], drawn["ry"], degrees)
            else:
                shape = None
            _add(one, shape, traits=traits)
    return found


def _via_label(attributes: dict) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The first attribute that has a value; of a group of boxes, the names of those that are ticked. And the others."""
    found = []
    for attribute, value in attributes.items():
        if isinstance(value, dict):
            value = ",".join(name for name, ticked in value.items() if ticked)
        found += [(attribute, str(value))] if str(value) else []
    return found[0][1] if found else "", tuple(found[1:])


def _coco(content: dict) -> Document:
    labels = {one["id"]: str(one["name"]) for one in content.get("categories", [])}
    found, images = {}, {}
    for image in content["images"]:
        images[image["id"]] = _of_image(found, image["file_name"], _size(image.get("height"), image.get("width")))
    for entry in content["annotations"]:
        if entry["image_id"] not in images:
            raise ValueError(f"it has an annotation of image {entry['image_id']}, which is none of its `images`")
        one, label = images[entry["image_id"]], labels.get(entry.get("category_id"), str(entry.get("category_id")))
        said = entry.get("attributes")
        said = said.items() if isinstance(said, dict) else ()  # CVAT writes numbers too, such as a rotation
        traits = tuple((name, value) for name, value in said if isinstance(value, str) and value)
        drawn = entry.get("segmentation")
        if isinstance(drawn, dict):
            height, width = drawn["size"]
            if one.size not in (None, (height, width)):
                raise ValueError(
                    f"run lengths of {width} x {height} px lie on an image of {one.size[1]} x {one.size[0]}"
                )
            counts = drawn["counts"] if isinstance(drawn["counts"], list) else _coco_counts(drawn["counts"])
            _add(one, Shape(label, pixels=of_runs(counts, height, width, by_columns=True)), traits=traits)
        else:
            for ring in drawn or [[]]:
                _add(one, polygon(label, ring), traits=traits)
    return found


def _coco_counts(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: five bits a letter, as differences to the count before the last."""
    counts, letters = [], iter(text.encode())
    for first in letters:
        value, letter = 0, first
        for place in count(0, 5):
            letter -= 48
            value |= (letter & 0x1F) << place
            if not letter & 0x20:
                value -= (letter & 0x10) << (place + 1)
                break
            letter = next(letters)
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts


def _cvat(root: ElementTree.Element) -> Document:
    images = root.findall("image")
    if not images:
        raise ValueError("it has no images; export it as `CVAT for images`")
    found = {}
    for image in images:
        one = _of_image(found, image.get("name"), _size(image.get("height"), image.get("width")))
        for element in sorted(image, key=lambda element: int(element.get("z_order") or 0)):
            if element.tag not in ("tag", "attribute"):
                said = ((of.get("name") or "", of.text or "") for of in element.findall("attribute"))
                _add(one, _cvat_shape(element), traits=tuple((name, value) for name, value in said if value))
    return found


def _cvat_shape(element: ElementTree.Element) -> Shape | None:
    label = element.get("label") or ""

    def numbers(*names: str) -> Iterator[float]:
        return (float(element.get(name)) for name in names)

    degrees = float(element.get("rotation") or 0)
    if element.tag == "polygon":
        return polygon(label, [point.split(",") for point in element.get("points").split(";")])
    if element.tag == "box":
        return rectangle(label, *numbers("xtl", "ytl", "xbr", "ybr"), degrees)
    if element.tag == "ellipse":
        return ellipse(label, *numbers("cx", "cy", "rx", "ry"), degrees)
    if element.tag == "mask":
        left, top, width, height = (int(number) for number in numbers("left", "top", "width", "height"))
        runs = [int(length) for length in element.get("rle").split(",")]
        return Shape(label, pixels=of_runs(runs, height, width, by_columns=False), corner=(top, left))
    return None


def _imagej(path: Path) -> Annotated:
    """Read a .roi, or all of a RoiSet.zip; a name that ImageJ made of a place is no label, but the group's number is.

    Of a second `bainite` ImageJ makes `bainite-1`.
    """
    if path.suffix.lower() == ".roi":
        contents = [path.read_bytes()]
    else:
        with zipfile.ZipFile(path) as archive:
            named = ((entry, entry.filename.rpartition("/")[2]) for entry in archive.infolist())
            # macOS packs hidden files beside the others.
            entries = [entry for entry, name in named if name.lower().endswith(".roi") and not name.startswith(".")]
            if sum(entry.file_size for entry in entries) > _MOST:
                raise ValueError(f"its content has more than {_MOST >> 20} MiB")
            contents = [archive.read(entry) for entry in entries]
    if not contents:
        raise ValueError("it holds no .roi")
    rois, found = [roifile.ImagejRoi.frombytes(content) for content in contents], Annotated()
    names = {roi.name for roi in rois}
    for roi in rois:
        label = "" if re.fullmatch(r"[\d-]*", roi.name or "") else roi.name
        first = re.sub(r"-\d+$", "", label)
        label = first if first in names else label
        traits = (("group", str(roi.group)),) if label else ()
        _add(found, _imagej_shape(roi, label or str(roi.group or "")), slice=_imagej_slice(roi), traits=traits)
    return found


def _imagej_slice(roi: roifile.ImagejRoi) -> str:
    """Slice of a stack on which a ROI was drawn; of a hyperstack its channel, depth and time."""
    places = {"channel": roi.c_position, "z": roi.z_position, "t": roi.t_position}
    return str(roi.position) if roi.position else " ".join(f"{name} {at}" for name, at in places.items() if at)


def _imagej_shape(roi: roifile.ImagejRoi, label: str) -> Shape | None:
    kinds, overlays = roifile.ROI_TYPE, (roifile.ROI_SUBTYPE.TEXT, roifile.ROI_SUBTYPE.IMAGE)
    if roi.subtype in overlays:
        return None
    if roi.composite:
        return polygon(label, *roi.coordinates(multi=True))
    if roi.roitype == kinds.OVAL:
        rx, ry = (roi.right - roi.left) / 2, (roi.bottom - roi.top) / 2
        return ellipse(label, roi.left + rx, roi.top + ry, rx, ry)
    if roi.roitype == kinds.RECT:
        return rectangle(label, roi.left, roi.top, roi.right, roi.bottom, arc=roi.rounded_rect_arc_size)
    if roi.roitype in (kinds.POLYGON, kinds.FREEHAND, kinds.TRACED):
        return polygon(label, roi.coordinates())
    return None


def _size(height: object, width: object) -> tuple[int, int] | None:
    return (int(height), int(width)) if height and width else None


def _of_image(found: Document, name: str, size: tuple[int, int] | None = None) -> Annotated:
    """Make the entry of an image, by its name without folder. ValueError where two have it."""
    stem = re.split(r"[/\\]", name)[-1]
    if stem in found:
        raise ValueError(f"two images are called '{stem[:200]}'")
    found[stem] = Annotated(size=size)
    return found[stem]
