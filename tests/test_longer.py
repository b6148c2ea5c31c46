"""How to train a run longer, and with how few tiles a network can be trained."""

import pytest
import torch
from bad_input import call
from conftest import annotated, domains_toml, draw, unannotated
from short_runs import supervised_arguments, uda_arguments

from common.errors import InputError
from data.store import Store, store_path
from evaluation.members import fit_to_domain, load_member
from training import checkpoint


@pytest.mark.parametrize(("script", "arguments", "ended"), [
    ("train_supervised", supervised_arguments, True),
    ("train_supervised", supervised_arguments, False),
    ("train_uda", uda_arguments, True),
])  # fmt: skip
def test_a_longer_run_is_refused_with_a_command_that_works(stores, tmp_path, script, arguments, ended):
    """On a finished run and on an unfinished one. What the message names begins with the weights of that run."""
    folder, small = tmp_path / "run", ("--batch-size", 2, "--validate-every", 100, "--checkpoint-every", 1)
    assert call(" ".join([script, *arguments(stores, folder, "--steps", 2, *small)]))[0] == 0
    if not ended:
        (folder / "finished.json").unlink()
        (folder / "previous.pt").replace(folder / "last.pt")
    for length in (("--steps", 3), ("--steps", 1)):
        status, printed = call(" ".join([script, *arguments(stores, folder, *length, *small)]))
        assert status == 2 and f"--steps 2 -> {length[1]}" in printed and "learning rate of every" in printed
        assert f"begin another run with --pretraining {folder}/last.pt" in printed
    status, printed = call(f"{script} {' '.join(arguments(stores, folder, '--steps', 2, '--seed', 1, *small))}")
    assert status == 2 and "--seed 0 -> 1" in printed and "--pretraining" not in printed
    more = ("--steps", 1, "--learning-rate", 0, "--pretraining", folder / "last.pt")
    status, printed = call(" ".join([script, *arguments(stores, tmp_path / "longer", *small, *more)]))
    assert status == 0, printed
    before, after = (checkpoint.load(place)["model"] for place in (folder, tmp_path / "longer"))
    weights = [key for key in before if key.endswith("head.branches.0.weight")]
    assert weights and all(torch.equal(before[key], after[key]) for key in weights)


@pytest.fixture(scope="module")
def small_tiles(tmp_path_factory):
    """Stores of tiles of 32 px, whose deepest map in a U-Net is one pixel; and of a target that is one such tile."""
    folder = tmp_path_factory.mktemp("small")
    draw(folder / "source", 3, seed=1, contrast=1.0)
    draw(folder / "target", 1, seed=2, contrast=0.5, size=(16, 16))
    cut = {"reference": "source", "scale": 1.0, "tile": 16, "overlap": 8}
    domains = {"source": annotated("source", folds=3), "target": unannotated("target")}
    (folder / "domains.toml").write_text(domains_toml(cut, **domains))
    assert call(f"prepare {folder / 'domains.toml'} --out {folder / 'stores'}")[0] == 0
    return folder / "stores"


def test_one_small_tile_at_a_time_is_refused_where_batch_norm_has_one_value(stores, small_tiles, tmp_path):
    """Not with frozen batch norm, nor with larger tiles, two of them, or another network."""

    def trained(data, name, *more):
        arguments = supervised_arguments(data, tmp_path / name, "--steps", 1, "--validate-every", 100, *more)
        return call(f"train_supervised {' '.join(arguments)}")

    unet = ("--model", "unet_small", "--pretraining", "random")
    for more, named in ((("--batch-size", 1), "--batch-size 1 "), (("--micro-batch", 1), "--micro-batch 1:")):
        status, printed = trained(small_tiles, "refused", *unet, *more)
        assert status == 2 and printed.count("error: ") == 1, printed
        for words in (named, "one tile of 32 px", "unet_small", "--batch-norm frozen", "larger tiles"):
            assert words in printed
    assert not (tmp_path / "refused").exists()
    arguments = uda_arguments(small_tiles, tmp_path / "refused", *unet, "--batch-size", 1, target="target")
    status, printed = call(f"train_uda {' '.join(arguments)}")
    assert status == 2 and "one tile of 32 px" in printed
    for number, (data, *more) in enumerate([
        (small_tiles, *unet, "--batch-size", 1, "--batch-norm", "frozen"),
        (small_tiles, *unet, "--micro-batch", 2),
        (small_tiles, "--batch-size", 1),
        (stores, *unet, "--batch-size", 1),
    ]):  # fmt: skip
        status, printed = trained(data, f"good{number}", *more)
        assert status == 0, printed


def test_adabn_on_one_small_tile_is_refused(small_tiles, tmp_path):
    more = ("--steps", 1, "--validate-every", 100, "--model", "unet_small", "--pretraining", "random")
    assert call(f"train_supervised {' '.join(supervised_arguments(small_tiles, tmp_path / 'run', *more))}")[0] == 0
    store, device = Store(store_path(small_tiles, "target"), labels=False), "cpu"
    member = load_member(tmp_path / "run", "last", device)
    with pytest.raises(InputError, match=r"target\.h5: --adabn needs more than its one training tile"):
        fit_to_domain(member, store, True, device)
