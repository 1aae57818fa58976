"""Writes an executed notebook as it is committed: `make notebooks`.

A progress bar is kept as its last line of text: a widget's state would show only where widgets can run.
"""

import html
import re
import sys
from pathlib import Path

import nbformat

KEPT = ("tags", "cellView", "jupyter")  # of a cell's metadata; the last two fold it, in Colab and JupyterLab
WIDGET, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
LOCAL_PATH = re.compile(r"(?<![\w.~$}<])/(?:work|root|tmp|opt|home/\w+|Users/\w+)(?:/|\b)")


def bar_text(widgets: dict, model_id: str) -> str | None:
    """The last line of a tqdm bar: its description, share, and counts. None if it was cleared."""
    state = widgets[model_id]["state"]
    layout = widgets.get(state.get("layout", "").removeprefix("IPY_MODEL_"), {"state": {}})["state"]
    if layout.get("display") == "none" or layout.get("visibility") == "hidden":
        return None
    parts = [widgets[child.removeprefix("IPY_MODEL_")]["state"] for child in state.get("children", [])]
    text = " ".join(part["value"].strip() for part in parts if isinstance(part.get("value"), str))
    return " ".join(html.unescape(text).split())


def clean(notebook: nbformat.NotebookNode) -> None:
    """Widgets become text; what papermill and the clock added goes."""
    widgets = notebook.metadata.pop("widgets", {}).get(STATE, {"state": {}})["state"]
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    for cell in notebook.cells:
        cell.metadata = {name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)}
        for output in list(cell.get("outputs", [])):
            if WIDGET in output.get("data", {}):
                text = bar_text(widgets, output["data"][WIDGET]["model_id"])
                output["data"] = {"text/plain": text or ""}
                if text is None:
                    cell.outputs.remove(output)
            elif output.output_type == "stream" and output.name == "stderr":
                cell.outputs.remove(output)


def commit(executed: str | Path, committed: str | Path) -> None:
    """Clean an executed notebook and write it where it is committed, unless an output names a local path."""
    notebook = nbformat.read(executed, as_version=4)
    clean(notebook)
    text = nbformat.writes(notebook)
    if found := LOCAL_PATH.search(text):
        sys.exit(f"{executed}: an output names a path of this machine, {found.group()}")
    Path(committed).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    commit(*sys.argv[1:])
