"""Sample weights: in every metric of the problems on tables, and in the training of those who take them."""

from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from anytask.bench import compare
from anytask.core.errors import BadData
from anytask.evaluate.baselines import Chosen, LinearClassifier, PlainMLP
from anytask.evaluate.nero import NERO
from anytask.parts.planar_groups import cyclic
from anytask.problems.base import Entrant
from anytask.problems.equivariance import Equivariance, orbit_metrics
from anytask.problems.few_labels import FewLabels
from anytask.problems.task_stream import TaskStream

LINEAR = Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline")


def weigh(number):
    """What the row of this number counts."""
    return 1 + np.asarray(number, dtype=int) % 3


class Deaf:
    """Answers by a fixed rule, the first input being the number of the row; takes no weights."""

    def __init__(self, seed=0):
        Rule.shown = []

    def partial_fit(self, X, y, task=None):
        return self

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X, task=None):
        return ((X[:, 0] // 5) % 4).astype(int)

    def predict_proba(self, X):
        return np.eye(4)[self.predict(X)] * 0.6 + 0.1


class Rule(Deaf):
    """The same, and notes the weights that it is given."""

    shown: ClassVar[list] = []

    def partial_fit(self, X, y, task=None, sample_weight=None):
        Rule.shown.append((X[:, 0], sample_weight))
        return self

    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y).partial_fit(X, y, sample_weight=sample_weight)


RULE, DEAF = (Entrant(cls.__name__, f"{__name__}:{cls.__name__}") for cls in (Rule, Deaf))


@pytest.fixture
def table():
    n = np.arange(160)
    return pd.DataFrame({"number": n, "noise": np.sin(n), "weight": weigh(n), "label": n % 4})


def repeated(*arrays, weights):
    return [np.repeat(one, weights) for one in arrays]


@pytest.mark.parametrize("options", [{"identity": "none", "blur": 0.5}, {"scenario": "permuted", "n_tasks": 3}])
def test_accuracies_of_a_stream_are_those_of_repeated_rows_and_learners_get_the_weights(table, options):
    problem = TaskStream()
    data = problem.load(table, weights="weight", scale="none", epochs=1, **options)
    assert data.source.input_shape == (2,) and any("Rows count as weight says" in note for note in data.notes)
    outcome = problem.run(RULE, data, seed=1)
    stream = data.stream(1)
    for k, task in enumerate(stream.tasks):
        X, y = stream.inputs(task.test, k), stream.labels(task.test, k)
        truth, said = repeated(y, Rule().predict(X), weights=weigh(task.test))
        assert outcome.details["accuracy_matrix"][-1][k] == pytest.approx(accuracy_score(truth, said))
    heavy = [weigh(task.test).sum() for task in stream.tasks]  # a sample for the curve holds all of them
    final = np.average(outcome.details["accuracy_matrix"][-1], weights=heavy)
    assert outcome.details["curve"][-1]["accuracy"] == pytest.approx(final)
    assert not any("weights" in note for note in outcome.notes)
    if options.get("scenario") != "permuted":
        for numbers, weights in Rule.shown:
            np.testing.assert_array_equal(weights, weigh(numbers))


def test_metrics_of_few_labels_are_those_of_repeated_rows(table):
    problem = FewLabels()
    data = problem.load(table, weights="weight", per_class=5)
    metrics = problem.run(RULE, data, seed=0).metrics
    _, test = data.split(0)
    weights, X = weigh(test), data.inputs(test)
    truth, said = repeated(data.source.y[test], Rule().predict(X), weights=weights)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    P = np.repeat(Rule().predict_proba(X), weights, axis=0)
    assert metrics["log_loss"] == pytest.approx(log_loss(truth, P, labels=range(4)))
    assert metrics != problem.run(RULE, problem.load(table.drop(columns="weight"), per_class=5), seed=0).metrics
    assert Rule.shown[0][1] is None


def test_metrics_on_orbits_are_those_of_repeated_images():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4, 4)).astype(np.float32), np.arange(40) % 3
    model, weights = LinearClassifier().fit(X[:20], y[:20]), weigh(np.arange(40))
    nero = NERO(cyclic(4), metrics=["correctness", "confidence"])
    weighted = orbit_metrics(nero.evaluate(model, X, y), weights)
    again = nero.evaluate(model, np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert weighted == pytest.approx(orbit_metrics(again), abs=1e-6)
    assert weighted != pytest.approx(orbit_metrics(nero.evaluate(model, X, y)), abs=1e-3)
    table = again.table().set_index(["reference", "metric"]).loc[("truth", "correctness")]
    for metric, column in (("orbit_accuracy", "mean"), ("gap", "gap"), ("worst_accuracy", "worst")):
        assert weighted[metric] == pytest.approx(table[column], abs=1e-6)


def test_an_equivariance_run_counts_its_images_and_its_classifiers_learn_by_weight(tmp_path):
    rng = np.random.default_rng(0)
    X, y, weights = rng.normal(size=(90, 5, 5)), np.arange(90) % 3, weigh(np.arange(90) // 3)
    np.savez(tmp_path / "t.npz", X=X, y=y, w=weights, place=np.arange(90) // 9)
    problem = Equivariance()
    data = problem.load(tmp_path / "t.npz", weights="w", transforms="flips")
    train, test = data.split(0)
    model = LinearClassifier().fit(data.inputs(train), y[train], sample_weight=weights[train])
    right = model.predict(data.inputs(test)) == y[test]
    metrics = problem.run(LINEAR, data, seed=0).metrics
    assert metrics["accuracy"] == pytest.approx(np.average(right, weights=weights[test]))


def test_linear_training_by_integer_weights_is_that_of_repeated_rows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    weights = weigh(np.arange(60))
    a = LinearClassifier().fit(X, y, sample_weight=weights)
    b = LinearClassifier().fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-4)
    plain, weighted = (PlainMLP(epochs=5).fit(X, y, sample_weight=w) for w in (None, weights))
    assert not np.allclose(plain.predict_proba(X), weighted.predict_proba(X))
    for bad in ([1.0] * 59, [np.nan] * 60, [-1.0] * 60, [0.0] * 60):
        with pytest.raises(ValueError, match="sample_weight must be 60 finite numbers"):
            LinearClassifier().fit(X, y, sample_weight=bad)


@pytest.mark.parametrize("by", ["accuracy", "orbit"])
def test_the_choice_among_classifiers_counts_held_out_images_by_weight(by):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 4, 4)), np.arange(40) % 2
    same = Chosen(by=by).fit(X, y, cyclic(4), sample_weight=np.ones(40))
    assert same.scores_ == pytest.approx(Chosen(by=by).fit(X, y, cyclic(4)).scores_)
    assert same.scores_ != Chosen(by=by).fit(X, y, cyclic(4), sample_weight=weigh(np.arange(40)) ** 3.0).scores_


def test_who_takes_no_weights_trains_without_and_says_so(table):
    for problem, options in ((TaskStream(), {"n_tasks": 2, "epochs": 1}), (FewLabels(), {"per_class": 5})):
        data = problem.load(table, weights="weight", **options)
        notes = {entrant.name: " ".join(problem.run(entrant, data, 0).notes) for entrant in (RULE, DEAF)}
        assert "Trained without the weights" in notes["Deaf"] and "takes no sample_weight" in notes["Deaf"]
        assert "sample_weight" not in notes["Rule"]
        plain = problem.load(table.drop(columns="weight"), **options)
        assert "sample_weight" not in " ".join(problem.run(DEAF, plain, 0).notes)


@pytest.mark.parametrize("problem", [TaskStream(), FewLabels(), Equivariance()], ids=lambda problem: problem.key)
def test_every_problem_on_tables_takes_weights_groups_and_the_order_of_time(problem, tmp_path):
    n = np.arange(96)
    np.savez(tmp_path / "t.npz", X=np.sin(n[:, None] + np.arange(16)), y=n % 2, w=weigh(n), w2=weigh(n) - 2, g=n // 8)
    shape = {"image_shape": "4x4"} if problem.key == "equivariance" else {}
    more = {"per_class": 5} if problem.key == "few-labels" else {}

    def split(**options):
        data = problem.load(tmp_path / "t.npz", **shape, **more, **options)
        if problem.key != "task-stream":
            return data, *data.split(0)
        task = data.stream(0).tasks[0]
        return data, task.train, task.test

    data, train, test = split(weights="w", group="g")
    assert not set(data.source.group[train]) & set(data.source.group[test])
    np.testing.assert_array_equal(data.weights(test), weigh(test))
    _, train, test = split(split="ordered")
    assert train.max() < test.min()
    with pytest.raises(BadData, match=r"column 'w2', row 0 \(counted from 0\).* got -1"):
        split(weights="w2")
    with pytest.raises(BadData, match="choose one"):
        split(group="g", split="ordered")


def test_a_comparison_on_a_data_frame_with_weights_says_what_counts(table):
    frame = table.set_index(pd.Index([7] * len(table))).rename(columns={"noise": "fingerprint"})
    result = compare("few-labels", frame, systems=[LINEAR], baselines=False, seeds=1, weights="weight", per_class=5)
    assert not result.failed and "weight" in " ".join(result.data.describe()["notes"])
