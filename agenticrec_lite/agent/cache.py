"""The KV cache of ragged rollouts.

One rule makes ragged batches exact: a token's slot in the cache is its position in its own row. Rows of different
lengths then share a buffer without padding inside it; a query at position p attends to slots 0..p of its row, and
whatever a shorter row's pads wrote beyond that is overwritten by its next real tokens.

The buffer has room for all rows that will ever be played together. A pass reads and writes some of them, and a row that
leaves or comes moves no other but the one that takes its place.
"""

import torch
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 256


class SlotLayer(DynamicLayer):
    """One layer's keys and values in a preallocated buffer [room, heads, capacity, d], written at given slots."""

    rows: slice | torch.Tensor  # that the next tokens belong to; these four are set by SlotCache.place
    index: torch.Tensor  # the same rows as numbers [B]
    slots: torch.Tensor  # [B, n] where the next tokens go
    used: int = 0

    def __init__(self, room: int, capacity: int):
        super().__init__()
        self.room, self.capacity = room, capacity

    def update(self, key, value, *args, **kwargs):
        self.make_room(key, value, self.used)
        self.keys[self.index[:, None], :, self.slots] = key.transpose(1, 2)
        self.values[self.index[:, None], :, self.slots] = value.transpose(1, 2)
        return self.keys[self.rows, :, : self.used], self.values[self.rows, :, : self.used]

    def make_room(self, key: torch.Tensor, value: torch.Tensor, used: int) -> None:
        """Have a buffer for `used` slots, for heads such as these."""
        if not self.is_initialized:
            self.lazy_initialization(key, value)
            self.keys, self.values = (x.new_zeros(self.room, x.shape[1], 0, x.shape[3]) for x in (key, value))
        capacity = max(self.capacity, (used + _BLOCK - 1) // _BLOCK * _BLOCK)
        self.keys, self.values = _grow(self.keys, capacity), _grow(self.values, capacity)


def _grow(buffer: torch.Tensor, capacity: int) -> torch.Tensor:
    """The buffer with room for `capacity` slots; itself if it has it."""
    if buffer.shape[2] >= capacity:
        return buffer
    grown = buffer.new_zeros(*buffer.shape[:2], capacity, buffer.shape[3])
    grown[:, :, : buffer.shape[2]] = buffer
    return grown


class SlotCache(Cache):
    """A KV cache in which each row keeps its own length.

    Args:
        n_layers: Of the decoder.
        room: Rows at most.
        capacity: Slots that are there from the beginning; more come as they are needed, in other memory.
    """

    def __init__(self, n_layers: int, room: int, capacity: int = 0):
        super().__init__(layers=[SlotLayer(room, capacity) for _ in range(n_layers)])

    def place(self, rows: slice | torch.Tensor, index: torch.Tensor, positions: torch.Tensor, used: int) -> None:
        """Say what the next forward pass reads and writes.

        Args:
            rows: The rows that its tokens belong to, one each. A slice is read where it lies, others are copied.
            index: The same rows as numbers [B].
            positions: Slot of every input token [B, n].
            used: Slots that are attended to, more than any position. A number of the host's: to read it off the
                positions would make a GPU wait, at every token and in every layer.
        """
        for layer in self.layers:
            layer.rows, layer.index, layer.slots, layer.used = rows, index, positions, used

    def fill(self, start: int, other: "SlotCache", rows: torch.Tensor) -> None:
        """Copy (or repeat) rows of another cache into the rows from `start` on."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.make_room(theirs.keys, theirs.values, theirs.used)
            place, used = slice(start, start + len(rows)), slice(theirs.used)
            mine.keys[place, :, used] = theirs.keys[rows, :, used]
            mine.values[place, :, used] = theirs.values[rows, :, used]

    def move(self, rows: torch.Tensor, places: torch.Tensor) -> None:
        """Let rows take the places of others."""
        for layer in self.layers:
            layer.keys[places], layer.values[places] = layer.keys[rows], layer.values[rows]
