"""What a trajectory's record says of its evidence: which lists it was shown, what it gave them, what it followed.

Read from text, so that rows of a run folder can be read as trajectories can.
"""

import re
from collections.abc import Mapping

from agenticrec_lite.agent.protocol import TOP
from agenticrec_lite.agent.trajectory import Step, Trajectory
from agenticrec_lite.tools import ToolError
from agenticrec_lite.tools.behavior import MOODS
from agenticrec_lite.tools.lists import WEIGHED, read_weights
from agenticrec_lite.tools.registry import ERROR

_SOURCE = re.compile(r"(?:I follow|[Tt]he (?:first|last) of) (.+)\.$")
_TOLD = re.compile(rf"Last rated [\d.]+ stars?: ({'|'.join(MOODS)})\.")
_RULE = re.compile(r"([^\s.,][^.,\n]*?) if pleased, (.+?) if let down\. User (pleased|let down): (.+?) \d(?:,|\.)")
_LIST = re.compile(r"^Candidates by (?P<name>[^:\n]+): (?P<pairs>\w+(?::\d+)?(?:, \w+(?::\d+)?)*)$", re.M)


def steps_of(trajectory: Trajectory | Mapping) -> list[Step]:
    """The steps of a trajectory, or of its row in a run folder."""
    return [Step(**step) for step in trajectory["steps"]] if isinstance(trajectory, Mapping) else trajectory.steps


def lists_of(trajectory: Trajectory | Mapping) -> dict[str, list[str]]:
    """The lists that were shown, by name: labels of the candidates, best first. The last of a name counts."""
    shown = {}
    for step in steps_of(trajectory):
        if step.kind == "observation":
            for match in _LIST.finditer(step.text):
                shown[match["name"]] = [pair.split(":")[0] for pair in match["pairs"].split(", ")]
    return shown


def weights_of(trajectory: Trajectory | Mapping) -> dict[str, int]:
    """The weights of the last call of weigh_evidence that had an answer; empty if there was none."""
    steps, given = steps_of(trajectory), {}
    for call, after in zip(steps, steps[1:], strict=False):
        answered = after.kind == "observation" and not after.text.startswith(ERROR)
        if call.kind == "call" and call.tool == "weigh_evidence" and answered:
            try:
                given = read_weights((call.arguments or {}).get("weights", ""))
            except ToolError:  # of another tool that bears this name
                continue
    return given


def mood_told(trajectory: Trajectory | Mapping) -> str | None:
    """The user's mood, as a tool has told it; None if no tool that tells it was asked."""
    told = "\n".join(step.text for step in steps_of(trajectory) if step.kind == "observation")
    found = _TOLD.search(told)
    return found[1] if found else None


def rule_of(trajectory: Trajectory | Mapping) -> tuple[dict[str, str], str, str] | None:
    """The last rule that a thought states; None if there is none.

    Returns:
        The list to trust by mood; the user's mood, as the thought says it; the list that the thought then weighs first.
    """
    thoughts = "\n".join(step.text for step in steps_of(trajectory) if step.kind == "think")
    stated = _RULE.findall(thoughts)
    if not stated:
        return None
    pleased, let_down, mood, first = stated[-1]
    return dict(zip(MOODS, (pleased, let_down), strict=True)), mood, first


def followed(trajectory: Trajectory | Mapping) -> str | None:
    """The list that the last thought says the answer follows; None if it names none."""
    thoughts = [step.text for step in steps_of(trajectory) if step.kind == "think"]
    match = _SOURCE.search(thoughts[-1]) if thoughts else None
    return match[1] if match else None


def evidence_of(trajectory: Trajectory | Mapping) -> dict[str, int]:
    """The weights behind an answer, by list: those that were weighed, without zeros, or 1 for a list that it copies."""
    name = followed(trajectory)
    if name == WEIGHED:
        return {each: weight for each, weight in weights_of(trajectory).items() if weight}
    return {name: 1} if name in lists_of(trajectory) else {}


def declared_answer(trajectory: Trajectory) -> list[int] | str | None:
    """The answer by the list that the last thought says it follows; None if it names none that has been shown."""
    order = lists_of(trajectory).get(followed(trajectory))
    if order is None:
        return None
    return [int(label) for label in order[:TOP]] if trajectory.kind == "rank" else order[-(trajectory.kind == "less")]
