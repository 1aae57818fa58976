"""One prompt that a policy is asked: of rollouts, of evaluation, of pairs, and of training alike."""

from dataclasses import dataclass

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.tools import TaskContext


@dataclass(frozen=True)
class Question:
    """One prompt and its right answer.

    Attributes:
        task_id: Of the ranking task, with a suffix for pair-wise questions.
        context: Tools; of a pair-wise question, with its pair.
        kind: "rank", "more" or "less".
        right: The positive's candidate number, or "A" / "B".
        candidates: Item codes, for the log.
    """

    task_id: str
    context: TaskContext
    kind: str
    right: int | str
    candidates: tuple[int, ...] = ()

    def group(self, chat: ChatFormat, copies: int, max_calls: int) -> Group:
        """Its prompt, with a fresh environment for each of so many rollouts."""
        environments = [RankingEnvironment(self.context, self.kind, max_calls) for _ in range(copies)]
        return Group(self.task_id, chat.prompt_ids(self.context, self.kind), environments)
