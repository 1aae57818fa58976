"""What a notebook's first cell does in Google Colab: install what is missing there, and change as little as it can.

Colab brings most of what the package needs. Only what it lacks, or has in too old a version, is installed, at this
checkout's pins. A package that was replaced while this session had already loaded it works only after a restart; then
the cell says so, and stops.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SHOWN = ("matplotlib", "ipywidgets")  # of the extra `course`: the rest is Jupyter, which Colab has in its own form


def versions() -> dict[str, str]:
    """What is installed now, by canonical name."""
    return {canonicalize_name(found.metadata["Name"]): found.version for found in distributions()}


def needed(root: Path = ROOT) -> list[Requirement]:
    """What the notebooks import: the package's dependencies, and those of the extra `course` that show figures."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shown = [text for text in project["optional-dependencies"]["course"] if Requirement(text).name in SHOWN]
    return [Requirement(text) for text in (*project["dependencies"], *shown)]


def lacking(requirements: Iterable[Requirement], installed: Mapping[str, str]) -> list[str]:
    """Names of the requirements that nothing installed satisfies."""
    have = {each.name: installed.get(canonicalize_name(each.name)) for each in requirements}
    return [r.name for r in requirements if have[r.name] is None or not r.specifier.contains(have[r.name], True)]


def pins(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """The lines of requirements.txt for these packages."""
    wanted = {canonicalize_name(name) for name in names}
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if canonicalize_name(re.split("[=; ]", line)[0]) in wanted]


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """What pip did, by package: "18.1.0 -> 21.0.0", or "new 1.16.0"."""
    return {
        name: f"{before[name]} -> {version}" if name in before else f"new {version}"
        for name, version in sorted(after.items())
        if before.get(name) != version
    }


def loaded(names: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Those packages of which a module has been imported."""
    names, tops = set(names), {module.partition(".")[0] for module in modules}
    owners = packages_distributions()
    return sorted(names & {canonicalize_name(owner) for top in tops for owner in owners.get(top, ())})


def install() -> None:
    """Install what is missing and say what has changed.

    Raises:
        SystemExit: pip failed, and its own words stand above; or a package was replaced that this session has loaded.
    """
    before = versions()
    wanted = pins(lacking(needed(), before))
    if not wanted:
        print("Everything that the course needs is there.")
        return
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", *wanted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        print(done.stdout)
        raise SystemExit("pip could not install what the course needs; its own words are above. Run this cell again.")
    what = changed(before, versions())
    print("Installed:", ", ".join(f"{name} ({how})" for name, how in what.items()))
    replaced = [name for name, how in what.items() if not how.startswith("new ")]
    if held := loaded(replaced, sys.modules):
        raise SystemExit(
            f"This session had loaded {', '.join(held)} before; restart it (Runtime > Restart session), then run this "
            "cell again."
        )
