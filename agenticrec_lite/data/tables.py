"""The rows of one file under our names: text of any usual kind, Parquet, or JSON lines. Ids stay text."""

import ast
import codecs
import csv
import io
import json
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from agenticrec_lite.data.formats import (
    ATOMIC,
    ITEMS,
    SEPARATORS,
    Form,
    Source,
    is_gzip,
    known_columns,
    open_bytes,
    plain,
    role_of,
)
from agenticrec_lite.data.movielens import read_u_item, title_and_year
from agenticrec_lite.errors import UserError, first_line


@dataclass
class Table:
    """A file's rows under our names, how the file was understood, and what of it is a guess."""

    frame: pd.DataFrame
    said: str
    guesses: list[str]


def read(source: Source, form: Form, what: str, name: str) -> Table:
    """All rows of a file that is no file of Amazon Reviews in JSON.

    Args:
        source: the file.
        form: as `form_of` gave it.
        what: INTERACTIONS or ITEMS.
        name: of the dataset; errors of a column begin with it.

    Returns:
        [user_id, item_id, rating, timestamp] or [item_id, title, categories, price, year], the optional ones where the
        file has them.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    guesses = list(form.guesses)
    try:
        if form.kind == "parquet":
            table, how = pd.read_parquet(source.path), "parquet"
        elif form.kind == "json":
            table, how = _read_json(source.path), "json lines, UTF-8"
        else:
            codec, encoding = _encoding(source.path)
            if codec in ("latin-1", "cp1252"):
                guesses.append(f"{plain(source.name)} is not UTF-8 and taken as {encoding}")
            table = _read_text(source, form, codec)
            guesses += _short_rows(source, form, codec, table)
            how = f"{SEPARATORS[form.separator]}, {encoding}"
    except (OSError, ValueError, EOFError, zlib.error) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(
            f"{plain(source.shown, 200)} cannot be read ({plain(first_line(error), 200)}); mend it."
        ) from None
    columns = list(map(str, table.columns))
    names = [ATOMIC.sub(r"\1", column) for column in columns] if form.layout == "RecBole" else columns
    untitled = what == ITEMS and form.layout == "RecBole" and role_of(names) != ITEMS  # some are so published
    if untitled:
        names, table = [*names, "title"], table.assign(title="")
        guesses.append(f"{plain(source.name)} has no titles, and ids stand for them")
    found = known_columns(name, what, names)
    frame = table.iloc[:, list(found)].set_axis(list(found.values()), axis=1)
    if form.kind == "text":
        frame = _clean(frame, form, source, name)
    else:
        _check_single(frame, source, name)
    if untitled:
        frame["title"] = frame["item_id"]
    if what == ITEMS:
        frame = _clean_items(frame, form)
        guesses += _empty_words(frame, form)
    used = sorted(found.items())
    shown = ", ".join(f"{plain(names[k])} = {ours.removesuffix('_id')}" for k, ours in used)
    if not form.header:
        shown = f"no header, {', '.join(ours.removesuffix('_id') for _, ours in used)}"
    layout = f"{form.layout}, " if form.layout else ""
    return Table(frame, f"{plain(source.name)} ({layout}{how}; {shown}", guesses)


def _encoding(path: Path) -> tuple[str, str]:
    """Python's and the usual name of a text's encoding: UTF-16 by its mark, else UTF-8, else Latin-1.

    Latin-1 has no letters at 0x80 to 0x9f; where such bytes are, it is what Windows makes of it (Windows-1252).
    """
    decoder, utf8, windows = codecs.getincrementaldecoder("utf-8")(), True, False
    with open_bytes(path) as file:
        chunk = file.read(1 << 20)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", "UTF-16"
        while chunk:
            if b"\0" in chunk:
                raise ValueError("it holds NUL bytes and is no text in UTF-8 or Latin-1")
            if utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    utf8 = False
            if not chunk.isascii():
                windows = windows or re.search(rb"[\x80-\x9f]", chunk) is not None
            chunk = file.read(1 << 20)
    if utf8 and not decoder.getstate()[0]:
        return "utf-8-sig", "UTF-8"
    return ("cp1252", "Windows-1252") if windows else ("latin-1", "Latin-1")


def _read_text(source: Source, form: Form, codec: str) -> pd.DataFrame:
    if not form.columns:
        raise ValueError("it holds no line")
    if form.header and not form.role and all(map(_is_number, form.columns)):
        raise ValueError("its first line holds numbers and no names of columns such as user, item, timestamp")
    if form.separator == "::":
        return _read_double_colon(source.path, form, codec)
    if form.separator == "|" and not form.header:
        return read_u_item(source.path, codec)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # columns would be cut off
        try:
            table = pd.read_csv(
                source.path, sep=form.separator, dtype=str, encoding=codec, keep_default_na=False, na_values=[""],
                compression="gzip" if is_gzip(source.path) else None, index_col=False, skipinitialspace=True,
                header=0 if form.header else None, quoting=csv.QUOTE_NONE if form.layout == "RecBole" else 0,
            )  # fmt: skip
        except pd.errors.ParserWarning:
            raise ValueError("its first rows have more fields than the header has names") from None
    if len(table.columns) != len(form.columns):
        raise ValueError(f"line 1 has {len(form.columns)} names and the rows {len(table.columns)} fields")
    return table.set_axis(form.columns, axis=1)


def _short_rows(source: Source, form: Form, codec: str, table: pd.DataFrame) -> list[str]:
    """A phrase on rows with fewer fields than the header, which pandas fills up in silence."""
    if form.separator == "::" or not form.header or not table.iloc[:, -1].isna().any():
        return []
    with io.TextIOWrapper(open_bytes(source.path), encoding=codec, newline="") as file:
        quoting = csv.QUOTE_NONE if form.layout == "RecBole" else csv.QUOTE_MINIMAL
        rows = csv.reader(file, delimiter=form.separator, skipinitialspace=True, quoting=quoting)
        try:
            short = [rows.line_num for row in rows if 0 < len(row) < len(form.columns)]
        except csv.Error:
            return []
    many = f"{len(short)} rows of {plain(source.name)} have fewer fields than its header, the first in line"
    return [f"{many} {short[0]}, and are taken as empty at their end"] if short else []


def _is_number(text: str) -> bool:
    try:
        return np.isfinite(float(text.strip('"')))
    except ValueError:
        return False


def _read_double_colon(path: Path, form: Form, codec: str) -> pd.DataFrame:
    """`::` between fields. Where no field holds a colon, pandas reads it as a colon with empty columns between."""
    n = len(form.columns)
    if not form.header and n == 4:
        try:
            table = pd.read_csv(path, sep=":", names=range(2 * n - 1), dtype=str, encoding=codec, header=None,
                                keep_default_na=False, na_values=[""], quoting=csv.QUOTE_NONE, index_col=False,
                                compression="gzip" if is_gzip(path) else None)  # fmt: skip
            if table.iloc[:, 1::2].isna().all(axis=None):
                return table.iloc[:, ::2].set_axis(form.columns, axis=1)
        except pd.errors.ParserError:
            pass
    with io.TextIOWrapper(open_bytes(path), encoding=codec) as file:
        rows = [(number, line.rstrip("\r\n").split("::")) for number, line in enumerate(file, 1) if line.strip()]
    for number, row in rows:
        if len(row) != n:
            raise ValueError(f"line {number} has {len(row)} fields where {n} are expected")
    return pd.DataFrame([row for _, row in rows[form.header :]], columns=form.columns, dtype=object)


def _read_json(path: Path) -> pd.DataFrame:
    """A JSON object a line; numbers and text as they are."""
    rows = []
    with open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line.decode("utf-8-sig")) if line.strip() else {}
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not one JSON object in UTF-8; write one a line")
            if row:
                rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _clean(frame: pd.DataFrame, form: Form, source: Source, name: str) -> pd.DataFrame:
    """Blanks around values go; a quote that was not closed is found by the lines that it swallowed."""
    frame = frame.copy()
    for ours in frame.columns:
        column = frame[ours].str.strip()
        swallowed = column.str.contains("\n", regex=False, na=False)
        swallowed &= column.str.contains(form.separator, regex=False, na=False)
        if swallowed.any():
            raise UserError(
                f"{name}: {ours} in row {int(np.argmax(swallowed))} of {plain(source.name)} holds a line "
                "break and a separator, so a quotation mark before it is not closed; mend it."
            )
        if ours in ("rating", "price") and form.separator != ",":
            column = _decimal_comma(column)
        frame[ours] = column.where(column != "")
    return frame


def _check_single(frame: pd.DataFrame, source: Source, name: str) -> None:
    """One value in every cell, but for the categories."""
    for ours in frame.columns.drop("categories", errors="ignore"):
        if frame[ours].dtype == object:
            many = frame[ours].map(lambda value: isinstance(value, list | dict | np.ndarray))
            if many.any():
                raise UserError(f"{name}: {ours} in row {int(np.argmax(many))} of {plain(source.name)} is not one "
                                "value but several; keep one.")  # fmt: skip


def _decimal_comma(column: pd.Series) -> pd.Series:
    """4,5 becomes 4.5 where all of the column are so written; 1,299 stays, and is refused as no number."""
    comma = column.str.contains(",", regex=False, na=False)
    fine = column.str.fullmatch(r"-?\d+(,\d{1,2})?", na=True).all()
    return column.str.replace(",", ".", regex=False) if comma.any() and fine else column


def _clean_items(frame: pd.DataFrame, form: Form) -> pd.DataFrame:
    """Categories as tuples; years out of MovieLens' titles."""
    movielens = form.layout == "MovieLens"
    if movielens:
        pairs = [title_and_year(str(title)) if isinstance(title, str) else ("", np.nan) for title in frame["title"]]
        frame = frame.assign(title=[title for title, _ in pairs], year=[year for _, year in pairs])
    if "categories" in frame:
        categories = frame["categories"].replace("(no genres listed)", "") if movielens else frame["categories"]
        blanks = form.layout == "RecBole"
        frame = frame.assign(categories=[split_categories(value, blanks) for value in categories])
    return frame


def _empty_words(frame: pd.DataFrame, form: Form) -> list[str]:
    """Years and prices that are words become empty, where they are so published (a film of RecBole's ml-100k)."""
    said = []
    for ours in frame.columns.intersection(["price", "year"]) if form.layout == "RecBole" else ():
        numbers = pd.to_numeric(frame[ours], errors="coerce")
        words = frame[ours][numbers.isna() & frame[ours].notna()]
        if len(words):
            said.append(
                f"{ours} is no number for {len(words):,} items, such as '{plain(words.iloc[0])}', and left empty"
            )
        frame[ours] = numbers
    return said


def split_categories(value: object, blanks: bool = False) -> tuple[str, ...]:
    """A sequence; or text joined by "|", written as a list of JSON or Python, or, with `blanks`, joined by blanks."""
    if isinstance(value, str):
        listed = _listed(value) if value.lstrip().startswith("[") else None
        value = listed if listed is not None else value.split(None if blanks and "|" not in value else "|")
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(str(name).strip() for name in value if str(name).strip())
    return ()


def _listed(text: str) -> list | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return None
