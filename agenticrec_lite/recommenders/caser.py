"""Caser: convolutions over the embeddings of the last items, as over a picture (Tang and Wang, WSDM 2018).

Differs from the paper: trained as in `sequential`, where the paper has sampled negatives; and the user's embedding,
which the paper learns for each user, is the mean embedding of all that the user took so far, since `score` is given a
history and no user, also of users it never saw.
"""

import torch
from torch import nn
from torch.nn import functional as F

from agenticrec_lite.recommenders.sequential import SequenceNetwork, SequentialRecommender


class CaserNetwork(SequenceNetwork):
    """y = W' [z; P_u] with z = relu(W [o; v] + b) (section 3.3), for E the embeddings of the last L items [L, width].

    o holds, for each height h = 1..L, the largest value down E of each of n_horizontal filters [h, width] after relu;
    v the sums of the rows of E, weighted by each of n_vertical filters [L, 1] (section 3.2). P_u: see above.
    """

    def __init__(self, n_items: int, width: int, last: int, n_horizontal: int, n_vertical: int, dropout: float):
        super().__init__(n_items, width)
        self.last = last
        self.horizontal = nn.ModuleList(nn.Conv1d(width, n_horizontal, height) for height in range(1, last + 1))
        self.vertical = nn.Linear(last, n_vertical, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.joined = nn.Linear(last * n_horizontal + width * n_vertical, width)
        self.targets = nn.Embedding(n_items, 2 * width)  # W'
        self.draw(1 / width, self.targets)

    @property
    def output(self) -> torch.Tensor:
        """[n_items, 2 * width]"""
        return self.targets.weight

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        embedded = self.items(sequences)
        padded = F.pad(embedded, (0, 0, self.last - 1, 0)).transpose(1, 2)  # [B, width, L - 1 + T]
        horizontal = [  # each filter once over the whole sequence, of which E holds L - h + 1 places
            F.max_pool1d(filters(padded).relu(), self.last - h + 1, stride=1)
            for h, filters in enumerate(self.horizontal, 1)
        ]
        vertical = self.vertical(padded.unfold(2, self.last, 1)).permute(0, 3, 1, 2).flatten(1, 2)
        features = torch.cat([*horizontal, vertical], 1).transpose(1, 2)
        z = self.joined(self.dropout(features)).relu()
        user = embedded.cumsum(1) / torch.arange(1, sequences.shape[1] + 1, device=embedded.device)[:, None]
        return torch.cat([z, user], 2)


class Caser(SequentialRecommender):
    """Caser with one `fit` and one `score`.

    The defaults are the best of four configurations (benchmarks/tune.py) on 1,000 validation tasks of ml-100k, N@10
    .763, and 1,000 of the toystore, .650; with the learning rate that SASRec has they were .761 and .610.
    """

    network_type = CaserNetwork

    def __init__(self, epochs: int = 8, learning_rate: float = 1e-2, batch_size: int = 32, width: int = 64,
                 last: int = 5, n_horizontal: int = 16, n_vertical: int = 4, max_length: int = 50,
                 dropout: float = 0.2):
        super().__init__(epochs, learning_rate, batch_size, max_length, width=width, last=last,
                         n_horizontal=n_horizontal, n_vertical=n_vertical, dropout=dropout)
