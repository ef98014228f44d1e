"""Phase 1, maximum likelihood without labels: the factor model, the Gaussian mixture, and the model of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from sklearn.cluster import kmeans_plusplus
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import require_finite, require_finite_weights
from anytask.core.progress import Progress, silent
from anytask.core.rng import isolated
from anytask.core.settings import numbers, real, whole
from anytask.core.training import train
from anytask.models.build import backbone_field, build_backbone
from anytask.parts.views import ViewSettings

__all__ = ["PairSettings"]

#: An estimate of the noise's variance is at least this share of the largest eigenvalue, or of the total variance.
FLOOR = 1e-6


def spectrum(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all d eigenvalues of ``X' X / m``, sorted decreasingly, and eigenvectors (d, min(m, d)) of the first."""
    m, d = X.shape
    if m < d:
        _, s, Vt = np.linalg.svd(X / np.sqrt(m), full_matrices=False)
        return np.concatenate([s**2, np.zeros(d - m)]), Vt.T
    lam, U = np.linalg.eigh(X.T @ X / m)
    return lam[::-1].clip(0), U[:, ::-1]


def edge(d: int, m: int) -> float:
    """Return the Marchenko-Pastur edge: the largest eigenvalue of pure unit noise in d dimensions, from m rows.

    Examples
    --------
    >>> edge(25, 100)
    2.25
    """
    return (1 + math.sqrt(d / m)) ** 2


def noise_variance(lam: np.ndarray, r: int, d: int) -> float:
    """Return the maximum-likelihood noise variance under r factors, of d columns that vary: the mean of what is left.

    Examples
    --------
    >>> noise_variance(np.array([9.0, 2.0, 1.0]), 1, 3)
    1.5
    """
    left = lam[r:].sum() / max(d - r, 1)
    return float(max(left, FLOOR * lam[0])) or 1.0


def count_factors(lam: np.ndarray, d: int, m: int, variance: float | None) -> int:
    """Return how many eigenvalues lie above the edge of the noise, of d columns that vary, from m rows.

    Unknown noise is taken to have the whole variance, so that what is counted cannot be noise.

    Examples
    --------
    >>> count_factors(np.array([9.0, 2.3, 2.2, 1.0]), 25, 100, 1.0)
    2
    >>> count_factors(np.array([3.0, 0.4, 0.4, 0.2]), 4, 100, None)
    1
    """
    return int((lam > (variance or float(lam.sum()) / max(d, 1)) * edge(d, m)).sum())


# -- A: factor model, x = B z + mu with z ~ N(0, I_r) and mu ~ N(0, I_d) ----------------------------------------------


def loadings(lam: np.ndarray, U: np.ndarray, r: int) -> np.ndarray:
    """Return the maximum-likelihood B (d, r), which is unique up to a rotation of its columns.

    Examples
    --------
    >>> loadings(np.array([5.0, 2.0, 1.0, 0.5]), np.eye(4), 2).tolist()
    [[2.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    """
    return U[:, :r] * np.sqrt(np.maximum(lam[:r] - 1, 0))


def posterior_weights(B: np.ndarray) -> np.ndarray:
    """Return ``(I_r + B' B)^-1 B'`` (r, d), which takes x to the posterior mean of z.

    Examples
    --------
    >>> posterior_weights(np.array([[2.0], [0.0]])).tolist()
    [[0.4, 0.0]]
    """
    return np.linalg.solve(np.eye(B.shape[1]) + B.T @ B, B.T)


def factor_log_likelihood(X: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return log-densities (n,) of rows under N(0, B B' + I_d).

    Examples
    --------
    >>> factor_log_likelihood(np.array([[1.0, 0.0], [0.0, 2.0]]), np.ones((2, 1))).round(6).tolist()
    [-2.720517, -3.720517]
    """
    inner = np.eye(B.shape[1]) + B.T @ B
    squares = (X**2).sum(1) - ((X @ B) * (X @ posterior_weights(B).T)).sum(1)  # x' (B B' + I)^-1 x
    return -0.5 * (squares + np.linalg.slogdet(inner)[1] + X.shape[1] * np.log(2 * np.pi))


# -- B: Gaussian mixture, z uniform on {1..K} and x | z = k ~ N(u_k, I_d) ---------------------------------------------


def responsibilities(X: np.ndarray, means: np.ndarray, variance: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return p(z = k | x) (n, K) and the log-densities (n,), with equal weights and one variance.

    Examples
    --------
    >>> P, _ = responsibilities(np.array([[-2.0], [-1.0], [1.0], [3.0]]), np.array([[-1.0], [1.0]]))
    >>> P[:, 0].round(6).tolist()
    [0.982014, 0.880797, 0.119203, 0.002473]
    """
    K, d = means.shape
    logits = (X @ means.T - (means**2).sum(1) / 2) / variance  # (n, K), without |x|^2, which all share
    total = logsumexp(logits, axis=1) - (X**2).sum(1) / (2 * variance)
    return softmax(logits, axis=1), total - np.log(K) - d / 2 * np.log(2 * np.pi * variance)


def update_means(X: np.ndarray, P: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the means of the components (K, d); one that holds nothing stays where it was.

    Examples
    --------
    >>> X, means = np.array([[-2.0], [-1.0], [1.0], [3.0]]), np.array([[-1.0], [1.0]])
    >>> update_means(X, responsibilities(X, means)[0], means).ravel().round(6).tolist()
    [-1.369727, 1.844792]
    """
    size = P.sum(0)[:, None]
    return np.where(size > 0, P.T @ X / np.maximum(size, np.finfo(float).tiny), means)


def fit_mixture(
    X: np.ndarray,
    K: int,
    *,
    variance: float | None,
    restarts: int,
    max_iter: int,
    tol: float,
    seed: int,
    progress: Progress = silent,
) -> tuple[np.ndarray, float, list[float]]:
    """Fit means, and the variance unless it is given, by EM from several k-means++ starts.

    Returns
    -------
    means : ndarray of shape (K, d)
    variance : float
    likelihoods : list of float
        Mean log-likelihood at each step of the best start.
    """
    d = max(int((np.ptp(X, axis=0) > 0).sum()), 1)
    spread = float(X.var(0).sum() / d) or 1.0
    best: tuple[np.ndarray, float, list[float]] | None = None
    for restart in range(restarts):
        means, _ = kmeans_plusplus(X, K, random_state=(seed + restart) % 2**32)
        v, curve = variance or spread, []
        for _ in range(max_iter):
            P, logs = responsibilities(X, means, v)
            curve.append(float(logs.mean()))
            if len(curve) > 1 and curve[-1] - curve[-2] < tol:
                break
            means = update_means(X, P, means)
            if variance is None:
                squares = (X**2).sum() - 2 * ((P.T @ X) * means).sum() + P.sum(0) @ (means**2).sum(1)
                v = max(float(squares) / X.size, FLOOR * spread)
        curve.append(float(responsibilities(X, means, v)[1].mean()))
        if best is None or curve[-1] > best[2][-1]:
            best = means, v, curve
        progress((restart + 1) / restarts)
    assert best is not None
    return best


# -- C: pairs, p(t = 1 | x, x') = 1 / (1 + exp(-f(x).f(x'))) ----------------------------------------------------------


def pair_log_likelihood(f: Tensor, g: Tensor, t: Tensor) -> Tensor:
    """Return log p(t | x, x') (n,) from f(x) (n, r), f(x') (n, r), and signs t (n,).

    Examples
    --------
    >>> f, g = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 1.0], [1.0, -1.0]])
    >>> pair_log_likelihood(f, g, torch.tensor([1.0, -1.0]))
    tensor([-0.1269, -0.1269])
    """
    return F.logsigmoid(t * (f * g).sum(1))


def pairs_of_views(
    X: Tensor, view: Callable[[Tensor, torch.Generator], Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return two views of each row (t = 1), and views of two different rows (t = -1), as many."""
    order = torch.randperm(len(X), generator=generator, device=X.device)
    a, b = X[order], X[order.roll(1)]
    first, second = (view(torch.cat(sides), generator) for sides in ((a, a), (a, b)))
    t = torch.ones(2 * len(X), device=X.device)
    t[len(X) :] = -1
    return first, second, t


class PairSettings(ViewSettings):
    """How f is made and trained on pairs, for ``model="contrastive"``.

    Parameters
    ----------
    backbone : "linear", None, str, torch.nn.Module or callable, default "linear"
        f: ``V x``, by L-BFGS on all pairs; None for a perceptron, or what
        :func:`~anytask.models.build.build_backbone` takes, by Adam.
    hidden : sequence of int, default (64,)
        Widths of the perceptron.
    steps : int, default 200
        Steps of the optimizer.
    batch_size : int, default 256
        Pairs in a step of Adam.
    lr : float, default 0.003
        Learning rate of Adam.
    kind, image_shape, noise_scale, max_shift
        Views of the centered and scaled inputs, see :class:`~anytask.parts.views.ViewSettings`; noise of 1, a
        standard deviation of the inputs, unless told otherwise: under less, directions of pure noise tell rows apart.
    """

    kind = "noise"
    noise_scale = 1.0
    backbone: Any = backbone_field("linear", "f, from inputs to features")
    hidden: Sequence[int] = numbers((64,), "widths of the perceptron", at_least=1, integers=True)
    steps: int = whole(200, "steps of the optimizer")
    batch_size: int = whole(256, "pairs in a step of Adam", at_least=2)
    lr: float = real(3e-3, "learning rate of Adam", above=0)

    @property
    def linear(self) -> bool:
        """Whether f is linear."""
        return isinstance(self.backbone, str) and self.backbone == "linear"

    def build(self, input_shape: tuple[int, ...], r: int, seed: int) -> nn.Module:
        """Return a fresh f, from inputs to r features."""
        how = self.backbone
        if self.linear:
            with isolated(seed):
                how = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), r, bias=False))
        return build_backbone(how, input_shape, r, seed=seed, hidden=self.hidden)

    def train(self, f: nn.Module, X: Tensor, signs: Tensor | None, seed: int, progress: Progress) -> None:
        """Minimize the logistic loss of pairs, in place.

        Parameters
        ----------
        f : torch.nn.Module
        X : Tensor of shape (m, ...), or (2 m, ...) with ``signs``
            Rows of which views make pairs; or the first and then the second sides of given pairs.
        signs : Tensor of shape (m,) or None
        seed : int
        progress : callable
        """
        if signs is None and len(X) < 2:
            raise ValueError("pairs of different rows need 2 rows at least")
        generator, view = torch.Generator(X.device).manual_seed(seed), self.maker(tuple(X.shape[1:]))
        half = len(X) // 2
        given = None if signs is None else (X[:half], X[half:], signs.to(X.device))

        def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
            n, size = (len(X), max(2, self.batch_size // 2)) if given is None else (len(given[2]), self.batch_size)
            rows = torch.randint(n, (size,), generator=generator, device=X.device)
            if given is None:
                return pairs_of_views(X[rows], view, generator)
            return given[0][rows], given[1][rows], given[2][rows]

        def loss(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            return -pair_log_likelihood(f(batch[0]), f(batch[1]), batch[2]).mean()

        if not self.linear:
            adam = torch.optim.Adam(f.parameters(), lr=self.lr)
            train(f, draw, loss, steps=self.steps, optimizer=adam, progress=progress)
            return
        everything = given or pairs_of_views(X, view, generator)
        optimizer = torch.optim.LBFGS(f.parameters(), max_iter=self.steps, line_search_fn="strong_wolfe")

        def closure() -> Any:
            optimizer.zero_grad()
            value = loss(everything)
            value.backward()
            return value

        require_finite(optimizer.step(closure), "the loss of the pairs", "check the scale of the inputs")
        require_finite_weights([f], "after training on the pairs")
        progress(1.0)
