"""The engine against the plain forward pass: same tokens, same log-probabilities, exact masks."""

import gc
import weakref
from os.path import commonprefix

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from agenticrec_lite.agent import graph
from agenticrec_lite.agent import rollout as engine
from agenticrec_lite.agent.cache import SlotCache
from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.episodes import Group, Sampling
from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.rollout import rollout
from agenticrec_lite.agent.scoring import (
    action_logprobs,
    length_buckets,
    pad,
    predictor_states,
    shared_turns,
    split_turns,
)
from agenticrec_lite.agent.trajectory import Step, Trajectory
from agenticrec_lite.nano.worlds import random_world

ANSWER = write_answer(list(range(1, 11)))


def groups_of(chat, n=3, size=4, max_calls=10):
    worlds = [random_world(np.random.default_rng(i), 5, 8) for i in range(n)]
    return [
        Group(f"w{i}", chat.prompt_ids(w), [RankingEnvironment(w, max_calls=max_calls) for _ in range(size)])
        for i, w in enumerate(worlds)
    ]


@pytest.fixture
def scripted(monkeypatch, tiny):
    """Make the policy write given turns: row r of a batch plays scripts[r], whatever its logits say."""
    chat = tiny[1]

    def play(groups, scripts, **kwargs):
        queues = [[token for turn in script for token in chat.turn_ids(turn)] for script in scripts]
        asked = []  # whose logits are chosen from; a row that has ended its turn uses up nothing

        class Scripted(Sampling):
            def choose(self, logits, drawn=None):
                tokens = torch.tensor([queues[row].pop(0) if going and queues[row] else 0 for row, going in asked])
                return tokens, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0]

        class Batch(engine.Batch):
            def _choose(self, rows, logits):
                asked[:] = [(self.rows[r], bool(self.going[r])) for r in self.index[rows].tolist()]
                super()._choose(rows, logits)

        monkeypatch.setattr(engine, "Batch", Batch)
        return rollout(tiny[0], chat, groups, Scripted(**kwargs), torch.Generator().manual_seed(0))

    return play


def plain_logprobs(model, trajectory, temperature=1.0):
    ids = torch.tensor([trajectory.prompt_ids + trajectory.completion_ids])
    with torch.no_grad():
        logits = model(ids).logits[0, len(trajectory.prompt_ids) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1)[range(ids.shape[1] - len(trajectory.prompt_ids)), trajectory.completion_ids]


def test_ragged_turns_have_the_log_probabilities_of_a_fresh_forward(tiny, scripted):
    model, chat = tiny
    users, title = (
        write_call("get_similar_users", {}, "I ask."),
        write_call("item_info_search", {"item_name": "3"}),
    )
    scripts = [
        [users, title, ANSWER],
        [ANSWER],
        [title, "broken"],
        [users] * 3,
        [users, users, title, ANSWER],
        [title, ANSWER],
    ]
    played = scripted(groups_of(chat, 2, 3, max_calls=2), scripts)
    assert [t.outcome for t in played] == [
        "answered",
        "answered",
        "bad_turn",
        "over_budget",
        "over_budget",
        "answered",
    ]
    assert [t.n_calls for t in played] == [2, 0, 1, 2, 2, 1]
    assert [t.group for t in played] == [0, 0, 0, 1, 1, 1]
    for trajectory in played:
        mask = torch.tensor(trajectory.action_mask) == 1
        assert len(mask) == len(trajectory.completion_ids) == len(trajectory.logprobs)
        assert torch.allclose(
            plain_logprobs(model, trajectory)[mask], torch.tensor(trajectory.logprobs)[mask], atol=1e-4
        )


def test_the_action_mask_marks_exactly_what_the_policy_wrote(tiny, scripted):
    chat = tiny[1]
    turns = [write_call("get_rating_behavior", {}), ANSWER]
    trajectory = scripted(groups_of(chat, 1, 1), [turns])[0]
    written = [token for token, m in zip(trajectory.completion_ids, trajectory.action_mask, strict=True) if m]
    assert written == chat.turn_ids(turns[0]) + chat.turn_ids(turns[1])
    observed = chat.tokenizer.decode(
        [t for t, m in zip(trajectory.completion_ids, trajectory.action_mask, strict=True) if not m]
    )
    assert observed.startswith("\n<|im_start|>tool\n<observation>High:") and observed.endswith("assistant\n")
    assert [s.kind for s in trajectory.steps] == ["call", "observation", "answer"]
    assert {p for p, m in zip(trajectory.logprobs, trajectory.action_mask, strict=True) if not m} == {0.0}


def test_greedy_follows_the_argmax_and_sampling_repeats_with_its_seed(tiny):
    model, chat = tiny
    greedy = rollout(model, chat, groups_of(chat), Sampling(temperature=0, max_turn_tokens=12))
    for trajectory in greedy[::4]:
        ids = torch.tensor([trajectory.prompt_ids + trajectory.completion_ids])
        with torch.no_grad():
            best = model(ids).logits[0, len(trajectory.prompt_ids) - 1 : -1].argmax(-1).tolist()
        assert best == trajectory.completion_ids and trajectory.outcome == "length"
    sampled = [
        rollout(model, chat, groups_of(chat), Sampling(1.0, 12, batch_rows=rows), torch.Generator().manual_seed(1))
        for rows in (64, 64)
    ]
    assert [t.completion_ids for t in sampled[0]] == [t.completion_ids for t in sampled[1]]


def test_batching_changes_nothing(tiny):
    model, chat = tiny
    alone, together = (rollout(model, chat, groups_of(chat, 4, 1), Sampling(0, 10, batch_rows=rows)) for rows in (1, 4))
    assert [t.completion_ids for t in alone] == [t.completion_ids for t in together]
    assert [t.group for t in alone] == [t.group for t in together] == [0, 1, 2, 3]


@pytest.mark.parametrize("worlds", [[0, 1, 2], [0, 0]], ids=["different", "equal"])
def test_what_prompts_begin_with_is_run_once(tiny, monkeypatch, worlds):
    model, chat = tiny
    groups, fed, forward = groups_of(chat), [], engine.Batch._forward
    groups = [groups[i] for i in worlds]
    monkeypatch.setattr(
        engine.Batch, "_forward", lambda self, ids, *rest: (fed.append(tuple(ids.shape)), forward(self, ids, *rest))[1]
    )
    played = rollout(model, chat, groups, Sampling(1.0, 2), torch.Generator().manual_seed(1))
    prompts = [group.prompt_ids for group in groups]
    shared = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1)
    assert shared > 50 and fed[:2] == [(1, shared), (len(worlds), max(map(len, prompts)) - shared)]
    for trajectory in played:
        assert torch.allclose(plain_logprobs(model, trajectory), torch.tensor(trajectory.logprobs), atol=1e-4)


def test_attention_that_adds_its_mask_writes_the_same(tiny):
    model, chat = tiny
    played = []
    for kind in ("sdpa", "eager"):
        model.set_attn_implementation(kind)
        try:
            played.append(rollout(model, chat, groups_of(chat), Sampling(1.0, 6), torch.Generator().manual_seed(1)))
        finally:
            model.set_attn_implementation("sdpa")
    assert [t.completion_ids for t in played[0]] == [t.completion_ids for t in played[1]]
    for trajectory in played[1]:
        assert torch.allclose(plain_logprobs(model, trajectory), torch.tensor(trajectory.logprobs), atol=1e-4)


def test_an_observation_of_many_tokens_a_character_is_cut(tiny, monkeypatch):
    """350 characters are fewer than the quarter, 400, but as a byte-level tokenizer has them they are three times."""
    model, chat = tiny

    class Foreign(Patient):
        def step(self, text):
            self.steps = [Step("observation", "観" * 350)]
            return None if super().step(text) is None else "観" * 350

    groups = groups_of(chat, 1, 1)
    groups[0].environments = [Foreign(groups[0].environments[0].context, max_calls=2)]
    likelier = lambda module, args, logits: logits + 99.0 * (torch.arange(logits.shape[-1]) == chat.end_of_turn)  # noqa: E731
    with model.lm_head.register_forward_hook(likelier):
        played = rollout(model, chat, groups, Sampling(0, 4, max_completion_tokens=1600))[0]
    observed = played.action_mask.count(0)
    assert observed <= 400 + len(chat.observation_ids("… (cut, 350 characters)"))


class Patient(RankingEnvironment):
    """Takes whatever it is told, `max_calls` times."""

    def step(self, text):
        self.n_calls += 1
        if self.n_calls == self.max_calls:
            self.outcome = "bad_turn"
            return None
        return "again " * self.n_calls


@pytest.fixture
def short_turns(tiny):
    """The tiny policy ends its turns often, after very different lengths."""
    likelier = lambda module, args, logits: logits + 5.0 * (torch.arange(logits.shape[-1]) == tiny[1].end_of_turn)  # noqa: E731
    with tiny[0].lm_head.register_forward_hook(likelier):
        yield


def patient(groups):
    """The same groups, whose environments take any one, two, three or four turns."""
    for group in groups:
        group.environments = [Patient(e.context, max_calls=1 + i % 4) for i, e in enumerate(group.environments)]
    return groups


def test_rows_go_on_at_their_own_pace_and_stay_exact(tiny, short_turns, monkeypatch):
    """Some are told something and go on while others are within a turn; those that are gone have given up their row."""
    model, chat = tiny
    fed, feed, moved, move = [], engine.Batch._feed, [], SlotCache.move

    def noted(self, rows, blocks):
        fed.append((len(rows), len(self.rows)))
        feed(self, rows, blocks)

    monkeypatch.setattr(engine.Batch, "_feed", noted)
    monkeypatch.setattr(SlotCache, "move", lambda self, rows, to: (moved.append(len(rows)), move(self, rows, to)))
    played = rollout(model, chat, patient(groups_of(chat, 2, 8)), Sampling(1.0, 60), torch.Generator().manual_seed(4))
    assert sum(some < alive for some, alive in fed) > 4 and len(moved) > 2
    assert [t.n_calls for t in played] == [1, 2, 3, 4] * 4
    for trajectory in played:
        mask = torch.tensor(trajectory.action_mask) == 1
        exact = plain_logprobs(model, trajectory)[mask]
        assert torch.allclose(exact, torch.tensor(trajectory.logprobs)[mask], atol=1e-4)


def test_what_a_trajectory_samples_does_not_hang_on_who_is_played_with_it(tiny, short_turns):
    """Nor on how many rows there are, or how long the others take."""
    model, chat = tiny
    played = []
    for change, rows in ((None, 64), (None, 8), ("prompt", 64), ("calls", 64)):
        groups = patient(groups_of(chat, 3, 4))
        if change == "prompt":
            groups[1].prompt_ids = groups[2].prompt_ids
        elif change == "calls":
            groups[1].environments = [Patient(e.context, max_calls=9) for e in groups[1].environments]
        source = torch.Generator().manual_seed(2)
        trajectories = rollout(model, chat, groups, Sampling(1.0, 30, batch_rows=rows), source)
        played.append([t.completion_ids for t in trajectories])
    assert played[0] == played[1]
    for others in played[2:]:
        assert others[:4] == played[0][:4] and others[8:] == played[0][8:] and others[4:8] != played[0][4:8]
    assert len({tuple(ids) for ids in played[0]}) == 12, "each has random numbers of its own"


def test_waiting_groups_take_the_places_of_those_that_have_ended(tiny, monkeypatch):
    model, chat = tiny
    beside = []  # rows alive when others are admitted
    admit = engine.Batch.admit
    monkeypatch.setattr(engine.Batch, "admit", lambda self, g: (beside.append(len(self.rows)), admit(self, g)))
    likelier = lambda module, args, logits: logits + 9.0 * (torch.arange(logits.shape[-1]) == chat.end_of_turn)  # noqa: E731
    played = []
    with model.lm_head.register_forward_hook(likelier):
        for rows in (4, 64):
            groups = groups_of(chat, 12, 1)
            for i, group in enumerate(groups):
                group.environments = [Patient(group.environments[0].context, max_calls=1 + i % 5)]
            played.append(rollout(model, chat, groups, Sampling(0, 20, batch_rows=rows)))
    assert beside.count(0) == 2 and max(beside) == 3  # both began with no row; the first never ran empty again
    assert [t.n_calls for t in played[0]] == [1 + i % 5 for i in range(12)]
    assert [t.task_id for t in played[0]] == [f"w{i}" for i in range(12)] and played[0][-1].group == 11
    assert [t.completion_ids for t in played[0]] == [t.completion_ids for t in played[1]]


def test_an_observation_that_does_not_fit_ends_as_length(tiny, scripted):
    chat = tiny[1]
    calls = [write_call("get_similar_users", {})] * 10
    trajectory = scripted(groups_of(chat, 1, 1), [calls], max_completion_tokens=300)[0]
    assert trajectory.outcome == "length" and len(trajectory.completion_ids) < 300


def test_a_trajectory_goes_on_only_while_it_is_shorter_than_the_longest(tiny, scripted):
    """At the longest length itself it ends, and what did not fit has not been fed."""
    chat = tiny[1]
    turns = [write_call("get_similar_users", {})] * 8 + [ANSWER]  # each observation is less than a quarter of all
    whole = scripted(groups_of(chat, 1, 1), [turns], max_completion_tokens=5000)[0]
    length = len(whole.completion_ids) - len(chat.turn_ids(ANSWER))  # until the last observation has been read
    longer, equal = (scripted(groups_of(chat, 1, 1), [turns], max_completion_tokens=n)[0] for n in (length + 1, length))
    assert (longer.outcome, longer.completion_ids) == ("answered", whole.completion_ids)
    assert (equal.outcome, equal.n_calls) == ("length", 8)
    assert equal.completion_ids == whole.completion_ids[: len(equal.completion_ids)] and equal.action_mask[-1] == 1


def scored_plainly(model, played, temperature):
    """Log-probabilities of all action tokens, each trajectory by itself."""
    parts = []
    for t in played:
        logits = model(torch.tensor([t.prompt_ids + t.completion_ids])).logits[0, len(t.prompt_ids) - 1 : -1]
        log_p = torch.log_softmax(logits / temperature, -1)[range(len(t.completion_ids)), t.completion_ids]
        parts.append(log_p[torch.tensor(t.action_mask) == 1])
    return torch.cat(parts)


def scored_together(model, played, temperature):
    """The same, and entropies, with all that is shared run once."""
    group_of = torch.tensor([t.group for t in played])
    prompts = [next(t.prompt_ids for t in played if t.group == g) for g in range(int(group_of.max()) + 1)]
    ids, mask = pad([t.completion_ids for t in played], 0)
    actions = pad([t.action_mask for t in played], 0)[0].bool()
    return action_logprobs(model, *pad(prompts, 0, left=True), ids, mask, actions, group_of, temperature)


def gradient_of(model, log_p):
    weights = torch.randn(len(log_p), generator=torch.Generator().manual_seed(3))
    model.zero_grad()
    (log_p * weights).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    return gradient


def assert_scored_alike(model, played):
    shared, entropies = scored_together(model, played, 0.7)
    plain = scored_plainly(model, played, 0.7)
    assert torch.allclose(shared, plain, atol=1e-5) and (entropies > 0).all()
    gradient, expected = gradient_of(model, shared), gradient_of(model, plain)
    assert (gradient - expected).norm() / expected.norm() < 1e-4


def test_prefix_shared_scoring_gives_the_log_probabilities_and_gradients_of_plain_scoring(tiny):
    model, chat = tiny
    played = rollout(model, chat, groups_of(chat), Sampling(1.0, 20), torch.Generator().manual_seed(2))
    for i, t in enumerate(played):  # lengths 20, 14, 8, 2, 20, ...: three buckets, out of order
        for values in (t.completion_ids, t.action_mask):
            del values[20 - 6 * (i % 4) :]
    assert len(length_buckets(torch.tensor([len(t.completion_ids) for t in played]))) == 3
    assert_scored_alike(model, played)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.text("ab", max_size=4)), min_size=1, max_size=9), st.data())
def test_turns_that_trajectories_share_are_run_once_and_scored_alike(tiny, rows, data):
    """Random prefix trees: a letter is a turn with its observation; rows that are beginnings of others among them."""
    model, chat = tiny
    prompts = [group.prompt_ids for group in groups_of(chat, 3, 1)]
    turn = {"a": ([5, 6, 7, 8, 30], [1, 1, 1, 0, 0]), "b": ([5, 6, 9], [1, 1, 0])}
    played = []
    for group, letters in sorted(rows, key=lambda row: row[0]):
        t = Trajectory(str(group), group, "rank", prompts[group])
        for letter in letters:
            t.completion_ids += turn[letter][0]
            t.action_mask += turn[letter][1]
        played.append(t)
        t.completion_ids += (answer := data.draw(st.lists(st.integers(40, 43), min_size=1, max_size=3)))
        t.action_mask += [1] * len(answer)
    kept = sorted({t.group for t in played})
    for t in played:
        t.group = kept.index(t.group)
    assert_scored_alike(model, played)


def test_branches_after_turns_of_different_lengths_see_no_padding(tiny):
    """Turns of 5 and 4 tokens run in one batch, the shorter one padded; both have branches."""
    model, chat = tiny
    prompt = groups_of(chat, 1, 1)[0].prompt_ids
    turns = {"a": ([5, 6, 7, 8, 30], [1, 1, 1, 0, 0]), "b": ([9, 6, 5, 31], [1, 1, 0, 0])}
    played = []
    for n, letters in enumerate(("aa", "ab", "ba", "bb", "b")):
        trajectory = Trajectory("t", 0, "rank", prompt)
        for letter in letters:
            trajectory.completion_ids += turns[letter][0]
            trajectory.action_mask += turns[letter][1]
        trajectory.completion_ids += [40 + n, 41]
        trajectory.action_mask += [1, 1]
        played.append(trajectory)
    assert len(length_buckets(torch.tensor([5, 4]))) == 1
    assert_scored_alike(model, played)


def test_a_shared_turn_is_one_stretch_of_the_tree():
    def turns(*names):
        return [tuple((ord(letter), letter.islower()) for letter in name) for name in names]

    rows = {0: turns("aX", "bY", "c"), 1: turns("aX", "bY", "d"), 2: turns("aX"), 3: turns("e")}
    rows[4] = rows[0]
    tree = shared_turns(rows)

    def shown(stretches):
        return [("".join(map(chr, s.ids)), s.rows, shown(s.next)) for s in stretches]

    after = [("bY", [0, 1, 4], [("c", [0, 4], []), ("d", [1], [])])]
    assert shown(tree) == [("aX", [0, 1, 2, 4], after), ("e", [3], [])]
    assert shown(shared_turns({row: rows[row] for row in (0, 4)})) == [("aXbYc", [0, 4], [])]
    assert split_turns([1, 2, 3, 4, 5], [1, 0, 0, 1, 1]) == [((1, 1), (2, 0), (3, 0)), ((4, 1), (5, 1))]


def test_the_same_gradient_comes_out_every_time(tiny):
    """To the bit, with two threads: copies of a prompt add up their gradients in a fixed order."""
    model, chat = tiny
    prompts, prompt_mask = pad([groups_of(chat, 1, 1)[0].prompt_ids], 0)
    ids = torch.randint(20, 400, (64, 8), generator=torch.Generator().manual_seed(5))
    group_of = torch.zeros(64, dtype=torch.long)
    gradients, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)
    for _ in range(8):
        model.zero_grad()
        predictor_states(model, prompts, prompt_mask, ids, torch.ones_like(ids), group_of).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.set_num_threads(threads)
    model.zero_grad()
    assert all(torch.equal(gradients[0], gradient) for gradient in gradients)


class HostReads(TorchDispatchMode):
    """Counts what brings a number from the device to the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        named = operation.name().removeprefix("aten::").partition(".")[0]
        places = args[1] if named in ("index", "index_put", "index_put_") else ()
        by_mask = any(place is not None and place.dtype == torch.bool for place in places)
        self.count += named in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero") or by_mask
        return operation(*args, **(kwargs or {}))


def test_a_decode_step_reads_nothing_off_the_device_and_who_has_ended_is_asked_now_and_then(tiny, monkeypatch):
    """Each such read makes a GPU wait until all that it was given is done; there were 31 a token."""
    model, chat = tiny
    monkeypatch.setitem(engine.LOOK_EVERY, "cpu", 8)
    lists, steps, reads, counted, tolist = [], [], HostReads(), [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: (lists.append(1), tolist(self))[1])

    class Counting(engine.Batch):
        def _step(self, rows, used):
            before = len(lists)
            with reads:
                super()._step(rows, used)
            assert len(lists) == before
            steps.append(rows)

        def _write(self):
            lists.clear(), steps.clear()
            written = super()._write()
            counted.append((len(lists), len(steps)))
            return written

    monkeypatch.setattr(engine, "Batch", Counting)
    rollout(model, chat, groups_of(chat), Sampling(1.0, 40), torch.Generator().manual_seed(1))
    assert reads.count == 0 and max(tokens for _, tokens in counted) == 40
    for looks, tokens in counted:
        assert looks == tokens // 8 + 1 + 2, "one before, one after each eight, and two for what has been written"


def test_how_often_it_is_asked_who_has_ended_changes_nothing(tiny, short_turns, monkeypatch):
    model, chat = tiny
    played = []
    for every in (1, 8, 64):
        monkeypatch.setitem(engine.LOOK_EVERY, "cpu", every)
        groups, source = patient(groups_of(chat)), torch.Generator().manual_seed(1)
        trajectories = rollout(model, chat, groups, Sampling(1.0, 40), source)
        played.append([(t.completion_ids, t.outcome) for t in trajectories])
    assert played[0] == played[1] == played[2]


class Recorded(TorchDispatchMode):
    """Capture without a GPU: repeats a step's operations on the memory in which they were first done.

    Whatever the host decided is fixed, as in a CUDA graph. To record is to run the step: the first repeat is left out.
    """

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.done.append((operation, args, kwargs or {}, result))
        return result

    @classmethod
    def capture(cls, step):
        recorded, repeats = cls(), []
        with recorded:
            step()

        def repeat():
            repeats.append(1)
            for operation, args, kwargs, result in recorded.done if len(repeats) > 1 else ():
                alias = operation._schema.returns[0].alias_info
                if alias is not None and not alias.is_write:
                    continue  # a view: of the same memory as before
                again = operation(*args, **kwargs)
                if alias is None:
                    for old, new in zip(*((x if isinstance(x, tuple) else (x,)) for x in (result, again)), strict=True):
                        if isinstance(old, torch.Tensor):
                            old.copy_(new)

        return repeat


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("capture", [lambda step: step, Recorded.capture], ids=["run", "recorded"])
def test_steps_of_few_shapes_on_memory_that_stays_write_the_same(tiny, short_turns, monkeypatch, capture, temperature):
    """As on a GPU: rows in powers of two, slots in buckets, each shape recorded once and repeated."""
    model, chat = tiny
    monkeypatch.setattr(graph, "BUCKET", 96)  # so that rows grow out of one
    monkeypatch.setitem(engine.LOOK_EVERY, "cpu", 8)
    steps, step, captured = [], engine.Batch._step, []

    def noted(self, rows, used):
        steps.append((rows, used, self.cache.layers[0].keys.data_ptr()))
        step(self, rows, used)

    monkeypatch.setattr(engine.Batch, "_step", noted)

    def play():
        steps.clear()
        groups, source = patient(groups_of(chat, 3, 4)), torch.Generator().manual_seed(2)
        return [t.completion_ids for t in rollout(model, chat, groups, Sampling(temperature, 40, 300), source)]

    expected, plain = play(), len(steps)
    monkeypatch.setitem(engine.CAPTURE, "cpu", lambda: lambda step: (captured.append(1), capture(step))[1])
    assert play() == expected
    shapes = {(rows, used) for rows, used, _ in steps}
    assert {rows for rows, _ in shapes} <= {1, 2, 4, 8, 12} and len({used for _, used in shapes}) > 1
    assert all(used % 96 == 0 for _, used in shapes) and len({place for *_, place in steps}) == 1
    assert 2 <= len(captured) <= len(shapes)
    if capture is Recorded.capture:
        assert len(steps) == len(shapes) + len(captured) < plain, "the others were repeated"


def test_where_capture_fails_steps_go_on_without_it_and_a_sentence_says_so(tiny, monkeypatch, capsys):
    model, chat = tiny

    def play():
        return [t.completion_ids for t in rollout(model, chat, groups_of(chat), Sampling(0, 12))]

    def fails(step):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    expected = play()
    monkeypatch.setitem(engine.CAPTURE, "cpu", lambda: fails)
    assert play() == expected
    told = capsys.readouterr().out
    assert told.count("CUDA graphs cannot be used here (operation not permitted when stream is capturing)") == 1


@pytest.mark.parametrize("recorded", [False, True])
def test_the_caches_memory_is_free_when_a_rollout_ends(tiny, monkeypatch, recorded):
    """At once: an update follows, which needs it, and the garbage collector may come late."""
    model, chat = tiny
    if recorded:
        monkeypatch.setitem(engine.CAPTURE, "cpu", lambda: Recorded.capture)
    batches, init = [], engine.Batch.__init__
    monkeypatch.setattr(
        engine.Batch, "__init__", lambda self, *rest: (batches.append(weakref.ref(self)), init(self, *rest))[1]
    )
    gc.disable()
    try:
        rollout(model, chat, groups_of(chat, 1, 2), Sampling(0, 6))
        assert len(batches) == 1 and batches[0]() is None
    finally:
        gc.enable()
