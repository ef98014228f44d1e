"""What happens to a comparison when its store, its machine or another comparison gets in its way."""

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from toy_problem import Toy

from anytask.bench import Run, RunStore, compare, plan
from anytask.bench import store as storing
from anytask.core.errors import ComparisonFailed, StoreError
from anytask.core.files import scratch_folder
from anytask.problems.base import Entrant

ENTRY = "toy_problem:Guess"
SYSTEMS = [Entrant("a", ENTRY), Entrant("b", ENTRY, {"level": 0.6})]


class Logged(Toy):
    def __init__(self, log):
        self.log = str(log)

    def made(self):
        return Counter(Path(self.log).read_text().splitlines()) if Path(self.log).exists() else Counter()


def go(path, problem=None, systems=None, **settings):
    settings = {"seeds": 2, "backend": "sequential", "baselines": False} | settings
    return compare(problem or Toy(), "toy", systems or SYSTEMS, store=path, **settings)


def until(true, what):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def run(key="k", **values):
    base = {"problem": "toy", "data_name": "d", "data_fingerprint": "f", "entrant_name": "a", "entry": "m:A", "seed": 0}
    return Run(key=key, **(base | values))


# -- the store is taken away -------------------------------------------------------------------------------------


def delete(path):
    path.unlink()


def move(path):
    path.rename(path.with_name("elsewhere.sqlite"))


def replace(path):
    with RunStore(path.with_name("other.sqlite")) as other:
        other.put(run("other"))
    os.replace(path.with_name("other.sqlite"), path)


def overwrite(path):
    with RunStore(path.with_name("other.sqlite")) as other:
        other.put(run("other"))
    shutil.copyfile(path.with_name("other.sqlite"), path)


def lose_log(path):
    path.with_name(f"{path.name}-wal").unlink()


@pytest.mark.parametrize("harm", [delete, move, replace, lose_log])
def test_a_store_that_is_taken_away_while_runs_go_on_ends_the_comparison(tmp_path, harm):
    path, told = tmp_path / "s.sqlite", []

    def after_one(what, about):
        told.append(about)
        if len(told) == 1:
            harm(path)

    with pytest.raises(ComparisonFailed, match=r"s\.sqlite was deleted or replaced while it was in use") as caught:
        go(path, on_event=after_one)
    assert len(told) == 1 and "\n" not in str(caught.value)


def test_a_store_that_is_overwritten_while_runs_go_on_ends_the_comparison(tmp_path):
    """Where the new content hides what was stored; else what was stored still comes on top of it."""
    path, told = tmp_path / "s.sqlite", []
    go(path, seeds=40)

    def after_one(what, about):
        told.append(what)
        if told[-2:] == ["stored", "ended"]:
            overwrite(path)

    with pytest.raises(ComparisonFailed, match=r"s\.sqlite"):
        go(path, seeds=42, on_event=after_one)


def test_a_full_disk_names_the_file_and_keeps_what_had_ended(tmp_path):
    path, told = tmp_path / "s.sqlite", []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(what, about):
        told.append(about)
        used = max(file.stat().st_size for file in tmp_path.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, before[1]))  # no file may grow any longer

    try:
        with pytest.raises(ComparisonFailed, match=r"s\.sqlite cannot be used as a store of runs: ") as caught:
            go(path, seeds=30, on_event=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    with RunStore(path, read_only=True) as store:
        assert len(store) == len(told) > 0


def test_a_report_that_cannot_be_written_is_named_and_the_runs_are_kept(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anytask.core.files.os.fsync", full)
    with pytest.raises(ComparisonFailed, match=r"out\.html cannot be written: No space left on device"):
        go(tmp_path / "s.sqlite", report=tmp_path / "out.html")
    assert len(RunStore(tmp_path / "s.sqlite")) == 4


# -- files that are no store, or a damaged one -------------------------------------------------------------------


def spoil(statement):
    def harm(path):
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()

    return harm


def break_log(path):
    log = path.with_name(f"{path.name}-wal")
    with RunStore(path) as store:
        store.put(run("late"))
        kept = log.read_bytes()
    log.write_bytes(b"\x00" * 8 + kept[8:])


BROKEN = {
    "half a body": spoil("UPDATE runs SET body = '{'"),
    "a body that is a list": spoil("UPDATE runs SET body = '[1]'"),
    "no body": spoil("UPDATE runs SET body = x'ff'"),
    "metrics of another type": spoil("UPDATE runs SET body = json_set(body, '$.metrics', 3)"),
    "a metric that is text": spoil("UPDATE runs SET body = json_set(body, '$.metrics.accuracy', 'high')"),
    "an unknown status": spoil("UPDATE runs SET body = json_set(body, '$.status', 'perhaps')"),
    "deep nesting": spoil(f"UPDATE runs SET body = '{'[' * 100_000}'"),
    "other columns": spoil("ALTER TABLE runs RENAME COLUMN body TO text"),
    "a newer format": spoil("PRAGMA user_version = 99"),
    "no database": lambda path: path.write_bytes(b"not SQLite at all" * 99),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a damaged log": break_log,
    "cut off": lambda path: os.truncate(path, 5000),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "s.sqlite"
    go(path)
    return path


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_store_is_one_line_that_names_it_and_nothing_is_run(tmp_path, sound, case):
    path = tmp_path / "s.sqlite"
    shutil.copyfile(sound, path)
    BROKEN[case](path)
    problem = Logged(tmp_path / "log")
    with pytest.raises(StoreError, match=r"s\.sqlite") as caught:
        go(path, problem=Toy())
        go(path, problem=problem)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and not problem.made()


def test_a_damaged_run_can_be_made_anew(tmp_path, sound):
    path = tmp_path / "s.sqlite"
    shutil.copyfile(sound, path)
    BROKEN["half a body"](path)
    assert len(go(path, resume=False).runs) == 4
    assert len(go(path).runs) == 4


def test_a_damaged_record_of_a_comparison_is_named_and_hinders_no_other(tmp_path, sound):
    path = tmp_path / "s.sqlite"
    shutil.copyfile(sound, path)
    spoil("UPDATE comparisons SET body = '[]'")(path)
    with RunStore(path) as store, pytest.raises(StoreError, match=r"s\.sqlite: the comparison \w+ in it is damaged"):
        store.comparisons()
    go(path)
    assert [record.state for record in RunStore(path).comparisons()] == ["done"]


# -- two at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [True, False])
def test_two_comparisons_at_once_make_each_run_once(tmp_path, resume):
    """One makes the first run, and waits in it until the other has made all the rest and can only wait for it."""
    path, problem = tmp_path / "s.sqlite", Logged(tmp_path / "log")
    first = Entrant("first", ENTRY, {"do": f"await {tmp_path / 'go'}"})
    systems = [first, *(Entrant(f"s{n}", ENTRY, {"level": n / 10}) for n in range(5))]
    found, events = [], Counter()

    def work():
        found.append(go(path, problem, systems, seeds=1, resume=resume, on_event=lambda what, _: events.update([what])))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: sum(problem.made().values()) == 6, "the second never made what was free")
    time.sleep(0.7)  # it asks for the first run twice a second
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join()
    assert problem.made() == Counter(f"{entrant.name} 0" for entrant in systems)
    assert [len(comparison.runs) for comparison in found] == [6, 6]
    assert events == {"ended": 6, "stored": 6}
    assert RunStore(path).execute("SELECT COUNT(*) FROM leases") == [(0,)]


def test_a_failed_run_of_the_other_is_not_repeated_at_once_and_is_the_next_time(tmp_path):
    store = RunStore(tmp_path / "s.sqlite")
    began = (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="milliseconds")
    store.put(run("k", status="failed", finished=datetime.now(UTC).isoformat(timespec="milliseconds")))
    assert not store.lease(["k"], "me", began, True)
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat(timespec="milliseconds")
    assert store.lease(["k"], "me", later, True)


def test_a_lease_holds_while_its_owner_lives(tmp_path):
    """Owners on this machine live as long as their process; of others, the signs of life are counted."""
    store = RunStore(tmp_path / "s.sqlite")

    def free(key, **held):
        columns = ", ".join(f"{name} = ?" for name in held)
        store.execute(f"UPDATE leases SET {columns}, owner = 'other'", tuple(held.values()))
        return store.lease([key], "me", "", True)

    assert store.lease(["k", "l"], "other", "", True) and store.lease(["k"], "other", "", True)
    old = (datetime.now(UTC) - timedelta(minutes=5)).isoformat(timespec="milliseconds")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    ended = subprocess.Popen(["true"])  # ended, and not yet asked for: a zombie
    until(lambda: psutil.Process(ended.pid).status() == psutil.STATUS_ZOMBIE, "it goes on")
    assert not free("k", pid=os.getpid(), seen=now)
    assert not free("k", host="another", seen=now)
    assert free("k", host="another", seen=old)
    assert not store.lease(["k", "l"], "third", "", True), "all or none"
    before = (datetime.now(UTC) - timedelta(days=365)).isoformat(timespec="milliseconds")
    assert free("l", host=storing._host(), seen=before), "this process was born after it was last seen"
    assert free("l", seen=now, pid=ended.pid)
    ended.wait()
    store.release("me")
    assert store.execute("SELECT key FROM leases") == [("k",)]


def test_whoever_waits_makes_the_run_when_its_owner_dies(tmp_path):
    path, problem = tmp_path / "s.sqlite", Logged(tmp_path / "log")
    keys = [item.key for item in plan(problem, problem.load("toy"), SYSTEMS, 2).items]
    owner = subprocess.Popen(["sleep", "1000"])
    with RunStore(path) as store:
        store.lease(keys[:1], "other", "", True)
        store.execute("UPDATE leases SET pid = ?", (owner.pid,))
        thread = threading.Thread(target=go, args=(path, problem))
        thread.start()
        until(lambda: sum(problem.made().values()) == 3, "it never made what was free")
        owner.kill()
        owner.wait()
        thread.join()
        assert problem.made() == {"a 0": 1, "b 0": 1, "a 1": 1, "b 1": 1} and len(store) == 4


# -- kills -------------------------------------------------------------------------------------------------------

SESSION = """
import os, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from toy_problem import Toy, Entrant
from anytask.bench import compare
class Own(Toy):
    def run(self, entrant, data, seed, progress=None):
        with Path({folder!r}, "workers").open("a") as file:
            file.write(str(os.getpid()) + "\\n")
        return super().run(entrant, data, seed, progress)
toy = Own()
Own.log = {folder!r} + "/log"
if __name__ == "__main__":
    systems = [Entrant(f"s{{n}}", "toy_problem:Guess", {{"level": n / 100, "do": {do!r}}}) for n in range({systems})]
    compare(toy, "toy", systems, seeds={seeds}, baselines=False, backend="loky", store={folder!r} + "/s.sqlite")
    print("whole")
"""


def session(folder, do, systems, seeds):
    script = folder / "session.py"
    here = str(Path(__file__).parent)
    script.write_text(SESSION.format(here=here, folder=str(folder), do=do, systems=systems, seeds=seeds))
    (folder / "tmp").mkdir(exist_ok=True)
    return lambda: subprocess.Popen(
        [sys.executable, script], env=os.environ | {"TMPDIR": str(folder / "tmp")}, stdout=subprocess.PIPE, text=True
    )


def workers(folder):
    listed = folder / "workers"
    return set(map(int, listed.read_text().split())) if listed.exists() else set()


def living(pids):
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


def left_behind(folder):
    return [path.name for path in (folder / "tmp").iterdir() if path.name.startswith("anytask-")]


def test_a_killed_comparison_leaves_no_worker_and_the_next_one_clears_its_folder(tmp_path, monkeypatch):
    start = session(tmp_path, f"await {tmp_path / 'go'}", systems=2, seeds=1)
    killed, found = start(), []
    until(lambda: len(workers(tmp_path)) == 2, "no worker began")
    killed.kill()
    killed.wait()
    until(lambda: not living(workers(tmp_path)), "a worker lives on")
    assert len(left_behind(tmp_path)) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    go(tmp_path / "s.sqlite", on_event=lambda what, run: found.append(left_behind(tmp_path)))
    assert len(left_behind(tmp_path)) == 0 and {len(folders) for folders in found} == {1}


def test_folders_that_are_in_use_or_not_ours_are_left_alone(tmp_path):
    (tmp_path / "x-not-locked").mkdir()
    with scratch_folder("x-", tmp_path) as used:
        (used / "file").touch()
        with scratch_folder("x-", tmp_path) as other:
            assert used.is_dir() and other.is_dir() and (tmp_path / "x-not-locked").is_dir()
        left = tmp_path / "x-left"
        shutil.copytree(used, left)
        with scratch_folder("y-", tmp_path):
            assert left.is_dir()
        with scratch_folder("x-", tmp_path):
            assert not left.exists() and (used / "file").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x-not-locked"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_seventy_kills_lose_and_repeat_nothing(tmp_path):
    """What is stored stays as it is, and is never made again; in the end all is there, and nothing is left behind."""
    start = session(tmp_path, "sleep 0.1", systems=40, seeds=20)
    draw, kept, path = random.Random(0), {}, tmp_path / "s.sqlite"
    (tmp_path / "log").touch()  # the first kill may come before the first run
    for _ in range(70):
        made = Counter((tmp_path / "log").read_text().splitlines())
        going = start()
        before = workers(tmp_path)
        until(lambda before=before: workers(tmp_path) - before or draw.random() < 0.001, "no worker began")
        time.sleep(draw.expovariate(2.0))
        going.send_signal(signal.SIGKILL)
        going.wait()
        until(lambda: not living(workers(tmp_path)), "a worker lives on")
        with RunStore(path) as store:
            now = {r.key: (f"{r.entrant_name} {r.seed}", r.finished) for r in store.runs()}
        assert kept.items() <= now.items(), "a stored run was lost or made again"
        again = Counter((tmp_path / "log").read_text().splitlines())
        assert all(again[name] == made[name] for name, _ in kept.values()), "a stored run was made again"
        kept = now
    assert len(kept) > 70
    last = start()
    assert last.communicate()[0] == "whole\n"
    with RunStore(path) as store:
        assert (
            len(store) == 800
            and kept.items() <= {r.key: (f"{r.entrant_name} {r.seed}", r.finished) for r in store.runs()}.items()
        )
    assert left_behind(tmp_path) == []
