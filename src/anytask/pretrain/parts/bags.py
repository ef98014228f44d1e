"""Ragged bags of vectors as one flat tensor, what a user may give as bags, and the base of the encoders of bags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from anytask.core.checks import as_given, check_numbers, dense
from anytask.core.errors import shown
from anytask.pretrain.base import PretrainEstimator

#: Name of the view where bags are given without one.
UNNAMED = ""
#: At most so many tokens are in a padded batch, but for a bag that has more.
ROOM = 65_536


@dataclass(frozen=True)
class Bags:
    """Bags of vectors.

    Attributes
    ----------
    tokens : Tensor of shape (total, d)
        The vectors of all bags, one bag after another.
    lengths : int Tensor of shape (n,)
        Vectors of each bag; 0 where there is no bag.

    Examples
    --------
    >>> bags = Bags.of([torch.ones(1, 2), None, torch.ones(3, 2)])
    >>> bags.lengths, bags.tokens.shape
    (tensor([1, 0, 3]), torch.Size([4, 2]))
    >>> x, mask = bags.padded(torch.tensor([0, 2]))
    >>> x.shape, mask
    (torch.Size([2, 3, 2]), tensor([[ True, False, False],
            [ True,  True,  True]]))
    """

    tokens: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, bags: Iterable[Tensor | None]) -> Bags:
        """Return bags (n_i, d), of which some are None, as one tensor."""
        given = list(bags)
        lengths = torch.tensor([0 if bag is None else len(bag) for bag in given])
        return cls(torch.cat([bag for bag in given if bag is not None] or [torch.zeros(0, 0)]), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def present(self) -> Tensor:
        """Which bags there are, shape (n,)."""
        return self.lengths > 0

    @cached_property
    def norms(self) -> Tensor:
        """Norms of the tokens, shape (total,)."""
        return torch.cat([part.norm(dim=1) for part in self.tokens.split(ROOM)])

    def only(self, rows: Tensor) -> Bags:
        """Return some bags, in this order."""
        lengths = self.lengths[rows]
        shift = (self._starts[rows] - lengths.cumsum(0) + lengths).repeat_interleave(lengths)
        return Bags(self.tokens[shift + torch.arange(len(shift))], lengths)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (b, t, d), 0 behind the end of a bag, and which of them are real (b, t)."""
        place = torch.arange(max(1, int(self.lengths[rows].max())))
        mask = place < self.lengths[rows, None]
        return self._at(self._starts[rows, None] + place, mask), mask

    def sampled(self, rows: Tensor, size: int) -> Tensor:
        """Return ``size`` tokens of each bag (b, size, d), drawn by torch's global generator.

        They are drawn without replacement of bags that have as many, with replacement of shorter ones, and are 0 where
        there is no bag.
        """
        lengths = self.lengths[rows, None]
        longest = max(size, int(lengths.max()))
        keys = torch.rand(len(rows), longest).masked_fill_(torch.arange(longest) >= lengths, -1)
        again = (torch.rand(len(rows), size) * lengths).long()
        place = torch.where(lengths >= size, keys.topk(size, dim=1).indices, again)
        return self._at(self._starts[rows, None] + place, (lengths > 0).expand_as(place))

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield the rows of bags that there are, at most ``size`` together, all over 3/4 of the longest's length."""
        order = torch.argsort(self.lengths, stable=True)
        order = order[self.lengths[order] > 0]
        while len(order):
            longest = int(self.lengths[order[-1]])
            alike = int((4 * self.lengths[order] > 3 * longest).sum())
            b = max(1, min(size, ROOM // longest, alike))
            yield order[-b:]
            order = order[:-b]

    @property
    def _starts(self) -> Tensor:
        return self.lengths.cumsum(0) - self.lengths

    def _at(self, index: Tensor, mask: Tensor) -> Tensor:
        if not len(self.tokens):
            return self.tokens.new_zeros(*index.shape, self.tokens.shape[1])
        return self.tokens[index.clamp(max=len(self.tokens) - 1)] * mask[..., None]


def read_bags(X: Any, view: str = UNNAMED) -> Bags:
    """Return the bags of one view, or say which case is wrong.

    Parameters
    ----------
    X : sequence of arrays or tensors of shape (n_i, d), or one of shape (n, t, d)
        None where a case has no such view.
    view : str
        For messages.

    Raises
    ------
    ValueError, TypeError
        For no case, a bag that is no matrix of finite numbers, and bags of different widths; case and view are named.

    Examples
    --------
    >>> read_bags([[[1.0, 2.0]], None, [[3.0, float("nan")]]], "HER2")
    Traceback (most recent call last):
        ...
    ValueError: case 2 of the view 'HER2' contains NaN or infinity in row 0: only finite values are accepted
    """
    of = f" of the view {view!r}" if view else ""
    if isinstance(X, (str, bytes, Mapping)) or not isinstance(X, Iterable) or (hasattr(X, "ndim") and X.ndim < 1):
        raise TypeError(f"X must hold bags{of}: a list of arrays (tokens, d), or an array (n, t, d), got {shown(X)}")
    X = dense(X, f"the array of bags{of}") if isinstance(X, Tensor) or hasattr(X, "toarray") else X
    found: list[Tensor | None] = []
    width: int | None = None
    for case, bag in enumerate(X):
        if bag is None:
            found.append(None)
            continue
        name = f"case {case}{of}"
        tokens = check_numbers(bag, name)
        if tokens.ndim != 2 or 0 in tokens.shape:
            hint = {1: "; one bag alone is [bag]", 2: "; None says that there is no bag"}.get(tokens.ndim, "")
            raise ValueError(f"{name} must have shape (tokens, d), got {tuple(tokens.shape)}{hint}")
        tokens = tokens.to("cpu", torch.float32)
        if not bool((finite := torch.isfinite(tokens).all(1)).all()):
            row = int((~finite).nonzero()[0])
            raise ValueError(f"{name} contains NaN or infinity in row {row}: only finite values are accepted")
        width = width or tokens.shape[1]
        if tokens.shape[1] != width:
            raise ValueError(f"{name} has tokens of {tokens.shape[1]} features, and those before have {width}")
        found.append(tokens)
    if not found:
        raise ValueError(f"Found 0 cases{of}, while a minimum of 1 is required.")
    return Bags.of(found)


def read_views(X: Any) -> dict[str, Bags]:
    """Return bags by view.

    Parameters
    ----------
    X : mapping of str to what :func:`read_bags` takes, or that of one view
        All views have the same cases in the same order.

    Raises
    ------
    ValueError, TypeError
        As :func:`read_bags`, and for views with different numbers of cases, of different widths, or without any bag.
    """
    if not isinstance(X, Mapping):
        views = {UNNAMED: read_bags(X)}
    else:
        if not X:
            raise ValueError("X must hold at least one view of bags, got an empty mapping")
        if bad := [name for name in X if not isinstance(name, str) or not name]:
            raise TypeError(f"X must name its views by texts, got {shown(bad[0])}")
        views = {name: read_bags(bags, name) for name, bags in X.items()}
    first, sizes = next(iter(views)), {name: len(bags) for name, bags in views.items()}
    if other := [name for name, n in sizes.items() if n != sizes[first]]:
        raise ValueError(
            f"the view {other[0]!r} has {sizes[other[0]]} cases, and {first!r} has {sizes[first]}: give None for those "
            "that a view lacks"
        )
    widths = {name: bags.tokens.shape[1] for name, bags in views.items() if bags.present.any()}
    if not widths:
        raise ValueError("X must hold at least one bag, got None for every case")
    width = next(iter(widths.values()))
    if other := [name for name, d in widths.items() if d != width]:
        raise ValueError(f"the view {other[0]!r} has tokens of {widths[other[0]]} features, and others have {width}")
    empty = torch.zeros(0, width)
    return {name: bags if name in widths else Bags(empty, bags.lengths) for name, bags in views.items()}


class BagEncoder(PretrainEstimator):
    """Base of the encoders of bags: ``transform`` makes one vector of each bag, of the anchor or of any view.

    Attributes
    ----------
    views_ : tuple of str
        Names of the views; the first is the anchor.
    n_features_in_ : int
        Width d of a token.
    """

    takes: ClassVar[str] = "bags"

    def transform(self, X: Any, *, view: str | None = None) -> Any:
        """Return a vector for each bag.

        Parameters
        ----------
        X : sequence of arrays (n_i, d), array (n, t, d), or mapping of such by view
            Of a mapping one view alone is read.
        view : str, optional
            Which view the bags are; the anchor unless given.

        Returns
        -------
        array or tensor of shape (n, width)
            A tensor where the bags are tensors.

        Raises
        ------
        ValueError
            For a case without a bag, tokens of another width, or a view that there is not.
        """
        return self._encoded(X, lambda data: self._features_of(self._chosen(data, view), self._place(view)))

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        """Return features (n, width) of bags that are all there, of the view at a place."""
        raise NotImplementedError

    def _read(self, X: Any) -> dict[str, Bags]:
        return read_views(X)

    def _note(self, data: dict[str, Bags]) -> None:
        self.views_ = tuple(data)
        if not bool(data[self.views_[0]].present.any()):
            raise ValueError(f"no case has a bag of the anchor {self.views_[0]!r}, the first view: name another first")
        self.n_features_in_ = next(iter(data.values())).tokens.shape[1]

    def _check_alike(self, data: dict[str, Bags]) -> None:
        width = next(iter(data.values())).tokens.shape[1]
        if width != self.n_features_in_:
            name = type(self).__name__
            raise ValueError(f"X holds tokens of {width} features, but {name} learned from {self.n_features_in_}")

    def _as_given(self, H: Tensor, X: Any) -> Any:
        bags = next(iter(X.values())) if isinstance(X, Mapping) else X
        given: Any = bags if hasattr(bags, "ndim") else next((bag for bag in bags if bag is not None), None)
        return as_given(H, given)

    def _place(self, view: str | None) -> int:
        if view is not None and view not in self.views_:
            raise ValueError(f"view must be one of {', '.join(map(repr, self.views_))}, got {shown(view)}")
        return 0 if view is None else self.views_.index(view)

    def _chosen(self, data: dict[str, Bags], view: str | None) -> Bags:
        """Return the bags of one view, all of them, or say what is missing."""
        name = UNNAMED if UNNAMED in data else self.views_[self._place(view)]
        if name == UNNAMED and name not in data:
            raise ValueError(f"{type(self).__name__} learned from bags without a view's name: give bags, not a mapping")
        if name not in data:
            raise ValueError(f"X lacks the view {name!r}: it has {', '.join(map(repr, data))}")
        if not bool(data[name].present.all()):
            case, of = int(data[name].present.logical_not().nonzero()[0]), f" of the view {name!r}" if name else ""
            raise ValueError(f"case {case}{of} has no bag, and features need one: leave it out, or choose another view")
        return data[name]
