"""Learning in several processes at once: what they average, so that together they do what one would with all copies."""

from __future__ import annotations

import torch
from torch import Tensor

from anytask.control.parts.policy_gradient import normalise


class ProcessGroup:
    """The processes of :mod:`torch.distributed` that learn together, if there is a process group; else this one alone.

    Attributes
    ----------
    rank, size : int
        Which process this is, and of how many.

    Examples
    --------
    >>> alone = ProcessGroup()
    >>> alone.size, [x.tolist() for x in alone.moments(torch.tensor([[1.0], [3.0]]))]
    (1, [2.0, [2.0], [2.0]])
    """

    def __init__(self) -> None:
        on = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if on else 0
        self.size = torch.distributed.get_world_size() if on else 1

    def _sum(self, x: Tensor) -> Tensor:
        torch.distributed.all_reduce(x)
        return x

    def average(self, weights: torch.nn.Parameter) -> None:
        """Average gradients in place."""
        if self.size > 1:
            assert weights.grad is not None
            self._sum(weights.grad).div_(self.size)

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the processes."""
        return x if self.size == 1 else self._sum(x.clone()) / self.size

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return number, mean and sum of squared deviations of the rows (m, ...) of all processes."""
        count, total = x.new_tensor(float(len(x))), x.sum(0)
        if self.size > 1:
            count, total = self._sum(count), self._sum(total)
        mean = total / count
        m2 = (x - mean).square().sum(0)
        return count, mean, m2 if self.size == 1 else self._sum(m2)

    def normalise(self, advantages: Tensor, weights: Tensor | None) -> Tensor:
        """Return advantages with mean 0 and deviation 1 over the samples of all processes that count."""
        if self.size == 1:
            return normalise(advantages, weights)
        counted = advantages.flatten() if weights is None else advantages[weights > 0]
        count, mean, m2 = self.moments(counted.double())
        std = (m2 / (count - 1).clamp_min(1)).sqrt()
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype)


def joined(network: torch.nn.Module) -> torch.nn.Parameter:
    """Move all weights of a network and their gradients into one tensor each, of which its own become views.

    An optimiser step, clipping and averaging over processes are then a few operations, however many layers there are.
    """
    own = list(network.parameters())
    starts, total = [], 0
    for p in own:
        starts.append(total)
        total += -(-p.numel() // 16) * 16  # each begins at a multiple of 64 bytes
    joined = torch.nn.Parameter(own[0].new_zeros(total))
    joined.grad = torch.zeros_like(joined)
    for p, start in zip(own, starts, strict=True):
        view = joined.data[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, p.grad = view, joined.grad[start : start + p.numel()].view_as(p)
    return joined
