"""Run a claim's experiments, judge its comparisons, and return what is recorded as evidence."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import anytask
from anytask import bench, problems
from anytask.bench.measuring import versions
from anytask.bench.store import Run
from anytask.claims.base import Beats, Claim, Experiment, Judged, RealTrial, Table, interval, judge, overall
from anytask.core.files import cache_folder, scratch_folder
from anytask.problems.base import Problem

#: Evidence takes ten seeds from 100 on, and every further look the next ten; development takes those below 10.
FIRST_SEED, SEEDS = 100, 10

_Tables = dict[str, tuple[Experiment, Problem, list[Run]]]


def verify(
    claim: Claim,
    *,
    quick: bool = False,
    seeds: int | None = None,
    look: int = 1,
    jobs: int = 2,
    progress: bool = False,
) -> dict[str, Any]:
    """Run a claim and return its evidence.

    An interrupted call is continued by the next one, as long as the code is the same.

    Parameters
    ----------
    claim : Claim
        What :func:`anytask.claims.get` returns.
    quick : bool, default False
        Seed 0 with the experiments' quick options and parameters: a smoke test that shows nothing.
    seeds : int, optional
        A development look at the seeds 0 ... n-1, at most 10 of them, instead of the evidence seeds.
    look : int, default 1
        Which look this is: the first takes the seeds 100 to 109, the second 110 to 119, and so on.
    jobs : int, default 2
        Runs at the same time.
    progress : bool, default False
        Show progress on standard error.

    Returns
    -------
    dict
        JSON-able; see the guide "What the evidence means".
    """
    chosen = _seeds(quick, seeds, look, SEEDS)
    tables = _run(claim.system, claim.experiments, chosen, quick, jobs, progress)
    headline, components = (_judge(checks, tables) for checks in (claim.headline, claim.components))
    real = {"none": claim.real} if isinstance(claim.real, str) else {"none": "not run yet: `anytask verify --real`"}
    return {
        "system": claim.system,
        "claim": claim.statement,
        "outcome": overall(headline),
        "headline": [_recorded(one, tables) for one in headline],
        "components": [_recorded(one, tables) for one in components],
        "sizes": [_size(claim, size, tables) for size in claim.sizes],
        "plain": [_plain(one, tables) for one in headline if tables[one.experiment][0].plain],
        "rows": _rows(tables, {(one.experiment, metric) for one in headline + components for metric in _metrics(one)}),
        "real": real,
        "source": claim.source,
        "tried": claim.tried,
        "looks": look,
        "seeds": list(chosen),
        **_account(tables),
    }


def verify_real(
    claim: Claim, *, quick: bool = False, look: int = 1, jobs: int = 1, progress: bool = False
) -> dict[str, Any]:
    """Run a claim's trial on real weights or data, and return what evidence keeps under ``real``.

    Raises
    ------
    ValueError
        If the claim has no such trial; it gives the reason.
    """
    trial = claim.real
    if not isinstance(trial, RealTrial):
        raise ValueError(f"{claim.system} has no trial on real weights or data: {trial}")
    chosen = _seeds(quick, None, look, trial.seeds)
    tables = _run(f"{claim.system}-real", trial.experiments, chosen, quick, jobs, progress)
    judged = _judge(trial.headline, tables)
    return {
        "model_or_data": trial.what,
        "outcome": overall(judged) if len(chosen) >= 5 else "measured",
        "n": len(chosen),
        "difference": _recorded(judged[0], tables)["difference"],
        "headline": [_recorded(one, tables) for one in judged],
        "plain": [_plain(one, tables) for one in judged if tables[one.experiment][0].plain],
        "rows": _rows(tables, {(one.experiment, metric) for one in judged for metric in _metrics(one)}),
        "looks": look,
        **_account(tables),
    }


def _seeds(quick: bool, seeds: int | None, look: int, n: int) -> tuple[int, ...]:
    if quick:
        return (0,)
    if seeds is not None:
        if not 1 <= seeds <= FIRST_SEED // 10:
            raise ValueError(f"a development look takes 1 to 10 seeds, got {seeds}")
        return tuple(range(seeds))
    first = FIRST_SEED + SEEDS * (look - 1)
    return tuple(range(first, first + n))


def _run(
    name: str, experiments: Sequence[Experiment], seeds: Sequence[int], quick: bool, jobs: int, progress: bool
) -> _Tables:
    tables: _Tables = {}
    with _store(name, kept=not quick) as store:
        for one in (experiment.reduced() if quick else experiment for experiment in experiments):
            problem = problems.get(one.problem) if isinstance(one.problem, str) else one.problem
            found = bench.compare(
                problem,
                data=problem.load(one.data, **one.options),
                systems=one.entrants,
                baselines=False,
                seeds=seeds,
                jobs=jobs,
                store=store,
                progress=progress,
            )
            tables[one.name] = (one, problem, list(found.runs))
    return tables


@contextmanager
def _store(name: str, kept: bool) -> Iterator[Path]:
    """Give the file of a claim's runs. It is named after the code, since evidence is about the code as it stands."""
    if not kept:
        with scratch_folder("anytask-") as scratch:
            yield scratch / "runs.sqlite"
        return
    folder = cache_folder("verify")
    store = folder / f"{name}-{_code_hash()}.sqlite"
    for old in set(folder.glob(f"{name}-????????????.sqlite*")) - set(folder.glob(f"{store.name}*")):
        old.unlink(missing_ok=True)
    yield store


def _code_hash() -> str:
    root = Path(anytask.__file__).parent
    found = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        found.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:12]


def _commit() -> str | None:
    """Return the commit of a source tree, marked where files under version control were changed since."""
    root = Path(anytask.__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    if not (root / "pyproject.toml").is_file():
        return None
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _judge(checks: Sequence[Beats], tables: _Tables) -> list[Judged]:
    first = next(iter(tables))
    names = [check.experiment or first for check in checks]
    return [judge(check, name, Table(tables[name][2], tables[name][1])) for check, name in zip(checks, names)]


def _metrics(one: Judged) -> set[str]:
    return {one.check.metric, one.check.rival_metric or one.check.metric}


def _recorded(one: Judged, tables: _Tables) -> dict[str, Any]:
    return {
        "sentence": one.check.said,
        "experiment": one.experiment,
        "better": one.check.better,
        "baseline": one.rival,
        "metric": one.check.metric,
        "label": _label(one, tables),
        "worth": _number(one.worth),
        "difference": {"mean": _number(one.mean), "low": _number(one.low), "high": _number(one.high)},
        "values": [_number(value) for value in one.values],
        "means": {name: _number(mean) for name, mean in one.means.items()},
        "outcome": one.outcome,
        "expected": one.check.expected,
    }


def _label(one: Judged, tables: _Tables) -> str:
    return next(metric.label for metric in tables[one.experiment][1].metrics if metric.key == one.check.metric)


def _size(claim: Claim, size: Any, tables: _Tables) -> dict[str, Any]:
    experiment = size.experiment or claim.experiments[0].name
    _, problem, runs = tables[experiment]
    values = Table(runs, problem).values(size.name, size.metric)
    mean, low, high = map(_number, interval(values[np.isfinite(values)]))
    where = {"experiment": experiment, "name": size.name, "metric": size.metric}
    return {"sentence": size.sentence, **where, "mean": mean, "low": low, "high": high, "expected": size.expected}


def _plain(one: Judged, tables: _Tables) -> dict[str, Any]:
    """Say how the plain reference does on a headline's metric, and whether it beats everybody there."""
    experiment, problem, runs = tables[one.experiment]
    table = Table(runs, problem)
    mean = float(np.nanmean(np.append(table.values(experiment.plain or "", one.check.metric), np.nan)))
    sign = table.sign(one.check.metric)
    beats = all(sign * mean >= sign * other for name, other in one.means.items() if name != experiment.plain)
    where = {"experiment": one.experiment, "name": experiment.plain, "metric": one.check.metric}
    where |= {"label": _label(one, tables)}
    return {**where, "mean": _number(mean), "beats_everybody": bool(beats)}


def _rows(tables: _Tables, wanted: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the values of all entrants, in the experiments and metrics that were compared."""
    rows = []
    for name, metric in sorted(wanted):
        for run in tables[name][2]:
            value = _number(run.metrics.get(metric, np.nan)) if run.status == "done" else None
            who = {"role": run.role, "name": run.entrant_name, "seed": run.seed}
            rows.append({"experiment": name, "metric": metric, **who, "value": value})
    return rows


def _account(tables: _Tables) -> dict[str, Any]:
    everything = [run for _, _, runs in tables.values() for run in runs]
    kinds = sorted({run.kind for run in everything if run.kind})
    return {
        "kind": ", ".join(kinds) or None,
        "costs": {name: _costs(experiment, runs) for name, (experiment, _, runs) in tables.items()},
        "experiments": [_described(one, problem) for one, problem, _ in tables.values()],
        "failures": [
            f"{name}: {run.entrant_name}, seed {run.seed}: {run.error}"
            for name, (_, _, runs) in tables.items()
            for run in runs
            if run.status != "done"
        ],
        "commit": _commit(),
        "seconds": round(sum(run.cost.get("wall_seconds", 0.0) for run in everything), 1),
        "peak_bytes": int(max((run.cost.get("peak_bytes", 0) for run in everything), default=0)),
        "versions": versions(),
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _costs(experiment: Experiment, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the mean of everything that was counted, by entrant."""
    found = {}
    for entrant in experiment.entrants:
        own = [run.cost for run in runs if run.entrant_name == entrant.name and run.status == "done"]
        counted = sorted({key for cost in own for key, value in cost.items() if isinstance(value, (int, float))})
        found[entrant.name] = {key: float(np.mean([cost[key] for cost in own if key in cost])) for key in counted}
    return found


def _described(one: Experiment, problem: Problem) -> dict[str, Any]:
    data = str(one.data) if isinstance(one.data, (str, Path)) else type(one.data).__name__
    entrants = [{"name": x.name, "entry": x.entry, "params": x.settings} for x in one.entrants]
    options = dict(one.options)
    return {"name": one.name, "problem": problem.key, "data": data, "options": options, "entrants": entrants}


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
