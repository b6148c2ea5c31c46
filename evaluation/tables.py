"""Tables over runs: mean and standard deviation over folds and seeds, as Markdown, CSV, LaTeX and one HTML page.

    python -m evaluation.tables runs --out report
    python -m evaluation.tables runs/demo --out runs/demo --demo      # summary.json and report.html of make demo
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from data.errors import InputError, exits_cleanly, make_folder
from evaluation import report
from evaluation.scoring import read_score, write_csv

MEASURES = ("miou", "rdt", "iou_background", "iou_foreground", "phase_fraction_predicted", "phase_fraction_label")
# The demonstration's methods: (run of a seed, variant of its score). `control` is adaptation without adversary,
# `oracle` a model trained on target labels.
METHODS = {
    "generalization": ("supervised", "plain"),
    "adabn": ("supervised", "adabn"),
    "uda": ("uda", "plain"),
    "control": ("control", "plain"),
    "oracle": ("oracle", "plain"),
    "otsu": ("supervised", "otsu"),
}
SUMMARISED = ("generalization", "adabn", "uda")


def collect(folder):
    """All scores below a folder, a list of score.json dicts with `folder` and flat iou_*; InputError if none."""
    scores = []
    for path in sorted(Path(folder).rglob("score.json")):
        score = read_score(path)
        score |= {f"iou_{name}": value for name, value in score["iou"].items()}
        scores.append(score | {"folder": path.parent})
    if not scores:
        raise InputError(f"{folder}: no score.json below it; run evaluate.py on its runs first")
    return scores


def mean_std(values):
    """(mean, sample standard deviation, count) of what is not None; None where there are too few values."""
    values = [value for value in values if value is not None]
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None, len(values)


def percent(values):
    """Mean ± standard deviation in percent as text; empty without a value."""
    mean, std, _ = mean_std(values)
    if mean is None:
        return ""
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def grouped(scores):
    """Scores by (experiment, variant, checkpoint, configuration), then by domain: the repeats in one table cell."""
    groups = {}
    for score in scores:
        key = tuple(str(score[name]) for name in ("experiment", "variant", "checkpoint", "configuration"))
        groups.setdefault(key, {}).setdefault(score["domain"], []).append(score)
    return groups


def overview(folder, scores):
    """(header, rows) with a row for each experiment and variant, mIoU, RDT and runs of each domain, in percent.

    Experiments that were trained and not scored have empty cells.
    """
    groups = grouped(scores)
    for path in sorted(Path(folder).rglob("config.json")):
        experiment = json.loads(path.read_text()).get("experiment")
        if experiment and not any(key[0] == experiment for key in groups):
            groups[experiment, "", "", ""] = {}
    domains = sorted({score["domain"] for score in scores}, key=lambda name: (name != "source", name))
    header = ["experiment", "variant", "checkpoint", "configuration"]
    header += [f"{domain} {column}" for domain in domains for column in ("mIoU [%]", "RDT [%]", "runs")]
    rows = []
    for key, of_domain in sorted(groups.items()):
        row = list(key)
        for domain in domains:
            group = of_domain.get(domain, [])
            row += [percent(score[name] for score in group) for name in ("miou", "rdt")]
            row.append(str(len(group)) if group else "")
        rows.append(row)
    return header, rows


def long_rows(scores):
    """One dict for each experiment, variant, checkpoint and domain, fractions of 1: the content of scores.csv."""
    rows = []
    for (experiment, variant, checkpoint, configuration), of_domain in sorted(grouped(scores).items()):
        for domain, group in sorted(of_domain.items()):
            row = {"experiment": experiment, "variant": variant, "checkpoint": checkpoint, "domain": domain}
            row["configuration"] = configuration
            row["runs"] = len(group)
            for name in MEASURES:
                row[f"{name}_mean"], row[f"{name}_std"], _ = mean_std(score[name] for score in group)
            rows.append(row)
    return rows


def markdown(header, rows):
    """A Markdown table with aligned columns, which a terminal shows well too."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]) + "\n"


def latex(header, rows):
    """A LaTeX tabular for the booktabs package."""
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}"}

    def line(cells):
        return " & ".join("".join(special.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = [r"\toprule", line(header), r"\midrule", *map(line, rows), r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(header)}}}", *body, r"\end{tabular}"]) + "\n"


def demo_scores(folder):
    """Scores of the demonstration: {domain: {method: {seed folder's name: score}}}, the source domain first."""
    found = {}
    for seed in _seeds(folder):
        for method, (run, variant) in METHODS.items():
            for path in sorted((seed / run / "evaluation").glob("*/score.json")):
                score = read_score(path)
                # An adapted model counts on its own target; on other targets it is neither of the methods.
                meant = score["domain"] == "source" or score["target"] in (None, score["domain"])
                if meant and (score["variant"], score["checkpoint"]) == (variant, "last"):
                    score |= {"folder": path.parent}
                    found.setdefault(score["domain"], {}).setdefault(method, {})[seed.name] = score
    if "source" not in found:
        raise InputError(f"{folder}: no score of the supervised run on the source; run evaluate.py first")
    return {domain: found[domain] for domain in sorted(found, key=lambda name: (name != "source", name))}


def demo_summary(folder):
    """The content of summary.json: means over the seeds that exist, fractions of 1, seconds (DESIGN: make demo)."""
    scores = demo_scores(folder)

    def mean(domain, method, name):
        return mean_std(score[name] for score in scores[domain][method].values())[0]

    targets = {}
    for domain in scores:
        if domain == "source" or "generalization" not in scores[domain]:
            continue
        targets[domain] = {"label_phase_fraction": mean(domain, "generalization", "phase_fraction_label")}
        for method in SUMMARISED:
            if method in scores[domain]:
                names = {"miou": "miou", "rdt": "rdt", "phase_fraction": "phase_fraction_predicted"}
                targets[domain][method] = {k: mean(domain, method, name) for k, name in names.items()}
    times = [json.loads(path.read_text()) for s in _seeds(folder) if (path := s / "seconds.json").is_file()]
    seconds = {part: mean_std(time.get(part) for time in times)[0] for part in (times[0] if times else ())}
    return {"source": {"miou": mean("source", "generalization", "miou")}, "targets": targets, "seconds": seconds}


def demo_methods(scores):
    """The methods to show: the summarised ones, and what else was run on any domain."""
    return [name for name in METHODS if name in SUMMARISED or any(name in scored for scored in scores.values())]


def demo_table(scores):
    """(header, rows) of the demonstration, in percent; what was not run has empty cells."""
    header = ["domain", "method", "mIoU [%]", "RDT [%]", "phase fraction [%]", "label [%]", "seeds"]
    rows = []
    for domain, scored in scores.items():
        for method in demo_methods(scores):
            if domain == "source" and method not in scored:
                continue
            group = scored.get(method, {}).values()
            name = "supervised" if (domain, method) == ("source", "generalization") else method
            cells = [percent(s[key] for s in group) for key in ("miou", "rdt", *MEASURES[4:])]
            rows.append([domain, name, *cells, str(len(group)) if group else ""])
    return header, rows


def _seeds(folder):
    return sorted(path for path in Path(folder).glob("seed*") if path.is_dir())


def _write(path, text):
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@exits_cleanly
def main():
    parser = argparse.ArgumentParser(prog="evaluation.tables", description=__doc__.splitlines()[0])
    parser.add_argument("runs", help="folder with runs that evaluate.py has scored")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--demo", action="store_true", help="the demonstration's folder, with one folder a seed")
    options = parser.parse_args()
    out = Path(options.out)
    scores = demo_scores(options.runs) if options.demo else collect(options.runs)
    make_folder(out)
    if options.demo:
        table = demo_table(scores)
        _write(out / "summary.json", json.dumps(demo_summary(options.runs), indent=2) + "\n")
        _write(out / "report.html", report.demo_page(table, scores, demo_methods(scores)))
    else:
        table = overview(options.runs, scores)
        write_csv(out / "scores.csv", long_rows(scores))
        _write(out / "scores.md", markdown(*table))
        _write(out / "scores.tex", latex(*table))
        _write(out / "report.html", report.page_of_runs(table, scores))
    print(markdown(*table) + f"\n{out / 'report.html'}")


if __name__ == "__main__":
    main()
