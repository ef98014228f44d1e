"""The sample map: every sample's orbit of metric values, reduced to a point in the plane."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from anytask.core.checks import as_array, as_numbers

__all__ = ["reduce_orbits"]

_PERPLEXITY, _NEIGHBORS = 30.0, 5
#: What each method is called, and how many samples are too few for it.
METHODS = {
    "pca": ("PCA", -1), "ica": ("ICA", 2), "isomap": ("Isomap", _NEIGHBORS), "tsne": ("t-SNE", int(3 * _PERPLEXITY)),
    "umap": ("UMAP", _NEIGHBORS),
}  # fmt: skip


class Reduction(NamedTuple):
    """Points in the plane, the method that made them, and why it was another than asked for ("" if it was not)."""

    points: np.ndarray
    method: str
    notice: str


def reduce_orbits(orbits: Any, method: str = "pca", *, seed: int = 12) -> Reduction:
    """Place samples in the plane so that those with similar orbits are near one another.

    Both axes are mapped to [-1, 1] by one affine map, so distances keep their proportions.

    Parameters
    ----------
    orbits : array of shape (n, m)
        One row of metric values per sample. Rows that are not finite get NaN.
    method : {"pca", "ica", "isomap", "tsne", "umap"}, default "pca"
        Isomap and UMAP look at 5 neighbors, t-SNE has a perplexity of 30 and, as in the paper, 250 iterations; UMAP
        has min_dist 0.3 and needs the package umap-learn. Where there are too few samples for a method, PCA takes its
        place and the notice says so.
    seed : int, default 12
        Seed of the methods that draw random numbers; 12 is the paper's.

    Raises
    ------
    ValueError
        For an unknown method or inputs that are no matrix.
    ImportError
        If UMAP is asked for and not installed.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> reduction = reduce_orbits(rng.normal(size=(20, 8)), "tsne")
    >>> reduction.method, reduction.notice
    ('pca', 't-SNE needs more than 90 samples, and there are 20: PCA instead')
    >>> bool(np.abs(reduction.points).max() <= 1)
    True
    """
    X = as_array(as_numbers(orbits, "orbits")).astype(np.float64)
    if X.ndim != 2:
        raise ValueError(f"orbits must be a matrix (samples, elements), got shape {X.shape}")
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    good = np.isfinite(X).all(axis=1)
    points, n = np.full((len(X), 2), np.nan), int(good.sum())
    title, too_few = METHODS[method]
    notice = f"{title} needs more than {too_few} samples, and there are {n}: PCA instead" if n <= too_few else ""
    if n and not notice:
        try:
            points[good] = same_scale(_reduce(X[good], method, seed))
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
            if method == "pca":
                raise
            notice = f"{title} failed ({error}): PCA instead"
    if notice:
        method = "pca"
        points[good] = same_scale(_reduce(X[good], method, seed)) if n else np.nan
    return Reduction(points, method, notice)


def same_scale(points: np.ndarray) -> np.ndarray:
    """Map points to [-1, 1] by the same affine map on both axes, so that the picture is not stretched.

    Examples
    --------
    >>> same_scale(np.array([[0.0, 0.0], [4.0, 1.0]])).tolist()
    [[-1.0, -1.0], [1.0, -0.5]]
    """
    low, high = points.min(), points.max()
    if high == low:
        return np.zeros_like(points)
    return 2 * (points - low) / (high - low) - 1


def _reduce(X: np.ndarray, method: str, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA, FastICA
    from sklearn.manifold import TSNE, Isomap

    k = min(2, *X.shape)
    if np.ptp(X, axis=0).max() == 0:
        return np.zeros((len(X), 2))  # all alike: there is no direction to find
    makers: dict[str, Any] = {
        "pca": PCA(k, random_state=seed, svd_solver="full"),
        "ica": FastICA(k, random_state=seed, whiten="unit-variance"),
        "isomap": Isomap(n_neighbors=_NEIGHBORS, n_components=k),
        "tsne": TSNE(perplexity=_PERPLEXITY, max_iter=250, init="pca", random_state=seed),
    }
    if method == "umap":
        try:
            import umap
        except ImportError as error:
            raise ImportError("UMAP needs the package umap-learn: pip install umap-learn") from error
        makers["umap"] = umap.UMAP(n_neighbors=_NEIGHBORS, min_dist=0.3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about convergence, or graphs of several pieces: the map is still one
        points = makers[method].fit_transform(X)
    if not np.isfinite(points).all():
        raise ValueError("the result is not finite")
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
