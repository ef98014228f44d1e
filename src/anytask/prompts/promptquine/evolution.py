"""Evolutionary search over subsets: tournament, deletion-only mutation, and survival by age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from anytask.core.progress import Progress
from anytask.prompts.base import Candidate
from anytask.prompts.parts.prunable import PrunablePrompt
from anytask.prompts.parts.search import FIRST, SECOND, Scores

#: Generations in a row that find nothing new before a search is given up.
_PATIENCE = 20

_INIT_RATES = np.linspace(1 / 20, 1 / 5, 10)


def tournament(rng: np.random.Generator, fitness: Sequence[float], k: int) -> int:
    """Draw ``k`` members with replacement and return the index of the fittest of them (the first drawn, if tied).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> [tournament(rng, [0.1, 0.9, 0.5], k=2) for _ in range(5)]
    [1, 1, 0, 0, 2]
    """
    drawn = rng.integers(len(fitness), size=k)
    return int(drawn[int(np.argmax([fitness[i] for i in drawn]))])


def delete_some(
    rng: np.random.Generator, kept: tuple[int, ...], fixed: frozenset[int], counts: Sequence[int], attempts: int = 10
) -> tuple[int, ...] | None:
    """Return ``kept`` without r random positions outside ``fixed``, r drawn uniformly from ``counts``.

    At least one free position must be left: r is drawn again up to ``attempts`` times while it is too large, and then
    there is no child (``None``).

    Examples
    --------
    >>> delete_some(np.random.default_rng(0), (0, 1, 2, 3, 4), frozenset({0}), counts=(2,))
    (0, 1, 2)
    """
    free = [i for i in kept if i not in fixed]
    for _ in range(attempts):
        r = int(counts[int(rng.integers(len(counts)))])
        if r < len(free):
            gone = {free[i] for i in rng.choice(len(free), size=r, replace=False)}
            return tuple(i for i in kept if i not in gone)
    return None


def survivors(old: Sequence[Candidate], new: Sequence[Candidate], window: int, size: int) -> list[Candidate]:
    """Keep the ``size`` fittest of the youngest ``window`` members of ``old`` followed by ``new``; nobody is spared.

    With ``window`` children or more, every parent has aged out; with fewer, the youngest old members fill the window.
    """
    return sorted([*old, *new][-window:], key=lambda member: -member.score)[:size]


class Evolution:
    """One search: members are prompts that keep some of the units, and read alike they are one.

    Parameters
    ----------
    settings : PromptQuine
    units : PrunablePrompt
    scores : Scores

    Attributes
    ----------
    history : list of Candidate
        Every scored text, in the order of scoring; with halving once more where its second half was scored.
    population : list of Candidate
    """

    def __init__(self, settings: Any, units: PrunablePrompt, scores: Scores) -> None:
        self._settings, self._units, self._scores = settings, units, scores
        self._rng = np.random.default_rng(settings.seed)
        self._known: dict[str, float] = {}
        self.history: list[Candidate] = []
        self.population: list[Candidate] = []

    def run(self, share: Progress) -> list[Candidate]:
        """Evolve until the budget is spent, the members are short, or nothing new is found; return the history."""
        settings, everything = self._settings, tuple(range(self._units.n))
        members = [everything] * settings.population
        if settings.init == "random":
            members = [self._thinned(everything) for _ in members]
        self.population = self.score(members)
        full, stale, fertile = self._units.length(self._units.render(everything)), 0, True
        while fertile and self.population and self._scores.left >= 0.5 and stale < _PATIENCE:
            length = float(np.mean([self._units.length(member.text) for member in self.population]))
            shortened = (full - length) / max(full - settings.min_length, 1e-9)
            share(min(1.0, max(self._scores.spent / settings.budget, shortened)))
            if length <= settings.min_length:
                break
            seen = len(self.history)
            fertile = self._generation()
            stale = 0 if len(self.history) > seen else stale + 1
        return self.history

    def _thinned(self, kept: tuple[int, ...]) -> tuple[int, ...]:
        rate = _INIT_RATES[int(self._rng.integers(len(_INIT_RATES)))]
        drop = self._rng.random(len(kept)) < rate
        return tuple(i for i in kept if i in self._units.fixed or not drop[i])

    def _generation(self) -> bool:
        """Reproduce and select; return whether any member could have a child."""
        settings, old = self._settings, self.population
        pool, texts = list(old), {member.text for member in old}
        children: list[Candidate] = []
        pending: list[tuple[int, ...]] = []
        fertile = False
        for attempt in range(1, settings.offspring + 1):
            k = max(1, int(settings.tournament * len(pool)))
            parent = pool[tournament(self._rng, [member.score for member in pool], k)]
            kept = delete_some(self._rng, parent.kept or (), self._units.fixed, settings.counts)
            if kept is not None:
                fertile, text = True, self._units.render(kept)
                if text not in texts and self._units.valid(text):
                    texts.add(text)
                    pending.append(kept)
            # Steady state: a child is scored and may be a parent at once. Generational: all in one batch at the end.
            if settings.algorithm == "ssga" or attempt == settings.offspring:
                born = self.score(pending, min(member.score for member in pool))
                pool, children, pending = pool + born, children + born, []
        window = settings.offspring if settings.ageing else len(old) + len(children)
        self.population = survivors(old, children, window, settings.population)
        return fertile

    def score(self, members: Sequence[tuple[int, ...]], minimum: float = -math.inf) -> list[Candidate]:
        """Score members in one batch; with halving, those below ``minimum`` keep the score of the first half.

        Members without a finite score, and those that the budget has no room for, are left out.
        """
        texts, scores = [self._units.render(kept) for kept in members], self._scores
        if self._settings.halving:
            first = scores(texts, FIRST)
            second = scores([t for t, v in first.items() if v >= minimum or scores.knows(t, SECOND)], SECOND)
            values = {
                text: (value + second[text]) / 2 if text in second else value
                for text, value in first.items()
                if text in second or not scores.knows(text, SECOND)
            }
        else:
            values = scores(texts)
        scored = [Candidate(text, kept, values[text]) for text, kept in zip(texts, members) if text in values]
        for member in scored:
            if self._known.get(member.text) != member.score:
                self._known[member.text] = member.score
                self.history.append(member)
        return scored
