"""Linear models of several tasks that share a subspace: alternating least squares, and heads on given features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

_RIDGE = 1e-6  # keeps systems solvable where sources lack a direction


def fit_heads(Z: np.ndarray, head: np.ndarray, y: np.ndarray, H: int) -> tuple[np.ndarray, np.ndarray]:
    """Return heads W (k, H) and offsets (H,), each by least squares on its own rows of Z.

    Parameters
    ----------
    Z : ndarray of shape (m, k)
    head : ndarray of shape (m,)
        Which of the H heads a row is of.
    y : ndarray of shape (m,)
    """
    W, offset = np.zeros((Z.shape[1], H)), np.zeros(H)
    order = np.argsort(head, kind="stable")
    for t, rows in enumerate(np.split(order, np.cumsum(np.bincount(head, minlength=H))[:-1])):
        if len(rows):
            z, mean = Z[rows] - Z[rows].mean(0), y[rows].mean()
            gram = z.T @ z + _RIDGE * np.eye(Z.shape[1])
            W[:, t] = linalg.solve(gram, z.T @ (y[rows] - mean), assume_a="pos") if Z.shape[1] else 0
            offset[t] = mean - Z[rows].mean(0) @ W[:, t]
    return W, offset


def whitening(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (k,) and a map A (k, r) with which ``(Z - mean) A`` has the identity as covariance.

    Directions in which Z does not vary are left out, so that r may be less than k.
    """
    mean = Z.mean(0)
    values, vectors = linalg.eigh(np.cov(Z - mean, rowvar=False, bias=True).reshape(len(mean), len(mean)))
    kept = values > 1e-10 * max(values.max(initial=0), 1e-20)
    return mean, vectors[:, kept] / np.sqrt(values[kept])


def fit_subspace(
    X: np.ndarray, head: np.ndarray, y: np.ndarray, k: int, *, iterations: int = 25,
    start: np.ndarray | None = None, progress: Callable[[float], object] = lambda share: None,
) -> np.ndarray:  # fmt: skip
    """Return B (d, k) for which the sum over all rows of ``((x - mean_t) B w_t - (y - mean_t))^2`` is least.

    The heads w_t are solved for given B, and B for given heads, by conjugate gradients, in turn. B is orthonormal;
    where there are fewer heads or features than k, its last columns are 0.

    Parameters
    ----------
    X : ndarray of shape (m, d)
    head : ndarray of shape (m,)
        Which head a row is of: 0, 1, ..., all of them there.
    y : ndarray of shape (m,)
    k : int
    iterations : int
        At most so many turns; they end earlier once they gain nothing to speak of.
    start : ndarray of shape (d, k), optional
        Where to begin, else at the main directions of ``X_t^T y_t``.
    progress : callable
        Told the finished share.
    """
    (m, d), H = X.shape, int(head.max()) + 1
    n, rank = np.bincount(head)[:, None], min(k, d, H)
    order = np.argsort(head, kind="stable")
    X, head, y = X[order], head[order], y[order]
    first = np.append(0, np.cumsum(n)[:-1])
    X = X - (np.add.reduceat(X, first) / n)[head]
    y = y - (np.add.reduceat(y, first) / n[:, 0])[head]
    C = np.add.reduceat(y[:, None] * X, first)  # (H, d): X_t^T y_t
    B = linalg.svd((C / np.sqrt(n)).T, full_matrices=False)[0][:, :rank]
    if start is not None:
        B = linalg.qr(np.hstack([start, B]), mode="economic")[0][:, :rank]
    inverse = linalg.inv(X.T @ X / m + _RIDGE * np.eye(d))
    before = np.inf
    for turn in range(iterations):
        W, _ = fit_heads(X @ B, head, y, H)
        own = W.T[head]  # (m, rank): the head of each row
        loss = np.square(((X @ B) * own).sum(1) - y).sum()
        if before - loss <= 1e-10 * loss:
            break
        before = loss
        B = linalg.qr(_solve(X, own, y, B, inverse, (W * n[:, 0]) @ W.T), mode="economic")[0]
        progress((turn + 1) / iterations)
    return np.hstack([B, np.zeros((d, k - rank))])


def _solve(
    X: np.ndarray, own: np.ndarray, y: np.ndarray, B: np.ndarray, inverse: np.ndarray, M: np.ndarray
) -> np.ndarray:
    """Return the B that solves the normal equations for given heads.

    The operator is nearly ``cov(X) B M`` with ``M = sum_t n_t w_t w_t^T``, whose inverse is the preconditioner.
    """
    size = B.size

    def normal(b: np.ndarray) -> np.ndarray:
        return (X.T @ (((X @ b.reshape(B.shape)) * own).sum(1)[:, None] * own)).ravel() + _RIDGE * b

    M_inverse = linalg.inv(M + (_RIDGE + 1e-9 * np.trace(M)) * np.eye(len(M)))
    operator = LinearOperator((size, size), matvec=normal)
    near = LinearOperator((size, size), matvec=lambda r: (inverse @ r.reshape(B.shape) @ M_inverse).ravel())
    solved, _ = cg(operator, (X.T @ (y[:, None] * own)).ravel(), x0=B.ravel(), rtol=1e-8, maxiter=100, M=near)
    return solved.reshape(B.shape)
