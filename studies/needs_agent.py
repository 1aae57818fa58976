"""Does the moodstore need an agent that looks before it ranks? `python -m studies.needs_agent OUT.json`.

Lists of one kind of evidence each, what weighs them without a look at the user's mood, and what asks for the sentence
about the last rating first. Three stores are generated, one for each seed; SASRec, and a GRU4Rec that reads the
catalogue, are fitted on each: about ten minutes of one thread. Weights and lists are chosen on validation tasks; the
test tasks are looked at once.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from agenticrec_lite.data import InteractionLog, RankingTask, build_tasks, temporal_split
from agenticrec_lite.data.toystore import Store, generate, load_store, load_toystore
from agenticrec_lite.data.toystore_world import CHART, OWN
from agenticrec_lite.evaluation.bayes import bayes_probabilities, kind_probabilities, world_items
from agenticrec_lite.evaluation.metrics import gains, ndcg, paired_difference, ranks_from_scores, user_bootstrap
from agenticrec_lite.recommenders.base import Recommender
from agenticrec_lite.tools.behavior import describe_last_rating
from agenticrec_lite.tools.text import shown_scores
from agenticrec_lite.tools.toolbox import Toolbox
from studies import tables
from studies.evidence import CatalogueGRU4Rec, item_features

SEEDS, VALIDATION, TEST = (0, 1, 2), 1200, 1200
MOST = 3  # the highest weight
LISTS = {
    "users": "votes of the 100 nearest users", "items": "co-occurrence with the history (ItemKNN)",
    "session": "SASRec", "popularity": "how often an item was taken",
    "catalogue": "categories, words of the title, price and year in common with the history",
}  # fmt: skip
READER = "catalogue GRU4Rec"  # two kinds of evidence in one list: beside the others, and in the rules for six lists
FIXED, LIST, WEIGHTS = "fixed weights", "list by the sentence", "weights by the sentence"
FIXED_SIX, WEIGHTS_SIX = "fixed weights, six lists", "weights by the sentence, six lists"
BAYES, UNTOLD, ITEMS_ALONE, ORACLE = "Bayes", "Bayes without the last rating", "Bayes without ratings", "oracle"
TEXT = (
    f"Seed n: the moodstore of seed n, {VALIDATION} validation and {TEST} test tasks. The first five rows are lists of "
    "one kind of evidence each. The sixth, a GRU4Rec that knows items by what the catalogue says of them, joins two "
    "kinds; it is weighed only where it says six lists. Weights are whole, "
    f"0..{MOST}, of the scores as tools show them; they, and the lists that go with a sentence, are chosen on "
    "validation. The sentence is that on the last rating: pleased or let down. own and chart: the tasks whose positive "
    "the session or the shop's chart has drawn, which nobody is told."
)


@dataclass(frozen=True)
class Part:
    """Tasks with the evidence on them.

    Attributes:
        tasks: n of them.
        positives: [n] candidate numbers.
        shown: [n, C, L] the scores of each list, READER's the last, as tools show them: 10..99.
        raw: [n, C, L] before they are rounded.
        let_down: [n] what the sentence on the last rating says.
    """

    tasks: Sequence[RankingTask]
    positives: np.ndarray
    shown: np.ndarray
    raw: np.ndarray
    let_down: np.ndarray

    @property
    def users(self) -> list[int]:
        return [task.user for task in self.tasks]


def look_up(log: InteractionLog, box: Toolbox, reader: Recommender, tasks: Sequence[RankingTask]) -> Part:
    """What the lists and the sentence say of some tasks."""
    contexts, features = box.contexts(tasks), item_features(log.items)[:-1].numpy()
    histories, candidates = [list(task.history) for task in tasks], [list(task.candidates) for task in tasks]
    lists = {
        "users": [context.collaborative.votes()[1] for context in contexts],
        "items": box.itemknn.score(histories, candidates),
        "session": [context.collaborative.wanted for context in contexts],
        "popularity": [[np.log1p(card.count) for card in context.candidates] for context in contexts],
        "catalogue": [features[c] @ features[h].mean(0) for h, c in zip(histories, candidates, strict=True)],
    }
    lists[READER] = reader.score(histories, candidates)
    raw = np.stack([np.array(lists[name]) for name in (*LISTS, READER)], axis=2)
    shown = np.stack([[shown_scores(scores) for scores in task.T] for task in raw]).transpose(0, 2, 1)
    let_down = np.array(["let down" in describe_last_rating(context) for context in contexts])
    return Part(tasks, np.array([task.positive for task in tasks]), shown, raw, let_down)


def all_weights(reader: bool = False) -> np.ndarray:
    """Whole weights in every combination, one of those that differ by a factor only [W, L]; READER counts if asked."""
    grid = np.array(list(product(*[range(MOST + 1)] * len(LISTS), range(MOST + 1 if reader else 1))))
    return grid[np.gcd.reduce(grid, axis=1) == 1]


def best(part: Part, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of some combinations of weights [W, L], the one with the highest N@10 on some rows of a part [L]."""
    shown, positives = part.shown[rows], part.positives[rows]
    return max(weights, key=lambda each: ndcg(ranks_from_scores(shown @ each, positives), 10))


def ranks_by_rule(validation: Part, test: Part, weights: np.ndarray, by_sentence: bool) -> tuple[np.ndarray, dict]:
    """Ranks on the test tasks of the weights that are best on validation, and these weights by what the sentence says.

    Args:
        weights: to choose from [W, L].
        by_sentence: whether to choose for each of the two sentences apart.
    """
    ranks, chosen = np.zeros(len(test.tasks)), {}
    for name, let_down in (("pleased", False), ("let down", True)) if by_sentence else (("either", None),):
        of = [slice(None) if let_down is None else part.let_down == let_down for part in (validation, test)]
        chosen[name] = best(validation, of[0], weights)
        ranks[of[1]] = ranks_from_scores(test.shown[of[1]] @ chosen[name], test.positives[of[1]])
    return ranks, chosen


def true_kinds(log: InteractionLog, store: Store, tasks: Sequence[RankingTask]) -> np.ndarray:
    """The kind of step that took each task's positive [n]."""
    kinds = {(store.user_ids[step.user], step.item): step.kind for step in store.steps}
    number = world_items(log, store)
    return np.array([kinds[log.user_ids[t.user], number[t.candidates[t.positive - 1]]] for t in tasks])


def guessed_kinds(log: InteractionLog, store: Store, tasks: Sequence[RankingTask]) -> np.ndarray:
    """The likelier kind of the next step for one who knows the store and sees the items, without ratings [n]."""
    number, world = world_items(log, store), store.world
    return np.array([
        np.argmax(kind_probabilities(world, number[list(t.history)], [np.nan] * len(t.history))) for t in tasks
    ])  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One store: ranks of the test tasks by method, the weights that were chosen, and who knows the kind how often."""

    seed: int
    users: list[int]
    kinds: np.ndarray
    ranks: dict[str, np.ndarray]
    chosen: dict[str, dict[str, np.ndarray]]
    known: dict[str, float]


def measure(seed: int, folder: Path, n_validation: int = VALIDATION, n_test: int = TEST) -> Measured:
    """Generates the moodstore of a seed in a folder and ranks its tasks."""
    log = load_toystore(generate(folder, seed=seed, kind="moodstore"))
    store, split = load_store(folder), temporal_split(log)
    box = Toolbox.fit(log, split.rows("train"), seed)
    reader = CatalogueGRU4Rec(log.items, own=False, dropout=0.5)
    reader.fit(log.interactions.iloc[split.rows("train")], log.n_items, seed)
    validation, test = (
        look_up(log, box, reader, build_tasks(log, split, part, n, seed)[:])
        for part, n in (("validation", n_validation), ("test", n_test))
    )
    ranks = {name: ranks_from_scores(test.raw[:, :, i], test.positives) for i, name in enumerate((*LISTS, READER))}
    chosen, one_list = {}, np.eye(len(LISTS), len(LISTS) + 1, dtype=int)
    for name, weights, by_sentence in (
        (FIXED, all_weights(), False), (LIST, one_list, True), (WEIGHTS, all_weights(), True),
        (FIXED_SIX, all_weights(reader=True), False), (WEIGHTS_SIX, all_weights(reader=True), True),
    ):  # fmt: skip
        ranks[name], chosen[name] = ranks_by_rule(validation, test, weights, by_sentence)
    observers = {BAYES: {}, UNTOLD: {"hide": "last rating"}, ITEMS_ALONE: {"hide": "ratings"}, ORACLE: {"oracle": True}}
    for name, options in observers.items():
        ranks[name] = ranks_from_scores(bayes_probabilities(test.tasks, log, store, **options), test.positives)
    kinds = true_kinds(log, store, test.tasks)
    known = {
        "the sentence": np.mean(test.let_down == kinds), "items without ratings": np.mean(
            guessed_kinds(log, store, test.tasks) == kinds),
        "always the commoner kind": max(np.mean(kinds), 1 - np.mean(kinds)),
    }  # fmt: skip
    return Measured(seed, test.users, kinds, ranks, chosen, {name: float(share) for name, share in known.items()})


def ranking_rows(measured: Sequence[Measured]) -> Iterator[dict]:
    """N@10 of each method in each store."""
    for name in measured[0].ranks:
        row = {"method": name}
        for store in measured:
            gain = gains(store.ranks[name], "N@10")
            (low, high), = user_bootstrap(gain[:, None], store.users)
            row[f"seed {store.seed}"] = f"{gain.mean():.3f} [{low:.3f}, {high:.3f}]"
            for word, kind in (("own", OWN), ("chart", CHART)):
                row[f"{word} {store.seed}"] = gain[store.kinds == kind].mean()
        yield row


def difference_rows(measured: Sequence[Measured]) -> Iterator[dict]:
    """Paired differences in N@10, with 95 % intervals over users: in each store and in all together."""
    pairs = [(rule, other) for rule in (WEIGHTS, LIST) for other in (FIXED, *LISTS)]
    pairs += [(WEIGHTS, READER), *((WEIGHTS_SIX, other) for other in (FIXED_SIX, READER, UNTOLD)), (FIXED_SIX, FIXED)]
    for a, b in [*pairs, (WEIGHTS, LIST), (BAYES, WEIGHTS), (BAYES, UNTOLD), (UNTOLD, ITEMS_ALONE), (UNTOLD, FIXED)]:
        row = {"a": a, "b": b}
        for store in measured:
            row[f"seed {store.seed}"] = interval(store.ranks[a], store.ranks[b], store.users)
        together = [np.concatenate([store.ranks[name] for store in measured]) for name in (a, b)]
        everybody = [f"{store.seed} {user}" for store in measured for user in store.users]
        yield row | {"all": interval(*together, everybody)}


def interval(a: np.ndarray, b: np.ndarray, users: Sequence) -> str:
    """The paired difference in words."""
    found = paired_difference(a, b, users, "N@10")
    low, high = found["ci95"]
    return f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def weight_rows(measured: Sequence[Measured]) -> Iterator[dict]:
    """What was chosen on validation."""
    for store in measured:
        for rule, chosen in store.chosen.items():
            for sentence, weights in chosen.items():
                yield {"seed": store.seed, "rule": rule, "sentence": sentence,
                       **dict(zip((*LISTS, READER), weights.tolist(), strict=True))}  # fmt: skip


def report(measured: Sequence[Measured]) -> list[dict]:
    """All tables."""
    known = [{"seed": store.seed, "tasks": len(store.users), "users": len(set(store.users)), **store.known}
             for store in measured]  # fmt: skip
    return [
        {"title": "The moodstore: N@10 on test tasks", "text": TEXT, "rows": list(ranking_rows(measured))},
        {"title": "The moodstore: paired differences in N@10, a - b, 95 % intervals over users", "text": "",
         "rows": list(difference_rows(measured))},
        {"title": "The moodstore: in how many of the test tasks the kind of the next step is known", "text":
         "Known from: the sentence; the shown items, by an observer who knows the store and sees no rating; nothing.",
         "rows": known},
        {"title": "The moodstore: weights chosen on validation", "text": "", "rows": list(weight_rows(measured))},
    ]  # fmt: skip


def main(out: str) -> None:
    measured = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(seed, Path(folder)))
        tables.write(Path(out), *report(measured))
        print(f"seed {seed}: " + ", ".join(f"{name} {ndcg(r, 10):.3f}" for name, r in measured[-1].ranks.items()))


if __name__ == "__main__":
    tables.command(main, "needs_agent OUT.json")
