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
from data.store import PREPARATION
from evaluation.figures import overlay
from evaluation.inference import for_inference, segment
from evaluation.members import Member

OVERLAY_SIDE = 2048  # px; a picture to look at, the mask has every pixel


def segment_folder(members: list[Member], options: argparse.Namespace, device: torch.device | str) -> None:
    """Segment every micrograph of a folder; masks 0/255 at native size, overlays and phase_fractions.csv.

    While one micrograph is segmented, the next is read and the one before is written. Memory holds these three.
    Broken files are named at the end, after the good ones are written.
    """
    folder, out = Path(options.images), Path(options.out)
    masks, overlays = out / "masks", out / "overlays"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the micrographs")
    if folder.resolve() in {out.resolve(), masks.resolve(), overlays.resolve()}:
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
        models.set_domain(member.model, "target" if member.config.get("target") else "source")
    native = preparation["native"]
    pixel_size = options.pixel_size or native["pixel_size_nm"]
    invert = native["invert"] if options.invert is None else options.invert
    bar = native["information_bar"] if options.information_bar is None else options.information_bar
    print(f"{folder}: taken to have {pixel_size:g} nm a pixel, {'' if invert else 'not '}inverted, {bar} rows cut off")
    reference = preparation["reference_pixel_size_nm"]
    factor = pixel_size / reference * preparation["scale"]
    origin = (
        f"--pixel-size {pixel_size:g} (nm), against {reference:g} of what the model has learnt, at scale "
        f"{preparation['scale']:g}"
    )
    warn_of_enlargement(factor, origin)
    cut = (preparation["tile"], preparation["overlap"])
    make_folder(masks)
    make_folder(overlays)
    networks = [for_inference(member.model) for member in members]
    first_of_name = {file.stem: file for file in reversed(files)}

    def read(file: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        if file != first_of_name[file.stem]:
            raise InputError(f"{file}: another image has this name with another ending; rename one")
        require_file_name(file.stem, str(folder), longest=255, ending=file.suffix)
        grey = read_image(file)
        return prepare_micrograph(grey, factor, invert, bar, origin, free_memory()), _reduced(grey), grey.shape

    def segmented() -> Iterator[tuple | InputError]:
        for file, reading in zip(files, ahead(read, files, 1), strict=True):
            try:
                image, picture, shape = reading.result()
            except InputError as error:
                yield error
                continue
            yield file, segment(networks, image, *cut, (shape[0] - bar, shape[1]), device), picture, shape

    def write(result: tuple | InputError) -> dict:
        if isinstance(result, InputError):
            raise result
        file, found, picture, shape = result
        mask = np.zeros(shape, np.uint8)
        np.multiply(found, 255, out=mask[: len(found)])
        write_image(masks / f"{file.stem}.png", mask)
        write_image(overlays / f"{file.stem}.png", overlay(picture, _reduced(mask)))
        size = {"height": found.shape[0], "width": found.shape[1], "pixel_size_nm": pixel_size}
        return {"file": file.name, **size, "phase_fraction": float(found.mean())}

    rows, failures = [], []
    progress = tqdm(ahead(write, segmented(), 1), desc=folder.name, unit="image", total=len(files))
    for file, writing in zip(files, progress, strict=True):
        try:
            rows.append(writing.result())
        except InputError as error:
            message = str(error)
            failures.append(message if shown_name(file.name)[1:-1] in message else f"{file}: {message}")
    write_csv(out / "phase_fractions.csv", rows)
    print(f"{len(rows)} of {len(files)} images segmented: {out}")
    if failures:
        raise InputError("\n       ".join([f"{len(failures)} of {len(files)} images not segmented:", *failures]))


def _reduced(picture: np.ndarray) -> np.ndarray:
    factor = OVERLAY_SIDE / max(picture.shape)
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture
