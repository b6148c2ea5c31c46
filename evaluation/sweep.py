"""Compare the finished pre-trainings of a sweep by their best test accuracy.

    python -m evaluation.sweep runs/NanoSEM/sweep

prints a Markdown table and writes it as sweep.csv into the folder. As in the study, the model is chosen on the pictures
that it is tested on, so these accuracies compare learning rates and are no estimate for other pictures.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.sweep")

import argparse
import json
from pathlib import Path

from common.errors import InputError, exits_cleanly
from common.files import write_csv
from evaluation.scoring import read_config


def read_sweep(folder: Path) -> list[dict]:
    """Learning rate, best test accuracy (fraction of 1), its step and the last step of each finished run, by rate.

    InputError when no run is finished.
    """
    rows = []
    for finished in folder.glob("*/finished.json"):
        outcome = json.loads(finished.read_text())
        config = read_config(finished.parent)
        best = outcome["best"]
        rows.append(
            {"learning_rate": config["learning_rate"], "accuracy_test": best["accuracy"], "best_step": best["step"]}
            | {"steps": outcome["step"]}
        )
    if not rows:
        raise InputError(f"{folder}: no finished run in it; start launch/pretrain.sh --sweep")
    return sorted(rows, key=lambda row: row["learning_rate"])


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="evaluation.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds one run a learning rate")
    options = parser.parse_args()
    rows = read_sweep(options.folder)
    print("| learning rate | best test accuracy | at step | of |\n| --- | --- | --- | --- |")
    for row in rows:
        accuracy = f"{100 * row['accuracy_test']:.1f} %"
        print(f"| {row['learning_rate']:g} | {accuracy} | {row['best_step']} | {row['steps']} |")
    write_csv(options.folder / "sweep.csv", rows)


if __name__ == "__main__":
    main()
