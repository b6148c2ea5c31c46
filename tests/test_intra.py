"""IntraDA: the sure micrographs of a target become a domain with pseudo-labels, the others are adapted to."""

import csv
import json
import os
import shutil
import subprocess
import sys
from unittest import mock

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, run
from short_runs import adapt_arguments, uda_here

from data.selection_file import read_selection
from data.store import Store
from data.verify import check_store
from evaluation import intra
from evaluation.members import fit_to_domain, load_member
from models import classes
from training import checkpoint


@pytest.fixture(scope="module")
def divided(stores, adapted, tmp_path_factory):
    """The folder of a run whose target is divided."""
    folder = tmp_path_factory.mktemp("runs") / "advent"
    shutil.copytree(adapted, folder)
    divide(folder, "--data", stores)
    return folder


def divide(*arguments):
    """Run python -m evaluation.intra in this process; its exit status."""
    with mock.patch.object(sys, "argv", ["evaluation.intra", *map(str, arguments)]):
        try:
            intra.main()
        except SystemExit as end:
            return end.code
    return 0


def test_the_micrographs_of_low_entropy_are_labelled_as_the_run_predicts(stores, divided):
    """The entropy is written out here. m4 and m5 are the test set."""
    member, store = load_member(divided, "last", "cpu"), Store(stores / "labelled.h5", labels=False)
    fit_to_domain(member, store, False, "cpu")
    predictor, entropy, found = member.predictor("cpu"), {}, {}
    for micrograph in store.micrographs[:4]:
        found[micrograph.name] = p = predictor(store.image(micrograph.index)).astype(float)
        entropy[micrograph.name] = -(p * np.log2(p)).sum(0).mean()
    ranked = sorted(entropy, key=entropy.get)
    easy = Store(divided / "intra" / "labelled-easy.h5")
    assert sorted(one.name for one in easy.micrographs) == sorted(ranked[:2])
    for micrograph in easy.micrographs:
        assert np.array_equal(easy.image(micrograph.index), store.image(store_index(store, micrograph.name)))
        assert np.array_equal(easy.mask(micrograph.index), classes(found[micrograph.name]))
        assert micrograph.fold == (0 if micrograph.name == ranked[0] else -1) and not micrograph.test
    assert check_store(easy) == [] and easy.preparation == store.preparation
    assert all(source["mask_sha256"] is None for source in easy.metadata["sources"])
    hard = read_selection(divided / "intra" / "hard.json", store, 0)
    assert {store.micrographs[i].name for i in store.tile_micrograph[hard.tiles]} == {*ranked[2:]}
    with (divided / "intra" / "intra.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["micrograph"] for row in rows] == ranked
    assert [float(row["entropy"]) for row in rows] == pytest.approx([entropy[name] for name in ranked], rel=1e-4)


def store_index(store, name):
    return next(one.index for one in store.micrographs if one.name == name)


def test_no_label_of_the_target_is_in_its_easy_half(stores, divided, tmp_path):
    """Every mask of the target inverted, every byte of the outcome is the same but for the store's fingerprint."""
    shutil.copytree(stores.parent, tmp_path / "domains")
    domains = tmp_path / "domains"
    for path in (domains / "target" / "masks").iterdir():
        cv2.imwrite(str(path), 255 - cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    run("-m", "data.prepare", domains / "domains.toml", "--out", domains / "stores", "--force")
    shutil.copytree(divided, tmp_path / "run", ignore=shutil.ignore_patterns("intra"))
    assert divide(tmp_path / "run", "--data", domains / "stores") == 0
    one, other = (Store(folder / "intra" / "labelled-easy.h5") for folder in (divided, tmp_path / "run"))
    for micrograph in one.micrographs:
        assert np.array_equal(one.mask(micrograph.index), other.mask(micrograph.index))
    tiles = [json.loads((folder / "intra" / "hard.json").read_text()) for folder in (divided, tmp_path / "run")]
    assert tiles[0]["tile_phase_fraction"] == tiles[1]["tile_phase_fraction"]


def test_the_hard_half_is_adapted_to_from_the_easy_one(stores, supervised, divided, tmp_path):
    data = divided / "intra"
    more = ("--source", "labelled-easy", "--selection", data / "hard.json", "--steps", 2)
    uda_here(data, tmp_path / "run", *adapt_arguments(supervised, *more))
    state = checkpoint.load(tmp_path / "run")
    assert state["step"] == 2 and {"labelled", "labelled-easy"} <= state["preparation"]["trained_on"].keys()
    scored = run("evaluate.py", tmp_path / "run", "--data", stores, "--domain", "labelled", "--wandb", "disabled")
    assert "mIoU" in scored.stdout
    assert all(torch.isfinite(value).all() for value in state["model"].values())


@pytest.mark.parametrize(
    ("which", "options", "words"),
    [
        ("adapted", ("--easy", 0.1), "--easy 0.1 of 4 training micrographs are 0. At least two have to be easy"),
        ("adapted", ("--easy", 0.9), "--easy 0.9 of 4 training micrographs are 4."),
        ("adapted", ("--easy", 1), "1 is not a share between 0 and 1"),
        ("supervised", (), "give the run of an adaptation"),
    ],
)
def test_what_cannot_be_divided_is_said(stores, request, capsys, which, options, words):
    run_folder = request.getfixturevalue(which)
    assert divide(run_folder, "--data", stores, *options) == 2
    assert words in capsys.readouterr().err
    assert not (run_folder / "intra").exists()


def test_what_has_seen_the_test_set_does_not_divide(stores, adapted, tmp_path, capsys):
    """Its pseudo-labels would bring that into the next training."""
    state = checkpoint.load(adapted)
    (held_out,) = {one.sha256 for one in Store(stores / "labelled.h5").micrographs if one.name == "m4"}
    state["preparation"]["transductive"] = {"of another name": [held_out]}
    checkpoint.save(tmp_path / "last.pt", state)
    assert divide(tmp_path, "--data", stores) == 2
    assert "goes on from one that is" in capsys.readouterr().err and not (tmp_path / "intra").exists()


def test_the_launcher_says_what_it_would_do():
    ended = subprocess.run(
        ["launch/intra.sh", "--dry-run", "t3", "2"], cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"TWIN": "small.", "PROCESSES": "1", "EASY": "0.4"},
    )  # fmt: skip
    lines = ended.stdout.splitlines()
    assert [line.split(" --experiment ")[-1].split()[0] for line in lines[::2]] == [
        "small.ADVENT-t3", "small.IntraDA-t3",
    ]  # fmt: skip
    assert (
        "--fold 2" in lines[0] and "--easy 0.4" in lines[1] and "--selection" in lines[2] and "--domain t3" in lines[3]
    )
