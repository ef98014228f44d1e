"""What a classifier says of inputs, and inputs and labels that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from anytask.core.checks import check_numbers, check_rows, label_places, require_finite_rows


def logits_of(model: nn.Module, theta: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return what a model, of transformers too, gives for inputs, with some of its weights replaced by ``theta``."""
    out = functional_call(model, dict(theta), (x,))
    return getattr(out, "logits", out)


def read_rows(
    logits: Callable[[Tensor], Tensor], dtype: torch.dtype, X: Any, y: Any = None, name: str = "X"
) -> tuple[Tensor, Tensor]:
    """Return inputs as the model takes them, whole numbers as they are if it can, and labels as places.

    Parameters
    ----------
    logits : callable
        Gives logits (n, n_classes) of inputs.
    dtype : torch.dtype
        What inputs are brought to that the model does not take as they are.
    X : array or tensor of shape (n, ...)
    y : integers (n,), optional
        Zeros unless given.
    name : str
        Of the inputs, in messages.

    Raises
    ------
    ValueError
        For inputs that hold NaN, or that the model does not take, and labels that are no places.

    Examples
    --------
    >>> read_rows(nn.Linear(2, 3), torch.float32, [[1, 2]], [2])
    (tensor([[1., 2.]]), tensor([2]))
    """
    given = check_numbers(X, name)
    check_rows(given, name)
    require_finite_rows(given, name)
    error: Exception | None = None
    for x in (given, given.to(dtype)):
        try:
            with torch.no_grad():
                shape: tuple[int, ...] = tuple(logits(x[:1]).shape)
            if len(shape) == 2:
                break
            error = ValueError(f"it gives shape {shape}, and (n, n_classes) is wanted")
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as failed:
            error = failed
    else:
        raise ValueError(f"the model maps no {name} of shape {tuple(given.shape[1:])} to logits: {error}") from error
    places = torch.zeros(len(x), dtype=torch.long) if y is None else y
    return x, label_places(places, x, shape[1], "y" if name == "X" else f"y of {name}", name)
