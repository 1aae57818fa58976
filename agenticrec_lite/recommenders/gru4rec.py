"""GRU4Rec: a recurrent network reads the history and predicts the next item (Hidasi et al., ICLR 2016).

Differs from the paper: trained as in `sequential`, where the paper has ranking losses on sampled negatives (as does
Hidasi and Karatzoglou, CIKM 2018, which adds cross-entropy); items enter by embeddings that the output shares, the
2018 code's "constrained embedding"; a user's whole history is one session.
"""

import torch
from torch import nn

from agenticrec_lite.recommenders.sequential import SequenceNetwork, SequentialRecommender


class GRU4RecNetwork(SequenceNetwork):
    """h_t = (1 - z_t) h_{t-1} + z_t g_t, with update gate z_t = sigmoid(W_z x_t + U_z h_{t-1}), reset gate
    r_t = sigmoid(W_r x_t + U_r h_{t-1}) and g_t = tanh(W x_t + U (r_t * h_{t-1})) (2016, section 3); x_t embeds the
    item. (torch's z_t is one minus this one, and its r_t comes after the product with U.)"""

    def __init__(self, n_items: int, width: int, n_layers: int, dropout: float):
        super().__init__(n_items, width)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, n_layers, batch_first=True)
        self.out = nn.Linear(width, width)
        self.draw(width**-0.5)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.dropout(self.items(sequences)))
        return self.out(self.dropout(states))


class GRU4Rec(SequentialRecommender):
    """GRU4Rec with one `fit` and one `score`.

    The defaults are the best of four configurations (benchmarks/tune.py) on 1,000 validation tasks of ml-100k, N@10
    .782, and 1,000 of the toystore, .670; with the learning rate that SASRec has they were .762 and .624.
    """

    network_type = GRU4RecNetwork

    def __init__(self, epochs: int = 8, learning_rate: float = 1e-2, batch_size: int = 32, width: int = 64,
                 n_layers: int = 1, max_length: int = 50, dropout: float = 0.2):
        super().__init__(epochs, learning_rate, batch_size, max_length, width=width, n_layers=n_layers, dropout=dropout)
