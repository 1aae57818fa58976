"""Builds the site: `python .ci/site.py OUT`.

What Sphinx reads is laid out in a folder of its own: the README as the landing page, the notebooks as they are
committed, docs/, and a page of reference for each part of the package. The exercises are links to the repository,
which has the students' version there. The playground is a page of its own, without Sphinx and without a kernel.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
CONTENTS = {
    "Play": ["playground"],
    "Course": [f"notebooks/{path.stem}" for path in sorted((ROOT / "notebooks").glob("*.ipynb"))],
    "Results": ["docs/results", "docs/deviations", "docs/stores"],
    "Use": ["docs/running", "docs/gpu", "docs/data", "docs/datasets", "docs/large-catalogues", "docs/extending",
            "docs/errors", "docs/colab", "docs/windows"],
    "Teach": ["docs/teaching"],
    "Project": ["docs/house", "CONTRIBUTING", "CHANGELOG"],
}  # fmt: skip
REFERENCE = {  # title: modules, each name in one of them
    "Experiments": ["experiment", "experiment.stages", "experiment.results", "experiment.ask", "play", "report"],
    "Agent": ["agent.protocol", "agent.prompts", "agent.environment", "agent.episodes", "agent.rollout",
              "agent.scoring", "agent.trajectory", "agent.record", "agent.teacher"],
    "Tools and evidence": ["tools", "tools.profile", "tools.behavior", "tools.collaborative", "tools.item_info",
                           "tools.toolbox", "recommenders"],
    "Training": ["rewards", "training.grpo", "training.mining", "training.sft", "training.trl_environment", "policy"],
    "Evaluation": ["evaluation.metrics", "evaluation.evaluate", "evaluation.lists", "evaluation.pairs",
                   "evaluation.bayes"],
    "Data": ["data", "data.toystore"],
    "Pre-training of nano": ["nano.pretrain", "nano.lessons", "nano.worlds", "nano.exam"],
}  # fmt: skip
PLAYGROUND = """# Be the agent

<iframe src="play.html" title="Be the agent" style="width:100%;height:1500px;border:0"></iframe>

<p><a href="play.html">On a page of its own</a></p>
"""
BADGE = re.compile(r"\[!\[([^\]]+)\]\([^)]+\)\]")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def lay_out(stage: Path) -> None:
    """Write everything that Sphinx reads into `stage`."""
    shutil.copytree(ROOT / "docs", stage / "docs", ignore=shutil.ignore_patterns("site"))
    shutil.copytree(ROOT / "notebooks", stage / "notebooks", ignore=shutil.ignore_patterns("exercises"))
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copyfile(ROOT / name, stage / name)
    shutil.copyfile(ROOT / "docs" / "site" / "conf.py", stage / "conf.py")
    (stage / "extra").mkdir()
    page = (ROOT / "docs" / "site" / "playground.html").read_text(encoding="utf-8")
    data = (ROOT / "docs" / "site" / "playground.json").read_text(encoding="utf-8")
    (stage / "extra" / "play.html").write_text(page.replace("/*DATA*/", data.replace("<", "\\u003c")), "utf-8")
    (stage / "playground.md").write_text(PLAYGROUND, encoding="utf-8")
    (stage / "reference").mkdir()
    for title, modules in REFERENCE.items():
        page = f"# {title}\n" + "".join(
            f"\n## {name}\n\n```{{eval-rst}}\n.. automodule:: agenticrec_lite.{name}\n```\n" for name in modules
        )
        (stage / "reference" / f"{file_name(title)}.md").write_text(page, encoding="utf-8")
    contents = CONTENTS | {"Reference": [f"reference/{file_name(title)}" for title in REFERENCE]}
    trees = "".join(
        "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(pages) + "\n```\n"
        for caption, pages in contents.items()
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (stage / "index.md").write_text(readme + trees, encoding="utf-8")
    for path in (stage / "notebooks").glob("*.ipynb"):
        path.write_text(without_colab(path.read_text(encoding="utf-8")), encoding="utf-8")
    for page in [*stage.rglob("*.md"), *stage.rglob("*.ipynb")]:
        page.write_text(linked(page.read_text(encoding="utf-8"), page.parent, stage), encoding="utf-8")


def linked(text: str, folder: Path, stage: Path) -> str:
    """The text with links to what is no page of the site leading to the repository instead."""

    def target(found: re.Match) -> str:
        path = Path(os.path.normpath(folder / found[1]))
        name, end = path.relative_to(stage).as_posix(), found[2] or ""
        if name == "README.md":
            return f"]({os.path.relpath(stage / 'index.md', folder)}{end})"
        if path.is_file():
            return found[0]
        return f"]({REPOSITORY}/{'tree' if (ROOT / name).is_dir() else 'blob'}/main/{name}{end})"

    return LINK.sub(target, text)


def without_colab(notebook: str) -> str:
    """The notebook without the cell that only Colab needs, and with words for the badge, whose picture is elsewhere."""
    content = json.loads(BADGE.sub(r"[\1]", notebook))
    for cell in content["cells"]:
        if cell["metadata"].get("cellView") == "form":
            cell["metadata"]["tags"] = ["remove-cell"]
    return json.dumps(content)


def file_name(title: str) -> str:
    return title.lower().replace(" ", "-")


def build(out: Path) -> int:
    """Sphinx's exit status; a warning is an error."""
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        lay_out(stage)
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(stage), str(out)]
        done = subprocess.run(command, env=os.environ | {"SITE_REPOSITORY": REPOSITORY}, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
