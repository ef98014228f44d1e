"""Metrics of rankings with binary relevance."""

from __future__ import annotations

import numpy as np


def ranking_metrics(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """Return means over the queries that have a relevant target.

    Parameters
    ----------
    scores : array of shape (n, m)
        The higher the better; of equals the first is ranked before.
    relevant : bool array of shape (n, m)

    Returns
    -------
    dict of str to float
        ``map``, ``rp10``, ``recall1``, ``recall10`` and ``mrr``, each in [0, 1].

    Raises
    ------
    ValueError
        If no query has a relevant target.

    Examples
    --------
    >>> found = ranking_metrics(np.array([[5, 4, 3, 2, 1]]), np.array([[True, False, True, False, True]]))
    >>> round(found["map"], 6), found["rp10"], round(found["recall1"], 3)
    (0.755556, 1.0, 0.333)
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    hits = hits[hits.any(axis=1)].astype(np.float64)  # (n, m)
    if not len(hits):
        raise ValueError("no query has a relevant target")
    total, found, rank = hits.sum(1), hits.cumsum(1), np.arange(1, hits.shape[1] + 1)
    ten = found[:, min(10, found.shape[1]) - 1]
    values = {
        "map": (hits * found / rank).sum(1) / total,
        "rp10": ten / np.minimum(10, total),
        "recall1": hits[:, 0] / total,
        "recall10": ten / total,
        "mrr": 1 / (hits.argmax(1) + 1),
    }
    return {name: float(value.mean()) for name, value in values.items()}
