"""Scripted teachers: what nano is shown in generated worlds.

A teacher calls random tools in random order, and then ranks by one of the orders it has been shown, or keeps the
(random) given order if it has seen none. Which tool is worth asking, and which list is worth following, is left for
reinforcement learning to find out. A policy that learnt from teachers without any preference would call one tool and
answer when it decodes greedily, and which tool that is would be the luck of the seed (2 in 7: the right one). So in
the last lessons the teachers have a habit: they ask about the user and the items more often than for lists.
"""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import TOP, write_answer, write_call
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TOOLS, TaskContext, call_tool, tools_of
from agenticrec_lite.tools.context import label
from agenticrec_lite.tools.registry import accepted, parameters
from agenticrec_lite.tools.text import escape, shown_scores

# A list as `text.ordered_candidates` writes it, after its name: "Candidates by last taken: 7:88, 3:81, ..."
_SHOWN_LIST = re.compile(r"^Candidates by (?P<source>[^:\n]+): (?P<pairs>\d+:\d+(?:, \d+:\d+)*)$", re.M)
OWN = 4.0
LIST_TOOLS = ("get_similar_users", "get_similar_items")  # tools that list the candidates in order


@dataclass
class Script:
    """The turns of one scripted trajectory, and the raw scores behind what its calls brought to light, by source."""

    turns: list[str]
    seen: dict[str, np.ndarray]


def some_tools(
    rng: np.random.Generator, n_calls: int, tools: Sequence[str] = tuple(TOOLS), favour: float = 1.0
) -> list[str]:
    """Different tools in random order; those that list no candidates are drawn `favour` times as often.

    A tool of the user's own is drawn OWN times as often: the policy has yet to learn its name.
    """
    own = np.array([OWN if tool not in TOOLS else 1.0 for tool in tools])
    if favour == 1 and (own == 1).all():
        return rng.choice(list(tools), size=n_calls, replace=False).tolist()
    weights = own * [1.0 if tool in LIST_TOOLS or tool not in TOOLS else favour for tool in tools]
    return rng.choice(list(tools), size=n_calls, replace=False, p=weights / weights.sum()).tolist()


def scripted_calls(context: TaskContext, rng: np.random.Generator, tools: Sequence[str]) -> Script:
    """Calls of the given tools with random arguments, now and then a wrong one."""
    script = Script([], {})
    for name in tools:
        if tools_of(context)[name] is not TOOLS.get(name):
            _call_own(name, context, rng, script)
            continue
        script.turns.append(write_call(name, _arguments(name, context, rng, script), f"I ask {name}."))
    return script


def _call_own(name: str, context: TaskContext, rng: np.random.Generator, script: Script) -> None:
    """A call of a tool of the user's own: required arguments are drawn, and a list that it shows can be followed."""
    drawn, n = {}, len(context.candidates)
    for argument, parameter in parameters(tools_of(context)[name]).items():
        if parameter.default is inspect.Parameter.empty:
            kind = accepted(parameter)[0]
            drawn[argument] = str(rng.integers(1, n + 1)) if kind is str else kind(rng.integers(1, n + 1))
    script.turns.append(write_call(name, drawn, f"I ask {name}."))
    for match in _SHOWN_LIST.finditer(call_tool(name, drawn, context)):
        numbers = [int(pair.split(":")[0]) for pair in match["pairs"].split(", ")]
        if sorted(numbers) == list(range(1, n + 1)):
            scores = np.empty(n)
            scores[np.array(numbers) - 1] = -np.arange(n)
            script.seen[match["source"]] = scores


def _arguments(name: str, context: TaskContext, rng: np.random.Generator, script: Script) -> dict:
    if name == "candidates_analyze":
        script.seen["popularity"] = np.log1p([float(card.count) for card in context.candidates])
    if name == "get_similar_users":
        script.seen["similar users"] = context.collaborative.similar_users().scores
    if name == "get_similar_items" and rng.random() < 0.5:
        script.seen["similar items"] = context.collaborative.similar_items(None).scores
    elif name in ("get_similar_items", "item_info_search"):
        argument = "item_title" if name == "get_similar_items" else "item_name"
        if rng.random() < 0.03:
            return {argument: f"h{rng.integers(11, 99)}"}
        n = len(context.history)
        place = ("h", int(rng.integers(n))) if rng.random() < 0.6 else ("c", int(rng.integers(len(context.candidates))))
        if name == "get_similar_items":
            script.seen[f"similarity to {label(place)}"] = context.collaborative.similar_items(place).scores
        title = escape(context.card(place).title)
        short = len(title) <= 12 and context.find(title) == place and rng.random() < 0.2
        return {argument: title if short else label(place)}
    return {}


def choose_sources(script: Script, rng: np.random.Generator) -> list[str]:
    """Which evidence the teacher judges by: one source, two, or all; in the order seen."""
    sources = list(script.seen)
    if not sources:
        return []
    size = int(rng.choice([1, min(2, len(sources)), len(sources)]))
    return sorted(rng.choice(sources, size=size, replace=False).tolist(), key=sources.index)


def follow(script: Script, source: str) -> str:
    """The answer turn: the top ten in the order that a source showed."""
    order = np.argsort(-script.seen[source], kind="stable") + 1
    return write_answer(order[:TOP].tolist(), f"I follow {source}.")


def follow_each(script: Script) -> list[str]:
    """An answer turn for each list that was shown; one that keeps the given order if there was none."""
    listed = [source for source in script.seen if source != "popularity"]
    if not listed:
        return [write_answer(list(range(1, TOP + 1)), "I have no evidence, I keep the given order.")]
    return [follow(script, source) for source in listed]


def scripted_ranking(context: TaskContext, rng: np.random.Generator, tools: Sequence[str]) -> list[str]:
    """All turns of a trajectory that calls `tools` and ends in a top ten by one of the lists it was shown."""
    script = scripted_calls(context, rng, tools)
    return [*script.turns, str(rng.choice(follow_each(script)))]


def scripted_pair(
    context: TaskContext, rng: np.random.Generator, kind: str, pair: tuple[int, int], tools: Sequence[str]
) -> list[str]:
    """All turns of a trajectory that calls `tools` and ends in A or B: the higher summed score is the more likely."""
    script = scripted_calls(context, rng, tools)
    sources = choose_sources(script, rng)
    if not sources:
        return [*script.turns, write_answer(str(rng.choice(["A", "B"])), "I have no evidence, I guess.")]
    a, b = pair[0] - 1, pair[1] - 1
    shown = {source: shown_scores(script.seen[source]) for source in sources}
    think = " ".join(f"{source}: A {scores[a]} B {scores[b]}." for source, scores in shown.items())
    more = sum(int(scores[a] - scores[b]) for scores in shown.values())
    first = rng.random() < 0.5 if more == 0 else (more > 0) == (kind == "more")
    return [*script.turns, write_answer("A" if first else "B", think)]


def run_script(
    turns: list[str], context: TaskContext, chat: ChatFormat, kind: str = "rank", prompt_ids=()
) -> Trajectory:
    """Run scripted turns through the real environment and record them exactly as a rollout would be.

    Args:
        turns: Protocol texts; the last one answers.
        context, kind: The question.
        chat: Tokens.
        prompt_ids: Of the task's prompt.
    """
    environment = RankingEnvironment(context, kind)
    trajectory = Trajectory("scripted", 0, kind, list(prompt_ids))
    for text in turns:
        observation = environment.step(text)
        action = chat.turn_ids(text)
        tokens = [] if observation is None else chat.observation_ids(observation)
        trajectory.completion_ids += action + tokens
        trajectory.action_mask += [1] * len(action) + [0] * len(tokens)
    trajectory.steps, trajectory.answer = environment.steps, environment.answer
    trajectory.outcome, trajectory.n_calls = environment.outcome, environment.n_calls
    return trajectory
