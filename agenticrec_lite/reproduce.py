"""Notebooks executed on runs: `agenticrec demo` (the quickstart) and `agenticrec reproduce` (01 to 08, for all seeds).

`reproduce` leaves everything in one folder: seed-N/ (run folders), notebooks/ (as they ran; in seed-N/ those that look
at one seed), report/index.html. The same command goes on at the first thing that is not finished.
"""

import ast
import html
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agenticrec_lite.errors import UserError
from agenticrec_lite.profiles import parse_value

try:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from nbconvert import HTMLExporter
except ModuleNotFoundError:
    raise UserError(
        "agenticrec demo and agenticrec reproduce need papermill and nbconvert; pip install them with the extra course."
    ) from None

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 2rem auto; color-scheme: light dark }}
td, th {{ text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }}</style>
<h1>{title}</h1>
<p>Begin with <a href="{last}.html"><b>{last}</b></a>, the last one: there the figures of all seeds come together.</p>
<table><tr><th>notebook</th><th>executed</th><th>minutes</th></tr>
{rows}
</table></html>
"""


def demo(out: Path, values: Mapping[str, Any]) -> None:
    """Execute the quickstart: it trains in `out`, or goes on there, and lies there itself once it has run.

    Args:
        out: the run folder.
        values: other parameters of the notebook, for example {"seed": 1}.

    Raises:
        UserError: no checkout, an unknown parameter, a cell failed, or a file cannot be written.
    """
    source = notebooks("00_quickstart")[0]
    known = parameters(nbformat.read(source, as_version=4)) - {"out"}
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{source.stem} has no parameter {unknown[0]!r}; -p takes {', '.join(sorted(known))}.")
    folder = seen_from(source.parent, out)
    try:
        with writing():
            execute(source, out / source.name, {"out": folder, **values})
    except UserError as error:  # the notebook names the folder as it sees it
        error.args = (str(error).replace(folder, str(out)),)
        raise


def reproduce(dataset: str, profile: str, seeds: Sequence[int], settings: Sequence[str], out: Path) -> Path:
    """A run for each seed, then notebooks 01 to 08 on these runs, then a report in HTML.

    Args:
        settings: KEY=VALUE, as `agenticrec run --set` takes them.
        out: the folder of all of it.

    Returns:
        The report's first page.

    Raises:
        UserError: no checkout, a cell failed, or a file cannot be written.
        SystemExit: a run failed; it has said why, and the exit code is its own.
    """
    sources = notebooks("0[1-8]_*")
    for seed in seeds:
        command = ["run", "--dataset", dataset, "--profile", profile, "--seed", seed, "--out", out / f"seed-{seed}"]
        command += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run([sys.executable, "-m", "agenticrec_lite.cli", *map(str, command)], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    targets = []
    with writing():
        for source in sources:
            for target, values in jobs(source, dataset, profile, seeds, out):
                targets.append(target)
                if finished(source, target, values):
                    print(f"{target} is finished", flush=True)
                else:
                    print(f"{target} ...", flush=True)
                    execute(source, target, values)
        return report(out, targets, f"AgenticRec on {dataset}, profile {profile}, seeds {', '.join(map(str, seeds))}")


def parse_seeds(text: str) -> list[int]:
    """Whole numbers, separated by blanks or commas, each once. Raises UserError if there are none or others."""
    seeds = list(dict.fromkeys(text.replace(",", " ").split()))
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise UserError(f'--seeds takes whole numbers, for example "0 1 2", not {text!r}.')
    return [int(seed) for seed in seeds]


def parse_parameter(text: str) -> tuple[str, Any]:
    """(name, value) of NAME=VALUE; the value is read as one of a profile. Raises UserError without an =."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"-p takes NAME=VALUE, for example seed=1, not {text!r}.")
    return name, parse_value(value)


def notebooks(pattern: str) -> list[Path]:
    """Notebooks of the course, sorted. Raises UserError where the package was installed without them."""
    found = sorted(NOTEBOOKS.glob(f"{pattern}.ipynb"))
    if not found:
        raise UserError(
            f"There are no notebooks in {NOTEBOOKS}; this command works in a checkout of the repository, "
            "installed there with pip install -e ."
        )
    return found


def seen_from(folder: Path, path: Path) -> str:
    """`path` relative to `folder`, with /; absolute where they lie on two drives of Windows."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


@contextmanager
def writing() -> Iterator[None]:
    """Turn what the system says of a file in use into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or 'A file'} cannot be used: {error.strerror or error}.") from None


def parameters(notebook: nbformat.NotebookNode) -> set[str]:
    """Names that the cell tagged `parameters` assigns."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = [node for cell in cells for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def jobs(source: Path, dataset: str, profile: str, seeds: Sequence[int], out: Path) -> list[tuple[Path, dict]]:
    """(where it goes, its parameters) of each execution of a notebook.

    Once if it takes `runs` (all of them together) or nothing of a seed's; else once a seed. Paths in the parameters
    are relative to the notebook's folder.
    """
    known = parameters(nbformat.read(source, as_version=4))
    folders = {seed: seen_from(source.parent, out / f"seed-{seed}") for seed in seeds}
    shared = {"dataset": dataset, "profile": profile, "seeds": list(seeds), "runs": list(folders.values())}
    if "runs" in known:
        shared["out"] = seen_from(source.parent, out / "report")
    each = [shared | {"seed": seed, "run_dir": folder} for seed, folder in folders.items()]
    together = "runs" in known or not known & {"seed", "run_dir"}
    found = []
    for values in each[:1] if together else each:
        where = out / "notebooks" / ("" if together else f"seed-{values['seed']}") / source.name
        found.append((where, {name: value for name, value in values.items() if name in known}))
    return found


def finished(source: Path, target: Path, values: dict) -> bool:
    """Whether `target` is a whole execution of `source`, as it is now, with these parameters."""
    if not target.exists():
        return False
    try:
        done = nbformat.read(target, as_version=4)
    except (ValueError, nbformat.ValidationError):
        return False  # damaged
    wanted = nbformat.read(source, as_version=4)
    kept = [cell.source for cell in done.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    same = kept == [cell.source for cell in wanted.cells]
    return same and done.metadata.get("papermill", {}).get("parameters") == values


def execute(source: Path, target: Path, values: dict) -> None:
    """Execute a notebook; `target` appears when all of it has run.

    Raises:
        UserError: a cell failed, or the kernel was stopped. What ran so far stays beside `target`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(source, partial, values, kernel_name="python3", cwd=source.parent)
    except papermill.PapermillExecutionError as error:
        if error.ename == UserError.__name__:  # it says by itself what to do
            raise UserError(f"{error.evalue} As far as {source.stem} came: {partial}") from None
        raise UserError(
            f"{source.stem} failed with {error.ename}: {error.evalue} (as far as it came: {partial}); "
            "once that is repaired the same command goes on there."
        ) from None
    except DeadKernelError:  # nbclient stops the kernel on Ctrl-C, and then finds it dead
        raise UserError(
            f"The kernel of {source.stem} was stopped before it was through, by Ctrl-C or because memory ran out; "
            "the same command goes on there."
        ) from None
    partial.replace(target)


def report(out: Path, targets: Sequence[Path], title: str) -> Path:
    """All notebooks as HTML, and a page that links to them."""
    folder, rows = out / "report", []
    for target in targets:
        page = (folder / target.relative_to(out / "notebooks")).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        notebook = nbformat.read(target, as_version=4)
        page.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
        link, ran = page.relative_to(folder).as_posix(), notebook.metadata.papermill
        rows.append(
            f'<tr><td><a href="{html.escape(link)}">{html.escape(link.removesuffix(".html"))}</a></td>'
            f"<td>{ran.start_time[:16].replace('T', ' ')}</td><td>{ran.duration / 60:.1f}</td></tr>"
        )
    index = folder / "index.html"
    last = html.escape(link.removesuffix(".html"))
    index.write_text(PAGE.format(title=html.escape(title), last=last, rows="\n".join(rows)), encoding="utf-8")
    return index
