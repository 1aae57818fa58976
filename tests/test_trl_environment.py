"""The ranking task in trl's own trainer: schemas, calls, rewards, and one real step."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from agenticrec_lite.agent.question import Question
from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.tools import TOOLS, call_tool
from agenticrec_lite.training.trl_environment import environment_factory, row


@pytest.fixture
def environment(context):
    questions = [Question("one", context, "rank", 7), Question("two", context, "rank", 3)]
    made = environment_factory(questions, max_calls=3)()
    made.reset(**row(questions[0]))
    return made


def test_tools_answer_as_they_do_for_the_course(environment, context):
    assert environment.get_similar_users() == call_tool("get_similar_users", {}, context)
    assert environment.item_info_search(item_name="3") == call_tool("item_info_search", {"item_name": "3"}, context)
    assert environment.get_similar_items(item_title="nothing").startswith("Error: no item")


def test_the_reward_is_the_lists(environment):
    assert environment.get_reward() == -1.0  # nothing was submitted
    assert environment.submit(ranking=[1] * 10).startswith("Error: an answer is 10 different candidate numbers")
    assert environment.submit(ranking=[21, *range(1, 10)]).startswith("Error")
    assert environment.submit(ranking=list(range(7, 17))) == "Thank you."
    assert environment.get_reward() == pytest.approx(1.0)  # first, but no tool was called
    environment.get_user_profile()
    assert environment.get_reward() == pytest.approx(1.1)
    environment.submit(ranking=list(range(1, 11)))  # too late
    assert environment.get_reward() == pytest.approx(1.1)
    for _ in range(3):
        environment.get_user_profile()
    assert environment.get_reward() == -1.0  # a fourth call
    environment.reset(task_id="two")
    environment.submit(ranking=list(range(4, 14)))
    assert environment.get_reward() == -0.5  # without the positive


def test_what_does_not_belong_together_is_refused(context):
    with pytest.raises(UserError, match="at least one question"):
        environment_factory([])
    with pytest.raises(UserError, match="of kind 'rank' and have the same tools"):
        environment_factory([Question("a", replace(context, pair=(1, 2)), "more", "A")])


def test_stock_trl_trains_on_it(context, tmp_path, monkeypatch):
    """A real step: trl makes schemas of the tools, plays, asks for the rewards and updates the adapter."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    torch.manual_seed(0)
    questions = [Question(f"t{i}", context, "rank", 7) for i in range(2)]
    policy = load_policy(load_profile("nano")["policy"] | {"quantize": "none"})
    from benchmarks.workload import with_template

    tokenizer = with_template(policy.tokenizer)
    from trl.chat_template_utils import qwen3_template

    tokenizer.response_template = qwen3_template
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
    trainer = GRPOTrainer(
        policy.model,
        reward_funcs=lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        args=GRPOConfig(
            str(tmp_path), num_generations=2, per_device_train_batch_size=2, max_steps=1, max_completion_length=64,
            use_cpu=True, temperature=2.0, report_to="none", save_strategy="no", learning_rate=1e-2,
            max_tool_calling_iterations=1,
        ),
        train_dataset=Dataset.from_list([row(question) for question in questions]),
        processing_class=tokenizer,
        environment_factory=environment_factory(questions),
    )  # fmt: skip
    assert {tool.__name__ for tool in trainer.tools} == {*TOOLS, "submit"}
    trainer.train()
    after = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
    assert any("rewards/Ranking/mean" in row for row in trainer.state.log_history)
