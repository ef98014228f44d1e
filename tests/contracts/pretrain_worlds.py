"""Small data of every kind that encoders without labels learn from, and how each kind is spoiled."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hard import BAD_INPUTS, SAME

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class World:
    """Data of one kind: what is fitted, what is asked for, and how many features come back."""

    X: Any
    query: Any
    n: int
    one: Any  # a single input
    bad: dict[str, tuple[Callable[[Any], Any], str]]  # name -> (spoil X, what the error says)
    same: dict[str, Callable[[Any], Any]] = field(default_factory=dict)  # X in other clothes
    other: Any = None  # data of another shape
    constant: Any = None  # data in which nothing varies


_ARRAYS = np.round(8 * RNG.normal(size=(40, 1, 8, 8))).astype(np.float32) / 8  # exact in half precision
_FLAT = _ARRAYS.reshape(40, 64)

WORLDS: dict[str, World] = {
    "arrays": World(
        _FLAT, _FLAT[:7], 7, _FLAT[:1], BAD_INPUTS, SAME, other=_FLAT[:, :5], constant=np.ones_like(_FLAT)
    ),
    "images": World(
        _ARRAYS, _ARRAYS[:7], 7, _ARRAYS[:1], BAD_INPUTS,
        {kind: convert for kind, convert in SAME.items() if "pandas" not in kind},
        other=np.zeros((4, 1, 5, 5), np.float32), constant=np.ones_like(_ARRAYS),
    ),
}  # fmt: skip


def numbers(features: Any) -> np.ndarray:
    """Return features as an array."""
    return features.numpy() if isinstance(features, torch.Tensor) else np.asarray(features)
