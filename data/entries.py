"""Tables of a TOML file, whose keys are checked as they are taken."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from common.errors import InputError
from data.files import Found, cut, find

T = TypeVar("T")

SLASHES = "write it with forward slashes, as lab/images"  # TOML takes backslashes for signs of its own


class Table:
    """A TOML table whose keys are checked as they are taken."""

    def __init__(self, path: Path, where: str, entries: dict, known: set[str]):
        self.path, self.where, self.entries = path, where, entries
        if not isinstance(entries, dict):
            raise self.error("", entries, "make it a table")
        for key in entries:
            if key not in known:
                raise self.error(key, entries[key], f"unknown key; known are {', '.join(sorted(known))}")

    def error(self, key: str, value: object, remedy: str) -> InputError:
        """Make the error about a key's value, with file, place, value and remedy."""
        place = cut(".".join(part for part in (self.where, key) if part))
        given = "" if isinstance(value, dict) else f" = {shown(value)}"
        return InputError(f"{self.path}: {place}{given}: {remedy}")

    def take(
        self,
        key: str,
        kind: type[T] | tuple[type[T], ...],
        remedy: str,
        default: T | None = None,
        valid: Callable[[T], bool] = lambda value: True,
    ) -> T:
        """Take the value of a key. InputError, with `remedy`, where it is missing without a default or is not valid."""
        if key not in self.entries:
            if default is None:
                raise InputError(f"{self.path}: {self.where or 'top level'} lacks the key '{key}'; add {remedy}")
            return default
        value = self.entries[key]
        kinds = (int, float) if kind is float else kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or not valid(value):
            raise self.error(key, value, f"it must be {remedy}")
        if isinstance(value, int) and value.bit_length() > 63:
            raise self.error(key, value, "TOML's integers have 64 bit; it must be " + remedy)
        return value

    def found(self, key: str, remedy: str) -> Found:
        """Find the files that a key names, relative to the file. InputError where there is no such place."""
        value = self.take(key, str, remedy)
        try:
            return find(self.path.parent, value)
        except OSError as error:  # a name that is too long, a folder above that may not be entered
            raise self.error(key, value, f"{error.strerror}; correct the path or its permissions") from error
        except ValueError as error:
            escaped = re.search(r"[\\\x00-\x1f]", value)
            raise self.error(key, value, f"{error}; {SLASHES}" if escaped else str(error)) from error


def shown(value: object) -> str:
    """A value as a message shows it, however long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints, more brackets than it follows
        return f"a {type(value).__name__} too long to be shown"
    return cut(text)
