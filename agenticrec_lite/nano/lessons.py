"""What nano is taught with: drills of bare lists first, then whole worlds, as batches of scripted trajectories."""

from dataclasses import replace
from functools import partial

import numpy as np

from agenticrec_lite.agent import teacher
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.worlds import N_CANDIDATES, random_world
from agenticrec_lite.tools import TOOLS, TaskContext

CALLS = (0.04, 0.22, 0.32, 0.24, 0.12, 0.06)  # probability of 0, 1, 2, ... calls
DRILL_TOKENS = 6000  # about, a batch
WORLDS = 16  # distinct prompts a batch, divided by the number of turns, at least 4
EPISODES = 4  # scripted trajectories a prompt; they share its forward pass
HABIT = 2.0  # how much more often than for lists teachers ask for something else, in the last lessons
PAIRS = 0.25  # share of the worlds that ask a pair-wise question

Batch = list[list[Trajectory]]  # trajectories that share a prompt, a list each


def batch(kind: str, chat: ChatFormat, rng: np.random.Generator, n_calls: int) -> Batch:
    """Scripted trajectories of one kind, all with the same number of calls, so that they are of similar length.

    Args:
        kind: "copy" is a bare list to follow; "contrast" the same bare lists, each followed in turn; "worlds" whole
            tasks; "choices" whole tasks whose lists are each followed in turn. Where lists are followed in turn only
            the answers are learnt from, as nothing before them says which list it will be. "habits" are worlds whose
            teachers ask for lists less often than for anything else.
        chat, rng: Tokens, and the source of everything random.
        n_calls: Tool calls before the answer.
    """
    if kind in ("copy", "contrast"):
        return _drills(chat, rng, n_calls, kind == "contrast")
    if kind == "choices":
        worlds = (random_world(rng) for _ in range(max(4, WORLDS // n_calls)))
        return [_each_followed(world, chat, rng, n_calls, chat.prompt_ids(world)) for world in worlds]
    favour = HABIT if kind == "habits" else 1.0
    return [_world(chat, rng, n_calls, favour) for _ in range(max(4, WORLDS // (n_calls + 1)))]


def _drills(chat: ChatFormat, rng: np.random.Generator, n_calls: int, contrast: bool) -> Batch:
    """Trajectories without system prompt, history and titles: all there is to learn is to read lists.

    The lists are of any length. Were they all as long, the policy would learn to copy from a fixed distance, and never
    to look for the number it wrote last; were short ones as frequent, it would seldom meet the high numbers. (Answers
    about short lists have fewer than ten numbers; the environment would not accept them, but nothing here asks it.)
    """
    start = chat.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    groups = []
    for _ in range(DRILL_TOKENS // (n_calls * (2 * N_CANDIDATES + 35) + 40)):
        length = max(2, int(np.ceil(N_CANDIDATES * rng.random() ** 0.5)))  # of any length, but long ones more often
        world = replace(random_world(rng, longest=1, history=1, candidates=length), neighbours=0)
        if contrast:
            groups.append(_each_followed(world, chat, rng, n_calls, start))
        else:
            turns = teacher.scripted_ranking(world, rng, teacher.some_tools(rng, n_calls, teacher.LIST_TOOLS))
            groups.append([teacher.run_script(turns, world, chat, "rank", start)])
    return groups


def _each_followed(
    world: TaskContext, chat: ChatFormat, rng: np.random.Generator, n_calls: int, prompt: list[int]
) -> list[Trajectory]:
    """The same calls, then an answer by each list that they showed; calls and observations count as prompt."""
    tools = [str(tool) for tool in rng.choice(teacher.LIST_TOOLS, size=n_calls)]
    if len(prompt) > 10 and n_calls > 1:  # whole worlds: something else may stand between the lists
        tools[int(rng.integers(n_calls - 1))] = str(rng.choice(list(TOOLS)))
    script = teacher.scripted_calls(world, rng, tools)
    turns = [[*script.turns, answer] for answer in teacher.follow_each(script)]
    return [_answer_only(teacher.run_script(row, world, chat, "rank", prompt)) for row in turns]


def _answer_only(row: Trajectory) -> Trajectory:
    """All but the last turn becomes prompt."""
    prompt, rest = row.prompt_ids + row.completion_ids[: row.last_turn], row.completion_ids[row.last_turn :]
    return replace(row, prompt_ids=prompt, completion_ids=rest, action_mask=[1] * len(rest))


def _world(chat: ChatFormat, rng: np.random.Generator, n_calls: int, favour: float) -> list[Trajectory]:
    context, tools = random_world(rng), partial(teacher.some_tools, rng, n_calls, favour=favour)
    if rng.random() < PAIRS:
        kind = str(rng.choice(["more", "less"]))
        pair = tuple((rng.choice(N_CANDIDATES, 2, replace=False) + 1).tolist())
        prompt = chat.prompt_ids(context, kind, pair)
        scripts = [teacher.scripted_pair(context, rng, kind, pair, tools()) for _ in range(EPISODES)]
    else:
        kind, prompt = "rank", chat.prompt_ids(context)
        scripts = [teacher.scripted_ranking(context, rng, tools()) for _ in range(EPISODES)]
    return [teacher.run_script(turns, context, chat, kind, prompt) for turns in scripts]
