"""The course's key ideas as drawings: SVG, legible in light and dark, without a script.

Each function returns a `Picture`: a notebook shows it, `save` writes it.
`python -m agenticrec_lite.show.pictures FOLDER` writes them all.
"""

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

WIDTH = 760
STYLE = """
.arp text{font:14px system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#1b1f26}
.arp .small{font-size:12px}.arp .soft{fill:#5a6270}.arp .bold{font-weight:600}
.arp .mono{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:11.5px}
.arp .box{fill:#f3f5f8;stroke:#9aa3b2}.arp .own{fill:#dcebf7;stroke:#0072b2}.arp .up{fill:#0072b2}
.arp .down{fill:#d55e00}.arp .warm{fill:#fbe6d6;stroke:#d55e00}.arp .line{stroke:#5a6270;stroke-width:1.6;fill:none}
.arp .head{fill:#5a6270}.arp .mark{fill:#1b1f26}.arp .faint{stroke:#c9ced8;stroke-width:1;fill:none}
@media (prefers-color-scheme:dark){
.arp text{fill:#e8eaee}.arp .soft{fill:#a8b0bd}.arp .box{fill:#262a32;stroke:#6b7484}
.arp .own{fill:#123650;stroke:#56b4e9}
.arp .up{fill:#56b4e9}.arp .down{fill:#e8863b}.arp .warm{fill:#4a2a12;stroke:#e8863b}.arp .line{stroke:#a8b0bd}
.arp .head{fill:#a8b0bd}.arp .mark{fill:#e8eaee}.arp .faint{stroke:#4a515d}}
"""


class Picture:
    """An SVG drawing that is put together piece by piece; lengths are pixels."""

    def __init__(self, height: int, says: str):
        self.height, self.says, self.parts = height, says, []

    def box(self, x: float, y: float, w: float, h: float, kind: str = "box") -> "Picture":
        self.parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>')
        return self

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> "Picture":
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>')
        return self

    def lines(self, x: float, y: float, words: Sequence[str], kind: str = "", anchor: str = "middle") -> "Picture":
        for i, each in enumerate(words):
            self.text(x, y + 18 * i, each, kind, anchor)
        return self

    def path(self, d: str, kind: str = "line") -> "Picture":
        self.parts.append(f'<path class="{kind}" d="{d}"/>')
        return self

    def dot(self, x: float, y: float, r: float, kind: str) -> "Picture":
        self.parts.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{r:g}"/>')
        return self

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> "Picture":
        """A straight arrow, along x or along y."""
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        self.path(f"M{x:g} {y:g}L{to_x - 7 * dx:g} {to_y - 7 * dy:g}")
        left, right = (to_x - 9 * dx - 5 * dy, to_y - 9 * dy - 5 * dx), (to_x - 9 * dx + 5 * dy, to_y - 9 * dy + 5 * dx)
        return self.path(f"M{to_x:g} {to_y:g}L{left[0]:g} {left[1]:g}L{right[0]:g} {right[1]:g}Z", "head")

    @property
    def svg(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="arp" viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'width="{WIDTH}" style="max-width:100%;height:auto"><title>{escape(self.says)}</title>'
            f"<style>{STYLE}</style>{''.join(self.parts)}</svg>"
        )

    def _repr_html_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> Path:
        """Write the drawing as an .svg file (its folder must exist) and return its path."""
        Path(path).write_text(self.svg + "\n", encoding="utf-8")
        return Path(path)


def loop() -> Picture:
    """What an agent does with a task, and what training does with the agent."""
    p = Picture(392, "A policy asks tools that disagree, weighs their lists, ranks, and is rewarded")
    p.box(10, 12, 226, 52).lines(123, 34, ["history: what a person took", "candidates 1 to 20, one was next"], "small")
    p.arrow(123, 64, 123, 100)
    p.box(10, 100, 226, 112, "own").text(123, 124, "policy: a language model", "bold")
    p.lines(123, 150, ["call get_similar_users", "call get_session_behavior", "I weigh users 1, session 2"], "mono")
    p.arrow(236, 138, 330, 138).text(283, 130, "calls", "small soft")
    p.arrow(330, 178, 236, 178).text(283, 196, "lists", "small soft")
    p.text(540, 30, "tools, one kind of evidence each: they disagree", "small soft")
    rows = {"users": "8 3 15 1 20", "items": "3 8 9 20 15", "session": "15 8 3 6 1", "popularity": "9 14 2 8 11",
            "profile": "6 2 8 17 4", "ratings": "4 11 6 15 13"}  # fmt: skip
    for i, (name, order) in enumerate(rows.items()):
        y = 42 + 29 * i
        p.box(330, y, 420, 25).text(342, y + 17, name, "small", "start")
        for j, number in enumerate(order.split()):
            p.box(440 + 58 * j, y + 3, 48, 19, "own" if number == "8" else "box")
            p.text(464 + 58 * j, y + 17, number, "small bold" if number == "8" else "small")
    p.arrow(123, 212, 123, 246)
    p.box(10, 246, 226, 30, "own").text(123, 266, "answer 8, 3, 15, 20, 1, ...", "mono")
    p.arrow(123, 276, 123, 310)
    p.box(10, 310, 226, 48).lines(123, 330, ["reward: how high stands 8,", "which was taken next?"], "small")
    p.arrow(236, 334, 330, 334)
    p.box(330, 246, 420, 136).text(540, 270, "eight tries at the same task", "bold")
    for i, height in enumerate((52, 18, 52, 30, 9, 52, 18, 30)):
        good = height > 33
        p.box(352 + 24 * i, 350 - height, 16, height, "up" if good else "down")
    p.path("M346 317L548 317", "line")
    p.lines(566, 300, ["above the average:", "likelier next time"], "small", "start")
    p.lines(566, 348, ["below: less likely"], "small", "start")
    p.text(447, 370, "rewards, and their average", "small soft")
    return p


def trajectory() -> Picture:
    """Which tokens of a trajectory are trained: those that the policy wrote."""
    p = Picture(176, "A trajectory: the policy's own turns have mask 1, prompt and observations have mask 0")
    parts = [("prompt", 150, 0), ("call", 70, 1), ("observation", 120, 0), ("call", 70, 1), ("observation", 120, 0),
             ("weigh", 76, 1), ("order", 52, 0), ("answer", 72, 1)]  # fmt: skip
    x = 15
    for name, width, mine in parts:
        p.box(x, 44, width - 4, 44, "own" if mine else "box").text(x + width / 2 - 2, 71, name, "small")
        p.text(x + width / 2 - 2, 116, str(mine), "bold" if mine else "soft")
        x += width
    p.text(15, 30, "one trajectory, left to right", "soft small", "start")
    p.text(15, 140, "action mask", "soft small", "start")
    p.box(15, 152, 14, 14, "own").text(36, 164, "written by the policy: trained", "small", "start")
    p.box(260, 152, 14, 14).text(281, 164, "written by the task or a tool: read, not trained", "small", "start")
    return p


def group() -> Picture:
    """From rewards to advantages: a group is its own yardstick."""
    rewards = {"puts 7 first": 1.1, "puts 7 third": 0.5, "leaves 7 out": -0.5, "names 3 twice": -1.0}
    mean = sum(rewards.values()) / len(rewards)
    p = Picture(246, "Four tries at one task: the advantage is the reward minus the group's mean")
    zero, scale = 400, 150  # x of reward 0, pixels a unit
    p.text(zero + mean * scale, 24, f"mean {mean:+.3f}", "small bold")
    p.path(f"M{zero + mean * scale:g} 32L{zero + mean * scale:g} 206", "line")
    for tick in (-1, -0.5, 0, 0.5, 1):
        p.path(f"M{zero + tick * scale:g} 40L{zero + tick * scale:g} 206", "faint")
        p.text(zero + tick * scale, 226, f"{tick:g}", "small soft")
    for i, (name, reward) in enumerate(rewards.items()):
        y, x, up = 58 + 40 * i, zero + reward * scale, reward > mean
        left, right = sorted((x, zero + mean * scale))
        p.box(left, y - 8, right - left, 16, "up" if up else "down").dot(x, y, 8, "mark")
        p.text(15, y + 5, name, "", "start")
        p.text(605, y + 5, f"{reward - mean:+.3f}  {'likelier' if up else 'less likely'}", "", "start")
    p.text(zero, 244, "reward", "small soft").text(605, 24, "advantage", "small soft", "start")
    return p


def split() -> Picture:
    """The split in time, and what the tools know of it when they serve a task."""
    p = Picture(206, "Data is cut in time; tools know only what lies before the tasks that they serve")
    cuts = {"train, early": 64, "train, late": 16, "validation": 10, "test": 10}
    x, edges = 20, []
    for name, share in cuts.items():
        w = 7.2 * share
        p.box(x, 40, w - 3, 40, "own" if name == "train, late" else "warm" if name == "test" else "box")
        p.text(x + w / 2, 65, name, "small")
        edges.append(x)
        x += w
    p.text(20, 28, "time", "small soft", "start").arrow(52, 24, 740, 24)
    for edge, y, whom, then in (
        (edges[1], 104, "tools for training tasks know this", ["the policy learns from these tasks"]),
        (edges[2], 150, "tools for test tasks know this", ["settings are chosen", "on validation tasks"]),
    ):
        p.path(f"M20 {y}L{edge - 4:g} {y}").text(20, y + 18, whom, "small", "start")
        p.lines(edge + 4, y + 4, then, "small soft", "start")
    return p


def mining() -> Picture:
    """A hard negative: one of the items that the policy put above the right one."""
    p = Picture(196, "What stands above the right item is the pool of hard negatives; one of them is drawn")
    p.text(20, 28, "the policy's list", "small soft", "start")
    for i, number in enumerate((3, 9, 7, 1, 12, 5, 18, 20, 2, 4)):
        kind = "own" if number == 7 else "warm" if i < 2 else "box"
        p.box(20 + 46 * i, 40, 40, 36, kind).text(40 + 46 * i, 63, str(number), "bold" if i < 3 else "soft")
    p.path("M20 86L106 86").text(20, 104, "above it: the pool", "small soft", "start")
    p.path("M112 86L152 86").text(112, 122, "7 was taken next", "small", "start").path("M132 86L132 108", "faint")
    p.arrow(40, 112, 40, 150).text(52, 142, "one is drawn", "small soft", "start")
    p.box(20, 152, 40, 32, "warm").text(40, 173, "9", "bold").box(66, 152, 40, 32, "own").text(86, 173, "7", "bold")
    p.text(120, 173, "the pair: wrongly preferred, and taken", "small", "start")
    words = ["What stands below 7 is right already;", "a list with 7 first gives no pair."]
    return p.lines(510, 54, words, "small soft", "start")


def questions() -> Picture:
    """A pair, asked in both directions."""
    p = Picture(212, "One pair makes two questions; both are answered from the same weighed list")
    p.box(20, 84, 128, 44).text(84, 102, "A: item 7, taken", "small").text(84, 120, "B: item 9", "small")
    for y, word, end, letter in ((26, "MORE", "first", "A"), (142, "LESS", "last", "B")):
        p.path(f"M148 106L176 106L176 {y + 22}").arrow(176, y + 22, 206, y + 22)
        p.box(206, y, 190, 44, "own").text(301, y + 19, f"Which is {word} likely", "small")
        p.text(301, y + 36, "the next item?", "small").arrow(396, y + 22, 436, y + 22)
        p.box(436, y, 170, 44).text(521, y + 19, "weighed evidence: A, B", "small")
        p.text(521, y + 36, f"{word} likely? The {end}.", "small").arrow(606, y + 22, 646, y + 22)
        p.box(646, y, 94, 44, "own").text(693, y + 27, f"{letter} earns 1", "bold small")
    p.text(521, 112, "the same tools, the same weights", "small soft")
    return p


PICTURES = (loop, trajectory, group, split, mining, questions)


def main(folder: str) -> None:
    """Write every picture to a folder, by its name."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for draw in PICTURES:
        draw().save(Path(folder) / f"{draw.__name__}.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
