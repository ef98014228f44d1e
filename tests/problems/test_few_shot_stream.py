"""Streams of few-shot tasks: which classes come when, from how many rows, and how features are tested on new ones."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.task_stream import TaskStream
from anytask.problems.task_stream.episodes import Episodes

PROBLEM = TaskStream()
MEANS = Entrant("means", "anytask.continual:NearestClassMean")


def blobs(n_classes=24, per_class=12, spread=0.1):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), per_class)
    return rng.normal(size=(n_classes, 6))[y] + spread * rng.normal(size=(len(y), 6)), y


def load(source=None, **options):
    options = {"ways": 3, "shots": 2, "epochs": 1, "curve_points": 0, **options}
    return PROBLEM.load(blobs() if source is None else source, **options)


@settings(max_examples=30, deadline=None)
@given(
    n_classes=st.integers(11, 40),
    ways=st.integers(2, 4),
    shots=st.integers(1, 5),
    unseen=st.sampled_from([None, 0, 4, 5]),
    seed=st.integers(0, 9),
)
def test_a_base_with_all_rows_then_k_rows_of_n_new_classes_and_some_that_never_come(
    n_classes, ways, shots, unseen, seed
):
    data = load(blobs(n_classes), ways=ways, shots=shots, unseen=unseen)
    stream, y = data.stream(seed), data.source.y
    base, *tasks = stream.tasks
    assert len(base.classes) == max(2, n_classes // 5) and set(Counter(y[base.train].tolist()).values()) == {9}
    for task in tasks:
        assert len(task.classes) == ways and set(Counter(y[task.train].tolist()).values()) == {shots}
    taught = np.concatenate([task.classes for task in stream.tasks])
    never = np.setdiff1d(y, taught)
    assert len(set(taught.tolist())) == len(taught) and not stream.facts.repeats
    if unseen == 0:
        assert len(never) < ways and stream.episodes is None
    else:
        wanted = max(ways, 2 * n_classes // 5) if unseen is None else unseen
        assert wanted <= len(never) < wanted + ways
        assert set(y[stream.episodes.rows]) <= set(never.tolist())


def test_a_base_can_be_named_and_the_seed_draws_the_rest():
    data = load(base="3,4,5,6", unseen=8)
    assert "4 classes are the base, 4 tasks bring 3 each, and 8 are never taught." in data.notes
    a, b = data.stream(0), data.stream(1)
    assert a.tasks[0].classes.tolist() == b.tasks[0].classes.tolist() == [3, 4, 5, 6]
    assert [t.classes.tolist() for t in a.tasks] != [t.classes.tolist() for t in b.tasks]
    assert [t.classes.tolist() for t in a.tasks] == [t.classes.tolist() for t in data.stream(0).tasks]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"shots": None}, "ways and shots go together"),
        ({"ways": None, "shots": None, "scenario": "few-shot"}, "needs ways and shots"),
        ({"ways": None, "shots": None, "unseen": 3}, "needs ways and shots"),
        ({"scenario": "permuted"}, "ways and shots are for the scenario few-shot"),
        ({"order": "1,2"}, "ways and shots are for the scenario few-shot"),
        ({"n_tasks": 3}, "as many tasks as there are classes for"),
        ({"base": "1,cat"}, "base names 'cat', which is not there"),
        ({"base": "1"}, "24 classes cannot make a base of 2, a task of 3"),
        ({"unseen": 2}, r"never taught \(0, or at least 3\)"),
        ({"unseen": 18}, "24 classes cannot make"),
        ({"shots": 12}, "class 0 has 12 rows, too few for shots=12"),
        ({"shots": 10}, "shots=10, and a class has 9 training rows"),
        ({"shots": 0}, "shots must be"),
    ],
)
def test_what_classes_or_rows_do_not_suffice_for_is_said(options, says):
    with pytest.raises(BadData, match=says):
        load(**options)


def test_episodes_hold_other_rows_to_ask_than_to_learn_from_and_as_many_of_each_class():
    data = load(ways=4, shots=5, episodes=20)
    episodes, y = data.stream(0).episodes, data.source.y
    assert episodes.support.shape == (20, 4, 5) and episodes.queries.shape == (20, 4, 7)  # 12 rows of each class
    for support, queries in zip(episodes.support, episodes.queries):
        assert not set(support.ravel()) & set(queries.ravel())
        classes = y[episodes.rows[support]]
        assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == 4
        assert (y[episodes.rows[queries]] == classes[:, :1]).all()


def test_the_class_mean_of_unit_features_with_the_largest_cosine_answers():
    episode = Episodes(np.arange(6), np.array([[[0, 1], [2, 3]]]), np.array([[[4], [5]]]))
    Z = np.array([[9.0, 0], [0, 1], [1, 0], [1, 0], [1, 1.5], [2, 0.1]])  # unit means (1, 1) / 2 and (1, 0)
    assert episode.accuracy(Z) == 1.0  # the mean of raw features, (4.5, 0.5), would lose the first query
    assert episode.accuracy(100 * Z) == 1.0


@dataclass(frozen=True)
class Handed(Entrant):
    """An entrant whose class is handed over as it is."""

    cls: type = object

    def load(self):
        return self.cls


class GettingBetter:
    """Answers with its first label, and gives useless features before the stream's last task ends."""

    sees = "boundary"

    def partial_fit(self, X, y, task=None):
        self.first = getattr(self, "first", y[0])
        self.ended = getattr(self, "ended", 0)

    def end_task(self):
        self.ended += 1

    def predict(self, X, task=None):
        return np.full(len(X), self.first)

    def embed(self, X):
        return X if self.ended == 4 else np.ones_like(X)


class WithoutFeatures(GettingBetter):
    embed = property()


def test_unseen_classes_are_tested_after_every_task_and_the_gain_counts_from_the_base():
    data = load(base="0,1,2,3", unseen=11)
    outcome = PROBLEM.run(Handed("x", "", cls=GettingBetter), data, 0)
    assert outcome.details["unseen"][:3] == [pytest.approx(1 / 3)] * 3 and len(outcome.details["unseen"]) == 4
    m = outcome.metrics
    assert m["unseen_accuracy"] > 0.9 and m["unseen_gain"] == pytest.approx(m["unseen_accuracy"] - 1 / 3)
    assert m["few_shot_accuracy"] == 0 < m["accuracy"]  # its first label is one of the base
    without = PROBLEM.run(Handed("x", "", cls=WithoutFeatures), data, 0)
    assert "unseen_accuracy" not in without.metrics and "few_shot_accuracy" in without.metrics


def test_class_means_on_raw_inputs_know_what_they_were_shown_and_get_no_better_at_new_tasks():
    metrics = PROBLEM.run(MEANS, load(identity="boundary"), 0).metrics
    assert metrics["unseen_gain"] == 0 and min(metrics["unseen_accuracy"], metrics["few_shot_accuracy"]) > 0.9
    plain = PROBLEM.run(MEANS, PROBLEM.load(blobs(8), n_tasks=2, epochs=1), 0).metrics
    assert "few_shot_accuracy" not in plain and math.isclose(plain["accuracy"], 1, abs_tol=0.1)
