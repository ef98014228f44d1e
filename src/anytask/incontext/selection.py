"""Other ways to choose what to annotate, with the interface of :class:`anytask.incontext.votek.VoteK`.

Each class has ``select(pool, budget, annotate=None, confidence=None, progress=None)`` and returns a
:class:`~anytask.incontext.pool.Selection`. All are the comparison methods of Su et al., 2022, arXiv:2209.01975.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from anytask.core.progress import Progress, portion
from anytask.core.settings import Settings, whole
from anytask.incontext.pool import Annotate, Confidence, NearestVote, Selection, as_pool, ask_confidence
from anytask.incontext.votek import check_budget


class RandomSelection(Settings):
    """Choose at random without replacement.

    Parameters
    ----------
    seed : int, default 0
        Seed of the draw.

    Examples
    --------
    >>> len(RandomSelection(seed=1).select([[0.0, 1], [1, 0], [1, 1]], budget=2))
    2
    """

    seed: int = whole(0, "seed of the draw", at_least=0)

    def select(
        self,
        pool: Any,
        budget: int,
        annotate: Annotate | None = None,
        confidence: Confidence | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Choose ``budget`` items of ``pool``; neither labels nor a model are used."""
        n = len(as_pool(pool, annotate))
        check_budget(budget, n)
        indices = np.random.default_rng(self.seed).choice(n, budget, replace=False)
        portion(progress, 0.0, 1.0)(1.0)
        return Selection(indices, np.full(budget, np.nan), np.zeros(budget, dtype=int), "random")


class Diversity(Settings):
    """Choose a random item, then repeatedly the one with the smallest sum of cosines to those chosen.

    It spreads out as far as it can, and so collects outliers: pick it when coverage of oddities matters more than
    typical cases.

    Parameters
    ----------
    seed : int, default 0
        Seed of the first draw.

    Examples
    --------
    >>> X = [[1, 0], [1, 0.1], [-1, 0], [-1, 0.1]]
    >>> sorted(i // 2 for i in Diversity().select(X, budget=2))  # one of each pair
    [0, 1]
    """

    seed: int = whole(0, "seed of the draw", at_least=0)

    def select(
        self,
        pool: Any,
        budget: int,
        annotate: Annotate | None = None,
        confidence: Confidence | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Choose ``budget`` items of ``pool``; neither labels nor a model are used."""
        X = as_pool(pool, annotate).vectors
        check_budget(budget, len(X))
        indices = [int(np.random.default_rng(self.seed).integers(len(X)))]
        scores = [np.nan]
        cosine, share = X @ X[indices[0]], portion(progress, 0.0, 1.0)
        share(1 / budget)
        for step in range(1, budget):
            cosine[indices[-1]] = np.inf
            indices.append(int(cosine.argmin()))
            scores.append(-float(cosine[indices[-1]]))
            cosine += X @ X[indices[-1]]
            share((step + 1) / budget)
        return Selection(np.array(indices), np.array(scores), np.ones(budget, dtype=int), "diversity")


class FacilityLocation(Settings):
    """Choose greedily the item that most raises the sum, over the pool, of the cosine to the nearest chosen item.

    A strong and simple choice for pools up to some ten thousand items; it reads all pairs once.

    Examples
    --------
    The middle of each of two groups:

    >>> X = [[1, 0.1], [1, 0], [1, -0.1], [-1, 0.2], [-1, 0], [-1, -0.2]]
    >>> sorted(FacilityLocation().select(X, budget=2))
    [1, 4]

    Notes
    -----
    The gain of an item can only fall as others are chosen, so an item whose last known gain is below the best fresh
    one is not looked at again: same picks, few evaluations.
    """

    def select(
        self,
        pool: Any,
        budget: int,
        annotate: Annotate | None = None,
        confidence: Confidence | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Choose ``budget`` items of ``pool``; neither labels nor a model are used."""
        X = as_pool(pool, annotate).vectors
        n = len(X)
        check_budget(budget, n)
        nearest = np.full(n, -1.0, dtype=np.float32)  # cosine of each item to the nearest chosen one
        heap: list[tuple[float, int, int]] = []  # (-gain, item, number of chosen items when it was computed)
        for start in range(0, n, 1024):
            gains = np.maximum(X[start : start + 1024] @ X.T - nearest, 0).sum(axis=1, dtype=np.float64)
            heap += [(-float(gain), start + i, 0) for i, gain in enumerate(gains)]
        heapq.heapify(heap)
        indices: list[int] = []
        scores: list[float] = []
        share = portion(progress, 0.0, 1.0)
        while len(indices) < budget:
            gain, u, when = heapq.heappop(heap)
            cosine = X @ X[u]
            if when < len(indices):
                fresh = float(np.maximum(cosine - nearest, 0).sum(dtype=np.float64))
                heapq.heappush(heap, (-fresh, u, len(indices)))
                continue
            indices.append(u)
            scores.append(-gain)
            nearest = np.maximum(nearest, cosine)
            share(len(indices) / budget)
        return Selection(np.array(indices), np.array(scores), np.ones(budget, dtype=int), "facility location")


class LeastConfidence(Settings):
    """Annotate a random batch, then repeatedly the batch the prompted model is least sure of.

    Parameters
    ----------
    batch_size : int, default 10
        Items annotated at once.
    seed : int, default 0
        Seed of the first batch.

    Examples
    --------
    >>> X = [[1, 0], [1, 0.1], [-1, 0], [0, 1]]
    >>> len(LeastConfidence(batch_size=2).select(X, 3, annotate=lambda indices: [i % 2 for i in indices]))
    3
    """

    batch_size: int = whole(10, "items annotated at once")
    seed: int = whole(0, "seed of the first batch", at_least=0)

    def select(
        self,
        pool: Any,
        budget: int,
        annotate: Annotate | None = None,
        confidence: Confidence | None = None,
        progress: Progress | None = None,
    ) -> Selection:
        """Choose ``budget`` items of ``pool``; all but the last batch are annotated on the way."""
        pool = as_pool(pool, annotate)
        check_budget(budget, len(pool))
        if not pool.can_annotate:
            raise ValueError("least confidence needs labels on the way: pass annotate=")
        confidence = confidence or NearestVote()
        first = np.random.default_rng(self.seed).choice(len(pool), min(self.batch_size, budget), replace=False)
        indices, scores, stage = first.tolist(), [np.nan] * len(first), [0] * len(first)
        confidences, share = None, portion(progress, 0.0, 1.0)
        share(len(indices) / budget)
        while len(indices) < budget:
            confidences = ask_confidence(pool, indices, confidence)
            rest = np.flatnonzero(~np.isnan(confidences))
            values = confidences[rest]
            least = np.argsort(values, kind="stable")[: min(self.batch_size, budget - len(indices))]
            indices += rest[least].tolist()
            scores += (-values[least]).tolist()
            stage += [stage[-1] + 1] * len(least)
            share(len(indices) / budget)
        return Selection(np.array(indices), np.array(scores), np.array(stage), "least confidence", confidences)
