"""Every mistake that a user can make ends in one sentence, exit code 2, and a row of the table in the docs.

Who adds an error adds its sentence to the table in docs/errors.md, where `...` is any text and
`NAME` one word, and a case to CASES that brings it about.
"""

import ast
import contextlib
import errno
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml
from filelock import FileLock
from typer.testing import CliRunner

from agenticrec_lite import parameters, play, runs
from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.cli import app
from agenticrec_lite.data import amazon, amazon_reader, fetch_amazon, movielens, toystore
from agenticrec_lite.data import fetch as fetching
from agenticrec_lite.data.own import load_files
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment import ask as asking
from agenticrec_lite.experiment import start
from agenticrec_lite.policy import NANOS

ROOT = Path(__file__).resolve().parents[1]
# Sentences that are in no row, by how they begin, with the reason.
UNLISTED = {
    "There are no notebooks in {}": "only a package without its checkout",
    "agenticrec demo and agenticrec reproduce need": "only an installation without the extra course",
    "{} cannot be used: {}": "carries what the system says of a file",
    "{} As far as {} came": "carries the sentence of a notebook, which is in the table",
    "{}: an output names a path of this machine": "stops the makers of notebooks, not their readers",
    "{} failed with {}: {} (as far as it came": "carries the sentence of a notebook, which is in the table",
    "{} is of {}, which may not be published": "stops the maker of the site's page, not its readers",
    "The kernel of {} was stopped": "says itself all there is to do",
    "No finished run is there; make one with: {}": "a case needs a notebook; its sentence is in the table",
    "An answer is {} different numbers": "the game says it and goes on; tests/test_play.py has the case",
    "These are runs of {} with profile {}": "a case needs a notebook; its sentence is in the table",
    **dict.fromkeys(
        ("The candidates of {}", "A lambda has no name", "{} must be a function", "A recommender cannot be called",
         "The recommender {} needs", "The reward {} returned", "A tool is a function", "There are two tools",
         "The tool {} has no docstring", "The first argument of the tool", "The argument {} of the tool",
         "An environment needs", "The questions of one environment"),
        "for who hands in a part of his own, who reads it where he wrote it; tests/test_extensions.py has the cases",
    ),
    **dict.fromkeys(
        ("The model {} does not attend", "The model {} scales or caps", "The model {} reads {} tokens",
         "Layers of a {} cannot be checkpointed"),
        "says itself all there is to do; tests/test_policy.py and test_plan.py have the cases",
    ),
}


def asked(history: str, candidates: tuple[str, ...] = ()) -> Callable:
    """Asks a fresh toystore run; {title} is one of its titles."""

    def prepare(tmp: Path, *_) -> None:
        experiment = start("toystore", "nano", 0, tmp / "run")
        title = str(experiment.log.items["title"].iloc[0])
        given = [[each.format(title=title) for each in part] for part in ([history], candidates)]
        try:
            asking.answer(experiment, *given)
        finally:
            experiment.run.close()

    return prepare


def silent_agent(tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent whose answer is none."""
    played = asking.Asked(None, ["x"], ["y"], Trajectory("asked", 0, "rank", [], outcome="bad_turn"), "frozen")
    monkeypatch.setattr(asking, "ask", lambda *_: played)


def unfollowed(tmp: Path, *_) -> None:
    """A run that has trajectories, and none of a task that was followed through a stage."""
    (tmp / "trajectories").mkdir()
    play.pages(tmp)


# --- what the table says, and what the code says ---


def rows() -> list[list[str]]:
    """The cells of the table."""
    section = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def patterns() -> list[str]:
    """The sentences of the table's first column."""
    return [sentence for row in rows() for sentence in re.findall(r"`([^`]+)`", row[0])]


def says(pattern: str, sentence: str) -> bool:
    """Whether a sentence, or one with {} where values go, is the one that a pattern stands for."""
    parts = re.split(r"( ?\.\.\.|\bNAME\b)", pattern)
    free = {"...": ".*", " ...": ".*", "NAME": r"(?:\{\}|\S+)"}
    regular = "".join(free.get(part, re.escape(part)) for part in parts)
    return re.match(regular, sentence, re.DOTALL) is not None


def template(node: ast.expr) -> str:
    """The sentence that an expression makes, {} for what is put in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(value.value if isinstance(value, ast.Constant) else "{}" for value in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "{}"


def raised() -> Iterator[tuple[str, str]]:
    """(place, sentence) of every UserError in the package and the notebooks, and of every stop in .ci."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "agenticrec_lite").rglob("*.py")}
    sources |= {path: path.read_text(encoding="utf-8") for path in (ROOT / ".ci").glob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        sources[path] = "\n".join(text for text in code if "UserError" in text)
    for path, text in sorted(sources.items()):
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            name = ast.unparse(node.func)
            sentence = template(node.args[0])
            if name == "UserError" or (path.parent.name == ".ci" and name in ("Stop", "sys.exit") and sentence != "{}"):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", sentence


def test_every_error_of_the_code_is_in_the_table():
    missing = [
        f"{place}: {sentence}" for place, sentence in raised()
        if not any(sentence.startswith(start) for start in UNLISTED)
        and not any(says(pattern, sentence) for pattern in patterns())
    ]  # fmt: skip
    assert not missing, "docs/errors.md has no row for: " + "; ".join(missing)


def test_every_sentence_of_the_table_is_one_of_the_code():
    sentences = [sentence for _, sentence in raised()]
    rotten = [p for p in patterns() if not p.startswith("Interrupted") and not any(says(p, s) for s in sentences)]
    assert not rotten, f"no error says so any more: {rotten}"


def test_the_list_of_what_is_left_out_is_no_longer_than_it_must_be():
    sentences = [sentence for _, sentence in raised()]
    assert not [start for start in UNLISTED if not any(sentence.startswith(start) for sentence in sentences)]


def test_every_row_says_why_and_what_to_do_and_the_table_is_short():
    assert len(rows()) <= 25
    assert all(len(row) == 3 and all(row) for row in rows())


def test_every_error_is_a_sentence():
    for place, sentence in raised():
        assert "\n" not in sentence and sentence.rstrip()[-1] in ".}", f"{place}: {sentence}"


# --- bringing each about ---


def in_cache(files: dict[str, str], manifest: bool = True) -> Callable:
    """Puts files into a cached ml-100k, as fetched or with a manifest that does not fit."""

    def prepare(tmp_path, monkeypatch):
        folder = tmp_path / "cache" / "ml-100k"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        sums = {name: hashlib.sha256(text.encode()).hexdigest() if manifest else "0" for name, text in files.items()}
        (folder / "sha256.json").write_text(json.dumps(sums))

    return prepare


def environment(**variables) -> Callable:
    return lambda tmp_path, monkeypatch: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def files(**texts) -> Callable:
    """Writes files below tmp_path; a double underscore is a dot, and a single one at the front a folder `own/`."""

    def prepare(tmp_path, monkeypatch):
        (tmp_path / "own").mkdir()
        for name, text in texts.items():
            (tmp_path / name.replace("__", ".").replace("own_", "own/")).write_text(text, encoding="utf-8")

    return prepare


def nothing(tmp_path, monkeypatch):
    pass


def full_disk(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "first_of", lambda known, name, sources: {"u.data": b""})
    monkeypatch.setattr(Path, "write_bytes", refuse)


def no_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "first_of", lambda known, name, sources: {"u.data": b""})
    (tmp_path / "cache").write_text("a file, not a folder")


def no_dataset_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("agenticrec_lite.experiment.experiment.load_dataset", lambda name: SimpleNamespace(name=name))


def a_file_in_the_way(tmp_path, monkeypatch):
    no_dataset_needed(tmp_path, monkeypatch)
    (tmp_path / "own").write_text("a file, not a folder")


def another_run(tmp_path, monkeypatch):
    no_dataset_needed(tmp_path, monkeypatch)
    files(own_config__yaml="dataset: another\n")(tmp_path, monkeypatch)


def another_process(tmp_path, monkeypatch):
    no_dataset_needed(tmp_path, monkeypatch)
    (tmp_path / "own").mkdir()
    lock = FileLock(tmp_path / "own" / ".lock")
    lock.acquire()
    monkeypatch.setattr(tmp_path.__class__, "held_by_the_test", lock, raising=False)  # until the test is over


def cannot_be_replaced(tmp_path, monkeypatch):
    no_dataset_needed(tmp_path, monkeypatch)

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agenticrec_lite.runs.files.os.replace", refuse)


def two_runs(tmp_path, monkeypatch):
    for number in range(2):
        folder = tmp_path / f"own{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "d", "rta": {"steps": number}, "seed": 0}))
        (folder / "result.json").write_text('{"dataset": "d", "profile": "nano"}')
        (folder / "ranks.csv").write_text("task_id,user,rta\nt,1,1\n")


def load(**policy) -> Callable:
    """load_policy with nano's settings, changed."""

    def attempt(tmp_path, monkeypatch, adapter=None):
        from agenticrec_lite.policy import load_policy

        lora = {"r": 4, "alpha": 8, "targets": "all-linear"}
        settings = {"id": "nano", "brief": True, "quantize": "none", "dtype": "float32", "lora": lora} | policy
        load_policy({k: str(v).format(tmp=tmp_path) if k == "id" else v for k, v in settings.items()}, adapter)

    return attempt


def load_adapter(tmp_path, monkeypatch):
    load()(tmp_path, monkeypatch, tmp_path)


def damaged_adapter(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    load_adapter(tmp_path, monkeypatch)


def nano_gone(tmp_path, monkeypatch):
    monkeypatch.setitem(NANOS, "nano", tmp_path / "nano")
    load()(tmp_path, monkeypatch)


def unpack_smollm2(tmp_path, monkeypatch):
    from agenticrec_lite import policy

    def refuse(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(policy, "fetch", lambda name: tmp_path / name)
    model = SimpleNamespace(save_pretrained=refuse)
    monkeypatch.setattr(policy.AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: model)
    policy.smollm2_folder()


def chat_format(special: list[str], ends: bool) -> Callable:
    def attempt(tmp_path, monkeypatch):
        from test_hostile import qwen3_like

        from agenticrec_lite.agent.prompts import ChatFormat

        tokenizer = qwen3_like(special)
        if not ends:
            tokenizer.chat_template = tokenizer.chat_template.replace(special[2], "")
        ChatFormat.of(tokenizer)

    return attempt


def no_template(template: str | None) -> Callable:
    def attempt(tmp_path, monkeypatch):
        from test_hostile import qwen3_like

        from agenticrec_lite.agent.prompts import ChatFormat

        tokenizer = qwen3_like(["<pad>", "<turn>", "<end>"])
        tokenizer.chat_template = template
        ChatFormat.of(tokenizer)

    return attempt


def no_memory(tmp_path, monkeypatch):
    from agenticrec_lite.agent.episodes import enough_memory

    with enough_memory("this", "that"):
        raise MemoryError


def no_room_for_vllm(tmp_path, monkeypatch):
    from agenticrec_lite.agent import vllm_engine
    from agenticrec_lite.policy import load_policy
    from agenticrec_lite.profiles import load_profile

    def refuse(**_):
        raise ValueError("No available memory for the cache blocks.")

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=refuse))
    profile = load_profile("nano")
    vllm_engine._vllm(load_policy(profile["policy"]), profile["agent"], 10, 50)


def not_finite(tmp_path, monkeypatch):
    from agenticrec_lite.training import grpo

    trainer = SimpleNamespace(
        stage="rta", history=[{"skipped": 1}] * grpo.MOST_SKIPPED, trajectories=[], run=None, watch=None, skipped=1,
        num_generations=1, seconds_rollout=0.0, update_started=0.0, checkpoints=None,
        accelerator=SimpleNamespace(scaler=None), tool_names=[],
        state=SimpleNamespace(global_step=1), bar=SimpleNamespace(update=lambda: None, set_postfix=lambda **_: None),
    )  # fmt: skip
    shown = {"reward_mean": 0.0, "valid": 0.0, "calls": 0.0, "skipped": 1}
    monkeypatch.setattr(grpo, "step_metrics", lambda *args: shown)
    monkeypatch.setattr(grpo.GRPOTrainer, "log", lambda self, logs, start_time=None: None)
    type("T", (grpo.ListwiseGRPOTrainer,), {"__init__": lambda self: vars(self).update(vars(trainer))})().log(
        {"grad_norm": 0.0}
    )


def lost_trajectories(tmp_path, monkeypatch):
    from agenticrec_lite.experiment.stages import evaluate_stage

    run = SimpleNamespace(folder=tmp_path, result={}, done=lambda stage: True, payload=lambda stage: [1.0])
    task = SimpleNamespace(user=1)
    evaluate_stage(SimpleNamespace(run=run, test=[task], ranks={}, logged=lambda stage: []), "rta")


def no_stage(what: str, *arguments) -> Callable:
    """Something that needs a stage which this run has not trained."""

    def attempt(tmp_path, monkeypatch):
        from agenticrec_lite.experiment import Experiment, stages

        run = SimpleNamespace(folder=tmp_path, done=lambda stage: False, result={})
        experiment = Experiment(None, {}, 0, run)
        stages.mine(experiment) if what == "mine" else experiment.policy_after(*arguments)

    return attempt


def lost_adapter(tmp_path, monkeypatch):
    from agenticrec_lite.training.checkpoint import check_adapter

    check_adapter(SimpleNamespace(checkpoints=tmp_path, folder=tmp_path), "rta")


def changed_toystore(tmp_path, monkeypatch):
    (tmp_path / toystore.TRUTH).write_text('{"sha256": {"reviews": "0"}}')
    toystore.load_toystore(tmp_path)


def fetch_twice(tmp_path, monkeypatch):
    name = next(iter(fetching.AMAZON))
    folder = tmp_path / "cache" / name
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        fetch_amazon.fetch_amazon(name)


def short_sasrec(tmp_path, monkeypatch):
    from agenticrec_lite.recommenders import SASRec

    SASRec().fit(pd.DataFrame({"user": [0], "item": [0], "timestamp": [0]}), 1, 0)


def no_curve(tmp_path, monkeypatch):
    from agenticrec_lite.show.figures import reward_curve

    reward_curve(pd.DataFrame())


def hardware(profile: str, gpu: bool = False, bf16: bool = False, needed: float = 1.0, free: float = 1e15) -> Callable:
    """The check before a run, on a machine with or without what a profile needs."""

    def attempt(tmp_path, monkeypatch):
        from agenticrec_lite import plan
        from agenticrec_lite.profiles import load_profile

        monkeypatch.setattr(plan.torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(plan.torch.cuda, "is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr(plan, "gpu_memory", lambda: (2.0, 2.0))
        monkeypatch.setattr(plan, "peak", lambda parts: needed)
        monkeypatch.setattr(plan.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        plan.check_hardware(profile, load_profile(profile))

    return attempt


def nothing_to_export(tmp_path, monkeypatch):
    from agenticrec_lite.hub import export

    two_runs(tmp_path, monkeypatch)
    export(tmp_path / "own0", tmp_path / "out")


def not_taken(tmp_path, monkeypatch):
    from agenticrec_lite import hub

    monkeypatch.setattr(hub, "export", lambda run, out, where: out)
    hub.push(tmp_path, "nobody/nothing")


def no_report(tmp_path, monkeypatch):
    from agenticrec_lite.report import pool

    pool([])


def paper_figures(tmp_path, monkeypatch):
    amazon.compare_with_paper(SimpleNamespace(name="mine"))


def ci(name: str, function: str, *arguments) -> Callable:
    """A program of .ci, which gives its sentence to sys.exit, or prints it and exits with 2."""

    def attempt(tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(ROOT / ".ci"))
        module = __import__(name)
        if name == "execute":
            monkeypatch.setattr(module, "DEMO", tmp_path)
        printed = io.StringIO()
        with pytest.raises(SystemExit) as stopped, contextlib.redirect_stderr(printed):
            getattr(module, function)(*arguments)
        code = stopped.value.code
        raise UserError(printed.getvalue().removeprefix("Error: ") if code == 2 else code)

    return attempt


LOG = "user,item,timestamp\n1,a,5\n"
RUN = ("run", "--out", "{tmp}/own", "--dataset")
U_ITEM = "1|T (1995)|01-Jan-1995||x|" + "|".join("0" * 19) + "\n"
# What to prepare and the command that ends in a sentence; or, where no command gets there, what raises it. {tmp} is the
# test's folder.
CASES: list[tuple[str, Callable, tuple[str, ...] | None]] = [
    ("Unknown profile ...", nothing, ("run", "--out", "{tmp}/own", "--profile", "huge")),
    ("There is no dataset ...", nothing, (*RUN, "nosuch")),
    ("There is nothing to fetch for ...", nothing, ("fetch", "nosuch")),
    ("There is no source ...", environment(AGENTICREC_ML100K_SOURCE="mirror"), ("fetch", "ml-100k")),
    ("There is no card ...", nothing, ("plan", "--profile", "t4", "--card", "T3")),
    ("There is no notebook ...", ci("execute", "chosen", ["99"]), None),
    ("--set takes KEY=VALUE ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.steps")),
    ("Profile ... has no setting ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.stepz=1")),
    ("Setting ... must be ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.steps.x=1")),
    ("Setting ... must be ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.steps=many")),
    ("... is not a value that a profile can hold ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.steps=[1")),
    ("--seeds takes ...", nothing, ("reproduce", "--seeds", "x")),
    ("-p takes ...", nothing, ("demo", "-p", "seed")),
    ("... has no parameter ...", nothing, ("demo", "-p", "sed=1")),
    ("AGENTICREC_BUDGET is ...", environment(AGENTICREC_BUDGET="none"), ("run", "--out", "{tmp}/own")),
    ("Setting ... must be ...", nothing, ("plan", "--profile", "smol", "--set", "policy.dtype=fp16")),
    ("Setting ... must be ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.group_size=1")),
    ("Setting ... must be ...", nothing, ("run", "--out", "{tmp}/own", "--set", "rta.learning_rate=-1")),
    ("Setting ... must be ...", nothing, ("plan", "--profile", "t4", "--set", "agent.vllm.gpu_memory_utilization=9")),
    ("Setting ... must be ...", nothing, ("plan", "--profile", "t4", "--set", "agent.vllm.server_base_url=7")),
    ("Setting ... must be ...", files(own_a__yaml="rta: {steps: x}"), ("settings", "--profile", "{tmp}/own/a.yaml")),
    ("Setting ... must be ...", files(own_a__yaml="short: 1"), ("settings", "--profile", "{tmp}/own/a.yaml")),
    ("Profile ... has no setting ...", files(own_a__yaml="rtta: 1"), ("plan", "--profile", "{tmp}/own/a.yaml")),
    ("Profile ... has no setting ...", nothing, ("settings", "rtta")),
    ("Unknown profile ...", files(own_a__yaml="based_on: huge"), ("plan", "--profile", "{tmp}/own/a.yaml")),
    ("There is no file ...", nothing, ("plan", "--profile", "{tmp}/mine.yaml")),
    ("... cannot be read ...", files(own_a__yaml="rta: ["), ("plan", "--profile", "{tmp}/own/a.yaml")),
    ("... cannot be read ...", files(own_a__yaml="rta"), ("plan", "--profile", "{tmp}/own/a.yaml")),
    ("policy.chat_template ... cannot be read ...", load(chat_template="nowhere.jinja"), None),
    ("... could not be fetched ...", environment(
        AGENTICREC_ML100K_SOURCE="official", AGENTICREC_ML100K_URL="http://127.0.0.1:9/"), ("fetch", "ml-100k")),
    ("... is missing or not as it was fetched ...", in_cache({"u.data": "x"}, False), ("fetch", "ml-100k")),
    ("... is missing or damaged; ...", lambda tmp, _: (tmp / "cache" / "ml-100k").mkdir(parents=True),
     ("fetch", "ml-100k")),
    ("The files in ... cannot be read as ...", in_cache({"u.data": "1|2\n", "u.item": "1|2\n"}), (*RUN, "ml-100k")),
    ("The interactions in ... are not those of ...", in_cache({"u.data": "1\t1\t5\t9\n", "u.item": U_ITEM}),
     (*RUN, "ml-100k")),
    ("No space is left ...", full_disk, ("fetch", "ml-100k")),
    ("... GB free and ...", lambda tmp, _: fetch_amazon._need_space(tmp, 10**18), None),
    ("The cache folder ... cannot be used ...", no_cache_folder, ("fetch", "ml-100k")),
    ("smollm2-135m cannot be unpacked ...", unpack_smollm2, None),
    ("Another process is fetching ...", fetch_twice, None),
    ("Another process is writing to ...", another_process, RUN[:3]),
    ("There is no file ...", nothing, (*RUN, "{tmp}/a.csv,{tmp}/items.csv")),
    ("There is no file ...", lambda tmp, _: amazon_reader.read_reviews(tmp / "no.jsonl"), None),
    ("... must be ...; it has ...", files(own_a__csv=LOG, own_b__csv=LOG), (*RUN, "{tmp}/own")),
    ("... is of no known kind ...", files(own_a__csv=LOG, own_items__txt="x"),
     (*RUN, "{tmp}/own/a.csv,{tmp}/own/items.txt")),
    ("... cannot be read ...", files(own_a__parquet="x", own_items__csv="item,title\na,A\n"), (*RUN, "{tmp}/own")),
    ("... has the columns ...", files(own_a__csv="user_id,timestamp,parent_asin,rating\n", own_meta_a__jsonl="{}\n"),
     (*RUN, "{tmp}/own")),
    ("... has no interaction ...", files(own_a__jsonl="{}\n", own_meta_a__jsonl="{}\n"), (*RUN, "{tmp}/own")),
    ("... describes no item ...", files(own_a__csv="u,a,5.0,1700000000000\n", own_meta_a__jsonl="{}\n"),
     (*RUN, "{tmp}/own")),
    ("... is no day ...", lambda *_: amazon_reader._second("soon"), None),
    ("NAME: ...", files(own_a__csv="user,item\n1,a\n", own_items__csv="item,title\na,A\n"), (*RUN, "{tmp}/own")),
    ("NAME: ...", files(own_a__csv=LOG, own_items__csv="item,title\nb,B\n"), (*RUN, "{tmp}/own")),
    ("NAME: ...", files(own_a__csv=LOG, own_items__csv="item,title\na,A\n"), (*RUN, "{tmp}/own")),
    ("... needs a user with ...", short_sasrec, None),
    ("There is no toystore in ...", lambda tmp, _: toystore.load_toystore(tmp), None),
    ("... is not as it was written ...", changed_toystore, None),
    ("A ... has at least ...", lambda *_: toystore.draw_store(0, 1, 1, 0), None),
    ("There is no store of the kind ...", lambda *_: toystore.draw_store(1, 99, 2, 0, "x"), None),
    ("... must be a whole number ...", lambda *_: start("toystore", seed=1.5), None),
    ("... must be a number above 0 ...", lambda *_: parameters.numbers(hot=-1), None),
    ("... must be a list ...", lambda *_: parameters.list_of(parameters.whole_number, "seeds", "[0"), None),
    ("... must be a name or a path ...", lambda *_: start(None), None),
    ("No item is titled ...", asked("no such title"), None),
    ("A history needs ...", asked(" "), None),
    ("The candidates must be ...", asked("{title}", ("{title}",)), None),
    ("This run has evidence of its own ...", lambda *_: asking.proposals(None, [0], 20), None),
    ("The run in ... has not followed ...", unfollowed, None),
    ("The agent gave no valid answer ...", silent_agent, ("ask", "--history", "x")),
    ("...'s weights are missing ...", nano_gone, None),
    ("The model ... cannot be loaded ...", load(id="{tmp}/nowhere"), None),
    ("Profile ... needs ...", hardware("t4"), None),
    ("Profile ... needs ...", hardware("nano", needed=1e18), None),
    ("Profile ... needs ...", hardware("consumer24", gpu=True, bf16=True, needed=9.0), None),
    ("There is no category ...", lambda *_: fetch_amazon.fetch_amazon("amazon-2023/Toys"), None),
    ("... has not been trained in ...", no_stage("policy_after", "rta"), None),
    ("Stage 2 goes on from stage 1 ...", no_stage("mine"), None),
    ("Profile ... computes in ...", hardware("consumer24", gpu=True), None),
    ("Profile ... keeps a model of ...", hardware("consumer24", gpu=True, bf16=True, free=1.0), None),
    ("... has no adapter of any stage ...", nothing_to_export, None),
    ("The hub does not take ...", not_taken, None),
    ("The policy's chat template ...", chat_format(["<pad>", "<turn>", "<end>"], False), None),
    ("The policy's chat template ...", no_template(None), None),
    ("The policy's chat template ...", no_template("{{ raise_exception('no tools here') }}"), None),
    ("The policy's chat template ...", no_template("{{ messages[0].content }}"), None),
    ("The policy's tokenizer ...", chat_format(["<pad>", "[INST]", "<end>"], True), None),
    ("... holds another run ...", another_run, RUN[:3]),
    ("runs/demo holds a run already ...", ci("execute", "main", ["00"]), None),
    ("Cannot open the run folder ...", a_file_in_the_way, RUN[:3]),
    ("Could not write ...", cannot_be_replaced, RUN[:3]),
    ("... cannot be written ...", a_file_in_the_way, ("pretrain-nano", "--out", "{tmp}/own")),
    ("... is damaged...: ...", files(own_result__json="{"), ("show", "{tmp}/own")),
    ("... is missing or damaged, though its stage is finished ...", lost_adapter, None),
    ("... has lost result.json ...", lost_trajectories, None),
    ("The adapter in ... cannot be loaded ...", damaged_adapter, None),
    ("There is no ...; name the folder of a run ...", nothing, ("show", "{tmp}/own")),
    ("There is no adapter_model.safetensors ...", load_adapter, None),
    ("This run has no figures yet ...", files(own_result__json='{"seconds": {}}'), ("show", "{tmp}/own")),
    ("The metrics hold no row with ...", no_curve, None),
    ("A report needs ...", no_report, None),
    ("There is no finished run at or below ...", nothing, ("report", "{tmp}")),
    ("... not only in their seed ...", two_runs, ("report", "{tmp}/own0", "{tmp}/own1")),
    ("... hold the same seed ...", two_runs, ("report", "{tmp}/own0", "{tmp}/own0")),
    ("The paper has no figures of ...", paper_figures, None),
    ("The memory does not suffice ...", no_memory, None),
    ("vLLM cannot start ...", no_room_for_vllm, None),
    ("The last ... steps of ... moved nothing ...", not_finite, None),
    ("... must be a multiple of ...", nothing, (*RUN, "toystore", "--set", "rta.tasks_per_step=7")),
    ("Training is data-parallel ...", environment(ACCELERATE_USE_FSDP="true"), (*RUN, "toystore")),
    ("Training is data-parallel ...", environment(ACCELERATE_USE_DEEPSPEED="true"), (*RUN, "toystore")),
    ("tracking.report_to is ...", nothing, (*RUN, "toystore", "--set", "tracking.report_to=nosuch")),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "prepare", "command"), CASES, ids=[case[0][:50] for case in CASES])
def test_a_mistake_ends_in_its_one_sentence_and_code_2(pattern, prepare, command, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AGENTICREC_BUDGET", raising=False)
    if command is None:  # no command gets there (soon): what raises it, behind the command `show`
        with pytest.raises(UserError) as error:
            prepare(tmp_path, monkeypatch)

        def raise_it(folder):
            raise error.value

        monkeypatch.setattr(runs, "read_result", raise_it)
        command = ("show", "x")
    else:
        prepare(tmp_path, monkeypatch)
    done = CliRunner().invoke(app, [word.format(tmp=tmp_path) for word in command])
    lines = done.stderr.strip().splitlines()
    assert done.exit_code == 2 and len(lines) == 1 and lines[0].startswith("Error: "), done.output + str(done.exception)
    sentence = lines[0].removeprefix("Error: ")
    assert says(pattern, sentence), sentence
    assert sentence.endswith((".", ")")) or "cannot be loaded" in sentence, sentence


def test_every_sentence_of_the_table_has_a_case():
    listed = [sentence for start in UNLISTED for sentence in patterns() if says(sentence, start)]
    untested = {*patterns()} - {case[0] for case in CASES} - {*listed}
    assert untested <= {"Interrupted ..."}, untested
    assert {case[0] for case in CASES} <= {*patterns()}


def test_ctrl_c_is_told_with_code_130(monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "read_result", interrupted)
    done = CliRunner().invoke(app, ["show", "x"])
    assert done.exit_code == 130 and says("Interrupted ...", done.stderr.strip())


def test_names_of_the_readers_data_are_in_the_sentence(tmp_path):
    (tmp_path / "a.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text("item,title\nb,B\n")
    with pytest.raises(UserError, match=re.escape(str(tmp_path)) + ".*'a' in row 0"):
        load_files(str(tmp_path))
    assert movielens.NAME == "ml-100k"


def test_what_is_called_none_is_not_missing(tmp_path):
    rows = [f"{user},{item},{time}" for time, (user, item) in enumerate(product("uvw", ("NA", "null", "None")))]
    (tmp_path / "a.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    (tmp_path / "items.csv").write_text("item,title\nNA,None\nnull,N/A\nNone,nan\n")
    assert sorted(load_files(str(tmp_path)).items["title"]) == ["N/A", "None", "nan"]
