"""Vote-k (Selective Annotation): which unlabelled examples are worth annotating before a language model is prompted."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_matrix

from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, real, whole
from anytask.incontext.pool import Confidence, Pool, PoolSelector, Selection, least_confident
from anytask.lm.search import knn_graph

__all__ = ["VoteK"]

# Scores within this relative distance of the best are compared exactly: rounding never decides a pick.
_NEAR = 1e-9
_TINY = 1e-280


class VoteK(PoolSelector):
    """Choose which examples of an unlabelled pool to annotate, so that prompts made of them serve every later query.

    Examples vote for their nearest neighbours. An example whose neighbourhood already holds chosen items votes with
    weight ``1/rho``, ``1/rho^2``, ...: items in dense, not yet covered regions win. The full method then asks a model
    how sure it is of the rest, given the first tenth of the labels, and takes one item from each band of confidence.

    Pick it when labels are dear (18 or 100 of them), the pool is large, and nothing is known of the classes. It needs
    an embedding in which neighbours tend to share answers; with more than a few labels per class its gain over random
    choice shrinks. :class:`~anytask.incontext.selection.FacilityLocation` is a strong alternative on small pools.

    Parameters
    ----------
    k : int, optional
        Neighbours each example votes for. Default ``clip(round(0.05 N), 5, 150)``: the paper's 150 is 5% of its pools
        of 3000. Much larger shares degrade quickly.
    rho : float >= 1, default 10
        Discount of a voter per chosen neighbour (the paper's). 1 switches the discount off.
    stages : {"auto", "full", "fast"}, default "auto"
        ``"fast"``: votes only, no labels and no model. ``"full"``: the paper's two stages, which need ``annotate``.
        ``"auto"``: full where the pool can be annotated, fast otherwise.
    first_share : float in (0, 1), default 0.1
        Share of the budget that stage one chooses (the paper's), at least one item.
    dropped : float in [0, 1), default 0.1
        Share of the pool, the most confident, that stage two leaves out (the paper's).
    official_compat : bool, default False
        Reproduce two faults of the released code: picks of stage two do not discount their voters, and the neighbours
        are those ranked before the last by similarity, which with duplicates need not be the item itself.
    graph : {"auto", "exact", "cells", "hnsw"}, default "auto"
        How neighbours are found, see :func:`anytask.lm.search.knn_graph`.
    threads : int, default 2
        Threads of the neighbour search.
    seed : int, default 0
        Seed of the random filling of stage two, and of the approximate graph. Fast vote-k draws nothing.

    Examples
    --------
    Ten labels for a pool in which two of the four groups are rare: the votes reach all four groups, and a random draw
    of ten misses one more often than not.

    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat([0, 1, 2, 3], [200, 60, 20, 20])
    >>> X = np.eye(4)[groups] + 0.1 * rng.normal(size=(300, 4))
    >>> chosen = VoteK(stages="fast").select(X, budget=10)
    >>> sorted(set(groups[chosen.indices].tolist()))
    [0, 1, 2, 3]
    >>> draws = [rng.choice(groups, 10, replace=False) for _ in range(1000)]
    >>> sum(len(set(draw.tolist())) == 4 for draw in draws) < 500
    True

    References
    ----------
    Su et al., 2022, "Selective Annotation Makes Language Models Better Few-Shot Learners", arXiv:2209.01975.

    Notes
    -----
    *Departures from the paper.* Ties go to the larger in-degree, then to the smaller index, and are decided on exact
    sums of votes, so that the result does not depend on rounding. The default ``k`` follows the size of the pool.
    Items that are annotated already count as chosen, and no copy of a chosen item is chosen while there is anything
    else. Without a language model, confidence comes from a vote of the nearest annotated examples. Pools above 20,000
    use an approximate graph.
    """

    k: int | None = whole(None, "neighbors each example votes for, None: 5% of the pool, from 5 to 150", optional=True)
    rho: float = real(10.0, "discount of a voter per chosen neighbor", at_least=1)
    stages: str = choice("auto", ("auto", "full", "fast"), "votes only, or a second stage by a model's confidence")
    first_share: float = real(0.1, "share of the budget that stage one chooses", above=0, below=1)
    dropped: float = real(0.1, "share of the pool, the most confident, that stage two leaves out", at_least=0, below=1)
    official_compat: bool = flag(False, "reproduce two faults of the released code")
    graph: Literal["auto", "exact", "cells", "hnsw"] = choice(
        "auto", ("auto", "exact", "cells", "hnsw"), "how neighbors are found"
    )
    threads: int = whole(2, "threads of the neighbor search")
    seed: int = whole(0, "seed of the random filling of stage two and of the approximate graph", at_least=0)

    def _choose(self, pool: Pool, budget: int, confidence: Confidence, share: Progress) -> Selection:
        n = len(pool)
        k = self._k(n)
        full = self.stages == "full" or (self.stages == "auto" and pool.can_annotate)
        if full and not pool.can_annotate:
            raise ValueError("stages='full' needs labels for its first stage: pass annotate=, or use stages='fast'")
        if self.official_compat:
            neighbors = _released_neighbors(pool.vectors, k)
        else:
            told: Any = portion(share, 0.0, 0.2 if full else 0.8)
            neighbors = knn_graph(
                pool.vectors, k, method=self.graph, threads=self.threads, seed=self.seed, progress=told
            )
        ballot = Ballot(neighbors, self.rho, pool.originals)
        known = list(pool.labels)
        for u in known:
            ballot.elect(np.array([u]))
        first = max(1, _floor(budget * self.first_share)) if full else budget
        picks = [(*ballot.elect(), 1) for _ in range(first)]
        confidences = None
        if full and first < budget:
            pool.annotate([u for u, _, _ in picks])
            confidences, ranked = least_confident(pool, confidence, portion(share, 0.2, 1.0))
            distinct = len(np.unique(pool.originals)) - len(np.unique(pool.originals[known]))
            picks += self._second_stage(ballot, ranked, distinct, budget - first)
        indices, scores, stage = map(np.array, zip(*picks))
        return Selection(
            indices, scores, stage, "vote-k" if full else "fast vote-k", confidences,
            {"k": k, "rho": self.rho, "in_degrees": ballot.in_degrees[indices].tolist()},
        )  # fmt: skip

    def _k(self, n: int) -> int:
        if n < 2:
            raise ValueError(f"vote-k needs a pool of at least 2 items, got {n}")
        if self.k is None:
            return min(int(np.clip(round(0.05 * n), 5, 150)), n - 1)
        if self.k >= n:
            raise ValueError(f"k must be an integer in [1, {n - 1}] for a pool of {n}, got {self.k!r}")
        return int(self.k)

    def _second_stage(self, ballot: Ballot, ranked: np.ndarray, n: int, r: int) -> list[tuple[int, float, int]]:
        # One pick from each of r bands of confidence, least confident first; n items are left to choose from.
        b = _floor((1 - self.dropped) * n / r)
        buckets = [ranked[j * b : (j + 1) * b] for j in range(r)]
        picks = [(*ballot.elect(bucket, not self.official_compat), 2) for bucket in buckets if len(bucket)]
        left = np.setdiff1d(ranked, [u for u, _, _ in picks])
        rng = np.random.default_rng(derive(self.seed, "fill"))
        return picks + [(int(u), math.nan, 0) for u in rng.choice(left, r - len(picks), replace=False)]


class Ballot:
    """The votes of a directed neighbour graph, kept up to date as items are elected.

    With U the items not yet elected, L those elected, ``s(v) = rho^-|{l in L: v -> l}|`` for v in U and 0 in L, the
    score of u is the sum of s(v) over the v that point to u. For every u the number of its voters at each exponent is
    kept, so an election touches only the out-neighbours of the elected item's voters, and scores carry no rounding
    history.

    Parameters
    ----------
    neighbors : int array of shape (n, k)
        Row v: the items that v votes for.
    rho : float >= 1
        Discount per elected neighbour; infinity silences a voter at the first.
    originals : int array of shape (n,), optional
        Items with the same number are copies of each other; no copy of an elected item is elected while there is
        anything else.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        Current scores, also of elected items (which can no longer win).
    in_degrees : ndarray of shape (n,)
        Number of items that point to each.

    Examples
    --------
    >>> ballot = Ballot(np.array([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 4]]), rho=10)
    >>> ballot.elect(), ballot.elect()
    ((2, 3.0), (4, 2.1))
    """

    def __init__(self, neighbors: np.ndarray, rho: float, originals: np.ndarray | None = None) -> None:
        n, k = neighbors.shape
        self._originals = np.arange(n) if originals is None else originals
        self._spent = np.zeros(n, dtype=bool)  # copies of elected items
        self.rho = float(rho)
        self.neighbors = neighbors
        self.in_degrees = np.bincount(neighbors.ravel(), minlength=n)
        # Row u of the transposed graph lists the voters of u.
        votes = csr_matrix((np.ones(n * k, dtype=np.int8), neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
        transposed = votes.tocsc()
        self._voters, self._starts = transposed.indices, transposed.indptr
        self._rank = np.empty(n, dtype=np.int64)  # place of each item in the order in which ties are broken
        self._rank[np.lexsort((np.arange(n), -self.in_degrees))] = np.arange(n)
        self._exponent = np.zeros(n, dtype=np.int64)
        self._elected = np.zeros(n, dtype=bool)
        self._counts = np.zeros((2, n))  # voters of each item at each exponent: whole numbers, exact in float64
        self._counts[0] = self.in_degrees
        self._weights = self._powers(2)
        self.scores = self.in_degrees.astype(np.float64)

    def elect(self, among: np.ndarray | None = None, discount: bool = True) -> tuple[int, float]:
        """Elect the best item (of ``among``) that is not elected yet, and return it with its score."""
        u = self._best(np.arange(len(self.scores)) if among is None else among)
        score = float(self.scores[u])
        self._elected[u] = True
        self._spent |= self._originals == self._originals[u]
        self._move(np.array([u]), remove=True)
        if discount:
            voters = self._voters[self._starts[u] : self._starts[u + 1]]
            self._exponent[voters[self._elected[voters]]] += 1
            self._move(voters[~self._elected[voters]], remove=False)
        return u, score

    def _best(self, among: np.ndarray) -> int:
        among = among[~self._elected[among]]
        fresh = among[~self._spent[among]]
        among = fresh if len(fresh) else among
        scores = self.scores[among]
        top = scores.max()
        near = among[scores >= top * (1 - _NEAR)] if top > _TINY else among
        rows = self._counts[:, near].T
        if not (rows == rows[0]).all():
            distinct, which = np.unique(rows, axis=0, return_inverse=True)
            exact = [self._exact(row) for row in distinct.tolist()]
            best = max(exact)
            near = near[np.array([value == best for value in exact])[which.ravel()]]
        return int(near[self._rank[near].argmin()])

    def _exact(self, counts: list[float]) -> Fraction:
        inverse, total = 0 if math.isinf(self.rho) else 1 / Fraction(self.rho), Fraction(0)
        for count in reversed(counts):
            total = total * inverse + int(count)
        return total

    def _move(self, voters: np.ndarray, remove: bool) -> None:
        # Take the voters' votes away, or lower them by one power of rho.
        if not len(voters):
            return
        exponents = self._exponent[voters]
        n, levels = len(self.scores), len(self._counts)
        if not remove and exponents.max() + 1 >= levels:
            self._counts = np.concatenate([self._counts, np.zeros((levels, n))])
            self._weights = self._powers(2 * levels)
        touched = np.zeros(n, dtype=bool)
        for e in np.unique(exponents):
            moved = np.bincount(self.neighbors[voters[exponents == e]].ravel(), minlength=n)
            self._counts[e] -= moved
            if not remove:
                self._counts[e + 1] += moved
            touched |= moved > 0
        if not remove:
            self._exponent[voters] += 1
        rows = np.flatnonzero(touched)
        self.scores[rows] = self._weights @ self._counts[:, rows]

    def _powers(self, levels: int) -> np.ndarray:
        with np.errstate(under="ignore"):
            return np.array([1.0, *np.power(self.rho, -np.arange(1.0, levels))])


def _floor(x: float) -> int:
    return math.floor(round(x, 9))  # 0.9 * 100 / 18 is 5, whatever binary fractions make of 0.9


def _released_neighbors(vectors: np.ndarray, k: int) -> np.ndarray:
    out = np.empty((len(vectors), k), dtype=np.int32)
    for start in range(0, len(vectors), 512):
        cosine = vectors[start : start + 512] @ vectors.T
        out[start : start + 512] = np.argsort(cosine, axis=1)[:, -k - 1 : -1]
    return out
