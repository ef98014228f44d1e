"""Make the runs of a plan in parallel, and store each in the moment it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import logging
import os
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Self

import joblib

from anytask.bench.measuring import end_with, limited_threads, threads_per_run
from anytask.bench.planning import Plan, PlanItem
from anytask.bench.store import Run, RunStore, jsonable, now
from anytask.bench.worker import STOP, Group, Job, Made, mark, perform
from anytask.core.environment import environment
from anytask.core.errors import ComparisonFailed, StoreError, shown
from anytask.core.files import scratch_folder
from anytask.problems.base import Problem

__all__ = ["execute"]

logger = logging.getLogger(__name__)

Backend = Literal["loky", "threading", "sequential", "ray", "dask"]
BACKENDS: tuple[Backend, ...] = ("loky", "threading", "sequential", "ray", "dask")

#: Called with ("stored" | "ended" | "not run", the run or the item of the plan).
Listener = Callable[[str, Any], None]

#: Seconds between two signs of life of a comparison that has taken it upon itself to make runs.
LEASE_SECONDS = 5


@dataclass
class Execution:
    """What became of a plan: the runs in the plan's order, the items that were not run, and whether it was stopped."""

    runs: list[Run]
    not_run: list[PlanItem]
    stopped: bool = False


def execute(
    plan: Plan,
    problem: Problem,
    data: Any,
    store: RunStore,
    *,
    jobs: int = 2,
    backend: str = "loky",
    resume: bool = True,
    budget_seconds: float | None = None,
    progress: bool = False,
    on_event: Listener | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Execution:
    """Make the runs of a plan that the store does not hold yet, and store each as it ends.

    A run that raises becomes a run with status "failed", with its traceback, and the others go on; so does one whose
    process is killed (out of memory, say). Ctrl-C stops the running ones and raises ``KeyboardInterrupt``; what had
    ended is in the store, and the next call goes on from there. ``should_stop`` is the gentle way: what runs may end.

    Parameters
    ----------
    plan : Plan
        What :func:`anytask.bench.plan` returned.
    problem, data : Problem, ProblemData
        What the plan was made from. Arrays over 1 MB are shared with the workers through memory maps, not copied.
    store : RunStore
        Where runs are kept; only this process writes to it.
    jobs : int, default 2
        How many runs go on at once; -1 is one per core. Each gets ``cores // jobs`` threads, at least one.
    backend : {"loky", "threading", "sequential", "ray", "dask"}
        Where runs go on: in processes of this machine (the default; the only one that survives a killed run), in
        threads (for runs that wait for an endpoint: time and memory are then those of all threads together), in this
        very process, or on a Ray or Dask cluster: the one this process is connected to, which is left as it is, or
        else a local one that is started, without dashboard and usage statistics, and shut down again. On a Dask
        cluster the number of workers is the cluster's.
    resume : bool, default True
        Use runs from the store. Failed ones are made again in any case. False makes all anew and replaces them.
    budget_seconds : float, optional
        No run starts later than this.
    progress : bool, default False
        Show progress bars on stderr.
    on_event : callable, optional
        Told of each run that is found ("stored"), has ended ("ended"), or is not started ("not run").
    should_stop : callable, optional
        Asked about once a second, from another thread. Once it says True, no run starts; those that have begun end.

    Returns
    -------
    Execution

    Raises
    ------
    ValueError
        For an unknown backend, or jobs or a budget that make no sense.
    ImportError
        If the backend's package is missing; it names the extra.
    """
    jobs = check_execution(jobs, backend, budget_seconds)
    deadline = None if budget_seconds is None else time.time() + budget_seconds
    lease = _Lease(store, resume)
    stored = store.runs_of(item.key for item in plan.items) if resume else {}
    done = {key for key, run in stored.items() if run.status == "done"}
    ended = {item.key: _as_named(stored[item.key], item) for item in plan.items if item.key in done}
    waiting = [item for item in plan.items if item.key not in ended]
    listeners = [on_event] if on_event else []
    skipped: list[PlanItem] = []
    stopped = threading.Event()

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("anytask-"))
        if progress:
            from anytask.bench.display import Display

            with limited_threads(threads_per_run(jobs)):
                told = problem.forecast([item.entrant for item in waiting], data, jobs) if waiting else ""
            notes = [*data.describe().get("notes", ()), *([told] if told else [])]
            listeners.append(stack.enter_context(Display(plan, problem.primary, folder, notes)))
        for run in ended.values():
            _tell(listeners, "stored", run)
        if waiting:
            stack.enter_context(warnings.catch_warnings())
            # joblib's words for a generator that an interrupt closes; the interrupt itself says enough.
            warnings.filterwarnings("ignore", message=".*tasks which were still being processed.*")
            warnings.filterwarnings("ignore", message=".*worker stopped while some jobs were given.*")
            if backend not in ("sequential", "threading"):
                problem.release(data)
            job = Job(problem, data, plan.options, jobs, backend, deadline, str(folder), _main_classes(plan))
            stopped = stack.enter_context(_watch(lease, should_stop, folder))
            with once_begun(StoreError, OSError), lease, _pool(backend, jobs, job.threads, data) as pool:
                for what, item, new in _made(pool, job, _sharing(waiting, problem), folder, stopped, lease):
                    if new is None:
                        skipped.append(item)
                    else:
                        ended[item.key] = new
                        if what == "ended":
                            store.put(new)
                    _tell(listeners, what, new or item)
                store.check_kept(ended)
    return Execution(
        [ended[item.key] for item in plan.items if item.key in ended],
        [item for item in plan.items if item in skipped],
        stopped.is_set() and bool(skipped),
    )


def check_execution(jobs: int, backend: str, budget_seconds: float | None) -> int:
    """Check the settings of an execution and its optional package; return the number of jobs."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: choose from {', '.join(BACKENDS)}")
    if not isinstance(jobs, int) or isinstance(jobs, bool) or (jobs < 1 and jobs != -1):
        raise ValueError(f"jobs must be an integer of at least 1, or -1 for one per core, got {jobs!r}")
    if budget_seconds is not None and not (isinstance(budget_seconds, Real) and budget_seconds > 0):
        raise ValueError(f"budget_seconds must be a number above 0, got {shown(budget_seconds)}")
    needed = {"ray": "ray", "dask": "distributed"}.get(backend)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise ImportError(f"backend {backend!r} needs the package {needed}: pip install 'anytask[{backend}]'")
    if backend == "sequential":
        return 1
    return joblib.cpu_count() if jobs == -1 else jobs


# -- in the parent -----------------------------------------------------------------------------------------------


def _as_named(run: Run, item: PlanItem) -> Run:
    # A key does not depend on the name and the role, so a stored run may carry those of an earlier comparison.
    entrant = item.entrant
    return replace(run, entrant_name=entrant.name, role=entrant.role, system=entrant.key)


def _sharing(items: Sequence[PlanItem], problem: Problem) -> list[Group]:
    """Put those together that differ only in what is set after training, where the problem can share the training."""
    if type(problem).run_variants is Problem.run_variants:
        return [(item,) for item in items]
    groups: dict[Any, list[PlanItem]] = {}
    for item in items:
        entrant = item.entrant
        trained = [item.seed, entrant.entry, jsonable(replace(entrant, after={}).settings)]
        groups.setdefault(json.dumps(trained, sort_keys=True), []).append(item)
    return [tuple(group) for group in groups.values()]


def _main_classes(plan: Plan) -> dict[str, type]:
    names = {entrant.entry.split(":")[1] for entrant in plan.entrants if entrant.entry.startswith("__main__:")}
    main = sys.modules["__main__"]
    return {name: getattr(main, name) for name in names if hasattr(main, name)}


def _tell(listeners: Sequence[Listener], what: str, about: Any) -> None:
    for listener in listeners:
        listener(what, about)


@contextlib.contextmanager
def once_begun(*errors: type[Exception]) -> Iterator[None]:
    """Say of these errors that they came after runs had begun."""
    try:
        yield
    except errors as error:
        raise ComparisonFailed(str(error)) from error


class _Lease:
    """The right to make runs, which comparisons that go on at the same time share out by way of their store."""

    def __init__(self, store: RunStore, resume: bool) -> None:
        self.store, self.resume = store, resume
        self.owner, self.since = secrets.token_hex(8), now()

    def take(self, group: Group) -> bool:
        """Take it upon this execution to make the runs of a group; return whether it may."""
        return self.store.lease([item.key for item in group], self.owner, self.since, self.resume)

    def made(self, groups: Iterable[Group]) -> dict[str, Run]:
        """Return the runs of these groups that others have stored since this execution began."""
        found = self.store.runs_of(item.key for group in groups for item in group)
        return {k: r for k, r in found.items() if r.finished > self.since or (self.resume and r.status == "done")}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(StoreError):  # whoever waits for these runs sees that this process has ended
            self.store.release(self.owner)


def _made(
    pool: _Pool, job: Job, groups: Sequence[Group], folder: Path, stopped: threading.Event, lease: _Lease
) -> Iterator[tuple[str, PlanItem, Run | None]]:
    """Yield each item of the groups with its run: "ended" here, "stored" by another comparison, or "not run".

    What another comparison is making is waited for once there is nothing else to do; it is made here if that one ends
    without it.
    """
    while groups:
        elsewhere: list[Group] = []
        for item, run in _survive(pool, job, groups, folder, stopped, lease, elsewhere):
            yield "not run" if run is None else "ended", item, run
        there = lease.made(elsewhere)
        for item in itertools.chain(*elsewhere):
            if item.key in there:
                yield "stored", item, _as_named(there[item.key], item)
        groups = [left for group in elsewhere if (left := tuple(i for i in group if i.key not in there))]
        while groups and not (lease.made(groups) or any(map(lease.take, groups))):
            if stopped.wait(0.5) or (job.deadline is not None and time.time() > job.deadline):
                yield from (("not run", item, None) for group in groups for item in group)
                return


@contextlib.contextmanager
def _watch(lease: _Lease, should_stop: Callable[[], bool] | None, folder: Path) -> Iterator[threading.Event]:
    """Give an event that is set once ``should_stop`` says True; workers on this machine find a file in ``folder``."""
    stopped, over = threading.Event(), threading.Event()

    def look() -> None:
        for second in itertools.count(1):
            if over.wait(1.0):
                return
            if second % LEASE_SECONDS == 0:
                with contextlib.suppress(StoreError):  # full or gone: the run that cannot be stored says so
                    lease.store.renew(lease.owner)
            if should_stop is not None and should_stop():
                stopped.set()
                with contextlib.suppress(OSError):
                    (folder / STOP).touch()
                return

    thread = threading.Thread(target=look, name="anytask-stop", daemon=True)
    thread.start()
    try:
        yield stopped
    finally:
        over.set()
        thread.join()


def _survive(
    pool: _Pool,
    job: Job,
    groups: Sequence[Group],
    folder: Path,
    stopped: threading.Event,
    lease: _Lease,
    elsewhere: list[Group],
) -> Iterator[tuple[PlanItem, Run | None]]:
    """Yield each item of the groups with its run as it ends, also when worker processes die under them.

    The death of a worker takes all the running ones along. Those are then made again one by one, so that the one that
    kills its worker is found out, and only that one fails. Groups that another comparison is making are put into
    ``elsewhere``.
    """
    left = {group[0].key: group for group in groups}
    alone: list[str] = []  # keys of runs under suspicion
    failures: list[StoreError] = []

    def offered(batch: Iterable[Group]) -> Iterator[Group]:
        """Give the pool, which asks when it has room for one, what is free now; it would swallow an exception."""
        for group in batch:
            try:
                free = not stopped.is_set() and lease.take(group)
            except StoreError as error:
                failures.append(error)
                return
            if stopped.is_set():
                return
            if free:
                yield group
            else:
                elsewhere.append(left.pop(group[0].key))

    while left:
        batch = [left[alone[0]]] if alone else list(left.values())
        try:
            with contextlib.closing(pool(job, offered(batch))) as results:
                for key, runs in results:
                    mark(folder, key).unlink(missing_ok=True)
                    for item, run in zip(left.pop(key), runs, strict=True):
                        yield item, None if run is None else _as_named(Run.from_dict(run), item)
        except Exception as error:
            # A run never raises in its worker, so this is the machinery: a dead worker, or something unpicklable.
            running = [key for key in left if mark(folder, key).exists()]
            if not running:
                raise
            for key in running:
                mark(folder, key).unlink(missing_ok=True)
            if alone or len(running) == 1:
                for item in left.pop(running[0]):
                    logger.warning("%s with seed %s killed its worker", item.entrant.name, item.seed)
                    yield item, _as_named(_dead(job, item, error), item)
            else:
                alone = [*running]
                continue
        if failures:
            raise failures[0]
        alone = [key for key in alone if key in left]
        if stopped.is_set():
            yield from ((item, None) for group in left.values() for item in group)
            return


def _dead(job: Job, item: PlanItem, error: Exception) -> Run:
    moment = now()
    message = "the worker process died: killed from outside, out of memory, or crashed in native code"
    failure = {"type": type(error).__name__, "message": message, "traceback": str(error)}
    return replace(job.blank(item), status="failed", error=failure, started=moment, finished=moment)


# -- pools: where runs go on -------------------------------------------------------------------------------------

_Ended = Generator[Made, None, None]
_Pool = Callable[["Job", Iterable[Group]], _Ended]


@contextlib.contextmanager
def _pool(backend: str, jobs: int, threads: int, data: Any) -> Iterator[_Pool]:
    """Give a function that takes a job and groups of items, and yields what was made of each as it ends."""
    if backend == "sequential":
        with limited_threads(threads):
            yield lambda job, groups: (perform(job, group) for group in groups)
    elif backend == "threading":
        with limited_threads(threads), joblib.parallel_config("threading"):
            yield lambda job, groups: _unordered(job, groups, jobs)
    elif backend == "loky":
        # joblib runs a pool of one in this very process; a second, idle worker keeps even a single job isolated.
        ours: dict[str, Any] = {"initializer": end_with, "initargs": (os.getpid(),)}
        with joblib.parallel_config("loky", inner_max_num_threads=threads, **ours):
            yield lambda job, groups: _unordered(job, groups, max(jobs, 2), in_flight=jobs if jobs == 1 else 2 * jobs)
    elif backend == "ray":
        with _ray(jobs):
            yield lambda job, groups: _unordered(job, groups, max(jobs, 2), in_flight=jobs if jobs == 1 else 2 * jobs)
    else:
        with _dask(jobs, data):
            yield lambda job, groups: _unordered(job, groups, max(jobs, 2))


def _unordered(job: Job, groups: Iterable[Group], workers: int, in_flight: int | None = None) -> _Ended:
    parallel = joblib.Parallel(
        n_jobs=workers,
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch=in_flight or 2 * workers,
        max_nbytes="1M",
        mmap_mode="c",  # a run may write into its arrays, and no other run sees it
    )
    return parallel(joblib.delayed(perform)(job, group) for group in groups)


@contextlib.contextmanager
def _ray(jobs: int) -> Iterator[None]:
    with environment({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}):
        import ray
        from ray.util.joblib.ray_backend import RayBackend

        class UnorderedRayBackend(RayBackend):
            # Ray's pool reports each result through a callback as it ends, which is all that a generator needs; the
            # flag is off in joblib's own multiprocessing pool, from which the class inherits it.
            supports_return_generator = True

        joblib.register_parallel_backend("anytask-ray", UnorderedRayBackend)
        ours = not ray.is_initialized()
        if ours:
            quiet: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
            if "RAY_ADDRESS" in os.environ:
                ray.init(**quiet)
            else:
                path = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
                ray.init(address="local", num_cpus=max(jobs, 2), include_dashboard=False, runtime_env=path, **quiet)
        try:
            with joblib.parallel_config("anytask-ray"):
                yield
        finally:
            if ours:
                ray.shutdown()


@contextlib.contextmanager
def _dask(jobs: int, data: Any) -> Iterator[None]:
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        try:
            client = Client.current()
        except ValueError:
            # Not daemons: a run may start processes of its own.
            stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
            quiet = {"dashboard_address": None, "silence_logs": logging.ERROR}
            cluster = stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1, processes=True, **quiet))
            client = stack.enter_context(Client(cluster))
        stack.enter_context(joblib.parallel_config("dask", client=client, scatter=[data]))
        yield
