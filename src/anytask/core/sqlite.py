"""One SQLite file that several processes share: checked when it is opened, and watched while it is used."""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Self

from anytask.core.errors import StoreError, check_flags, instance_of, shown
from anytask.core.files import as_path


class SQLiteFile:
    """Rows in one SQLite file, in write-ahead mode, which needs a local disk (not a network share).

    A subclass names its tables. Whatever is wrong with the file is one line that names it: a folder, another program's
    database, a newer format, tables with other columns, a damaged log, a full disk. So is a file that is deleted or
    replaced while it is in use, where SQLite would go on writing to what nobody finds again.

    Parameters
    ----------
    path : path
        The file, created with its tables when it does not exist; ``":memory:"`` keeps the rows in this process.
    read_only : bool, default False
        Only look: the file must exist, and nothing in it changes.
    timeout : float, default 60
        Seconds to wait while another process holds the file.

    Raises
    ------
    StoreError
        A ``ValueError``: if the file cannot be used.
    """

    #: What the file is, after "a" in messages.
    what: ClassVar[str] = "store"
    #: Written into the file's header, so that another program's file is never mistaken for one of this kind.
    application_id: ClassVar[int] = 0
    #: Format; files of a later one are refused.
    version: ClassVar[int] = 1
    #: For each table, its columns with their types. Tables that a file lacks are added when it is opened to write.
    tables: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    path: str
    read_only: bool
    timeout: float
    _lock: Any
    _pid: int

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, timeout: float = 60.0) -> None:
        self.path = os.fspath(as_path(path))
        check_flags(read_only=read_only)
        self.read_only = read_only
        if isinstance(timeout, bool) or not isinstance(timeout, Real) or not 0 <= timeout < 1e9:
            raise ValueError(f"timeout must be a number of seconds of at least 0, got {shown(timeout)}")
        self.timeout = timeout
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._files: tuple[Any, ...] = ()
        with self._named():
            self._connect()

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, committed by itself unless in a transaction, and return its rows."""
        instance_of("statement", str, optional=False)(statement)
        with self._lock, self._named():
            rows = self._connect().execute(statement, values).fetchall()
            self._check_in_place()
            return rows

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the file: what is executed inside is one change, which no other process comes between."""
        with self._lock, self._named():
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._check_in_place()

    def close(self) -> None:
        """Close the file. It is opened anew when it is used again."""
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
            raise TypeError(f"a {self.what} in memory cannot be sent to another process: give it a file")
        return {"path": self.path, "read_only": self.read_only, "timeout": self.timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise StoreError(f"{self.path} cannot be used as a {self.what}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        if self.path == ":memory:":
            connection = self._opened(self.path)
        else:
            self._check_place()
            connection = self._opened_file()
        self._connection, self._pid, self._files = connection, os.getpid(), self._identity()
        return connection

    def _opened_file(self) -> sqlite3.Connection:
        uri = f"{Path(self.path).absolute().as_uri()}?mode={'ro' if self.read_only else 'rwc'}"
        try:
            return self._opened(uri)
        except sqlite3.OperationalError as error:
            # Write-ahead mode keeps two files beside the store while it is open, and reading makes them too. Where they
            # can't be made nobody writes, and without a log the file is whole.
            log = Path(f"{self.path}-wal")
            alone = not os.access(log.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
            if not self.read_only or not alone or "locked" in str(error):
                raise
            return self._opened(f"{uri}&immutable=1")

    def _opened(self, place: str) -> sqlite3.Connection:
        # isolation_level=None: each statement commits by itself.
        connection = sqlite3.connect(
            place, timeout=self.timeout, isolation_level=None, check_same_thread=False, uri=place != ":memory:"
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_place(self) -> None:
        path = Path(self.path)
        if path.exists() and not path.is_file():
            kind = "folder" if path.is_dir() else "special file"
            raise StoreError(f"{path} is a {kind}, and a {self.what} is an ordinary file")
        if not path.parent.is_dir():
            raise StoreError(f"{path} cannot be a {self.what}: there is no folder {path.parent}")
        if self.read_only and not path.exists():
            raise StoreError(f"there is no {self.what} {path}")
        writable = os.access(path if path.exists() else path.parent, os.W_OK) and os.access(path.parent, os.W_OK)
        if not self.read_only and not writable:
            raise StoreError(f"{path} cannot be a {self.what}: no permission to write there")
        log = Path(f"{path}-wal")
        if not _sound_log(log):
            time.sleep(0.05)  # another process may just be writing it
            if not _sound_log(log):
                raise StoreError(f"{log} is damaged, and what was last stored in {path} is in it: restore or remove it")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")  # one moment of the file, in which another process may just be making it
        try:
            found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version, application = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
            )
            columns = {name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in found}
        finally:
            connection.execute("ROLLBACK")
        if found and application != self.application_id:
            raise StoreError(f"{self.path} is an SQLite file of another program, not a {self.what}")
        if version > self.version:
            raise StoreError(
                f"{self.path} was written by a newer anytask (format {version}; this one reads {self.version}): "
                "upgrade anytask, or name another file"
            )
        for name, wanted in self.tables.items():
            if name in found and (lacking := [column for column in wanted if column not in columns[name]]):
                raise StoreError(f"{self.path} is no {self.what}: its table {name} has no column {', '.join(lacking)}")
        if self.read_only:
            if not found:
                raise StoreError(f"{self.path} is empty, and a {self.what} is wanted")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if not found >= set(self.tables):
            made = " ".join(
                f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(f'{c} {kind}' for c, kind in wanted.items())});"
                for name, wanted in self.tables.items()
            )
            connection.executescript(
                f"BEGIN IMMEDIATE; {made} PRAGMA application_id = {self.application_id};"
                f" PRAGMA user_version = {self.version}; COMMIT;"
            )

    def _identity(self) -> tuple[Any, ...]:
        """Return which files the path and its log name, as numbers of the file system."""
        if self.path == ":memory:" or self.read_only:
            return ()
        return tuple((s.st_dev, s.st_ino) if (s := _stat(self.path + end)) else None for end in ("", "-wal"))

    def _check_in_place(self) -> None:
        if self._identity() != self._files:
            raise StoreError(f"{self.path} was deleted or replaced while it was in use: what was just stored is lost")


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _sound_log(log: Path) -> bool:
    """Whether the header of a write-ahead log has its right checksum; of one with a wrong one, SQLite reads nothing."""
    try:
        with log.open("rb") as file:
            header = file.read(32)
    except FileNotFoundError:
        return True
    if len(header) < 32:  # nothing is in it yet
        return True
    magic = int.from_bytes(header[:4])
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", header[:24])
    a = b = 0
    for first, second in zip(words[::2], words[1::2]):
        a = (a + first + b) & 0xFFFFFFFF
        b = (b + second + a) & 0xFFFFFFFF
    return magic >> 1 == 0x377F0682 >> 1 and (a, b) == struct.unpack(">2I", header[24:])
