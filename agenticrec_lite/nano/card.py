"""What pre-training leaves beside the weights: the model card and the training log."""

import csv
from pathlib import Path

import numpy as np

CARD = Path(__file__).with_name("card.md").read_text(encoding="utf-8")


def has_card(folder: Path) -> bool:
    """Whether nano's model card is in a folder, so that the files beside it are nano's."""
    path = folder / "README.md"
    return path.is_file() and path.read_bytes().startswith(CARD.partition("{")[0].encode())


def write_log(path: Path, log: list[dict], every: int = 25) -> None:
    """Means over every 25 steps."""
    columns = ["action_ce", "observation_ce"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "part", "seconds", *columns])
        for i in range(every, len(log) + 1, every):
            part = log[i - every : i]
            means = (f"{np.mean([row[column] for row in part]):.4f}" for column in columns)
            writer.writerow([part[-1]["step"], part[-1]["part"], round(part[-1]["seconds"], 1), *means])


def write_card(path: Path, recipe: dict, log: list[dict], marks: dict, plain: dict) -> None:
    """The model card: what it is, how it was made, what it can do with its habit and without."""
    parts = {f"lessons from step {part.pop('begin')} on": part for part in map(dict, recipe["parts"])}
    made = "\n".join(
        f"| {name} | {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value} |"
        for name, value in ({name: value for name, value in recipe.items() if name != "parts"} | parts).items()
    )
    rows = []
    for kind, mark in marks.items():
        figures = [each[name] for each in (mark, plain[kind]) for name in ("valid", "exact", "kept", "calls")]
        rows.append(f"| {kind} | " + " | ".join("-" if x is None else f"{x:.3f}" for x in figures) + " |")
    text = CARD.format(minutes=log[-1]["seconds"] / 60, made=made, can="\n".join(rows))
    path.write_text(text, encoding="utf-8")
