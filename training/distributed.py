"""The process group: one process is the same path as many."""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from data.errors import InputError


@dataclass(frozen=True)
class Processes:
    """Who this process is. `world` 1 means that no process group exists."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def start(batch_size: int) -> Processes:
    """Join the process group that torchrun describes (nccl on GPUs, gloo without), or be alone without torchrun.

    InputError when the global `batch_size` cannot be shared equally, which would change the gradients.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if batch_size % world:
        raise InputError(
            f"--batch-size {batch_size}: is global and cannot be shared by {world} processes. Give a multiple of "
            f"{world}."
        )
    rank = int(os.environ.get("RANK", 0))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world > 1:
        # The longest silence of a healthy run is the validation of one process; ten minutes bound a hang.
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(minutes=10))
    return Processes(rank, world, device)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(module: torch.nn.Module, processes: Processes) -> torch.nn.Module:
    """The module on its device, its gradients averaged over all processes."""
    module = module.to(processes.device)
    if processes.world == 1:
        return module
    ids = [processes.device.index] if processes.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)


def share_buffers(module: torch.nn.Module, processes: Processes) -> None:
    """Give every process the buffers (batch-norm statistics) of the first, before they are used to predict."""
    if processes.world > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def mean(values: dict[str, torch.Tensor], processes: Processes) -> dict[str, float]:
    """Scalars averaged over all processes, as floats. One reduction, one synchronisation."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if processes.world > 1:
        dist.all_reduce(stacked)
        stacked /= processes.world
    return dict(zip(values, stacked.tolist(), strict=True))


def total(counts: list[int], processes: Processes) -> list[int]:
    """Integers summed over all processes."""
    tensor = torch.tensor(counts, dtype=torch.int64, device=processes.device)
    if processes.world > 1:
        dist.all_reduce(tensor)
    return tensor.tolist()


def first_alone(action, processes: Processes) -> None:
    """Run `action` on the first process while the others wait; its InputError is raised on all of them."""
    error = None
    if processes.first:
        try:
            action()
        except InputError as caught:
            error = caught
    if processes.world > 1:
        outcome = [error]
        dist.broadcast_object_list(outcome, src=0, device=processes.device)
        error = outcome[0]
    if error:
        raise error
