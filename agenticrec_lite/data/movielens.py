"""MovieLens 100K as an `InteractionLog`, read from either of the two forms in which it is published.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", 2015. For research use; not to
be redistributed.
"""

import re
from pathlib import Path

import pandas as pd

from agenticrec_lite.data.cache import HINT
from agenticrec_lite.data.fetch import fetch
from agenticrec_lite.data.log import INTERACTION_COLUMNS, InteractionLog, make_log
from agenticrec_lite.errors import UserError

NAME = "ml-100k"
DIGEST = "3c61dc9b90a365d2ac50bdee9df8024ddf0eea4b1a15678d9934a77e75fe0ede"

# u.item ends in one 0/1 column a genre, in this order (u.genre)
GENRES = ("unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir "
          "Horror Musical Mystery Romance Sci-Fi Thriller War Western").split()
TITLE_AND_YEAR = re.compile(r"(?P<title>.*\S)\s*\((?P<year>\d{4})\)(\s*\(V\))?\s*")  # (V): released on video


def load_ml100k() -> InteractionLog:
    """100,000 ratings of 943 users on 1,682 films, 1997-98; fetched into the cache when not there.

    Categories are genres. Titles keep the form of the source ("Shawshank Redemption, The").

    Raises:
        UserError: the dataset can be neither found nor fetched, or the interactions are not the published
            ones.
    """
    folder = fetch(NAME)
    hint = HINT.format(name=NAME)
    try:
        tables = _read_wheel(folder) if (folder / "ml-100k.inter").exists() else _read_official(folder)
    except (ValueError, KeyError) as error:
        raise UserError(f"The files in {folder} cannot be read as {NAME} ({error}); {hint}.") from None
    log = make_log(NAME, *tables)
    if log.digest() != DIGEST:
        raise UserError(f"The interactions in {folder} are not those of {NAME}; {hint}.")
    return log


def _read_wheel(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tab-separated text whose header says name:type."""
    interactions, items = (
        pd.read_csv(folder / f"{NAME}.{kind}", sep="\t", dtype=str, quoting=3, keep_default_na=False)
        .rename(columns=lambda column: column.split(":")[0])
        for kind in ("inter", "item")
    )
    # The file spells the one unnamed film so, and one film's year ended up in its title.
    raw_titles = [title if title != "unkonwn" else "unknown" for title in items["movie_title"]]
    titles, years = zip(*(
        (title, float(year)) if year.isdigit() else title_and_year(title)
        for title, year in zip(raw_titles, items["release_year"], strict=True)
    ), strict=True)
    genres = [text.split() for text in items["class"]]
    return interactions, _item_table(items["item_id"], titles, years, genres)


def _read_official(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """u.data: user, item, rating, timestamp; u.item: id|Title (1995)|dates|address|19 genre flags, in
    Latin-1."""
    interactions = pd.read_csv(folder / "u.data", sep="\t", names=INTERACTION_COLUMNS, dtype=str)
    items = read_u_item(folder / "u.item")
    titles, years = zip(*map(title_and_year, items["title"]), strict=True)
    return interactions, _item_table(items["item_id"], titles, years, items["genres"].str.split("|"))


def read_u_item(path: Path, encoding: str = "latin-1") -> pd.DataFrame:
    """A file like u.item: [item_id, title with the year, genres joined by "|"], all as text."""
    items = pd.read_csv(path, sep="|", header=None, dtype=str, quoting=3, keep_default_na=False, encoding=encoding)
    flags = items.iloc[:, -len(GENRES):].to_numpy() == "1"
    genres = ["|".join(genre for genre, flag in zip(GENRES, row, strict=True) if flag and genre != "unknown")
              for row in flags]  # fmt: skip
    return pd.DataFrame({"item_id": items[0], "title": items[1], "genres": genres})


def title_and_year(text: str) -> tuple[str, float]:
    """A title and the year that stands in brackets at its end; NaN where there is none."""
    match = TITLE_AND_YEAR.fullmatch(text)
    return (match["title"], float(match["year"])) if match else (text.strip(), float("nan"))


def _item_table(ids, titles, years, genres) -> pd.DataFrame:
    known = [tuple(genre for genre in row if genre not in ("", "unknown")) for row in genres]
    nan = float("nan")
    return pd.DataFrame({"item_id": ids, "title": titles, "categories": known, "price": nan, "year": years})
