"""MADELEINE: one vector of a bag, pretrained by aligning the views of a case (Jaume et al., 2024).

A case is a bag of vectors in each of several views: patches of one biopsy under several stains, windows of one machine
by several sensors. The first view is the anchor, and of others some may be missing. One encoder serves all views:

1. each token gets its view's learned vector, and three layers make M chunks ``e^1, ..., e^M`` of it;
2. head m pools its chunks by gated attention; ``h`` is linear in the M pooled vectors, ``q_t`` in a token's chunks;
3. for each view k that at least two cases of the batch have beside the anchor, over those cases:
   *global*: symmetric InfoNCE between the anchors' and the views' ``h``, where other cases are the negatives;
   *local*: the optimal transport between the ``q`` of both sides, ``W + GW``, summed over cases;
   *intra* (off by default): InfoNCE between vectors of two random halves of each bag, of both sides;
4. the loss is the sum over views of ``global + local_weight local + intra_weight intra``; a batch in which no view
   qualifies takes no step;
5. of the epochs from ``select_after`` on, the one is kept whose anchors' ``h`` have the highest smooth rank (RankMe).

Departures from the paper
-------------------------
* ``temperature`` is .1 and not .001, which saturates with few cases, and the network is narrower; the published values
  are the preset ``paper``.
* Of each bag ``tokens`` are drawn, but no more than the longest bag has: beyond that, duplicates alone would be added.
* The released code draws the tokens of the local loss among the first B positions only, B being the batch size; here
  they are drawn among all.
* ``local_weight``, which multiplies a sum over the cases of a batch, is .002 and not 1, by which the sum outweighs the
  alignment of small batches.
* The plan of Gromov-Wasserstein is a constant in the gradient; the released code lets a part of it through, at several
  times the memory.
* A case without the anchor has no part in training.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from anytask.core.progress import Progress
from anytask.core.settings import choice, real, whole
from anytask.core.training import train
from anytask.parts.contrastive import contrastive_loss, cosine_scores, info_nce, presence_target
from anytask.pretrain.parts.attention import GatedAttention
from anytask.pretrain.parts.bags import BagEncoder, Bags
from anytask.pretrain.parts.transport import cosine_cost, gromov_wasserstein, wasserstein

__all__ = ["MADELEINE"]

#: Bags that are encoded at a time, where nothing is trained.
_AT_ONCE = 256


class MADELEINE(BagEncoder):
    """Encoder of bags of vectors, pretrained without labels on cases that come in several views.

    Pick it where each case has bags of several kinds (stains, sensors, cameras), of which new cases will have one: what
    the views agree on is what remains, and attention finds the tokens that say it. Where the means of the bags say it
    all, linear methods on those, such as :class:`~anytask.pretrain.MeanCCA`, are hard to beat and take no time. On few
    cases it may learn nothing: of two trials on 350 cases of ``stained-bags``, one was no better than a random encoder.

    Parameters
    ----------
    heads, hidden : int, default 4 and 64
        Heads of the attention, and width of each and of the layers before.
    width : int, default 64
        Width of the vector of a bag.
    token_width : int, default 32
        Width of the tokens that the local loss transports.
    view_width : int, default 16
        Width of the learned vector of a view that joins its tokens; 0: none.
    temperature : float, default 0.1
        Of both contrastive losses.
    global_weight, local_weight, intra_weight : float, default 1, 0.002 and 0
        Of the losses; 0 leaves one out. In our trials the transport changed little, and took half of the time or more.
    tokens : int, default 2048
        Tokens of each bag in a step: at most so many.
    local_tokens : int, default 32
        Of these in the local loss, whose time grows with their square.
    dropout, gate_dropout : float, default 0.1 and 0.25
        In the layers, and on the gates of the attention.
    lr, weight_decay : float, default 1e-3 and 1e-4
        Of AdamW; the rate rises over ``warmup_epochs`` and falls as a cosine to 1e-8.
    epochs, warmup_epochs : int, default 50 and 5
        Passes over the cases; without any it stays the random encoder that it was.
    batch_size : int, default 64
        Cases in a step, which are each other's negatives.
    select_after : int or "never", default 20
        Epoch after which the one of the highest smooth rank is kept; "never": the last.
    precision : {"float32", "bfloat16"}, default "float32"
        Of the network in training.
    seed, device
        See :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    views_ : tuple of str
        The views, of which the first is the anchor.
    rank_ : float
        Smooth rank of the vectors of the training anchors.

    Examples
    --------
    Both views show one number of the case beside five louder ones of their own; the anchor alone tells it afterwards:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> case = rng.normal(size=(200, 1, 1))
    >>> def bags():
    ...     own = rng.normal(size=(200, 1, 5)) + 0.3 * rng.normal(size=(200, 4, 5))
    ...     return np.concatenate([0.7 * case + 0.1 * rng.normal(size=(200, 4, 1)), own], axis=2)
    >>> small = {"width": 4, "view_width": 0, "local_weight": 0, "dropout": 0, "lr": 0.01, "epochs": 20}
    >>> model = MADELEINE.from_preset("small", **small).fit({"HE": bags(), "ER": bags()})
    >>> H = np.c_[model.transform(bags()), np.ones(200)]
    >>> error = case[:, 0] - H @ np.linalg.lstsq(H, case[:, 0])[0]
    >>> bool(error.var() < 0.4 * case.var())
    True

    References
    ----------
    Jaume, Vaidya, Zhang, Song, Williamson, Williams, Mahmood, 2024, "Multistain Pretraining for Slide Representation
    Learning in Pathology", ECCV, arXiv:2408.02859.
    Garrido, Balestriero, Najman, LeCun, 2023, "RankMe", arXiv:2210.02885.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "heads": 2, "hidden": 32, "width": 32, "tokens": 12, "local_tokens": 8, "lr": 2e-3, "epochs": 28,
            "select_after": 10,
        },
        "paper": {
            "heads": 4, "hidden": 512, "width": 512, "token_width": 128, "view_width": 32, "temperature": 0.001,
            "local_weight": 1.0, "local_tokens": 256, "lr": 1e-4, "epochs": 120, "batch_size": 65,
            "precision": "bfloat16",
        },
    }  # fmt: skip

    heads: int = whole(4, "heads of the attention")
    hidden: int = whole(64, "width of a head, and of the layers before")
    width: int = whole(64, "width of the vector of a bag")
    token_width: int = whole(32, "width of the tokens that the local loss transports")
    view_width: int = whole(16, "width of the learned vector of a view; 0: none", at_least=0)
    temperature: float = real(0.1, "temperature of the contrastive losses", above=0)
    global_weight: float = real(1.0, "weight of the alignment of whole bags", at_least=0)
    local_weight: float = real(0.002, "weight of the transport between tokens", at_least=0)
    intra_weight: float = real(0.0, "weight of the alignment of two halves of a bag", at_least=0)
    tokens: int = whole(2048, "at most so many tokens of a bag in a step")
    local_tokens: int = whole(32, "tokens of a bag in the local loss")
    dropout: float = real(0.1, "dropout in the layers", at_least=0, below=1)
    gate_dropout: float = real(0.25, "dropout on the gates of the attention", at_least=0, below=1)
    lr: float = real(1e-3, "highest learning rate of AdamW", above=0)
    weight_decay: float = real(1e-4, "weight decay of AdamW", at_least=0)
    epochs: int = whole(50, "passes over the cases; 0: a random encoder", at_least=0)
    warmup_epochs: int = whole(5, "passes over which the rate rises", at_least=0)
    batch_size: int = whole(64, "cases in a step", at_least=2)
    select_after: int | str = whole(
        20, "epoch after which that of the highest smooth rank is kept, 'never': the last", words=("never",)
    )
    precision: str = choice("float32", ("float32", "bfloat16"), "numbers of the network in training")

    def attention(self, X: Any, *, view: str | None = None) -> list[Any]:
        """Return how much each token of each bag counts, by head.

        Parameters
        ----------
        X, view
            As in :meth:`transform`.

        Returns
        -------
        list of array or tensor of shape (n_i, heads)
            In [0, 1]; each head's weights of a bag sum to 1.
        """
        lengths: list[int] = []

        def weights(data: dict[str, Bags]) -> Tensor:
            bags = self._chosen(data, view)
            found = self._applied(bags, self._place(view))
            lengths.extend(bags.lengths.tolist())
            return torch.cat([weights[:n] for (_, weights), n in zip(found, lengths)])

        flat, places = self._encoded(X, weights), torch.tensor([0, *lengths]).cumsum(0).tolist()
        return [flat[start:end] for start, end in pairwise(places)]

    # -- training -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        if not (self.global_weight or self.local_weight or self.intra_weight):
            raise ValueError("one of global_weight, local_weight and intra_weight must be above 0")

    def _build(self) -> None:
        self.net_ = BagNetwork(
            self.n_features_in_, len(self.views_), self.heads, self.hidden, self.width, self.token_width,
            self.view_width, self.dropout, self.gate_dropout,
        ).to(self._device).eval()  # fmt: skip

    def _train(self, data: dict[str, Bags], progress: Progress) -> None:
        views = list(data.values())
        anchor, n = views[0], len(views[0])
        size = min(self.tokens, max(int(bags.lengths.max()) for bags in views))
        self._check_views(data, size)
        per_epoch = -(-n // self.batch_size)
        steps = self.epochs * per_epoch
        optimizer = torch.optim.AdamW(self.net_.parameters(), self.lr, weight_decay=self.weight_decay)
        batches = (rows for _ in range(self.epochs) for rows in torch.randperm(n).split(self.batch_size))
        epoch = iter(range(1, self.epochs + 1))

        def rank() -> float:
            return self._rank(anchor) if next(epoch) > self.select_after else float("-inf")  # type: ignore[operator]

        losses = train(
            self.net_, lambda _step: next(batches), lambda rows: self._losses(views, rows, size), steps=steps,
            optimizer=optimizer, schedule=self._schedule(optimizer, steps, self.warmup_epochs * per_epoch),
            select=None if self.select_after == "never" else rank, select_every=per_epoch, progress=progress,
            stage="pretraining",
        )  # fmt: skip
        progress(1.0)
        if self.epochs and not any(losses):
            raise ValueError("no batch had two cases with the anchor and the same other view: raise batch_size")
        self.rank_ = self._rank(anchor)

    def _check_views(self, data: dict[str, Bags], size: int) -> None:
        anchor, *others = data
        if not others:
            raise ValueError("MADELEINE aligns views, and X holds one: give a mapping of views, the anchor first")
        rare = [name for name in others if int((data[anchor].present & data[name].present).sum()) < 2]
        if rare == others:
            raise ValueError(f"no view is there in two cases beside the anchor {anchor!r}: nothing can be aligned")
        if rare:
            names = ", ".join(map(repr, rare))
            warnings.warn(f"in fewer than two cases beside the anchor, and so not learned: {names}", stacklevel=4)
        if self.intra_weight and size < 4:
            raise ValueError(f"intra_weight halves bags, which needs 4 tokens: the longest has {size}")

    def _losses(self, views: list[Bags], rows: Tensor, size: int) -> Iterator[Tensor]:
        """Give the loss of a batch, or none where no view qualifies."""
        there = torch.stack([bags.present[rows] & views[0].present[rows] for bags in views])  # (views, b)
        own = [k for k in range(1, len(views)) if there[k].sum() >= 2]
        if not own:
            return
        used = there[own].any(0)
        rows, there = rows[used], there[:, used]
        drawn = [views[k].sampled(rows[there[k]], size) for k in (0, *own)]
        sizes = [len(x) for x in drawn]
        place = torch.tensor([0, *own]).repeat_interleave(torch.tensor(sizes)).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            x = torch.cat(drawn).to(self._device)
            e = self.net_.chunks(x, place)
            scores = self.net_.attention.scores(e)
            h = self.net_.vector(e, scores).float().split(sizes)
            # Tokens were drawn in random order: the first ones are a random subset.
            q = self.net_.local(e[:, : self.local_tokens]).float().split(sizes) if self.local_weight else h
            halves = (slice(None, size // 2), slice(size // 2, None)) if self.intra_weight else ()
            half = [self.net_.vector(e[:, part], scores[:, part]).float().split(sizes) for part in halves]
        total, costs = h[0].new_zeros(()), []
        for i, k in enumerate(own, start=1):
            mine = there[k].to(self._device)  # which of the batch's cases have view k
            if self.global_weight:
                total = total + self.global_weight * aligned(h[0], filled(h[i], mine), mine, self.temperature)
            if self.local_weight:
                X, Y = q[0][mine], q[i]
                costs.append((cosine_cost(X, Y), cosine_cost(X, X), cosine_cost(Y, Y)))
            if self.intra_weight:
                first, second = half
                for a, b in ((first[0][mine], second[0][mine]), (first[i], second[i])):
                    loss = info_nce(a, b, temperature=self.temperature, symmetric=True)
                    total = total + self.intra_weight * loss
        if self.local_weight:  # costs are thresholded view by view, and transported together
            between, anchors, others = map(torch.cat, zip(*costs))
            transport = wasserstein(between) + gromov_wasserstein(anchors, others)
            total = total + self.local_weight * transport.sum()
        yield total

    def _schedule(self, optimizer: torch.optim.Optimizer, steps: int, warm: int) -> LRScheduler:
        falling = CosineAnnealingLR(optimizer, max(1, steps - warm), eta_min=min(1e-8, self.lr))
        if not warm:
            return falling
        return SequentialLR(optimizer, [LinearLR(optimizer, 1 / (warm + 1), total_iters=warm), falling], [warm])

    # -- inference ------------------------------------------------------------------------------------------------

    def _features_of(self, bags: Bags, place: int) -> Tensor:
        return torch.stack([h for h, _ in self._applied(bags, place)])

    def _applied(self, bags: Bags, place: int) -> list[tuple[Tensor, Tensor]]:
        """Return vector (width,) and weights (t, heads) of each bag, in the order of the bags that there are."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for rows in bags.batches(_AT_ONCE):
            x, mask = (part.to(self._device) for part in bags.padded(rows))
            e = self.net_.chunks(x, torch.full((len(rows),), place, device=self._device))
            pooled, weights = self.net_.attention(e, mask)
            found |= dict(zip(rows.tolist(), zip(self.net_.slide(pooled.flatten(1)), weights)))
        return [found[row] for row in sorted(found)]

    @torch.no_grad()
    def _rank(self, bags: Bags) -> float:
        return smooth_rank(self._features_of(bags, 0))


class BagNetwork(nn.Module):
    """From tokens (b, t, d) of views to chunks (b, t, heads, hidden), and from these to a vector (b, width)."""

    def __init__(
        self, d: int, n_views: int, heads: int, hidden: int, width: int, token_width: int, view_width: int,
        dropout: float, gate_dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.hidden = heads, hidden
        self.views = nn.Embedding(n_views, view_width) if view_width else None
        widths = [d + view_width, hidden, hidden, hidden * heads]
        self.layers = nn.Sequential(*(
            layer for a, b in pairwise(widths)
            for layer in (nn.Linear(a, b), nn.LayerNorm(b), nn.GELU(), nn.Dropout(dropout))
        ))  # fmt: skip
        self.attention = GatedAttention(hidden, heads, hidden, gate_dropout)
        self.slide, self.token = nn.Linear(hidden * heads, width), nn.Linear(hidden * heads, token_width)

    def chunks(self, x: Tensor, place: Tensor) -> Tensor:
        """Return chunks of tokens x (b, t, d); ``place`` (b,) says of which view each bag is."""
        if self.views is not None:
            x = torch.cat([x, self.views(place)[:, None].expand(-1, x.shape[1], -1)], dim=-1)
        return self.layers(x).unflatten(-1, (self.hidden, self.heads)).mT

    def vector(self, e: Tensor, scores: Tensor) -> Tensor:
        """Return vectors (b, width) of chunks that are all there."""
        pooled, _ = self.attention.pool(e, scores, torch.ones(e.shape[:2], dtype=torch.bool, device=e.device))
        return self.slide(pooled.flatten(1))

    def local(self, e: Tensor) -> Tensor:
        """Return tokens (b, t, token_width) for the local loss."""
        return self.token(e.flatten(2))


def filled(h: Tensor, present: Tensor) -> Tensor:
    """Return vectors (b, width), those of the cases that are there in their places, and 0 in the others'."""
    return h.new_zeros(len(present), h.shape[1]).index_copy(0, present.nonzero()[:, 0], h)


def aligned(anchor: Tensor, view: Tensor, present: Tensor, temperature: float) -> Tensor:
    """Return the symmetric InfoNCE between anchors and views of the same cases (b, width), over those ``present``.

    Examples
    --------
    >>> view = torch.tensor([[0.8, 0.6], [0.6, -0.8], [9.0, 9.0]])
    >>> aligned(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), view, torch.tensor([True, True, False]), 0.5)
    tensor(1.6860)
    """
    target, candidates = presence_target(present)
    return contrastive_loss(
        cosine_scores(anchor, view) / temperature, target, candidates=candidates, symmetric=True, missing="skip"
    )


def smooth_rank(Z: Tensor) -> float:
    """Return ``exp(-sum p log p)`` of the singular values' shares p: how many directions vectors (n, d) fill.

    Examples
    --------
    >>> round(smooth_rank(torch.diag(torch.tensor([3.0, 1.0, 1.0]))), 5)
    2.58641
    """
    s = torch.linalg.svdvals(Z.float())
    p = s / s.sum().clamp(min=1e-30) + 1e-7
    return float((-(p * p.log()).sum()).exp())
