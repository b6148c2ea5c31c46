"""The device that a program computes on, and its algorithms: training, evaluation and benchmarks choose them here."""

import os
import warnings

import torch

from common import gpus
from common.errors import InputError


def choose_device(asked: str = "auto", place: int = 0, processes: int = 1) -> torch.device:
    """Choose the device of one of a node's `processes`, the one that is number `place` of them.

    asked: 'auto' is a GPU where there is one, else the CPU; 'cuda' the GPU of this place; or a device of torch.
    InputError where a GPU is there that torch cannot use, where the node has fewer GPUs than processes, and where the
    device does not compute.
    """
    count, said = _count()
    if asked == "auto":
        sign = gpus.expected()
        if sign and not count:
            raise InputError(
                f"{sign}, but torch {torch.__version__} can use no GPU{said}. Install the build of torch that fits the "
                "driver, or ask for no GPU: --device cpu, or for a launcher CUDA_VISIBLE_DEVICES= before its name."
            )
        asked = "cuda" if count else "cpu"
    if asked == "cuda" and count:
        if processes > count:
            raise InputError(
                f"{processes} processes on this node, and GPUs that torch can use: {count}. Give --nproc_per_node="
                f"{count} (to a launcher PROCESSES={count}), or --device cpu."
            )
        asked = f"cuda:{place}"
    try:
        device = torch.device(asked)
        torch.ones(1, device=device).item()  # a GPU too old for this build of torch fails in its first kernel
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {asked}: cannot be used ({reason}). Give another, such as --device cpu.") from error
    return device


def choose_algorithms(deterministic: bool, amp: str) -> None:
    """Choose those whose sums always have one order, as far as torch has them (it warns where not); else the fastest.

    Without mixed precision float32 means float32: torch would take 10 bits of a convolution's factors (TF32).
    """
    torch.backends.cudnn.allow_tf32 = amp != "off"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; costs 24 MiB
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # what nobody reads before it is written
    torch.backends.cudnn.benchmark = not deterministic


def name_of(device: torch.device) -> str:
    """Name of a device for people: the GPU's model, or 'cpu'."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _count() -> tuple[int, str]:
    """Number of GPUs that torch can use, and what it says about those that it cannot."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    said = [str(one.message).splitlines()[0].strip() for one in caught]
    return count, f" ({said[-1]})" if said else ""
