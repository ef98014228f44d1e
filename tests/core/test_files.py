"""A file is the old one or the new one, whatever happens while it is written."""

import os
import stat
import sys

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


def written(path, text):
    with files.replacing(path) as place:
        place.mkdir()
        (place / "a").write_text(text)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot swap folders")
def test_a_folder_is_there_whenever_a_kill_comes(tmp_path, monkeypatch):
    path, seen = tmp_path / "best", []
    written(path, "old")

    def watched(step):
        def done(*places):
            found = step(*places)
            seen.append((path / "a").read_text())  # as a kill now would leave it
            return found

        return done

    for module, name in ((files.os, "replace"), (files.os, "rename"), (files, "_exchanged")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    written(path, "new")
    assert seen[-1] == "new" and os.listdir(tmp_path) == ["best"]


def test_where_folders_cannot_be_swapped_a_failure_puts_the_old_one_back(tmp_path, monkeypatch):
    path, replace = tmp_path / "best", os.replace
    written(path, "old")
    monkeypatch.setattr(files, "_exchanged", lambda a, b: False)
    written(path, "second")
    assert (path / "a").read_text() == "second" and os.listdir(tmp_path) == ["best"]

    def fails(source, target):
        if source.name == "new":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        written(path, "third")
    assert (path / "a").read_text() == "second" and os.listdir(tmp_path) == ["best"]
