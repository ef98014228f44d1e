"""What the results page reads: whatever is in the store, and a sentence where it cannot be read."""

import json
import sqlite3

import pytest
from test_catalogue_page import text_of
from toy_problem import Toy, await_stop

from anytask.app.results.data import StoreView, Unreadable, check_store, ranking_csv, run_rows, runs_csv
from anytask.app.results.page import chosen, matches
from anytask.app.results.panel import PAGE_ROWS, beside, file_name, ordered, panel, runs_table, view, views
from anytask.app.settings import Settings
from anytask.bench import Run, RunStore, compare
from anytask.problems.base import Entrant

ENTRY = "toy_problem:Guess"
EVIL = "<img src=x onerror=alert(1)>"


def made(path, data="toy", seeds=2, systems=None, **more):
    systems = systems or [Entrant("ours", ENTRY, {"level": 0.8}), Entrant("bad", ENTRY, {"do": "fail"})]
    return compare(Toy(), data, systems, seeds=seeds, backend="sequential", store=path, **more)


@pytest.fixture
def path(tmp_path):
    made(tmp_path / "s.sqlite")
    return tmp_path / "s.sqlite"


def load(path, which=0):
    view = StoreView(path)
    overview = view.snapshot().overviews[which]
    return overview, view.load(overview)


def everything(overview, loaded):
    comparison = loaded.comparison
    shown = [panel(overview, loaded)]
    shown += [view(overview, comparison, name) for name in views(overview, comparison)]
    return text_of([*shown, runs_table(comparison, None, None, "plan", 1)])


def test_a_comparison_is_shown_with_its_answer_its_ranking_and_its_failures(path):
    overview, loaded = load(path)
    assert (overview.state, overview.total, overview.done, overview.failed) == ("done", 10, 8, 2)
    told = everything(overview, loaded)
    assert loaded.comparison.headline() in told or "ours ranks first" in told
    assert "RuntimeError" in told and "<b>broken</b> at seed 0" in told and "What failed" in told
    assert "best baseline" in told and "no, p" in told
    assert views(overview, loaded.comparison)["failures"] == "Failures (2)"


def test_who_was_told_more_is_ranked_apart(tmp_path):
    told_more = Entrant("told", "toy_problem:Oracle", {"level": 0.9})
    made(tmp_path / "s.sqlite", systems=[Entrant("ours", ENTRY, {"level": 0.8}), told_more])
    overview, loaded = load(tmp_path / "s.sqlite")
    words = everything(overview, loaded)
    assert "Of those told nothing of the task, ours ranks first" in words
    assert words.index("Told nothing of the task") < words.index("Told more: the task in training and at test")


def test_what_has_not_changed_is_not_read_again(path, monkeypatch):
    view = StoreView(path)
    first = view.snapshot()
    loaded = view.load(first.overviews[0])
    monkeypatch.setattr(RunStore, "runs_of", lambda *a: pytest.fail("read again"))
    assert view.snapshot() is first and view.load(first.overviews[0]) is loaded
    with RunStore(path) as store:
        store.delete(loaded.comparison.runs[0].key)
    assert view.snapshot() is not first and view.snapshot().overviews[0].done == 7


def test_series_are_read_only_when_they_are_drawn(path):
    with RunStore(path) as store:
        run = next(run for run in store.runs() if run.status == "done")
        run.details = {"curve": [0.1, 0.2]}
        store.put(run)
        assert store.runs_of([run.key]) == {run.key: run}
        assert store.runs_of([run.key], details=False)[run.key].details == {}
    view = StoreView(path)
    overview = view.snapshot().overviews[0]
    plain, full = (view.load(overview, details).comparison.runs for details in (False, True))
    assert [r.details for r in plain] == [{}] * 10
    assert [r.metrics for r in plain] == [r.metrics for r in full]
    assert {r.key: r.details for r in full}[run.key] == {"curve": [0.1, 0.2]}


def test_a_running_comparison_is_followed_and_stopped(tmp_path):
    path = tmp_path / "s.sqlite"
    view, seen = StoreView(path), []

    def look(what, about):
        overview = view.snapshot().overviews[0]
        if not seen:
            assert view.request_stop(overview.id)
        seen.append((overview.state, overview.done + overview.failed, view.snapshot().overviews[0].state))
        await_stop()

    comparison = made(path, on_event=look)
    assert seen[0] == ("running", 1, "stopping") and comparison.stopped and len(comparison.runs) < 10
    overview, loaded = load(path)
    assert overview.state == "stopped" and "because it was stopped" in everything(overview, loaded)
    assert not view.request_stop(overview.id)


def test_a_comparison_that_was_killed_says_that_it_gives_no_sign_of_life(path):
    with RunStore(path) as store:
        store.execute("UPDATE comparisons SET state = 'running', seen = '2026-01-01T00:00:00+00:00'")
    overview, loaded = load(path)
    assert overview.state == "silent"
    assert "no sign of life" in everything(overview, loaded)


def test_names_and_errors_stay_text(tmp_path):
    path = tmp_path / "s.sqlite"
    compare(Toy(), EVIL, [Entrant(EVIL, ENTRY, {"level": 0.8})], seeds=2, backend="sequential", store=path)
    overview, loaded = load(path)
    assert overview.title == f"Toy on {EVIL}" and EVIL in everything(overview, loaded)
    for part in panel(overview, loaded):
        drawn = json.dumps(part.to_plotly_json(), default=lambda o: o.to_plotly_json())
        figures = [piece for piece in drawn.split('"Graph"') if '"data"' in piece]
        assert all("<img src=x" not in piece.split('"layout"')[0] for piece in figures[1:])
    assert file_name(overview) == "toy-img-src-x-onerror-alert-1"


def test_two_comparisons_beside_each_other_list_who_is_in_both(path):
    made(path, "other", seeds=3)
    view = StoreView(path)
    both = view.snapshot().overviews
    told = text_of(beside(both, [view.load(item) for item in both]))
    assert "In both" in told and "Toy on other: accuracy" in told and "Toy on toy: accuracy" in told


def test_the_address_chooses_and_the_latest_is_shown_without_one(path):
    made(path, "other")
    snapshot = StoreView(path).snapshot()
    latest, earlier = snapshot.overviews
    assert latest.record.data_name == "other"
    assert chosen(snapshot, None) == chosen(snapshot, "?c=unknown&with=unknown") == (latest, None)
    assert chosen(snapshot, f"?c={earlier.id}&with={latest.id}") == (earlier, latest)
    assert chosen(snapshot, f"?c={earlier.id}&with={earlier.id}") == (earlier, None)


def test_the_list_is_filtered_by_words_and_state(path):
    (overview,) = StoreView(path).snapshot().overviews
    assert matches(overview, "TOY ours", None) and matches(overview, None, "done")
    assert not matches(overview, "digits", None) and not matches(overview, "", "running")


def test_runs_are_ordered_with_those_without_the_value_last():
    def run(key, accuracy, seconds, finished="2026"):
        return Run(key, "p", "d", "f", "a", "m:A", 0, metrics={"accuracy": accuracy} if accuracy is not None else {},
                   cost={"wall_seconds": seconds}, finished=finished)  # fmt: skip

    runs = [run("a", 0.1, 3.0, "2"), run("b", None, 1.0, "3"), run("c", 0.9, 2.0, "1")]
    names = lambda order, up=True: "".join(r.key for r in ordered(runs, order, "accuracy", up))  # noqa: E731
    assert [names(order) for order in ("plan", "best", "worst", "slow", "late")] == ["abc", "cab", "acb", "acb", "bac"]
    assert names("best", up=False) == "acb"


def test_the_runs_come_in_pages_and_filtered(path):
    made(path, "many", seeds=30)
    comparison = load(path)[1].comparison
    count, table = runs_table(comparison, "ours", "done", "best", 99)
    assert text_of(count) == "30 runs" and "failed" not in text_of(table)
    assert text_of(runs_table(comparison, None, None, "plan", 99)[0]) == f"150 runs, page {150 // PAGE_ROWS} of 3"
    assert text_of(runs_table(comparison, "nobody", None, "plan", 1)[0]) == "0 runs"


def test_the_csv_files_hold_the_ranking_and_every_run(path):
    comparison = load(path)[1].comparison
    assert ranking_csv(comparison).splitlines()[0].startswith("rank,name,role,bound,sees,mean,low,high")
    lines = runs_csv(comparison).splitlines()
    assert len(lines) == 11 and lines[0].startswith("entrant,role,seed,status,accuracy")
    assert run_rows(comparison)[0]["entrant"] == "ours"


def test_runs_without_the_metric_are_told_and_the_rest_is_ranked(path):
    view = StoreView(path)
    runs = view.load(view.snapshot().overviews[0]).comparison.runs
    with RunStore(path) as store:
        broken = store.get(next(r.key for r in runs if r.entrant_name == "ours" and r.seed == 0))
        broken.metrics, broken.cost = {}, {}
        store.put(broken)
    overview, loaded = load(path)
    told = everything(overview, loaded)
    assert "1 runs have no accuracy" in told and "replay" in told


def test_a_damaged_run_is_told_and_the_rest_is_shown(path):
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET body = '{' WHERE seed = 0 AND entrant = 'ours'")
    overview, loaded = load(path)
    assert len(loaded.unreadable) == 1 and len(loaded.comparison.runs) == 9
    assert "1 stored runs are damaged" in everything(overview, loaded)


def test_runs_that_no_comparison_asked_for_are_shown_as_one(path):
    with RunStore(path) as store:
        store.execute("DELETE FROM comparisons")
    overview, loaded = load(path)
    assert overview.loose and overview.done == 8
    assert "stored without a comparison" in everything(overview, loaded)


# -- stores that are none ----------------------------------------------------------------------------------------


def foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")


def test_what_can_never_be_shown_is_refused_at_the_door(tmp_path):
    foreign(tmp_path / "recipes.sqlite")
    (tmp_path / "text.txt").write_text("not SQLite at all, but long enough to have a header")
    cases = {
        tmp_path / "recipes.sqlite": "another program",
        tmp_path / "text.txt": "cannot be used as a store",
        tmp_path: "is a folder",
        tmp_path / "nowhere" / "s.sqlite": "does not exist",
    }
    for wrong, words in cases.items():
        with pytest.raises(ValueError, match=words):
            Settings(wrong)


def test_a_store_that_may_come_is_waited_for(tmp_path):
    path = tmp_path / "s.sqlite"
    check_store(path)
    view = StoreView(path)
    with pytest.raises(Unreadable, match="There is no store"):
        view.snapshot()
    path.touch()
    check_store(path)
    with pytest.raises(Unreadable, match="is empty"):
        view.snapshot()
    path.unlink()
    with RunStore(path):
        assert view.snapshot().overviews == ()
    made(path)
    assert len(view.snapshot().overviews) == 1


def test_a_store_that_turns_into_something_else_says_so(path):
    view = StoreView(path)
    view.snapshot()
    for beside_it in path.parent.glob("s.sqlite*"):
        beside_it.unlink()
    path.write_text("not SQLite at all, but long enough to have a header")
    with pytest.raises(Unreadable, match="cannot be used as a store"):
        view.snapshot()


def test_a_locked_store_is_waited_for(path, monkeypatch):
    monkeypatch.setattr("anytask.app.results.data.PATIENCE", 0.1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    view = StoreView(path)
    check_store(path)
    with pytest.raises(Unreadable, match="Another program holds the store"):
        view.snapshot()
    with pytest.raises(Unreadable, match="Another program holds the store"):
        view.request_stop("any")
    holder.execute("ROLLBACK")
    holder.close()
    assert len(view.snapshot().overviews) == 1
