"""Pair-wise questions as a measurement: both directions, both orders, the log-odds behind a letter, intervals."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.scoring import pad, predictor_states, token_logprobs
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.agent.vllm_engine import play
from agenticrec_lite.evaluation.metrics import user_bootstrap
from agenticrec_lite.policy import Policy, autocast, base_model, merged
from agenticrec_lite.rewards import pairwise_reward
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.training.mining import HardNegative

ANSWER = "<answer>"


def four_questions(pair: HardNegative, context: TaskContext) -> list[Question]:
    """A pair in both directions and both orders: more AB, more BA, less AB, less BA; in AB the positive is A."""
    shown = (pair.positive, pair.negative)
    return [
        Question(f"{pair.task_id}:{kind}:{order}", replace(context, pair=shown[::step]), kind, "A" if same else "B")
        for kind in ("more", "less")
        for order, step, same in (("AB", 1, kind == "more"), ("BA", -1, kind == "less"))
    ]


def ask(policy: Policy, questions: Sequence[Question], agent: dict) -> list[Trajectory]:
    """One greedy trajectory a question, rewarded.

    Args:
        policy: As it is.
        questions: Pair-wise ones.
        agent: The profile's `agent` section.
    """
    chat = ChatFormat.of_policy(policy)
    groups = [question.group(chat, 1, agent["max_calls"]) for question in questions]
    played = play(policy, chat, groups, Sampling.of(agent, 0.0), agent)
    for trajectory, question in zip(played, questions, strict=True):
        trajectory.reward = pairwise_reward(trajectory, question.right)
    return played


@torch.no_grad()
def letter_log_odds(policy: Policy, trajectories: Sequence[Trajectory], batch_rows: int = 32) -> np.ndarray:
    r"""log p(A) - log p(B) at the place of the letter in \boxed{ } [n]; nan where no answer was begun.

    All that the trajectory wrote and read before its answer stands before the letter. If it answered with a list, the
    letter is what it would have written had it been held to the format.
    """
    chat = ChatFormat.of_policy(policy)
    forced = {i: found for i, t in enumerate(trajectories) if (found := _before_the_letter(t, chat))}
    odds, rows = np.full(len(trajectories), np.nan), sorted(forced, key=lambda i: len(forced[i][0]))
    policy.model.eval()
    with merged(base_model(policy.model)), autocast(policy.model):
        for some in (rows[start : start + batch_rows] for start in range(0, len(rows), batch_rows)):
            odds[some] = _log_odds(policy.model, [forced[i] for i in some])
    return odds


def deltas(log_odds: ArrayLike, questions: Sequence[Question]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a pair's four letters say, in nats: of "more" [n], of "less" [n], and the leaning towards A [n].

    The first two are log-odds of the right answer, averaged over both orders: a liking for a letter cancels out. With
    one score behind both questions they would be equal, and be Proposition 2's s(positive) - s(negative).

    Args:
        log_odds: log p(A) - log p(B) [4 n], in the order of `four_questions`.
        questions: The same questions.
    """
    odds = np.asarray(log_odds, dtype=float).reshape(-1, 4)
    right = np.where(np.array([q.right for q in questions]).reshape(-1, 4) == "A", odds, -odds)
    return right[:, :2].mean(1), right[:, 2:].mean(1), odds.mean(1)


def mean_interval(values: ArrayLike, users: ArrayLike) -> tuple[float, float, float]:
    """Mean of anything measured a task [n], and the ends of its 95 % interval when users are resampled."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), *user_bootstrap(values[:, None], users)[0].tolist()


def _before_the_letter(trajectory: Trajectory, chat: ChatFormat) -> tuple[list[int], int, int] | None:
    """All tokens up to the letter, and the tokens that would make it A and B; None if no answer was begun."""
    start = trajectory.last_turn
    text = chat.turn_text(trajectory.completion_ids[start:])
    if ANSWER not in text:
        return None
    stem = text[: text.rindex(ANSWER)] + ANSWER + "\\boxed{"
    a, b = (chat.turn_ids(stem + letter + "}") for letter in "AB")
    same = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return trajectory.prompt_ids + trajectory.completion_ids[:start] + a[:same], a[same], b[same]


def _log_odds(model, forced: Sequence[tuple[list[int], int, int]]) -> np.ndarray:
    """Of a batch of (tokens, A, B) [n]."""
    prompts, prompt_mask = pad([tokens for tokens, _, _ in forced], 0, left=True)
    letters = torch.tensor([[a, b] for _, a, b in forced])
    ones = torch.ones(len(forced), 1, dtype=torch.long)
    batch = [x.to(model.device) for x in (prompts, prompt_mask, letters[:, :1], ones, torch.arange(len(forced)))]
    states = predictor_states(model, *batch)[:, 0]
    log_p = [token_logprobs(model, states, column.to(model.device))[0] for column in letters.T]
    return (log_p[0] - log_p[1]).float().cpu().numpy()
