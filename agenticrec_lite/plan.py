"""What a profile will take, before anything is downloaded: memory part by part, time, and whether this machine has it.

Everything here is estimated. Weights, adapter, optimiser and KV cache follow from the architecture. What a layer keeps
for its backward pass was measured (bytes that autograd held, on layers of sixteen shapes each, fitted), and so were the
temporary tensors around it. `tests/test_plan.py` holds the sum against the measured growth of a process's memory.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from agenticrec_lite.data.cache import cache_folder
from agenticrec_lite.errors import UserError
from agenticrec_lite.policy import DTYPES, NANO

PROMPT = {True: 360, False: 600}  # tokens of a prompt with the short system prompt, and with the long one
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: four bits, a scale for 64 of them, quantised in turn
# Bytes that a layer keeps a token, by element of: hidden state, feed-forward, queries, keys; and, of every key that
# each row attends to, by element. On a GPU the adapter computes in half precision too.
KEPT = {"float32": (11, 16, 17, 35, 9), "half on a CPU": (28, 8, 15, 17, 5), "half on a GPU": (19, 7, 13, 0, 11)}
# As much again, of the above: gradients on the way, and what the allocator cannot use at once. In nano's (fp32) small
# tensors that is more. Runs of the same work differ by a tenth either way.
BACKWARD = {"float32": 0.85, "bfloat16": 0.5, "float16": 0.5}
# Of what a layer keeps: what a CPU's heap loses, in fp32 with checkpointing, to gaps between what stays and what goes.
# Measured at 5 layers (nothing) and at 30; a line between. Blocks of MAPPED bytes and more leave none. (Nor do others
# with MALLOC_MMAP_THRESHOLD_=1048576: smol then grew by 2.3 GB and not 4.2, for a sixth more CPU time.)
GAPS, MAPPED = 0.55, 2**25
HEAD = 5  # copies of a chunk of logits in fp32: scaled, log-softmax, softmax, their product, and the gradient
AROUND = {True: 0.6e9, False: 0.18e9}  # libraries at their first use, on a GPU and on a CPU
LOADED = 2.5  # bytes a parameter that stay in a CPU's memory of the file that weights came from
CPU_ENOUGH = 5e8  # parameters that a CPU may still train


@dataclass(frozen=True)
class Pace:
    """The throughput model: what a trajectory is like, and tokens a second.

    nano's was measured on one core; smol's on two without AVX-512, in its run (medians). For the GPUs it is a third of
    the peak arithmetic, at six operations a parameter and token, and a decoding step of one millisecond a layer;
    nothing of it was measured.

    Attributes:
        completion, written: Tokens of a trajectory after its prompt, and those of them that the policy writes.
        trained, decoded: Tokens a second of updates and of rollouts.
    """

    completion: int
    written: int
    trained: float
    decoded: float


PACES = {
    "nano": Pace(200, 70, 4300, 1600), "smol": Pace(250, 100, 200, 50), "t4": Pace(1000, 400, 1000, 250),
    "consumer24": Pace(1200, 500, 1800, 220), "paper": Pace(2500, 1200, 20_000, 8000),
}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder with grouped queries and a gated feed-forward, as a config.json names them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = True
    query_key_norm: bool = True

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Input and output width of a layer's matrices."""
        h, i, q = self.hidden_size, self.intermediate_size, self.num_attention_heads * self.head_dim
        k = self.num_key_value_heads * self.head_dim
        attention = {"q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    @property
    def matrices(self) -> int:
        """Parameters of all layers' matrices: what NF4 quantises."""
        return self.num_hidden_layers * sum(a * b for a, b in self.linears.values())

    @property
    def others(self) -> int:
        """Parameters of embedding, head and norms."""
        norms = 2 * self.hidden_size + 2 * self.head_dim * self.query_key_norm
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return tables + self.num_hidden_layers * norms + self.hidden_size

    def adapter(self, lora: Mapping) -> int:
        """Parameters of a LoRA adapter."""
        names = self.linears if lora["targets"] == "all-linear" else lora["targets"]
        return self.num_hidden_layers * lora["r"] * sum(sum(self.linears[name]) for name in names)


KNOWN = {
    "smollm2-135m": Architecture(576, 30, 9, 3, 64, 1536, 49_152, query_key_norm=False),
    "Qwen/Qwen3-1.7B": Architecture(2048, 28, 16, 8, 128, 6144, 151_936),
    "Qwen/Qwen3-4B-Instruct-2507": Architecture(2560, 36, 32, 8, 128, 9728, 151_936),
}


def architecture(model: str) -> Architecture:
    """Of a profile's policy.id: one of the known ones, or a folder with a config.json.

    Raises:
        UserError: Neither.
    """
    if model in KNOWN:
        return KNOWN[model]
    path = (NANO if model == "nano" else Path(model)) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name in Architecture.__dataclass_fields__ if name != "query_key_norm"]
        return Architecture(**{name: config[name] for name in names}, query_key_norm=config["model_type"] == "qwen3")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"Nothing is known of the size of {model!r} ({error}); name a folder with its config.json, or one of "
            f"{', '.join(['nano', *KNOWN])}."
        ) from None


def needs_gpu(profile: Mapping) -> bool:
    """Whether its model is too large to be trained on a CPU."""
    return architecture(profile["policy"]["id"]).matrices > CPU_ENOUGH


def plan(profile: Mapping, prompt: int | None = None, completion: int | None = None) -> dict[str, dict[str, float]]:
    """Estimated memory of a profile's stage 1.

    Args:
        profile: Resolved settings.
        prompt: Tokens of a prompt; by default those of ml-100k.
        completion: Tokens of a trajectory after its prompt; by default the longest that goes on (a last turn may add
            agent.max_turn_tokens).

    Returns:
        {"rollouts": {part: bytes}, "update": {part: bytes}}; the parts of each add up.
    """
    policy, stage = profile["policy"], profile["rta"]
    shape, width, gpu = architecture(policy["id"]), DTYPES[policy["dtype"]].itemsize, needs_gpu(profile)
    prompt = prompt or PROMPT[policy["brief"]]
    completion = completion or profile["agent"]["max_completion_tokens"]
    trained = shape.adapter(policy["lora"])
    weights = shape.matrices * (NF4 if policy["quantize"] == "nf4" else width) + shape.others * width
    common = {"weights": weights, "adapter": 4 * trained, "optimiser": 8 * trained}
    n = stage["micro_groups"] * stage["group_size"]
    update = {"gradients": 4 * trained}
    update["activations"] = activations(shape, policy, gpu, stage["micro_groups"] * prompt + n * completion,
                                        n * (prompt + completion))  # fmt: skip
    update["logits"] = HEAD * 4 * min(n * completion, 4096, 2**26 // shape.vocab_size) * shape.vocab_size
    # logits are gone when the layers' backward passes begin
    update["backward"] = max(0.0, BACKWARD[policy["dtype"]] * update["activations"] - update["logits"])
    around = {"libraries": AROUND[gpu], "loading": 0.0 if gpu else LOADED * (shape.matrices + shape.others)}
    return {"rollouts": common | decoding(shape, profile, width, prompt + completion) | around,
            "update": common | update | around}  # fmt: skip


def decoding(shape: Architecture, profile: Mapping, width: int, tokens: int) -> dict[str, float]:
    """Bytes that rollouts take beside the weights, for trajectories of so many tokens, prompts included."""
    agent, stage = profile["agent"], profile["rta"]
    rows = min(agent["batch_rows"], stage["tasks_per_step"] * stage["group_size"])
    keys = shape.num_hidden_layers * 2 * shape.num_key_value_heads * shape.head_dim * width  # of one token
    cache = 1.5 * rows * -(-tokens // 256) * 256 * keys  # half of the rows are copied while they write on alone
    parts = {"KV cache": cache, "logits": 4 * 4 * rows * shape.vocab_size}
    return parts | ({"merged weights": shape.matrices * width} if agent["merge"] else {})


def activations(shape: Architecture, policy: Mapping, gpu: bool, own: int, seen: int) -> float:
    """Bytes kept for a backward pass over `own` tokens, whose rows attend to `seen` keys in all."""
    full = policy["dtype"] == "float32"
    h, i, q, k, context = KEPT["float32" if full else "half on a GPU" if gpu else "half on a CPU"]
    values = shape.num_key_value_heads * shape.head_dim
    a_token = h * shape.hidden_size + i * shape.intermediate_size + k * values
    a_token += q * shape.num_attention_heads * shape.head_dim
    layer = own * a_token + seen * context * values
    if not policy["gradient_checkpointing"]:
        return shape.num_hidden_layers * layer
    if full and not gpu:
        small = min(1, MAPPED / (4 * own * shape.intermediate_size))
        layer *= 1 + small * GAPS * max(0, shape.num_hidden_layers - 5)
    width = DTYPES[policy["dtype"]].itemsize
    return layer + shape.num_hidden_layers * width * (own * shape.hidden_size + seen * values)


def peak(parts: Mapping[str, Mapping[str, float]]) -> float:
    """The most memory that a plan's rollouts or updates take, in bytes."""
    return max(sum(part.values()) for part in parts.values())


def seconds(name: str, profile: Mapping) -> float:
    """Estimated time of both stages' steps, by the profile's pace."""
    pace, total = PACES[name], 0.0
    for stage in (profile["rta"], profile["ppr"]):
        n = stage["tasks_per_step"] * stage["group_size"]
        tokens = stage["tasks_per_step"] * PROMPT[profile["policy"]["brief"]] + n * pace.completion
        total += stage["steps"] * (tokens / pace.trained + n * pace.written / pace.decoded)
    return total


def plan_table(name: str, profile: Mapping) -> str:
    """A profile's plan for a terminal: every figure of it is estimated."""
    parts, pace = plan(profile), PACES[name]
    names = list(dict.fromkeys(part for phase in parts.values() for part in phase))
    shown = lambda value: "-" if value is None else f"{value / 1e9:.2f}"  # noqa: E731
    lines = [f"profile {name}: {profile['policy']['id']}; GB, all estimated", f"{'':16}{'rollouts':>10}{'update':>10}"]
    lines += [f"{part:16}" + "".join(f"{shown(parts[phase].get(part)):>10}" for phase in parts) for part in names]
    lines.append(f"{'sum':16}" + "".join(f"{shown(sum(phase.values())):>10}" for phase in parts.values()))
    lines.append(f"peak {peak(parts) / 1e9:.1f} GB (estimated), with trajectories of the longest length admitted")
    lines.append(
        f"time {seconds(name, profile) / 3600:.1f} h (estimated) for the steps of both stages, at {pace.trained:g} "
        f"tokens/s trained and {pace.decoded:g} tokens/s decoded, {pace.completion} tokens a trajectory"
    )
    return "\n".join(lines)


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; one that does not emulates it at a small part of fp32's speed."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] != "x86_64" or able["avx512_bf16"] or able["amx_bf16"]


def check_hardware(name: str, profile: Mapping) -> None:
    """Say what this machine lacks, before anything is downloaded.

    Raises:
        UserError: No GPU, a device without bf16, or too little memory or disk.
    """
    needed, dtype = peak(plan(profile)), profile["policy"]["dtype"]
    if needs_gpu(profile):
        if not torch.cuda.is_available():
            raise UserError(f"Profile {name!r} needs a CUDA GPU, and there is none here; on a CPU, take nano or smol.")
        if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError(f"Profile {name!r} computes in bfloat16, which this GPU lacks; set policy.dtype=float16.")
        there, place = torch.cuda.get_device_properties(0).total_memory, "GPU"
    else:
        if dtype == "bfloat16" and not cpu_has_bf16():
            raise UserError(f"Profile {name!r} computes in bfloat16, which this CPU lacks; set policy.dtype=float32.")
        there, place = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "machine"
    if needed > there:
        raise UserError(
            f"Profile {name!r} needs about {needed / 1e9:.1f} GB (estimated), and this {place} has "
            f"{there / 1e9:.1f} GB; set a smaller rta.micro_groups, agent.batch_rows or agent.max_completion_tokens, "
            "or take a smaller profile."
        )
    _check_disk(name, profile["policy"]["id"])


def _check_disk(name: str, model: str) -> None:
    """Whether a model that is not carried has room in the cache of hub models: its weights as published, in bf16."""
    if model == "nano" or Path(model).exists():
        return
    folder = Path(os.environ.get("HF_HOME", Path.home() / ".cache")) if "/" in model else cache_folder()
    while not folder.exists():
        folder = folder.parent
    shape, free = architecture(model), shutil.disk_usage(folder).free
    size = 2.2 * (shape.matrices + shape.others) if "/" in model else 0.7e9
    if free < size:
        raise UserError(
            f"Profile {name!r} keeps a model of {size / 1e9:.1f} GB (estimated) below {folder}, where "
            f"{free / 1e9:.1f} GB are free; free some, or name another folder (HF_HOME or AGENTICREC_CACHE)."
        )
