"""Mean and variance of what has been seen so far, updated in batches.

Gymnasium's RunningMeanStd begins with a made-up count of 1e-4 and lives in NumPy; this one is exact, on the device, and
part of what a network saves.

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
    shape : tuple of int
        Of one value.

    Attributes
    ----------
    count, mean, m2 : Tensor
        Number of values, their mean, and the sum of squared deviations from it; all a ``state_dict`` holds.

    Examples
    --------
    >>> stats = RunningStats((2,))
    >>> stats.merge(torch.tensor(2.0), torch.tensor([2.0, 20.0]), torch.tensor([2.0, 200.0]))
    >>> stats.normalize(torch.tensor([2.0, 40.0]), clip=10.0)
    tensor([0., 2.])
    """

    count: Tensor  # ()
    mean: Tensor  # shape
    m2: Tensor  # shape

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, size in (("count", ()), ("mean", shape), ("m2", shape)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """Population variance; ones before anything was seen."""
        return self.m2 / self.count if self.count > 0 else torch.ones_like(self.m2)

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Take in values of which only number, mean and sum of squared deviations are known."""
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self.m2 += m2 + delta.square() * (self.count * count / total)
        self.count.copy_(total)

    def normalize(self, x: Tensor, clip: float) -> Tensor:
        """Return ``(x - mean) / sqrt(variance + 1e-8)`` in the dtype of ``x``, cut to [-clip, clip]."""
        mean, scale = self.mean.to(x.dtype), (self.variance + 1e-8).rsqrt().to(x.dtype)
        return ((x - mean) * scale).clamp(-clip, clip)
