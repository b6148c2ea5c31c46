"""HTML pages that stand alone in one file: tables, predictions side by side, training curves."""

import base64
import html
import io
import json

import cv2

from data.errors import InputError
from data.store import Store, store_path
from evaluation.figures import LEGEND, LEGEND_LABEL, caption, comparison, curves, overlay, panel
from evaluation.metrics import Confusion

SIDE_BY_SIDE = ("generalization", "adabn", "uda")

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto }
td, th { padding: .25em .9em; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #222 } tr.first td { border-top: 2px solid #aaa }
img { max-width: 100%; border: 1px solid #eee } p.note { color: #555; max-width: 50em }
"""


def page_of_runs(table, scores):
    """The page of evaluation.tables: the overview, a panel of each experiment and domain, training curves."""
    sections = ["<h2>Scores</h2>", _table(*table)]
    sections += ["<p class='note'>Mean ± sample standard deviation over the runs (folds and seeds).</p>"]
    sections += ["<h2>Predictions</h2>"]
    shown, runs = set(), {}
    for score in scores:
        key = (score["experiment"], score["domain"], score["variant"], score["checkpoint"])
        panels = sorted((score["folder"] / "panels").glob("*.png"))
        if key not in shown and panels:
            shown.add(key)
            sections += [f"<h3>{_text(' · '.join(map(str, key)))}</h3>", _image(panels[0].read_bytes())]
        run = _run_of(score)
        runs.setdefault(score["experiment"], {}).setdefault(f"{run.parent.name}/{run.name}", _metrics(run))
    for experiment, of_run in sorted(runs.items(), key=str):
        sections += _curves(f"Training of {experiment}", of_run)
    return _page("Segmentation scores", sections)


def demo_page(table, scores, methods):
    """The demonstration's page. scores: {domain: {method: {seed: score.json dict with `folder`}}}."""
    sections = [
        "<p>A small network learns to segment lath bainite on the annotated, drawn <b>source</b> micrographs and "
        "is adapted to a <b>target</b> without any of its labels.</p>",
        _table(*table),
        "<p class='note'><b>generalization</b>: the source model as it is. <b>adabn</b>: its batch-norm "
        "statistics re-estimated on the target's images. <b>uda</b>: adversarial adaptation. <b>control</b>: the "
        "same training without the adversary. <b>otsu</b>: a grey-level threshold, the floor. RDT: mIoU "
        "relative to the supervised source mIoU. With several seeds: mean ± standard deviation.</p>",
        _drawn(comparison, scores, methods),
    ]
    for domain, scored in scores.items():
        picture = _side_by_side(domain, scored)
        if picture:
            sections += [f"<h2>{_text(domain)}: a test micrograph</h2>", picture]
    runs = {}
    for method in ("generalization", "uda", "control"):
        for domain in scores:
            for seed, score in scores[domain].get(method, {}).items():
                run = _run_of(score)
                runs.setdefault(f"{run.name}, {seed}", _metrics(run))
    sections += _curves("Training", runs)
    return _page("From an annotated to an unlabelled kind of micrograph", sections)


def _side_by_side(domain, methods):
    """One test micrograph of a domain as each method segments it, of the first seed; empty without its store."""
    shown = [name for name in SIDE_BY_SIDE if domain != "source" or name in methods]
    first = methods.get("generalization")
    if not first:
        return ""
    seed, score = next(iter(first.items()))
    names = sorted(path.stem for path in (score["folder"] / "panels").glob("*.png"))
    config = json.loads((_run_of(score) / "config.json").read_text())
    try:
        store = Store(store_path(config["data"], domain))
    except InputError as error:
        return f"<p class='note'>No picture: {_text(error)}</p>"
    chosen = [m for m in store.micrographs if m.name in names and m.labelled]
    if not chosen:
        return ""
    image, label = store.image(chosen[0].index), store.mask(chosen[0].index)
    columns = [(f"micrograph {chosen[0].name}", image), ("label", overlay(image, label))]
    for name in shown:
        if seed not in methods.get(name, {}):
            columns.append((name, None))
            continue
        path = methods[name][seed]["folder"] / "predictions" / f"{chosen[0].name}.png"
        predicted = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        title = "supervised" if domain == "source" and name == "generalization" else name
        columns.append((caption(title, Confusion.of(predicted, label)), overlay(image, predicted, label)))
    return _drawn(panel, columns, LEGEND + LEGEND_LABEL)


def _curves(title, runs):
    runs = {name: lines for name, lines in runs.items() if lines}
    return [f"<h2>{_text(title)}</h2>", _drawn(curves, runs)] if runs else []


def _run_of(score):
    return score["folder"].parents[1]


def _metrics(run):
    """The lines of a run's metrics.jsonl, without a last one that was cut."""
    path = run / "metrics.jsonl"
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _drawn(draw, *arguments):
    file = io.BytesIO()
    draw(file, *arguments)
    return _image(file.getvalue())


def _image(png):
    return f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>" if png else ""


def _table(header, rows):
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in header) + "</tr>"]
    before = None
    for row in rows:
        # A line above each new domain or experiment.
        opening = "<tr>" if row[0] == before else "<tr class='first'>"
        lines.append(opening + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>")
        before = row[0]
    return "<table>" + "\n".join(lines) + "</table>"


def _page(title, sections):
    head = f"<meta charset='utf-8'><title>{_text(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'>{head}\n<h1>{_text(title)}</h1>\n" + "\n".join(sections) + "\n</html>\n"


def _text(value):
    return html.escape(str(value))
