"""The process group: one process is the same path as many."""

import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError, report
from common.signals import STOP_SIGNALS, end_workers
from training.device import choose_algorithms, choose_device
from training.preemption import release
from training.weights import imagenet_file

# The longest silence of a healthy run is the validation of one process; ten minutes bound a hang.
_TIMEOUT = timedelta(minutes=10)

_PATIENCE = 8  # seconds to leave the process group after an error
# Of the errors that gloo and nccl raise when a peer is gone or silent for too long.
_LOST = ("Connection", "connection", "gloo", "NCCL", "Timed out", "timed out")


@dataclass(frozen=True)
class Processes:
    """Who this process is. `world` 1 means that no process group exists."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start(batch_size: int, micro_batch: int | None = None, device: str = "auto") -> Processes:
    """Find this process's place among those that torchrun describes, and its device; alone without torchrun.

    device: as `choose_device` takes it. InputError as there, and when the global `batch_size` cannot be divided equally
    among the processes, or a process's tiles into micro-batches of `micro_batch`, which would change the gradients.
    """
    world = _number("WORLD_SIZE", 1)
    if batch_size % world:
        raise InputError(
            f"--batch-size {batch_size}: is global and cannot be shared by {world} processes. Give a multiple of "
            f"{world}."
        )
    local = batch_size // world
    if micro_batch and local % min(micro_batch, local):
        raise InputError(
            f"--micro-batch {micro_batch}: does not divide the {local} tiles of a process (--batch-size {batch_size} "
            f"over {world}). Give a divisor of {local}."
        )
    lacking = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if world > 1 and lacking:
        raise InputError(
            f"WORLD_SIZE={world} is set, and {', '.join(lacking)} not. Start the script by torchrun, which sets them, "
            "or unset WORLD_SIZE for one process."
        )
    rank = _number("RANK", 0) if world > 1 else 0
    place = _number("LOCAL_RANK", 0) if world > 1 else 0
    chosen = choose_device(device, place, _number("LOCAL_WORLD_SIZE", place + 1) if world > 1 else 1)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    else:
        # As torchrun does for several processes, so that one process computes what two do.
        torch.set_num_threads(_number("OMP_NUM_THREADS", 1))
    return Processes(rank, world, chosen)


def join(processes: Processes) -> None:
    """Join the process group: nccl on GPUs, gloo without. One process needs none."""
    if processes.world > 1:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would wait until the others are there
        backend = "nccl" if processes.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)


def _number(name: str, default: int) -> int:
    """Number in an environment variable; of a list such as OMP_NUM_THREADS=4,2 the first. `default` where it is empty.

    InputError where it is no number.
    """
    text = os.environ.get(name, "").partition(",")[0].strip() or str(default)
    if not text.isdecimal():
        raise InputError(f"{name}={os.environ[name]}: is no whole number. Set it to one, or unset it.")
    return int(text)


def together(train: Callable, options: SimpleNamespace) -> None:
    """Run `train(options, processes)` in the process group. Exits with a message when another process is lost."""
    choose_algorithms(options.deterministic, options.amp)
    processes = start(options.batch_size, options.micro_batch, options.device)
    if vars(options).get("pretraining") == "imagenet":
        imagenet_file(options.model)  # downloaded before the group is joined: its timeout knows no slow network
    join(processes)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        train(options, processes)
    except Exception as error:
        if lost := processes.world > 1 and isinstance(error, RuntimeError) and any(w in str(error) for w in _LOST):
            error = InputError(
                f"process {processes.rank}: another process of this run has gone ({str(error).splitlines()[0][:100]}). "
                "Its own message stands above. The same command goes on from the last checkpoint."
            )
        if processes.world > 1 and dist.get_backend() == "nccl":
            _end_at_once(error)
        if lost:  # said before anything else: torchrun has already sent the signal that ends this process
            sys.exit(report(error))
        raise error
    finally:
        end_workers()
        release()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if dist.is_initialized():
            if sys.exception():
                faulthandler.dump_traceback_later(_PATIENCE, exit=True, file=2)  # it needs no interpreter's lock
            _release_all_else(sys.exception())
            dist.destroy_process_group()
            faulthandler.cancel_dump_traceback_later()


def _end_at_once(error: BaseException) -> None:
    """Say what happened and end the process. To leave NCCL's group would wait for peers, who know nothing of it."""
    code = report(error) if isinstance(error, InputError) else 1
    if not isinstance(error, InputError):
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _release_all_else(error: BaseException | None) -> None:
    """Free what holds the process group, also in the frames that an error keeps.

    A reducer of DistributedDataParallel that is freed after the process group waits for gloo's threads while it holds
    the interpreter's lock, and they wait for the lock: the process would never end.
    """
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()


def parallel(module: torch.nn.Module, processes: Processes) -> torch.nn.Module:
    """The module on its device, its gradients averaged over all processes."""
    module = module.to(processes.device)
    if processes.world == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    ids = [processes.device.index] if processes.device.type == "cuda" else None
    # Statistics are shared where they are used (broadcast_buffers), not before every step.
    return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)


def new_group() -> dist.ProcessGroup:
    """Make a second group of all processes, whose small messages do not queue behind those of the gradients."""
    return dist.new_group(timeout=_TIMEOUT)


def broadcast_buffers(module: torch.nn.Module, processes: Processes) -> None:
    """Give every process the buffers (batch-norm statistics) of the main process, before they are used to predict."""
    if processes.world > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def mean(values: torch.Tensor, processes: Processes) -> list:
    """A tensor averaged over all processes, as nested lists of floats. One reduction, one synchronisation."""
    if processes.world > 1:
        dist.all_reduce(values)
        values /= processes.world
    return values.tolist()


def total(counts: list[int], processes: Processes) -> list[int]:
    """Integers summed over all processes."""
    tensor = torch.tensor(counts, dtype=torch.int64, device=processes.device)
    if processes.world > 1:
        dist.all_reduce(tensor)
    return tensor.tolist()


def gather(value: object, processes: Processes) -> list:
    """List a small object of every process, in the order of their ranks."""
    values = [value] * processes.world
    if processes.world > 1:
        dist.all_gather_object(values, value)
    return values


def on_main_process(action: Callable, processes: Processes) -> None:
    """Run `action` on the main process while the others wait; its InputError is raised on all of them."""
    error = None
    if processes.is_main:
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
