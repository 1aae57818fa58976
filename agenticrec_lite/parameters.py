"""What a notebook or a command line hands in: papermill makes a number of `-p out 2026`, a float of `-p seed 1.0`."""

from pathlib import Path

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
