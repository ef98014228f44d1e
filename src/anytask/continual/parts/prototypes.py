"""A cosine classifier with one vector per class, whose rows grow as classes arrive."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.parts.contrastive import cosine_scores

_EPS = 1e-8  # smallest norm divided by: an all-zero feature has cosine 0 with every prototype


class Prototypes(nn.Module):
    """One prototype per class, compared with features by their cosine.

    Prototypes are normalised where they are used and never overwritten, so their scale is free and their gradient is
    orthogonal to them.

    Parameters
    ----------
    dim : int
        Width of features and prototypes.

    Attributes
    ----------
    weight : Parameter of shape (n_classes, dim)
        :meth:`grow` replaces it, so make optimisers afterwards.

    Examples
    --------
    >>> prototypes = Prototypes(2)
    >>> prototypes.grow(1); prototypes.grow(3)
    >>> prototypes(torch.ones(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(0, dim))

    def grow(self, n: int, generator: torch.Generator | None = None) -> None:
        """Add rows until there are ``n``, uniform in ``+-1/sqrt(dim)`` as in a linear layer."""
        new = max(0, n - len(self.weight))
        if new:
            bound = 1 / math.sqrt(self.dim)
            fresh = torch.empty(new, self.dim).uniform_(-bound, bound, generator=generator).to(self.weight)
            self.weight = nn.Parameter(torch.cat([self.weight.detach(), fresh]))

    def forward(self, z: Tensor) -> Tensor:
        """Return the cosines (n, n_classes) of features z (n, dim) with all prototypes."""
        return cosine_scores(z, self.weight, _EPS)

    def attraction(self, z: Tensor, rows: Tensor) -> Tensor:
        """Return the mean of ``1 - cos(z_i, P_rows[i])``: each feature pulls at its own class's prototype only."""
        return (1 - F.cosine_similarity(z, self.weight[rows], dim=-1, eps=_EPS)).mean()
