"""What a notebook or a command line hands in: papermill makes a number of `-p out 2026`, a float of `-p seed 1.0`.

Each function takes what can be meant, and refuses the rest in a sentence. `whole_numbers(seed=seed, n_tasks=n_tasks)`
and its like check several parameters of one kind and return them in that order.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from agenticrec_lite.errors import UserError


def whole_number(name: str, value: object, least: int = 0) -> int:
    """A parameter that is a whole number.

    Args:
        name: Of the parameter, for the error.
        value: A whole number, or a float without a fraction.
        least: The smallest that is allowed.

    Raises:
        UserError: It is something else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value // 1 or value < least:  # neither infinity nor NaN is its own floor
        raise UserError(f"{name} must be a whole number, {least} or more, not {value!r}.")
    return int(value)


def name_or_path(name: str, value: object) -> str | Path:
    """A parameter that is a name or a path; a whole number is its digits.

    Args:
        name: Of the parameter, for the error.
        value: Text, a path, or a whole number.

    Raises:
        UserError: It is something else, or empty.
    """
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(value, str | Path) or not str(value).strip():
        raise UserError(f"{name} must be a name or a path, not {value!r}.")
    return value


def number(name: str, value: object) -> float:
    """A parameter that is a number above 0.

    Args:
        name: Of the parameter, for the error.
        value: A whole number or a float.

    Raises:
        UserError: It is something else, 0 or less, infinite, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{name} must be a number above 0, not {value!r}.")
    return float(value)


def list_of(one: Callable, name: str, value: object) -> list:
    """A parameter that is a list: each of its entries is checked by `one`, one of the functions here.

    Args:
        one: Called with the parameter's name and an entry.
        name: Of the parameter, for the error.
        value: A list; or its text, such as "[0, 1]"; or a single entry.

    Raises:
        UserError: It is empty, or an entry is refused.
    """
    try:
        read = yaml.safe_load(value) if isinstance(value, str) and value.strip().startswith("[") else value
    except yaml.YAMLError:
        raise UserError(f"{name} must be a list like [0, 1], not {value!r}.") from None
    entries = list(read) if isinstance(read, list | tuple) else [read]
    if not entries:
        raise UserError(f"{name} must be a list with at least one entry.")
    return [one(name, entry) for entry in entries]


def path_or_nothing(name: str, value: object) -> str | Path:
    """A parameter that is a path, or "" for the default; None is taken for ""."""
    return "" if value is None or value == "" else name_or_path(name, value)


def _each(one: Callable, **given: object) -> list:
    return [one(name, value) for name, value in given.items()]


whole_numbers = partial(_each, whole_number)
counts = partial(_each, partial(whole_number, least=1))
names = partial(_each, name_or_path)
numbers = partial(_each, number)
paths = partial(_each, path_or_nothing)
