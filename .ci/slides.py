"""Slides for each session of docs/teaching.md, out of the notebooks: `python .ci/slides.py OUT`.

A slide is a section of a notebook: its heading, its first paragraph, and the first figure, table or printed lines that
come after it. Each session is one HTML file without a network: arrow keys turn the page, printing gives one a page.
"""

import html
import json
import re
import sys
from pathlib import Path

import mistune
from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 14  # of printed output on a slide
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.S)
LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]+\)")
STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1b1f26,#e7e9ee);--soft:light-dark(#565e6b,#a9b1c0);
--paper:light-dark(#fff,#16181d);--line:light-dark(#d8dce3,#3b404c);--blue:light-dark(#1f63b0,#7fb4f5)}
*{box-sizing:border-box} html{scroll-snap-type:y mandatory;scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:clamp(16px,1.7vw,26px)/1.45 system-ui,sans-serif}
section{min-height:100vh;scroll-snap-align:start;padding:5vh 7vw;display:flex;flex-direction:column;
justify-content:center;gap:2vh;border-bottom:1px solid var(--line)}
h1{font-size:2.1em;margin:0} h2{font-size:1.6em;margin:0;color:var(--blue)} p{margin:0;max-width:46em}
footer{color:var(--soft);font-size:.62em} img{max-width:100%;max-height:52vh;object-fit:contain;align-self:start}
svg{max-width:100%;max-height:52vh;align-self:start}
pre,table{font-size:.62em;line-height:1.35;margin:0;overflow:auto;max-height:52vh}
pre{font-family:ui-monospace,monospace}
table{border-collapse:collapse} td,th{border:0;padding:.15em 1.2em .15em 0;text-align:right}
td:first-child,th:first-child{text-align:left}
@media print{section{min-height:0;height:100vh;break-after:page}}
"""
KEYS = """
const slides = [...document.querySelectorAll("section")];
const here = () => slides.findIndex(s => s.getBoundingClientRect().bottom > innerHeight / 2);
addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1}[event.key];
  if (!step) return;
  event.preventDefault();
  slides[Math.max(0, Math.min(slides.length - 1, here() + step))].scrollIntoView();
});
"""


def sessions() -> list[tuple[str, str, list[Path]]]:
    """Number, aim and notebooks of each session, from the table in docs/teaching.md."""
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    found = []
    for line in re.findall(r"^\| \d+ \|.*$", text, re.M):
        number, aim, notebooks = (cell.strip() for cell in line.strip("|").split("|")[:3])
        names = re.findall(r"\b\d\d\b", notebooks)
        found.append((number, aim, [next((ROOT / "notebooks").glob(f"{name}_*.ipynb")) for name in names]))
    return found


def slides_of(path: Path) -> list[str]:
    """The slides of one notebook: its title, then a section each."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, slides = "", []
    for i, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "markdown":
            continue
        if source.startswith("# "):
            title = source[2:].strip()
            slides.append(slide("h1", title, "", path.stem))
        for match in re.finditer(r"^## (.+)\n+([\s\S]*?)(?=\n#|\Z)", source, re.M):
            heading, text = match.groups()
            if heading in ("Parameters", "References", "Exercises", "Where to go next"):
                continue
            following = match.end() >= len(source.rstrip())
            slides.append(slide("h2", heading, body(text) + (shown(cells[i + 1 :]) if following else ""), title))
    return slides


def slide(tag: str, heading: str, content: str, foot: str) -> str:
    return f"<section><{tag}>{inline(heading)}</{tag}>{content}<footer>{html.escape(foot)}</footer></section>"


def body(text: str) -> str:
    """The first paragraph, and what it announces with a colon."""
    first, *more = text.strip().split("\n\n")
    if first.endswith(":") and more:
        first += "\n\n" + more[0]
    return mistune.html(inline(first)) if first and not first.startswith(("<", "|", "```")) else ""


def inline(text: str) -> str:
    """Formulas as MathML; links to files of the repository as their words."""
    return MATH.sub(lambda found: convert(found[1] or found[2]), LINK.sub(r"\1", text))


def shown(cells: list[dict]) -> str:
    """The first output up to the next heading: a figure rather than a table, a table rather than printed lines."""
    outputs = []
    for cell in cells:
        if cell["cell_type"] == "markdown" and re.search(r"^## ", "".join(cell["source"]), re.M):
            break
        outputs += cell.get("outputs", [])
    kinds = [("image/svg+xml", "{}"), ("image/png", '<img alt="" src="data:image/png;base64,{}">')]
    for kind, how in kinds:
        for output in outputs:
            if kind in output.get("data", {}):
                return how.format("".join(output["data"][kind]).strip())
    for output in outputs:
        table = "".join(output.get("data", {}).get("text/html", ""))
        if "dataframe" in table:
            return re.sub(r"<style.*?</style>", "", table, flags=re.S)
        if printed := "".join(output.get("text", "")).strip("\n"):
            lines = printed.splitlines()
            return "<pre>" + html.escape("\n".join(lines[:MOST_LINES] + ["…"] * (len(lines) > MOST_LINES))) + "</pre>"
    return ""


def build(out: Path) -> list[Path]:
    """A file for each session."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, aim, notebooks in sessions():
        slides = [slide("h1", f"Session {number}", f"<p>{html.escape(aim)}</p>", "agenticrec_lite")]
        slides += [each for path in notebooks for each in slides_of(path)]
        page = (
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Session {number}</title>'
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>{"".join(slides)}'
            f"<script>{KEYS}</script></body></html>\n"
        )
        written.append(out / f"session-{number}.html")
        written[-1].write_text(page, encoding="utf-8")
    return written


if __name__ == "__main__":
    for path in build(Path(sys.argv[1])):
        print(path)
