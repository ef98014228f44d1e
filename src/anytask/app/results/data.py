"""What the results page shows, read from a store that others may be writing to."""

from __future__ import annotations

import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anytask.bench.store import SILENT_SECONDS, Record, Run, RunStore
from anytask.bench.stored import StoredComparison, loose_records, stored_comparison

#: Seconds that the page waits for a store that another program holds.
PATIENCE = 2.0


class Unreadable(Exception):
    """The store cannot be shown now; the message says why, in a sentence for the page."""


@dataclass(frozen=True)
class Overview:
    """One comparison in the list.

    Attributes
    ----------
    record : Record
        What the store knows of it.
    total, done, failed : int
        Runs of the plan, those that have ended well, and those that failed.
    loose : bool
        Whether these are runs that no recorded comparison asked for.
    """

    record: Record
    total: int
    done: int
    failed: int
    loose: bool = False

    @property
    def id(self) -> str:
        """The id of the record."""
        return self.record.id

    @property
    def state(self) -> str:
        """``running``, ``stopping``, ``silent`` (no sign of life), ``done``, ``stopped`` or ``interrupted``."""
        if self.record.state != "running":
            return self.record.state
        if self.record.silent_seconds() > SILENT_SECONDS:
            return "silent"
        return "stopping" if self.record.stop else "running"

    @property
    def title(self) -> str:
        """The problem and the data, in words."""
        return f"{self.record.body['title']} on {self.record.data_name}"


@dataclass(frozen=True)
class Snapshot:
    """The store at one moment."""

    state: Any
    overviews: tuple[Overview, ...]
    runs: int

    def get(self, id: str | None) -> Overview | None:
        """Return the comparison of this id, or None."""
        return next((overview for overview in self.overviews if overview.id == id), None)


@dataclass(frozen=True)
class Loaded:
    """A comparison with its runs, and the keys of those whose content could not be read."""

    comparison: StoredComparison
    unreadable: tuple[str, ...] = ()


class StoreView:
    """Read a store of runs again and again, and keep what has not changed.

    Parameters
    ----------
    path : path
        The store's file; it need not exist yet.

    Examples
    --------
    >>> StoreView("nowhere.sqlite").snapshot()
    Traceback (most recent call last):
        ...
    anytask.app.results.data.Unreadable: There is no store nowhere.sqlite yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._snapshot: Snapshot | None = None
        self._loose: dict[str, dict[str, Run]] = {}
        self._loaded: OrderedDict[Any, Loaded] = OrderedDict()

    def state(self) -> Any:
        """Return something that differs once the store has changed; None while it cannot be read."""
        try:
            with self._open() as store:
                return store.state()
        except Unreadable:
            return None

    def snapshot(self) -> Snapshot:
        """Return every comparison in the store, the latest first; raise :class:`Unreadable` if nothing can be."""
        with self._lock, self._open() as store:
            try:
                state = store.state()
                if self._snapshot is None or self._snapshot.state != state:
                    self._snapshot = self._read(store, state)
                else:  # signs of life change without the rest
                    seen = {r.id: r for r in store.comparisons()} if self._runs_on(self._snapshot) else {}
                    for overview in self._snapshot.overviews:
                        if overview.id in seen:
                            overview.record.seen = seen[overview.id].seen
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Unreadable(_sentence(error)) from error
            return self._snapshot

    def load(self, overview: Overview, details: bool = False) -> Loaded:
        """Return a comparison with its runs; their series, which only curves and reports draw, with ``details``."""
        with self._lock:
            keys = overview.record.body["keys"]
            now = (overview.done, overview.failed, overview.record.state, self._snapshot_state())
            stamp = (overview.id, details, *now)
            if stamp not in self._loaded:
                unreadable: list[str] = []
                runs = None if details else self._loose.get(overview.id)
                if runs is None:
                    with self._open() as store:
                        runs, unreadable = _readable(store, keys, details)
                try:
                    self._loaded[stamp] = Loaded(stored_comparison(overview.record, runs), tuple(unreadable))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise Unreadable(f"{self.path}: the comparison {overview.id} in it is damaged.") from error
                while len(self._loaded) > 6:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(stamp)
            return self._loaded[stamp]

    def request_stop(self, id: str) -> bool:
        """Ask a running comparison to stop; return whether there was one, or raise :class:`Unreadable`."""
        try:
            with RunStore(self.path, timeout=PATIENCE) as store:
                return store.request_stop(id)
        except ValueError as error:
            raise Unreadable(_sentence(error)) from error

    def _snapshot_state(self) -> Any:
        return self._snapshot.state[0] if self._snapshot else None

    @staticmethod
    def _runs_on(snapshot: Snapshot) -> bool:
        return any(overview.record.state == "running" for overview in snapshot.overviews)

    def _open(self) -> RunStore:
        if not self.path.exists():
            raise Unreadable(f"There is no store {self.path} yet.")
        if self.path.is_file() and self.path.stat().st_size == 0:
            raise Unreadable(f"The store {self.path} is empty.")
        try:
            return RunStore(self.path, read_only=True, timeout=PATIENCE)
        except ValueError as error:
            raise Unreadable(_sentence(error)) from error

    def _read(self, store: RunStore, state: Any) -> Snapshot:
        statuses = store.statuses()
        records = store.comparisons()
        overviews = [_overview(record, statuses) for record in records]
        asked_for = {key for record in records for key in record.body["keys"]}
        loose_keys = [key for key in statuses if key not in asked_for]
        self._loose = {}
        if loose_keys:
            runs, _ = _readable(store, loose_keys, details=False)
            for record, group in loose_records(runs.values()):
                self._loose[record.id] = group
                overviews.append(_overview(record, statuses, loose=True))
        overviews.sort(key=lambda overview: overview.record.started, reverse=True)
        overviews.sort(key=lambda overview: overview.record.state != "running")
        return Snapshot(state, tuple(overviews), len(statuses))


def check_store(path: Path) -> None:
    """Raise a ``ValueError`` for what can never be shown: a folder, a place without one, another program's file."""
    if not path.resolve().parent.is_dir():
        raise ValueError(f"the folder {path.resolve().parent} does not exist")
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    try:
        RunStore(path, read_only=True, timeout=PATIENCE).close()
    except ValueError as error:
        if "locked" not in str(error):  # that may pass: the page waits for it
            raise


def run_rows(comparison: StoredComparison) -> list[dict[str, Any]]:
    """Return one dictionary per run: who, seed, how it ended, its metrics and its costs, as for a table."""
    metrics = [metric.key for metric in comparison.problem.metrics]
    costs = list(dict.fromkeys(name for run in comparison.runs for name in run.cost))
    return [
        {
            "entrant": run.entrant_name,
            "role": run.role,
            "seed": run.seed,
            "status": run.status,
            **{key: run.metrics.get(key) for key in metrics},
            **{name: run.cost.get(name) for name in costs},
            "kind": run.kind,
            "started": run.started,
            "finished": run.finished,
            "error": (run.error or {}).get("message") if run.status == "failed" else None,
            "key": run.key,
        }
        for run in comparison.runs
    ]


def runs_csv(comparison: StoredComparison) -> str:
    """Return the runs as CSV."""
    return _csv(run_rows(comparison))


def ranking_csv(comparison: StoredComparison) -> str:
    """Return the ranking as CSV, as :meth:`~anytask.bench.comparison.Comparison.table` has it."""
    buffer = io.StringIO()
    comparison.table().to_csv(buffer, index=False)
    return buffer.getvalue()


def finite(value: Any) -> bool:
    """Whether a value is a number that can be shown."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    import pandas

    buffer = io.StringIO()
    pandas.DataFrame(list(rows)).to_csv(buffer, index=False)
    return buffer.getvalue()


def _overview(record: Record, statuses: dict[str, Any], loose: bool = False) -> Overview:
    keys = [key for key in record.body["keys"] if key]
    found = [statuses.get(key) for key in keys]
    return Overview(record, len(keys), found.count("done"), found.count("failed"), loose)


def _readable(store: RunStore, keys: Sequence[str], details: bool) -> tuple[dict[str, Run], list[str]]:
    """The runs of these keys, and the keys of those whose stored text is damaged."""
    unreadable: list[str] = []
    return store.runs_of([key for key in keys if key], details=details, damaged=unreadable), unreadable


def _sentence(error: Exception) -> str:
    text = str(error)
    if "locked" in text:
        return "Another program holds the store. This page tries again by itself."
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
