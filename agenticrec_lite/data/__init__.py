"""Datasets as one `InteractionLog`, split in time and turned into ranking tasks."""

from agenticrec_lite.data.log import InteractionLog, make_log
from agenticrec_lite.data.movielens import load_ml100k
from agenticrec_lite.data.split import Split, temporal_split
from agenticrec_lite.data.tasks import RankingTask, build_tasks
from agenticrec_lite.errors import UserError

__all__ = [
    "InteractionLog", "RankingTask", "Split", "build_tasks", "load_dataset", "make_log", "temporal_split",
]

DATASETS = {"ml-100k": load_ml100k}


def load_dataset(name: str) -> InteractionLog:
    """Loads a dataset by name, fetching it first where it must be fetched.

    Raises:
        UserError: the name is unknown, or the dataset can be neither found nor fetched.
    """
    if name not in DATASETS:
        raise UserError(f"There is no dataset {name!r}; the known ones are: {', '.join(DATASETS)}.")
    return DATASETS[name]()
