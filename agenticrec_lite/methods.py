"""The methods that tables and figures know: their names in result.json, their order, and what is compared."""

from collections.abc import Iterable

BASELINES = ("popularity", "itemknn", "caser", "gru4rec", "sasrec")
LISTS = ("list_users", "list_items", "list_session", "list_profile", "list_ratings", "list_popularity")
WEIGHTS = ("equal_weights", "fixed_weights")
METHODS = (
    "random", *BASELINES, *LISTS, *WEIGHTS, "ceiling", "bayes", "oracle", "frozen", "warm_start", "sft", "frozen_r",
    "trained_r", "rta", "ppr",
)  # fmt: skip
LABELS = {
    "random": "random order", "popularity": "popularity", "itemknn": "ItemKNN", "caser": "Caser", "gru4rec": "GRU4Rec",
    "sasrec": "SASRec", **{name: name.replace("_", " ") for name in LISTS},
    "equal_weights": "equal weights", "fixed_weights": "fixed weights", "ceiling": "evidence ceiling",
    "bayes": "Bayes", "oracle": "oracle", "frozen": "frozen policy", "warm_start": "warm start", "sft": "fine-tuned",
    "frozen_r": "before RL, no tools",
    "trained_r": "RTA, no tools", "rta": "RTA", "ppr": "RTA + PPR",
}  # fmt: skip


def is_part(name: str) -> bool:
    """Whether a name is one decoding of a policy ("frozen_greedy"), which tables leave out."""
    return name.endswith(("_greedy", "_sampled"))


def ordered(names: Iterable[str]) -> list[str]:
    """Names of methods in the order of tables; recommenders of the user's own come after the baselines."""
    names, last = list(names), METHODS.index(BASELINES[-1])
    place = {name: (METHODS.index(name), 0) if name in METHODS else (last, 1) for name in names}
    return sorted((name for name in names if not is_part(name)), key=place.get) + [n for n in names if is_part(n)]


def baselines(names: Iterable[str]) -> list[str]:
    """The recommenders among some methods, the user's own included."""
    return [name for name in ordered(names) if name in BASELINES or (name not in METHODS and not is_part(name))]


def compared(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs (a, b) of some methods of which tables give the paired difference a - b."""
    names = list(names)
    pairs = [("rta", "frozen"), ("warm_start", "frozen"), ("rta", "warm_start"), ("ppr", "rta")]
    pairs += [(stage, name) for stage in ("rta", "ppr") for name in (*baselines(names), *LISTS, *WEIGHTS)]
    return [pair for pair in pairs if set(pair) <= set(names)]
