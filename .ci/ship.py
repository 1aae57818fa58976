"""Puts finished runs where the course finds them: `python .ci/ship.py runs/a runs/b ...` -> data/results.

Without trajectories, which hold text of the dataset; with the adapters of all stages, of runs that are no variants.
"""

import shutil
import sys
from pathlib import Path

from agenticrec_lite.experiment.shipped import RESULTS
from agenticrec_lite.runs import read_config, read_ranks, replacing

FILES = ("config.yaml", "metrics.csv", "ranks.csv", "result.json", "state.json")
STAGES = ("warm_start", "rta", "ppr")
ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")


def ship(run: Path) -> Path:
    """Copy one run; what was shipped of this seed before is replaced.

    Raises:
        UserError: the run has not finished, or the place holds files that this run would not.
    """
    config = read_config(run)
    read_ranks(run)  # it has finished
    place = RESULTS / f"{config['profile']}-{config['dataset']}" / f"seed-{config['seed']}"
    if variant := config.get("variant"):
        place = RESULTS / "studies" / place.parent.name / variant / place.name
    without = {"state.json"} if variant else set()
    if not (run / "metrics.csv").exists():  # it has trained nothing
        without.add("metrics.csv")
    with replacing(place) as fresh:
        fresh.mkdir()
        for name in (name for name in FILES if name not in without):
            shutil.copyfile(run / name, fresh / name)
        for stage in () if variant else (name for name in STAGES if (run / "checkpoints" / name).exists()):
            (fresh / "checkpoints" / stage).mkdir(parents=True)
            for name in ADAPTERS:
                shutil.copyfile(run / "checkpoints" / stage / name, fresh / "checkpoints" / stage / name)
    return place


if __name__ == "__main__":
    for run in sys.argv[1:]:
        print(ship(Path(run)))
