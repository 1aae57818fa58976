"""Datasets as one `InteractionLog`, split in time and turned into ranking tasks."""

import os

from agenticrec_lite.data.fetch_amazon import AMAZON
from agenticrec_lite.data.log import InteractionLog, make_log
from agenticrec_lite.data.movielens import load_ml100k
from agenticrec_lite.data.own import from_frames, load_files
from agenticrec_lite.data.split import Split, temporal_split
from agenticrec_lite.data.tasks import RankingTask, build_tasks
from agenticrec_lite.data.toystore_world import DESIGNS
from agenticrec_lite.errors import UserError

__all__ = [
    "InteractionLog", "RankingTask", "Split", "build_tasks", "from_frames", "load_dataset", "make_log",
    "temporal_split",
]  # fmt: skip

DATASETS = ("ml-100k", *DESIGNS, *AMAZON)


def load_dataset(name: str) -> InteractionLog:
    """Loads a dataset by name, fetching it first where it must be fetched, or one's own files.

    Args:
        name: one of `DATASETS`, or a place of one's own files as in `own.load_files`: a folder, a .zip, a file, or
            two paths with a comma between; docs/data.md lists the formats.

    Raises:
        UserError: the name is unknown, or the dataset can be neither found nor fetched, or not be read.
    """
    if name == "ml-100k":
        return load_ml100k()
    if name in DESIGNS:
        from agenticrec_lite.data.toystore import home, load_toystore

        return load_toystore(home(name))
    if name in AMAZON:
        from agenticrec_lite.data.amazon import load_amazon

        return load_amazon(name)
    if is_own(name):
        return load_files(name)
    raise UserError(f"There is no dataset {name!r}, nor a folder of that name; the known ones are: "
                    f"{', '.join(DATASETS)}; or give a folder or a file of your own.")


def is_own(name: str) -> bool:
    """Whether a dataset's name is a place of one's own files, which may change between two runs."""
    return name not in DATASETS and (os.path.exists(os.path.expanduser(name)) or "," in name)
