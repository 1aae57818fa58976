"""What nano is taught with: drills of bare lists first, then whole worlds, as batches of scripted trajectories."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agenticrec_lite.agent import teacher
from agenticrec_lite.agent.prompts import ChatFormat, system_prompt, task_prompt
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.nano.worlds import N_CANDIDATES, random_world, with_other_tools
from agenticrec_lite.tools import TOOLS, TaskContext, tools_of
from agenticrec_lite.tools.behavior import MOODS

MOST_CANDIDATES = 100
DRILL_TOKENS = 1500  # about, a batch
LESSON_TOKENS = 4500  # about, a batch of whole worlds
EPISODES = 2  # scripted trajectories a prompt, one of a long one; they share its forward pass
PAIRS = 0.25  # share of the worlds that ask a pair-wise question
LISTS_ALONE = ("get_similar_users", "get_similar_items", "get_session_behavior")  # the tools of most drills
TELLS_MOOD = "get_rating_behavior"

Batch = list[list[Trajectory]]  # trajectories that share a prompt, a list each


@dataclass(frozen=True)
class Lesson:
    """What a batch is about; its trajectories are of similar length.

    Attributes:
        kind: A kind of DRILLS; or "worlds", whole tasks; or "habits", whole tasks whose teachers have a habit.
        n_calls: Tool calls before the calculator's and the answer.
        size: Of worlds: "short" (titles of a word, two items of history), "usual", "long" (titles of 80 characters) or
            "many" (21 to 100 candidates).
        other_tools: Share of the worlds with other tools than the package's.
        mistakes: Share of the calls in worlds with a mistake before them.
    """

    kind: str
    n_calls: int
    size: str = "usual"
    other_tools: float = 0.0
    mistakes: float = 0.0


def batch(lesson: Lesson, chat: ChatFormat, rng: np.random.Generator) -> Batch:
    """Scripted trajectories of one kind, all with the same number of calls."""
    make, most = (_drill, DRILL_TOKENS) if lesson.kind in DRILLS else (_world, LESSON_TOKENS)
    groups: Batch = []
    tokens = 0
    while tokens < most:
        groups.append(make(lesson, chat, rng))
        tokens += len(groups[-1][0].prompt_ids) + sum(len(row.completion_ids) for row in groups[-1])
    return groups


def lesson_world(size: str, rng: np.random.Generator, other_tools: float) -> TaskContext:
    """A generated world of a lesson's size, some of them with other tools."""
    if size == "many":
        world = random_world(rng, longest=3, candidates=int(rng.integers(N_CANDIDATES + 1, MOST_CANDIDATES + 1)))
    elif size == "long":
        world = random_world(rng, longest=None)
    elif size == "short":
        world = random_world(rng, longest=1, history=2, candidates=int(rng.integers(10, 13)))
        world = replace(world, neighbours=1)
    else:
        world = random_world(rng, candidates=N_CANDIDATES if rng.random() < 0.8 else int(rng.integers(10, 31)))
    return with_other_tools(rng, world) if rng.random() < other_tools else world


# A drill teaches one kind of copying, from next to nothing that could distract. Nearly all that nano does is to copy:
# numbers in the order of a list, names of lists, names of tools, one word of the question. In whole worlds, where the
# places to copy from lie far apart, it learns each of these late or not at all; after the drills it only has to find
# the places. Of a verdict the last turn alone is learnt, and of a rule the one name that follows from it: beside these,
# the teacher's dice (which tool, which weights) are noise that no policy can foresee, and drown them. (Learnt from all
# tokens, a rule was followed by chance after 250 batches; from the one, in 9 of 10 after 200.)
DRILLS = {
    "scores": "the last list is followed, number by number, between the scores",
    "weighed": "lists are weighed, and the order of the calculator is followed",
    "many": "the same with 20 to 100 candidates",
    "names": "tools are called that only the prompt names",
    "rule": "a thought says which list to trust in which mood, and trusts it in the mood that a tool has told",
    "verdict": "a pair is answered by the first or the last of weighed evidence, as one word of the question says",
}


def _drill(lesson: Lesson, chat: ChatFormat, rng: np.random.Generator) -> list[Trajectory]:
    """A trajectory with as little before it as its kind needs.

    The lists are of any length. Were they all as long, the policy would learn to copy from a fixed distance, and never
    to look for the number it wrote last; were short ones as frequent, it would seldom meet the high numbers. (Answers
    about short lists have fewer than ten numbers; the environment would not accept them, but nothing here asks it.)
    Observations are learnt from as well, with less weight: that a list names each number once helps to find the place
    where one stands.
    """
    length = max(2, int(np.ceil(N_CANDIDATES * rng.random() ** 0.5)))  # of any length, but long ones more often
    if lesson.kind == "many":
        length = int(rng.integers(N_CANDIDATES, MOST_CANDIDATES + 1))
    world, kind = replace(random_world(rng, longest=1, history=1, candidates=length), neighbours=0), "rank"
    before = ""
    if lesson.kind == "names":
        world = with_other_tools(rng, world)
        before = f"<|im_start|>system\n{system_prompt(chat.brief, tools_of(world))}<|im_end|>\n"
    else:
        bare = [*LISTS_ALONE] if lesson.kind == "scores" else [*LISTS_ALONE, "weigh_evidence"]
        bare += ["candidates_analyze", TELLS_MOOD] if lesson.kind == "rule" else []
        world = replace(world, tools={name: TOOLS[name] for name in bare})
    if lesson.kind == "verdict":
        world, kind = asked(world, rng, 1.0)
        before = f"<|im_start|>user\n{task_prompt(world, kind).splitlines()[-1]}<|im_end|>\n"
    start = chat.tokenizer.encode(f"{before}<|im_start|>assistant\n", add_special_tokens=False)
    habit, n_calls = teacher.NO_HABIT, lesson.n_calls
    if lesson.kind == "rule":
        world = replace(world, ratings=[*world.ratings[:-1], float(rng.integers(1, 6))])
        habit, n_calls = teacher.Habit(ask={TELLS_MOOD: 1e9}), n_calls + 1
    trajectory = teacher.run_script(teacher.demonstration(rng, n_calls, habit), world, chat, kind, start)
    if lesson.kind == "verdict":
        last = trajectory.last_turn
        trajectory.action_mask = [0] * last + trajectory.action_mask[last:]
    if lesson.kind == "rule":
        trusted = place_of_trust(trajectory.completion_ids, chat)
        trajectory.action_mask = [1 if i == trusted else -1 for i in range(len(trajectory.completion_ids))]
    return [trajectory]


def place_of_trust(ids: Sequence[int], chat: ChatFormat) -> int:
    """Where, in a trajectory with a rule, the name of the list stands that follows from the rule."""
    pieces = [chat.tokenizer.decode([token]) for token in ids]
    before = re.search(rf".*User ({'|'.join(MOODS)}):", "".join(pieces), re.DOTALL)
    return int(np.searchsorted(np.cumsum([len(piece) for piece in pieces]), before.end())) + 1


def asked(world: TaskContext, rng: np.random.Generator, pairs: float) -> tuple[TaskContext, str]:
    """The world with its question: the ranking, or, with the probability `pairs`, a pair."""
    if rng.random() >= pairs:
        return world, "rank"
    a, b = (rng.choice(len(world.candidates), 2, replace=False) + 1).tolist()
    return replace(world, pair=(a, b)), str(rng.choice(["more", "less"]))


def _world(lesson: Lesson, chat: ChatFormat, rng: np.random.Generator) -> list[Trajectory]:
    world, kind = asked(lesson_world(lesson.size, rng, lesson.other_tools), rng, PAIRS)
    habit, prompt = teacher.HABIT if lesson.kind == "habits" else teacher.NO_HABIT, chat.prompt_ids(world, kind)
    n = EPISODES if lesson.size in ("short", "usual") else EPISODES // 2
    scripts = [teacher.demonstration(rng, lesson.n_calls, habit, lesson.mistakes) for _ in range(n)]
    return [teacher.run_script(script, world, chat, kind, prompt) for script in scripts]
