"""The reply cache's keys and modes."""

from __future__ import annotations

import pickle

import pytest

from anytask.lm.cache import ReplyCache
from anytask.lm.protocol import LMError

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
