"""The text protocol: what the policy may write in one turn, and the strict parser of it.

A turn is an optional `<think>...</think>` followed by exactly one of::

    <tool_call>{"name": "...", "arguments": {...}}</tool_call>
    <answer>\\boxed{[8, 3, 15, ...]}</answer>      ten distinct candidate numbers, best first
    <answer>\\boxed{A}</answer>                    for the pair-wise questions of PPR

and nothing else. Strings are parsed here, once; everything later reads the result.
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass

from agenticrec_lite.tools import TOOLS

TAGS = tuple(f"<{end}{name}>" for name in ("think", "tool_call", "observation", "answer") for end in ("", "/"))
TOP = 10

_TURN = re.compile(
    r"(?:<think>(?P<think>.*?)</think>\s*)?"
    r"(?:<tool_call>(?P<call>.*?)</tool_call>|<answer>(?P<answer>.*?)</answer>)",
    re.DOTALL,
)
_LIST = re.compile(r"\s*\\boxed\{\[([\d,\s]*)\]\}\s*", re.ASCII)
_PAIR = re.compile(r"\s*\\boxed\{([AB])\}\s*")
_SOME_ACTION = re.compile(r"<(?:tool_call|answer)>")
_DEEPEST = 100  # brackets opened in a tool call; deeper nesting exhausts Python's stack where the run is logged


@dataclass(frozen=True)
class Turn:
    """One parsed turn: exactly one of call, answer and error is set.

    Attributes:
        think: Text between the think tags, "" if none.
        tool: Name of the called tool, with `arguments`.
        answer: Ten candidate numbers, or "A" / "B".
        error: What is wrong with the turn, in a sentence.
        bad_answer: The error is in an otherwise well-formed answer (its content, not the turn).
    """

    think: str = ""
    tool: str | None = None
    arguments: dict | None = None
    answer: list[int] | str | None = None
    error: str | None = None
    bad_answer: bool = False


def parse_turn(
    text: str, kind: str = "rank", n_candidates: int = 20, tools: Collection[str] = tuple(TOOLS)
) -> Turn:
    """Classify one turn of the policy; never raises.

    Args:
        text: The turn, without the end-of-turn token.
        kind: "rank" expects a list, "more" and "less" expect A or B.
        n_candidates: Candidate numbers are 1..n_candidates.
        tools: Names of the tools that there are.
    """
    once = all(text.count(tag) < 2 for tag in TAGS)  # which also keeps the pattern's time linear
    match = _TURN.fullmatch(text.strip()) if once else None
    if match is None or any(tag in (match[group] or "") for group in ("think", "call", "answer") for tag in TAGS):
        return Turn(error=_what_is_wrong(text))
    think = (match["think"] or "").strip()
    if match["call"] is not None:
        return _parse_call(think, match["call"], tools)
    parse = _parse_list if kind == "rank" else _parse_pair
    return parse(think, match["answer"], n_candidates)


def _what_is_wrong(text: str) -> str:
    actions = len(_SOME_ACTION.findall(text))
    if actions == 0:
        return "the turn has neither a <tool_call> nor an <answer>."
    if actions > 1:
        return f"a turn is one tool call or one answer, this has {actions}."
    return "text stands outside the tags, or a tag is not closed or not in order."


def _parse_call(think: str, body: str, tools: Collection[str]) -> Turn:
    if body.count("[") + body.count("{") > _DEEPEST:
        return Turn(think, error=f"the tool call opens more than {_DEEPEST} brackets.")
    try:
        call = json.loads(body)
        json.dumps(call, ensure_ascii=False).encode()  # half a surrogate pair is no text: it could not be logged
    except ValueError:
        return Turn(think, error="the tool call is not valid JSON.")
    if not isinstance(call, dict) or set(call) != {"name", "arguments"} or not isinstance(call["arguments"], dict):
        return Turn(think, error='a tool call is {"name": ..., "arguments": {...}}, nothing more or less.')
    if not isinstance(call["name"], str) or call["name"] not in tools:
        return Turn(think, error=f"there is no such tool; the tools are {', '.join(tools)}.")
    return Turn(think, tool=call["name"], arguments=call["arguments"])


def _parse_list(think: str, body: str, n_candidates: int) -> Turn:
    match = _LIST.fullmatch(body)
    parts = [part.strip() for part in match[1].split(",")] if match else []
    if not match or not all(part.isdigit() for part in parts):
        return Turn(think, error="an answer is \\boxed{[n, n, ...]} with numbers only.", bad_answer=True)
    if len(parts) != TOP:
        return Turn(think, error=f"an answer has exactly {TOP} numbers, this has {len(parts)}.", bad_answer=True)
    numbers = [int(part) if len(part) < 7 else 0 for part in parts]  # Python refuses integers of thousands of digits
    if not all(1 <= n <= n_candidates for n in numbers):
        return Turn(think, error=f"candidate numbers go from 1 to {n_candidates}.", bad_answer=True)
    if len(set(numbers)) != TOP:
        return Turn(think, error="a candidate stands in the answer twice.", bad_answer=True)
    return Turn(think, answer=numbers)


def _parse_pair(think: str, body: str, n_candidates: int) -> Turn:
    match = _PAIR.fullmatch(body)
    if not match:
        return Turn(think, error="the answer to this question is \\boxed{A} or \\boxed{B}.", bad_answer=True)
    return Turn(think, answer=match[1])


def write_call(name: str, arguments: dict, think: str = "") -> str:
    """The protocol text of a tool call."""
    return _think(think) + f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def write_answer(answer: list[int] | str, think: str = "") -> str:
    """The protocol text of an answer."""
    body = answer if isinstance(answer, str) else f"[{', '.join(map(str, answer))}]"
    return _think(think) + f"<answer>\\boxed{{{body}}}</answer>"


def _think(think: str) -> str:
    return f"<think>{think}</think>" if think else ""
