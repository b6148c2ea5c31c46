"""Score trained models on a domain's labelled micrographs, or segment a folder of micrographs without labels.

    python evaluate.py runs/T3.2/fold0 --data stores --domain t3                  # one run, or several in turn
    python evaluate.py runs/S.10/fold0 --data stores --domain source t1 t2 t3     # RDT needs the source's score first
    python evaluate.py runs/S.10/fold0 --data stores --domain t3 --adabn          # statistics of the domain itself
    python evaluate.py runs/S.10/fold0 --data stores --domain t3 --tta --adabn-by-image 0.3      # docs/methods.md
    python evaluate.py runs/S.10/fold0 --data stores --domain source t1 --gradcam     # where the model looks
    python evaluate.py runs/T3.2/fold* --data stores --domain t3 --ensemble --out runs/T3.2/ensemble.t3
    python evaluate.py runs/DACS-t3/fold0 --data stores --domain t3 --network teacher    # of a self-training
    python evaluate.py --experiment T1.4 --fold 0 --checkpoint epoch100           # a row of the study's tables
    python evaluate.py runs/T3.2/fold0 --images lom --out segmented --pixel-size 126.6 --invert
    python evaluate.py runs/chosen/t3/choice.json --images lom --out segmented     # what evaluation.choose has chosen

A score goes to <run>/evaluation/<domain>/: score.json, images.csv, predictions/ and panels/. RDT needs the supervised
run's score on its source: evaluate that first.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from common.arguments import first_contradiction, given_options, number, share, whole
from common.errors import InputError, exits_cleanly
from data.selection_file import Selection, read_selection
from data.store import Store, store_path
from data.table import FILE, page_of
from data.tiff import Page
from evaluation import gradcam, scoring
from evaluation.figures import fractions_text
from evaluation.floors import majority_floor, otsu_floor
from evaluation.members import (
    Member,
    Reference,
    agreed,
    chosen_runs,
    described,
    fit_to_domain,
    generalization_row,
    has_seen,
    load_member,
    reference_of,
    refuse_trained_on,
    require_batch_norm,
    require_once,
)
from evaluation.metrics import rdt
from evaluation.scoring import Predictor
from evaluation.segment_folder import segment_folder
from training.device import choose_algorithms, choose_device
from training.experiments import EXPERIMENTS
from training.tracking import default_wandb_mode, record_score, variant_of

FLOORS = {"otsu": otsu_floor, "majority": majority_floor}
_NATIVE = "--pixel-size, --invert, --information-bar and --page go with --images; a store has them already"
_OUT = "--out goes with --ensemble or --images, and these need it"
# An option, those of which it needs one, and what is said where none of them is given.
NEEDS = {
    ("dry_run", "experiment"): "--dry-run goes with --experiment",
    ("fold", "experiment"): "--fold goes with --experiment; a run folder has its fold",
    ("runs", "domain", "images"): "give either --domain or --images",
    ("out", "ensemble", "images"): _OUT,
    ("ensemble", "out"): _OUT,
    ("images", "out"): _OUT,
    ("layer", "gradcam"): "--layer goes with --gradcam",
    ("phase", "gradcam"): "--phase goes with --gradcam",
    ("pixel_size", "images"): _NATIVE,
    ("invert", "images"): _NATIVE,
    ("information_bar", "images"): _NATIVE,
    ("page", "images"): _NATIVE,
    ("images_of", "images"): "--images-of goes with --images",
}
# An option, those that it excludes, and what is said where one of them is given too.
EXCLUDES = {
    ("runs", "experiment"): "give either runs or --experiment",
    ("experiment", "domain", "images", "ensemble"): (
        "--experiment says which run and domain: not with --domain, --images or --ensemble"
    ),
    ("domain", "images"): "give either --domain or --images",
    ("network", "otsu", "majority"): "--otsu and --majority use no model: not with --network",
    ("images", "adabn", "otsu", "majority", "selection", "gradcam"): (
        "--adabn, --otsu, --majority, --selection and --gradcam go with --domain"
    ),
    ("images_of", "pixel_size", "information_bar", "page"): (
        "--images-of: domains.toml says scale and page of each micrograph; not with --pixel-size, --information-bar or "
        "--page"
    ),
    ("selection", "adabn", "otsu", "majority", "ensemble", "tta", "adabn_by_image"): (
        "--selection scores the runs as they are: not with --adabn, --adabn-by-image, --tta, --otsu, --majority or "
        "--ensemble"
    ),
    ("gradcam", "otsu", "majority", "ensemble", "tta", "adabn_by_image"): (
        "--gradcam looks into one model as it is: not with --otsu, --majority, --ensemble, --tta or --adabn-by-image"
    ),
    ("otsu", "adabn", "ensemble", "tta", "adabn_by_image"): (
        "--otsu uses no model: not with --adabn, --adabn-by-image, --tta or --ensemble"
    ),
    ("majority", "otsu", "adabn", "ensemble", "tta", "adabn_by_image"): (
        "--majority uses no model: not with --otsu, --adabn, --adabn-by-image, --tta or --ensemble"
    ),
    ("adabn_by_image", "adabn"): "--adabn is of the domain, --adabn-by-image of each micrograph: give one of them",
}
_nanometres = number(float, lambda value: 0 < value < 1e6, "a positive number of nm below a million, nor `file`")


def pixel_size(text: str) -> float | str:
    """Nanometres, or what each file says."""
    return text if text == FILE else _nanometres(text)


def information_bar(text: str) -> int | str:
    """Rows, or what each file says."""
    return text if text == FILE else whole(text)


def page(text: str) -> Page:
    """Which picture of a file with several."""
    try:
        return page_of(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is not {error}") from None


def score_members(members: list[Member], domain: str, options: argparse.Namespace, device: torch.device) -> None:
    """Score each member on the domain, or all as one ensemble, and print the outcome."""
    path = store_path(options.data, domain)
    store, unlabelled = Store(path), Store(path, labels=False)
    for member in members:
        fit_to_domain(member, unlabelled, options.adabn, device)
    test_sets = [store.evaluation_micrographs(member.config["fold"]) for member in members]
    selection = read_selection(options.selection, store) if options.selection else None
    if selection:
        test_sets = [_selected(selection, store)] * len(members)
    if not test_sets[0]:
        raise InputError(
            f"{path}: no labelled micrographs to score on. Name test micrographs in domains.toml, or segment "
            "with --images."
        )
    common = {"domain": store.domain, "store_fingerprint": store.fingerprint}
    if options.ensemble and any(test_set != test_sets[0] for test_set in test_sets):
        raise InputError(
            f"{path}: the runs hold out different folds, so some have trained on what others are tested on. "
            "Ensembles are scored on a domain with a fixed test set."
        )
    for member, micrographs in zip(members, test_sets, strict=True):
        refuse_trained_on(member, store, micrographs)
    parts = [options.network] if options.network != "model" else []
    parts += [name for name in (*FLOORS, "ensemble", "adabn") if getattr(options, name)]
    parts += [f"adabn-image-{options.adabn_by_image:g}"] if options.adabn_by_image else []
    variant = ".".join([*parts, *(["tta"] if options.tta else [])]) or "plain"
    floor = next((FLOORS[name] for name in FLOORS if getattr(options, name)), None)
    seen = [not floor and has_seen(member, store, scored) for member, scored in zip(members, test_sets, strict=True)]
    if options.ensemble:
        predictor = scoring.ensemble([member.predictor(device) for member in members])
        facts = {**common, "variant": variant, **described(members, any(seen))}
        references = [reference_of(member, store.domain, variant) for member in members]
        score_one(predictor, store, test_sets[0], Path(options.out), facts, references, options)
        return
    if selection:
        variant = ".".join([*parts, f"selected-{selection.name}"])
    scores = []
    for member, micrographs, transductive in zip(members, test_sets, seen, strict=True):
        predictor = floor(store, micrographs) if floor else member.predictor(device)
        folder = scoring.score_folder(member.run, store.domain, member.label, variant)
        facts = {**common, "variant": variant, **described([member], transductive)}
        facts |= {"step": None, "steps": None} if floor else {}  # it is of no model
        references = [reference_of(member, store.domain, variant)]
        scores.append(score_one(predictor, store, micrographs, folder, facts, references, options))
        if options.gradcam:
            gradcam.write_maps(member, store, micrographs, folder, options.layer, device, options.phase)
    if len(scores) > 1:
        miou = 100 * np.array([score["miou"] for score in scores], float)
        print(f"{len(scores)} runs: mIoU {miou.mean():.1f} ± {miou.std(ddof=1):.1f} %")


def _selected(selection: Selection, store: Store) -> list[int]:
    """Indices of the micrographs that a selection names. InputError where it has none."""
    if not selection.micrographs:
        raise InputError(f"{selection.name}: the selection names no micrographs of {store.domain}, only training tiles")
    return [micrograph.index for micrograph in store.micrographs if micrograph.name in set(selection.micrographs)]


def score_one(
    predictor: Predictor,
    store: Store,
    micrographs: list[int],
    folder: Path,
    facts: dict,
    references: list[Reference],
    options: argparse.Namespace,
) -> dict:
    """Score one predictor, write its folder, print a line, return what score.json holds."""
    began = time.perf_counter()
    name = f"{facts['experiment']} ({variant_of(facts)})"
    writer = scoring.ResultWriter(folder, len(micrographs), name, store.classes)
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
    of_phases = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in zip(store.classes, pooled.iou(), strict=True))
    fractions = ",".join(fractions_text(pooled, store.classes))
    seen = "transductive, " if facts["transductive"] else ""
    print(
        f"{folder}: {seen}mIoU {100 * pooled.miou:.1f} % ({of_phases}), RDT "
        f"{'unknown' if relative is None else f'{100 * relative:+.1f} %'}, phase fraction{fractions}",
        flush=True,
    )
    record_score(folder, score, options.wandb or default_wandb_mode(), options.wandb_project)
    return score


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", default=[], metavar="RUN_OR_CHECKPOINT",
                        help="run folder, a .pt file, or a choice.json of evaluation.choose")  # fmt: skip
    parser.add_argument("--checkpoint", help="of run folders: last (default), best, or a milestone like epoch100")
    parser.add_argument("--network", choices=("model", "teacher"), default="model",
                        help="of a self-training: the teacher instead (default: model)")  # fmt: skip
    parser.add_argument("--ensemble", action="store_true", help="average the probabilities of all runs (bagging)")
    parser.add_argument("--out", help="folder to write to, with --ensemble or --images")
    parser.add_argument("--tta", action="store_true", help="average over flips and quarter turns: eight times the work")
    parser.add_argument("--adabn-by-image", type=share, metavar="SHARE",
                        help="statistics of each micrograph, mixed with this share into the model's own")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group = parser.add_argument_group("a row of the study's tables")
    group.add_argument("--experiment", help="generalization row (T1.4): scores its supervised run on its domain")
    group.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="file of experiments")
    group.add_argument("--fold", type=int, help="of the --experiment's run (default: 0)")
    group.add_argument("--dry-run", action="store_true", help="print the --experiment as JSON and stop")
    group = parser.add_argument_group("score a domain")
    group.add_argument("--domain", nargs="+", help="whose labelled test micrographs are scored; several in turn")
    group.add_argument("--data", default="stores", help="folder of tile stores (default: stores)")
    group.add_argument("--adabn", action="store_true", help="batch-norm statistics from the domain's training tiles")
    group.add_argument("--otsu", action="store_true", help="score Otsu's threshold instead: the floor")
    group.add_argument("--majority", action="store_true", help="score the most frequent phase, everywhere, instead")
    group.add_argument("--selection", metavar="FILE", help="score only the micrographs that this file names")
    group.add_argument("--gradcam", action="store_true", help="maps of what a phase is recognised by")
    group.add_argument("--phase", metavar="NAME", help="of --gradcam (default, of two phases: the foreground)")
    group.add_argument("--layer", help="of --gradcam (default: ResNet's backbone.layer3 or what corresponds)")
    group.add_argument("--wandb", choices=("online", "offline", "disabled"), help="default: online with a key")
    group.add_argument("--wandb-project", default="microstructure-adaptation")
    group = parser.add_argument_group("segment micrographs without labels")
    group.add_argument("--images", help="folder of micrographs (tif, png, jpg, bmp), or a domains.toml. An adapted run "
                       "takes those of a folder for its target's")  # fmt: skip
    group.add_argument("--images-of", metavar="DOMAIN",
                       help="of that domains.toml, each micrograph with its own scale. An adapted run has the source's "
                       "statistics for all but its target")  # fmt: skip
    group.add_argument("--pixel-size", type=pixel_size, metavar="NM",
                       help="or `file`: what each file says; default: that of the domain adapted to")  # fmt: skip
    group.add_argument("--invert", action=argparse.BooleanOptionalAction, help="bright field; default likewise")
    group.add_argument("--information-bar", type=information_bar, metavar="PX",
                       help="rows at the bottom to ignore, or `file`; likewise")  # fmt: skip
    group.add_argument("--page", type=page, help='of files with several: its number, "image" or "largest"; likewise')
    return parser


def parse() -> argparse.Namespace:
    """Read the command line. A generalization row becomes its run and domain; --dry-run prints it and exits."""
    parser = build_parser()
    options = parser.parse_args()
    options.vote = False
    if any(Path(run).name == "choice.json" for run in options.runs):
        expanded = [_expanded(Path(run)) for run in options.runs]
        options.runs = [one for runs, _ in expanded for one in runs]
        options.ensemble = options.ensemble or (bool(options.images) and len(options.runs) > 1)
        options.vote = any(vote for _, vote in expanded)
        if options.domain and not options.ensemble and options.vote:
            parser.error("several kinds of models vote in choice.json: add --ensemble, or give the runs of one kind")
    _require(parser, options)
    options.checkpoint = options.checkpoint or "last"
    if options.experiment:
        row = generalization_row(options.experiments, options.experiment, options.fold or 0, options.checkpoint)
        if options.dry_run:
            print(json.dumps(row))
            sys.exit(0)
        options.runs, options.domain = [row["run_dir"]], [row["domain"]]
    return options


def _expanded(run: Path) -> tuple[list[str], bool]:
    return chosen_runs(run) if run.name == "choice.json" else ([str(run)], False)


def _require(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with a message where options contradict each other or one is missing."""
    contradiction = first_contradiction(given_options(parser, options), NEEDS, EXCLUDES)
    if contradiction:
        parser.error(contradiction)
    if not options.runs and not options.experiment:
        parser.error(EXCLUDES["runs", "experiment"])
    files = [run for run in options.runs if Path(run).is_file()]
    if files and options.checkpoint:
        parser.error(f"--checkpoint names one of a run folder's, and {files[0]} is a checkpoint itself")
    if options.ensemble and options.domain and len(options.domain) > 1:
        parser.error("--ensemble scores one --domain at a time")
    if options.images and len(options.runs) > 1 and not options.ensemble:
        parser.error("several runs segment --images together: add --ensemble")


@exits_cleanly
def main() -> None:
    options = parse()
    choose_algorithms(deterministic=False, amp="off")  # inference is in float32
    device = choose_device(options.device)
    for domain in options.domain or [None]:
        # Loaded anew for each domain, because --adabn changes the models.
        members = [load_member(path, options.checkpoint, device, options.network) for path in options.runs]
        if options.ensemble:
            require_once(options.runs)
        for member in members:
            member.tta, member.image_share = options.tta, options.adabn_by_image
            if options.adabn_by_image:
                require_batch_norm(member, "--adabn-by-image")
        if domain:
            score_members(members, domain, options, device)
        else:
            segment_folder(members, options, device, options.vote)


if __name__ == "__main__":
    main()
