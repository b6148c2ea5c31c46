"""The one exception for bad input, and how a script reports it."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")

_LONGEST_NAME = 200  # bytes; file systems allow 255, with the endings that files get


class InputError(Exception):
    """Input that the user has to mend. The message names the file, the value and the remedy."""


def make_folder(path: Path) -> Path:
    """Make a folder with its parents. InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}). Give another folder.") from error
    return path


def require_file_name(name: object, where: str) -> None:
    """Require that `name`, read from a file, is a plain name, which leads out of no folder. InputError otherwise.

    `where` says whose name it is, and in which file.
    """
    plain = isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\x00-\x1f\x7f]", name)
    if not plain or len(name.encode(errors="replace")) > _LONGEST_NAME:
        shown = repr(name)[:_LONGEST_NAME]
        raise InputError(f"{where}: {shown} becomes a file name; use a plain one of up to {_LONGEST_NAME} bytes")


def exits_cleanly(main: Callable[P, T]) -> Callable[P, T]:
    """Decorate a script's main(): an InputError becomes `error: <message>` on stderr and exit status 2.

    So does an OSError that names a file: a missing permission, a folder that vanished.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return main(*args, **kwargs)
        except InputError as error:
            sys.exit(report(error))
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(report(InputError(f"{error.filename}: {error.strerror}; check the path and its permissions")))

    return wrapper


def report(error: InputError) -> int:
    """Print the message on stderr. Returns the exit status for it."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
