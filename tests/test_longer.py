"""How to train a run longer, and with how few tiles a network can be trained."""

import pytest
import torch
from bad_input import call
from short_runs import supervised_arguments, uda_arguments

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
