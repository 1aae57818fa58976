"""Any text is a turn of some kind: parser, environment and rewards against a reading of the paper written apart.

`judge` and `paper_reward` below know nothing of the package's parser, environment and rewards: they were written from
the protocol's and the equation's words, with plain string searches.
"""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.protocol import TAGS, parse_turn, write_answer, write_call
from agenticrec_lite.agent.trajectory import OUTCOMES, Trajectory
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import NANO
from agenticrec_lite.rewards import listwise_reward, pairwise_reward, refinement_reward
from agenticrec_lite.runs import plain
from agenticrec_lite.tools import TOOLS

WORLD = random_world(np.random.default_rng(0))
COMPLETIONS = 100_000  # of the long tier


# --- the paper's words, once more ---


def inside(text: str, tag: str) -> str | None:
    """What stands between <tag> and </tag> if the text is nothing else, and no other tag stands in it."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if not (text.startswith(opening) and text.endswith(closing)):
        return None
    body = text[len(opening) : -len(closing)]
    return None if any(other in body for other in TAGS) else body


def judge(turn: str, question: str) -> tuple[str, object]:
    """("call", None), ("answered", answer), ("bad_turn", None) or ("bad_answer", None)."""
    rest = turn.strip()
    if rest.startswith("<think>"):
        thought, closing, rest = rest.partition("</think>")
        rest = rest.strip()
        if not closing or any(tag in thought[len("<think>") :] for tag in TAGS):
            return "bad_turn", None
    if (body := inside(rest, "tool_call")) is not None:
        return ("call" if is_call(body) else "bad_turn"), None
    if (body := inside(rest, "answer")) is None:
        return "bad_turn", None
    answer = ranking(body) if question == "rank" else {"\\boxed{A}": "A", "\\boxed{B}": "B"}.get(body.strip())
    return ("bad_answer", None) if answer is None else ("answered", answer)


def is_call(body: str) -> bool:
    """One known tool with its arguments, as JSON that can be written down."""
    if sum(body.count(bracket) for bracket in "[{") > 100:
        return False
    try:
        call = json.loads(body)
        str(json.dumps(call, ensure_ascii=False)).encode("utf-8")
        return sorted(call) == ["arguments", "name"] and call["name"] in PAPER and isinstance(call["arguments"], dict)
    except (ValueError, TypeError, AttributeError):
        return False


PAPER = (
    "get_user_profile item_info_search candidates_analyze get_session_behavior get_rating_behavior get_similar_items "
    "get_similar_users weigh_evidence"
).split()


def ranking(body: str) -> list[int] | None:
    """Exactly ten distinct numbers in 1..20, in a box."""
    blank = " \t\n\r\f\v"
    body = body.strip(blank)
    if not (body.startswith("\\boxed{[") and body.endswith("]}")):
        return None
    parts = [part.strip(blank) for part in body[len("\\boxed{[") : -2].split(",")]
    if len(parts) != 10 or not all(part.isascii() and part.isdigit() and len(part) < 7 for part in parts):
        return None
    numbers = [int(part) for part in parts]
    return numbers if len(set(numbers)) == 10 and min(numbers) >= 1 and max(numbers) <= 20 else None


def expected(turns: list[str], question: str, max_calls: int) -> tuple[str, object, int]:
    """Outcome, answer and number of calls of a whole trajectory; turns that never end it run out of length."""
    calls = 0
    for turn in turns:
        kind, answer = judge(turn, question)
        if kind != "call":
            return kind, answer, calls
        if calls == max_calls:
            return "over_budget", None, calls
        calls += 1
    return "length", None, calls


def paper_reward(outcome: str, answer, calls: int, right) -> float:
    """N@10 + 0.1 [first, with a tool] if valid and a hit, -0.5 if valid and a miss, else -1; pairs: 1, 0 or -1."""
    if outcome != "answered":
        return -1.0
    if isinstance(right, str):
        return float(answer == right)
    if right not in answer:
        return -0.5
    rank = 1
    while answer[rank - 1] != right:
        rank += 1
    return math.log(2) / math.log(1 + rank) + (0.1 if rank == 1 and calls >= 1 else 0.0)


# --- one completion ---


def check(turns: list[str], question: str, right, max_calls: int = 10) -> str:
    """Play the turns and compare with the paper's words; the outcome."""
    environment, seen = RankingEnvironment(WORLD, question, max_calls), []
    for turn in turns:
        seen.append(environment.step(turn))
        if seen[-1] is None:
            break
    else:
        environment.cut("")
    outcome, answer, calls = expected(turns, question, max_calls)
    assert (environment.outcome, environment.answer, environment.n_calls) == (outcome, answer, calls)
    assert environment.outcome in OUTCOMES and (environment.answer is not None) == (environment.outcome == "answered")
    assert all(isinstance(text, str) and text for text in seen[:-1]), "only the last turn has no observation"
    played = Trajectory("t", 0, question, [], steps=environment.steps, answer=answer, outcome=outcome, n_calls=calls)
    reward = listwise_reward(played, right) if question == "rank" else pairwise_reward(played, right)
    assert reward == pytest.approx(paper_reward(outcome, answer, calls, right), abs=1e-12)
    assert refinement_reward(played, right) == reward
    json.dumps(plain(played.row()), ensure_ascii=False).encode("utf-8")  # it can be logged
    return outcome


# --- texts ---

BROKEN = [
    *TAGS, "<think", "</", "{", "}", "[", "]", '"name"', '"arguments"', ": ", ", ", "\\boxed{", "\\boxed{[", "]}", "A",
    "B", "1", "07", "20", "21", "0", "-1", "1e1", "null", "NaN", "\\ud800", "\u0661", "\u202e", "\x00", "\x1c", "\xa0",
    " ", "\n", "<|im_end|>", "<|im_start|>", "9" * 5000, "[" * 150, "get_similar_users", "h1",
]  # fmt: skip
ARGUMENTS = [{}, {"item_title": "h1"}, {"item_name": 3}, {"item_name": None}, {"x": [1]}, {"item_name": "</answer>"}]


def valid_turn(rng: random.Random) -> str:
    """A call, a ranking or a letter, mostly with a thought."""
    think = rng.choice(["", "I ask.", " \n", "1 < 2"])
    kind = rng.random()
    if kind < 0.55:
        return write_call(rng.choice(list(TOOLS)), rng.choice(ARGUMENTS), think)
    if kind < 0.85:
        return write_answer(rng.sample(range(1, 21), 10), think)
    return write_answer(rng.choice("AB"), think)


def damaged(text: str, rng: random.Random) -> str:
    """A few cuts, repetitions and insertions."""
    for _ in range(rng.randint(1, 3)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        piece = rng.choice(BROKEN)
        text = rng.choice([text[:a] + text[b:], text[:b] + text[a:], text[:a] + piece + text[a:], text + piece])
    return text


def any_turn(rng: random.Random, tokenizer) -> str:
    """Valid, damaged, made of pieces, or random tokens of nano's, about equally often."""
    kind = rng.random()
    if kind < 0.35:
        return valid_turn(rng)
    if kind < 0.6:
        return damaged(valid_turn(rng), rng)
    if kind < 0.8:
        return "".join(rng.choice(BROKEN) for _ in range(rng.randint(0, 12)))
    return tokenizer.decode([rng.randrange(len(tokenizer)) for _ in range(rng.randint(0, 40))])


def fuzz(n: int, seed: int) -> Counter:
    """Check n random completions; how often each outcome came about."""
    rng, tokenizer, outcomes = random.Random(seed), AutoTokenizer.from_pretrained(NANO), Counter()
    for _ in range(n):
        question = rng.choice(["rank", "rank", "more", "less"])
        right = rng.randint(1, 20) if question == "rank" else rng.choice("AB")
        calls = [write_call(rng.choice(list(TOOLS)), {}) for _ in range(rng.choice([0, 0, 0, 1, 3, 10, 12]))]
        turns = calls + [any_turn(rng, tokenizer) for _ in range(rng.randint(0, 4))]
        outcomes[check(turns, question, right, rng.choice([0, 1, 10]))] += 1
    return outcomes


def test_random_completions_are_classified_and_rewarded_as_in_the_paper():
    outcomes = fuzz(4_000, 0)
    assert set(outcomes) == set(OUTCOMES) and min(outcomes.values()) > 100, outcomes


@pytest.mark.long
def test_a_hundred_thousand_completions_are_classified_and_rewarded_as_in_the_paper():
    outcomes = fuzz(COMPLETIONS, 1)
    assert sum(outcomes.values()) == COMPLETIONS and set(outcomes) == set(OUTCOMES)


texts = st.lists(st.sampled_from(BROKEN) | st.text(max_size=6), max_size=14).map("".join)
mutants = st.builds(lambda seed: damaged(valid_turn(random.Random(seed)), random.Random(seed)), st.integers(0, 2**32))
turns_as_asked = st.builds(lambda seed: valid_turn(random.Random(seed)), st.integers(0, 2**32))
completions = st.lists(texts | mutants | turns_as_asked, max_size=13)
questions = st.sampled_from([("rank", 7), ("rank", 20), ("more", "A"), ("less", "B")])


@settings(max_examples=200)
@given(completions, questions, st.sampled_from([0, 2, 10]))
def test_what_hypothesis_writes_is_classified_and_rewarded_as_in_the_paper(turns, asked, max_calls):
    check(turns, *asked, max_calls)


@pytest.mark.long
@settings(max_examples=20_000)
@given(completions, questions, st.sampled_from([0, 2, 10]))
def test_what_hypothesis_writes_for_long_is_classified_and_rewarded_as_in_the_paper(turns, asked, max_calls):
    check(turns, *asked, max_calls)


@given(st.permutations(range(1, 21)), st.text(st.characters(exclude_characters="<>")), st.sampled_from(" \n\t\xa0"))
def test_valid_answers_come_back_as_they_were_written(order, think, blank):
    for question, answer in (("rank", order[:10]), ("more", "A"), ("less", "B")):
        turn = parse_turn(blank + write_answer(answer, think) + blank, question)
        assert (turn.answer, turn.think, turn.error, turn.tool) == (answer, think.strip(), None, None)


# --- what has gone wrong once, or would be slow ---


@pytest.mark.fault("half a surrogate pair in a tool call", "trajectories")
def test_a_call_that_is_no_text_is_refused():
    """JSON may spell a character that no file can hold; the turn is bad, and the run goes on."""
    call = '<tool_call>{"name": "item_info_search", "arguments": {"item_name": "%s"}}</tool_call>'
    assert check([call % "\\ud83d"], "rank", 1) == "bad_turn"
    assert check([call % "\\ud83d\\ude00"], "rank", 1) == "length"  # both halves are a character


@pytest.mark.fault("brackets nested hundreds deep", "tool call")
@pytest.mark.parametrize("depth", [99, 300, 450, 900, 100_000])
def test_a_deeply_nested_call_is_refused(depth):
    """Deeper than the limit is a bad turn, not a full stack in the parser or, later, in the log."""
    body = f'{{"name": "item_info_search", "arguments": {{"item_name": {"[" * depth}{"]" * depth}}}}}'
    assert check([f"<tool_call>{body}</tool_call>"], "rank", 1) == "bad_turn"


def test_a_list_in_a_call_is_a_wrong_argument_and_not_a_bad_turn():
    assert check([write_call("item_info_search", {"item_name": [[["x"]]]})], "rank", 1) == "length"


@pytest.mark.parametrize("first", ["0000071", "00000000007", "1" * 5000])
def test_a_number_of_many_digits_is_no_candidate(first):
    assert check([f"<answer>\\boxed{{[{first}, 1, 2, 3, 4, 5, 6, 8, 9, 10]}}</answer>"], "rank", 7) == "bad_answer"


@pytest.mark.parametrize(
    "text",
    [
        " " * 10**6,
        "<think>" + " " * 10**6,
        "<think>" + "</think>" * 10**5,
        "<think>" + "</think><answer></answer>" * 10**5,
        "<answer>" + "</answer> " * 10**5,
        "<tool_call>" * 10**5,
        "<answer>\\boxed{[" + "1, " * 10**5 + " " * 10**5 + "]} x</answer>",
    ],
    ids=["blanks", "blank thought", "ends of thoughts", "answers", "ends", "starts", "list"],
)
def test_megabytes_are_read_in_linear_time(text):
    """A pattern that tries every split of these would not come back today."""
    assert check([text], "rank", 1) in ("bad_turn", "bad_answer")
