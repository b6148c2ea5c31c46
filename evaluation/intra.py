"""The easy half of a target as a pseudo-labelled domain, the hard half as what is adapted to (IntraDA, CVPR 2020).

    python -m evaluation.intra runs/ADVENT-t3/fold0 --data stores --easy 0.5

The run segments the training micrographs of its target; no label is read. Those of the lowest mean entropy are easy.
They go to <run>/intra/<target>-easy.h5 with hard pseudo-labels. The tiles of the others are named in hard.json beside
it, for `train_uda.py --selection`. intra.csv lists all of them. launch/intra.sh does the whole method.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m evaluation.intra")

import argparse
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.arguments import number
from common.errors import InputError, exits_cleanly, make_folder
from common.files import write_csv
from data.selection_file import write_selection
from data.store import Store, StoreWriter, store_path
from evaluation.members import Member, fit_to_domain, has_seen, load_member
from evaluation.scoring import Predictor
from losses import self_information
from models import classes
from training.device import choose_algorithms, choose_device

HELD_OUT = 5  # one easy micrograph of so many validates the training on the others
share = number(float, lambda value: 0 < value < 1, "a share between 0 and 1")


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.intra", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of an adaptation's run, such as ADVENT's")
    parser.add_argument("--data", type=Path, default=Path("stores"), help="folder of tile stores (default: stores)")
    parser.add_argument("--easy", type=share, default=0.5, help="share of the micrographs that are easy (default: 0.5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    options = parser.parse_args()
    choose_algorithms(deterministic=False, amp="off")
    device = choose_device(options.device)
    member = load_member(options.run, "last", device)
    if not member.config.get("target"):
        raise InputError(f"{options.run}: give the run of an adaptation.")
    store = Store(store_path(options.data, member.config["target"]), labels=False)
    if has_seen(member, store, range(len(store.micrographs))):
        raise InputError(f"{options.run}: give one that is not --transductive, nor goes on from one that is.")
    fit_to_domain(member, store, False, device)
    divide(member, store, member.predictor(device), options.easy, options.run / "intra")


def divide(member: Member, store: Store, predictor: Predictor, easy: float, out: Path) -> None:
    """Write the easy part of a target as a store, the hard part as a selection, and the list of both, into `out`.

    InputError where there are fewer than two easy micrographs or no hard one.
    """
    fold = member.config["fold"]
    tiles = store.training_tiles(fold, labelled=False)
    labels, entropies = {}, defaultdict(list)
    for index in tqdm(np.unique(store.tile_micrograph[tiles]), desc=f"entropy of {store.domain}", unit="image"):
        found = predictor(store.image(int(index)))
        labels[int(index)] = classes(found)
        maps = self_information(torch.from_numpy(np.ascontiguousarray(found))[None])
        entropies[store.micrographs[index].parent].append(float(maps.sum(1).mean()))
    # All fields of view of a native micrograph stay together, and its name decides where entropies are equal.
    ranked = sorted(entropies, key=lambda native: (np.mean(entropies[native]), native))
    count = math.floor(easy * len(ranked) + 0.5)
    if count < 2 or count == len(ranked):
        raise InputError(
            f"{store.path}: --easy {easy:g} of {len(ranked)} training micrographs are {count}. At least two have to be "
            "easy, of which one is held out, and one hard. Give another share, or more micrographs."
        )
    make_folder(out)
    write_csv(
        out / "intra.csv",
        [{"micrograph": one, "entropy": np.mean(entropies[one]), "easy": one in ranked[:count]} for one in ranked],
    )
    path = _write_easy(member, store, labels, ranked[:count], easy, out)
    hard = [tile for tile in tiles if store.micrographs[store.tile_micrograph[tile]].parent in ranked[count:]]
    fractions = {int(tile): _fraction(store, labels, int(tile)) for tile in hard}
    made_by = {"run": str(member.run), "checkpoint": member.label, "easy": easy}
    write_selection(out / "hard.json", store, fractions, [], made_by)
    beside = out / store.path.name  # training finds both domains in one folder
    if not beside.exists():
        beside.unlink(missing_ok=True)
        os.symlink(store.path.resolve(), beside)
    print(f"{path}: {count} of {len(ranked)} micrographs, pseudo-labelled; {len(hard)} tiles in {out / 'hard.json'}")


def _write_easy(
    member: Member, store: Store, labels: dict[int, np.ndarray], easy: list[str], share: float, out: Path
) -> Path:
    """Write the store of the easy native micrographs with their pseudo-labels, some held out for the run's fold."""
    fold = member.config["fold"]
    natives = {native["name"]: native for native in store.metadata["sources"]}
    unlabelled = {"mask_file": None, "mask_sha256": None, "test": False}
    provenance = [
        _without(natives[name], "mask_read") | unlabelled | {"fold": -1 if place % HELD_OUT else fold}
        for place, name in enumerate(easy)
    ]
    domain = f"{store.domain}-easy"
    made_by = {"run": str(member.run), "step": member.step, "easy": share}
    parameters = _without(
        store.metadata["parameters"], "ignore", "threshold", "instances", "values"
    )  # of masks that are not read
    parameters |= {"domain": domain, "folds": fold + 1, "pseudo_labels": made_by}
    with StoreWriter(store_path(out, domain), store.tile, store.overlap) as writer:
        for index, label in labels.items():
            micrograph = store.micrographs[index]
            if micrograph.parent in easy:
                writer.add(store.image(index), label, name=micrograph.name, parent=micrograph.parent)
        writer.finish(parameters, provenance)
        Store(writer.partial, name=writer.path.name)
        writer.place()
    return writer.path


def _without(entries: dict, *keys: str) -> dict:
    return {key: value for key, value in entries.items() if key not in keys}


def _fraction(store: Store, labels: dict[int, np.ndarray], tile: int) -> float:
    """Fraction of a tile's pseudo-label, without its context, that is not the first phase."""
    row, column = store.tile_position[tile]
    label = labels[int(store.tile_micrograph[tile])]
    return float((label[row : row + store.tile, column : column + store.tile] > 0).mean())


if __name__ == "__main__":
    main()
