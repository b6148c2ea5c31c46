"""The options of the training scripts: typed and grouped. Which script has which stands in SCRIPTS."""

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import models
from common.arguments import fraction, not_negative, number, positive, share, whole
from common.errors import InputError
from data.augmentation import POLICIES
from data.looks import OF_SOURCE, OF_TARGET
from losses import KINDS
from training.discriminator_view import SHOWN
from training.experiments import METHODS
from training.precision import PRECISIONS
from training.schedule import SCHEDULES

_below_half = number(float, lambda value: 0 <= value < 0.5, "a share from 0 to below 0.5")


class _WithDefaults(argparse.HelpFormatter):
    """Every option with the value that it has where it is not given."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is argparse.SUPPRESS:
            return action.help
        value = action.default
        if isinstance(value, bool):
            value = "on" if value else "off"
        elif isinstance(value, list):
            value = " ".join(map(str, value)) or "none"
        return f"{action.help or ''} (default: {'none' if value is None else value})".strip()


def parser_of(script: str, description: str = "") -> argparse.ArgumentParser:
    """Build the command line of a training script. Its --help is a value: training.configuration prints the text.

    InputError for a script that is not in SCRIPTS.
    """
    if script not in SCRIPTS:
        raise InputError(f"{script}.py: its options are unknown. Give it an entry in SCRIPTS of training/options.py.")
    parser = argparse.ArgumentParser(
        prog=f"{script}.py", description=description, allow_abbrev=False, add_help=False, formatter_class=_WithDefaults
    )
    parser.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS, help="show this and stop")
    for add in SCRIPTS[script].groups:
        add(parser)
    return parser


@cache
def defaults_of(script: str) -> dict:
    """Value that every option of a script has where neither experiment nor command line gives it."""
    return vars(parser_of(script).parse_args([])) if script in SCRIPTS else {}


def _run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experiment")
    group.add_argument("--experiment", help="take the values of this entry of launch/experiments.toml or methods.toml")
    group.add_argument("--experiments", default=METHODS, metavar="FILE", help="where experiments stand")
    group.add_argument("--dry-run", action="store_true", help="print the configuration as JSON and stop")
    group.add_argument("--seed", type=whole, default=0, help="of initialisation, batches and augmentation")
    group.add_argument("--run-dir", help="folder of the run; by default named after the experiment, and the fold")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU for each process where there are"
    )


def _pictures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", default="nanosem", help="store from data.nanosem, or the folder of classes that it stands beside"
    )
    group.add_argument("--workers", type=whole, default=2, help="loader processes")


def _source(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--data", default="stores", help="folder of tile stores, from data.prepare")
    group.add_argument("--source", help="annotated domain")
    group.add_argument("--fold", type=int, default=0, help="source micrographs held out for validation and test")
    group.add_argument("--augmentation", choices=POLICIES, help="of the tiles; in a self-training of the source's")
    group.add_argument("--workers", type=whole, default=2, help="loader processes for each domain")
    group.add_argument("--reference", help="supervised source run that RDT is measured against; without UDA: this run")


def _looks(parser: argparse.ArgumentParser, more: Sequence[str] = ()) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("looks of the source")
    group.add_argument(
        "--looks",
        choices=("none", *OF_SOURCE, *more),
        default="none",
        help="other grey levels and textures of the source's tiles, after augmentation: docs/methods.md",
    )
    group.add_argument("--looks-share", type=share, default=1.0, help="of the tiles that get another look")
    group.add_argument(
        "--looks-by-region", action="store_true", help="a look for each labelled phase: with curves, convolutions"
    )
    return group


def _looks_of_target(parser: argparse.ArgumentParser) -> None:
    group = _looks(parser, OF_TARGET)
    group.add_argument(
        "--looks-beta", type=_below_half, default=0.05, help="of fourier: half the window, as a share of the side"
    )


def _target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target")
    group.add_argument("--target", help="domain to adapt to; its masks are never read. Asked for without --experiment")
    group.add_argument("--selection", metavar="FILE", help="adapt to these tiles only, from evaluation.selection")
    group.add_argument("--transductive", action="store_true", help="adapt to images of the target's test set too")


def _model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=models.MODELS, help="network")
    group.add_argument(
        "--pretraining",
        help="random, imagenet, nanosem (by pretrain_nanosem.py), a run's folder, or a file: a torchvision backbone or "
        "a checkpoint",
    )
    group.add_argument(
        "--batch-norm",
        choices=("sync", "local", "frozen"),
        default="sync",
        help="statistics of all processes together, of each process, or never updated",
    )


def _classifier(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=models.UNETS, help="network whose encoder is trained")
    group.add_argument("--pretraining", help="random, imagenet, or a file: a torchvision backbone")
    group.add_argument("--dropout", type=fraction, default=0.5, help="share of the pooled features")


def _optimisation(
    parser: argparse.ArgumentParser, rate: str = "of all layers", batch: str = "images", compiles: bool = True
) -> None:
    group = parser.add_argument_group("optimisation")
    group.add_argument("--epochs", type=positive, help="passes over the annotated tiles, or the images")
    group.add_argument("--steps", type=positive, help="updates, instead of --epochs")
    group.add_argument("--batch-size", type=positive, help=f"{batch} in an update, over all processes")
    group.add_argument(
        "--micro-batch",
        type=positive,
        metavar="COUNT",
        help="a process takes its part of the batch so many at a time, to save memory; by default at once. Batch norm "
        "sees one micro-batch at a time",
    )
    group.add_argument("--learning-rate", type=not_negative, help=f"initial rate {rate}")
    group.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate")
    group.add_argument("--power", type=not_negative, default=0.9, help="of the polynomial schedule")
    group.add_argument("--amp", choices=PRECISIONS, default="bf16", help="mixed precision")
    if compiles:
        group.add_argument("--compile", action="store_true", help="torch.compile the networks")
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="algorithms that give the same bits again, slower on GPUs; the CPU's always do",
    )


def _segmentation(parser: argparse.ArgumentParser) -> None:
    _optimisation(parser, rate="of the heads", batch="tiles of each domain")
    group = parser.add_argument_group("segmentation")
    group.add_argument("--optimizer", choices=("adam", "sgd"), default="adam", help="of the segmentation model")
    group.add_argument("--backbone-factor", type=not_negative, default=0.1, help="on the backbone's learning rate")
    group.add_argument("--weight-decay", type=not_negative, default=0.0, help="of the segmentation model")
    group.add_argument("--lambda-aux", type=not_negative, default=0.1, help="weight of the auxiliary head's loss")
    group.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="of the phases in the loss; balanced: by the inverse square root of their frequency",
    )
    group.add_argument(
        "--rare-class-sampling", action="store_true", help="draw source tiles that hold a rare phase more often"
    )


def _adversary(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adaptation by the predictions")
    group.add_argument("--gan", choices=tuple(KINDS), default="vanilla", help="loss on verdicts")
    group.add_argument("--lambda-adv-main", type=not_negative, default=1e-3, help="weight; all 0: a control run")
    group.add_argument("--lambda-adv-aux", type=not_negative, default=2e-4, help="weight at the auxiliary head")
    group.add_argument(
        "--lambda-adv-feature", type=not_negative, default=0.0, help="weight on the main head's features, DAST"
    )
    group.add_argument(
        "--lambda-entropy-main", type=not_negative, default=0.0, help="weight of the entropy on the target, MinEnt"
    )
    group.add_argument("--lambda-entropy-aux", type=not_negative, default=0.0, help="weight at the auxiliary head")
    group.add_argument(
        "--entropy-power",
        type=not_negative,
        metavar="ETA",
        help="FDA's robust penalty in place of the entropy: its square to the power of ETA, published 2",
    )
    group.add_argument(
        "--discriminators-see",
        choices=SHOWN,
        default="probabilities",
        help="maps of the predictions; self-information is ADVENT",
    )
    group.add_argument("--discriminator-learning-rate", type=not_negative, default=1e-4, help="initial rate")
    group.add_argument("--discriminator-width", type=positive, default=64, help="channels of the first layer")
    group.add_argument(
        "--discriminator-patch",
        type=positive,
        metavar="SIDE",
        help="show the discriminators patches of like phase fraction, SIDE pixels wide, instead of whole tiles",
    )


def _teacher(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("self-training")
    group.add_argument("--teacher-decay", type=fraction, default=0.99, help="share that the teacher keeps of itself")
    group.add_argument(
        "--teacher-statistics",
        choices=("batch", "running"),
        default="batch",
        help="batch norm of the teacher: by each batch of the target, or by the model's running statistics",
    )
    group.add_argument("--sure", type=fraction, default=0.968, help="probability from which on a pseudo-label is sure")
    group.add_argument(
        "--surest",
        type=share,
        metavar="SHARE",
        help="count as sure this share of each phase's pixels in a tile too, for rare phases",
    )
    group.add_argument(
        "--pseudo-weight",
        choices=("share", "pixel"),
        default="share",
        help="of a pseudo-label: its tile's share of sure ones, or 1 where it is sure itself",
    )
    group.add_argument("--lambda-mixed", type=not_negative, default=1.0, help="weight of tiles mixed with the source")
    group.add_argument("--lambda-masked", type=not_negative, default=0.0, help="weight of masked tiles, published 1")
    group.add_argument("--masked-share", type=share, default=0.7, help="of a tile's blocks that are hidden")
    group.add_argument("--masked-block", type=positive, default=32, metavar="PX", help="side of a hidden block")


def _translators(parser: argparse.ArgumentParser) -> None:
    _optimisation(parser, rate="of the generators", batch="tiles of each domain", compiles=False)
    group = parser.add_argument_group("translation")
    group.add_argument("--generator-width", type=positive, default=32, help="channels of the first layer")
    group.add_argument("--generator-blocks", type=positive, default=6, help="residual blocks")
    group.add_argument("--discriminator-width", type=positive, default=64, help="channels of the first layer")
    group.add_argument("--discriminator-learning-rate", type=not_negative, default=2e-4, help="initial rate")
    group.add_argument("--lambda-cycle", type=not_negative, default=10.0, help="weight of the way forth and back")
    group.add_argument(
        "--lambda-identity", type=not_negative, default=0.0, help="weight of leaving alone what is of a domain already"
    )
    group.add_argument(
        "--lambda-semantic",
        type=not_negative,
        default=0.0,
        help="weight of the loss of the frozen --reference on translated tiles, against the source's masks",
    )


def _record(parser: argparse.ArgumentParser, validate_every: int | None = None) -> None:
    group = parser.add_argument_group("record")
    group.add_argument("--log-every", type=positive, default=20, help="steps")
    group.add_argument(
        "--validate-every",
        type=positive,
        default=validate_every,
        help="steps between scores on what is held out; of pictures an epoch",
    )
    group.add_argument("--checkpoint-every", type=positive, default=500, help="steps")
    group.add_argument(
        "--keep-every", type=positive, metavar="STEPS", help="keep the model alone, for evaluation.choose"
    )
    group.add_argument(
        "--milestones", type=positive, nargs="*", default=[], metavar="EPOCH", help="keep the networks after these"
    )
    group.add_argument("--wandb", choices=("online", "offline", "disabled"), help="by default online with a key")
    group.add_argument("--wandb-project", default="microstructure-adaptation", help="project of Weights & Biases")


def _record_of_steps(parser: argparse.ArgumentParser) -> None:
    _record(parser, validate_every=500)


def _record_of_tiles(parser: argparse.ArgumentParser) -> None:
    _record_of_steps(parser)
    group = parser.add_argument_group("pictures")
    group.add_argument("--panels-every", type=positive, default=2000, help="steps between pictures of predictions")


def _record_of_target(parser: argparse.ArgumentParser) -> None:
    _record_of_tiles(parser)
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--judge-every", type=positive, default=250, metavar="STEPS", help="between looks at the target, without labels"
    )


class Script(NamedTuple):
    """A training script: the experiment whose values hold where none is asked for, and the groups of its options."""

    base: str
    groups: tuple[Callable[[argparse.ArgumentParser], None], ...]


SCRIPTS = {
    "train_supervised": Script("S.10", (_run, _source, _looks, _model, _segmentation, _record_of_tiles)),
    "train_uda": Script(
        "T3.2", (_run, _source, _target, _looks_of_target, _model, _segmentation, _adversary, _record_of_target)
    ),
    "train_selftraining": Script(
        "DACS-t3", (_run, _source, _target, _looks_of_target, _model, _segmentation, _teacher, _record_of_target)
    ),
    "train_translation": Script("translation-t3", (_run, _source, _target, _translators, _record_of_steps)),
    "pretrain_nanosem": Script("NanoSEM", (_run, _pictures, _classifier, _optimisation, _record)),
}
