"""The configuration of a run: what was asked for, what follows from it, what of it another run may differ in."""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from torch.utils.data import Dataset

from common.arguments import first_contradiction
from common.errors import InputError, make_folder, require_file_name
from common.files import write_file
from data.looks import OF_SOURCE
from data.nanosem.image_store import ImageStore, image_store_path
from data.selection_file import selection_digest
from data.store import Store, store_path
from data.tiles import require_sockets
from training.device import name_of
from training.distributed import Processes
from training.experiments import EXPERIMENTS, FACTS, METHODS, default_experiment, read_experiments, runs_root
from training.options import SCRIPTS, defaults_of, parser_of
from training.tracking import default_wandb_mode
from training.weights import weights_digest

NANOSEM_IMAGES = 15_000  # the study's for training (paper Section 2.4.2): --dry-run needs no data
# Options that may differ between a run and its continuation: they change neither the data nor the arithmetic.
OPERATIONAL = {
    "data", "run_dir", "workers", "wandb", "wandb_project", "checkpoint_every", "panels_every", "log_every",
    "keep_every", "judge_every", "milestones", "milestone_steps", "device",
    "selection", "pretraining_file",  # what counts of these is their digest
}  # fmt: skip
# What may differ between repeats of one configuration: `milestone_steps` counts in the fold's own tiles.
REPEATED = OPERATIONAL | {"fold", "seed", "reference", "iterations", "milestone_steps"}
# An option, those of which it needs one, and what is said where none of them is given.
NEEDS = {
    ("entropy_power", "lambda_entropy_main", "lambda_entropy_aux"): (
        "--entropy-power: is of the entropy, which has no weight. Give --lambda-entropy-main too."
    ),
}
# Options that exclude each other, with what is said where both are given (common.arguments.first_contradiction).
EXCLUDES = {
    ("epochs", "steps"): "--epochs and --steps both say how long to train: give one of them",
    ("selection", "transductive"): (
        "--transductive: not with --selection, which holds no tile of the test set. Give one of them."
    ),
}


def parse(script: str, description: str, argv: Sequence[str] | None = None) -> dict:
    """Resolve the configuration of a run: a flat dict, option names with underscores, plus `iterations`.

    `script` names the calling script. With --dry-run the configuration is printed as one JSON object and the process
    exits. InputError on values that cannot be.
    """
    parser = parser_of(script, description)
    asked, _ = parser.parse_known_args(argv)
    name, values = _choose(script, asked)
    parser.set_defaults(**_values(parser, values, f"{asked.experiments}: {name!r}"))
    if "help" in asked:
        _help(parser, asked, name, values)
    config = vars(parser.parse_args(argv))
    _require(parser, asked, config)
    dry_run, file = config.pop("dry_run"), config.pop("experiments")
    config = {"script": script, **config, "experiment": name}
    config |= _places(config, values, file)
    if "start" in values and not asked.pretraining:
        config["pretraining"] = f"{runs_root(file)}/{values['start']}/fold{config['fold']}"
    config |= _lengths(config, asked, values.get("source_tiles") if _known(config, values) else None)
    if "selection" in config:
        config["selection_digest"] = selection_digest(config["selection"])
    nanosem = config.get("pretraining") == "nanosem"
    config["pretraining_file"] = f"{runs_root(file)}/NanoSEM/encoder.pt" if nanosem else None
    if dry_run:
        if os.environ.get("RANK", "0") == "0":  # one object, whatever the number of processes
            print(json.dumps(config))
        sys.exit(0)
    require_sockets(config["workers"])
    if nanosem:
        study = "" if file in (EXPERIMENTS, METHODS) else f"STUDY={file} "
        config["pretraining_digest"] = weights_digest(config["pretraining_file"], f"{study}launch/pretrain.sh")
    return config


@cache
def values_of(experiment: str) -> dict:
    """Value of every option that one of the study's trained experiments has, by name."""
    entry = read_experiments()[experiment]
    parser = parser_of(entry["script"])
    parser.set_defaults(**_values(parser, entry, experiment))
    return vars(parser.parse_args([]))


def summary(options: SimpleNamespace, datasets: Sequence[Dataset], processes: Processes) -> str:
    """Lines for a person at the start of a run: what differs from the defaults, and the numbers that follow."""
    config = vars(options)
    defaults = defaults_of(options.script)
    shown = {key: value for key, value in config.items() if key in defaults and value not in (defaults[key], None, [])}
    hidden = {"experiment", "run_dir", "wandb"}
    differing = ", ".join(f"{key} {value}" for key, value in shown.items() if key not in hidden)
    examples = " and ".join(f"{len(dataset)} of {dataset.store.domain}" for dataset in datasets)
    local = options.batch_size // processes.world
    batch = " + ".join([str(local)] * len(datasets))
    return (
        f"{options.experiment} -> {options.run_dir}\n"
        f"  not the default: {differing}\n"
        f"  {options.iterations} iterations over {examples}; {processes.world} process"
        f"{'es' if processes.world > 1 else ''} on {name_of(processes.device)} with {batch} a step, "
        f"{'float32' if options.amp == 'off' else options.amp}"
    )


def open_run(config: dict) -> Path:
    """Make the run's folder and its config.json, or check that what is there is the same run.

    InputError names the first options that differ: nothing is overwritten by another configuration.
    """
    folder = make_folder(Path(config["run_dir"]))
    path = folder / "config.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}). Delete it: the checkpoint holds a copy.") from error
        refuse_changes(folder, before, config)
    else:
        write_file(path, json.dumps(config, indent=2) + "\n")
    return folder


def refuse_changes(folder: Path, before: dict, config: dict) -> None:
    """InputError that names every option in which a run's configuration differs from what its folder holds.

    An option that one of the two does not know has its default there: it came, or went, with another version.
    """
    defaults = defaults_of(config["script"])
    ignored = OPERATIONAL | ({"iterations"} if before.get("steps") != config.get("steps") else set())
    there, here = defaults | before, defaults | config
    names = sorted((before.keys() | config.keys()) - ignored)
    names = [name for name in names if (there.get(name) or None) != (here.get(name) or None)]
    if names:
        changed = "; ".join(f"--{n.replace('_', '-')} {there.get(n)} -> {here.get(n)}" for n in names)
        longer = _how_to_train_longer(folder, config.get("schedule")) if {"steps", "epochs"} & {*names} else ""
        raise InputError(
            f"{folder}: holds a run of another configuration ({changed}). Give the options of that run, or another "
            f"--run-dir.{longer}"
        )


def _how_to_train_longer(folder: Path, schedule: str | None) -> str:
    reason = "" if schedule == "constant" else ", because the learning rate of every step follows it"
    text = f" The length of a run is fixed when it begins{reason}."
    if (folder / "last.pt").exists():
        text += (
            f" To train longer, begin another run with --pretraining {folder}/last.pt: it starts from these weights, "
            "with learning rates and an optimizer of its own."
        )
    return text


def digest_of(config: dict) -> str:
    """Six hexadecimal digits that all repeats of one configuration share, whatever their fold and seed.

    Only what differs from an option's default counts, so that a new option does not part old scores from new ones. Nor
    does a pre-training that is the same run in each fold.
    """
    defaults = defaults_of(config.get("script"))
    compared = {
        key: value
        for key, value in config.items()
        if key not in REPEATED and (value or None) != (defaults.get(key) or None)
    }
    if isinstance(start := compared.get("pretraining"), str):
        own = f"fold{config.get('fold')}"
        compared["pretraining"] = "/".join("fold" if part == own else part for part in start.split("/"))
    return hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()[:6]


def _choose(script: str, asked: argparse.Namespace) -> tuple[str, dict]:
    """The experiment asked for; else the one that these domains have; else the base's values for new domains."""
    experiments, base = read_experiments(asked.experiments), SCRIPTS[script].base
    if asked.experiment:
        if asked.experiment not in experiments:
            raise InputError(f"--experiment {asked.experiment}: unknown. There are: {', '.join(experiments)}.")
        values = experiments[asked.experiment]
        if values["script"] != script:
            raise InputError(f"--experiment {asked.experiment} belongs to {values['script']}.py, this is {script}.py.")
        return asked.experiment, values
    if "source" not in asked or getattr(asked, "target", "") is None:  # no domain to tell by
        return base, experiments[base]
    source, target = asked.source or experiments[base]["source"], getattr(asked, "target", None)
    if name := default_experiment(experiments, script, source, target):
        return name, experiments[name]
    name = _named_after(source, target)
    require_file_name(name, "the experiment, named after its domains")
    return name, experiments[base]


def _values(parser: argparse.ArgumentParser, values: dict, where: str) -> dict:
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


def _help(parser: argparse.ArgumentParser, asked: argparse.Namespace, name: str, values: dict) -> None:
    """Print every option with the value that it would have in this experiment, and exit."""
    config = vars(parser.parse_args([]))
    config |= {"script": parser.prog.removesuffix(".py"), "experiment": name, "experiments": asked.experiments}
    known = _places({key: value for key, value in config.items() if key != "experiments"}, values, asked.experiments)
    parser.set_defaults(experiment=name, experiments=os.path.relpath(asked.experiments), **known)
    if "target" in config and not asked.experiment and not asked.target:
        parser.set_defaults(target=None)
    parser.print_help()
    sys.exit(0)


def _require(parser: argparse.ArgumentParser, asked: argparse.Namespace, config: dict) -> None:
    """Exit with a message, or InputError, where options contradict each other or one is missing."""
    if "target" in config and not (asked.target or (asked.experiment and config["target"])):
        parser.error("give --target DOMAIN (or an --experiment that has one)")
    # An experiment's steps give way to epochs that are asked for.
    given = {name for name, value in config.items() if value and (name not in ("epochs", "steps") or vars(asked)[name])}
    if contradiction := first_contradiction(given, NEEDS, EXCLUDES):
        raise InputError(contradiction)
    if config.get("looks_by_region") and config["looks"] not in OF_SOURCE:
        raise InputError(
            f"--looks-by-region: not with --looks {config['looks']}. Give --looks {' or '.join(OF_SOURCE)} with it."
        )
    if config.get("fold", 0) < 0:
        raise InputError(f"--fold {config['fold']}: folds count from 0.")
    if config.get("target") and config["target"] == config["source"]:
        raise InputError(f"--target {config['target']}: is the source too. Give another domain.")
    if "source" not in config and config["pretraining"] == "nanosem":
        raise InputError("--pretraining nanosem: is what this script makes. Give imagenet, random or a file.")


def _places(config: dict, values: dict, file: Path | str) -> dict:
    """Where the run and its reference lie, and what W&B does, where the command line does not say it."""
    runs = runs_root(file)
    fold = [f"fold{config['fold']}"] if "fold" in config else []
    places = {"run_dir": config["run_dir"] or "/".join([str(runs), config["experiment"], *fold])}
    places["wandb"] = config["wandb"] or default_wandb_mode()
    if _known(config, values) and "reference" in values and not config["reference"]:
        places["reference"] = "/".join([str(runs), values["reference"], *fold])
    return places


def _lengths(config: dict, asked: argparse.Namespace, study_examples: int | None) -> dict:
    """How long a run is, in updates: `iterations`, and those between validations and up to milestones."""
    steps = None if asked.epochs else config["steps"]  # explicit epochs win over an experiment's steps
    milestones = config["milestones"]
    if not asked.milestones:  # an experiment's milestones count in its own epochs
        milestones = [epoch for epoch in milestones if not steps and epoch <= config["epochs"]]
    counted = not steps or not config["validate_every"] or milestones
    examples = _examples(config, study_examples) if counted else None

    def updates(epochs: int) -> int:
        return max(1, epochs * examples // config["batch_size"])

    iterations = steps or updates(config["epochs"])
    # Steps as text, because a configuration is JSON.
    milestone_steps = {str(updates(epoch)): f"epoch{epoch}" for epoch in milestones}
    late = [name for step, name in milestone_steps.items() if int(step) > iterations]
    if late:
        raise InputError(f"--milestones: {', '.join(late)} come after the last of {iterations} updates.")
    return {
        "steps": steps,
        "milestones": milestones,
        "iterations": iterations,
        "validate_every": config["validate_every"] or updates(1),
        "milestone_steps": milestone_steps,
    }


def _examples(config: dict, study_examples: int | None) -> int:
    """Number of items in an epoch: training tiles or images of the store where it exists, else the study's number."""
    if "source" not in config:
        path = image_store_path(config["data"])
        return len(ImageStore(path).split(config["seed"])[0]) if path.exists() else NANOSEM_IMAGES
    path = store_path(config["data"], config["source"])
    if path.exists():
        return len(Store(path).training_tiles(config["fold"], labelled=True))
    if study_examples:
        return study_examples
    raise InputError(f"{path}: no such store, so --epochs has no meaning. Run data.prepare, or give --steps.")


def _known(config: dict, values: dict) -> bool:
    """True where the domains are those of the experiment, not the user's own."""
    if "source" not in config:
        return False
    named_after = _named_after(config["source"], config.get("target"))
    return config["source"] == values["source"] and config["experiment"] != named_after


def _named_after(source: str, target: str | None) -> str:
    """The experiment's name where the domains are the user's own."""
    return f"{source}-{target or 'supervised'}"
