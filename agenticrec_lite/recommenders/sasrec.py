"""SASRec: self-attention over the history predicts the next item (Kang and McAuley, ICDM 2018).

Differs from the paper: trained as in `sequential`, where the paper has one sampled negative; pre-norm blocks with GELU
and dropout on their outputs only.
"""

import torch
from torch import nn
from torch.nn import functional as F

from agenticrec_lite.recommenders.sequential import SequenceNetwork, SequentialRecommender


class Block(nn.Module):
    """One pre-norm transformer block with causal attention."""

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, T, width] to the same shape."""
        batch, length, width = states.shape
        heads = self.query_key_value(self.norm_attention(states)).view(batch, length, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        states = states + self.dropout(self.attention_out(attended))
        return states + self.dropout(self.feed_forward(self.norm_feed_forward(states)))


class SASRecNetwork(SequenceNetwork):
    """A causal transformer over item codes; the output is tied to the items' embeddings."""

    def __init__(self, n_items: int, width: int, n_layers: int, n_heads: int, length: int, dropout: float):
        super().__init__(n_items, width)
        self.positions = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        blocks = [Block(width, n_heads, dropout) for _ in range(n_layers)]
        self.layers = nn.Sequential(*blocks, nn.LayerNorm(width))
        self.draw(0.02, self.positions)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        embedded = self.items(sequences) + self.positions.weight[: sequences.shape[1]]
        return self.layers(self.dropout(embedded))


class SASRec(SequentialRecommender):
    """SASRec with one `fit` and one `score`.

    In the same comparison (benchmarks/tune.py) the defaults, with which the shipped results were made, had N@10 .770 on
    ml-100k's validation tasks and .647 on the toystore's; 16 epochs, the best of four configurations, .774 and .656.
    """

    network_type = SASRecNetwork

    def __init__(self, epochs: int = 8, learning_rate: float = 3e-3, batch_size: int = 32, width: int = 64,
                 n_layers: int = 2, n_heads: int = 2, max_length: int = 50, dropout: float = 0.2):
        super().__init__(epochs, learning_rate, batch_size, max_length, width=width, n_layers=n_layers,
                         n_heads=n_heads, length=max_length, dropout=dropout)
