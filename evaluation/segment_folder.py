"""Segmentation of a folder of micrographs that have no labels."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from tqdm import tqdm

import models
from common.errors import InputError, make_folder, require_file_name, shown_name
from common.files import write_csv, write_file, write_image
from common.limits import IGNORED
from common.memory import free_memory
from common.parallel import ahead
from data.decoding import SUFFIXES
from data.domains import AUTO, Domain, read_domains
from data.files import Found
from data.images import crop_information_bar, list_images, prepare_micrograph, read_image, warn_of_enlargement
from data.levels import FEW_LEVELS, has_few_levels, matched
from data.pictures import write_classes
from data.store import TWO_PHASES, differences, reported
from data.survey import Given, depth_of, nearly_black, settled, warn_of_black
from data.table import FILE
from data.tiff import Page
from evaluation.figures import heat, overlay
from evaluation.fractions import FIELD, Fraction, fields_of, of_specimen, sentence
from evaluation.inference import Segmentation, segment
from evaluation.judge.remedies import Remedy
from evaluation.members import Member, agreed, seen_by_each
from evaluation.noticed import Noticed, repeats, warnings_of

_TABLE = "phase_fractions.csv"
OVERLAY_SIDE = 2048  # px; a picture to look at, the mask has every pixel
SPECIMEN = "all images"
SCALE = ("pixel_size_nm", "information_bar")
DONE = "segmentation.json"
_READ = ("invert", "match", "levels")  # how the micrographs of a domain are read


class _Asked(NamedTuple):
    """A micrograph to be segmented: the name of its mask, and what was said of its file."""

    name: str
    page: Page
    given: Given


def segment_folder(
    members: list[Member], options: argparse.Namespace, device: torch.device | str, vote: bool = False
) -> None:
    """Segment every micrograph of a folder, or of a domain: masks at native size, pictures, phase_fractions.csv.

    Masks are 0 and 255 of two phases, else numbers with a palette, and IGNORED in an information bar.
    segmentation.json comes last, and only where no image has failed. An image that is there twice counts once.
    overlays/ shows what was found, confidence/ where the models are unsure. The table's last row is of the specimen, as
    far as the micrographs are random samples of one. While one micrograph is segmented, the next is read and the one
    before is written. Memory holds these three. Broken files are named at the end, after the good ones are written.
    """
    folder, out = Path(options.images), Path(options.out)
    masks, overlays, confidence = (out / name for name in ("masks", "overlays", "confidence"))
    preparation, classes = members[0].preparation, members[0].classes
    if options.images_of:
        domain = _domain(folder, options.images_of)
        labels = [one.mask for one in domain.micrographs if one.mask]
        asked = {one.image: _Asked(one.name, one.page, one.given) for one in domain.micrographs}
        _refuse_read_otherwise(folder, domain, members[0], options.invert)
    else:
        asked, labels = _of_folder(folder, options, members), []
    files = list(asked)
    for place in {file.parent for file in files}:
        if place.resolve() in {path.resolve() for path in (out, masks, overlays, confidence)}:
            raise InputError(f"{place}: --out would write into the folder of the micrographs; give another --out")
    _refuse_to_overwrite(out, (masks, overlays, confidence), labels)
    for member in members:
        if differing := differences(member.preparation, preparation, "here", "there"):
            raise InputError(
                f"{member.run}: its data was prepared otherwise than that of {members[0].run} ({differing}). Give runs "
                "whose stores are from one domains.toml."
            )
        read = [{key: one.preparation["native"].get(key) for key in _READ} for one in (member, members[0])]
        matching = member.remedy.match and members[0].remedy.match
        alike = not matching or np.array_equal(member.levels, members[0].levels)
        if not member.remedy.votes_with(members[0].remedy) or read[0] != read[1] or not alike:
            raise InputError(f"{member.run}: made for other micrographs than {members[0].run}. Give one at a time.")
        target = member.config.get("target")
        known = target == options.images_of if options.images_of else bool(target)  # a folder has no name to tell by
        models.set_domain(member.model, "target" if known else "source")
    native = preparation["native"]
    invert = native["invert"] if options.invert is None else options.invert
    levels = np.array(native["levels"]) if "levels" in native else None
    like = "" if levels is None else f", given the grey levels of {native['match']}"
    sizes, bars = ({getattr(given, key) for *_, given in asked.values()} for key in SCALE)
    size, bar = _said(sizes, "{:g} nm a pixel", "pixel size"), _said(bars, "{} rows", "bar")
    kind = f"{size}, {'' if invert else 'not '}inverted, {bar} cut off{like}"
    ways = list(dict.fromkeys(str(member.remedy) for member in members))
    how = f"networks in {len(ways)} ways: {'; '.join(ways)}" if len(ways) > 1 else f"network {ways[0]}"
    remedy = f", then shown to the {how}" if ways != [str(Remedy())] else ""
    used = " and ".join(sorted({models.domain_in_use(member.model) for member in members} - {None}))
    statistics = f", by the batch-norm statistics of the {used}" if used else ""
    print(f"{folder}: taken to have {kind}{remedy}{statistics}")
    reference = preparation["reference_pixel_size_nm"]
    depth = _depth(asked, members)

    def resize(pixel_size: float) -> tuple[float, str]:
        origin = (
            f"--pixel-size {pixel_size:g} (nm), against {reference:g} of what the model has learnt, at scale "
            f"{preparation['scale']:g}"
        )
        return pixel_size / reference * preparation["scale"], origin

    for known in {given.pixel_size_nm for *_, given in asked.values()} - {FILE}:
        warn_of_enlargement(*resize(known))
    cut = (preparation["tile"], preparation["overlap"])
    for path in (masks, overlays, confidence):
        make_folder(path)
    (out / DONE).unlink(missing_ok=True)
    networks, black = [member.networks(device) for member in members], []
    first_of_name = {asked[file].name: file for file in reversed(files)}

    def read(file: Path) -> _Read:
        name, page, given = asked[file]
        if file != first_of_name[name]:
            raise InputError(f"{file}: another image has this name with another ending; rename one")
        require_file_name(name, str(folder), longest=255, ending=file.suffix)
        pixel_size, bar = settled(file, page, given)
        grey = read_image(file, depth, page)
        factor, origin = resize(pixel_size)
        image = prepare_micrograph(grey, factor, invert, bar, origin, free_memory())
        black.extend([file] * nearly_black(file, page, crop_information_bar(grey, bar)))
        if has_few_levels(image):
            print(
                f"warning: {file}: {FEW_LEVELS} grey levels or fewer nearly everywhere; is it a mask? It counts in the "
                "phase fractions",
                file=sys.stderr,
            )
        image = image if levels is None else matched(image, levels)
        noticed = Noticed.of(name + file.suffix, grey, bar)
        shown = seen_by_each(members, image)
        return _Read(name, file.suffix, shown, _reduced(grey), grey.shape, pixel_size, bar, noticed)

    def segmented() -> Iterator[tuple | InputError]:
        for reading in ahead(read, files, 1):
            try:
                one = reading.result()
                of_image = [network(image) for network, image in zip(networks, one.shown, strict=True)]
            except InputError as error:
                yield error
                continue
            rows = one.shape[0] - one.information_bar
            yield one, segment(of_image, one.shown, *cut, (rows, one.shape[1]), device)

    def write(result: tuple | InputError) -> tuple["_Read", Segmentation]:
        if isinstance(result, InputError):
            raise result
        one, found = result
        name, shape, picture = f"{one.name}.png", one.shape, one.picture
        mask = np.full(shape, 0 if len(classes) == 2 else IGNORED, np.uint8)
        mask[: len(found.classes)] = found.classes
        write_classes(masks / name, mask, classes)
        shown = cv2.resize(mask, picture.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        write_image(overlays / name, overlay(picture, shown, classes=classes))
        unsure = np.zeros(shape, np.uint8)
        np.subtract(255, found.confidence, out=unsure[: len(found.confidence)])
        write_image(confidence / name, heat(picture, _reduced(unsure), 255 - 255 // len(classes)))
        return one, found

    table, failures = _Table(_repeats(members, vote), classes), []
    progress = tqdm(ahead(write, segmented(), 1), desc=options.images_of or folder.name, unit="image", total=len(files))
    for file, writing in zip(files, progress, strict=True):
        try:
            table.add(*writing.result())
        except InputError as error:
            message = str(error)
            failures.append(message if shown_name(file.name)[1:-1] in message else f"{file}: {message}")
    table.write(out / _TABLE)
    warn_of_black(black)
    print(f"{len(table.rows)} of {len(files)} images segmented: {out}")
    if failures:
        raise InputError("\n       ".join([f"{len(failures)} of {len(files)} images not segmented:", *failures]))
    older = {path.stem for path in masks.glob("*.png")} - {name for name, *_ in asked.values()}
    if older:
        print(f"remark: {masks} has {len(older)} masks of earlier calls too, such as {min(older)}", file=sys.stderr)
    models_of = [str(member.run / f"{member.label}.pt") for member in members]
    write_file(out / DONE, json.dumps({"images": len(files), "models": models_of}, indent=2) + "\n")


@dataclass(frozen=True)
class _Read:
    """A micrograph as it is segmented: what each network is shown of it, its picture, and its scale."""

    name: str
    suffix: str
    shown: list[np.ndarray]
    picture: np.ndarray
    shape: tuple[int, int]
    pixel_size_nm: float
    information_bar: int
    noticed: Noticed


def _depth(asked: dict[Path, _Asked], members: list[Member]) -> int | None:
    """Depth of the files of 16-bit samples: that of the training domain's, which a dark folder has too, or more.

    InputError where the members' domains ask for several.
    """
    pictures = []
    for file, (_, page, given) in asked.items():
        with suppress(InputError):  # which is said where the file is read
            pictures.append((file, page, settled(file, page, given, quiet=True)[1]))
    known = {member.preparation["native"].get("depth") or 0: member.run for member in members}
    (found, *others), learnt = {depth_of(pictures, 2, True, least)[0] for least in known}, max(known)
    if others:
        each = ", ".join(f"{bits or 'unknown'} bits of {run}" for bits, run in known.items())
        raise InputError(f"{pictures[0][0]}: may be read at different depths: {each}. Give runs of one domain.")
    if learnt and found and found > learnt:
        print(
            f"warning: the micrographs fill {found} bits, and the model's training domain {learnt}: these are of "
            "another camera, so all are read as the former.",
            file=sys.stderr,
        )
    return found


def _refuse_to_overwrite(out: Path, folders: Sequence[Path], labels: Iterable[Path]) -> None:
    """Raise InputError where segmentations would replace what is none, such as masks that somebody has drawn.

    A segmentation makes all of its folders before it writes, and its table after that. So where there is no table, and
    one of the folders is missing, what is in the others is not its.
    """
    drawn = {place for label in labels for place in (label.parent.resolve(), label.resolve().parent)}
    ours = all(folder.is_dir() for folder in folders) or any((out / name).exists() for name in (_TABLE, DONE))
    for folder in folders:
        files = folder.iterdir() if folder.is_dir() and not ours else ()
        if folder.resolve() in drawn or any(not file.name.startswith(".") for file in files):
            raise InputError(
                f"{folder}: has files that are no earlier segmentation, and --out would write into it; give another "
                "--out"
            )


def _of_folder(folder: Path, options: argparse.Namespace, members: list[Member]) -> dict[Path, _Asked]:
    """List a folder's images, with the page and the scale that options, or the domain adapted to, ask of them all.

    InputError where the domains of several members differ in what no option says: the order of these would decide.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the micrographs")
    files = list_images(folder)
    left = Found(folder, None, ()).left(files)
    if not files:
        only = f", only {left}" * bool(left)
        raise InputError(f"{folder}: no image ({', '.join(SUFFIXES)}) in it{only}; give the folder of the micrographs")
    if left:
        print(f"remark: {folder}: not segmented: {left}", file=sys.stderr)
    found = {}
    for key, option in zip(SCALE, ("pixel_size", "information_bar"), strict=True):
        value, name = getattr(options, option), f"--{option.replace('_', '-')}"
        found[key] = _of_all(members, key, name) if value is None else value
        if found[key] is None:
            raise InputError(
                f"{name} is missing: a table had it of each micrograph of the domain. Give a number or file, or the "
                "domains.toml with --images-of."
            )
        found[name] = name if value is not None else f"{name} (not given, so the domain's)"
    given = Given(*(found[key] for key in (*SCALE, "--pixel-size", "--information-bar")))
    page = options.page or _of_all(members, "page", "--page")
    return {file: _Asked(file.stem, page, given) for file in files}


def _of_all(members: list[Member], key: str, option: str) -> float | Page:
    """Value that the micrographs of all members' domains have. InputError where they differ."""
    first, *others = ((member.run, member.preparation["native"].get(key)) for member in members)
    for run, value in others:
        if value != first[1]:
            raise InputError(
                f"{run}: the micrographs of its domain have {key} {value}, those of {first[0]} {first[1]}. Give "
                f"{option} of those to segment, or runs of one domain."
            )
    return first[1]


def _domain(path: Path, name: str) -> Domain:
    """Find a domain of a domains.toml."""
    _, domains = read_domains(path)
    if name not in domains:
        raise InputError(f"{path}: there is no domain {name} in it, only {', '.join(domains)}")
    return domains[name]


def _refuse_read_otherwise(path: Path, domain: Domain, member: Member, invert: bool | None) -> None:
    """Raise InputError where a run of another domain takes that one's polarity or grey levels, against domains.toml.

    Runs of the domain itself, and checkpoints of the judge (they have the source's levels), know better than the file.
    """
    if member.levels is not None or domain.name == (member.config.get("target") or member.config["source"]):
        return
    native, words = member.preparation["native"], f"{path}: domains.{domain.name}"
    if invert is None and domain.invert not in (AUTO, native["invert"]):
        raise InputError(
            f"{words}.invert = {str(domain.invert).lower()}, which {member.run} does not know of. Give --invert or "
            "--no-invert, or a run that was adapted to the domain."
        )
    if domain.match != native.get("match"):
        raise InputError(
            f"{words}.match: {member.run} does not know these grey levels. Give a run that was adapted to the domain, "
            "or a checkpoint of evaluation.gap."
        )


def _said(values: set[float | str], number: str, name: str) -> str:
    """A value that all micrographs have, as it is printed."""
    (value, *others) = values
    if others:
        return f"each its own {name}"
    return f"the {name} of each file" if value == FILE else number.format(value)


def _repeats(members: Sequence[Member], vote: bool = False) -> list[list[int]]:
    """Positions of the members whose mean is one repeat, for the models' spread.

    Each is one by itself. Where trainings of several kinds vote, those of one fold are: the kinds differ for a reason,
    and not by chance.
    """
    if vote or len({bool(one.config.get("target")) for one in members}) > 1:
        folds: dict[object, list[int]] = {}
        for k, one in enumerate(members):
            folds.setdefault(one.config.get("fold"), []).append(k)
        if len(set(map(len, folds.values()))) == 1:
            return list(folds.values())
    return [[k] for k in range(len(members))]


class _Table:
    """Rows of phase_fractions.csv: one for each micrograph, the last for all of them. repeats: as of `_repeats`."""

    def __init__(self, repeats: list[list[int]], classes: Sequence[str] = TWO_PHASES):
        self.repeats = repeats
        self.rows, self.noticed, self.reported = [], [], reported(classes)
        self.fields, self.models = ({end: [] for end in self.reported} for _ in range(2))

    def add(self, one: _Read, found: Segmentation) -> None:
        """Add a micrograph's row."""
        height, width = found.classes.shape
        row = {"file": one.name + one.suffix, "height": height, "width": width, "pixel_size_nm": one.pixel_size_nm}
        models = np.array([found.fractions[repeat].mean(0) for repeat in self.repeats])
        for end, phase in self.reported.items():
            self.fields[end].append(fields_of(found.classes, phase))
            self.models[end].append(models[:, phase])
            field = f"{FIELD} px" if len(self.fields[end][-1]) > 1 else "image"
            row |= _columns(Fraction.of(self.fields[end][-1], self.models[end][-1]), field, end)
            # Not the mean of the fields, which differ by some rows in size.
            row |= {f"phase_fraction{end}": float((found.classes == phase).mean())}
        sure = float(found.confidence.mean() / 255)
        self.rows.append(row | {"information_bar": one.information_bar, "confidence": sure})
        self.noticed.append(one.noticed)

    def write(self, path: Path) -> None:
        """Write the table, and print what it says of all micrographs."""
        if not self.rows:
            return
        again = repeats(self.noticed)
        once = [place for place, row in enumerate(self.rows) if row["file"] not in again]
        sure = float(np.mean([self.rows[place]["confidence"] for place in once]))
        pixel_size, bar = (agreed(row[key] for row in self.rows) for key in ("pixel_size_nm", "information_bar"))
        row = {"file": SPECIMEN, "height": None, "width": None, "pixel_size_nm": pixel_size}
        said = []
        for end in self.reported:
            whole, field = of_specimen(*([of[end][place] for place in once] for of in (self.fields, self.models)))
            row |= _columns(whole, field, end)
            said.append(f"{path}: {sentence(whole, field, end[1:])}")
        write_csv(path, [*self.rows, row | {"information_bar": bar, "confidence": sure}])
        print("\n".join(said))
        for warning in warnings_of(self.noticed):
            print(f"warning: {path}: {warning}", file=sys.stderr)


def _columns(fraction: Fraction, field: str, end: str) -> dict:
    return {
        f"phase_fraction{end}": fraction.mean,
        "fields": fraction.fields,
        "field": field,
        f"std_fields{end}": fraction.std,
        f"ci95{end}": fraction.ci95,
        f"relative_accuracy{end}": fraction.relative_accuracy,
        f"std_models{end}": fraction.std_models,
        f"ci95_with_models{end}": fraction.ci95_with_models,
    }


def _reduced(picture: np.ndarray) -> np.ndarray:
    factor = OVERLAY_SIDE / max(picture.shape)
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture
