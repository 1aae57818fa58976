"""The seven tools, on a task small enough to check by hand."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.tools import TOOLS, ItemCard, TaskContext, call_tool, schema
from agenticrec_lite.tools.text import escape, ordered_candidates, shown_scores, standardise

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
