"""Runs, the comparisons they were made for, and the one SQLite file that keeps them.

A run is stored in the moment it ends, so a comparison that is killed half-way loses only what was running. Beside the
runs, the file says which comparisons there were, which go on, and whether somebody has asked one to stop.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

import numpy as np
import psutil

from anytask.core.errors import StoreError, check_each, check_flags, instance_of
from anytask.core.sqlite import SQLiteFile

__all__ = ["Run", "RunStore"]

Status = Literal["done", "failed"]
State = Literal["running", "done", "stopped", "interrupted"]

#: A comparison that has given no sign of life for so long is taken for dead; it gives one every five seconds.
SILENT_SECONDS = 60.0


@dataclass
class Run:
    """One (problem, data, entrant, seed) with what it gave and what it cost.

    Parameters
    ----------
    key : str
        Hash of everything that settles the result; see :func:`anytask.bench.planning.run_key`.
    problem : str
        Key of the problem.
    data_name, data_fingerprint : str
        Name and content hash of the data.
    entrant_name : str
        Name within the comparison.
    entry : str
        ``"module:Class"``.
    params : dict
        Constructor arguments.
    role : {"system", "baseline", "ablation"}
        The part it played.
    system : str or None
        Catalogue key, where the class is a catalogued system.
    seed : int
        Seed of the run.
    status : {"done", "failed"}
        How it ended.
    sees : str or None
        What the class declares to look at of the task (``none``, ``boundary``, ``train``, ``test``), if it declares it.
    metrics : dict of str to float
        By metric key. A value that is not finite is ``None`` in JSON and NaN here.
    details : dict
        JSON-able series for the report.
    cost : dict of str to float
        ``wall_seconds``, ``cpu_seconds``, ``peak_bytes`` (the process's peak resident memory during the run),
        ``peak_increase_bytes`` (that, less what was resident at its start), and the problem's own counts.
    kind : str or None
        Kind of language model that took part: ``http``, ``local``, ``tiny``, ``sim``, or None.
    notes : list of str
        Sentences for the report.
    error : dict or None
        ``type``, ``message`` and ``traceback`` of a failed run.
    versions : dict of str to str
        Packages that took part.
    settings : dict
        The problem's options.
    started, finished : str
        ISO 8601 in UTC.
    host : dict
        ``cores``, ``threads`` (per run), ``jobs``, ``backend``, ``platform``.

    Examples
    --------
    >>> run = Run(key="k", problem="toy", data_name="d", data_fingerprint="f", entrant_name="a", entry="m:A", seed=0,
    ...           metrics={"accuracy": 0.5})
    >>> Run.from_dict(run.to_dict()) == run
    True
    """

    key: str
    problem: str
    data_name: str
    data_fingerprint: str
    entrant_name: str
    entry: str
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    role: str = "system"
    system: str | None = None
    status: Status = "done"
    sees: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    kind: str | None = None
    notes: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    host: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the run as strictly JSON-able values."""
        return jsonable(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the run that :meth:`to_dict` wrote; unknown fields are ignored."""
        instance_of("values", Mapping, optional=False)(values)
        known = {f.name for f in fields(cls)}
        run = cls(**{name: value for name, value in values.items() if name in known})
        _check_types(run)
        run.metrics = {name: math.nan if value is None else float(value) for name, value in run.metrics.items()}
        return run


@dataclass
class Record:
    """A comparison as its store knows it: what it consists of, how far it is, and whether it has been asked to stop.

    Parameters
    ----------
    id : str
        Made anew for each call of :func:`anytask.bench.compare`.
    plan : str
        Hash of the runs it consists of; a comparison that goes on where an earlier one stopped has the same.
    problem, fingerprint, data_name : str
        Key of the problem; content hash and name of the data.
    body : dict
        What :func:`anytask.bench.stored.stored_comparison` makes the comparison from: metrics, entrants, seeds, keys.
    state : {"running", "done", "stopped", "interrupted"}
        "stopped": somebody asked for it; "interrupted": by Ctrl-C or an error.
    started, seen : str
        ISO 8601 in UTC. ``seen`` is the last sign of life of the process that runs it.
    stop : bool
        Whether it has been asked to stop.
    """

    id: str
    plan: str
    problem: str
    fingerprint: str
    data_name: str
    body: dict[str, Any]
    state: State = "running"
    started: str = ""
    seen: str = ""
    stop: bool = False

    def silent_seconds(self) -> float:
        """Return the seconds since the last sign of life; a comparison that is killed cannot say that it has ended."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.seen)).total_seconds()


class RunStore(SQLiteFile):
    """All runs in one SQLite file; several processes may use it at once.

    Every :meth:`put` is its own transaction in write-ahead mode, with ``synchronous=FULL``: a finished run is worth
    minutes and a commit costs milliseconds, so runs survive a kill and a power cut alike. Write-ahead mode needs a
    local disk (not a network share).

    Parameters
    ----------
    path : path
        The file, created with its tables when it does not exist; ``":memory:"`` keeps the runs in this process.
    read_only : bool, default False
        Only look: the file must exist, and nothing in it changes. Reading goes on while a comparison writes.
    timeout : float, default 60
        Seconds to wait while another process holds the file.

    Raises
    ------
    ValueError
        If the file is not a store of anytask, comes from a newer anytask, is damaged, or cannot be written (or read);
        later, when it is full, deleted or replaced, or a run in it cannot be read. The message names it.

    Examples
    --------
    >>> with RunStore(":memory:") as store:
    ...     store.put(Run(key="k", problem="toy", data_name="d", data_fingerprint="f", entrant_name="a", entry="m:A",
    ...                   seed=0, finished="2026-01-01T00:00:00+00:00"))
    ...     len(store), store.get("k").entrant_name, store.get("other")
    (1, 'a', None)
    """

    what = "store of runs"
    application_id = 0x414E5954  # "ANYT"
    tables: ClassVar = {
        "runs": {
            "key": "TEXT PRIMARY KEY",
            **dict.fromkeys(("problem", "fingerprint", "entrant"), "TEXT NOT NULL"),
            "seed": "INTEGER NOT NULL",
            **dict.fromkeys(("status", "finished", "body"), "TEXT NOT NULL"),
        },
        "comparisons": {
            "id": "TEXT PRIMARY KEY",
            **dict.fromkeys(("plan", "problem", "fingerprint", "data_name"), "TEXT NOT NULL"),
            **dict.fromkeys(("state", "started", "seen"), "TEXT NOT NULL"),
            "stop": "INTEGER NOT NULL DEFAULT 0",
            "body": "TEXT NOT NULL",
        },
        "leases": {
            "key": "TEXT PRIMARY KEY",
            **dict.fromkeys(("owner", "host"), "TEXT NOT NULL"),
            "pid": "INTEGER NOT NULL",
            "seen": "TEXT NOT NULL",
        },
    }

    def get(self, key: str) -> Run | None:
        """Return the run of this key, or None."""
        return self.runs_of([key]).get(key)

    def put(self, run: Run) -> None:
        """Store a run durably, in place of an earlier one of the same key; nobody is making it any longer."""
        instance_of("run", Run, optional=False)(run)
        body = json.dumps(run.to_dict(), allow_nan=False, separators=(",", ":"))
        columns = (run.key, run.problem, run.data_fingerprint, run.entrant_name, run.seed, run.status, run.finished)
        with self.transaction():
            self._insert("runs", (*columns, body))
            self.execute("DELETE FROM leases WHERE key = ?", (run.key,))

    def delete(self, key: str) -> bool:
        """Remove a run; return whether there was one."""
        return bool(self.execute("DELETE FROM runs WHERE key = ? RETURNING key", (key,)))

    def runs(
        self,
        *,
        problem: str | None = None,
        fingerprint: str | None = None,
        entrant: str | None = None,
        status: Status | None = None,
    ) -> list[Run]:
        """Return the runs that match all the given conditions, oldest first."""
        wanted = {"problem": problem, "fingerprint": fingerprint, "entrant": entrant, "status": status}
        given = {column: value for column, value in wanted.items() if value is not None}
        where = " WHERE " + " AND ".join(f"{column} = ?" for column in given) if given else ""
        rows = self.execute(f"SELECT key, body FROM runs{where} ORDER BY finished, key", tuple(given.values()))
        return [self._run(*row) for row in rows]

    def runs_of(self, keys: Iterable[str], *, details: bool = True, damaged: list[str] | None = None) -> dict[str, Run]:
        """Return the runs of these keys that the store holds, by key; without ``details``, their series are left out.

        The series are most of what a run keeps, so thousands of runs are read several times faster without them. The
        keys of runs that cannot be read are added to ``damaged``; without it, the first of them is an error.
        """
        check_flags(details=details)
        wanted = check_each(keys, str, "keys")
        body = "body" if details else "CASE WHEN json_valid(body) THEN json_remove(body, '$.details') ELSE body END"
        found: dict[str, Run] = {}
        for start in range(0, len(wanted), 500):
            some = tuple(wanted[start : start + 500])
            for key, text in self.execute(f"SELECT key, {body} FROM runs WHERE key IN ({_marks(some)})", some):
                try:
                    found[key] = self._run(key, text)
                except StoreError:
                    if damaged is None:
                        raise
                    damaged.append(key)
        return found

    def statuses(self) -> dict[str, Status]:
        """Return how each stored run ended, by key, without reading what it gave."""
        return dict(self.execute("SELECT key, status FROM runs"))

    def state(self) -> tuple[Any, ...]:
        """Return something that differs once a run was stored, or a comparison began, ended or was told to stop."""
        runs = self.execute("SELECT COUNT(*), MAX(rowid), MAX(finished) FROM runs")
        return tuple(runs), tuple((r.id, r.state, r.stop) for r in self._records("ORDER BY id", body=False))

    def check_kept(self, keys: Iterable[str]) -> None:
        """Open the file anew, and raise an error if it lacks one of these runs."""
        keys = check_each(keys, str, "keys")
        self._check_in_place()
        if self.path == ":memory:":
            return
        with RunStore(self.path, read_only=True, timeout=self.timeout) as other:
            if lost := set(keys) - set(other.statuses()):
                raise StoreError(f"{self.path} has lost {len(lost)} runs: something else has written into the file")

    # -- who makes what ------------------------------------------------------------------------------------------

    def lease(self, keys: Sequence[str], owner: str, since: str, resume: bool) -> bool:
        """Take it upon an owner to make these runs, all or none; return whether they are now the owner's to make.

        They are not while another owner that lives is making one of them, nor once one was stored after ``since`` (or
        at any time, if it went well and ``resume`` is true). An owner lives while its process does; one on another
        machine, while it has given a sign of life (:meth:`renew`) within the last minute.
        """
        keys = check_each(keys, str, "keys")
        check_flags(resume=resume)
        made = "finished > ?" + (" OR status = 'done'" if resume else "")
        with self.transaction():
            held = self.execute(f"SELECT * FROM leases WHERE key IN ({_marks(keys)}) AND owner != ?", (*keys, owner))
            there = f"SELECT 1 FROM runs WHERE key IN ({_marks(keys)}) AND ({made})"
            if any(_lives(*row[2:]) for row in held) or self.execute(there, (*keys, since)):
                return False
            for key in keys:
                self._insert("leases", (key, owner, _host(), os.getpid(), now()))
            return True

    def renew(self, owner: str) -> None:
        """Leave a sign of life of an owner of leases."""
        self.execute("UPDATE leases SET seen = ? WHERE owner = ?", (now(), owner))

    def release(self, owner: str) -> None:
        """Give up what an owner has not made."""
        self.execute("DELETE FROM leases WHERE owner = ?", (owner,))

    # -- comparisons ---------------------------------------------------------------------------------------------

    def begin(self, record: Record) -> None:
        """Note that a comparison begins, in place of earlier ones with the same runs that no longer go on."""
        instance_of("record", Record, optional=False)(record)
        record.started = record.seen = now()
        with self.transaction():
            for earlier in self._records("WHERE plan = ?", (record.plan,), body=False):
                if earlier.state != "running" or earlier.silent_seconds() > SILENT_SECONDS:
                    self.execute("DELETE FROM comparisons WHERE id = ?", (earlier.id,))
            body = json.dumps(jsonable(record.body), allow_nan=False, separators=(",", ":"))
            values = asdict(record) | {"stop": 0, "body": body}
            self._insert("comparisons", tuple(values[column] for column in self.tables["comparisons"]))

    def beat(self, id: str) -> None:
        """Leave a sign of life of a comparison that goes on."""
        self.execute("UPDATE comparisons SET seen = ? WHERE id = ?", (now(), id))

    def end(self, id: str, state: State) -> None:
        """Note how a comparison has ended."""
        self.execute("UPDATE comparisons SET state = ?, seen = ? WHERE id = ?", (state, now(), id))

    def request_stop(self, id: str) -> bool:
        """Ask a running comparison to stop; return whether there was a running one of this id.

        Whoever runs it looks for this once a second, starts no further run, and keeps those that have begun or ended.
        """
        statement = "UPDATE comparisons SET stop = 1 WHERE id = ? AND state = 'running' RETURNING id"
        return bool(self.execute(statement, (id,)))

    def stop_requested(self, id: str) -> bool:
        """Whether somebody has asked this comparison to stop."""
        return bool(self.execute("SELECT 1 FROM comparisons WHERE id = ? AND stop", (id,)))

    def comparisons(self) -> list[Record]:
        """Return the comparisons that were made with this store, the latest first."""
        return self._records("ORDER BY started DESC, id")

    def _records(self, clause: str, values: tuple[Any, ...] = (), body: bool = True) -> list[Record]:
        if not self.execute("SELECT 1 FROM sqlite_master WHERE name = 'comparisons'"):
            return []  # read only, and written by an anytask that knew only of runs
        columns = tuple(self.tables["comparisons"])
        wanted = ", ".join(column if body or column != "body" else "'{}'" for column in columns)
        rows = self.execute(f"SELECT {wanted} FROM comparisons {clause}", values)
        return [self._record(dict(zip(columns, row, strict=True))) for row in rows]

    def __len__(self) -> int:
        return self.execute("SELECT COUNT(*) FROM runs")[0][0]

    def __bool__(self) -> bool:
        return True  # a store without runs is a store: ``store or default`` must not drop it

    def _insert(self, table: str, values: tuple[Any, ...]) -> None:
        self.execute(
            f"INSERT OR REPLACE INTO {table} ({', '.join(self.tables[table])}) VALUES ({_marks(values)})", values
        )

    def _run(self, key: str, body: Any) -> Run:
        with self._reading(f"run {key[:12]}", "; --fresh (resume=False) makes it anew"):
            return Run.from_dict(json.loads(body))

    def _record(self, row: dict[str, Any]) -> Record:
        with self._reading(f"comparison {row['id']}"):
            record = Record(**row | {"stop": bool(row["stop"]), "body": json.loads(row["body"])})
            _check_types(record)
            record.silent_seconds()
            return record

    @contextmanager
    def _reading(self, what: str, help: str = "") -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"{self.path}: the {what} in it is damaged and cannot be read: {error}{help}") from error


def _check_types(thing: Run | Record) -> None:
    """Raise a ``TypeError`` for a field that does not hold what its class declares."""
    for name, kinds in _kinds(type(thing)).items():  # type: ignore[arg-type]
        value = getattr(thing, name)
        if not any(isinstance(value, kind) if isinstance(kind, type) else value == kind for kind in kinds):
            raise TypeError(f"{name} is {str(value)[:40]!r}")


@lru_cache
def _kinds(cls: type) -> dict[str, tuple[Any, ...]]:
    """Return the types, or the values, that each field of a class may have."""
    return {name: tuple(_alternatives(hint)) for name, hint in get_type_hints(cls).items()}


def _alternatives(hint: Any) -> Iterator[Any]:
    if get_origin(hint) is UnionType:
        for one in get_args(hint):
            yield from _alternatives(one)
    elif get_origin(hint) is Literal:
        yield from get_args(hint)
    else:
        yield get_origin(hint) or hint


def _marks(values: Sequence[Any]) -> str:
    return ",".join("?" * len(values))


@lru_cache
def _host() -> str:
    """Return what tells this machine, since it was started, and this container from others."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _lives(host: str, pid: int, seen: str) -> bool:
    """Whether the owner of a lease may still be at work."""
    then = datetime.fromisoformat(seen)
    if host != _host():
        return (datetime.now(UTC) - then).total_seconds() < SILENT_SECONDS
    try:
        process = psutil.Process(pid)  # of a process that has another's number, the birth is after the sign of life
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < then.timestamp() + 1
    except psutil.Error:
        return False


def jsonable(value: Any) -> Any:
    """Return ``value`` as strict JSON: NumPy numbers and arrays unpacked, tuples as lists, non-finite numbers as None.

    Raises
    ------
    TypeError
        For a value that JSON cannot hold.

    Examples
    --------
    >>> jsonable({"a": np.arange(2), "b": (1.0, float("nan"))})
    {'a': [0, 1], 'b': [1.0, None]}
    """
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, Mapping):
        return {_name(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [jsonable(item) for item in sorted(value, key=repr)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if hasattr(value, "detach"):
        return jsonable(value.detach().cpu().numpy())
    raise TypeError(f"{type(value).__name__} {str(value)[:80]!r} cannot be stored as JSON")


def now() -> str:
    """Return the time as runs and records note it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key.item() if isinstance(key, np.generic) else key)
