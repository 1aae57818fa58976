"""Times as whole seconds since 1970: the unit of numbers by their size, the order of day and month over a column."""

import numpy as np
import pandas as pd

from agenticrec_lite.errors import UserError

LATEST_SECOND = 10**11  # year 5138; a larger timestamp is in milliseconds, and so on by steps of 1000
UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
# Whole numbers that are dates if all of a column are: the format, and the first and last number.
COMPACT = (("%Y%m%d", 19000101, 21001231), ("%Y%m%d%H%M%S", 19000101000000, 21001231235959))
TIME = r"(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?\s*([AaPp][Mm])?)?"
YEAR_LAST = rf"^\s*(\d{{1,2}})[-/.](\d{{1,2}})[-/.](\d{{4}}){TIME}\s*$"
YEAR_FIRST = rf"^\s*(\d{{4}})[-/.](\d{{1,2}})[-/.](\d{{1,2}}){TIME}\s*$"


def to_seconds(name: str, column: pd.Series) -> tuple[np.ndarray, str]:
    """Whole seconds since 1970, and how the column was understood.

    Args:
        name: of the dataset; errors begin with it.
        column: seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by their size, all alike; or
            dates: ISO, 20200913, or with a year of four digits and `/`, `.` or `-` between. Whether 13/09/2020 begins
            with the day is decided over the whole column. Without a zone they are taken as UTC.

    Returns:
        (seconds [n] int64, such as "milliseconds" or "dates with the day first").

    Raises:
        UserError: a value is no time, the units differ, or day and month cannot be told apart; with the row.
    """
    _check(name, column, column.isna())
    if not pd.api.types.is_datetime64_any_dtype(column):
        numbers = _to_numbers(column)
        if not numbers.isna().all():
            return _from_numbers(name, column, numbers)
    dates, how = pd.to_datetime(column, utc=True, errors="coerce", format="ISO8601"), "dates"
    if dates.isna().any():
        dates, how = _other_dates(name, column, dates)
    _check(name, column, dates.isna())
    return _since_1970(dates), how


def _to_numbers(column: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(column, errors="coerce")
    except OverflowError:  # an integer beyond any float
        return pd.to_numeric(column.astype(str), errors="coerce")


def _from_numbers(name: str, column: pd.Series, numbers: pd.Series) -> tuple[np.ndarray, str]:
    size = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    size = np.abs(size)
    _check(name, column, ~(size < LATEST_SECOND * 1000 ** (len(UNITS) - 1)))
    unit = np.searchsorted([LATEST_SECOND * 1000**k for k in range(len(UNITS) - 1)], size, side="right")
    first, last = unit.min(), unit.max()
    if first != last:
        raise UserError(
            f"{name}: timestamps are in {UNITS[first]} and in {UNITS[last]}, see rows "
            f"{int(np.argmax(unit == first))} and {int(np.argmax(unit == last))} of the interactions; "
            "write all alike."
        )
    for form, low, high in COMPACT:
        if size.min() >= low and size.max() <= high and not (size % 1).any():
            dates = pd.to_datetime(pd.Series(size).astype(np.int64).astype(str), format=form, errors="coerce", utc=True)
            if not dates.isna().any():
                return _since_1970(dates), f"dates like {int(size[0])}"
    return (numbers // 1000 ** int(first)).to_numpy(dtype=np.int64), UNITS[first]


def _other_dates(name: str, column: pd.Series, dates: pd.Series) -> tuple[pd.Series, str]:
    """Dates that are not ISO, with the year first or last in all rows; `dates` as they came where they are neither."""
    text = column.astype(str)
    sample = text.iloc[int(np.argmax(dates.isna()))]
    for pattern, year_first in ((YEAR_FIRST, True), (YEAR_LAST, False)):
        if pd.Series([sample]).str.match(pattern).all():
            break
    else:
        return dates, "dates"
    parts = text.str.extract(pattern)
    _check(name, column, parts[0].isna())
    numbers = parts.drop(columns=6).fillna("0").astype(np.int64).to_numpy()
    if year_first:
        order, how = (0, 1, 2), "dates"
    else:
        day_first = _day_first(name, text, numbers[:, 0], numbers[:, 1])
        order = (2, 1, 0) if day_first else (2, 0, 1)
        how = f"dates with the {'day' if day_first else 'month'} first"
    year, month, day = (numbers[:, k] for k in order)
    hour, half = numbers[:, 3], parts[6].str.lower()
    bad = (half.notna() & ~pd.Series(hour, parts.index).between(1, 12)).to_numpy()
    hour = np.where(half == "pm", hour % 12 + 12, np.where(half == "am", hour % 12, hour))
    table = {"year": year, "month": month, "day": day, "hour": hour, "minute": numbers[:, 4], "second": numbers[:, 5]}
    found = pd.to_datetime(pd.DataFrame(table), errors="coerce", utc=True).set_axis(column.index)
    return found.mask(bad | (numbers[:, 3:6] >= (24, 60, 60)).any(axis=1)), how


def _day_first(name: str, text: pd.Series, first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the first of two numbers is the day; it does not matter where both are the same in all rows."""
    day, month = first > 12, second > 12
    if day.any() and month.any():
        raise UserError(
            f"{name}: some dates begin with the day and some with the month, see rows "
            f"{int(np.argmax(day))} and {int(np.argmax(month))} of the interactions; write all as "
            "2023-01-31."
        )
    if not day.any() and not month.any() and (first != second).any():
        row = int(np.argmax(first != second))
        raise UserError(
            f"{name}: the date {text.iloc[row]!r} in row {row} of the interactions may begin with the day "
            "or with the month, and no other row decides it; write all as 2023-01-31."
        )
    return bool(day.any())


def _since_1970(dates: pd.Series) -> np.ndarray:
    return dates.dt.as_unit("s").astype(np.int64).to_numpy()  # rounded down


def _check(name: str, column: pd.Series, bad: pd.Series | np.ndarray) -> None:
    if not np.any(bad):
        return
    row = int(np.argmax(bad))
    if pd.isna(column.iloc[row]):
        raise UserError(f"{name}: timestamp is empty in row {row} of the interactions; fill or remove the row.")
    raise UserError(
        f"{name}: timestamp {str(column.iloc[row])!r} in row {row} of the interactions is neither a "
        "number nor a date like 2023-01-31; mend it."
    )
