"""List-wise learning from a language model's ranking: which candidates to draw, and the loss on their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn


class CandidateDrawer:
    """Draws l of each query's ranked candidates: some of the best five, one of the worst five, the rest from between.

    Parameters
    ----------
    ranked : list of (candidates, scores)
        For each query, best first. Queries whose scores are all equal, or with fewer than ``l`` candidates, are left
        out.
    l : int
        Candidates drawn per query.
    n_top : int
        How many of them are among the best five.

    Attributes
    ----------
    queries : ndarray
        The queries that are used.
    """

    def __init__(self, ranked: Sequence[tuple[Sequence[int], Sequence[float]]], l: int, n_top: int = 1) -> None:  # noqa: E741
        used = [i for i, (found, scores) in enumerate(ranked) if len(found) >= l and scores[0] != scores[-1]]
        self.queries = np.array(used, dtype=np.int64)
        self.l, self.n_top = l, n_top
        self._lengths = np.array([len(ranked[i][0]) for i in used], dtype=np.int64)
        self._lists = np.zeros((len(used), max(self._lengths, default=0)), dtype=np.int64)
        for row, i in enumerate(used):
            self._lists[row, : self._lengths[row]] = ranked[i][0]
        # The three groups shrink for short lists so that each can give its share.
        outside = self._lengths - (l - n_top - 1)
        self._best = np.minimum(5, np.maximum(n_top, outside // 2))
        self._worst = np.minimum(5, np.maximum(1, outside - self._best))

    def draw(self, batch_size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return ``batch_size`` distinct queries (all of them if there are fewer) and (B, l) candidates, best first."""
        rows = rng.choice(len(self.queries), min(batch_size, len(self.queries)), replace=False)
        place = np.arange(self._lists.shape[1])[None, :]
        key = rng.random((len(rows), self._lists.shape[1]))
        n, best, worst = (a[rows, None] for a in (self._lengths, self._best, self._worst))
        groups = (
            (place < best, self.n_top),
            ((place >= best) & (place < n - worst), self.l - self.n_top - 1),
            ((place >= n - worst) & (place < n), 1),
        )
        drawn = [np.argsort(np.where(inside, key, 2.0), axis=1)[:, :count] for inside, count in groups]
        places = np.sort(np.concatenate(drawn, axis=1), axis=1)  # ranked lists: smaller place, better candidate
        return self.queries[rows], np.take_along_axis(self._lists[rows], places, axis=1)


def listwise_loss(scores: Tensor, weights: Literal["paper", "official"] = "paper", clamp: float = 50.0) -> Tensor:
    """Mean over pairs (i better than j) of ``w_ij log(1 + exp(s_j - s_i))``, averaged over the queries.

    Parameters
    ----------
    scores : Tensor of shape (B, l)
        Scores s of each query's candidates, the columns in the order of the language model, best first.
    weights : {"paper", "official"}
        ``w_ij = 1/r_i - 1/r_j`` with the ranks r of the language model, or ``|1/pi_i - 1/pi_j|`` with the ranks pi
        under the current scores.
    clamp : float, default 50
        Differences are limited to this size.

    Examples
    --------
    >>> round(listwise_loss(torch.tensor([[2.0, 1.0, 0.0]])).item(), 6)
    0.09782
    """
    B, l = scores.shape  # noqa: E741
    i, j = torch.triu_indices(l, l, offset=1, device=scores.device)
    if weights == "paper":
        inverse = (1.0 / torch.arange(1, l + 1, device=scores.device, dtype=scores.dtype)).expand(B, l)
    else:
        order = scores.detach().argsort(dim=1, descending=True, stable=True)
        inverse = 1.0 / (order.argsort(dim=1) + 1).to(scores.dtype)
    w = (inverse[:, i] - inverse[:, j]).abs()  # (B, pairs)
    difference = (scores[:, j] - scores[:, i]).clamp(-clamp, clamp)
    return (w * nn.functional.softplus(difference)).mean()


def task_probabilities(sizes: Sequence[int], alpha: float) -> np.ndarray:
    """Return the chance of each task to be drawn: its share of the examples to the power ``alpha``, normalised.

    Examples
    --------
    >>> task_probabilities([100, 10_000], 0.5).round(6).tolist()
    [0.090909, 0.909091]
    """
    q = np.asarray(sizes, dtype=np.float64) / np.sum(sizes)
    return np.asarray(q**alpha / (q**alpha).sum())
