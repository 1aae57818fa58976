"""The toystore and the moodstore: generated shops in the format of Amazon Reviews 2023, of which the truth is known.

What they are like is in `toystore_world`; how well they can be ranked at all, in `evaluation.bayes`. Three files, gzip
without a time, so that the same settings give the same bytes: Toystore.jsonl.gz, the reviews, by user and time;
meta_Toystore.jsonl.gz, the items; and truth.json, the settings, from which the truth can be drawn again. (For the
moodstore, Moodstore.jsonl.gz and meta_Moodstore.jsonl.gz.) Only `evaluation.bayes` looks at the truth.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np

from agenticrec_lite.carried import CARRIED
from agenticrec_lite.data import toystore_world as model
from agenticrec_lite.data.amazon import WINDOW, read_amazon
from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.data.log import InteractionLog
from agenticrec_lite.data.toystore_world import Step, World
from agenticrec_lite.errors import UserError
from agenticrec_lite.runs import replacing
from agenticrec_lite.runs.files import check_none

SHIPPED = CARRIED  # each store in a folder of its name
TRUTH = "truth.json"
DEFAULT = {"users": 2000, "items": 1200, "types": 20, "seed": 0}

LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
COLOURS = ("Black", "Blue", "Green", "Grey", "Olive", "Red", "Sand", "White")
OPINIONS = ("Not for me", "Disappointing", "It is all right", "Good", "Just what I wanted")
PRICES = (12.0, 30.0, 75.0)  # around which each level's prices lie
UNPRICED = 0.05  # share of the items without a price


@dataclass(frozen=True)
class Store:
    """A store with its truth; items and users are numbered as in the world and the steps.

    Attributes:
        world: see `toystore_world.World`.
        steps: every interaction with its hidden state, by user and time.
        item_ids, user_ids: as they stand in the files.
    """

    world: World
    steps: list[Step]
    item_ids: list[str]
    user_ids: list[str]


def file_names(kind: str) -> tuple[str, str]:
    """Names of the reviews' and the items' file of a kind of store."""
    return f"{kind.capitalize()}.jsonl.gz", f"meta_{kind.capitalize()}.jsonl.gz"


@lru_cache(maxsize=4)
def draw_store(users: int, items: int, types: int, seed: int, kind: str = "toystore") -> Store:
    """The store of these settings, always the same one.

    Raises:
        UserError: there is no such kind, or a setting is too small.
    """
    if kind not in model.DESIGNS:
        raise UserError(f"There is no store of the kind {kind!r}; the kinds are: {', '.join(model.DESIGNS)}.")
    design = model.DESIGNS[kind]
    least = {"users": 1, "items": design.fewest_items, "types": 2, "seed": 0}
    for name, value in {"users": users, "items": items, "types": types, "seed": seed}.items():
        if value < least[name]:
            raise UserError(f"A {kind} has at least {least[name]} as {name}, not {value}; give more.")
    world = model.make_world(items, types, seed, design)
    first, stop = (datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in WINDOW)
    steps = model.simulate(world, users, seed, int(first), int(stop))
    rng = np.random.default_rng([seed, 2])
    item_ids = _ids("B0", 8, len(world.family), rng)  # at random, so that their order says nothing of the families
    return Store(world, steps, item_ids, _ids("A", 27, users, rng))


def generate(folder: Path | str, users: int = DEFAULT["users"], items: int = DEFAULT["items"],
             types: int = DEFAULT["types"], seed: int = DEFAULT["seed"], kind: str = "toystore") -> Path:
    """Writes a store's three files, each whole or not at all, and returns the folder.

    Args:
        folder: made where it is not there.
        users, items, types, seed: see `toystore_world.make_world` and `simulate`.
        kind: "toystore" or "moodstore".

    Raises:
        UserError: there is no such kind, a setting is too small, the folder has a file of such a name that is not a
            generated store's, or it cannot be written.
    """
    folder = Path(folder)
    files = store_files(users, items, types, seed, kind)
    if not _is_store(folder):  # what an interrupted attempt has left is the same again
        there = [name for name in files if (folder / name).exists()]
        check_none(folder, (name for name in there if (folder / name).read_bytes() != files[name]))
    for name, content in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder


def _is_store(folder: Path) -> bool:
    """Whether a folder has a store's settings, so that the files beside them are its."""
    try:
        return json.loads((folder / TRUTH).read_bytes()).keys() - {"kind"} == {*DEFAULT, "sha256"}
    except (OSError, ValueError, AttributeError):
        return False


def store_files(users: int, items: int, types: int, seed: int, kind: str = "toystore") -> dict[str, bytes]:
    """Content of the three files by name; see `generate`."""
    store = draw_store(users, items, types, seed, kind)
    tables = zip(file_names(kind), (_reviews(store), _items(store, seed, kind.capitalize())), strict=True)
    lines = {name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in tables}
    settings = {"users": users, "items": items, "types": types, "seed": seed}
    settings |= {} if kind == "toystore" else {"kind": kind}  # the toystore's file is older than the other kind
    truth = settings | {"sha256": {name: hashlib.sha256(text).hexdigest() for name, text in lines.items()}}
    packed = {name: gzip.compress(text, 9, mtime=0) for name, text in lines.items()}
    return packed | {TRUTH: (json.dumps(truth, indent=1) + "\n").encode()}


def home(kind: str = "toystore") -> Path:
    """The folder of the default store of a kind: the repository's, or in the cache where the package is without one."""
    if (SHIPPED / kind).exists():
        return SHIPPED / kind
    folder = cache_folder() / kind
    return folder if (folder / TRUTH).exists() else generate(folder, kind=kind)


def load_toystore(folder: Path | str | None = None) -> InteractionLog:
    """The store, of either kind, in a folder that `generate` has written; by default the toystore in `home`.

    Returns:
        A log that is named as its kind; its `truth` is the folder.

    Raises:
        UserError: there is none, or its files are not as they were written.
    """
    folder = Path(folder or home())
    settings = _settings(folder)
    for name, checksum in settings["sha256"].items():
        try:
            found = hashlib.sha256(gzip.decompress((folder / name).read_bytes())).hexdigest()
        except (OSError, EOFError, ValueError) as error:
            found = str(error)
        if found != checksum:
            raise UserError(f"{folder / name} is not as it was written; {_mend(folder, settings)}.")
    kind = settings.get("kind", "toystore")
    reviews, items = file_names(kind)
    return replace(read_amazon(folder / reviews, folder / items, kind), truth=folder)


def load_store(folder: Path | str | None = None) -> Store:
    """The truth about the store in a folder, by default the toystore in `home`.

    Raises:
        UserError: there is none.
    """
    settings = _settings(Path(folder or home()))
    return draw_store(**{name: settings[name] for name in (*DEFAULT, "kind") if name in settings})


def _settings(folder: Path) -> dict:
    try:
        return json.loads((folder / TRUTH).read_bytes())
    except (OSError, ValueError):
        raise UserError(f"There is no toystore in {folder}, or its {TRUTH} is damaged; {_mend(folder, {})}.") from None


def _mend(folder: Path, settings: dict) -> str:
    kind = settings.get("kind") or (folder.name if folder.name in model.DESIGNS else "toystore")
    return f"run agenticrec make-toystore --kind {kind} --out {folder}"


def _ids(prefix: str, length: int, n: int, rng: np.random.Generator) -> list[str]:
    ids: dict[str, None] = {}
    while len(ids) < n:
        ids[prefix + "".join(LETTERS[rng.integers(0, len(LETTERS), length)])] = None
    return list(ids)


def _reviews(store: Store) -> Iterator[dict]:
    for step in store.steps:
        opinion = OPINIONS[step.rating - 1]
        kind = _describe(store.world, store.world.family[step.item])[1]
        yield {
            "rating": float(step.rating), "title": opinion, "text": f"{opinion}. I got this {kind.lower()} for myself.",
            "images": [], "asin": store.item_ids[step.item], "parent_asin": store.item_ids[step.item],
            "user_id": store.user_ids[step.user], "timestamp": 1000 * step.second, "helpful_vote": 0,
            "verified_purchase": True,
        }  # fmt: skip


def _items(store: Store, seed: int, root: str) -> Iterator[dict]:
    """Prices and dates are drawn; counts and mean ratings are those to be expected, not those of the reviews.

    Where there are two kinds of steps, the counts are those of as many of one as of the other.

    Args:
        root: the category that all are in.
    """
    world, rng = store.world, np.random.default_rng([seed, 3])
    share = world.initial[:, None] * world.by_kind.mean(0)
    stars = (share * (world.ratings[world.liked] @ np.arange(1, 6))).sum(0) / share.sum(0)
    partners = model.bought_together(world)
    for item, family in enumerate(world.family):
        department, kind, brand, level = _describe(world, family)
        sibling = item % model.FAMILY_SIZE
        if sibling == 0:
            usual = PRICES[world.traits[family, 2]] * rng.uniform(0.8, 1.25)
            since = date(2015, 1, 1) + timedelta(days=int(rng.integers(0, 2500)))
        price = round(usual * rng.uniform(0.97, 1.03), 2)
        yield {
            "main_category": root, "title": f"{brand} {kind} {level} {100 + family}, {COLOURS[sibling]}",
            "average_rating": round(stars[family], 1),
            "rating_number": 1 + int(50_000 * share[:, family].sum() / world.sizes[family]),
            "features": [f"{level} {kind.lower()} by {brand}", f"In {COLOURS[sibling].lower()}"], "description": [],
            "price": None if rng.random() < UNPRICED else price, "images": [], "videos": [], "store": brand,
            "categories": [root, department, kind],
            "details": {"Brand": brand, "Color": COLOURS[sibling], "Date First Available": since.isoformat()},
            "parent_asin": store.item_ids[item],
            "bought_together": [
                store.item_ids[model.FAMILY_SIZE * other + sibling] for other in partners[family]] or None,
        }  # fmt: skip


def _describe(world: World, family: int) -> tuple[str, str, str, str]:
    """Department, kind, brand and price level of a family, as words."""
    department, brand, level = world.traits[family]
    kinds = model.KINDS[name := model.DEPARTMENTS[department]]
    return name, kinds[family % len(kinds)], model.BRANDS[brand], model.PRICE_LEVELS[level]
