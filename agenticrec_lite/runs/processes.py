"""Several processes that train one policy, as `accelerate launch` starts them: one of them writes, all go the same way.

Every process holds the whole policy, plays its share of the tasks and computes what is the same for all by itself. With
one process all of this is as if it were not there.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from agenticrec_lite.errors import UserError

T = TypeVar("T")


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def index() -> int:
    """Which of them this is: 0 is the one that writes files and speaks."""
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    return index() == 0


def share(n: int) -> slice:
    """Which of n things are this process's: a run of them."""
    return slice(n * index() // count(), n * (index() + 1) // count())


def own_seed(seed: int) -> int:
    """A seed for what this process draws: another one in each; of the first, `seed` itself."""
    return seed + 99_999_989 * index()


def gather(rows: list[T]) -> list[T]:
    """The lists of all processes, one after the other. Waits until every process has come here."""
    if count() == 1:
        return rows
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    # Asked for each time, for trl's arguments reset it. A process may wait for another that fetches gigabytes.
    PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=12))
    return gather_object(rows)


def main_first(do: Callable[[], T]) -> T:
    """What `do()` returns; the first process does it, then the others. If it cannot, it says why and all end.

    Raises:
        UserError: In the first process, what `do` raises.
    """
    try:
        result = do() if is_main() else None
    except UserError:
        gather([False])
        raise
    if not all(gather([True])):
        raise SystemExit(2)
    result = result if is_main() else do()
    gather([])
    return result


def say(text: str) -> None:
    """Print, once for all processes."""
    if is_main():
        print(text)
