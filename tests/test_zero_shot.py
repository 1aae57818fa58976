"""Zero-shot ranking: numbers that are written digit by digit have the probabilities that the model gives them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agenticrec_lite.agent.protocol import TOP
from agenticrec_lite.policy import Policy
from studies import zero_shot
from studies.zero_shot import Numbers, answer_all, rank

LETTERS = "0123456789, []"


class Characters:
    """A tokenizer that knows single characters."""

    def encode(self, text, add_special_tokens=False):
        return [LETTERS.index(c) if c in LETTERS else len(LETTERS) for c in text]

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        return turns[0]["content"]


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS) + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    return Policy(LlamaForCausalLM(config).eval(), Characters())


def log_p(policy, ids):
    """Of every token, after all of these and after each beginning of them [T, V]."""
    return policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("written", [(), (7,), (12, 3)])
def test_a_number_has_the_probability_of_its_digits_and_of_its_end(policy, written):
    ids = [10, 13, 12]
    numbers = Numbers(policy, ids)
    for number in written:
        numbers.write(number)
        ids = ids + policy.tokenizer.encode(f"{number}, ")
    values = numbers.log_p(20)
    for number in (3, 9, 10, 14, 19, 20):
        digits = policy.tokenizer.encode(str(number))
        after = log_p(policy, ids + digits)[len(ids) - 1 :]
        wanted = sum(float(after[i, digit]) for i, digit in enumerate(digits))
        assert values[number - 1] == pytest.approx(wanted, abs=1e-4)
    for number in (1, 2):  # which may also begin a longer one
        wanted = log_p(policy, [*ids, number])
        end = 1 - sum(float(wanted[-1, digit].exp()) for digit in range(10))
        assert values[number - 1] == pytest.approx(float(wanted[-2, number]) + np.log(end), abs=1e-4)


def test_a_list_holds_ten_different_numbers(policy):
    titles = [SimpleNamespace(title=f"item {i}") for i in range(20)]
    answer = rank(policy, SimpleNamespace(history=titles[:3], candidates=titles))
    assert len(set(answer)) == TOP == len(answer) and set(answer) <= set(range(1, 21))


def test_an_interrupted_study_goes_on_where_it_stopped(policy, tmp_path, monkeypatch):
    asked, unfinished = [], tmp_path / "out.unfinished"

    def answer(_, context):
        if context == 2 and asked.count(2) == 0:
            asked.append(2)
            raise KeyboardInterrupt
        asked.append(context)
        return [context]

    monkeypatch.setattr(zero_shot, "load_policy", lambda *_, **__: policy)
    monkeypatch.setattr(zero_shot, "rank", answer)
    tasks = [SimpleNamespace(task_id=f"test-{i}") for i in range(6)]
    experiment = SimpleNamespace(log=SimpleNamespace(name="some"), seed=1, test=tasks, test_contexts=list(range(6)))
    with pytest.raises(KeyboardInterrupt):
        answer_all(experiment, 4, unfinished)
    assert answer_all(experiment, 4, unfinished) == [[0], [1], [2], [3]]
    assert asked == [0, 1, 2, 2, 3]
    experiment.seed = 2  # other tasks of the same names
    assert answer_all(experiment, 1, unfinished) == [[0]] and asked[-1] == 0
