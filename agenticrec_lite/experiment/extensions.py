"""What a user brings to an experiment in place of the package's own parts, and the names by which a run knows it.

Each field is a door: a function or class handed to `start`. What differs from the default is named in config.yaml
(`extensions.reward: my_notebook.my_reward 1a2b3c4d`), so that a run folder refuses to go on with another one, and a
report does not pool runs that had different ones.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Protocol

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.tasks import RankingTask, random_candidates
from agenticrec_lite.errors import UserError
from agenticrec_lite.recommenders import RECOMMENDERS, Recommender
from agenticrec_lite.rewards import listwise_reward, pairwise_reward
from agenticrec_lite.tools import TOOLS, TaskContext, check_tools
from agenticrec_lite.tools.toolbox import Toolbox

Reward = Callable[[Trajectory, int | str], float]


class EvidenceSource(Protocol):
    """What the tools know: made once from past interactions, asked for the context of each task."""

    def contexts(self, tasks: Sequence[RankingTask]) -> list[TaskContext]: ...


@dataclass(frozen=True)
class Extensions:
    """The parts of an experiment that can be exchanged.

    Attributes:
        tools: What the policy may call: typed functions with a docstring, (context, arguments) -> text.
        reward: Of stage 1, and of the rankings rehearsed in stage 2: (trajectory, positive's number) -> number.
        pair_reward: Of stage 2's pair questions: (trajectory, "A" or "B") -> number.
        advantages: (rewards [n * G], G) -> advantages [n * G] and which groups are dropped [n]; by default those of
            the stage's setting `scale_rewards`.
        evidence: (log, rows to fit on, seed, neighbours=...) -> an EvidenceSource.
        candidates: (random generator, pool, n) -> n item codes in the order shown; see `data.tasks`.
        recommenders: Further baselines by name: classes with fit and score, made without arguments.
    """

    tools: Sequence[Callable[..., str]] = tuple(TOOLS.values())
    reward: Reward = listwise_reward
    pair_reward: Reward = pairwise_reward
    advantages: Callable | None = None
    evidence: Callable[..., EvidenceSource] = Toolbox.fit
    candidates: Callable = random_candidates
    recommenders: Mapping[str, Callable[[], Recommender]] = field(default_factory=dict)

    def __post_init__(self):
        """Raises UserError if a part cannot be what it is meant to be."""
        check_tools(self.tools)
        for name in ("reward", "pair_reward", "advantages", "evidence", "candidates"):
            part = getattr(self, name)
            if not callable(part) and (name, part) != ("advantages", None):
                raise UserError(f"{name} must be a function, not {part!r}.")
        for name, kind in self.recommenders.items():
            if name in RECOMMENDERS or not name.isidentifier():
                raise UserError(f"A recommender cannot be called {name!r}; take a new name of letters, such as mine.")
            if not callable(getattr(kind, "fit", None)) or not callable(getattr(kind, "score", None)):
                raise UserError(
                    f"The recommender {name} needs the methods fit and score, as recommenders.Recommender has."
                )

    def rewarded(self, trajectory: Trajectory, right: int | str) -> float:
        """The reward of a trajectory of either stage.

        Raises:
            UserError: The reward function returned something else than a number.
        """
        function = self.reward if trajectory.kind == "rank" else self.pair_reward
        value = function(trajectory, right)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise UserError(f"The reward {function.__name__} returned {value!r}; it must return a number.") from None

    def names(self) -> dict[str, Any]:
        """By field, the names of what is not the default; empty for the package's own parts."""
        found = {}
        for each in fields(self):
            part, default = getattr(self, each.name), getattr(_DEFAULT, each.name)
            if (names := _names(part)) != _names(default):
                found[each.name] = names
        return found


def _names(part: Any) -> Any:
    if part is None:
        return None
    if isinstance(part, Mapping):
        return {name: named(inner) for name, inner in part.items()}
    return [named(inner) for inner in part] if isinstance(part, Sequence) else named(part)


def named(part: Any) -> str:
    """A name of a function, class or callable object: where it is from, what it is called, and a digest of its code.

    The digest covers its syntax (not its layout or comments), the values of its closure and its defaults. The package's
    own parts are known by their name alone. Two parts of one name and digest do the same, unless something that they
    call or read from their module differs.

    Raises:
        UserError: It is a lambda, which has no name.
    """
    if isinstance(part, partial):
        given = [*map(_value, part.args), *(f"{name}={_value(value)}" for name, value in part.keywords.items())]
        return f"{named(part.func)}({', '.join(given)})"
    part = inspect.unwrap(part)
    if not hasattr(part, "__qualname__"):
        return f"{named(type(part))}({', '.join(f'{k}={_value(v)}' for k, v in sorted(vars(part).items()))})"
    if "<lambda>" in part.__qualname__:
        raise UserError("A lambda has no name by which a run could be gone on with; write it as a function, with def.")
    name = f"{part.__module__}.{part.__qualname__}"
    return name if name.startswith("agenticrec_lite.") else f"{name} {_digest(part)}"


def _digest(part: Any) -> str:
    """Eight hexadecimal digits of what a function or class does."""
    try:
        code = ast.dump(ast.parse(textwrap.dedent(inspect.getsource(part))))
    except (OSError, TypeError, SyntaxError):  # typed into a plain Python prompt, or built by a library
        compiled = getattr(part, "__code__", None)
        code = repr((compiled.co_code, compiled.co_names)) if compiled else ""
    cells = [_value(cell.cell_contents) for cell in getattr(part, "__closure__", None) or ()]
    defaults = [_value(value) for value in getattr(part, "__defaults__", None) or ()]
    return hashlib.sha256("\n".join([code, *cells, *defaults]).encode()).hexdigest()[:8]


def _value(value: Any) -> str:
    """A value as part of a name: never an address in memory, which differs from process to process."""
    if callable(value):
        return named(value)
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


_DEFAULT = Extensions()
