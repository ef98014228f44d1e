"""What a claim states, and how it is judged.

A claim is one or more experiments (a problem, its data, the entrants and the seeds) and checks on their outcomes. The
experiments run on the same machinery as :func:`anytask.bench.compare`; a check compares two entrants seed by seed, and
is judged by the 95 % t-interval of the paired difference, which for a handful of seeds is wider, and so more careful,
than a bootstrap over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from anytask.problems.base import Entrant, Problem

Judgement = Literal["shown", "not shown", "contradicted"]


__all__ = ["Beats", "Claim", "Experiment", "Reaches", "Steadier"]


@dataclass(frozen=True)
class Experiment:
    """One comparison inside a claim.

    ``problem`` is a key or a :class:`~anytask.problems.base.Problem` of the claim's own; ``quick`` are the options that
    replace ``options`` in a quick look, and ``quick_entrants`` the constructor arguments that every entrant gets there.
    """

    name: str
    problem: str | Problem
    data: Any
    entrants: tuple[Entrant, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 5
    quick: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Beats:
    """``better`` beats ``factor`` times ``worse`` by at least ``by`` on ``metric``, seed by seed.

    The difference is turned so that positive is good whichever way the metric runs. A negative ``by`` states "at most
    that much behind". ``factor`` states ratios: with ``factor=0.5`` and a metric that is better when lower, ``better``
    must have at most half of what ``worse`` has.
    """

    better: str
    worse: str
    by: float
    metric: str
    experiment: str | None = None
    factor: float = 1.0
    why: str = ""

    def values(self, table: Table) -> np.ndarray:
        a = table.values(self.better, self.metric)
        b = self.factor * table.values(self.worse, self.metric)
        return a - b if table.higher_is_better(self.metric) else b - a

    def bounds(self) -> tuple[float, float]:
        return self.by, math.inf

    def sentence(self) -> str:
        other = self.worse if self.factor == 1 else f"{self.factor:g} x {self.worse}"
        relation = f"beats {other} by >= {self.by:g}" if self.by >= 0 else f"is within {-self.by:g} of {other}"
        return f"{self.better} {relation} on {self.metric}"


@dataclass(frozen=True)
class Reaches:
    """``name`` has a ``metric`` between ``at_least`` and ``at_most``, on average over the seeds."""

    name: str
    metric: str
    at_least: float = -math.inf
    at_most: float = math.inf
    experiment: str | None = None
    why: str = ""

    def values(self, table: Table) -> np.ndarray:
        return table.values(self.name, self.metric)

    def bounds(self) -> tuple[float, float]:
        return self.at_least, self.at_most

    def sentence(self) -> str:
        low = f">= {self.at_least:g}" if math.isfinite(self.at_least) else ""
        high = f"<= {self.at_most:g}" if math.isfinite(self.at_most) else ""
        return f"{self.name} has {self.metric} {' and '.join(part for part in (low, high) if part)}"


@dataclass(frozen=True)
class Steadier:
    """``better`` spreads at most ``factor`` times as much over the seeds as ``worse``, on ``metric``.

    Spread is the absolute deviation from the median, as in the Brown-Forsythe test; what is judged is
    ``factor * spread(worse) - spread(better)``, seed by seed.
    """

    better: str
    worse: str
    factor: float
    metric: str
    experiment: str | None = None
    why: str = ""

    def values(self, table: Table) -> np.ndarray:
        a, b = (table.values(name, self.metric) for name in (self.better, self.worse))
        return self.factor * np.abs(b - np.median(b)) - np.abs(a - np.median(a))

    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    def sentence(self) -> str:
        return f"{self.better} spreads at most {self.factor:g} x as much over seeds as {self.worse} on {self.metric}"


Check = Beats | Reaches | Steadier


@dataclass(frozen=True)
class Claim:
    """An executable statement of a paper's effect at small scale.

    Attributes
    ----------
    system : str
        Catalogue key.
    statement : str
        What is claimed, in one or two sentences.
    experiments : tuple of Experiment
        What is run; the first is the one whose metric is recorded row by row.
    checks : tuple of Beats, Reaches and Steadier
        What must hold; the first one, a :class:`Beats`, is the headline whose margin and difference are recorded.
    tried : str
        What was tried beside it, whatever came of it.
    """

    system: str
    statement: str
    experiments: tuple[Experiment, ...]
    checks: tuple[Check, ...]
    tried: str = ""

    def __post_init__(self) -> None:
        names = {e.name: {entrant.name for entrant in e.entrants} for e in self.experiments}
        if not self.checks or not isinstance(self.checks[0], Beats):
            raise ValueError(f"the claim of {self.system} needs a Beats check first")
        for check in self.checks:
            experiment = check.experiment or self.experiments[0].name
            if experiment not in names:
                raise ValueError(f"the claim of {self.system} checks an unknown experiment {experiment!r}")
            wanted = {check.name} if isinstance(check, Reaches) else {check.better, check.worse}
            if missing := wanted - names[experiment]:
                raise ValueError(f"the claim of {self.system} checks {sorted(missing)}, not in {experiment!r}")


class Table:
    """The finished runs of one experiment: values by entrant and seed."""

    def __init__(self, runs: Sequence[Any], problem: Problem) -> None:
        self.runs = [run for run in runs if run.status == "done"]
        self._direction = {m.key: m.higher_is_better for m in problem.metrics}
        self.seeds = sorted({run.seed for run in runs})

    def values(self, name: str, metric: str) -> np.ndarray:
        """Values of one entrant in the order of the seeds; NaN where a run failed or does not have the metric."""
        found = {run.seed: run.metrics.get(metric, math.nan) for run in self.runs if run.entrant_name == name}
        return np.array([found.get(seed, math.nan) for seed in self.seeds], dtype=float)

    def higher_is_better(self, metric: str) -> bool:
        return self._direction.get(metric, True)


@dataclass(frozen=True)
class Judged:
    """A check with its outcome: the mean over seeds with its 95 % interval (NaN bounds below two seeds)."""

    check: Check
    experiment: str
    outcome: Judgement
    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and two-sided t-interval of ``values``.

    Examples
    --------
    >>> [round(v, 3) for v in interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def judge(check: Check, experiment: str, table: Table) -> Judged:
    """Judge one check.

    *shown*: the interval lies within the bounds. *contradicted*: a difference is clearly negative where it should be
    positive (:class:`Beats`: the whole interval is on the wrong side of both the margin and zero; :class:`Reaches`: the
    whole interval is out of bounds). *not shown*: anything else, failed runs included.
    """
    values = check.values(table)
    low_bound, high_bound = check.bounds()
    finite = values[np.isfinite(values)]
    mean, low, high = interval(finite) if len(finite) else (math.nan, math.nan, math.nan)
    outcome: Judgement = "not shown"
    if len(finite) == len(values) and len(values) >= 2:
        wrong_side = low_bound if isinstance(check, Reaches) else min(low_bound, 0.0)
        if low >= low_bound and high <= high_bound:
            outcome = "shown"
        elif high < wrong_side or low > high_bound:
            outcome = "contradicted"
    return Judged(check, experiment, outcome, mean, low, high, tuple(values.tolist()))


def overall(judged: Sequence[Judged]) -> Judgement:
    """The claim's outcome: shown if every check is, contradicted if one is, else not shown."""
    outcomes = {j.outcome for j in judged}
    if "contradicted" in outcomes:
        return "contradicted"
    return "shown" if outcomes == {"shown"} else "not shown"
