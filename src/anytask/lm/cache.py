"""Answers kept on disk: chat replies and option scores, in SQLite."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from anytask.lm.protocol import LMError, OptionScore

__all__ = ["ReplyCache"]

Mode = Literal["off", "read", "write", "replay-only"]


class _Store:
    """One SQLite file in WAL mode, opened once per thread and per process."""

    _schema = ""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        with self._connection() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(self._schema)

    def _connection(self) -> sqlite3.Connection:
        held = getattr(self._local, "held", None)
        if held is None or held[0] != os.getpid():
            try:
                db = sqlite3.connect(self.path, timeout=60)
            except sqlite3.OperationalError as error:
                raise OSError(f"cannot open the cache {self.path}: {error}") from error
            db.execute("PRAGMA synchronous=NORMAL")
            held = self._local.held = (os.getpid(), db)
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def close(self) -> None:
        """Close this thread's connection; the next use opens it again."""
        held = getattr(self._local, "held", None)
        if held is not None:
            held[1].close()
            self._local.held = None


class ScoreCache(_Store):
    """Option scores on disk, for :class:`~anytask.lm.LocalLM` runs that may be interrupted.

    Parameters
    ----------
    path : path
        The SQLite file; made if need be. Several processes may share it.
    """

    _schema = "CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, n_bytes INTEGER, logprobs TEXT) WITHOUT ROWID"

    def get_many(self, fingerprint: str, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], OptionScore]:
        """The stored scores among ``pairs`` of (prompt, option)."""
        keys = {_score_key(fingerprint, *pair): pair for pair in pairs}
        found = {}
        all_keys = list(keys)
        for first in range(0, len(all_keys), 500):
            part = all_keys[first : first + 500]
            marks = ",".join("?" * len(part))
            rows = self._connection().execute(f"SELECT key, n_bytes, logprobs FROM scores WHERE key IN ({marks})", part)
            for key, n_bytes, text in rows:
                logprobs = tuple(json.loads(text))
                found[keys[key]] = OptionScore(sum(logprobs), len(logprobs), n_bytes, logprobs)
        return found

    def put_many(self, fingerprint: str, scores: Mapping[tuple[str, str], OptionScore]) -> None:
        """Store ``scores`` in one transaction."""
        rows = [
            (_score_key(fingerprint, *pair), score.n_bytes, json.dumps(score.token_logprobs))
            for pair, score in scores.items()
        ]
        with self._connection() as db:
            db.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self._connection().execute("SELECT COUNT(*) FROM scores").fetchone()[0])


def _score_key(fingerprint: str, prompt: str, option: str) -> bytes:
    return hashlib.sha256(json.dumps([fingerprint, prompt, option]).encode()).digest()


class ReplyCache(_Store):
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

    _schema = (
        "CREATE TABLE IF NOT EXISTS replies "
        "(key TEXT PRIMARY KEY, request TEXT NOT NULL, reply TEXT NOT NULL, time REAL NOT NULL)"
    )

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "write") -> None:
        if mode not in ("off", "read", "write", "replay-only"):
            raise ValueError(f"mode is 'off', 'read', 'write' or 'replay-only', and {mode!r} was given")
        if mode in ("read", "replay-only") and not Path(path).is_file():
            raise FileNotFoundError(f"no reply cache at {path}, and mode {mode!r} makes none")
        self.mode = mode
        if mode == "off":
            self.path, self._local = Path(path), threading.local()
        else:
            super().__init__(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["mode"])  # type: ignore[misc]

    def get(self, model: str, request: Mapping[str, Any], sample: int) -> dict[str, Any] | None:
        """The stored reply, or None; in mode "replay-only" a miss raises :class:`LMError`."""
        if self.mode == "off":
            return None
        key, text = _reply_key(model, request, sample)
        row = self._connection().execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return dict(json.loads(row[0]))
        if self.mode == "replay-only":
            raise LMError(f"{self.path} holds no reply for this request of {model!r}: {text[:200]}")
        return None

    def put(self, model: str, request: Mapping[str, Any], sample: int, reply: Mapping[str, Any]) -> None:
        """Store a reply; does nothing except in mode "write"."""
        if self.mode != "write":
            return
        key, text = _reply_key(model, request, sample)
        with self._connection() as db:
            row = (key, text, json.dumps(reply, default=str), time.time())
            db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)", row)

    def __len__(self) -> int:
        return int(self._connection().execute("SELECT COUNT(*) FROM replies").fetchone()[0])


def _reply_key(model: str, request: Mapping[str, Any], sample: int) -> tuple[str, str]:
    kept = {name: value for name, value in request.items() if name not in ("tag", "metadata", "n")}
    text = json.dumps({"model": model, "request": kept}, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{text}#{sample}".encode()).hexdigest(), text
