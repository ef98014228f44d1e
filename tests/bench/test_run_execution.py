"""Runs are made once, stored as they end, measured by themselves, and their failures stay their own."""

import sqlite3
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import joblib
import pytest
from toy_problem import Toy, ToyData, time_for_one_run

from anytask.bench import RunStore, execute, plan
from anytask.bench.measuring import Meter, limited_threads, threads_per_run
from anytask.problems.base import Entrant

LOCAL = ["sequential", "threading", "loky"]


class Logged(Toy):
    """A toy with a setting, so that it travels to the workers as an object of its own."""

    def __init__(self, log=None):
        self.log = log


class Reads(Toy):
    """A toy that has read something for its checks."""

    freed = 0

    def release(self, data):
        Reads.freed += 1


def guess(name, do="", **params):
    level = sum(map(ord, name)) % 97 / 100  # entrants of one comparison must differ in more than their names
    return Entrant(name, "toy_problem:Guess", {"do": do, "level": level, **params})


def go(entrants, seeds=2, problem=None, data=None, store=None, **settings):
    problem, data = problem or Toy(), data or ToyData()
    settings = {"backend": "sequential"} | settings
    store = RunStore(":memory:") if store is None else store
    return execute(plan(problem, data, entrants, seeds), problem, data, store, **settings)


@pytest.mark.parametrize("backend", LOCAL)
def test_failures_stay_their_own(backend):
    """Exceptions, sys.exit and missing metrics fail one run each; the others end as if alone."""
    done = go([guess("bad", "fail"), guess("exit", "exit"), guess("good"), guess("mute", "nothing")], backend=backend)
    status = [(run.entrant_name, run.seed, run.status) for run in done.runs]
    assert [s for s in status if s[0] == "good"] == [("good", 0, "done"), ("good", 1, "done")]
    assert {run.error["type"] for run in done.runs if run.status == "failed"} == {
        "RuntimeError",
        "SystemExit",
        "ValueError",
    }
    bad = next(run for run in done.runs if run.entrant_name == "bad")
    assert bad.error["message"] == "<b>broken</b> at seed 0" and "in run" in bad.error["traceback"]
    assert bad.metrics == {} and bad.cost["wall_seconds"] >= 0


@pytest.mark.parametrize("backend", LOCAL)
def test_what_checks_have_read_is_freed_where_runs_read_it_for_themselves(backend, monkeypatch):
    monkeypatch.setattr(Reads, "freed", 0)
    assert go([guess("good")], seeds=1, problem=Reads(), backend=backend).runs[0].status == "done"
    assert Reads.freed == (backend == "loky")


def test_a_missing_class_fails_its_runs_with_the_import_error():
    done = go([Entrant("gone", "toy_problem:Gone"), Entrant("away", "no_such_module:A")], seeds=1)
    assert [run.error["type"] for run in done.runs] == ["AttributeError", "ModuleNotFoundError"]


def test_backends_agree():
    metrics = [[run.metrics for run in go([guess("a"), guess("b", level=0.7)], backend=b).runs] for b in LOCAL]
    assert metrics[0] == metrics[1] == metrics[2]


def test_a_killed_worker_fails_only_its_own_run():
    """The dying run takes the others in the pool along; they are made again."""
    done = go([guess("dies", "die"), guess("a", "sleep 0.3"), guess("b")], seeds=1, backend="loky")
    assert {run.entrant_name: run.status for run in done.runs} == {"dies": "failed", "a": "done", "b": "done"}
    assert "worker process died" in done.runs[0].error["message"]


def test_one_loky_job_still_has_a_process_of_its_own():
    done = go([guess("dies", "die"), guess("a")], seeds=1, backend="loky", jobs=1)
    assert [run.status for run in done.runs] == ["failed", "done"]


@pytest.mark.parametrize("backend", LOCAL)
def test_each_run_is_stored_as_it_ends(tmp_path, backend):
    """The last run ends only once the others are in the file, and each is there when it is told of."""
    path = tmp_path / "s.sqlite"
    seen = []

    def count(what, run):
        with sqlite3.connect(path) as other:
            seen.append((run.status, other.execute("SELECT COUNT(*) FROM runs").fetchone()[0]))
        if len(seen) == 2:
            (tmp_path / "go").touch()

    last = guess("last", f"await {tmp_path / 'go'}")
    go([guess("a"), guess("b"), last], seeds=1, store=RunStore(path), backend=backend, on_event=count)
    assert seen == [("done", 1), ("done", 2), ("done", 3)]


def test_resuming_repeats_the_failed_and_not_the_done(tmp_path):
    problem = Logged(str(tmp_path / "log"))
    store = RunStore(tmp_path / "s.sqlite")
    events = []
    for _ in range(2):
        go([guess("good"), guess("bad", "fail")], 1, problem, store=store, on_event=lambda w, r: events.append(w))
    assert Path(problem.log).read_text().splitlines() == ["good 0", "bad 0", "bad 0"]
    assert events == ["ended", "ended", "stored", "ended"]
    go([guess("good")], 1, problem, store=store, resume=False)
    assert Path(problem.log).read_text().splitlines()[3:] == ["good 0"]
    assert len(store) == 2


def test_a_stored_run_takes_the_name_it_has_now():
    store = RunStore(":memory:")
    go([guess("old")], 1, store=store)
    entrant = Entrant("new", "toy_problem:Guess", guess("old").params, "ablation", "tame")
    run = go([entrant], 1, store=store).runs[0]
    assert (run.entrant_name, run.role, run.system) == ("new", "ablation", "tame") and len(store) == 1


def test_an_interrupt_keeps_what_had_ended():
    store = RunStore(":memory:")
    with pytest.raises(KeyboardInterrupt):
        go([guess("a"), guess("stop", "interrupt")], 3, store=store)
    assert sorted((run.entrant_name, run.seed) for run in store.runs()) == [("a", 0), ("a", 1), ("stop", 0)]


def test_an_interrupt_stops_workers_at_once_and_keeps_what_had_ended():
    store = RunStore(":memory:")

    def stop(what, run):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        go([guess("a"), guess("slow", "sleep 1000")], 1, store=store, backend="loky", on_event=stop)
    assert time.monotonic() - started < 200
    assert [run.entrant_name for run in store.runs()] == ["a"]


def test_no_run_starts_after_the_budget(monkeypatch):
    done = go([guess("a"), guess("b")], 3, **time_for_one_run(monkeypatch))
    assert [run.entrant_name for run in done.runs] == ["a"]
    assert [(item.entrant.name, item.seed) for item in done.not_run] == [
        ("b", 0),
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
    ]


def test_a_run_may_write_into_its_data_and_no_other_sees_it():
    """Arrays of over 1 MB go to the workers as private maps of one file."""
    data = ToyData(rows=200_000)
    done = go([guess("writer", "write"), guess("reader")], seeds=1, data=data, backend="loky", jobs=1)
    assert [run.status for run in done.runs] == ["done", "done"]
    assert done.runs[0].details["total"] == -400_000.0
    assert done.runs[1].details["total"] == data.X.sum() > 0


def test_peak_memory_is_the_runs_own():
    """80 MB in the first run must not show in the second, though one process makes both."""
    big, small = go([guess("big", "memory 80000000"), guess("small")], seeds=1).runs
    assert 75e6 < big.cost["peak_increase_bytes"] < 100e6
    assert small.cost["peak_increase_bytes"] < 10e6 < small.cost["peak_bytes"]


def test_sampled_memory_sees_a_block_that_stays_for_a_while():
    with Meter(shared=True) as meter:
        block = bytearray(60_000_000)
        end = time.monotonic() + 60
        while meter._peak < meter._resident + 50e6 and time.monotonic() < end:
            time.sleep(0.02)
        del block
    assert meter.cost["peak_increase_bytes"] > 50e6


def test_wall_and_cpu_time_are_told_apart():
    sleeper, worker = go([guess("sleeper", "sleep 0.3"), guess("worker", "work 0.3")], seeds=1).runs
    assert sleeper.cost["wall_seconds"] >= 0.3 and sleeper.cost["cpu_seconds"] < sleeper.cost["wall_seconds"] / 2
    assert worker.cost["cpu_seconds"] >= 0.29


def test_runs_record_where_and_with_what_they_were_made():
    run = go([Entrant("a", "toy_problem:Careful", {"level": 0.2})], seeds=[4]).runs[0]
    assert run.sees == "boundary" and run.seed == 4 and run.params == {"level": 0.2}
    assert {"anytask", "python", "numpy", "torch", "scikit-learn"} <= set(run.versions)
    assert run.host["backend"] == "sequential" and run.host["threads"] >= 1
    assert run.started <= run.finished and run.started.endswith("+00:00")
    assert run.cost["trainable_parameters"] == 1000.0


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_per_run(jobs) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [threads_per_run(jobs) for jobs in (1, 8)] == [2, 1]


def test_torch_gets_its_threads_back():
    import torch

    before = torch.get_num_threads()
    with limited_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "cloud"}, "unknown backend 'cloud': choose from loky"),
        ({"jobs": 0}, "jobs must be"),
        ({"jobs": 1.5}, "jobs must be"),
        ({"budget_seconds": 0}, "budget_seconds must be"),
    ],
)
def test_senseless_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        go([guess("a")], **settings)


@pytest.mark.parametrize(("backend", "extra"), [("ray", r"anytask\[ray\]"), ("dask", r"anytask\[dask\]")])
def test_a_missing_backend_names_its_extra(monkeypatch, backend, extra):
    monkeypatch.setattr("anytask.bench.run.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=extra):
        go([guess("a")], backend=backend)


def test_classes_of_the_main_script_reach_the_workers(tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from toy_problem import Toy\n"
        "from anytask.bench import compare\n"
        "class Mine:\n"
        "    level, do = 0.8, ''\n"
        "class Own(Toy):\n"
        "    def baselines(self, data):\n"
        "        return ()\n"
        "if __name__ == '__main__':\n"
        "    found = compare(Own(), 'toy', Mine, seeds=2)\n"
        "    print([run.status for run in found.runs])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.strip() == "['done', 'done']", done.stderr


def test_progress_shows_runs_on_stderr_and_nothing_on_stdout(capsys):
    go([guess("[odd] name", "sleep 0.7"), guess("bad", "fail")], seeds=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "✓ [odd] name, seed 0: accuracy" in err and "✗ bad, seed 0: RuntimeError: <b>broken</b>" in err


def test_silence_without_progress(capfd):
    go([guess("a"), guess("bad", "fail")], backend="loky")
    assert capfd.readouterr() == ("", "")


def _streams(backend, folder):
    """Run entrants of which the last ends only once the first two are known, and return the runs."""
    told = []

    def tell(what, run):
        told.append(run)
        if len(told) == 2:
            (folder / "go").touch()

    entrants = [guess("a"), guess("bad", "fail"), guess("last", f"await {folder / 'go'}")]
    return go(entrants, 1, backend=backend, on_event=tell).runs


@pytest.mark.slow
def test_ray_streams_results_and_shuts_its_own_cluster_down(tmp_path):
    ray = pytest.importorskip("ray")
    assert [run.status for run in _streams("ray", tmp_path)] == ["done", "failed", "done"]
    assert not ray.is_initialized()


@pytest.mark.slow
def test_ray_leaves_a_cluster_of_the_user_alone(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here)
    try:
        assert [run.status for run in go([guess("a"), guess("b")], 1, backend="ray").runs] == ["done", "done"]
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_dask_streams_results_and_shuts_its_own_cluster_down(tmp_path):
    distributed = pytest.importorskip("distributed")
    assert [run.status for run in _streams("dask", tmp_path)] == ["done", "failed", "done"]
    with pytest.raises(ValueError, match="No clients found"):
        distributed.Client.current()
    assert not any("IO loop" in thread.name and not thread.daemon for thread in threading.enumerate())


@pytest.mark.slow
def test_dask_uses_a_cluster_of_the_user_and_leaves_it_alone():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        assert [run.status for run in go([guess("a"), guess("b")], 1, backend="dask").runs] == ["done", "done"]
        assert client.status == "running"


def test_torch_is_warmed_up_only_for_classes_that_use_it(monkeypatch):
    from toy_problem import Careful

    from anytask.bench import worker

    class Net:
        __module__ = "trains_for_a_test"

    class Finer(Net):
        __module__ = "toy_problem"

    module = types.ModuleType("trains_for_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert not worker.uses_torch(Careful) and not worker.uses_torch(Net)
    vars(module)["nn"] = __import__("torch").nn
    assert worker.uses_torch(Net) and worker.uses_torch(Finer)

    warmed = []
    monkeypatch.setattr(worker, "warm_up_torch", lambda: warmed.append(1))
    go([guess("a")], 1)
    assert warmed == []
    monkeypatch.setattr(worker, "uses_torch", lambda cls: True)
    done = go([guess("a", "sleep 0.01")], 1)
    assert warmed == [1] and done.runs[0].status == "done"


def test_a_worker_whose_torch_is_warm_imports_nothing_for_its_first_optimizer():
    """The first optimizer of a process imports some seconds' worth of modules. No random number is drawn."""
    code = (
        "import sys, torch\n"
        "from anytask.bench.measuring import warm_up_torch\n"
        "state = torch.get_rng_state()\n"
        "warm_up_torch()\n"
        "assert torch.equal(state, torch.get_rng_state())\n"
        "w = torch.ones(2, requires_grad=True)\n"
        "before = set(sys.modules)\n"
        "w.sum().backward()\n"
        "torch.optim.Adam([w]).step()\n"
        "print(len(before), sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" []\n"), done.stdout


class Sharing(Toy):
    """A toy that trains once for entrants that differ only in what is set after training."""

    def run_variants(self, entrants, data, seed, progress=None):
        with Path(self.log).open("a") as file:
            file.write(f"trained {seed}\n")
        return [Toy.run(Toy(), entrant, data, seed) for entrant in entrants]


@pytest.mark.parametrize("backend", LOCAL)
def test_entrants_that_differ_only_after_training_are_one_job_per_seed(backend, tmp_path):
    problem = Sharing()
    problem.log = str(tmp_path / "log")
    variants = [Entrant(f"v{n}", "toy_problem:Guess", {"level": 0.5}, after={"seed": n}) for n in range(3)]
    done = go([*variants, guess("alone")], problem=problem, backend=backend)
    assert [(run.entrant_name, run.seed, run.status) for run in done.runs] == [
        (name, seed, "done") for seed in (0, 1) for name in ("v0", "v1", "v2", "alone")
    ]
    lines = sorted(Path(problem.log).read_text().splitlines())
    assert lines == ["alone 0", "alone 1", "trained 0", "trained 1"]
    assert "with v1, v2." in done.runs[0].notes[-1] and done.runs[3].notes == []


def test_one_variant_that_fails_fails_alone(tmp_path):
    class Picky(Sharing):
        def run(self, entrant, data, seed, progress=None):
            if entrant.after == {"seed": 1}:
                raise ValueError("not this one")
            return super().run(entrant, data, seed, progress)

        def run_variants(self, entrants, data, seed, progress=None):
            return [self.run(entrant, data, seed) for entrant in entrants]

    variants = [Entrant(f"v{n}", "toy_problem:Guess", after={"seed": n}) for n in range(3)]
    done = go(variants, seeds=1, problem=Picky())
    assert [run.status for run in done.runs] == ["done", "failed", "done"]
