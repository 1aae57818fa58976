"""A run's adapter for others: the card, plain peft, and that nothing is pushed unasked."""

import json
import shutil

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

from agenticrec_lite import hub
from agenticrec_lite.cli import app
from agenticrec_lite.errors import UserError
from agenticrec_lite.experiment.shipped import SHIPPED
from agenticrec_lite.policy import NANO


class Hub:
    """Takes down what would be sent."""

    sent: list = []

    def create_repo(self, repo, private, exist_ok):
        self.sent.append(("repo", repo, private))
        return f"https://hub.example/{repo}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.sent.append(("folder", repo_id, sorted(path.name for path in folder_path.iterdir())))


@pytest.fixture
def sent(monkeypatch):
    monkeypatch.setattr(Hub, "sent", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub.sent


def test_the_card_tells_data_recipe_metrics_and_deviations(tmp_path, sent):
    card = (hub.export(SHIPPED, tmp_path / "agent") / "README.md").read_text()
    result = json.loads((SHIPPED / "result.json").read_text())
    assert "ml-100k, seed 0" in card and "after ppr" in card and "| rta.learning_rate | 0.003 |" in card
    assert f"| ppr | {result['metrics']['ppr']['H@1']:.3f} [" in card
    assert "The base is quantised to NF4." in card and "supervised steps" not in card
    assert not sent


def test_an_exported_adapter_loads_with_plain_peft(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = hub.export(SHIPPED, tmp_path / "agent")
    bare = AutoModelForCausalLM.from_pretrained(NANO)
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        before = bare(ids).logits.clone()
        adapted = PeftModel.from_pretrained(bare, folder)
        assert not torch.allclose(adapted(ids).logits, before)
    assert {path.name for path in folder.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("name", ["thesis.md", "README.md", "notes/deep.txt"])
def test_an_export_writes_to_no_folder_that_holds_anything(name, tmp_path):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("my thesis")
    with pytest.raises(UserError, match=f"out cannot be written: it holds {name}"):
        hub.export(SHIPPED, tmp_path / "out")
    assert path.read_text() == "my thesis" and [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    (tmp_path / "empty").mkdir()
    assert (hub.export(SHIPPED, tmp_path / "empty") / "README.md").exists()


def test_a_warm_start_is_a_deviation():
    config = {"policy": {"id": "smollm2-135m", "quantize": "none"}, "dataset": "ml-100k"}
    for when, seconds, said in (("always", {}, 1), ("needed", {}, 0), ("needed", {"warm_start": 9.0}, 1)):
        warm = {"warm_start": {"steps": 40, "when": when}, "ppr": {"rehearse": False}}
        told = hub.deviations(config | warm, {"seconds": seconds})
        assert sum(text.startswith("40 supervised steps") for text in told) == said
        assert not any("NF4" in text for text in told)


def test_push_makes_a_private_repository_of_three_files(sent):
    done = CliRunner().invoke(app, ["push", str(SHIPPED), "someone/agent"])
    assert done.exit_code == 0 and "hub.example/someone/agent" in done.output
    assert sent[0] == ("repo", "someone/agent", True)
    assert sent[1][2] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_a_run_without_an_adapter_is_refused(tmp_path, sent):
    shutil.copytree(SHIPPED, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="no adapter"):
        hub.push(tmp_path / "run", "someone/agent")
    assert not sent


@pytest.mark.fault("not logged in", "the hub")
def test_a_hub_that_refuses_is_a_sentence(monkeypatch, sent):
    for error in (OSError("401 Client Error"), type("ConnectError", (Exception,), {})("401, or no network")):

        def refuse(self, *_, error=error, **__):
            raise error

        monkeypatch.setattr(Hub, "create_repo", refuse)
        with pytest.raises(UserError, match="401.*hf auth login"):
            hub.push(SHIPPED, "someone/agent")
