"""The rules of the house: order of the rooms, sizes, and what never gets into the repository."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agenticrec_lite"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = [
    *"errors profiles runs data recommenders tools policy plan agent rewards evaluation training".split(),
    *"paper report hub cli".split(),
]

# Written as patterns, so that this file does not match itself.
HOSTS = ("pypi org", "python" "hosted org", "download pytorch org", "npmjs org", "deb debian org")
REGISTRY_HOSTS = re.compile("|".join(host.replace(" ", r"\.") for host in HOSTS))
MACHINE_PATHS = re.compile(r"(?<![\w.~$}<])/(?:work|root|tmp|opt|home/\w+|Users/\w+)(?:/|\b)")
PICKLES = re.compile(
    r"torch\.(?:load|save)\(|(?:import|from)\s+(?:pickle|dill|joblib)\b|(?:read|to)_pickle\(|allow_pickle=\s*True"
)
FORBIDDEN_FILES = re.compile(r"\.(?:pkl|pickle|pt|pth|ckpt|bin|joblib|inter)$|(?:^|/)u\.(?:data|item|user)$")


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: not blank, not a comment, not a docstring."""
    lines = set()
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def room_of(parts: tuple[str, ...]) -> str:
    """The room that a dotted name below the package lies in."""
    return parts[0] if parts else "agenticrec_lite"


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a module imports from, wherever in the module it does."""
    package = path.relative_to(ROOT).parent.parts
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            names += [(*base, alias.name) for alias in node.names]
    return {room_of(name[1:]) for name in names if name[0] == "agenticrec_lite"} - {"__version__"}


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_before_it(path: Path):
    room = room_of(path.relative_to(PACKAGE).with_suffix("").parts)
    if room == "__init__":
        assert imported_rooms(path) == set(), "importing the package must stay light"
        return
    assert room in ROOMS, f"{room} has no place in the order of the rooms"
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(path) <= allowed, f"{path.name} imports from a later room"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") < 300, f"{path.name} has 300 lines or more"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            taken = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
            length = node.end_lineno - node.lineno + 1 - taken
            assert length < 40, f"{path.name}: {node.name} has {length} lines"


def test_the_package_is_thin():
    total = sum(len(code_lines(path.read_text(encoding="utf-8"))) for path in MODULES)
    assert total <= 5575, f"the package has {total} lines of code"


def test_code_lines_leaves_out_blanks_comments_and_docstrings():
    source = (
        '"""Two\nlines."""\n\n# why\nx = """kept\ntoo"""\n\n\ndef f():\n    """Doc."""\n    return x  # y\n'
    )
    assert code_lines(source) == {5, 6, 9, 11}


def test_no_machine_paths_and_no_registry_hosts():
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in texts()
        for pattern in (MACHINE_PATHS, REGISTRY_HOSTS)
        for match in pattern.finditer(text)
    ]
    assert not found


def test_no_pickles_and_no_data_files():
    forbidden = [
        str(path.relative_to(ROOT)) for path in repository_files() if FORBIDDEN_FILES.search(str(path))
    ]
    assert not forbidden
    code = [(path, text) for path, text in texts() if path.suffix in (".py", ".ipynb")]
    assert not [
        f"{path.relative_to(ROOT)}: {m.group()}" for path, text in code for m in PICKLES.finditer(text)
    ]


def test_torch_is_pinned_exactly():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9.]+", pin) for pin in pins)
