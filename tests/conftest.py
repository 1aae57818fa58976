"""Fixtures: one small hand-made task, and a tiny untrained policy."""

import json
import os
import runpy
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from filelock import FileLock

hypothesis.settings.register_profile("any speed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any speed")

# Nothing beyond loopback, here and in what tests start; data is brought by `make fetch`, which goes first.
OFFLINE = Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a chosen number of threads changes last digits, and tests compare them

from agenticrec_lite.tools import Evidence, ItemCard, TaskContext  # noqa: E402


class FixedEvidence:
    """Scores that are easy to follow by hand: users prefer high numbers, the history low ones, the session 7 and 14."""

    def similar_users(self):
        return Evidence(["Alpha", "Beta"], np.arange(20.0))

    def next_items(self):
        return Evidence([], np.arange(20.0) % 7)

    def similar_items(self, place):
        return Evidence(["Gamma"], -np.arange(20.0) if place is None else np.eye(20)[place[1]])


@pytest.fixture
def context() -> TaskContext:
    history = [
        ItemCard("Jaws", ("Horror",), None, 1975, 4.0, 90, 50),
        ItemCard("Alien", ("Horror", "SciFi"), None, 1979),
    ]
    candidates = [
        ItemCard(f"Film {i}", ("Drama",) if i % 2 else ("Comedy",), 5.0 + i, 1990, 3.5, i, i) for i in range(1, 21)
    ]
    return TaskContext(history, [5.0, float("nan")], candidates, FixedEvidence())


@pytest.fixture(scope="session")
def tiny():
    """(model, chat format) of an untrained two-layer policy in fp32."""
    from agenticrec_lite.agent.prompts import ChatFormat
    from agenticrec_lite.nano.pretrain import Recipe, new_policy, new_tokenizer

    tokenizer = new_tokenizer(np.random.default_rng(0), worlds=60)
    model = new_policy(Recipe(hidden=32, layers=2), len(tokenizer)).eval()
    return model, ChatFormat.of(tokenizer, brief=True)


# What the tests marked `fault(fault, where)` broke on purpose, and whether it was survived: runs/faults.json.
FAULTS = Path(__file__).parents[1] / "runs" / "faults.json"
faults: dict[tuple[str, str], dict] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Take down a fault once its test has run: survived if it passed; `record_property("detail", ...)` says how."""
    report = (yield).get_result()
    if report.when == "call" and not report.skipped:
        for marker in item.iter_markers("fault"):
            fault, where = marker.args
            before = faults.get((fault, where), {"survived": True, "detail": ""})
            told = dict(report.user_properties).get("detail") or (item.function.__doc__ or item.name).splitlines()[0]
            faults[fault, where] = {
                "fault": fault, "where": where, "survived": before["survived"] and report.passed,
                "detail": before["detail"] or str(told),
            }  # fmt: skip


def pytest_sessionfinish():
    """Write them, beside those of the other pytest processes of the same `make test-all`."""
    if not faults:
        return
    FAULTS.parent.mkdir(exist_ok=True)
    with FileLock(f"{FAULTS}.lock"):
        there = json.loads(FAULTS.read_text(encoding="utf-8")) if FAULTS.exists() else []
        found = {(row["fault"], row["where"]): row for row in there} | faults
        FAULTS.write_text(json.dumps(list(found.values()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
