"""How the runs of a comparison rank: one row per entrant, in groups of those that were told the same of the task."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.bench import statistics
from anytask.bench.planning import LeftOut, Plan, PlanItem
from anytask.bench.store import Run
from anytask.core.errors import instance_of, shown
from anytask.problems.base import LEVELS, Entrant, Metric, Problem

if TYPE_CHECKING:
    import pandas

#: Level below which a Holm-adjusted p value counts as a difference.
ALPHA = 0.05

#: Options that the command line has under their own name; others go through --set.
_NAMED_OPTIONS = ("target", "task", "identity", "lm")


@dataclass(frozen=True)
class Row:
    """One entrant of a comparison, over its seeds.

    Attributes
    ----------
    rank : int or None
        Place among those that were told the same of the task, 1 is best; None for upper bounds, and without a value.
    entrant : Entrant
        Who.
    bound : {"lower", "upper"} or None
        Whether this baseline marks an end of the scale.
    sees : str or None
        What it was told of the task, out of :data:`anytask.problems.base.LEVELS`; None where nobody says.
    kind : str or None
        Which kind of language model took part.
    primary : Summary
        The metric that ranks.
    reference : str or None
        The baseline that it is compared with: the best of those that were told the same, or the best of all where no
        baseline was told the same; None for that baseline itself.
    difference : Difference or None
        To the reference, seed by seed, turned so that positive is better.
    p_holm : float
        Holm-adjusted over the rows that are not baselines; NaN for baselines.
    metrics : dict of str to float
        Means of all metrics.
    cost : dict of str to float
        Means of what finished runs cost.
    done, failures : int
        Number of runs.
    """

    rank: int | None
    entrant: Entrant
    bound: str | None
    sees: str | None
    kind: str | None
    primary: statistics.Summary
    reference: str | None
    difference: statistics.Difference | None
    p_holm: float
    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    done: int
    failures: int

    @property
    def name(self) -> str:
        """The entrant's name."""
        return self.entrant.name


@dataclass(frozen=True)
class Group:
    """Entrants that were told the same of the task: only they are ranked against each other.

    Attributes
    ----------
    sees : str or None
        What they were told, as :attr:`Row.sees` has it.
    rows : tuple of Row
        Best first; upper bounds and entrants without a value are in no group.
    best_baseline : str or None
        The best of its baselines; None if there is none.
    """

    sees: str | None
    rows: tuple[Row, ...]
    best_baseline: str | None


@dataclass
class Results:
    """What a comparison found: its runs and how they rank.

    Attributes
    ----------
    problem, data, plan : Problem, ProblemData, Plan
        What was compared on what.
    runs : list of Run
        In the plan's order, failed ones included.
    not_run : list of PlanItem
        Runs that were not started, for want of time or because the comparison was stopped.
    source : any
        Where the data came from; None for data that were loaded before.
    options : dict
        The problem's options that were given.
    baselines : bool
        Whether the problem's baselines took part.
    stopped : bool
        Whether somebody asked it to stop before all its runs had begun (see ``RunStore.request_stop``).
    """

    problem: Problem
    data: Any
    plan: Plan
    runs: list[Run]
    not_run: list[PlanItem] = field(default_factory=list)
    source: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    baselines: bool = True
    stopped: bool = False

    @property
    def failed(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.status == "failed"]

    @property
    def left_out(self) -> list[LeftOut]:
        """Who could not take part, as (name, reason)."""
        return list(self.plan.left_out)

    @cached_property
    def warnings(self) -> list[str]:
        """What is wrong with entrants although they ran, in sentences."""
        return self.problem.warnings(self.data, [run for run in self.runs if run.status == "done"])

    @property
    def primary(self) -> Metric:
        """The metric that ranks."""
        return self.problem.primary

    @property
    def other_metrics(self) -> list[Metric]:
        """The metrics beside it that anybody has."""
        have = {key for row in self.rows for key, value in row.metrics.items() if math.isfinite(value)}
        return [metric for metric in self.problem.metrics[1:] if metric.key in have]

    @cached_property
    def groups(self) -> list[Group]:
        """Those that were told the same of the task, each group best first; those that were told least come first."""
        ranked: dict[tuple[int, str], list[Entrant]] = {}
        for entrant in self._in_order:
            if self._bound(entrant) != "upper" and math.isfinite(self._summaries[entrant.name].mean):
                ranked.setdefault(self._level(entrant), []).append(entrant)
        members = [ranked[level] for level in sorted(ranked)]
        best = [next((e.name for e in group if e.role == "baseline"), None) for group in members]
        fallback = next((e.name for e in self._in_order if e.name in best), None)
        references = {e.name: name or fallback for group, name in zip(members, best) for e in group}
        differences = {name: self._difference(name, to) for name, to in references.items() if to and to != name}
        tested = [e.name for e in self._in_order if e.role != "baseline" and e.name in differences]
        adjusted = dict(zip(tested, statistics.holm([differences[name].p for name in tested])))
        return [
            Group(
                self._sees(group[0]),
                tuple(
                    self._row(e, place, references[e.name], differences.get(e.name), adjusted.get(e.name, math.nan))
                    for place, e in enumerate(group, start=1)
                ),
                name,
            )
            for group, name in zip(members, best)
        ]

    @cached_property
    def rows(self) -> list[Row]:
        """One row per entrant: the groups in turn, each best first, then upper bounds, then those without a value."""
        ranked = [row for group in self.groups for row in group.rows]
        rest = [entrant for entrant in self._in_order if entrant.name not in {row.name for row in ranked}]
        best = next((group.best_baseline for group in self.groups if group.best_baseline), None)
        for entrant in rest:  # upper bounds come before what has no value, as those are sorted last
            to = best if math.isfinite(self._summaries[entrant.name].mean) else None
            ranked.append(self._row(entrant, None, to, self._difference(entrant.name, to) if to else None))
        return ranked

    @property
    def main(self) -> Group | None:
        """The group that the answer is about: those told least, among groups in which at least two compete.

        One that nobody can be compared with has won nothing; where all are alone, the first group is meant.
        """
        return next((group for group in self.groups if len(group.rows) > 1), next(iter(self.groups), None))

    @property
    def best(self) -> Entrant | None:
        """The winner of the main group, bounds and ablations aside; None if there is none.

        A baseline wins where it is better than every system that was told the same.
        """
        rows = self.main.rows if self.main else ()
        return next((row.entrant for row in rows if row.bound is None and row.entrant.role != "ablation"), None)

    def ranking(self, group: Group) -> statistics.Ranking | None:
        """Return how a group ranks over the seeds that all of it finished; None without 2 seeds and 2 entrants.

        Parameters
        ----------
        group : Group
            One of :attr:`groups`; the average ranks are in the order of its rows.
        """
        instance_of("group", Group, optional=False)(group)
        values = [self.values(row.name, self.primary.key) for row in group.rows]
        seeds = [s for s in self.plan.seeds if all(math.isfinite(v.get(s, math.nan)) for v in values)]
        if len(seeds) < 2 or len(values) < 2:
            return None
        table = np.array([[v[seed] for v in values] for seed in seeds])
        return statistics.friedman(table, self.primary.higher_is_better)

    def values(self, name: str, metric: str) -> dict[int, float]:
        """Return the values of one entrant's finished runs by seed."""
        for word, value in (("name", name), ("metric", metric)):
            instance_of(word, str, optional=False)(value)
        return {
            run.seed: run.metrics.get(metric, math.nan)
            for run in self.runs
            if run.entrant_name == name and run.status == "done"
        }

    def told(self, run: Run) -> str | None:
        """Return what a run was told of the task: what its class looks at, as far as the problem shows it."""
        if not hasattr(run, "sees"):
            raise TypeError(f"run must be a Run, got {shown(run)}")
        return self.problem.told(run.sees, self.plan.options)

    def table(self) -> pandas.DataFrame:
        """Return the ranking as a table, in the order of :attr:`rows`.

        Columns: ``rank`` (among those with the same ``sees``), ``name, role, bound, sees`` (see :class:`Row`), ``mean,
        low, high`` (primary metric with its 95 % interval over seeds), ``reference, difference, difference_low,
        difference_high, p_holm`` (to that baseline; positive is better), the means of the other metrics under their
        keys, ``seconds, peak_mb, parameters, done, failures, kind``.
        """
        import pandas

        return pandas.DataFrame([self._record(row) for row in self.rows])

    @cached_property
    def command(self) -> str:
        """What to type to get this comparison again: a shell command where there is one, Python otherwise."""
        systems = [e for e in self.plan.entrants if e.role != "baseline" or not self.baselines]
        keyed = all(e.key and not e.settings and e.name == e.key for e in systems)
        count = len(self.plan.seeds)
        counted = self.plan.seeds == tuple(range(count))
        plain = all(isinstance(value, (str, int, float, bool, type(None))) for value in self.options.values())
        if keyed and counted and plain and isinstance(self.source, (str, os.PathLike)):
            words = ["anytask", "compare", self.problem.key, "--data", os.fspath(self.source)]
            words += ["--systems", ",".join(str(e.key) for e in systems), "--seeds", str(count)]
            for name, value in self.options.items():
                if name in _NAMED_OPTIONS and isinstance(value, str):
                    words += [f"--{name}", value]
                else:
                    words += ["--set", f"{name}={json.dumps(value)}"]
            return shlex.join(words if self.baselines else [*words, "--no-baselines"])
        listed = ", ".join(
            repr(e.key)
            if e.key and e.name == e.key and not e.settings
            else f"Entrant.of({e.name!r}, {e.entry!r}, {e.settings!r}, {e.role!r}, {e.key!r})"
            for e in systems
        )
        source = repr(os.fspath(self.source)) if isinstance(self.source, (str, os.PathLike)) else "data"
        problem = repr(self.problem.key) if _is_keyed(self.problem) else f"{type(self.problem).__name__}()"
        given = "".join(f", {name}={value!r}" for name, value in self.options.items())
        seeds = count if counted else list(self.plan.seeds)
        without = "" if self.baselines else ", baselines=False"
        return f"compare({problem}, {source}, [{listed}], seeds={seeds}{without}{given})"

    @cached_property
    def _summaries(self) -> dict[str, statistics.Summary]:
        key = self.primary.key
        return {e.name: statistics.summarize(list(self.values(e.name, key).values())) for e in self.plan.entrants}

    @property
    def _in_order(self) -> list[Entrant]:
        """All entrants by their mean, best first, whatever they were told."""
        higher = self.primary.higher_is_better
        return sorted(self.plan.entrants, key=lambda e: _sort_key(self._summaries[e.name].mean, higher))

    def _bound(self, entrant: Entrant) -> str | None:
        return self.problem.bounds.get(entrant.name) if entrant.role == "baseline" else None

    def _sees(self, entrant: Entrant) -> str | None:
        told = [self.told(run) for run in self.runs if run.entrant_name == entrant.name]
        return next((sees for sees in told if sees), None)

    def _level(self, entrant: Entrant) -> tuple[int, str]:
        sees = self._sees(entrant) or "none"  # what declares nothing is told nothing
        return LEVELS.index(sees) if sees in LEVELS else len(LEVELS), sees

    def _difference(self, name: str, other: str) -> statistics.Difference:
        a, b = self.values(name, self.primary.key), self.values(other, self.primary.key)
        seeds = [seed for seed in self.plan.seeds if seed in a and seed in b]
        better, worse = (a, b) if self.primary.higher_is_better else (b, a)
        return statistics.paired_difference([better[s] for s in seeds], [worse[s] for s in seeds])

    def _row(
        self,
        entrant: Entrant,
        rank: int | None,
        reference: str | None,
        difference: statistics.Difference | None,
        p_holm: float = math.nan,
    ) -> Row:
        own = [run for run in self.runs if run.entrant_name == entrant.name]
        done = [run for run in own if run.status == "done"]
        kinds = sorted({run.kind for run in done if run.kind})
        return Row(
            rank=rank,
            entrant=entrant,
            bound=self._bound(entrant),
            sees=self._sees(entrant),
            kind=", ".join(kinds) or None,
            primary=self._summaries[entrant.name],
            reference=None if reference == entrant.name else reference,
            difference=difference,
            p_holm=p_holm,
            metrics={m.key: _mean([run.metrics.get(m.key, math.nan) for run in done]) for m in self.problem.metrics},
            cost={
                name: _mean([run.cost[name] for run in done if run.cost.get(name) is not None])
                for name in dict.fromkeys(name for run in done for name in run.cost)
            },
            done=len(done),
            failures=len(own) - len(done),
        )

    def _record(self, row: Row) -> dict[str, Any]:
        difference = row.difference
        others = {key: value for key, value in row.metrics.items() if key != self.primary.key}
        parameters = row.cost.get("trainable_parameters", row.cost.get("stored_parameters"))
        return {
            "rank": row.rank,
            "name": row.name,
            "role": row.entrant.role,
            "bound": row.bound,
            "sees": row.sees,
            "mean": row.primary.mean,
            "low": row.primary.low,
            "high": row.primary.high,
            "reference": row.reference,
            "difference": difference.mean if difference else None,
            "difference_low": difference.low if difference else None,
            "difference_high": difference.high if difference else None,
            "p_holm": row.p_holm,
            **others,
            "seconds": row.cost.get("wall_seconds"),
            "peak_mb": row.cost["peak_bytes"] / 1e6 if "peak_bytes" in row.cost else None,
            "parameters": parameters,
            "done": row.done,
            "failures": row.failures,
            "kind": row.kind,
        }


def _is_keyed(problem: Problem) -> bool:
    return type(problem).__module__.startswith("anytask.problems.")


def _sort_key(mean: float, higher_is_better: bool) -> float:
    if not math.isfinite(mean):
        return math.inf
    return -mean if higher_is_better else mean


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
