"""The signals that ask a program to stop, and its worker processes, which end with it."""

import atexit
import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# A scheduler's and torchrun's, SLURM's --signal, Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_PARENT_DEATH_SIGNAL = 1  # of linux/prctl.h


@contextmanager
def unsignalled() -> Iterator[None]:
    """Start worker processes in this context: they are deaf to these signals from their first moment on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # a process inherits what its parent blocks
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Begin a worker process: a signal to every process of a job does not end it, the end of its parent does."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # SIGKILL also reaches one that is stopped, or waits for a file server
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def end_workers() -> None:
    """Kill this process's worker processes, whatever they do. Call it in the main thread."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(timeout=1)


# Python waits at its exit for worker processes, which ignore the SIGTERM that it sends them. This comes before.
atexit.register(end_workers)
