"""The command line of the training scripts: typed, grouped, with an experiment's values as defaults."""

import argparse
import json
import math
import os
import sys
import tomllib
from pathlib import Path

import models
from data.augmentation import POLICIES
from data.errors import InputError
from data.store import Store, store_path
from training.precision import PRECISIONS
from training.schedule import SCHEDULES
from training.tracking import default_wandb_mode

EXPERIMENTS = Path(__file__).parent.parent / "launch" / "experiments.toml"
_NOT_OPTIONS = {"script", "extends", "source_tiles", "reference"}


def parse(script: str, base: str, description: str, argv: list[str] | None = None) -> dict:
    """The resolved configuration of a run: a flat dict, option names with underscores, plus `iterations`.

    `script` names the calling script; `base` is the experiment whose values hold where none is asked for. With
    --dry-run it is printed as one JSON object and the process exits. InputError on values that cannot be.
    """
    parser = _parser(script, description)
    asked, _ = parser.parse_known_args(argv)
    experiments = read_experiments()
    name, values = _choose(script, base, asked, experiments)
    parser.set_defaults(**{key: value for key, value in values.items() if key not in _NOT_OPTIONS})
    config = vars(parser.parse_args(argv))
    if "target" in config and config["target"] is None:
        parser.error("give --target DOMAIN (or an --experiment that has one)")
    if asked.epochs and not asked.steps:  # explicit epochs win over an experiment's steps
        config["steps"] = None
    dry_run = config.pop("dry_run")
    config = {"script": script, **config, "experiment": name}
    config["run_dir"] = config["run_dir"] or f"runs/{name}/fold{config['fold']}"
    config["wandb"] = config["wandb"] or default_wandb_mode()
    known = config["source"] == values["source"] and name != _named_after(config)  # the study's, or the demo's, domains
    if known and "reference" in values and not config["reference"]:
        config["reference"] = f"runs/{values['reference']}/fold{config['fold']}"
    _check(config)
    config["iterations"] = config["steps"] or _iterations(config, values.get("source_tiles") if known else None)
    if dry_run:
        if os.environ.get("RANK", "0") == "0":  # one object, whatever the number of processes
            print(json.dumps(config))
        sys.exit(0)
    return config


def read_experiments(path: Path = EXPERIMENTS) -> dict[str, dict]:
    """All experiments with what they extend filled in. InputError on a name that is not there."""
    raw = tomllib.loads(path.read_text())

    def resolve(name: str) -> dict:
        if name not in raw:
            raise InputError(f"{path}: no experiment {name!r}. There are: {', '.join(raw)}.")
        entry = raw[name]
        return {**(resolve(entry["extends"]) if "extends" in entry else {}), **entry}

    return {name: resolve(name) for name in raw}


def _choose(script: str, base: str, asked: argparse.Namespace, experiments: dict) -> tuple[str, dict]:
    """The experiment asked for; else the study's for this source and target; else the base's values for new domains."""
    if asked.experiment:
        if asked.experiment not in experiments:
            raise InputError(f"--experiment {asked.experiment}: unknown. There are: {', '.join(experiments)}.")
        values = experiments[asked.experiment]
        if values["script"] != script:
            raise InputError(f"--experiment {asked.experiment} belongs to {values['script']}.py, this is {script}.py.")
        return asked.experiment, values
    target = getattr(asked, "target", None)
    source = asked.source or experiments[base]["source"]
    for name in (base, *experiments):
        values = experiments[name]
        same = values["script"] == script and values["source"] == source and values.get("target") == target
        if same and not name.startswith("demo."):
            return name, values
    return _named_after({"source": source, "target": target}), experiments[base]


def _named_after(domains: dict) -> str:
    """The experiment's name where the domains are the user's own."""
    return f"{domains['source']}-{domains.get('target') or 'supervised'}"


def _parser(script: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{script}.py", description=description, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    uda = script == "train_uda"

    group = parser.add_argument_group("experiment")
    group.add_argument("--experiment", help="take the values of this entry of launch/experiments.toml")
    group.add_argument("--dry-run", action="store_true", help="print the configuration as JSON and stop")
    group.add_argument("--seed", type=_whole, default=0, help="of initialisation, batches and augmentation")
    group.add_argument("--run-dir", help="folder of the run; by default runs/<experiment>/fold<k>")
    group.add_argument("--reference", help="supervised source run that RDT is measured against; without UDA: this run")

    group = parser.add_argument_group("data")
    group.add_argument("--data", default="stores", help="folder of tile stores, from data.prepare")
    group.add_argument("--source", help="annotated domain")
    if uda:
        group.add_argument("--target", help="domain to adapt to; its masks are never read")
    group.add_argument("--fold", type=int, default=0, help="source micrographs held out for validation and test")
    group.add_argument("--augmentation", choices=POLICIES)
    group.add_argument("--workers", type=_whole, default=2, help="loader processes for each domain")

    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=models.MODELS)
    group.add_argument("--pretraining", help="random, imagenet, or a file: a torchvision backbone or a checkpoint")
    group.add_argument(
        "--batch-norm", choices=("sync", "local", "frozen"), default="sync",
        help="statistics over all processes (on the CPU: of each process), of each process, or never updated",
    )  # fmt: skip

    group = parser.add_argument_group("optimisation")
    group.add_argument("--epochs", type=_positive, help="passes over the source tiles")
    group.add_argument("--steps", type=_positive, help="updates, instead of --epochs")
    group.add_argument("--batch-size", type=_positive, help="tiles of each domain in an update, over all processes")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    group.add_argument("--learning-rate", type=_not_negative, help="of the heads")
    group.add_argument("--backbone-factor", type=_not_negative, default=0.1, help="backbone's share of the rate")
    group.add_argument("--weight-decay", type=_not_negative, default=0.0)
    group.add_argument("--schedule", choices=SCHEDULES)
    group.add_argument("--power", type=_not_negative, default=0.9, help="of the polynomial schedule")
    group.add_argument("--lambda-aux", type=_not_negative, default=0.1, help="weight of the auxiliary head's loss")
    group.add_argument("--amp", choices=PRECISIONS, default="bf16", help="mixed precision")
    group.add_argument("--compile", action="store_true", help="torch.compile the networks")
    if uda:
        group = parser.add_argument_group("adaptation")
        group.add_argument("--gan", choices=("vanilla", "least_squares"), default="vanilla")
        group.add_argument("--lambda-adv-main", type=_not_negative, default=1e-3, help="0 for a control run")
        group.add_argument("--lambda-adv-aux", type=_not_negative, default=2e-4)
        group.add_argument("--discriminator-learning-rate", type=_not_negative, default=1e-4)
        group.add_argument("--discriminator-width", type=_positive, default=64)

    group = parser.add_argument_group("record")
    group.add_argument("--log-every", type=_positive, default=20, help="steps")
    group.add_argument("--validate-every", type=_positive, default=500, help="steps")
    group.add_argument("--checkpoint-every", type=_positive, default=500, help="steps")
    group.add_argument("--panels-every", type=_positive, default=2000, help="steps between pictures of predictions")
    group.add_argument("--wandb", choices=("online", "offline", "disabled"), help="default: online with a key")
    group.add_argument("--wandb-project", default="microstructure-adaptation")
    return parser


def _check(config: dict) -> None:
    if config["fold"] < 0:
        raise InputError(f"--fold {config['fold']}: folds count from 0.")
    if config["script"] == "train_uda" and config["model"] == "unet_vgg16":
        raise InputError("--model unet_vgg16: has no auxiliary head to adapt. Give a deeplabv2 model.")
    if config.get("target") == config["source"]:
        raise InputError(f"--target {config['target']}: is the source too. Give another domain.")


def _iterations(config: dict, study_tiles: int | None) -> int:
    """Epochs in updates: of the store where it exists, of the study's number of tiles otherwise."""
    path = store_path(config["data"], config["source"])
    if path.exists():
        tiles = len(Store(path).training_tiles(config["fold"], labelled=True))
    elif study_tiles:
        tiles = study_tiles
    else:
        raise InputError(f"{path}: no such store, so --epochs has no meaning. Run data.prepare, or give --steps.")
    return max(1, config["epochs"] * tiles // config["batch_size"])


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value
