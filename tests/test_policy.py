"""Loading policies: the two silent traps of NF4 on a CPU, and adapters that go on from where they are."""

import copy

import bitsandbytes
import pytest
import torch

from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import Policy, add_adapter, merged, keep_training_layout, load_policy

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


def test_the_trainer_keeps_the_adapter_in_fp32_on_a_quantised_base(checkpoint, tmp_path):
    """Trap 2: trl makes it bf16, where an update of 1e-5 rounds away."""
    from agenticrec_lite.agent.question import Question
    from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

    settings = {"steps": 1, "tasks_per_step": 1, "group_size": 2, "micro_groups": 1, "learning_rate": 1e-5}
    settings |= {"warmup_steps": 0, "temperature": 1.0}
    agent = {"max_calls": 1, "max_turn_tokens": 8, "max_completion_tokens": 64, "batch_rows": 8, "merge": True}
    policy = load_policy(SETTINGS | {"id": checkpoint})
    trainer = ListwiseGRPOTrainer(
        policy, [Question("q", None, "rank", 1)], lambda *_: 0.0, settings, agent, None, "rta", 0, str(tmp_path / "out")
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
