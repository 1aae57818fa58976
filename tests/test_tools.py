"""The paper's seven tools and the calculator, on a task small enough to check by hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import FixedEvidence
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.data import make_log
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.recommenders import Popularity
from agenticrec_lite.tools import LISTS, PAPER_TOOLS, TOOLS, ItemCard, TaskContext, call_tool, schema, show_list
from agenticrec_lite.tools.behavior import describe_last_rating
from agenticrec_lite.tools.lists import WEIGHED, read_weights
from agenticrec_lite.tools.profile import facts_in_common
from agenticrec_lite.tools.text import escape, shown_scores, standardise
from agenticrec_lite.tools.toolbox import Toolbox

PAPER = {
    "get_user_profile": [],
    "item_info_search": ["item_name"],
    "candidates_analyze": [],
    "get_session_behavior": [],
    "get_rating_behavior": [],
    "get_similar_items": ["item_title"],
    "get_similar_users": [],
}


def fixed_context() -> TaskContext:
    """The task of the fixture `context`, anew for each example."""
    cards = [ItemCard(f"Film {i}", count=i) for i in range(1, 21)]
    return TaskContext([ItemCard("Jaws")], [5.0], cards, FixedEvidence())


def test_the_seven_tools_have_the_papers_names_and_arguments():
    takes = {name: list(schema(tool)["function"]["parameters"]["properties"]) for name, tool in TOOLS.items()}
    assert {name: takes[name] for name in PAPER_TOOLS} == PAPER
    assert takes == PAPER | {"weigh_evidence": ["weights"]}
    for tool in TOOLS.values():
        described = schema(tool)["function"]
        assert described["description"].endswith(".")
        assert all(p["description"] for p in described["parameters"]["properties"].values())


def test_an_item_is_named_by_number_or_title(context):
    by_number = call_tool("item_info_search", {"item_name": "h2"}, context)
    assert by_number == call_tool("item_info_search", {"item_name": "alien"}, context)
    assert "SciFi" in by_number and "not rated" in by_number
    assert call_tool("item_info_search", {"item_name": 3}, context).startswith(
        "3. Film 3: Drama; price 8.00; rating 3.5"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("item_info_search", {}, "needs the argument item_name"),
        ("item_info_search", {"item_name": "Nosferatu"}, "no item 'Nosferatu'"),
        ("item_info_search", {"item_name": "21"}, "candidate 1-20, a history item h1-h2"),
        ("item_info_search", {"item_name": True}, "text or a number"),
        ("item_info_search", {"item_name": None}, "not NoneType"),
        ("get_similar_users", {"k": 5}, "no argument 'k'; it takes none"),
        ("get_similar_items", {"item_title": ["h1"]}, "not list"),
    ],
)
def test_a_wrong_argument_says_what_is_wrong(context, name, arguments, says):
    assert says in call_tool(name, arguments, context)


@pytest.mark.parametrize("tool, name", LISTS.items())
def test_a_list_tool_orders_all_candidates_by_its_own_evidence(context, tool, name):
    listed = call_tool(tool, {}, context).splitlines()[-1]
    numbers = [int(n) for n in re.findall(r"(\d+):\d\d\b", listed)]
    assert listed.startswith(f"Candidates by {name}: ") and sorted(numbers) == list(range(1, 21))
    down, up = list(range(20, 0, -1)), list(range(1, 21))
    by_seven = sorted(up, key=lambda n: (-((n - 1) % 7), -n))  # equal scores: the more popular first
    orders = {"users": down, "items": up, "session": by_seven, "popularity": down, "ratings": down, "profile": down}
    assert numbers == orders[name] == context.shown[name].order.tolist()


def test_similar_items_takes_one_item_or_the_whole_history(context):
    assert "by like h2: 2:99, 20:" in call_tool("get_similar_items", {"item_title": "Alien"}, context)
    assert "by items: 1:" in call_tool("get_similar_items", {}, context)


def weighed_by_hand(context, weights):
    """The order by the sum of shown scores, the more popular first where it is equal."""
    total = [sum(w * context.shown[name].scores[i] for name, w in weights.items()) for i in range(20)]
    order = sorted(range(20), key=lambda i: (-total[i], -context.candidates[i].count))
    return ", ".join(str(i + 1) for i in order)


@given(st.dictionaries(st.sampled_from(list(LISTS.values())), st.integers(0, 3), min_size=1))
def test_the_calculator_adds_up_shown_scores(weights):
    task = fixed_context()
    for tool in LISTS:
        call_tool(tool, {}, task)
    said = call_tool("weigh_evidence", {"weights": ", ".join(f"{k} {w}" for k, w in weights.items())}, task)
    if not any(weights.values()):
        assert said == "Error: all weights are 0; at least one list must count."
    else:
        assert said == f"Candidates by weighed evidence: {weighed_by_hand(task, weights)}"
        total = sum(w * task.shown[name].scores for name, w in weights.items() if w) / sum(weights.values())
        assert np.abs(task.shown[WEIGHED].scores - total).max() <= 0.5


@pytest.mark.parametrize(("weights", "says"), [
    ("users 1, items 2", "no list 'items' has been shown; shown so far: users."),
    ("users 4", "weights are written like"), ("users", "weights are written like"), ("users -1", "written like"),
    ("users 1, users 2", "'users' is named twice"), ("users 0", "all weights are 0"), ("", "weights are written like"),
    (f"{WEIGHED} 1", "no list 'weighed evidence' has been shown"),
])  # fmt: skip
def test_the_calculator_says_what_is_wrong(context, weights, says):
    call_tool("get_similar_users", {}, context)
    if WEIGHED in weights:
        call_tool("weigh_evidence", {"weights": "users 1"}, context)
    said = call_tool("weigh_evidence", {"weights": weights}, context)
    assert said.startswith("Error: ") and says in said


def test_weights_are_read_as_they_are_written():
    assert read_weights("users 1, like h3 0,session 3") == {"users": 1, "like h3": 0, "session": 3}


def test_without_a_list_there_is_nothing_to_weigh(context):
    assert "shown so far: none." in call_tool("weigh_evidence", {"weights": "users 1"}, context)


def test_of_a_pair_tools_show_nothing_else(context):
    """A is 9, B is 4; scores stay those of the ranking, so that a weight means the same."""
    for tool in LISTS:
        call_tool(tool, {}, context)
    pair = replace(context, pair=(9, 4), shown={})
    said = {tool: call_tool(tool, {}, pair).splitlines()[-1] for tool in LISTS}
    users = context.shown["users"].scores
    assert said["get_similar_users"] == f"Candidates by users: A:{users[8]}, B:{users[3]}"
    assert said["get_similar_items"].startswith("Candidates by items: B:")
    assert "Drama A, B." in call_tool("candidates_analyze", {}, replace(pair, candidates=[
        replace(card, categories=("Drama",)) for card in pair.candidates]))  # fmt: skip
    by_popularity = call_tool("weigh_evidence", {"weights": "popularity 3"}, pair)
    assert by_popularity == "Candidates by weighed evidence: A, B"  # the fixture's count is the candidate's number
    assert call_tool("item_info_search", {"item_name": "B"}, pair).startswith("B. Film 4:")
    assert pair.find("A") == ("c", 8) and "candidate A-B" in call_tool("item_info_search", {"item_name": "9"}, pair)


def test_what_a_list_does_not_tell_apart_is_ordered_by_popularity(context):
    """The fixture's count is the number itself, so the last comes first; equal counts keep their place."""
    assert show_list(context, "nothing", [1.0] * 20).startswith("Candidates by nothing: 20:50, 19:50, 18:50")
    same = replace(context, candidates=[replace(card, count=5) for card in context.candidates])
    assert show_list(same, "nothing", [1.0] * 20).startswith("Candidates by nothing: 1:50, 2:50, 3:50")


def test_the_profile_is_the_cosine_of_facts(context):
    """Jaws has three facts (Horror, 1970s, its word), the candidate those and its price."""
    like = ItemCard("The big Jaws", ("Horror",), 5.0, 1979)
    alike = facts_in_common(replace(context, history=[context.history[0]], candidates=[like, *context.candidates]))
    assert alike[0] == pytest.approx(3 / np.sqrt(3 * 4)) and (alike[1:] == 0).all()


class NoEmbeddings(Popularity):
    """A sequential recommender that knows nothing but counts."""

    def fit(self, interactions, n_items, seed=0):
        self.item_embeddings = np.zeros((n_items, 2), dtype=np.float32)
        return super().fit(interactions, n_items)


@pytest.fixture
def small_shop():
    """Two fitted users of two items each, and one of one item: (0, 1), (1, 2), (3). Nobody took 4, 5, 6."""
    rows = [("u0", 0, 10), ("u0", 1, 20), ("u1", 1, 30), ("u1", 2, 40), ("u2", 3, 50)]
    table = pd.DataFrame([(user, f"i{item}", np.nan, second) for user, item, second in rows],
                         columns=["user_id", "item_id", "rating", "timestamp"])  # fmt: skip
    items = pd.DataFrame({"item_id": [f"i{k}" for k in range(7)], "title": [f"T{k}" for k in range(7)],
                          "categories": [()] * 7, "price": np.nan, "year": np.nan})  # fmt: skip
    return Toolbox.fit(make_log("shop", table, items), slice(0, 5), sequential=NoEmbeddings())


def asked(box, history, candidates):
    ratings = (np.nan,) * len(history)
    return box.contexts([RankingTask("test-0", 0, tuple(history), ratings, tuple(candidates), 1, 99)])[0]


def test_a_neighbour_shares_something(small_shop):
    """Of item 0 only item 1 was ever taken too, by user 0 alone; nobody fills the empty places."""
    context = asked(small_shop, [0], [1, 2, 3, 4])
    nearest, votes = context.collaborative.votes()
    assert nearest.tolist() == [0]
    np.testing.assert_allclose(votes, [np.float32(1 / np.sqrt(2)) / np.sqrt(2), 0, 0, 0], rtol=1e-6)
    assert call_tool("get_similar_users", {}, context).startswith("Similar users took: T1.\n")
    items = call_tool("get_similar_items", {}, context).splitlines()
    assert items[0] == "Similar to the history: T1."
    assert items[1].startswith("Candidates by items: 1:76, 2:41, 3:41, 4:41")


def test_what_nobody_took_together_has_no_neighbours(small_shop):
    context = asked(small_shop, [3], [1, 2, 4])
    assert call_tool("get_similar_items", {}, context) == (
        "Similar to the history: nothing known.\nCandidates by items: 1:50, 2:50, 3:50"
    )
    assert call_tool("get_similar_users", {}, context).startswith("Similar users took: T3.\n")  # user 2, and no other


@pytest.mark.parametrize("history", [[4], [5, 6], []])
def test_of_an_unknown_history_nothing_is_known(small_shop, history):
    context = asked(small_shop, history, [0, 1, 2])
    assert call_tool("get_similar_users", {}, context) == (
        "Similar users took: nothing known.\nCandidates by users: 2:50, 1:50, 3:50"
    )
    assert "to the history: nothing known.\n" in call_tool("get_similar_items", {}, context)
    assert context.collaborative.votes()[0].tolist() == [] and context.collaborative.votes()[1].tolist() == [0, 0, 0]


def test_a_candidate_that_nobody_took_is_similar_to_nothing(small_shop):
    said = call_tool("get_similar_items", {"item_title": "4"}, asked(small_shop, [0, 1], [1, 2, 3, 6]))
    assert said == "Similar to 4: nothing known.\nCandidates by like 4: 1:50, 2:50, 3:50, 4:50"


def test_cards_are_made_when_they_are_asked_for(small_shop):
    cards = small_shop.cards
    assert len(cards) == 7 and [card.title for card in cards] == [f"T{k}" for k in range(7)]
    assert [card.count for card in cards[:4]] == [1, 2, 1, 1]
    assert cards[-1] == cards[6] and cards[6].popularity == int(100 / 7)
    assert cards[1] == ItemCard("T1", (), None, None, None, 99, 2, 1)
    with pytest.raises(IndexError):
        cards[7]


@pytest.mark.parametrize(("stars", "sentence"), [
    (2.0, "Last rated 2 stars: let down."), (1.0, "Last rated 1 star: let down."),
    (3.5, "Last rated 3.5 stars: let down."), (4.0, "Last rated 4 stars: pleased."), (float("nan"), "Last not rated."),
])  # fmt: skip
def test_a_sentence_on_the_last_rating(stars, sentence, context):
    context = replace(context, ratings=[5.0, stars])
    assert describe_last_rating(context) == sentence
    asked = {name: {"item_name": "h1"} if name == "item_info_search" else {} for name in TOOLS}
    telling = {name for name, arguments in asked.items() if sentence in call_tool(name, arguments, context)}
    assert telling == {"get_user_profile", "get_rating_behavior"}


def test_groups_and_behaviour(context):
    analysed, rated, moved = (
        call_tool(name, {}, context).splitlines()
        for name in ("candidates_analyze", "get_rating_behavior", "get_session_behavior")
    )
    odd, even = (", ".join(map(str, range(start, 21, 2))) for start in (1, 2))
    assert analysed[0] == f"By category: Drama {odd}; Comedy {even}."
    assert rated[0] == "High: h1. Middle: none. Low: none. Not rated: h2. Last not rated."
    assert moved[0] == "Last 3: Horror 2. Before: nothing. No clear shift."
    assert "likes Horror (2 of 2), SciFi (1 of 2), mostly from the 1970s" in call_tool("get_user_profile", {}, context)


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=20))
def test_shown_scores_never_contradict_the_order(scores):
    shown = shown_scores(scores)
    assert ((shown >= 10) & (shown <= 99)).all()
    listed = [int(p.split(":")[1]) for p in show_list(fixed_context(), "any", scores).split(": ")[1].split(", ")]
    assert listed == sorted(listed, reverse=True)


def test_evidence_that_tells_nothing_apart_is_neutral():
    assert (standardise([3.0] * 4) == 0).all() and (shown_scores([3.0] * 4) == 50).all()


@given(st.text())
def test_escaped_text_holds_no_control_text_and_is_stable(text):
    safe = escape(text)
    assert not set(safe) & set("<>|\n\r\t\u200b\u202e") and len(safe) <= 80 and escape(safe) == safe


@given(st.text(min_size=1).filter(lambda t: escape(t).strip() and not re.fullmatch(r"h?\d+", escape(t).casefold())))
def test_an_escaped_title_resolves_to_its_item(title):
    context = TaskContext(
        [ItemCard("other")], [np.nan], [ItemCard(f"c{i}") for i in range(19)] + [ItemCard(title)], None
    )
    assert context.find(escape(title)) == ("c", 19) or escape(title).casefold() in {
        "other",
        *(f"c{i}" for i in range(19)),
    }
