"""A run's adapter for others: with a model card, in a folder that plain peft loads, and on the Hugging Face hub."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from agenticrec_lite.errors import UserError, first_line
from agenticrec_lite.runs import read_config, read_result, replacing
from agenticrec_lite.runs.files import check_replaceable

STAGES = ("ppr", "rta", "warm_start")  # the last one that a run has come to is what it leaves
PUBLISHED = {
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct", "nano": "data/nano", "nano-plain": "data/nano/plain",
}  # fmt: skip
CARD = Path(__file__).with_name("hub_card.md").read_text(encoding="utf-8")


def export(run: str | Path, out: str | Path, where: str | None = None) -> Path:
    """Write the adapter of the last stage that a run has come to, with its model card, into a folder.

    Args:
        run: A run folder.
        out: The folder: a new or an empty one.
        where: The name by which the card loads it; by default `out`'s last part.

    Raises:
        UserError: The run has no adapter, or the folder holds files or cannot be written.
    """
    run, out = Path(run), Path(out)
    check_replaceable(out)
    config, result = read_config(run), read_result(run)
    found = [name for name in STAGES if (run / "checkpoints" / name / "adapter_model.safetensors").exists()]
    if not found:
        raise UserError(f"{run} has no adapter of any stage; train one first, with agenticrec run.")
    model = config["policy"]["id"]
    base = PUBLISHED.get(model, model)
    adapter = run / "checkpoints" / found[0]
    described = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    with replacing(out) as folder:
        folder.mkdir()
        shutil.copy(adapter / "adapter_model.safetensors", folder)
        text = json.dumps(described | {"base_model_name_or_path": base}, indent=2)
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        card = model_card(config, result, found[0], base, where or out.name)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return out


def model_card(config: Mapping, result: Mapping, stage: str, base: str, where: str) -> str:
    """What the adapter is, how it was made, what it can do, and what of that is not the paper's."""
    chosen = {"policy": config["policy"]} | {name: config[name] for name in reversed(STAGES) if name in config}
    recipe = [f"| {name}.{key} | {value} |" for name, section in chosen.items() for key, value in section.items()]
    metrics = [
        f"| {name} | {_interval(figures, 'H@1')} | {_interval(figures, 'N@10')} | {figures['valid']:.3f} |"
        for name, figures in result.get("metrics", {}).items()
    ]
    return CARD.format(
        base=base, stage=stage, where=where, dataset=config["dataset"], seed=config["seed"],
        n_test=result.get("n_test", "no"), recipe="\n".join(recipe),
        metrics="\n".join(metrics or ["| not measured | | | |"]),
        deviations="\n".join(f"- {text}" for text in deviations(config, result)),
    )  # fmt: skip


def deviations(config: Mapping, result: Mapping) -> list[str]:
    """Where a run departs from the paper (arXiv 2603.21613), in sentences."""
    policy, warm = config["policy"], config["warm_start"]["steps"]
    if config["warm_start"]["when"] == "needed" and "warm_start" not in result.get("seconds", {}):
        warm = 0  # it was not needed
    found = [
        (policy["id"] != "Qwen/Qwen3-4B-Instruct-2507", "Another model; the paper's is Qwen3-4B-Instruct-2507."),
        (not config["dataset"].startswith("amazon"), "Other data than the paper's, which is Amazon Reviews 2023."),
        (True, "Only a LoRA adapter is trained; the paper mentions none."),
        (policy["quantize"] == "nf4", "The base is quantised to NF4."),
        (warm, f"{warm} supervised steps on scripted trajectories come first: the model does not speak the protocol."),
        (config["rta"]["scale_rewards"] != "none", "Advantages of stage 1 are divided by their group's deviation."),
        (config["ppr"]["rehearse"], "In PPR, each pair's ranking task stays among the questions."),
    ]
    return [text for holds, text in found if holds]


def push(run: str | Path, repo: str, public: bool = False) -> str:
    """Put a run's adapter and its card on the Hugging Face hub, for which one has to be logged in; its address.

    Raises:
        UserError: The run has no adapter, or the hub does not take it.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        folder = export(run, Path(scratch) / "adapter", where=repo)
        api = HfApi()
        try:
            address = api.create_repo(repo, private=not public, exist_ok=True)
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Adapter and card")
        except Exception as error:  # its client's errors have no common class, and change with its versions
            raise UserError(
                f"The hub does not take {repo} ({first_line(error)}); log in with hf auth login, or check the name."
            ) from None
    return str(address)


def _interval(figures: Mapping, name: str) -> str:
    low, high = figures["ci95"][name]
    return f"{figures[name]:.3f} [{low:.3f}, {high:.3f}]"
