"""Rollouts through trl's vLLM flags: the engine's trajectories; and where there is no vLLM, the engine.

vLLM itself is not installed where these tests run: a stand-in with its interface generates.
"""

import copy
from contextlib import suppress
from itertools import cycle
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from trl.generation import vllm_generation
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from agenticrec_lite.agent import vllm_engine
from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.protocol import write_answer
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.training import grpo
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

AGENT = load_profile("nano")["agent"] | {"engine": "vllm", "merge": False, "max_calls": 2}
SETTINGS = load_profile("nano")["rta"] | {"steps": 1, "tasks_per_step": 4, "group_size": 2, "micro_groups": 2}


class StandIn:
    """What trl asks of `VLLMGeneration`: greedy, by transformers, with the weights of the last synchronisation."""

    def __init__(self, model, generation_kwargs, **arguments):
        self.trained, self.asked, self.arguments = model, [], arguments
        self.most, self.sampling = generation_kwargs["max_tokens"], generation_kwargs

    def sync_weights(self):
        self.model = copy.deepcopy(self.trained).eval()

    def generate(self, prompts, images, num_generations, profiler):
        self.asked.append(len(prompts))
        written = {tuple(ids): self.completion(torch.tensor([ids])) for ids in prompts}
        completions = [list(written[tuple(ids)]) for ids in prompts]
        return prompts, completions, [[[-0.5]] * len(ids) for ids in completions], None

    def completion(self, ids):
        how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": self.most, "do_sample": False}
        return self.model.generate(input_ids=ids, **how)[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def policy():
    return load_policy(load_profile("nano")["policy"] | {"quantize": "none"})


@pytest.fixture
def trainer_of(policy, tmp_path, monkeypatch):
    def make(agent=AGENT, settings=SETTINGS):
        worlds = [random_world(np.random.default_rng(i), 3, 3) for i in range(settings["tasks_per_step"])]
        questions = [Question(f"q{i}", world, "rank", 7) for i, world in enumerate(worlds)]
        return ListwiseGRPOTrainer(
            copy.deepcopy(policy), questions, listwise_reward, settings, agent, None, "rta", 0, str(tmp_path)
        )

    return make


@pytest.fixture
def vllm(monkeypatch):
    monkeypatch.setattr(grpo, "vllm_here", lambda model: True)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", StandIn)


def by_the_engine(trainer, agent):
    questions = list(trainer.questions.values())
    groups = [q.group(trainer.chat, trainer.num_generations, agent["max_calls"]) for q in questions]
    return rollout(trainer.model, trainer.chat, groups, Sampling.of(agent, 0.0))


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "answered"),
        ({"max_calls": 0}, "over_budget"),
        pytest.param({"max_completion_tokens": 60}, "length", marks=pytest.mark.all),
        pytest.param({"max_turn_tokens": 20}, "length", marks=pytest.mark.all),
    ],
)
def test_greedy_trajectories_through_trls_flags_are_the_engines(trainer_of, vllm, changes, outcome):
    """Token for token, with the same steps, outcomes and answers, however they end."""
    trainer = trainer_of(AGENT | changes)
    expected = by_the_engine(trainer, AGENT | changes)
    trainer.train()
    assert len(trainer.trajectories) == 8 and outcome in {t.outcome for t in expected}
    for mine, theirs in zip(expected, trainer.trajectories, strict=True):
        for name in ("task_id", "group", "prompt_ids", "completion_ids", "action_mask", "steps", "answer", "outcome"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert theirs.reward == listwise_reward(mine, 7)
        assert theirs.logprobs == [-0.5 * own for own in theirs.action_mask]


def test_a_step_on_vllms_rollouts_moves_the_policy_and_the_next_one_plays_it(trainer_of, vllm):
    trainer = trainer_of(settings=SETTINGS | {"steps": 2, "tasks_per_step": 2, "warmup_steps": 0})
    turns = (write_answer(list(range(1, 11))), "nonsense")  # of a group's two, so that there is something to learn
    played, texts = [], cycle(turns)

    def generate(prompts, **_):
        completions = [trainer.chat.turn_ids(next(texts)) for _ in prompts]
        return prompts, completions, [[[-0.5]] * len(ids) for ids in completions], None

    def sync():
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        played.append(weights)

    trainer.vllm_generation.generate, trainer.vllm_generation.sync_weights = generate, sync
    trainer.train()
    first, second = played  # one synchronisation a step
    assert [t.outcome for t in trainer.trajectories] == ["answered", "bad_turn"] * 2
    assert {name for name in first if not torch.equal(first[name], second[name])} >= {n for n in first if "lora_B" in n}


def test_trl_gets_its_flags_with_room_for_the_longest_trajectory(trainer_of, vllm):
    agent = AGENT | {"vllm": AGENT["vllm"] | {"mode": "server", "server_base_url": "http://localhost:1"}}
    trainer = trainer_of(agent)
    given = trainer.vllm_generation.arguments
    assert given["mode"] == "server" and given["server_base_url"] == "http://localhost:1"
    longest = max(len(trainer.chat.prompt_ids(q.context)) for q in trainer.questions.values())
    assert given["max_model_length"] == longest + AGENT["max_completion_tokens"] + AGENT["max_turn_tokens"]
    assert given["temperature"] == SETTINGS["temperature"]


# What vLLM makes of a request's fields. What a request leaves out, it takes from the model's generation_config.json.
NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_sampling_is_by_temperature_alone_whatever_the_models_generation_config_says(policy, mode, trainer_of, vllm):
    """Qwen3's says top_k 20, top_p 0.95 and two end tokens; what trl asks for says otherwise, in both modes."""
    config = policy.model.generation_config
    brought = {"top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.1, "eos_token_id": [2, 1]}
    before = {name: getattr(config, name) for name in brought}
    config.update(**brought)
    try:
        trainer = trainer_of(AGENT | {"vllm": AGENT["vllm"] | {"mode": mode, "server_base_url": "http://localhost:1"}})
        requests = []
        if mode == "server":
            client = VLLMClient.__new__(VLLMClient)
            client.model, client.base_url = "nano", ""
            client._post = lambda url, json: requests.append(json) or {"choices": []}
            made = trainer.vllm_generation.arguments
            asked = {name: made[name] for name in ("repetition_penalty", "temperature", "top_p", "top_k")}
            with suppress(IndexError, ValueError):  # nothing comes back
                client.generate([[5]], generation_kwargs=trainer.vllm_generation.sampling, **asked)
        else:
            arguments = trainer.vllm_generation.arguments | {"generation_kwargs": trainer.vllm_generation.sampling}
            requests.append(sampling_params_of(arguments))
        (request,) = requests
        assert {name: request[name] for name in NEUTRAL} == NEUTRAL
        assert request["temperature"] == SETTINGS["temperature"] and request["max_tokens"] == AGENT["max_turn_tokens"]
        assert request["ignore_eos"] and request["stop_token_ids"] == [trainer.chat.end_of_turn]
    finally:
        config.update(**before)


def sampling_params_of(arguments: dict) -> dict:
    """What trl's `VLLMGeneration` hands to vLLM's SamplingParams when vLLM runs in this process."""
    made = []

    def params(**given):
        made.append(given)
        raise InterruptedError

    generation = VLLMGeneration.__new__(VLLMGeneration)
    vars(generation).update({"logprobs": 0, "structured_outputs_regex": None, **arguments})
    generation.accelerator, generation.enable_sleep_mode = None, False
    with mock.patch.object(vllm_generation, "SamplingParams", params, create=True), suppress(InterruptedError):
        generation.generate([[5]], None, 1)
    return made[0]


def test_every_process_asks_for_equally_many_turns(trainer_of, vllm, monkeypatch):
    """With a server, trl deals completions out by the number that each process asked for."""
    trainer = trainer_of()
    groups = [q.group(trainer.chat, 1, 2) for q in trainer.questions.values()]
    trainer.vllm_generation.sync_weights()
    trainer._last_loaded_step = 0
    left = [6, 5, 2]  # rows of another process at each of its turns

    def gather(rows):
        if isinstance(rows[0], bool):
            return [*rows, bool(left)]
        return [*rows, left.pop(0) if left else 0]

    monkeypatch.setattr(vllm_engine.processes, "gather", gather)
    device, write = trainer.model.device, trainer.write_turns
    played = vllm_engine.rollout_by_turns(groups, trainer.chat, trainer.sampling, device, write)
    assert trainer.vllm_generation.asked[0] == 6 and not left
    assert [t.completion_ids for t in played] == [t.completion_ids for t in by_the_engine(trainer, AGENT)[::2]]


LINEAR = SimpleNamespace(modules=lambda: [torch.nn.Linear(1, 1)])


@pytest.mark.parametrize(
    ("installed", "gpu", "capability", "said"),
    [
        (False, True, (9, 0), "vLLM is not installed"),
        (True, False, None, "vLLM needs a GPU:"),
        (True, True, (7, 0), "compute capability 7.5, and this is an older one"),
        (True, True, (7, 5), None),
    ],
)
def test_where_vllm_cannot_be_had_one_sentence_says_so(installed, gpu, capability, said, monkeypatch, capsys):
    monkeypatch.setattr(vllm_engine, "vllm_installed", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert vllm_engine.vllm_here(LINEAR) == (said is None)
    told = capsys.readouterr().out
    assert (said in told and told.count("\n") == 1) if said else told == ""


def test_a_policy_in_nf4_is_played_by_the_engine(monkeypatch, capsys):
    import bitsandbytes

    monkeypatch.setattr(vllm_engine, "vllm_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    nf4 = SimpleNamespace(modules=lambda: [bitsandbytes.nn.Linear4bit(1, 1)])
    assert not vllm_engine.vllm_here(nf4) and "set policy.quantize=none" in capsys.readouterr().out


def test_without_vllm_the_engine_plays_and_training_is_what_it_is_with_the_engine(trainer_of, capsys):
    trainers = [trainer_of(AGENT | {"engine": engine}) for engine in ("own", "vllm")]
    assert capsys.readouterr().out.count("the engine of this package plays the rollouts") == 1
    for trainer in trainers:
        trainer.train()
    assert [t.row() for t in trainers[0].trajectories] == [t.row() for t in trainers[1].trajectories]
