"""A bottleneck beside a frozen encoder, which adds to its features what a task needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualAdapter(nn.Module):
    """``h + ReLU(W_2 ReLU(W_1 h))``, without biases, so that the direction of the result ignores the length of h.

    Parameters
    ----------
    width : int
        D, of a feature.
    reduction : int, default 2
        How many times narrower the bottleneck is; it has one unit at least.
    rectified : bool, default True
        Whether the last ReLU is there, with which nothing can be taken from a feature.

    Examples
    --------
    >>> adapter = ResidualAdapter(4)
    >>> _ = nn.init.zeros_(adapter.up.weight)
    >>> adapter(torch.arange(4.0)).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """

    def __init__(self, width: int, reduction: int = 2, rectified: bool = True) -> None:
        super().__init__()
        hidden = max(1, width // reduction)
        self.down = nn.Linear(width, hidden, bias=False)  # W_1
        self.up = nn.Linear(hidden, width, bias=False)  # W_2
        self.rectified = rectified

    def forward(self, h: Tensor) -> Tensor:
        a = self.up(torch.relu(self.down(h)))
        return h + (torch.relu(a) if self.rectified else a)
