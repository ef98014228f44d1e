"""A file is the old one or the new one, whatever happens while it is written."""

import os
import stat

import pytest

from anytask.core import files


def test_a_failure_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    files.write_whole(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.html"]


def test_others_may_read_it_as_far_as_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "a", "\u2013")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert (tmp_path / "a").read_text(encoding="utf-8") == "\u2013"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYTASK_CACHE", str(tmp_path / "own"))
    assert files.cache_folder("models") == tmp_path / "own" / "models" and (tmp_path / "own" / "models").is_dir()
    monkeypatch.delenv("ANYTASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "anytask"
