"""Processes of one run that do not see the same are told so, all of them, before a step is made."""

import json
import os
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, command, run
from short_runs import supervised_arguments

from common.errors import InputError
from training import checkpoint
from training.agreement import refuse_differences, standing

# What each process of two meets in turn, case by case: its message, and the step that it stands at where there is none.
SCRIPT = """
import json, sys
from types import SimpleNamespace
import train_supervised
from common.errors import InputError
from training import distributed
from training.configuration import parse
from training.run import Run

met, steps = {}, []
class Taken(Run):
    def batches(self):
        steps.append(self.step)
        return iter(())
    def close(self):
        self.tracker.close()

def cases(_, processes):
    for name, arguments in json.loads(sys.argv[1]).items():
        try:
            config = parse("train_supervised", "", arguments[processes.rank])
            train_supervised.train(SimpleNamespace(**config), processes, Taken)
            said = f"trains from {steps.pop()}" if steps else "finished"
        except InputError as error:
            said = str(error)
        met[name] = said
    with open(f"{sys.argv[2]}/said{processes.rank}.json", "w") as file:
        json.dump(met, file)

options = SimpleNamespace(batch_size=4, micro_batch=None, deterministic=False, amp="off")
options.device, options.pretraining = "auto", "random"
distributed.together(cases, options)
"""


def moved(path, steps=0):
    """Change the moments in a checkpoint, and its step by so many."""
    state = torch.load(path, weights_only=True)
    for moments in state["optimizers"][0]["state"].values():
        moments["exp_avg"] += 1
    torch.save(state | {"step": state["step"] + steps}, path)


@pytest.fixture(scope="module")
def said(stores, tmp_path_factory):
    """What two processes say to each case: {case: [message of process 0, of process 1]}."""
    folder = tmp_path_factory.mktemp("agreement")
    lengths = ("--steps", 6, "--validate-every", 500, "--checkpoint-every", 4)
    run("train_supervised.py", *supervised_arguments(stores, folder / "run", *lengths))
    shutil.copy(folder / "run" / "previous.pt", folder / "run" / "older.pt")
    moved(folder / "run" / "older.pt", steps=-1)
    cases = {}

    def case(name, views, more=()):
        """A case: the checkpoint that each process sees, and options of process 1 alone."""
        cases[name] = []
        for rank, view in enumerate(views):
            shown = folder / name / str(rank)
            shown.mkdir(parents=True)
            if view:
                shutil.copy(folder / "run" / view, shown / "last.pt")
            cases[name].append(supervised_arguments(stores, shown, *lengths, *(more if rank else ())))
        return folder / name / "1" / "last.pt"

    end, last, older = "last.pt", "previous.pt", "older.pt"
    case("the same", [last, last])
    case("older", [last, older])
    case("newer", [older, last])
    moved(case("other moments", [last, last]))
    case("none there", [last, None])
    case("none here", [None, last])
    case("finished here", [end, last])
    case("finished there", [last, end])
    case("other options", [None, None], more=("--validate-every", 3))
    case("own options", [last, last], more=("--workers", 1, "--wandb", "disabled"))
    damaged = case("damaged", [last, last])
    shutil.copy(damaged, damaged.with_name("previous.pt"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    (folder / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        command(folder / "script.py", json.dumps(cases), folder, processes=2), cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=100,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(path.name for path in damaged.parent.glob("*.pt*")) == ["last.pt", "previous.pt"], "set aside"
    met = [json.loads((folder / f"said{rank}.json").read_text()) for rank in (0, 1)]
    return {name: [one[name] for one in met] for name in cases}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("older", ("process 0: step 4, state", "process 1: step 3, state", "start the same command again")),
        ("newer", ("process 0: step 3, state", "process 1: step 4, state")),
        ("other moments", ("process 0: step 4, state", "process 1: step 4, state")),
        ("none there", ("process 0: step 4, state", "process 1: no checkpoint")),
        ("none here", ("process 0: no checkpoint", "process 1: step 4, state")),
        ("finished here", ("process 0: step 6, state", "process 1: step 4, state")),
        ("finished there", ("process 0: step 4, state", "process 1: step 6, state")),
        ("other options", ("--validate-every process 0: 500, process 1: 3", "Give all of them the same")),
    ],
)
def test_processes_that_differ_are_refused_together(said, case, words):
    assert said[case][0] == said[case][1].replace(f"{case}/1: ", f"{case}/0: ")
    assert [word for word in words if word not in said[case][0]] == []


def test_a_process_that_cannot_go_on_stops_the_others(said):
    here, there = said["damaged"]
    assert "not a readable checkpoint" in there and here == f"process 1: {there}"


def test_processes_that_agree_go_on(said):
    assert said["the same"] == said["own options"] == ["trains from 4"] * 2


def test_other_stores_are_told_before_the_options_that_follow_from_them(tmp_path):
    standings = [standing({"iterations": n}, store, None, None) for n, store in ((5, "a" * 64), (6, "b" * 64))]
    with pytest.raises(InputError, match=r"different stores \(process 0: aaaaaaaa, process 1: bbbbbbbb\)"):
        refuse_differences(tmp_path, standings, rank=1)


def test_every_part_of_a_state_is_in_its_digest():
    state = {"w": torch.arange(6.0).reshape(2, 3), "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}], "step": 3}
    others = (
        {"w": state["w"].to(memory_format=torch.contiguous_format).reshape(3, 2)},
        {"w": state["w"].double()},
        {"w": state["w"] + 1},
        {"groups": [{"lr": 0.2, "betas": (0.9, 0.99)}]},
        {"groups": [{"lr": 0.1, "betas": (0.9, 0.9)}]},
        {"step": 4},
        {"more": None},
    )
    digests = {checkpoint.digest_of(state | other) for other in ({}, *others)}
    assert len(digests) == 1 + len(others)
    image = torch.randn(2, 3, 4, 5)
    assert checkpoint.digest_of(image) == checkpoint.digest_of(image.to(memory_format=torch.channels_last))
