"""A cosine classifier with one vector per class, whose rows grow as classes arrive."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """One prototype per class, compared with features by their cosine.

    Prototypes are normalised where they are used and never overwritten, so their scale is free and their gradient is
    orthogonal to them.

    Parameters
    ----------
    dim : int
        Width of features and prototypes.
    eps : float, default 1e-8
        Smallest norm divided by; an all-zero feature has cosine 0 with every prototype.

    Attributes
    ----------
    weight : Parameter of shape (n_classes, dim)
        :meth:`grow` replaces it, so make optimisers afterwards.
    rows : dict
        Class -> row.

    Examples
    --------
    >>> prototypes = Prototypes(2)
    >>> prototypes.grow(["cat"]); prototypes.grow(["dog", "cat"])
    ['cat']
    ['dog']
    >>> prototypes.rows, prototypes(torch.ones(3, 2)).shape
    ({'cat': 0, 'dog': 1}, torch.Size([3, 2]))
    """

    def __init__(self, dim: int, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.rows: dict[Hashable, int] = {}
        self.weight = nn.Parameter(torch.empty(0, dim))

    def grow(self, classes: Iterable[Hashable], generator: torch.Generator | None = None) -> list[Hashable]:
        """Add a row for each class that has none, uniform in ``+-1/sqrt(dim)`` as in a linear layer; return them."""
        new = [c for c in dict.fromkeys(classes) if c not in self.rows]
        if new:
            bound = 1 / math.sqrt(self.dim)
            fresh = torch.empty(len(new), self.dim).uniform_(-bound, bound, generator=generator).to(self.weight)
            self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh]))
            self.rows.update({c: len(self.rows) + i for i, c in enumerate(new)})
        return new

    def indices(self, classes: Iterable[Hashable]) -> Tensor:
        """Return the rows of ``classes`` as an index tensor; ``KeyError`` for a class that has none."""
        return torch.tensor([self.rows[c] for c in classes], dtype=torch.long, device=self.weight.device)

    def forward(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the cosines (n, n_rows) of features z (n, dim) with all prototypes, or those of ``rows``."""
        weight = self.weight if rows is None else self.weight[rows]
        return F.normalize(z, dim=-1, eps=self.eps) @ F.normalize(weight, dim=-1, eps=self.eps).T

    def attraction(self, z: Tensor, rows: Tensor) -> Tensor:
        """Return the mean of ``1 - cos(z_i, P_rows[i])``: each feature pulls at its own class's prototype only."""
        return (1 - F.cosine_similarity(z, self.weight[rows], dim=-1, eps=self.eps)).mean()
