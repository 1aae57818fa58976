"""The work that both arms of the benchmark do: model, tasks, tools, limits and rewards."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.scoring import action_logprobs, pad
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import DTYPES, Policy, add_adapter, load_policy, smollm2_folder
from agenticrec_lite.tools import Evidence, TaskContext
from agenticrec_lite.tools.context import ToolError

MAX_TURN, MAX_COMPLETION, MAX_CALLS, GROUP = 160, 1400, 4, 8
LORA = {"r": 16, "alpha": 32, "targets": "all-linear"}
WARM_ADAPTER = cache_folder() / "bench-smollm2-135m"  # made by benchmarks.warm

# Role tool and tool calls both rendered, and nothing else: what stock trl asks of a template. Both arms use it.
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'tool' %}OPEN{{ m.content }}CLOSE{% else %}{{ m.content }}{% for call in m.tool_calls or [] %}\
<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@dataclass(frozen=True)
class Size:
    """How much work one run is: steps of `tasks` x GROUP trajectories, `micro` groups scored together.

    Stock trl scores `stock_rows` trajectories together: as many as here, or as fit into 20 GB. The trajectories of the
    update measurement are sampled at `temperature`.
    """

    steps: int
    tasks: int
    micro: int
    stock_rows: int
    prompt: tuple[int, int]  # shortest and longest prompt in tokens
    temperature: float


SIZES = {
    "nano": Size(steps=3, tasks=8, micro=4, stock_rows=32, prompt=(400, 600), temperature=1.0),
    "smollm2-135m": Size(steps=1, tasks=2, micro=1, stock_rows=4, prompt=(450, 550), temperature=0.6),
}


class Broken:
    """Collaborative knowledge, or ratings, that are out of order: every look at them is an error."""

    def similar_users(self) -> Evidence:
        raise ToolError("the service is down.")

    def similar_items(self, place) -> Evidence:
        raise ToolError("the service is down.")

    def next_items(self) -> Evidence:
        raise ToolError("the service is down.")

    def __iter__(self):
        raise ToolError("the service is down.")


def pin_threads() -> None:
    """As many threads as the machine has cores, in every arm alike."""
    os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))  # or the package would choose a number itself
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def load(model: str, dtype: str = "float32") -> Policy:
    """The policy of a benchmark, unquantised, with a LoRA adapter whose B is not zero (else A has no gradient)."""
    if model == "nano":
        settings = {"id": "nano", "quantize": "none", "dtype": dtype, "brief": True, "lora": LORA}
        torch.manual_seed(0)
        policy = load_policy(settings)
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=1e-4)
    else:
        base = smollm2_folder()
        bare = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype])
        policy = Policy(add_adapter(bare, LORA, WARM_ADAPTER), AutoTokenizer.from_pretrained(base))
    return replace(policy, tokenizer=with_template(policy.tokenizer), brief=True)


def with_template(tokenizer):
    """The tokenizer with the template above; observations in tags if these are tokens of their own."""
    tags = "<observation>" in tokenizer.get_vocab()
    opening, closing = ("<observation>", "</observation>") if tags else ("", "")
    tokenizer.chat_template = TEMPLATE.replace("OPEN", opening).replace("CLOSE", closing)
    return tokenizer


def worlds(chat: ChatFormat, n: int, prompt: tuple[int, int], seed: int, broken: int = 0) -> list[TaskContext]:
    """Generated tasks whose prompts have about the wanted length; in every `broken`-th four of the tools fail."""
    rng = np.random.default_rng(seed)
    found: list[TaskContext] = []
    while len(found) < n:
        world = random_world(rng, longest=int(rng.integers(2, 8)))
        if prompt[0] <= len(chat.prompt_ids(world)) <= prompt[1]:
            out_of_order = broken and len(found) % broken == broken - 1
            found.append(replace(world, collaborative=Broken(), ratings=Broken()) if out_of_order else world)
    return found


def played_logprobs(model, played: list[Trajectory]) -> torch.Tensor:
    """Log-probabilities of all action tokens, scored as the trainer does; rollouts of a group stand together."""
    group_of = torch.tensor([t.group for t in played]).unique_consecutive(return_inverse=True)[1]
    first = [i for i, t in enumerate(played) if i == 0 or t.group != played[i - 1].group]
    prompts, prompt_mask = pad([played[i].prompt_ids for i in first], 0, left=True)
    ids, mask = pad([t.completion_ids for t in played], 0)
    actions = pad([t.action_mask for t in played], 0)[0].bool()
    return action_logprobs(model, prompts, prompt_mask, ids, mask, actions, group_of)[0]


def read_replay(folder: Path) -> list[Trajectory]:
    """The trajectories that update measurements are made on."""
    return [Trajectory(**row) for row in json.loads((folder / "replay.json").read_text())]


def questions(contexts: list[TaskContext]) -> list[Question]:
    """What is trained on: the right answer does not matter here, rewards are drawn."""
    return [Question(f"world{i}", context, "rank", 1) for i, context in enumerate(contexts)]


def settings(size: Size, steps: int | None = None) -> dict:
    """A stage's section as a profile has it. The rate is 0: every step costs the same, and does the same."""
    return {
        "steps": steps or size.steps, "tasks_per_step": size.tasks, "group_size": GROUP, "micro_groups": size.micro,
        "learning_rate": 0.0, "warmup_steps": 0, "temperature": 1.0, "stock_rows": size.stock_rows,
    }  # fmt: skip


def agent() -> dict:
    """The agent's section as a profile has it."""
    return {
        "max_calls": MAX_CALLS, "max_turn_tokens": MAX_TURN, "max_completion_tokens": MAX_COMPLETION,
        "batch_rows": 64, "merge": True,
    }  # fmt: skip
