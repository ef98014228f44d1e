"""Mean and variance of what has been seen so far, updated in batches.

References
----------
Chan, Golub, LeVeque, 1983, "Algorithms for Computing the Sample Variance: Analysis and Recommendations".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningStats(nn.Module):
    """Running mean and variance of values of one shape, kept in float64.

    Parameters
    ----------
    shape : tuple of int, default ()
        Of one value.
    eps : float, default 1e-8
        Added to the variance before dividing.

    Attributes
    ----------
    count, mean, m2 : Tensor
        Number of values, their mean, and the sum of squared deviations from it; all a ``state_dict`` holds.

    Examples
    --------
    >>> stats = RunningStats((2,))
    >>> stats.update(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
    >>> stats.normalize(torch.tensor([2.0, 40.0]))
    tensor([0., 2.])
    """

    count: Tensor  # ()
    mean: Tensor  # shape
    m2: Tensor  # shape

    def __init__(self, shape: tuple[int, ...] = (), eps: float = 1e-8) -> None:
        super().__init__()
        self.shape, self.eps = tuple(shape), eps
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("m2", torch.zeros(self.shape, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """Population variance; ones before anything was seen."""
        return self.m2 / self.count if self.count > 0 else torch.ones_like(self.m2)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in values of shape (..., \\*shape) with any leading axes."""
        if x.shape[x.dim() - len(self.shape) :] != self.shape or not x.numel():
            raise ValueError(f"values of shape (..., {', '.join(map(str, self.shape))}) wanted, got {tuple(x.shape)}")
        x = x.to(torch.float64).reshape(-1, *self.shape)
        mean = x.mean(0)
        self.merge(x.new_tensor(float(len(x))), mean, (x - mean).square().sum(0))

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Take in values of which only number, mean and sum of squared deviations are known."""
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self.m2 += m2 + delta.square() * (self.count * count / total)
        self.count.copy_(total)

    def normalize(self, x: Tensor, clip: float | None = None) -> Tensor:
        """Return ``(x - mean) / sqrt(variance + eps)`` in the dtype of ``x``, cut to [-clip, clip] if given."""
        mean, scale = self.mean.to(x.dtype), (self.variance + self.eps).rsqrt().to(x.dtype)
        out = (x - mean) * scale
        return out if clip is None else out.clamp(-clip, clip)
