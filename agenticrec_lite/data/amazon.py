"""Amazon Reviews 2023 as an `InteractionLog`, in the setting of AgenticRec, and beside the paper's table.

Y. Hou et al., "Bridging Language and Items for Retrieval and Recommendation", 2024. No licence is assigned: for
research use; not to be redistributed.
"""

from pathlib import Path

import pandas as pd

from agenticrec_lite.data.amazon_reader import read_items, read_reviews, sentence
from agenticrec_lite.data.fetch_amazon import fetch_amazon, files_in
from agenticrec_lite.data.log import InteractionLog, make_log
from agenticrec_lite.errors import UserError

WINDOW = ("2022-10-01", "2023-10-01")  # of the paper: first day, and the day after the last
K_CORE = 5  # ours, see `read_amazon`
PAPER = pd.DataFrame(
    {"users": [5437, 7593, 27130, 6251], "items": [8785, 5279, 11511, 3003],
     "interactions": [13826, 15746, 47333, 11457], "sparsity %": [99.71, 99.61, 99.85, 99.39]},
    index=["CDs", "Instruments", "Office", "Games"],
)  # fmt: skip


def load_amazon(name: str, **filters) -> InteractionLog:
    """One category in the setting of AgenticRec (arXiv 2603.21613), fetched into the cache when not there.

    Args:
        name: "amazon-2023/" and CDs, Instruments, Office or Games.
        filters: those of `read_amazon`; by default the paper's window, and the 5-core of the whole file.

    Raises:
        UserError: there is no such category, it can be neither found nor fetched, or nothing of it is left.
    """
    reviews, items = files_in(fetch_amazon(name), name)
    return read_amazon(reviews, items, name, **{"window": WINDOW, "k_core": K_CORE, **filters})


def read_amazon(reviews: Path | str, items: Path | str, name: str, window: tuple[str, str] | None = None,
                k_core: int = 1) -> InteractionLog:
    """Reads a file of reviews and one of items, joined on parent_asin (2014, 2018: asin), in bounded memory.

    The paper states neither a core nor a shortest history. Its table has fewer than two interactions a user (Office,
    Games) or an item (CDs) inside the window, so that no core of the window can be behind it; the usual 5-core of the
    whole file, taken before the window, can, and is the default of `load_amazon`.

    What is met in the files is counted in `InteractionLog.reading`:

    | met | done |
    |---|---|
    | line that is not JSON or not UTF-8, or has none of the four fields; in CSV, not 4 or 5 fields | left out |
    | blank line, BOM, CRLF, header of CSV | skipped, not counted |
    | user or item missing or empty | left out |
    | timestamp missing, no number, below 1, or later than now | left out |
    | timestamp below 10^11: in seconds, where milliseconds are expected | taken as seconds |
    | rating missing, no number, or outside 1..5 | kept without a rating |
    | user and item met again | the earliest is kept; of equal times, that of the lowest rating |
    | item that the items' file lacks, or that has no title | its interactions are left out |
    | item described again | the first by title, then price; one with a title before one without |
    | price that is no number above 0, such as a range | none; null, '' and 'None' likewise, not counted |
    | gzip cut off or damaged; columns of CSV in another order; no interaction, or no item of one | UserError |

    Args:
        reviews: .jsonl, or .csv of user_id, parent_asin, rating, timestamp and perhaps history, with that header or
            without; gzip or not, whatever the file is called.
            JSON with the keys of 2014 and 2018 (reviewerID, asin, overall, unixReviewTime) is seen by them, and CSV
            without a header that begins with the item, as 2018's ratings, by the form of the ids.
        items: .jsonl, official or from the hub's rows (price a string, details a JSON string), or those of 2018
            (category) and 2014 (Python literals, which are read and never run); gzip or not.
        name: of the log.
        window: first day, and the day after the last, in UTC; None takes everything.
        k_core: every user and every item has at least so many interactions in the whole file; 1 keeps all.

    Raises:
        UserError: a file cannot be read, or no interaction is left.
    """
    log = join_files(reviews, items, name, window, k_core)
    print(f"{name}: {sentence(log.reading)}")
    return log


def join_files(reviews: Path | str, items: Path | str, name: str, window: tuple[str, str] | None = None,
               k_core: int = 1) -> InteractionLog:
    """`read_amazon`, which prints what was met; this one does not."""
    interactions, reading = read_reviews(reviews, window, k_core)
    if interactions.empty:
        raise UserError(f"{name}: no interaction of {reviews} is left ({sentence(reading)}); choose another window or "
                        "a smaller core.")
    described, of_items = read_items(items, interactions["item_id"].unique())
    known = interactions["item_id"].isin(described["item_id"])
    titled = interactions["item_id"].isin(described["item_id"][described["title"] != ""])
    kept = interactions[titled]
    reading |= {
        "of an unknown item": int((~known).sum()), "of an item without a title": int((known & ~titled).sum()),
        "kept": len(kept),
    }  # fmt: skip
    if kept.empty:
        raise UserError(f"{name}: no interaction of {reviews} is left ({sentence(reading)}); give the items of the "
                        "same category.")
    log = make_log(name, kept, described[described["item_id"].isin(kept["item_id"])])
    log.reading.update(reading | of_items)
    return log


def compare_with_paper(log: InteractionLog) -> pd.DataFrame:
    """Users, items, interactions and sparsity of a log of `load_amazon` beside the paper's table.

    Printed with it: which choices behind the figures are ours.

    Returns:
        Rows "here", "paper", "difference" (here - paper), "difference %".

    Raises:
        UserError: the log is none of the paper's categories.
    """
    category = log.name.removeprefix("amazon-2023/")
    if category not in PAPER.index:
        raise UserError(f"The paper has no figures of {log.name}; it has those of {', '.join(PAPER.index)}.")
    n = len(log.interactions)
    here = pd.Series([log.n_users, log.n_items, n, 100 * (1 - n / (log.n_users * log.n_items))], PAPER.columns)
    paper = PAPER.loc[category]
    print(f"From the paper: the window {WINDOW[0]} to {WINDOW[1]}, the split 8:1:1, history 10, 19 negatives. Ours, "
          f"for it does not say: the {K_CORE}-core of the whole file before the window, the earliest of repeated "
          "interactions, no item without a title. Its sparsity does not follow from its counts: 100 % minus "
          f"interactions / (users x items) is {100 * (1 - paper.iloc[2] / (paper.iloc[0] * paper.iloc[1])):.3f} %.")
    return pd.DataFrame({"here": here, "paper": paper, "difference": here - paper,
                         "difference %": 100 * (here - paper) / paper}).T
