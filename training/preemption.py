"""A request to stop: SIGTERM (scheduler, torchrun), SIGUSR1 (SLURM's --signal), Ctrl-C end a run at the next step."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from common.signals import STOP_SIGNALS

EXIT_CODE = 75  # sysexits.h: temporary failure, start the same command again
_ONE = 0.4  # seconds within which signals are one request: torchrun passes on what a terminal has sent to all
_LATER = 0.01  # seconds
_ORPHAN = 6  # seconds for a process to stop whose torchrun is gone


class Preempted(SystemExit):
    """The run stopped as asked, after a checkpoint; the process ends with EXIT_CODE."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Interrupted(Exception):
    """The request to stop came while the run waited for what may never come."""


class StopRequest:
    """Notes that a signal asked this process to stop; `bool(request)` tells. A second signal ends the process at once.

    Python's handlers wait until the main thread comes back from what it computes or waits for. So a thread of its own
    reads the signals from a pipe. `release` ends it.
    """

    def __init__(self):
        self.received: str | None = None
        self._waiting = self._inside = False
        pipe, written = os.pipe()
        os.set_blocking(written, False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGALRM, self._interrupt)
        sys.unraisablehook = self._lost
        signal.set_wakeup_fd(written)
        threading.Thread(target=_watch, args=(pipe,), daemon=True).start()

    def __bool__(self) -> bool:
        return self.received is not None

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        """Interrupt what is done in the context, in the main thread, by Interrupted when a signal comes or has come."""
        self._waiting = self._inside = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._waiting = self._inside = False

    def _note(self, number: int, frame: object) -> None:
        self.received = signal.Signals(number).name
        self._interrupt(number, frame)

    def _interrupt(self, *_: object) -> None:
        if self._waiting:
            self._waiting = False
            raise Interrupted

    def _lost(self, what: "sys.UnraisableHookArgs") -> None:
        """Interrupt again, a little later, where the signal met a destructor, out of which no exception comes."""
        if not isinstance(what.exc_value, Interrupted):
            sys.__unraisablehook__(what)
        elif self._inside:
            self._waiting = True
            signal.setitimer(signal.ITIMER_REAL, _LATER)


def release() -> None:
    """End the thread of the last StopRequest, if there is one."""
    written = signal.set_wakeup_fd(-1)
    if written >= 0:
        os.close(written)


def _watch(pipe: int) -> None:
    """End the process at a second signal, and some time after torchrun, its parent, has gone."""
    parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    first = orphaned = None
    while True:
        ready, _, _ = select.select([pipe], [], [], 1)
        now = time.monotonic()
        if ready:
            content = os.read(pipe, 1)
            if not content:
                return os.close(pipe)
            number = content[0]  # of any signal that Python handles
            # A scheduler repeats its request, and ends what does not follow it by SIGKILL.
            patient = "SLURM_JOB_ID" in os.environ and number != signal.SIGINT
            if number in STOP_SIGNALS and not patient:
                first = first or now
                if now - first > _ONE:
                    _end(f"a second {signal.Signals(number).name}", number)
        if parent and os.getppid() != parent:
            if orphaned is None:
                orphaned = now
                os.kill(os.getpid(), signal.SIGTERM)
            elif now - orphaned > _ORPHAN:
                _end("the end of torchrun", signal.SIGTERM)


def _end(why: str, number: int) -> NoReturn:
    # Without Python's files: the main thread may hold their locks. The worker processes end with this one.
    os.write(2, f"\nstopped at once by {why}. The same command goes on from the last checkpoint.\n".encode())
    os._exit(128 + number)
