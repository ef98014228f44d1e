"""Runs arrive in MLflow with everything that was measured, in a folder, without a network."""

import os

import pytest
from toy_problem import Toy

from anytask.bench import compare
from anytask.bench.mlflow_export import export
from anytask.problems.base import Entrant

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def found():
    systems = [
        Entrant("tame", "toy_problem:Guess", {"level": 0.8}),
        Entrant("bad", "toy_problem:Guess", {"do": "fail"}),
    ]
    return compare(Toy(), "toy", systems, seeds=1, baselines=False, backend="sequential", rows=7)


def client(uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=uri)


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_folder_gets_every_run(found, tmp_path, monkeypatch, as_uri):
    uri = (tmp_path / "runs").as_uri() if as_uri else str(tmp_path / "runs")
    ids = export(found, uri)
    assert len(ids) == 2 and "MLFLOW_ALLOW_FILE_STORE" not in os.environ
    there = client(uri, monkeypatch)
    good, bad = (there.get_run(i) for i in ids)
    assert there.get_experiment(good.info.experiment_id).name == "anytask/toy/toy"
    assert good.info.status == "FINISHED" and bad.info.status == "FAILED"
    assert good.data.metrics["accuracy"] == pytest.approx(found.runs[0].metrics["accuracy"])
    assert good.data.metrics["cost.trainable_parameters"] == 1000.0
    assert good.data.params == {"entry": "toy_problem:Guess", "seed": "0", "level": "0.8", "option.rows": "7"}
    assert good.data.tags["data_fingerprint"] == found.data.fingerprint and good.data.tags["entrant"] == "tame"
    assert bad.data.tags["error"] == "RuntimeError: <b>broken</b> at seed 0" and "accuracy" not in bad.data.metrics
    assert good.info.start_time <= good.info.end_time


def test_the_report_lies_beside_the_runs(found, tmp_path, monkeypatch):
    uri = str(tmp_path / "runs")
    there_already = export(found, uri)
    again = export(found, uri)
    assert not set(there_already) & set(again)
    there = client(uri, monkeypatch)
    experiments = there.search_experiments(filter_string="name = 'anytask/toy/toy'")
    assert len(experiments) == 1
    runs = there.search_runs([experiments[0].experiment_id], "tags.headline LIKE 'tame ranks first%'")
    assert len(runs) == 2
    assert [a.path for a in there.list_artifacts(runs[0].info.run_id)] == ["report.html"]


def test_the_current_folder_stays_clean(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export(found, "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("uri", ["ftp://example.org/runs", "", "sqlite:////nowhere/at/all/runs.db"])
def test_what_mlflow_cannot_use_is_named_with_what_works(found, uri):
    with pytest.raises(ValueError, match=r"MLflow cannot use .*folder"):
        export(found, uri)


@pytest.mark.parametrize("uri", ["ftp://example.org/runs", ""])
def test_compare_refuses_it_before_any_run(tmp_path, uri):
    problem = Toy()
    problem.log = str(tmp_path / "log")
    with pytest.raises(ValueError, match="MLflow cannot use"):
        compare(problem, "toy", [Entrant("tame", "toy_problem:Guess")], seeds=1, backend="sequential", mlflow=uri)
    assert not (tmp_path / "log").exists()
