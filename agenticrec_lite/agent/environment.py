"""The ranking environment: a policy's turn goes in, an observation or the end comes out."""

import json
from dataclasses import dataclass, field, replace

from agenticrec_lite.agent.protocol import parse_turn
from agenticrec_lite.agent.trajectory import Step
from agenticrec_lite.tools import TaskContext, call_tool, tools_of
from agenticrec_lite.tools.registry import ERROR

MAX_CALLS = 10
ASKED = "Nothing new: this has been asked before."


@dataclass
class RankingEnvironment:
    """One task with its tools, the call budget and the record of what happened.

    Attributes:
        context: What the tools can say; a copy of the given one, which notes the lists that this trajectory was shown.
        kind: Of the question: "rank", or "more" / "less" for a pair.
        max_calls: The call after the last allowed one ends the trajectory as "over_budget".
        steps, answer, outcome, n_calls: The record; `outcome` stays None while the trajectory goes on.
    """

    context: TaskContext
    kind: str = "rank"
    max_calls: int = MAX_CALLS
    steps: list[Step] = field(default_factory=list)
    answer: list[int] | str | None = None
    outcome: str | None = None
    n_calls: int = 0
    _answered: set[str] = field(default_factory=set, repr=False)  # calls that have had an answer

    def __post_init__(self):
        self.context = replace(self.context, shown={})

    def step(self, text: str) -> str | None:
        """Take one turn of the policy.

        Args:
            text: The turn without its end-of-turn token.

        Returns:
            The observation, or None when the trajectory has ended.
        """
        turn = parse_turn(text, self.kind, len(self.context.candidates), tools_of(self.context))
        if turn.think:
            self.steps.append(Step("think", turn.think))
        if turn.error:
            self.steps.append(Step("invalid", f"{text.strip()} -- {turn.error}"))
            return self._end("bad_answer" if turn.bad_answer else "bad_turn")
        if turn.answer is not None:
            self.steps.append(Step("answer", str(turn.answer)))
            self.answer = turn.answer
            return self._end("answered")
        call = text[text.index("<tool_call>") + 11 : text.rindex("</tool_call>")]
        self.steps.append(Step("call", call, turn.tool, turn.arguments))
        if self.n_calls >= self.max_calls:
            return self._end("over_budget")
        self.n_calls += 1
        observation = self._call(turn.tool, turn.arguments) + self._question()
        self.steps.append(Step("observation", observation, turn.tool))
        return observation

    def _call(self, tool: str, arguments: dict) -> str:
        """A tool's observation. The same question has the same answer, which is not said twice; errors are."""
        asked = json.dumps([tool, arguments], sort_keys=True)
        if asked in self._answered:
            return ASKED
        observation = call_tool(tool, arguments, self.context)
        if not observation.startswith(ERROR):
            self._answered.add(asked)
        return observation

    def _question(self) -> str:
        """A pair question, once more after each observation.

        The prompt is a thousand tokens away by then, and all that it asks hangs on one word of it.
        """
        return "" if self.kind == "rank" else f"\nWhich is {self.kind.upper()} likely, A or B?"

    def cut(self, text: str) -> None:
        """End a trajectory whose last turn did not finish within the length limit."""
        self.steps.append(Step("invalid", text))
        self._end("length")

    def _end(self, outcome: str) -> None:
        self.outcome = outcome
