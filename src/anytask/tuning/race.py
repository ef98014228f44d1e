"""Which prompt is best, from few labels: smoothed answers, losers that are dropped early, and the choice.

With 16 labelled texts many prompts are right equally often, and what tells them apart is by how much: the step from
wrong to right is smoothed over the margins of a prompt's own answers. Prompts are compared text by text, so that texts
which are hard for all of them take nothing from the comparison.

Tried beside it, on two development tables (SmolLM2-135M: 53 prompts on 40 reviews, 25 prompts on 40 topics; 16 texts
drawn 200 times to choose by, the mean loss to the best on the others): this choice loses 7.7 and 7.0 points, accuracy
with ties broken by the log-probability 9.0 and 6.4, with ties broken by the length 12.4 and 9.7, the log-probability
alone 10.2 and 6.2. Averaging over prompts that are neighbors in the grid (a Gaussian process) lost 14 on the reviews:
they do not do alike. The best of all 40 loses 0.8 and 0.3.

The vote of all prompts that are left on 32 texts without labels, and how often each agrees with it (Liao et al., 2022,
arXiv:2211.04668), was tried on other tables, of 33 prompts on 82 reviews and 52 on 82 topics: chosen by it beside the
labels, prompts lost 0.5 points more and 1.3 less. The vote itself was 5.0 and 3.8 points above the choice, at the price
of asking every one of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

import numpy as np
from scipy.special import ndtr

from anytask.core.rng import derive
from anytask.lm.protocol import BudgetExceeded
from anytask.tuning.grid import Judged, Point


def smoothed_hits(correct: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Return how right each answer is, in [0, 1]: the step at a margin of 0, smoothed over the spread of the margins.

    Without margins, and where all are alike, it is the step itself.

    Parameters
    ----------
    correct, margin : ndarray of shape (n,)
        See :class:`~anytask.tuning.grid.Judged`.

    Examples
    --------
    >>> smoothed_hits(np.array([1.0, 0, 1]), np.array([2.0, -2, 0.01])).round(2).tolist()
    [0.78, 0.22, 0.5]

    Notes
    -----
    The bandwidth is ``2 s n^(-1/5)`` for margins of standard deviation ``s``: about twice Silverman's, since accuracy
    is asked for, a step, and few labels are there. It goes to 0 with more labels, and the mean to the accuracy.
    """
    known = np.isfinite(margin)
    spread = float(np.std(margin[known])) if known.any() else 0.0
    return correct if not spread else np.asarray(ndtr(margin / (2 * spread * known.sum() ** -0.2)))


def hits_of(judged: Mapping[Point, Judged], points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    """Return how right the answers of points are, shape (n_points, n_texts), and the places of texts asked of all."""
    hits = np.array([smoothed_hits(judged[point].correct, judged[point].margin) for point in points])
    return hits, np.flatnonzero(np.isfinite(hits).all(axis=0))


def lengths(judged: Mapping[Point, Judged], points: Sequence[Point]) -> np.ndarray:
    """Return the mean length of each point's prompts."""
    return np.array([np.nanmean(judged[point].tokens) for point in points])


def choose(hits: np.ndarray, tokens: np.ndarray) -> int:
    """Return the place of the point to use: that of the best smoothed accuracy, of equal ones the shortest prompt.

    Parameters
    ----------
    hits : ndarray of shape (n_points, n_texts)
    tokens : ndarray of shape (n_points,)
    """
    return int(np.lexsort((tokens, -hits.mean(axis=1).round(9)))[0])


def best_of(judged: Mapping[Point, Judged], finalists: Sequence[Point]) -> Point:
    """Return the finalist to use, by the texts that all of them were asked about."""
    hits, asked = hits_of(judged, finalists)
    return finalists[choose(hits[:, asked], lengths(judged, finalists))]


def nested_hits(judged: Mapping[Point, Judged], finalists: Sequence[Point]) -> np.ndarray:
    """Return for each text whether the finalist that is chosen by the other texts is right on it; NaN: not asked."""
    hits, asked = hits_of(judged, finalists)
    tokens, right = lengths(judged, finalists), np.full(hits.shape[1], np.nan)
    for i in asked:
        right[i] = judged[finalists[choose(hits[:, asked[asked != i]], tokens)]].correct[i]
    return right


def behind(hits: np.ndarray) -> np.ndarray:
    """Return by how many standard errors each point is behind the best, text by text: shape (n_points,).

    Examples
    --------
    >>> behind(np.array([[1.0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1]])).round(1).tolist()
    [0.0, 1.7, 0.0]
    """
    gap = hits[hits.mean(axis=1).argmax()] - hits  # (n_points, n_texts)
    error = gap.std(axis=1, ddof=1) / np.sqrt(gap.shape[1]) if gap.shape[1] > 1 else np.full(len(gap), np.inf)
    return np.asarray(gap.mean(axis=1) / np.maximum(error, 1e-9))


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
    stops, stop = [], first
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
    errors: float = 2.0,
    tell: Callable[[dict[Point, Judged]], None] | None = None,
) -> tuple[dict[Point, Judged], list[Point], str]:
    """Ask all points about a few labelled texts, drop those that are clearly behind, ask the rest about more.

    Parameters
    ----------
    points : sequence of Point
        In the order in which they are asked: a budget that ends has gone into the first.
    judge : callable
        ``judge(point, places, into)`` answers the texts at these places.
    labels : sequence of str
        Of all labelled texts.
    keep : sequence of Point
        Asked to the end, for comparison.
    errors : float, default 2
        A point is dropped that is behind the best by so many standard errors of their difference, text by text.
    tell : callable, optional
        Told what is known after every step.

    Returns
    -------
    judged : dict of Point to Judged
    finalists : list of Point
        Those among which to choose.
    stopped : str
        Why it ended before all was asked; "" if it did not.
    """
    judged = {point: Judged.blank(len(labels)) for point in points}
    order, alive = order_of(labels, seed), list(points)
    for start, stop in rounds_of(len(labels)):
        for point in [*alive, *(point for point in keep if point not in alive)]:
            try:
                judge(point, order[start:stop], judged[point])
            except BudgetExceeded as error:
                return judged, [point for point in alive if judged[point].n], str(error)
            if tell:
                tell(judged)
        hits, asked = hits_of(judged, alive)
        alive = [point for point, gap in zip(alive, behind(hits[:, asked])) if gap <= errors]
    return judged, alive, ""
