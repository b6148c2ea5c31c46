"""Maps that the discriminators see: patches of like phase fraction, the same however a batch is divided."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from short_runs import adapt

from common.errors import InputError
from data.store import Store
from data.tiles import LabelledTiles, UnlabelledTiles
from evaluation.members import load_member
from models import classes
from training.discriminator_view import DiscriminatorView
from training.distributed import Processes
from training.options import defaults_of


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def predicted(stores, supervised):
    """Logits of 16 source and 16 target tiles, of both heads, by a trained model."""
    model = load_member(supervised, "last", "cpu").model
    tiles = (
        LabelledTiles(Store(stores / "source.h5"), 0, "basic", 0),
        UnlabelledTiles(Store(stores / "labelled.h5", labels=False), 0, "basic", 0),
    )
    source = torch.stack([tiles[0][0, i][0] for i in range(16)])
    target = torch.stack([tiles[1][0, i][0] for i in range(16)])
    with torch.no_grad():
        return [model(source), model(target)]


def view_of(side, seed=0, rank=0, world=1):
    """View of a process on batches of 16 tiles of 64 px."""
    options = SimpleNamespace(
        **defaults_of("train_uda") | {"discriminator_patch": side, "seed": seed, "batch_size": 16}
    )
    store, processes = SimpleNamespace(tile=48, overlap=8), Processes(rank, world, torch.device("cpu"))
    return DiscriminatorView(options, ("main", "aux"), store, processes)


def differences(source, target):
    """|fraction of source - fraction of target| of each pair of maps."""
    fractions = [classes(maps["main"]).float().mean((1, 2)) for maps in (source, target)]
    return (fractions[0] - fractions[1]).abs()


def test_patches_balance_the_phase_fractions(predicted):
    whole = differences(*view_of(None)(*predicted, 0)).mean()
    patches = view_of(32)
    at_random, balanced = [], []
    for step in range(10):
        source, target = patches(*predicted, step)
        balanced.append(differences(source, target).mean())
        at_random.append(differences(source, patches(*predicted[::-1], step)[0]).mean())
    at_random, balanced = np.mean(at_random), np.mean(balanced)
    print(f"mean difference of fractions: {whole:.3f} tiles, {at_random:.3f} random patches, {balanced:.3f} balanced")
    assert balanced < 0.8 * whole and balanced < 0.5 * at_random


def test_patches_are_the_same_in_micro_batches_and_processes_and_on_both_levels(predicted):
    source, target = predicted
    # Maps that name their own places: each level is cut where the other is.
    named = ((torch.arange(64 * 64.0) + 0.5) / 64**2).logit().view(1, 1, 64, 64).expand(16, 1, 64, 64)
    levels = [{"main": logits["main"], "aux": named} for logits in (source, target)]
    whole = view_of(40, seed=3)(*levels, 7)
    for maps, cut in zip(view_of(None)(*levels, 7), whole, strict=True):
        for tile, patch, places in zip(maps["main"], cut["main"], cut["aux"], strict=True):
            row, column = divmod(int(places[1, 0, 0] * 64**2), 64)
            assert torch.equal(patch, tile[:, row : row + 40, column : column + 40])
    micro_batches = []
    for rank in (0, 1):
        of_process = view_of(40, seed=3, rank=rank, world=2)
        for start in (8 * rank, 8 * rank + 4):
            logits = [{k: maps[k][start : start + 4] for k in maps} for maps in levels]
            micro_batches.append(of_process(*logits, 7))
    for domain in (0, 1):
        for level in ("main", "aux"):
            assert torch.equal(torch.cat([maps[domain][level] for maps in micro_batches]), whole[domain][level])
    other = view_of(40, seed=3)(*levels, 8)
    assert not torch.equal(other[0]["aux"], whole[0]["aux"])


def test_gradients_reach_the_chosen_patch_only(predicted):
    source, target = ({k: maps[k].clone().requires_grad_() for k in maps} for maps in predicted)
    _, cut = view_of(32)(source, target, 0)
    cut["main"][:, 1].sum().backward()
    assert torch.equal(target["main"].grad.ne(0).sum((1, 2, 3)), torch.full((16,), 32**2))
    assert source["main"].grad is None
    whole = view_of(None)(source, target, 0)[1]["main"]
    assert torch.equal(whole, torch.cat([(-target["main"]).sigmoid(), target["main"].sigmoid()], 1))


def test_two_processes_equal_one_with_patches(stores, supervised, adapted, tmp_path):
    for processes in (0, 2):
        folder = tmp_path / f"{processes}"
        adapt(stores, supervised, folder, "--discriminator-patch", 32, processes=processes)
    one, two = metrics(tmp_path / "0"), metrics(tmp_path / "2")
    assert len(one) == len(two) >= 4
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4, rel=1e-3), "gradient norms are no losses and may be large"
    # Of the first step the segmentation is the plain run's, what the discriminators see is not.
    first = metrics(adapted)[0]
    for name, value in first.items():
        assert (value == one[0][name]) != name.startswith(("loss_adv", "loss_D", "gradient_norm")), name


@pytest.mark.parametrize("side", [31, 65])
def test_a_patch_that_cannot_be_is_an_error(side):
    with pytest.raises(InputError, match=f"--discriminator-patch {side}.*32 px.*64"):
        view_of(side)
