"""The example of the NERO page: two networks that read digits, one trained on upright digits, one on turned ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult

_TEST = 300
_TURNS = 24
_PLAIN_EPOCHS, _TURNED_EPOCHS = 40, 6


def digits_example(
    *,
    samples: int = _TEST,
    step: float = 5.0,
    turns: int = _TURNS,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> NeroResult:
    """Train the two networks and evaluate them on all rotations of digits that they have not seen.

    On upright digits the plain network is the better one; along the orbit it is right by chance, and the network
    trained on all rotations of each digit stays nearly as good everywhere.

    Parameters
    ----------
    samples : int, default 300
        Number of test digits, at most 500; all others of the 1797 are trained on.
    step : float, default 5
        Degrees between rotations; 5 is the paper's.
    turns : int, default 24
        Number of rotations of each digit that the second network learns from.
    seed : int, default 0
        Seed of the split and of the networks.
    progress : callable, optional
        Called with the finished share in [0, 1].

    Examples
    --------
    >>> digits_example(samples=300).models  # doctest: +SKIP
    ('plain', 'augmented')
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from anytask.evaluate.nero import NERO
    from anytask.parts.planar_groups import Rotations

    if not 1 <= samples <= 500:
        raise ValueError(f"samples must be between 1 and 500, got {samples}")
    tell = progress or (lambda share: None)
    digits = load_digits()
    X_train, X_test, y_train, y_test = train_test_split(
        digits.images / 16, digits.target, test_size=samples, stratify=digits.target, random_state=seed
    )
    turned = Rotations(step=360 / turns, closed=False).orbit(X_train)
    plain = _trained(64, X_train, y_train, _PLAIN_EPOCHS, seed, lambda share: tell(0.1 * share))
    augmented = _trained(
        128, turned.reshape(-1, 8, 8), np.tile(y_train, len(turned)), _TURNED_EPOCHS, seed,
        lambda share: tell(0.1 + 0.6 * share),
    )  # fmt: skip
    return NERO(Rotations(step=step)).evaluate(
        {"plain": plain, "augmented": augmented}, X_test, y_test, progress=lambda share: tell(0.7 + 0.3 * share)
    )


def _trained(
    width: int, X: np.ndarray, y: np.ndarray, epochs: int, seed: int, progress: Callable[[float], None]
) -> Callable[[np.ndarray], np.ndarray]:
    """Train a network with one hidden layer, and return its function from images to class probabilities."""
    from sklearn.neural_network import MLPClassifier

    network = MLPClassifier((width,), random_state=seed)
    rows = X.reshape(len(X), -1)
    for epoch in range(epochs):
        network.partial_fit(rows, y, classes=np.arange(10))
        progress((epoch + 1) / epochs)
    return lambda images: network.predict_proba(np.asarray(images).reshape(len(images), -1))
