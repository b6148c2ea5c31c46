"""Segmentation of a folder of micrographs that have no labels."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

import models
from common.errors import InputError, make_folder, require_file_name, shown_name
from common.files import write_csv, write_image
from common.memory import free_memory
from common.parallel import ahead
from data.images import SUFFIXES, list_images, prepare_micrograph, read_image, warn_of_enlargement
from data.levels import matched
from data.store import PREPARATION
from evaluation.figures import heat, overlay
from evaluation.fractions import Fraction, fields_of, of_specimen, sentence
from evaluation.inference import Segmentation, segment
from evaluation.judge.remedies import Remedy
from evaluation.members import Member

OVERLAY_SIDE = 2048  # px; a picture to look at, the mask has every pixel
SPECIMEN = "all images"
_MOST_UNSURE = 128  # of 255: two phases, either as likely


def segment_folder(members: list[Member], options: argparse.Namespace, device: torch.device | str) -> None:
    """Segment every micrograph of a folder: masks 0/255 at native size, pictures, and phase_fractions.csv.

    overlays/ shows what was found, confidence/ where the models are unsure. The table's last row is of the specimen, as
    far as the micrographs are random samples of one. While one micrograph is segmented, the next is read and the one
    before is written. Memory holds these three. Broken files are named at the end, after the good ones are written.
    """
    folder, out = Path(options.images), Path(options.out)
    masks, overlays, confidence = (out / name for name in ("masks", "overlays", "confidence"))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the micrographs")
    if folder.resolve() in {path.resolve() for path in (out, masks, overlays, confidence)}:
        raise InputError(f"{folder}: --out would write into the folder of the micrographs; give another --out")
    files = list_images(folder)
    if not files:
        raise InputError(f"{folder}: no image ({', '.join(SUFFIXES)}) in it; give the folder of the micrographs")
    preparation = members[0].preparation
    for member in members:
        differing = [key for key in PREPARATION if member.preparation[key] != preparation[key]]
        if differing:
            raise InputError(
                f"{member.run}: its data was prepared otherwise than that of {members[0].run} ({', '.join(differing)} "
                "differ). Give runs whose stores are from one domains.toml."
            )
        if member.remedy != members[0].remedy:
            raise InputError(f"{member.run}: made for other micrographs than {members[0].run}. Give one at a time.")
        models.set_domain(member.model, "target" if member.config.get("target") else "source")
    native = preparation["native"]
    pixel_size = options.pixel_size or native["pixel_size_nm"]
    invert = native["invert"] if options.invert is None else options.invert
    bar = native["information_bar"] if options.information_bar is None else options.information_bar
    levels = np.array(native["levels"]) if "levels" in native else None
    like = "" if levels is None else f", given the grey levels of {native['match']}"
    kind = f"{pixel_size:g} nm a pixel, {'' if invert else 'not '}inverted, {bar} rows cut off{like}"
    remedy = f", then shown to the network {members[0].remedy}" if members[0].remedy != Remedy() else ""
    print(f"{folder}: taken to have {kind}{remedy}")
    reference = preparation["reference_pixel_size_nm"]
    factor = pixel_size / reference * preparation["scale"]
    origin = (
        f"--pixel-size {pixel_size:g} (nm), against {reference:g} of what the model has learnt, at scale "
        f"{preparation['scale']:g}"
    )
    warn_of_enlargement(factor, origin)
    cut = (preparation["tile"], preparation["overlap"])
    for path in (masks, overlays, confidence):
        make_folder(path)
    networks = [member.networks(device) for member in members]
    first_of_name = {file.stem: file for file in reversed(files)}

    def read(file: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        if file != first_of_name[file.stem]:
            raise InputError(f"{file}: another image has this name with another ending; rename one")
        require_file_name(file.stem, str(folder), longest=255, ending=file.suffix)
        grey = read_image(file)
        image = prepare_micrograph(grey, factor, invert, bar, origin, free_memory())
        image = image if levels is None else matched(image, levels)
        return members[0].seen(image), _reduced(grey), grey.shape

    def segmented() -> Iterator[tuple | InputError]:
        for file, reading in zip(files, ahead(read, files, 1), strict=True):
            try:
                image, picture, shape = reading.result()
                of_image = [network(image) for network in networks]
            except InputError as error:
                yield error
                continue
            yield file, segment(of_image, image, *cut, (shape[0] - bar, shape[1]), device), picture, shape

    def write(result: tuple | InputError) -> tuple[Path, Segmentation]:
        if isinstance(result, InputError):
            raise result
        file, found, picture, shape = result
        mask = np.zeros(shape, np.uint8)
        np.multiply(found.classes, 255, out=mask[: len(found.classes)])
        write_image(masks / f"{file.stem}.png", mask)
        write_image(overlays / f"{file.stem}.png", overlay(picture, _reduced(mask)))
        unsure = np.zeros(shape, np.uint8)
        np.subtract(255, found.confidence, out=unsure[: len(found.confidence)])
        write_image(confidence / f"{file.stem}.png", heat(picture, _reduced(unsure), _MOST_UNSURE))
        return file, found

    table, failures = _Table(pixel_size), []
    progress = tqdm(ahead(write, segmented(), 1), desc=folder.name, unit="image", total=len(files))
    for file, writing in zip(files, progress, strict=True):
        try:
            table.add(*writing.result())
        except InputError as error:
            message = str(error)
            failures.append(message if shown_name(file.name)[1:-1] in message else f"{file}: {message}")
    table.write(out / "phase_fractions.csv")
    print(f"{len(table.rows)} of {len(files)} images segmented: {out}")
    if failures:
        raise InputError("\n       ".join([f"{len(failures)} of {len(files)} images not segmented:", *failures]))


class _Table:
    """Rows of phase_fractions.csv: one for each micrograph, the last for all of them."""

    def __init__(self, pixel_size: float):
        self.pixel_size, self.rows, self.fields, self.models = pixel_size, [], [], []

    def add(self, file: Path, found: Segmentation) -> None:
        """Add a micrograph's row."""
        self.fields.append(fields_of(found.classes))
        self.models.append(found.fractions[:, 1])
        of_image = Fraction.of(self.fields[-1], self.models[-1])
        height, width = found.classes.shape
        size = {"file": file.name, "height": height, "width": width, "pixel_size_nm": self.pixel_size}
        # Not the mean of the fields, which differ by some rows in size.
        row = size | _columns(of_image, "512 px") | {"phase_fraction": float((found.classes > 0).mean())}
        self.rows.append(row | {"confidence": float(found.confidence.mean() / 255)})

    def write(self, path: Path) -> None:
        """Write the table, and print what it says of all micrographs."""
        if not self.rows:
            return
        whole, field = of_specimen(self.fields, self.models)
        sure = float(np.mean([row["confidence"] for row in self.rows]))
        size = {"file": SPECIMEN, "height": None, "width": None, "pixel_size_nm": self.pixel_size}
        write_csv(path, [*self.rows, size | _columns(whole, field) | {"confidence": sure}])
        print(f"{path}: {sentence(whole, field)}")


def _columns(fraction: Fraction, field: str) -> dict:
    return {
        "phase_fraction": fraction.mean,
        "fields": fraction.fields,
        "field": field,
        "std_fields": fraction.std,
        "ci95": fraction.ci95,
        "relative_accuracy": fraction.relative_accuracy,
        "std_models": fraction.std_models,
        "ci95_with_models": fraction.ci95_with_models,
    }


def _reduced(picture: np.ndarray) -> np.ndarray:
    factor = OVERLAY_SIDE / max(picture.shape)
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture
