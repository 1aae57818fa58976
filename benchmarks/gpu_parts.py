"""The parts of `benchmarks.gpu`: `python -m benchmarks.gpu_parts PART FOLDER` writes FOLDER/PART.json as it goes."""

import argparse
import gc
import importlib
import importlib.util
import json
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import action_logprobs, pad
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data.toystore import generate
from agenticrec_lite.experiment.stages import run_experiment
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.pace import CARDS, card_here, floor, pace_on
from agenticrec_lite.plan import KNOWN, plan, prompt_tokens
from agenticrec_lite.policy import NANO, Policy, autocast, base_model, load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.runs import read_metrics, read_result
from benchmarks import arms, workload

TURN, STEPS = 96, 3  # tokens that each row decodes, and steps of training, of which the last is timed
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2}
TOY = {"tasks_per_step": 1, "group_size": 2, "micro_groups": 1}
TIE = 1e-3  # nats: tokens as likely as that may come in either order
Save = Callable[[dict], None]


def write_model(folder: Path, model: str, small: bool) -> str:
    """Random weights of a known model's shape, or of a small one, with nano's tokenizer: only its ids are used."""
    tokenizer, config = AutoTokenizer.from_pretrained(NANO), KNOWN[model]
    if small:
        known = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
        ends = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        config = type(config)(**known | SMALL | ends | {"pad_token_id": tokenizer.pad_token_id})
    torch.manual_seed(0)
    with torch.device(device()):
        random = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    random.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def half() -> str:
    """The 16-bit type that this device computes best in."""
    return "bfloat16" if device() == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def wait() -> float:
    """The time, once the device has done all of its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


# Correctness


def played(policy: Policy, where: str) -> list[Trajectory]:
    """Greedy trajectories on two generated tasks of different length."""
    chat, rng = ChatFormat.of_policy(policy), np.random.default_rng(0)
    worlds = [random_world(rng, longest=longest) for longest in (3, 7)]
    groups = [
        Group(str(i), chat.prompt_ids(world), [RankingEnvironment(world) for _ in range(2)])
        for i, world in enumerate(worlds)
    ]
    return rollout(policy.model.to(where), chat, groups, Sampling(0.0, 48, 300, 4))


def same(mine: list[Trajectory], theirs: list[Trajectory]) -> int:
    """How many trajectories are the same token for token, but for what follows a tie."""
    equal = 0
    for a, b in zip(mine, theirs, strict=True):
        pairs = enumerate(zip(a.completion_ids, b.completion_ids, strict=False))
        i = next((i for i, (x, y) in pairs if x != y), None)
        tie = i is not None and abs(a.logprobs[i] - b.logprobs[i]) < TIE
        equal += a.completion_ids == b.completion_ids or tie
    return equal


def loss_of(policy: Policy, rows: list[Trajectory]) -> torch.Tensor:
    """A weighted mean of the log-probabilities of all that was written, as an update computes it."""
    where, groups = policy.model.device, sorted({row.group for row in rows})
    prompts = pad([next(r.prompt_ids for r in rows if r.group == g) for g in groups], 0, left=True)
    ids, mask = pad([row.completion_ids for row in rows], 0)
    actions = pad([row.action_mask for row in rows], 0)[0].bool()
    group_of = torch.tensor([groups.index(row.group) for row in rows])
    parts = (part.to(where) for part in (*prompts, ids, mask, actions, group_of))
    logprobs = action_logprobs(policy.model, *parts)[0]
    weights = torch.linspace(-1.0, 2.0, logprobs.numel(), device=where).view_as(logprobs)
    return -(weights * logprobs.float()).mean()


def trained(policy: Policy) -> list[torch.nn.Parameter]:
    return [parameter for parameter in policy.model.parameters() if parameter.requires_grad]


def gradient(policy: Policy) -> torch.Tensor:
    """All gradients in one row, on the CPU."""
    return torch.cat([p.grad.double().flatten().cpu() for p in trained(policy)])


def correctness(model: str, dry: bool, save: Save) -> None:
    """Greedy tokens and gradients against the CPU's, in fp32, bf16, and fp16 with a scaler of the loss."""
    settings = load_profile("smol")["policy"] | {"id": model, "revision": "main", "quantize": "none"}
    here, checks = device(), {}

    def check(name: str, measured: object, asked: str, right: bool) -> None:
        checks[name] = {"measured": measured, "asked": asked, "right": bool(right)}
        save({"device": torch.cuda.get_device_name() if here == "cuda" else "a CPU", "checks": checks})

    reference = load_policy(settings)
    reference.model.to("cpu")
    torch.manual_seed(0)
    for parameter in trained(reference):  # B of an adapter begins at zero, and then A has no gradient
        torch.nn.init.normal_(parameter, std=0.02)
    rows = played(reference, "cpu")
    loss_of(reference, rows).backward()
    exact = gradient(reference)

    def of(dtype: str) -> Policy:
        policy = load_policy(settings | {"dtype": dtype})
        policy.model.to(here)
        for mine, theirs in zip(trained(policy), trained(reference), strict=True):
            mine.data.copy_(theirs.data)
        return policy

    policy = of("float32")
    n = same(rows, played(policy, here))
    check("greedy trajectories as the CPU's, fp32", f"{n} of {len(rows)}", "all", n == len(rows))
    loss_of(policy, rows).backward()
    error = float((gradient(policy) - exact).norm() / exact.norm())
    check("gradient, fp32: relative error", error, "< 0.001", error < 1e-3)
    if here == "cpu" or half() == "bfloat16":
        policy = of("bfloat16")
        with autocast(base_model(policy.model)):
            loss_of(policy, rows).backward()
        cosine = float(torch.cosine_similarity(gradient(policy), exact, 0))
        check("gradient, bf16: cosine", cosine, "> 0.98", cosine > 0.98)
    policy = of("float16")
    scaler, optimiser = torch.amp.GradScaler(here), torch.optim.AdamW(trained(policy), lr=1e-4)
    before = [parameter.detach().clone() for parameter in trained(policy)]
    for tries in range(1, 20):  # a scale that is too high halves until the gradients are finite
        optimiser.zero_grad()
        with autocast(base_model(policy.model)):
            loss = loss_of(policy, rows)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        scaled = gradient(policy)
        scaler.step(optimiser)
        scaler.update()
        if scaled.isfinite().all():
            break
    cosine = float(torch.cosine_similarity(scaled, exact, 0))
    check("gradient, fp16 with a GradScaler: cosine", cosine, "> 0.98", cosine > 0.98)
    moved = any(not torch.equal(a, b) for a, b in zip(before, trained(policy), strict=True))
    check("steps until an update in fp16 is finite, and moves", tries, "< 10", moved and tries < 10)


# Milliseconds a token


def token_seconds(policy: Policy, groups: Callable[[], list[Group]], rows: int, merge: bool) -> float:
    """Seconds a decoding step in which every row writes."""
    chat = replace(ChatFormat.of_policy(policy), end_of_turn=-1)  # no row ends
    taken = []
    for turn in (TURN // 4, TURN):  # the shorter one is taken off: it holds the prompts
        started = wait()
        rollout(policy.model, chat, groups(), Sampling(1.0, turn, 10**6, rows, merge), torch.Generator().manual_seed(0))
        taken.append(wait() - started)
    return (taken[1] - taken[0]) / (TURN - TURN // 4)


def random_groups(rows: int, copies: int, length: int) -> list[Group]:
    """Prompts of random tokens."""
    rng = np.random.default_rng(0)
    world, copies = random_world(rng), min(rows, copies)
    return [
        Group(str(g), rng.integers(300, 900, length).tolist(), [RankingEnvironment(world) for _ in range(copies)])
        for g in range(rows // copies)
    ]


def without_graphs():
    """A context in which decoding steps are not captured as CUDA graphs; None where no engine captures any."""
    if importlib.util.find_spec("agenticrec_lite.agent.graph") is None:
        return None
    from unittest import mock

    return mock.patch.object(importlib.import_module("agenticrec_lite.agent.rollout"), "CAPTURE", {})


def decoding(model: str, dry: bool, save: Save) -> None:
    """Milliseconds a token by rows, in 16 bits with an unmerged adapter, beside the floor of the card's bandwidth."""
    dtype = "float32" if dry else half()
    changes = {"policy": {"id": model, "quantize": "none", "dtype": dtype}, "agent": {"merge": False}}
    profile = load_profile("smol", **changes)
    policy, length, found = load_policy(profile["policy"]), 32 if dry else 512, []
    card = CARDS.get(card_here())
    for rows in (1, 2) if dry else (1, 4, 16, 64):
        row = {"rows": rows, "floor": 1e3 * floor(profile, card, rows, length + TURN) if card else None}
        for name, context in (("without graphs", without_graphs() or nullcontext()), ("with graphs", nullcontext())):
            if name == "with graphs" and (without_graphs() is None or device() == "cpu"):
                row[name] = "not there"
                continue
            with context:
                row[name] = 1e3 * token_seconds(policy, lambda n=rows: random_groups(n, 8, length), rows, False)
        found.append(row)
        save({"model": model, "dtype": dtype, "rows": found})


# Memory and seconds a step


def taken() -> dict[str, float]:
    """Bytes in tensors and reserved by torch, at their peak, with all that is not torch's; on a CPU, resident."""
    if device() == "cpu":
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"tensors": resident, "reserved": resident}
    free, total = torch.cuda.mem_get_info()
    other = total - free - torch.cuda.memory_reserved()
    return {
        "tensors": torch.cuda.max_memory_allocated() + other, "reserved": torch.cuda.max_memory_reserved() + other
    }  # fmt: skip


def decode(policy: Policy, profile: dict) -> float:
    """Tokens a second of rollouts whose rows are at the end of the longest trajectory."""
    agent, copies = profile["agent"], profile["rta"]["group_size"]
    length = prompt_tokens(profile["policy"]) + agent["max_completion_tokens"] + agent["max_turn_tokens"] - TURN
    rows = max(copies, min(agent["batch_rows"], profile["rta"]["tasks_per_step"] * copies) // copies * copies)
    return rows / token_seconds(policy, lambda: random_groups(rows, copies, length), rows, agent["merge"])


def update(policy: Policy, profile: dict) -> float:
    """Tokens a second of an update with the longest trajectories, prompts counted once a group."""
    draw, stage, agent = np.random.default_rng(0), profile["rta"], profile["agent"]
    length, prompt = agent["max_completion_tokens"] + agent["max_turn_tokens"], prompt_tokens(profile["policy"])
    settings = {**stage, "steps": STEPS, "tasks_per_step": stage["micro_groups"], "learning_rate": 1e-6}
    asked = workload.questions([random_world(draw) for _ in range(STEPS * stage["micro_groups"])])

    def given(questions) -> list[Trajectory]:
        rows = []
        for g, question in enumerate(questions):
            ids = draw.integers(300, 900, prompt).tolist()
            for _ in range(stage["group_size"]):
                row = Trajectory(question.task_id, g, "rank", ids)
                row.completion_ids = draw.integers(300, 900, length).tolist()
                row.action_mask = (draw.random(length) < 0.4).astype(int).tolist()
                row.logprobs = [0.0] * length
                rows.append(row)
        return rows

    with tempfile.TemporaryDirectory() as out:
        trainer = arms.ours(policy, asked, settings, agent, Path(out), given)
        trainer.train()
    return stage["micro_groups"] * (prompt + stage["group_size"] * length) / trainer.clock.update[-1]


def memory(model: str, dry: bool, save: Save) -> None:
    """The GPU profiles' shapes with random weights: bytes and tokens a second at the longest trajectories.

    Seconds are of rollouts and updates of one RTA step with trajectories as the plan takes them, at these tokens/s.
    """
    found = []
    for name in ("t4",) if dry else ("t4", "consumer24"):
        changes = {"policy": {"dtype": "float16"}} if half() == "float16" else {}
        if dry:
            agent = {"max_completion_tokens": 64, "max_turn_tokens": TURN, "batch_rows": 2}
            changes = {"policy": {"dtype": "float32"}, "agent": agent, "rta": TOY}
        profile = load_profile(name, **changes)
        card, stage = CARDS[card_here() or "H200"], profile["rta"]  # of an unknown card only the tokens are taken
        pace = pace_on(name, profile, card)
        n = stage["tasks_per_step"] * stage["group_size"]
        with tempfile.TemporaryDirectory() as folder:
            own = write_model(Path(folder), profile["policy"]["id"], small=dry)
            changes = {**changes, "policy": {**changes.get("policy", {}), "id": own, "revision": "main"}}
            profile = load_profile(name, **changes)
            planned = {phase: sum(parts.values()) for phase, parts in plan(profile, gpu=not dry).items()}
            policy = load_policy(profile["policy"])
            trained = stage["tasks_per_step"] * prompt_tokens(profile["policy"]) + n * pace.completion
            for phase, work, tokens in (("rollouts", decode, n * pace.written), ("update", update, trained)):
                gc.collect()
                if device() == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                speed = work(policy, profile)
                row = {"profile": name, "phase": phase, "planned": planned[phase], **taken(), "tokens/s": speed}
                rate = pace.decoded if phase == "rollouts" else pace.trained
                row |= {"seconds": tokens / speed, "seconds planned": tokens / rate if card_here() else None}
                found.append(row)
                save({"rows": found})
            del policy


# A training


def training(model: str, dry: bool, save: Save) -> None:
    """Warm start, RTA, PPR and their table, on a generated store."""
    settings = {
        "policy": {"id": model, "dtype": "float32" if dry else half(), "quantize": "none", "revision": "main"},
        "warm_start": {"steps": 24, "when": "always"},
        "agent": {"max_calls": 4, "max_turn_tokens": 96, "batch_rows": 64, "merge": False},
        "rta": {"steps": 6, "save_every": 100}, "ppr": {"steps": 2, "save_every": 100, "mining_tasks": 32},
        "evaluation": {"n_test": 32, "n_validation": 100},
    }  # fmt: skip
    if dry:
        stage = {**TOY, "steps": 1}
        settings["warm_start"] = {"steps": 1, "batch": 2, "micro_batch": 2}
        settings |= {"rta": stage, "ppr": stage | {"mining_tasks": 4}, "evaluation": {"n_test": 4, "n_validation": 20}}
        settings["agent"] |= {"max_calls": 2, "max_turn_tokens": 16, "max_completion_tokens": 300}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "run")
        store = str(generate(Path(scratch, "store"), users=120, items=80, types=4)) if dry else "toystore"
        told = {"seconds": {}}
        try:
            run_experiment(store, "smol", 0, out, settings)
        finally:
            if (out / "metrics.csv").exists():
                told["steps"] = json.loads(read_metrics(out).to_json(orient="records"))
            if (out / "result.json").exists():
                result = read_result(out)
                told |= {name: result.get(name, {}) for name in ("seconds", "metrics")}
            save({"stages": told.pop("seconds"), **told})


PARTS = {"correctness": correctness, "decoding": decoding, "memory": memory, "training": training}


def ended(*_) -> None:
    raise SystemExit("not finished in its time")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="seconds after which it ends by itself; 0 is never")
    given = parser.parse_args()
    if device() == "cpu" and not given.dry:
        raise SystemExit("There is no GPU here; --dry goes the same way at toy size.")
    if given.limit:
        signal.signal(signal.SIGALRM, ended)
        signal.alarm(given.limit)
    written = given.out / f"{given.part}.json"

    def save(found: dict) -> None:
        written.write_text(json.dumps(found), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder), "smollm2-135m", small=True) if given.dry else given.model
        PARTS[given.part](model, given.dry, save)


if __name__ == "__main__":
    main()
