"""Peak memory of a training step on a GPU, counted without one.

    python -m benchmarks.memory --batch-size 8                                # T3.2 in one process: 8 + 8 tiles of 636
    python -m benchmarks.memory --batch-size 8 --micro-batch 4 --amp off
    python -m benchmarks.memory --script train_supervised --batch-size 12     # S.10

The training script's own loop runs on tensors that have shapes and a device, and no memory. What they would take is
added up as they come and go. CUDA's own memory, workspaces of cuDNN and gaps between tensors come on top.
"""

if not __package__:
    raise SystemExit("error: start it in the project's folder: python -m benchmarks.memory")

import argparse
import ctypes
import importlib
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

import models
from benchmarks.driver import draw_stores, drive, report
from common.arguments import positive, whole
from common.errors import exits_cleanly
from training.distributed import Processes
from training.precision import PRECISIONS

STEPS = 2  # the optimizers' moments are there from the second on
_BLOCK = 512  # bytes: CUDA's allocator gives multiples of it
_CUDA, _STAND_IN = torch.device("cuda", 0), torch.device("xla", 0)


class FakeGpu(FakeTensorMode):
    """Tensors on 'cuda' without memory, wherever they are made; `live` and `peak` are the bytes that they would take.

    An operation on tensors of two devices fails as it does on a GPU. Autocast is CUDA's. torch's C++ part is told
    another kind of device: autograd would ask for the streams of a GPU. It must be one that CUDA's autocast casts, so
    it is XLA, which needs a package of its own to be there. What C++ code then makes on it is on the GPU.
    """

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.live, self.peak = 0, 0
        self._counted, self._inside = {}, False

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if func is torch.ops.prim.device.default:
            device = args[0].fake_device
            return _STAND_IN if device == _CUDA else device
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == _STAND_IN:
            kwargs["device"] = _CUDA
        # What an operation does inside is one kernel on a GPU: only its results are counted.
        outer, self._inside = not self._inside, True
        try:
            results = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = not outer
        if outer:
            for result in tree_leaves(results):
                if isinstance(result, FakeTensor) and result.fake_device == _CUDA:
                    self._count(result.untyped_storage())
        self.fake_tensor_converter.tensor_memo.clear()  # what it refers to cannot be moved by Module.to
        return results

    def __deepcopy__(self, memo: dict) -> "FakeGpu":
        return self  # a copy of a tensor is on the same GPU

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // _BLOCK) * _BLOCK
        if key in self._counted:
            return

        def gone(_: weakref.ref) -> None:
            del self._counted[key]
            self.live -= size

        self._counted[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Enter a FakeGpu, on a machine that says it has a GPU, whose work is always done."""
    said = (
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
        (torch.cuda, "get_device_name", lambda device=None: "fake GPU"),
        (torch.cuda, "synchronize", lambda device=None: None),
        (torch.cuda, "current_stream", mock.Mock()),
        (torch.Tensor, "pin_memory", lambda tensor: tensor),
        (FakeTensor, "is_cuda", property(lambda tensor: tensor.fake_device == _CUDA)),
    )
    _accept_stand_in()
    with ExitStack() as stack:
        for place, name, value in said:
            stack.enter_context(mock.patch.object(place, name, value))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # it has a thread for each real GPU
        yield stack.enter_context(FakeGpu())


def _accept_stand_in() -> None:
    """Have torch's C++ part switch to an XLA device as it does to 'meta', by doing nothing; else it refuses to."""
    kinds = torch._C._autograd.DeviceType
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (int(kinds.Meta) + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[int(kinds.XLA)] = guards[int(kinds.Meta)]


@exits_cleanly
def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        stores = draw_stores(Path(name), options.tile, options.overlap, micrographs=2)
        peak = peak_of_step(options, stores, Path(name) / "run")
    adapting = options.script == "train_uda"
    row = {
        "step": options.script, "model": options.model, "tile px": options.tile + 2 * options.overlap,
        "batch": f"{options.batch_size} + {options.batch_size}" if adapting else str(options.batch_size),
        "micro-batch": options.micro_batch, "amp": options.amp, "GiB a process": peak / 2**30,
    }  # fmt: skip
    report("Peak memory of a training step on a GPU, counted", [row], options.json)


def peak_of_step(options: argparse.Namespace, stores: Path, run: Path, *more: object) -> int:
    """Bytes that a process has in tensors on its GPU at most, in the loop of `options.script` with `more` options."""
    adapting, window = options.script == "train_uda", options.tile + 2 * options.overlap
    arguments = [
        "--data", stores, "--run-dir", run, "--model", options.model, "--pretraining", "random", "--wandb", "disabled",
        "--batch-size", options.batch_size, "--amp", options.amp, "--steps", 10**6,
        *(["--micro-batch", options.micro_batch] if options.micro_batch else []),
        *(["--target", "t3"] if adapting else []), *more,
    ]  # fmt: skip
    processes = Processes(0, 1, torch.device("cuda"))
    with fake_gpu() as gpu:
        sides = (window, options.tile, window)[: 3 if adapting else 2]
        fixed = [torch.zeros(options.batch_size, 1, s, s, dtype=torch.uint8, device="cuda") for s in sides]
        drive(importlib.import_module(options.script), arguments, processes, fixed, 1, STEPS, lambda run: None)
        return gpu.peak


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--script", choices=("train_uda", "train_supervised"), default="train_uda")
    parser.add_argument("--model", choices=models.MODELS, default="deeplabv2_resnet101")
    parser.add_argument("--tile", type=positive, default=512, help="px (default: the study's 512)")
    parser.add_argument("--overlap", type=whole, default=62, help="px of context on each side (default: 62)")
    parser.add_argument("--batch-size", type=positive, default=1, help="tiles of each domain in a process")
    parser.add_argument("--micro-batch", type=positive, help="as the training scripts have it")
    parser.add_argument("--amp", choices=PRECISIONS, default="bf16")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    main()
