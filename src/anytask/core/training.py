"""The training loop that families share: draw, losses, step, schedule, finiteness, checkpoint selection, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anytask.core.checks import require_finite, require_finite_weights
from anytask.core.progress import Progress, heard


@contextmanager
def gradients() -> Iterator[None]:
    """Record gradients inside the block, or the decorated function, also inside a caller's ``torch.no_grad()``.

    Raises
    ------
    RuntimeError
        Inside ``torch.inference_mode()``, whose tensors can never be learned from.

    Examples
    --------
    >>> w = torch.ones(2, requires_grad=True)
    >>> with torch.no_grad(), gradients():
    ...     (w * w).sum().backward()
    >>> w.grad
    tensor([2., 2.])
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("nothing can be learned inside torch.inference_mode(): leave it, or take torch.no_grad()")
    with torch.enable_grad():
        yield


@gradients()
def train(
    net: nn.Module,
    draw: Callable[[int], Any],
    losses: Callable[[Any], Tensor | Iterable[Tensor]],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    max_grad_norm: float | None = None,
    after_step: Callable[[int], object] | None = None,
    select: Callable[[], float] | None = None,
    select_every: int = 0,
    stage: str = "training",
    progress: Progress | None = None,
) -> list[float]:
    """Train ``net`` in place for a number of steps.

    Parameters
    ----------
    net : torch.nn.Module
        In training mode during each step, in evaluation mode while ``select`` looks at it and at the end.
    draw : callable
        ``draw(step)`` returns the batch of a step, counted from 1; a ``StopIteration`` says that the data ended, and
        ends the training.
    losses : callable
        ``losses(batch)`` returns a loss or yields several; each is propagated back before the next is asked for, so a
        generator accumulates gradients without holding all graphs at once.
    steps : int
    optimizer, schedule
        Of torch; the schedule is stepped after each step.
    max_grad_norm : float, optional
        Norm to which gradients are clipped.
    after_step : callable, optional
        Called with the step's number after each update (moving averages, masks).
    select : callable, optional
        Score of the present weights, higher is better; the best weights (the later of equals) are kept.
    select_every : int
        Steps between two scores; the last step is always scored.
    stage : str
        Named in errors.
    progress : callable, optional
        Told the finished share.

    Returns
    -------
    list of float
        The sum of the losses at each step.

    Raises
    ------
    ValueError
        If no weight may be trained.
    NotFinite
        If a loss, or a weight at the end, is NaN or infinite. The caller rolls back.

    Examples
    --------
    >>> net = nn.Linear(1, 1, bias=False)
    >>> x = torch.linspace(-1, 1, 16)[:, None]
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    >>> curve = train(net, lambda step: x, lambda x: (net(x) - 3 * x).square().mean(), steps=60, optimizer=sgd)
    >>> round(net.weight.item(), 3)
    3.0
    """
    progress = heard(progress)
    if steps and not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(f"{stage} has no weight to train: all have requires_grad=False")
    best, kept = float("-inf"), None
    curve = []
    for step in range(1, steps + 1):
        try:
            batch = draw(step)
        except StopIteration:
            progress(1.0)
            break
        net.train()
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for loss in _each(losses(batch)):
            loss.backward()
            total = total + loss.detach().cpu()
        require_finite(total, f"the loss of {stage} at step {step}", "lower lr, or check the scale of the inputs")
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_grad_norm)
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if after_step is not None:
            after_step(step)
        curve.append(float(total))
        if select is not None and (step == steps or (select_every and step % select_every == 0)):
            net.eval()
            score = select()
            if score >= best:
                best, kept = score, {name: value.clone() for name, value in net.state_dict().items()}
        progress(step / steps)
    if kept is not None:
        net.load_state_dict(kept)
    net.eval()
    require_finite_weights([net], f"after {stage}")
    return curve


def _each(losses: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    if isinstance(losses, Tensor):
        yield losses
    else:
        yield from losses
