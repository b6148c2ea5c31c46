"""Options: types for argparse, numbers within bounds, and what may be given together."""

import argparse
import math
from collections.abc import Callable


def number(kind: type, valid: Callable, name: str) -> Callable[[str], float]:
    """The type of an option that takes what is `valid`, called `name` where it is refused."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"{text} is not {name}")
        return value

    return convert


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that counts from `least`."""
    return number(int, lambda value: value >= least, f"a whole number from {least}")


not_negative = number(float, lambda value: 0 <= value < math.inf, "a number from 0")
fraction = number(float, lambda value: 0 <= value < 1, "a fraction from 0 to below 1")
share = number(float, lambda value: 0 < value <= 1, "a share above 0, up to 1")
whole = at_least(0)
positive = at_least(1)


def given_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> set[str]:
    """Names of the options whose value is not their default."""
    return {name for name, value in vars(options).items() if value != parser.get_default(name)}


def first_contradiction(
    given: set[str], needs: dict[tuple[str, ...], str], excludes: dict[tuple[str, ...], str]
) -> str | None:
    """Find the first row of two tables that the options given break: its message, None where all hold.

    needs: (option, those of which it needs one) -> message. excludes: (option, those that it excludes) -> message.
    """
    broken = [message for (option, *others), message in excludes.items() if option in given and given & {*others}]
    broken += [message for (option, *others), message in needs.items() if option in given and not given & {*others}]
    return broken[0] if broken else None
