"""The command line of the training scripts: typed, grouped, with an experiment's values as defaults."""

import argparse
import json
import os
import sys
from functools import cache

import models
from common.arguments import not_negative, positive, share, whole
from common.errors import InputError, require_file_name
from data.augmentation import POLICIES
from data.nanosem.image_store import ImageStore, image_store_path
from data.selection_file import selection_digest
from data.store import Store, store_path
from training.experiments import EXPERIMENTS, FACTS, read_experiments, runs_root
from training.precision import PRECISIONS
from training.schedule import SCHEDULES
from training.tracking import default_wandb_mode
from training.weights import weights_digest

NANOSEM_IMAGES = 15_000  # the study's for training (paper Section 2.4.2): --dry-run needs no data


def parse(script: str, base: str, description: str, argv: list[str] | None = None) -> dict:
    """The resolved configuration of a run: a flat dict, option names with underscores, plus `iterations`.

    `script` names the calling script; `base` is the experiment whose values hold where none is asked for. With
    --dry-run it is printed as one JSON object and the process exits. InputError on values that cannot be.
    """
    parser = _parser(script, description)
    asked, _ = parser.parse_known_args(argv)
    experiments = read_experiments(asked.experiments)
    name, values = _choose(script, base, asked, experiments)
    require_file_name(name, "the experiment, named after its domains")
    parser.set_defaults(**_defaults(parser, values, f"{asked.experiments}: {name!r}"))
    config = vars(parser.parse_args(argv))
    if "target" in config and not (asked.target or (asked.experiment and config["target"])):
        parser.error("give --target DOMAIN (or an --experiment that has one)")
    if asked.epochs and asked.steps:
        parser.error("--epochs and --steps both say how long to train: give one of them")
    if asked.epochs:  # explicit epochs win over an experiment's steps
        config["steps"] = None
    dry_run = config.pop("dry_run")
    if not asked.milestones:  # an experiment's milestones count in its own epochs
        config["milestones"] = [e for e in config["milestones"] if not config["steps"] and e <= config["epochs"]]
    config = {"script": script, **config, "experiment": name}
    experiments_file = config.pop("experiments")
    runs = runs_root(experiments_file)
    place = f"{runs}/{name}/fold{config['fold']}" if "fold" in config else f"{runs}/{name}"
    config["run_dir"] = config["run_dir"] or place
    config["wandb"] = config["wandb"] or default_wandb_mode()
    if script == "pretrain_nanosem":
        study_tiles = NANOSEM_IMAGES
    else:
        # The study's, or the demo's, domains.
        known = config["source"] == values["source"] and name != _named_after(config)
        if known and "reference" in values and not config["reference"]:
            config["reference"] = f"{runs}/{values['reference']}/fold{config['fold']}"
        study_tiles = values.get("source_tiles") if known else None
    _check(config)
    counted = not config["steps"] or not config["validate_every"] or config["milestones"]
    examples = _examples(config, study_tiles) if counted else None

    def updates(epochs: int) -> int:
        return max(1, epochs * examples // config["batch_size"])

    config["iterations"] = config["steps"] or updates(config["epochs"])
    config["validate_every"] = config["validate_every"] or updates(1)
    # Steps as text, because a configuration is JSON.
    config["milestone_steps"] = {str(updates(epoch)): f"epoch{epoch}" for epoch in config["milestones"]}
    late = [name for step, name in config["milestone_steps"].items() if int(step) > config["iterations"]]
    if late:
        raise InputError(f"--milestones: {', '.join(late)} come after the last of {config['iterations']} updates.")
    if "selection" in config:
        config["selection_digest"] = selection_digest(config["selection"])
    nanosem = config["pretraining"] == "nanosem"
    config["pretraining_file"] = f"{runs}/NanoSEM/encoder.pt" if nanosem else None
    if dry_run:
        if os.environ.get("RANK", "0") == "0":  # one object, whatever the number of processes
            print(json.dumps(config))
        sys.exit(0)
    if nanosem:
        study = "" if experiments_file == EXPERIMENTS else f"STUDY={experiments_file} "
        config["pretraining_digest"] = weights_digest(config["pretraining_file"], f"{study}launch/pretrain.sh")
    return config


@cache
def values_of(experiment: str) -> dict:
    """The value of every option that one of the study's trained experiments has, by name."""
    entry = read_experiments()[experiment]
    parser = _parser(entry["script"], "")
    parser.set_defaults(**_defaults(parser, entry, experiment))
    return vars(parser.parse_args([]))


def _choose(script: str, base: str, asked: argparse.Namespace, experiments: dict) -> tuple[str, dict]:
    """The experiment asked for; else the study's for this source and target; else the base's values for new domains."""
    if asked.experiment:
        if asked.experiment not in experiments:
            raise InputError(f"--experiment {asked.experiment}: unknown. There are: {', '.join(experiments)}.")
        values = experiments[asked.experiment]
        if values["script"] != script:
            raise InputError(f"--experiment {asked.experiment} belongs to {values['script']}.py, this is {script}.py.")
        return asked.experiment, values
    if script == "pretrain_nanosem":
        return base, experiments[base]
    target = getattr(asked, "target", None)
    source = asked.source or experiments[base]["source"]
    for name in (base, *experiments):
        values = experiments[name]
        same = values["script"] == script and values.get("source") == source and values.get("target") == target
        if same and not name.startswith("demo."):
            return name, values
    return _named_after({"source": source, "target": target}), experiments[base]


def _defaults(parser: argparse.ArgumentParser, values: dict, where: str) -> dict:
    """An experiment's values, read as their options read words. InputError for what these would refuse."""
    values, words = {key: value for key, value in values.items() if key not in FACTS}, []
    for key, value in values.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, list):
            words += [option, *map(str, value)]
        elif value is not False:
            words.append(option if value is True else f"{option}={value}")

    def refuse(message: str) -> None:
        raise InputError(f"{where}: {message}. --help lists the options.")

    parser.error = refuse
    parsed, unknown = parser.parse_known_args(words)
    del parser.error
    if unknown:
        refuse(f"{', '.join(unknown)} is no option of {parser.prog}")
    return {key: getattr(parsed, key) for key in values}


def _named_after(domains: dict) -> str:
    """The experiment's name where the domains are the user's own."""
    return f"{domains['source']}-{domains.get('target') or 'supervised'}"


def _parser(script: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{script}.py", description=description, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    classification = script == "pretrain_nanosem"

    group = parser.add_argument_group("experiment")
    group.add_argument("--experiment", help="take the values of this entry of launch/experiments.toml")
    group.add_argument("--experiments", default=EXPERIMENTS, metavar="FILE", help="where experiments stand")
    group.add_argument("--dry-run", action="store_true", help="print the configuration as JSON and stop")
    group.add_argument("--seed", type=whole, default=0, help="of initialisation, batches and augmentation")
    folder = "runs/<experiment>" if classification else "runs/<experiment>/fold<k>"
    group.add_argument("--run-dir", help=f"folder of the run; by default {folder}")

    if classification:
        _add_images(parser)
    else:
        group.add_argument(
            "--reference", help="supervised source run that RDT is measured against; without UDA: this run"
        )
        _add_domains(parser, adapting=script == "train_uda")
    _add_model(parser, classification)
    _add_optimisation(parser, classification)
    if script == "train_uda":
        _add_adaptation(parser)
    _add_record(parser, classification)
    return parser


def _add_images(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", default="nanosem", help="store from data.nanosem, or the folder of classes that it stands beside"
    )
    group.add_argument("--workers", type=whole, default=2, help="loader processes")


def _add_domains(parser: argparse.ArgumentParser, adapting: bool) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="stores", help="folder of tile stores, from data.prepare")
    group.add_argument("--source", help="annotated domain")
    if adapting:
        group.add_argument("--target", help="domain to adapt to; its masks are never read")
        group.add_argument("--selection", metavar="FILE", help="adapt to these tiles only, from evaluation.selection")
        group.add_argument("--transductive", action="store_true", help="adapt to images of the target's test set too")
    group.add_argument("--fold", type=int, default=0, help="source micrographs held out for validation and test")
    group.add_argument("--augmentation", choices=POLICIES)
    group.add_argument("--workers", type=whole, default=2, help="loader processes for each domain")


def _add_model(parser: argparse.ArgumentParser, classification: bool) -> None:
    group = parser.add_argument_group("model")
    if classification:
        group.add_argument("--model", choices=models.UNETS, help="whose encoder is trained")
        group.add_argument("--pretraining", help="random, imagenet, or a file: a torchvision backbone")
        group.add_argument("--dropout", type=share, default=0.5, help="share of the pooled features")
        return
    group.add_argument("--model", choices=models.MODELS)
    group.add_argument(
        "--pretraining",
        help="random, imagenet, nanosem (by pretrain_nanosem.py), or a file: a torchvision backbone or a checkpoint",
    )
    group.add_argument(
        "--batch-norm", choices=("sync", "local", "frozen"), default="sync",
        help="statistics over all processes (on the CPU: of each process), of each process, or never updated",
    )  # fmt: skip


def _add_optimisation(parser: argparse.ArgumentParser, classification: bool) -> None:
    group = parser.add_argument_group("optimisation")
    examples = "images" if classification else "source tiles"
    group.add_argument("--epochs", type=positive, help=f"passes over the {examples}")
    group.add_argument("--steps", type=positive, help="updates, instead of --epochs")
    batch = "images" if classification else "tiles of each domain"
    group.add_argument("--batch-size", type=positive, help=f"{batch} in an update, over all processes")
    group.add_argument(
        "--micro-batch", type=positive, metavar="COUNT",
        help="a process takes its share of the batch in parts of this many, to save memory; by default at once. Batch "
        "norm sees one part at a time",
    )  # fmt: skip
    rate = "of all layers" if classification else "of the heads"
    group.add_argument("--learning-rate", type=not_negative, help=rate)
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--power", type=not_negative, default=0.9, help="of the polynomial schedule")
    if not classification:
        group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
        group.add_argument("--backbone-factor", type=not_negative, default=0.1, help="backbone's share of the rate")
        group.add_argument("--weight-decay", type=not_negative, default=0.0)
        group.add_argument("--lambda-aux", type=not_negative, default=0.1, help="weight of the auxiliary head's loss")
    group.add_argument("--amp", choices=PRECISIONS, default="bf16", help="mixed precision")
    group.add_argument("--compile", action="store_true", help="torch.compile the networks")
    group.add_argument(
        "--deterministic", action="store_true",
        help="algorithms that give the same bits again, slower on GPUs; the CPU's always do",
    )  # fmt: skip


def _add_adaptation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adaptation")
    group.add_argument("--gan", choices=("vanilla", "least_squares"), default="vanilla")
    group.add_argument("--lambda-adv-main", type=not_negative, default=1e-3, help="0 for a control run")
    group.add_argument("--lambda-adv-aux", type=not_negative, default=2e-4)
    group.add_argument("--discriminator-learning-rate", type=not_negative, default=1e-4)
    group.add_argument("--discriminator-width", type=positive, default=64)
    group.add_argument(
        "--discriminator-patch", type=positive, metavar="SIDE",
        help="show the discriminators patches of like phase fraction, SIDE pixels wide, instead of whole tiles",
    )  # fmt: skip


def _add_record(parser: argparse.ArgumentParser, classification: bool) -> None:
    group = parser.add_argument_group("record")
    group.add_argument("--log-every", type=positive, default=20, help="steps")
    if classification:
        group.add_argument("--validate-every", type=positive, help="steps between tests; by default an epoch")
    else:
        group.add_argument("--validate-every", type=positive, default=500, help="steps")
        group.add_argument("--panels-every", type=positive, default=2000, help="steps between pictures of predictions")
    group.add_argument("--checkpoint-every", type=positive, default=500, help="steps")
    group.add_argument(
        "--milestones", type=positive, nargs="*", default=[], metavar="EPOCH", help="keep the model after these epochs"
    )
    group.add_argument("--wandb", choices=("online", "offline", "disabled"), help="default: online with a key")
    group.add_argument("--wandb-project", default="microstructure-adaptation")


def _check(config: dict) -> None:
    if config["script"] == "pretrain_nanosem":
        if config["pretraining"] == "nanosem":
            raise InputError("--pretraining nanosem: is what this script makes. Give imagenet, random or a file.")
        return
    if config["fold"] < 0:
        raise InputError(f"--fold {config['fold']}: folds count from 0.")
    if config["script"] == "train_uda" and config["model"] in models.UNETS:
        raise InputError(f"--model {config['model']}: has no auxiliary head to adapt. Give a deeplabv2 model.")
    if config.get("selection") and config["transductive"]:
        raise InputError("--transductive: not with --selection, which holds no tile of the test set. Give one of them.")
    if config.get("target") == config["source"]:
        raise InputError(f"--target {config['target']}: is the source too. Give another domain.")


def _examples(config: dict, study_examples: int | None) -> int:
    """What an epoch counts: training tiles or images of the store where it exists, the study's number otherwise."""
    classification = config["script"] == "pretrain_nanosem"
    path = image_store_path(config["data"]) if classification else store_path(config["data"], config["source"])
    if not path.exists():
        if study_examples:
            return study_examples
        raise InputError(f"{path}: no such store, so --epochs has no meaning. Run data.prepare, or give --steps.")
    if classification:
        return len(ImageStore(path).split(config["seed"])[0])
    return len(Store(path).training_tiles(config["fold"], labelled=True))
