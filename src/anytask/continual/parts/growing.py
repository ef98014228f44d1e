"""A linear head that gets a row for every class that comes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from anytask.core.rng import derive


class GrowingHead(nn.Module):
    """A linear layer with one row per class seen so far.

    Parameters
    ----------
    n_features : int
        Width of the features.
    seed : int
        Seed of the rows; the row of a class does not depend on when or with which others it came.

    Examples
    --------
    >>> head = GrowingHead(4, seed=0)
    >>> head.grow(2)
    >>> first = head.weight.detach().clone()
    >>> head.grow(3)
    >>> head(torch.zeros(5, 4)).shape, torch.equal(head.weight[:2], first)
    (torch.Size([5, 3]), True)
    """

    def __init__(self, n_features: int, seed: int) -> None:
        super().__init__()
        self.n_features, self.seed = n_features, seed
        self.weight = nn.Parameter(torch.empty(0, n_features))
        self.bias = nn.Parameter(torch.empty(0))

    def forward(self, z: Tensor) -> Tensor:  # (n, n_features) -> (n, classes)
        return nn.functional.linear(z, self.weight, self.bias)

    def grow(self, n: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Add rows until there are ``n``; what the optimizer remembers of the rows that were there is kept."""
        have, bound = len(self.weight), 1 / math.sqrt(self.n_features)  # nn.Linear's initialisation
        rows = []
        for code in range(have, n):
            generator = torch.Generator().manual_seed(derive(self.seed, "head", code))
            rows.append((torch.rand(self.n_features + 1, generator=generator) * 2 - 1) * bound)
        if not rows:
            return
        new = torch.stack(rows).to(self.weight)  # (n - have, n_features + 1)
        for name, extra in (("weight", new[:, :-1]), ("bias", new[:, -1])):
            old = getattr(self, name)
            grown = nn.Parameter(torch.cat([old.detach(), extra]))
            setattr(self, name, grown)
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["params"] = [grown if p is old else p for p in group["params"]]
                if state := optimizer.state.pop(old, None):
                    pad = torch.zeros_like(extra)
                    optimizer.state[grown] = {
                        key: torch.cat([value, pad]) if torch.is_tensor(value) and value.shape == old.shape else value
                        for key, value in state.items()
                    }
