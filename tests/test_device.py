"""The device that everything computes on: no GPU that is there is left out without a word, none is shared unasked.

Nobody has tried this on a GPU. What torch would say of one is put into its mouth here; all else is real.
"""

import os
import subprocess
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from bad_input import call
from conftest import ROOT, command
from short_runs import supervised_arguments, uda_arguments

from common import gpus
from common.errors import InputError
from training import distributed
from training.configuration import parse, summary
from training.device import choose_device
from training.precision import Precision

NOWHERE = "GPU-00000000-0000-0000-0000-000000000000"  # torch sees no GPU then on any machine


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Function that makes this machine look as if it had GPUs: device files, folders of the driver, variables."""
    monkeypatch.setattr(gpus, "DRIVER", tmp_path / "gpus")
    monkeypatch.setattr(gpus, "FILES", tmp_path / "dev")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def looks(files=(), driver=(), smi=None, **variables):
        for folder, name in (*(("dev", name) for name in files), *(("gpus", name) for name in driver)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).touch()
        if smi is not None:
            (tmp_path / "bin").mkdir()
            (tmp_path / "bin" / "nvidia-smi").write_text(f"#!/bin/sh\n/bin/cat <<'EOF'\n{smi}\nEOF\n")
            (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        for name in ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return looks


@pytest.fixture
def torch_sees(monkeypatch):
    """Function that makes torch count so many GPUs, and say something about those that it cannot use."""

    def sees(count, says=None):
        def available():
            if says:
                warnings.warn(says, stacklevel=1)
            return count > 0

        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return sees


@pytest.mark.parametrize(
    ("there", "sign"),
    [
        ({"files": ["nvidia0", "nvidiactl"]}, "dev/nvidia0"),
        ({"driver": ["0000:01:00.0"]}, "gpus/0000:01:00.0"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "CUDA_VISIBLE_DEVICES=0"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-c7384736-a75d"}, "CUDA_VISIBLE_DEVICES=MIG-c7384736-a75d"),
        ({"SLURM_GPUS_ON_NODE": "4"}, "SLURM_GPUS_ON_NODE=4"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_an_error_unless_the_cpu_is_asked_for(machine, torch_sees, there, sign):
    machine(**there)
    torch_sees(0, "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\nMore.")
    with pytest.raises(InputError, match=f"{sign}.*too old .found version 11040.*--device cpu"):
        choose_device()
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="--device cuda: cannot be used"):
        choose_device("cuda")


@pytest.mark.parametrize(
    "there",
    [
        {},
        {"files": ["nvidiactl", "nvidia-uvm"], "SLURM_GPUS_ON_NODE": "0"},
        {"files": ["nvidia0"], "CUDA_VISIBLE_DEVICES": ""},
        {"files": ["nvidia0"], "CUDA_VISIBLE_DEVICES": "-1", "SLURM_GPUS_ON_NODE": "1"},
        {"driver": ["0000:01:00.0"], "CUDA_VISIBLE_DEVICES": "NoDevFiles"},
    ],
)
def test_where_no_gpu_is_or_none_is_asked_for_the_cpu_is_taken(machine, torch_sees, there):
    machine(**there)
    torch_sees(0)
    assert choose_device().type == "cpu"


@pytest.mark.parametrize("variables", [{"LOCAL_WORLD_SIZE": "4"}, {"LOCAL_WORLD_SIZE": "", "LOCAL_RANK": "3"}])
def test_more_processes_than_gpus_of_a_node_are_refused_with_both_numbers(machine, torch_sees, monkeypatch, variables):
    machine(files=["nvidia0", "nvidia1"])
    torch_sees(2)
    whole = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in (whole | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="4 processes on this node, and GPUs that torch can use: 2"):
        distributed.start(8)
    assert distributed.start(8, device="cpu").device.type == "cpu"


def test_each_process_takes_the_gpu_of_its_place_and_the_start_of_a_run_names_it(stores, tmp_path, torch_sees):
    torch_sees(4)
    options = SimpleNamespace(**parse("train_supervised", "", supervised_arguments(stores, tmp_path / "run")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "ones", lambda *_, device: torch.zeros(1))
        chosen = choose_device("auto", place=2, processes=4)
        patch.setattr(torch.cuda, "get_device_name", lambda device: f"A100 number {device.index}")
        said = summary(options, [], distributed.Processes(2, 4, chosen))
    assert "4 processes on A100 number 2 with" in said and said.endswith(", float32")


def test_a_gpu_that_does_not_compute_is_one_message(torch_sees):
    torch_sees(1)  # which on the machine of this test is not true
    with pytest.raises(InputError, match="--device cuda:0: cannot be used"):
        choose_device()


@pytest.mark.parametrize("native", [True, False])
def test_bf16_by_imitation_is_refused(monkeypatch, native):
    """On a T4 torch imitates it; is_bf16_supported() says yes to that by default."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    gpu = torch.device("cuda", 0)
    with nullcontext() if native else pytest.raises(InputError, match=r"Tesla T4.*--amp fp16"):
        Precision("bf16", gpu)
    assert Precision("off", gpu).dtype is None and Precision("bf16", torch.device("cpu")).dtype == torch.bfloat16


def test_no_program_computes_on_the_cpu_in_place_of_a_gpu_that_is_asked_for(stores, supervised, tmp_path, monkeypatch):
    """Torch has seen no GPU in this process before, and sees none of this name."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", NOWHERE)
    train = " ".join(["train_supervised", *supervised_arguments(stores, tmp_path / "run", "--steps", 1)])
    for line in (
        train,
        " ".join(["train_uda", *uda_arguments(stores, tmp_path / "run", "--steps", 1)]),
        f"evaluate {supervised} --data {stores} --domain labelled",
        f"selection {supervised} --data {stores} --domain labelled --mean 0.5 --out {tmp_path}/s.json",
    ):
        status, said = call(line)
        assert status == 2 and f"error: CUDA_VISIBLE_DEVICES={NOWHERE}, but torch" in said, said
    assert not (tmp_path / "run").exists()
    assert call(f"{train} --device cpu")[0] == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "nothing to do" in call(train)[1], "a run may go on where the device is another"


MIG = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-bbbb)
  MIG 3g.20gb     Device  1: (UUID: MIG-cccc)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-dddd)"""


@pytest.mark.parametrize(
    ("there", "names"),
    [
        ({}, []),
        ({"files": ["nvidia0", "nvidia3", "nvidiactl"]}, ["0", "1"]),  # a container's files keep the host's numbers
        ({"smi": MIG, "files": ["nvidia0", "nvidia1"]}, ["MIG-bbbb", "MIG-cccc", "GPU-dddd"]),
        ({"smi": "NVIDIA-SMI has failed", "files": ["nvidia0"]}, ["0"]),
        ({"smi": MIG, "CUDA_VISIBLE_DEVICES": "2, 3,GPU-aaaa"}, ["2", "3", "GPU-aaaa"]),
        ({"smi": MIG, "CUDA_VISIBLE_DEVICES": "1,-1,0"}, ["1"]),  # CUDA reads no further
        ({"smi": MIG, "CUDA_VISIBLE_DEVICES": ""}, []),
    ],
)
def test_the_gpus_that_launchers_may_share_out_are_named(machine, there, names):
    machine(**there)
    assert gpus.names() == names


def test_weights_are_downloaded_once_and_before_the_process_group_is_joined(tmp_path):
    """Two real processes, a slow download of a file, and torch's cache in a folder of the test."""
    (tmp_path / "there").mkdir()
    torch.save({}, tmp_path / "there" / "vgg.pth")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time, torch\n"
        "import torch.distributed as dist\n"
        "from types import SimpleNamespace\n"
        "from training import distributed, weights\n"
        f"source = SimpleNamespace(url='file://{tmp_path}/there/vgg.pth')\n"
        "weights.IMAGENET_WEIGHTS['unet_vgg16'] = source\n"
        "download = torch.hub.download_url_to_file\n"
        "def slowly(url, path, hash_prefix, progress):\n"
        "    time.sleep(2)\n"
        f"    with open('{tmp_path}/calls', 'a') as calls:\n"
        "        calls.write(f'{dist.is_initialized()} ')\n"
        "    download(url, path, progress=progress)\n"
        "torch.hub.download_url_to_file = slowly\n"
        "def train(options, processes):\n"
        "    assert weights.imagenet_file('unet_vgg16').is_file() and dist.is_initialized()\n"
        "distributed.together(train, SimpleNamespace(batch_size=2, micro_batch=None, deterministic=False, amp='off',\n"
        "                                            device='auto', pretraining='imagenet', model='unet_vgg16'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCH_HOME": str(tmp_path / "cache")}
    subprocess.run(command(script, processes=2), cwd=ROOT, env=environment, check=True, timeout=100)
    assert (tmp_path / "calls").read_text() == "False "
