"""The two sides of pairs (texts, arrays or sequences of vectors), and which items of them belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from anytask.core.checks import check_inputs
from anytask.core.errors import shown
from anytask.datasets.pairs import alike
from anytask.lm.protocol import check_texts
from anytask.pretrain.parts.bags import Bags, read_bags

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Return the words and marks of a text, in lower case.

    Examples
    --------
    >>> words("C++ developer")
    ['c', '+', '+', 'developer']
    """
    return _WORD.findall(text.casefold())


@dataclass(frozen=True)
class Items:
    """What stands on one side.

    Attributes
    ----------
    kind : {"texts", "arrays", "sequences"}
    values : list of n str, Tensor of shape (n, \\*shape) or Bags of n sequences
        As the kind says.
    """

    kind: str
    values: Any

    def __len__(self) -> int:
        return len(self.values)

    def taken(self, rows: Tensor) -> Any:
        """Return what a tower takes of some rows: texts, a tensor, or padded tokens with their mask."""
        if self.kind == "texts":
            return [self.values[row] for row in rows.tolist()]
        return self.values[rows] if self.kind == "arrays" else self.values.padded(rows)

    def only(self, rows: Tensor) -> Items:
        """Return some of the items."""
        if self.kind != "sequences":
            return Items(self.kind, self.taken(rows))
        return Items(self.kind, self.values.only(rows))

    def alike(self) -> Tensor:
        """Return for each item the first one that equals it, shape (n,)."""
        rows = self.values.tokens.split(self.values.lengths.tolist()) if self.kind == "sequences" else self.values
        return torch.from_numpy(alike(rows))

    @property
    def facts(self) -> dict[str, Any]:
        """What a tower for such items has to know, as plain values."""
        if self.kind == "texts":
            return {"kind": "texts", "words": sorted({word for text in self.values for word in words(text)})}
        shape = self.values.shape[1:] if self.kind == "arrays" else self.values.tokens.shape[1:]
        return {"kind": self.kind, "shape": list(shape)}


def read_items(X: Any, name: str, kind: str | None = None) -> Items:
    """Return what a user gives as one side, or say what is wrong with it.

    Parameters
    ----------
    X : sequence of str; array of shape (n, ...); or list of arrays of shape (n_i, d)
        Arrays of one shape are ``"arrays"`` unless the kind says otherwise.
    name : str
        For messages.
    kind : {"texts", "arrays", "sequences"}, optional
        What is wanted; by default it is read off the items.

    Raises
    ------
    ValueError, TypeError
        For no items, items of another kind, an empty text, and NaN or infinite numbers, with their place.

    Examples
    --------
    >>> read_items(["welds pipes", " "], "left")
    Traceback (most recent call last):
        ...
    ValueError: left[1] is an empty text: leave the pair out, or say something
    """
    if isinstance(X, (str, bytes, Mapping)) or not isinstance(X, Iterable):
        raise TypeError(f"{name} must be a list of items, got {shown(X)}: wrap a single one in a list")
    given: Any = X if hasattr(X, "shape") or isinstance(X, Sequence) else list(X)
    if not len(given):
        raise ValueError(f"{name} holds 0 items, and at least 1 is required")
    first = next(iter(given))
    found = "texts" if isinstance(first, str) or kind == "texts" else kind
    if found is None:
        found = "sequences" if isinstance(given, (list, tuple)) and getattr(first, "ndim", 0) == 2 else "arrays"
    if kind is not None and found != kind:
        raise TypeError(f"{name} must be {kind}, got {found}, such as {shown(first)}")
    if found == "texts":
        texts = check_texts(given, name)
        if empty := [row for row, text in enumerate(texts) if not text.strip()]:
            raise ValueError(f"{name}[{empty[0]}] is an empty text: leave the pair out, or say something")
        return Items("texts", texts)
    if found == "sequences":
        bags = read_bags(given, name)
        if not bool(bags.present.all()):
            raise ValueError(f"{name}[{int((~bags.present).nonzero()[0])}] is no sequence: leave the pair out")
        return Items("sequences", bags)
    return Items("arrays", check_inputs(given, name).cpu())


@dataclass(frozen=True)
class Pairs:
    """Which items of two sides belong together.

    Attributes
    ----------
    left, right : Items
        Distinct items.
    edges : int Tensor of shape (m, 2)
        Distinct (left, right) places.

    Examples
    --------
    >>> pairs = read_pairs(["nurse", "Nurse ", "welder"], ["gives care", "draws blood", "joins metal"])
    >>> pairs.edges.tolist(), pairs.positive(torch.tensor([0, 1]), torch.tensor([1, 2])).tolist()
    ([[0, 0], [0, 1], [1, 2]], [[True, False], [False, True]])
    """

    left: Items
    right: Items
    edges: Tensor

    def positive(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return which left ``rows`` (n,) belong with which right ``columns`` (m,), bool of shape (n, m)."""
        codes = rows[:, None] * len(self.right) + columns[None, :]
        place = torch.searchsorted(self._codes, codes).clamp(max=len(self._codes) - 1)
        return self._codes[place] == codes

    @cached_property
    def _codes(self) -> Tensor:
        return (self.edges[:, 0] * len(self.right) + self.edges[:, 1]).sort().values


def paired(left: Items, right: Items) -> Pairs:
    """Return pairs of aligned items, where equal items are one with all of its partners."""
    if len(left) != len(right):
        raise ValueError(f"left has {len(left)} items and right {len(right)}: left[i] belongs with right[i]")
    sides, places = [], []
    for items in (left, right):
        kept, place = items.alike().unique(return_inverse=True)
        sides.append(items if len(kept) == len(items) else items.only(kept))
        places.append(place)
    return Pairs(sides[0], sides[1], torch.stack(places, dim=1).unique(dim=0))


def read_pairs(left: Any, right: Any, kinds: tuple[str | None, str | None] = (None, None)) -> Pairs:
    """Return what a user gives as two aligned sides; see :func:`read_items`."""
    return paired(read_items(left, "left", kinds[0]), read_items(right, "right", kinds[1]))


@dataclass(frozen=True)
class Tokens:
    """Token vectors of encoded items, which can be kept: scoring them again takes no encoder.

    Attributes
    ----------
    bags : Bags
        One bag of tokens for each item.
    side : {"left", "right"}
    """

    bags: Bags
    side: str

    def __len__(self) -> int:
        return len(self.bags)


def ranked(scores: ArrayLike, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the k highest scores of each row, highest first and of equals the earlier, and the scores.

    Examples
    --------
    >>> ranked([[0.1, 0.9, 0.9]], 2)
    (array([[1, 2]]), array([[0.9, 0.9]]))
    """
    values = np.asarray(scores)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(values, order, axis=1)
