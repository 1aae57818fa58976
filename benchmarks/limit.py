"""How near the engine comes to what the machine can do: `python -m benchmarks.limit MODEL FOLDER OUT [DTYPE]`.

The limit is measured in the same process: the rate of matrix products at the model's own shapes and row counts, and
the rate at which memory is read. The work is the arithmetic of the matrix products that were really executed, counted
by torch as they run. A share of 1 would mean that nothing but these products takes time.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from agenticrec_lite.agent.cache import SlotCache
from agenticrec_lite.policy import base_model
from benchmarks.workload import load, pin_threads, played_logprobs, read_replay

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear", "scaled_dot_product")
ROWS, PROMPT, DECODED = 16, 512, 16  # of the decode measurement


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a piece of work, after one run to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def product_rate(model, rows: int) -> float:
    """FLOP/s of the decoder's own weight products with `rows` rows, each layer's in turn."""
    decoder = base_model(model).get_decoder()
    weights = [m.weight for m in decoder.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {(w.shape[1], w.dtype): torch.randn(rows, w.shape[1], dtype=w.dtype) for w in weights}
    flops = sum(2 * rows * w.numel() for w in weights)
    with torch.no_grad():
        return flops / seconds(lambda: [inputs[w.shape[1], w.dtype] @ w.T for w in weights])


def read_rate(megabytes: int = 512) -> float:
    """Bytes a second when a large buffer is summed."""
    buffer = torch.ones(megabytes * 2**20 // 4)
    return buffer.nbytes / seconds(buffer.sum)


def measured(work: Callable[[], object], limit: float) -> dict:
    """Time, arithmetic, share of the limit and the largest losses of one phase."""
    taken = seconds(work, 3)
    with FlopCounterMode(display=False) as counter:
        work()
    with torch.profiler.profile() as profile:
        work()
    events = profile.key_averages()
    total = sum(e.self_cpu_time_total for e in events)
    losses = sorted((e for e in events if not e.key.startswith(PRODUCTS) and "flash_attention" not in e.key),
                    key=lambda e: -e.self_cpu_time_total)[:3]  # fmt: skip
    flops = counter.get_total_flops()
    return {
        "seconds": taken, "gflop": flops / 1e9, "gflop_per_s": flops / taken / 1e9,
        "limit_gflop_per_s": limit / 1e9, "share": flops / taken / limit,
        "losses": {e.key: round(e.self_cpu_time_total / total, 3) for e in losses},
    }  # fmt: skip


def prefill(model) -> Callable[[], object]:
    """Two prompts through the decoder."""
    decoder = base_model(model).get_decoder()
    ids = torch.randint(10, 1000, (2, PROMPT))
    return torch.no_grad()(lambda: decoder(ids, use_cache=False))


def decode(model) -> Callable[[], object]:
    """Single tokens of many rows on top of a cache."""
    decoder, head = base_model(model).get_decoder(), base_model(model).get_output_embeddings()
    cache = SlotCache(decoder.config.num_hidden_layers, ROWS)
    ids = torch.randint(10, 1000, (ROWS, PROMPT))

    def feed(block: torch.Tensor, start: int):
        positions = start + torch.arange(block.shape[1]).expand(ROWS, -1)
        cache.place(slice(ROWS), torch.arange(ROWS), positions, start + block.shape[1])
        mask = torch.arange(start + block.shape[1]) <= positions[:, None, :, None]
        return decoder(block, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)

    with torch.no_grad():
        feed(ids, 0)
    return torch.no_grad()(
        lambda: [head(feed(ids[:, :1], PROMPT + i).last_hidden_state[:, -1]) for i in range(DECODED)]
    )


def main(model: str, folder: str, out: str, dtype: str = "float32") -> None:
    pin_threads()
    policy = load(model, dtype)
    group = [t for t in read_replay(Path(folder)) if t.group == 0]
    completion_rows = sum(len(t.completion_ids) for t in group)
    limits = {rows: product_rate(policy.model, rows) for rows in (2 * PROMPT, ROWS, completion_rows)}
    weights = sum(p.nbytes for p in base_model(policy.model).get_decoder().parameters())
    result = {
        "dtype": dtype,
        "read_gb_per_s": read_rate() / 1e9,
        "prefill": measured(prefill(policy.model), limits[2 * PROMPT]),
        "decode": measured(decode(policy.model), limits[ROWS]),
        "update": measured(lambda: played_logprobs(policy.model, group).sum().backward(), limits[completion_rows]),
    }
    read = weights * DECODED / result["decode"]["seconds"] / 1e9
    result["decode"]["share_of_bandwidth"] = read / result["read_gb_per_s"]
    Path(out).write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
