"""Load a policy: model, tokenizer, NF4 quantisation, LoRA adapter."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bitsandbytes
import torch
import transformers
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.cache_utils import DynamicLayer

from agenticrec_lite.carried import CARRIED
from agenticrec_lite.data.fetch import SMOLLM2_GGUF, fetch
from agenticrec_lite.errors import UserError, first_line
from agenticrec_lite.profiles import completed
from agenticrec_lite.runs import replacing

NANO = CARRIED / "nano"
NANOS = {"nano": NANO, "nano-plain": NANO / "plain"}  # with its habit, and without
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Policy:
    """A language model that plays the agent.

    Attributes:
        model: The model; a PeftModel once it has an adapter.
        tokenizer: With a chat template that knows the role "tool".
        brief: Whether its system prompt is the short one.
        tools: How its prompt describes the tools, "words" or "schemas".
        revision: Of the model on the hub: a branch or a commit.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    brief: bool = False
    tools: str = "words"
    revision: str = "main"


def load_policy(settings: dict, adapter: str | Path | None = None, trainable: bool = True) -> Policy:
    """Load the base model of a profile and put a LoRA adapter on it.

    Args:
        settings: The profile's `policy` section: id ("nano", "nano-plain", "smollm2-135m", a folder or a hub id),
            revision, brief, chat_template ("own" or a file), tools ("words" or "schemas"), quantize ("nf4" or "none"),
            dtype, lora {r, alpha, targets}, attention, gradient_checkpointing.
        adapter: Folder of a saved adapter; None starts a fresh one, which changes nothing until it is trained.
        trainable: Whether the adapter's weights get gradients.

    Raises:
        UserError: A model or adapter that is not there, damaged or not safetensors; a model that brings code of its
            own, or whose attention or head is of a kind that rollouts and updates do not compute.
    """
    settings = completed({"policy": settings})["policy"]
    source = settings["id"]
    if source in NANOS:
        source = nano_folder(source)
    elif source == "smollm2-135m":
        source = smollm2_folder()
    quantization = quantization_config(settings["quantize"], DTYPES[settings["dtype"]])
    safe = {"trust_remote_code": False, "revision": settings["revision"]}  # code beside the weights could do anything
    place = {"device_map": {"": torch.cuda.current_device()}} if torch.cuda.is_available() else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **safe)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES[settings["dtype"]], quantization_config=quantization,
            attn_implementation=settings["attention"], use_safetensors=True, **safe, **place,
        )  # fmt: skip
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The model {settings['id']!r} cannot be loaded: {first_line(error)}") from error
    if settings["chat_template"] != "own":
        tokenizer.chat_template = _template(settings["chat_template"])
    keep_training_layout(model)
    remove_dropout(model)
    _check_family(model, settings["id"])
    if settings["gradient_checkpointing"]:
        checkpoint_layers(model)
    model = add_adapter(model, settings["lora"], adapter, trainable)
    for config in model.peft_config.values():
        config.base_model_name_or_path = settings["id"]  # what a saved adapter names: not a folder of this machine
    return Policy(model, tokenizer, settings["brief"], settings["tools"], settings["revision"])


@torch.no_grad()
def _check_family(model: PreTrainedModel, name: str) -> None:
    """Refuse a model whose function is another one in rollouts and updates, which run decoder and head themselves."""
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=model.config.get_text_config()).layers):
        raise UserError(
            f"The model {name!r} does not attend to all earlier tokens (a sliding window, or linear attention), which "
            "the rollouts here take for granted; take a model of full attention."
        )
    ids, head = torch.arange(8, device=model.device)[None], model.get_output_embeddings()
    whole, parts = model(ids).logits.float(), head(model.get_decoder()(ids).last_hidden_state).float()
    if not torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        raise UserError(
            f"The model {name!r} scales or caps what its head computes, which the rollouts here do not; take a model "
            "of another family."
        )


def _template(path: str) -> str:
    """A chat template from a file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"policy.chat_template {path!r} cannot be read ({error}); name a file, or own.") from None


def nano_folder(name: str = "nano") -> Path:
    """Where a nano is, of NANOS."""
    if not (NANOS[name] / "model.safetensors").exists():
        raise UserError(
            f"{name}'s weights are missing in data/nano: run agenticrec pretrain-nano, or check out data/nano."
        )
    return NANOS[name]


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct in the cache, fetched and unpacked from 4-bit GGUF to fp32 safetensors when missing."""
    gguf = fetch("smollm2-135m")
    folder = gguf.with_name(f"{gguf.name}-unpacked")
    if not folder.exists():
        how = {}
        if hasattr(transformers, "GgufConfig"):  # newer than 5.15, which dequantises anyway; else it could not be saved
            how["quantization_config"] = transformers.GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            gguf, gguf_file=SMOLLM2_GGUF, dtype=torch.float32, **how
        )
        try:
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
                model.save_pretrained(f"{scratch}/fresh")
                AutoTokenizer.from_pretrained(gguf, gguf_file=SMOLLM2_GGUF).save_pretrained(f"{scratch}/fresh")
                Path(scratch, "fresh").rename(folder)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"smollm2-135m cannot be unpacked beside {gguf}: {error}. It takes 0.6 GB there; free some, try again."
            ) from None
    return folder


def quantization_config(kind: str, compute_dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation (Dettmers et al. 2023, QLoRA) for "nf4", None for "none"."""
    if kind == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def keep_training_layout(model: PreTrainedModel) -> None:
    """Forbid bitsandbytes to repack NF4 weights for inference.

    On CPUs with avx512_bf16 the first forward in eval mode would repack them, and every gradient after that would be
    wrong (cosine .22 to the true one) with no more than a warning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def remove_dropout(model: PreTrainedModel) -> None:
    """Rollouts play the policy without dropout, so updates score it without (GPT-2's configuration has a tenth)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only what goes into each decoder layer, and compute the rest again in the backward pass.

    transformers' own gradient checkpointing would drop the KV cache, through which the copies of a group share their
    prompt. Here a layer's keys and values go in and come out as tensors, so that a second run does no harm.

    Raises:
        UserError: The model's layers are not where most families have them.
    """
    layers = getattr(model.get_decoder(), "layers", [])
    if not layers or not all(hasattr(getattr(layer, "self_attn", None), "layer_idx") for layer in layers):
        raise UserError(
            f"Layers of a {type(model).__name__} cannot be checkpointed here; set policy.gradient_checkpointing=false."
        )
    for layer in layers:
        layer.forward = partial(_checkpointed, layer, layer.forward)


def _checkpointed(layer, forward, hidden, *args, past_key_values=None, **rest):
    """The layer's output. The cache takes its keys and values, unless it says that nobody will ask for them."""
    cache, place = past_key_values, layer.self_attn.layer_idx
    if not (layer.training and torch.is_grad_enabled()):
        return forward(hidden, *args, past_key_values=cache, **rest)
    if cache is None:
        return checkpoint(forward, hidden, *args, **rest, use_reentrant=False)
    filled = len(cache.layers) > place and cache.get_seq_length(place) > 0
    shared = (cache.layers[place].keys, cache.layers[place].values) if filled else ()
    grows = not filled or getattr(cache, "grows", True)

    def run(hidden, *shared):
        one = _OneLayer(*shared)
        out = forward(hidden, *args, past_key_values=one, **rest)
        return (out, one.keys, one.values) if grows else out

    result = checkpoint(run, hidden, *shared, use_reentrant=False)
    if not grows:
        return result
    if filled:
        cache.layers[place].keys, cache.layers[place].values = result[1:]
    else:
        cache.update(*result[1:], place)
    return result[0]


class _OneLayer:
    """What a layer's attention asks of a cache."""

    def __init__(self, keys: torch.Tensor | None = None, values: torch.Tensor | None = None):
        self.keys, self.values = keys, values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        if self.keys is not None:
            keys, values = torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2)
        self.keys, self.values = keys, values
        return keys, values


def add_adapter(model: PreTrainedModel, lora: dict, adapter: str | Path | None = None, trainable: bool = True):
    """Put a fresh or a saved LoRA adapter on a model; its weights are fp32, whatever the base is.

    On a quantised base the adapter would otherwise become bf16, where an update of 1e-5 rounds away.
    """
    from peft import LoraConfig, PeftModel, get_peft_model  # slow to import, and not needed to read a checkpoint

    leave_old_torchao_aside()
    if adapter is not None:
        if not Path(adapter, "adapter_model.safetensors").exists():  # peft would take a pickle in its place
            raise UserError(f"There is no adapter_model.safetensors in {adapter}; train that stage first.")
        try:
            model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = first_line(error)
            raise UserError(f"The adapter in {adapter} cannot be loaded ({reason}); train that stage again.") from error
    else:
        config = LoraConfig(
            r=lora["r"],
            lora_alpha=lora["alpha"],
            target_modules=lora["targets"],
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, config)
    fp32_adapter(model)
    return model


def leave_old_torchao_aside() -> None:
    """Let peft work beside a torchao that is too old for it, as Colab's is.

    peft looks for torchao at every layer that it adapts, and raises if it finds an old one, whether or not the layer
    has to do with it. Nothing here is quantised by torchao.
    """
    from peft import import_utils

    try:
        import_utils.is_torchao_available()
    except ImportError:
        for name, module in list(sys.modules.items()):
            if name.startswith("peft.") and hasattr(module, "is_torchao_available"):
                module.is_torchao_available = bool  # is False


def save_adapter(model, folder: Path) -> None:
    """Write a model's adapter, whole or not at all, the same bytes in every process.

    Raises:
        UserError: It could not be written.
    """
    for config in model.peft_config.values():
        if isinstance(config.target_modules, set):  # its order differs from process to process
            config.target_modules = sorted(config.target_modules)
    with replacing(folder) as fresh:
        model.save_pretrained(fresh, save_embedding_layers=False)  # else peft looks for them on the hub


def precision(dtype: str) -> dict[str, bool]:
    """trl's arguments for training in a policy's dtype: on a GPU mixed with fp32, on a CPU as the weights are.

    gradient_checkpointing is off because it is the policy's own, see `checkpoint_layers`.
    """
    gpu = torch.cuda.is_available()
    mixed = {"bf16": gpu and dtype == "bfloat16", "fp16": gpu and dtype == "float16"}
    return {"use_cpu": not gpu, **mixed, "gradient_checkpointing": False}


def autocast(model) -> AbstractContextManager:
    """The precision of updates, for rollouts: what `precision` makes of a training, around the model's own modules."""
    device, dtype = model.device.type, model.dtype
    half = device == "cuda" and dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device, dtype) if half else nullcontext()


def base_model(model) -> PreTrainedModel:
    """The transformers model inside a PeftModel (adapters stay active), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def fp32_adapter(model) -> None:
    """Cast trainable parameters to fp32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@contextmanager
def merged(model) -> Iterator[None]:
    """Within the block, adapters are merged into plain weights of the base's dtype: W + B A alpha / r.

    The same function up to rounding, without dequantising W and multiplying by A and B at every token. Needs the
    memory of an unquantised model, so it is for small ones. A base in 16 bits is left as it is: beside weights of 16
    bits a small update of the adapter is rounded away, and rollouts would play an older policy than the one that is
    trained.
    """
    modules = dict(model.named_modules())
    layers = {name: layer for name, layer in modules.items() if _mergeable(layer)}
    try:
        for name, layer in layers.items():
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, _merged_layer(layer))
        yield
    finally:
        for name, layer in layers.items():
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, layer)


def _mergeable(module: torch.nn.Module) -> bool:
    """Whether it is a linear layer with an adapter, in fp32 or in NF4 that computes in fp32."""
    if not hasattr(module, "get_delta_weight") or not module.lora_A:
        return False
    weight = module.base_layer.weight
    computes = getattr(weight, "quant_state", None) or weight
    return isinstance(module.base_layer, torch.nn.Linear) and computes.dtype == torch.float32


@torch.no_grad()
def _merged_layer(layer) -> torch.nn.Linear:
    weight, bias = layer.base_layer.weight.data, layer.base_layer.bias
    if isinstance(layer.base_layer, bitsandbytes.nn.Linear4bit):
        weight = bitsandbytes.functional.dequantize_4bit(weight, layer.base_layer.weight.quant_state)
    linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=bias is not None, device="meta")
    linear.weight = torch.nn.Parameter(weight + layer.get_delta_weight(layer.active_adapter[0]), False)
    linear.bias = bias
    return linear
