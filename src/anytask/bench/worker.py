"""What a worker does: make the runs of a group, measure them, and hand back whatever became of them."""

from __future__ import annotations

import contextlib
import gc
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib

from anytask.bench.measuring import Meter, limited_threads, threads_per_run, uses_torch, versions, warm_up_torch
from anytask.bench.planning import PlanItem
from anytask.bench.store import Run, jsonable, now
from anytask.problems.base import Outcome, Problem

#: Items that are made by one call: they share their training.
Group = tuple[PlanItem, ...]
#: The key of a group's first item, and the group's runs; None stands for "not started".
Made = tuple[str, list[dict[str, Any] | None]]

#: File beside the running ones' marks that tells workers to start no more.
STOP = "stop"


@dataclass
class Job:
    """What all runs of an execution have in common, as it travels to the workers."""

    problem: Problem
    data: Any
    options: Any
    jobs: int
    backend: str
    deadline: float | None
    folder: str
    classes: dict[str, type]  # those of the main script or notebook, which workers cannot import

    def __post_init__(self) -> None:
        self.threads = threads_per_run(self.jobs)
        self.cores = joblib.cpu_count()
        self.data_name, self.fingerprint = self.data.name, self.data.fingerprint

    def blank(self, item: PlanItem) -> Run:
        entrant = item.entrant
        host = {
            "cores": self.cores,
            "threads": self.threads,
            "jobs": self.jobs,
            "backend": self.backend,
            "platform": platform.platform(),
        }
        return Run(
            key=item.key,
            problem=self.problem.key,
            data_name=self.data_name,
            data_fingerprint=self.fingerprint,
            entrant_name=entrant.name,
            entry=entrant.entry,
            seed=item.seed,
            params=jsonable(entrant.settings),
            role=entrant.role,
            system=entrant.key,
            settings=jsonable(dict(self.options)),
            host=host,
        )


def perform(job: Job, group: Group) -> Made:
    """Make the runs of a group; whatever happens in them ends up in what is returned."""
    key = group[0].key
    if (job.deadline is not None and time.time() > job.deadline) or (Path(job.folder) / STOP).exists():
        return key, [None] * len(group)
    for name, cls in job.classes.items():
        if not hasattr(sys.modules["__main__"], name):
            setattr(sys.modules["__main__"], name, cls)
    own_process = job.backend not in ("sequential", "threading")
    with _no_garbage_left(own_process):
        runs = _attempt(job, group, own_process)
        if len(group) > 1 and any(run["status"] == "failed" for run in runs):
            # One of them may be at fault alone: each shows by itself.
            runs = [run for item in group for run in _attempt(job, (item,), own_process)]
        return key, [*runs]


@contextlib.contextmanager
def _no_garbage_left(own_process: bool) -> Iterator[None]:
    """Keep the garbage of one run out of the time and the memory of the next.

    A full collection visits every object of every imported module, some 50 ms once torch is there. In a worker, what
    was there before a run is therefore frozen while it lasts, so that the collection after it visits the run's own.
    """
    if not own_process:
        gc.collect()
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _attempt(job: Job, group: Group, own_process: bool) -> list[dict[str, Any]]:
    report = _Share(mark(Path(job.folder), group[0].key))
    report(0.0)
    started, sees = now(), None
    meter = Meter(shared=job.backend == "threading")
    try:
        with limited_threads(job.threads) if own_process else contextlib.nullcontext():
            cls = group[0].entrant.load()  # importing is no part of the run's cost
            sees = getattr(cls, "sees", None)
            if uses_torch(cls):
                warm_up_torch()
            entrants = [item.entrant for item in group]
            with meter:
                if len(group) == 1:
                    outcomes = [job.problem.run(entrants[0], job.data, group[0].seed, progress=report)]
                else:
                    outcomes = job.problem.run_variants(entrants, job.data, group[0].seed, progress=report)
        return [_ended(job, item, outcome, group, meter, started, sees) for item, outcome in zip(group, outcomes)]
    except (Exception, SystemExit) as error:
        failure = {
            "type": type(error).__name__,
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        blanks = [replace(job.blank(item), started=started, sees=sees, finished=now()) for item in group]
        return [
            replace(run, status="failed", error=failure, cost=meter.cost, versions=versions()).to_dict()
            for run in blanks
        ]


def _ended(
    job: Job, item: PlanItem, outcome: Outcome, group: Group, meter: Meter, started: str, sees: str | None
) -> dict[str, Any]:
    primary = job.problem.primary.key
    if primary not in outcome.metrics:
        raise ValueError(f"{job.problem.key} returned no {primary!r}, by which it ranks")
    notes = list(outcome.notes)
    if others := [other.entrant.name for other in group if other is not item]:
        notes.append(f"Shares its training, and the time and memory measured, with {', '.join(others)}.")
    return replace(
        job.blank(item),
        started=started,
        sees=sees,
        metrics={name: float(value) for name, value in outcome.metrics.items()},
        details=outcome.details,
        kind=outcome.kind,
        notes=notes,
        cost={name: float(value) for name, value in outcome.cost.items()} | meter.cost,
        versions=versions(),
        finished=now(),
    ).to_dict()


class _Share:
    """Write the finished share of a run into a small file, at most four times a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._last < 0.25:
            return
        self._last = now
        with contextlib.suppress(OSError):  # a worker on another machine has no such folder
            self.path.write_text(f"{share:.3f}")


def mark(folder: Path, key: str) -> Path:
    """Return the file in which a run, while it goes on, says how far it is."""
    return folder / key[:32]
