"""Loading policies: the two silent traps of NF4 on a CPU, and adapters that go on from where they are."""

import copy
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from unittest import mock

import bitsandbytes
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import agenticrec_lite.policy
from agenticrec_lite.agent import rollout as rollouts
from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import action_logprobs, pad
from agenticrec_lite.errors import UserError
from agenticrec_lite.plan import architecture
from agenticrec_lite.policy import (
    DTYPES,
    NANO,
    Policy,
    add_adapter,
    autocast,
    keep_training_layout,
    load_policy,
    merged,
    precision,
)
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

LORA = {"r": 4, "alpha": 8, "targets": "all-linear"}
SETTINGS = {"id": "nano", "brief": True, "quantize": "nf4", "dtype": "float32", "lora": LORA}
IDS = torch.randint(20, 400, (4, 48), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def checkpoint(tiny, tmp_path):
    tiny[0].save_pretrained(tmp_path)
    tiny[1].tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def adapter_gradient(model):
    model.train()
    model.zero_grad()
    model(IDS, labels=IDS).loss.backward()
    return torch.cat([p.grad.flatten() for n, p in sorted(model.named_parameters()) if "lora_" in n])


def with_random_adapter(model):
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def test_gradients_stay_right_after_an_eval_forward(checkpoint, tiny):
    """Trap 1: bitsandbytes repacks NF4 weights at the first eval forward, and later gradients are wrong."""
    quantised = with_random_adapter(load_policy(SETTINGS | {"id": checkpoint}).model)
    plain = copy.deepcopy(tiny[0])
    linears = dict(quantised.get_base_model().named_modules())
    for name, module in plain.named_modules():
        layer = getattr(linears.get(name), "base_layer", None)
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = layer.weight
            module.weight.data = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    reference = adapter_gradient(with_random_adapter(add_adapter(plain, LORA)))
    quantised.eval()
    with torch.no_grad():
        quantised(IDS)
    gradient = adapter_gradient(quantised)
    assert torch.cosine_similarity(gradient, reference, 0) > 0.999
    assert gradient.norm() / reference.norm() == pytest.approx(1, abs=0.01)


def test_every_nf4_layer_keeps_its_training_layout(checkpoint):
    model = load_policy(SETTINGS | {"id": checkpoint}).model
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)
    layers[0].support_avx512bf16_for_cpu = True
    keep_training_layout(model)
    assert not layers[0].support_avx512bf16_for_cpu


def test_the_trainer_keeps_the_adapter_in_fp32_on_a_quantised_base(checkpoint, context, tmp_path):
    """Trap 2: trl makes it bf16, where an update of 1e-5 rounds away."""
    settings = {"steps": 1, "tasks_per_step": 1, "group_size": 2, "micro_groups": 1, "learning_rate": 1e-5}
    settings |= {"warmup_steps": 0, "temperature": 1.0}
    agent = {"max_calls": 1, "max_turn_tokens": 8, "max_completion_tokens": 64, "batch_rows": 8, "merge": True}
    policy = load_policy(SETTINGS | {"id": checkpoint})
    trainer = ListwiseGRPOTrainer(
        policy,
        [Question("q", context, "rank", 1)],
        lambda *_: 0.0,
        settings,
        agent,
        None,
        "rta",
        0,
        str(tmp_path / "out"),
    )
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trainable(checkpoint, tiny):
    policy = load_policy(SETTINGS | {"id": checkpoint, "quantize": "none"})
    assert isinstance(policy, Policy) and policy.brief
    with torch.no_grad():
        assert torch.allclose(policy.model(IDS).logits, tiny[0](IDS).logits, atol=1e-5)
    assert all(("lora_" in n) == p.requires_grad for n, p in policy.model.named_parameters())


def test_what_cannot_be_loaded_ends_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_policy(SETTINGS | {"id": str(tmp_path / "nowhere")})


@pytest.mark.parametrize("quantize", ["nf4", "none"])
def test_merging_changes_nothing_and_is_undone(checkpoint, quantize):
    model = with_random_adapter(load_policy(SETTINGS | {"id": checkpoint, "quantize": quantize}).model).eval()
    modules = list(model.modules())
    with torch.no_grad():
        before = model(IDS).logits
        with merged(model):
            inside = model(IDS).logits
            assert not any(isinstance(m, bitsandbytes.nn.Linear4bit) for m in model.modules())
    assert (inside - before).abs().max() < 1e-4 * before.abs().max()
    assert list(model.modules()) == modules


def test_a_saved_adapter_names_its_model_and_no_folder_of_this_machine(tmp_path):
    load_policy(SETTINGS).model.save_pretrained(tmp_path)
    assert '"base_model_name_or_path": "nano"' in (tmp_path / "adapter_config.json").read_text()


# Small ones of each family, as their configurations name the sizes. Families differ in what has a bias, a norm or a
# gate, in which matrices are one, and in what a missing size means.
SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"max_position_embeddings": 4096}
FAMILIES = {
    "qwen2": SIZES | {"num_key_value_heads": 2},
    "llama": SIZES | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": SIZES | {"num_key_value_heads": 2, "head_dim": 16},
    "gemma": SIZES | {"num_key_value_heads": 1, "head_dim": 16},
    "phi": SIZES,
    "phi3": SIZES | {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 4096},
}


def written(folder, family, **sizes) -> str:
    """A folder with random weights and nano's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **({"vocab_size": 2048} | ends | FAMILIES.get(family, SIZES) | sizes))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def group_of(policy, context, copies=2):
    chat = ChatFormat.of(policy.tokenizer, policy.brief)
    return chat, [Group("q", chat.prompt_ids(context), [RankingEnvironment(context) for _ in range(copies)])]


@pytest.mark.parametrize("quantize", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_sized_loaded_played_and_trained(family, quantize, context, tmp_path):
    settings = load_profile("nano")["policy"] | {"id": written(tmp_path / "model", family), "quantize": quantize}
    settings |= {"lora": LORA, "gradient_checkpointing": family != "gpt2"}
    shape, policy = architecture(settings["id"]), load_policy(settings)
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    plain = AutoModelForCausalLM.from_pretrained(settings["id"])
    assert shape.matrices + shape.others == plain.num_parameters()
    assert shape.adapter(LORA) == sum(p.numel() for p in trained)
    assert shape.num_key_value_heads == FAMILIES[family].get("num_key_value_heads", 4)
    assert (shape.head_dim, shape.intermediate_size) == (
        FAMILIES[family].get("head_dim", 12), FAMILIES[family].get("intermediate_size", 4 * 48),
    )  # fmt: skip
    stage = {"steps": 2, "tasks_per_step": 1, "group_size": 2, "micro_groups": 1, "learning_rate": 1e-3}
    stage |= {"warmup_steps": 0, "temperature": 1.0}
    agent = load_profile("nano")["agent"] | {"max_turn_tokens": 8}
    rewards = iter([1.0, 0.0] * 2)
    questions = [Question(f"q{i}", context, "rank", 1) for i in range(2)]
    trainer = ListwiseGRPOTrainer(
        policy, questions, lambda *_: next(rewards), stage, agent, None, "rta", 0, str(tmp_path / "out")
    )
    trainer.train()
    assert all(p.abs().sum() > 0 for name, p in policy.model.named_parameters() if "lora_B" in name)
    chat, groups = group_of(policy, context)
    played = rollout(policy.model, chat, groups, Sampling.of(agent, 1.0), torch.Generator().manual_seed(0))
    assert fresh_difference(policy.model, played) < 1e-4


def fresh_difference(model, played) -> float:
    """Largest difference of recorded log-probabilities to those of a plain forward pass in train mode."""
    most, training = 0.0, model.training
    model.train()  # as updates score: a family with dropout would differ
    for t in played:
        with torch.no_grad():
            logits = model(torch.tensor([t.prompt_ids + t.completion_ids])).logits[0, len(t.prompt_ids) - 1 : -1]
        fresh = logits.float().log_softmax(-1)[range(len(t.completion_ids)), t.completion_ids]
        mine = torch.tensor(t.action_mask).bool()
        most = max(most, float((fresh - torch.tensor(t.logprobs))[mine].abs().max()))
    model.train(training)
    return most


@pytest.mark.parametrize(
    ("family", "sizes", "said"),
    [
        ("mistral", {"sliding_window": 512}, "does not attend to all earlier tokens"),
        ("granite", {"logits_scaling": 8.0}, "scales or caps what its head computes"),
        ("gpt2", {}, "set policy.gradient_checkpointing=false"),
    ],
)
def test_a_family_that_rollouts_would_play_wrongly_is_refused(family, sizes, said, tmp_path):
    folder = written(tmp_path, family, **sizes)
    with pytest.raises(UserError, match=said):
        load_policy(SETTINGS | {"id": folder, "quantize": "none", "gradient_checkpointing": True})


BEGIN = list(range(30, 62))  # of a prompt: its words do not matter here


def recorded(policy, context, tokens) -> torch.Tensor:
    """Log-probabilities [n] of one turn's tokens, taken down while a rollout writes them."""
    script = iter(tokens.T)

    class Forced(Sampling):
        def choose(self, logits, drawn=None):
            token = next(script)
            return token, torch.log_softmax(logits, -1).gather(1, token[:, None])[:, 0]

    chat, sampling = ChatFormat.of(policy.tokenizer, policy.brief), Forced(1.0, tokens.shape[1], 64, 4, merge=True)
    groups = [Group("q", BEGIN, [RankingEnvironment(context) for _ in tokens])]
    played = rollout(policy.model, chat, groups, sampling)
    assert [t.completion_ids for t in played] == tokens.tolist()
    return torch.tensor([t.logprobs for t in played]).flatten()


def scored(policy, tokens, mixed) -> torch.Tensor:
    """The same by the update's scoring, with gradient; `mixed` under autocast."""
    prompt, mask = pad([BEGIN], 0, left=True)
    ones, group = torch.ones_like(tokens), torch.zeros(len(tokens), dtype=torch.long)
    with torch.autocast("cpu", policy.model.dtype, enabled=mixed):
        return action_logprobs(policy.model, prompt, mask, tokens, ones, ones.bool(), group)[0]


@contextmanager
def merged_in_16_bits():
    """What `merged` would do if it merged into weights of 16 bits."""
    with mock.patch.object(agenticrec_lite.policy, "_mergeable", lambda m: hasattr(m, "get_delta_weight")):
        with mock.patch.object(agenticrec_lite.policy, "_merged_layer", rounded_layer):
            yield


def rounded_layer(layer):
    weight = layer.base_layer.weight
    if isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit):
        weight = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    linear.weight = torch.nn.Parameter(weight.data + layer.get_delta_weight("default").to(weight.dtype), False)
    return linear


def learn(score, aim, optimizer, scaler, steps) -> int:
    """Adam steps, as accelerate does them; how many more were skipped while the scale of the loss settled."""
    skipped = 0
    while steps:
        optimizer.zero_grad()
        scaler.scale(-(aim * score()).mean()).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        good = scaler.get_scale() >= before
        steps, skipped = steps - good, skipped + (not good)
    return skipped


@pytest.mark.parametrize(
    ("dtype", "rate", "quantize", "mixed"),
    [
        ("bfloat16", 1e-5, "none", False),
        ("bfloat16", 1e-5, "nf4", False),
        ("bfloat16", 1e-4, "nf4", False),
        ("bfloat16", 1e-5, "none", True),
        ("bfloat16", 1e-4, "nf4", True),
        pytest.param("float16", 1e-5, "none", False, marks=pytest.mark.all),  # slow on a CPU
        pytest.param("float16", 1e-4, "nf4", True, marks=pytest.mark.all),
    ],
)
def test_in_16_bits_rollouts_play_the_policy_that_is_trained(
    dtype, rate, quantize, mixed, context, tmp_path, monkeypatch
):
    """Merged into weights of 16 bits, part of a small update would be rounded away; the ratio would hide it.

    `mixed` as on a GPU: autocast around updates and rollouts, and in fp16 a scale of the loss that begins too high.
    """
    sizes = {"hidden_size": 256, "intermediate_size": 256, "initializer_range": 0.08}
    folder = written(tmp_path, "llama", **sizes)
    settings = SETTINGS | {"id": folder, "dtype": dtype, "quantize": quantize, "gradient_checkpointing": False}
    policy = load_policy(settings | {"lora": {"r": 16, "alpha": 32, "targets": "all-linear"}})
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, 2000, (4, 48), generator=generator)
    aim = torch.randn(tokens.numel(), generator=generator)
    optimizer = torch.optim.Adam([p for p in policy.model.parameters() if p.requires_grad], lr=rate)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, enabled=mixed and dtype == "float16")
    monkeypatch.setattr(rollouts, "autocast", lambda model: torch.autocast("cpu", model.dtype, enabled=mixed))
    score = partial(scored, policy, tokens, mixed)
    noise, done, skipped = (score().detach() - recorded(policy, context, tokens)).abs().mean(), 0, 0
    for steps in (1, 10, 40):
        skipped += learn(score, aim, optimizer, scaler, steps - done)
        done = steps
        update, played = score().detach(), recorded(policy, context, tokens)
        with merged_in_16_bits():
            rounded = recorded(policy, context, tokens)
        assert (played - update).abs().mean() < 1.25 * noise < (rounded - update).abs().mean(), steps
    assert (skipped > 0) == scaler.is_enabled()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rollouts_compute_in_the_precision_of_updates(device, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    updates = precision(dtype)
    block = autocast(SimpleNamespace(device=torch.device(device), dtype=DTYPES[dtype]))
    assert isinstance(block, torch.autocast) == (updates["bf16"] or updates["fp16"])
    if isinstance(block, torch.autocast):
        assert (block.device, block.fast_dtype) == ("cuda", DTYPES[dtype])


def test_the_whole_rollout_is_within_it(tiny, context, monkeypatch):
    """Prompt, turns and observations; nothing of it is left behind."""
    seen = []

    class Watching(Sampling):
        def choose(self, logits, drawn=None):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().choose(logits, drawn)

    monkeypatch.setattr(rollouts, "autocast", lambda model: torch.autocast("cpu", torch.bfloat16))
    group = Group("q", tiny[1].prompt_ids(context), [RankingEnvironment(context)])
    rollout(copy.deepcopy(tiny[0]).bfloat16(), tiny[1], [group], Watching(0.0, 4, 64, 1))
    assert seen == [True] * 4 and not torch.is_autocast_enabled("cpu")


def test_an_unquantised_policy_gets_its_adapter_beside_a_torchao_that_peft_refuses(tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao" / "__init__.py").write_text("__version__ = '0.10.0'\n")
    information = tmp_path / "torchao-0.10.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    settings = SETTINGS | {"id": "nano", "quantize": "none"}
    code = f"from agenticrec_lite.policy import load_policy; print(type(load_policy({settings!r}).model).__name__)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().startswith("PeftModel"), done.stderr[-600:]
