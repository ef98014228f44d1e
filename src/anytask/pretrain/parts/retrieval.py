"""Metrics of retrieval by the rank of the first right answer, and scores of groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def group_max(scores: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """Return the scores (n, n_groups) of groups of columns, each that of its best column.

    Parameters
    ----------
    scores : array of shape (n, m)
    groups : int array of shape (m,)
        The group of each column, each of 0..n_groups - 1 at least once.

    Examples
    --------
    >>> group_max([[0.1, 0.9, 0.4]], [1, 0, 1])
    array([[0.9, 0.4]])
    """
    S, of = np.asarray(scores, dtype=np.float64), np.asarray(groups)
    if of.shape != S.shape[1:] or of.dtype.kind not in "iu" or len(np.unique(of)) != of.max(initial=-1) + 1:
        raise ValueError(f"groups must hold the group of each of {S.shape[1]} targets, all whole numbers from 0 on")
    best = np.full((len(S), int(of.max()) + 1), -np.inf)
    np.maximum.at(best.T, of, S.T)
    return best


def retrieval_metrics(scores: ArrayLike, relevant: ArrayLike) -> dict[str, float]:
    """Return recall among the first, and the median and mean rank, of the best right answer of each query.

    Of an answer that scores as high as wrong ones the rank is the worst of theirs.

    Parameters
    ----------
    scores : array of shape (n, m)
    relevant : bool array of shape (n, m)
        Which answers are right; one at least for each query.

    Returns
    -------
    dict of str to float
        ``R@1``, ``R@5`` and ``R@10`` in [0, 1]; ``MedR`` and ``MeanR``, from 1 on.

    Examples
    --------
    >>> retrieval_metrics([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1]], [[True, False, False], [False, True, False]])
    {'R@1': 0.5, 'R@5': 1.0, 'R@10': 1.0, 'MedR': 1.5, 'MeanR': 1.5}
    """
    S, right = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    if S.shape != right.shape or not right.any(axis=1).all():
        raise ValueError(f"relevant must have the shape {S.shape} of scores, and a right answer in each row")
    best = np.where(right, S, -np.inf).max(axis=1, keepdims=True)
    rank = 1 + ((best <= S) & ~right).sum(axis=1)
    within = {f"R@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}
    return within | {"MedR": float(np.median(rank)), "MeanR": float(rank.mean())}
