"""Answers kept on disk in SQLite, with a checksum each: chat replies, option scores, vectors."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from anytask.core.errors import instance_of, shown
from anytask.core.files import as_path
from anytask.core.sqlite import SQLiteFile
from anytask.lm.protocol import LMError, OptionScore

__all__ = ["ReplyCache"]

T = TypeVar("T")
Mode = Literal["off", "read", "write", "replay-only"]


class Store(SQLiteFile):
    """Rows of one SQLite file, each under a key and with a checksum; several processes may share the file.

    A subclass names its table and the columns beside the key.

    Parameters
    ----------
    path : path
        The file; made if need be, with its folder.
    read_only : bool, default False
        Only look.
    timeout : float, default 60
        Seconds to wait while another process holds the file.

    Raises
    ------
    ValueError
        If the file cannot be used, or a row that is read was changed or damaged, naming the file.
    """

    what = "cache"
    _table: ClassVar[str]
    _columns: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        cls.tables = {cls._table: {"key": "PRIMARY KEY", **dict.fromkeys((*cls._columns, "digest"), "")}}

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, timeout: float = 60.0) -> None:
        if not read_only:
            as_path(path).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, read_only=read_only, timeout=timeout)

    def _read(self, keys: Sequence[Any], read: Callable[..., T]) -> dict[Any, T]:
        """Return what ``read`` makes of the columns of each key that is there."""
        found: dict[Any, T] = {}
        columns = ", ".join(self.tables[self._table])
        for first in range(0, len(keys), 500):
            part = tuple(keys[first : first + 500])
            marks = ",".join("?" * len(part))
            for *row, digest in self.execute(f"SELECT {columns} FROM {self._table} WHERE key IN ({marks})", part):
                try:
                    if digest != _digest(row):
                        raise ValueError("the checksum of a row is wrong")
                    found[row[0]] = read(*row[1:])
                except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                    raise ValueError(f"the cache {self.path} was changed or is damaged: {error}; remove it") from error
        return found

    def _write(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Store rows of a key and its columns in one transaction."""
        marks = ",".join("?" * len(self.tables[self._table]))
        with self.transaction():
            for row in rows:
                self.execute(f"INSERT OR REPLACE INTO {self._table} VALUES ({marks})", (*row, _digest(row)))

    def __len__(self) -> int:
        return int(self.execute(f"SELECT COUNT(*) FROM {self._table}")[0][0])


def _digest(row: Sequence[Any]) -> bytes:
    return hashlib.sha256(repr(tuple(row)).encode()).digest()[:16]


class ScoreCache(Store):
    """Option scores on disk, for :class:`~anytask.lm.LocalLM` runs that may be interrupted."""

    _table, _columns = "scores", ("n_bytes", "logprobs")

    def get_many(self, fingerprint: str, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], OptionScore]:
        """The stored scores among ``pairs`` of (prompt, option)."""
        keys = {_score_key(fingerprint, *pair): pair for pair in pairs}
        return {keys[key]: score for key, score in self._read(list(keys), _score).items()}

    def put_many(self, fingerprint: str, scores: Mapping[tuple[str, str], OptionScore]) -> None:
        """Store ``scores`` in one transaction."""
        self._write(
            (_score_key(fingerprint, *pair), score.n_bytes, json.dumps(score.token_logprobs))
            for pair, score in scores.items()
        )


def _score(n_bytes: int, text: str) -> OptionScore:
    logprobs = tuple(json.loads(text))
    return OptionScore(sum(logprobs), len(logprobs), n_bytes, logprobs)


def _score_key(fingerprint: str, prompt: str, option: str) -> bytes:
    return hashlib.sha256(json.dumps([fingerprint, prompt, option]).encode()).digest()


class ReplyCache(Store):
    """Chat replies on disk, and the way to ship an example that once used a real model.

    Parameters
    ----------
    path : path
        The SQLite file; made if need be.
    mode : {"write", "read", "replay-only", "off"}, default "write"
        "write" answers from the file and stores what is new. "read" answers from the file and stores nothing.
        "replay-only" answers from the file alone: a request it does not hold is an error, so a run is exact and free.
        "off" does nothing.

    Notes
    -----
    The key is the SHA-256 of the canonical JSON of the model's name, every field of the request except ``tag`` and
    ``metadata``, and the sample's index: with ``n=4`` four replies are stored, and repeats are exact at any
    temperature.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = ReplyCache(folder + "/replies.sqlite")
    ...     cache.put("gpt", {"messages": [{"role": "user", "content": "2 + 2"}]}, 0, {"text": "4"})
    ...     cache.get("gpt", {"messages": [{"role": "user", "content": "2 + 2"}]}, 0)
    {'text': '4'}
    """

    _table, _columns = "replies", ("request", "reply", "time")

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "write") -> None:
        if not isinstance(mode, str) or mode not in ("off", "read", "write", "replay-only"):
            raise ValueError(f"mode is 'off', 'read', 'write' or 'replay-only', and {shown(mode)} was given")
        self.mode, self.path = mode, os.fspath(as_path(path))
        if mode in ("read", "replay-only") and not Path(path).is_file():
            raise FileNotFoundError(f"no reply cache at {path}, and mode {mode!r} makes none")
        if mode != "off":
            super().__init__(path, read_only=mode != "write")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "mode": self.mode}

    def get(
        self, model: str, request: Mapping[str, Any], sample: int, read: Callable[[dict[str, Any]], Any] = dict
    ) -> Any:
        """What ``read`` makes of the stored reply, or None; in mode "replay-only" a miss raises :class:`LMError`."""
        if self.mode == "off":
            return None
        key, text = _reply_key(model, request, sample)
        found = self._read([key], lambda _request, reply, _time: read(json.loads(reply)))
        if key in found:
            return found[key]
        if self.mode == "replay-only":
            raise LMError(f"{self.path} holds no reply for this request of {model!r}: {text[:200]}")
        return None

    def put(self, model: str, request: Mapping[str, Any], sample: int, reply: Mapping[str, Any]) -> None:
        """Store a reply; does nothing except in mode "write"."""
        instance_of("reply", Mapping, optional=False)(reply)
        if self.mode == "write":
            key, text = _reply_key(model, request, sample)
            self._write([(key, text, json.dumps(reply, default=str), time.time())])


def _reply_key(model: str, request: Mapping[str, Any], sample: int) -> tuple[str, str]:
    instance_of("model", str, optional=False)(model)
    instance_of("request", Mapping, optional=False)(request)
    instance_of("sample", int, optional=False)(sample)
    kept = {name: value for name, value in request.items() if name not in ("tag", "metadata", "n")}
    try:
        text = json.dumps({"model": model, "request": kept}, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"a request must be JSON: {error}") from None
    return hashlib.sha256(f"{text}#{sample}".encode()).hexdigest(), text
