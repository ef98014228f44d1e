"""Sources of labels: pools, or samplers that draw on demand, and the labels that were drawn of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anytask.core.checks import as_array, as_numbers, check_input_shape, check_inputs, check_same_length
from anytask.core.errors import shown
from anytask.multitask.parts.label_budget import allocate


def labelled(given: Any, whose: str, wanted: str = "a pair (X, y)") -> tuple[Tensor, np.ndarray]:
    """Return inputs and as many labels, or say what is wrong with them; labels may be missing."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise TypeError(f"{whose} must be {wanted}, got {shown(given, 60)}")
    X, y = check_inputs(given[0], f"X of {whose}"), as_array(given[1], f"y of {whose}")
    if y.ndim != 1:
        raise ValueError(f"y of {whose} must have shape ({len(X)},), got {y.shape}")
    check_same_length(X, y, f"X of {whose}", f"y of {whose}")
    return X, y


class Source:
    """A pool ``(X, y)`` or a sampler with ``draw(n)``, and the rows that were drawn of it.

    Rows have to be of the shape of ``X``, and labels of the kind of ``y``, those of the target.
    """

    def __init__(self, given: Any, name: Any, X: Tensor, y: np.ndarray, seed: int) -> None:
        self.name, self.X, self.y, self._numbers = name, X[:0], y[:0], _are_numbers(y)
        self._dry, self._sampler = False, given if hasattr(given, "draw") else None
        if self._sampler is None:
            self._pool = self._checked(given)
            self._order = np.random.default_rng(seed).permutation(len(self._pool[1]))

    @property
    def most(self) -> float:
        """How many rows there can be."""
        if self._sampler is None:
            return len(self._order)
        return len(self.y) if self._dry else math.inf

    def draw(self, n: int) -> None:
        """Draw n rows more, or fewer where it runs dry."""
        if self._sampler is None:
            rows = self._order[len(self.y) : len(self.y) + n]
            X, y = self._pool[0][torch.from_numpy(rows)], self._pool[1][rows]
        else:
            given = self._sampler.draw(n)
            X, y = self._checked(given) if not _empty(given) else (self.X[:0], self.y[:0])
            if len(y) > n:
                raise ValueError(f"source {self.name!r} gave {len(y)} rows, and {n} were asked for")
        self._dry = len(y) < n
        self.X, self.y = torch.cat([self.X, X]), np.concatenate([self.y, y])

    def _checked(self, given: Any) -> tuple[Tensor, np.ndarray]:
        whose = f"source {self.name!r}"
        X, y = labelled(given, whose, "a pool (X, y), or have a method draw(n) that returns such")
        check_input_shape(X, tuple(self.X.shape[1:]), f"the target, unlike {whose},")
        if missing := int(pd.isna(y).sum()):
            raise ValueError(f"{missing} labels of {whose} are missing: only labelled rows can be bought")
        if _are_numbers(y) != self._numbers:
            raise TypeError(f"labels of {whose} are {y.dtype}, and those of the target {self.y.dtype}")
        return X, y


def _empty(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2 and all(0 in np.shape(part) for part in given)


def _are_numbers(y: np.ndarray) -> bool:
    """Whether labels are numbers, but for those that are missing."""
    return y.dtype.kind in "biuf" or all(isinstance(one, Real) for one in y[~pd.isna(y)])


def draw(sources: list[Source], shares: np.ndarray, total: float, costs: np.ndarray, floor: int) -> None:
    """Draw rows until the budget is spent in proportion to ``shares``, from others where sources run dry."""
    while True:
        drawn, most = (
            np.array([value(one) for one in sources]) for value in (lambda one: len(one.y), lambda one: one.most)
        )
        wanted = allocate(shares, total, costs=costs, lower=np.maximum(drawn, floor), upper=most)
        if not (wanted > drawn).any():
            break
        for source, n in zip(sources, wanted - drawn):
            if n > 0:
                source.draw(int(n))
    if empty := [one.name for one in sources if not len(one.y)]:
        raise ValueError(f"source {empty[0]!r} gave no rows")


def warn_of_dry(sources: list[Source], shares: np.ndarray, total: float, costs: np.ndarray) -> None:
    """Warn where sources that were to be drawn from have no more rows, unless all of them are used up as planned."""
    drawn, most = np.array([len(one.y) for one in sources]), np.array([one.most for one in sources])
    left, dry = total - (costs * drawn).sum(), (drawn >= most) & (shares > 0)
    if dry.any() and (left >= costs.min() or not (drawn >= most).all()):
        names = shown([one.name for one, at_end in zip(sources, dry) if at_end], 80)
        more = f"{left:g} of the budget is left" if left >= costs.min() else "others were drawn from instead"
        warnings.warn(f"Sources ran dry: {names}; {more}.", stacklevel=3)


def named(sources: Any) -> tuple[list[Any], Any]:
    """Return the names of sources, and one for the target."""
    if not isinstance(sources, (Mapping, Sequence)) or isinstance(sources, str) or not len(sources):
        raise TypeError(f"sources must be a mapping or a sequence of one source or more, got {shown(sources, 60)}")
    names = list(sources) if isinstance(sources, Mapping) else list(range(len(sources)))
    kinds = {str if isinstance(name, str) else int if isinstance(name, (int, np.integer)) else None for name in names}
    if kinds not in ({str}, {int}):
        raise TypeError(f"sources must be named by strings or by integers, got {shown(names, 60)}")
    if "target" in names:
        raise ValueError("a source is named 'target', which is the target's own name: rename it")
    names, own = ([int(name) for name in names], int(max(names)) + 1) if kinds == {int} else (names, "target")
    if np.array([*names, own]).tolist() != [*names, own]:
        raise ValueError(f"sources must have names that arrays keep, integers below 2**63 - 1, got {shown(names, 60)}")
    return names, own


def check_budget(budget: Any, costs: np.ndarray, floor: int) -> None:
    """Say so if a budget is no number, or does not reach ``floor`` labels of each source."""
    if isinstance(budget, bool) or not isinstance(budget, (int, float, np.number)) or not 0 < budget < math.inf:
        raise ValueError(f"budget must be a number above 0, got {shown(budget)}")
    if budget < floor * costs.sum():
        wanted = f"{floor * costs.sum():g}, for {floor} labels of each of {len(costs)} sources"
        raise ValueError(f"budget must be at least {wanted}; got {shown(budget)}")


def check_costs(costs: Any, T: int) -> np.ndarray:
    """Return what a label of each of T sources costs, 1 unless given."""
    if costs is None:
        return np.ones(T)
    given = as_array(as_numbers(costs, "costs")).astype(float)
    if given.shape != (T,) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"costs must be {T} finite numbers above 0, one for each source, got {shown(costs, 60)}")
    return given


def check_heads(heads: Any, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the heads of T sources (k, T) and of the target (k,)."""
    if not isinstance(heads, (tuple, list)) or len(heads) != 2:
        raise TypeError(f"heads must be a pair (W, w), got {shown(heads, 60)}")
    W, w = (as_array(as_numbers(one, "heads")).astype(float) for one in heads)
    if W.ndim != 2 or W.shape[1] != T or w.shape != W.shape[:1] or not (np.isfinite(W).all() and np.isfinite(w).all()):
        raise ValueError(f"heads must be finite W (k, {T}) and w (k,), got shapes {W.shape} and {w.shape}")
    return W, w
