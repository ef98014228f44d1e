"""Which sources a target is made of, and how a budget of labels is divided among them.

W (k, T) holds the sources' heads, w (k,) the target's. The risk of a target that is learned through its sources grows
as ``sum_t nu_t^2 / n_t`` for any nu with ``W nu = w``. At fixed spending ``sum_t c_t n_t = N`` it is least for
``n_t ~ |nu_t| / sqrt(c_t)``, where it is ``(sum_t sqrt(c_t) |nu_t|)^2 / N``, and of all nu for that of the least
weighted 1-norm, which has at most k entries that are not 0.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.optimize import linprog
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso


def basis_pursuit(W: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return nu (T,) of the least 1-norm with ``W nu = w``; of equals, one that prefers the first sources.

    Where the columns of W do not span w, its projection on them takes its place.

    Examples
    --------
    >>> W = np.array([[1, 0, 0.5**0.5], [0, 1, 0.5**0.5]])
    >>> basis_pursuit(W, np.array([1.0, 1.0])).round(6).tolist()
    [0.0, 0.0, 1.414214]
    """
    T = W.shape[1]
    size, wide = abs(w).max(initial=0), abs(W).max(initial=0)
    if not size or not wide:
        return np.zeros(T)
    W, w = W / wide, w / size  # the solver's tolerance is absolute
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    U, s, Vt = (part[..., s > 1e-10 * s.max()] for part in (U, s, Vt.T))
    order = 1 + 1e-9 * np.arange(T)
    found = linprog(np.tile(order, 2), A_eq=np.hstack([s[:, None] * Vt.T, -s[:, None] * Vt.T]), b_eq=U.T @ w)
    return (found.x[:T] - found.x[T:]) * (size / wide)


def least_norm(W: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return nu (T,) of the least 2-norm with ``W nu = w``, or as near to it as there is."""
    return np.linalg.pinv(W) @ w


def lasso(W: np.ndarray, w: np.ndarray, lambda_: float) -> np.ndarray:
    """Return the nu (T,) that minimises ``||W nu - w||^2 / 2 + lambda ||nu||_1``.

    Where that is 0, lambda is halved until half of w is explained; 0 remains if no lambda does that.

    Examples
    --------
    >>> lasso(np.eye(3), np.array([1.0, -0.5, 0.1]), 0.2).round(6).tolist()
    [0.8, -0.3, 0.0]
    """
    for halvings in range(60 if (W.T @ w).any() else 0):
        model = Lasso(lambda_ / 2**halvings / len(w), fit_intercept=False, tol=1e-7, max_iter=20_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # by a hair, where lambda is small
            nu = model.fit(W, w).coef_
        if nu.any() and (not halvings or np.linalg.norm(W @ nu - w) <= np.linalg.norm(w) / 2):
            return nu
    return np.zeros(W.shape[1])


def allocate(shares: np.ndarray, budget: float, *, costs: Any = 1.0, lower: Any = 0, upper: Any = np.inf) -> np.ndarray:
    """Return how many labels each source gives: spending in proportion to ``shares``, between two counts of each.

    Parameters
    ----------
    shares : array of shape (T,)
        Of at least 0. Sources of share 0 get ``lower``, and what is left in equal parts where the others are empty.
    budget : float
        What all labels may cost together, those of ``lower`` included. Rounding is by the largest remainder.
    costs : float or array of shape (T,)
        Of one label of each source.
    lower, upper : int or array of shape (T,)
        Least and most labels of each source. ``lower`` is given even where it costs more than the budget.

    Returns
    -------
    int array of shape (T,)

    Examples
    --------
    Of 820 labels two sources that are not needed get the least, 10 each:

    >>> allocate(np.array([3, 1, 0, 0]), 820, lower=10).tolist()
    [600, 200, 10, 10]
    """
    shares = np.asarray(shares, float)
    costs, upper = np.broadcast_to(np.asarray(costs, float), shares.shape), np.broadcast_to(upper, shares.shape)
    lower = np.minimum(np.broadcast_to(lower, shares.shape), upper)
    least, most = costs * lower, costs * upper
    if least.sum() >= budget or (lower == upper).all():
        return lower.astype(int)
    wanted = shares > 0
    if not wanted.all() and np.where(wanted, most, least).sum() < budget:
        return allocate(costs, budget, costs=costs, lower=np.where(wanted, upper, lower), upper=upper)
    if most.sum() <= budget:
        return upper.astype(int)
    low, high = 0.0, max(budget / shares[wanted].min(), np.max(least[wanted] / shares[wanted]))
    for _ in range(200):  # of the scale s at which clip(s share, least, most) spends the budget
        s = (low + high) / 2
        low, high = (low, s) if np.clip(s * shares, least, most).sum() > budget else (s, high)
    exact = np.clip(low * shares, least, most) / costs
    n = np.floor(exact + 1e-6).astype(int)
    left = budget - (costs * n).sum()
    for t in np.argsort(n - exact, kind="stable"):  # the largest remainder first
        if wanted[t] and costs[t] <= left * (1 + 1e-12) and n[t] < upper[t]:
            n[t], left = n[t] + 1, left - costs[t]
    return n


def cheapest(W: np.ndarray, w: np.ndarray, costs: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Return nu (T,) and label counts (T,), not rounded, of the least cost with ``sum_t nu_t^2 / n_t = epsilon^2``.

    Examples
    --------
    >>> nu, n = cheapest(np.eye(2), np.array([3.0, 1.0]), np.array([1.0, 4.0]), epsilon=0.5)
    >>> nu.round(6).tolist(), n.round(6).tolist(), float((nu**2 / n).sum().round(6))
    ([3.0, 1.0], [60.0, 10.0], 0.25)
    """
    root = np.sqrt(costs)
    nu = basis_pursuit(W / root, w) / root
    return nu, abs(nu) / root * (root * abs(nu)).sum() / epsilon**2
