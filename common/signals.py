"""The signals that ask a program to stop."""

import signal

# A scheduler's and torchrun's, SLURM's --signal, Ctrl-C.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
