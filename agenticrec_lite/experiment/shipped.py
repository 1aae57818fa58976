"""Finished runs as material for a closer look: those that ship with the repository, or one's own."""

import shutil
import tempfile
import weakref
from pathlib import Path

from agenticrec_lite.data import load_dataset
from agenticrec_lite.experiment.experiment import Experiment
from agenticrec_lite.runs import open_run, read_config, read_result, settings_of
from agenticrec_lite.runs.run import TRAJECTORIES

RESULTS = Path(__file__).parents[2] / "data" / "results"
FIRST = RESULTS / "first"  # runs of the first agent, until the second edition of the evidence replaces them
SHIPPED = RESULTS / "nano-ml-100k" / "seed-0"  # its neighbours are other seeds


def borrow(run_dir: str | Path = SHIPPED) -> Experiment:
    """An experiment that goes on from a finished run, in a private copy: nothing is written to the run's folder.

    The copy is without trajectories, which may hold text of a dataset, and is removed along with the experiment.

    Args:
        run_dir: A run folder, such as runs/demo.

    Raises:
        UserError: No finished run is there.
    """
    config = read_config(run_dir)
    read_result(run_dir)
    log = load_dataset(config["dataset"])
    copy = Path(tempfile.mkdtemp(prefix="agenticrec-"))
    left_out = shutil.ignore_patterns(".*", TRAJECTORIES, "notebooks")
    shutil.copytree(run_dir, copy, dirs_exist_ok=True, ignore=left_out)
    experiment = Experiment(log, settings_of(config), config["seed"], open_run(copy, config))
    weakref.finalize(experiment, shutil.rmtree, copy, ignore_errors=True)
    return experiment
