"""The generated stores: rebuilt bit for bit, in the published format, with the structure they promise, and their exact
optimum."""

import gzip
import hashlib
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agenticrec_lite.cli import app
from agenticrec_lite.data import build_tasks, load_dataset, temporal_split, toystore
from agenticrec_lite.data.fetch import fetch
from agenticrec_lite.data.toystore import TRUTH, draw_store, file_names, generate, load_store, load_toystore
from agenticrec_lite.data.toystore_world import (
    CHART,
    DESIGNS,
    OWN,
    PLEASED,
    RATINGS,
    STEPS,
    World,
    draw_chart,
)
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.bayes import (
    bayes_probabilities,
    bayes_ranks,
    kind_probabilities,
    oracle_ranks,
    predictive,
)
from agenticrec_lite.evaluation.metrics import gains, ndcg, paired_difference, ranks_from_scores
from agenticrec_lite.recommenders import ItemKNN, Popularity, SASRec
from studies import needs_agent

REVIEW_FIELDS = {
    "rating": float, "title": str, "text": str, "images": list, "asin": str, "parent_asin": str, "user_id": str,
    "timestamp": int, "helpful_vote": int, "verified_purchase": bool,
}  # fmt: skip
ITEM_FIELDS = {
    "main_category": str, "title": str, "average_rating": float, "rating_number": int, "features": list,
    "description": list, "price": (float, type(None)), "images": list, "videos": list, "store": str,
    "categories": list, "details": dict, "parent_asin": str, "bought_together": (list, type(None)),
}  # fmt: skip
SMALL = {"users": 60, "items": 120, "types": 3, "seed": 5}
KINDS = list(DESIGNS)
REVIEWS, ITEMS = file_names("toystore")


def lines(folder, name):
    return [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).splitlines()]


def shipped(kind):
    return toystore.SHIPPED / kind


@pytest.fixture(scope="module", params=KINDS)
def small(request, tmp_path_factory):
    return generate(tmp_path_factory.mktemp(request.param), **SMALL, kind=request.param)


@pytest.fixture(scope="module")
def log():
    return load_dataset("toystore")


@pytest.fixture(scope="module")
def tasks(log):
    return build_tasks(log, temporal_split(log), "test", 1200, seed=0)


@pytest.fixture(scope="module")
def mood():
    """The shipped moodstore's log and truth, and 600 test tasks."""
    log = load_dataset("moodstore")
    return log, load_store(log.truth), build_tasks(log, temporal_split(log), "test", 600, seed=0)[:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_store_is_what_its_settings_give(kind, tmp_path):
    truth = json.loads((shipped(kind) / TRUTH).read_text())
    assert {name: truth[name] for name in toystore.DEFAULT} == toystore.DEFAULT
    generate(tmp_path, kind=kind)
    for name in file_names(kind):
        rebuilt, old = ((folder / name).read_bytes() for folder in (tmp_path, shipped(kind)))
        assert gzip.decompress(rebuilt) == gzip.decompress(old)
        assert hashlib.sha256(gzip.decompress(old)).hexdigest() == truth["sha256"][name]
    assert (tmp_path / TRUTH).read_bytes() == (shipped(kind) / TRUTH).read_bytes()
    assert sum(path.stat().st_size for path in shipped(kind).iterdir()) < 1e6


def test_the_command_writes_the_same_bytes_each_time(small, tmp_path):
    log = load_toystore(small)
    options = [f"--{name}={value}" for name, value in {**SMALL, "kind": log.name}.items()]
    done = CliRunner().invoke(app, ["make-toystore", "--out", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    for name in (*file_names(log.name), TRUTH):
        assert (tmp_path / name).read_bytes() == (small / name).read_bytes()
        assert name == TRUTH or (tmp_path / name).read_bytes()[4:8] == bytes(4), "gzip holds a time"
    other = generate(tmp_path / "other", **SMALL | {"seed": 6}, kind=log.name)
    reviews = file_names(log.name)[0]
    assert (other / reviews).read_bytes() != (small / reviews).read_bytes()


def test_without_a_folder_the_command_writes_where_the_store_ships(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["make-toystore", "--kind=moodstore", "--users=9"])
    assert done.exit_code == 0 and (tmp_path / "data/moodstore" / TRUTH).exists(), done.output


def test_an_unknown_kind_of_store_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="'gloomstore'; the kinds are: toystore, moodstore"):
        generate(tmp_path / "store", kind="gloomstore")


def test_the_files_have_the_official_fields(small):
    reviews, items = (lines(small, name) for name in file_names(load_toystore(small).name))
    for rows, fields in ((reviews, REVIEW_FIELDS), (items, ITEM_FIELDS)):
        for row in rows:
            assert list(row) == list(fields)
            assert all(isinstance(row[name], kind) for name, kind in fields.items()), row
    assert {row["parent_asin"] for row in reviews} <= {row["parent_asin"] for row in items}
    assert len({row["title"] for row in items}) == len(items), "tools find items by their title"
    first, stop = 1664582400000, 1696118400000  # 2022-10-01, 2023-10-01 in UTC
    assert all(first <= row["timestamp"] < stop for row in reviews)
    assert {row["rating"] for row in reviews} == {1, 2, 3, 4, 5}
    assert any(row["price"] is None for row in items)
    assert all(row["store"] in row["title"] and len(row["categories"]) == 3 for row in items)


def test_the_log_holds_every_review_and_the_agent_sees_brand_department_and_price(small):
    log = load_toystore(small)
    reviews, items = (lines(small, name) for name in file_names(log.name))
    assert len(log.interactions) == len(reviews)
    items = {row["parent_asin"]: row for row in items}
    for item in log.items.itertuples():
        assert list(item.categories) == items[item.item_id]["categories"][1:]
        assert item.title == items[item.item_id]["title"]
        assert item.price == items[item.item_id]["price"] or math.isnan(item.price)
    assert log.items["price"].notna().mean() > 0.8


def test_no_user_takes_an_item_twice_or_two_at_once(log):
    assert not log.interactions.duplicated(["user", "item"]).any()
    assert not log.interactions.duplicated(["user", "timestamp"]).any()


def test_popularity_is_skewed_and_the_year_is_evenly_used(log):
    counts = np.sort(np.bincount(log.interactions["item"], minlength=log.n_items))
    assert counts[-log.n_items // 10 :].sum() > 0.25 * counts.sum(), "a tenth of the items takes a quarter at least"
    test = log.interactions.iloc[temporal_split(log).rows("test")]
    assert test["user"].nunique() > 200


def test_families_are_near_duplicates(log):
    store = load_store()
    items = log.items.set_index("item_id").loc[[name for name in store.item_ids if name in set(log.items["item_id"])]]
    family = items["title"].str.rpartition(",")[0]
    assert (items.groupby(family)["categories"].nunique() == 1).all()
    prices = items.groupby(family)["price"].agg(["min", "max"]).dropna()
    assert (prices["max"] / prices["min"] < 1.1).all()
    assert family.nunique() > 0.9 * len(store.world.sizes), "few families are never taken from"


def test_ratings_agree_with_taste():
    store = load_store()
    liked = np.array([store.world.liked[step.state, store.world.family[step.item]] for step in store.steps])
    stars = np.array([step.rating for step in store.steps])
    means = [stars[liked == n].mean() for n in range(4)]
    assert means == sorted(means) and means[3] - means[0] > 1
    np.testing.assert_allclose(means, RATINGS @ np.arange(1, 6), atol=0.2)


def test_projects_are_bought_together(log):
    """Items that the catalogue lists as bought together follow one another more than twice as often as at random."""
    store = load_store()
    partners = {row["parent_asin"]: set(row["bought_together"] or ()) for row in lines(shipped("toystore"), ITEMS)}
    title = dict(zip(log.items["item_id"], log.items["title"].str.rpartition(",")[0], strict=True))
    together = {title[name]: {title[other] for other in others if other in title}
                for name, others in partners.items() if name in title}  # fmt: skip
    families = [title[store.item_ids[step.item]] for step in store.steps]
    follows = np.mean([b in together[a] for a, b in itertools.pairwise(families)])
    at_random = np.mean([b in together[a] for a, b in zip(families, np.random.default_rng(0).permutation(families))])
    assert follows > 2 * at_random


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(KINDS), st.integers(1, 20), st.integers(0, 150), st.integers(2, 5), st.integers(0, 2**32))
def test_any_settings_give_a_store_in_order(kind, users, more, types, seed):
    items = DESIGNS[kind].fewest_items + more
    store = draw_store.__wrapped__(users, items, types, seed, kind)
    world = store.world
    assert len(world.family) == len(store.item_ids) == len(set(store.item_ids)) == items // 8 * 8
    for rows in (world.initial, world.transition, world.emission, world.by_kind, world.kind_after):
        np.testing.assert_allclose(rows.sum(-1), 1)
    np.testing.assert_allclose(world.initial @ world.transition, world.initial)
    assert len({(step.user, step.item) for step in store.steps}) == len(store.steps)
    assert {step.user for step in store.steps} == set(range(users))
    if world.chart is not None:
        hits = world.chart > 0
        assert not world.emission[:, hits].any(), "own steps never take a hit"
        assert world.sizes[hits].sum() > STEPS[1], "nobody can have all hits"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [{"users": 0}, {"items": 10}, {"types": 1}, {"seed": -1}])
def test_too_small_a_setting_is_one_sentence_and_leaves_nothing(kind, wrong, tmp_path):
    with pytest.raises(UserError, match=f"A {kind} has at least .*{next(iter(wrong))}"):
        generate(tmp_path / "store", **SMALL | wrong, kind=kind)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("damaged file", "toystore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", range(3))
def test_a_damaged_store_is_told(kind, place, tmp_path):
    """A file cut short: one sentence that names it and the command that makes it again."""
    folder = generate(tmp_path / kind, **SMALL, kind=kind)
    name = (*file_names(kind), TRUTH)[place]
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(UserError, match=f"(?s){name}.*make-toystore --kind {kind}"):
        load_toystore(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_repository_the_store_is_made_in_the_cache(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(toystore, "SHIPPED", tmp_path / "nowhere")
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path))
    monkeypatch.setattr(toystore, "generate", lambda folder, kind: generate(folder, **SMALL, kind=kind))
    log = load_dataset(kind)
    assert log.name == kind and len(log.interactions) == len(load_store(log.truth).steps) > 0
    assert toystore.home(kind) == log.truth == tmp_path / kind


@pytest.mark.parametrize("kind", KINDS)
def test_fetched_by_force_it_is_made_again_where_it_is_read(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(toystore, "SHIPPED", tmp_path)
    (tmp_path / kind).mkdir()
    monkeypatch.setattr(toystore, "generate", lambda folder, kind: generate(folder, **SMALL, kind=kind))
    assert fetch(kind, force=True) == tmp_path / kind
    assert load_dataset(kind).name == kind


# --- the moodstore


def test_the_last_rating_decides_the_kind_of_the_next_step(mood):
    """Let down: from the chart, pleased: not, each with probability .97; within four deviations."""
    _, store, _ = mood
    steps = [(a.rating >= PLEASED, b.kind) for a, b in itertools.pairwise(store.steps) if a.user == b.user]
    pleased, kind = np.array(steps).T
    for was_pleased, expected in ((True, OWN), (False, CHART)):
        of = pleased == was_pleased
        share, n = np.mean(kind[of] == expected), of.sum()
        assert n > 0.4 * len(steps) and abs(share - 0.97) < 4 * math.sqrt(0.97 * 0.03 / n)


def test_a_chart_step_takes_a_hit_whatever_the_state(mood):
    _, store, _ = mood
    hits = np.flatnonzero(store.world.chart)
    assert len(hits) == round(0.15 * len(store.world.sizes))
    families = {kind: np.array([store.world.family[s.item] for s in store.steps if s.kind == kind])
                for kind in (OWN, CHART)}  # fmt: skip
    assert np.isin(families[CHART], hits).all() and not np.isin(families[OWN], hits).any()
    share = np.bincount(families[CHART], minlength=len(store.world.sizes)) / len(families[CHART])
    np.testing.assert_allclose(share, store.world.chart, atol=0.01)


def test_projects_of_the_moodstore_are_of_one_department(mood):
    world = mood[1].world
    for state, row in enumerate(world.emission):
        if state % 6:
            families = np.flatnonzero(row)
            counts = np.bincount(world.traits[families, 0])
            likely = (world.traits[:, 0] == counts.argmax()) & (world.chart == 0)
            assert len(families) == 10 and counts.max() == min(10, likely.sum())


def test_another_seed_has_another_chart():
    charts = [draw_chart(150, seed, DESIGNS["moodstore"]) for seed in (0, 0, 1)]
    assert (charts[0] == charts[1]).all() and (charts[0] != charts[2]).any()


def test_the_sentence_names_the_kind_and_the_items_do_not(mood):
    """Of one who sees the items alone even the exact guess is little better than always the commoner kind."""
    log, store, tasks = mood
    kinds = needs_agent.true_kinds(log, store, tasks)
    said = np.array([task.history_ratings[-1] < PLEASED for task in tasks])
    assert np.mean(said == kinds) > 0.95
    commoner = max(kinds.mean(), 1 - kinds.mean())
    assert commoner < 0.6 and np.mean(needs_agent.guessed_kinds(log, store, tasks) == kinds) < commoner + 0.06


def test_a_log_knows_its_truth(tmp_path):
    folder = generate(tmp_path, **SMALL, kind="moodstore")
    log = load_toystore(folder)
    tasks = build_tasks(log, temporal_split(log), "test", 20, 0)
    np.testing.assert_array_equal(bayes_ranks(tasks, log), bayes_ranks(tasks, log, load_store(folder)))
    assert load_dataset("ml-100k").truth is None


def a_part(shown, positives, let_down):
    return needs_agent.Part([None] * len(positives), np.array(positives), np.array(shown), None, np.array(let_down))


def test_weights_are_chosen_on_validation_for_each_sentence_apart():
    """The first list is right after "pleased", the third after "let down"; test tasks are the other way round."""
    right, wrong = [90, 10, 20, 30], [10, 90, 20, 30]  # candidate 1 first, candidate 2 first
    one, other = np.array([right, *[wrong] * 5]).T, np.array([wrong, wrong, right, *[wrong] * 3]).T
    validation = a_part([one, other] * 3, [1] * 6, [False, True] * 3)
    test = a_part([one, other, other], [1, 1, 1], [False, True, False])
    ranks, chosen = needs_agent.ranks_by_rule(validation, test, np.eye(6, dtype=int), True)
    assert [np.flatnonzero(chosen[said]).tolist() for said in ("pleased", "let down")] == [[0], [2]]
    assert ranks.tolist() == [1, 1, 4], "in the third the sentence is wrong, and the list with it"
    ranks, chosen = needs_agent.ranks_by_rule(validation, test, needs_agent.all_weights(), False)
    assert ranks.tolist() == [1, 1, 1] and chosen["either"].tolist() == [1, 0, 1, 0, 0, 0]
    assert len(needs_agent.all_weights()) < len(needs_agent.all_weights(reader=True)) < 4**6


def test_the_study_s_tables_hold_every_store():
    rng = np.random.default_rng(0)
    names = [*needs_agent.LISTS, needs_agent.READER, needs_agent.FIXED, needs_agent.LIST, needs_agent.WEIGHTS,
             needs_agent.FIXED_SIX, needs_agent.WEIGHTS_SIX, needs_agent.BAYES, needs_agent.UNTOLD,
             needs_agent.ITEMS_ALONE]  # fmt: skip
    stores = [
        needs_agent.Measured(seed, [1, 1, 2, 3], np.array([OWN, CHART, OWN, CHART]),
                             {name: rng.integers(1, 21, 4).astype(float) for name in names},
                             {needs_agent.FIXED: {"either": np.arange(6)}}, {"the sentence": 1.0})
        for seed in (0, 1)
    ]  # fmt: skip
    ranking, differences, known, weights = (table["rows"] for table in needs_agent.report(stores))
    assert [row["method"] for row in ranking] == names
    assert ranking[0]["own 1"] == pytest.approx(gains(stores[1].ranks["users"], "N@10")[[0, 2]].mean())
    first = differences[0]
    both = [np.concatenate([store.ranks[first[name]] for store in stores]) for name in "ab"]
    assert first["all"].startswith(f"{ndcg(both[0], 10) - ndcg(both[1], 10):+.3f} [")
    assert [row["users"] for row in known] == [3, 3] and weights[0]["catalogue"] == 4


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_who_looks_at_the_sentence_is_above_fixed_weights(seed, tmp_path):
    """By .04 N@10 at least, and by more above every list; so is a list by the sentence above fixed weights."""
    found = needs_agent.measure(seed, tmp_path)
    margin = {name: paired_difference(found.ranks[needs_agent.WEIGHTS], ranks, found.users, "N@10")
              for name, ranks in found.ranks.items()}  # fmt: skip
    fixed = margin[needs_agent.FIXED]
    assert fixed["difference"] >= 0.04 and fixed["ci95"][0] > 0
    assert all(margin[name]["difference"] > 0.04 and margin[name]["ci95"][0] > 0 for name in needs_agent.LISTS)
    by_list = paired_difference(found.ranks[needs_agent.LIST], found.ranks[needs_agent.FIXED], found.users, "N@10")
    assert by_list["ci95"][0] > 0


# --- the optimum


def tiny_world(seed: int) -> World:
    """2 states, 3 families of 4, 4 and 5 items: nobody below can have all of one."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(2), 2)
    values, vectors = np.linalg.eig(transition.T)
    initial = np.real(vectors[:, np.argmax(np.real(values))])
    return World(
        family=np.repeat(np.arange(3), [4, 4, 5]), traits=np.zeros((3, 3), int), initial=initial / initial.sum(),
        transition=transition, emission=rng.dirichlet(np.ones(3), 2), liked=rng.integers(0, 4, (2, 3)),
    )  # fmt: skip


def tiny_mood(seed: int) -> World:
    """The same with a chart over all families, only 2 and 5 stars, and other kinds after every number of stars."""
    rng = np.random.default_rng(seed + 100)
    ratings = np.zeros((4, 5))
    ratings[:, [1, 4]] = rng.dirichlet(np.ones(2), 4)
    chart = rng.dirichlet(np.ones(3))
    return replace(tiny_world(seed), ratings=ratings, chart=chart, kind_after=rng.dirichlet(np.ones(2), 6))


def joint(world: World, items, ratings, last=None) -> float:
    """P(these items in this order with these ratings, NaN = not looked at), summed over all that is hidden.

    Args:
        last: kind and state of the last step, if these alone are to be summed over.
    """
    n, total = len(items), 0.0
    hidden = list(itertools.product(range(len(world.by_kind)), range(len(world.initial))))
    stars = [(1, 2, 3, 4, 5) if math.isnan(rating) else (int(rating),) for rating in ratings]
    if world.chart is None:  # then nothing follows from an unseen rating
        stars = [(rating,) for rating in ratings]
    else:
        stars = [[r for r in each if world.ratings[:, r - 1].any()] for each in stars]
    for path in itertools.product(hidden, repeat=n):
        if last is not None and path[-1] != last:
            continue
        for seen in itertools.product(*stars):
            p, taken = world.initial[path[0][1]], [0] * len(world.sizes)
            for k, ((kind, state), item, rating) in enumerate(zip(path, items, seen, strict=True)):
                g = world.family[item]
                p *= world.transition[path[k - 1][1], state] if k else 1
                p *= world.kind_after[int(seen[k - 1]) if k else 0, kind] if world.chart is not None else 1
                p *= world.chart[g] if kind == CHART else world.emission[state, g]
                p *= 1 / (world.sizes[g] - taken[g])
                p *= 1 if math.isnan(rating) else world.ratings[world.liked[state, g], int(rating) - 1]
                taken[g] += 1
            total += p
    return total


def enumerated(world: World, history, ratings, candidates, before, after, drawn=None) -> np.ndarray:
    """By Bayes' rule over every sequence that a user may have taken, of which the history is a part."""
    unseen = [item for item in range(len(world.family)) if item not in history]
    scores = np.zeros(len(candidates))
    nan = math.nan
    for c, positive in enumerate(candidates):
        free = [item for item in unseen if item not in candidates]  # the other candidates are what is never taken
        for others in itertools.permutations(free, before + after):
            sequence = (*others[:before], *history, positive, *others[before:])
            scores[c] += joint(world, sequence, [*[nan] * before, *ratings, *[nan] * (1 + after)], drawn)
    return scores / scores.sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("before, after", [(0, 0), (1, 0), (0, 1)])
def test_the_optimum_is_exact_with_at_most_one_unseen_interaction(seed, before, after):
    world = tiny_world(seed)
    arguments = world, (0, 8), (5.0, math.nan), (1, 4, 9, 10), before, after
    np.testing.assert_allclose(predictive(*arguments), enumerated(*arguments), rtol=1e-10)


@pytest.mark.parametrize("ratings", [(5.0, math.nan), (math.nan, 2.0), (2.0, 5.0)])
@pytest.mark.parametrize("before, after", [(0, 0), (1, 0), (0, 1)])
def test_the_optimum_is_exact_where_the_last_rating_decides(ratings, before, after):
    arguments = tiny_mood(0), (0, 8), ratings, (1, 4, 9), before, after
    np.testing.assert_allclose(predictive(*arguments), enumerated(*arguments), rtol=1e-10)


@pytest.mark.parametrize("drawn", [(OWN, 1), (CHART, 0)])
def test_the_oracle_is_exact_where_the_last_rating_decides(drawn):
    """With another step before, so that kind and state of the positive are the last of the sequence."""
    arguments = tiny_mood(1), (0, 8), (2.0, math.nan), (1, 4, 9), 1, 0, drawn
    np.testing.assert_allclose(predictive(*arguments), enumerated(*arguments), rtol=1e-10)


@pytest.mark.parametrize("ratings", [(2.0, 5.0), (5.0, 2.0), (math.nan, math.nan)])
def test_the_kind_of_the_next_step_is_exact(ratings):
    world, history = tiny_mood(2), (0, 8)
    exact = np.array([
        sum(joint(world, (*history, item), (*ratings, math.nan), (kind, state))
            for item in range(13) if item not in history for state in range(2))
        for kind in (OWN, CHART)
    ])  # fmt: skip
    np.testing.assert_allclose(kind_probabilities(world, history, ratings), exact / exact.sum(), rtol=1e-10)
    if not math.isnan(ratings[-1]):  # then it depends on the last rating alone
        np.testing.assert_allclose(exact / exact.sum(), world.kind_after[int(ratings[-1])])


@pytest.mark.parametrize("before, after", [(1, 1), (2, 0)])
def test_with_more_unseen_interactions_little_is_neglected(before, after):
    """The smaller the family, the more: here three and four items are left where the store has eight."""
    world = tiny_world(1)
    arguments = world, (0, 8), (2.0, 4.0), (1, 2, 4, 9), before, after
    np.testing.assert_allclose(predictive(*arguments), enumerated(*arguments), atol=0.02)


def test_what_comes_next_does_not_depend_on_how_much_came_before():
    """Without candidates to evade: one candidate a family, in turn, against the enumeration of all earlier items."""
    world = tiny_world(2)
    history, ratings = (5, 9), (3.0, 5.0)
    exact = np.zeros(3)
    for g, positive in enumerate((1, 4, 8)):
        for earlier in itertools.permutations([item for item in range(13) if item not in (*history, positive)], 2):
            exact[g] += joint(world, (*earlier, *history, positive), [math.nan, math.nan, *ratings, math.nan])
    ours = predictive(world, history, ratings, (1, 4, 8))
    np.testing.assert_allclose(ours, exact / exact.sum(), rtol=1e-10)


def test_siblings_are_equally_likely():
    store = load_store()
    p = predictive(store.world, [0, 7], [5, 5], [1, 2, 3, 100, 200, 300], before=4, after=6)
    np.testing.assert_allclose(p[:3], p[0])


@pytest.fixture(scope="module", params=KINDS)
def optimum(request):
    """Tasks of a store and the probabilities of their candidates."""
    if request.param == "toystore":
        log, tasks = request.getfixturevalue("log"), request.getfixturevalue("tasks")
    else:
        log, _, tasks = request.getfixturevalue("mood")
    return tasks, bayes_probabilities(tasks, log)


def test_the_optimum_is_calibrated(optimum):
    """Whoever is said to be the positive with probability p is so in a share p of the cases."""
    tasks, p = optimum
    is_positive = np.arange(20) == np.array([task.positive for task in tasks])[:, None] - 1
    for low, high in itertools.pairwise([0, 0.01, 0.03, 0.1, 0.25, 0.5, 0.8, 1.01]):
        inside = (p >= low) & (p < high)
        expected = p[inside].sum()
        deviation = np.sqrt((p * (1 - p))[inside].sum())
        assert abs(is_positive[inside].sum() - expected) < 4 * deviation + 1, (low, high)


def test_its_gain_is_what_it_expects(optimum):
    """The mean N@10 over the tasks is the one that the probabilities promise."""
    tasks, p = optimum
    promised = (-np.sort(-p, axis=1) * gains(np.arange(1, 21), "N@10")).sum(1)
    got = gains(ranks_from_scores(p, [task.positive for task in tasks]), "N@10")
    assert abs(got.mean() - promised.mean()) < 4 * got.std() / math.sqrt(len(tasks))


def test_who_does_not_see_the_last_rating_ranks_worse(mood):
    log, store, tasks = mood
    positives, few = [task.positive for task in tasks[:200]], tasks[:200]
    seen, unseen = (ndcg(ranks_from_scores(bayes_probabilities(few, log, store, hide=hide), positives), 10)
                    for hide in ("nothing", "last rating"))  # fmt: skip
    assert seen > unseen + 0.03


def test_the_oracle_is_above_and_ties_keep_the_order_shown(log, tasks):
    bayes, oracle = bayes_ranks(tasks, log), oracle_ranks(tasks, log)
    assert ndcg(oracle, 10) > ndcg(bayes, 10) + 0.01
    assert bayes.dtype == float and bayes.min() >= 1 and bayes.max() <= 20
    p = bayes_probabilities(tasks[:50], log)
    np.testing.assert_array_equal(bayes[:50], ranks_from_scores(p, [task.positive for task in tasks[:50]]))


@pytest.mark.all
@pytest.mark.parametrize("seed", range(3))
def test_no_baseline_is_above_the_optimum_or_comes_close(seed, tmp_path):
    """Of the way from a random order to the optimum, the best single baseline goes four fifths, in any store."""
    folder = generate(tmp_path, seed=seed)
    log, store = load_toystore(folder), load_store(folder)
    split = temporal_split(log)
    tasks = build_tasks(log, split, "test", 1200, seed)
    optimum, users = bayes_ranks(tasks, log, store), [task.user for task in tasks]
    past, found = log.interactions.iloc[split.rows("train")], {}
    for model in (Popularity(), ItemKNN(), SASRec()):
        scores = model.fit(past, log.n_items).score([t.history for t in tasks], [t.candidates for t in tasks])
        ranks = ranks_from_scores(scores, [task.positive for task in tasks])
        assert paired_difference(optimum, ranks, users, "N@10")["ci95"][0] > 0
        found[type(model).__name__] = ndcg(ranks, 10)
    random = np.mean(gains(np.arange(1, 21), "N@10"))
    assert max(found.values()) - random < 0.84 * (ndcg(optimum, 10) - random), found
    assert 0.6 < found["ItemKNN"] < 0.83 and random + 0.1 < found["Popularity"] < found["ItemKNN"], found
