"""The time that a profile will take, on a CPU by what was measured, on a GPU by a model of its throughput.

A GPU decodes a token of every row in the time that its memory needs to read the weights and the keys and values of all
rows, or in the time that Python needs to launch the work, whichever is longer. An update takes its multiplications by
the card's peak, of which a part is reached. The peak and the bandwidth of a card are its maker's figures; LAUNCH and
EFFICIENCY were fitted to three measurements on an H200 and an H100 (docs/gpu.md), and the other constants are assumed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from agenticrec_lite.errors import UserError
from agenticrec_lite.plan import NF4, gpu_memory, peak, plan, prompt_tokens, shape_of
from agenticrec_lite.policy import DTYPES

LAUNCH = 1.33e-3  # seconds a layer and token that the host needs, whatever the rows: 36 to 40 ms for 28 layers
EFFICIENCY = 0.09  # of a card's peak, in updates: 8 % and 10 % on an H200, 9 % on an H100
BANDWIDTH = 0.7  # of a card's bandwidth, while decoding
BUSY = 0.5  # of the rows that are decoded together, those that write: each waits for the longest turn
CALLS, TURN, OBSERVATION = 3, 100, 200  # where nobody measured: calls a trajectory; tokens of a turn, and of its answer
EVIDENCE = 600.0  # seconds for ml-100k's recommenders and baselines: 90 on a quiet core, 1,280 beside other work


@dataclass(frozen=True)
class Pace:
    """What a trajectory is like, and tokens a second.

    Attributes:
        completion, written: Tokens of a trajectory after its prompt, and those of them that the policy writes.
        demonstrated: Tokens of a demonstration of the warm start after its prompt.
        trained, decoded: Tokens a second of updates, and of rollouts, in which only written ones count.
    """

    completion: int
    written: int
    demonstrated: int
    trained: float
    decoded: float


# Measured on CPUs, medians of runs on ml-100k: nano's on one core, smol's on two without AVX-512.
PACES = {"nano": Pace(350, 61, 350, 7200, 730), "smol": Pace(250, 100, 560, 200, 50)}


@dataclass(frozen=True)
class Card:
    """A GPU, by its maker's figures.

    Attributes:
        memory: Bytes that torch reports, all free when nothing else uses the card.
        bandwidth: Bytes a second.
        half, full: Peak operations a second in 16 bits, added up in fp32, without sparsity; and in fp32.
        bf16: Whether it computes in bfloat16.
    """

    memory: float
    bandwidth: float
    half: float
    full: float
    bf16: bool = True


CARDS = {
    "T4": Card(15.8e9, 320e9, 65e12, 8.1e12, bf16=False),
    "L4": Card(23.8e9, 300e9, 121e12, 30e12),
    "RTX 4090": Card(25.3e9, 1008e9, 165e12, 82e12),
    "A100": Card(85.0e9, 2039e9, 312e12, 19.5e12),  # of 80 GB
    "H200": Card(150.1e9, 4800e9, 989e12, 67e12),
}


def floor(profile: Mapping, card: Card, rows: int, tokens: int) -> float:
    """Seconds in which a card's memory is read for one decoding step, at the bandwidth that its maker states.

    Args:
        profile: Resolved settings.
        card: Its bandwidth counts.
        rows: Trajectories decoded together.
        tokens: What each of them has in the KV cache.
    """
    policy, shape = profile["policy"], shape_of(profile)
    width = DTYPES[policy["dtype"]].itemsize
    unpacked = policy["quantize"] == "nf4" and not (profile["agent"]["merge"] and policy["dtype"] == "float32")
    weights = shape.matrices * (NF4 + 2 * width if unpacked else width)  # NF4 is unpacked, written and read, each time
    head = shape.vocab_size * shape.hidden_size * width
    return (weights + head + rows * tokens * shape.cached * width) / card.bandwidth


def step_seconds(profile: Mapping, card: Card, rows: int, tokens: int) -> float:
    """Seconds of one decoding step of the engine, estimated; arguments as of `floor`."""
    return max(floor(profile, card, rows, tokens) / BANDWIDTH, LAUNCH * shape_of(profile).num_hidden_layers)


def trained_per_second(profile: Mapping, card: Card) -> float:
    """Tokens a second of updates on a card, estimated: the base is frozen, so its weights have no gradients."""
    policy, shape = profile["policy"], shape_of(profile)
    passes = 3 if policy["gradient_checkpointing"] else 2  # forward, perhaps again, and backward
    reached = EFFICIENCY * (card.full if policy["dtype"] == "float32" else card.half)
    return reached / (2 * passes * shape.matrices)


def pace_on(name: str, profile: Mapping, card: Card | None) -> Pace | None:
    """A profile's pace on a card, estimated; on a CPU (no card) the measured one. None where it is not known."""
    known = PACES.get(name)
    if card is None or shape_of(profile) is None:
        return known if card is None else None
    if known:
        completion, written, demonstrated = known.completion, known.written, known.demonstrated
    else:
        calls, turn = min(CALLS, profile["agent"]["max_calls"]), min(TURN, profile["agent"]["max_turn_tokens"])
        written = (calls + 1) * turn
        completion = demonstrated = written + calls * OBSERVATION
    prompt, stage = prompt_tokens(profile["policy"]), profile["rta"]
    rows = min(profile["agent"]["batch_rows"], stage["tasks_per_step"] * stage["group_size"])
    trained = trained_per_second(profile, card)
    passes = 3 if profile["policy"]["gradient_checkpointing"] else 2
    read = (prompt / stage["group_size"] + completion - written) / (passes * trained)  # a forward pass alone
    wrote = written * step_seconds(profile, card, rows, prompt + completion) / (rows * BUSY)
    return Pace(completion, written, demonstrated, trained, written / (read + wrote))


def seconds(profile: Mapping, pace: Pace) -> dict[str, float]:
    """What a run takes, part by part: a step of each stage, the warm start, all else, and the whole.

    A warm start that comes only where it is needed is counted. All else is the evaluations, mining, and what makes the
    evidence (`EVIDENCE`). What a process takes to load, and a download, are not counted.
    """
    prompt, warm = prompt_tokens(profile["policy"]), profile["warm_start"]
    parts = {}
    for name in ("rta", "ppr"):
        stage = profile[name]
        n = stage["tasks_per_step"] * stage["group_size"]
        tokens = stage["tasks_per_step"] * prompt + n * pace.completion
        parts[name] = tokens / pace.trained + n * pace.written / pace.decoded
    shown = warm["batch"] * pace.demonstrated + warm["batch"] / warm["micro_batch"] * prompt
    parts["warm start"] = warm["steps"] * shown / pace.trained
    policies = 2 * (2 if warm["steps"] else 1) + 2  # untrained ones greedily and sampled, and one after each stage
    played = policies * profile["evaluation"]["n_test"] + profile["ppr"]["mining_tasks"]
    parts["else"] = EVIDENCE + played * pace.written / pace.decoded
    steps = sum(profile[name]["steps"] * parts[name] for name in ("rta", "ppr"))
    return parts | {"whole": steps + parts["warm start"] + parts["else"]}


def card_here() -> str | None:
    """Which of `CARDS` this machine's GPU is, if any."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((card for card in CARDS if re.search(rf"\b{card}\b", name)), None)


def plan_table(name: str, profile: Mapping, card: str | None = None) -> str:
    """A profile's plan for a terminal: every figure of it is estimated, but for a CPU's pace.

    Args:
        name: Of the profile.
        profile: Resolved settings.
        card: One of `CARDS`; by default all of them, and a CPU where the profile does not need a GPU.

    Raises:
        UserError: There is no such card.
    """
    if card is not None and card not in CARDS:
        raise UserError(f"There is no card {card!r}; the known ones are: {', '.join(CARDS)}.")
    parts = plan(profile, gpu=None if card is None else True)
    if not parts:
        return f"profile {name}: {profile['policy']['id']}\nmemory and time not known"
    names = list(dict.fromkeys(part for phase in parts.values() for part in phase))
    shown = lambda value: "-" if value is None else f"{value / 1e9:.2f}"  # noqa: E731
    lines = [f"profile {name}: {profile['policy']['id']}; GB, all estimated", f"{'':16}{'rollouts':>10}{'update':>10}"]
    lines += [f"{part:16}" + "".join(f"{shown(parts[phase].get(part)):>10}" for phase in parts) for part in names]
    lines.append(f"{'sum':16}" + "".join(f"{shown(sum(phase.values())):>10}" for phase in parts.values()))
    lines.append(f"peak {peak(parts) / 1e9:.1f} GB (estimated), with trajectories of the longest length admitted")
    chosen = [card] if card else [*(["CPU"] if name in PACES else []), *CARDS]
    paces = {known: pace_on(name, profile, CARDS.get(known)) for known in chosen}
    lines += ["", "on            GB   free  goes         RTA    PPR  warm start   else  hours"]
    lines += [_row(known, profile, pace) for known, pace in paces.items()]
    return "\n".join([*lines, *_how(paces)])


def _row(name: str, profile: Mapping, pace: Pace) -> str:
    """A profile on one card: memory needed and free, whether it goes there, and the times."""
    card, needed = CARDS.get(name), peak(plan(profile, gpu=name in CARDS))
    free = gpu_memory()[0] if name == card_here() else card.memory if card else psutil.virtual_memory().available
    goes = "no bf16" if card and profile["policy"]["dtype"] == "bfloat16" and not card.bf16 else "yes"
    goes = goes if needed <= free else "too large"
    time = seconds(profile, pace)
    minutes = f"{time['rta'] / 60:6.1f}{time['ppr'] / 60:7.1f}{time['warm start'] / 60:12.0f}{time['else'] / 60:7.0f}"
    return f"{name:10}{needed / 1e9:6.1f}{free / 1e9:7.1f}  {goes:10}{minutes}{time['whole'] / 3600:7.1f}"


def _how(paces: Mapping[str, Pace]) -> list[str]:
    """What the times rest on."""
    lines = ["Minutes (estimated): a step of RTA and of PPR, the warm start, all else (evidence, evaluation, mining)."]
    for card, pace in paces.items():
        lines.append(
            f"{card}: {pace.trained:,.0f} tokens/s trained and {pace.decoded:,.0f} decoded "
            f"({'measured' if card == 'CPU' else 'estimated'}), {pace.completion} tokens a trajectory"
        )
    return lines
