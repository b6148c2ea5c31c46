"""Tiles of a store as endless batches whose content depends on nothing but the seed and the step."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Listener
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from common.errors import InputError
from common.seeds import generator
from common.signals import serve, unsignalled
from data.augmentation import Augmentation
from data.looks import Looks
from data.rare import phase_pixels, probabilities_of_tiles
from data.store import Store

_LONGEST_SOCKET = 107  # bytes in the path of a Unix socket, man 7 unix
# What an error says for want of something that loader processes need, in them or here.
_LACKING = ("shared memory", "No space left", "allocate memory", "MemoryError", "Too many open files", "of ancdata")


class Processes(Protocol):
    """A process of a run among all of them (training.distributed)."""

    rank: int
    world: int
    device: torch.device


class _Tiles(Dataset):
    """The training tiles of a store in a fold. An item is asked for by (epoch, index): its draws depend on no more."""

    def __init__(self, store: Store, fold: int | None, policy: str, seed: int, labelled: bool):
        self.store, self.seed, self.augment = store, seed, Augmentation(policy)
        self.tiles = store.training_tiles(fold, labelled)
        self.probabilities = None  # of each tile to be drawn; all tiles of an epoch in turn
        store.hold(self.tiles, masks=labelled)

    def __len__(self) -> int:
        return len(self.tiles)

    def name(self, index: int) -> str:
        """The micrograph that a tile was cut from."""
        return self.store.micrographs[self.store.tile_micrograph[self.tiles[index]]].name

    def _rng(self, epoch: int, index: int) -> np.random.Generator:
        return generator(self.seed, f"augmentation of {self.store.domain}", epoch, index)


class LabelledTiles(_Tiles):
    """Augmented source tiles with masks.

    An item is (image uint8 (1, T, T), mask uint8 (1, tile, tile)): the mask covers the centre only, because the loss
    discards the overlap (paper Section 2.2). After the geometry a tile may get another look. rare: tiles that hold a
    rare phase are drawn more often.
    """

    def __init__(
        self,
        store: Store,
        fold: int | None,
        policy: str,
        seed: int,
        looks: Looks | None = None,
        rare: bool = False,
    ):
        super().__init__(store, fold, policy, seed, labelled=True)
        self.looks = looks
        if rare and len(self.tiles):
            self.probabilities = probabilities_of_tiles(phase_pixels(store, self.tiles))

    def __getitem__(self, where: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        tile, margin = self.tiles[where[1]], self.store.overlap
        image, mask = self.augment(self.store.tile_image(tile), self.store.tile_mask(tile), self._rng(*where))
        if self.looks:
            rng = generator(self.seed, f"looks of {self.store.domain}", *where)
            image = self.looks(image, mask, int(self.store.tile_micrograph[tile]), rng)
        centre = slice(margin, margin + self.store.tile)
        return _tensor(image), _tensor(mask[centre, centre])


class UnlabelledTiles(_Tiles):
    """Augmented target tiles: an item is (image uint8 (1, T, T),).

    The store must be opened without labels, so that no mask can reach training.
    """

    def __init__(self, store: Store, fold: int | None, policy: str, seed: int):
        if store.labels:
            raise ValueError("a target store is opened with Store(path, labels=False)")
        super().__init__(store, fold, policy, seed, labelled=False)

    def __getitem__(self, where: tuple[int, int]) -> tuple[torch.Tensor]:
        image, _ = self.augment(self.store.tile_image(self.tiles[where[1]]), None, self._rng(*where))
        return (_tensor(image),)


class BatchStream(Sampler):
    """The (epoch, index) pairs of one process's part of each global batch, from step `start` to step `stop`.

    Sample n of the run (n = step x batch_size + place) is place n % size of the permutation of epoch n // size. So a
    batch is a function of (seed, step) alone: it depends neither on the number of processes or workers nor on where
    the run was resumed, and no tile is dropped at the end of an epoch. probabilities: float64 (size,), by which the
    places of an epoch are drawn one by one, in place of a permutation.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        start: int,
        stop: int,
        seed: int,
        purpose: str,
        rank: int = 0,
        world: int = 1,
        probabilities: np.ndarray | None = None,
    ):
        self.probabilities = probabilities
        self.size, self.batch_size, self.start, self.stop = size, batch_size, start, stop
        self.seed, self.purpose, self.rank, self.local_batch_size = seed, purpose, rank, batch_size // world

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for step in range(self.start, self.stop):
            batch = []
            first = step * self.batch_size + self.rank * self.local_batch_size
            for n in range(first, first + self.local_batch_size):
                if n // self.size != epoch:
                    epoch = n // self.size
                    rng = generator(self.seed, f"order of {self.purpose}", epoch)
                    if self.probabilities is None:
                        order = rng.permutation(self.size)
                    else:
                        order = rng.choice(self.size, self.size, p=self.probabilities)
                batch.append((epoch, int(order[n % self.size])))
            yield batch


def batches(tiles: Dataset, batch_size: int, start: int, stop: int, workers: int, processes: Processes) -> Iterator:
    """Start to make this process's batches of steps `start` ... `stop - 1`, on its device: the items' tensors, stacked.

    `batch_size` is global, over all processes; `processes` has rank, world and device. InputError where loader
    processes cannot start or go on: one that was killed is noticed when its batch has not come for five seconds.
    """
    place = (processes.rank, processes.world)
    stream = BatchStream(
        len(tiles), batch_size, start, stop, tiles.seed, tiles.store.domain, *place, _probabilities(tiles)
    )
    loader = DataLoader(
        tiles,
        batch_sampler=stream,
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=processes.device.type == "cuda",
        generator=torch.Generator(),  # keeps the loader's own seed out of the global random state
    )
    with _explained(workers), unsignalled():
        ready = iter(loader)
    # The loader's handler raises wherever the main thread is. Out of a C++ destructor, such as that of a file that is
    # being saved, that ends the process by SIGABRT, without a message.
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return _explained_stream(ready, workers, processes.device)


def _explained_stream(ready: Iterator, workers: int, device: torch.device) -> Iterator[list[torch.Tensor]]:
    with _explained(workers):
        yield from _ahead(ready, device) if device.type == "cuda" else ready


@contextmanager
def _explained(workers: int) -> Iterator[None]:
    """Turn what a loader raises into InputError where it is one, or means one."""
    try:
        yield
    except InputError as error:  # from a worker it comes inside that process's traceback
        raise InputError(str(error).strip().rpartition("InputError: ")[2]) from None
    except Exception as error:
        if workers and (failure := loader_failure(error)):
            raise failure from None
        raise


def require_sockets(workers: int) -> None:
    """InputError where loader processes cannot hand over a batch: they would die, and the run wait for ever."""
    if not workers:
        return
    try:
        Listener(family="AF_UNIX").close()  # as each of them will
    except OSError as error:
        name = tempfile.gettempdir()
        longest = _LONGEST_SOCKET - len("/pymp-12345678/listener-12345678")
        raise InputError(
            f"TMPDIR={name}: loader processes cannot make their sockets there ({error}). Set a shorter TMPDIR, of up "
            f"to {longest} bytes (it has {len(os.fsencode(name))}), or give --workers 0."
        ) from error


def loader_failure(error: Exception) -> InputError | None:
    """Message for an error of the loader that says that one of its processes was killed, or what it lacks, or None."""
    said = str(error).strip().rpartition("\n")[2]
    killed = "DataLoader worker (pid" in said or "Pin memory thread" in said
    broken = isinstance(error, OSError | EOFError) and "in DataLoader worker process" not in str(error)
    if not (killed or broken or any(word in said for word in _LACKING)):
        return None
    said = said or type(error).__name__
    return InputError(
        f"a loader process was killed or failed ({said[:200]}). Memory may lack, or /dev/shm may be too small "
        "(docker run --shm-size), or a limit too low (ulimit -a). Mend that, or give fewer --workers: --workers 0 "
        "needs no such process. The same command goes on from the last checkpoint."
    )


def _ahead(loader: Iterator[list[torch.Tensor]], device: torch.device) -> Iterator[list[torch.Tensor]]:
    """Batches on the GPU, each copied from pinned memory beside the computation on the one before."""
    beside, before = torch.cuda.Stream(device), None

    def ready(batch: list[torch.Tensor], copied: torch.cuda.Event) -> list[torch.Tensor]:
        torch.cuda.current_stream(device).wait_event(copied)
        for tensor in batch:
            tensor.record_stream(torch.cuda.current_stream(device))  # its memory is in use until that stream is done
        return batch

    for batch in loader:
        with torch.cuda.stream(beside):
            batch = [tensor.to(device, non_blocking=True) for tensor in batch]
        if before:
            yield ready(*before)
        before = batch, beside.record_event()
    if before:
        yield ready(*before)


def names_of_batch(dataset: Dataset, batch_size: int, step: int) -> list[str]:
    """List the names of what the global batch of a step is made of, sorted."""
    span, probabilities = (step, step + 1), _probabilities(dataset)
    (batch,) = BatchStream(
        len(dataset), batch_size, *span, dataset.seed, dataset.store.domain, probabilities=probabilities
    )
    return sorted({dataset.name(index) for _, index in batch})


def _probabilities(tiles: Dataset) -> np.ndarray | None:
    return getattr(tiles, "probabilities", None)  # pictures have none


def _start_worker(_: int) -> None:
    serve()
    cv2.setNumThreads(0)  # OpenCV would start a pool of its own in every worker
    torch.set_num_threads(1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None]
