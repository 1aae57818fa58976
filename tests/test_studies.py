"""Studies: each changes the one thing that it says, and its figures stand beside the run that it differs from."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from agenticrec_lite.agent.prompts import ChatFormat
from agenticrec_lite.agent.protocol import write_answer, write_call
from agenticrec_lite.agent.teacher import run_script
from agenticrec_lite.agent.trajectory import Step, Trajectory
from agenticrec_lite.data import RankingTask, build_tasks, load_dataset, temporal_split
from agenticrec_lite.errors import UserError
from agenticrec_lite.evaluation.metrics import paired_difference, summarize
from agenticrec_lite.paper import claims
from agenticrec_lite.policy import NANO
from agenticrec_lite.profiles import load_profile
from agenticrec_lite.report import ablations, collect, full_report, pool, with_reasoning
from agenticrec_lite.rewards import group_advantages, listwise_reward
from agenticrec_lite.runs import open_run, read_config, read_metrics, read_trajectories
from agenticrec_lite.tools import TOOLS, Evidence, ItemCard, TaskContext, call_tool
from agenticrec_lite.training.mining import HardNegative
from studies import changes, evidence, proposition1, proposition2, remaining, sft, tables, tool_words, zero_shot
from studies.run import run_variant
from studies.variants import TIERS, VARIANTS, any_negative, hardest_negative


def answered(answer, n_calls=1, ids=(1, 2)) -> Trajectory:
    return Trajectory("t", 0, "rank", [], list(ids), answer=list(answer), outcome="answered", n_calls=n_calls)


def test_without_the_bonus_a_first_place_is_worth_its_gain():
    first = answered(range(1, 11))
    assert listwise_reward(first, 1) == pytest.approx(1.1) and changes.without_bonus(first, 1) == pytest.approx(1.0)
    for positive in (2, 10, 15):
        assert changes.without_bonus(first, positive) == listwise_reward(first, positive)


def test_a_random_reward_does_not_depend_on_the_positive_and_is_the_same_again():
    drawn = [changes.at_random(answered(range(1, 11), ids=(n, 7)), 1) for n in range(2000)]
    assert drawn == [changes.at_random(answered(range(1, 11), ids=(n, 7)), 9) for n in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.03) and -0.5 <= min(drawn) < max(drawn) < 1


def test_other_advantages():
    rewards = [1.1, 0.5, -0.5, -0.5, -1.0, -0.5, -0.5, -0.5]
    plain, _ = group_advantages(rewards, 4)
    kept, none = changes.undropped_advantages(rewards, 4)
    assert not none.any() and np.allclose(kept[4:], np.array(rewards[4:]) + 0.625) and np.allclose(kept[:4], plain[:4])


def test_a_broken_tool_says_so_and_the_others_do_not(context):
    name = "get_similar_users"
    tools = {tool.__name__: tool for tool in changes.with_broken([name])}
    assert list(tools) == list(TOOLS)
    with_broken = replace(context, tools=tools)
    assert call_tool(name, {}, with_broken) == "Error: the service is down."
    assert "no argument" in call_tool(name, {"x": "1"}, with_broken)
    assert call_tool("get_session_behavior", {}, with_broken).startswith("Last 3")
    assert not call_tool(name, {}, context).startswith("Error")


def test_a_liar_hands_out_the_scores_in_another_order(context):
    order = np.random.default_rng(0).permutation(20)
    liar = changes.Liar(context.collaborative, order)
    assert liar.similar_users().scores.tolist() == order.tolist()  # the fixture's scores are 0..19
    assert (liar.similar_items(None).scores == context.collaborative.similar_items(None).scores).all()


def test_turns_are_counted_as_the_protocol_sees_them(context):
    call, answer = write_call("get_similar_users", {}, "I ask."), write_answer(list(range(1, 11)))
    chat = ChatFormat.of(AutoTokenizer.from_pretrained(NANO), brief=True)
    played = [run_script(turns, context, chat) for turns in ([call, answer], ["words"], [call, write_answer([1])])]
    assert tool_words.turns_of(played) == (5, 3)
    cut = Trajectory("t", 0, "rank", [], steps=[Step("call", "x"), Step("invalid", "")])  # no room for an observation
    assert tool_words.turns_of([cut]) == (1, 1)


def test_tools_in_words_and_as_schemas_are_compared_on_the_same_tasks(tiny, context, tmp_path, monkeypatch):
    """A template that takes tools: two rows each way. One that takes none is told in words both times, alike."""
    monkeypatch.setattr(tool_words, "real_tasks", lambda n: [context] * n)
    takes = "{{ tools | map(attribute='function') | map(attribute='name') | join(' ') if tools }}"
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    rows = {}
    for name, begin in (("takes", takes), ("does not", "")):
        folder = tmp_path / name
        tiny[0].save_pretrained(folder)
        tiny[1].tokenizer.save_pretrained(folder)
        (folder / "x.jinja").write_text(begin + template)
        changes = {"policy.id": str(folder), "policy.chat_template": str(folder / "x.jinja")}
        profile = load_profile("nano", **changes, **{"agent.max_turn_tokens": 4})
        monkeypatch.setattr(tool_words, "profile_of", lambda policy, profile=profile: profile)
        tool_words.main(str(folder / "table.json"), str(folder), "2")
        rows[name] = tables.rows(folder / "table.json")
    assert [row["told"] for row in rows["takes"]] == ["words", "words", "schemas", "schemas"]
    assert [row["told"] for row in rows["does not"]] == ["words"] * 4
    told = [{key: value for key, value in row.items() if key != "asked"} for row in rows["does not"]]
    assert told[:2] == told[2:] and rows["takes"][0]["prompt tokens"] != rows["takes"][2]["prompt tokens"]
    assert all(row["valid turns"] == row["valid trajectories"] == 0 and row["turns"] == 2 for row in told)
    assert all(0 < row["tokens a turn"] <= 4 for row in told)


def test_a_policy_of_the_study_is_a_profile_or_a_folder():
    assert tool_words.profile_of("t4") == load_profile("t4")
    there = tool_words.profile_of("runs/model@t4")
    assert there == load_profile("t4", **{"policy.id": "runs/model"})
    assert tool_words.profile_of("runs/model")["policy"] == (
        load_profile("nano")["policy"] | {"id": "runs/model", "brief": False}
    )


def test_lies_are_told_in_a_share_of_the_tasks():
    class Honest:
        def contexts(self, tasks):
            return [TaskContext([], [], [ItemCard("x")] * 4, Fixed()) for _ in tasks]

    class Fixed:
        def similar_users(self):
            return Evidence([], np.arange(4.0))

    tasks = [RankingTask(f"test-{n:06d}", 0, (), (), (1, 2, 3, 4), 1, 0) for n in range(400)]
    scores = [c.collaborative.similar_users().scores.tolist() for c in changes.Lies(Honest(), 0.5).contexts(tasks)]
    assert 0.4 < np.mean([found != [0, 1, 2, 3] for found in scores]) < 0.6
    again = changes.Lies(Honest(), 0.5).contexts(tasks[:50])
    assert [c.collaborative.similar_users().scores.tolist() for c in again] == scores[:50]


def test_shuffled_and_redrawn_candidates_keep_the_question():
    log = load_dataset("toystore")
    split = temporal_split(log)
    before = build_tasks(log, split, "test", 30, 0)
    for draw, same_items in ((changes.shuffled(1), True), (changes.redrawn(1000), False)):
        after = build_tasks(log, split, "test", 30, 0, draw=draw)
        assert [t.task_id for t in after] == [t.task_id for t in before]
        for old, new in zip(before, after, strict=True):
            assert new.candidates[new.positive - 1] == old.candidates[old.positive - 1]
            assert (set(new.candidates) == set(old.candidates)) is same_items and new.history == old.history
        assert [t.candidates for t in before] != [t.candidates for t in after]
    by_id = {task.task_id: task.candidates for task in build_tasks(log, split, "test", None, 1000)}
    assert all(task.candidates == by_id[task.task_id] for task in after)  # those of seed 1000


def test_negatives():
    pair, rng = HardNegative("t", 4, 9, (9, 2)), np.random.default_rng(0)
    assert hardest_negative(pair, rng) == 9
    assert {any_negative(pair, rng) for _ in range(500)} == set(range(1, 21)) - {4}


def test_a_corrected_trajectory_asks_the_same_and_puts_the_positive_first(tiny, context):
    _, chat = tiny
    turns = [write_call("get_similar_users", {}, "I ask."), write_answer([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], "So.")]
    played = run_script(turns, context, chat, "rank", [1, 2, 3])
    for positive, expected in ((7, [7, 5, 6, 8, 9, 10, 11, 12, 13, 14]), (20, [20, *range(5, 14)])):
        better = sft.correct(played, positive, context, chat)
        assert better.valid and better.answer == expected and better.n_calls == 1 and better.prompt_ids == [1, 2, 3]
        assert better.steps[:-1] == played.steps[:-1]


def test_features_are_what_the_catalogue_says():
    items = pd.DataFrame({
        "title": [f"Lamp {n // 6}x, c{n}" for n in range(36)], "categories": [("A",), ("B", "A")] * 18,
        "price": [1.0, None] * 18, "year": [1994, 2003] * 18,
    })  # fmt: skip
    table = evidence.item_features(items)
    assert table.shape[0] == 37 and not table[-1].any()  # padding
    assert torch.allclose(table[:-1].pow(2).sum(1), torch.ones(36))
    assert not torch.equal(table[0], table[6])  # another model number
    assert torch.equal(table[1], table[3])  # "c3" is too rare a word to matter, and so is "lamp" too common


@pytest.mark.parametrize("kind", [evidence.CatalogueSASRec, evidence.CatalogueGRU4Rec])
def test_who_reads_the_catalogue_knows_siblings_of_what_it_has_seen(kind):
    """Two families of items; each user stays in one. An item that few took is told by its family's word."""
    rng, rows = np.random.default_rng(0), []
    for user in range(60):
        family = user % 2
        rows += [(user, int(item) * 2 + family) for item in rng.choice(20, 6, replace=False)]
    past = pd.DataFrame(rows, columns=["user", "item"]).assign(rating=5.0, timestamp=range(len(rows)))
    titles = [("North" if n % 2 else "South") + f" {n}" for n in range(40)]
    items = pd.DataFrame({"title": titles, "categories": [()] * 40, "price": [None] * 40, "year": [None] * 40})
    # 20 of 40 titles share a word: more than COMMON of them, so the families are told by category here
    items["categories"] = [("north",) if n % 2 else ("south",) for n in range(40)]
    reader = kind(items, epochs=6).fit(past, 40)
    alone = kind(items, own=False, epochs=6).fit(past, 40)
    other = evidence.SASRec(epochs=6).fit(past, 40)
    histories, candidates = [[0, 2, 4], [1, 3, 5]], [list(range(6, 40))] * 2
    right = np.array([[item % 2 == family for item in candidates[0]] for family in (0, 1)])

    def apart(model) -> float:
        scores = model.score(histories, candidates)
        return np.mean([scores[i][right[i]].mean() - scores[i][~right[i]].mean() for i in (0, 1)]) / scores.std()

    assert apart(reader) > max(1.0, apart(other)) and apart(alone) > 1.0
    assert np.allclose(alone.item_embeddings[::2], alone.item_embeddings[0])  # it sees no difference between siblings


def test_the_mean_of_several_is_of_standardised_scores():
    class Fixed:
        def __init__(self, scores):
            self.scores, self.item_embeddings = np.array(scores), scores

        def score(self, histories, candidates):
            return self.scores

    both = evidence.Together([Fixed([[1.0, 2.0, 3.0]]), Fixed([[300.0, 200.0, 200.0]])])
    assert np.allclose(both.score([[0]], [[0, 1, 2]]), [[-1.2247 + 1.4142, -0.7071, 1.2247 - 0.7071]], atol=1e-3)
    assert both.item_embeddings == [[1.0, 2.0, 3.0]]


def test_every_variant_is_in_one_tier_and_held_against_something():
    assert sorted(name for names in TIERS.values() for name in names) == sorted(VARIANTS)
    methods = {"rta", "ppr", "frozen_greedy", "frozen_sampled", "untrained"}
    assert all(variant.against in methods | set(VARIANTS) for variant in VARIANTS.values())
    with pytest.raises(UserError, match="no variant 'huge'"):
        run_variant("huge", ".", ".")


def finished(folder, seed, ranks, variant=None):
    with open_run(folder, {"seed": seed}) as run:
        run.write_ranks(ranks)
        names = [name for name in ranks if name not in ("task_id", "user")]
        metrics = {name: summarize(ranks[name], ranks["user"]) for name in names}
        told = {"variant": variant} if variant else {}
        run.write_result(dataset="toy", profile="nano", seed=seed, metrics=metrics, seconds={"rta": 120.0}, **told)
        run.log_metrics({"stage": "rta", "step": 1, "calls": 1.0, "completion_tokens": 90})


@pytest.fixture
def results(tmp_path):
    """Two seeds of the recipe and of a variant that knows its task ids in another order; one seed of another."""
    rng, made = np.random.default_rng(0), {}
    about = {"name": "no-bonus", "question": "No bonus?", "method": "rta", "against": "rta", "paired": True}
    for seed in (0, 1):
        plain = pd.DataFrame({"task_id": [f"t{i}" for i in range(40)], "user": rng.integers(9, size=40)})
        plain["random"], plain["ceiling"] = rng.integers(1, 21, 40).astype(float), np.ones(40)
        plain["frozen"], plain["rta"] = np.full(40, 9.0), rng.choice([1.0, 2.0, math.inf], 40)
        other = plain[["task_id", "user"]].assign(rta=rng.choice([1.0, 3.0], 40)).sample(frac=1, random_state=seed)
        finished(tmp_path / f"a/seed-{seed}", seed, plain)
        finished(tmp_path / f"b/no-bonus/seed-{seed}", seed, other, about)
        made[seed] = (plain, other.sort_index())
    half = about | {"name": "half", "against": "half"}
    finished(tmp_path / "b/half/seed-0", 0, made[0][1], half)
    finished(tmp_path / "b/alone/seed-0", 0, made[0][0][["task_id", "user", "rta"]], half | {"name": "alone"})
    return tmp_path, made


def test_a_variant_is_held_against_its_reference_task_by_task(results):
    folder, made = results
    runs = collect([folder])["toy", "nano"]
    assert {name: len(folders) for name, folders in runs.items()} == {"": 2, "no-bonus": 2, "half": 1, "alone": 1}
    table = ablations(runs)
    plain, other = (pd.concat([made[seed][i] for seed in (0, 1)]) for i in (0, 1))
    wanted = paired_difference(other["rta"], plain["rta"], plain["user"], "N@10")
    assert table.loc["no-bonus", "N@10 -"] == pytest.approx(wanted["difference"])
    assert table.loc["no-bonus", "n"] == 80 and table.loc["no-bonus", "minutes"] == pytest.approx(2.0)
    assert table.loc["half", "N@10 -"] == 0.0  # itself
    assert table.loc["no-bonus", "paired"] == 80 and len(table.loc["no-bonus", "each seed"].split()) == 2
    seed = made[0]
    wanted = paired_difference(seed[0]["rta"], seed[1]["rta"], seed[0]["user"], "H@1")
    assert table.loc["alone", "H@1 -"] == pytest.approx(wanted["difference"])


def test_the_papers_reasoning_without_tools_is_the_variants(results):
    folder, made = results
    runs = collect([folder])["toy", "nano"]
    assert not {"trained_r", "frozen_r"} & set(with_reasoning(pool(runs[""]), runs)["metrics"])
    runs["reasoning"] = runs["no-bonus"]  # of the same method
    found = with_reasoning(pool(runs[""]), runs)
    plain, other = (pd.concat([made[seed][i] for seed in (0, 1)]) for i in (0, 1))
    wanted = paired_difference(plain["rta"], other["rta"], plain["user"], "H@1")
    assert found["differences"]["rta - trained_r"]["H@1"]["difference"] == pytest.approx(wanted["difference"])
    assert found["metrics"]["trained_r"]["H@1"] == pytest.approx((other["rta"] == 1).mean())
    for profile, testable in (("nano", False), ("smol", True)):  # nano knows no item
        told = claims(found | {"profile": profile}).set_index("claim").loc["trained with tools beats trained without"]
        assert told["ours"].notna().all() and (set(told["verdict"]) != {"cannot be tested here"}) == testable


def test_the_whole_report_is_text_and_a_figure(results, tmp_path):
    text = full_report([results[0]], tmp_path / "out")
    mark, _, written = (tmp_path / "out/report.md").read_text().partition("\n\n")
    assert mark.startswith("<!-- Written by agenticrec report") and text == written
    assert "# toy, nano" in text and "| no-bonus | No bonus? |" in text and "way to ceiling" in text
    assert "| ceiling | 1.000 |" in text and "100% |" in text
    assert (tmp_path / "out/dynamics-nano-toy.png").stat().st_size > 10_000
    with pytest.raises(UserError, match="no finished run at or below"):
        full_report([tmp_path / "out"])


def test_a_report_of_variants_alone_and_of_data_with_a_path_for_a_name(results, tmp_path):
    assert "## Variants" in full_report([results[0] / "b"], tmp_path / "new" / "folder")
    assert (tmp_path / "new/folder/report.md").exists()
    for run in (results[0] / "a").iterdir():
        text = (run / "result.json").read_text()
        (run / "result.json").write_text(text.replace('"toy"', '"amazon-2023/Office"'))
    assert "](dynamics-nano-amazon-2023-Office.png)" in full_report([results[0] / "a"], tmp_path / "out")
    assert (tmp_path / "out/dynamics-nano-amazon-2023-Office.png").exists()


SHORT = {
    "rta.steps": 2, "rta.tasks_per_step": 2, "rta.group_size": 4, "rta.micro_groups": 1, "ppr.mining_tasks": 24,
    "ppr.steps": 1, "ppr.tasks_per_step": 2, "ppr.group_size": 4, "ppr.micro_groups": 1, "evaluation.n_test": 12,
    "evaluation.n_validation": 30, "agent.max_calls": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from agenticrec_lite.experiment.stages import run_experiment

    folder = tmp_path_factory.mktemp("studies") / "base"
    run_experiment("toystore", "nano", 0, folder, SHORT)
    return folder


@pytest.mark.all
@pytest.mark.parametrize(("name", "settings"), [
    ("sft", {"warm_start.micro_batch": 4}), ("hardest", {}), ("shuffled-1", {}), ("asks-gru4rec", {}),
    ("without-get_similar_users", {"rta.steps": 2}), ("reasoning-untrained", {}),
])  # fmt: skip
def test_a_variant_goes_all_the_way_and_is_not_run_again(name, settings, base, tmp_path):
    result = run_variant(name, base, tmp_path / name, settings)
    stage = VARIANTS[name].stage
    trained = {"test": set(), "untrained": set(), "all": {"rta", "ppr"}}.get(stage, {stage})
    wanted = {"test": {"rta"}, "untrained": {"frozen", "frozen_greedy", "frozen_sampled"}}.get(stage, {stage})
    found = set(result["metrics"])
    assert found >= {"rta", "ppr", "gru4rec", "bayes"} if stage == "all" else found == wanted
    assert result["variant"]["name"] == name and result["n_test"] == 12
    assert (set(read_metrics(tmp_path / name)["stage"]) if trained else set()) == trained
    again = run_variant(name, base, tmp_path / name, settings)
    assert again["metrics"] == result["metrics"] and again["seconds"] == result["seconds"]
    table = ablations({"": [base], name: [tmp_path / name]})
    assert table.loc[name, "n"] == 12


@pytest.mark.all
def test_a_policy_of_another_dataset_is_tested_and_one_that_is_not_there_said(base, tmp_path, monkeypatch):
    here, there = tmp_path / "nano-toystore/seed-0", tmp_path / "nano-other/seed-0"
    shutil.copytree(base, here)
    with pytest.raises(UserError, match="is itself on toystore"):
        run_variant("transfer", here, tmp_path / "a")
    monkeypatch.setitem(VARIANTS, "transfer", replace(VARIANTS["transfer"], trained_on="other"))
    with pytest.raises(UserError, match="base does not say in its folder's name that it is on toystore"):
        run_variant("transfer", base, tmp_path / "a")
    with pytest.raises(UserError, match="nano-other/seed-0 holds no adapter"):
        run_variant("transfer", here, tmp_path / "a")
    shutil.copytree(base, there)
    assert list(run_variant("transfer", here, tmp_path / "b")["metrics"]) == ["rta"]


@pytest.mark.all
def test_another_width_is_pretrained_once_and_trained(base, tmp_path, monkeypatch):
    made = []

    def pretrain(folder, recipe):
        made.append(recipe.hidden)
        shutil.copytree(NANO, folder)

    monkeypatch.setattr("studies.run.pretrain", pretrain)
    settings = {"policy.id": str(tmp_path / "nano-64"), "rta.steps": 1}
    for again in ("a", "b"):
        result = run_variant("width-64", base, tmp_path / again, settings)
        assert result["variant"]["against"] == "half" and list(result["metrics"]) == ["rta"]
        assert read_config(tmp_path / again)["policy"]["id"] == settings["policy.id"]
    assert made == [64]


@pytest.mark.all
def test_a_variant_may_begin_with_a_warm_start(base, tmp_path):
    settings = {"warm_start.steps": 1, "rta.steps": 1}
    assert list(run_variant("candidates-50-warm", base, tmp_path / "a", settings)["metrics"]) == ["rta"]
    assert set(read_metrics(tmp_path / "a")["stage"]) == {"warm_start", "rta"}
    played = (tmp_path / "a/trajectories/rta.jsonl").read_text().splitlines()
    assert {len(json.loads(line)["candidates"]) for line in played} == {50}


@pytest.mark.all
def test_a_variants_policy_is_tested_again_sampled(base, tmp_path):
    name, trained = "random-reward-sampled", tmp_path / "random-reward/seed-0"
    with pytest.raises(UserError, match="random-reward/seed-0 holds no adapter"):
        run_variant(name, base, tmp_path / name / "seed-0")
    shutil.copytree(base / "checkpoints/rta", trained / "checkpoints/rta")  # another's place, the same policy
    result = run_variant(name, base, tmp_path / name / "seed-0")
    assert result["variant"]["against"] == "frozen_sampled"
    greedy, sampled = ([row["steps"] for row in read_trajectories(run, "evaluate_rta")]
                       for run in (base, tmp_path / name / "seed-0"))  # fmt: skip
    assert len(greedy) == len(sampled) == 12 and greedy != sampled


@pytest.mark.all
def test_delta_is_measured_before_between_and_after_steps(base, monkeypatch):
    monkeypatch.setattr(proposition2, "EVERY", 1)
    monkeypatch.setattr(proposition2, "PAIRS", 4)
    table = proposition2.measure(base)
    assert [row["step"] for row in table["rows"]] == [0, 1] and {row["pairs"] for row in table["rows"]} <= {1, 2, 3, 4}
    assert all(0 <= row["right"] <= 1 and "[" in row["Delta, more"] for row in table["rows"])


@pytest.mark.all
def test_the_factor_is_measured_for_every_group_size(base, monkeypatch):
    for name, value in {"TASKS": 3, "COPIES": 8, "GROUPS": (2, 4, 8)}.items():
        monkeypatch.setattr(proposition1, name, value)
    factors, cosines = proposition1.measure(base)
    assert [row["(G - 1) / G"] for row in factors["rows"]] == [0.5, 0.75, 0.875]
    # all rollouts of a task as one group: the same sum, so that scale, sign and order show exactly
    assert factors["rows"][2]["same rollouts"] == pytest.approx(0.875, rel=0.02)
    assert len(cosines["rows"]) == len(proposition1.ESTIMATORS) and cosines["rows"][0]["cosine"] < 0.999


def test_tables_of_studies_are_in_the_report_and_what_was_not_run_has_a_cost(results, tmp_path):
    folder = results[0]
    tables.write(folder / "b/tables/x.json", {"title": "A title", "text": "A text.", "rows": [{"a": "x|y", "b": 0.25}]})
    assert "# A title\n\nA text.\n\n| a | b |" in (text := full_report([folder])) and "| 0.250 |" in text
    played = {("ml-100k", "nano"): {"leak": [1], "half": [1]}}
    left = {(dataset, name): n for dataset, name, n in remaining.missing(played)}
    assert left["ml-100k", "leak"] == 2 and left["ml-100k", "std"] == 3 and ("ml-100k", "half") not in left
    assert left["toystore", "sft"] == 3 and ("toystore", "std") not in left and left["ml-100k", "group-2"] == 1
    seconds = {"recommenders": 60.0, "rta": 240.0, "evaluate_rta": 60.0, "ppr": 90.0, "evaluate_ppr": 30.0}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text(json.dumps({"seconds": seconds}))
    assert remaining.minutes(VARIANTS["hardest"], [tmp_path / "run"]) == pytest.approx(2.0)
    assert remaining.minutes(VARIANTS["leak"], [tmp_path / "run"]) == pytest.approx(6.0)
    assert remaining.minutes(VARIANTS["group-2"], [tmp_path / "run"]) == pytest.approx(4.0)  # half of the steps
    assert [row["estimated minutes"] for row in remaining.zero_shot(folder)] == [pytest.approx(53.3, abs=0.1)]
    tables.write(folder / "b/tables/y.json", {"title": f"{zero_shot.TITLE}: it", "text": "", "rows": []})
    assert not list(remaining.zero_shot(folder))
    narrow, wide = (remaining.minutes(VARIANTS[f"width-{width}"], [tmp_path / "run"]) for width in (64, 256))
    assert narrow == pytest.approx(4 + 36) and wide == pytest.approx(4 + 180)  # and the pre-training


@pytest.mark.parametrize(("words", "said"), [
    ([], "usage: python -m studies.proposition1 RUN OUT.json"),
    (["a", "b", "c"], "usage:"),
    (["nowhere", "out.json"], "Error: There is no .*config.yaml"),
])
def test_a_study_that_is_called_wrongly_says_so(words, said, monkeypatch):
    monkeypatch.setattr("sys.argv", ["proposition1", *words])
    with pytest.raises(SystemExit, match=said):
        tables.command(proposition1.main, "proposition1 RUN OUT.json")


def test_a_negative_reward_is_not_made_smaller_by_taking_the_bonus_away():
    bad = replace(answered(range(1, 11)), outcome="bad_turn")
    assert changes.without_bonus(bad, 1) == listwise_reward(bad, 1) == -1.0
