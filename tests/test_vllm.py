"""Rollouts by vLLM, in this process or by a server: the engine's trajectories; and where there is no vLLM, the engine.

vLLM itself is not installed where these tests run: stand-ins with its interface generate, and look at what they are
given.
"""

import copy
import sys
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from types import ModuleType, SimpleNamespace

import bitsandbytes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trl.generation.vllm_client import VLLMClient
from trl.trainer import grpo_trainer

from agenticrec_lite.agent import vllm_engine
from agenticrec_lite.agent.episodes import Sampling
from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import write_answer
from agenticrec_lite.agent.question import Question
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation import evaluate, pairs
from agenticrec_lite.nano.worlds import random_world
from agenticrec_lite.policy import load_policy
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.training import grpo
from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

AGENT = load_profile("nano")["agent"] | {"engine": "vllm", "merge": False, "max_calls": 4}
SERVER = AGENT | {"vllm": AGENT["vllm"] | {"mode": "server", "server_base_url": "http://localhost:1"}}
AGENTS = pytest.mark.parametrize("agent", [pytest.param(AGENT, id="colocate"), pytest.param(SERVER, id="server")])
SETTINGS = load_profile("nano")["rta"] | {"steps": 1, "tasks_per_step": 4, "group_size": 2, "micro_groups": 2}


def greedy(model, prompts, most, stop):
    """The most likely turn after each prompt, by transformers."""

    def completion(ids):
        how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": most, "eos_token_id": stop, "pad_token_id": 0}
        return model.generate(input_ids=ids, do_sample=False, **how)[0, ids.shape[1] :].tolist()

    written = {tuple(ids): completion(torch.tensor([ids])) for ids in prompts}
    return [list(written[tuple(ids)]) for ids in prompts]


class Server:
    """What trl asks of `VLLMGeneration`: greedy, with the weights of the last synchronisation."""

    def __init__(self, model, generation_kwargs, **arguments):
        self.trained, self.asked, self.arguments = model, [], arguments
        self.sampling = generation_kwargs

    def sync_weights(self):
        self.model = copy.deepcopy(self.trained).eval()

    def generate(self, prompts, images, num_generations, profiler):
        self.asked.append(len(prompts))
        completions = greedy(self.model, prompts, self.sampling["max_tokens"], self.sampling["stop_token_ids"])
        return prompts, completions, [[[-0.5]] * len(ids) for ids in completions], None


class LLM:
    """vLLM's class: greedy, with its own base as `model` has it and the adapter in the folder that a request names."""

    started = []

    def __init__(self, **arguments):
        self.arguments, self.awake, self.loaded, self.llm_engine = arguments, True, {}, self
        self.asked, self.told, self.live, self.names = [], [], None, set()
        self.started.append(self)
        self.policy = load_profile("nano")["policy"] | {
            "id": arguments["model"],
            "dtype": arguments["dtype"],
            "quantize": "nf4" if arguments["quantization"] == "bitsandbytes" else "none",
        }

    def generate(self, prompts, *, sampling_params, use_tqdm, lora_request):
        room = self.arguments["max_model_len"]
        assert self.awake and all(len(prompt["prompt_token_ids"]) < room for prompt in prompts)
        name, number, path = lora_request
        if number not in self.loaded:  # each adapter under a name and a number that no other ever had
            assert name not in self.names and not self.told.count(("removed", number)) and self.live is None
            self.loaded[number] = {"path": path, "weights": load_file(Path(path, "adapter_model.safetensors"))}
            self.live, self.model = number, load_policy(self.policy, path).model.eval()
            self.names.add(name)
        assert number == self.live
        self.asked.append((len(prompts), sampling_params))
        ids = [prompt["prompt_token_ids"] for prompt in prompts]
        completions = greedy(self.model, ids, sampling_params["max_tokens"], sampling_params["stop_token_ids"])
        return [SimpleNamespace(outputs=[self.output(ids)]) for ids in completions]

    def output(self, ids):
        return SimpleNamespace(token_ids=ids, logprobs=[{token: SimpleNamespace(logprob=-0.5)} for token in ids])

    def remove_lora(self, number):
        assert self.awake and self.live == number and Path(self.loaded[number]["path"]).is_dir()
        self.live = None
        self.told.append(("removed", number))

    def sleep(self, level):
        assert self.awake and self.live is None
        self.awake = False
        self.told.append(("asleep", level))

    def wake_up(self):
        assert not self.awake
        self.awake = True


@pytest.fixture(scope="module")
def policies():
    """In NF4 and not, with an adapter that does something, but keeps to the protocol."""
    made = {}
    for quantize in ("nf4", "none"):
        torch.manual_seed(0)
        made[quantize] = load_policy(load_profile("nano")["policy"] | {"quantize": quantize})
        for name, weight in made[quantize].model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.003)
    return made


@pytest.fixture
def policy(policies):
    return policies["none"]


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    monkeypatch.setattr(vllm_engine, "_started", [])
    monkeypatch.setattr(LLM, "started", [])
    vllm_engine._say_once.cache_clear()


@pytest.fixture
def trainer_of(policies, tmp_path):
    def make(agent=AGENT, settings=SETTINGS):
        policy = policies["none" if agent["vllm"]["mode"] == "server" else "nf4"]
        worlds = [random_world(np.random.default_rng(i), 3, 3) for i in range(settings["tasks_per_step"])]
        questions = [Question(f"q{i}", world, "rank", 7) for i, world in enumerate(worlds)]
        return ListwiseGRPOTrainer(
            copy.deepcopy(policy), questions, listwise_reward, settings, agent, None, "rta", 0, str(tmp_path)
        )

    return make


@pytest.fixture
def vllm(monkeypatch):
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, dict, lambda *given: given
    for module in (package, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for place in (grpo, vllm_engine):
        monkeypatch.setattr(place, "vllm_here", lambda model, settings: True)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", Server)


@pytest.fixture
def curt(monkeypatch, policies):
    """Turns of one word that is no answer: all that matters is what vLLM is asked."""
    turn = ChatFormat.of_policy(policies["nf4"]).turn_ids("nonsense")
    monkeypatch.setattr(sys.modules[__name__], "greedy", lambda model, prompts, *_: [turn for _ in prompts])


def by_the_engine(trainer, agent):
    questions = list(trainer.questions.values())
    groups = [q.group(trainer.chat, trainer.num_generations, agent["max_calls"]) for q in questions]
    return rollout(trainer.model, trainer.chat, groups, Sampling.of(agent, 0.0))


@AGENTS
@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "answered"),
        ({"max_calls": 0}, "over_budget"),
        pytest.param({"max_completion_tokens": 60}, "length", marks=pytest.mark.all),
        pytest.param({"max_turn_tokens": 20}, "length", marks=pytest.mark.all),
    ],
)
def test_greedy_trajectories_by_vllm_are_the_engines(trainer_of, vllm, agent, changes, outcome):
    """Token for token, with the same steps, outcomes and answers, however they end."""
    trainer = trainer_of(agent | changes)
    expected = by_the_engine(trainer, agent | changes)
    trainer.train()
    assert len(trainer.trajectories) == 8 and outcome in {t.outcome for t in expected}
    for mine, theirs in zip(expected, trainer.trajectories, strict=True):
        for name in ("task_id", "group", "prompt_ids", "completion_ids", "action_mask", "steps", "answer", "outcome"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert theirs.reward == listwise_reward(mine, 7)
        assert theirs.logprobs == [-0.5 * own for own in theirs.action_mask]


def adapter_of(trainer):
    """The adapter's weights by the names that its file has."""
    named = trainer.model.named_parameters()
    return {name.replace(".default", ""): p.detach().clone() for name, p in named if "lora_" in name}


def test_each_step_is_played_by_the_adapter_as_it_is_then_which_goes_afterwards(trainer_of, vllm, monkeypatch):
    trainer = trainer_of(settings=SETTINGS | {"steps": 3, "tasks_per_step": 2, "warmup_steps": 0})
    assert trainer.policy.model is trainer.model
    turns, at = cycle((trainer.chat.turn_ids(write_answer(list(range(1, 11)))), trainer.chat.turn_ids("nonsense"))), []
    monkeypatch.setattr(sys.modules[__name__], "greedy", lambda model, prompts, *_: [next(turns) for _ in prompts])
    rollouts = trainer.generate_rollouts
    trainer.generate_rollouts = lambda questions: at.append(adapter_of(trainer)) or rollouts(questions)
    trainer.train()
    (llm,) = LLM.started  # one for all steps
    numbers = list(llm.loaded)
    assert len(set(numbers)) == len(llm.names) == 3
    for number, expected in zip(numbers, at, strict=True):
        given = llm.loaded[number]
        assert given["weights"].keys() == expected.keys() and not Path(given["path"]).exists()
        assert all(torch.equal(given["weights"][name], expected[name]) for name in expected)
        assert ("removed", number) in llm.told
    assert all(not torch.equal(at[0][name], at[1][name]) for name in at[0] if "lora_B" in name)


def test_the_base_is_vllms_own_in_four_bits_and_nothing_is_merged(trainer_of, vllm, curt):
    trainer = trainer_of()
    trainer.train()
    given, (longest,) = LLM.started[0].arguments, {max(len(t.prompt_ids) for t in trainer.trajectories)}
    assert given["quantization"] == given["load_format"] == "bitsandbytes"
    assert given["enable_lora"] and given["max_lora_rank"] == 16 and given["max_loras"] == 1
    assert given["model"] == trainer.model.name_or_path and given["revision"] == "main"
    assert given["max_model_len"] == 2 * longest + AGENT["max_completion_tokens"] + AGENT["max_turn_tokens"]
    assert given["gpu_memory_utilization"] == AGENT["vllm"]["gpu_memory_utilization"]


def test_a_policy_in_16_bits_stays_so_and_its_rank_is_rounded_up(policy, vllm):
    changed = copy.deepcopy(policy)
    changed.model.peft_config["default"].r = 20
    vllm_engine._vllm(changed, AGENT, 5, 9)
    given = LLM.started[0].arguments
    assert given["quantization"] is None and given["load_format"] == "safetensors" and given["max_lora_rank"] == 32


def test_vllm_is_started_again_only_for_another_policy_or_a_longer_trajectory(policies, vllm):
    first = vllm_engine._vllm(policies["nf4"], AGENT, 10, 50)
    assert first.arguments["max_model_len"] == 60
    assert vllm_engine._vllm(policies["nf4"], AGENT, 20, 60) is first
    longer = vllm_engine._vllm(policies["nf4"], AGENT, 21, 61)
    assert longer is not first and longer.arguments["max_model_len"] == 82
    assert vllm_engine._vllm(policies["none"], AGENT, 10, 50) is not longer
    assert len(vllm_engine._started) == 1
    read = policies["nf4"].model.config.max_position_embeddings  # more than it reads it is never given
    assert vllm_engine._vllm(policies["nf4"], AGENT, 21, read - 1).arguments["max_model_len"] == read


def test_what_vllm_says_when_it_cannot_start_is_in_the_sentence(policy, vllm, monkeypatch):
    def refuse(**_):
        raise ValueError("No available memory for the cache blocks.\nmore")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", refuse)
    with pytest.raises(UserError, match=r"vLLM cannot start \(No available memory for the cache blocks.\); begin"):
        vllm_engine._vllm(policy, AGENT, 10, 50)


def test_it_sleeps_between_rollouts_if_asked_to_and_keeps_its_weights(trainer_of, vllm, curt):
    agent = AGENT | {"vllm": AGENT["vllm"] | {"enable_sleep_mode": True}}
    trainer_of(agent, SETTINGS | {"steps": 2, "tasks_per_step": 2}).train()
    (llm,) = LLM.started
    assert llm.arguments["enable_sleep_mode"] and not llm.awake
    assert [what for what in llm.told if what[0] == "asleep"] == [("asleep", 1)] * 3  # once it is there, and each step


@pytest.mark.parametrize(("there", "free", "taken"), [(True, 10**9, True), (True, 1000, False), (False, 0, False)])
def test_the_adapter_is_in_shared_memory_where_that_has_room(
    there, free, taken, trainer_of, vllm, curt, tmp_path, monkeypatch
):
    shared = tmp_path / "shm"
    if there:
        shared.mkdir()
    monkeypatch.setattr(vllm_engine, "SHARED_MEMORY", shared)
    monkeypatch.setattr(vllm_engine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    trainer_of().train()
    (given,) = LLM.started[0].loaded.values()
    assert (shared in Path(given["path"]).parents) == taken
    assert not there or not list(shared.iterdir())


def test_an_error_in_the_middle_leaves_no_adapter_behind(policies, vllm, monkeypatch):
    def fail(*_):
        raise InterruptedError

    monkeypatch.setattr(sys.modules[__name__], "greedy", fail)
    world = random_world(np.random.default_rng(0), 3, 3)
    with pytest.raises(InterruptedError):
        pairs.ask(policies["nf4"], [Question("q", world, "rank", 7)], AGENT)
    (llm,) = LLM.started
    (number,) = llm.loaded
    assert llm.told == [("removed", number)] and not Path(llm.loaded[number]["path"]).exists()


def test_evaluation_is_played_by_vllm_too_and_says_what_the_engine_says(policies, vllm):
    worlds = [random_world(np.random.default_rng(i), 3, 3) for i in range(3)]
    tasks = [SimpleNamespace(task_id=f"t{i}") for i in range(3)]
    nf4, played = policies["nf4"], {}
    for engine in ("own", "vllm"):
        sampling = Sampling.of(AGENT, 0.0)
        played[engine] = evaluate.play_tasks(nf4, worlds, tasks, sampling, AGENT | {"engine": engine})
    assert [t.completion_ids for t in played["vllm"]] == [t.completion_ids for t in played["own"]]
    assert LLM.started[0].asked[0] == (3, LLM.started[0].asked[0][1] | {"temperature": 0.0})


def test_a_sampling_of_ones_own_is_played_by_the_engine(policies, vllm):
    class Scripted(Sampling):
        pass

    assert vllm_engine.vllm_plays(policies["nf4"], Sampling(), AGENT)
    assert not vllm_engine.vllm_plays(policies["nf4"], Scripted(), AGENT)
    assert not vllm_engine.vllm_plays(policies["nf4"], Sampling(), SERVER)  # which trl asks, in training
    assert not vllm_engine.vllm_plays(policies["nf4"], Sampling(), AGENT | {"engine": "own"})


def test_a_process_without_a_task_of_its_own_takes_part(policies, vllm, curt, monkeypatch):
    left = [True]  # another process has one turn to play

    def gather(rows):
        return [*rows, left.pop() if left else False] if isinstance(rows[0], bool) else [*rows, 4]

    monkeypatch.setattr(vllm_engine.processes, "gather", gather)
    sampling = Sampling.of(AGENT, 0.0)
    chat = ChatFormat.of_policy(policies["nf4"])
    assert vllm_engine.play(policies["nf4"], chat, [], sampling, AGENT) == [] and LLM.started[0].asked[0][0] == 4


def test_a_step_on_a_servers_rollouts_moves_the_policy_and_the_next_one_plays_it(trainer_of, vllm):
    trainer = trainer_of(SERVER, SETTINGS | {"steps": 2, "tasks_per_step": 2, "warmup_steps": 0})
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
    trainer = trainer_of(SERVER)
    given = trainer.vllm_generation.arguments
    assert given["mode"] == "server" and given["server_base_url"] == "http://localhost:1"
    longest = max(len(trainer.chat.prompt_ids(q.context)) for q in trainer.questions.values())
    assert given["max_model_length"] == longest + AGENT["max_completion_tokens"] + AGENT["max_turn_tokens"]
    assert given["temperature"] == SETTINGS["temperature"]


# What vLLM makes of a request's fields. What a request leaves out, it takes from the model's generation_config.json.
NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@AGENTS
def test_sampling_is_by_temperature_alone_whatever_the_models_generation_config_says(
    policies, agent, trainer_of, vllm, curt
):
    """Qwen3's says top_k 20, top_p 0.95 and two end tokens; what is asked for says otherwise, in both modes."""
    server = agent is SERVER
    config = policies["none" if server else "nf4"].model.generation_config
    brought = {"top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.1, "eos_token_id": [2, 1]}
    before = {name: getattr(config, name) for name in brought}
    config.update(**brought)
    try:
        trainer = trainer_of(agent)
        requests = []
        if server:
            client = VLLMClient.__new__(VLLMClient)
            client.model, client.base_url = "nano", ""
            client._post = lambda url, json: requests.append(json) or {"choices": []}
            made = trainer.vllm_generation.arguments
            asked = {name: made[name] for name in ("repetition_penalty", "temperature", "top_p", "top_k")}
            with suppress(IndexError, ValueError):  # nothing comes back
                client.generate([[5]], generation_kwargs=trainer.vllm_generation.sampling, **asked)
        else:
            trainer.train()
            requests += [asked for _, asked in LLM.started[0].asked]
            assert LLM.started[0].arguments["generation_config"] == "vllm" and requests[0]["logprobs"] == 0
        for request in requests:
            assert {name: request[name] for name in NEUTRAL} == NEUTRAL
            assert request["temperature"] == SETTINGS["temperature"]
            assert request["max_tokens"] == AGENT["max_turn_tokens"]
            assert request["ignore_eos"] and request["stop_token_ids"] == [trainer.chat.end_of_turn]
        assert requests
    finally:
        config.update(**before)


def test_every_process_asks_for_equally_many_turns(trainer_of, vllm, monkeypatch):
    """With a server, trl deals completions out by the number that each process asked for."""
    trainer = trainer_of(SERVER)
    groups = [q.group(trainer.chat, 1, AGENT["max_calls"]) for q in trainer.questions.values()]
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


def model(nf4=False, dtype=torch.bfloat16, r=16):
    layer = bitsandbytes.nn.Linear4bit(1, 1) if nf4 else torch.nn.Linear(1, 1)
    return SimpleNamespace(modules=lambda: [layer], dtype=dtype, peft_config={"default": SimpleNamespace(r=r)})


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
    for _ in range(2):
        assert vllm_engine.vllm_here(model(), AGENT["vllm"]) == (said is None)
    told = capsys.readouterr().out
    assert (said in told and told.count("\n") == 1) if said else told == ""


@pytest.mark.parametrize(
    ("given", "changes", "said"),
    [
        (model(nf4=True), {}, None),
        (model(nf4=True), {"mode": "server"}, "set agent.vllm.mode=colocate"),
        (model(), {"mode": "server", "tensor_parallel_size": 2}, None),
        (model(), {"tensor_parallel_size": 2}, "set agent.vllm.tensor_parallel_size=1"),
        (model(dtype=torch.float32), {}, "set policy.dtype=bfloat16 or float16"),
        (model(dtype=torch.float32), {"mode": "server"}, None),
        (model(r=513), {}, "set policy.lora.r"),
    ],
)
def test_a_policy_that_vllm_cannot_hold_is_played_by_the_engine(given, changes, said, monkeypatch, capsys):
    monkeypatch.setattr(vllm_engine, "vllm_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert vllm_engine.vllm_here(given, AGENT["vllm"] | changes) == (said is None)
    told = capsys.readouterr().out
    assert said in told if said else told == ""


def test_without_vllm_the_engine_plays_and_training_is_what_it_is_with_the_engine(trainer_of, capsys):
    trainers = [trainer_of(AGENT | {"engine": engine}, SETTINGS | {"steps": 2}) for engine in ("own", "vllm")]
    for trainer in trainers:
        trainer.train()
    assert capsys.readouterr().out.count("the engine of this package plays the rollouts") == 1
    assert [t.row() for t in trainers[0].trajectories] == [t.row() for t in trainers[1].trajectories]
