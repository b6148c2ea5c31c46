"""Batch norm over several processes is batch norm of the whole batch."""

import json

import pytest
from conftest import run
from short_runs import metrics, uda_arguments


def test_two_processes_normalise_as_one_does_with_the_whole_batch():
    """Outputs, gradients and running statistics of each domain; also of a copy, as a teacher is."""
    found = json.loads(run("tests/norm_of_two.py", processes=2).stdout.splitlines()[-1])
    for case in ("float32", "average", "compiled"):
        # Batch norm takes the mean out of the gradients: what is left of some is a hundredth of the terms.
        assert found[case]["output"] < 1e-5 and found[case]["gradient"] < 5e-4, case
        assert found[case]["statistics"] < 1e-5, case
    low = found["bfloat16"]
    assert low["output"] < 1.5 * low["plain output"] and low["gradient"] < 1.5 * low["plain gradient"]
    assert low["statistics"] < 5e-3
    alone = found["one value a process"]
    assert alone["output"] < 1e-5 and alone["statistics"] < 1e-5


def test_two_processes_train_as_one_with_training_batch_norm(stores, tmp_path):
    """At the demonstration's own rates. In float32 Adam lets rounding grow, as docs/results.md says."""
    for processes in (0, 2):
        arguments = uda_arguments(stores, tmp_path / f"{processes}", "--micro-batch", 4)
        run("tests/in_float64.py", *arguments, processes=processes)
    one, two = (metrics(tmp_path / name) for name in ("0", "2"))
    assert len(one) == len(two) >= 20
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-8), a["step"]
