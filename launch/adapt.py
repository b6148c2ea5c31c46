"""Carry a segmentation from an annotated kind of micrograph to another without labels, in one command.

    launch/adapt.sh domains.toml --source sem --target lom

prepares and verifies both domains, trains on the source in several folds, and asks what the target needs. Where a
remedy suffices, it does not train more; else it adapts, and chooses between what it has. Then it segments all images
of the target and writes report.html. The same command again goes on where it was stopped.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m launch.adapt")

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from common import gpus
from common.arguments import positive
from common.errors import InputError, exits_cleanly, make_folder
from data.domains import read_domains
from data.store import store_path
from launch.steps import Failed, Step, executable, record, run_all
from launch.submit import submit
from training.experiments import METHODS, read_experiments

NO_TRAINING = ("as it is", "remedy")  # advice of evaluation.gap: it is not needed
# Experiments: on GPUs the study's networks, else what two cores can do. Adapted is AdaptSegNet, where half of the
# source's tiles have the target's grey levels: so it does harm more rarely (docs/methods.md). Self-training follows.
LARGE = ("S.10", "half-histogram-t3", "AdaptSegNet-DACS-t3")
SMALL = ("demo.supervised", "demo.half-histogram", "small.AdaptSegNet-DACS-t3")
# Of three phases and more, where that was not tried, AdaptSegNet alone.
LARGE_OF_MANY = ("S.10", "T3.2", "AdaptSegNet-DACS-t3")
SMALL_OF_MANY = ("demo.supervised", "demo.uda.phases", "small.AdaptSegNet-DACS-t3")
ADAPTING = {"train_uda": "adaptation", "train_selftraining": "self-training"}  # scripts
FOLDS = 3


class Launch:
    """The steps from micrographs to the report, each with its commands, for the domains of a domains.toml."""

    def __init__(self, options: argparse.Namespace):
        """Read what the folder holds. InputError where source or target are not in domains.toml, or not to be used."""
        self.options, self.out, self.toml = options, options.out, options.domains
        if not options.domains.exists():
            raise InputError(f"{options.domains}: not there, seen from {Path.cwd()}. Give its path from there.")
        cutting, domains = read_domains(options.domains)
        usual = (LARGE, LARGE_OF_MANY) if options.large else (SMALL, SMALL_OF_MANY)
        options.experiments = options.experiments or usual[cutting.phases > 2]
        self.trained = trained(options.experiments)
        self.kinds = list(self.trained)
        self.adapted = self.kinds[1:]
        each = (f"{kind} {fold}" for kind in self.kinds for fold in range(options.folds))
        known = ["prepare", "gap", "remedied", *each, "choose", "segment", "report"]
        for name in options.only or ():
            if name not in known:
                raise InputError(f"--only {name}: no such step. There are: {', '.join(map(shlex.quote, known))}")
        for name in (options.source, options.target):
            if name not in domains:
                raise InputError(f"{options.domains}: no domain {name} in it, only {', '.join(domains)}")
        source, target = domains[options.source], domains[options.target]
        if source is target:
            raise InputError(f"--target {target.name}: it is the source too; give another domain")
        if all(one.test for one in target.micrographs):
            raise InputError(
                f"{options.domains}: all micrographs of {target.name} are in `test`, so there are none to adapt to. "
                "Leave some of them out of it."
            )
        for domain in (source, target):  # a target may have none
            if domain.folds < options.folds and (domain is source or domain.folds):
                raise InputError(
                    f"{options.domains}: {domain.name} has {domain.folds} folds, {options.folds} are to be trained. "
                    f"Give it `folds = {max(options.folds, 2)}` and masks, or give --folds."
                )
        self.micrographs = [micrograph.image for micrograph in target.micrographs]
        self.scored = any(one.mask and one.test for one in target.micrographs) or bool(target.folds)
        self.folds = range(options.folds)
        self.stores, self.remedied = self.out / "stores", self.out / "remedied"
        self.gap, self.choice = self.out / "gap" / "gap.json", self.out / "choice" / "choice.json"
        self.segmented = self.out / "segmented" / "segmentation.json"
        drawn = {one.mask.parent.resolve() for one in target.micrographs if one.mask}
        if (masks := self.segmented.parent / "masks").resolve() in drawn:
            raise InputError(
                f"{options.domains}: the masks of {target.name} are in {masks}, which the segmentation replaces. Copy "
                "them to another folder."
            )

    def steps(self) -> Iterator[Step]:
        """Yield the steps in their order. Those after the gap report depend on what it advises."""
        for step in self._steps():
            yield replace(step, noted=self.out / "steps" / f"{step.name}.json")

    def plan(self) -> list[Step]:
        """List the steps. With --again, adapted runs of before the target's store was made are set aside first."""
        if self.options.again:
            store = store_path(self.data, self.options.target)
            for run in (run for kind in self.adapted for run in self._runs(kind)):
                begun = run / "config.json"
                if store.exists() and begun.exists() and begun.stat().st_mtime < store.stat().st_mtime:
                    self._set_aside(run)
        return list(self.steps())

    def _set_aside(self, run: Path) -> None:
        when = datetime.fromtimestamp((run / "config.json").stat().st_mtime)
        place = make_folder(self.out / "before" / when.strftime("%Y-%m-%d-%H%M%S")) / f"{run.parent.name}-{run.name}"
        with suppress(FileNotFoundError):  # another job was faster
            run.rename(place)
            print(f"{run}: set aside as {place}, because the target has changed")

    def _steps(self) -> Iterator[Step]:
        yield self.prepare()
        yield from map(self.supervised, self.folds)
        yield self.measure()
        if self.learnt_nothing:
            return
        if self.adapts:
            yield from ([self.prepare_remedied()] if self.changes_store else [])
            yield from (self.adapt(kind, fold) for kind in self.adapted for fold in self.folds)
            yield self.choose()
        yield self.segment()
        yield self.report()

    def prepare(self) -> Step:
        """Cut both domains into tile stores and check them; what is up to date is kept."""
        return Step("prepare", "tile stores", [*self._prepare(self.stores), self._verify(self.stores)])

    def supervised(self, fold: int) -> Step:
        """Train on the source."""
        run = self._run("supervised", fold)
        command = self._train("supervised", fold, self.stores, "--source", self.options.source)
        needs = [store_path(self.stores, self.options.source)]
        return Step(
            f"supervised {fold}", f"source model, fold {fold}", [command], run / "finished.json", needs, weight=10
        )

    def measure(self) -> Step:
        """Ask what the target needs."""
        command = ["-m", "evaluation.gap", *self._runs("supervised"), "--domain", self.options.target]
        command += ["--data", self.stores, "--out", self.gap.parent, "--calibration", self.out / "calibration.json"]
        command += ["--score"] if self.scored and not self.options.always_adapt else []  # else the choice scores
        needs = [self._run("supervised", fold) / "finished.json" for fold in self.folds]
        needs.append(store_path(self.stores, self.options.target))
        return Step("gap", "what the target needs", [_python(command)], self.gap, needs, weight=6)

    def prepare_remedied(self) -> Step:
        """Cut the target with the recommended polarity and grey levels, from which the adaptation starts."""
        return Step(
            "remedied",
            "tile stores with the remedy",
            [*self._prepare(self.remedied, "--gap", self.gap), self._verify(self.remedied)],
            store_path(self.remedied, self.options.target),
            [self.gap],
        )

    def adapt(self, kind: str, fold: int) -> Step:
        """Adapt to the target, from the source's model or the adaptation before."""
        run, before = self._run(kind, fold), self.kinds[self.kinds.index(kind) - 1]
        more = ["--source", self.options.source, "--target", self.options.target]
        more += ["--reference", self._run("supervised", fold)]
        more += ["--pretraining", self._run(before, fold)]
        command = self._train(kind, fold, self.data, *more)
        needs = [self._run(before, fold) / "finished.json", store_path(self.data, self.options.target)]
        title = f"{ADAPTING[self.trained[kind][1]]}, fold {fold}"
        return Step(f"{kind} {fold}", title, [command], run / "finished.json", needs, weight=25)

    def choose(self) -> Step:
        """Choose between the source's model, its remedies and the adapted ones."""
        adapted = [run for kind in self.adapted for run in self._runs(kind)]
        command = ["-m", "evaluation.choose", *self._runs("supervised"), *adapted, "--gap", self.gap]
        command += ["--domain", self.options.target, "--data", self.data, "--out", self.choice.parent]
        command += ["--calibration", self.out / "calibration.json", *(["--score"] if self.scored else [])]
        needs = [self.gap, *(run / "finished.json" for run in adapted)]
        return Step("choose", "choice", [_python(command)], self.choice, needs, weight=3)

    def segment(self) -> Step:
        """Segment all images of the target by what was chosen."""
        models = [self.choice] if self.adapts else self._remedied
        command = ["evaluate.py", *models, "--images", self.toml, "--images-of", self.options.target]
        command += ["--out", self.segmented.parent]
        command += ["--ensemble"] if len(models) > 1 else []
        needs = [*models, *self.micrographs]
        return Step("segment", "segmentation", [_python(command)], self.segmented, needs, weight=3)

    def report(self) -> Step:
        """Write report.html."""
        return Step("report", "report", [_python(["-m", "evaluation.laboratory", self.out])])

    def lines(self) -> list[str]:
        """Give every command of the steps, for a person and a shell."""
        found, unknown = [], not self.gap.exists()
        for step in self.steps():
            if step.name == f"{self.adapted[0]} 0" and unknown and not self.options.always_adapt:
                found.append(f"# unless {self.gap} says that no training is needed:")
            found += [f"# {step.title}{': done' if step.done else ''}", *map(shlex.join, step.commands)]
        return found

    def run_only(self, names: list[str]) -> None:
        """Run some steps. A training alone takes this program's place, so that signals reach it.

        Not so one that was finished before: it may be refused, and then must not be noted as done.
        """
        self.plan()  # sets aside what is to be
        for step in self.steps():  # one after the other: the gap report decides about those behind it
            if step.name in names and not step.done:
                if step.trains and len(names) == 1 and not step.outcome.exists():
                    record(self.out, step, [one.name for one in self.steps()])
                    command = executable(step.commands[0])
                    os.execvp(command[0], command)
                run_all(self.plan, self.out, [step.name])
        self.refuse_to_go_on()

    def refuse_to_go_on(self) -> None:
        """Raise InputError where the source's models have learnt nothing, so that there is nothing to adapt."""
        if self.learnt_nothing:
            raise InputError(
                f"{self.gap}: {self._advice['sentence']} To train longer give another --out and -- --steps. To go on "
                "all the same, give --always-adapt."
            )

    def outcome(self) -> str:
        """Say what was found, in the judge's sentence."""
        file = self.choice if self.adapts else self.gap
        return json.loads(file.read_text())["sentence"]

    @property
    def adapts(self) -> bool:
        """True where the gap report advises to adapt, or it is asked for; and before there is a report."""
        return self.options.always_adapt or not self.gap.exists() or self._advice["advice"] not in NO_TRAINING

    @property
    def learnt_nothing(self) -> bool:
        """True where the gap report says that the source's models are of no use, and nobody asks to go on."""
        return not self.options.always_adapt and self.gap.exists() and self._advice["advice"] == "train"

    @property
    def changes_store(self) -> bool:
        """True where the recommended remedy changes the micrographs, so that they are prepared again."""
        remedy = self._advice["recommended"] if self.gap.exists() else {"invert": False, "match": False}
        return remedy["invert"] or remedy["match"] == 1

    @property
    def data(self) -> Path:
        """Folder of the stores that the adaptation takes."""
        return self.remedied if self.changes_store else self.stores

    @property
    def _advice(self) -> dict:
        return json.loads(self.gap.read_text())

    @property
    def _remedied(self) -> list[Path]:
        """Checkpoints that evaluation.gap writes: the source's models with the recommended remedy."""
        return [self.gap.with_name(f"fold{fold}.pt") for fold in self.folds]

    def _run(self, kind: str, fold: int) -> Path:
        return self.out / kind / f"fold{fold}"

    def _runs(self, kind: str) -> list[Path]:
        return [self._run(kind, fold) for fold in self.folds]

    def _prepare(self, out: Path, *more: object) -> list[list[str]]:
        """Prepare both domains; with --again the target anew, where it has changed."""
        source, target = (("--domain", name) for name in (self.options.source, self.options.target))
        yes = ["--yes"] if self.options.yes else []
        parts = [source, (*target, "--force")] if self.options.again else [(*source, *target)]
        return [_python(["-m", "data.prepare", self.toml, "--out", out, *part, *more, *yes]) for part in parts]

    def _verify(self, out: Path) -> list[str]:
        return _python(["-m", "data.verify", out])

    def _train(self, kind: str, fold: int, data: Path, *more: object) -> list[str]:
        count, (experiment, script) = self.options.processes, self.trained[kind]
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={count}"] if count > 1 else ["python"]
        words = [f"{script}.py", "--experiment", experiment, "--data", data, "--fold", fold]
        words += ["--run-dir", self._run(kind, fold), *more]
        return [*launcher, *map(str, words), *self.options.rest]


def trained(experiments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give experiments with their scripts by the folder of their runs, in the order in which they are trained.

    The first is trained on the source, the others adapt. InputError where that is not so.
    """
    known, found = read_experiments(METHODS), {}
    for folder, name in zip(("supervised", "uda", *experiments[2:]), experiments, strict=False):
        fitting, script = ADAPTING if found else ("train_supervised",), known.get(name, {}).get("script")
        if script not in fitting or folder in found:
            there = ", ".join(other for other, entry in known.items() if entry["script"] in fitting)
            raise InputError(
                f"--experiments {name}: here stands, once, one of {' or '.join(fitting)}. There are: {there}"
            )
        found[folder] = name, script
    if len(found) < 2:
        raise InputError(f"--experiments {experiments[0]}: one on the source, and at least one adaptation are needed")
    return found


def _python(words: list[object]) -> list[str]:
    return ["python", *map(str, words)]


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        prog="launch/adapt.sh",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Options of the training scripts follow after --, such as: -- --steps 3000 --seed 1",
    )
    parser.add_argument("domains", type=Path, help="the domains.toml (docs/data_format.md)")
    parser.add_argument("--source", required=True, metavar="DOMAIN", help="the annotated domain")
    parser.add_argument("--target", required=True, metavar="DOMAIN", help="the domain without labels")
    parser.add_argument("--out", type=Path, help="folder of everything (default: runs/<source>-<target>)")
    parser.add_argument("--folds", type=positive, default=FOLDS, help="models of either kind (default: %(default)s)")
    parser.add_argument("--always-adapt", action="store_true", help="adapt even where a remedy is expected to suffice")
    parser.add_argument(
        "--experiments", nargs="+", metavar="EXPERIMENT",
        help="what is trained: on the source, then adaptations, each from the one before "
        f"(default: {' '.join(LARGE)} with GPUs, {' '.join(SMALL)} without; of several phases they adapt by "
        f"{LARGE_OF_MANY[1]} or {SMALL_OF_MANY[1]})",
    )  # fmt: skip
    parser.add_argument("--processes", type=positive, help="of a training (default: the number of GPUs, or 1)")
    parser.add_argument(
        "--again", action="store_true",
        help="the target's images, or its entry in domains.toml, have changed: do anew what follows from them, and set "
        "aside what was adapted to it before",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="odd sizes of images are meant, as of data.prepare")
    parser.add_argument("--dry-run", action="store_true", help="print all commands and stop")
    parser.add_argument("--submit", action="store_true", help="submit the steps as SLURM jobs (PROCESSES=4 GPUs each)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps only, as a submitted job does")
    return parser


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; defaults depend on whether there are GPUs, on this machine or where jobs run."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = build_parser().parse_args(words[:cut])
    options.rest = words[cut + 1 :]
    there = len(gpus.names())
    if options.submit and options.processes is None:
        options.processes = int(os.environ.get("PROCESSES", 4))
    options.processes = options.processes or max(1, there)
    options.large = there > 0 or options.submit
    options.out = options.out or Path("runs") / f"{options.source}-{options.target}"
    options.given = words[:cut]
    if not there:  # torch takes one thread otherwise
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, os.cpu_count() // options.processes)))
    return options


@exits_cleanly
def main() -> None:
    options = parse()
    launch = Launch(options)
    try:
        _do(launch, options)
    except Failed as error:
        print(f"{error}\nWhat it printed is in {options.out / 'log.txt'}. The same command goes on.", file=sys.stderr)
        if "data.prepare" in str(error) and not options.again:
            print(
                "If the target was changed on purpose, add --again. For another source give another --out.",
                file=sys.stderr,
            )
        sys.exit(error.status if error.status > 0 else 1)


def _do(launch: Launch, options: argparse.Namespace) -> None:
    if options.dry_run:
        print("\n".join(launch.lines()))
    elif options.submit:
        submit(launch)
    elif options.only:
        launch.run_only(options.only)
    else:
        make_folder(options.out)
        run_all(launch.plan, options.out)
        launch.refuse_to_go_on()
        print(f"\n{launch.outcome()}\n{options.out / 'report.html'}")


if __name__ == "__main__":
    main()
