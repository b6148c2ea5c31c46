"""The one exception for bad input, and how a script reports it."""

import functools
import sys
from pathlib import Path


class InputError(Exception):
    """Input that the user has to mend. The message names the file, the value and the remedy."""


def make_folder(path: Path) -> Path:
    """Make a folder with its parents. InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}). Give another folder.") from error
    return path


def exits_cleanly(main):
    """Decorate a script's main(): an InputError becomes `error: <message>` on stderr and exit status 2."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except InputError as error:
            sys.exit(_report(error))

    return wrapper


def _report(error: InputError) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
