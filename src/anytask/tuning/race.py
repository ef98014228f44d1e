"""Which prompt is best, from few labels: smoothed accuracies, losers that are dropped early, and the choice.

With 16 labelled texts many prompts are right equally often. Two things tell them apart. *By how much* the right label
is ahead counts: the step from wrong to right is smoothed over the margins of the prompt's own answers. And prompts that
are alike do alike: what a prompt is worth is estimated from its own answers and its neighbors' in the grid, weighted by
how well neighbors agree in this very grid (a Gaussian process with the texts as blocks).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import ndtr

from anytask.core.rng import derive
from anytask.lm.protocol import BudgetExceeded
from anytask.tuning.grid import Judged, Point

#: Points that are asked before any is foretold by its neighbors.
FORETOLD = 10
#: Agreements of points at distance 1 that are considered.
_AGREEMENTS = (0.3, 0.5, 0.7, 0.85, 0.95)


def smoothed_hits(correct: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return how right each answer is, in [0, 1]: the step at a margin of 0, smoothed over the spread of the margins.

    The bandwidth is Silverman's. Without margins it is the step itself.

    Examples
    --------
    >>> smoothed_hits(np.array([1.0, 0, 1]), np.array([2.0, -2, 0.01])).round(2).tolist()
    [0.92, 0.08, 0.5]
    """
    known = np.isfinite(margin)
    spread = float(np.std(margin[known])) if known.any() else 0.0
    if not spread:
        return correct
    return np.asarray(ndtr(margin / (1.06 * spread * known.sum() ** -0.2)))


@dataclass(frozen=True)
class Estimate:
    """What points are worth, mean (n_points,) and covariance (n_points, n_points) of their accuracies."""

    mean: np.ndarray
    covariance: np.ndarray

    def behind(self, best: int) -> np.ndarray:
        """Return by how many standard deviations each point is behind another."""
        v = np.diag(self.covariance)
        spread = np.sqrt(np.maximum(v + v[best] - 2 * self.covariance[best], 1e-12))
        return np.asarray((self.mean[best] - self.mean) / spread)


def estimate(hits: np.ndarray, distances: np.ndarray) -> Estimate:
    """Estimate what points are worth from their own answers and those of their neighbors.

    Parameters
    ----------
    hits : ndarray of shape (n_points, n_texts)
        How right each answer is, NaN where it was not asked. A row without a number is foretold by the others.
    distances : ndarray of shape (n_points, n_points)
        Between points, see :meth:`anytask.tuning.grid.Point.distance`.

    Examples
    --------
    Neighbors that agree pull an outlier towards themselves:

    >>> hits = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    >>> found = estimate(hits, np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    >>> bool(0.5 < found.mean[2] < 0.75)
    True
    """
    asked = np.isfinite(hits).any(axis=1)
    hits = hits[np.ix_(asked, np.isfinite(hits).any(axis=0))]
    seen = np.isfinite(hits)
    hits, counts, n = np.where(seen, hits, 0.0), seen.sum(axis=1), hits.shape[1]
    level, text = np.zeros(len(hits)), np.zeros(n)  # how good each point is, and how easy each text
    for _ in range(20):
        level = (hits - seen * text).sum(axis=1) / counts
        text = (hits - seen * level[:, None]).sum(axis=0) / seen.sum(axis=0)
        text -= text.mean()
    level = (hits - seen * text).sum(axis=1) / counts
    rest = ((hits - seen * (text + level[:, None])) ** 2).sum()
    noise = max(rest / max(1, seen.sum() - len(hits) - n + 1), 1e-4) / counts  # (n_points,), of the levels
    center = np.average(level, weights=counts)
    spread = max(np.average((level - center) ** 2, weights=counts) - noise.mean(), noise.mean() / 10)
    best = (-np.inf, np.zeros(0), np.zeros((0, 0)))
    for agreement in _AGREEMENTS:
        prior = spread * agreement**distances
        factor = cho_factor(prior[np.ix_(asked, asked)] + np.diag(noise))
        pulled = cho_solve(factor, level - center)
        likelihood = -0.5 * (level - center) @ pulled - np.log(np.diag(factor[0])).sum()
        if likelihood > best[0]:
            cross = prior[:, asked]
            best = likelihood, center + cross @ pulled, prior - cross @ cho_solve(factor, cross.T)
    return Estimate(best[1], best[2])


def table_of(judged: Mapping[Point, Judged], also: Sequence[Point] = ()) -> tuple[list[Point], np.ndarray, np.ndarray]:
    """Return the points that were asked, how right their answers are (n_points, n_texts), and their distances.

    ``also`` are points to return whether they were asked or not.
    """
    points = [point for point, found in judged.items() if found.n or point in also]
    hits = np.array([smoothed_hits(judged[point].correct, judged[point].margin) for point in points])
    return points, hits, np.array([[a.distance(b) for b in points] for a in points])


def choose(hits: np.ndarray, distances: np.ndarray, tokens: np.ndarray, worth: float = 0.005) -> int:
    """Return the place of the point to use: the shortest prompt among those within ``worth`` of the best estimate."""
    mean = estimate(hits, distances).mean
    near = np.flatnonzero(mean >= mean.max() - worth)
    return int(near[np.lexsort((-mean[near], tokens[near]))[0]])


def nested_hits(judged: Mapping[Point, Judged]) -> tuple[np.ndarray, list[str]]:
    """Return whether the chosen procedure is right on each text, and what it says, chosen by the other texts alone."""
    points, hits, distances = table_of(judged)
    tokens = np.array([np.nanmean(judged[point].tokens) for point in points])
    whole = [i for i in range(hits.shape[1]) if np.isfinite(hits[:, i]).any()]
    right, said = np.full(hits.shape[1], np.nan), [""] * hits.shape[1]
    for i in whole:
        rest = np.delete(hits, i, axis=1)
        able = np.isfinite(hits[:, i]) & np.isfinite(rest).any(axis=1)
        if able.any():
            place = np.flatnonzero(able)[choose(rest[able], distances[np.ix_(able, able)], tokens[able])]
            right[i], said[i] = judged[points[place]].correct[i], judged[points[place]].said[i]
    return right, said


def order_of(labels: Sequence[str], seed: int) -> list[int]:
    """Return the order in which texts are asked: drawn, with one of each label before the next of any."""
    drawn = np.random.default_rng(derive(seed, "race")).permutation(len(labels)).tolist()
    seen: defaultdict[str, Iterator[int]] = defaultdict(count)
    rounds = {i: next(seen[labels[i]]) for i in drawn}
    return sorted(drawn, key=rounds.__getitem__)


def rounds_of(n: int, first: int = 8) -> list[tuple[int, int]]:
    """Return the rounds of a race over ``n`` texts: eight first, then as many again as were asked so far.

    Examples
    --------
    >>> rounds_of(16), rounds_of(20), rounds_of(5)
    ([(0, 8), (8, 16)], [(0, 8), (8, 20)], [(0, 5)])
    """
    stops = []
    stop = first
    while stop * 1.5 < n:
        stops.append(stop)
        stop *= 2
    stops.append(n)
    return list(zip([0, *stops], stops))


def race(
    points: Sequence[Point],
    judge: Callable[[Point, Sequence[int], Judged], None],
    labels: Sequence[str],
    *,
    keep: Sequence[Point] = (),
    seed: int = 0,
    odds: float = 1.64,
    tell: Callable[[dict[Point, Judged]], None] | None = None,
) -> tuple[dict[Point, Judged], str]:
    """Ask all points about a few labelled texts, drop those that are clearly behind, ask the rest about more.

    A point whose neighbors are so far behind that it must be too is dropped before it is asked at all.

    Parameters
    ----------
    points : sequence of Point
        In the order in which they are asked: a budget that ends has gone into the first, and these foretell the rest.
    judge : callable
        ``judge(point, places, into)`` answers the texts at these places.
    labels : sequence of str
        Of all labelled texts.
    keep : sequence of Point
        Never dropped, for comparison.
    odds : float, default 1.64
        A point is dropped that is behind the best by so many standard deviations of their difference.
    tell : callable, optional
        Told what is known after every step.

    Returns
    -------
    judged : dict of Point to Judged
    stopped : str
        Why it ended before all was asked; "" if it did not.
    """
    judged = {point: Judged.blank(len(labels)) for point in points}
    order, alive = order_of(labels, seed), list(points)

    def hopeful(candidates: Sequence[Point]) -> list[Point]:
        known, hits, distances = table_of(judged, candidates)
        found = estimate(hits, distances)
        behind = dict(zip(known, found.behind(int(found.mean.argmax()))))
        return [point for point in candidates if behind[point] <= odds or point in keep]

    for start, stop in rounds_of(len(labels)):
        for place, point in enumerate(alive):
            if start == 0 and place >= FORETOLD and not hopeful([point]):
                continue
            try:
                judge(point, order[start:stop], judged[point])
            except BudgetExceeded as error:
                return judged, str(error)
            if tell:
                tell(judged)
        alive = hopeful([point for point in alive if judged[point].n])
    return judged, ""
