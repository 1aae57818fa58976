"""The package as others install it: a wheel that carries what it needs, in an empty folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what git tracks: a build leaves folders beside its source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout
    for name in tracked.decode().split("\0")[:-1]:
        if (ROOT / name).is_file() and not name.startswith(("notebooks", "data/results")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.all
def test_a_wheel_holds_nano_and_the_stores_and_nothing_of_the_course(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("nano", "toystore", "moodstore"):
        shipped = {path.name for path in (ROOT / "data" / folder).iterdir() if path.is_file()}
        carried = [name for name in names if f"/carried_data/{folder}/" in name and name.count("/") == 3]
        assert shipped == {Path(name).name for name in carried}
    assert not [name for name in names if name.startswith(("tests", "studies", "benchmarks", "notebooks", "data"))]
    assert wheel.stat().st_size < 12e6


# The locale of a bare container, where text files have no encoding of their own.
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.all
def test_an_installed_wheel_runs_an_experiment_in_an_empty_folder(wheel, tmp_path):
    """Its dependencies are those of this environment; `pip install` of them all takes the network."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    site = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                          capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"AGENTICREC_BUDGET": "short", "PYTHONPATH": str(ROOT / "tests" / "offline")} | C_LOCALE
    where = [python, "-c", "import agenticrec_lite; print(agenticrec_lite.__file__)"]
    done = subprocess.run(where, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(site))
    command = [tmp_path / "venv" / "bin" / "agenticrec", "run", "--dataset", "toystore", "--out", "x y"]
    subprocess.run(command, cwd=tmp_path / "empty", env=environment, check=True)
    assert (tmp_path / "empty" / "x y" / "result.json").is_file()
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["x y"]
