"""Pages of runs: tables, predictions side by side, training curves."""

import json
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from data.pictures import read_classes
from data.store import Store, store_path
from evaluation import page
from evaluation.figures import caption, comparison, curves, legend_of, panel, side_by_side
from evaluation.metrics import Confusion
from evaluation.scoring import read_config
from evaluation.study.schematic import Drawn
from evaluation.study.study_tables import Table
from training.tracking import variant_of

TextTable = tuple[list[str], list[list[str]]]  # header and rows
SIDE_BY_SIDE = ("generalization", "adabn", "uda")


@dataclass
class StudyReport:
    """Tables and pictures of the study for the page of runs.

    `deviations` says in what the runs are not the study's, `data` names the folders of their stores, `remarks` says
    what was left out.
    """

    tables: list[Table]
    trends: Table
    pictures: list[Drawn]
    deviations: list[str]
    data: list[str]
    remarks: list[str]


def page_of_runs(table: TextTable, scores: list[dict], remarks: list[str], study: StudyReport | None = None) -> str:
    """The page of evaluation.tables: the study's tables and figures where its experiments were run, and all scores.

    Training curves follow, and a panel of each experiment and domain that no figure of the study shows.
    remarks: what to know of the scores, below their table.
    """
    sections = _study_sections(study) if study else []
    sections += ["<h2>All scores</h2>", page.table(*table)]
    sections += ["<p class='note'>Mean ± sample standard deviation over the runs (folds and seeds).</p>"]
    sections += _noted(remarks)
    records = [record for of_study in (study.tables if study else ()) for record in of_study.records]
    drawn = {record["experiment"] for record in records} | {record.get("run") for record in records}
    shown, runs, panels = set(), {}, []
    for score in scores:
        key = (score["experiment"], score["domain"], variant_of(score), score["checkpoint"])
        files = sorted((score["folder"] / "panels").glob("*.png"))
        if key not in shown and files and score["experiment"] not in drawn:
            shown.add(key)
            panels += [f"<h3>{page.text(' · '.join(map(str, key)))}</h3>", page.image(files[0].read_bytes())]
        run = _run_of(score)
        runs.setdefault(score["experiment"], {}).setdefault(f"{run.parent.name}/{run.name}", _metrics(run))
    sections += ["<h2>Predictions</h2>", *panels] if panels else []
    for experiment, of_run in sorted(runs.items(), key=str):
        sections += _curves(f"Training of {experiment}", of_run)
    return page.whole("Segmentation scores", sections)


def _study_sections(study: StudyReport) -> list[str]:
    """The study's tables, trends and figures. First comes what a reader must know of the runs behind them."""
    data = f"The micrographs are those of {', '.join(study.data) or 'no run'}; the study's own are not published."
    if study.deviations:
        text = f"<b>These runs are not the study's.</b> {page.text('; '.join(study.deviations))}. {page.text(data)}"
    else:
        text = f"The runs have the study's configuration. {page.text(data)}"
    sections = [f"<p class='warning'>{text}</p>"]
    sections += _noted(study.remarks)
    sections += [
        "<p class='note'>Mean ± sample standard deviation over the folds, in percent; “study” is the value that the "
        "study gives. An empty cell was not run. Rows are of last checkpoints with the statistics of training; AdaBN "
        "and best checkpoints are among all scores below.</p>"
    ]
    for table in (study.trends, *study.tables):
        sections += [
            f"<h2>{page.text(table.title)}</h2>",
            page.table(table.header, table.rows, wrapped=table is study.trends),
        ]
        notes = table.notes + (["† Not the study's configuration: see above."] if table.deviation else [])
        sections += [f"<p class='note'>{page.text(note)}</p>" for note in notes]
    for title, text, path in study.pictures:
        sections += [
            f"<h2>{page.text(title)}</h2>",
            page.image(path.read_bytes(), title),
            f"<p class='note'>{page.text(text)}</p>",
        ]
    return sections


def _noted(remarks: list[str]) -> list[str]:
    return [f"<p class='note'>Remark: {page.text(remark)}.</p>" for remark in remarks]


def demo_page(table: TextTable, scores: dict[str, dict[str, dict]], methods: list[str], remarks: list[str]) -> str:
    """The demonstration's page. scores: {domain: {method: {seed: score.json dict with `folder`}}}."""
    sections = [
        "<p>A small network learns to segment lath bainite on the annotated, drawn <b>source</b> micrographs and "
        "is adapted to a <b>target</b> without any of its labels.</p>",
        page.table(*table),
        "<p class='note'><b>generalization</b>: the source model as it is. <b>adabn</b>: its batch-norm "
        "statistics re-estimated on the target's images. <b>uda</b>: adversarial adaptation. <b>control</b>: the "
        "same training without the adversary. <b>otsu</b>: a grey-level threshold, the floor. RDT: mIoU "
        "relative to the supervised source mIoU. With several seeds: mean ± standard deviation.</p>",
        *_noted(remarks),
        page.drawn(comparison, scores, methods),
    ]
    for domain, scored in scores.items():
        picture = _test_micrograph(domain, scored)
        if picture:
            sections += [f"<h2>{page.text(domain)}: a test micrograph</h2>", picture]
    runs = {}
    for method in ("generalization", "uda", "control"):
        for domain in scores:
            for seed, score in scores[domain].get(method, {}).items():
                run = _run_of(score)
                runs.setdefault(f"{run.parent.name}, {seed}", _metrics(run))
    sections += _curves("Training", runs)
    return page.whole("From an annotated to an unlabelled kind of micrograph", sections)


def _test_micrograph(domain: str, methods: dict[str, dict[str, dict]]) -> str:
    """Picture of a test micrograph as each method of the first seed segments it; empty without its store."""
    shown = [name for name in SIDE_BY_SIDE if domain != "source" or name in methods]
    first = methods.get("generalization")
    if not first:
        return ""
    seed, score = next(iter(first.items()))
    names = sorted(path.stem for path in (score["folder"] / "panels").glob("*.png"))
    config = read_config(_run_of(score))
    try:
        store = Store(store_path(config["data"], domain))
    except InputError as error:
        return f"<p class='note'>No picture: {page.text(error)}</p>"
    chosen = [m for m in store.micrographs if m.name in names and m.labelled]
    if not chosen:
        return ""
    image, label = store.image(chosen[0].index), store.mask(chosen[0].index)
    predictions = []
    for name in shown:
        if seed not in methods.get(name, {}):
            predictions.append((name, None))
            continue
        path = methods[name][seed]["folder"] / "predictions" / f"{chosen[0].name}.png"
        predicted = read_classes(path)
        title = "supervised" if domain == "source" and name == "generalization" else name
        confusion = Confusion.of(predicted, label, store.phases)
        predictions.append((caption(title, confusion, store.classes), predicted))
    columns = side_by_side(f"micrograph {chosen[0].name}", image, label, predictions, classes=store.classes)
    return page.drawn(panel, columns, legend_of(store.classes, errors=True, label=True))


def _curves(title: str, runs: dict[str, list[dict]]) -> list[str]:
    runs = {name: lines for name, lines in runs.items() if lines}
    return [f"<h2>{page.text(title)}</h2>", page.drawn(curves, runs)] if runs else []


def _run_of(score: dict) -> Path:
    return score["folder"].parents[1]


def _metrics(run: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl, without a last one that was cut."""
    path = run / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
