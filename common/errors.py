"""The one exception for bad input, and how a script reports it."""

import functools
import io
import signal
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")

LONGEST_NAME = 200  # bytes; file systems allow 255, with the endings that files get


class InputError(Exception):
    """Input that the user has to mend. The message names the file, the value and the remedy."""


def make_folder(path: Path) -> Path:
    """Make a folder with its parents. InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}). Give another folder.") from error
    return path


def require_file_name(name: object, where: str, longest: int = LONGEST_NAME, ending: str = "") -> None:
    """Require that `name`, read from a file or a folder, is a plain name of up to `longest` bytes.

    Such a name leads out of no folder, and every program can write and read it. InputError otherwise: `where` says
    whose name it is, and in which file; `ending` is what the name has there besides.
    """
    if fault := _fault_of_name(name, longest):
        shown = shown_name(f"{name}{ending}" if ending else name)
        raise InputError(f"{where}: {shown} becomes a file name and {fault}; use a plain one of up to {longest} bytes")


def shown_name(name: object) -> str:
    """Show a name as a message does: in quotes, unprintable characters escaped, no longer than LONGEST_NAME."""
    return (f"'{name}'" if isinstance(name, str) and name.isprintable() else repr(name))[:LONGEST_NAME]


def _fault_of_name(name: object, longest: int) -> str | None:
    if not isinstance(name, str) or name in ("", ".", ".."):
        return "is none"
    kinds = {unicodedata.category(letter) for letter in name}
    if "Cs" in kinds:  # Python's stand-in for a byte that it could not decode
        return "has bytes that are no UTF-8"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "has a control character"
    if set(name) & {"/", "\\"}:
        return "has a slash or backslash"
    size = len(name.encode())
    return f"has {size} bytes" if size > longest else None


def exits_cleanly(main: Callable[P, T]) -> Callable[P, T]:
    """Decorate a script's main(): an InputError becomes `error: <message>` on stderr and exit status 2.

    So does an OSError that names a file: a missing permission, a folder that vanished. Ctrl-C is one line and exit
    status 130; a second one ends the program at once, whatever it waits for. What the terminal's encoding lacks is
    printed escaped, as on stderr: the names of files may hold anything.
    """

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if outermost := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
        try:
            return main(*args, **kwargs)
        except InputError as error:
            sys.exit(report(error))
        except OSError as error:
            if error.filename is None:
                raise
            sys.exit(report(InputError(f"{error.filename}: {error.strerror}; check the path and its permissions")))
        except KeyboardInterrupt:
            print("\nstopped by Ctrl-C", file=sys.stderr, flush=True)
            sys.exit(128 + signal.SIGINT)
        finally:
            if outermost:  # what Python runs at its exit would print the exception of a handler, and go on
                signal.signal(signal.SIGINT, signal.SIG_DFL)

    return wrapper


def _interrupt(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def report(error: InputError) -> int:
    """Print the message on stderr. Returns the exit status for it."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 2
