"""Jobs of a study, one line each, in an order in which they can run. The launchers run or submit them.

    python -m launch.plan uda                          # of launch/experiments.toml
    python -m launch.plan supervised --experiments launch/small.toml --only S.1 S.10

A job whose outcome is there is left out, so that a launcher called again does what is missing.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m launch.plan")

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, exits_cleanly
from training.experiments import EXPERIMENTS, SELECTION, read_experiments, runs_root


class Job(NamedTuple):
    """A shell command, the experiment that it belongs to, and the file that it leaves last."""

    experiment: str
    command: str
    outcome: Path


class Study:
    """The experiments of a file, their runs, and the commands that make them."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.entries = read_experiments(options.experiments)
        for name in options.only or ():
            if name not in self.entries:
                raise InputError(f"{options.experiments}: no experiment {name}. There are: {', '.join(self.entries)}.")
        self.runs = runs_root(options.experiments)
        own = Path(options.experiments).resolve() == EXPERIMENTS.resolve()
        self.file = [] if own else ["--experiments", options.experiments]

    def trained(self, adapted: bool) -> dict[str, dict]:
        """The study's experiments, those that say `study`, and others that --only names: with a target, or without."""
        wanted = {n: entry for n, entry in self.entries.items() if "study" in entry or n in (self.options.only or ())}
        return {n: entry for n, entry in wanted.items() if ("target" in entry) == adapted and "folds" in entry}

    def folds(self, name: str) -> range:
        """The folds that an experiment is run in."""
        return range(self.entries[name]["folds"])

    def run(self, name: str, fold: int | str) -> Path:
        """The folder of an experiment's run in a fold. A name in the fold's place is a folder beside the folds."""
        return self.runs / name / (f"fold{fold}" if isinstance(fold, int) else fold)

    def train(self, name: str, *more: object) -> str:
        """The torchrun command of an experiment."""
        count = self.options.processes
        launcher = ["torchrun", "--standalone", f"--nproc_per_node={count}"] if count > 1 else ["python"]
        script = f"{self.entries[name]['script']}.py"
        return _line(*launcher, script, "--experiment", name, *self.file, *more, *self.options.rest)

    def evaluate(self, runs: list[Path], domains: list[str], *more: object) -> str:
        """The command that scores runs on domains."""
        return _line("python", "evaluate.py", *runs, "--data", self.options.data, "--domain", *domains, *more)

    def pretrain(self) -> Iterator[Job]:
        """The NanoSEM pre-training, after one whose encoder it starts from."""
        names = [name for name, entry in self.entries.items() if not {"source", "run"} & entry.keys()]
        names.sort(key=lambda name: str(self.runs) in self.entries[name]["pretraining"])
        command = " && ".join(map(self.train, names))
        yield Job(names[-1], command, self.runs / names[-1] / "finished.json")

    def supervised(self) -> Iterator[Job]:
        """Table 2: train on the source, and score there."""
        for name, entry in self.trained(adapted=False).items():
            for fold in self.folds(name):
                run = self.run(name, fold)
                train = self.train(name, "--fold", fold, "--data", self.options.data)
                score = self.evaluate([run], [entry["source"]])
                yield Job(name, f"{train} && {score}", run / "evaluation" / entry["source"] / "score.json")

    def generalization(self) -> Iterator[Job]:
        """Tables 3-5: the supervised runs on the targets. Table 6: the same runs at their milestones."""
        for name, entry in self.trained(adapted=False).items():
            runs = [self.run(name, fold) for fold in self.folds(name)]
            domains = [other["domain"] for other in self.entries.values() if other.get("run") == name]
            if not domains:  # an experiment past the study that nothing asks to be scored elsewhere
                continue
            lines, last = [self.evaluate(runs, domains)], domains[-1]
            for epoch in entry.get("milestones", ()):
                if epoch < entry["epochs"]:  # else it is the final model
                    lines.append(self.evaluate(runs, [entry["source"], "t2"], "--checkpoint", f"epoch{epoch}"))
                    last = f"t2.epoch{epoch}"
            yield Job(name, " && ".join(lines), runs[-1] / "evaluation" / last / "score.json")

    def uda(self) -> Iterator[Job]:
        """Tables 3-5 and 7: adapt, score on the target and on the source."""
        return self._adaptations(selected=False)

    def selection(self) -> Iterator[Job]:
        """Section 4.3: training tiles of t3 with less bainite, and the common test micrographs of T3 and T3v."""
        entry = self.entries["T3v"]
        runs = [self.run("T3.2", fold) for fold in self.folds("T3.2")]
        file = Path(entry["selection"])
        options = ["--data", self.options.data, "--domain", entry["target"], "--out", file]
        options += [word for fact in SELECTION for word in (f"--{fact.replace('_', '-')}", entry[fact])]
        yield Job("T3v", _line("python", "-m", "evaluation.selection", *runs, *options), file)

    def shifted(self) -> Iterator[Job]:
        """Section 4.3: adapt to the selected tiles, and score T3 and T3v on their common test set."""
        yield from self._adaptations(selected=True)
        file = Path(self.entries["T3v"]["selection"])
        for name in ("T3.2", "T3v"):
            domain = self.entries[name]["target"]
            for fold in self.folds(name):
                run = self.run(name, fold)
                outcome = run / "evaluation" / f"{domain}.selected-{file.stem}" / "score.json"
                yield Job(name, self.evaluate([run], [domain], "--selection", file), outcome)

    def _adaptations(self, selected: bool) -> Iterator[Job]:
        for name, entry in self.trained(adapted=True).items():
            for fold in self.folds(name) if selected == ("selection" in entry) else ():
                run = self.run(name, fold)
                train = self.train(name, "--fold", fold, "--data", self.options.data)
                if entry["script"] == "train_translation":
                    run = self.run(name.replace("translation", "translated"), fold)
                    train = f"{train} && {self._on_translated(name, fold, run)}"
                score = self.evaluate([run], [entry["target"], entry["source"]])
                yield Job(name, f"{train} && {score}", run / "evaluation" / entry["source"] / "score.json")

    def _on_translated(self, name: str, fold: int, run: Path) -> str:
        """Give the commands that train the reference's experiment on what a translation has made of the source."""
        entry, translation = self.entries[name], self.run(name, fold)
        domain = f"{entry['source']}-as-{entry['target']}"
        write = _line("python", "-m", "evaluation.translate", translation, "--data", self.options.data)
        where = ["--data", translation / "stores", "--source", domain, "--run-dir", run]
        where += ["--reference", self.run(entry["reference"], fold)]
        return f"{write} && {self.train(entry['reference'], '--fold', fold, *where)}"

    def ensemble(self) -> Iterator[Job]:
        """Section 4.2: the models of all folds as one ensemble. Figure 7: Grad-CAM of the supervised model."""
        for name, entry in self.trained(adapted=True).items():
            out = self.run(name, f"ensemble.{entry['target']}")
            runs = [self.run(name, fold) for fold in self.folds(name)]
            segments = entry["script"] != "train_translation"
            if segments and "selection" not in entry and len(runs) > 1:
                command = self.evaluate(runs, [entry["target"]], "--ensemble", "--out", out)
                yield Job(name, command, out / "score.json")
        reference = self.entries["T1.11"]["reference"]
        run = self.run(reference, 0)
        command = self.evaluate([run], [self.entries["T1.11"]["source"], "t1"], "--gradcam")
        yield Job(reference, command, run / "evaluation" / "t1" / "gradcam" / "gradcam.json")


FAMILIES = ("pretrain", "supervised", "generalization", "uda", "selection", "shifted", "ensemble")


def _line(*words: object) -> str:
    return shlex.join(map(str, words))


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="launch.plan", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("family", choices=FAMILIES)
    parser.add_argument("--experiments", default=EXPERIMENTS, help="file of experiments")
    parser.add_argument("--only", nargs="*", help="these experiments only, the study's or not")
    parser.add_argument("--data", default="stores", help="folder of tile stores")
    parser.add_argument("--processes", type=int, default=4, help="of a training run")
    parser.add_argument("--rest", nargs=argparse.REMAINDER, default=[], help="options of the training scripts")
    options = parser.parse_args()
    for job in getattr(Study(options), options.family)():
        if not job.outcome.exists() and (not options.only or job.experiment in options.only):
            print(job.command)


if __name__ == "__main__":
    main()
