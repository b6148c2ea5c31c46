"""The study's Tables 2 to 7 and the figures of its Sections 4.2 and 4.3, with our runs beside the study's values.

mIoU, RDT and phase fractions are in percent; mean ± sample standard deviation over folds. What was not run is empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from evaluation.metrics import mean_std, percent
from evaluation.study import published
from evaluation.study.published import Finding, StudyRuns

OTHER = "†"  # marks runs of another configuration than the study's
RDT_NOTE = (
    "RDT: mean target mIoU relative to the mean source mIoU of the matching supervised run, over the folds that both "
    "have, as in the study's tables."
)


@dataclass
class Table:
    """A table to read (header and rows of text) and to compute with (records, for CSV; percent)."""

    name: str
    title: str
    header: list[str]
    rows: list[list[str]] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    deviation: str = ""  # in what the runs are not the study's


def study_tables(runs: StudyRuns) -> list[Table]:
    """All tables of a StudyRuns, in the study's order."""
    return [
        supervised(runs),
        *(of_target(runs, number) for number in (3, 4, 5)),
        milestones(runs),
        fractions(runs),
        bagging(runs),
        source_scores(runs),
        common_test_set(runs),
    ]


def supervised(runs: StudyRuns) -> Table:
    """Table 2: supervised training on the source."""
    table = Table(
        "table2",
        "Table 2. Supervised training on the source domain",
        ["Model", "Pre-training", "Augmentation", "Exp.", "mIoU [%]", "study", "folds"],
    )
    for line in published.findings(2):
        scores = scores_of(runs, line.experiment)
        facts = _facts(runs, line)
        table.rows.append([*facts, percent(_miou(scores)), _text(line.miou, line.miou_std), _count(scores)])
        table.records.append(_record(runs, line, scores, {"study_miou": line.miou, "study_miou_std": line.miou_std}))
    return _noted(table, runs)


def of_target(runs: StudyRuns, number: int) -> Table:
    """Table 3, 4 or 5: generalization and adaptation to a target."""
    table = Table(
        f"table{number}",
        f"Table {number}. Generalization (DG) and adaptation (UDA) to target {number - 2}",
        ["Model", "Pre-training", "Augmentation", "Exp.", "mIoU [%]", "study", "RDT [%]", "study", "folds"],
        notes=[RDT_NOTE],
    )
    for line in published.findings(number):
        scores, place = scores_of(runs, line.experiment), runs.place(line.experiment)
        value = published.relative(scores, runs.scores(place.reference, place.source)) if place else None
        model, *facts = _facts(runs, line)
        kind = "UDA" if line.kind == "uda" else "DG"
        cells = [percent(_miou(scores)), _text(line.miou, line.miou_std), _percent_text(value), _text(line.rdt)]
        table.rows.append([f"{kind} {model}", *facts, *cells, _count(scores)])
        of_study = {"study_miou": line.miou, "study_miou_std": line.miou_std, "study_rdt": line.rdt}
        table.records.append(_record(runs, line, scores, {"rdt": _hundred(value), **of_study}))
    for line, follows in published.inconsistent():
        if line.table == number:
            table.notes.append(
                f"{line.experiment}: the study's RDT of {line.rdt:.1f} does not follow from its own mean mIoU, which "
                f"give {follows:.1f}."
            )
    return _noted(table, runs)


def milestones(runs: StudyRuns) -> Table:
    """Table 6: target 2 after two numbers of epochs of fine-tuning."""
    lines = published.findings(6)
    ran = [line for line in lines if (place := runs.place(line.experiment)) and runs.configs(place.run)]
    epochs = [_agreed(_milestone(runs, line, position) for line in ran or lines) for position in (0, 1)]
    named = [f"after {epochs[0]} epochs" if epochs[0] else "after the first milestone"]
    named.append(f"after {epochs[1]} epochs" if epochs[1] else "after the second milestone")
    header = ["Model", "Pre-training", "Augmentation", "Exp."]
    for title, of_study in zip(named, (100, 200), strict=True):
        header += [f"mIoU {title} [%]", f"study, {of_study}", "RDT [%]", f"study, {of_study}", "folds"]
    table = Table("table6", "Table 6. Target 2 after two numbers of epochs of fine-tuning", header)
    table.notes.append(f"{RDT_NOTE} The source mIoU is the one after the same number of epochs.")
    repeated = []
    for line in lines:
        row, record = _facts(runs, line), {}
        place = runs.place(line.experiment)
        of_study = (line, published.finding(line.experiment, (4,)))
        if of_study[1].epochs != 200:
            repeated.append(of_study[1])
        for position, known in enumerate(of_study):
            epoch = _milestone(runs, line, position)
            domain = place and place.domain
            scores = runs.milestone_scores(place.run, domain, epoch) if place else {}
            reference = runs.milestone_scores(place.reference, place.source, epoch) if place else {}
            value = published.relative(scores, reference)
            row += [percent(_miou(scores)), _text(known.miou, known.miou_std), _percent_text(value), _text(known.rdt)]
            row.append(_count(scores))
            mean, std, folds = mean_std(_miou(scores))
            key = ("first", "second")[position]
            record |= {
                f"{key}_epochs": epoch, f"{key}_miou": _hundred(mean), f"{key}_miou_std": _hundred(std),
                f"{key}_rdt": _hundred(value), f"{key}_folds": folds, f"{key}_study_miou": known.miou,
                f"{key}_study_miou_std": known.miou_std, f"{key}_study_rdt": known.rdt,
            }  # fmt: skip
        table.rows.append(row)
        table.records.append({**_identity(runs, line), **record, "differs": _differs(runs, line.experiment)})
    for line in repeated:
        table.notes.append(
            f"{line.experiment}: the study's value after 200 epochs ({_text(line.miou, line.miou_std)}) is the one of "
            f"its Table 4, where the model is that of {line.epochs} epochs; it does not say which of the two it is."
        )
    return _noted(table, runs)


def fractions(runs: StudyRuns) -> Table:
    """Table 7: phase fractions of the targets' test sets, predicted by generalization and by adaptation."""
    header = ["Domain", "Exp. DG, UDA", "φ DG [%]", "study", "φ UDA [%]", "study", "φ label [%]", "study", "folds"]
    table = Table("table7", "Table 7. Phase fractions of the test sets", header)
    for domain, known in published.phase_fractions().items():
        pair = adapted_pair(domain)
        row, counts, labels = [domain, ", ".join(_marked(runs, e) for e in pair)], [], set()
        record = {"domain": domain, "experiment": ", ".join(pair)}
        for experiment, method in zip(pair, ("dg", "uda"), strict=True):
            scores = scores_of(runs, experiment)
            found = [score["phase_fraction_predicted"] for score in scores.values()]
            labels |= {score["phase_fraction_label"] for score in scores.values()}
            row += [percent(found), _text(known[f"phi_{method}"], known[f"phi_{method}_std"])]
            mean, std, count = mean_std(found)
            counts.append(str(count))
            record |= {f"phi_{method}": _hundred(mean), f"phi_{method}_std": _hundred(std), f"folds_{method}": count}
        label = labels.pop() if len(labels) == 1 else None
        row += [percent([label]), _text(known["phi_label"]), ", ".join(counts) if any(map(int, counts)) else ""]
        differs = "; ".join(dict.fromkeys(filter(None, (_differs(runs, e) for e in pair))))
        of_study = {f"study_{name}": value for name, value in known.items()}
        table.rows.append(row)
        table.records.append({**record, "phi_label": _hundred(label), **of_study, "differs": differs})
    return _noted(table, runs)


def bagging(runs: StudyRuns) -> Table:
    """Section 4.2: the mean probability of the models of all folds, against the mean of their scores."""
    header = ["Domain", "Exp.", "members [%]", "study", "bagged [%]", "study", "gain [%]", "study", "members"]
    table = Table("table_bagging", "Section 4.2. Bagging the models of the folds", header)
    for experiment, (of_study, _) in published.of_the_text("bagging").items():
        place, line = runs.place(experiment), published.finding(experiment)
        members = runs.members(place.run, place.domain) if place else {}
        ensemble = runs.bagged(place.run, place.domain) if place else None
        bagged = ensemble["miou"] if ensemble else None
        mean, std, count = mean_std(_miou(members))
        gain = None if mean is None else bagged - mean
        single = [percent(_miou(members)), _text(line.miou, line.miou_std)]
        cells = [*single, percent([bagged]), _text(of_study), _percent_text(gain), _text(of_study - line.miou)]
        size = str(len(ensemble["runs"])) if ensemble else ""
        table.rows.append([line.domain, _marked(runs, experiment), *cells, size])
        table.records.append(
            {"domain": line.domain, "experiment": experiment, "members": count, "members_miou": _hundred(mean)}
            | {"members_miou_std": _hundred(std), "bagged_miou": _hundred(bagged), "gain": _hundred(gain)}
            | {"study_members_miou": line.miou, "study_bagged_miou": of_study, "differs": _differs(runs, experiment)}
        )
    return _noted(table, runs)


def source_scores(runs: StudyRuns) -> Table:
    """Section 4.2: scores on the source after adaptation to each target."""
    header = ["Adapted to", "Exp.", "mIoU on the source [%]", "study", "folds"]
    table = Table("table_source", "Section 4.2. Adapted models on the source domain", header)
    known = {"S.10": (published.finding("S.10").miou, None), **published.of_the_text("source")}
    for experiment, of_study in known.items():
        place, line = runs.place(experiment), published.finding(experiment)
        scores = runs.scores(place.run, place.source) if place else {}
        domain = "— (supervised)" if experiment == "S.10" else line.domain
        table.rows.append([domain, _marked(runs, experiment), percent(_miou(scores)), _text(*of_study), _count(scores)])
        table.records.append(_plain_record(runs, experiment, scores, of_study))
    return _noted(table, runs)


def common_test_set(runs: StudyRuns) -> Table:
    """Section 4.3: adaptation to t3 with training tiles of two mean phase fractions, on a common test set."""
    header = ["Training tiles of t3", "Exp.", "mIoU [%]", "study", "folds"]
    table = Table("table_t3v", "Section 4.3. Target 3 against target 3v, on their common test set", header)
    for experiment, of_study in published.of_the_text("common").items():
        scores = common_scores(runs, experiment)
        tiles = "lower phase fraction (3v)" if experiment == "T3v" else "all (3)"
        table.rows.append([tiles, _marked(runs, experiment), percent(_miou(scores)), _text(*of_study), _count(scores)])
        table.records.append(_plain_record(runs, experiment, scores, of_study))
    table.notes.append(
        f"Scored on the micrographs of the selection {published.COMMON_TEST_SET}, not on those of Table 5."
    )
    return _noted(table, runs)


def common_scores(runs: StudyRuns, experiment: str) -> dict[int, dict]:
    """Scores of T3.2 or T3v on the common test set of Section 4.3, {fold: score.json}."""
    place = runs.place(experiment)
    return runs.scores(place.run, place.domain, variant=f"selected-{published.COMMON_TEST_SET}") if place else {}


def adapted_pair(domain: str) -> tuple[str, str]:
    """The DeepLabv2 experiments (generalization, adaptation) of a target."""
    lines = [line for line in published.findings() if line.domain == domain and line.model == "deeplabv2_resnet101"]
    return tuple(next(line.experiment for line in lines if line.kind == kind) for kind in ("generalization", "uda"))


def deviations(runs: StudyRuns, experiments: list[str] | None = None) -> list[str]:
    """Texts, one an option, that say in what the runs of these experiments (of all) are not the study's."""
    grouped = {}
    for experiment in experiments or [
        *dict.fromkeys(line.experiment for line in published.findings()),
        "T3v",
        "NanoSEM",
    ]:
        place = runs.place(experiment)
        for option, values in runs.differences(place.run).items() if place else ():
            key = (option, *(str(value) for value in values))
            grouped.setdefault(key, {})[place.run] = None
    return [
        f"{option} {here} instead of {there} ({_listed(names)})"
        for (option, here, there), names in sorted(grouped.items(), key=lambda item: item[0][0])
    ]


def _noted(table: Table, runs: StudyRuns) -> Table:
    shown = [name for record in table.records for name in record["experiment"].split(", ")]
    found = deviations(runs, [*shown, "NanoSEM"] if any("nanosem" in row for row in table.rows) else shown)
    if found:
        table.deviation = f"{OTHER} Not the study's configuration: {'; '.join(found)}."
    return table


def _listed(names: Iterable[str]) -> str:
    """Names of experiments as text, consecutive numbers drawn together: S.1 to S.9, T3v."""
    ranges = []
    for family, members in groupby(names, lambda name: name.rpartition(".")[0] or name):
        numbers = [int(name.rpartition(".")[2]) for name in members if name != family]
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            ranges.append(f"{family}.{numbers[0]} to {family}.{numbers[-1]}")
        else:
            ranges += [f"{family}.{number}" for number in numbers] or [family]
    return ", ".join(ranges)


def scores_of(runs: StudyRuns, experiment: str) -> dict[int, dict]:
    """Scores of a row of the study's tables, {fold: score.json}."""
    place = runs.place(experiment)
    return runs.scores(place.run, place.domain) if place else {}


def _facts(runs: StudyRuns, line: Finding) -> list[str]:
    """Model, pre-training, augmentation of the runs where there are any, else of the study; and the experiment."""
    place = runs.place(line.experiment)
    configs = runs.configs(place.run) if place else {}
    values = [getattr(line, name) for name in ("model", "pretraining", "augmentation")]
    if configs:
        config = next(iter(configs.values()))
        values = [published.option_text(config.get(name)) for name in ("model", "pretraining", "augmentation")]
    return [published.MODEL_NAMES.get(values[0], values[0]), *values[1:], _marked(runs, line.experiment)]


def _marked(runs: StudyRuns, experiment: str) -> str:
    return experiment + (OTHER if _differs(runs, experiment) else "")


def _differs(runs: StudyRuns, experiment: str) -> str:
    """The options in which the runs of an experiment are not the study's, as text."""
    place = runs.place(experiment)
    return ", ".join(sorted(runs.differences(place.run))) if place else ""


def _milestone(runs: StudyRuns, line: Finding, position: int) -> int | None:
    place = runs.place(line.experiment)
    return runs.milestone(place.run, position) if place else None


def _identity(runs: StudyRuns, line: Finding) -> dict[str, str]:
    place = runs.place(line.experiment)
    model, pretraining, augmentation, _ = _facts(runs, line)
    facts = {"experiment": line.experiment, "run": place.run if place else "", "domain": line.domain}
    return facts | {"model": model, "pretraining": pretraining, "augmentation": augmentation}


def _record(runs: StudyRuns, line: Finding, scores: dict[int, dict], others: dict) -> dict:
    mean, std, folds = mean_std(_miou(scores))
    measured = {"miou": _hundred(mean), "miou_std": _hundred(std), **others, "folds": folds}
    return {**_identity(runs, line), **measured, "differs": _differs(runs, line.experiment)}


def _plain_record(
    runs: StudyRuns, experiment: str, scores: dict[int, dict], of_study: tuple[float, float | None]
) -> dict:
    mean, std, folds = mean_std(_miou(scores))
    found = {"experiment": experiment, "miou": _hundred(mean), "miou_std": _hundred(std), "folds": folds}
    known = {"study_miou": of_study[0], "study_miou_std": of_study[1]}
    return found | known | {"differs": _differs(runs, experiment)}


def _miou(scores: dict[int, dict]) -> list[float]:
    return [score["miou"] for score in scores.values()]


def _count(scores: dict[int, dict]) -> str:
    return str(len(scores)) if scores else ""


def _agreed(values: Iterable) -> object:
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _hundred(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)


def _percent_text(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _text(value: float | None, std: float | None = None) -> str:
    """A figure of the study, in percent; empty where it gives none."""
    if value is None:
        return ""
    return f"{value:.1f}" if std is None else f"{value:.1f} ± {std:.1f}"
