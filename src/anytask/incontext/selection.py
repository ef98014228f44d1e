"""Other ways to choose what to annotate: the comparison methods of Su et al., 2022, arXiv:2209.01975.

Only :class:`LeastConfidence` uses labels and a model.
"""

from __future__ import annotations

import heapq

import numpy as np

from anytask.core.progress import Progress, portion
from anytask.core.settings import whole
from anytask.incontext.pool import Confidence, Pool, PoolSelector, Selection, least_confident


class RandomSelection(PoolSelector):
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

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        free = np.setdiff1d(np.arange(len(pool)), list(pool.labels))
        indices = np.random.default_rng(self.seed).choice(free, budget, replace=False)
        return Selection(indices, np.full(budget, np.nan), np.zeros(budget, dtype=int), "random")


class Diversity(PoolSelector):
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

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        X, known = pool.vectors, list(pool.labels)
        indices: list[int] = []
        scores: list[float] = []
        cosines = X @ X[known].sum(axis=0)  # (n,) sum of each item's cosines to those chosen
        cosines[known] = np.inf
        while len(indices) < budget:
            u, score = int(cosines.argmin()), -float(cosines.min())
            if not known and not indices:
                u, score = int(np.random.default_rng(self.seed).integers(len(X))), np.nan
            indices.append(u)
            scores.append(score)
            cosines += X @ X[u]
            cosines[u] = np.inf
            share(len(indices) / budget)
        return Selection(np.array(indices), np.array(scores), np.ones(budget, dtype=int), "diversity")


class FacilityLocation(PoolSelector):
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

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        X, n = pool.vectors, len(pool)
        nearest = np.full(n, -1.0, dtype=np.float32)  # cosine of each item to the nearest chosen one
        for u in pool.labels:
            nearest = np.maximum(nearest, X @ X[u])
        heap: list[tuple[float, int, int]] = []  # (-gain, item, number of chosen items when it was computed)
        for start in range(0, n, 1024):
            gains = np.maximum(X[start : start + 1024] @ X.T - nearest, 0).sum(axis=1, dtype=np.float64)
            heap += [(-float(gain), u, 0) for u, gain in enumerate(gains, start) if u not in pool.labels]
        heapq.heapify(heap)
        indices: list[int] = []
        scores: list[float] = []
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


class LeastConfidence(PoolSelector):
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

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        if not pool.can_annotate:
            raise ValueError("least confidence needs labels on the way: pass annotate=")
        indices: list[int] = []
        scores: list[float] = []
        stage: list[int] = []
        confidences = None
        while len(indices) < budget:
            size = min(self.batch_size, budget - len(indices))
            if pool.labels or indices:
                pool.annotate(indices)
                part = portion(share, len(indices) / budget, (len(indices) + size) / budget)
                confidences, ranked = least_confident(pool, confidence, part)
                batch = ranked[:size]
                scores += (-confidences[batch]).tolist()
            else:
                batch = np.random.default_rng(self.seed).choice(len(pool), size, replace=False)
                scores += [np.nan] * size
            stage += [stage[-1] + 1 if stage else int(bool(pool.labels))] * size
            indices += batch.tolist()
            share(len(indices) / budget)
        return Selection(np.array(indices), np.array(scores), np.array(stage), "least confidence", confidences)
