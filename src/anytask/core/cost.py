"""What a model costs: numbers that are trained, numbers that are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn


def parameter_count(*modules: nn.Module) -> int:
    """Return how many numbers the parameters of ``modules`` hold."""
    return sum(p.numel() for module in modules for p in module.parameters())


def cost_of(*objects: Any) -> dict[str, int]:
    """Count the numbers in modules, tensors and arrays, in containers too, each object once.

    Returns
    -------
    dict
        ``trainable_parameters``: parameters of modules with ``requires_grad``; ``stored_parameters``: all parameters
        (buffers left aside), and the numbers of tensors and arrays beside the modules.

    Examples
    --------
    >>> import torch
    >>> cost_of(nn.Linear(2, 3), [torch.zeros(4)])
    {'trainable_parameters': 9, 'stored_parameters': 13}
    """
    trainable = stored = 0
    seen: set[int] = set()
    for value in _leaves(objects):
        numbers = list(value.parameters()) if isinstance(value, nn.Module) else [value]
        for number in numbers:
            if id(number) in seen:
                continue
            seen.add(id(number))
            size = number.numel() if isinstance(number, Tensor) else number.size
            stored += size
            if isinstance(value, nn.Module) and number.requires_grad:
                trainable += size
    return {"trainable_parameters": trainable, "stored_parameters": stored}


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (nn.Module, Tensor)) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf"):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, (list, tuple, set)):
        for inner in value:
            yield from _leaves(inner)
