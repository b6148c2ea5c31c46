"""Tables over runs: mean and standard deviation over folds and seeds, as Markdown, CSV, LaTeX and one HTML page.

    python -m evaluation.tables runs --out report
    python -m evaluation.tables runs/small --out report --experiments launch/small.toml
    python -m evaluation.tables runs/demo --out runs/demo --demo      # summary.json and report.html of make demo

Where the study's experiments were run, its tables, trends and figures come before the overview of all scores.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.tables")

import argparse
import json
import sys
from pathlib import Path

from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_csv, write_file
from evaluation import report
from evaluation.judge.remedies import Remedy
from evaluation.laboratory import steps_of
from evaluation.members import agreed
from evaluation.metrics import mean_std, percent
from evaluation.scoring import on_different_stores, outdated, read_config, read_score, runs_of
from evaluation.study import study_figures
from evaluation.study.published import StudyRuns
from evaluation.study.study_tables import Table, deviations, study_tables
from evaluation.study.trends import RULE, check
from training.configuration import digest_of
from training.experiments import EXPERIMENTS
from training.tracking import variant_of

MEASURES = ("miou", "rdt", "iou_background", "iou_foreground", "phase_fraction_predicted", "phase_fraction_label")
_OF_PHASES = ("iou_", "phase_fraction_")  # beginnings of the measures that follow, of phases with names
# Methods: (runs of a seed, variant of their scores). `transductive` adapts to the images that are scored too, without
# their labels, `control` is adaptation without adversary, `oracle` a model trained on target labels.
METHODS = {
    "generalization": ("supervised", "plain"),
    "adabn": ("supervised", "adabn"),
    "uda": ("uda", "plain"),
    "transductive": ("transductive", "plain"),
    "control": ("control", "plain"),
    "oracle": ("oracle", "plain"),
    "otsu": ("supervised", "otsu"),
}
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "φ": r"$\varphi$",
    "†": r"$^\dagger$", "—": "---", "√": r"$\surd$", "<": "$<$", ">": "$>$", "|": "$|$",
}  # fmt: skip
_METHOD_OF = {str(Remedy()): "generalization", str(Remedy(adabn=True)): "adabn"}
# Stages of summary.json by the steps of launch/adapt.py.
_STAGES = {"supervised": "supervised", "gap": "gap", "uda": "uda", "choose": "report", "segment": "report"}
SUMMARISED = ("generalization", "adabn", "uda")


def collect(folder: Path | str) -> tuple[list[dict], list[str]]:
    """All scores below a folder that count, score.json dicts with `folder` and flat iou_*; and what to know of them.

    InputError where there are none.
    """
    scores, remarks = [], []
    for path in sorted(Path(folder).rglob("score.json")):
        score = read_score(path)
        if why := outdated(path, score):
            remarks.append(why)
            continue
        score |= {f"iou_{name}": value for name, value in score["iou"].items()}
        scores.append(score | {"folder": path.parent, "configuration": _configuration(path, score)})
    if not scores:
        found = "; ".join(["no score.json below it that counts", *remarks])
        raise InputError(f"{folder}: {found}; run evaluate.py on its runs first")
    mixed = {}
    for (experiment, *_), of_domain in grouped(scores).items():
        domains = [domain for domain, group in of_domain.items() if on_different_stores(group)]
        mixed.setdefault(experiment, set()).update(domains)
    for experiment, domains in mixed.items():
        if domains:
            versions = ", ".join(sorted(domains))
            remarks.append(f"the runs of {experiment} were scored on different versions of {versions}")
    return scores, remarks


def _configuration(path: Path, score: dict) -> str | None:
    """The digits of a score's configuration, from the config.json of its runs where these are still there.

    Earlier versions wrote other digits into score.json for the same configuration.
    """
    runs = runs_of(path, score)
    if runs and all((run / "config.json").is_file() for run in runs):
        return agreed(digest_of(read_config(run)) for run in runs)
    return score.get("configuration")


def grouped(scores: list[dict]) -> dict[tuple[str, ...], dict[str, list[dict]]]:
    """Scores by (experiment, variant, checkpoint, configuration), then by domain: the repeats in one table cell.

    The variant's name says which are transductive (training.tracking.variant_of).
    """
    groups = {}
    for score in scores:
        names = (score["experiment"], variant_of(score), score["checkpoint"], score["configuration"])
        groups.setdefault(tuple(map(str, names)), {}).setdefault(score["domain"], []).append(score)
    return groups


def overview(folder: Path | str, scores: list[dict]) -> report.TextTable:
    """Header and rows: for each experiment and variant mIoU and RDT in percent, and the runs, of each domain.

    Experiments that were trained and not scored have empty cells.
    """
    groups = grouped(scores)
    for path in sorted(Path(folder).rglob("config.json")):
        experiment = read_config(path.parent).get("experiment")
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


def long_rows(scores: list[dict]) -> list[dict]:
    """One dict for each experiment, variant, checkpoint and domain, fractions of 1: the content of scores.csv."""
    named = [name for score in scores for name in score if name.startswith(_OF_PHASES)]
    two = any("iou_foreground" in score for score in scores)
    measures = dict.fromkeys([*(MEASURES if two else MEASURES[:2]), *named])
    rows = []
    for (experiment, variant, checkpoint, configuration), of_domain in sorted(grouped(scores).items()):
        for domain, group in sorted(of_domain.items()):
            row = {"experiment": experiment, "variant": variant, "checkpoint": checkpoint, "domain": domain}
            row["configuration"] = configuration
            row["runs"] = len(group)
            for name in measures:
                row[f"{name}_mean"], row[f"{name}_std"], _ = mean_std(score.get(name) for score in group)
            rows.append(row)
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns, which a terminal shows well too."""
    lines = [header, *rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *text[1:]]) + "\n"


def latex(header: list[str], rows: list[list[str]]) -> str:
    """A LaTeX tabular for the booktabs package."""
    body = [r"\toprule", _latex_line(header), r"\midrule", *map(_latex_line, rows), r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(header)}}}", *body, r"\end{tabular}"]) + "\n"


def latex_text(text: str) -> str:
    """Text for LaTeX: its special characters escaped, and the signs of these tables as commands."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(cells: list[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def write_study(runs: StudyRuns, out: Path) -> report.StudyReport:
    """Write the study's tables, trends and figures of a StudyRuns, and return them for the page."""
    tables, trends = study_tables(runs), check(runs)
    header = ["section", "trend", "verdict", "here", "study"]
    rows = [[t.section, t.claim, ": ".join(filter(None, (t.verdict, t.reason))), t.ours, t.study] for t in trends]
    title = "Which of the study's trends these runs show"
    found = Table("trends", title, header, rows, [vars(trend) for trend in trends], [RULE])
    for table in (*tables, found):
        write_csv(out / f"{table.name}.csv", table.records)
        below = [*table.notes, *filter(None, [table.deviation])]
        notes = "".join(f"\n{note}\n" for note in below)
        write_file(out / f"{table.name}.md", f"## {table.title}\n\n{markdown(table.header, table.rows)}{notes}")
        notes = "".join(f"\n\\par {latex_text(note)}\n" for note in below)
        write_file(out / f"{table.name}.tex", f"% {table.title}\n{latex(table.header, table.rows)}{notes}")
    pictures = study_figures.draw_all(runs, make_folder(out / "figures"))
    return report.StudyReport(tables, found, pictures, deviations(runs), runs.data(), list(dict.fromkeys(runs.remarks)))


def demo_scores(folder: Path | str) -> tuple[dict[str, dict[str, dict]], list[str]]:
    """Scores of the demonstration: {domain: {method: {seed folder's name: score}}}, the source domain first.

    And why others are left out.
    """
    found, remarks = {}, []
    for seed in _seeds(folder):
        for method, (run, variant) in METHODS.items():
            for path in sorted((seed / run).glob("fold*/evaluation/*/score.json")):
                score = read_score(path)
                # An adapted model counts on its own target; on other targets it is neither of the methods.
                meant = score["domain"] == "source" or score["target"] in (None, score["domain"])
                if not meant or (score["variant"], score["checkpoint"]) != (variant, "last"):
                    continue
                why = outdated(path, score)
                if score.get("transductive") and method != "transductive":
                    why = f"{path.parent} is left out: it is transductive, and no score of {method}"
                if why:
                    remarks.append(why)
                    continue
                score |= {"folder": path.parent}
                found.setdefault(score["domain"], {}).setdefault(method, {})[seed.name] = score
    if "source" not in found:
        missing = "; ".join(["no score of the supervised run on the source that counts", *remarks])
        raise InputError(f"{folder}: {missing}; run evaluate.py first")
    return {domain: found[domain] for domain in sorted(found, key=lambda name: (name != "source", name))}, remarks


def demo_summary(folder: Path | str) -> dict:
    """The content of summary.json: means over the seeds that exist, fractions of 1, seconds (DESIGN: make demo)."""
    scores, _ = demo_scores(folder)

    def mean(domain: str, method: str, name: str) -> float | None:
        return mean_std(score.get(name) for score in scores[domain][method].values())[0]

    ends = _reported(scores)
    targets, judged = {}, [expectations(seed) for seed in _seeds(folder)]
    for domain in scores:
        if domain == "source" or "generalization" not in scores[domain]:
            continue
        labelled = {f"label_phase_fraction{end}": f"phase_fraction_label{end}" for end in ends}
        targets[domain] = {k: mean(domain, "generalization", name) for k, name in labelled.items()}
        for method in SUMMARISED:
            if method in scores[domain]:
                names = {"miou": "miou", "rdt": "rdt"}
                names |= {f"phase_fraction{end}": f"phase_fraction_predicted{end}" for end in ends}
                targets[domain][method] = {k: mean(domain, method, name) for k, name in names.items()}
                expected = mean_std(of[domain, method] for of in judged if (domain, method) in of)[0]
                targets[domain][method] |= {} if expected is None else {"expected_miou": expected}
    times = [_seconds(seed) for seed in _seeds(folder) if (seed / "seconds.json").is_file()]
    seconds = {stage: mean_std(time.get(stage) for time in times)[0] for stage in (times[0] if times else ())}
    return {"source": {"miou": mean("source", "generalization", "miou")}, "targets": targets, "seconds": seconds}


def _seconds(seed: Path) -> dict[str, float]:
    """Seconds of a seed's stages: those that its script has measured, and those of the launcher's steps."""
    found = json.loads((seed / "seconds.json").read_text())
    for step in steps_of(seed):
        stage = _STAGES.get(step["step"].partition(" ")[0])
        if stage:
            found[stage] = found.get(stage, 0.0) + (step["seconds"] or 0.0)
    return found


def expectations(seed: Path) -> dict[tuple[str, str], float]:
    """Read what the judge expects in a seed's folder: mIoU by target and method, from its choices."""
    found = {}
    for path in sorted(seed.glob("choice*/choice.json")):
        choice = json.loads(path.read_text())
        for one in choice["ranked"]:
            if one.get("parts"):  # a vote of several
                continue
            method = "uda" if one["adapted"] else _METHOD_OF.get(one["remedy"])
            if method:
                found[choice["target"], method] = one["expected"]["miou"]
    return found


def demo_methods(scores: dict[str, dict[str, dict]]) -> list[str]:
    """The methods to show: the summarised ones, and all others that were run on any domain."""
    return [name for name in METHODS if name in SUMMARISED or any(name in scored for scored in scores.values())]


def demo_table(scores: dict[str, dict[str, dict]]) -> report.TextTable:
    """Header and rows of the demonstration, in percent; methods that were not run have empty cells."""
    ends = _reported(scores)
    fractions = [f"phase_fraction_{kind}{end}" for end in ends for kind in ("predicted", "label")]
    named = [name for end in ends for name in (f"{end[1:] or 'phase fraction'} [%]", "label [%]")]
    header = ["domain", "method", "mIoU [%]", "RDT [%]", *named, "seeds"]
    rows = []
    for domain, scored in scores.items():
        for method in demo_methods(scores):
            if domain == "source" and method not in scored:
                continue
            group = scored.get(method, {}).values()
            name = "supervised" if (domain, method) == ("source", "generalization") else method
            cells = [percent(s.get(key) for s in group) for key in ("miou", "rdt", *fractions)]
            rows.append([domain, name, *cells, str(len(group)) if group else ""])
    return header, rows


def _reported(scores: dict[str, dict[str, dict]]) -> list[str]:
    """Ends of the names under which phase fractions stand in the scores of the demonstration."""
    kind = "phase_fraction_predicted"
    each = (score for scored in scores.values() for of_seed in scored.values() for score in of_seed.values())
    return list(dict.fromkeys(key.removeprefix(kind) for score in each for key in score if key.startswith(kind)))


def _seeds(folder: Path | str) -> list[Path]:
    return sorted(path for path in Path(folder).glob("seed*") if path.is_dir())


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="evaluation.tables", description=__doc__.splitlines()[0])
    parser.add_argument("runs", help="folder with runs that evaluate.py has scored")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="file that the runs were run by")
    parser.add_argument("--demo", action="store_true", help="the demonstration's folder, with one folder a seed")
    options = parser.parse_args()
    out = Path(options.out)
    scores, remarks = demo_scores(options.runs) if options.demo else collect(options.runs)
    print(*(f"remark: {remark}\n" for remark in remarks), sep="", end="", file=sys.stderr)
    make_folder(out)
    if options.demo:
        table = demo_table(scores)
        write_file(out / "summary.json", json.dumps(demo_summary(options.runs), indent=2) + "\n")
        write_file(out / "report.html", report.demo_page(table, scores, demo_methods(scores), remarks))
    else:
        table = overview(options.runs, scores)
        runs = StudyRuns(options.runs, options.experiments)
        study = write_study(runs, out) if runs.exist() else None
        write_csv(out / "scores.csv", long_rows(scores))
        write_file(out / "scores.md", markdown(*table) + "".join(f"\nRemark: {remark}.\n" for remark in remarks))
        write_file(out / "scores.tex", latex(*table))
        write_file(out / "report.html", report.page_of_runs(table, scores, remarks, study))
    print(markdown(*table) + f"\n{out / 'report.html'}")


if __name__ == "__main__":
    main()
