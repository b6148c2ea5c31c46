"""Runs that are stopped, damaged or started twice lose nothing. Many more faults: tests/faults/kill_and_resume.py."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from bad_input import damaged_mask
from conftest import ROOT, command, run
from short_runs import STEPS, differences, metrics, stopped_after, uda_arguments, uda_here, weights

from training import checkpoint
from training.network import build_sgd
from training.precision import Precision
from training.run import Run


def adaptation(stores, folder, *more, processes=0):
    """Return the command line of a short adaptation with batch norm in training."""
    return command("train_uda.py", *uda_arguments(stores, folder, *more), processes=processes)


def adapt(stores, folder, *more, processes=0, ok=True):
    """Run that adaptation to its end."""
    return run("train_uda.py", *uda_arguments(stores, folder, *more), processes=processes, ok=ok)


@pytest.fixture(scope="module")
def undisturbed(stores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    adapt(stores, folder, processes=2)
    return folder


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(stores, undisturbed, tmp_path):
    folder = tmp_path / "run"
    text, status = stopped_after(adaptation(stores, folder, processes=2), folder, 9, signal.SIGUSR1)
    assert status and "The same command goes on" in text
    step = checkpoint.load(folder)["step"]
    assert 9 <= step < STEPS and not (folder / "finished.json").exists()
    assert [line["step"] for line in metrics(folder) if "loss_D_main" in line] == list(range(1, step + 1))
    adapt(stores, folder, processes=2)
    assert differences(undisturbed, folder) == []


def test_a_run_that_began_from_other_weights_is_not_taken_for_done(stores, supervised, tmp_path):
    start, folder = tmp_path / "start.pt", tmp_path / "run"
    state = torch.load(supervised / "last.pt", weights_only=True)
    checkpoint.save(start, state)
    more = ("--pretraining", start, "--steps", 2)
    adapt(stores, folder, *more)
    mark = (folder / "finished.json").stat().st_mtime_ns
    assert "nothing to do" in adapt(stores, folder, *more).stdout
    assert (folder / "finished.json").stat().st_mtime_ns == mark, "when it was finished"
    name = next(iter(state["model"]))
    checkpoint.save(start, state | {"model": state["model"] | {name: state["model"][name] + 1}})
    assert "began from other weights" in adapt(stores, folder, *more, ok=False).stderr


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_resumes_exactly(stores, tmp_path, amp):
    more = ("--amp", amp, "--batch-size", 2, "--steps", 10)  # float16 takes seconds a step on a processor
    adapt(stores, tmp_path / "whole", *more)
    broken = tmp_path / "broken"
    text, status = stopped_after(adaptation(stores, broken, *more), broken, 5, signal.SIGTERM)
    assert status == 75, text
    adapt(stores, broken, *more, "--workers", 1)
    assert differences(tmp_path / "whole", tmp_path / "broken") == []
    one, other = (torch.load(tmp_path / n / "last.pt", weights_only=True)["scaler"] for n in ("whole", "broken"))
    assert one == other and bool(one) == (amp == "fp16")


def test_an_overflow_in_fp16_is_skipped_and_counted(stores, tmp_path):
    """The scaler starts at 65536: a loss this large overflows until it has lowered its scale."""
    adapt(stores, tmp_path / "run", "--amp", "fp16", "--batch-size", 2, "--lambda-aux", 1e4)
    lines = [line for line in metrics(tmp_path / "run") if "overflows" in line]
    assert lines[-1]["overflows"] > 0 and "gradient_norm" in lines[-1]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_the_model_is_not_updated_by_a_gradient_that_is_not_finite(stores, tmp_path):
    folder = tmp_path / "run"
    failed = adapt(stores, folder, "--lambda-aux", 1e38, "--checkpoint-every", 1, ok=False)
    assert "not finite in step" in failed.stderr and "source: m" in failed.stderr and "Traceback" not in failed.stderr
    assert all(torch.isfinite(v).all() for v in weights(folder).values()) if (folder / "last.pt").exists() else True


@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(stores, undisturbed, tmp_path, damage):
    folder = tmp_path / "run"
    stopped_after(adaptation(stores, folder, processes=2), folder, 15, signal.SIGTERM)
    last = folder / "last.pt"
    content = bytearray(last.read_bytes())
    if damage == "missing":
        last.unlink()
    else:
        content[len(content) // 2] ^= 1
        last.write_bytes(content if damage == "one bit" else content[: len(content) // 2])
    done = adapt(stores, folder, processes=2)
    assert ("last.pt.damaged" in done.stderr) == (folder / "last.pt.damaged").exists() == (damage != "missing")
    assert differences(undisturbed, folder) == []


def test_two_starts_of_one_run_are_refused(stores, tmp_path):
    folder = tmp_path / "run"
    first = subprocess.Popen(
        adaptation(stores, folder, "--steps", 100000), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (folder / "metrics.jsonl").exists():
        assert first.poll() is None
        time.sleep(0.05)
    second = adapt(stores, folder, "--steps", 100000, ok=False)
    first.kill()
    first.wait()
    assert "another process is training here" in second.stderr


def test_a_lost_process_ends_the_others_with_a_message(stores, undisturbed, tmp_path):
    folder = tmp_path / "run"
    began = time.monotonic()
    text, status = stopped_after(adaptation(stores, folder, processes=2), folder, 9, signal.SIGKILL)
    assert status and time.monotonic() - began < 100
    # On a busy machine the signal may come when the others have done their last step.
    assert "another process of this run has gone" in text or f"{STEPS}/{STEPS}" in text
    assert json.loads((folder / "config.json").read_text())["steps"] == STEPS
    adapt(stores, folder, processes=2)
    assert differences(undisturbed, folder) == []


def test_an_error_in_one_process_of_nccl_is_said_and_ends_it_at_once(tmp_path):
    """To leave NCCL's group would wait for the others. There is no GPU here: gloo stands in for it."""
    script = tmp_path / "script.py"
    script.write_text(
        "import torch.distributed as dist\n"
        "from types import SimpleNamespace\n"
        "from training.distributed import together\n"
        "def train(options, processes):\n"
        "    dist.get_backend = lambda: 'nccl'\n"
        "    dist.destroy_process_group = lambda: print('left the group')\n"
        "    if processes.is_main:\n"
        "        raise KeyError('only here')\n"
        "    dist.barrier()\n"
        "together(train, SimpleNamespace(batch_size=2, micro_batch=None, deterministic=False, amp='off',\n"
        "    device='auto', pretraining='random'))\n"
    )
    ended = subprocess.run(
        command(script, processes=2), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False, timeout=100,
    )  # fmt: skip
    assert ended.returncode and "KeyError: 'only here'" in ended.stderr and "left the group" not in ended.stdout


def test_moments_saved_in_another_memory_format_are_the_same_moments(stores, undisturbed, tmp_path):
    """A version that kept its networks in torch's default memory format wrote such moments."""
    folder = tmp_path / "run"
    stopped_after(adaptation(stores, folder, processes=2), folder, 9, signal.SIGUSR1)
    state = checkpoint.load(folder)
    for optimizer in state["optimizers"]:
        for moments in optimizer["state"].values():
            moments |= {name: value.contiguous() for name, value in moments.items()}
    checkpoint.save(folder / "last.pt", {key: value for key, value in state.items() if key != "version"})
    adapt(stores, folder, processes=2)
    assert differences(undisturbed, folder) == []


def test_a_first_update_that_is_left_out_leaves_no_trace_in_sgd():
    weight = torch.nn.Parameter(torch.ones(1000))
    optimizer = build_sgd([{"params": [weight], "lr": 0.1}])
    precision = Precision("off", torch.device("cpu"))
    for gradient in (float("nan"), 1.0):
        weight.grad = torch.full_like(weight, gradient)
        precision.gradient_norm(optimizer)
        precision.step(optimizer)
    assert torch.allclose(weight, torch.full_like(weight, 0.9))


def test_damage_that_a_loader_process_meets_is_one_message(stores, tmp_path, monkeypatch):
    """The tiles are not held in memory. The run has a process of its own: a fork of one with threads may hang."""
    shutil.copytree(stores, tmp_path / "stores")
    monkeypatch.chdir(tmp_path)
    damaged_mask()
    code = "import data.store, train_supervised; data.store.HELD = 0; train_supervised.main()"
    failed = run(
        "-c", code, "--experiment", "demo.supervised", "--data", tmp_path / "stores", "--steps", 2,
        "--batch-size", 2, "--workers", 1, "--run-dir", tmp_path / "run", ok=False, timeout=120,
    )  # fmt: skip
    assert failed.stderr.count("tiles/mask is damaged") == 1 and "Traceback" not in failed.stderr


def test_a_request_to_stop_in_the_last_step_leaves_a_finished_run(stores, tmp_path, monkeypatch):
    """No further update is made, with the batch of the last one or with none."""
    save = Run.save

    def asked(run: Run) -> None:
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        save(run)

    monkeypatch.setattr(Run, "save", asked)
    uda_here(stores, tmp_path / "run", "--steps", 3)
    assert checkpoint.load(tmp_path / "run")["step"] == 3 and (tmp_path / "run" / "finished.json").exists()
