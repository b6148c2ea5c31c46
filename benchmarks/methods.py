"""Every method beside the judge's choice, on pairs whose targets have labels: a row for each pair, a table by kind.

    launch/pair_methods.sh runs/pairs/*.?                             # trains and scores them, and writes this table
    python -m benchmarks.methods runs/pairs/*.? --out docs/methods_pairs.csv

Labels are read here only, after everything was decided.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.methods")

import argparse
import csv
import json
from pathlib import Path

import numpy as np

from benchmarks.judge import best_of
from common.errors import InputError, exits_cleanly
from common.files import write_csv
from evaluation.judge.remedies import HALF, Remedy
from evaluation.scoring import read_score

# Columns that launch/pairs.sh has found before, by what they are called here.
_BEFORE = {
    "generalization": "as it is",
    "remedy": "recommended",
    "best remedy, by labels": "best remedy",
    "choice of launch/pairs.sh": "chosen",
}
_REMEDIES = {"adabn": str(Remedy(adabn=1.0)), "halfway": str(Remedy(match=HALF, adabn=HALF))}
_ADAPTATION = {"demo.uda": "AdaptSegNet", "demo.half-histogram": "half-histogram"}
CHOICE, ORACLE, CANDIDATE = "judge's choice", "oracle", "best candidate"
LAUNCHER, OF_LAUNCHER = "choice among the launcher's trainings", "best of the launcher's trainings"


def row_of(folder: Path) -> dict[str, str | float]:
    """Give the true mIoU of all methods on a pair, by their names.

    A choice that was not made has no column. InputError where another file is missing.
    """
    try:
        with (folder / "row.csv").open() as file:
            before = next(csv.DictReader(file))
        truth = json.loads((folder / "truth.json").read_text())
        config = folder / "uda" / "fold0" / "config.json"
        adapted = json.loads(config.read_text())["experiment"]
        chosen = _choice(folder, "choice", CHOICE, CANDIDATE) | _choice(folder, "launcher", LAUNCHER, OF_LAUNCHER)
    except OSError as error:
        raise InputError(f"{error.filename}: missing; launch/pairs.sh and launch/pair_methods.sh write it") from error
    if lacking := set(_BEFORE.values()) - set(before):
        raise InputError(f"{folder}/row.csv: has no column {', '.join(sorted(lacking))}; run benchmarks.judge again")
    row = {"pair": folder.name} | {name: float(before[column]) for name, column in _BEFORE.items()}
    if adapted not in _ADAPTATION:
        raise InputError(f"{config}: experiment {adapted} has no column here, only {', '.join(_ADAPTATION)}")
    row[_ADAPTATION[adapted]] = float(before["adaptation"])
    row |= {name: truth[remedy] for name, remedy in _REMEDIES.items() if remedy in truth}
    for config in sorted(folder.glob("methods/*/config.json")):
        for path in sorted(config.parent.glob("evaluation/*/score.json")):
            teacher = ", teacher" if path.parent.name.endswith(".teacher") else ""
            row[config.parent.name + teacher] = read_score(path)["miou"]
    return row | chosen


def _choice(pair: Path, of: str, name: str, best: str) -> dict[str, float]:
    folder = pair / "methods" / of
    if not folder.exists():
        return {}
    choice = json.loads((folder / "choice.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    return {name: scores[choice["chosen"]], best: best_of(choice, scores)}


def table(rows: list[dict]) -> list[str]:
    """Lines of Markdown: the mean mIoU in percent of each method on each kind of pair, and on all pairs that have it.

    The gain is over generalization, on the same pairs, with its least and its most. What all pairs have comes first,
    since gains on other pairs do not compare.
    """
    kinds = list(dict.fromkeys(row["pair"].rpartition(".")[0] for row in rows))
    names = {name for row in rows for name in row} - {"pair"}
    names = sorted(names, key=lambda name: (-len(_gains(rows, name)), -_gains(rows, name).mean()))
    lines = [f"| method | {' | '.join(kinds)} | gain (least to most) | pairs |", "| --- " * (len(kinds) + 3) + "|"]
    for name in names:
        having = [(row["pair"].rpartition(".")[0], row[name]) for row in rows if name in row]
        means = [_mean([value for of, value in having if of == kind]) for kind in kinds]
        gains = 100 * _gains(rows, name)
        gain = f"{gains.mean():.1f} ({gains.min():.1f} to {gains.max():.1f})"
        lines.append(f"| {name} | {' | '.join(means)} | {gain} | {len(gains)} |")
    return lines


def summary(rows: list[dict]) -> list[str]:
    """Say in lines what each choice reaches between generalization and the best there was, and its least gain."""
    lines = []
    for name, best in ((CHOICE, ORACLE), (LAUNCHER, ORACLE), (CHOICE, CANDIDATE), (LAUNCHER, OF_LAUNCHER)):
        both = [row for row in rows if name in row and best in row]
        if not both:
            continue
        gains, possible = _gains(both, name), _gains(both, best)
        lines.append(
            f"the {name} closes {100 * gains.sum() / possible.sum():.0f} % of the gap between generalization and "
            f"{best} on {len(both)} pairs, all gains summed"
        )
    for name in (CHOICE, LAUNCHER):
        if len(gains := _gains(rows, name)):
            lines.append(f"the least that the {name} gains over generalization: {100 * gains.min():.1f} points")
    return lines


def _gains(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] - row["generalization"] for row in rows if name in row])


def _mean(values: list[float]) -> str:
    return f"{100 * np.mean(values):.0f}" if values else ""


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="that launch/pair_methods.sh filled")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args()
    rows = [row_of(folder) for folder in options.folders]
    names = list(dict.fromkeys(name for row in rows for name in row))
    write_csv(options.out, [{k: _cell(row.get(k, "")) for k in names} for row in rows])
    print("\n".join([*table(rows), *summary(rows)]))


def _cell(value: str | float) -> str | float:
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
