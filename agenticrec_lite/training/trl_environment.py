"""The ranking task as an environment of trl's own trainer: `GRPOTrainer(environment_factory=..., train_dataset=...)`.

For those who bring a trainer of their own. It differs from the course's protocol in what trl decides: the tools' JSON
schemas go into the prompt, a turn may hold several calls, and the answer is a call as well (`submit`), since trl shows
an environment nothing else of what the policy writes.

    GRPOTrainer(model, train_dataset=Dataset.from_list([row(question) for question in questions]),
                environment_factory=environment_factory(questions), args=...)

trl applies the chat template here; `chat_template_kwargs={"enable_thinking": False}` in its arguments switches off
thinking.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace

from agenticrec_lite.agent.prompts import system_prompt, task_prompt
from agenticrec_lite.agent.protocol import TOP
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.errors import UserError
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.tools import call_tool, tools_of
from agenticrec_lite.tools.registry import as_method


def row(question: Question, brief: bool = True) -> dict:
    """A ranking question as a row of trl's dataset: its prompt, and the id by which the environment knows it.

    Args:
        question: Of kind "rank".
        brief: Whether the system prompt names each tool in one line.
    """
    prompt = [
        {"role": "system", "content": system_prompt(brief, tools_of(question.context))},
        {"role": "user", "content": task_prompt(question.context)},
    ]
    return {"prompt": prompt, "task_id": question.task_id}


def environment_factory(
    questions: Sequence[Question], reward: Callable[[Trajectory, int], float] = listwise_reward, max_calls: int = 10
) -> type:
    """A class whose instances trl asks: `reset` begins a question, each tool is a method, `get_reward` ends it.

    Args:
        questions: That the dataset's rows name, of kind "rank", all with the same tools.
        reward: (trajectory, positive) -> reward. Of the trajectory it finds outcome, answer and n_calls.
        max_calls: Tool calls before the trajectory is invalid ("over_budget").

    Raises:
        UserError: No question; a question of another kind, or with other tools than the first.
    """
    if not questions:
        raise UserError("An environment needs at least one question.")
    known, tools = {question.task_id: question for question in questions}, tools_of(questions[0].context)
    if any(question.kind != "rank" or tools_of(question.context) != tools for question in questions):
        raise UserError("The questions of one environment must all be of kind 'rank' and have the same tools.")

    class Ranking:
        """One task at a time; trl makes one for each rollout and uses it again."""

        def reset(self, task_id: str, **_) -> None:
            """Begin a question."""
            self._question, self._answer, self._calls = known[task_id], None, 0
            self._context = replace(self._question.context, shown={})

        def submit(self, ranking: list[int]) -> str:
            """Give the final answer.

            Args:
                ranking: The ten best candidate numbers, best first.
            """
            n = len(self._question.context.candidates)
            whole = isinstance(ranking, list) and all(type(number) is int and 1 <= number <= n for number in ranking)
            if not whole or len(ranking) != TOP or len(set(ranking)) != TOP:
                return f"Error: an answer is {TOP} different candidate numbers from 1 to {n}."
            if self._answer is None:  # the first valid answer counts
                self._answer = ranking
            return "Thank you."

        def get_reward(self) -> float:
            """The reward of what has been submitted."""
            over = self._calls > max_calls
            outcome = "over_budget" if over else "answered" if self._answer else "length"
            answer = None if over else self._answer
            played = Trajectory(self._question.task_id, 0, "rank", [], answer=answer, outcome=outcome)
            played.n_calls = self._calls
            return float(reward(played, self._question.right))

    for name, tool in tools.items():
        setattr(Ranking, name, _method(name, tool))
    return Ranking


def _method(name: str, tool: Callable[..., str]) -> Callable[..., str]:
    """A tool as a method of the environment, with the signature and docstring that trl makes a schema of."""

    def method(self, **arguments) -> str:
        self._calls += 1
        return call_tool(name, arguments, self._context)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    plain = as_method(tool)
    signature = inspect.signature(plain)
    method.__name__, method.__doc__ = name, tool.__doc__
    method.__signature__ = signature.replace(parameters=[own, *signature.parameters.values()])
    method.__annotations__ = plain.__annotations__
    return method
