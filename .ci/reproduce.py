"""A run for each seed, then notebooks 01-08 on these runs, then a report in HTML: `make reproduce`.

Everything lies in runs/reproduce-DATASET-PROFILE/: seed-N/ (run folders), notebooks/ (as they ran; in seed-N/ those
that look at one seed), report/index.html. The same command goes on at the first thing that is not finished.
"""

import argparse
import ast
import html
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 2rem auto; color-scheme: light dark }}
td, th {{ text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }}</style>
<h1>{title}</h1>
<p>Begin with <a href="{last}.html"><b>{last}</b></a>, the last one: there the figures of all seeds come together.</p>
<table><tr><th>notebook</th><th>executed</th><th>minutes</th></tr>
{rows}
</table></html>
"""


class Stop(Exception):
    """A mistake that the reader can mend, in one sentence."""


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
    folders = {seed: Path("..", out.relative_to(source.parents[1]), f"seed-{seed}").as_posix() for seed in seeds}
    shared = {"dataset": dataset, "profile": profile, "seeds": list(seeds), "runs": list(folders.values())}
    if "runs" in known:
        shared["out"] = Path("..", out.relative_to(source.parents[1]), "report").as_posix()
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
        Stop: a cell failed, or the kernel was stopped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.ipynb")
    try:
        papermill.execute_notebook(source, partial, values, kernel_name="python3", cwd=source.parent)
    except papermill.PapermillExecutionError as error:
        raise Stop(
            f"{source.stem} failed with {error.ename}: {error.evalue} (as far as it came: {shown(partial)}); "
            "once that is mended the same command goes on there."
        ) from None
    except DeadKernelError:  # nbclient stops the kernel on Ctrl-C, and then finds it dead
        raise Stop(
            f"The kernel of {source.stem} was stopped (by Ctrl-C, or for want of memory) before it was through; "
            "the same command goes on there."
        ) from None
    partial.replace(target)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


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


def reproduce(dataset: str, profile: str, seeds: Sequence[int], settings: Sequence[str], root: Path = ROOT) -> Path:
    """Go all the way. Returns the report's page."""
    out = root / "runs" / f"reproduce-{dataset}-{profile}"
    sources = sorted((root / "notebooks").glob("0[1-8]_*.ipynb"))
    for seed in seeds:
        command = ["run", "--dataset", dataset, "--profile", profile, "--seed", seed, "--out", out / f"seed-{seed}"]
        command += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run([sys.executable, "-m", "agenticrec_lite.cli", *map(str, command)], cwd=root, check=False)
        if done.returncode:
            sys.exit(done.returncode)  # the command has said why
    if not sources:
        raise Stop("There are no notebooks 01 to 08 in notebooks/.")
    targets = []
    for source in sources:
        for target, values in jobs(source, dataset, profile, seeds, out):
            targets.append(target)
            if finished(source, target, values):
                print(f"{shown(target)} is finished", flush=True)
            else:
                print(f"{shown(target)} ...", flush=True)
                execute(source, target, values)
    return report(out, targets, f"AgenticRec on {dataset}, profile {profile}, seeds {', '.join(map(str, seeds))}")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--seeds", default="0", help='e.g. "0 1 2"')
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `agenticrec run`")
    asked = parser.parse_args(arguments)
    try:
        seeds = list(dict.fromkeys(asked.seeds.replace(",", " ").split()))
        if not seeds or not all(seed.isdecimal() for seed in seeds):
            raise Stop(f'SEEDS takes whole numbers, such as SEEDS="0 1 2", not {asked.seeds!r}.')
        print(f"The report: {shown(reproduce(asked.dataset, asked.profile, list(map(int, seeds)), asked.set, root))}")
    except OSError as error:
        print(f"Error: {error.filename or 'A file'} cannot be used: {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)
    except Stop as stop:
        print("Error: " + " ".join(str(stop).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
