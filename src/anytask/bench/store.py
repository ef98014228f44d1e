"""Runs, the comparisons they were made for, and the one SQLite file that keeps them.

A run is stored in the moment it ends, so a comparison that is killed half-way loses only what was running. Beside the
runs, the file says which comparisons there were, which go on, and whether somebody has asked one to stop.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

__all__ = ["Run", "RunStore"]

Status = Literal["done", "failed"]
State = Literal["running", "done", "stopped", "interrupted"]

#: Written into the file's header, so that a foreign SQLite file is never mistaken for a store.
APPLICATION_ID = 0x414E5954  # "ANYT"
SCHEMA_VERSION = 1

#: A comparison that has given no sign of life for so long is taken for dead; it gives one every five seconds.
SILENT_SECONDS = 60.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    key TEXT PRIMARY KEY,
    problem TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    entrant TEXT NOT NULL,
    seed INTEGER NOT NULL,
    status TEXT NOT NULL,
    finished TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_by_data ON runs (problem, fingerprint);
"""

# Added to stores of the same format when they are opened: who knows only of runs is not disturbed by it.
_COMPARISONS = """
CREATE TABLE IF NOT EXISTS comparisons (
    id TEXT PRIMARY KEY,
    plan TEXT NOT NULL,
    problem TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    data_name TEXT NOT NULL,
    state TEXT NOT NULL,
    started TEXT NOT NULL,
    seen TEXT NOT NULL,
    stop INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
);
"""


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
        known = {f.name for f in fields(cls)}
        run = cls(**{name: value for name, value in values.items() if name in known})
        run.metrics = {name: math.nan if value is None else value for name, value in run.metrics.items()}
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


class RunStore:
    """All runs in one SQLite file; several processes may use it at once.

    Every :meth:`put` is its own transaction in write-ahead mode, with ``synchronous=FULL``: a finished run is worth
    minutes and a commit costs milliseconds, so runs survive a kill and a power cut alike. Write-ahead mode needs a
    local disk (not a network share).

    Parameters
    ----------
    path : path
        The file, created with its table when it does not exist; ``":memory:"`` keeps the runs in this process.
    read_only : bool, default False
        Only look: the file must exist, and nothing in it changes. Reading goes on while a comparison writes.
    timeout : float, default 60
        Seconds to wait while another process holds the file.

    Raises
    ------
    ValueError
        If the file is not a store of anytask, comes from a newer anytask, or cannot be written (or read).

    Examples
    --------
    >>> with RunStore(":memory:") as store:
    ...     store.put(Run(key="k", problem="toy", data_name="d", data_fingerprint="f", entrant_name="a", entry="m:A",
    ...                   seed=0, finished="2026-01-01T00:00:00+00:00"))
    ...     len(store), store.get("k").entrant_name, store.get("other")
    (1, 'a', None)
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, timeout: float = 60.0) -> None:
        self.path = os.fspath(path)
        self.read_only = read_only
        self.timeout = timeout
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._connect()

    def get(self, key: str) -> Run | None:
        """Return the run of this key, or None."""
        rows = self._execute("SELECT body FROM runs WHERE key = ?", (key,))
        return Run.from_dict(json.loads(rows[0][0])) if rows else None

    def put(self, run: Run) -> None:
        """Store a run durably, in place of an earlier one of the same key."""
        body = json.dumps(run.to_dict(), allow_nan=False, separators=(",", ":"))
        self._execute(
            "INSERT OR REPLACE INTO runs (key, problem, fingerprint, entrant, seed, status, finished, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (run.key, run.problem, run.data_fingerprint, run.entrant_name, run.seed, run.status, run.finished, body),
        )

    def delete(self, key: str) -> bool:
        """Remove a run; return whether there was one."""
        return bool(self._execute("DELETE FROM runs WHERE key = ? RETURNING key", (key,)))

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
        rows = self._execute(f"SELECT body FROM runs{where} ORDER BY finished, key", tuple(given.values()))
        return [Run.from_dict(json.loads(body)) for (body,) in rows]

    def runs_of(self, keys: Iterable[str], *, details: bool = True) -> dict[str, Run]:
        """Return the runs of these keys that the store holds, by key; without ``details``, their series are left out.

        The series are most of what a run keeps, so thousands of runs are read several times faster without them.
        """
        wanted = list(keys)
        body = "body" if details else "CASE WHEN json_valid(body) THEN json_remove(body, '$.details') ELSE body END"
        found: dict[str, Run] = {}
        for start in range(0, len(wanted), 500):
            some = wanted[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = self._execute(f"SELECT key, {body} FROM runs WHERE key IN ({marks})", tuple(some))
            found.update((key, Run.from_dict(json.loads(text))) for key, text in rows)
        return found

    def statuses(self) -> dict[str, Status]:
        """Return how each stored run ended, by key, without reading what it gave."""
        return dict(self._execute("SELECT key, status FROM runs", ()))

    def state(self) -> tuple[Any, ...]:
        """Return something that differs once a run was stored, or a comparison began, ended or was told to stop."""
        runs = self._execute("SELECT COUNT(*), MAX(rowid), MAX(finished) FROM runs", ())
        return tuple(runs), tuple((r.id, r.state, r.stop) for r in self._records("ORDER BY id", (), body=False))

    # -- comparisons ---------------------------------------------------------------------------------------------

    def begin(self, record: Record) -> None:
        """Note that a comparison begins, in place of earlier ones with the same runs that no longer go on."""
        record.started = record.seen = _now()
        with self._lock:
            for earlier in self._records("WHERE plan = ?", (record.plan,)):
                if earlier.state != "running" or earlier.silent_seconds() > SILENT_SECONDS:
                    self._execute("DELETE FROM comparisons WHERE id = ?", (earlier.id,))
            self._execute(
                "INSERT INTO comparisons (id, plan, problem, fingerprint, data_name, state, started, seen, body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(record.id, record.plan, record.problem, record.fingerprint, record.data_name, record.state),
                    *(record.started, record.seen),
                    json.dumps(jsonable(record.body), allow_nan=False, separators=(",", ":")),
                ),
            )

    def beat(self, id: str) -> None:
        """Leave a sign of life of a comparison that goes on."""
        self._execute("UPDATE comparisons SET seen = ? WHERE id = ?", (_now(), id))

    def end(self, id: str, state: State) -> None:
        """Note how a comparison has ended."""
        self._execute("UPDATE comparisons SET state = ?, seen = ? WHERE id = ?", (state, _now(), id))

    def request_stop(self, id: str) -> bool:
        """Ask a running comparison to stop; return whether there was a running one of this id.

        Whoever runs it looks for this once a second, starts no further run, and keeps those that have begun or ended.
        """
        statement = "UPDATE comparisons SET stop = 1 WHERE id = ? AND state = 'running' RETURNING id"
        return bool(self._execute(statement, (id,)))

    def stop_requested(self, id: str) -> bool:
        """Whether somebody has asked this comparison to stop."""
        rows = self._execute("SELECT stop FROM comparisons WHERE id = ?", (id,))
        return bool(rows and rows[0][0])

    def comparisons(self) -> list[Record]:
        """Return the comparisons that were made with this store, the latest first."""
        return self._records("ORDER BY started DESC, id", ())

    def _records(self, clause: str, values: tuple[Any, ...], body: bool = True) -> list[Record]:
        if not self._execute("SELECT 1 FROM sqlite_master WHERE name = 'comparisons'", ()):
            return []  # read only, and written by an anytask that knew only of runs
        columns = ("id", "plan", "problem", "fingerprint", "data_name", "state", "started", "seen", "stop", "body")
        wanted = ", ".join(column if body or column != "body" else "'{}'" for column in columns)
        rows = self._execute(f"SELECT {wanted} FROM comparisons {clause}", values)
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return [Record(**row | {"stop": bool(row["stop"]), "body": json.loads(row["body"])}) for row in named]

    def __len__(self) -> int:
        return self._execute("SELECT COUNT(*) FROM runs", ())[0][0]

    def __bool__(self) -> bool:
        return True  # a store without runs is a store: ``store or default`` must not drop it

    def close(self) -> None:
        """Close the file. A store that is used again opens it anew."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self.path == ":memory:":
            raise TypeError("a store in memory cannot be sent to another process: give it a file")
        return {"path": self.path, "read_only": self.read_only, "timeout": self.timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _execute(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connect().execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise ValueError(f"{self.path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        if self.path != ":memory:":
            self._check_place()
        uri = f"{Path(self.path).absolute().as_uri()}?mode=ro"
        try:
            connection = self._opened(uri if self.read_only else self.path)
        except sqlite3.DatabaseError as error:
            # Write-ahead mode keeps two files beside the store while it is open, and reading makes them too. Where they
            # can't be made nobody writes, and without a log the file is whole.
            log = Path(f"{self.path}-wal")
            alone = not os.access(log.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
            other = not isinstance(error, sqlite3.OperationalError) or "locked" in str(error)
            if not self.read_only or not alone or other:
                raise ValueError(f"{self.path} cannot be used as a store of runs: {error}") from error
            try:
                connection = self._opened(f"{uri}&immutable=1")
            except sqlite3.DatabaseError as worse:
                raise ValueError(f"{self.path} cannot be used as a store of runs: {worse}") from worse
        self._connection, self._pid = connection, os.getpid()
        return connection

    def _opened(self, place: str) -> sqlite3.Connection:
        # isolation_level=None: each statement commits by itself; 60 s: other processes may be writing.
        connection = sqlite3.connect(
            place, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=self.read_only
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_place(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: the store of runs has to be a file")
        if not path.parent.is_dir():
            raise ValueError(f"{path} cannot be a store of runs: there is no folder {path.parent}")
        if self.read_only:
            if not path.exists():
                raise ValueError(f"there is no store {path}")
            return
        if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be a store of runs: no permission to write there")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")  # one moment of the file, in which another process may just be making it
        try:
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            application = connection.execute("PRAGMA application_id").fetchone()[0]
        finally:
            connection.execute("ROLLBACK")
        if tables and application != APPLICATION_ID:
            raise ValueError(f"{self.path} is an SQLite file of another program, not a store of runs")
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} was written by a newer anytask (format {version}; this one reads {SCHEMA_VERSION}): "
                "upgrade anytask, or name another file"
            )
        if self.read_only:
            if not tables:
                raise ValueError(f"{self.path} is empty: no comparison has used it as a store of runs")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        connection.execute(_COMPARISONS)


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key.item() if isinstance(key, np.generic) else key)
