"""The KV cache of ragged rollouts.

One rule makes ragged batches exact: a token's slot in the cache is its position in its own row. Rows of different
lengths then share a buffer without padding inside it; a query at position p attends to slots 0..p of its row, and
whatever a shorter row's pads wrote beyond that is overwritten by its next real tokens.
"""

import torch
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 256


class SlotLayer(DynamicLayer):
    """One layer's keys and values in a preallocated buffer [B, heads, capacity, d], written at given slots."""

    slots: torch.Tensor  # [B, n] where the next tokens go; set by SlotCache.place
    used: int = 0

    def update(self, key, value, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key, value)
            self.keys = self.values = key.new_empty(*key.shape[:2], 0, key.shape[-1])
        capacity = (self.used + _BLOCK - 1) // _BLOCK * _BLOCK
        self.keys, self.values = _grow(self.keys, capacity), _grow(self.values, capacity)
        rows = torch.arange(len(key), device=key.device)[:, None]
        self.keys[rows, :, self.slots] = key.transpose(1, 2)
        self.values[rows, :, self.slots] = value.transpose(1, 2)
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]


def _grow(buffer: torch.Tensor, capacity: int) -> torch.Tensor:
    """The buffer with room for `capacity` slots; itself if it has it."""
    if buffer.shape[2] >= capacity:
        return buffer
    grown = buffer.new_zeros(*buffer.shape[:2], capacity, buffer.shape[3])
    grown[:, :, : buffer.shape[2]] = buffer
    return grown


class SlotCache(Cache):
    """A KV cache in which each row keeps its own length."""

    def __init__(self, n_layers: int):
        super().__init__(layers=[SlotLayer() for _ in range(n_layers)])

    def place(self, positions: torch.Tensor, used: int) -> None:
        """Say where the next forward pass writes.

        Args:
            positions: Slot of every input token [B, n].
            used: Slots that are attended to, more than any position. A number of the host's: to read it off the
                positions would make a GPU wait, at every token and in every layer.
        """
        for layer in self.layers:
            layer.slots, layer.used = positions, used

    def select(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) rows of the batch."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def join(self, other: "SlotCache") -> None:
        """Add the other cache's rows after these."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            capacity = max(mine.keys.shape[2], theirs.keys.shape[2])
            mine.keys = torch.cat([_grow(mine.keys, capacity), _grow(theirs.keys, capacity)])
            mine.values = torch.cat([_grow(mine.values, capacity), _grow(theirs.values, capacity)])

    def take(self, rows: torch.Tensor) -> "SlotCache":
        """A copy of some rows, to go on with these alone for a while."""
        part = SlotCache(len(self.layers))
        for mine, theirs in zip(self.layers, part.layers, strict=True):
            theirs.lazy_initialization(mine.keys, mine.values)
            theirs.keys, theirs.values, theirs.used = mine.keys[rows], mine.values[rows], mine.used
        return part

    def put(self, rows: torch.Tensor, part: "SlotCache") -> None:
        """Bring rows that were taken back to their places."""
        for mine, theirs in zip(self.layers, part.layers, strict=True):
            capacity = theirs.keys.shape[2]
            mine.keys, mine.values = _grow(mine.keys, capacity), _grow(mine.values, capacity)
            mine.keys[rows], mine.values[rows] = theirs.keys, theirs.values
