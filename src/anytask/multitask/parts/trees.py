"""Regression trees on binned features, grown best first on a vector of targets by squared error.

Features are sorted into bins once, so that a tree costs a histogram for each feature and node. With as many bins as
there are values the splits are those of an exact learner, and thresholds lie half-way between neighboring values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Binned:
    """Inputs whose features were sorted into bins.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        float32.
    max_bins : int or None
        Of each feature: one for each value where these are no more, or None is given, else of about as many rows each.

    Attributes
    ----------
    codes : list of d ndarrays of shape (n,)
        The bin of each row.
    low, high : ndarray of shape (d, bins)
        The smallest and the largest value of each bin.
    """

    def __init__(self, X: np.ndarray, max_bins: int | None) -> None:
        self.codes, lows, highs = [], [], []
        for x in X.T:
            values, codes, counts = np.unique(x, return_inverse=True, return_counts=True)
            if max_bins is not None and len(values) > max_bins:
                merged = (np.cumsum(counts) - counts) * max_bins // len(x)  # the bin of each value
                merged = np.unique(merged, return_inverse=True)[1]
                codes, first = merged[codes], np.flatnonzero(np.diff(merged, prepend=-1))
            else:
                first = np.arange(len(values))
            self.codes.append(codes.astype(np.int32))
            lows.append(values[first].astype(np.float64))
            highs.append(values[np.append(first[1:], len(values)) - 1].astype(np.float64))
        bins = max(map(len, lows))
        self.low, self.high = (np.stack([np.pad(v, (0, bins - len(v))) for v in ends]) for ends in (lows, highs))


#: Trees as arrays by name, of M trees with N nodes each and K outputs: ``feature`` (M, N) that a node splits on, -1 for
#: leaves; ``threshold`` (M, N), at most which a row goes to the node ``left`` (M, N), else to the next one; ``value``
#: (M, N, K), the mean target of a node's rows.
Forest = dict[str, np.ndarray]


def empty_forest(trees: int, leaves: int, outputs: int) -> Forest:
    """Return trees that are a leaf of value 0 each."""
    shape = (trees, 2 * leaves - 1)
    counts = {"feature": np.full(shape, -1, dtype=np.int64), "left": np.zeros(shape, dtype=np.int64)}
    return {**counts, "threshold": np.zeros(shape), "value": np.zeros((*shape, outputs))}


def summed(forest: Forest, X: np.ndarray, trees: slice = slice(None)) -> np.ndarray:
    """Return the sum of some trees' values at X (n, d), shape (n, K).

    Examples
    --------
    >>> forest, x = empty_forest(1, 2, 1), np.array([[0.0], [1.0], [2.0]])
    >>> _ = Grower().grow(forest, 0, Binned(x, None), np.array([[1.0], [4.0], [4.0]]), None, np.arange(1))
    >>> summed(forest, np.array([[0.4], [0.6]])).ravel().tolist()
    [1.0, 4.0]
    """
    total, rows = np.zeros((len(X), forest["value"].shape[2])), np.arange(len(X))
    columns = (forest[name][trees] for name in ("feature", "threshold", "left", "value"))
    for feature, threshold, left, value in zip(*columns):
        node = np.zeros(len(X), dtype=np.int64)
        while (inner := feature[node] >= 0).any():
            node = np.where(inner, left[node] + (X[rows, feature[node]] > threshold[node]), node)
        total += value[node]
    return total


def contributed(forest: Forest, X: np.ndarray, trees: slice = slice(None)) -> np.ndarray:
    """Return what splits on each feature add to the sum of some trees at X (n, d), shape (n, d, K).

    A split adds the difference between the value of the node that a row goes to and of the node that it comes from. Of
    stumps these are the functions of one feature each that their sum consists of.
    """
    total, rows = np.zeros((*X.shape, forest["value"].shape[2])), np.arange(len(X))
    columns = (forest[name][trees] for name in ("feature", "threshold", "left", "value"))
    for feature, threshold, left, value in zip(*columns):
        node = np.zeros(len(X), dtype=np.int64)
        while (inner := feature[node] >= 0).any():
            child = np.where(inner, left[node] + (X[rows, feature[node]] > threshold[node]), node)
            total[rows, feature[node]] += value[child] - value[node]  # 0 at a leaf
            node = child
    return total


@dataclass
class Grower:
    """How trees are grown.

    Attributes
    ----------
    max_leaf_nodes : int
        The leaf whose split takes most squared error away is split first.
    max_depth : int or None
    min_samples_leaf : int
    """

    max_leaf_nodes: int = 2
    max_depth: int | None = None
    min_samples_leaf: int = 1

    def grow(
        self, forest: Forest, m: int, data: Binned, R: np.ndarray, rows: np.ndarray | None, features: np.ndarray
    ) -> np.ndarray:
        """Grow tree ``m`` of a forest on targets R (n, K), and return its value at each row of the data, (n, K).

        Parameters
        ----------
        forest : Forest
        m : int
        data : Binned
            The inputs of all rows.
        R : ndarray of shape (n, K)
        rows : ndarray, optional
            Places of the rows to learn from; the others get a value all the same.
        features : ndarray
            Places of the features that may be split on.
        """
        whole = np.arange(len(R))
        own, every = {0: rows}, {0: whole}  # the rows of each node: to learn from, and all of them
        depth, candidates, last = {0: 0}, {}, 0
        forest["value"][m, 0] = (R if rows is None else R[rows]).mean(0)
        for _ in range(self.max_leaf_nodes - 1):
            for node in own:
                if node not in candidates:
                    deep = self.max_depth is not None and depth[node] >= self.max_depth
                    candidates[node] = None if deep else self._best(data, R, own[node], features)
            open_ = {node: found for node, found in candidates.items() if found is not None and node in own}
            if not open_:
                break
            node = max(open_, key=lambda one: open_[one][0])
            _, j, b, threshold = open_[node]
            left = last + 1
            forest["feature"][m, node], forest["threshold"][m, node], forest["left"][m, node] = j, threshold, left
            learned, seen = own.pop(node), every.pop(node)
            learned = whole if learned is None else learned
            for side, (child, goes) in enumerate(((left, np.less_equal), (left + 1, np.greater))):
                own[child], every[child] = (part[goes(data.codes[j][part], b)] for part in (learned, seen))
                forest["value"][m, child], depth[child] = R[own[child]].mean(0), depth[node] + 1
                last = left + side
        out = np.empty_like(R)
        for node, part in every.items():
            out[part] = forest["value"][m, node]
        return out

    def _best(
        self, data: Binned, R: np.ndarray, rows: np.ndarray | None, features: np.ndarray
    ) -> tuple[float, int, int, float] | None:
        """Return (gain, feature, last bin to the left, threshold) of the best split, None where there is none."""
        r = R if rows is None else R[rows]
        n, total, bins = len(r), r.sum(0), data.low.shape[1]
        if n < 2 * self.min_samples_leaf:
            return None
        counts, sums = np.zeros((len(features), bins)), np.zeros((R.shape[1], len(features), bins))
        for place, j in enumerate(features):
            codes = data.codes[j] if rows is None else data.codes[j][rows]
            counts[place] = np.bincount(codes, minlength=bins)
            for k in range(R.shape[1]):
                sums[k, place] = np.bincount(codes, r[:, k], minlength=bins)
        n_left, s_left = counts.cumsum(1), sums.cumsum(2)
        n_right, s_right = n - n_left, total[:, None, None] - s_left
        allowed = (n_left >= self.min_samples_leaf) & (n_right >= self.min_samples_leaf)
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = (s_left**2).sum(0) / n_left + (s_right**2).sum(0) / n_right - (total**2).sum() / n
        gain = np.where(allowed, gain, -np.inf)
        best, least = gain.max(), 1e-12 * (r**2).sum()
        if not best > least:
            return None
        ties = gain >= best - least  # whatever the order in which the rows were summed, the first of them
        place, b = map(int, np.unravel_index(int(ties.argmax()), gain.shape))
        j, after = int(features[place]), b + 1 + int((counts[place, b + 1 :] > 0).argmax())
        low, high, threshold = data.low[j], data.high[j], data.high[j, b] / 2 + data.low[j, after] / 2
        c = b + int((high[b + 1 : after] <= threshold).sum())  # bins in between hold none of these rows
        if low[c + 1] < threshold:  # it would cut a bin in two
            threshold = high[c] / 2 + low[c + 1] / 2
        return float(gain[place, b]), j, c, threshold
