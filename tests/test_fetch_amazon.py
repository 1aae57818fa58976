"""Fetching Amazon Reviews 2023 from a loopback server that does everything wrong that a server can; made-up files."""

import errno
import gzip
import hashlib
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from agenticrec_lite.data import fetch_amazon, load_dataset
from agenticrec_lite.data.fetch import fetch
from agenticrec_lite.errors import UserError

NAME = "amazon-2023/Office"
REVIEWS, ITEMS = "Office_Products.jsonl.gz", "meta_Office_Products.jsonl.gz"
PATHS = {f"/raw/review_categories/{REVIEWS}": REVIEWS, f"/raw/meta_categories/{ITEMS}": ITEMS}
ROWS = [
    {"rating": 5.0, "parent_asin": f"i{i}", "user_id": f"u{u}", "timestamp": 1_670_000_000_000 + 1000 * (7 * u + i)}
    for u in range(6) for i in range(6)
]  # fmt: skip
TEXTS = {
    REVIEWS: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    ITEMS: "".join(json.dumps({"parent_asin": f"i{i}", "title": f"Item {i}"}) + "\n" for i in range(6)).encode(),
}


def packed(text):
    return gzip.compress(text, mtime=0)


class Server(http.server.ThreadingHTTPServer):
    """Two files with ETags and ranges. `plan` holds what goes wrong with the next answers, first things first."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {name: packed(text) for name, text in TEXTS.items()}
        self.plan, self.asked, self.validators = [], [], True
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/raw"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, PATHS.get(self.path)
        wrong = server.plan.pop(0) if server.plan else "nothing"
        server.asked.append((name, self.headers["Range"]))
        if name is None or isinstance(wrong, int):
            self.send_error(wrong if isinstance(wrong, int) else 404)
            return
        body = server.files[name]
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"]).group(1)) if self.headers["Range"] else 0
        heeded = self.headers["If-Range"] == tag or wrong == "heeds no If-Range"
        if not heeded or wrong == "heeds no range":
            start = 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if server.validators:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if wrong in ("breaks off", "stalls"):
            self.wfile.write(body[start : start + (len(body) - start) // 2])
            self.wfile.flush()
            if wrong == "stalls":
                server.released.wait(5)
        else:
            self.wfile.write(body[start:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setenv("AGENTICREC_AMAZON2023_URL", running.url)
        yield running
        running.released.set()
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and no waiting between attempts."""
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AGENTICREC_AMAZON2023_SOURCE", raising=False)
    monkeypatch.setattr(fetch_amazon, "PAUSE", 0)
    monkeypatch.setattr(fetch_amazon, "TIMEOUT", 0.3)
    return tmp_path / "cache" / NAME


def check(folder, texts=TEXTS):
    """The folder holds the two files, whole, and nothing else."""
    assert {path.name for path in folder.iterdir()} - {".lock"} == {*texts, "sha256.json"}
    for name, text in texts.items():
        assert gzip.decompress((folder / name).read_bytes()) == text
    manifest = json.loads((folder / "sha256.json").read_text())
    assert manifest == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in texts}


def told(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


def test_both_files_come_once_and_become_a_log(server, cache):
    assert fetch(NAME) == cache
    check(cache)
    log = load_dataset(NAME)
    assert (log.n_users, log.n_items, len(log.interactions)) == (6, 6, 36)
    assert [name for name, _ in server.asked] == [REVIEWS, ITEMS]


@pytest.mark.fault("download breaks off", "amazon fetch")
def test_a_download_that_breaks_off_is_gone_on_with(server, cache):
    """The second attempt asks for the rest alone."""
    server.plan = ["breaks off", "breaks off"]
    check(fetch(NAME))
    half, whole = len(server.files[REVIEWS]) // 2, len(server.files[REVIEWS])
    assert server.asked[:3] == [(REVIEWS, None), (REVIEWS, f"bytes={half}-"),
                                (REVIEWS, f"bytes={half + (whole - half) // 2}-")]  # fmt: skip


@pytest.mark.fault("server stalls", "amazon fetch")
def test_a_server_that_stalls_is_asked_again_for_the_rest(server):
    """After the time limit the rest is asked for."""
    server.plan = ["stalls"]
    check(fetch(NAME))
    assert server.asked[1] == (REVIEWS, f"bytes={len(server.files[REVIEWS]) // 2}-")


@pytest.mark.parametrize("status", [pytest.param(s, marks=pytest.mark.fault(f"HTTP {s}", "amazon fetch"))
                                    for s in (429, 500, 503)])  # fmt: skip
def test_a_passing_failure_of_the_server_is_overcome(server, status, record_property):
    record_property("detail", "asked again after a pause")
    server.plan = [status, "breaks off", status]
    check(fetch(NAME))
    assert server.asked[3][1].startswith("bytes=")


@pytest.mark.fault("HTTP 500 for good", "amazon fetch")
def test_a_lasting_failure_is_told_and_what_has_come_is_kept(server, cache):
    """One sentence; the next call goes on with the part."""
    server.plan = ["breaks off", 500, 500, 500, 500]
    with pytest.raises(UserError, match=r"could not be fetched \(official: .*in 5 attempts \(it answered 500") as error:
        fetch(NAME)
    told(error)
    half = len(server.files[REVIEWS]) // 2
    assert (cache / f"{REVIEWS}.part").stat().st_size == half and not (cache / "sha256.json").exists()
    check(fetch(NAME))
    assert server.asked[5] == (REVIEWS, f"bytes={half}-")


@pytest.mark.fault("HTTP 404", "amazon fetch")
def test_a_file_that_is_not_there_is_told_at_once(server):
    """One sentence that names the address; asked once."""
    server.plan = ["nothing", 404]
    with pytest.raises(UserError, match=f"{ITEMS} answered 404") as error:
        fetch(NAME)
    told(error)
    assert len(server.asked) == 2
    fetch(NAME)
    assert [name for name, _ in server.asked[2:]] == [ITEMS], "the first file had come whole"


CHANGED = packed(TEXTS[REVIEWS].replace(b"5.0", b"1.0"))


@pytest.mark.fault("file changed at its source", "amazon fetch")
@pytest.mark.parametrize("wrong", ["nothing", "heeds no If-Range", "heeds no range"])
def test_a_file_that_has_changed_is_begun_anew(server, wrong):
    """No mixture of the two versions, not even from a server that heeds no If-Range."""
    server.plan = ["breaks off", 404]
    with pytest.raises(UserError):
        fetch(NAME)
    server.files[REVIEWS] = CHANGED
    server.plan = [wrong]
    check(fetch(NAME), TEXTS | {REVIEWS: TEXTS[REVIEWS].replace(b"5.0", b"1.0")})
    assert len(server.asked) == (5 if wrong == "heeds no If-Range" else 4)


@pytest.mark.fault("file became shorter at its source", "amazon fetch")
def test_a_file_that_became_shorter_is_begun_anew(server):
    """The range beyond its end is given up."""
    server.plan = ["breaks off", 404]
    with pytest.raises(UserError):
        fetch(NAME)
    server.files[REVIEWS] = packed(TEXTS[REVIEWS][:60])
    server.plan = ["heeds no If-Range"] * 5
    check(fetch(NAME), TEXTS | {REVIEWS: TEXTS[REVIEWS][:60]})


def test_without_etag_or_date_a_download_is_begun_anew(server):
    server.validators = False
    server.plan = ["breaks off"]
    check(fetch(NAME))
    assert [asked for _, asked in server.asked] == [None, None, None]


@pytest.mark.fault("a web page instead of the file", "amazon fetch")
def test_something_else_than_gzip_is_refused(server, cache):
    """Refused, and not kept."""
    server.files[REVIEWS] = b"<html>log in first</html>"
    with pytest.raises(UserError, match="something else than gzip"):
        fetch(NAME)
    assert not (cache / f"{REVIEWS}.part").exists()


@pytest.mark.fault("damaged cache", "amazon fetch")
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_cache_is_told_and_mended_by_force(server, cache, damage):
    """Told with the file's name; --force mends it."""
    path = fetch(NAME) / REVIEWS
    path.write_bytes(CHANGED) if damage == "changed" else path.unlink()
    with pytest.raises(UserError, match=f"{REVIEWS} is missing or not as it was fetched; .*{NAME} --force") as error:
        load_dataset(NAME)
    told(error)
    check(fetch(NAME, force=True))


@pytest.mark.fault("no network", "amazon fetch --force")
def test_a_forced_fetch_that_fails_leaves_the_old_files(server, cache):
    """The old files still load."""
    fetch(NAME)
    server.plan = [404]
    with pytest.raises(UserError):
        fetch(NAME, force=True)
    check(cache)
    assert len(load_dataset(NAME).interactions) == 36


@pytest.mark.fault("disk too small", "amazon fetch")
def test_too_little_space_is_told_before_the_first_byte(server, cache, monkeypatch):
    """One sentence with both figures."""
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
        with pytest.raises(UserError, match=r"has 0.0 GB free and .* are to come.*AGENTICREC_CACHE") as error:
            fetch(NAME)
    told(error)
    assert not list(cache.glob("*.part"))
    check(fetch(NAME))


@pytest.mark.fault("disk full while writing", "amazon fetch")
def test_a_disk_that_fills_up_is_told_and_the_rest_comes_later(server, cache, monkeypatch):
    """One sentence; nothing counts as fetched."""

    class Full:
        def __init__(self, *args, **kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            pass

        def update(self, n):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(fetch_amazon, "tqdm", Full)
        with pytest.raises(UserError, match="No space is left for amazon-2023/Office") as error:
            fetch(NAME)
    told(error)
    assert not (cache / "sha256.json").exists()
    check(fetch(NAME))


@pytest.mark.fault("killed while fetching", "amazon fetch")
def test_an_interrupted_fetch_goes_on(server, cache, monkeypatch):
    """What had come before the interruption is not asked for again."""
    server.plan = ["breaks off"]

    def interrupted(seconds):
        if server.asked:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch_amazon.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(NAME)
    check(fetch(NAME))
    assert server.asked[1] == (REVIEWS, f"bytes={len(server.files[REVIEWS]) // 2}-")


@pytest.mark.parametrize("force", [False, True])
def test_files_of_a_user_in_the_cache_stay(server, cache, force):
    users = ["my notes.txt", "mine.part", ".draft.1.tmp", "deep/x.jsonl", "Other.jsonl.gz.part"]
    for name in users:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("mine")
    fetch(NAME)
    ours = [f"{REVIEWS}.part", f"{ITEMS}.part.json", "hub.part/x", ".sha256.json.9.tmp", "Office_Products.jsonl"]
    if force:
        manifest = json.loads((cache / "sha256.json").read_text())
        (cache / "sha256.json").write_text(json.dumps(manifest | {ours[-1]: "0", "my notes.txt": "0"}))
        for name in ours:
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_text("ours")
        fetch(NAME, force=True)
    assert all((cache / name).read_text() == "mine" for name in users)
    assert not any((cache / name).exists() for name in ours)


@pytest.mark.parametrize("name", [REVIEWS, "meta_Office_Products.jsonl"])
def test_a_file_that_a_user_brought_is_not_written_over_unasked(server, cache, name):
    """Gigabytes that somebody has downloaded by hand: a sentence, before anything is asked for."""
    cache.mkdir(parents=True)
    (cache / name).write_text("mine")
    with pytest.raises(UserError, match=f"sha256.json is missing or damaged; .*{NAME} --force"):
        fetch(NAME)
    assert (cache / name).read_text() == "mine" and not server.asked


@pytest.mark.fault("two processes at once", "amazon fetch")
def test_two_at_once_do_not_mix(server, cache):
    """The second is told to wait."""
    cache.mkdir(parents=True)
    with FileLock(cache / ".lock"), pytest.raises(UserError, match="Another process is fetching"):
        fetch(NAME)
    check(fetch(NAME))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's client replaced: it lists and copies files of a folder."""
    import huggingface_hub

    root = tmp_path / "hub"
    for path, name in PATHS.items():
        file = root / path.removeprefix("/").removesuffix(".gz")
        file.parent.mkdir(parents=True)
        file.write_bytes(TEXTS[name])

    def listed(self, repo, paths, repo_type):
        assert (repo, repo_type) == ("McAuley-Lab/Amazon-Reviews-2023", "dataset")
        contents = {path: (root / path).read_bytes() for path in paths if (root / path).exists()}
        sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}
        return [SimpleNamespace(path=path, size=len(content), lfs=SimpleNamespace(sha256=sums[path]))
                for path, content in contents.items()]  # fmt: skip

    def download(repo, path, repo_type, local_dir):
        (local_dir / path).parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(root / path, local_dir / path)

    monkeypatch.delenv("AGENTICREC_AMAZON2023_URL", raising=False)
    monkeypatch.setattr(huggingface_hub.HfApi, "get_paths_info", listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return SimpleNamespace(root=root, module=huggingface_hub)


def test_the_hub_is_asked_first(hub, cache):
    fetch(NAME)
    assert {path.name for path in cache.iterdir()} - {".lock"} == {
        "Office_Products.jsonl", "meta_Office_Products.jsonl", "sha256.json"}  # fmt: skip
    assert len(load_dataset(NAME).interactions) == 36


@pytest.mark.fault("hub fails", "amazon fetch")
@pytest.mark.parametrize("wrong", ["no network", "no such file", "other content"])
def test_the_official_server_stands_in_for_the_hub(hub, server, cache, monkeypatch, wrong):
    """The next source gives the files."""
    monkeypatch.setenv("AGENTICREC_AMAZON2023_SOURCE", "hub,official")
    if wrong == "no network":
        monkeypatch.setattr(hub.module, "hf_hub_download", lambda *args, **kwargs: 1 / 0)
    elif wrong == "no such file":
        (hub.root / "raw/meta_categories/meta_Office_Products.jsonl").unlink()
    else:
        copy = hub.module.hf_hub_download

        def damaged(*args, **kwargs):
            path = Path(copy(*args, **kwargs))
            path.write_bytes(path.read_bytes().replace(b"5.0", b"1.0"))
            return path

        monkeypatch.setattr(hub.module, "hf_hub_download", damaged)
    check(fetch(NAME))


def test_unknown_names_are_told_with_the_known_ones(server):
    with pytest.raises(UserError, match="'amazon-2023/Toys'.*amazon-2023/Office"):
        fetch("amazon-2023/Toys")
    with pytest.raises(UserError, match="'mirror' of amazon-2023/Office; the known are: hub, official"):
        fetch(NAME, sources="mirror")


def test_an_address_that_is_none_is_told(monkeypatch):
    monkeypatch.setenv("AGENTICREC_AMAZON2023_URL", "nonsense")
    with pytest.raises(UserError, match="unknown url type: 'nonsense/") as error:
        fetch(NAME)
    told(error)
