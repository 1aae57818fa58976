"""Checkpoints of a training stage: one that is cut off goes on, bit for bit as if it had not been.

Bit for bit holds on the same machine with a set number of threads, such as OMP_NUM_THREADS=1 (see `runs.threads`).

    checkpoints/rta_steps/12.safetensors    after step 12: adapter, Adam's moments, schedule, random generators,
                                            in fp16 the scale of the loss

A file every so many steps, written whole, the last two kept; no pickles: tensors, and JSON in the header for all else.
The order of the questions and the seeds of rollouts follow from the run's seed and the step, so they need no room.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from agenticrec_lite.errors import UserError
from agenticrec_lite.runs import Run, processes, read_metrics, replacing, threads
from agenticrec_lite.runs.files import remove

CHECKPOINTS_KEPT = 2


class Checkpoints(TrainerCallback):
    """The checkpoints of one stage in a run folder; as a callback of the trainer it puts the last good one in place.

    Args:
        run: Its logged rows after the checkpoint's step are forgotten.
        stage: "rta" or "ppr".
        every: Steps between two checkpoints.

    Attributes:
        step: Steps that need not be trained again; 0 without a good checkpoint.
        history: Their rows of metrics.csv.
    """

    def __init__(self, run: Run, stage: str, every: int = 1):
        self.folder, self.step, self.every = run.checkpoints / f"{stage}_steps", 0, every
        logged = run.logged_steps(stage)
        for path in self._paths():
            try:
                if int(path.stem) > logged:
                    raise ValueError(f"metrics.csv and trajectories have steps up to {logged} only")
                self._tensors, self._state = _read(path)
                self.step = int(path.stem)
                break
            except (OSError, ValueError, SafetensorError) as error:
                processes.say(f"{stage}: the checkpoint {path.name} cannot be used ({error}); an earlier one must do.")
                remove(path)
        run.rewind(stage, self.step + 1)
        rows = read_metrics(run.folder).query("stage == @stage").to_dict("records") if self.step else []
        self.history = [{key: value for key, value in row.items() if value == value} for row in rows]
        if self.step:
            processes.say(f"{stage}: going on after step {self.step}.")

    def save(self, trainer) -> None:
        """Write a checkpoint after every `every`-th step but the last one; keep two.

        Raises:
            UserError: It could not be written.
        """
        step = trainer.state.global_step
        if step == trainer.args.max_steps or step % self.every or not trainer.is_world_process_zero():
            return
        optimizer = trainer.optimizer.state_dict()
        tensors = {f"adapter.{name}": p for name, p in trainer.model.named_parameters() if p.requires_grad}
        tensors |= {f"adam.{i}.{key}": v for i, moments in optimizer["state"].items() for key, v in moments.items()}
        generators, state = _generators()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors | generators).items()}
        state |= {"adam": optimizer["param_groups"], "schedule": trainer.lr_scheduler.state_dict()}
        if trainer.accelerator.scaler:  # in fp16 on a GPU: the loss's scale, and when it last grew
            state["scaler"] = trainer.accelerator.scaler.state_dict()
        text = json.dumps(state)
        with replacing(self.folder / f"{step}.safetensors") as temporary:
            save_file(tensors, temporary, {"state": text, "sha256": _checksum(text, tensors)})
        for path in self._paths()[CHECKPOINTS_KEPT:]:
            path.unlink()

    def _paths(self) -> list[Path]:
        return _checkpoints(self.folder)

    def clear(self) -> None:
        """Remove them all: the stage is done."""
        _clear(self.folder)

    def on_train_begin(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **_) -> None:
        """Put the step, adapter, Adam's moments, schedule and the loss's scale in place."""
        if not self.step:
            return
        state.global_step = self.step
        parameters, moments = dict(model.named_parameters()), {}
        for name, tensor in _under("adapter", self._tensors):
            parameters[name].data.copy_(tensor)
        for name, tensor in _under("adam", self._tensors):
            i, _, key = name.partition(".")
            moments.setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": self._state["adam"]})
        lr_scheduler.load_state_dict(self._state["schedule"])
        if "scaler" in self._state and optimizer.scaler:  # accelerate's optimizer has it
            optimizer.scaler.load_state_dict(self._state["scaler"])

    def on_step_begin(self, args, state, control, **_) -> None:
        """The generators last: the data loader has drawn from them since the training began."""
        if self.step and state.global_step == self.step:
            _set_generators(dict(_under("generator", self._tensors)), self._state)


def check_adapter(run: Run, stage: str) -> None:
    """Raises UserError if the adapter of a finished stage is missing or damaged."""
    folder = run.checkpoints / stage
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "adapter_model.safetensors", "pt"):
            pass
    except (OSError, ValueError, SafetensorError):
        raise UserError(
            f"{folder} is missing or damaged, though its stage is finished: put back a copy of it, "
            f"or delete {run.folder / 'state.json'}, and every stage runs again."
        ) from None


def check_resumed(run: Run, stages: Sequence[str]) -> None:
    """Say what differs from when the run began, and what it has lost; remove checkpoints of finished stages.

    Another number of threads adds in another order: the last digits differ, then a sampled token, then all else. So a
    run goes on bit for bit where the number is set, and not where it is chosen while running ("1 or 2"). With another
    number of processes, each draws other rollouts.
    """
    now = {"threads": threads.description(), "device": "cuda" if torch.cuda.is_available() else "cpu"}
    now["processes"] = processes.count()
    began = now | {"processes": 1} | run.result.get("computed_with", now)  # an earlier version knew of one only
    if began != now:
        processes.say(f"Warning: the run began with {began} and goes on with {now}: another way than bit for bit.")
    run.write_result(computed_with=began)
    for stage in filter(run.done, stages):
        _clear(run.checkpoints / f"{stage}_steps")
        if not run.logged_steps(stage):
            lost = "metrics.csv or trajectories/ has lost the steps"
            processes.say(f"Warning: {lost} of {stage}; its results stand.")


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, latest first."""
    found = [path for path in folder.glob("*.safetensors") if path.stem.isdecimal()]
    return sorted(found, key=lambda path: int(path.stem), reverse=True)


def _clear(folder: Path) -> None:
    """Remove the checkpoints, and their folder unless it holds anything else."""
    for path in _checkpoints(folder):
        path.unlink()
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """A checkpoint's tensors and the rest of its state. Raises ValueError if it is not as it was written."""
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if header.keys() != {"state", "sha256"} or _checksum(header["state"], tensors) != header["sha256"]:
        raise ValueError("it is not as it was written")
    return tensors, json.loads(header["state"])


def _checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors whose name begins with `prefix` and a dot, by the rest of it."""
    return ((name.partition(".")[2], t) for name, t in tensors.items() if name.startswith(f"{prefix}."))


def _generators() -> tuple[dict[str, torch.Tensor], dict]:
    """States of torch's, NumPy's and Python's global generators: tensors, and what is JSON."""
    tensors = {"generator.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"generator.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    name, keys, *rest = np.random.get_state()
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def _set_generators(tensors: dict[str, torch.Tensor], state: dict) -> None:
    torch.set_rng_state(tensors["torch"])
    for name, tensor in _under("cuda", tensors) if torch.cuda.is_available() else ():
        torch.cuda.set_rng_state(tensor, int(name))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
