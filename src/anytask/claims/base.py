"""What a claim states, and how it is judged.

A claim has a *headline* that decides its outcome: the system against its strongest fair rival. The *components* that
the paper ablates are judged in the same way and counted beside the outcome. *Sizes* are printed and decide nothing.
Experiments run on the machinery of :func:`anytask.bench.compare`; comparisons are paired by seed, and judged by the
95 % t-interval of the difference.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import stats

from anytask.core.settings import merged
from anytask.problems.base import Entrant, Problem

Judgement = Literal["shown", "not shown", "contradicted"]
#: What the reading of a paper rests on.
Source = Literal["code", "paper", "abstract"]

__all__ = ["Beats", "Claim", "Experiment", "RealTrial", "Size"]


@dataclass(frozen=True)
class Experiment:
    """One comparison inside a claim.

    Attributes
    ----------
    name : str
        What the claim calls it.
    problem : str or Problem
        A key, or a problem of the claim's own.
    data : any
        What the problem's ``load`` takes.
    entrants : tuple of Entrant
    options : mapping
        Options of the problem.
    plain : str, optional
        The entrant that is the plain reference: a linear model, the nearest mean, a random policy, a zero-shot prompt.
    quick : mapping
        Options that replace ``options`` in a quick look.
    quick_params : mapping
        Parameters that replace those of the entrants in a quick look: of each entrant whose class has them, and of
        groups of settings those that are named.

    Examples
    --------
    >>> net = Entrant("net", "anytask.continual:TAME", {"preset": "small", "selector": {"buffer": 100}})
    >>> one = Experiment("x", "task-stream", "digits", (net,), quick_params={"selector": {"epochs": 1}, "steps": 5})
    >>> one.reduced().entrants[0].params
    {'preset': 'small', 'selector': {'buffer': 100, 'epochs': 1}}
    """

    name: str
    problem: str | Problem
    data: Any
    entrants: tuple[Entrant, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    plain: str | None = None
    quick: Mapping[str, Any] = field(default_factory=dict)
    quick_params: Mapping[str, Any] = field(default_factory=dict)

    def reduced(self) -> Experiment:
        """Return the experiment of a quick look."""
        entrants = tuple(_with_params(entrant, self.quick_params) for entrant in self.entrants)
        return replace(self, options={**self.options, **self.quick}, entrants=entrants)


def _with_params(entrant: Entrant, params: Mapping[str, Any]) -> Entrant:
    known = inspect.signature(entrant.load()).parameters if params else {}
    return replace(entrant, params=merged(entrant.params, {k: v for k, v in params.items() if k in known}))


@dataclass(frozen=True)
class Beats:
    """``better`` beats the strongest of ``rivals`` on ``metric``, by more than chance and by what is worth having.

    Attributes
    ----------
    better : str
        Name of an entrant.
    rivals : tuple of str
        Names of entrants; the one with the best mean over the seeds is compared with.
    metric : str
        Key of a metric. Differences are turned so that positive is good whichever way it runs.
    experiment : str, optional
        The claim's first one, unless named.
    worth : float
        The smallest gain that a user would care for, in units of the metric.
    share : bool
        Whether ``worth`` is a share of the rival's mean instead, as for errors and costs.
    sentence : str
        What is compared, in words.
    expected : str
        The size in the paper, and in our own prototype where there was one.
    rival_metric : str, optional
        The metric of the rivals where it is another: what one training reaches after two of its stages.
    """

    better: str
    rivals: tuple[str, ...]
    metric: str
    experiment: str | None = None
    worth: float = 0.01
    share: bool = False
    sentence: str = ""
    expected: str = ""
    rival_metric: str | None = None

    @property
    def said(self) -> str:
        """The sentence, or one made of the names."""
        rivals = self.rivals[0] if len(self.rivals) == 1 else "its rivals"
        return self.sentence or f"{self.better} beats {rivals}"


@dataclass(frozen=True)
class Size:
    """A quantity that is printed beside the outcome and decides nothing: ``metric`` of the entrant ``name``."""

    name: str
    metric: str
    sentence: str
    experiment: str | None = None
    expected: str = ""


@dataclass(frozen=True)
class RealTrial:
    """The same system on real weights or real data.

    Attributes
    ----------
    what : str
        Which model or data, and which part of them is real.
    experiments : tuple of Experiment
    headline : tuple of Beats
    seeds : int
        From five on the trial has an outcome of its own; with fewer it is ``measured``.
    """

    what: str
    experiments: tuple[Experiment, ...]
    headline: tuple[Beats, ...]
    seeds: int = 5

    def __post_init__(self) -> None:
        _check_names(self.what, self.experiments, self.headline, ())


@dataclass(frozen=True)
class Claim:
    """An executable statement of a paper's effect at small scale.

    Attributes
    ----------
    system : str
        Catalogue key.
    statement : str
        What the paper says is better than what, in one sentence.
    experiments : tuple of Experiment
        The first has a plain reference.
    headline : tuple of one or two Beats
        What alone decides the outcome: shown if all are, contradicted if one is.
    components : tuple of Beats
        One per component that the paper ablates.
    sizes : tuple of Size
        Quantities that are reported.
    real : RealTrial or str
        The trial on real weights or data, or the reason why there is none.
    source : {"code", "paper", "abstract"}
        What the reading rests on.
    tried : str
        What was tried beside it, whatever came of it.
    """

    system: str
    statement: str
    experiments: tuple[Experiment, ...]
    headline: tuple[Beats, ...]
    components: tuple[Beats, ...] = ()
    sizes: tuple[Size, ...] = ()
    real: RealTrial | str = "no trial is written yet"
    source: Source = "paper"
    tried: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.headline) <= 2:
            raise ValueError(f"the claim of {self.system} needs one or two headline comparisons")
        if self.experiments[0].plain is None:
            raise ValueError(f"the claim of {self.system} names no plain reference in its first experiment")
        _check_names(f"the claim of {self.system}", self.experiments, self.headline + self.components, self.sizes)


def _check_names(
    owner: str, experiments: Sequence[Experiment], comparisons: Sequence[Beats], sizes: Sequence[Size]
) -> None:
    names = {one.name: {entrant.name for entrant in one.entrants} for one in experiments}
    wanted = [(one.experiment, {one.better, *one.rivals}) for one in comparisons]
    wanted += [(one.experiment, {one.name}) for one in sizes]
    wanted += [(one.name, {one.plain}) for one in experiments if one.plain is not None]
    for experiment, entrants in wanted:
        experiment = experiment or experiments[0].name
        if experiment not in names:
            raise ValueError(f"{owner} names an unknown experiment {experiment!r}")
        if missing := entrants - names[experiment]:
            raise ValueError(f"{owner} names {sorted(missing)}, not in {experiment!r}")


class Table:
    """The runs of one experiment: values by entrant and seed."""

    def __init__(self, runs: Sequence[Any], problem: Problem) -> None:
        self.runs = runs
        self.seeds = sorted({run.seed for run in runs})
        self._direction = {metric.key: metric.higher_is_better for metric in problem.metrics}

    def values(self, name: str, metric: str) -> np.ndarray:
        """Return an entrant's values in the order of the seeds; NaN where a run failed or lacks the metric."""
        done = {run.seed: run for run in self.runs if run.entrant_name == name and run.status == "done"}
        return np.array([done[seed].metrics.get(metric, math.nan) if seed in done else math.nan for seed in self.seeds])

    def sign(self, metric: str) -> int:
        """Return 1 where higher values are better, -1 where lower ones are."""
        return 1 if self._direction.get(metric, True) else -1


@dataclass(frozen=True)
class Judged:
    """A comparison with its outcome.

    Attributes
    ----------
    outcome : {"shown", "not shown", "contradicted"}
    rival : str
        The strongest of the rivals.
    means : dict of str to float
        Mean of the metric for the better entrant and for all rivals.
    worth : float
        The smallest gain that counts, in units of the metric.
    mean, low, high : float
        The paired difference with its 95 % interval; NaN bounds below two seeds.
    values : tuple of float
        The difference of each seed.
    """

    check: Beats
    experiment: str
    outcome: Judgement
    rival: str
    means: Mapping[str, float]
    worth: float
    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean and the two-sided t-interval of values; NaN bounds below two of them.

    Examples
    --------
    >>> [round(v, 3) for v in interval(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.484, 4.484]
    """
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return mean, mean - half, mean + half


def judge(check: Beats, experiment: str, table: Table) -> Judged:
    """Judge one comparison.

    *shown*: the interval of the paired difference lies above zero, and its mean is at least what is worth having.
    *contradicted*: the interval lies below zero. *not shown*: anything else, a failed run or a single seed included.
    A rival whose runs all failed cannot be the strongest; one that failed on some seeds is compared on the others, and
    nothing is shown then.

    Examples
    --------
    >>> from types import SimpleNamespace as Run
    >>> runs = [Run(entrant_name=name, seed=seed, status="done", metrics={"accuracy": value + seed / 1000})
    ...         for name, value in (("a", .9), ("b", .7), ("c", .8)) for seed in range(5)]
    >>> found = judge(Beats("a", ("b", "c"), "accuracy"), "x", Table(runs, Run(metrics=())))
    >>> found.outcome, found.rival, round(found.mean, 3)
    ('shown', 'c', 0.1)
    """
    sign, other = table.sign(check.metric), check.rival_metric or check.metric
    own = table.values(check.better, check.metric)
    rivals = {name: table.values(name, other) for name in check.rivals}
    means = {name: _mean(values) for name, values in rivals.items()}
    rival = max(rivals, key=lambda name: sign * means[name] if math.isfinite(means[name]) else -math.inf)
    values = sign * (own - rivals[rival])
    mean, low, high = interval(values[np.isfinite(values)])
    worth = check.worth * abs(means[rival]) if check.share else check.worth
    outcome: Judgement = "not shown"
    if np.isfinite(np.array([own, *rivals.values()])).all() and len(values) >= 2:
        if high < 0:
            outcome = "contradicted"
        elif low > 0 and mean >= worth:
            outcome = "shown"
    means = {check.better: _mean(own)} | means if check.better not in means else means
    return Judged(check, experiment, outcome, rival, means, worth, mean, low, high, tuple(values.tolist()))


def overall(judged: Sequence[Judged]) -> Judgement:
    """Return the outcome of a headline: shown if every comparison is, contradicted if one is, else not shown."""
    outcomes = {one.outcome for one in judged}
    if "contradicted" in outcomes:
        return "contradicted"
    return "shown" if outcomes == {"shown"} else "not shown"


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
