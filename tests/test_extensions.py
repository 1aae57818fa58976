"""What a user hands in is used, is checked with a sentence, and is known to the run folder by its name."""

from dataclasses import dataclass
from functools import partial, wraps

import numpy as np
import pandas as pd
import pytest

from agenticrec_lite import runs
from agenticrec_lite.agent.environment import RankingEnvironment
from agenticrec_lite.agent.prompts import system_prompt, task_prompt
from agenticrec_lite.agent.protocol import write_call
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.data import build_tasks, from_frames, temporal_split
from agenticrec_lite.data.tasks import random_candidates
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import Extensions, stages, start
from agenticrec_lite.experiment.baselines import evaluate_baselines
from agenticrec_lite.experiment.extensions import named
from agenticrec_lite.experiment.results import finish, results_table
from agenticrec_lite.recommenders import Recommender
from agenticrec_lite.report import markdown, pool
from agenticrec_lite.rewards import listwise_reward
from agenticrec_lite.show.figures import final_bars
from agenticrec_lite.tools import TOOLS, TaskContext, call_tool, schema
from agenticrec_lite.tools.toolbox import Toolbox

SHORT = {
    "rta.steps": 1, "rta.tasks_per_step": 2, "rta.group_size": 4, "rta.micro_groups": 1, "ppr.mining_tasks": 6,
    "ppr.steps": 1, "ppr.tasks_per_step": 2, "ppr.group_size": 4, "ppr.micro_groups": 1, "evaluation.n_test": 8,
    "evaluation.n_validation": 12, "agent.max_calls": 2,
}  # fmt: skip


def days_since_popular(context: TaskContext, at_least: int = 1) -> str:
    """Say for each candidate how many days ago it was last taken.

    Args:
        at_least: Fewest times that it was taken.
    """
    last = context.past.groupby("item")["timestamp"].agg(["max", "size"])
    now = context.past["timestamp"].max()
    days = {
        n: (now - last["max"][card.item]) // 86_400
        for n, card in enumerate(context.candidates, 1)
        if card.item in last.index and last["size"][card.item] >= at_least
    }
    return "Days ago: " + ", ".join(f"{n}:{d}" for n, d in days.items())


def first_place(trajectory: Trajectory, positive: int) -> float:
    """1 for a first place, else 0."""
    return float(trajectory.valid and trajectory.answer[0] == positive)


def halved(rewards, group_size):
    groups = np.asarray(rewards, dtype=float).reshape(-1, group_size)
    return ((groups - groups.mean(1, keepdims=True)) / 2).ravel(), np.zeros(len(groups), dtype=bool)


def popular_first(rng, pool, n):
    """The candidates in the order of their codes."""
    return sorted(random_candidates(rng, pool, n))


class Newest(Recommender):
    """Scores an item by its code."""

    def fit(self, interactions, n_items, seed=0):
        self.n_items = n_items
        return self

    def score(self, histories, candidates):
        return np.asarray(candidates, dtype=np.float32)


def shop(seed: int = 0):
    """A log of one's own, from two tables."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{u}", f"i{i}", 1_600_000_000 + 90_000 * int(rng.integers(400)), int(rng.integers(1, 6)))
            for u in range(50) for i in rng.choice(60, 12, replace=False)]  # fmt: skip
    taken = pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating"])
    items = pd.DataFrame({"item": [f"i{i}" for i in range(60)], "title": [f"Thing {i}" for i in range(60)]})
    return from_frames(taken, items, "shop")


# --- tools ---


def test_a_tool_of_ones_own_has_its_schema_line_and_call(context):
    def add(context: TaskContext, a: int, twice: bool = False) -> str:
        """Add one.

        Args:
            a: A number.
            twice: Whether to add two.
        """
        return str(a + 1 + twice)

    mine = TaskContext(context.history, context.ratings, context.candidates, context.collaborative, tools={"add": add})
    assert system_prompt(True, mine.tools) == "Tools:\nadd(a, twice)"
    assert "add(a, twice): Add one." in system_prompt(False, mine.tools)
    assert '{"name": "add", "arguments": {"a": "h1"}}' in system_prompt(False, mine.tools)
    parameters = schema(add)["function"]["parameters"]
    assert parameters["properties"]["a"] == {"type": "integer", "description": "A number."}
    assert parameters["required"] == ["a"] and "context" not in parameters["properties"]
    assert call_tool("add", {"a": 2, "twice": True}, mine) == "4"
    assert call_tool("add", {"a": "2"}, mine) == "Error: a must be a whole number, not str."
    assert call_tool("add", {"a": True}, mine) == "Error: a must be a whole number, not bool."
    environment = RankingEnvironment(mine)
    assert environment.step(write_call("add", {"a": 1})) == "2"
    assert environment.step(write_call("get_similar_users", {})) is None and environment.outcome == "bad_turn"
    assert RankingEnvironment(context).step(write_call("add", {"a": 1})) is None
    assert task_prompt(mine) == task_prompt(context)


def test_the_papers_tools_have_the_schemas_that_they_had():
    found = schema(TOOLS["get_similar_items"])["function"]
    assert found["name"] == "get_similar_items" and found["parameters"]["properties"]["item_title"]["type"] == "string"
    assert not found["parameters"].get("required")
    assert schema(TOOLS["item_info_search"])["function"]["parameters"]["required"] == ["item_name"]
    assert schema(TOOLS["get_user_profile"])["function"]["parameters"]["properties"] == {}


def no_docstring(context):
    return ""


def no_context() -> str:
    """Something."""
    return ""


def untyped(context, x) -> str:
    """Something.

    Args:
        x: A thing.
    """
    return ""


def undescribed(context, x: str) -> str:
    """Something."""
    return ""


@pytest.mark.parametrize(("tools", "sentence"), [
    ([no_docstring], "The tool no_docstring has no docstring"),
    ([no_context], "The first argument of the tool no_context must be called context"),
    ([untyped], "The argument x of the tool untyped needs a type"),
    ([undescribed], "The argument x of the tool undescribed needs a type .* and a line 'x: ...'"),
    ([days_since_popular, days_since_popular], "There are two tools called days_since_popular"),
    ([7], "A tool is a function with a name"),
])  # fmt: skip
def test_what_cannot_be_a_tool_is_said(tools, sentence):
    with pytest.raises(UserError, match=sentence):
        Extensions(tools=tools)


# --- other parts ---


def test_what_cannot_be_a_part_is_said():
    with pytest.raises(UserError, match="reward must be a function, not 3"):
        Extensions(reward=3)
    with pytest.raises(UserError, match="cannot be called 'sasrec'"):
        Extensions(recommenders={"sasrec": Newest})
    with pytest.raises(UserError, match="recommender mine needs the methods fit and score"):
        Extensions(recommenders={"mine": dict})

    def forgotten(trajectory, positive):
        pass

    with pytest.raises(UserError, match="The reward forgotten returned None; it must return a number"):
        Extensions(reward=forgotten).rewarded(Trajectory("t", 0, "rank", []), 1)


def test_stage_2_rewards_rankings_with_stage_1s_reward_and_pairs_with_its_own():
    parts = Extensions(reward=first_place, pair_reward=lambda t, right: 7.0)
    played = Trajectory("t", 0, "rank", [], answer=[4, 1], outcome="answered")
    assert (parts.rewarded(played, 4), parts.rewarded(played, 1)) == (1.0, 0.0)
    assert parts.rewarded(Trajectory("t", 0, "more", [], answer="A", outcome="answered"), "B") == 7.0


@pytest.mark.parametrize(("draw", "sentence"), [
    (lambda rng, pool, n: random_candidates(rng, pool, n - 1), "must be 20 different items"),
    (lambda rng, pool, n: [pool.positive] * n, "must be 20 different items"),
    (lambda rng, pool, n: pool.negatives(np.arange(n)), "must be the positive and items of pool.negatives"),
    (lambda rng, pool, n: [pool.positive, *pool.catalogue[pool.own][pool.catalogue[pool.own] != pool.positive][:1],
                           *pool.negatives(np.arange(n - 2))], "an item that the user took"),
], ids=["too few", "one twice", "no positive", "taken"])  # fmt: skip
def test_unfair_candidates_are_refused(draw, sentence):
    log = shop()
    with pytest.raises(UserError, match=sentence):
        build_tasks(log, temporal_split(log), "test", 1, 0, draw=draw)[0]


# --- names ---


def scaled(reward, by):
    @wraps(reward)
    def inner(trajectory, positive):
        return by * reward(trajectory, positive)

    return inner


def closed_over(by):
    def inner(trajectory, positive):
        return by

    return inner


@dataclass
class Callable:
    by: float

    def __call__(self, trajectory, positive):
        return self.by


def test_names_tell_parts_apart_and_are_the_same_again():
    assert named(listwise_reward) == "agenticrec_lite.rewards.listwise_reward"
    name, digest = named(first_place).split()
    assert (
        name.endswith("test_extensions.first_place") and len(digest) == 8 and named(first_place) == f"{name} {digest}"
    )
    assert named(closed_over(1)) == named(closed_over(1)) != named(closed_over(2))
    assert named(partial(first_place, positive=3)) != named(partial(first_place, positive=4))
    assert named(Callable(1.0)) == named(Callable(1.0)) != named(Callable(2.0))
    with pytest.raises(UserError, match="A lambda has no name"):
        named(lambda trajectory, positive: 0.0)


def test_a_function_that_is_written_anew_has_another_digest(tmp_path, monkeypatch):
    import importlib

    monkeypatch.syspath_prepend(str(tmp_path))
    names = []
    for number, body in enumerate(("return 1.0", "return  1.0  # the same", "return 2.0")):
        (tmp_path / f"brought{number}.py").write_text(f"def reward(t, p):\n    {body}\n")
        importlib.invalidate_caches()
        names.append(named(importlib.import_module(f"brought{number}").reward).split()[1])
    assert names[0] == names[1] != names[2]


def test_only_what_is_not_the_default_is_named():
    assert Extensions().names() == {}
    assert Extensions(tools=list(TOOLS.values()), reward=listwise_reward).names() == {}
    found = Extensions(reward=first_place, recommenders={"mine": Newest}, tools=[days_since_popular]).names()
    assert set(found) == {"reward", "recommenders", "tools"} and list(found["recommenders"]) == ["mine"]


# --- a whole run ---


def everything(log, out, **changed):
    parts = {"tools": [*TOOLS.values(), days_since_popular], "reward": first_place, "advantages": halved,
             "candidates": popular_first, "recommenders": {"mine": Newest}}  # fmt: skip
    return start(log, "nano", 0, out, SHORT, **parts | changed)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A short run on a log of one's own with a part of every kind."""
    folder = tmp_path_factory.mktemp("own") / "run"
    experiment = everything(shop(), folder)
    with experiment.run:
        evaluate_baselines(experiment)
        stages.evaluate_frozen(experiment)
        stages.train_rta(experiment)
        stages.evaluate_stage(experiment, "rta")
        stages.train_ppr(experiment, stages.mine(experiment))
        finish(experiment)
        yield experiment


def test_every_part_is_used(own_run):
    task, context = own_run.test[0], own_run.test_contexts[0]
    assert list(task.candidates) == sorted(task.candidates)  # its own order
    told = call_tool("days_since_popular", {}, context)
    assert told.startswith("Days ago: ") and "days_since_popular" in context.tools
    assert context.past["timestamp"].max() < task.cutoff  # nothing that a tool may look at is from later
    assert {row["reward"] for row in own_run.logged("rta")} <= {0.0, 1.0}
    assert not any(row["dropped"] for row in own_run.logged("rta"))  # `halved` drops nothing
    metrics = runs.read_metrics(own_run.run.folder)
    assert "tool_days_since_popular" in metrics
    ranks = runs.read_ranks(own_run.run.folder)
    assert ranks["mine"].tolist() == [20.0 - t.positive + 1 for t in own_run.test]


def test_a_recommender_of_ones_own_is_in_tables_and_figures(own_run):
    names = list(results_table(own_run.run).index)
    assert names.index("sasrec") < names.index("mine") < names.index("frozen")
    assert "rta - mine" in own_run.run.result["differences"]
    text = [each.get_text() for each in final_bars(own_run.run.result).axes[0].get_yticklabels()]
    assert "mine" in text
    assert "| mine |" in markdown(pool([own_run.run.folder]))


def test_the_run_folder_names_them_and_goes_on_with_no_others(own_run):
    config = runs.read_config(own_run.run.folder)
    assert set(config["extensions"]) == {"tools", "reward", "advantages", "candidates", "recommenders"}
    assert config["dataset"] == "shop" and len(config["data"]) == 64
    assert "extensions" not in runs.settings_of(config)
    again = everything(shop(), own_run.run.folder)
    assert again.run.done("rta")
    with pytest.raises(UserError, match=r"holds another run \(extensions\.reward was .*first_place.*, now None\)"):
        everything(shop(), own_run.run.folder, reward=None)
    with pytest.raises(UserError, match=r"holds another run \(data was"):
        everything(shop(1), own_run.run.folder)


def test_runs_with_different_parts_are_not_pooled(own_run, tmp_path):
    for seed, parts in ((1, {}), (2, {"reward": first_place})):
        with start("toystore", "nano", seed, tmp_path / str(seed), SHORT, **parts).run as run:
            run.write_ranks(pd.DataFrame({"task_id": ["t"], "user": [0], "rta": [1.0]}))
            run.write_result(metrics={"rta": {"valid": 1.0, "calls": 1.0}})
    with pytest.raises(UserError, match="differ in extensions, not only in their seed"):
        pool([tmp_path / "1", tmp_path / "2"])


FITTED = []


def counted(log, rows, seed, **settings):
    FITTED.append((rows.start, rows.stop))
    return Toolbox.fit(log, rows, seed, **settings)


def test_evidence_of_ones_own_serves_training_and_test(tmp_path):
    experiment = start(shop(), "nano", 0, tmp_path / "run", SHORT, evidence=counted)
    with experiment.run:
        first = experiment.toolbox, experiment.early_toolbox
        split = experiment.split
        assert FITTED == [(0, split.train_end), (0, split.train_early_end)]
        again = start(shop(), "nano", 0, tmp_path / "other", SHORT, evidence=counted)
        assert (
            again.toolbox is first[0] and again.early_toolbox is first[1] and len(FITTED) == 2
        )  # the same data, seed and evidence: not fitted again
        other = start(shop(), "nano", 1, tmp_path / "third", SHORT, evidence=counted)
        assert other.toolbox is not experiment.toolbox and len(FITTED) == 3


def test_the_teacher_asks_a_tool_of_ones_own_and_follows_its_list(context):
    from dataclasses import replace

    from agenticrec_lite.agent.environment import RankingEnvironment
    from agenticrec_lite.agent.teacher import demonstration
    from agenticrec_lite.tools import show_list

    def backwards(context: TaskContext, by: int) -> str:
        """Order the candidates from the last to the first.

        Args:
            by: A number.
        """
        return f"By {by}.\n" + show_list(context, "number", range(len(context.candidates)))

    environment = RankingEnvironment(replace(context, tools={"backwards": backwards} | TOOLS))
    for turn in demonstration(np.random.default_rng(0), len(TOOLS))(environment):
        environment.step(turn)
    calls = {step.tool: step.arguments for step in environment.steps if step.kind == "call"}
    assert calls["backwards"]["by"] in range(1, 21) and "number " in calls["weigh_evidence"]["weights"]
    alone = RankingEnvironment(replace(context, tools={"backwards": backwards}))
    for turn in demonstration(np.random.default_rng(0), 1)(alone):
        alone.step(turn)
    assert alone.answer == list(range(20, 10, -1)) and alone.steps[-2].text == "I follow number."
