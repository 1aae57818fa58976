"""A language model that ranks without tools and without training: `python -m studies.zero_shot BASE OUT.json`.

SmolLM2-135M-Instruct reads the titles of the history and of the candidates, and writes a list of numbers: list-wise
zero-shot ranking, as of Hou et al., ECIR 2024. It is held to the format, which a model of this size does not keep by
itself: at each place the likeliest number that is left. On the first test tasks of a finished run, beside its figures.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache

from agenticrec_lite.agent.protocol import TOP
from agenticrec_lite.evaluation import evaluate
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.experiment.shipped import borrow
from agenticrec_lite.policy import Policy, load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.runs import read_ranks
from agenticrec_lite.runs.files import read_json, write_json
from agenticrec_lite.tools import TaskContext
from agenticrec_lite.tools.text import escape
from studies import tables

TITLE = "Zero-shot list-wise ranking without tools"
TASKS, BESIDE = 400, ("random", "popularity", "sasrec", "frozen", "rta")
ASK = (
    "Rank the ten candidates that this user is most likely to choose next, best first. Answer with their numbers only, "
    "in square brackets, separated by commas."
)


def prompt(tokenizer, context: TaskContext) -> list[int]:
    """Token ids up to and with the bracket that opens the list."""
    history = "\n".join(f"- {escape(card.title)}" for card in context.history)
    candidates = "\n".join(f"{i + 1}. {escape(card.title)}" for i, card in enumerate(context.candidates))
    text = f"A user chose, oldest first:\n{history}\n\nCandidates:\n{candidates}\n\n{ASK}"
    turns = [{"role": "user", "content": text}]
    written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(written + "[", add_special_tokens=False)


class Numbers:
    """Log-probabilities of whole numbers, under a model whose tokenizer writes them digit by digit."""

    def __init__(self, policy: Policy, ids: list[int]):
        self.model, self.cache = policy.model, DynamicCache()
        self.digits = [policy.tokenizer.encode(str(d), add_special_tokens=False)[-1] for d in range(10)]
        self.comma = policy.tokenizer.encode("1, 1", add_special_tokens=False)[1:-1]
        self.next = self._read(ids)

    def _read(self, ids: Sequence[int]) -> torch.Tensor:
        """Log-probabilities of what follows these tokens, which are kept [V]."""
        return self.model(torch.tensor([ids]), past_key_values=self.cache).logits[0, -1].float().log_softmax(-1)

    def log_p(self, highest: int) -> np.ndarray:
        """Of 1 .. highest < 100 at this place: a number ends where no digit follows [highest]."""
        values = np.full(highest, -np.inf)
        for first in range(1, 10):
            more = [n for n in range(10 * first, 10 * first + 10) if n <= highest]
            single = float(self.next[self.digits[first]])
            if more:
                after = self._read([self.digits[first]])[self.digits].exp()
                self.cache.crop(-1)
                for number in more:
                    values[number - 1] = single + float(after[number % 10].log())
                single += float(torch.log1p(-after.sum().clamp(max=1 - 1e-6)))
            if first <= highest:
                values[first - 1] = single
        return values

    def write(self, number: int) -> None:
        self.next = self._read([self.digits[int(d)] for d in str(number)] + self.comma)


@torch.no_grad()
def rank(policy: Policy, context: TaskContext) -> list[int]:
    """The TOP best, best first; at each place the likeliest number that is left."""
    numbers, answer = Numbers(policy, prompt(policy.tokenizer, context)), []
    while len(answer) < TOP:
        values = numbers.log_p(len(context.candidates))
        values[[n - 1 for n in answer]] = -np.inf
        answer.append(int(values.argmax()) + 1)
        if len(answer) < TOP:
            numbers.write(answer[-1])
    return answer


def answer_all(experiment: Experiment, n: int, unfinished: Path) -> list[list[int]]:
    """The model's answers to the first n test tasks; what an interrupted call has left in `unfinished` is taken."""
    known = read_json(unfinished) if unfinished.exists() else {}
    smol = load_profile("smol")["policy"] | {"quantize": "none", "dtype": "float32", "gradient_checkpointing": False}
    policy = load_policy(smol, trainable=False)
    policy.model.eval()
    keys = [f"{experiment.log.name} {experiment.seed} {task.task_id}" for task in experiment.test[:n]]
    pairs = zip(keys, experiment.test_contexts[:n], strict=True)
    for key, context in tqdm(list(pairs), desc="zero-shot", unit="task"):
        if key not in known:
            known[key] = rank(policy, context)
            write_json(unfinished, known)
    return [known[key] for key in keys]


def table(base: Path, experiment: Experiment, answers: Sequence[list[int]]) -> dict:
    """The model's figures on these tasks beside those of the run."""
    tasks = experiment.test[: len(answers)]
    places = [[*answer, *{task.positive}.difference(answer)].index(task.positive) + 1
              for answer, task in zip(answers, tasks, strict=True)]  # fmt: skip
    ranks = np.where(np.array(places) > TOP, np.inf, places)
    users, known = evaluate.users_of(tasks), read_ranks(base).set_index("task_id").loc[[t.task_id for t in tasks]]
    rows = []
    for name, values in {"zero-shot": ranks, **{name: known[name].to_numpy() for name in BESIDE}}.items():
        figures, apart = summarize(values, users), paired_difference(ranks, values, users, "N@10")
        (low, high), (start, end) = figures["ci95"]["N@10"], apart["ci95"]
        rows.append({"method": name, "tasks": len(tasks), "H@1": figures["H@1"], "N@10": figures["N@10"], "low": low,
                     "high": high, "zero-shot - it": apart["difference"], "from": start, "to": end})  # fmt: skip
    first = np.bincount([answer[0] for answer in answers], minlength=21)[1:]
    favourite, share = int(first.argmax()) + 1, first.max() / first.sum()
    text = (
        "Untrained, held to the format (at each place the likeliest number that is left); weights out of a 4-bit file "
        f"(Q4_1), computed in float32. It puts the candidate shown in place {favourite} first in {share:.0%} of the "
        "tasks; 5 % would be no liking for a place."
    )
    title = f"{TITLE}: SmolLM2-135M on {experiment.log.name}"
    return {"title": title, "text": text, "rows": rows}


def main(run: str, out: str) -> None:
    base, unfinished = Path(run), Path(out).with_suffix(".unfinished")
    experiment = borrow(base)
    tables.write(Path(out), table(base, experiment, answer_all(experiment, TASKS, unfinished)))
    unfinished.unlink()


if __name__ == "__main__":
    tables.command(main, "zero_shot RUN OUT.json")
