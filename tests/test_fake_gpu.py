"""A GPU without one: every tensor of a step is on it, and the memory of the study's batches is known."""

import importlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import losses.segmentation
import models
from evaluation import inference
from losses import segmentation_loss
from training.distributed import choose_algorithms
from training.precision import PRECISIONS

DEFAULTS = {"script": "train_uda", "model": "deeplabv2_small", "tile": 48, "overlap": 8, "batch_size": 2}
DEFAULTS |= {"micro_batch": None, "amp": "bf16"}
STUDY = {"model": "deeplabv2_resnet101", "tile": 512, "overlap": 62, "batch_size": 8}
SUPERVISED = {"script": "train_supervised", "batch_size": 12}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as the benchmarks set it for good on import, for this test alone
    return importlib.import_module("benchmarks.memory")


@pytest.fixture
def peak(memory: ModuleType, tmp_path: Path) -> Callable[..., float]:
    """The peak memory in GiB of a step with options that differ from DEFAULTS."""

    def count(*more: object, **changed: object) -> float:
        options = Namespace(**DEFAULTS | changed)
        stores = memory.draw_stores(tmp_path, options.tile, options.overlap, micrographs=2)
        return memory.peak_of_step(options, stores, tmp_path / "run", *more) / 2**30

    return count


@pytest.mark.parametrize("amp", PRECISIONS)
@pytest.mark.parametrize("model", ["deeplabv2_small", "unet_small"])
@pytest.mark.parametrize("script", ["train_uda", "train_supervised"])
def test_every_tensor_of_a_step_is_on_the_gpu(peak, monkeypatch, script, model, amp):
    """The script's own loop, from the tiles to the record. Only the numbers, which fake tensors lack, are made up."""
    looked_at = []

    def numbers(values: torch.Tensor, _: object) -> list:
        looked_at.append(values.device.type)
        return [0.0] * len(values)

    monkeypatch.setattr("training.run.mean", numbers)
    assert peak("--log-every", 1, script=script, model=model, amp=amp) > 0
    assert looked_at == ["cuda", "cuda"]


def test_deterministic_algorithms_stay_on_the_gpu(peak):
    """For `interpolate` and `pad` torch then has code of its own in Python."""
    choose_algorithms(deterministic=True, amp="bf16")
    try:
        assert peak() > 0
    finally:
        choose_algorithms(deterministic=False, amp="bf16")


PLANTED = {
    "made": lambda mask: torch.ones(mask.shape[-2:]),
    "of numpy": lambda mask: torch.from_numpy(np.ones(mask.shape[-2:], np.float32)),
    "moved": lambda mask: torch.ones_like(mask).cpu(),
}


@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_tensor_on_the_cpu_is_found(peak, monkeypatch, plant):
    monkeypatch.setattr(
        losses.segmentation, "segmentation_loss", lambda *given: segmentation_loss(*given[:2], plant(given[1]))
    )
    with pytest.raises(RuntimeError, match="two different devices"):
        peak()


@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "deeplabv2_small", "unet_vgg16"])
def test_every_tensor_of_a_prediction_is_on_the_gpu(memory, name):
    """All of it but the copy of the finished bands to the CPU, which is begun."""
    with memory.fake_gpu():
        model = models.domain_batch_norm(models.build(name)).to("cuda", memory_format=torch.channels_last)
        network = inference.for_inference(model)
        with torch.inference_mode():
            bands = list(inference._bands(network, np.zeros((600, 700), np.uint8), 512, 62, torch.device("cuda"), None))
    assert [row for row, _ in bands] == [0, 450]


@pytest.mark.parametrize(
    ("expected", "changed"),
    [
        (23.6, {}),
        (23.6, {"amp": "fp16"}),
        (45.9, {"amp": "off"}),
        (12.3, {"micro_batch": 4}),
        (17.5, SUPERVISED),
        (6.7, SUPERVISED | {"model": "unet_vgg16"}),
    ],
    ids=str,
)
def test_the_memory_of_the_studys_batches(peak, expected, changed):
    """docs/performance.md has these figures."""
    assert peak(**STUDY | changed) == pytest.approx(expected, rel=0.1)


def test_memory_is_counted_as_it_comes_and_goes(memory):
    with memory.fake_gpu() as gpu:
        weight = torch.nn.Parameter(torch.zeros(1024, 256, device="cuda"))  # 1 MiB
        assert gpu.live == gpu.peak == 2**20
        torch.zeros(2**20)  # on the CPU
        view = (2 * weight).view(-1)
        assert gpu.live == 2 * 2**20
        view.sum().backward()
        del view
        assert gpu.live == 2 * 2**20 and weight.grad.is_cuda
        weight.grad = None
        assert gpu.live == 2**20
        small = torch.zeros(1, device="cuda")
        assert gpu.live == 2**20 + 512
        del small
        with torch.autocast("cuda", torch.bfloat16):
            product = weight @ weight.T
        assert product.dtype == torch.bfloat16
