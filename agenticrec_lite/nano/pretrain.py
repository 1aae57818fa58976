"""Pre-training of nano on generated worlds: `agenticrec pretrain-nano`."""

import json
import re
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import ChatFormat, task_prompt
from agenticrec_lite.agent.scoring import pad, predictor_states
from agenticrec_lite.agent.teacher import demonstration
from agenticrec_lite.errors import UserError
from agenticrec_lite.nano.card import has_card, write_card, write_log
from agenticrec_lite.nano.exam import exam
from agenticrec_lite.nano.lessons import DRILLS, PAIRS, Batch, Lesson, asked, batch, lesson_world
from agenticrec_lite.nano.muon import Muon
from agenticrec_lite.nano.tokenizer import train_tokenizer
from agenticrec_lite.runs import replacing
from agenticrec_lite.runs.files import check_replaceable, remove_leftovers

WORKERS = 2  # processes of one thread each: for matrices this small, twice as fast as one process of two threads
UNFINISHED = "unfinished.safetensors"
KEEP_EVERY = 100  # steps; an interrupted pre-training goes on from there


CALLS = (0.02, 0.13, 0.2, 0.25, 0.22, 0.13, 0.05)  # probability of 0, 1, 2, ... calls before the calculator's
HABIT_CALLS = (0.0, 0.03, 0.12, 0.3, 0.35, 0.2)
MOST_CALLS = 3  # about 21 to 100 candidates, whose lists are long
PLAIN = "plain"  # folder, inside of nano's, of the checkpoint before the lessons with a habit


@dataclass(frozen=True)
class Part:
    """What lessons are like from some step on; each part brings something harder.

    Attributes:
        begin: Its first step.
        kinds: Shares of the kinds of DRILLS among the drills.
        calls: The most calls in a drill before the calculator's.
        sizes: Shares of short, usual, long worlds and of many candidates; empty as long as there are drills only.
        habit: Whether the teachers in worlds have one.
    """

    begin: int
    kinds: tuple[float, float, float, float, float, float]
    calls: int = 1
    sizes: tuple[float, ...] = ()
    habit: bool = False


PARTS = (
    Part(0, (0.25, 0.6, 0.0, 0.0, 0.0, 0.15)),
    Part(260, (0.1, 0.15, 0.15, 0.25, 0.2, 0.15), calls=2),
    Part(560, (0.1, 0.15, 0.15, 0.2, 0.2, 0.2), 2, (0.7, 0.3, 0.0, 0.0)),
    Part(950, (0.1, 0.15, 0.15, 0.2, 0.2, 0.2), 2, (0.45, 0.3, 0.1, 0.15)),
    Part(1750, (0.1, 0.15, 0.15, 0.2, 0.2, 0.2), 2, (0.45, 0.3, 0.1, 0.15), habit=True),
)
RATES = ((-1, 0.0), (49, 1.0), (700, 1.0), (1750, 0.0))  # (step, share of the full rates), with lines between


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the checkpoint, beside the lessons."""

    steps: int = 1750
    habit_steps: int = 130  # after these, with new optimizers and a quarter of the rates
    parts: tuple[Part, ...] = PARTS
    drills: int = 3  # batches of drills a worker and step; beside worlds one
    other_tools: float = 0.25  # share of the worlds with other tools than the package's
    mistakes: float = 0.12  # share of the calls in worlds with a mistake before them, so that it is not made twice
    hidden: int = 128
    layers: int = 5
    muon_rate: float = 0.02
    adam_rate: float = 2e-3
    rates: tuple[tuple[float, float], ...] = RATES
    query_key_scale: float = 2.0  # of the norms before attention: sharp enough at the start to point at one token
    observation_weight: float = 0.2  # of the loss on observation tokens: what a list of scores looks like
    sharpen: float = 1.4  # the saved weights' logits are this times those that were trained
    seed: int = 0


def new_tokenizer(rng: np.random.Generator, worlds: int = 1500) -> PreTrainedTokenizerFast:
    """A tokenizer fitted on prompts, turns and observations of generated worlds."""
    texts = []
    for _ in range(worlds):
        world, kind = asked(lesson_world(str(rng.choice(["usual", "long"], p=[0.9, 0.1])), rng, 0.3), rng, PAIRS)
        environment = RankingEnvironment(world, kind)
        texts.append(task_prompt(environment.context, kind))
        for turn in demonstration(rng, int(rng.choice(len(CALLS), p=CALLS)))(environment):
            texts += [turn, environment.step(turn) or ""]
    return train_tokenizer(texts)


def new_policy(recipe: Recipe, vocabulary: int) -> Qwen3ForCausalLM:
    """An untrained policy of the Qwen3 architecture.

    Its embeddings begin as long as they will be. transformers' begin at a tenth of that, and two tokens that stand in
    the same places then grow into nearly one vector: the cosine of MORE and LESS was .999 after 2,000 steps, and which
    of them was asked stayed unread.
    """
    torch.manual_seed(recipe.seed)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=recipe.hidden, intermediate_size=3 * recipe.hidden,
        num_hidden_layers=recipe.layers, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=recipe.hidden**-0.5)
    for layer in model.model.layers:
        for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
            norm.weight.data.fill_(recipe.query_key_scale)
    return model


def cross_entropy(model, groups: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of action tokens and of observation tokens; a teacher's mistakes are in neither."""
    rows = [t for group in groups for t in group]
    group_of = torch.tensor([g for g, group in enumerate(groups) for _ in group])
    prompts, prompt_mask = pad([group[0].prompt_ids for group in groups], 0, left=True)
    ids, mask = pad([t.completion_ids for t in rows], 0)
    actions, _ = pad([t.action_mask for t in rows], 0)
    states = predictor_states(model, prompts, prompt_mask, ids, mask, group_of)
    chosen = mask.bool()
    losses = F.cross_entropy(model.get_output_embeddings()(states[chosen]), ids[chosen], reduction="none")
    acted, observed = actions[chosen] == 1, actions[chosen] == 0
    return losses[acted].mean(), losses[observed].sum() / max(1, int(observed.sum()))


def optimizers(model, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    adam = torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.01)
    return [Muon(matrices, lr=recipe.muon_rate), adam]


def part_of(recipe: Recipe, step: int) -> int:
    """Number of the part that a step belongs to."""
    return sum(part.begin <= step for part in recipe.parts) - 1


def syllabus(recipe: Recipe, step: int, rank: int = 0) -> list[Lesson]:
    """The lessons of a step, of one worker.

    Several kinds in each step: Muon's steps are of the same length whatever the gradient, and steps about other things
    undo what is practised only now and then. Worlds are of one size for all workers, so that none has to wait.
    """
    part = recipe.parts[part_of(recipe, step)]
    own, all_alike = np.random.default_rng([recipe.seed, step, 1, rank]), np.random.default_rng([recipe.seed, step])
    drills = [
        Lesson(str(own.choice([*DRILLS], p=part.kinds)), int(own.integers(1, part.calls + 1)))
        for _ in range(1 if part.sizes else recipe.drills)
    ]
    if not part.sizes:
        return drills
    p = HABIT_CALLS if part.habit else CALLS
    n_calls = int(all_alike.choice(len(p), p=p))
    size = str(all_alike.choice(["short", "usual", "long", "many"], p=part.sizes))
    n_calls = min(n_calls, MOST_CALLS) if size == "many" else n_calls
    world = Lesson("habits" if part.habit else "worlds", n_calls, size, recipe.other_tools, recipe.mistakes)
    return [world, *drills]


def pretrain(out: str | Path, recipe: Recipe | None = None) -> Path:
    """Train nano from nothing and write it, its tokenizer, its training log and its model card.

    Args:
        out: Folder for the checkpoint: a new or an empty one, or one that holds a nano, whole or unfinished.
        recipe: Everything that decides the result.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds other files than nano's, or cannot be made or written.
    """
    recipe, out = recipe or Recipe(), Path(out)
    remove_leftovers(out, re.escape(UNFINISHED))
    if not (out / UNFINISHED).exists() and not has_card(out):
        check_replaceable(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()  # rather now than after the first steps
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); give another --out.") from None
    with tempfile.TemporaryDirectory() as meeting:
        torch.multiprocessing.spawn(_work, (recipe, out, f"file://{meeting}/point"), WORKERS)
    return out


def _work(rank: int, recipe: Recipe, out: Path, meeting: str) -> None:
    """What each worker does: the same steps on its own lessons; the first one writes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=WORKERS)
    tokenizer = new_tokenizer(np.random.default_rng(recipe.seed))
    chat, model = ChatFormat.of(tokenizer, brief=True), new_policy(recipe, len(tokenizer))
    log = train(model.train(), chat, recipe, rank, out)
    if rank == 0:
        save(model, chat, recipe, out)
        write_log(out / "training_log.csv", log)
        marks = {folder: exam(load(folder), chat) for folder in (out, out / PLAIN)}
        write_card(out / "README.md", asdict(recipe), log, *marks.values())
        (out / UNFINISHED).unlink(missing_ok=True)
    torch.distributed.destroy_process_group()


def save(model, chat: ChatFormat, recipe: Recipe, folder: Path) -> None:
    """Write the checkpoint. Its last norm is scaled: logits times `sharpen` are those at temperature 1 / `sharpen`."""
    model.model.norm.weight.data.mul_(recipe.sharpen)
    model.save_pretrained(folder)
    model.model.norm.weight.data.div_(recipe.sharpen)
    chat.tokenizer.save_pretrained(folder)


def load(folder: Path) -> Qwen3ForCausalLM:
    """A saved checkpoint."""
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def train(model, chat: ChatFormat, recipe: Recipe, rank: int, out: Path) -> list[dict]:
    """All steps of one worker, from where an interrupted one left off; a row of the log a step."""
    steppers, unfinished = optimizers(model, recipe), out / UNFINISHED
    log = resume(unfinished, model, steppers, recipe)
    start = time.time() - (log[-1]["seconds"] if log else 0)
    total = recipe.steps + recipe.habit_steps
    bar = tqdm(
        range(len(log), total), "pre-training nano", initial=len(log), total=total, mininterval=5, disable=rank > 0
    )
    for step in bar:
        if step == recipe.steps:
            if rank == 0:
                save(model, chat, recipe, out / PLAIN)
            steppers = optimizers(model, recipe)
        lessons, rng = syllabus(recipe, step, rank), np.random.default_rng([recipe.seed, step, 2, rank])
        losses = train_step(model, steppers, [batch(lesson, chat, rng) for lesson in lessons], recipe, step)
        kinds = {lesson.kind: round(own, 4) for lesson, own in zip(lessons, losses.pop("own"), strict=True)}
        part, seconds = part_of(recipe, step), time.time() - start
        log.append({"step": step + 1, "part": part, "seconds": seconds, **losses, "kinds": kinds})
        bar.set_postfix(action_ce=f"{losses['action_ce']:.3f}", lesson=lessons[0].kind, refresh=False)
        if rank == 0 and (step + 1) % KEEP_EVERY == 0:
            keep(unfinished, model, steppers, recipe, log)
    return log


def keep(path: Path, model, steppers: list[torch.optim.Optimizer], recipe: Recipe, log: list[dict]) -> None:
    """Write all that is needed to go on after this step: weights, state of the optimizers, log."""
    state = {
        f"{i}/{name}/{key}": value
        for i, stepper in enumerate(steppers)
        for name, values in stepper.state_dict()["state"].items()
        for key, value in values.items()
    }
    weights = {f"model/{name}": p.detach() for name, p in model.named_parameters()}
    metadata = {"recipe": json.dumps(asdict(recipe)), "log": json.dumps(log)}
    with replacing(path) as fresh:
        save_file(weights | state, fresh, metadata)


def resume(path: Path, model, steppers: list[torch.optim.Optimizer], recipe: Recipe) -> list[dict]:
    """Put back what `keep` wrote; an empty log if there is nothing, or it is of another recipe."""
    if not path.exists():
        return []
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe"] != json.dumps(asdict(recipe)):
            return []
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors.pop(f"model/{name}"))
    states = [defaultdict(dict) for _ in steppers]
    for key, value in tensors.items():
        i, name, what = key.split("/")
        states[int(i)][int(name)][what] = value
    for stepper, state in zip(steppers, states, strict=True):
        stepper.load_state_dict(stepper.state_dict() | {"state": dict(state)})
    return json.loads(metadata["log"])


def train_step(model, steppers: list[torch.optim.Optimizer], lessons: list[Batch], recipe: Recipe, step: int) -> dict:
    """One update on several batches, each of a weight that grows with its tokens; for habits with low, falling rates.

    Returns:
        action_ce, observation_ce: means over all workers' batches; own: the cross-entropy of each batch of this worker.
    """
    scale = float(np.interp(step, *zip(*recipe.rates, strict=True)))
    if step >= recipe.steps:
        scale = 0.25 * (1 - (step - recipe.steps) / recipe.habit_steps)
    for optimizer, rate in zip(steppers, (recipe.muon_rate, recipe.adam_rate), strict=True):
        optimizer.param_groups[0]["lr"] = rate * scale
    sizes = [sum(len(t.completion_ids) for group in groups for t in group) for groups in lessons]
    means, own = torch.zeros(2), []
    for groups, size in zip(lessons, sizes, strict=True):
        action, observation = cross_entropy(model, groups)
        ((action + recipe.observation_weight * observation) * size / sum(sizes)).backward()
        means += torch.stack([action, observation]).detach() * size / sum(sizes)
        own.append(float(action.detach()))
    average([*(p.grad for p in model.parameters()), means])
    clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in steppers:
        optimizer.step()
        optimizer.zero_grad()
    return dict(zip(("action_ce", "observation_ce"), means.tolist(), strict=True)) | {"own": own}


def average(tensors: list[torch.Tensor]) -> None:
    """Make each tensor the mean over the workers, in place, with one message for all."""
    if torch.distributed.is_initialized():
        message = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(message)
        parts = (message / torch.distributed.get_world_size()).split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
