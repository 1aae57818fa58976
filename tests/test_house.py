"""The rules of the house: which room imports which, no circles, and what never gets into the repository."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agenticrec_lite"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400  # lines of a module
# Each room imports only from those before it.
ROOMS = [
    *"errors parameters carried colab methods profiles runs data recommenders tools policy plan pace agent".split(),
    *"rewards training evaluation nano experiment paper show play report hub reproduce cli".split(),
]
OUTSIDE = [*sorted(ROOT.glob("studies/*.py")), *sorted(ROOT.glob("benchmarks/*.py"))]

# Written as patterns, so that this file does not match itself.
HOSTS = ("pypi org", "python" + "hosted org", "download pytorch org", "npmjs org", "deb debian org")
REGISTRY_HOSTS = re.compile("|".join(host.replace(" ", r"\.") for host in HOSTS))
MACHINE_PATHS = re.compile(r"(?<![\w.~$}<])/(?:work|root|tmp|opt|home/\w+|Users/\w+)(?:/|\b)")
PICKLES = re.compile(
    r"torch\.(?:load|save)\(|(?:import|from)\s+(?:pickle|dill|joblib)\b|(?:read|to)_pickle\(|allow_pickle=\s*True"
)
FORBIDDEN_FILES = re.compile(r"\.(?:pkl|pickle|pt|pth|ckpt|bin|joblib|inter)$|(?:^|/)u\.(?:data|item|user)$")


def name_of(path: Path) -> str:
    """A module's dotted name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imported(source: str, package: str, known: set[str]) -> set[str]:
    """Names in `known` that a module imports, wherever in it: at the top, in a function, for typing only.

    Args:
        source: Its text.
        package: The package it lies in, for relative imports.
        known: Dotted names of modules.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return found & known


def graph() -> dict[str, set[str]]:
    """Which modules of the package each one imports. A package's own __init__ may import what lies in it."""
    edges = {}
    for name, path in NAMES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = imported(path.read_text(encoding="utf-8"), package, set(NAMES)) - {name}
    return edges


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def circle(edges: dict[str, set[str]]) -> list[str] | None:
    """The modules of a circle of imports, if there is one."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_the_graph_sees_every_kind_of_import():
    source = (
        "import a.b\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from a import c\n"
        "def f():\n    from .d import g\n    from a.e import h\n"
    )
    assert imported(source, "a", {"a.b", "a.c", "a.d", "a.e", "a"}) == {"a.b", "a.c", "a.d", "a.e"}


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_there_is_no_circle_of_imports():
    assert circle(graph()) is None


def test_no_room_imports_from_a_later_one():
    wrong = []
    for name, others in graph().items():
        if name == "agenticrec_lite":
            assert not others, "importing the package must stay light"
            continue
        assert room_of(name) in ROOMS, f"{room_of(name)} has no place in the order of the rooms"
        wrong += [
            f"{name} imports {other}"
            for other in others
            if room_of(other) and ROOMS.index(room_of(other)) > ROOMS.index(room_of(name))
        ]
    assert not wrong


def test_training_knows_no_experiment():
    training = [path for name, path in NAMES.items() if room_of(name) == "training"]
    assert training and not [
        path.name for path in training if re.search("Experiment|experiment[./ ]", path.read_text())
    ]


@pytest.mark.parametrize("module", ["report", "show.figures", "show.pair_figures", "show.viewer", "show.token_view"])
def test_what_only_shows_needs_no_torch(module):
    code = f"import sys, agenticrec_lite.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_is_too_long_to_be_read_in_one_go(path: Path):
    assert path.read_text(encoding="utf-8").count("\n") <= LONGEST


def overwritten(source: str) -> list[str]:
    """Where a module changes what is not its own: attributes of what it imported, of experiments and of trainers."""
    tree, found = ast.parse(source), []
    taken = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    others = taken | {"experiment", "trainer", "toolbox", "policy", "run"}

    def owner(target: ast.expr) -> str:
        while isinstance(target, ast.Attribute | ast.Subscript):
            target = target.value
        if isinstance(target, ast.Call) and ast.unparse(target.func) == "vars":
            target = target.args[0]
        return target.id if isinstance(target, ast.Name) else ""

    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets += [node.target] if isinstance(node, ast.AugAssign) else []
        flat = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
        found += [ast.unparse(t) for t in flat if isinstance(t, ast.Attribute | ast.Subscript) and owner(t) in others]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "setattr" or (called.endswith(".update") and owner(node.func) in taken):
                found.append(ast.unparse(node))
    return found


def test_overwriting_is_found():
    source = "import engine\nfrom a import TOOLS\n"
    changes = [
        "engine._Batch = 1", "TOOLS.update(x)", "TOOLS['a'] = 1", "vars(experiment)['a'] = 1", "setattr(x, 'a', 1)",
        "experiment.tasks = f", "trainer.a, b = 1, 2", "experiment.profile['a']['b'] += 1",
    ]  # fmt: skip
    for line in changes:
        assert overwritten(source + line), line
    assert not overwritten(source + "self.a = 1\nrows['a'] = 2\nx = TOOLS['a']\nfound.update(x)")


# What is set here belongs to trl, whose object has no other way in, and to the environment of the process itself.
ALLOWED = {
    "benchmarks/workload.py": {"os.environ['OMP_NUM_THREADS']"},
    "benchmarks/arms.py": {"trainer.max_tool_calling_iterations"},
}


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_studies_and_benchmarks_use_the_doors(path: Path):
    found = overwritten(path.read_text(encoding="utf-8"))
    assert set(found) <= ALLOWED.get(str(path.relative_to(ROOT)), set())


def repository_files() -> list[Path]:
    """What git tracks, or would track: new files that it does not ignore count too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    """The files of the repository that are text."""
    found = []
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            found.append((path, content.decode("utf-8", errors="replace")))
    return found


def test_no_machine_paths_and_no_registry_hosts():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in texts()
        for pattern in (MACHINE_PATHS, REGISTRY_HOSTS)
        for match in pattern.finditer(text)
    ]
    assert not found


def test_no_pickles_and_no_data_files():
    forbidden = [str(path.relative_to(ROOT)) for path in repository_files() if FORBIDDEN_FILES.search(str(path))]
    assert not forbidden
    code = [(path, text) for path, text in texts() if path.suffix in (".py", ".ipynb")]
    assert not [f"{path.relative_to(ROOT)}: {m.group()}" for path, text in code for m in PICKLES.finditer(text)]


def test_every_dependency_of_the_package_and_its_extras_has_a_pin_in_its_range():
    """And every pin is of a dependency: requirements.txt is one point of what pyproject.toml admits."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in [*project["dependencies"], *sum(extras.values(), [])]]
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    assert {r.name for r in wanted} - {"agenticrec_lite"} == set(pins)
    assert all(r.specifier.contains(pins[r.name]) for r in wanted if r.name in pins)
    assert all(">=" in str(Requirement(text).specifier) for text in project["dependencies"])


def test_torch_is_pinned_exactly():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+", pin) for pin in pins)


TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_between_texts_lead_somewhere(path):
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_readme_is_one_page_and_leads_to_every_text():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 900
    assert not [path.name for path in TEXTS[1:] if path.name not in text]


def test_the_results_in_the_readme_are_those_of_the_runs_that_ship(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    from results import MARKS, section

    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]
    assert shown == section(), "run .venv/bin/python .ci/results.py"
