"""Linear models of several tasks that share a subspace: alternating least squares, and heads on given features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, cg

#: Unknowns up to which systems are solved directly.
_DIRECT = 1500


def fit_heads(
    Z: np.ndarray, head: np.ndarray, y: np.ndarray, H: int, ridge: float = 1e-6
) -> tuple[np.ndarray, np.ndarray]:
    """Return heads W (k, H) and offsets (H,), each by least squares with a ridge on its own rows of Z.

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
            gram = z.T @ z + ridge * np.eye(Z.shape[1])
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
    X: np.ndarray, head: np.ndarray, y: np.ndarray, k: int, *, iterations: int = 25, ridge: float = 1e-6,
    start: np.ndarray | None = None, progress: Callable[[float], object] = lambda share: None,
) -> np.ndarray:  # fmt: skip
    """Return B (d, k) for which the sum over all rows of ``((x - mean_t) B w_t - (y - mean_t))^2`` is least.

    The heads w_t are solved for given B, and B for given heads, in turn. B is orthonormal; where there are fewer heads
    or features than k, its last columns are 0.

    Parameters
    ----------
    X : ndarray of shape (m, d)
    head : ndarray of shape (m,)
        Which head a row is of: 0, 1, ..., all of them there.
    y : ndarray of shape (m,)
    k : int
    iterations : int
        At most so many turns; they end earlier once they gain nothing to speak of.
    ridge : float
        On the diagonal of both systems; it keeps them solvable where sources lack a direction.
    start : ndarray of shape (d, k), optional
        Where to begin, else at the main directions of ``X_t^T y_t``.
    progress : callable
        Told the finished share.
    """
    d, H = X.shape[1], int(head.max()) + 1
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
    solve = _direct(X, first, ridge) if d * rank <= _DIRECT else _iterative(X, head, ridge)
    before = np.inf
    for turn in range(iterations):
        W, _ = fit_heads(X @ B, head, y, H, ridge)
        loss = np.square(((X @ B) * W.T[head]).sum(1) - y).sum()
        if before - loss <= 1e-10 * loss:
            break
        before = loss
        B = linalg.qr(solve(W, C.T @ W.T, B), mode="economic")[0]
        progress((turn + 1) / iterations)
    return np.hstack([B, np.zeros((d, k - rank))])


def _direct(X: np.ndarray, first: np.ndarray, ridge: float) -> Callable[..., np.ndarray]:
    """Return what solves ``sum_t S_t B w_t w_t^T = right`` for B, with ``S_t = X_t^T X_t``."""
    S = np.stack([x.T @ x for x in np.split(X, first[1:])])  # (H, d, d)

    def solve(W: np.ndarray, right: np.ndarray, B: np.ndarray) -> np.ndarray:
        (d, k), H = B.shape, W.shape[1]
        pairs = (W[:, None] * W).reshape(-1, H)  # (k k, H)
        normal = (pairs @ S.reshape(H, -1)).reshape(k, k, d, d).transpose(2, 0, 3, 1).reshape(d * k, d * k)
        return linalg.solve(normal + ridge * np.eye(d * k), right.ravel(), assume_a="pos").reshape(d, k)

    return solve


def _iterative(X: np.ndarray, head: np.ndarray, ridge: float) -> Callable[..., np.ndarray]:
    """Return what does the same by conjugate gradients: a few steps from the B before, which each lower the loss.

    The operator is nearly ``cov(X) B M`` with ``M = sum_t n_t w_t w_t^T``, whose inverse is the preconditioner.
    """
    n, inverse = np.bincount(head), linalg.inv(X.T @ X / len(X) + 1e-6 * np.eye(X.shape[1]))

    def solve(W: np.ndarray, right: np.ndarray, B: np.ndarray) -> np.ndarray:
        own, M = W.T[head], (W * n) @ W.T  # (m, k), (k, k)
        M_inverse = linalg.inv(M + (1e-6 + ridge + 1e-9 * np.trace(M)) * np.eye(len(M)))

        def normal(b: np.ndarray) -> np.ndarray:
            return (X.T @ (((X @ b.reshape(B.shape)) * own).sum(1)[:, None] * own)).ravel() + ridge * b

        def near(r: np.ndarray) -> np.ndarray:
            return (inverse @ r.reshape(B.shape) @ M_inverse).ravel()

        operator, preconditioner = (LinearOperator((B.size, B.size), matvec=one) for one in (normal, near))
        return cg(operator, right.ravel(), x0=B.ravel(), rtol=1e-7, maxiter=20, M=preconditioner)[0].reshape(B.shape)

    return solve
