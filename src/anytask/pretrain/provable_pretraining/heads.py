"""Phase 2, empirical risk minimization on frozen features of the labelled rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from anytask.core.checks import as_array, as_numbers, check_labels, require_finite_rows

#: So many assignments of classes to components are tried one by one: 12 components of 2 classes.
MOST = 2**12


def truncated_least_squares(H: np.ndarray, y: np.ndarray, L: float = np.inf, rounds: int = 50) -> np.ndarray:
    """Return weights (r,) for the loss ``min((y - H w)^2, L)``, by refits to the rows whose loss is below L.

    Parameters
    ----------
    H : array of shape (n, r)
    y : array of shape (n,)
    L : float
        In squared units of y; without end for plain least squares.
    rounds : int
        Most refits; they end when the same rows are kept again, or fewer than r would be.

    Examples
    --------
    >>> H, y = np.ones((5, 1)), np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    >>> truncated_least_squares(H, y).round(6).tolist(), truncated_least_squares(H, y, L=5.0).round(6).tolist()
    ([2.0], [1.0])
    """
    kept = np.ones(len(y), dtype=bool)
    for _ in range(rounds):
        w = np.linalg.lstsq(H[kept], y[kept], rcond=None)[0]
        now = (y - H @ w) ** 2 <= L
        if (now == kept).all() or now.sum() < H.shape[1]:
            break
        kept = now
    return w


def targets(y: Any, head: str) -> tuple[bool, np.ndarray]:
    """Return whether labels are numbers, and what they are; "auto": numbers, if they are not all whole.

    Examples
    --------
    >>> targets([0.5, 1.0], "auto")[0], targets([0.0, 1.0], "auto")[0], targets([0, 1], "regression")[0]
    (True, False, True)
    """
    given = np.zeros(0) if y is None or head == "classification" else as_array(y, "y")
    if given.dtype.kind == "O" and all(isinstance(value, (float, np.floating)) for value in given.flat):
        given = given.astype(np.float64)
    if head == "regression" or (given.dtype.kind == "f" and (given != np.floor(given)).any()):
        return True, numbers(y)
    return False, check_labels(y)


def numbers(y: Any) -> np.ndarray:
    """Return y as finite numbers (n,), or say what is wrong with it."""
    values = as_array(as_numbers(y, "y"), "y").astype(np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"y must have shape (n,) with n of at least 1, got {values.shape}")
    return require_finite_rows(values, "y")


def least_squares(H: np.ndarray, y: np.ndarray, L: float, intercept: bool) -> tuple[np.ndarray, Any]:
    """Return weights (r,) and an intercept for the truncated loss; one number for all if all labels are alike.

    With an intercept, what labelled rows say nothing of has their mean.

    Raises
    ------
    ValueError
        For fewer labels than weights.
    """
    D = np.column_stack([H, np.ones(len(H))]) if intercept else H
    if (y == y[0]).all():
        return np.zeros(H.shape[1]), float(y[0])
    if len(y) < D.shape[1]:
        raise ValueError(
            f"{len(y)} labels are too few for least squares with {D.shape[1]} weights: give more, or lower n_components"
        )
    if not intercept:
        return truncated_least_squares(H, y, L), 0.0
    center, level = H.mean(0), y.mean()  # the weights of least norm then turn nothing that is the same in all rows
    w = truncated_least_squares(D - np.append(center, 0.0), y - level, L)
    return w[:-1], float(level + w[-1] - center @ w[:-1])


def logistic(H: np.ndarray, y: np.ndarray, C: int, penalty: float, intercept: bool) -> tuple[np.ndarray, Any]:
    """Return weights (C, r) and intercepts (C,) of logistic regression; of two classes the first has zeros."""
    coef, bias = np.zeros((C, H.shape[1])), np.zeros(C)
    if C > 1:
        strength = 1 / penalty if penalty else np.inf
        found = LogisticRegression(C=strength, fit_intercept=intercept, max_iter=1000).fit(H, y)
        coef[-len(found.coef_) :], bias[-len(found.coef_) :] = found.coef_, found.intercept_
    return coef, bias


def of_components(P: np.ndarray, y: np.ndarray, C: int, how: str) -> np.ndarray:
    """Return psi (K, C) from responsibilities: by enumeration where there are few assignments, else the surrogate."""
    few = C ** P.shape[1] <= MOST
    if how == "enumerate" and not few:
        raise ValueError(f"erm='enumerate' would try {C}^{P.shape[1]} assignments, at most {MOST}: use 'auto'")
    return np.eye(C)[enumerated(P, y, C)] if few and how != "surrogate" else surrogate(P, y, C)


def last_of_the_best(shares: np.ndarray) -> np.ndarray:
    """Return the place of the largest entry along the last axis, the last of equals: 1 from a half on, for two.

    Examples
    --------
    >>> last_of_the_best(np.array([[0.5, 0.5], [0.6, 0.4]])).tolist()
    [1, 0]
    """
    return shares.shape[-1] - 1 - shares[..., ::-1].argmax(-1)


def enumerated(P: np.ndarray, y: np.ndarray, C: int) -> np.ndarray:
    """Return the class of each component (K,) with the fewest errors; of equals, the smallest sum, then the first.

    Parameters
    ----------
    P : array of shape (n, K)
        Responsibilities.
    y : int array of shape (n,)
        Codes below C.

    Examples
    --------
    >>> P = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    >>> enumerated(P, np.array([1, 0]), 2).tolist()  # no label says anything of the last component
    [1, 0, 0]
    """
    tried = np.array(list(itertools.product(range(C), repeat=P.shape[1])))  # (C^K, K)
    errors = np.zeros(len(tried))
    for rows in np.array_split(np.arange(len(y)), len(y) // 256 + 1):
        votes = np.stack([P[rows] @ (tried == c).T for c in range(C)], axis=-1)  # (rows, C^K, C)
        errors += (last_of_the_best(votes) != y[rows, None]).sum(0)
    return tried[np.lexsort((tried.sum(1), errors))[0]]


def surrogate(P: np.ndarray, y: np.ndarray, C: int, steps: int = 500, tol: float = 1e-8) -> np.ndarray:
    """Return psi (K, C), classes by component, that minimizes the convex log-loss of ``P psi``; rows sum to 1.

    The steps multiply, keep psi inside its simplex and never raise the loss. A component that no labelled row belongs
    to keeps the shares of the classes.

    Examples
    --------
    >>> P = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> surrogate(P, np.array([0, 1, 1, 1]), 2).round(3).tolist()
    [[0.5, 0.5], [0.0, 1.0], [0.25, 0.75]]
    """
    Y = np.eye(C)[y]
    psi = np.tile(Y.mean(0), (P.shape[1], 1))
    for _ in range(steps):
        owed = psi * (P.T @ (Y / np.maximum(P @ psi, np.finfo(float).tiny)))  # (K, C)
        size = owed.sum(1, keepdims=True)
        new = np.where(size > 0, owed / np.maximum(size, np.finfo(float).tiny), psi)
        if abs(new - psi).max() < tol:
            break
        psi = new
    return psi
