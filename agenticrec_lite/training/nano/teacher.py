"""Scripted teachers: what nano is shown in generated worlds.

A teacher calls random tools in random order, and then ranks by one of the orders it has been shown, or by two of them
in turn, or keeps the (random) given order if it has seen none. It has no preference: which tool is worth asking, and
whether evidence should be fused, is left for reinforcement learning to find out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import TOP, write_answer, write_call
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TOOLS, TaskContext
from agenticrec_lite.tools.context import label
from agenticrec_lite.tools.text import escape, shown_scores

ORDERING = ("get_similar_users", "get_similar_items")  # tools that list the candidates in order
SCORING = (*ORDERING, "candidates_analyze")  # tools that show a score of each candidate


@dataclass
class Script:
    """The turns of one scripted trajectory, and the raw scores behind what its calls brought to light, by source."""

    turns: list[str]
    seen: dict[str, np.ndarray]


def scripted_calls(
    context: TaskContext, rng: np.random.Generator, n_calls: int, tools: Sequence[str] = tuple(TOOLS)
) -> Script:
    """Calls of random tools with random arguments, now and then a wrong one."""
    script = Script([], {})
    for name in rng.choice(list(tools), size=n_calls, replace=False):
        arguments = _arguments(str(name), context, rng, script)
        script.turns.append(write_call(str(name), arguments, f"I ask {name}."))
    return script


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


def ranking(evidence: Sequence[np.ndarray]) -> list[int]:
    """Candidate numbers by one source, or by several in turn: each names its best candidate that is not in yet.

    Args:
        evidence: Raw scores of the candidates [C], a source each; the last one begins.
    """
    orders = [np.argsort(-scores, kind="stable") + 1 for scores in reversed(evidence)]
    return list(dict.fromkeys(int(n) for place in zip(*orders, strict=True) for n in place))


def scripted_ranking(
    context: TaskContext,
    rng: np.random.Generator,
    n_calls: int,
    tools: Sequence[str] = tuple(TOOLS),
    fuse: float = 0.0,
) -> list[str]:
    """All turns of a trajectory that ends in a top ten by the chosen evidence.

    Args:
        context, rng: The world.
        n_calls: Tool calls before the answer.
        tools: To choose from.
        fuse: Probability of taking two of the orders that were shown in turn, if there are two; else one is followed.
    """
    script = scripted_calls(context, rng, n_calls, tools)
    listed = [source for source in script.seen if source != "popularity"]
    if not listed:
        return [*script.turns, write_answer(list(range(1, TOP + 1)), "I have no evidence, I keep the given order.")]
    size = 2 if len(listed) > 1 and rng.random() < fuse else 1
    sources = sorted(rng.choice(listed, size=size, replace=False).tolist(), key=listed.index)
    think = f"I {'follow' if size == 1 else 'fuse'} {' and '.join(sources)}."
    return [*script.turns, write_answer(ranking([script.seen[source] for source in sources])[:TOP], think)]


def scripted_pair(
    context: TaskContext, rng: np.random.Generator, question: str, pair: tuple[int, int], n_calls: int
) -> list[str]:
    """All turns of a trajectory that ends in A or B: the higher summed score is the more likely one."""
    script = scripted_calls(context, rng, n_calls)
    sources = choose_sources(script, rng)
    if not sources:
        return [*script.turns, write_answer(str(rng.choice(["A", "B"])), "I have no evidence, I guess.")]
    a, b = pair[0] - 1, pair[1] - 1
    shown = {source: shown_scores(script.seen[source]) for source in sources}
    think = " ".join(f"{source}: A {scores[a]} B {scores[b]}." for source, scores in shown.items())
    more = sum(int(scores[a] - scores[b]) for scores in shown.values())
    first = rng.random() < 0.5 if more == 0 else (more > 0) == (question == "more")
    return [*script.turns, write_answer("A" if first else "B", think)]


def play(turns: list[str], context: TaskContext, chat: ChatFormat, question: str = "rank", prompt_ids=()) -> Trajectory:
    """Run scripted turns through the real environment and record them exactly as a rollout would be.

    Args:
        turns: Protocol texts; the last one answers.
        context, question: The task.
        chat: Tokens.
        prompt_ids: Of the task's prompt.
    """
    environment = RankingEnvironment(context, question)
    trajectory = Trajectory("scripted", 0, question, list(prompt_ids))
    for text in turns:
        observation = environment.step(text)
        action = chat.turn_ids(text)
        tokens = [] if observation is None else chat.observation_ids(observation)
        trajectory.completion_ids += action + tokens
        trajectory.action_mask += [1] * len(action) + [0] * len(tokens)
    trajectory.steps, trajectory.answer = environment.steps, environment.answer
    trajectory.outcome, trajectory.n_calls = environment.outcome, environment.n_calls
    return trajectory
