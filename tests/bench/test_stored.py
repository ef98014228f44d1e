"""A comparison says in its store that it goes on, can be stopped from outside, and is read back as it was."""

import threading
import time

import pytest
from toy_problem import Toy, await_stop

from anytask.bench import RunStore, compare
from anytask.bench.report import render
from anytask.bench.store import Run
from anytask.bench.stored import loose_records, stored_comparison
from anytask.problems.base import Entrant

ENTRY = "toy_problem:Guess"


def system(name="tame", **params):
    return Entrant(name, ENTRY, {"level": 0.8} | params)


def read_back(path, which=0):
    with RunStore(path, read_only=True) as store:
        record = store.comparisons()[which]
        return record, stored_comparison(record, store.runs_of(record.body["keys"]))


def test_what_is_read_back_is_what_was_compared(tmp_path):
    path = tmp_path / "s.sqlite"
    made = compare(Toy(), "toy", [system(), system("broken", do="fail")], seeds=3, backend="sequential", store=path)
    record, found = read_back(path)
    assert record.state == "done" and not record.stop
    assert found.to_json() == made.to_json()
    assert found.table().equals(made.table())


def test_the_report_of_a_stored_comparison_is_the_same_but_for_its_time(tmp_path):
    path = tmp_path / "s.sqlite"
    made = compare(Toy(), "toy", [system()], seeds=2, backend="sequential", store=path)
    (pieces, other) = (render(made), render(read_back(path)[1]))
    # Plotly names each figure by chance, and the report says when it was written.
    assert len(pieces) == pytest.approx(len(other), abs=10)
    assert "tame ranks first on toy" in other and "compare(Toy(), &#39;toy&#39;" in other


def test_a_record_of_a_version_that_noted_no_setting_is_read_and_its_options_limit_what_was_told():
    """Runs of such a version say what their class looks at; the options say how much of it the stream showed."""
    names = {"replay": "test", "tame": "none", "joint-training": "test"}
    runs = {
        name: Run(key=name, problem="task-stream", data_name="d", data_fingerprint="f", entrant_name=name, entry="m:A",
                  seed=0, role="baseline", sees=sees, metrics={"accuracy": 0.5}, settings={"identity": "none"})
        for name, sees in names.items()
    }  # fmt: skip
    ((record, found),) = loose_records(runs.values())
    record.body = {key: value for key, value in record.body.items() if key not in ("privileges", "setting")}
    comparison = stored_comparison(record, found)
    assert [{row.name for row in group.rows} for group in comparison.groups] == [{"replay", "tame"}]
    assert "joint-training" in comparison.headline() and comparison.problem.setting(comparison.data) == ""


@pytest.mark.parametrize("backend", ["sequential", "threading", "loky"])
def test_a_stop_request_ends_a_comparison_and_keeps_what_had_begun(tmp_path, backend):
    path = tmp_path / "s.sqlite"
    slow = system("slow", do="sleep 0.3")
    found = []

    def work():
        found.append(compare(
            Toy(), "toy", [slow], seeds=400, baselines=False, jobs=2, backend=backend, store=path
        ))  # fmt: skip

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 120
    with RunStore(path) as store:
        while not len(store):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (record,) = store.comparisons()
        assert record.state == "running"
        assert store.request_stop(record.id)
    thread.join()
    (comparison,) = found
    assert comparison.stopped and comparison.runs and len(comparison.runs) + len(comparison.not_run) == 400
    assert all(run.status == "done" for run in comparison.runs), "what had begun was not cut off"
    assert "because it was stopped" in comparison.headline()
    record, stored = read_back(path)
    assert record.state == "stopped" and len(stored.runs) == len(comparison.runs)


def test_the_same_comparison_goes_on_where_it_was_stopped(tmp_path):
    path = tmp_path / "s.sqlite"

    def stop_after_the_first(what, about):
        if what == "ended":
            with RunStore(path) as store:
                store.request_stop(store.comparisons()[0].id)
            await_stop()

    settings = {"seeds": 3, "baselines": False, "backend": "sequential", "store": path}
    first = compare(Toy(), "toy", [system()], on_event=stop_after_the_first, **settings)
    assert first.stopped and len(first.runs) == 1
    told = []
    second = compare(Toy(), "toy", [system()], on_event=lambda what, about: told.append(what), **settings)
    assert not second.stopped and sorted(told) == ["ended", "ended", "stored"]
    with RunStore(path, read_only=True) as store:
        assert [record.state for record in store.comparisons()] == ["done"]


def test_an_interrupted_comparison_says_so(tmp_path):
    path = tmp_path / "s.sqlite"
    with pytest.raises(KeyboardInterrupt):
        compare(Toy(), "toy", [system(do="interrupt")], seeds=2, backend="sequential", store=path, baselines=False)
    record, found = read_back(path)
    assert record.state == "interrupted" and len(found.runs) == 1


def test_bad_input_notes_no_comparison(tmp_path):
    with pytest.raises(ValueError):
        compare(Toy(), "broken", [system()], store=tmp_path / "s.sqlite")
    assert not (tmp_path / "s.sqlite").exists()


def test_a_run_in_progress_is_read_without_the_rest(tmp_path):
    path = tmp_path / "s.sqlite"
    seen = []

    def look(what, about):
        record, found = read_back(path)
        seen.append((record.state, len(found.runs), found.not_run))

    compare(Toy(), "toy", [system()], seeds=2, baselines=False, backend="sequential", store=path, on_event=look)
    assert seen == [("running", 1, []), ("running", 2, [])]


def test_runs_without_a_record_are_grouped_by_data_and_settings():
    def run(key, name="a", seed=0, fingerprint="f", params=None, **values):
        return Run(key=key, problem="mine", data_name="d", data_fingerprint=fingerprint, entrant_name=name, entry="m:A",
                   seed=seed, params=params or {}, metrics={"score": 0.5}, **values)  # fmt: skip

    runs = [run("1"), run("2", seed=1), run("3", "b", seed=1), run("4", params={"k": 2}), run("5", fingerprint="g")]
    (first, found), (second, _) = loose_records(runs)
    comparison = stored_comparison(first, found)
    assert [e.name for e in comparison.plan.entrants] == ["a", "b", "a (2)"]
    assert {(r.entrant_name, r.seed) for r in comparison.runs} == {("a", 0), ("a", 1), ("b", 1), ("a (2)", 0)}
    assert comparison.primary.key == "score" and not comparison.not_run
    assert second.fingerprint == "g" and first.id != second.id


def test_a_known_problem_draws_its_own_figures_and_others_draw_none(tmp_path):
    path = tmp_path / "s.sqlite"
    compare(Toy(), "toy", [system()], seeds=1, baselines=False, backend="sequential", store=path)
    _, found = read_back(path)
    assert found.problem.figures(found.data, found.runs) == []
    with pytest.raises(ValueError, match="read back"):
        found.problem.load("toy")
