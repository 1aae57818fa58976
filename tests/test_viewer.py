"""The trajectory viewer: hostile data stays data, marks and signs are in place, pages need no network."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser

import pytest

from agenticrec_lite.agent.trajectory import Trajectory
from agenticrec_lite.show.token_view import show_tokens
from agenticrec_lite.show.viewer import compare, show_group, show_trajectory

HOSTILE = (
    "</div></style><script>alert(1)</script><img src=x onerror=\"a()\"> 'q' &amp; "
    "\u202etxet\u2069 \x00 \ud800"
)


def step(kind, text="", tool=None, arguments=None):
    return {"kind": kind, "text": text, "tool": tool, "arguments": arguments}


def make_row(**changes):
    observation = "candidates by similar users: 17:91 7:88 3:7 1:71 h7:70"
    steps = [
        step("think", "I ask the neighbours."),
        step("call", "{}", "get_similar_items", {"item_title": "Heat"}),
        step("observation", observation),
        step("answer", "\\boxed{[12, 7, 3]}"),
    ]
    row = {
        "step": 4, "stage": "rta", "task_id": "test-000001", "group": 0, "seed": 0,
        "candidates": list(range(20)), "positive": 7, "steps": steps,
        "answer": [12, 7, 3, 1, 2, 4, 5, 6, 8, 9], "n_calls": 1, "outcome": "answered",
        "reward": 0.63, "advantage": 0.25, "dropped": False,
    }
    return row | changes


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and checks that every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return "".join(self.words)


def hostile_row():
    steps = [step(kind, HOSTILE) for kind in ("think", "call", "invalid", "answer", HOSTILE)]
    steps += [step("call", HOSTILE, HOSTILE, {HOSTILE: HOSTILE}), step("observation", HOSTILE * 20)]
    fields = ("answer", "positive", "task_id", "stage", "step", "outcome", "n_calls")
    return make_row(steps=steps, **dict.fromkeys(fields, HOSTILE))


@pytest.mark.parametrize("view", [
    lambda row: show_trajectory(row, title=HOSTILE),
    lambda row: show_group([row, row]),
    lambda row: compare(row, row),
])
def test_hostile_text_stays_text(view, tmp_path):
    path = view(hostile_row()).save(tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "img" not in page.tags
    assert "<script>alert(1)</script>" in page.text and "'q' &amp;" in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", text)
    assert "U+202E" in page.text and "U+D800" in page.text


def test_pages_need_no_network_and_no_script(tmp_path):
    text = show_group([make_row(), hostile_row()]).save(tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"src", "href", "srcset", "action", "data"}
    assert not set(page.tags) & {"script", "link", "iframe", "object", "embed", "base", "form"}
    style = "".join(re.findall(r"<style>(.*?)</style>", text, re.S))
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_positive_is_marked_in_answer_and_observation_only_as_a_whole_number():
    text = show_trajectory(make_row()).html
    assert re.findall(r"<mark[^>]*>([^<]*)</mark>", text) == ["7:88"]  # neither 17:91 nor 3:7 nor h7:70
    assert re.findall(r'role="listitem" class="a-pos">([^<]*)<', text) == ["\u2605 7"]
    assert "positive 7: at place 2" in text
    assert "positive 7: not in the answer" in show_trajectory(make_row(answer=[1, 2, 3])).html


def test_pair_rows_show_the_letter():
    steps = [step("observation", "A:41 B:88"), step("answer", "\\boxed{B}")]
    text = show_trajectory(make_row(positive="B", answer="B", steps=steps, stage="ppr")).html
    assert ">B:88</mark>" in text and "\u2605 B</span>" in text and "at place" not in text


def test_observations_are_not_trained_and_policy_text_carries_the_sign():
    words = Page(show_trajectory(make_row()).html).text
    assert words.count("not trainedcandidates") == 1 and words.count("trained +") == 3
    assert Page(show_trajectory(make_row(advantage=-0.5)).html).text.count("trained \u2212") == 3
    assert Page(show_trajectory(make_row(advantage=0.0)).html).text.count("no gradient") == 3
    frozen = Page(show_trajectory(make_row(advantage=None)).html).text
    assert "trained +" not in frozen and "advantage " not in frozen
    assert "group dropped" in show_trajectory(make_row(dropped=True)).html


def test_numbers_have_signs():
    text = Page(show_trajectory(make_row(reward=-0.5, advantage=-0.125, outcome="bad_turn")).html).text
    assert "reward \u22120.50" in text and "advantage \u22120.12" in text and "bad turn" in text
    assert "advantage +0.25" in Page(show_trajectory(make_row()).html).text


def test_group_shows_all_rollouts_and_the_mean():
    rows = [make_row(reward=1.1, advantage=0.8), make_row(reward=-0.5, advantage=-0.8)]
    page = Page(show_group(rows)._repr_html_())
    assert "test-000001: 2 rollouts" in page.text and "mean reward 0.30" in page.text
    assert "Rollout 1" in page.text and "Rollout 2" in page.text
    assert page.attributes.count(("tabindex", "0")) == 3  # the scrolling region and both cards
    equal = show_group([make_row(), make_row()]).html
    assert "no gradient" in equal
    assert "0 rollouts" in show_group([]).html


def test_compare_names_both_sides():
    text = Page(compare(make_row(advantage=None), make_row()).html).text
    assert text.index("Before training") < text.index("After training")


def test_long_observations_fold_without_repeating_or_losing_text():
    long = " ".join(f"{number}:{number}" for number in range(1, 200))
    page = Page(show_trajectory(make_row(steps=[step("observation", long)])).html)
    assert page.tags.count("details") == page.tags.count("summary") == 1
    assert re.sub(r"\d+ more characters", "", page.text).count("198:198") == 1
    assert "".join(re.findall(r'a-body">(.*?)</div>', show_trajectory(
        make_row(positive=None, steps=[step("observation", long)])).html)) == long


@dataclass
class ToyStep:
    kind: str
    text: str
    tool: str | None = None
    arguments: dict | None = None


@dataclass
class ToyTrajectory:
    task_id: str = "toy-1"
    steps: list = field(default_factory=lambda: [ToyStep("think", "Well."), ToyStep("answer", "")])
    answer: list = field(default_factory=lambda: [3, 7])
    reward: float | None = float("nan")
    advantage: float | None = None
    n_calls: int = 0
    outcome: str = "answered"
    question: str = "rank"


def test_dataclass_objects_are_accepted():
    text = Page(show_trajectory(ToyTrajectory()).html).text
    assert "toy-1" in text and "Well." in text and "0 calls" in text and "reward nan" not in text


WRITTEN, READ = "<think>é</think><answer>\\boxed{A}</answer><|im_end|>", "\n<script>x</script>"


def toy_tokens(tokenizer, policy=WRITTEN, read=READ, **more):
    ids, seen = (tokenizer.encode(text, add_special_tokens=False) for text in (policy, read))
    mask = [1] * len(ids) + [0] * len(seen)
    return Trajectory("toy-2", 0, "more", [300, 301], ids + seen, mask, [-0.5] * len(mask), **more)


def test_every_token_has_a_box_of_its_own_that_shows_the_mask(tiny):
    tokenizer = tiny[1].tokenizer
    trajectory = toy_tokens(tokenizer, reward=1.0, advantage=0.5)
    text = show_tokens(trajectory, tokenizer).html
    boxes = re.findall(r'<span class="(t[^"]*)" title="position (\d+), id (\d+)([^"]*)">', text)
    assert [int(place) for _, place, _, _ in boxes] == list(range(2 + len(trajectory.completion_ids)))
    assert [int(token) for _, _, token, _ in boxes] == [300, 301, *trajectory.completion_ids]
    assert ["t-on" in kind for kind, _, _, _ in boxes] == [False, False, *map(bool, trajectory.action_mask)]
    assert {note for kind, _, _, note in boxes if "t-on" in kind} == {", log p -0.500"}
    assert {note for kind, _, _, note in boxes if "t-on" not in kind} == {""}
    special = [tokenizer.decode(int(token)) for kind, _, token, _ in boxes if "t-special" in kind]
    assert special == ["<think>", "</think>", "<answer>", "</answer>", "<|im_end|>"]
    page = Page(text)
    assert "tokens, trained +" in page.text and "script" not in page.tags and page.text.count("\u23ce") == 2


def test_tokens_fold_only_what_the_policy_did_not_write(tiny):
    tokenizer = tiny[1].tokenizer
    long = toy_tokens(tokenizer, policy="q, " * 200, read="z; " * 200)
    page = Page(show_tokens(long, tokenizer).html)
    assert page.tags.count("details") == 2  # the prompt, and the rest of the observation
    assert page.text.count("q") >= 200 and page.text.count("z") >= 200
    assert "mask 1" in page.text and "trained +" not in page.text
    with pytest.raises(ValueError):
        show_tokens(Trajectory("toy-3", 0, "rank", [], [5, 6], [1]), tokenizer)


ATTACKS = """</style></title></div><script>document.title='ran'</script><img src=x onerror="document.title='ran'">
<svg onload="document.title='ran'"></svg><a href="javascript:document.title='ran'">x</a><details open
ontoggle="document.title='ran'"><iframe srcdoc="<script>parent.document.title='ran'</script>"></iframe>
"><input autofocus onfocus="document.title='ran'"> ' onmouseover='document.title=1 \u202egnp.exe\u2069"""


def dumped(path, profile):
    """The page's DOM as Chromium has it after two seconds of its own time."""
    flags = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --virtual-time-budget=2000 --dump-dom""".split()
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = ["chromium", *flags, nowhere, f"--user-data-dir={profile}", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.all
@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed (Debian: apt install chromium)")
def test_hostile_rows_run_nothing_in_a_real_browser(tiny, tmp_path):
    row = make_row(
        steps=[step(kind, ATTACKS) for kind in ("think", "invalid", "answer", ATTACKS)]
        + [step("call", ATTACKS, ATTACKS, {ATTACKS: ATTACKS}), step("observation", ATTACKS * 3)],
        **dict.fromkeys(("answer", "positive", "task_id", "stage", "step", "outcome", "n_calls"), ATTACKS),
    )
    tokens = toy_tokens(tiny[1].tokenizer, policy=ATTACKS, read=ATTACKS)
    views = {"group": show_group([row, row]), "tokens": show_tokens(tokens, tiny[1].tokenizer, ATTACKS)}
    for name, view in views.items():
        saved, bare = view.save(tmp_path / f"{name}.html"), tmp_path / f"{name}-bare.html"
        bare.write_text(f"<title>calm</title>{view.html}", encoding="utf-8")  # as in a notebook: no policy but ours
        for page, title in ((saved, "Trajectories"), (bare, "calm")):
            dom = dumped(page, tmp_path / "profile")
            assert f"<title>{title}</title>" in dom and "\u202e" not in dom
            assert not re.search(r"<(script|img|svg|iframe|input)\b|<a\b|<[^>]* on\w+=", dom.split("<body", 1)[1])
    control = tmp_path / "control.html"
    control.write_text(f"<title>calm</title>{ATTACKS}", encoding="utf-8")
    assert "<title>ran</title>" in dumped(control, tmp_path / "profile")  # the same text unescaped would have run
