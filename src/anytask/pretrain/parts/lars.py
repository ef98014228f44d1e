"""LARS: momentum whose step is, tensor by tensor, in proportion to the weights (You, Gitman and Ginsburg, 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from anytask.core.settings import check_number


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent with momentum and a trust ratio for each tensor.

    ``g <- grad + wd w``; ``v <- m v + lr trust g`` with ``trust = eta ||w|| / ||g||``, or 1 if either norm is 0;
    ``w <- w - v``. Groups with ``adapt=False`` have trust 1.

    Parameters
    ----------
    params : iterable
        Weights, or groups of them; see :func:`lars_groups`.
    lr, momentum, weight_decay, eta : float

    Examples
    --------
    >>> w = nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> w.grad = torch.tensor([0.0, 0.5])
    >>> LARS([w], lr=1.0, weight_decay=0.1).step()
    >>> [round(value, 5) for value in w.tolist()]
    [2.99842, 3.99526]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 1e-3,
    ) -> None:
        check_number(lr, "lr", at_least=0)
        check_number(momentum, "momentum", at_least=0, below=1)
        check_number(weight_decay, "weight_decay", at_least=0)
        check_number(eta, "eta", above=0)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step, and return the loss of the closure, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                g, trust = w.grad + group["weight_decay"] * w, 1.0
                if group["adapt"]:
                    norms = w.norm(), g.norm()
                    trust = group["eta"] * norms[0] / norms[1] if min(norms) > 0 else 1.0
                v = self.state[w].setdefault("momentum", torch.zeros_like(w))
                v.mul_(group["momentum"]).add_(group["lr"] * trust * g)
                w.sub_(v)
        return loss


def lars_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return matrices and kernels in one group, and in another, without decay and with trust 1, biases and norms.

    Examples
    --------
    >>> [len(group["params"]) for group in lars_groups([nn.Linear(2, 2), nn.BatchNorm1d(2)], 1e-4)]
    [1, 3]
    """
    weights = [w for module in modules for w in module.parameters() if w.requires_grad]
    return [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": weight_decay},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0, "adapt": False},
    ]
