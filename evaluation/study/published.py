"""The study's experiments: the values that it published, and the scores of our runs that belong to each row.

The study's own figures are the facts of study.csv (its Tables 2 to 6), study_phase_fractions.csv (Tables 1 and 7) and
study_text.csv (Sections 4.2 and 4.3), beside this module.
"""

import csv
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.metrics import mean_std, rdt
from evaluation.scoring import on_different_stores, outdated, read_config, read_score, score_folder
from training.configuration import OPERATIONAL, values_of
from training.experiments import read_experiments

FOLDER = Path(__file__).parent
COMMON_TEST_SET = "t3v"  # the selection of Section 4.3's test set, which T3 and T3v share
# Options that leave the final model as it is, that count the repeats of an experiment, or say the same as others.
NO_SETTING = (OPERATIONAL - {"selection"}) | {
    "fold", "seed", "reference", "experiment", "experiments", "dry_run", "validate_every", "steps",
}  # fmt: skip
MODEL_NAMES = {"unet_vgg16": "VGG16 U-Net", "deeplabv2_resnet101": "ResNet-101 DeepLabv2"}


@dataclass(frozen=True)
class Finding:
    """A line of the study's Tables 2 to 6; mIoU, standard deviation and RDT in percent, None where it gives none."""

    experiment: str
    table: int
    domain: str
    kind: str
    model: str
    pretraining: str
    augmentation: str
    epochs: int
    miou: float
    miou_std: float | None
    rdt: float | None


@dataclass(frozen=True)
class Place:
    """Origin of a row's scores: the run's experiment, the domain, and the S run that RDT is relative to."""

    run: str
    domain: str
    reference: str
    source: str


def findings(table: int | None = None) -> list[Finding]:
    """The study's lines, of one table if asked for."""
    return [line for line in _findings() if table in (None, line.table)]


def finding(experiment: str, table: int | None = None) -> Finding:
    """The study's line of an experiment: of its own table (2 to 5) unless `table` says 6."""
    return next(line for line in findings() if line.experiment == experiment and line.table in (table or (2, 3, 4, 5)))


def phase_fractions() -> dict[str, dict[str, float | None]]:
    """Table 7 in percent: {domain: {phi_dg, phi_dg_std, phi_uda, phi_uda_std, phi_label}}."""
    return {
        line["domain"]: {name: _number(line[name]) for name in line if name.startswith("phi_") and name != "phi_train"}
        for line in _read("study_phase_fractions.csv")
        if line["phi_dg"]
    }


def of_the_text(quantity: str) -> dict[str, tuple[float, float | None]]:
    """Values of 'bagging', 'source' (4.2) or 'common' (4.3) in percent: {experiment: (mIoU, deviation or None)}."""
    lines = [line for line in _read("study_text.csv") if line["quantity"] == quantity]
    return {line["experiment"]: (float(line["miou"]), _number(line["miou_std"])) for line in lines}


class StudyRuns:
    """Runs and scores of the study's experiments below a folder of runs.

    Scores are of single runs as they are: the last checkpoint of a finished run, or a milestone. Those with other
    batch-norm statistics (AdaBN) or of the best checkpoint lie in folders of other names and are never read.
    `remarks` says what was found and left out.
    """

    def __init__(self, root: Path | str, experiments: Path):
        """Open root, the folder with <experiment>/fold<k>/. experiments: file that these were run by."""
        self.root = Path(root)
        self.experiments, self.study = read_experiments(experiments), read_experiments()
        self.remarks = []
        self._configs, self._scores = {}, {}

    def place(self, experiment: str) -> Place | None:
        """Origin of a row's scores; None for an experiment that the file does not have."""
        entry = self.experiments.get(experiment)
        if entry is None:
            return None
        run = entry.get("run", experiment)
        trained = self.experiments.get(run, {})
        source = trained.get("source", "source")
        domain = entry.get("domain") or trained.get("target") or source
        return Place(run, domain, trained.get("reference", run), source)

    def configs(self, run: str) -> dict[int, dict]:
        """Configurations of an experiment's runs, {fold: config.json}."""
        if run not in self._configs:
            self._configs[run] = {}
            for path in self._folds(run):
                if (path / "config.json").is_file():
                    self._configs[run][_number_of(path)] = read_config(path)
            options = sorted(self._options(run))
            if len({json.dumps([config.get(name) for name in options]) for config in self._configs[run].values()}) > 1:
                self.remarks.append(f"the folds of {run} differ in configuration")
        return self._configs[run]

    def exist(self) -> bool:
        """True where any of the study's experiments has a run."""
        return any(self.configs(place.run) for line in findings() if (place := self.place(line.experiment)))

    def scores(self, run: str, domain: str, checkpoint: str = "last", variant: str = "plain") -> dict[int, dict]:
        """Scores of an experiment's finished runs on a domain, {fold: score.json}."""
        key = (run, domain, checkpoint, variant)
        if key not in self._scores:
            self._scores[key] = {}
            for path in self._folds(run):
                file = score_folder(path, domain, checkpoint, variant) / "score.json"
                score = read_score(file) if file.is_file() else None
                if score and self._counts(file, score, checkpoint):
                    self._scores[key][_number_of(path)] = score | {"folder": file.parent}
            if on_different_stores(self._scores[key].values()):
                self.remarks.append(f"the folds of {run} were scored on different versions of {domain}")
        return self._scores[key]

    def milestone(self, run: str, position: int) -> int | None:
        """The epoch of an experiment's first (0) or second (1) milestone, None without one."""
        configs = self.configs(run)
        entry = next(iter(configs.values())) if configs else self.experiments.get(run, {})
        milestones = entry.get("milestones") or []
        return milestones[position] if position < len(milestones) else None

    def milestone_scores(self, run: str, domain: str, epoch: int | None) -> dict[int, dict]:
        """Scores after an epoch, {fold: score.json}; the last checkpoint's where training ended with that epoch."""
        found = dict(self.scores(run, domain, f"epoch{epoch}")) if epoch else {}
        for fold, score in self.scores(run, domain).items() if epoch else ():
            config = self.configs(run).get(fold, {})
            at_the_end = config.get("milestone_steps", {}).get(str(config.get("iterations")))
            if at_the_end == f"epoch{epoch}":
                found.setdefault(fold, score)
        return dict(sorted(found.items()))

    def bagged(self, run: str, domain: str) -> dict | None:
        """Score of the ensemble of an experiment's runs; None without one."""
        path = self.root / run / f"ensemble.{domain}" / "score.json"
        if not path.is_file():
            return None
        score = read_score(path)
        if (score["variant"], score["domain"]) != ("ensemble", domain):
            self.remarks.append(f"{path.parent} is left out: it is no ensemble on {domain}")
            return None
        return score | {"folder": path.parent} if self._counts(path, score, "last") else None

    def members(self, run: str, domain: str) -> dict[int, dict]:
        """Scores of the ensemble's runs, {fold: score.json}; empty unless all of them are scored."""
        ensemble = self.bagged(run, domain)
        scores = self.scores(run, domain)
        folds = [_number_of(Path(path)) for path in ensemble["runs"]] if ensemble else []
        return {fold: scores[fold] for fold in folds} if set(folds) <= scores.keys() else {}

    def differences(self, run: str) -> dict[str, tuple]:
        """Options in which the runs of an experiment are not the study's, {option: (here, in the study)}."""
        found = {}
        for config in self.configs(run).values():
            for name in self._options(run) & config.keys():
                here, there = config[name], values_of(run)[name]
                if name == "epochs" and config.get("steps"):
                    here = f"{config['steps']} steps"
                elif name in ("pretraining", "selection"):
                    here, there = option_text(here), option_text(there)
                if here == there == "nanosem" and self.differences("NanoSEM"):
                    here = "nanosem of other settings"
                if here != there:
                    found[name] = (here, there)
        return found

    def data(self) -> list[str]:
        """The folders of tile stores that the runs were trained on."""
        runs = {place.run for line in findings() if (place := self.place(line.experiment))}
        return sorted({str(config.get("data")) for run in runs for config in self.configs(run).values()})

    def _options(self, run: str) -> set[str]:
        """All options that define an experiment of the study, those at their defaults too."""
        return values_of(run).keys() - NO_SETTING if run in self.study else set()

    def _folds(self, run: str) -> list[Path]:
        if run == "NanoSEM":
            return [self.root / run]  # pre-training has no folds
        folders = [path for path in (self.root / run).glob("fold*") if path.name.removeprefix("fold").isdecimal()]
        return sorted(folders, key=_number_of)

    def _counts(self, file: Path, score: dict, checkpoint: str) -> bool:
        """True where a score.json may stand in a table; a remark says why not."""
        why = outdated(file, score)
        if score.get("transductive"):
            why = f"{file.parent} is left out: it is transductive, which no score of the study is"
        if score["checkpoint"] != checkpoint:
            why = f"{file.parent} is left out: its score is of {score['checkpoint']}, not of {checkpoint}"
        self.remarks += [why] if why else []
        return not why


def relative(target: dict[int, dict], source: dict[int, dict]) -> float | None:
    """RDT of the means over folds, as a fraction: mean target mIoU relative to mean source mIoU (eq. 2).

    The folds that both have count; None without any. The study's tables are of this kind: its RDT follow from its own
    means within rounding, but for those that `inconsistent` names.
    """
    folds = [fold for fold in target if fold in source]
    means = [mean_std(scores[fold]["miou"] for fold in folds)[0] for scores in (target, source)]
    return rdt(*means) if None not in means else None


def inconsistent() -> list[tuple[Finding, float]]:
    """Lines whose RDT does not follow from the study's means within rounding: [(line, RDT that follows, percent)]."""
    of_source = {line.experiment: line.miou for line in findings(2)}
    found = []
    for line in findings():
        place = _study_place(line.experiment)
        if line.rdt is None or line.table == 6:  # the study gives no source mIoU after 100 epochs
            continue
        source = of_source[place]
        # All three are rounded to 0.1.
        rounding = 0.05 + 100 * (0.05 / source + 0.05 * line.miou / source**2)
        follows = 100 * rdt(line.miou, source)
        if abs(follows - line.rdt) > rounding + 1e-6:
            found.append((line, follows))
    return found


def option_text(value: object) -> str:
    """The value of an option as text. A file is its name; an own pre-training has its experiment's name before it.

    The encoder of the NanoSEM run is the study's `nanosem`.
    """
    path = Path(str(value))
    if path.name == "encoder.pt":
        return "nanosem" if path.parent.name == "NanoSEM" else f"{path.parent.name}/encoder.pt"
    return path.name


def _study_place(experiment: str) -> str:
    entry = read_experiments()[experiment]
    return entry.get("run") or entry.get("reference") or experiment


@cache
def _findings() -> list[Finding]:
    types = {"table": int, "epochs": int, "miou": float, "miou_std": _number, "rdt": _number}
    return [Finding(**{name: types.get(name, str)(line[name]) for name in line}) for line in _read("study.csv")]


def _read(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _number_of(path: Path) -> int:
    name = path.name.removeprefix("fold")
    return int(name) if name.isdecimal() else -1
