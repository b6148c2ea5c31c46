"""Types for argparse: numbers within bounds. Another is refused with its value and what would be right."""

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
whole = at_least(0)
positive = at_least(1)
