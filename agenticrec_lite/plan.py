"""The memory that a profile will take, before anything is downloaded, part by part, and whether this machine has it.

Everything here is estimated. Weights, adapter, optimiser and KV cache follow from the architecture. What a layer keeps
for its backward pass was measured (bytes that autograd held, on layers of sixteen shapes each, fitted), and so were the
temporary tensors around it. `tests/test_plan.py` holds the sum against the measured growth of a process's memory.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3Config
from transformers.pytorch_utils import Conv1D

from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import DTYPES, NANOS
from agenticrec_lite.runs import processes

PROMPT = {True: 360, False: 600}  # tokens of a prompt with the short system prompt, and with the long one
SCHEMAS = 510  # tokens more, with tools as JSON schemas: counted with Qwen's tokenizer
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: four bits, a scale for 64 of them, quantised in turn
# Bytes that a layer keeps a token, by element of: hidden state, feed-forward, queries, keys; and, of every key that
# each row attends to, by element. On a GPU the adapter computes in half precision too.
KEPT_PER_TOKEN = {
    "float32": (11, 16, 17, 35, 9),
    "half on a CPU": (28, 8, 15, 17, 5),
    "half on a GPU": (19, 7, 13, 0, 11),
}
# As much again, of the above: gradients on the way, and what the allocator cannot use at once. In nano's (fp32) small
# tensors that is more. Runs of the same work differ by a tenth either way.
BACKWARD = {"float32": 0.85, "bfloat16": 0.5, "float16": 0.5}
# Of what a layer keeps: what a CPU's heap loses, in fp32 with checkpointing, to gaps between what stays and what goes.
# Measured at 5 layers (nothing) and at 30; a line between. Blocks of MAPPED_BLOCK bytes or more leave none, and other
# blocks leave none with MALLOC_MMAP_THRESHOLD_=1048576
# (smol then grew by 2.3 GB and not 4.2, for a sixth more CPU time).
HEAP_GAPS, MAPPED_BLOCK = 0.55, 2**25
LOGIT_COPIES = 5  # copies of a chunk of logits in fp32: scaled, log-softmax, softmax, their product, and the gradient
LIBRARIES = {True: 0.6e9, False: 0.18e9}  # libraries at their first use, on a GPU and on a CPU
LOADING = 2.5  # bytes a parameter that stay in a CPU's memory of the file that weights came from
CPU_ENOUGH = 5e8  # parameters that a CPU may still train


@dataclass(frozen=True)
class Architecture:
    """Sizes of a causal language model.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim, intermediate_size,
            vocab_size: As a config.json names them.
        linears: Name, input and output width of every linear layer but the head: what NF4 quantises and LoRA adapts.
        others: Parameters of all the rest: embedding, head, norms, biases.
        positions: The most tokens that it reads at once; None where its configuration does not say.
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    linears: tuple[tuple[str, int, int], ...]
    others: int
    positions: int | None

    @property
    def matrices(self) -> int:
        """Parameters of all linear layers."""
        return sum(a * b for _, a, b in self.linears)

    @property
    def cached(self) -> int:
        """Numbers that the KV cache holds of one token."""
        return self.num_hidden_layers * 2 * self.num_key_value_heads * self.head_dim

    def adapter(self, lora: Mapping) -> int:
        """Parameters of a LoRA adapter."""
        every = lora["targets"] == "all-linear"
        return lora["r"] * sum(a + b for name, a, b in self.linears if every or name in lora["targets"])


# Published sizes of the models that the shipped profiles name: nothing is fetched for them.
KNOWN = {
    "smollm2-135m": LlamaConfig(
        hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
        intermediate_size=1536, vocab_size=49_152, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "HuggingFaceTB/SmolLM2-360M-Instruct": LlamaConfig(
        hidden_size=960, num_hidden_layers=32, num_attention_heads=15, num_key_value_heads=5, head_dim=64,
        intermediate_size=2560, vocab_size=49_152, tie_word_embeddings=True, max_position_embeddings=8192,
    ),
    "Qwen/Qwen3-0.6B": Qwen3Config(
        hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=3072, vocab_size=151_936, tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-1.7B": Qwen3Config(
        hidden_size=2048, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
        intermediate_size=6144, vocab_size=151_936, tie_word_embeddings=True,
    ),
    "Qwen/Qwen3-4B-Instruct-2507": Qwen3Config(
        hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        intermediate_size=9728, vocab_size=151_936, tie_word_embeddings=True,
    ),
}  # fmt: skip


@cache
def architecture(model: str, revision: str = "main") -> Architecture | None:
    """Of a profile's policy.id: by its configuration, of which a model without memory is built and counted.

    Args:
        model: One of `NANOS` or `KNOWN`, a folder, or a name on the hub, of which only the configuration is fetched.
        revision: Of a model on the hub.

    Returns:
        None where the configuration cannot be read or has no such sizes; nobody needs to know more until it is loaded.
    """
    try:
        config = KNOWN.get(model) or AutoConfig.from_pretrained(
            NANOS.get(model, model), revision=revision, trust_remote_code=False
        )
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(config)
        text, head = config.get_text_config(), built.get_output_embeddings()
        linears = []
        for name, module in built.named_modules():
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
                into, out = module.weight.shape if isinstance(module, Conv1D) else reversed(module.weight.shape)
                linears.append((name.rpartition(".")[2], into, out))
        heads, matrices = text.num_attention_heads, sum(a * b for _, a, b in linears)
        return Architecture(
            text.hidden_size,
            text.num_hidden_layers,
            heads,
            getattr(text, "num_key_value_heads", None) or heads,
            getattr(text, "head_dim", None) or text.hidden_size // heads,
            max(into for _, into, _ in linears),  # of the feed-forward's second matrix; families name it differently
            text.vocab_size,
            tuple(linears),
            sum(parameter.numel() for parameter in built.parameters()) - matrices,
            getattr(text, "max_position_embeddings", None),
        )
    except Exception:  # a configuration may hold anything, and so may go wrong what is built of it
        return None


def needs_gpu(profile: Mapping) -> bool:
    """Whether its model is too large to be trained on a CPU, or in float16; not where its size is unknown."""
    shape = shape_of(profile)
    return shape is not None and (shape.matrices > CPU_ENOUGH or profile["policy"]["dtype"] == "float16")


def prompt_tokens(policy: Mapping) -> int:
    """Tokens of a prompt, about, by a profile's section `policy`."""
    return PROMPT[policy["brief"]] + (SCHEMAS if policy["tools"] == "schemas" else 0)


def shape_of(profile: Mapping) -> Architecture | None:
    """Sizes of a profile's model; None where they are not known."""
    return architecture(profile["policy"]["id"], profile["policy"].get("revision", "main"))


def plan(
    profile: Mapping, prompt: int | None = None, completion: int | None = None, gpu: bool | None = None
) -> dict[str, dict[str, float]]:
    """Estimated memory of a profile's stage 1.

    Args:
        profile: Resolved settings.
        prompt: Tokens of a prompt; by default those of ml-100k.
        completion: Tokens of a trajectory after its prompt; by default of the longest.
        gpu: Whether on a GPU; by default only what needs one.

    Returns:
        {"rollouts": {part: bytes}, "update": {part: bytes}}; the parts of each add up. Empty where the size of the
        model is not known.
    """
    policy, stage, shape = profile["policy"], profile["rta"], shape_of(profile)
    if shape is None:
        return {}
    width, gpu = DTYPES[policy["dtype"]].itemsize, needs_gpu(profile) if gpu is None else gpu
    prompt = prompt or prompt_tokens(policy)
    completion = completion or _longest(profile["agent"])
    trained = shape.adapter(policy["lora"])
    weights = shape.matrices * (NF4 if policy["quantize"] == "nf4" else width) + shape.others * width
    common = {"weights": weights, "adapter": 4 * trained, "optimiser": 8 * trained}
    n = stage["micro_groups"] * stage["group_size"]
    update = {"gradients": 4 * trained}
    update["activations"] = activations(shape, policy, gpu, stage["micro_groups"] * prompt + n * completion,
                                        n * (prompt + completion))  # fmt: skip
    update["logits"] = LOGIT_COPIES * 4 * min(n * completion, 4096, 2**26 // shape.vocab_size) * shape.vocab_size
    # logits are gone when the layers' backward passes begin
    update["backward"] = max(0.0, BACKWARD[policy["dtype"]] * update["activations"] - update["logits"])
    around = {"libraries": LIBRARIES[gpu], "loading": 0.0 if gpu else LOADING * (shape.matrices + shape.others)}
    return {"rollouts": common | decoding(shape, profile, width, prompt + completion) | around,
            "update": common | update | around}  # fmt: skip


def _longest(agent: Mapping) -> int:
    """Tokens after the prompt of the longest trajectory: it just goes on, and a last turn is added."""
    return agent["max_completion_tokens"] + agent["max_turn_tokens"]


def decoding(shape: Architecture, profile: Mapping, width: int, tokens: int) -> dict[str, float]:
    """Bytes that rollouts take beside the weights, for trajectories of so many tokens, prompts included."""
    agent, stage = profile["agent"], profile["rta"]
    rows = min(agent["batch_rows"], stage["tasks_per_step"] * stage["group_size"])
    cache = 1.5 * rows * -(-tokens // 256) * 256 * shape.cached * width  # prompts come in from a cache of their own
    parts = {"KV cache": cache, "logits": 4 * 4 * rows * shape.vocab_size}
    merges = agent["merge"] and profile["policy"]["dtype"] == "float32"  # see policy.merged
    return parts | ({"merged weights": shape.matrices * width} if merges else {})


def activations(shape: Architecture, policy: Mapping, gpu: bool, own: int, seen: int) -> float:
    """Bytes kept for a backward pass over `own` tokens, whose rows attend to `seen` keys in all."""
    full = policy["dtype"] == "float32"
    h, i, q, k, context = KEPT_PER_TOKEN["float32" if full else "half on a GPU" if gpu else "half on a CPU"]
    values = shape.num_key_value_heads * shape.head_dim
    a_token = h * shape.hidden_size + i * shape.intermediate_size + k * values
    a_token += q * shape.num_attention_heads * shape.head_dim
    layer = own * a_token + seen * context * values
    if not policy["gradient_checkpointing"]:
        return shape.num_hidden_layers * layer
    if full and not gpu:
        small = min(1, MAPPED_BLOCK / (4 * own * shape.intermediate_size))
        layer *= 1 + small * HEAP_GAPS * max(0, shape.num_hidden_layers - 5)
    width = DTYPES[policy["dtype"]].itemsize
    return layer + shape.num_hidden_layers * width * (own * shape.hidden_size + seen * values)


def peak(parts: Mapping[str, Mapping[str, float]]) -> float:
    """The most memory that a plan's rollouts or updates take, in bytes."""
    return max(sum(part.values()) for part in parts.values())


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; one that does not emulates it at a small part of fp32's speed."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] != "x86_64" or able["avx512_bf16"] or able["amx_bf16"]


def check_hardware(name: str, profile: Mapping) -> None:
    """Say what this machine lacks, before the model is downloaded.

    Prints a sentence, and goes on, where the size of the model is not known, or where a CPU's memory would do if less
    of it were in use.

    Raises:
        UserError: No GPU, a device without bf16, too little memory or disk, or a model that reads fewer tokens than a
            trajectory may have.
    """
    dtype, gpu = profile["policy"]["dtype"], torch.cuda.is_available()
    if needs_gpu(profile) and not gpu:
        raise UserError(f"Profile {name!r} needs a CUDA GPU, and there is none here; on a CPU, take nano or smol.")
    if dtype == "bfloat16" and not (torch.cuda.is_bf16_supported(including_emulation=False) if gpu else cpu_has_bf16()):
        device, other = ("GPU", "float16") if gpu else ("CPU", "float32")
        raise UserError(f"Profile {name!r} computes in bfloat16, which this {device} lacks; set policy.dtype={other}.")
    parts = plan(profile)
    if not parts:
        processes.say(f"The size of {profile['policy']['id']!r} is not known, so memory is not estimated.")
        return
    longest = prompt_tokens(profile["policy"]) + _longest(profile["agent"])
    if (most := shape_of(profile).positions) and longest > most:
        raise UserError(
            f"The model {profile['policy']['id']!r} reads {most} tokens at most, and a trajectory may have {longest}; "
            "set a smaller agent.max_completion_tokens or agent.max_turn_tokens."
        )
    _check_memory(name, peak(parts), gpu)
    _check_disk(name, profile)


def _check_memory(name: str, needed: float, gpu: bool) -> None:
    """Whether a device has so many bytes free."""
    free, total = gpu_memory() if gpu else _cpu_memory()
    if needed <= free:
        return
    smaller = "set a smaller rta.micro_groups, agent.batch_rows or agent.max_completion_tokens"
    device = "GPU" if gpu else "machine"
    wants, has = f"about {needed / 1e9:.1f} GB (estimated)", f"{total / 1e9:.1f} GB"
    if needed > total:
        raise UserError(
            f"Profile {name!r} needs {wants}, and this {device} has {has}; {smaller}, or take a smaller profile."
        )
    has = f"{free / 1e9:.1f} GB free of {has}"
    if gpu:
        raise UserError(f"Profile {name!r} needs {wants}, and this GPU has {has}; end what else uses it, or {smaller}.")
    processes.say(
        f"Profile {name!r} needs {wants}, and this machine has {has}; close other programs if it becomes slow, or "
        f"{smaller}."
    )


def gpu_memory() -> tuple[int, int]:
    """Free and total bytes of the GPU; what torch holds in this process without using it is free."""
    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def _cpu_memory() -> tuple[int, int]:
    """Bytes that new work can have without swapping, and all of the machine."""
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _check_disk(name: str, profile: Mapping) -> None:
    """Whether a model that is not carried has room in the cache of hub models: its weights as published, in bf16."""
    model = profile["policy"]["id"]
    if model in NANOS or Path(model).exists():
        return
    folder = Path(os.environ.get("HF_HOME", Path.home() / ".cache")) if "/" in model else cache_folder()
    while not folder.exists():
        folder = folder.parent
    shape, free = shape_of(profile), shutil.disk_usage(folder).free
    size = 2.2 * (shape.matrices + shape.others) if "/" in model else 0.7e9
    if free < size:
        raise UserError(
            f"Profile {name!r} keeps a model of {size / 1e9:.1f} GB (estimated) below {folder}, where "
            f"{free / 1e9:.1f} GB are free; free some, or name another folder (HF_HOME or AGENTICREC_CACHE)."
        )
