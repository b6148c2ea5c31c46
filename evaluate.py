"""Score trained models on a domain's labelled micrographs, or segment a folder of micrographs without labels.

    python evaluate.py runs/T3.2/fold0 --data stores --domain t3                  # one run, or several in turn
    python evaluate.py runs/S.10/fold0 --data stores --domain source t1 t2 t3     # RDT needs the source's score first
    python evaluate.py runs/S.10/fold0 --data stores --domain t3 --adabn          # statistics of the domain itself
    python evaluate.py runs/T3.2/fold* --data stores --domain t3 --ensemble --out runs/T3.2/ensemble
    python evaluate.py runs/T3.2/fold0 --images lom --out segmented --pixel-size 126.6 --invert

A score goes to <run>/evaluation/<domain>/: score.json, images.csv, predictions/ and panels/. RDT needs the supervised
run's score on its source: evaluate that first.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

import models
from data.errors import InputError, exits_cleanly
from data.images import SUFFIXES, crop_information_bar, prepare_micrograph, read_image
from data.store import Store, store_path
from evaluation import scoring
from evaluation.figures import overlay
from evaluation.inference import predict, segment
from evaluation.metrics import rdt
from training.checkpoint import load_model

ADABN_BATCH = 16  # tiles
OVERLAY_SIDE = 2048  # px; a picture to look at, the mask has every pixel
SHARED = ("tile", "overlap", "scale", "reference_pixel_size_nm")


@dataclass
class Member:
    """A trained model with where it comes from. `label` is the checkpoint's name, mostly 'last'."""

    run: Path
    label: str
    model: torch.nn.Module
    config: dict
    preparation: dict
    step: int

    def predictor(self, device):
        """Micrograph uint8 (h, w) -> foreground probability float32 (h, w)."""
        cut = {key: self.preparation[key] for key in ("tile", "overlap")}
        return partial(predict, self.model, **cut, device=device)


def load_member(path, which, device):
    """Load a run folder's or a file's checkpoint onto the device."""
    model, state = load_model(path, which)
    path = Path(path)
    run, label = (path, which) if path.is_dir() else (path.parent, path.stem)
    model.to(device, memory_format=torch.channels_last)
    return Member(run, label, model, state["config"], state["preparation"], state["step"])


def fit_to_domain(member, store, adabn, device):
    """Choose the batch-norm statistics for a domain: its own after adaptation to it, or re-estimated (AdaBN)."""
    differing = [
        f"{key} {member.preparation[key]} in the checkpoint, {store.preparation[key]} in the store"
        for key in SHARED
        if member.preparation[key] != store.preparation[key]
    ]
    if differing:
        raise InputError(
            f"{store.path}: prepared otherwise than the data of {member.run} ({'; '.join(differing)}). "
            "Run data.prepare with the checkpoint's values."
        )
    trained_on = member.preparation.get("fingerprints", {}).get(store.domain, store.fingerprint)
    if trained_on != store.fingerprint:
        print(f"remark: {store.path} has changed since {member.run} was trained on it", file=sys.stderr)
    models.set_domain(member.model, "target" if member.config.get("target") == store.domain else "source")
    if adabn:
        tiles = store.training_tiles(member.config["fold"], labelled=False)
        if not any(isinstance(module, models.batchnorm.NORMS) for module in member.model.modules()):
            raise InputError(f"{member.run}: {member.config['model']} has no batch norm, --adabn changes nothing")
        if not len(tiles):
            raise InputError(f"{store.path}: no training tiles outside the test set, which --adabn needs")
        # Equal parts, because all batches weigh the same in the estimate.
        parts = np.array_split(tiles, -(-len(tiles) // ADABN_BATCH))
        progress = tqdm(parts, desc=f"statistics of {store.domain}", unit="batch")
        batches = (np.stack([store.tile_image(i) for i in part])[:, None] for part in progress)
        models.reestimate_statistics(member.model, (torch.from_numpy(batch).to(device) for batch in batches))


def score_members(members, domain, options, device):
    """Score each member on the domain, or all as one ensemble, and print the outcome."""
    path = store_path(options.data, domain)
    store, unlabelled = Store(path), Store(path, labels=False)
    for member in members:
        fit_to_domain(member, unlabelled, options.adabn, device)
    test_sets = [store.evaluation_micrographs(member.config["fold"]) for member in members]
    if not test_sets[0]:
        raise InputError(
            f"{path}: no labelled micrographs to score on. Name test micrographs in domains.toml, or segment "
            "with --images."
        )
    common = {"domain": store.domain, "store_fingerprint": store.fingerprint}
    if options.ensemble:
        if any(test_set != test_sets[0] for test_set in test_sets):
            raise InputError(
                f"{path}: the runs hold out different folds, so some have trained on what others are tested on. "
                "Ensembles are scored on a domain with a fixed test set."
            )
        variant = "ensemble.adabn" if options.adabn else "ensemble"
        predictor = scoring.ensemble([member.predictor(device) for member in members])
        facts = {**common, "variant": variant, **described(members)}
        references = [reference_of(member, store.domain, variant) for member in members]
        score_one(predictor, store, test_sets[0], Path(options.out), facts, references)
        return
    variant = "otsu" if options.otsu else "adabn" if options.adabn else "plain"
    scores = []
    for member, micrographs in zip(members, test_sets, strict=True):
        predictor = scoring.otsu_predictor if options.otsu else member.predictor(device)
        folder = scoring.score_folder(member.run, store.domain, member.label, variant)
        facts = {**common, "variant": variant, **described([member])}
        references = [reference_of(member, store.domain, variant)]
        scores.append(score_one(predictor, store, micrographs, folder, facts, references))
    if len(scores) > 1:
        miou = 100 * np.array([score["miou"] for score in scores], float)
        print(f"{len(scores)} runs: mIoU {miou.mean():.1f} ± {miou.std(ddof=1):.1f} %")


def described(members):
    """What score.json says about the models: one value where all agree, else None."""
    names = ("experiment", "model", "target", "seed", "fold")
    facts = {name: agreed(m.config.get(name) for m in members) for name in names}
    facts |= {"checkpoint": agreed(m.label for m in members), "step": agreed(m.step for m in members)}
    return facts | {"runs": [str(m.run) for m in members]}


def agreed(values):
    values = list(values)
    return values[0] if all(value == values[0] for value in values) else None


def reference_of(member, domain, variant):
    """(run, mIoU) that RDT is relative to: the matching supervised run on the source; mIoU None if not scored.

    Of a supervised run that is itself; its own plain score on the source is then being made: mIoU 'own'.
    """
    run = member.config.get("reference") or (None if member.config.get("target") else member.run)
    if run is None:
        print(f"remark: {member.run} names no --reference, so there is no RDT", file=sys.stderr)
        return None, None
    if Path(run) == member.run and domain == member.config["source"] and variant == "plain":
        return run, "own"
    config = Path(run) / "config.json"
    source = json.loads(config.read_text())["source"] if config.is_file() else member.config["source"]
    path = scoring.score_folder(run, source, member.label, "plain") / "score.json"
    if not path.is_file():
        print(f"remark: no RDT without {path}; evaluate {run} on {source} first", file=sys.stderr)
        return run, None
    return run, scoring.read_score(path)["miou"]


def score_one(predictor, store, micrographs, folder, facts, references):
    """Score one predictor, write its folder, print a line, return what score.json holds."""
    began = time.perf_counter()
    writer = scoring.ResultWriter(folder, len(micrographs), f"{facts['experiment']} ({facts['variant']})")
    pooled, rows = scoring.score(predictor, store, micrographs, f"{store.domain} {facts['variant']}", writer)
    known = [pooled.miou if miou == "own" else miou for _, miou in references]
    reference_miou = float(np.mean(known)) if None not in known else None
    relative = rdt(pooled.miou, reference_miou) if reference_miou else None
    score = writer.finish(
        facts
        | {"images": len(rows), "seconds": time.perf_counter() - began, "rdt": relative}
        | {"reference": agreed(run and str(run) for run, _ in references), "reference_miou": reference_miou},
        pooled,
        rows,
    )
    iou = pooled.iou()
    print(
        f"{folder}: mIoU {100 * pooled.miou:.1f} % (background {100 * iou['background']:.1f}, foreground "
        f"{100 * iou['foreground']:.1f}), RDT {'unknown' if relative is None else f'{100 * relative:+.1f} %'}, phase "
        f"fraction {100 * pooled.phase_fraction_predicted:.1f} % (label {100 * pooled.phase_fraction_label:.1f} %)"
    )
    return score


def segment_folder(members, options, device):
    """Segment every micrograph of a folder; masks 0/255 at native size, overlays and phase_fractions.csv.

    Broken files are named at the end, after the good ones are written.
    """
    folder, out = Path(options.images), Path(options.out)
    masks, overlays = out / "masks", out / "overlays"
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the micrographs")
    if folder.resolve() in {out.resolve(), masks.resolve(), overlays.resolve()}:
        raise InputError(f"{folder}: --out would write into the folder of the micrographs; give another --out")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise InputError(f"{folder}: no image ({', '.join(SUFFIXES)}) in it")
    preparation = members[0].preparation
    for member in members:
        if any(member.preparation[key] != preparation[key] for key in SHARED):
            raise InputError(f"{member.run}: its data was prepared otherwise than that of {members[0].run}")
        models.set_domain(member.model, "target" if member.config.get("target") else "source")
    reference = preparation["reference_pixel_size_nm"]
    pixel_size = options.pixel_size or reference
    factor = pixel_size / reference * preparation["scale"]
    cut = (preparation["tile"], preparation["overlap"])
    masks.mkdir(parents=True, exist_ok=True)
    overlays.mkdir(exist_ok=True)
    rows, failures, stems = [], [], set()
    for file in tqdm(files, desc=folder.name, unit="image"):
        try:
            if file.stem in stems:
                raise InputError(f"{file}: another image has this name with another ending; rename one")
            stems.add(file.stem)
            native = read_image(file)
            image = prepare_micrograph(native, factor, options.invert, options.information_bar)
            shape = crop_information_bar(native, options.information_bar).shape
            found = segment([member.model for member in members], image, *cut, shape, device)
            mask = np.zeros_like(native)
            mask[: shape[0]] = 255 * found
            scoring.write_png(masks / f"{file.stem}.png", mask)
            scoring.write_png(overlays / f"{file.stem}.png", overlay(*(_reduced(a) for a in (native, mask))))
        except InputError as error:
            message = str(error)
            failures.append(message if file.name in message else f"{file}: {message}")
            continue
        size = {"height": shape[0], "width": shape[1], "pixel_size_nm": pixel_size}
        rows.append({"file": file.name, **size, "phase_fraction": float(found.mean())})
    scoring.write_csv(out / "phase_fractions.csv", rows)
    print(f"{len(rows)} of {len(files)} images segmented: {out}")
    if failures:
        raise InputError("\n       ".join([f"{len(failures)} of {len(files)} images not segmented:", *failures]))


def _reduced(picture):
    factor = OVERLAY_SIDE / max(picture.shape)
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else picture


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN_OR_CHECKPOINT", help="run folder, or a .pt file")
    parser.add_argument("--checkpoint", choices=("last", "best"), default="last", help="of run folders")
    parser.add_argument("--ensemble", action="store_true", help="average the probabilities of all runs (bagging)")
    parser.add_argument("--out", help="folder to write to, with --ensemble or --images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group = parser.add_argument_group("score a domain")
    group.add_argument("--domain", nargs="+", help="whose labelled test micrographs are scored; several in turn")
    group.add_argument("--data", default="stores", help="folder of tile stores (default: stores)")
    group.add_argument("--adabn", action="store_true", help="batch-norm statistics from the domain's training tiles")
    group.add_argument("--otsu", action="store_true", help="score Otsu's threshold instead: the floor")
    group = parser.add_argument_group("segment micrographs without labels")
    group.add_argument("--images", help="folder of micrographs (tif, png, jpg, bmp)")
    group.add_argument("--pixel-size", type=float, metavar="NM", help="if it is not that of the training source")
    group.add_argument("--invert", action="store_true", help="bright-field images")
    group.add_argument("--information-bar", type=int, default=0, metavar="PX", help="rows at the bottom to ignore")
    options = parser.parse_args()
    if bool(options.domain) == bool(options.images):
        parser.error("give either --domain or --images")
    if bool(options.ensemble or options.images) != bool(options.out):
        parser.error("--out goes with --ensemble or --images, and these need it")
    if options.images and (options.adabn or options.otsu):
        parser.error("--adabn and --otsu score a --domain")
    if options.domain and (options.pixel_size or options.invert or options.information_bar):
        parser.error("--pixel-size, --invert and --information-bar go with --images; a store has them already")
    if options.ensemble and options.domain and len(options.domain) > 1:
        parser.error("--ensemble scores one --domain at a time")
    if options.otsu and (options.adabn or options.ensemble):
        parser.error("--otsu uses no model: not with --adabn or --ensemble")
    if options.images and len(options.runs) > 1 and not options.ensemble:
        parser.error("several runs segment --images together: add --ensemble")
    if options.information_bar < 0 or (options.pixel_size is not None and not 0 < options.pixel_size < 1e6):
        parser.error("--information-bar counts rows from 0, --pixel-size is a positive number of nm")
    return options


@exits_cleanly
def main():
    options = parse()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: cannot be used ({str(error).splitlines()[0]})") from error
    for domain in options.domain or [None]:
        # Loaded anew for each domain, because --adabn changes the models.
        members = [load_member(path, options.checkpoint, device) for path in options.runs]
        if domain:
            score_members(members, domain, options, device)
        else:
            segment_folder(members, options, device)


if __name__ == "__main__":
    main()
