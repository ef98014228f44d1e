"""Samplers over tasks: how often each is drawn, one task a step (unmixed) or several (mixed)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anytask.core.checks import check_counts
from anytask.core.errors import shown
from anytask.core.rng import derive
from anytask.core.settings import check_number
from anytask.multitask.parts.balanced_steps import check_ratios


def task_ratios(sizes: Mapping[Any, int], temperature: float = 1.0, most: int | None = None) -> dict[Any, float]:
    """Return how often to draw each task: in proportion to ``min(size, most) ** (1 / temperature)``.

    Parameters
    ----------
    sizes : mapping of task to int
        Examples of each task.
    temperature : float >= 1, default 1.0
        1 draws in proportion to the sizes, infinity all tasks alike.
    most : int, optional
        The largest size that is counted.

    Examples
    --------
    >>> task_ratios({"a": 900, "b": 100}), task_ratios({"a": 900, "b": 100}, temperature=2)
    ({'a': 0.9, 'b': 0.1}, {'a': 0.75, 'b': 0.25})
    >>> task_ratios({"a": 900, "b": 100}, temperature=float("inf"))
    {'a': 0.5, 'b': 0.5}
    """
    if not isinstance(sizes, Mapping) or not sizes:
        raise ValueError(f"sizes must map each task to its number of examples, got {shown(sizes)}")
    check_counts(**{f"the size of {task!r}": size for task, size in sizes.items()})
    if temperature != np.inf:
        check_number(temperature, "temperature", at_least=1)
    if most is not None:
        check_counts(most=most)
    counted = np.array([min(size, most or size) for size in sizes.values()], dtype=float) ** (1 / temperature)
    return dict(zip(sizes, (counted / counted.sum()).tolist()))


class TaskSampler:
    """Draws tasks by their ratios; a step's draw depends on the seed and the step alone.

    Processes that share the seed draw the same task without a message between them, and a resumed training goes on as
    it would have.

    Parameters
    ----------
    ratios : mapping of task to float
        How often each is drawn; they sum to 1.
    seed : int

    Examples
    --------
    >>> sampler = TaskSampler({"a": 0.75, "b": 0.25}, seed=0)
    >>> drawn = [sampler.task(step) for step in range(1000)]
    >>> 700 < drawn.count("a") < 800, drawn[17] == TaskSampler({"a": 0.75, "b": 0.25}, seed=0).task(17)
    (True, True)
    >>> sum(sampler.counts(3, 64).values())
    64
    """

    def __init__(self, ratios: Mapping[Any, float], seed: int = 0) -> None:
        self.ratios, self.seed = check_ratios(ratios), seed
        self._tasks = list(self.ratios)
        self._p = np.array(list(self.ratios.values())) / sum(self.ratios.values())

    def task(self, step: int) -> Any:
        """Return the one task of a step: unmixed sampling."""
        share = derive(self.seed, "task", step) / 2**63
        place = np.searchsorted(self._p.cumsum(), share, side="right")
        return self._tasks[min(int(place), len(self._tasks) - 1)]

    def counts(self, step: int, n: int) -> dict[Any, int]:
        """Return how many of a step's ``n`` examples are of each task: mixed sampling."""
        drawn = np.random.default_rng(derive(self.seed, "counts", step)).multinomial(n, self._p)
        return dict(zip(self._tasks, drawn.tolist()))
