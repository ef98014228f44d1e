"""Long rows of few-shot tasks: which classes are the base, which come a few rows at a time, and which never."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.labelled import LabelledData
from anytask.problems.task_stream.options import N_TASKS, StreamOptions

_QUERIES = 15  # of each class in an episode, where there are as many rows


def settle_few_shot(options: StreamOptions, labelled: LabelledData) -> tuple[StreamOptions, tuple[str, ...]]:
    """Return options with the number of tasks and of classes never taught, and a note on them."""
    name, ways, shots = labelled.name, options.ways or 0, options.shots or 0
    classes, counts = np.unique(labelled.y, return_counts=True)
    if unknown := [label for label in options.base or () if label not in classes.astype(str)]:
        raise BadData(f"{name}: base names {unknown[0]!r}, which is not there; classes: {', '.join(map(str, classes))}")
    if options.n_tasks != N_TASKS:
        raise BadData("the scenario few-shot makes as many tasks as there are classes for: unseen=... leaves more out")
    n_base = len(set(options.base)) if options.base else max(2, len(classes) // 5)
    unseen = max(ways, 2 * len(classes) // 5) if options.unseen is None else options.unseen
    n_tasks, left = divmod(len(classes) - n_base - unseen, ways)
    if n_tasks < 1 or n_base < 2 or 0 < unseen < ways:
        raise BadData(
            f"{name}: {len(classes)} classes cannot make a base of {max(2, n_base)}, a task of {ways} and {unseen} "
            f"that are never taught (0, or at least {ways}): base, ways and unseen say how many of each"
        )
    if counts.min() <= shots:
        raise BadData(f"{name}: class {classes[counts.argmin()]} has {counts.min()} rows, too few for shots={shots}")
    unseen, left = (unseen + left, 0) if unseen else (0, left)
    note = f"{n_base} classes are the base, {n_tasks} tasks bring {ways} each, and {unseen} are never taught."
    note += f" {left} are left out." if left else ""
    return options.evolve(scenario="few-shot", n_tasks=n_tasks + 1, unseen=unseen), (note,)


def few_shot_classes(y: np.ndarray, options: StreamOptions, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the classes of each task, the base first, and those never taught."""
    rng = np.random.default_rng(derive(seed, "task-stream", "few-shot", "classes"))
    ways, unseen, n = options.ways or 0, options.unseen or 0, options.n_tasks - 1
    classes = rng.permutation(np.unique(y))
    first = (
        np.isin(classes.astype(str), options.base)
        if options.base
        else np.arange(len(classes)) < max(2, len(classes) // 5)
    )
    ordered = np.concatenate([classes[first], classes[~first]])
    parts = np.split(ordered[len(ordered) - unseen - n * ways :], range(ways, n * ways + 1, ways))
    return [ordered[: first.sum()], *parts[:n]], parts[n]


def few_rows(rows: np.ndarray, y: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return ``shots`` of these rows for each class, drawn by seed."""
    rng = np.random.default_rng(derive(seed, "task-stream", "few-shot", "rows"))
    rows = rng.permutation(rows)
    chosen = [rows[y[rows] == label][:shots] for label in np.unique(y[rows])]
    if min(map(len, chosen)) < shots:
        raise BadData(f"shots={shots}, and a class has {min(map(len, chosen))} training rows: lower shots or test_size")
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Episodes:
    """Few-shot tests of features: a few rows of some classes are given, others are to be told apart.

    Attributes
    ----------
    rows : ndarray of int (r,)
        The rows that take part.
    support : ndarray of int (episodes, ways, shots)
        The rows that are given, as places in ``rows``.
    queries : ndarray of int (episodes, ways, n)
        Those that are asked for.
    """

    rows: np.ndarray
    support: np.ndarray
    queries: np.ndarray

    @classmethod
    def draw(cls, y: np.ndarray, rows: np.ndarray, options: StreamOptions, seed: int) -> Episodes:
        """Draw episodes from these rows, whose labels are ``y[rows]``."""
        rng = np.random.default_rng(derive(seed, "task-stream", "few-shot", "episodes"))
        ways, shots = options.ways or 0, options.shots or 0
        of = [np.flatnonzero(y[rows] == label) for label in np.unique(y[rows])]
        n = shots + min(_QUERIES, min(map(len, of)) - shots)
        drawn = np.array([
            [rng.choice(of[c], n, replace=False) for c in rng.choice(len(of), ways, replace=False)]
            for _ in range(options.episodes)
        ])  # fmt: skip
        kept, places = np.unique(drawn, return_inverse=True)
        places = places.reshape(drawn.shape)  # (episodes, ways, n)
        return cls(rows[kept], places[:, :, :shots], places[:, :, shots:])

    def accuracy(self, Z: np.ndarray) -> float:
        """Return how often the class mean of the largest cosine is the right one, by features Z (r, d) of ``rows``.

        Examples
        --------
        >>> episode = Episodes(np.arange(4), np.array([[[0], [1]]]), np.array([[[2], [3]]]))
        >>> episode.accuracy(np.array([[1.0, 0], [0, 2], [3, 1], [1, 0.5]]))
        0.5
        """
        Z = Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-8)
        means = Z[self.support].mean(2)  # (episodes, ways, d)
        means = means / np.maximum(np.linalg.norm(means, axis=2, keepdims=True), 1e-8)
        cosines = np.einsum("ewnd,evd->ewnv", Z[self.queries], means)
        return float((cosines.argmax(-1) == np.arange(means.shape[1])[:, None]).mean())
