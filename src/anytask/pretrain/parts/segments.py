"""Pseudo-labelled segments of long sequences: windows of which a classifier is sure, merged and thinned by class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass
class Segment:
    """A stretch of one sequence that shows one class.

    Attributes
    ----------
    label : int
    start : int
        Start of its best window.
    first, last : int
        Starts of the first and of the last window that it was merged of.
    score : float
        Confidence of its best window.
    """

    label: int
    start: int
    first: int
    last: int
    score: float


def mine_segments(
    starts: ArrayLike, labels: Iterable[int], scores: ArrayLike, *, threshold: float, merge: int, suppress: int
) -> list[Segment]:
    """Return the segments of one sequence, the surest of each class first.

    Windows of a class are taken from the surest to the least sure. One that starts within ``merge`` of a kept start
    joins that segment (the nearest, the earlier kept of equals); else one within ``suppress`` of a kept start is
    dropped; any other is a new segment.

    Parameters
    ----------
    starts : int array of shape (n,)
        Where the windows begin.
    labels : int array of shape (n,)
        Their most probable classes.
    scores : array of shape (n,)
        The probabilities of these.
    threshold : float
        Windows of which the classifier is no surer than this are not looked at.
    merge, suppress : int
        Distances between starts, inclusive.

    Examples
    --------
    >>> found = mine_segments([10, 12, 30, 60], [5] * 4, [0.9, 0.8, 0.7, 0.65], threshold=0.6, merge=3, suppress=24)
    >>> [(one.start, one.first, one.last) for one in found]
    [(10, 10, 12), (60, 60, 60)]
    """
    at, of, sure = np.asarray(starts), np.asarray(list(labels)), np.asarray(scores)
    kept: dict[int, list[Segment]] = {}
    for row in np.argsort(-sure, kind="stable"):
        if not sure[row] > threshold:
            break
        start, mine = int(at[row]), kept.setdefault(int(of[row]), [])
        nearest = min(mine, key=lambda one: abs(one.start - start), default=None)
        distance = np.inf if nearest is None else abs(nearest.start - start)
        if nearest is not None and distance <= merge:
            nearest.first, nearest.last = min(nearest.first, start), max(nearest.last, start)
        elif distance > suppress:
            mine.append(Segment(int(of[row]), start, start, start, float(sure[row])))
    return [one for label in sorted(kept) for one in kept[label]]
