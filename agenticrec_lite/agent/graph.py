"""CUDA graphs of the decode step: a token costs one launch where Python would launch each kernel.

A graph repeats the same kernels on the same memory. So a step must be given everything by tensors that stay where they
are, and ask the host for nothing; only its shape, rows and slots that are attended to, is fixed in the graph. Rows come
in powers of two and slots in buckets, so that few graphs serve all shapes: rows too many write where nobody looks, and
slots too many are masked.

The CPU tests run the same step, and a stand-in for capture that repeats recorded operations on the same memory. Capture
itself has not run on a card yet. Where it fails, steps go on without it, and one sentence says so.
"""

from collections.abc import Callable

import torch

from agenticrec_lite.errors import first_line
from agenticrec_lite.runs import processes

BUCKET = 512  # slots

# Takes a step of a fixed shape, and gives back what repeats it.
Capture = Callable[[Callable[[], None]], Callable[[], None]]


def in_buckets(used: int) -> int:
    """Slots of the smallest buckets that hold so many."""
    return -(-used // BUCKET) * BUCKET


class Graphs:
    """Decode steps, each recorded the second time it has its shape, and then repeated.

    The first time it just runs: libraries set up what they need, which they must not do while a graph is captured.

    Args:
        room: Rows at most.
        capture: Records a step without running it.
    """

    def __init__(self, room: int, capture: Capture):
        self.room, self.capture = room, capture
        self.repeats: dict[tuple[int, int], Callable[[], None] | None] = {}  # by shape; None: has run once

    def __call__(self, step: Callable[[int, int], None], rows: int, used: int) -> None:
        """Have `step` write a token for so many rows, attending to so many slots, or for some more."""
        if self.capture is None:
            return step(rows, used)
        shape = min(1 << (rows - 1).bit_length(), self.room), in_buckets(used)
        if shape not in self.repeats:
            self.repeats[shape] = None
            return step(*shape)
        if self.repeats[shape] is None:
            try:
                self.repeats[shape] = self.capture(lambda: step(*shape))
            except RuntimeError as error:
                self.capture = None
                processes.say(
                    f"CUDA graphs cannot be used here ({first_line(error)}), so Python launches every kernel: slower, "
                    "and nothing else changes."
                )
                return step(rows, used)
        return self.repeats[shape]()


def cuda_capture() -> Capture:
    """Capture for the graphs of one rollout, which share memory: nothing in it is kept from one step to the next."""
    pool = torch.cuda.graph_pool_handle()

    def capture(step: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            step()
        return graph.replay

    return capture
