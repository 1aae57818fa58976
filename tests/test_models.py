"""Each model that a profile names: configuration, trainer's arguments, two steps, with few random weights."""

import pytest
import torch
from test_qwen3 import EMPTY, TEMPLATES, own_ranks, tokenizer_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.question import Question
from agenticrec_lite.plan import KNOWN, architecture
from agenticrec_lite.policy import NANO, load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

SMOL = (  # SmolLM2's chat template, which knows neither tools nor thinking
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODELS = {  # profile: model, template, whether it takes tools, whether it knows the switch of thinking
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B", TEMPLATES["t4"], True, True),
    "t4": ("Qwen/Qwen3-1.7B", TEMPLATES["t4"], True, True),
    "consumer24": ("Qwen/Qwen3-4B-Instruct-2507", TEMPLATES["consumer24"], True, False),
    "smol": ("smollm2-135m", SMOL, False, False),
    "smol-360m": ("HuggingFaceTB/SmolLM2-360M-Instruct", SMOL, False, False),
}
NARROW = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
NARROW |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def narrow(model: str, template: str, folder) -> str:
    """A folder with random weights of a known model's configuration, narrower and of two layers."""
    tokenizer = tokenizer_of(own_ranks()) if "Qwen" in model else AutoTokenizer.from_pretrained(NANO)
    tokenizer.chat_template = template
    known = {key: value for key, value in KNOWN[model].to_dict().items() if key != "layer_types"}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(type(KNOWN[model])(**known | NARROW | ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_sized_asked_played_and_trained(name, context, tmp_path):
    model, template, tools, switch = MODELS[name]
    profile = load_profile(name)
    assert profile["policy"]["id"] == model
    folder = narrow(model, template, tmp_path / "model")
    settings = profile["policy"] | {"id": folder, "revision": "main", "dtype": "float32"}  # of a CPU
    shape, policy = architecture(folder), load_policy(settings)
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    assert shape.vocab_size == KNOWN[model].vocab_size and shape.hidden_size == 64
    assert shape.adapter(settings["lora"]) == sum(p.numel() for p in trained.values())

    rewards = iter([1.0, 0.0] * 2)
    stage = profile["rta"] | {"steps": 2, "tasks_per_step": 1, "group_size": 2, "warmup_steps": 0}
    trainer = ListwiseGRPOTrainer(
        policy, [Question(f"q{i}", context, "rank", 1) for i in range(2)], lambda *_: next(rewards), stage,
        profile["agent"] | {"max_turn_tokens": 8}, None, "rta", 0, str(tmp_path / "out"),
    )  # fmt: skip
    assert (trainer.args.learning_rate, trainer.args.temperature) == (stage["learning_rate"], stage["temperature"])
    assert trainer.args.max_completion_length == profile["agent"]["max_completion_tokens"]
    trainer.train()
    assert [row["step"] for row in trainer.history] == [1, 2] and all(row["grad_norm"] > 0 for row in trainer.history)
    assert all(p.abs().sum() > 0 for name, p in trained.items() if "lora_B" in name)

    asked = policy.tokenizer.decode(trainer.trajectories[0].prompt_ids)
    assert ("<tools>" in asked) == tools and ("\nTools:\n" in asked) != tools
    assert asked.endswith(EMPTY) == switch
