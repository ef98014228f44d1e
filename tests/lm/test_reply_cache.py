"""The reply cache's keys and modes, and what becomes of files that were changed."""

from __future__ import annotations

import pickle
import sqlite3

import numpy as np
import pytest

from anytask.lm.cache import ReplyCache, ScoreCache, _digest
from anytask.lm.embeddings import VectorCache
from anytask.lm.protocol import LMError, OptionScore

REQUEST = {"messages": [{"role": "user", "content": "hi"}], "temperature": 1.0, "tag": "a", "metadata": {"id": 1}}


def test_keys_leave_out_tag_and_metadata_and_keep_everything_else(tmp_path):
    cache = ReplyCache(tmp_path / "c.sqlite")
    cache.put("m", REQUEST, 0, {"text": "one"})
    assert cache.get("m", REQUEST | {"tag": "b", "metadata": {}}, 0) == {"text": "one"}
    assert cache.get("m", REQUEST, 1) is None
    assert cache.get("other", REQUEST, 0) is None
    assert cache.get("m", REQUEST | {"temperature": 0.5}, 0) is None
    assert cache.get("m", dict(reversed(REQUEST.items())), 0) == {"text": "one"}


def test_modes(tmp_path):
    path = tmp_path / "c.sqlite"
    with pytest.raises(FileNotFoundError):
        ReplyCache(path, "replay-only")
    ReplyCache(path).put("m", REQUEST, 0, {"text": "one"})
    reading = ReplyCache(path, "read")
    reading.put("m", REQUEST, 1, {"text": "two"})
    assert len(reading) == 1 and reading.get("m", REQUEST, 1) is None
    with pytest.raises(LMError, match="holds no reply"):
        ReplyCache(path, "replay-only").get("m", REQUEST, 1)
    off = ReplyCache(path, "off")
    off.put("m", REQUEST, 1, {"text": "two"})
    assert off.get("m", REQUEST, 0) is None
    with pytest.raises(ValueError, match="replay-only"):
        ReplyCache(path, "replay")
    assert pickle.loads(pickle.dumps(reading)).get("m", REQUEST, 0) == {"text": "one"}


PAIR = ("prompt", "option")
STORES = {
    "replies": (
        ReplyCache,
        lambda cache: cache.put("m", REQUEST, 0, {"text": "one"}),
        lambda cache: cache.get("m", REQUEST, 0),
    ),
    "scores": (
        ScoreCache,
        lambda cache: cache.put_many("w", {PAIR: OptionScore(-1.5, 2, 6, (-1.0, -0.5))}),
        lambda cache: cache.get_many("w", [PAIR])[PAIR],
    ),
    "embeddings": (
        VectorCache,
        lambda cache: cache.put_many({b"key": np.ones(3, np.float32)}),
        lambda cache: cache.get_many([b"key"], 3)[b"key"],
    ),
}


def changed(table, folder, change, *, signed=False):
    """A store of which a row was changed, by somebody who knows of checksums or not."""
    kind, put, _ = STORES[table]
    cache = kind(folder / "c.sqlite")
    put(cache)
    with sqlite3.connect(cache.path) as db:
        db.execute(f"UPDATE {table} SET {'reply' if table == 'replies' else kind._columns[-1]} = {change}")
        for *row, _ in db.execute(f"SELECT * FROM {table}").fetchall() if signed else ():
            db.execute(f"UPDATE {table} SET digest = ?", [_digest(row)])
    return kind(cache.path)


@pytest.mark.parametrize("table", STORES)
@pytest.mark.parametrize("change", ["'{}'", "'[-0.5]'", "'['", "NULL", "3", "x'00'"])
def test_a_row_that_was_changed_is_an_error_that_names_the_file(tmp_path, table, change):
    cache = changed(table, tmp_path, change)
    with pytest.raises(ValueError, match="was changed or is damaged: the checksum") as caught:
        STORES[table][2](cache)
    assert str(cache.path) in str(caught.value)
    STORES[table][1](cache)
    STORES[table][2](cache)  # written anew, it is right again


@pytest.mark.parametrize(
    ("table", "change"),
    [
        *(("replies", change) for change in ("'['", "NULL", "3")),
        *(("scores", change) for change in ("'[NaN]'", "'[0.5]'", "'[]'", "'{}'")),
        *(("embeddings", change) for change in ("x'0000c07f0000c07f0000c07f'", "x'00'")),
    ],
)
def test_a_row_that_cannot_be_is_refused_whatever_its_checksum(tmp_path, table, change):
    cache = changed(table, tmp_path, change, signed=True)
    with pytest.raises(ValueError, match="was changed or is damaged") as caught:
        STORES[table][2](cache)
    assert str(cache.path) in str(caught.value)


def test_files_from_before_there_were_checksums_are_refused_by_name(tmp_path):
    put, _ = STORES["replies"][1:]
    cache = ReplyCache(tmp_path / "c.sqlite")
    put(cache)
    with sqlite3.connect(cache.path) as db:
        db.execute("ALTER TABLE replies DROP COLUMN digest")
    with pytest.raises(ValueError, match=r"c\.sqlite is no cache: its table replies has no column digest"):
        ReplyCache(cache.path, "replay-only")


@pytest.mark.parametrize("table", STORES)
def test_a_file_that_is_no_database_is_named(tmp_path, table):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="cannot be used as a cache") as caught:
        STORES[table][0](path)
    assert str(path) in str(caught.value)
