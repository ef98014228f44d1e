"""The label space of N classes times M transformations: unit y * M + j is class y under transformation j."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def joint_labels(y: Tensor, js: Sequence[int], M: int) -> Tensor:
    """Return the unit of (class y, transformation j), class-major: (B,) -> (B, len(js)).

    Examples
    --------
    >>> joint_labels(torch.tensor([3]), [2], 4).tolist()
    [[14]]
    """
    return y[:, None] * M + torch.tensor(js, device=y.device)


def own_columns(logits: Tensor, js: Sequence[int], M: int) -> Tensor:
    """Keep, for the image under transformation j, the units (y, j): (B, len(js), N * M) -> (B, len(js), N)."""
    return torch.stack([logits[:, k, j::M] for k, j in enumerate(js)], dim=1)


def aggregate(logits: Tensor) -> Tensor:
    """Return s: the mean over the transformed images of their own logits, (B, M, N * M) -> (B, N).

    Examples
    --------
    >>> aggregate(torch.tensor([[[2.0, 0, 1, 0], [0, 1, 0, 3]]])).tolist()
    [[1.5, 2.0]]
    """
    M = logits.shape[1]
    return own_columns(logits, range(M), M).mean(1)
