"""The protocol of the encoders of pairs: two sides that belong together, retrieved from each other.

``fit(left, right)`` reads aligned items; equal ones become one item with several partners. The walk of a batch:
edges are drawn -> their distinct items go through the towers of their sides, which give token vectors and masks ->
a scorer makes a matrix of them -> the loss compares it with the matrix of all edges among these items. ``encode`` gives
tokens that can be kept, and ``scores`` and ``rank`` take those or items.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.core.checks import require_finite
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, real, whole
from anytask.core.training import train
from anytask.parts.contrastive import contrastive_loss
from anytask.pretrain.parts.bags import ROOM, Bags
from anytask.pretrain.parts.item_towers import Encoded, encoded
from anytask.pretrain.parts.items import Items, Pairs, Tokens, ranked, read_items, read_pairs
from anytask.pretrain.parts.token_cache import kept

#: Products of tokens that are in memory at a time where scores are made.
PRODUCTS = 2**24
SIDES = ("left", "right")


@dataclass(frozen=True)
class PairBatch:
    """Distinct items of both sides, and which belong together.

    Attributes
    ----------
    pairs : Pairs
        What they are of.
    rows, columns : int Tensor of shape (n,) and (m,)
        Places of the left and of the right items.
    positive : bool Tensor of shape (n, m)
        All edges among them, those that were drawn and others.
    drawn : int Tensor of shape (b, 2)
        The edges that were drawn, by the places of their items in ``rows`` and ``columns``.
    """

    pairs: Pairs
    rows: Tensor
    columns: Tensor
    positive: Tensor
    drawn: Tensor

    @classmethod
    def of(cls, pairs: Pairs, edges: Tensor) -> PairBatch:
        """Return the items of some edges (m, 2)."""
        rows, left = edges[:, 0].unique(return_inverse=True)
        columns, right = edges[:, 1].unique(return_inverse=True)
        return cls(pairs, rows, columns, pairs.positive(rows, columns), torch.stack([left, right], dim=1))


class Sides(nn.Module):
    """A tower for each side, or one for both, and whatever else is trained.

    Parameters
    ----------
    left, right : torch.nn.Module
        Map what :meth:`Items.taken` returns to :data:`~anytask.pretrain.parts.item_towers.Encoded`.
    """

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, items: Items, rows: Tensor, side: str) -> Encoded:
        return encoded(getattr(self, side)(items.taken(rows)), len(rows), side)


class PairEncoder(Estimator):
    """Base of the encoders of pairs: a system writes :meth:`_network` and :meth:`_score`, and may write :meth:`_loss`.

    Parameters
    ----------
    lr, weight_decay : float
        Of AdamW.
    warmup : float in [0, 1]
        Share of the steps over which the rate rises.
    epochs : int
        Passes over the pairs; without any the towers stay as they were given.
    batch_size : int
        Pairs in a step; their items are each other's negatives.
    max_grad_norm : float, optional
        Norm to which gradients are clipped.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.
    """

    #: What a system looks at of the task; see :class:`~anytask.continual.base.ContinualClassifier`.
    sees: ClassVar[str] = "none"
    #: What it learns from.
    takes: ClassVar[str] = "pairs"
    #: The kind of the left and of the right items ("texts", "arrays" or "sequences"); None: any.
    KINDS: ClassVar[tuple[str | None, str | None]] = (None, None)
    INFERENCE: ClassVar[tuple[str, ...]] = ()

    lr: float = real(1e-3, "highest learning rate of AdamW", above=0)
    weight_decay: float = real(0.0, "weight decay of AdamW", at_least=0)
    warmup: float = real(0.1, "share of the steps over which the rate rises", at_least=0, at_most=1)
    epochs: int = whole(50, "passes over the pairs; 0: towers as they were given", at_least=0)
    batch_size: int = whole(64, "pairs in a step", at_least=2)
    max_grad_norm: float | None = real(None, "norm to which gradients are clipped; None: not", above=0, optional=True)
    precision: str = choice("float32", ("float32", "bfloat16"), "numbers of the towers in training")

    # -- what users call ------------------------------------------------------------------------------------------

    def fit(self, left: Any, right: Any, *, progress: Progress | None = None) -> Self:
        """Learn which items belong together.

        Parameters
        ----------
        left, right : sequence of str, array of shape (n, ...), or list of arrays of shape (n_i, d)
            ``left[i]`` belongs with ``right[i]``. Equal items (texts: equal but for case and spaces) are one, and all
            of its partners are right.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For sides of different lengths, empty texts, NaN or infinite numbers, items of the wrong kind.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        return self._fit({"": read_pairs(left, right, self.KINDS)}, progress)

    def encode(self, items: Any, *, side: str = "right", cache: str | os.PathLike[str] | None = None) -> Tokens:
        """Return the token vectors of items, to be scored as often as you like.

        Parameters
        ----------
        items : as one side of :meth:`fit`
        side : {"left", "right"}
        cache : path, optional
            A folder in which the vectors are kept, and from which they are read while they are scored, so that there
            may be more than memory holds. The same items of the same model are not encoded again; others replace them.
        """
        self._check_use(side)
        read = self._read_side(items, side, "items")
        with torch.no_grad(), isolated(derive(self.seed, "transform")):
            if cache is None:
                return Tokens(self._encoded(read, side), side)
            return Tokens(kept(cache, self._key(read, side), lambda: self._parts(read, side)), side)

    def scores(self, left: Any, right: Any) -> Any:
        """Return how well each left item fits each right one.

        Parameters
        ----------
        left, right : as in :meth:`fit`, of any two lengths, or :class:`Tokens` of :meth:`encode`

        Returns
        -------
        array of shape (n, m)
        """
        a, b = self._tokens(left, "left"), self._tokens(right, "right")
        with torch.no_grad():
            S = torch.cat([torch.cat([self._scored(a, b, rows, columns) for columns in self._split(b, a, len(rows))], 1)
                           for rows in torch.arange(len(a)).split(self._rows_at_once(a, b))])  # fmt: skip
        return require_finite(S, "a score").double().numpy()

    def rank(self, queries: Any, targets: Any, *, k: int | None = None, side: str = "left") -> Any:
        """Return the places of the targets that fit each query, the best first, and their scores.

        Parameters
        ----------
        queries, targets : as in :meth:`scores`
        k : int, optional
            How many; all by default.
        side : {"left", "right"}
            Of the queries; the targets are of the other.

        Returns
        -------
        places, scores : array of shape (n, k)
        """
        if k is not None and (isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1):
            raise ValueError(f"k must be an integer of at least 1, got {k!r}")
        self._check_use(side)
        S = self.scores(queries, targets) if side == "left" else self.scores(targets, queries).T
        return ranked(S, k)

    def transform(self, items: Any, *, side: str = "left") -> Any:
        """Return one vector of length 1 for each item: the mean of its tokens.

        Returns
        -------
        array of shape (n, width)
        """
        bags = self.encode(items, side=side).bags
        owner = torch.arange(len(bags)).repeat_interleave(bags.lengths)
        means = torch.zeros(len(bags), bags.tokens.shape[1]).index_add_(0, owner, bags.tokens) / bags.lengths[:, None]
        return nn.functional.normalize(means, dim=1).double().numpy()

    # -- what a system writes -------------------------------------------------------------------------------------

    def _network(self) -> Sides:
        """Return fresh towers for items of ``self.facts_["left"]`` and ``["right"]``, with all else that is trained."""
        raise NotImplementedError

    def _score(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        """Return scores (n, m) of tokens (n, p, d) and (m, q, d), where masks say which tokens are real."""
        raise NotImplementedError

    def _loss(self, batch: PairBatch) -> Tensor:
        """Return the loss of a batch: by default many-to-many InfoNCE in both directions."""
        S = self._score_batch(batch) * self._scale()
        return contrastive_loss(S, batch.positive.to(S.device), symmetric=True)

    def _scale(self) -> Tensor | float:
        """Return what scores are multiplied with in the default loss: 1 / temperature."""
        return 1.0

    def _batches(self, graphs: dict[str, Pairs]) -> Iterator[PairBatch]:
        """Yield the batches of an epoch, of each graph in turn."""
        for pairs in graphs.values():
            edges = self._edges(pairs)
            for chosen in torch.randperm(len(edges)).split(self.batch_size):
                if len(chosen) > 1 or len(edges) == 1:
                    yield PairBatch.of(pairs, edges[chosen])

    def _edges(self, pairs: Pairs) -> Tensor:
        """Return the edges (m, 2) of an epoch: by default all; as many each time."""
        return pairs.edges

    def _steps(self, graphs: dict[str, Pairs]) -> int:
        """Return how many batches an epoch has."""
        return sum(max(1, math.ceil(len(self._edges(pairs)) / self.batch_size)) for pairs in graphs.values())

    # -- training -------------------------------------------------------------------------------------------------

    def _fit(self, graphs: dict[str, Pairs], progress: Progress | None) -> Self:
        told = heard(progress)
        with self._refit():
            self._note(graphs)
            with isolated(derive(self.seed, "init")):
                self._build()
            with isolated(derive(self.seed, "train")):
                self._train(graphs, told)
            told(1.0)
            self._keep_shape()
        return self

    def _note(self, graphs: dict[str, Pairs]) -> None:
        """Keep what towers have to know of the items, as plain values."""
        self.facts_: dict[str, dict[str, Any]] = {}
        for side in SIDES:
            facts = [getattr(pairs, side).facts for pairs in graphs.values()]
            if "words" in facts[0]:
                known = sorted({word for one in facts for word in one["words"]})
                self.facts_[side] = {"kind": "texts", "words": known}
            elif any(one != facts[0] for one in facts):
                raise ValueError(f"the {side} items of all graphs must be alike, got {facts}")
            else:
                self.facts_[side] = facts[0]

    def _build(self) -> None:
        self.net_ = self._network().to(self._device).eval()

    def _train(self, graphs: dict[str, Pairs], progress: Progress) -> None:
        steps = self.epochs * self._steps(graphs)
        if not steps:
            return
        optimizer = self._optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._rate(step, steps))
        batches = (batch for _ in range(self.epochs) for batch in self._batches(graphs))

        def loss(batch: PairBatch) -> Tensor:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
                return self._loss(batch)

        train(
            self.net_, lambda _step: next(batches), loss, steps=steps, optimizer=optimizer, schedule=schedule,
            max_grad_norm=self.max_grad_norm, after_step=self._after_step(), progress=progress, stage="training",
        )  # fmt: skip

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.net_.parameters(), self.lr, weight_decay=self.weight_decay)

    def _rate(self, step: int, steps: int) -> float:
        """Return the share of ``lr`` at a step, counted from 0: it rises over the warm-up, and stays."""
        return min(1.0, (step + 1) / max(1, round(self.warmup * steps)))

    def _after_step(self) -> Callable[[int], object] | None:
        """Return what is called after each step, such as the clamp of a temperature."""
        return None

    def _score_batch(self, batch: PairBatch) -> Tensor:
        """Return the scores (n, m) of a batch, with their gradient."""
        tokens = self._batch_tokens(batch)
        with torch.autocast(self._device.type, enabled=False):
            return self._score(*tokens)

    def _batch_tokens(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens of both sides and their masks, as :meth:`_score` takes them, with their gradient."""
        a, mask_a = self.net_(batch.pairs.left, batch.rows, "left")
        b, mask_b = self.net_(batch.pairs.right, batch.columns, "right")
        a, b = a.float(), b.float()
        # Vectors whose norm overflows would have a cosine of 0 with everything.
        require_finite(a.detach().square().sum() + b.detach().square().sum(), "the size of token vectors", "lower lr")
        return a, b, mask_a, mask_b

    # -- inference ------------------------------------------------------------------------------------------------

    def _check_use(self, side: str) -> None:
        self._check_fitted()
        self._check_settings()
        self._check_shape_kept()
        if side not in SIDES:
            raise ValueError(f"side must be 'left' or 'right', got {side!r}")

    def _read_side(self, items: Any, side: str, name: str) -> Items:
        facts = self.facts_[side]
        read = read_items(items, name, facts["kind"])
        if read.kind != "texts" and read.facts != {"kind": facts["kind"], "shape": facts["shape"]}:
            shape = tuple(read.facts["shape"])
            raise ValueError(
                f"{name} holds items of shape {shape}, but {type(self).__name__} learned from {tuple(facts['shape'])}"
            )
        return read

    def _tokens(self, given: Any, side: str) -> Bags:
        if isinstance(given, Tokens):
            self._check_use(side)
            if given.side != side:
                raise ValueError(f"these tokens are of the {given.side} side, wanted is the {side} one: encode again")
            return given.bags
        self._check_use(side)
        with torch.no_grad(), isolated(derive(self.seed, "transform")):
            return self._encoded(self._read_side(given, side, side), side)

    def _encoded(self, items: Items, side: str) -> Bags:
        return Bags.of(tokens for part in self._parts(items, side) for tokens in part)

    def _parts(self, items: Items, side: str) -> Iterator[list[Tensor]]:
        """Yield the tokens (t, d) of items, those of many items at a time."""
        for rows in torch.arange(len(items)).split(self._items_at_once(items)):
            tokens, mask = self.net_(items, rows, side)
            tokens = require_finite(tokens.float(), "a token vector").cpu()
            yield [t[m] for t, m in zip(tokens, mask.cpu())]

    def _key(self, items: Items, side: str) -> str:
        """Return a hash of the weights and of items."""
        content = hashlib.sha256(f"{type(self).__name__} {side} {len(items)}".encode())
        for value in self.net_.state_dict().values():
            content.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        for row in items.values.padded(torch.arange(len(items)))[0] if items.kind == "sequences" else items.values:
            content.update(row.encode() + b"\0" if isinstance(row, str) else row.contiguous().numpy().tobytes())
        return content.hexdigest()

    def _items_at_once(self, items: Items) -> int:
        if items.kind == "sequences":
            return max(1, ROOM // int(items.values.lengths.max()))
        return 256

    def _scored(self, a: Bags, b: Bags, rows: Tensor, columns: Tensor) -> Tensor:
        sides = [part.to(self._device) for bags, places in ((a, rows), (b, columns)) for part in bags.padded(places)]
        return self._score(sides[0], sides[2], sides[1], sides[3]).cpu()

    def _rows_at_once(self, a: Bags, b: Bags) -> int:
        longest = int(a.lengths.max()) * int(b.lengths.max())
        return max(1, min(len(a), self._room() // (longest * min(len(b), 256))))

    def _split(self, b: Bags, a: Bags, n_rows: int) -> Iterator[Tensor]:
        at_once = max(1, self._room() // (n_rows * int(a.lengths.max()) * int(b.lengths.max())))
        yield from torch.arange(len(b)).split(at_once)

    def _room(self) -> int:
        """Return how many products of tokens are in memory at a time where scores are made."""
        return PRODUCTS
