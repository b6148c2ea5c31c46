"""Phase fractions: choosing tiles by pseudo-labels, training on a selection, transductive runs."""

import csv
import json
import runpy
import shutil
import sys

import cv2
import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, run
from short_runs import adapt, adapt_arguments, uda_arguments

from common.errors import InputError
from data.sealed import _USER_BLOCK, _block_of
from data.selection_file import read_selection, write_selection
from data.store import TILE_STORE, Store
from data.tiles import UnlabelledTiles
from evaluation.members import fit_to_domain, load_member
from evaluation.selection import CLOSE, REACHED, choose, main, pseudo_fractions
from models import classes
from training.configuration import open_run, parse


def weights(folder):
    state = torch.load(folder / "last.pt", weights_only=True)
    return {**state["model"], **{f"D.{k}": v for k, v in state["discriminators"].items()}}


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def changed_store(stores, folder, change):
    """A copy of the stores of which `change` edits the target's HDF5 file: same metadata, so same fingerprint."""
    shutil.copytree(stores, folder)
    with h5py.File(folder / "labelled.h5", "r+") as file:
        change(file)
    with (folder / "labelled.h5").open("r+b") as file:
        seal = _block_of(file, TILE_STORE.schema)
        file.seek(0)
        file.write(seal)
    assert len(seal) == _USER_BLOCK
    assert Store(folder / "labelled.h5").fingerprint == Store(stores / "labelled.h5").fingerprint
    return folder


@pytest.fixture
def selection(stores, tmp_path):
    """A good selection of half of the target's training tiles, with one test micrograph."""
    store = Store(stores / "labelled.h5", labels=False)
    tiles = store.training_tiles(0, labelled=False)[::2]
    write_selection(tmp_path / "some.json", store, dict.fromkeys(tiles, 0.5), ["m5"], {"mean": 0.5})
    return tmp_path / "some.json"


# ---- the choice ------------------------------------------------------------------------------------------------


def fractions_of(count, mean):
    """Like those of tiles: from nothing to all."""
    return np.random.default_rng(count).beta(1.5, 1.5 * (1 - mean) / mean, count)


@pytest.mark.parametrize(("mean", "count"), [(0.28, None), (0.28, 60), (0.53, None), (0.4, 50)])
def test_the_wanted_mean_is_reached(mean, count):
    fractions = fractions_of(200, 0.48)
    chosen = choose(fractions, mean, count)
    assert len(set(chosen)) == len(chosen) == (count or len(chosen))
    assert fractions[chosen].mean() == pytest.approx(mean, abs=0.02)
    assert np.array_equal(chosen, choose(fractions, mean, count))
    if count:
        assert not np.array_equal(chosen, choose(fractions, mean, count, seed=1))


def test_few_are_discarded_and_not_from_one_end_only():
    fractions = fractions_of(200, 0.48)
    kept = choose(fractions, 0.53)
    # The fewest discards that reach the mean are the lowest fractions.
    fewest = next(k for k in range(200) if np.sort(fractions)[k:].mean() >= 0.53 - CLOSE)
    assert fewest <= 200 - len(kept) <= 1.3 * fewest + 1
    # ... which would cut the histogram off; this choice reaches as low as the whole set does, or nearly.
    assert fractions[kept].min() < np.sort(fractions)[fewest // 2]
    assert len(choose(fractions, fractions.mean())) == 200
    halves = choose(fractions, fractions.mean(), 100)
    assert fractions[halves].std() == pytest.approx(fractions.std(), abs=0.02)


@pytest.mark.parametrize(
    ("fractions", "mean", "count", "message"),
    [
        (fractions_of(48, 0.25), 0.53, None, "with a quarter of them the mean can be 0."),  # the study's t2
        (fractions_of(48, 0.25), 0.6, 30, "only 0."),
        (np.full(9, 0.3), 0.5, None, "are 0.300 .. 0.300"),
        (fractions_of(20, 0.5), 0.5, 21, "there are 20"),
        (np.array([0.0, 1.0]), 0.5, 1, "the nearest found"),
    ],
)
def test_what_cannot_be_reached_says_what_can(fractions, mean, count, message):
    with pytest.raises(ValueError, match=message):
        choose(fractions, mean, count)


def test_pseudo_labels_are_the_models_and_need_no_label(stores, supervised):
    """The same images with and without annotation give the same fractions, those of the scored predictions."""
    member = load_member(supervised, "last", "cpu")
    predictor, found = member.predictor("cpu"), []
    for domain in ("labelled", "unlabelled"):
        store = Store(stores / f"{domain}.h5", labels=False)
        fit_to_domain(member, store, False, "cpu")
        found.append(pseudo_fractions(predictor, store, np.arange(len(store.tile_micrograph))))
    assert np.array_equal(*found)
    label = classes(predictor(store.image(0)))
    own = store.tile_micrograph == 0
    sizes = [(min(48, label.shape[0] - r), min(48, label.shape[1] - c)) for r, c in store.tile_position[own]]
    assert np.average(found[0][own], weights=np.prod(sizes, axis=1)) == pytest.approx(label.mean())


def test_the_command_writes_a_selection_that_can_be_read(stores, supervised, tmp_path, monkeypatch, capsys):
    store = Store(stores / "labelled.h5")
    out = tmp_path / "selections" / "low.json"
    command = [supervised, supervised / "best.pt", "--data", stores, "--domain", "labelled", "--out", out]
    member = load_member(supervised, "last", "cpu")  # 'best' is the same model here
    fractions = pseudo_fractions(member.predictor("cpu"), store, np.arange(24))
    mean = np.sort(fractions)[:12].mean()
    test_fractions = {name: store.mask(index).mean() for index, name in ((4, "m4"), (5, "m5"))}
    wanted = max(test_fractions, key=test_fractions.get)
    test = ["--test-mean", test_fractions[wanted], "--test-images", 1]
    monkeypatch.setattr(sys, "argv", ["selection", *map(str, command), "--mean", str(mean), "--tiles", "24"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert f"with 24, only {fractions.mean():.3f}" in capsys.readouterr().err and not out.exists()

    said = run("-m", "evaluation.selection", *command, "--mean", mean, "--tiles", 6, *test).stdout
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert np.allclose([float(row["phase_fraction"]) for row in rows], fractions)
    picked = {int(row["tile"]): float(row["phase_fraction"]) for row in rows if row["selected"] == "1"}
    assert len(rows) == 24 and len(picked) == 6
    assert np.mean(list(picked.values())) == pytest.approx(mean, abs=REACHED)
    selection = read_selection(out, store, fold=0)
    assert selection.name == "low" and selection.tiles.dtype == np.int64 and selection.tiles.tolist() == sorted(picked)
    assert selection.micrographs == (wanted,)
    assert cv2.imread(str(out.with_suffix(".png"))).shape[1] > 500
    assert "6 of 24 chosen" in said and "1 of 2 chosen" in said


# ---- the file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"domain": "t9"}, "selects from 't9'"),
        ({"fingerprint": "0"}, "another version of"),
        ({"version": 2}, "version 2"),
        ({"tiles": []}, "no tile"),
        ({"tiles": [0, 36]}, "tile 36, but .* 0 .. 35"),
        ({"tiles": [0, -1]}, "tile -1"),
        ({"tiles": [3, 3]}, "twice"),
        ({"tiles": [0, 24]}, "tile 24 is of 'm4', a micrograph of the test set"),
        ({"tiles": [0.5]}, "damaged"),
        ({"tiles": None}, "damaged"),
        ({"micrographs": ["m0"]}, "'m0'"),
        ({"micrographs": ["m4", "m4"]}, "'m4' is named twice"),
    ],
)
def test_a_wrong_selection_is_refused(stores, selection, change, message):
    store = Store(stores / "labelled.h5")
    assert read_selection(selection, store, 0).micrographs == ("m5",)
    selection.write_text(json.dumps(json.loads(selection.read_text()) | change))
    with pytest.raises(InputError, match=f"{selection.name}.*{message}.*(evaluation.selection|Give)"):
        read_selection(selection, store, 0)


def test_a_damaged_or_missing_selection_and_tiles_of_the_fold_are_refused(stores, selection):
    store = Store(stores / "labelled.h5")
    selection.write_text(selection.read_text()[:-20])
    with pytest.raises(InputError, match="damaged"):
        read_selection(selection, store)
    with pytest.raises(InputError, match=r"No such file.*evaluation\.selection"):
        read_selection(selection.with_name("none.json"), store)
    source = Store(stores / "source.h5")
    held_out = source.validation_micrographs(1)[0]
    tile = int(np.flatnonzero(source.tile_micrograph == held_out)[0])
    write_selection(selection, source, {tile: 0.5}, [], {})
    assert read_selection(selection, source).tiles.tolist() == [tile]
    with pytest.raises(InputError, match=r"fold 1.*--fold 1"):
        read_selection(selection, source, fold=1)


# ---- training --------------------------------------------------------------------------------------------------


def test_training_reads_the_selected_tiles_only(stores, supervised, selection, adapted, tmp_path):
    tiles = read_selection(selection, Store(stores / "labelled.h5")).tiles

    def destroy_the_others(file):
        images = file["tiles/image"][:]
        images[np.setdiff1d(np.arange(len(images)), tiles)] = 0
        file["tiles/image"][:] = images

    adapt(stores, supervised, tmp_path / "run", "--selection", selection)
    other = changed_store(stores, tmp_path / "stores", destroy_the_others)
    adapt(other, supervised, tmp_path / "other", "--selection", selection)
    assert same_weights(tmp_path / "run", tmp_path / "other")
    assert not same_weights(tmp_path / "run", adapted)

    # The run knows its selection again by content: another place is the same run, other content is not.
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["selection"] == str(selection)
    assert config["selection_digest"] == read_selection(selection, Store(stores / "labelled.h5")).digest
    moved = selection.rename(tmp_path / "moved.json")
    again = uda_arguments(stores, tmp_path / "run", *adapt_arguments(supervised, "--selection", moved))
    open_run(parse("train_uda", "", again))
    moved.write_text(moved.read_text() + " ")
    with pytest.raises(InputError, match=r"another configuration .*selection-digest"):
        open_run(parse("train_uda", "", again))


def test_a_selection_to_come_can_be_planned_with_but_not_trained_on(
    stores, supervised, selection, tmp_path, capsys, monkeypatch
):
    def planned(path):
        with pytest.raises(SystemExit):
            parse("train_uda", "", ["--target", "t3", "--steps", "1", "--selection", str(path), "--dry-run"])
        return json.loads(capsys.readouterr().out)

    assert planned(tmp_path / "none.json")["selection_digest"] is None
    assert planned(selection)["selection_digest"] == read_selection(selection, Store(stores / "labelled.h5")).digest
    asked = uda_arguments(stores, tmp_path / "run", *adapt_arguments(supervised, "--selection", tmp_path / "none.json"))
    monkeypatch.setattr(sys, "argv", ["train_uda.py", *asked])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "train_uda.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert "none.json" in said and "python -m evaluation.selection" in said
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--transductive"):
        parse("train_uda", "", ["--target", "t3", "--selection", str(selection), "--transductive"])


def test_a_transductive_run_trains_on_held_out_images_and_reads_no_mask(stores, supervised, adapted, tmp_path):
    store = Store(stores / "labelled.h5", labels=False, transductive=True)
    assert store.training_tiles(0, labelled=False).tolist() == list(range(36))
    assert len(UnlabelledTiles(store, 0, "none", 0)) == 36
    with pytest.raises(InputError, match="without labels"):
        store.tile_mask(24)
    with pytest.raises(ValueError, match="without their labels"):
        Store(stores / "labelled.h5", transductive=True)
    folds = Store(stores / "source.h5", labels=False, transductive=True)
    assert set(folds.tile_micrograph[folds.training_tiles(1, labelled=False)]) > set(folds.validation_micrographs(1))

    def destroy_masks(file):
        file["tiles/mask"][:] = 0
        for micrograph in file["micrographs"].values():
            micrograph["mask"][:] = 0

    adapt(stores, supervised, tmp_path / "run", "--transductive")
    other = changed_store(stores, tmp_path / "stores", destroy_masks)
    adapt(other, supervised, tmp_path / "other", "--transductive")
    assert same_weights(tmp_path / "run", tmp_path / "other")
    assert not same_weights(tmp_path / "run", adapted)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["transductive"] is True
