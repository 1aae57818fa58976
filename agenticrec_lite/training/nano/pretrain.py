"""Pre-training of nano on generated worlds: `agenticrec pretrain-nano`."""

import csv
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat, task_prompt
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.training.nano.attention import use_fp32_attention
from agenticrec_lite.training.nano.exam import exam
from agenticrec_lite.training.nano.teacher import ORDERING, SCORING, play, scripted_pair, scripted_ranking
from agenticrec_lite.training.nano.tokenizer import train_tokenizer
from agenticrec_lite.training.nano.worlds import N_CANDIDATES, random_world
from agenticrec_lite.training.scoring import pad, predictor_states, token_logprobs

CALLS = (0.04, 0.22, 0.32, 0.24, 0.12, 0.06)  # probability of 0, 1, 2, ... calls


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the checkpoint."""

    steps: int = 1600
    learnt: tuple[float, float] = (0.11, 0.16)  # cross-entropy at which drills with one, with several lists are over
    longest: tuple[int, int] = (450, 250)  # steps after which they are over in any case
    rehearsal: float = 0.1  # share of drills among the worlds that come after
    fuse: float = 0.0  # share of rankings by two lists in turn; a quarter was not learnt within an hour
    drill_tokens: int = 6000  # about, a step
    worlds: int = 16  # distinct prompts a step, divided by the number of turns, at least 4
    episodes: int = 4  # scripted trajectories a prompt; they share its forward pass
    hidden: int = 128
    layers: int = 5
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    warm_up: int = 50
    query_key_scale: float = 2.0  # of the norms before attention: sharp enough at the start to point at one token
    observation_weight: float = 0.2  # of the loss on observation tokens: what a list of scores looks like
    pair_share: float = 0.25
    seed: int = 0


CARD = """# nano

A policy of the Qwen3 architecture with its own byte-level BPE, pre-trained by this project on generated worlds only:
random catalogues with random evidence. It speaks the text protocol, calls tools without preference, and follows one of
the lists of candidates it has been shown. It has never seen a film, a product or a user. Rebuild it with

    agenticrec pretrain-nano --out data/nano

which took {minutes:.0f} minutes on 2 CPU cores. `training_log.csv` has the losses.

| recipe | |
|---|---|
{made}

In held-out generated worlds, sampled at temperature 1 (exact: the whole answer is the order by the evidence that the
last thought names; first: its first place is):

| | |
|---|---|
{can}

Licence: Apache-2.0, as the project.
"""


def new_tokenizer(rng: np.random.Generator, worlds: int = 1500) -> PreTrainedTokenizerFast:
    """A tokenizer fitted on prompts, turns and observations of generated worlds."""
    texts = []
    for _ in range(worlds):
        context = random_world(rng)
        environment = RankingEnvironment(context)
        texts.append(task_prompt(context))
        for turn in scripted_ranking(context, rng, int(rng.choice(len(CALLS), p=CALLS)), fuse=0.5):
            texts += [turn, environment.step(turn) or ""]
    return train_tokenizer(texts)


def new_policy(recipe: Recipe, vocabulary: int) -> Qwen3ForCausalLM:
    """An untrained policy of the Qwen3 architecture."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=3 * recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=2,
        )
    )
    for layer in model.model.layers:
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.weight.data.fill_(recipe.query_key_scale)
    return model


def lesson(chat: ChatFormat, recipe: Recipe, rng: np.random.Generator, phase: int) -> list[list[Trajectory]]:
    """A batch of scripted trajectories, one list a prompt.

    All trajectories of a batch make the same number of calls, so that they are of similar length.

    Args:
        chat, recipe, rng: How.
        phase: 0 is drills with one list, 1 drills with several, 2 whole worlds and some drills.
    """
    if phase < 2 or rng.random() < recipe.rehearsal:
        return _drills(chat, recipe, rng, phase)
    n_calls = int(rng.choice(len(CALLS), p=CALLS))
    worlds = max(4, recipe.worlds // (n_calls + 1))
    return [_world_lessons(chat, recipe, rng, n_calls) for _ in range(worlds)]


def _drills(chat: ChatFormat, recipe: Recipe, rng: np.random.Generator, phase: int) -> list[list[Trajectory]]:
    """Trajectories without system prompt, history and titles: all there is to learn is to read lists.

    The lists are of any length. Were they all as long, the policy would learn to copy from a fixed distance, and never
    to look for the number it wrote last; were short ones as frequent, it would seldom meet the high numbers. (Answers
    about short lists have fewer than ten numbers; the environment would not accept them, but nothing here asks it.)
    """
    n_calls, tools = (1, ORDERING) if phase == 0 else (int(rng.integers(1, len(SCORING) + 1)), SCORING)
    start = chat.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
    batch = []
    for _ in range(recipe.drill_tokens // (n_calls * (2 * N_CANDIDATES + 35) + 40)):
        length = max(2, int(np.ceil(N_CANDIDATES * rng.random() ** 0.5)))  # of any length, but long ones more often
        world = random_world(rng, longest=1, history=1, candidates=length)
        turns = scripted_ranking(world, rng, n_calls, tools, recipe.fuse)
        batch.append([play(turns, replace(world, neighbours=0), chat, "rank", start)])
    return batch


def _world_lessons(chat: ChatFormat, recipe: Recipe, rng: np.random.Generator, n_calls: int) -> list[Trajectory]:
    context = random_world(rng)
    if rng.random() < recipe.pair_share:
        question = str(rng.choice(["more", "less"]))
        pair = tuple((rng.choice(N_CANDIDATES, 2, replace=False) + 1).tolist())
        prompt = chat.prompt_ids(context, question, pair)
        scripts = [scripted_pair(context, rng, question, pair, n_calls) for _ in range(recipe.episodes)]
    else:
        question, prompt = "rank", chat.prompt_ids(context)
        scripts = [scripted_ranking(context, rng, n_calls, fuse=recipe.fuse) for _ in range(recipe.episodes)]
    return [play(turns, context, chat, question, prompt) for turns in scripts]


def cross_entropy(model, groups: list[list[Trajectory]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of action tokens and of observation tokens."""
    rows = [t for group in groups for t in group]
    group_of = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    prompts, prompt_mask = pad([group[0].prompt_ids for group in groups], 0, left=True)
    ids, mask = pad([t.completion_ids for t in rows], 0)
    actions, _ = pad([t.action_mask for t in rows], 0)
    with torch.autocast("cpu", torch.bfloat16):
        states = predictor_states(model, prompts, prompt_mask, ids, mask, group_of)
        chosen = mask.bool()
        logprobs, _ = token_logprobs(model, states[chosen], ids[chosen])
    is_action = actions[chosen].bool()
    return -logprobs[is_action].mean(), -logprobs[~is_action].sum() / max(1, int((~is_action).sum()))


def optimizers(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def pretrain(out: str | Path, recipe: Recipe | None = None) -> Path:
    """Train nano from nothing and write it, its tokenizer, its training log and its model card.

    Args:
        out: Folder for the checkpoint.
        recipe: Everything that decides the result.

    Returns:
        The folder.
    """
    recipe, out = recipe or Recipe(), Path(out)
    rng = np.random.default_rng(recipe.seed)
    tokenizer = new_tokenizer(rng)
    chat, model = ChatFormat.of(tokenizer, brief=True), new_policy(recipe, len(tokenizer))
    steppers, log, start = optimizers(model, recipe), [], time.time()
    use_fp32_attention(model)
    model.train()
    phase = 0
    bar = tqdm(range(recipe.steps), desc="pre-training nano", mininterval=5)
    for step in bar:
        losses = train_step(model, steppers, lesson(chat, recipe, rng, phase), recipe, step)
        log.append({"step": step + 1, "phase": phase, "seconds": round(time.time() - start, 1), **losses})
        bar.set_postfix(action_ce=f"{losses['action_ce']:.3f}", phase=phase, refresh=False)
        phase += phase_is_over(log, recipe)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_log(out / "training_log.csv", log)
    write_card(out / "README.md", recipe, log, exam(model, chat))
    return out


def phase_is_over(log: list[dict], recipe: Recipe, window: int = 20) -> bool:
    """Whether the drills of the last row's phase have been learnt (mean over 20 steps), or have taken long enough."""
    phase = log[-1]["phase"]
    losses = [row["action_ce"] for row in log if row["phase"] == phase]
    if phase == 2 or len(losses) < window:
        return False
    return float(np.mean(losses[-window:])) < recipe.learnt[phase] or len(losses) >= recipe.longest[phase]


def train_step(model, steppers: list[torch.optim.Optimizer], batch, recipe: Recipe, step: int) -> dict[str, float]:
    """One update; the learning rates warm up, stay, and fall to nearly nothing over the last third."""
    scale = min(1.0, (step + 1) / recipe.warm_up, 3 * (1 - step / recipe.steps) + 0.02)
    for optimizer, rate in zip(steppers, (recipe.muon_rate, recipe.adam_rate), strict=True):
        optimizer.param_groups[0]["lr"] = rate * scale
    action, observation = cross_entropy(model, batch)
    (action + recipe.observation_weight * observation).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in steppers:
        optimizer.step()
        optimizer.zero_grad()
    return {"action_ce": action.item(), "observation_ce": observation.item()}


def write_log(path: Path, log: list[dict], every: int = 25) -> None:
    """Means over every 25 steps."""
    columns = ["action_ce", "observation_ce"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "phase", "seconds", *columns])
        for i in range(every, len(log) + 1, every):
            part = log[i - every : i]
            means = (f"{np.mean([row[column] for row in part]):.4f}" for column in columns)
            writer.writerow([part[-1]["step"], part[-1]["phase"], part[-1]["seconds"], *means])


def write_card(path: Path, recipe: Recipe, log: list[dict], marks: dict) -> None:
    """The model card: what it is, how it was made, what it can do."""
    made = "\n".join(f"| {name} | {value} |" for name, value in asdict(recipe).items())
    can = "\n".join(f"| {name} | {value:.3f} |" for name, value in marks.items() if value is not None)
    path.write_text(CARD.format(minutes=log[-1]["seconds"] / 60, made=made, can=can), encoding="utf-8")
