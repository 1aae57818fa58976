"""The one trajectory type: produced once by the engine, read by rewards, training, mining, viewer and evaluation."""

from dataclasses import asdict, dataclass, field, fields

OUTCOMES = ("answered", "bad_turn", "bad_answer", "over_budget", "length")
TOKENS = ("prompt_ids", "completion_ids", "action_mask", "logprobs")  # fields with a value a token


@dataclass
class Step:
    """A piece of a trajectory: kind is "think", "call", "observation", "answer" or "invalid"."""

    kind: str
    text: str
    tool: str | None = None
    arguments: dict | None = None


@dataclass
class Trajectory:
    """One rollout of a policy on one task.

    Attributes:
        task_id: Of the ranking task.
        group: Number of the group (all rollouts of one prompt) within its batch.
        kind: Of the question: "rank", "more" or "less".
        prompt_ids: Token ids of the prompt [P].
        completion_ids: Token ids after the prompt, policy and observations [C].
        action_mask: 1 where the policy wrote the token, 0 for observations [C].
        logprobs: log pi(token) at the sampling temperature, 0 for observations [C].
        steps: What happened, in order.
        answer: Ten candidate numbers, "A" / "B", or None if there was no valid answer.
        outcome: "answered", or why there is no answer: "bad_turn", "bad_answer", "over_budget" (an eleventh call),
            "length".
        n_calls: Tool calls made.
        reward, advantage, dropped: Filled in by training.
    """

    task_id: str
    group: int
    kind: str
    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    action_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answer: list[int] | str | None = None
    outcome: str = "length"
    n_calls: int = 0
    reward: float | None = None
    advantage: float | None = None
    dropped: bool = False

    @property
    def valid(self) -> bool:
        return self.outcome == "answered"

    @property
    def last_turn(self) -> int:
        """Where in the completion the policy's last turn begins."""
        return max((i + 1 for i, own in enumerate(self.action_mask) if not own), default=0)

    def row(self) -> dict:
        """The part that is logged in a run folder: text, not tokens."""
        logged = [each.name for each in fields(self) if each.name not in TOKENS]
        return {name: getattr(self, name) for name in logged} | {"steps": [asdict(step) for step in self.steps]}
