"""Plain mini-batch training, shared by the systems that train a small network inside a larger algorithm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anytask.continual.parts.pruning import apply_masks

Loss = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put ``module`` into training or evaluation mode inside the block, and back afterwards."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


def tune(optimizer: torch.optim.Optimizer, **values: float) -> None:
    """Let an optimizer go on with other values, such as ``lr``; what it remembers of earlier steps stays."""
    for group in optimizer.param_groups:
        group.update(values)


def sgd_step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    n: int,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Make one optimiser step on ``loss()``, computed in training mode on ``n`` rows.

    A single row has no batch statistics, so with ``n == 1`` batch norm uses its running ones. Weights ruled out by
    ``masks`` are 0 afterwards.
    """
    module.train()
    if n == 1:
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
    optimizer.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss().backward()
    optimizer.step()
    if masks:
        apply_masks(module, masks)


def train_on(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    X: Tensor,
    y: Tensor,
    loss: Loss,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Make ``steps`` steps on shuffled mini-batches of (X, y), pass after pass.

    Parameters
    ----------
    module, optimizer
        What is trained, and by what.
    X : tensor of shape (n, ...)
        Inputs of ``module``.
    y : tensor of shape (n,)
        Targets.
    loss : callable
        ``loss(module(x), y)``, a scalar.
    batch_size, steps : int
        Rows per step, and number of steps; an epoch is ``ceil(n / batch_size)`` steps.
    seed : int
        Seed of the order.
    masks : dict of bool tensors, optional
        Weights to hold at 0 (:mod:`anytask.continual.parts.pruning`).

    Examples
    --------
    >>> layer = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> train_on(layer, torch.optim.SGD(layer.parameters(), 0.1), x, 3 * x, nn.functional.mse_loss,
    ...          batch_size=8, steps=400, seed=0)
    >>> round(layer.weight.item(), 3)
    3.0
    """
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(X), generator=generator).split(batch_size)[: steps - done]:
            x_b, y_b = X[rows], y[rows]
            sgd_step(module, optimizer, lambda x=x_b, t=y_b: loss(module(x), t), len(rows), masks)  # type: ignore[misc]
            done += 1
