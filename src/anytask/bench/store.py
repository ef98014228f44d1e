"""Runs and the one SQLite file that keeps them.

A run is stored in the moment it ends, so a comparison that is killed half-way loses only what was running.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

Status = Literal["done", "failed"]

#: Written into the file's header, so that a foreign SQLite file is never mistaken for a store.
APPLICATION_ID = 0x414E5954  # "ANYT"
SCHEMA_VERSION = 1

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


class RunStore:
    """All runs in one SQLite file; several processes may use it at once.

    Every :meth:`put` is its own transaction in write-ahead mode, with ``synchronous=FULL``: a finished run is worth
    minutes and a commit costs milliseconds, so runs survive a kill and a power cut alike. Write-ahead mode needs a
    local disk (not a network share).

    Parameters
    ----------
    path : path
        The file, created with its table when it does not exist; ``":memory:"`` keeps the runs in this process.

    Raises
    ------
    ValueError
        If the file is not a store of anytask, comes from a newer anytask, or cannot be written.

    Examples
    --------
    >>> with RunStore(":memory:") as store:
    ...     store.put(Run(key="k", problem="toy", data_name="d", data_fingerprint="f", entrant_name="a", entry="m:A",
    ...                   seed=0, finished="2026-01-01T00:00:00+00:00"))
    ...     len(store), store.get("k").entrant_name, store.get("other")
    (1, 'a', None)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
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
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

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
        connection = None
        try:
            # isolation_level=None: each statement commits by itself; 60 s: other processes may be writing.
            connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._prepare(connection)
        except sqlite3.DatabaseError as error:
            if connection is not None:
                connection.close()
            raise ValueError(f"{self.path} cannot be used as a store of runs: {error}") from error
        except ValueError:
            if connection is not None:
                connection.close()
            raise
        self._connection, self._pid = connection, os.getpid()
        return connection

    def _check_place(self) -> None:
        path = Path(self.path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder: the store of runs has to be a file")
        if not path.parent.is_dir():
            raise ValueError(f"{path} cannot be a store of runs: there is no folder {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be a store of runs: no permission to write there")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise ValueError(f"{self.path} is an SQLite file of another program, not a store of runs")
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{self.path} was written by a newer anytask (format {version}; this one reads {SCHEMA_VERSION}): "
                "upgrade anytask, or name another file"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )


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


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key.item() if isinstance(key, np.generic) else key)
