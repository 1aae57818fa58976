"""Plays the notebooks in the stand-in for Colab, from the very cells that are committed: `make colab-check COLAB=DIR`;
or runs the tests there, with Colab's Python and versions: `make colab-test COLAB=DIR`.

Each notebook starts alone in an empty folder of a fresh runtime, as when somebody opens its badge: its own cell fetches
the course (the last commit of this checkout stands in for the repository) and installs. Writes docs/colab.md: minutes,
and which packages were changed. The budget is that of the tests.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME, PLAYED = "/colab/home", "/colab/played.json"
RESTART = "restart it (Runtime > Restart session)"  # of agenticrec_lite/colab.py
HEAD = """# The notebooks in Colab

`make colab-check COLAB=DIR`, {day}: every notebook from its own cells in a stand-in for Google Colab (Python {python},
torch {torch}, the packages that Colab published on 2026-08-19), each alone in a fresh runtime, with the budget of the
tests (`AGENTICREC_BUDGET=short`), on a CPU. It is not the real Colab: no GPU, no Drive, no preloaded kernel.

| notebook | minutes | packages that its cell changed |
|---|---|---|
"""


def play(path: Path) -> dict:
    """Within the stand-in: execute one notebook in /content, as Colab does, and say what became of it."""
    import nbformat
    import torch
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    os.chdir("/content")
    started, told = time.time(), ""
    try:
        NotebookClient(nbformat.read(path, 4), timeout=3600, kernel_name="python3").execute()
    except CellExecutionError as error:
        told = str(error)[-3000:]
    return {"minutes": (time.time() - started) / 60, "error": told, "torch": torch.__version__,
            "python": sys.version.split()[0]}  # fmt: skip


def versions(root: Path) -> dict[str, str]:
    """What is installed in the runtime."""
    command = ["chroot", root, "/colab/bin/python", "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {each["name"]: each["version"] for each in json.loads(listed)}


@contextmanager
def fresh_runtime(standin: Path) -> Iterator[Path]:
    """A new, empty layer over the stand-in, in a folder of its own; what a notebook installs goes there."""
    layer = Path(tempfile.mkdtemp(prefix="runtime-", dir=standin.parent))
    merged = layer / "merged"
    for name in ("upper", "work", "merged"):
        (layer / name).mkdir()
    options = f"lowerdir={standin},upperdir={layer / 'upper'},workdir={layer / 'work'}"
    mounts = [(merged, ["-t", "overlay", "overlay", "-o", options])]
    mounts += [(merged / name, ["--bind", f"/{name}"]) for name in ("proc", "dev")]
    try:
        for place, how in mounts:
            subprocess.run(["mount", *how, place], check=True)
        yield merged
    finally:
        for place, _ in reversed(mounts):
            if place.is_mount():
                subprocess.run(["umount", "-l", place], check=True)  # else nothing is removed: it could be the host's
        shutil.rmtree(layer)


def prepare(runtime: Path, address: str) -> None:
    """A repository at the address that the cells clone from, the data in the cache, and an empty /content."""
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, runtime / "src"], check=True)
    home = runtime / HOME.lstrip("/")
    home.mkdir()
    settings = f'[url "file:///src"]\n    insteadOf = {address}\n[safe]\n    directory = *\n'
    (home / ".gitconfig").write_text(settings, encoding="utf-8")
    cache = Path.home() / ".cache" / "agenticrec_lite"
    if cache.exists():
        shutil.copytree(cache, home / ".cache" / "agenticrec_lite")
    (runtime / "content").mkdir()


def environment() -> dict[str, str]:
    """Of a process within the stand-in."""
    ours = {name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "PYTHONPATH")}
    return ours | {"HOME": HOME, "PATH": f"/colab/bin:{os.environ['PATH']}"}


def test(standin: Path) -> int:
    """`make test` with the stand-in's Python; what Colab brings and suffices stays."""
    import colab

    commands = "pip install -q -e '/src[test]' && make -C /src test PY=/colab/bin/python STAMP=/src/Makefile"
    with fresh_runtime(standin) as runtime:
        prepare(runtime, colab.repository())
        done = subprocess.run(["chroot", runtime, "bash", "-c", commands], env=environment(), check=False)
        found = versions(runtime)
    print(", ".join(f"{name} {found[name]}" for name in ("torch", "transformers", "numpy", "pandas", "pyarrow")))
    return done.returncode


def played(runtime: Path, path: Path) -> tuple[dict, str]:
    """Play one notebook in its runtime: what `play` says, and its row of the table."""
    from agenticrec_lite.colab import changed

    before, restarts = versions(runtime), 0
    inside = ["/colab/bin/python", "/src/.ci/colab_standin/check.py", "inside", f"/src/notebooks/{path.name}"]
    while True:
        subprocess.run(["chroot", runtime, *inside], env=environment() | {"AGENTICREC_BUDGET": "short"}, check=True)
        facts = json.loads((runtime / PLAYED.lstrip("/")).read_text(encoding="utf-8"))
        if RESTART not in facts["error"] or restarts:
            break
        restarts += 1  # as its sentence asks
    what = ", ".join(f"{name} {how}" for name, how in changed(before, versions(runtime)).items()) or "none"
    return facts, f"| {path.stem} | {facts['minutes']:.1f} | {what}{' (and a restart)' * restarts} |"


def main(standin: Path, names: list[str]) -> int:
    import colab

    rows, failed, facts = [], [], {}
    for path in (path for path in colab.notebooks() if "exercises" not in path.parts):
        if names and path.name[:2] not in names:
            continue
        with fresh_runtime(standin) as runtime:
            prepare(runtime, colab.repository())
            facts, row = played(runtime, path)
        rows.append(row)
        print(row, flush=True)
        if facts["error"]:
            failed.append(path.name)
            print(facts["error"], flush=True)
    if not failed and not names:
        text = HEAD.format(day=date.today(), **facts) + "\n".join(rows) + "\n"
        (ROOT / "docs" / "colab.md").write_text(text, encoding="utf-8")
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        Path(PLAYED).write_text(json.dumps(play(Path(sys.argv[2]))), encoding="utf-8")
    else:
        sys.path.insert(0, str(ROOT / ".ci"))
        standin, *names = sys.argv[1:]
        sys.exit(test(Path(standin).resolve()) if names == ["tests"] else main(Path(standin).resolve(), names))
