"""Evolutionary search over subsets: tournament, deletion-only mutation, survival by age, and a state that resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.files import write_whole
from anytask.core.progress import Progress, portion

#: Scores texts: all of the search set (``None``), its first half (0) or its second half (1).
Fitness = Callable[[Sequence[str], int | None], Sequence[float]]

#: Generations in a row that find nothing new before a search is given up.
_PATIENCE = 20

_INIT_RATES = np.linspace(1 / 20, 1 / 5, 10)


@dataclass(frozen=True)
class Individual:
    """One member: the kept positions (increasing), what they read as, and their fitness."""

    kept: tuple[int, ...]
    text: str
    fitness: float


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


def survivors(old: Sequence[Individual], new: Sequence[Individual], window: int, size: int) -> list[Individual]:
    """Keep the ``size`` fittest of the youngest ``window`` members of ``old`` followed by ``new``; nobody is spared.

    With ``window`` children or more, every parent has aged out; with fewer, the youngest old members fill the window.
    """
    return sorted([*old, *new][-window:], key=lambda member: -member.fitness)[:size]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file holds either the old or the new content, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value))


def read_json(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read the state of an interrupted search; None if there is none yet.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to a search with other data or settings.
    """
    if not path.exists():
        return None
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        found = state["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the search state in {path} is damaged: {error!r}; remove it to start anew") from error
    if found != fingerprint:
        raise ValueError(
            f"the search state in {path} belongs to another search (prompt, data, seed or settings differ); "
            "give another state file, or remove it to start anew"
        )
    return state


@dataclass
class _Score:
    """Cached scores of one text: of the first half (if halving), and its fitness; done when all data were used."""

    first: float
    fitness: float
    done: bool


class MaskEvolution:
    """Search the subsequences of n items for a fitter one, by deleting a few items at a time from good parents.

    Parameters
    ----------
    n : int
        Number of items.
    fixed : iterable of int
        Positions that every member keeps.
    render : callable
        Kept positions -> text. Members that read alike are one: fitness is cached under the text.
    length : callable
        Text -> length, for the stop rule.
    population, offspring : int, default 30 and 50
        Members that survive a generation, and children attempted in one.
    counts : sequence of int, default (1, 2, 3, 4)
        A child lacks r items of its parent, r uniform over these.
    tournament : float in (0, 1], default 0.2
        Share of the population drawn per tournament.
    steady : bool, default False
        False: a generation's children are scored in one batch and their parents come from the old population.
        True: each child is scored and joins at once.
    init : {"duplicate", "random"}, default "duplicate"
        Copies of the full sequence, or members that each lost a random share, one of 10 values from 1/20 to 1/5.
    ageing : bool, default True
        False lets parents compete with their children whatever their age (an ablation).
    halving : bool, default False
        Score children on the first half of the data, and on the rest only those that reach the population's minimum.
    budget : float, default 10000
        Evaluations, after which no new generation starts; half the data count 0.5, a cached text nothing.
    min_length : float, default 15
        The search ends when the population's mean length is no larger.
    seed : int, default 0

    Attributes
    ----------
    history_ : list of Individual
        Every scored text once, in the order of scoring.
    evaluations_ : float
        Scored texts (halves count 0.5).
    generations_ : int
    population_ : list of Individual

    Examples
    --------
    Ten items, of which the even ones do harm:

    >>> def fitness(texts, half):
    ...     return [sum(1 if int(i) % 2 else -1 for i in text) for text in texts]
    >>> search = MaskEvolution(10, (), lambda kept: "".join(map(str, kept)), len, min_length=4)
    >>> search.run(fitness)
    >>> max(search.history_, key=lambda member: member.fitness).text
    '13579'
    """

    def __init__(
        self,
        n: int,
        fixed: Sequence[int] | frozenset[int],
        render: Callable[[tuple[int, ...]], str],
        length: Callable[[str], float],
        *,
        population: int = 30,
        offspring: int = 50,
        counts: Sequence[int] = (1, 2, 3, 4),
        tournament: float = 0.2,
        steady: bool = False,
        init: str = "duplicate",
        ageing: bool = True,
        halving: bool = False,
        budget: float = 10_000,
        min_length: float = 15,
        seed: int = 0,
    ) -> None:
        if any(not 0 <= i < n for i in fixed):
            raise ValueError(f"fixed positions must lie in [0, {n}), got {sorted(fixed)}")
        self.n, self.fixed, self.render, self.length = n, frozenset(fixed), render, length
        self.population, self.offspring, self.counts, self.tournament = population, offspring, tuple(counts), tournament
        self.steady, self.init, self.ageing = steady, init, ageing
        self.halving, self.budget, self.min_length, self.seed = halving, budget, min_length, seed

    def run(
        self,
        fitness: Fitness,
        *,
        state_file: str | os.PathLike[str] | None = None,
        fingerprint: str = "",
        progress: Progress | None = None,
    ) -> None:
        """Evolve until the budget is spent, the members are short, or nothing new is found.

        Parameters
        ----------
        fitness : callable
            (texts, half) -> scores, larger is better; ``half`` is None, 0 or 1.
        state_file : path, optional
            Written whole after every generation. If it exists, the search goes on from it and ends as if it had never
            been interrupted.
        fingerprint : str
            What the search depends on beyond these settings (data, evaluator); checked when a state is read.
        progress : callable, optional
            Called with the finished share in [0, 1] after every generation.

        Raises
        ------
        ValueError
            If the state file is damaged or belongs to another search, or a fitness is not finite.
        """
        path, share = None if state_file is None else Path(state_file), portion(progress, 0.0, 1.0)
        mark = json.dumps([fingerprint, self._settings()])
        state = None if path is None else read_json(path, mark)
        if state is None:
            self._begin(fitness)
            self._commit(path, mark)
        else:
            self._restore(state)
        while (
            self.evaluations_ < self.budget
            and self._mean_length() > self.min_length
            and self._stale < _PATIENCE
            and self._generation(fitness)
        ):
            self._commit(path, mark)
            share(min(1.0, max(self.evaluations_ / self.budget, self._shortened())))
        share(1.0)

    # One generation -------------------------------------------------------------------------------------------------

    def _begin(self, fitness: Fitness) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._cache: dict[str, _Score] = {}
        self.history_: list[Individual] = []
        self.evaluations_, self.generations_, self._stale = 0.0, 0, 0
        everything = tuple(range(self.n))
        members = [everything] * self.population
        if self.init == "random":
            members = [self._thinned(everything) for _ in members]
        self.population_ = self._score(members, fitness, minimum=None)

    def _thinned(self, kept: tuple[int, ...]) -> tuple[int, ...]:
        rate = _INIT_RATES[int(self._rng.integers(len(_INIT_RATES)))]
        drop = self._rng.random(self.n) < rate
        return tuple(i for i in kept if i in self.fixed or not drop[i])

    def _generation(self, fitness: Fitness) -> bool:
        """Reproduce and select; False if no member can have a child any more."""
        old, seen = list(self.population_), len(self.history_)
        pool, children = list(old), []  # parents and living texts; in the generational case the pool stays the old one
        pending: list[tuple[int, ...]] = []
        texts = {member.text for member in old}
        fertile = False
        for _ in range(self.offspring):
            k = max(1, int(self.tournament * len(pool)))
            parent = pool[tournament(self._rng, [member.fitness for member in pool], k)]
            kept = delete_some(self._rng, parent.kept, self.fixed, self.counts)
            if kept is None:
                continue
            fertile = True
            text = self.render(kept)
            if text in texts:
                continue
            texts.add(text)
            if self.steady:
                child = self._score([kept], fitness, minimum=min(member.fitness for member in pool))
                children += child
                pool += child
            else:
                pending.append(kept)
        if pending:
            children = self._score(pending, fitness, minimum=min(member.fitness for member in old))
        window = self.offspring if self.ageing else len(old) + len(children)
        self.population_ = survivors(old, children, window, self.population)
        self.generations_ += 1
        self._stale = 0 if len(self.history_) > seen else self._stale + 1
        return fertile

    def _score(self, members: list[tuple[int, ...]], fitness: Fitness, minimum: float | None) -> list[Individual]:
        """Score members in one batch, each text once; with halving, those below ``minimum`` keep their half score."""
        texts = [self.render(kept) for kept in members]
        kept_of = dict(zip(reversed(texts), reversed(members)))
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if not self.halving:
            for text, value in zip(new, self._ask(fitness, new, None)):
                self._cache[text] = _Score(value, value, True)
        else:
            for text, value in zip(new, self._ask(fitness, new, 0)):
                self._cache[text] = _Score(value, value, False)
            floor = -np.inf if minimum is None else minimum
            worthy = [t for t in dict.fromkeys(texts) if not self._cache[t].done and self._cache[t].first >= floor]
            for text, value in zip(worthy, self._ask(fitness, worthy, 1)):
                first = self._cache[text].first
                self._cache[text] = _Score(first, (first + value) / 2, True)
            new = list(dict.fromkeys([*new, *worthy]))
        self.history_ += [Individual(kept_of[text], text, self._cache[text].fitness) for text in new]
        return [Individual(kept, text, self._cache[text].fitness) for kept, text in zip(members, texts)]

    def _ask(self, fitness: Fitness, texts: list[str], half: int | None) -> list[float]:
        if not texts:
            return []
        values = [float(value) for value in fitness(texts, half)]
        if len(values) != len(texts) or not np.isfinite(values).all():
            raise ValueError(f"the fitness must give one finite number per text, got {values} for {len(texts)} texts")
        self.evaluations_ += len(texts) * (1.0 if half is None else 0.5)
        return values

    def _mean_length(self) -> float:
        return float(np.mean([self.length(member.text) for member in self.population_]))

    def _shortened(self) -> float:
        full = self.length(self.render(tuple(range(self.n))))
        return (full - self._mean_length()) / max(full - self.min_length, 1e-9)

    # State ----------------------------------------------------------------------------------------------------------

    def _settings(self) -> list[Any]:
        return [
            *(self.n, sorted(self.fixed), self.population, self.offspring, self.counts, self.tournament, self.steady),
            *(self.init, self.ageing, self.halving, self.budget, self.min_length, self.seed),
        ]

    def _commit(self, path: Path | None, mark: str) -> None:
        if path is None:
            return
        row = {text: i for i, text in enumerate(self._cache)}
        state = {
            "fingerprint": mark,
            "rng": self._rng.bit_generator.state,
            "evaluations": self.evaluations_,
            "generations": self.generations_,
            "stale": self._stale,
            "texts": list(self._cache),
            "scores": [[score.first, score.fitness, score.done] for score in self._cache.values()],
            "history": [[self._pack(m.kept), row[m.text], m.fitness] for m in self.history_],
            "population": [[self._pack(m.kept), row[m.text], m.fitness] for m in self.population_],
        }
        write_json(path, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._rng.bit_generator.state = state["rng"]
        self.evaluations_, self.generations_ = state["evaluations"], state["generations"]
        self._stale = state["stale"]
        texts = state["texts"]
        self._cache = {text: _Score(*score) for text, score in zip(texts, state["scores"])}
        self.history_ = [Individual(self._unpack(kept), texts[i], f) for kept, i, f in state["history"]]
        self.population_ = [Individual(self._unpack(kept), texts[i], f) for kept, i, f in state["population"]]

    def _pack(self, kept: tuple[int, ...]) -> str:
        return f"{sum(1 << i for i in kept):x}"

    def _unpack(self, packed: str) -> tuple[int, ...]:
        bits = int(packed, 16)
        return tuple(i for i in range(self.n) if bits >> i & 1)
