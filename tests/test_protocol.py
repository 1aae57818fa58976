"""The text protocol: every turn is classified, valid ones round-trip, the outcomes are the paper's."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.protocol import TAGS, parse_turn, write_answer, write_call
from agenticrec_lite.agent.trajectory import OUTCOMES
from agenticrec_lite.tools import TOOLS

TEN = list(range(1, 11))


@given(st.permutations(range(1, 21)), st.text(st.characters(exclude_characters="<>")))
def test_a_written_answer_is_read_back(order, think):
    turn = parse_turn(write_answer(order[:10], think))
    assert turn.answer == order[:10] and turn.think == think.strip() and turn.error is None


@given(
    st.sampled_from(list(TOOLS)),
    st.dictionaries(st.text(st.characters(exclude_characters="<>", exclude_categories=("Cs",))), st.integers()),
)
def test_a_written_call_is_read_back(tool, arguments):
    turn = parse_turn(write_call(tool, arguments))
    assert (turn.tool, turn.arguments, turn.error) == (tool, arguments, None)


pieces = st.sampled_from(
    [*TAGS, "{", "}", '"name"', "\\boxed{", "[1, 2", "]}", "get_user_profile", " ", "١٢", "9" * 5000]
)


@given(st.lists(pieces | st.text(max_size=5), max_size=12).map("".join), st.sampled_from(["rank", "more"]))
def test_any_text_is_classified_as_exactly_one_thing(text, question):
    turn = parse_turn(text, question)
    assert sum(x is not None for x in (turn.tool, turn.answer, turn.error)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("I would say 8", "neither"),
        (write_answer(TEN) + write_answer(TEN), "one tool call or one answer"),
        (write_answer(TEN) + " so there", "outside the tags"),
        ("Well. " + write_answer(TEN), "outside the tags"),
        ("<think>a<think>b</think>" + write_answer(TEN), "not in order"),
        ('<tool_call>{"name": "get_user_profile"</tool_call>', "not valid JSON"),
        ('<tool_call>{"name": "get_user_profile"}</tool_call>', "nothing more or less"),
        ('<tool_call>["get_user_profile"]</tool_call>', "nothing more or less"),
        ('<tool_call>{"name": "get_user_profile", "arguments": {}, "id": 1}</tool_call>', "nothing more or less"),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', "no such tool"),
        (write_answer(TEN[:9]), "this has 9"),
        (write_answer([*TEN[:9], 9]), "twice"),
        (write_answer([*TEN[:9], 21]), "1 to 20"),
        (write_answer([0, *TEN[:9]]), "1 to 20"),
        ("<answer>8, 3</answer>", "numbers only"),
        ("<answer>\\boxed{[1, 2, x]}</answer>", "numbers only"),
        ("<answer>\\boxed{A}</answer>", "numbers only"),
        ("<answer>\\boxed{[١, 2, 3, 4, 5, 6, 7, 8, 9, 10]}</answer>", "numbers only"),
    ],
)
def test_errors_say_what_is_wrong(text, says):
    assert says in parse_turn(text).error


@pytest.mark.parametrize("body", ["AB", "C", "[1]", "a", ""])
@pytest.mark.parametrize("question", ["more", "less"])
def test_a_pair_wise_answer_is_a_or_b(body, question):
    assert parse_turn(f"<answer>\\boxed{{{body}}}</answer>", question).bad_answer
    assert parse_turn(write_answer("B"), question).answer == "B"


def test_the_environment_ends_as_the_paper_says(context):
    call = write_call("get_user_profile", {})
    endings = {
        "answered": [call, write_answer(TEN)],
        "bad_turn": [call, "hm"],
        "bad_answer": [write_answer(TEN[:3])],
        "over_budget": [call] * 11,
    }
    for outcome, turns in endings.items():
        environment = RankingEnvironment(context)
        observations = [environment.step(turn) for turn in turns]
        assert observations[-1] is None and None not in observations[:-1]
        assert environment.outcome == outcome in OUTCOMES
        assert environment.n_calls == min(10, sum(turn == call for turn in turns))


def test_a_wrong_argument_is_an_observation_and_counts(context):
    environment = RankingEnvironment(context)
    assert "no item 'h99'" in environment.step(write_call("get_similar_items", {"item_title": "h99"}))
    assert environment.n_calls == 1 and environment.outcome is None


@pytest.mark.parametrize("body", ["8, 3", "[1, 2, x]", "A", "[]", str(TEN[:9]), str([*TEN[:9], 9]), str([0, *TEN[:9]])])
def test_a_well_formed_turn_with_a_bad_list_is_a_bad_answer(body):
    turn = parse_turn(f"<answer>\\boxed{{{body}}}</answer>")
    assert turn.error and turn.bad_answer


@given(st.integers(10, 3000), st.data())
def test_all_candidates_can_be_named_and_no_other(n, data):
    numbers = data.draw(st.lists(st.integers(1, n - 1), min_size=9, max_size=9, unique=True))
    assert parse_turn(write_answer([n, *numbers]), n_candidates=n).answer == [n, *numbers]
    assert f"1 to {n}." in parse_turn(write_answer([*numbers, n + 1]), n_candidates=n).error


def my_tool(context) -> str:
    """Say something."""
    return "something"


def test_the_tools_and_candidates_of_the_task_count(context):
    own = replace(context, candidates=context.candidates[:12], tools={"my_tool": my_tool})
    environment = RankingEnvironment(own)
    assert environment.step(write_call("my_tool", {})) == "something"
    assert environment.step(write_answer([*TEN[:9], 13])) is None and environment.outcome == "bad_answer"
    assert RankingEnvironment(own).step(write_call("get_user_profile", {})) is None


def test_the_answer_is_kept_and_a_cut_turn_ends_as_length(context):
    answered, cut = RankingEnvironment(context), RankingEnvironment(context)
    answered.step(write_answer(TEN))
    cut.cut("<think>no end")
    assert answered.answer == TEN and (cut.outcome, cut.answer) == ("length", None)
