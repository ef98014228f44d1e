"""Regression tasks out of random functions, some of which do not belong to the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anytask.core.rng import derive

_WAVES = 500
_LENGTH = 0.25  # length scale for each feature


def random_function(features: int, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Return a random smooth function of X (n, features): a sum of 500 cosines, about a draw of a Gaussian process.

    Its kernel is ``exp(-||x - x'||^2 / (2 l^2))`` with the length scale ``l = 0.25 features`` (Rahimi and Recht, 2007).
    """
    a, b = rng.standard_normal(_WAVES), rng.uniform(0, 2 * np.pi, _WAVES)
    w = rng.standard_normal((_WAVES, features)) / (_LENGTH * features)
    return lambda X: np.sqrt(2 / _WAVES) * np.cos(X @ w.T + b) @ a


def random_tasks(
    seed: int, rows: int, *, n_tasks: int = 10, n_outliers: int = 2, features: int = 5, common: float = 0.9
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs (n, features), targets (n,), tasks (n,) and which tasks are outliers (n_tasks,).

    The target of a task is ``common`` f + (1 - ``common``) f_t without noise: f is one random function for most tasks
    and another for the outliers, f_t is the task's own; inputs are uniform in [-1, 1].

    Parameters
    ----------
    seed : int
    rows : int
        Of each task.
    n_tasks, n_outliers : int
        Tasks in all, and how many of them are outliers, drawn by the seed.
    features : int
    common : float

    Examples
    --------
    >>> X, y, task, outlier = random_tasks(0, 50, n_tasks=4, n_outliers=1)
    >>> X.shape, np.bincount(task).tolist(), int(outlier.sum())
    ((200, 5), [50, 50, 50, 50], 1)
    """
    rng = np.random.default_rng(derive(seed, "random-tasks"))
    outlier = np.zeros(n_tasks, dtype=bool)
    outlier[rng.choice(n_tasks, n_outliers, replace=False)] = True
    groups = [random_function(features, rng) for _ in range(2)]
    task = np.repeat(np.arange(n_tasks), rows)
    X = rng.uniform(-1, 1, size=(len(task), features))
    y = np.empty(len(task))
    for code in range(n_tasks):
        own, f_t = task == code, random_function(features, rng)
        y[own] = common * groups[int(outlier[code])](X[own]) + (1 - common) * f_t(X[own])
    return X, y, task, outlier
