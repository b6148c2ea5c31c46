"""Work on the items of a list, in threads or processes, with the results in the items' order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing

import cv2
from tqdm import tqdm

from common.errors import InputError
from common.signals import end_workers, serve, unsignalled


def ahead(function: Callable, items: Iterable, workers: int) -> Iterator[Future]:
    """Yield the Future of function(item) for every item, from `workers` >= 1 threads.

    While the caller is at one result, the next `workers` are being made or waiting, and no more: so workers + 1
    results are held at most, if the caller drops each before it takes the next. `items` is iterated in the caller's
    thread. result() raises what the function raised. Closing the generator drops what has not begun.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = deque()
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) > workers:
                    yield futures.popleft()
            while futures:
                yield futures.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


def all_of(function: Callable, items: Iterable, workers: int) -> list:
    """Give function(item) of every item, from `workers` threads. Raises what the first that fails has raised."""
    with closing(ahead(function, items, workers)) as futures:
        return [future.result() for future in futures]


def in_processes(function: Callable, items: Sequence, workers: int, activity: str) -> Iterator:
    """Yield function(item) for every item, from `workers` >= 1 processes, under a progress bar named `activity`.

    The function and what it returns are pickled. Closing the generator, or an error, ends the processes. InputError
    where a process was killed.
    """
    with ProcessPoolExecutor(workers, initializer=_serve) as pool:
        try:
            with unsignalled():
                pool.submit(bool)  # the first starts the processes
            # pool.map would cancel what is left after an error, on which a pool that breaks fails itself (Python 3.11).
            futures = deque(pool.submit(function, item) for item in items)
            for _ in tqdm(range(len(futures)), desc=activity, unit="image"):
                yield futures.popleft().result()
        except BaseException as error:
            end_workers()  # the pool would send them SIGTERM, and wait
            if isinstance(error, BrokenProcessPool):
                raise InputError(
                    f"{activity}: a worker process was killed, perhaps for want of memory. Give fewer --workers, or "
                    "more memory."
                ) from error
            raise


def _serve() -> None:
    serve()
    cv2.setNumThreads(0)  # OpenCV would start a pool of threads of its own in every process
