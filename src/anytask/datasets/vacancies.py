"""A generated world of vacancies and the skills that they ask for, in which it is known which words mean the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anytask.core.rng import derive

#: Concepts of which skills are made, each with two words; words that mean nothing; skills and idle words in a vacancy.
CONCEPTS, IDLE, ASKED, FILLER = 160, 100, 3, 8


@dataclass(frozen=True)
class Vacancies:
    """Vacancies, skills, and which skills each vacancy asks for.

    Attributes
    ----------
    train, tested, unseen : tuple of (list of n str, bool array of shape (n, n_skills))
        Vacancies to learn from, new ones that ask for the same skills, and new ones that ask for the other skills only.
    skills : list of str
        Names of the skills.
    known : bool array of shape (n_skills,)
        Skills for which there are vacancies to learn from.
    """

    train: tuple[list[str], np.ndarray]
    tested: tuple[list[str], np.ndarray]
    unseen: tuple[list[str], np.ndarray]
    skills: list[str]
    known: np.ndarray


def vacancies(seed: int, *, n: int = 1200, tested: int = 150, n_skills: int = 80, unseen: int = 20) -> Vacancies:
    """Draw a world of vacancies.

    A skill is two of 160 concepts, and its name the first word of each. A vacancy asks for three skills: each of their
    six concepts is written by one of its two words, and eight idle words of 100 stand between, in any order.

    Parameters
    ----------
    seed : int
    n, tested : int
        Vacancies to learn from, and of each kind to test on.
    n_skills, unseen : int
        Skills, and how many of them no vacancy to learn from asks for.

    Examples
    --------
    >>> world = vacancies(0, n=2, tested=1)
    >>> len(world.train[0][0].split()), world.train[1].sum(1).tolist(), int(world.known.sum())
    (14, [3, 3], 60)
    """
    rng = np.random.default_rng(derive(seed, "vacancies"))
    concepts = np.stack([rng.choice(CONCEPTS, 2, replace=False) for _ in range(n_skills)])
    known = rng.permutation(n_skills) >= unseen

    def drawn(count: int, pool: np.ndarray) -> tuple[list[str], np.ndarray]:
        texts, asked = [], np.zeros((count if len(pool) >= ASKED else 0, n_skills), dtype=bool)
        for row in asked:
            row[rng.choice(pool, ASKED, replace=False)] = True
            words = [f"c{c}{'ab'[rng.integers(2)]}" for c in concepts[row].reshape(-1)]
            words += [f"n{w}" for w in rng.integers(IDLE, size=FILLER)]
            texts.append(" ".join(rng.permutation(words)))
        return texts, asked

    seen, rest = np.flatnonzero(known), np.flatnonzero(~known)
    names = [f"c{a}a c{b}a" for a, b in concepts]
    return Vacancies(drawn(n, seen), drawn(tested, seen), drawn(tested, rest), names, known)
