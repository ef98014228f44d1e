"""The example of the NERO page: two networks that read digits, one trained on upright digits, one on turned ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anytask.core.progress import Progress, portion

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult


def digits_example(
    *, samples: int = 300, step: float = 5.0, turns: int = 24, seed: int = 0, progress: Progress | None = None
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

    from anytask.evaluate.baselines import AugmentedMLP, PlainMLP
    from anytask.evaluate.nero import NERO
    from anytask.parts.planar_groups import Rotations

    if not 1 <= samples <= 500:
        raise ValueError(f"samples must be between 1 and 500, got {samples}")
    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        digits.images / 16, digits.target, test_size=samples, stratify=digits.target, random_state=seed
    )
    trained = portion(progress, 0.0, 0.7)
    plain = PlainMLP(epochs=40, seed=seed).fit(X, y)
    trained(0.2)
    augmented = AugmentedMLP(epochs=6, seed=seed).fit(X, y, Rotations(step=360 / turns, closed=False))
    trained(1.0)
    models = {"plain": plain, "augmented": augmented}
    return NERO(Rotations(step=step)).evaluate(models, X_test, y_test, progress=portion(progress, 0.7, 1.0))
