"""A generated world of signed sentences: sequences of vectors, and sentences of the same signs in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytask.core.rng import derive

#: Signs, width of a vector, spread of a sign's vectors and of those between signs, and how often there are such.
SIGNS, WIDTH, NOISE, LOUD, BETWEEN = 40, 16, 0.6, 1.5, 0.4


@dataclass(frozen=True)
class Signing:
    """Sequences with their sentences.

    Attributes
    ----------
    train, tested : tuple of (list of arrays of shape (t, 16), list of str)
        Aligned sequences and sentences.
    signs : list of int arrays of shape (t,)
        Which sign each vector of the tested sequences shows; -1 between signs.
    """

    train: tuple[list[np.ndarray], list[str]]
    tested: tuple[list[np.ndarray], list[str]]
    signs: list[np.ndarray]


def signing(seed: int, *, n: int = 400, tested: int = 200) -> Signing:
    """Draw a world of signed sentences.

    Each of 40 signs is a vector. A sequence shows three to six different signs by one or two noisy vectors each, and
    between two signs there is sometimes a vector that means nothing; at most 16 vectors are kept. The sentence names
    the same signs in an order of its own.

    Parameters
    ----------
    seed : int
    n, tested : int
        Pairs to learn from and to test on.

    Examples
    --------
    >>> world = signing(0, n=2, tested=1)
    >>> len(world.train[0]), world.tested[0][0].shape[1], sorted({int(s) for s in world.signs[0]} - {-1})
    (2, 16, [2, 27, 31])
    >>> world.tested[1]
    ['s31 s2 s27']
    """
    rng = np.random.default_rng(derive(seed, "signing"))
    prototypes = rng.normal(size=(SIGNS, WIDTH))

    def drawn(count: int) -> tuple[list[np.ndarray], list[str], list[np.ndarray]]:
        sequences, sentences, shown = [], [], []
        for _ in range(count):
            signs = rng.choice(SIGNS, rng.integers(3, 7), replace=False)
            steps: list[int] = []
            for sign in signs:
                steps += [int(sign)] * int(rng.integers(1, 3)) + [-1] * int(rng.random() < BETWEEN)
            of = np.array(steps[:16])
            sign = of[:, None] >= 0
            vectors = np.where(sign, prototypes[of], 0) + np.where(sign, NOISE, LOUD) * rng.normal(
                size=(len(of), WIDTH)
            )
            sequences.append(vectors.astype(np.float32))
            sentences.append(" ".join(f"s{sign}" for sign in rng.permutation(signs)))
            shown.append(of)
        return sequences, sentences, shown

    train, test = drawn(n), drawn(tested)
    return Signing(train[:2], test[:2], test[2])
