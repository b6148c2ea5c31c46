"""A request to stop: SIGTERM (scheduler, torchrun), SIGUSR1 (SLURM's --signal), Ctrl-C end a run at the next step."""

import signal

from common.signals import STOP_SIGNALS

EXIT_CODE = 75  # sysexits.h: temporary failure, start the same command again


class Preempted(SystemExit):
    """The run stopped as asked, after a checkpoint; the process ends with EXIT_CODE."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class StopRequest:
    """Notes that a signal asked this process to stop; `bool(request)` tells."""

    def __init__(self):
        self.received: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def __bool__(self) -> bool:
        return self.received is not None

    def _note(self, number: int, _: object) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)  # a second Ctrl-C ends it at once
