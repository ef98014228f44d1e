"""Optimal transport between batches of point clouds: the proximal point method, and Gromov-Wasserstein by it.

All of it is differentiable, on any device, and batched: clouds of n and m points, each with uniform weights.

References
----------
Xie, Wang, Wang, Zha, 2020, "A Fast Proximal Point Method for Computing Exact Wasserstein Distance", arXiv:1802.04307.
Chen, Gan, Cheng, Li, Carin, Liu, 2020, "Graph Optimal Transport for Cross-Domain Alignment", arXiv:2006.14744.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_cost(X: Tensor, Y: Tensor, threshold: float = 0.1) -> Tensor:
    """Return ``1 - cos(x_i, y_j)``, of which what is near the smallest becomes 0.

    Costs are lowered by ``min + threshold (max - min)`` over the whole batch and cut off at 0.

    Parameters
    ----------
    X, Y : Tensor of shape (b, n, d) and (b, m, d)
    threshold : float in [0, 1)

    Returns
    -------
    Tensor of shape (b, n, m)

    Examples
    --------
    >>> e = torch.eye(2)[None]
    >>> cosine_cost(e, e)
    tensor([[[0.0000, 0.9000],
             [0.9000, 0.0000]]])
    """
    C = 1 - F.normalize(X, dim=-1, eps=1e-8) @ F.normalize(Y, dim=-1, eps=1e-8).mT
    low, high = C.min(), C.max()
    return (C - (low + threshold * (high - low))).relu()


def ipot(C: Tensor, beta: float, iterations: int) -> Tensor:
    """Return transport plans between uniform weights by inexact proximal point iterations.

    Step k takes ``Q = exp(-C / beta) * T``, scales the rows of Q by ``delta = 1 / (n Q sigma)`` and then its columns by
    ``sigma = 1 / (m Q^T delta)``. The logarithms of all of them are kept, so that no small ``beta`` underflows, and
    costs may be negative.

    Parameters
    ----------
    C : Tensor of shape (b, n, m)
        Costs.
    beta : float > 0
        Weight of the proximal term: smaller is nearer to the exact plan after as many iterations.
    iterations : int

    Returns
    -------
    Tensor of shape (b, n, m)
        Columns sum to 1/m, rows nearly to 1/n.

    Examples
    --------
    >>> ipot(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), beta=0.5, iterations=30).round(decimals=4)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])
    """
    n, m = C.shape[-2:]
    log_A, log_T = -C / beta, torch.zeros_like(C)
    log_sigma = C.new_full((*C.shape[:-2], 1, m), -math.log(m))
    for _ in range(iterations):
        log_Q = log_A + log_T
        log_delta = -math.log(n) - torch.logsumexp(log_Q + log_sigma, -1, keepdim=True)  # (b, n, 1)
        log_Q = log_Q + log_delta
        log_sigma = -math.log(m) - torch.logsumexp(log_Q, -2, keepdim=True)  # (b, 1, m)
        log_T = log_Q + log_sigma
    return log_T.exp()


def wasserstein(C: Tensor, beta: float = 0.5, iterations: int = 30) -> Tensor:
    """Return what it costs to move each cloud onto its other, shape (b,), by costs (b, n, m) between their points."""
    return (C * ipot(C, beta, iterations)).sum((-2, -1))


def gromov_wasserstein(Cs: Tensor, Ct: Tensor, beta: float = 0.1, rounds: int = 5, iterations: int = 20) -> Tensor:
    """Return how much the distances inside each cloud differ from those inside its other, shape (b,).

    From the plan ``p q^T`` on, the plan is ``rounds`` times what :func:`ipot` makes of the costs of the plan before. No
    gradient flows into it: that of a smallest value is the one at its plan.
    That start is a saddle where all points of a cloud are equally far from each other, and the value then is above 0
    even for a cloud and itself.

    Parameters
    ----------
    Cs, Ct : Tensor of shape (b, n, n) and (b, m, m)
        Costs between the points of a cloud.
    beta, iterations
        As in :func:`ipot`.
    rounds : int

    Examples
    --------
    A turned cloud has the same distances inside:

    >>> X = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]])
    >>> Y = X @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> gromov_wasserstein(cosine_cost(X, X), cosine_cost(Y, Y)).round(decimals=4)
    tensor([0.])
    >>> wasserstein(cosine_cost(X, Y)).round(decimals=1)
    tensor([0.7000])
    """
    base = Cs.square().mean(-1, keepdim=True) + Ct.square().mean(-1, keepdim=True).mT  # (b, n, m)
    plan = torch.full_like(base, 1 / (base.shape[-2] * base.shape[-1]))
    for _ in range(rounds):
        plan = ipot((base - 2 * Cs @ plan @ Ct.mT).detach(), beta, iterations)
    return ((base - 2 * Cs @ plan @ Ct.mT) * plan).sum((-2, -1))
