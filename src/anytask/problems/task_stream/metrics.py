"""What a stream measures: accuracy, forgetting and transfer out of the accuracy matrix, and borders found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def stream_metrics(R: np.ndarray, visits: Sequence[int]) -> dict[str, float]:
    """Return accuracy, forgetting, backward transfer and learning accuracy of an accuracy matrix.

    Parameters
    ----------
    R : ndarray of shape (n_segments, n_tasks)
        Accuracy on each task after each segment.
    visits : sequence of int
        The task of each segment; every task at least once.

    Examples
    --------
    >>> R = np.array([[1.0, 0.0], [0.75, 0.5]])
    >>> stream_metrics(R, [0, 1])
    {'accuracy': 0.625, 'forgetting': 0.25, 'backward_transfer': -0.25, 'learning_accuracy': 0.75}
    """
    earlier = [k for k in range(R.shape[1]) if k != visits[-1]]
    last = {k: s for s, k in enumerate(visits)}
    return {
        "accuracy": float(np.mean(R[-1])),
        "forgetting": float(np.mean([R[list(visits).index(k) : -1, k].max() - R[-1, k] for k in earlier])),
        "backward_transfer": float(np.mean([R[-1, k] - R[last[k], k] for k in earlier])),
        "learning_accuracy": float(np.mean([R[s, k] for s, k in enumerate(visits)])),
    }


def forward_transfer(R: np.ndarray, visits: Sequence[int], labels: Sequence[set[Any]]) -> float:
    """Return the mean accuracy above chance on tasks just before their first visit, or NaN where that is undefined.

    Parameters
    ----------
    R, visits
        As in :func:`stream_metrics`.
    labels : sequence of set
        The labels of each task; a task counts if all of them were shown before, and chance is 1/len.

    Examples
    --------
    >>> R = np.array([[1.0, 0.75], [1.0, 1.0]])
    >>> forward_transfer(R, [0, 1], [{"a", "b"}, {"a", "b"}]), forward_transfer(R, [0, 1], [{"a"}, {"b"}])
    (0.25, nan)
    """
    gains, shown = [], set(labels[visits[0]])
    for s, k in enumerate(visits):
        if k not in visits[:s] and s > 0 and labels[k] <= shown and not math.isnan(R[s - 1, k]):
            gains.append(R[s - 1, k] - 1 / len(labels[k]))
        shown |= labels[k]
    return float(np.mean(gains)) if gains else math.nan


def macro_ap(y: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the mean over classes of scikit-learn's average precision; classes without a positive do not count.

    Parameters
    ----------
    y, scores : ndarray of shape (n, classes)
        Zeros and ones, and what ranks the rows for each class.
    weights : ndarray of shape (n,), optional

    Examples
    --------
    >>> y = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    >>> macro_ap(y, np.array([[0.9, 0.1, 0.5], [0.5, 0.2, 0.5], [0.8, 0.3, 0.5]]))
    0.75
    """
    from sklearn.metrics import average_precision_score

    values = [
        average_precision_score(y[:, c], scores[:, c], sample_weight=weights) for c in np.flatnonzero(y.any(axis=0))
    ]
    return float(np.mean(values)) if values else math.nan


def label_metrics(
    R: np.ndarray,
    visits: Sequence[int],
    stages: Sequence[tuple[np.ndarray, np.ndarray]],
    weights: np.ndarray | None = None,
    threshold: float = 0.8,
) -> dict[str, float]:
    """Return what is measured where rows have several labels.

    Parameters
    ----------
    R, visits
        As in :func:`stream_metrics`, of macro average precision; NaN for tasks before their first visit.
    stages : sequence of (y, probabilities)
        After each segment, over the classes shown so far.
    weights : ndarray of shape (n,), optional
    threshold : float
        Above which probability a label is given, in the two F1.

    Examples
    --------
    >>> y, p = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[0.9, 0.1], [0.3, 0.9], [0.95, 0.7]])
    >>> found = label_metrics(np.array([[1.0, np.nan], [1.0, 1.0]]), [0, 1], [(y[:, :1], p[:, :1]), (y, p)])
    >>> found["macro_ap"], round(found["cf1"], 3), round(found["of1"], 3)
    (1.0, 0.833, 0.857)
    """
    from sklearn.metrics import f1_score

    shared = stream_metrics(R, visits)
    y, probabilities = stages[-1]
    given = (probabilities > threshold).astype(int)
    f1 = {
        name: f1_score(y, given, average=average, sample_weight=weights, zero_division=0.0)
        for name, average in (("cf1", "macro"), ("of1", "micro"))
    }
    return {
        "macro_ap": macro_ap(y, probabilities, weights),
        "average_macro_ap": float(np.mean([macro_ap(*stage, weights) for stage in stages])),
        "first_task_ap": float(R[-1, visits[0]]),
        **{name: float(value) for name, value in f1.items()},
        **{name: shared[name] for name in ("forgetting", "backward_transfer")},
        "learning_ap": shared["learning_accuracy"],
    }


def match_borders(found: Sequence[int], true: Sequence[int], n_batches: int) -> tuple[list[int], int, int]:
    """Match the borders a learner found with the true ones: (delays, false alarms, missed borders).

    The first detection at or after a true border and before the next one is that border's; all others are false
    alarms. A detection at batch 0, where the stream starts, is neither.

    Examples
    --------
    >>> match_borders([0, 11, 14, 25], true=[10, 20, 30], n_batches=40)
    ([1, 5], 1, 1)
    """
    ordered = sorted(b for b in found if b > 0)
    delays = []
    for start, stop in zip(true, [*true[1:], n_batches]):
        first = next((b for b in ordered if start <= b < stop), None)
        if first is not None:
            delays.append(first - start)
    return delays, len(ordered) - len(delays), len(true) - len(delays)
