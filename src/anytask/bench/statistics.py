"""Intervals, paired differences and ranks over the seeds of a comparison.

Every function takes plain arrays of numbers, one per seed, and says what few seeds can and cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

#: Resamples of a bootstrap interval.
RESAMPLES = 10_000
_ENDS = np.array([(1 - 0.95) / 2, 1 - (1 - 0.95) / 2])


@dataclass(frozen=True)
class Summary:
    """Mean of some values with its spread and its 95 % interval; the interval is None for fewer than two values."""

    n: int
    mean: float
    sd: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """Mean paired difference with its 95 % bootstrap interval and the p value of a paired t-test.

    With one pair the interval is None and ``p`` is NaN; ``n`` is the number of pairs.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float


@dataclass(frozen=True)
class Ranking:
    """Friedman test over ranks, with Nemenyi's critical difference.

    ``average_ranks`` are in the order of the columns given, 1 is best; two entrants whose average ranks differ by less
    than ``critical_difference`` cannot be told apart at level ``alpha``.
    """

    average_ranks: tuple[float, ...]
    statistic: float
    p: float
    critical_difference: float
    alpha: float
    n: int


def summarize(values: ArrayLike, *, method: str = "percentile", seed: int = 0) -> Summary:
    """Return mean, standard deviation (n - 1) and bootstrap 95 % interval of one metric over seeds.

    With five seeds a percentile interval is too narrow (it holds the mean about 84 times in a hundred if values are
    about normal): it shows the spread between seeds, and is no proof. A p value comes from :func:`paired_difference`.

    Parameters
    ----------
    values : array of shape (n,)
        One value per seed; NaN values make the result NaN.
    method : {"percentile", "BCa"}
        How the interval is taken from the bootstrap distribution.
    seed : int, default 0
        Seed of the resampling.

    Examples
    --------
    >>> summary = summarize([0.8, 0.9, 1.0])
    >>> round(summary.mean, 3), round(summary.sd, 3), round(summary.low, 3), round(summary.high, 3)
    (0.9, 0.1, 0.8, 1.0)
    >>> summarize([0.8]).low is None
    True
    """
    x = _vector(values, "values")
    if len(x) == 0:
        return Summary(0, math.nan, math.nan, None, None)
    sd = float(x.std(ddof=1)) if len(x) > 1 else math.nan
    low, high = _interval(x, method, seed)
    return Summary(len(x), float(x.mean()), sd, low, high)


def paired_difference(a: ArrayLike, b: ArrayLike, *, method: str = "percentile", seed: int = 0) -> Difference:
    """Return the mean of ``a - b`` over seeds, with a bootstrap 95 % interval and a paired t-test.

    Pairs share a seed, and so the same stream, split or sample, which takes the variation between seeds out.
    With few seeds the two disagree: the bootstrap interval is too narrow (n values can be resampled in few ways), while
    the t-test keeps its level for any n >= 2 if differences are about normal, but has little power. So "cannot be told
    apart" with five seeds isn't "equal". One pair says nothing about chance: the interval is None and p is NaN.
    When all differences are the same, chance has no part in them on these data: p is 0, or 1 if they are all zero.

    Parameters
    ----------
    a, b : array of shape (n,)
        Values of two entrants, in the order of the same seeds.
    method : {"percentile", "BCa"}
        See :func:`summarize`.
    seed : int, default 0
        Seed of the resampling.

    Examples
    --------
    >>> difference = paired_difference([0.9, 0.8, 0.85], [0.7, 0.7, 0.7])
    >>> round(difference.mean, 3), round(difference.p, 3)
    (0.15, 0.035)
    """
    from scipy import stats

    x, y = _vector(a, "a"), _vector(b, "b")
    if len(x) != len(y):
        raise ValueError(f"a has {len(x)} values and b has {len(y)}: pairs are needed")
    d = x - y
    n = len(d)
    if n == 0:
        return Difference(0, math.nan, None, None, math.nan)
    mean = float(d.mean())
    low: float | None
    high: float | None
    if n == 1 or not np.isfinite(d).all():
        return Difference(n, mean, None, None, math.nan)
    if _constant(d, np.abs(np.concatenate([x, y])).max()):
        low, high, p = mean, mean, 0.0 if not _constant(np.append(d, 0.0), np.abs(x).max()) else 1.0
    else:
        low, high = _interval(d, method, seed)
        p = float(stats.ttest_rel(x, y).pvalue)
    return Difference(n, mean, low, high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p values: those at most alpha may be called differences, all of them together.

    The i-th smallest of m is multiplied by m - i + 1, and never falls below its predecessor. NaN stays NaN and does not
    count.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.

    Examples
    --------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(p), math.nan)
    order = [i for i in np.argsort(p, kind="stable") if not math.isnan(p[i])]
    largest = 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, float(p[i]) * (len(order) - place)))
        adjusted[i] = largest
    return adjusted.tolist()


def average_ranks(values: ArrayLike, higher_is_better: bool = True) -> np.ndarray:
    """Return the average rank of each column over the rows; 1 is best, ties share the mean of their ranks.

    Parameters
    ----------
    values : array of shape (n, k)
        n seeds (or data sets) by k entrants.
    higher_is_better : bool, default True
        Which way is better.

    Examples
    --------
    >>> average_ranks([[0.9, 0.8, 0.8], [0.9, 0.7, 0.6]]).tolist()
    [1.0, 2.25, 2.75]
    """
    from scipy import stats

    x = _matrix(values)
    return stats.rankdata(-x if higher_is_better else x, axis=1).mean(axis=0)


def friedman(values: ArrayLike, higher_is_better: bool = True, alpha: float = 0.05) -> Ranking:
    """Test whether any entrant ranks above another, and say by how much average ranks must differ.

    The rows of one comparison are seeds on the same data, so it answers "would the order hold for other seeds?", and
    not "would it hold on other data?"; for that, the rows have to be data sets.

    Parameters
    ----------
    values : array of shape (n, k)
        n rows by k entrants, n >= 2 and k >= 2, no missing values.
    higher_is_better : bool, default True
        Which way is better.
    alpha : float, default 0.05
        Level of Nemenyi's test.

    Returns
    -------
    Ranking
        ``statistic`` and ``p`` are NaN for two entrants, where Friedman's approximation does not hold, and when all
        values of each row are tied.

    Notes
    -----
    Source: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.

    Examples
    --------
    >>> ranking = friedman([[0.9, 0.8, 0.7], [0.8, 0.7, 0.6], [0.9, 0.6, 0.5]])
    >>> ranking.average_ranks, round(ranking.statistic, 3), round(ranking.critical_difference, 3)
    ((1.0, 2.0, 3.0), 6.0, 1.914)
    """
    from scipy import stats

    x = _matrix(values)
    n, k = x.shape
    if n < 2 or k < 2:
        raise ValueError(f"ranks need at least 2 rows and 2 columns, got {n} by {k}")
    if not np.isfinite(x).all():
        raise ValueError("ranks need finite values")
    statistic = p = math.nan
    if k >= 3 and (x != x[:, :1]).any():
        result = stats.friedmanchisquare(*x.T)
        statistic, p = float(result.statistic), float(result.pvalue)
    ranks = tuple(average_ranks(x, higher_is_better).tolist())
    return Ranking(ranks, statistic, p, nemenyi(k, n, alpha), alpha, n)


def nemenyi(k: int, n: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of average ranks, ``q_alpha * sqrt(k (k + 1) / (6 n))``.

    ``q_alpha`` is the upper quantile of the studentized range of k groups and infinite degrees of freedom, over sqrt 2.

    Examples
    --------
    >>> round(nemenyi(4, 14), 2)  # Demšar's example
    1.25
    """
    return critical_value(k, alpha) * math.sqrt(k * (k + 1) / (6 * n))


@lru_cache
def critical_value(k: int, alpha: float = 0.05) -> float:
    """Return ``q_alpha`` of Nemenyi's test of k entrants.

    Examples
    --------
    >>> round(critical_value(3), 3)
    2.344
    """
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)


def indistinguishable_groups(ranks: Sequence[float], critical_difference: float) -> list[tuple[int, ...]]:
    """Return the largest groups of entrants (as positions) whose average ranks lie within the critical difference.

    Examples
    --------
    >>> indistinguishable_groups([1.0, 1.5, 2.4, 4.0], 1.0)
    [(0, 1), (1, 2)]
    """
    order = sorted(range(len(ranks)), key=lambda i: ranks[i])
    groups: list[tuple[int, ...]] = []
    for start in range(len(order)):
        group = tuple(i for i in order[start:] if ranks[i] - ranks[order[start]] < critical_difference)
        if len(group) > 1 and not any(set(group) <= set(earlier) for earlier in groups):
            groups.append(group)
    return groups


def _interval(x: np.ndarray, method: str, seed: int) -> tuple[float | None, float | None]:
    from scipy import stats

    if method not in ("percentile", "BCa"):
        raise ValueError(f"method must be 'percentile' or 'BCa', got {method!r}")
    if len(x) < 2 or not np.isfinite(x).all():
        return None, None
    if _constant(x, np.abs(x).max()):
        return float(x.mean()), float(x.mean())
    if method == "percentile":  # what stats.bootstrap computes, with the resamples drawn once for all entrants
        means = np.sort(x[_resamples(len(x), seed)].mean(axis=-1))
        place = _ENDS * RESAMPLES + (1 - _ENDS)  # counted from 1; between two means, their mixture
        below, share = place.astype(int) - 1, place % 1
        low, high = (1 - share) * means[below] + share * means[below + 1]
        return float(low), float(high)
    result = stats.bootstrap(
        (x,), np.mean, confidence_level=0.95, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(seed)
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@lru_cache(maxsize=2)
def _resamples(n: int, seed: int) -> np.ndarray:
    """Return the positions of the values in each resample, shape (RESAMPLES, n): the same for every entrant."""
    drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    drawn.setflags(write=False)
    return drawn


def _constant(x: np.ndarray, scale: float) -> bool:
    return bool(np.ptp(x) <= 1e-12 * scale)


def _vector(values: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {x.shape}")
    return x


def _matrix(values: ArrayLike) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 2:
        raise ValueError(f"values must have shape (n, k), got {x.shape}")
    return x
