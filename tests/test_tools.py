"""The seven tools, on a task small enough to check by hand."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.data import make_log
from agenticrec_lite.data.tasks import RankingTask
from agenticrec_lite.recommenders import Popularity
from agenticrec_lite.tools import TOOLS, ItemCard, TaskContext, call_tool, schema
from agenticrec_lite.tools.behavior import describe_last_rating
from agenticrec_lite.tools.text import escape, ordered_candidates, shown_scores, standardise
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


def test_the_seven_tools_have_the_papers_names_and_arguments():
    assert {name: list(schema(tool)["function"]["parameters"]["properties"]) for name, tool in TOOLS.items()} == PAPER
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


@pytest.mark.parametrize("name", ["get_similar_users", "get_similar_items"])
def test_collaborative_tools_order_all_candidates(context, name):
    numbers = [int(n) for n in re.findall(r" (\d+):\d\d\b", call_tool(name, {}, context))]
    assert numbers == (list(range(20, 0, -1)) if name == "get_similar_users" else list(range(1, 21)))


def test_similar_items_takes_one_item_or_the_whole_history(context):
    assert "by similarity to h2: 2:99" in call_tool("get_similar_items", {"item_title": "Alien"}, context)
    assert "by similar items: 1:" in call_tool("get_similar_items", {}, context)


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
    assert items[1].startswith("Candidates by similar items: 1:76, 2:41, 3:41, 4:41")


def test_what_nobody_took_together_has_no_neighbours(small_shop):
    context = asked(small_shop, [3], [1, 2, 4])
    assert call_tool("get_similar_items", {}, context) == (
        "Similar to the history: nothing known.\nCandidates by similar items: nothing tells them apart."
    )
    assert call_tool("get_similar_users", {}, context).startswith("Similar users took: T3.\n")  # user 2, and no other


@pytest.mark.parametrize("history", [[4], [5, 6], []])
def test_of_an_unknown_history_nothing_is_known(small_shop, history):
    context = asked(small_shop, history, [0, 1, 2])
    assert call_tool("get_similar_users", {}, context) == (
        "Similar users took: nothing known.\nCandidates by similar users: nothing tells them apart."
    )
    assert "to the history: nothing known.\n" in call_tool("get_similar_items", {}, context)
    assert context.collaborative.votes()[0].tolist() == [] and context.collaborative.votes()[1].tolist() == [0, 0, 0]


def test_a_candidate_that_nobody_took_is_similar_to_nothing(small_shop):
    said = call_tool("get_similar_items", {"item_title": "4"}, asked(small_shop, [0, 1], [1, 2, 3, 6]))
    assert said == "Similar to 4: nothing known.\nCandidates by similarity to 4: nothing tells them apart."


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
    assert describe_last_rating(replace(context, ratings=[5.0, stars])) == sentence


def test_groups_and_behaviour(context):
    analysed = call_tool("candidates_analyze", {}, context).splitlines()
    assert analysed[1].startswith("Comedy: 20:") and analysed[2].startswith("Drama: 19:")
    assert call_tool("get_rating_behavior", {}, context) == "High: h1. Middle: none. Low: none. Not rated: h2."
    assert call_tool("get_session_behavior", {}, context) == "Last 3: Horror 2. Before: nothing. No clear shift."
    assert "likes Horror (2 of 2), SciFi (1 of 2), mostly from the 1970s" in call_tool("get_user_profile", {}, context)


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=20))
def test_shown_scores_never_contradict_the_order(scores):
    shown = shown_scores(scores)
    assert ((shown >= 10) & (shown <= 99)).all()
    listed = [int(p.split(":")[1]) for p in ordered_candidates(scores).split(", ")]
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
