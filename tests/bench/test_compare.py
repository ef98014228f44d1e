"""A comparison refuses bad input before any run, ranks, and says what it knows."""

import io
import json
import math
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from toy_problem import Careful, Guess, Toy, time_for_one_run

from anytask import catalogue
from anytask.bench import Comparison, RunStore, compare, plan
from anytask.bench.store import Run
from anytask.core.errors import BadData
from anytask.problems.base import Entrant, Metric

ENTRY = "toy_problem:Guess"


class Logged(Toy):
    """A toy that notes each run in a file."""

    def __init__(self, log):
        self.log = str(log)

    def made(self):
        return Path(self.log).read_text().splitlines() if Path(self.log).exists() else []


class Cheap(Toy):
    """Ranked by tokens: fewer is better."""

    metrics = (Toy.metrics[2], *Toy.metrics[:2])


class Bare(Toy):
    def baselines(self, data):
        return ()


def system(name="tame", **params):
    return Entrant(name, ENTRY, {"level": 0.8} | params)


def run(systems=None, problem=None, data="toy", **settings):
    settings = {"seeds": 2, "backend": "sequential"} | settings
    return compare(problem or Toy(), data, [system()] if systems is None else systems, **settings)


def fabricated(values, problem=None, roles=None, sees=None, **parts):
    """A comparison whose primary metric was measured elsewhere: {name: [value per seed]}."""
    problem = problem or Toy()
    data = problem.load("toy")
    roles = roles or {}
    entrants = [Entrant(name, ENTRY, {"level": i}, roles.get(name, "system")) for i, name in enumerate(values)]
    seeds = max(len(v) for v in values.values())
    layout = plan(problem, data, entrants, seeds)
    runs = [
        Run(
            key=item.key, problem=problem.key, data_name="toy", data_fingerprint="f", entrant_name=item.entrant.name,
            entry=ENTRY, seed=item.seed, role=item.entrant.role, sees=(sees or {}).get(item.entrant.name),
            metrics={problem.primary.key: values[item.entrant.name][item.seed]}, cost={"wall_seconds": 1.0},
        )
        for item in layout.items
        if item.seed < len(values[item.entrant.name])
    ]  # fmt: skip
    return Comparison(problem, data, layout, runs, **parts)


# -- who takes part ----------------------------------------------------------------------------------------------


def card(monkeypatch, **changes):
    cards = {
        "ready": SimpleNamespace(key="ready", entry=ENTRY, problems=("toy",)),
        "other": SimpleNamespace(key="other", entry="toy_problem:Careful", problems=("few-shot-text",)),
        "planned": SimpleNamespace(key="planned", entry="toy_problem:Later", problems=("toy",)),
        "oracle": SimpleNamespace(key="oracle", entry="toy_problem:Oracle", problems=("toy",)),
    }
    monkeypatch.setattr(catalogue, "SYSTEMS", tuple(cards.values()))
    monkeypatch.setattr(catalogue, "state", lambda c: "planned" if c.key == "planned" else "available")
    monkeypatch.setattr(catalogue, "get", lambda key: cards[key])
    monkeypatch.setattr(catalogue, "PROBLEMS", ("toy", "few-shot-text"))


def test_all_stands_for_the_available_systems_of_the_problem(monkeypatch):
    card(monkeypatch)
    found = run("all")
    assert [e.name for e in found.plan.entrants if e.role == "system"] == ["ready", "oracle"]


def test_all_leaves_refused_systems_out_and_says_why(monkeypatch):
    card(monkeypatch)

    class Picky(Toy):
        def refuses(self, entrant, data):
            return "it needs borders" if entrant.key == "oracle" else None

    found = run("all", Picky())
    assert found.left_out == [("oracle", "it needs borders")]
    assert found.to_json()["left_out"] == [{"name": "oracle", "reason": "it needs borders"}]


def test_all_without_any_system_says_so(monkeypatch):
    card(monkeypatch)
    monkeypatch.setattr(catalogue, "SYSTEMS", ())
    with pytest.raises(ValueError, match="no available system in the catalogue is for toy"):
        run("all")


@pytest.mark.parametrize(
    ("systems", "error", "words"),
    [
        (["planned"], ValueError, "planned is planned, not available yet"),
        (["other"], ValueError, "other is not for toy, but for few-shot-text"),
        ([3], TypeError, "systems must be catalogue keys, Entrant objects or classes, got 3"),
        ([system(do="refuse")], ValueError, "tame cannot take part: it needs images"),
    ],
)
def test_systems_that_cannot_run_are_refused_before_any_run(monkeypatch, tmp_path, systems, error, words):
    card(monkeypatch)
    problem = Logged(tmp_path / "log")
    with pytest.raises(error, match=words):
        run(systems, problem)
    assert problem.made() == []


def test_an_unknown_system_names_its_neighbors():
    with pytest.raises(catalogue.UnknownSystem, match="did you mean 'tame'"):
        run(["tme"])


def test_classes_take_part_under_their_names():
    found = run([Careful])
    row = next(row for row in found.rows if row.name == "Careful")
    assert row.entrant.entry == "toy_problem:Careful" and row.sees == "boundary" and row.done == 2
    assert [e.name for e in run(Guess).plan.entrants][:1] == ["Guess"]


def test_classes_within_functions_are_refused():
    class Local:
        pass

    with pytest.raises(ValueError, match="must be defined at the top of its module"):
        run([Local])


def test_a_system_that_is_also_a_baseline_runs_once():
    found = run([Entrant("mine", ENTRY, {"level": 0.6})])
    assert [e.name for e in found.plan.entrants] == ["mine", "chance", "joint"]


def test_baselines_can_be_left_away():
    found = run(baselines=False)
    assert [row.name for row in found.rows] == ["tame"] and found.groups[0].best_baseline is None
    assert found.rows[0].difference is None and "No baseline finished" in found.headline()


# -- refused at the door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rws": 3}, ValueError, "toy has no option 'rws'; did you mean 'rows'\\? Its options: rows"),
        ({"report": "nowhere/report.html"}, ValueError, r"report nowhere.report\.html cannot be written: .* no folder"),
        ({"report": "."}, ValueError, "is a folder"),
        ({"store": "nowhere/runs.sqlite"}, ValueError, "there is no folder nowhere"),
        ({"backend": "cloud"}, ValueError, "unknown backend"),
        ({"seeds": 0}, ValueError, "seeds must be"),
        ({"data": "broken"}, BadData, "broken.csv, column y, row 3"),
    ],
)
def test_bad_input_raises_before_any_run_and_writes_nothing(tmp_path, monkeypatch, settings, error, words):
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    problem = Logged(tmp_path / "log")
    with pytest.raises(error, match=words):
        run(problem=problem, **settings)
    assert problem.made() == [] and list(folder.iterdir()) == []


def test_a_folder_without_permission_is_refused_as_place_of_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr("anytask.bench.comparison.os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="no permission in"):
        run(report=tmp_path / "report.html")


def test_options_cannot_be_given_for_loaded_data():
    with pytest.raises(ValueError, match="the data are loaded already: rows must be given when loading"):
        run(data=Toy().load("toy"), rows=3)


def test_a_missing_mlflow_names_its_extra(monkeypatch):
    monkeypatch.setattr("anytask.bench.comparison.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"anytask\[mlflow\]"):
        run(mlflow="runs")


# -- runs and the store ------------------------------------------------------------------------------------------


def test_a_second_call_goes_on_and_fresh_makes_all_anew(tmp_path):
    problem, store = Logged(tmp_path / "log"), tmp_path / "runs.sqlite"
    first = run(problem=problem, store=store)
    assert len(problem.made()) == 8
    again = run(problem=problem, store=store)
    assert len(problem.made()) == 8
    assert [r.metrics for r in again.runs] == [r.metrics for r in first.runs]
    run(problem=problem, store=store, seeds=3)
    assert problem.made()[8:] == ["tame 2", "chance 2", "replay 2", "joint 2"]
    run(problem=problem, store=store, resume=False)
    assert len(problem.made()) == 20
    assert len(RunStore(store)) == 12


def test_other_options_are_other_runs(tmp_path):
    problem, store = Logged(tmp_path / "log"), tmp_path / "runs.sqlite"
    run(problem=problem, store=store, rows=5)
    run(problem=problem, store=store, rows=6)
    assert len(problem.made()) == 16


def test_a_given_store_stays_open():
    store = RunStore(":memory:")
    run(store=store)
    assert len(store) == 8


def test_a_given_file_is_closed(tmp_path):
    run(store=tmp_path / "runs.sqlite")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.sqlite"]  # no write-ahead log is left behind
    with sqlite3.connect(tmp_path / "runs.sqlite") as other:
        assert other.execute("SELECT COUNT(*) FROM runs").fetchone() == (8,)


def test_the_budget_leaves_runs_out_and_says_so(monkeypatch):
    found = run(**time_for_one_run(monkeypatch))
    assert [r.entrant_name for r in found.runs] == ["tame"] and len(found.not_run) == 7
    assert "7 were not started for want of time" in found.headline()
    assert found.to_json()["not_run"][0] == {"name": "chance", "seed": 0}


def test_failures_are_counted_and_told():
    found = run([system(), system("bad", do="fail")])
    row = found.rows[-1]
    assert (row.name, row.rank, row.done, row.failures) == ("bad", None, 0, 2)
    assert "Of 10 runs, 2 failed." in found.headline()
    assert [(f["name"], f["seed"], f["type"]) for f in found.to_json()["failed"]] == [
        ("bad", 0, "RuntimeError"),
        ("bad", 1, "RuntimeError"),
    ]


def test_when_all_fail_there_is_nothing_to_rank():
    found = run([system(do="fail")], baselines=False)
    assert found.headline() == "No run finished, so there is nothing to rank (2 failed)."
    assert found.groups == [] and found.best is None


# -- the ranking -------------------------------------------------------------------------------------------------


def test_higher_is_better_ranks_downwards_and_lower_upwards():
    assert [row.name for row in run().rows] == ["tame", "replay", "chance", "joint"]
    cheap = run(problem=Cheap())
    assert [(row.rank, row.name, row.primary.mean) for row in cheap.rows] == [
        (1, "chance", 10.0),
        (2, "replay", 60.0),
        (3, "tame", 80.0),
        (None, "joint", 95.0),
    ]
    assert cheap.groups[0].best_baseline == "chance"
    tame = cheap.rows[2]
    assert tame.reference == "chance" and tame.difference.mean == -70.0  # 70 tokens more, so 70 worse
    assert cheap.ranking(cheap.groups[0]).average_ranks == (1.0, 2.0, 3.0)


def test_an_upper_bound_is_a_reference_and_has_no_rank():
    found = run()
    assert (found.rows[-1].name, found.rows[-1].rank, found.rows[-1].bound) == ("joint", None, "upper")
    assert [group.best_baseline for group in found.groups] == ["replay"]
    words = found.headline()
    assert "tame ranks first on toy: accuracy" in words and "the best baseline, replay" in words
    assert "For reference, not ranked: joint 0.95" in words and "(given all the data)" in words


def test_only_those_that_were_told_the_same_are_ranked_against_each_other():
    """Told more, told scores higher than tame, and comes second of its own: its ranks and its headline are apart."""
    found = fabricated(
        {"tame": [0.6, 0.7], "low": [0.5, 0.5], "told": [0.8, 0.9], "high": [0.9, 0.9]},
        roles={"low": "baseline", "high": "baseline"},
        sees={"told": "test", "high": "test"},
    )
    ranks = [(row.rank, row.name, row.sees, row.reference) for row in found.rows]
    assert ranks == [
        (1, "tame", None, "low"),
        (2, "low", None, None),
        (1, "high", "test", None),
        (2, "told", "test", "high"),
    ]
    assert [(group.sees, group.best_baseline) for group in found.groups] == [(None, "low"), ("test", "high")]
    words = found.headline()
    assert words.startswith("Of those told nothing of the task, tame ranks first on toy")
    assert "Of those told the task in training and at test, told is the best system on toy, but not first" in words
    assert "accuracy 0.850, 5.0 points worse than the best baseline, high (0.900)" in words


@pytest.mark.parametrize(("sees", "other"), [({"base": "test"}, "the task in training and at test"),
                                             ({"a": "boundary"}, "nothing of the task")])  # fmt: skip
def test_without_a_baseline_that_was_told_the_same_the_headline_says_so(sees, other):
    found = fabricated({"a": [0.5, 0.6], "base": [0.8, 0.8]}, roles={"base": "baseline"}, sees=sees)
    words = found.headline()
    assert f"25.0 points worse than base (0.800), the best baseline, which was told {other}." in words


@pytest.mark.parametrize(
    ("values", "sees", "roles", "best"),
    [
        ({"a": [0.5], "b": [0.7]}, {}, {}, "b"),
        ({"a": [0.5], "b": [0.7]}, {"b": "train"}, {}, "a"),
        ({"a": [0.5], "b": [0.7], "c": [0.4]}, {"b": "train"}, {}, "a"),
        ({"a": [0.5], "b": [0.7], "c": [0.6]}, {"b": "train", "c": "train"}, {}, "b"),  # nobody is told as little as a
        ({"a": [0.5], "b": [0.7]}, {}, {"b": "baseline"}, "b"),
        ({"a": [0.5], "b": [0.7]}, {}, {"b": "ablation"}, "a"),
        ({"a": [0.5], "chance": [0.7], "joint": [0.9]}, {}, {"chance": "baseline", "joint": "baseline"}, "a"),
    ],
)
def test_the_best_is_no_bound_and_was_told_least_of_those_with_a_rival(values, sees, roles, best):
    assert fabricated(values, sees=sees, roles=roles).best.name == best


def test_what_the_problem_shows_limits_what_was_told():
    class Silent(Toy):
        def told(self, sees, options):
            return "none"

    found = fabricated({"a": [0.5], "b": [0.7]}, Silent(), sees={"b": "train"})
    assert [row.sees for row in found.rows] == ["none", "none"] and found.best.name == "b"


def test_a_system_named_like_a_bound_is_none():
    found = run([Entrant("joint", ENTRY, {"level": 0.3})], problem=Bare())
    assert found.rows[0].bound is None


def test_differences_are_paired_and_p_is_adjusted_for_systems_only():
    """Differences 0.1, 0.2, 0.3: t = 2 sqrt 3 with 2 degrees of freedom, p = 0.0742; two systems double it."""
    values = {"a": [0.6, 0.8, 0.7], "b": [0.5, 0.6, 0.4], "base": [0.5, 0.6, 0.4], "low": [0.1, 0.3, 0.2]}
    found = fabricated(values, roles={"base": "baseline", "low": "baseline"})
    rows = {row.name: row for row in found.rows}
    assert found.groups[0].best_baseline == "base" and rows["base"].difference is None
    assert rows["a"].difference.mean == pytest.approx(0.2)
    assert rows["a"].p_holm == pytest.approx(2 * 0.0741799)
    assert rows["b"].difference.mean == 0 and rows["b"].p_holm == 1.0
    assert math.isnan(rows["low"].p_holm) and rows["low"].difference.n == 3


def test_an_entrant_without_value_ranks_last_and_has_no_rank():
    found = fabricated({"a": [math.nan, math.nan], "b": [0.2, 0.3]})
    assert [(row.name, row.rank) for row in found.rows] == [("b", 1), ("a", None)]
    assert found.ranking(found.groups[0]) is None


def test_the_ranking_takes_the_seeds_that_all_finished():
    found = fabricated({"a": [0.5, 0.6, 0.7], "b": [0.4, 0.5]})
    assert found.ranking(found.groups[0]).n == 2


def test_one_seed_is_said_to_prove_nothing():
    words = run(seeds=1).headline()
    assert "This is one seed, which cannot tell a difference from chance" in words


def test_small_differences_are_said_to_be_chance():
    found = fabricated({"a": [0.5, 0.7, 0.6], "base": [0.6, 0.5, 0.6]}, roles={"base": "baseline"})
    assert "which may be chance between seeds" in found.headline()


# -- what comes out ----------------------------------------------------------------------------------------------


def test_the_table_has_the_documented_columns():
    table = run([system(), system("bad", do="fail")]).table()
    assert list(table.columns) == [
        *("rank", "name", "role", "bound", "sees", "mean", "low", "high"),
        *("reference", "difference", "difference_low", "difference_high", "p_holm"),
        *("forgetting", "tokens", "seconds", "peak_mb", "parameters", "done", "failures", "kind"),
    ]
    assert table["name"].tolist() == ["tame", "replay", "chance", "joint", "bad"]
    assert table["parameters"].tolist()[:4] == [1000.0] * 4
    assert table["rank"].isna().tolist() == [False] * 3 + [True] * 2


def test_json_is_strict_and_holds_the_series_only_on_demand():
    found = run([system(), system("bad", do="fail")])
    text = json.dumps(found.to_json(), allow_nan=False)
    back = json.loads(text)
    assert back["primary"] == "accuracy" and back["best"] == "tame"
    assert back["groups"][0]["best_baseline"] == "replay" and len(back["groups"][0]["average_ranks"]) == 3
    assert back["rows"][0]["name"] == "tame" and back["rows"][-1]["mean"] is None
    assert "details" not in back["runs"][0]
    assert found.to_json(details=True)["runs"][0]["details"]["curve"] == [0.1, 0.8]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "[Entrant.of('tame', 'toy_problem:Guess', {'level': 0.8}, 'system', None)], seeds=2)"),
        ({"seeds": [4, 9], "baselines": False, "rows": 5}, "seeds=[4, 9], baselines=False, rows=5)"),
    ],
)
def test_the_command_repeats_the_comparison_in_python(settings, words):
    assert run(**settings).command.endswith(words)


def test_the_command_is_a_shell_command_for_catalogued_systems():
    found = fabricated({"tame": [0.1, 0.2]}, source="my data.npz", options={"target": "y", "epochs": 2})
    entrants = (Entrant("tame", ENTRY, key="tame"),)
    found.plan = plan(found.problem, found.data, entrants, 2)
    assert found.command == (
        "anytask compare toy --data 'my data.npz' --systems tame --seeds 2 --target y --set epochs=2"
    )


# -- the terminal ------------------------------------------------------------------------------------------------


class Worded(Toy):
    metrics = (Metric("accuracy", "Final accuracy over all tasks"), *Toy.metrics[1:])


def printed(found, width):
    file = io.StringIO()
    Console(width=width, file=file, force_terminal=False).print(found.rich_table())
    return file.getvalue()


def test_eighty_columns_hold_the_ranking_whole():
    found = run([system(), system("bad [x]", do="fail")], Worded(), seeds=3)
    text = printed(found, 80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "Final accuracy over all tasks (higher is better)" in text
    lines = [line.split() for line in text.splitlines()]
    head = next(line for line in lines if line[:1] == ["#"])
    assert head[:5] == ["#", "name", "role", "accuracy", "difference"]
    assert any(line[:3] == ["–", "joint", "reference"] for line in lines)
    tame = next(" ".join(line) for line in lines if line[1:2] == ["tame"])
    row = found.rows[0]
    assert f"{row.primary.mean:.3f} [{row.primary.low:.3f}, {row.primary.high:.3f}]" in tame
    assert f"+{row.difference.mean:.3f} p" in tame
    assert "best baseline" in text and "bad [x]" in text
    assert " ".join(found.headline().split()) in " ".join(text.split())


def test_wider_terminals_add_seconds_and_failures():
    found = run([system(), system("bad", do="fail")], Worded())
    head = next(line for line in printed(found, 120).splitlines() if line.startswith("#"))
    assert head.split()[5:7] == ["seconds", "failures"]
    assert "forgetting" in printed(found, 160)


class Costly(Worded):
    costs = ("forgetting",)


def test_what_the_problem_calls_costs_is_shown_whatever_the_width():
    found = run([system()], Costly())
    narrow, wide = printed(found, 60), printed(found, 140)
    assert "What it cost" in narrow and "What it cost" not in wide
    head = next(line for line in narrow.splitlines() if line.startswith("#") and "forgetting" in line)
    assert head.split() == ["#", "name", "forgetting"]
    head = next(line for line in wide.splitlines() if line.startswith("#"))
    assert head.split()[5:8] == ["forgetting", "seconds", "failures"]


def test_unless_told_otherwise_the_problem_says_how_many_seeds(monkeypatch):
    assert run([system()], seeds="auto").plan.seeds == (0, 1, 2, 3, 4)
    monkeypatch.setattr(Toy, "seeds", lambda self, data: 2)
    assert run([system()], seeds="auto").plan.seeds == (0, 1)


def test_what_was_told_heads_the_ranks_of_those_who_were_told_it():
    found = fabricated(
        {"a": [0.1, 0.2], "b": [0.2, 0.3], "joint": [0.9, 0.9]}, roles={"joint": "baseline"}, sees={"b": "test"}
    )
    lines = printed(found, 80).splitlines()
    starts = [
        "Told nothing of the task",
        "1  a ",
        "Told more: the task in training and at test",
        "1  b ",
        "For reference, not ranked: given",
        "–  joint",
    ]
    places = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert places == sorted(places)
    equal = printed(fabricated({"a": [0.1, 0.2], "b": [0.2, 0.3]}), 80)
    assert "Told" not in equal and "told" not in equal


def test_a_narrow_terminal_folds_and_loses_nothing():
    text = printed(run([system("a-very-long-name-of-a-variant-of-a-system")], seeds=2), 50)
    assert "…" not in text and "joint" in text and all(len(line) <= 50 for line in text.splitlines())


def test_metrics_that_nobody_has_get_no_column():
    found = fabricated({"a": [0.1, 0.2], "b": [0.2, 0.3]})
    assert "forgetting" not in printed(found, 200)
