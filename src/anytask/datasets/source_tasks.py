"""Worlds of many source tasks and a target: random linear tasks of one subspace, and corrupted images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from anytask.core.rng import derive
from anytask.datasets.labelled import load_labelled

#: Names of images, each of which makes one of these data sets.
CORRUPTED = {"digits-corrupted": "digits-images", "mnist-5k-corrupted": "mnist-5k"}


@dataclass
class LinearTask:
    """A sampler of ``y = x^T weights + noise`` for standard normal x.

    Examples
    --------
    >>> X, y = LinearTask(np.array([1.0, -1.0]), noise=0.0, seed=0).draw(3)
    >>> X.shape, bool(np.allclose(y, X[:, 0] - X[:, 1]))
    ((3, 2), True)
    """

    weights: np.ndarray
    noise: float
    seed: int

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def draw(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return n new rows X (n, d), and y (n,)."""
        X = self._rng.standard_normal((n, len(self.weights)))
        return X, X @ self.weights + self.noise * self._rng.standard_normal(n)


def random_sources(
    seed: int, *, n_sources: int = 60, features: int = 20, rank: int = 5, noise: float = 1.0
) -> tuple[list[LinearTask], LinearTask, tuple[np.ndarray, np.ndarray]]:
    """Return sources, a target, and their heads W (rank, n_sources) and w (rank,), random and of length 1.

    All weights lie in one random subspace of ``rank`` dimensions: those of the target are ``B w`` for an orthonormal B.

    Examples
    --------
    >>> sources, target, (W, w) = random_sources(0, n_sources=8, features=6, rank=2)
    >>> len(sources), W.shape, int(np.linalg.matrix_rank([one.weights for one in (*sources, target)]))
    (8, (2, 8), 2)
    """
    rng = np.random.default_rng(derive(seed, "random-sources"))
    B = np.linalg.qr(rng.standard_normal((features, rank)))[0]
    heads = rng.standard_normal((rank, n_sources + 1))
    heads /= np.linalg.norm(heads, axis=0)
    tasks = [LinearTask(B @ w, noise, derive(seed, "random-sources", t)) for t, w in enumerate(heads.T)]
    return tasks[:-1], tasks[-1], (heads[:, :-1], heads[:, -1])


def _striped(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed = images.copy()
    changed[:, ::3] = 1 - changed[:, ::3]
    return changed


def _masked(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed, side = images.copy(), images.shape[1]
    changed[:, : side // 2, side // 2 :] = 0
    return changed


#: What is done to images (n, side, side) in [0, 1].
CORRUPTIONS: Mapping[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "clean": lambda images, rng: images,
    "noise": lambda images, rng: images + rng.normal(0, 0.3, images.shape),
    "blur": lambda images, rng: ndimage.gaussian_filter(images, (0, images.shape[1] / 10, images.shape[1] / 10)),
    "contrast": lambda images, rng: 0.5 + 0.2 * (images - 0.5),
    "inverted": lambda images, rng: 1 - images,
    "shifted": lambda images, rng: np.roll(images, images.shape[1] // 4, axis=2),
    "striped": _striped,
    "masked": _masked,
}


def corrupted_tasks(seed: int, name: str, labels: int) -> tuple[dict[str, Any], tuple[Any, Any], tuple[Any, Any]]:
    """Return pools of source tasks by their names, the target's rows, and rows to test it on.

    A task is to tell one digit from all others under one corruption, as ``"blur 3"``. Half of the images make the pools
    of the sources: those of the digit, and as many others. One task, drawn by the seed, is the target: ``labels`` of
    its rows, half of them of the digit, and the test rows, all that are left, are of the other half of the images.

    Parameters
    ----------
    seed : int
    name : str
        In :data:`CORRUPTED`.
    labels : int

    Examples
    --------
    >>> pools, (X, y), test = corrupted_tasks(0, "digits-corrupted", 20)
    >>> len(pools), X.shape, int(y.sum())
    (79, (20, 64), 10)
    """
    images, digits = _images(name)
    rng = np.random.default_rng(derive(seed, name))
    first, second = np.split(rng.permutation(len(digits)), [len(digits) // 2])
    tasks = [(change, digit) for change in CORRUPTIONS for digit in range(10)]
    chosen = tasks[rng.integers(len(tasks))]

    def rows_of(change: str, digit: int, *parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.concatenate(parts)
        X = CORRUPTIONS[change](images[rows], rng).reshape(len(rows), -1)
        return X.astype(np.float32), (digits[rows] == digit).astype(int)

    pools = {}
    for change, digit in tasks:
        if (change, digit) != chosen:
            yes, no = first[digits[first] == digit], first[digits[first] != digit]
            pools[f"{change} {digit}"] = rows_of(change, digit, yes, rng.choice(no, len(yes), replace=False))
    yes, no = second[digits[second] == chosen[1]], second[digits[second] != chosen[1]]
    n = labels // 2
    if n >= len(yes):
        raise ValueError(f"the target's digit has {len(yes)} images, of which {n} and one to test on are wanted")
    shown, test = rows_of(*chosen, yes[:n], no[: labels - n]), rows_of(*chosen, yes[n:], no[labels - n :])
    return pools, shown, test


@lru_cache(maxsize=2)
def _images(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, side, side) in [0, 1], those of 28 x 28 averaged to 14 x 14, and the digits (n,)."""
    plain = load_labelled(CORRUPTED[name])
    images = np.asarray(plain.X[np.arange(len(plain.y))], dtype=np.float32)[:, 0]
    if images.shape[1] == 28:
        images = images.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return images / images.max(), np.asarray(plain.y)
