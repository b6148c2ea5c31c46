"""How right the judge was, on pairs whose targets have labels: a row for each folder of launch/adapt.sh.

    launch/pairs.sh                                                   # makes such folders, and this table
    python -m benchmarks.judge runs/pairs/*.? --out docs/judge_pairs.csv --remedies docs/remedies_pairs.csv

Every remedy that evaluation.gap has tried is scored on the target's labelled micrographs, and beside it what
evaluation.choose had to choose from; truth.json in each folder has the remedies, which are not scored again then.
Labels are read here only, after everything was decided.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.judge")

import argparse
import json
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from common.errors import InputError, exits_cleanly
from common.files import write_csv, write_file
from data.store import Store, store_path
from evaluation.judge.choice import Candidate
from evaluation.judge.export import export
from evaluation.judge.judge import Judge
from evaluation.judge.remedies import Remedy, remedies
from evaluation.judge.truth import true_miou
from evaluation.members import load_member
from training.device import choose_algorithms, choose_device

_WITHIN = 0.03  # mIoU that the recommended remedy may lose to the best


def row_of(folder: Path, device: object) -> dict:
    """Compare what was expected in a folder of launch/adapt.sh with what is true. InputError without labels."""
    try:
        gap, choice = (json.loads((folder / name / f"{name}.json").read_text()) for name in ("gap", "choice"))
        scores = json.loads((folder / "choice" / "scores.json").read_text())
    except OSError as error:
        raise InputError(
            f"{error.filename}: missing; run launch/adapt.sh --always-adapt on labelled targets"
        ) from error
    truth = truth_of(folder, gap, device)
    before, recommended = gap["as_it_is"], gap["recommended"]
    best = max(truth, key=truth.get)
    adapted = [one for one in choice["ranked"] if one["adapted"] and not one.get("parts")]
    last = next(one for one in adapted if "step" not in one["name"])
    row = {"pair": folder.name, "source": gap["source_miou"], "as it is": truth[before["remedy"]]}
    row |= {"best remedy": truth[best], "which is": best, "recommended": truth[recommended["remedy"]]}
    row |= {"that is": recommended["remedy"], "advice": gap["advice"], "adaptation": scores[last["name"]]}
    row |= {"chosen": scores[choice["chosen"]], "of it": _kind(choice), "best candidate": best_of(choice, scores)}
    expected = {"as it is": before, "recommended": recommended, "adaptation": last}
    row |= {f"expected {name}": one["expected"]["miou"] for name, one in expected.items()}
    return row


def truth_of(folder: Path, gap: dict, device: object) -> dict[str, float]:
    """Give the true mIoU of every remedy by its name: truth.json, written first where it is older than the report."""
    file = folder / "truth.json"
    if not file.exists() or file.stat().st_mtime < (folder / "gap" / "gap.json").stat().st_mtime:
        write_file(file, json.dumps(true_of_remedies(folder, gap, device), indent=2) + "\n")
    return json.loads(file.read_text())


def true_of_remedies(folder: Path, gap: dict, device: object) -> dict[str, float]:
    """Score every remedy that was tried on the labelled micrographs, by its name, the mean over the models."""
    stores = folder / "stores"
    members = [load_member(run, "last", device) for run in gap["runs"]]
    source, target = Store(store_path(stores, gap["source"])), store_path(stores, gap["target"])
    judge, unlabelled, labelled = Judge(members, source, device), Store(target, labels=False), Store(target)
    found = {}
    for tried in tqdm(gap["tried"], desc=folder.name, unit="remedy"):
        remedy = Remedy(**{field.name: tried[field.name] for field in fields(Remedy)})
        with tempfile.TemporaryDirectory() as place:
            files = export(judge, members, unlabelled, remedy, Path(place))
            made = Candidate(tried["remedy"], tuple(load_member(file, "last", device) for file in files))
            found[tried["remedy"]] = true_miou(made, labelled, device)
    return found


def summary(rows: list[dict]) -> list[str]:
    """Say in lines how far the judge can be trusted on these pairs."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if isinstance(rows[0][name], float)}
    short = columns["best remedy"] - columns["recommended"]
    missed = columns["best candidate"] - columns["chosen"]
    lost = columns["as it is"] - columns["chosen"]
    names = ("as it is", "recommended", "adaptation")
    expected = np.concatenate([columns[f"expected {name}"] for name in names])
    true = np.concatenate([columns[name] for name in names])
    return [
        f"{len(rows)} pairs",
        f"recommended remedy within {100 * _WITHIN:.0f} points of the best: {np.count_nonzero(short <= _WITHIN)} "
        f"pairs; mean {100 * short.mean():.1f}, most {100 * short.max():.1f} points short",
        f"chosen model below the best candidate: mean {100 * missed.mean():.1f}, most {100 * missed.max():.1f} points",
        f"chosen model below generalization: most {100 * lost.max():.1f} points",
        f"expected against true mIoU: mean absolute error {100 * np.abs(expected - true).mean():.1f} points, "
        f"Spearman correlation {spearmanr(expected, true)[0]:.2f}",
    ]


def best_of(choice: dict, scores: dict[str, float]) -> float:
    """Give the best score of a candidate. choice: content of choice.json, where a vote is no candidate."""
    votes = {one["name"] for one in choice["ranked"] if one.get("parts")}
    return max(score for name, score in scores.items() if name not in votes)


def _kind(choice: dict) -> str:
    of = {one["name"]: one for one in choice["ranked"]}
    parts = of[choice["chosen"]].get("parts") or [choice["chosen"]]
    kinds = ["adaptation" if of[part]["adapted"] else of[part]["remedy"] for part in parts]
    return " and ".join(reversed(kinds))


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="that launch/adapt.sh has written to")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument(
        "--remedies", type=Path, metavar="FILE", help="CSV file of all remedies but scales, to write too"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    options = parser.parse_args()
    choose_algorithms(deterministic=False, amp="off")
    device = choose_device(options.device)
    rows = [row_of(folder, device) for folder in options.folders]
    write_csv(options.out, [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows])
    if options.remedies:
        truth = {folder.name: json.loads((folder / "truth.json").read_text()) for folder in options.folders}
        names = [name for name in map(str, remedies(adabn=True)) if all(name in one for one in truth.values())]
        write_csv(
            options.remedies,
            [{"pair": pair} | {name: round(one[name], 4) for name in names} for pair, one in truth.items()],
        )
    print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
