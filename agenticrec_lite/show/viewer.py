"""Trajectories as HTML: what the policy wrote, what the environment answered, and what was trained.

A view reads rows of `runs.read_trajectories`, or `Trajectory` objects with the same field names. It is one piece
of HTML with its own scoped CSS: no script, no request, every piece of data escaped. Bidirectional, control and
unseen characters, which escaping leaves alone, are spelled out: a hostile title cannot reorder the text around it.

Simplification: the action mask is shown by step (an observation is mask 0, all else mask 1); agent/token_view.py
shows it by token.
"""

import html
import json
import math
import re
from pathlib import Path

KINDS = ("think", "call", "observation", "answer", "invalid")
LOW, HIGH = -1.0, 1.1  # the reward's range: a broken trajectory; the positive first, with a tool
FOLD, PREVIEW = 420, 260  # characters: an observation longer than FOLD is folded after about PREVIEW
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e"
                    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]")

CSS = Path(__file__).with_name("viewer.css").read_text(encoding="utf-8")
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Trajectories</title>
<style>html{color-scheme:light dark;background:light-dark(#fff,#16181d)}body{margin:20px}
@media print{html{color-scheme:light}body{margin:0}}</style></head>
<body>%s</body></html>
"""
LEGEND = """<div class="a-legend">
<span><span class="a-key a-key-on"></span>policy text, trained (mask 1):
blue + made likelier, orange \u2212 made less likely</span>
<span><span class="a-key a-key-off"></span>observation, not trained (mask 0)</span>
<span>\u25cf reward, | group mean, between them the advantage</span></div>"""


class View:
    """HTML that a notebook shows and that `save` writes as a page of its own."""

    def __init__(self, title: str, meta: str, content: str, legend: str = LEGEND):
        top = f'<div class="a-title">{_safe(title)}</div><div class="a-meta">{_safe(meta)}</div>{legend}'
        self.html = f'<div class="arl"><style>{CSS}</style><div class="a-top">{top}</div>{content}</div>'

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> Path:
        """Write a self-contained UTF-8 page (its folder must exist) and return its path."""
        Path(path).write_text(PAGE % self.html, encoding="utf-8")
        return Path(path)


def show_trajectory(row, title: str | None = None) -> View:
    """One trajectory, top to bottom.

    Args:
        row: a row of `runs.read_trajectories`, or an object with its names as attributes; reward, advantage and
            positive may be missing or None (then no chip, no highlight).
        title: heading; the task id by default.
    """
    return View(title or _get(row, "task_id") or "Trajectory", _origin(row), _card(row))


def show_group(rows) -> View:
    """The rollouts of one task side by side, in the order given; an empty list gives an empty view."""
    rows = list(rows)
    first = rows[0] if rows else {}
    meta, rewards = _origin(first), [_number(_get(row, "reward")) for row in rows]
    if rows and None not in rewards:
        meta += f" · mean reward {_signed(sum(rewards) / len(rewards)).lstrip('+')}"
        meta += ", all rewards equal: no gradient" if len(set(rewards)) == 1 else ""
    cards = [_card(row, f"Rollout {number}") for number, row in enumerate(rows, start=1)]
    title = f"{_get(first, 'task_id') or 'One task'}: {len(rows)} rollouts"
    return View(title, meta.removeprefix(" · "), _lanes(cards))


def compare(before, after) -> View:
    """One trajectory before training beside one after it, of the same task (whose name is the heading)."""
    cards = [_card(before, "Before training"), _card(after, "After training")]
    return View(_get(after, "task_id") or "Before and after", _origin(after), _lanes(cards))


def _get(thing, name: str):
    """A field of a row (dict) or of a dataclass; None if absent."""
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _number(value) -> float | None:
    """A finite float, rounded past float noise; None for None and NaN (evaluation rows have no advantage)."""
    return round(float(value), 6) if value is not None and math.isfinite(float(value)) else None


def _signed(value: float) -> str:
    """Two decimals with a true minus sign: the sign, not the colour, carries the meaning in print."""
    text = f"{abs(value):.2f}"
    return text if float(text) == 0 else ("\u2212" if value < 0 else "+") + text


def _safe(value, positive=None) -> str:
    """Data as HTML text; `number:score` tokens of the positive are marked, hidden characters spelled out."""
    text = HIDDEN.sub(lambda m: f'<span class="a-hid">U+{ord(m[0]):04X}</span>', html.escape(str(value)))
    if not str(positive).isalnum() or positive is None:
        return text
    token = rf"(?<![\w:.\-])({positive}:-?[\d.]*\d)(?![\d:])"
    return re.sub(token, r'<mark class="a-pos" title="the positive">\1</mark>', text)


def _origin(row) -> str:
    """Stage, step, question and positive of a row as one line; what is missing is left out."""
    kind = _get(row, "kind") if _get(row, "kind") in ("more", "less") else None
    named = ((_get(row, "stage"), "{}"), (_get(row, "step"), "step {}"), (kind, "which is {} likely?"),
             (_get(row, "positive"), "positive \u2605 {}"))
    return " · ".join(text.format(value) for value, text in named if value is not None)


def _lanes(cards: list[str]) -> str:
    """Cards side by side; focusable, so that the arrow keys scroll them."""
    return f'<div class="a-lanes" role="region" tabindex="0" aria-label="Side by side">{"".join(cards)}</div>'


def _advantage(row) -> tuple[str, str, str]:
    """How a row's advantage looks: the class of its sign, the strength of the tint, and the sign in words."""
    if _get(row, "dropped"):
        return "", "", "not trained"
    if (advantage := _number(_get(row, "advantage"))) is None:
        return "", "", ""
    style = f' style="--tint:{4 + 14 * min(abs(advantage), 1):.0f}%"'
    if advantage == 0:
        return " a-zero", style, "no gradient"
    return (" a-plus", style, "trained +") if advantage > 0 else (" a-minus", style, "trained \u2212")


def _card(row, name: str = "") -> str:
    """One trajectory: its numbers, the reward on its scale, the steps tinted by the advantage."""
    reward = _number(_get(row, "reward"))
    advantage = None if _get(row, "dropped") else _number(_get(row, "advantage"))
    sign, style, pushed = _advantage(row)
    steps = "".join(_step(step, row, pushed) for step in _get(row, "steps") or [])
    return (f'<div class="a-card{sign}" role="article" tabindex="0" aria-label="{name or "Trajectory"}"'
            f"{style}>{_head(row, name, reward, advantage)}{_scale(reward, advantage)}{steps}</div>")


def _head(row, name: str, reward: float | None, advantage: float | None) -> str:
    outcome, calls = str(_get(row, "outcome") or "answered").replace("_", " "), _get(row, "n_calls")
    reward, advantage = [None if value is None else _signed(value) for value in (reward, advantage)]
    spans = [("a-name", name), ("a-chip", reward and f"reward <b>{reward.lstrip('+')}</b>"),
             ("a-chip a-adv", advantage and f"advantage <b>{advantage}</b>"),
             ("a-chip a-bad", _get(row, "dropped") and "group dropped"),
             ("a-chip a-bad", outcome != "answered" and _safe(outcome)),
             ("a-calls", calls is not None and f"{_safe(calls)} call{'' if calls == 1 else 's'}")]
    return '<div class="a-head">' + "".join(f'<span class="{c}">{t}</span>' for c, t in spans if t) + "</div>"


def _scale(reward: float | None, advantage: float | None) -> str:
    """The reward between its worst and best, and the group mean, which is the reward minus the advantage."""
    if reward is None:
        return ""
    ends = [reward, 0.0] if advantage is None else [reward, 0.0, reward - advantage]
    dot, nil, *mean = [100 * (min(max(value, LOW), HIGH) - LOW) / (HIGH - LOW) for value in ends]
    marks = f'<span class="a-nil" style="left:{nil:.1f}%"></span>'
    if mean:
        low, width = min(mean[0], dot), abs(mean[0] - dot)
        marks += (f'<span class="a-gap" style="left:{low:.1f}%;width:{width:.1f}%"></span>'
                  f'<span class="a-mean" style="left:{mean[0]:.1f}%"></span>')
    marks += f'<span class="a-dot" style="left:{dot:.1f}%"></span>'
    return f'<div class="a-scale" aria-hidden="true">\u22121<span class="a-track">{marks}</span>1.1</div>'


def _step(step, row, pushed: str) -> str:
    """One step: a label that says who wrote it and whether it was trained, and its text."""
    kind = _get(step, "kind") if _get(step, "kind") in KINDS else "invalid"
    text, positive, note = _get(step, "text") or "", _get(row, "positive"), pushed
    body = f'<div class="a-body">{_safe(text)}</div>'
    if kind == "observation":
        note, body = "not trained", _observation(text, positive)
    elif kind == "call" and _get(step, "tool"):
        pairs = (_get(step, "arguments") or {}).items()
        inner = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs)
        body = f'<div class="a-body"><b>{_safe(_get(step, "tool"))}</b>({_safe(inner)})</div>'
    elif kind == "answer" and _get(row, "answer") is not None:
        body = _answer(_get(row, "answer"), positive)
    head = f'<div class="a-label">{kind.title()}<i>{note}</i></div>'
    return f'<div class="a-step a-{kind}">{head}{body}</div>'


def _observation(text: str, positive) -> str:
    """The text; a long one is cut at white space and its rest folded, so that nothing appears twice."""
    if len(text) <= FOLD:
        return f'<div class="a-body">{_safe(text, positive)}</div>'
    cut = max(text.rfind(" ", 0, PREVIEW), text.rfind("\n", 0, PREVIEW)) + 1 or PREVIEW
    shown, rest = _safe(text[:cut], positive), _safe(text[cut:], positive)
    star = ", with the positive \u2605" if "<mark" in rest else ""
    return (f'<div class="a-body">{shown}</div><details><summary>{len(text) - cut} more characters{star}'
            f'</summary><div class="a-body">{rest}</div></details>')


def _answer(answer, positive) -> str:
    """The ranked numbers, the positive starred, and its place in words; or the letter of a pair."""
    numbers = list(answer) if isinstance(answer, (list, tuple)) else [answer]
    items = [f'<span role="listitem" class="a-pos">\u2605 {_safe(number)}</span>' if number == positive
             else f'<span role="listitem">{_safe(number)}</span>' for number in numbers]
    place = f": at place {numbers.index(positive) + 1}" if positive in numbers else ": not in the answer"
    note = "" if positive is None else f"positive {positive}{place if len(numbers) > 1 else ''}"
    return f'<div class="a-list" role="list">{"".join(items)}</div><div class="a-note">{_safe(note)}</div>'
