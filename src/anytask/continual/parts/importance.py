"""How much each parameter matters to what was learned, and what holds it where it was by as much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Scores = Callable[[Tensor], Tensor]


def mas(scores: Scores, parameters: Sequence[Tensor], X: Tensor) -> list[Tensor]:
    """Return the mean over inputs of ``|d ||f(x)||^2 / d theta|`` (memory-aware synapses), without a label.

    Parameters
    ----------
    scores : callable
        f, from inputs (1, ...) to (1, k).
    parameters : sequence of Tensor
        theta: what f depends on. Those that it does not have importance 0.
    X : Tensor of shape (n, ...)

    Examples
    --------
    For ``f(x) = W x`` it is the mean of ``|2 (W x)_i x_j|``:

    >>> W, X = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    >>> mas(lambda x: x @ W.T, [W], X)[0].tolist()
    [[3.0, 3.0]]

    References
    ----------
    Aljundi, Babiloni, Elhoseiny, Rohrbach, Tuytelaars, 2018, "Memory Aware Synapses", ECCV, arXiv:1711.09601.
    """
    return _mean(((scores(x).square().sum(), torch.abs) for x in X.split(1)), parameters, len(X))


def fisher(scores: Scores, parameters: Sequence[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
    """Return the mean over inputs of ``(d log p(y|x) / d theta)^2``: the diagonal of the empirical Fisher information.

    Parameters
    ----------
    scores, parameters, X
        As in :func:`mas`; p is the softmax of the scores.
    y : Tensor of shape (n,)
        Columns of the scores.
    """
    losses = (F.cross_entropy(scores(x), label) for x, label in zip(X.split(1), y.split(1)))
    return _mean(((loss, torch.square) for loss in losses), parameters, len(X))


def _mean(
    terms: Iterable[tuple[Tensor, Callable[[Tensor], Tensor]]], parameters: Sequence[Tensor], n: int
) -> list[Tensor]:
    totals = [torch.zeros_like(p) for p in parameters]
    with torch.enable_grad():
        for objective, of in terms if totals else ():
            for total, g in zip(totals, torch.autograd.grad(objective, parameters, allow_unused=True)):
                if g is not None:
                    total += of(g)
    return [total / n for total in totals]


def normalized(importance: Sequence[Tensor]) -> list[Tensor]:
    """Return importances whose mean over all parameters is 1, so that a strength means the same for every network."""
    mean = sum(float(omega.sum()) for omega in importance) / max(1, sum(omega.numel() for omega in importance))
    return [omega / mean if mean > 0 else omega for omega in importance]


def accumulated(before: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    """Return the sum of importances; rows that parameters had not before count by what is new."""
    total = [omega.clone() for omega in new]
    for omega, old in zip(total, before):
        omega[: len(old)] += old
    return total


def anchored_penalty(parameters: Sequence[Tensor], anchors: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """Return ``1/2 sum_i Omega_i (theta_i - anchor_i)^2``; rows that came after the anchors are free."""
    terms = zip(parameters, anchors, importance)
    return sum(((omega * (p[: len(a)] - a).square()).sum() for p, a, omega in terms), torch.zeros(())) / 2


@torch.no_grad()
def pull_back(
    parameters: Sequence[Tensor], anchors: Sequence[Tensor], importance: Sequence[Tensor], rate: float
) -> None:
    """Move parameters as an implicit step of size ``rate`` on :func:`anchored_penalty` does, which never overshoots.

    ``theta_i <- anchor_i + (theta_i - anchor_i) / (1 + rate * Omega_i)``. Gradient steps diverge where an importance is
    large. With momentum ``beta`` at rate ``lr``, ``rate`` is ``lr * lambda / (1 - beta)``: then plain steps on a loss
    and pulls in turn rest where the loss plus ``lambda`` penalties does.

    Examples
    --------
    >>> theta = torch.tensor([1.0, 1.0, 5.0])
    >>> pull_back([theta], [torch.tensor([0.0, 0.0])], [torch.tensor([0.0, 3.0])], 1.0)
    >>> theta.tolist()
    [1.0, 0.25, 5.0]
    """
    for p, anchor, omega in zip(parameters, anchors, importance):
        c = (min(rate, 1e30) * omega).clamp(max=1e30)  # finite, so that c / (1 + c) becomes 0 or 1
        p[: len(anchor)].lerp_(anchor, c / (1 + c))
