"""Attention in fp32 under bf16 autocast: on CPUs, the backward pass of bf16 attention is several times slower."""

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

NAME = "sdpa_fp32"


def _fp32_attention(module, query, key, value, attention_mask, **kwargs):
    with torch.autocast(query.device.type, enabled=False):
        attended, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return attended.to(query.dtype), weights


def use_fp32_attention(model) -> None:
    """Make a model's attention run in fp32 whatever the autocast around it."""
    AttentionInterface.register(NAME, _fp32_attention)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(NAME)
