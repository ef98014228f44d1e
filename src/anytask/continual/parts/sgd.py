"""Plain mini-batch training, shared by the systems that train a small network inside a larger algorithm."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anytask.continual.parts.pruning import apply_masks
from anytask.core.settings import Settings, numbers, real, whole
from anytask.core.training import train

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


class ScheduleSettings(Settings):
    """A learning rate that falls at milestones, over steps that the learner counts itself.

    Parameters
    ----------
    steps_per_epoch : int, optional
        A stream announces no epochs: give their length in mini-batches to switch the schedule on; None leaves it off.
    milestones, gamma
        Epochs at which ``gamma`` multiplies the learning rate.
    warmup_epochs : float
        Epochs over which it rises linearly from 0.

    Examples
    --------
    >>> schedule = ScheduleSettings(steps_per_epoch=10, milestones=(2, 3), gamma=0.5, warmup_epochs=1)
    >>> [schedule.rate(1.0, step) for step in (0, 9, 20, 30)]
    [0.1, 1.0, 0.5, 0.25]
    """

    steps_per_epoch: int | None = whole(None, "mini-batches in an epoch; None for no schedule", optional=True)
    milestones: Sequence[float] = numbers((60, 120, 160, 230), "epochs at which the rate falls", above=0)
    gamma: float = real(0.2, "factor by which it falls", above=0)
    warmup_epochs: float = real(0.0, "epochs over which it rises from 0", at_least=0)

    def rate(self, lr: float, steps: int) -> float:
        """Return the learning rate after so many steps."""
        if self.steps_per_epoch is None:
            return lr
        epoch = steps / self.steps_per_epoch
        warm = min(1.0, (steps + 1) / (self.warmup_epochs * self.steps_per_epoch)) if self.warmup_epochs else 1.0
        return lr * warm * self.gamma ** bisect_right(sorted(self.milestones), epoch)


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
    _steady(module, n)
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
    stage: str = "training",
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
    stage : str
        Named in errors, as in :func:`anytask.core.training.train`.

    Examples
    --------
    >>> layer = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> train_on(layer, torch.optim.SGD(layer.parameters(), 0.1), x, 3 * x, nn.functional.mse_loss,
    ...          batch_size=8, steps=400, seed=0)
    >>> round(layer.weight.item(), 3)
    3.0
    """
    batches = _shuffled(len(X), batch_size, torch.Generator().manual_seed(seed))

    def losses(rows: Tensor) -> Tensor:
        _steady(module, len(rows))
        return loss(module(X[rows]), y[rows])

    def after_step(step: int) -> None:
        apply_masks(module, masks or {})

    with torch.enable_grad():  # predictions may ask for training
        train(
            module, lambda step: next(batches), losses,
            steps=steps, optimizer=optimizer, after_step=after_step, stage=stage,
        )  # fmt: skip


def _shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)


def _steady(module: nn.Module, n: int) -> None:
    """Let batch norm use its running statistics where a single row has none."""
    if n == 1:
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
