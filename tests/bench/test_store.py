"""The store keeps runs through kills, crowds and foreign files."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytask.bench import Run, RunStore
from anytask.bench.store import SILENT_SECONDS, Record, jsonable


def run(key="k", **values):
    base = {"problem": "toy", "data_name": "d", "data_fingerprint": "f", "entrant_name": "a", "entry": "m:A", "seed": 0}
    return Run(key=key, **(base | values))


def test_a_run_comes_back_as_it_was_put(tmp_path):
    kept = run(
        metrics={"a": 0.25}, details={"m": [[1, 2], [3, 4]]}, error={"type": "E"}, notes=["n"], host={"cores": 2}
    )
    with RunStore(tmp_path / "s.sqlite") as store:
        store.put(kept)
    with RunStore(tmp_path / "s.sqlite") as store:
        assert store.get("k") == kept
        assert store.get("other") is None


def test_put_replaces_and_delete_removes(tmp_path):
    store = RunStore(tmp_path / "s.sqlite")
    store.put(run(status="failed"))
    store.put(run(status="done"))
    assert len(store) == 1 and store.get("k").status == "done"
    assert store.delete("k") and not store.delete("k") and len(store) == 0


def test_an_empty_store_is_still_a_store():
    store = RunStore(":memory:")
    assert len(store) == 0 and (store or "another") is store


def test_runs_filters_by_every_condition():
    store = RunStore(":memory:")
    store.put(run("1", problem="p", finished="2"))
    store.put(run("2", problem="p", data_fingerprint="g", finished="1"))
    store.put(run("3", status="failed", finished="3"))
    assert [r.key for r in store.runs()] == ["2", "1", "3"]
    assert [r.key for r in store.runs(problem="p")] == ["2", "1"]
    assert [r.key for r in store.runs(problem="p", fingerprint="g")] == ["2"]
    assert [r.key for r in store.runs(status="failed", entrant="a")] == ["3"]


def test_values_that_are_not_finite_survive_as_nan():
    store = RunStore(":memory:")
    store.put(run(metrics={"a": math.nan, "b": math.inf}, details={"x": np.array([1.0, np.nan])}))
    back = store.get("k")
    assert math.isnan(back.metrics["a"]) and math.isnan(back.metrics["b"]) and back.details == {"x": [1.0, None]}


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_json_values_are_their_own_json(value):
    assert jsonable(value) == value


def test_what_json_cannot_hold_is_named():
    with pytest.raises(TypeError, match="object"):
        jsonable({"a": [object()]})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_text("these are not the runs you are looking for, at all" * 20), "not a database"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: sqlite3.connect(p).execute("CREATE TABLE t (a)").connection.close(), "another program"),
    ],
)
def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "s.sqlite"
    make(path)
    with pytest.raises(ValueError, match=words) as caught:
        RunStore(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_newer_format_is_refused(tmp_path):
    path = tmp_path / "s.sqlite"
    RunStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"s\.sqlite was written by a newer anytask \(format 99"):
        RunStore(path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        RunStore(tmp_path / "nowhere" / "s.sqlite")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("anytask.bench.store.os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"s\.sqlite cannot be a store of runs: no permission"):
        RunStore(tmp_path / "s.sqlite")


def test_several_processes_write_at_once(tmp_path):
    path = tmp_path / "s.sqlite"
    code = (
        "import sys; from anytask.bench import Run, RunStore\n"
        "store = RunStore(sys.argv[1])\n"
        "for i in range(20):\n"
        "    store.put(Run(key=f'{sys.argv[2]}-{i}', problem='p', data_name='d', data_fingerprint='f',"
        " entrant_name='a', entry='m:A', seed=i))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, path, str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(RunStore(path)) == 60


def test_a_killed_comparison_loses_and_repeats_no_finished_run(tmp_path):
    """SIGKILL half-way: afterwards each run that was stored is made exactly once over both sessions."""
    script = tmp_path / "session.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from toy_problem import Toy, Entrant\n"
        "from anytask.bench import compare\n"
        "ended = 0\n"
        "def kill(what, about):\n"
        "    global ended\n"
        "    ended += what == 'ended'\n"
        "    if ended == 5 and sys.argv[1] == 'kill':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "toy = Toy()\n"
        f"Toy.log = {str(tmp_path / 'log')!r}\n"
        "compare(toy, 'toy', [Entrant('a', 'toy_problem:Guess')], seeds=3, backend='sequential',\n"
        f"        store={str(tmp_path / 's.sqlite')!r}, on_event=kill)\n"
    )
    first = subprocess.run([sys.executable, script, "kill"])
    assert first.returncode == -9
    with RunStore(tmp_path / "s.sqlite") as store:
        assert len(store) == 5
    subprocess.run([sys.executable, script, "go on"], check=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 12 and len(set(lines)) == 12
    assert len(RunStore(tmp_path / "s.sqlite")) == 12


# -- comparisons -------------------------------------------------------------------------------------------------


def record(id="one", plan="p", **changes):
    return Record(
        **{"id": id, "plan": plan, "problem": "toy", "fingerprint": "f", "data_name": "d", "body": {}} | changes
    )


def test_a_comparison_is_noted_asked_to_stop_and_ended(tmp_path):
    with RunStore(tmp_path / "s.sqlite") as store, RunStore(tmp_path / "s.sqlite") as other:
        store.begin(record(body={"seeds": [0, 1]}))
        assert not store.stop_requested("one")
        assert other.request_stop("one") and not other.request_stop("unknown")
        assert store.stop_requested("one")
        store.end("one", "stopped")
        (found,) = other.comparisons()
        assert (found.state, found.stop, found.body) == ("stopped", True, {"seeds": [0, 1]})
        assert not other.request_stop("one"), "what has ended cannot be stopped"


def test_a_comparison_that_goes_on_takes_the_place_of_the_one_that_ended(tmp_path):
    with RunStore(tmp_path / "s.sqlite") as store:
        store.begin(record("first"))
        store.end("first", "interrupted")
        store.begin(record("second"))
        store.begin(record("beside it"))
        store.begin(record("other runs", plan="q"))
        assert {r.id for r in store.comparisons()} == {"second", "beside it", "other runs"}


def test_a_comparison_without_a_sign_of_life_is_taken_for_dead(tmp_path):
    with RunStore(tmp_path / "s.sqlite") as store:
        store.begin(record("killed"))
        assert store.comparisons()[0].silent_seconds() < SILENT_SECONDS
        store.execute("UPDATE comparisons SET seen = '2026-01-01T00:00:00+00:00'")
        assert store.comparisons()[0].silent_seconds() > SILENT_SECONDS
        store.begin(record("again"))
        assert [r.id for r in store.comparisons()] == ["again"]


def test_a_beat_is_a_sign_of_life(tmp_path):
    with RunStore(tmp_path / "s.sqlite") as store:
        store.begin(record())
        store.execute("UPDATE comparisons SET seen = '2026-01-01T00:00:00+00:00'")
        store.beat("one")
        assert store.comparisons()[0].silent_seconds() < SILENT_SECONDS


def test_a_reader_sees_what_a_writer_commits_and_changes_nothing(tmp_path):
    path = tmp_path / "s.sqlite"
    with RunStore(path) as store, RunStore(path, read_only=True) as reader:
        store.put(run("k"))
        assert list(reader.runs_of(["k", "other"])) == ["k"]
        with pytest.raises(ValueError, match="readonly"):
            reader.put(run("l"))


def test_a_reader_wants_a_store_that_exists(tmp_path):
    with pytest.raises(ValueError, match="there is no store"):
        RunStore(tmp_path / "none.sqlite", read_only=True)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(ValueError, match="is empty"):
        RunStore(tmp_path / "empty.sqlite", read_only=True)


def test_a_store_that_knows_only_of_runs_is_read_and_then_completed(tmp_path):
    path = tmp_path / "s.sqlite"
    with RunStore(path) as store:
        store.put(run("k"))
        store.execute("DROP TABLE comparisons")
    with RunStore(path, read_only=True) as reader:
        assert reader.comparisons() == [] and len(reader) == 1
    with RunStore(path) as store:
        store.begin(record())
        assert len(store.comparisons()) == 1
