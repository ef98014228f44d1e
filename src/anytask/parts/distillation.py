"""Learning from an earlier self: a frozen snapshot of a module, and the divergence that keeps outputs near it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn


class Snapshot(nn.Module):
    """A frozen copy of a module: deep-copied, in eval mode, without gradients.

    Parameters
    ----------
    module : nn.Module
        What is copied; later changes to it do not reach the copy.
    train_mode : bool, default False
        Run the copy in train mode (dropout active, batch statistics moving), which some released codes do.

    Examples
    --------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> teacher = Snapshot(layer)
    >>> _ = layer.weight.data.add_(1.0)
    >>> teacher(torch.ones(1, 1)).item() == layer(torch.ones(1, 1)).item()
    False
    """

    def __init__(self, module: nn.Module, *, train_mode: bool = False) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).train(train_mode)
        self.train_mode = train_mode

    def train(self, mode: bool = True) -> Snapshot:
        """Stay in the copy's own mode."""
        return super().train(self.train_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def __snapshot__(self) -> Callable[[], None]:
        # Parameters cannot move; batch statistics can, in train mode only.
        if not self.train_mode:
            return lambda: None
        buffers = [(b, b.clone()) for b in self.module.buffers()]

        def undo() -> None:
            for buffer, before in buffers:
                buffer.copy_(before)

        return undo


def kl_distillation(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    *,
    dim: int = -1,
    reduction: Literal["mean", "sum", "none"] = "mean",
    scale: bool = False,
) -> Tensor:
    """Divergence ``KL(softmax(teacher / T) || softmax(student / T))`` along one axis.

    Parameters
    ----------
    student, teacher : Tensor of the same shape
        Logits; no gradient flows into ``teacher``.
    temperature : float > 0, default 1.0
    dim : int, default -1
        The axis that the softmax runs along. With (n samples, c classes), -1 keeps each sample's distribution over the
        classes and 0 keeps, for each class, the relative order of the samples.
    reduction : {"mean", "sum", "none"}, default "mean"
        Over the distributions, that is over all axes but ``dim``.
    scale : bool, default False
        Multiply by T^2, so that gradients keep their size when the temperature changes (Hinton et al., 2015).

    Raises
    ------
    ValueError
        For different shapes or a temperature that is not above 0.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    >>> kl_distillation(logits + 3.0, logits).item()
    0.0
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    log_q = (teacher.detach() / temperature).log_softmax(dim)
    log_p = (student / temperature).log_softmax(dim)
    q = log_q.exp()
    kl = (q * (log_q - log_p).masked_fill(q == 0, 0.0)).sum(dim)
    if scale:
        kl = kl * temperature**2
    return kl if reduction == "none" else kl.sum() if reduction == "sum" else kl.mean()
