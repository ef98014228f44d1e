"""Run a claim's experiments, judge its checks, and return what is recorded as evidence."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from anytask import bench, problems
from anytask.bench.measuring import versions
from anytask.bench.store import Run
from anytask.claims.base import Claim, Experiment, Judged, Table, interval, judge, overall
from anytask.problems.base import Problem


def verify(
    claim: Claim, *, quick: bool = False, seeds: int | None = None, jobs: int = 2, progress: bool = False
) -> dict[str, Any]:
    """Run ``claim`` afresh and return its evidence.

    Parameters
    ----------
    claim : Claim
        What :func:`anytask.claims.get` returns.
    quick : bool, default False
        One seed with the experiments' quick options: a smoke test whose checks are computed but mean nothing.
    seeds : int, optional
        Seeds per entrant, instead of each experiment's own number.
    jobs : int, default 2
        Runs at the same time.
    progress : bool, default False
        Show progress on standard error.

    Returns
    -------
    dict
        JSON-able: ``system, claim, outcome, metric, margin, difference, rows, seconds, peak_bytes, versions, recorded``
        as other programs read them, and ``checks, summary, experiments, failures, kind, tried`` for the reader.
    """
    tables: dict[str, tuple[Experiment, Problem, list[Run]]] = {}
    for experiment in claim.experiments:
        problem = problems.get(experiment.problem) if isinstance(experiment.problem, str) else experiment.problem
        tables[experiment.name] = (experiment, problem, _run(experiment, problem, quick, seeds, jobs, progress))
    judged = []
    for check in claim.checks:
        name = check.experiment or claim.experiments[0].name
        _, problem, runs = tables[name]
        judged.append(judge(check, name, Table(runs, problem)))
    return _evidence(claim, judged, tables)


def _run(
    experiment: Experiment, problem: Problem, quick: bool, seeds: int | None, jobs: int, progress: bool
) -> list[Run]:
    options = {**experiment.options, **(experiment.quick if quick else {})}
    data = problem.load(experiment.data, **options)
    # Evidence is about the code as it stands now: runs of an earlier state of it are never taken from a store.
    with tempfile.TemporaryDirectory() as folder:
        comparison = bench.compare(
            problem,
            data=data,
            systems=experiment.entrants,
            baselines=False,
            seeds=1 if quick else seeds or experiment.seeds,
            jobs=jobs,
            store=Path(folder) / "runs.sqlite",
            progress=progress,
        )
    return list(comparison.runs)


def _evidence(
    claim: Claim, judged: Sequence[Judged], tables: dict[str, tuple[Experiment, Problem, list[Run]]]
) -> dict[str, Any]:
    headline, main = judged[0], claim.checks[0]
    metric = main.metric
    runs = tables[headline.experiment][2]
    everything = [run for _, _, found in tables.values() for run in found]
    kinds = sorted({run.kind for run in everything if run.kind})
    return {
        "system": claim.system,
        "claim": claim.statement,
        "outcome": overall(judged),
        "metric": metric,
        "margin": main.bounds()[0],
        "difference": {"mean": _number(headline.mean), "low": _number(headline.low), "high": _number(headline.high)},
        "rows": [
            {
                "role": run.role,
                "name": run.entrant_name,
                "seed": run.seed,
                "value": _number(run.metrics.get(metric, np.nan)) if run.status == "done" else None,
            }
            for run in runs
        ],
        "checks": [
            {
                "sentence": j.check.sentence(),
                "bounds": [_number(bound) for bound in j.check.bounds()],  # None where there is none
                "why": j.check.why,
                "experiment": j.experiment,
                "outcome": j.outcome,
                "mean": _number(j.mean),
                "low": _number(j.low),
                "high": _number(j.high),
                "values": [_number(v) for v in j.values],
            }
            for j in judged
        ],
        "summary": [row for name, (_, problem, found) in tables.items() for row in _summary(name, problem, found)],
        "experiments": [
            {
                "name": e.name,
                "problem": problem.key,
                "data": str(e.data) if isinstance(e.data, (str, Path)) else type(e.data).__name__,
                "options": dict(e.options),
                "entrants": [{"name": x.name, "entry": x.entry, "params": x.settings} for x in e.entrants],
            }
            for e, problem, _ in tables.values()
        ],
        "failures": [
            f"{name}: {run.entrant_name}, seed {run.seed}: {run.error}"
            for name, (_, _, found) in tables.items()
            for run in found
            if run.status != "done"
        ],
        "kind": ", ".join(kinds) or None,
        "tried": claim.tried,
        "seconds": round(sum(run.cost.get("wall_seconds", 0.0) for run in everything), 1),
        "peak_bytes": int(max((run.cost.get("peak_bytes", 0) for run in everything), default=0)),
        "versions": versions(),
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _summary(name: str, problem: Problem, runs: list[Run]) -> list[dict[str, Any]]:
    rows = []
    for entrant in dict.fromkeys(run.entrant_name for run in runs):
        own = [run for run in runs if run.entrant_name == entrant and run.status == "done"]
        for metric in problem.metrics:
            values = np.array([run.metrics[metric.key] for run in own if metric.key in run.metrics], dtype=float)
            values = values[np.isfinite(values)]
            if len(values):
                mean, low, high = map(_number, interval(values))
                row = {"experiment": name, "name": entrant, "role": own[0].role, "metric": metric.key}
                rows.append(row | {"mean": mean, "low": low, "high": high, "n": len(values)})
    return rows


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
