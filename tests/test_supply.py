"""Supply: nothing loaded can run code, nothing unpacked can leave its folder, no secret is kept, nobody is called."""

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from agenticrec_lite.data import fetch as fetching
from agenticrec_lite.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = "192.0.2.1"  # reserved for documentation (RFC 5737): nobody is there
LORA = {"r": 4, "alpha": 8, "targets": "all-linear"}
SETTINGS = {"id": "nano", "brief": True, "quantize": "none", "dtype": "float32", "lora": LORA}
SECRETS = (
    "HF_TOKEN HUGGING_FACE_HUB_TOKEN WANDB_API_KEY OPENAI_API_KEY AWS_SECRET_ACCESS_KEY GITHUB_TOKEN KAGGLE_KEY"
).split()
CANARY = "canary-5e1d0b7f"


# --- nothing beyond loopback ---


@pytest.mark.fault("a way out", "socket of a test")
@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection((ELSEWHERE, 80), timeout=1),
        lambda: socket.socket().connect_ex((ELSEWHERE, 80)),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (ELSEWHERE, 53)),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.gethostbyname("example.org"),
        lambda: urllib.request.urlopen(f"http://{ELSEWHERE}/", timeout=1),
    ],
)
def test_tests_reach_nothing_beyond_loopback(reach):
    """Connections, datagrams and name look-ups of this process are refused."""
    with pytest.raises(OSError, match="nothing beyond loopback"):
        reach()


def test_loopback_is_open():
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with urllib.request.urlopen(f"http://localhost:{server.server_port}/", timeout=5) as answer:
            assert answer.read() == b"hello"


@pytest.mark.fault("a way out", "process of a test")
@pytest.mark.parametrize(
    "command",
    [
        ["-c", f"import socket; socket.create_connection(('{ELSEWHERE}', 80), timeout=1)"],
        ["-m", "pip", "download", "--no-deps", "--retries", "1", "--index-url", f"https://{ELSEWHERE}/", "nothing"],
        ["-c", "import huggingface_hub as hub; hub.hf_hub_download('no/such', 'config.json')"],
    ],
    ids=["socket", "pip", "hub"],
)
def test_processes_that_tests_start_reach_nothing_either(command, tmp_path):
    """A child that opens a socket, pip, and the model hub's client are refused as well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and ("nothing beyond loopback" in said or "offline mode" in said), said
    assert not list(tmp_path.iterdir())


def test_the_fetched_data_is_what_was_published():
    """What `make fetch` brought, by the one step that may go out."""
    from agenticrec_lite.data import movielens

    if not (fetching.cache_folder() / "ml-100k").exists():
        pytest.skip("ml-100k has not been fetched here")
    assert movielens.load_ml100k().digest() == movielens.DIGEST


# --- safetensors only ---


def bomb(mark: Path) -> bytes:
    """A pickle that makes a file when it is loaded."""
    return f"cbuiltins\nopen\n(V{mark}\nVw\ntR.".encode()


@pytest.fixture
def folder(tiny, tmp_path):
    """A policy's folder as `save_pretrained` leaves it."""
    model, chat = tiny
    model.save_pretrained(tmp_path / "policy")
    chat.tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


@pytest.fixture
def adapter(folder, tmp_path):
    from agenticrec_lite.policy import load_policy

    load_policy(SETTINGS | {"id": str(folder)}).model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(settings, adapter=None) -> str:
    from agenticrec_lite.policy import load_policy

    with pytest.raises(UserError) as error:
        load_policy(SETTINGS | settings, adapter)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.fault("a pickle for weights", "policy folder")
def test_a_pickled_policy_is_refused_and_never_opened(folder, tmp_path, monkeypatch):
    """pytorch_model.bin is not read, whatever it holds."""
    opened = []
    monkeypatch.setattr("torch.load", lambda *args, **kwargs: opened.append(args))
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bomb(tmp_path / "ran"))
    assert "no file named model.safetensors" in refused({"id": str(folder)})
    assert not opened and not (tmp_path / "ran").exists()


@pytest.mark.fault("a pickle for weights", "adapter folder")
def test_a_pickled_adapter_is_refused_and_never_opened(folder, adapter, tmp_path, monkeypatch):
    """adapter_model.bin is not read, and beside a safetensors file it is not looked at."""
    from agenticrec_lite.policy import load_policy

    monkeypatch.setattr("torch.load", lambda *args, **kwargs: pytest.fail("a pickle was opened"))
    (adapter / "adapter_model.bin").write_bytes(bomb(tmp_path / "ran"))
    load_policy(SETTINGS | {"id": str(folder)}, adapter)
    (adapter / "adapter_model.safetensors").unlink()
    assert "There is no adapter_model.safetensors" in refused({"id": str(folder)}, adapter)
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("code beside the weights", "policy folder")
def test_code_that_a_policy_brings_is_not_run(folder, tmp_path):
    """A configuration that names its own classes is refused without a question on the terminal."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "custom code" in refused({"id": str(folder)})
    assert not (tmp_path / "ran").exists()


@pytest.mark.fault("damaged weights", "policy folder")
def test_a_damaged_policy_is_one_sentence(folder):
    """model.safetensors cut in the middle."""
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refused({"id": str(folder)})


@pytest.mark.fault("damaged weights", "adapter folder")
def test_a_damaged_adapter_is_one_sentence(folder, adapter):
    """adapter_model.safetensors cut in the middle."""
    whole = (adapter / "adapter_model.safetensors").read_bytes()
    (adapter / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "train that stage again" in refused({"id": str(folder)}, adapter)


# --- archives ---

ESCAPING = ("../outside", "../../outside", "sub/../../../outside", "..\\outside", "{root}/outside", "ml-100k/../u.data")


@pytest.mark.fault("an archive that climbs out", "fetched zip")
def test_an_archive_cannot_write_outside_its_folder(tmp_path, monkeypatch):
    """Members with .., absolute paths and links: only the wanted members arrive, by base name."""
    import hashlib
    import io
    import zipfile

    buffer, names = io.BytesIO(), [name.format(root=tmp_path) for name in ESCAPING]
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("ml-100k/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path))
        for name in names + [f"{name}/u.data" for name in names] + ["ml-100k/link/u.item"]:
            archive.writestr(name, "outside")
        for member in fetching.OFFICIAL_MEMBERS:
            archive.writestr(member, "wanted")
    content = buffer.getvalue()
    monkeypatch.setattr(fetching, "OFFICIAL_MD5", hashlib.md5(content).hexdigest())
    (tmp_path / "it.zip").write_bytes(content)
    monkeypatch.setenv("AGENTICREC_ML100K_URL", (tmp_path / "it.zip").as_uri())
    monkeypatch.setenv("AGENTICREC_CACHE", str(tmp_path / "deep" / "cache"))
    got = fetching.fetch("ml-100k", sources="official")
    assert {path.read_text() for path in got.glob("u.*")} == {"wanted"}
    everything = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert everything == {"it.zip", *(f"deep/cache/ml-100k/{n}" for n in ("u.data", "u.item", "u.user", "sha256.json"))}


def test_the_package_takes_archives_apart_in_one_place_only():
    """`extractall` and its like would trust the archive's paths."""
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "agenticrec_lite").rglob("*.py")}
    for word in (r"\.extractall\(", r"(?<!\.str)\.extract\(", r"unpack_archive\(", "tarfile"):  # .str.extract: pandas
        assert not [path.name for path, text in sources.items() if re.search(word, text)], word


def test_every_weight_file_is_loaded_as_safetensors():
    """Each call that loads a model says so, but for GGUF, which is no pickle either."""
    calls = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        for path in (ROOT / "agenticrec_lite").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and re.fullmatch(r"AutoModel\w*\.from_pretrained", ast.unparse(node.func))
    ]
    assert calls and all(call.get("use_safetensors") == "True" or "gguf_file" in call for call in calls)


# --- secrets ---


def holders(folder: Path) -> list[str]:
    """Files below a folder that hold the canary."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


@pytest.fixture
def canary(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)


@pytest.mark.fault("secrets in the environment", "training and its run folder")
def test_training_writes_no_secret_down(canary, tiny, tmp_path, capfd):
    """Adapter, metrics, trajectories, trl's and transformers' own dumps, and the terminal."""
    import copy

    from agenticrec_lite.agent.question import Question
    from agenticrec_lite.nano.worlds import random_world
    from agenticrec_lite.policy import Policy, add_adapter
    from agenticrec_lite.rewards import listwise_reward
    from agenticrec_lite.runs import open_run
    from agenticrec_lite.training.grpo import ListwiseGRPOTrainer

    settings = {"steps": 1, "tasks_per_step": 1, "group_size": 2, "micro_groups": 1, "learning_rate": 1e-3}
    agent = {"max_calls": 1, "max_turn_tokens": 8, "max_completion_tokens": 64, "batch_rows": 8, "merge": True}
    policy = Policy(add_adapter(copy.deepcopy(tiny[0]), LORA), tiny[1].tokenizer, True)
    with open_run(tmp_path / "run", {"dataset": "d", "profile": "p", "seed": 0}) as run:
        trainer = ListwiseGRPOTrainer(
            policy, [Question("q", random_world(np.random.default_rng(0), 3, 3), "rank", 1)], listwise_reward,
            settings | {"warmup_steps": 0, "temperature": 1.0}, agent, run, "rta", 0, str(tmp_path / "trainer"),
        )  # fmt: skip
        trainer.train()
        run.write_result(seconds={})
    policy.model.save_pretrained(tmp_path / "run" / "checkpoints" / "rta")
    trainer.save_state()
    (tmp_path / "args.json").write_text(trainer.args.to_json_string() + str(trainer.args))
    assert (tmp_path / "run" / "metrics.csv").exists() and (tmp_path / "trainer").exists()
    assert holders(tmp_path) == []
    assert CANARY not in "".join(capfd.readouterr())


@pytest.mark.all
@pytest.mark.fault("secrets in the environment", "executed notebook and its run folder")
def test_the_executed_quickstart_holds_no_secret(canary, tmp_path):
    """The whole way with the short budget, as `make demo` goes it."""
    if not (fetching.cache_folder() / "ml-100k").exists():
        pytest.skip("ml-100k has not been fetched here")
    out = tmp_path / "demo"
    out.mkdir()
    command = [sys.executable, "-m", "papermill", "notebooks/00_quickstart.ipynb", str(out / "00_quickstart.ipynb")]
    command += ["--cwd", "notebooks", "-k", "python3", "-p", "out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"AGENTICREC_BUDGET": "short", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "result.json").exists() and "image/png" in (out / "00_quickstart.ipynb").read_text(encoding="utf-8")
    assert holders(tmp_path) == [] and CANARY not in done.stdout + done.stderr


# --- make audit ---


@pytest.fixture
def auditor(monkeypatch):
    """`.ci/audit.py`, with pip-audit's answer made up."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def answers(code, out, err):
        run = lambda command, **_: subprocess.CompletedProcess(command, code, out, err)  # noqa: E731
        monkeypatch.setattr(module.subprocess, "run", run)
        return module

    return answers


@pytest.mark.parametrize(
    ("code", "out", "err", "exit_code", "says"),
    [
        (0, "", "WARNING: x\nNo known vulnerabilities found\n", 0, "No known vulnerabilities found"),
        (1, "x 1.0 PYSEC-1 1.1\n", "Found 1 known vulnerability in 1 package\n", 1, "PYSEC-1"),
        (1, "", "ERROR:torch: Dependency not found on PyPI and could not be audited\n", 2, "could not be asked"),
        (1, "", "Traceback ...\nrequests.exceptions.ConnectionError: nobody there\n", 2, "could not be asked"),
        (1, "", "", 2, "without a word"),
    ],
)
def test_an_audit_that_could_not_look_is_not_a_clean_one(auditor, capfd, code, out, err, exit_code, says):
    assert auditor(code, out, err).audit(["torch==2.13.0"]) == exit_code
    printed = capfd.readouterr()
    assert says in printed.out + printed.err
    assert exit_code != 2 or len(printed.err.splitlines()) == 1


def test_the_audit_knows_all_pins_by_their_public_versions(auditor):
    listed = "torch==2.13.0+cpu\nnumpy==2.4.6\n"
    assert auditor(0, listed, "").installed() == ["torch==2.13.0", "numpy==2.4.6"]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_tests_go_out_in_the_fetch_step_only():
    """`make test` fetches first, and runs the notebooks behind the guard."""
    done = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert done.index("cli fetch ml-100k") < done.index("-m pytest")
    assert 'PYTHONPATH="' in done[done.index("AGENTICREC_BUDGET") : done.index("--nbval-lax")]
