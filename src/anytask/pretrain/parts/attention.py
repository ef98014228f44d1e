"""Gated attention that pools a bag of vectors into one, by several heads.

References
----------
Ilse, Tomczak, Welling, 2018, "Attention-based Deep Multiple Instance Learning", arXiv:1802.04712.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """Pool tokens by heads with weights of their own: ``a_t = w . (tanh(A e_t) * sigmoid(B e_t))``.

    Parameters
    ----------
    width : int
        Values of a token, for each head.
    heads, hidden : int
        How many heads there are, and the width of their gates.
    dropout : float
        Of both gates.

    Examples
    --------
    >>> pool = GatedAttention(4, heads=2, hidden=8)
    >>> e, mask = torch.ones(1, 3, 2, 4), torch.tensor([[True, True, False]])
    >>> pooled, weights = pool(e, mask)
    >>> pooled.shape, weights[0, :, 0].tolist()
    (torch.Size([1, 2, 4]), [0.5, 0.5, 0.0])
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.gates = nn.Parameter(torch.empty(heads, width, 2 * hidden).uniform_(-bound, bound))
        self.gate_bias = nn.Parameter(torch.empty(heads, 2 * hidden).uniform_(-bound, bound))
        bound = 1 / math.sqrt(hidden)
        self.score = nn.Parameter(torch.empty(heads, hidden).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def scores(self, e: Tensor) -> Tensor:
        """Return a (b, t, heads) of tokens (b, t, heads, width)."""
        gates = torch.einsum("btmd,mdh->btmh", e, self.gates) + self.gate_bias
        tanh, sigmoid = gates.chunk(2, dim=-1)
        return (self.dropout(tanh.tanh()) * self.dropout(sigmoid.sigmoid()) * self.score).sum(-1)

    def pool(self, e: Tensor, scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled vectors (b, heads, width) and weights (b, t, heads), 0 where ``mask`` (b, t) is False.

        The weights of a bag without a token are all 0.
        """
        hidden = ~mask[..., None]
        scores = scores.float().masked_fill(hidden, torch.finfo(torch.float32).min)  # of -inf alone a softmax is NaN
        weights = scores.softmax(dim=1).masked_fill(hidden, 0)
        return torch.einsum("btm,btmd->bmd", weights.to(e.dtype), e), weights

    def forward(self, e: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled vectors (b, heads, width) and the weights (b, t, heads)."""
        return self.pool(e, self.scores(e), mask)
