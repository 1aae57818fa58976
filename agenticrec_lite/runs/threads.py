"""How many threads torch computes with on the CPU: chosen while the work runs, by timing the work itself.

OpenMP's threads wait for each other in a loop. On quiet cores a second thread makes SASRec and nano faster. Beside
another busy process this waiting takes the time that the work needs, and a step takes from two to thirty times as long.
So equal pieces of the real work are timed with each number every few seconds, and the better number is kept.

Nothing is changed if the user has set the number (OMP_NUM_THREADS, MKL_NUM_THREADS or torch.set_num_threads), on a
machine with a GPU, or with several processes.

Another number of threads adds in another order, so the last digits of a result differ. For the same result bit for bit
set the number, for example OMP_NUM_THREADS=1.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from agenticrec_lite.runs import processes

SET_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
DEFAULT = torch.get_num_threads()  # torch's own: the cores that this process may use
COUNTS = tuple(sorted({1, max(1, DEFAULT // 2), DEFAULT}))  # the numbers to choose from
LOOK = 0.1  # seconds of work for which each number is timed; shorter ones do not see the other process
STAY = 20  # between two looks: so many times what the last one spent with the numbers that were not kept
MARGIN = 1.25  # the larger number is kept unless a smaller one is faster by this factor


class Chooser:
    """Chooses the number of threads for pieces of work, from how long earlier pieces took.

    From time to time it looks: it times a few pieces of one kind with each number. The largest number is kept unless a
    smaller one is clearly faster.

    Args:
        counts: The numbers of threads to choose from.

    Attributes:
        kept: The number that was the better one at the last look; before the first, the largest.
    """

    def __init__(self, counts: Sequence[int]):
        self.counts, self.kept = sorted(counts), max(counts)
        self._next_look = 0.0
        self._kind, self._warm, self._decided = None, False, False
        self._timed: dict[int, tuple[float, float]] = {}  # by number, in this look: size and seconds of the pieces

    def next(self, kind: str, now: float) -> int:
        """The number of threads for the next piece.

        Args:
            kind: Only pieces of one kind are compared.
            now: Seconds on any clock.
        """
        if kind != self._kind:
            self._end_look(now)  # what other pieces took cannot be compared
            self._kind, self._warm = kind, False
        if now < self._next_look:
            return self.kept
        return next(count for count in self.counts if self._timed.get(count, (0, 0))[1] < LOOK)

    def record(self, count: int, size: float, seconds: float, now: float) -> None:
        """Note how long a piece took with the number that `next` gave for it; `now` is its end."""
        if now - seconds < self._next_look:
            return
        if not self._warm:  # the first piece of a kind also sets up memory and kernels
            self._warm = True
            return
        before = self._timed.get(count, (0.0, 0.0))
        self._timed[count] = before[0] + size, before[1] + seconds
        if all(self._timed.get(each, (0, 0))[1] >= LOOK for each in self.counts):
            self._decide(now)

    def _decide(self, now: float) -> None:
        pace = {count: size / seconds for count, (size, seconds) in self._timed.items()}
        fastest = max(pace.values())
        self.kept = max(count for count in self.counts if pace[count] * MARGIN >= fastest)
        self._decided = True
        self._end_look(now)

    def _end_look(self, now: float) -> None:
        """Wait with the next look, so that looks take a small part of the time; but find a first number soon."""
        lost = sum(seconds for count, (_, seconds) in self._timed.items() if count != self.kept)
        self._next_look, self._timed = max(self._next_look, now + STAY * lost if self._decided else now), {}


_chooser = Chooser(COUNTS)  # one for the process: how busy the machine is does not depend on the kind of work
_choosing = False


def is_set() -> bool:
    """Whether the number of threads is fixed: by the user, or since there is nothing to choose."""
    by_user = any(os.environ.get(name) for name in SET_BY) or torch.get_num_threads() != DEFAULT
    return by_user or DEFAULT == 1 or processes.count() > 1 or torch.cuda.is_available()


def description() -> int | str:
    """The number of threads as a run's record has it: a number, or all those that are chosen from, as "1 or 2"."""
    return torch.get_num_threads() if not _choosing and is_set() else " or ".join(map(str, COUNTS))


@contextmanager
def chosen() -> Iterator[None]:
    """In this block torch uses the number of threads that is best at the time; after it, the number from before.

    The choice rests on the pieces of work in the block that are `timed`. Nothing happens if the number `is_set`.
    """
    global _choosing
    if _choosing or is_set():
        yield
        return
    _choosing = True
    torch.set_num_threads(_chooser.kept)
    try:
        yield
    finally:
        _choosing = False
        torch.set_num_threads(DEFAULT)


@contextmanager
def timed(kind: str, size: float = 1) -> Iterator[None]:
    """One piece of work in a `chosen` block; sometimes it is run with another number of threads, to compare.

    Args:
        kind: Pieces of one kind differ in nothing but their size.
        size: How much work it is, in any unit.
    """
    if not _choosing:
        yield
        return
    start = time.perf_counter()
    count = _chooser.next(kind, start)
    if count != torch.get_num_threads():
        torch.set_num_threads(count)
    yield
    end = time.perf_counter()
    _chooser.record(count, size, end - start, end)
    if _chooser.kept != count:
        torch.set_num_threads(_chooser.kept)
