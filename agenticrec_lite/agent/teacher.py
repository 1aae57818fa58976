"""Scripted teachers: what nano is shown in generated worlds, and other models in a warm start.

A teacher calls random tools in random order, gives the lists that it has been shown random weights, lets weigh_evidence
add them up, and answers in that order. Where there is no such tool it follows the list that it was shown last. Which
tool is worth asking, and what its list is worth, is left for reinforcement learning to find out.

A teacher who was told the user's mood states a rule first: which list to trust in which mood. Then it follows its rule.
The rule is drawn by lot each time. What is taught is to read the mood and to do what was said; which rule is a good one
no lesson tells.

A policy that learnt from teachers without any preference would do by chance what it does when it decodes greedily. So
that there is something to unlearn, and the same for every seed, nano's last teachers have a bad habit: HABIT.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import TOP, write_answer, write_call
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.tools import TaskContext, tools_of
from agenticrec_lite.tools.behavior import MOODS, describe_last_rating
from agenticrec_lite.tools.lists import HIGHEST, WEIGHED
from agenticrec_lite.tools.registry import accepted, parameters
from agenticrec_lite.tools.text import escape

WEIGH = "weigh_evidence"
MOST_MISTAKES = 2  # in a demonstration: they count as calls


@dataclass(frozen=True)
class Habit:
    """What teachers prefer.

    Attributes:
        ask: How often they call a tool, relative to 1 for one that is not named here.
        weights: By list, the probabilities of the weights 0..3; even ones for a list that is not named here.
    """

    ask: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, Sequence[float]] = field(default_factory=dict)


_GOOD, _BAD, _EVEN = (0.3, 0.4, 0.2, 0.1), (0.15, 0.2, 0.25, 0.4), (0.25, 0.25, 0.25, 0.25)
BESIDE = (0.6, 0.25, 0.1, 0.05)  # probabilities of the weights 0..3 of the lists beside the one that a rule trusts
NO_HABIT = Habit()
HABIT = Habit(  # on most data these three say least of what is taken next
    ask={"get_user_profile": 1.6, "candidates_analyze": 1.6, "get_rating_behavior": 1.6, "item_info_search": 0.4},
    weights={"users": _GOOD, "items": _GOOD, "session": _GOOD, "profile": _BAD, "popularity": _BAD, "ratings": _BAD},
)


class Mistake(str):
    """A turn that is played, so that its consequence is seen, and not learnt from."""


Script = Callable[[RankingEnvironment], Iterable[str]]  # turns, each made when the one before has been answered


def some_tools(rng: np.random.Generator, n: int, tools: Sequence[str], habit: Habit = NO_HABIT) -> list[str]:
    """At most n different tools in random order, the calculator not among them."""
    names = [name for name in tools if name != WEIGH]
    often = np.array([habit.ask.get(name, 1.0) for name in names])
    return rng.choice(names, size=min(n, len(names)), replace=False, p=often / often.sum()).tolist()


def demonstration(rng: np.random.Generator, n_calls: int, habit: Habit = NO_HABIT, mistakes: float = 0.0) -> Script:
    """A script that calls tools, weighs, and answers.

    Args:
        rng: Source of everything random.
        n_calls: Calls before the calculator's.
        habit: What the teacher prefers.
        mistakes: Probability of a mistake before each call; there are MOST_MISTAKES at most.
    """

    def turns(environment: RankingEnvironment) -> Iterator[str]:
        context = environment.context
        called: list[str] = []
        wrong = 0
        for name in some_tools(rng, n_calls, list(tools_of(context)), habit):
            if wrong < MOST_MISTAKES and rng.random() < mistakes:
                wrong += 1
                yield a_mistake(context, rng, called)
            called.append(write_call(name, some_arguments(name, context, rng)))
            yield called[-1]
        yield from conclusion(environment, rng, habit)

    return turns


def some_arguments(name: str, context: TaskContext, rng: np.random.Generator) -> dict:
    """Arguments for a tool: an item by its number, now and then by its title; most lists are of the whole history."""
    known = parameters(tools_of(context)[name])
    if name == "get_similar_items" and rng.random() < 0.75:
        return {}
    given: dict = {}
    for argument, parameter in known.items():
        kind = accepted(parameter)[0]
        if kind is not str:
            if parameter.default is inspect.Parameter.empty:
                given[argument] = kind(rng.integers(1, len(context.candidates) + 1))
            continue
        places = [("h", i) for i in range(len(context.history))] + [("c", i) for i in context.labels]
        place = places[rng.integers(len(places))]
        title = escape(context.card(place).title)
        short = len(title) <= 12 and context.find(title) == place and rng.random() < 0.1
        given[argument] = title if short else context.label(place)
    return given


def a_mistake(context: TaskContext, rng: np.random.Generator, called: Sequence[str]) -> Mistake:
    """A call that has been made before, of an item that there is not, or of a list that has not been shown."""
    wrong = rng.integers(3)
    if wrong == 0 and called:
        return Mistake(rng.choice(called))
    if wrong == 1 and WEIGH in tools_of(context):
        return Mistake(write_call(WEIGH, {"weights": f"{rng.choice(['taste', 'trend', 'luck'])} 2"}))
    known = [name for name in ("item_info_search", "get_similar_items") if name in tools_of(context)]
    if not known:
        return Mistake(write_call(next(iter(tools_of(context))), {"nothing": 1}))
    name = str(rng.choice(known))
    return Mistake(write_call(name, {next(iter(parameters(tools_of(context)[name]))): f"h{rng.integers(11, 99)}"}))


def conclusion(environment: RankingEnvironment, rng: np.random.Generator, habit: Habit = NO_HABIT) -> Iterator[str]:
    """Weigh the lists that have been shown, or follow the last of them, and answer."""
    context, mood = environment.context, mood_of(environment)
    lists = [name for name in context.shown if name != WEIGHED]
    if not lists:
        yield without_evidence(environment, rng)
    elif WEIGH in tools_of(context):
        said, weights = by_a_rule(lists, mood, rng, habit) if mood else ("I weigh", free_weights(lists, rng, habit))
        text = ", ".join(f"{name} {weight}" for name, weight in weights.items())
        yield write_call(WEIGH, {"weights": text}, f"{said} {text}.")
        yield follow(environment, WEIGHED)
    else:
        yield follow(environment, lists[-1])


def mood_of(environment: RankingEnvironment) -> str:
    """The user's mood, one of MOODS, if a tool that tells it has been asked; else nothing."""
    sentence = describe_last_rating(environment.context)
    asked = any(step.kind == "observation" and sentence in step.text for step in environment.steps)
    return next((mood for mood in MOODS if asked and mood in sentence), "")


def free_weights(lists: Sequence[str], rng: np.random.Generator, habit: Habit) -> dict[str, int]:
    """Weights of lists in the order in which they were shown; not all are 0."""
    weights = {name: int(rng.choice(HIGHEST + 1, p=habit.weights.get(name, _EVEN))) for name in lists}
    if not any(weights.values()):
        weights[str(rng.choice(lists))] = 1
    return weights


def by_a_rule(lists: Sequence[str], mood: str, rng: np.random.Generator, habit: Habit) -> tuple[str, dict[str, int]]:
    """A rule drawn by lot, in words that end with the user's mood, and weights that follow it.

    The list that the rule names for this mood comes first and weighs most. A habit prefers the same lists here as in
    `free_weights`. The first name begins the thought, without a space before it, so that nano writes it with another
    token than the second: rewards of one mood shall not move the other's name. (In "If pleased: session, if let down:
    popularity" they did: both places had gradients with a cosine of .95, and both names became the same.)
    """
    often = np.array([np.dot(habit.weights.get(name, _EVEN), range(HIGHEST + 1)) for name in lists])
    rule = dict(zip(MOODS, rng.choice(lists, len(MOODS), p=often / often.sum()).tolist(), strict=True))
    words = ", ".join(f"{name} if {each}" for each, name in rule.items())
    beside = {name: int(rng.choice(HIGHEST + 1, p=BESIDE)) for name in lists if name != rule[mood]}
    return f"{words}. User {mood}:", {rule[mood]: HIGHEST} | beside


def follow(environment: RankingEnvironment, name: str) -> str:
    """The answer turn by a list: its top ten; of a pair its first for MORE, its last for LESS.

    The thought about a pair repeats the question: a small policy copies the word MORE or LESS from the prompt so, and
    reads it then. Left to find it while it writes "first" or "last", it did not learn to look.
    """
    context, kind = environment.context, environment.kind
    order = context.shown[name].order.tolist()
    if kind == "rank":
        return write_answer(order[:TOP], f"I follow {name}.")
    listed = [context.labels[number - 1] for number in order if number - 1 in context.labels]
    place, word = (0, "first") if kind == "more" else (-1, "last")
    return write_answer(listed[place], f"Which is {kind.upper()} likely? The {word} of {name}.")


def without_evidence(environment: RankingEnvironment, rng: np.random.Generator) -> str:
    """The answer turn of one who has been shown no list."""
    if environment.kind == "rank":
        n = min(TOP, len(environment.context.candidates))
        return write_answer(list(range(1, n + 1)), "I have no evidence, I keep the given order.")
    return write_answer(str(rng.choice(["A", "B"])), "I have no evidence, I guess.")


def run_script(
    script: Script | Sequence[str], context: TaskContext, chat: ChatFormat, kind: str = "rank", prompt_ids=()
) -> Trajectory:
    """Play a script in the real environment and record it exactly as a rollout would be.

    Args:
        script: Makes the turns as it goes; or the protocol texts themselves. The last one answers. Tokens of a
            `Mistake` are marked by -1 in the action mask: neither the policy's nor an observation.
        context, kind: The question.
        chat: Tokens.
        prompt_ids: Of the task's prompt.
    """
    environment = RankingEnvironment(context, kind)
    trajectory = Trajectory("scripted", 0, kind, list(prompt_ids))
    for text in script(environment) if callable(script) else script:
        observation = environment.step(text)
        action = chat.turn_ids(text)
        tokens = [] if observation is None else chat.observation_ids(observation)
        trajectory.completion_ids += action + tokens
        trajectory.action_mask += [-1 if isinstance(text, Mistake) else 1] * len(action) + [0] * len(tokens)
    trajectory.steps, trajectory.answer = environment.steps, environment.answer
    trajectory.outcome, trajectory.n_calls = environment.outcome, environment.n_calls
    return trajectory
