"""Logs, the split in time, and ranking tasks."""

import hashlib
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agenticrec_lite.data import build_tasks, load_dataset, make_log, temporal_split
from agenticrec_lite.data import log as data_log
from agenticrec_lite.errors import UserError

COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
RATING = st.sampled_from([1.0, 4.0, np.nan])
ROW = st.tuples(st.integers(0, 5), st.integers(0, 14), RATING, st.integers(0, 40))


def log_of(rows):
    """A log from (user, item, rating, timestamp); items "i0".."i14" are described, taken or not."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["user_id"] = "u" + frame["user_id"].astype(str)
    frame["item_id"] = "i" + frame["item_id"].astype(str)
    ids = [f"i{k}" for k in range(15)]
    items = pd.DataFrame({"item_id": ids, "title": "a title", "categories": [()] * 15, "price": np.nan,
                          "year": np.nan})
    return make_log("made-up", frame, items)


def long_log(n_items=15):
    """100 users who took 7 random items each, in random order, one a second."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(100) for item in rng.choice(n_items, 7, replace=False)]
    return log_of([(*pair, 3.0, second) for second, pair in enumerate(rng.permutation(pairs))])


def user_rows(log, user):
    table = log.interactions[log.interactions["user"] == user]
    return list(table[["item", "rating", "timestamp"]].itertuples(index=False, name=None))


@settings(max_examples=80)
@given(st.lists(ROW, min_size=40, max_size=120), st.sampled_from(["train_late", "validation", "test"]),
       st.integers(0, 3))
def test_every_task_asks_about_the_future_only(rows, part, seed):
    log = log_of(rows)
    try:
        split = temporal_split(log)
        tasks = build_tasks(log, split, part, None, seed, n_candidates=5, history_length=4, min_history=2)
    except UserError:
        assume(False)
    fitted = log.interactions.iloc[split.fit_rows(part)]
    assert len({task.task_id for task in tasks}) == len(tasks)
    for task in tasks:
        row = int(task.task_id.rpartition("-")[2])
        target = log.interactions.iloc[row]
        assert split.rows(part).start <= row < split.rows(part).stop
        assert (task.user, task.cutoff) == (target["user"], target["timestamp"])
        earlier = [entry for entry in user_rows(log, task.user) if entry[2] < task.cutoff]
        assert len(earlier) >= 2
        assert list(task.history) == [entry[0] for entry in earlier[-4:]]
        np.testing.assert_equal(task.history_ratings, tuple(entry[1] for entry in earlier[-4:]))
        assert fitted["timestamp"].max() < task.cutoff

        assert len(set(task.candidates)) == 5
        assert task.candidates[task.positive - 1] == target["item"]
        assert set(task.candidates) <= set(fitted["item"])
        negatives = set(task.candidates) - {target["item"]}
        assert not negatives & {entry[0] for entry in user_rows(log, task.user)}
        assert not set(task.candidates) & {entry[0] for entry in earlier}, "the positive gives itself away"


@pytest.mark.parametrize(("fewest", "n_candidates"), [(3, 3), (6, 3), (3, 9)], ids=["plenty", "all 6", "all 8 others"])
def test_no_row_that_can_be_a_task_is_left_out(fewest, n_candidates):
    """Also where the earlier items, or the items never taken, are just enough: a user took 7 of 15."""
    log = long_log()
    split = temporal_split(log)
    known = set(log.interactions["item"].iloc[split.fit_rows("test")])
    expected = set()
    for row in range(split.validation_end, len(log.interactions)):
        user, item, _, now = log.interactions.iloc[row]
        taken = user_rows(log, user)
        enough = sum(entry[2] < now for entry in taken) >= fewest
        if item in known and enough and len(known - {entry[0] for entry in taken}) >= n_candidates - 1:
            expected.add(f"test-{row:06d}")
    tasks = build_tasks(log, split, "test", None, 0, n_candidates=n_candidates, min_history=fewest)
    assert expected == {task.task_id for task in tasks}
    assert len(expected) > 20


def test_tasks_depend_on_seed_part_and_row_only():
    log = long_log()
    split = temporal_split(log)
    every = list(build_tasks(log, split, "test", None, 7, n_candidates=3))
    assert list(build_tasks(log, split, "test", 10, 7, n_candidates=3)) == every[:10]
    assert list(build_tasks(log, split, "test", 10**6, 7, n_candidates=3)) == every
    other = build_tasks(log, split, "test", None, 8, n_candidates=3)
    assert [task.task_id for task in other] != [task.task_id for task in every]
    by_id = {task.task_id: task for task in other}
    assert {task.task_id for task in every} == set(by_id)
    assert any(by_id[task.task_id].candidates != task.candidates for task in every)


def test_tasks_are_found_by_their_ids():
    log = long_log()
    tasks = build_tasks(log, temporal_split(log), "test", None, 7, n_candidates=3)
    some = [tasks[i] for i in (5, 2, 9, 2)]
    assert tasks.find([task.task_id for task in some]) == some and tasks.find([]) == []
    with pytest.raises(ValueError, match="tasks of test, not of train_late"):
        tasks.find(["train_late-000001"])


def test_what_somebody_else_draws_must_be_fair():
    """No item twice, none that the user took or that the tools cannot know, and the answer among them."""
    log = long_log()
    split = temporal_split(log)

    def first_of(draw):
        return build_tasks(log, split, "test", 1, 0, n_candidates=3, draw=draw)[0]

    def fair(rng, pool, n):
        return [*pool.negatives(np.arange(n - 1)), pool.positive]

    assert first_of(fair).positive == 3
    unfair = {
        "twice": lambda rng, pool, n: [pool.positive, *[pool.negatives(np.arange(1))[0]] * 2],
        "own": lambda rng, pool, n: [pool.positive, pool.negatives(np.arange(1))[0],
                                     next(c for c in pool.catalogue[pool.own] if c != pool.positive)],
        "unknown": lambda rng, pool, n: [pool.positive, pool.negatives(np.arange(1))[0], 99],
        "no positive": lambda rng, pool, n: list(pool.negatives(np.arange(n))),
        "too few": lambda rng, pool, n: [pool.positive, pool.negatives(np.arange(1))[0]],
    }
    for draw in unfair.values():
        with pytest.raises(UserError, match="candidates of"):
            first_of(draw)


@pytest.mark.parametrize("part", ["train_late", "validation", "test"])
def test_candidates_are_drawn_from_the_list_of_negatives(part):
    """Without that list being made, yet to the bit: shipped results depend on the draw."""
    log = long_log(n_items=15)
    split = temporal_split(log)
    users, items = log.interactions["user"].to_numpy(), log.interactions["item"].to_numpy()
    for task in build_tasks(log, split, part, None, 7, n_candidates=4):
        row = int(task.task_id.rpartition("-")[2])
        negatives = np.setdiff1d(items[split.fit_rows(part)], items[users == task.user])
        rng = np.random.default_rng([7, ["train_late", "validation", "test"].index(part), row])
        drawn = rng.choice(negatives, 3, replace=False)
        assert task.candidates == tuple(rng.permutation(np.append(drawn, items[row])))


def test_negatives_and_the_place_of_the_positive_are_uniform():
    log = long_log()
    split = temporal_split(log)
    places, drawn, possible = np.zeros(3), np.zeros(15), np.zeros(15)
    for seed in range(30):
        for task in build_tasks(log, split, "test", 40, seed, n_candidates=3):
            places[task.positive - 1] += 1
            drawn[[c for i, c in enumerate(task.candidates, 1) if i != task.positive]] += 1
            outside = np.setdiff1d(np.arange(15), [entry[0] for entry in user_rows(log, task.user)])
            possible[outside] += 2 / len(outside)
    np.testing.assert_allclose(places / places.sum(), 1 / 3, atol=0.04)
    np.testing.assert_allclose(drawn[possible > 50] / possible[possible > 50], 1, atol=0.25)


def test_a_cold_item_is_no_candidate():
    log = long_log(n_items=14)
    cold = pd.DataFrame([("u0", "i14", 5.0, 10**6)], columns=COLUMNS)
    raw = log.interactions.assign(user_id=log.user_ids[log.interactions["user"]],
                                  item_id=log.items["item_id"].to_numpy()[log.interactions["item"]])
    log = make_log("made-up", pd.concat([raw[COLUMNS], cold]), log.items)
    code = list(log.items["item_id"]).index("i14")
    tasks = build_tasks(log, temporal_split(log), "test", None, 0, n_candidates=3)
    assert log.interactions["item"].iloc[-1] == code
    assert all(code not in task.candidates for task in tasks)


def test_no_possible_task_is_an_error_and_so_is_an_unknown_part():
    log = long_log()
    with pytest.raises(UserError, match="^made-up: no row of test .* 20 candidates"):
        build_tasks(log, temporal_split(log), "test", 10, 0)
    for part in ("train", "train_early", "tset"):
        with pytest.raises(ValueError, match="validation"):
            build_tasks(log, temporal_split(log), part, 10, 0)


@settings(max_examples=100)
@given(st.lists(ROW, min_size=10, max_size=100))
def test_each_part_is_strictly_later_than_the_one_before(rows):
    log = log_of(rows)
    try:
        split = temporal_split(log)
    except UserError:
        assume(False)
    parts = [log.interactions["timestamp"].iloc[split.rows(part)].to_numpy()
             for part in ("train_early", "train_late", "validation", "test")]
    assert sum(map(len, parts)) == len(log.interactions)
    for before, after in zip(parts, parts[1:], strict=False):
        assert before.max() < after.min()
    train = split.rows("train")
    assert (train.start, train.stop) == (0, split.rows("train_late").stop)


def test_split_shares():
    log = long_log()
    split, n = temporal_split(log), len(log.interactions)
    assert (split.train_end, split.validation_end, split.end) == (round(n * 0.8), round(n * 0.9), n)
    assert split.train_early_end == round(split.train_end * 0.8)
    assert split.fit_rows("train_late") == split.rows("train_early")
    assert split.fit_rows("test") == split.fit_rows("validation") == split.rows("train")


def test_a_cut_falls_before_all_rows_of_its_moment():
    """By hand, with shares that differ: 20 rows, train ends at 12, validation at 18; a tie crosses each cut."""
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11, 11, 13, 14, 15, 16, 17, 17, 19]
    log = log_of([(k % 5, k % 15, 1.0, time) for k, time in enumerate(times)])
    split = temporal_split(log, (0.6, 0.3, 0.1))
    assert (split.train_early_end, split.train_end, split.validation_end, split.end) == (8, 11, 17, 20)


def test_a_log_whose_first_moment_is_most_of_it_cannot_be_split():
    rows = [(k % 5, k % 15, 1.0, 0 if k < 14 else k) for k in range(20)]
    with pytest.raises(UserError, match="do not fill every part"):
        temporal_split(log_of(rows))


def test_a_log_of_one_moment_cannot_be_split():
    with pytest.raises(UserError, match="made-up"):
        temporal_split(log_of([(k % 5, k, 1.0, 9) for k in range(15)]))


@settings(max_examples=50)
@given(st.lists(ROW, min_size=2, max_size=40), st.randoms())
def test_a_log_does_not_depend_on_the_order_of_its_source(rows, random):
    shuffled = random.sample(rows, len(rows))
    log, other = log_of(rows), log_of(shuffled)
    pd.testing.assert_frame_equal(log.interactions, other.interactions)
    assert log.digest() == other.digest()
    assert log.interactions["timestamp"].is_monotonic_increasing
    assert dict(log.interactions.dtypes.astype(str)) == {
        "user": "int32", "item": "int32", "rating": "float32", "timestamp": "int64"}


def test_codes_are_dense_and_lead_back_to_the_ids():
    log = log_of([(3, 11, 2.0, 50), (1, 2, np.nan, 40)])
    assert (log.n_users, log.n_items) == (2, 15)
    first, last = log.interactions.iloc[0], log.interactions.iloc[1]
    assert log.user_ids[int(first["user"])] == "u1" and np.isnan(first["rating"])
    assert log.items["item_id"][int(first["item"])] == "i2"
    assert log.user_ids[int(last["user"])] == "u3" and log.items["item_id"][int(last["item"])] == "i11"


def test_ties_are_not_broken_by_id():
    log = log_of([(user, item, 1.0, 100 + user) for user in range(400) for item in (1, 2)])
    pairs = log.interactions["item"].to_numpy().reshape(-1, 2)
    assert 0.4 < (pairs[:, 0] < pairs[:, 1]).mean() < 0.6


def test_digest_sees_every_column():
    base = [(1, 1, 3.0, 10), (1, 2, np.nan, 20), (2, 1, 4.0, 30)]
    changed = [[(3, 1, 3.0, 10), *base[1:]], [(1, 4, 3.0, 10), *base[1:]], [(1, 1, 3.5, 10), *base[1:]],
               [(1, 1, 3.0, 11), *base[1:]], base[:2], [*base, base[0]]]
    assert len({log_of(rows).digest() for rows in [base, *changed]}) == len(changed) + 1


def test_the_digest_is_of_the_documented_lines():
    # printf 'u1\ti1\t3\t10\nu1\ti2\tnan\t20\n' | sha256sum
    log = log_of([(1, 2, np.nan, 20), (1, 1, 3.0, 10)])
    assert log.digest() == "fc57161fd308f042fccbcc3640a6e43cceaa94f5d84bfe5a5d7feb15ea707d0d"


def described(ids):
    return pd.DataFrame({"item_id": ids, "title": ids, "categories": [()] * len(ids), "price": np.nan, "year": np.nan})


def ids_of(signs):
    return st.text(st.sampled_from(signs), min_size=1, max_size=3).filter(str.strip)


IDS, SMALL_IDS = ids_of("ab\x01\t ~é"), ids_of("a\x01")  # the second often sorts before a tab, and holds none


@settings(max_examples=80)
@given(st.one_of(st.lists(st.tuples(ids, ids, RATING, st.sampled_from([9, 10, 100, -5])), min_size=1, max_size=30)
                 for ids in (IDS, SMALL_IDS)), st.integers(1, 8))
def test_the_digest_in_parts_is_that_of_all_lines_sorted(rows, at_a_time):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    log = make_log("made-up", frame, described(sorted(set(frame["item_id"]))))
    lines = sorted(f"{user}\t{item}\t{rating:g}\t{second}\n" for user, item, rating, second in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_log, "DIGEST_ROWS", at_a_time)
        assert log.digest() == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_fingerprint_is_of_the_digest_and_the_items():
    log = log_of([(1, 2, np.nan, 20), (1, 1, 3.0, 10)])
    items = "\n".join(map(repr, log.items.itertuples(index=False, name=None)))
    assert log.fingerprint() == hashlib.sha256(f"{log.digest()}\n{items}".encode()).hexdigest()


@settings(max_examples=50)
@given(st.lists(st.tuples(IDS, IDS, RATING, st.integers(0, 12)), min_size=1, max_size=30))
def test_rows_are_in_the_order_of_time_then_hash_then_rating(rows):
    """Only tied rows are hashed, yet the order is as if all were."""
    frame = pd.DataFrame(rows, columns=COLUMNS)
    log = make_log("made-up", frame, described(sorted(set(frame["item_id"]))))
    hashes = [data_log._tie_hash(user, item) for user, item in zip(frame["user_id"], frame["item_id"], strict=True)]
    order = np.lexsort((frame["rating"], np.array(hashes, dtype=np.uint64), frame["timestamp"]))
    expected = frame.iloc[order]
    assert log.user_ids.tolist() == sorted(set(frame["user_id"]))
    assert log.user_ids[log.interactions["user"]].tolist() == expected["user_id"].tolist()
    assert log.items["item_id"].to_numpy()[log.interactions["item"]].tolist() == expected["item_id"].tolist()
    np.testing.assert_array_equal(log.interactions["rating"], expected["rating"])


GOOD = pd.DataFrame([("u", "i", 3.0, 10)], columns=COLUMNS)
ITEMS = pd.DataFrame({"item_id": ["i"], "title": ["T"], "categories": [()], "price": [np.nan],
                      "year": [np.nan]})


@pytest.mark.parametrize(("interactions", "items", "said"), [
    (GOOD.drop(columns="rating"), ITEMS, "the interactions need one column 'rating'"),
    (GOOD, ITEMS.drop(columns="price"), "the items need one column 'price'"),
    (GOOD.iloc[:0], ITEMS, "interactions table is empty"),
    (GOOD.assign(user_id=None), ITEMS, "user_id is empty in row 0 of the interactions"),
    (GOOD.assign(item_id="j"), ITEMS, "item 'j' in row 0 of the interactions is not among the items"),
    (GOOD, pd.concat([ITEMS, ITEMS]), "item 'i' is in the item table twice"),
    (GOOD.assign(rating="good"), ITEMS, "rating is not a number"),
    (GOOD.assign(timestamp="soon"), ITEMS, "neither a number nor a date"),
])
def test_a_bad_table_is_told_in_one_sentence(interactions, items, said):
    with pytest.raises(UserError, match="^mine: ") as error:
        make_log("mine", interactions, items)
    assert said in str(error.value)


def test_an_unknown_dataset_is_told_with_the_known_ones():
    with pytest.raises(UserError, match="'ml-100m'.*ml-100k"):
        load_dataset("ml-100m")


@pytest.fixture(scope="module")
def ml100k():
    try:
        return load_dataset("ml-100k")
    except UserError as error:
        pytest.skip(f"MovieLens 100K is not to be had here: {error}")


def test_ml100k_is_what_is_published(ml100k):
    assert (len(ml100k.interactions), ml100k.n_users, ml100k.n_items) == (100_000, 943, 1682)
    split = temporal_split(ml100k)
    assert abs(split.train_end - 80_000) < 20 and abs(split.validation_end - 90_000) < 20
    users = ml100k.interactions["user"]
    assert users.iloc[split.rows("test")].nunique() == 166
    films = ml100k.items.set_index("item_id")
    assert films["title"]["64"] == "Shawshank Redemption, The" and films["year"]["64"] == 1994
    assert films["categories"]["50"] == ("Action", "Adventure", "Romance", "Sci-Fi", "War")
    assert films["year"].isna().sum() == 1 and films["year"].min() == 1922


def test_tasks_of_a_whole_part_are_drawn_fast(ml100k):
    split = temporal_split(ml100k)
    start = time.process_time()
    tasks = build_tasks(ml100k, split, "train_late", 10_000, 0)
    assert time.process_time() - start < 10
    assert len(tasks) == 10_000 and {len(task.candidates) for task in tasks} == {20}
