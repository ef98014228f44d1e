"""Task streams whose rows have several labels, of which a task annotates its own."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from anytask.bench import compare
from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.task_stream import TaskStream
from anytask.problems.task_stream.metrics import label_metrics, macro_ap
from anytask.problems.task_stream.walk import LabelExam, Walk

RNG = np.random.default_rng(0)
Y = (RNG.random((200, 6)) < 0.3).astype(int)
X = np.column_stack([np.arange(200.0), Y + 0.3 * RNG.normal(size=Y.shape)])


def loaded(**options):
    problem = TaskStream()
    return problem, problem.load((X, Y), **{"scale": "none", "epochs": 1, "n_tasks": 3, **options})


class Spy:
    """Writes down what it is shown, and knows the probability of every label shown so far."""

    multilabel, sees = True, "test"

    def __init__(self):
        self.shown, self.classes_ = [], np.array([], dtype=int)

    def partial_fit(self, X, y, task=None, *, classes):
        self.shown.append((X[:, 0].astype(int), y, task, list(classes)))
        self.classes_ = np.union1d(self.classes_, classes)

    def predict_proba(self, X):
        return Y[X[:, 0].astype(int)][:, self.classes_].astype(float)


def test_a_row_is_in_each_task_one_of_whose_labels_it_has_and_shows_no_other_labels():
    _, data = loaded()
    stream, spy = data.stream(0), Spy()
    for task in stream.tasks:
        others = np.setdiff1d(np.arange(200), np.concatenate([stream.tasks[0].test, task.train]))
        assert Y[task.train][:, task.classes].any(axis=1).all() and not Y[others][:, task.classes].any()
        assert np.array_equal(task.test, stream.tasks[0].test) and not np.intersect1d(task.train, task.test).size
    assert sum(len(task.train) for task in stream.tasks) > len(set().union(*(t.train for t in stream.tasks)))
    Walk(spy, stream, "train").through([Entrant("spy", "")], lambda share: None)
    for rows, y, task, classes in spy.shown:
        assert classes == stream.tasks[task].classes.tolist() and np.array_equal(y, Y[rows][:, classes])


def test_who_knows_the_labels_has_precision_1_from_the_task_on():
    _, data = loaded()
    [exam] = Walk(Spy(), data.stream(0), "train").through([Entrant("spy", "")], lambda share: None)
    assert isinstance(exam, LabelExam)
    assert np.array_equal(exam.R, np.where(np.tri(3, dtype=bool), 1.0, np.nan), equal_nan=True)
    assert label_metrics(exam.R, [0, 1, 2], exam.stages)["macro_ap"] == 1.0


def test_macro_ap_is_the_mean_of_scikit_learns_over_classes_with_a_positive():
    y, scores, weights = RNG.integers(0, 2, (30, 3)), RNG.random((30, 3)), RNG.random(30)
    y[:, 1] = 0
    each = [average_precision_score(y[:, c], scores[:, c], sample_weight=weights) for c in (0, 2)]
    assert macro_ap(y, scores, weights) == pytest.approx(np.mean(each))
    assert np.isnan(macro_ap(y[:, 1:2], scores[:, 1:2]))


def test_baselines_take_part_and_systems_of_one_label_are_left_out_with_the_reason():
    problem, data = loaded(epochs=10, scale="standard")
    assert problem.primary.key == "macro_ap" and data.options.identity == "train"
    result = {e.name: problem.run(e, data, 0).metrics for e in problem.baselines(data)}
    assert set(result) == {"fine-tuning", "joint-training", "replay", "linear"}
    assert result["joint-training"]["macro_ap"] > result["fine-tuning"]["macro_ap"] - 0.05
    assert min(m["macro_ap"] for m in result.values()) > Y.mean() + 0.2  # chance is the share of positives
    for cls in ("NearestClassMean", "LwF", "TAME"):
        assert "learns one label a row" in problem.refuses(Entrant("x", f"anytask.continual:{cls}"), data)
    assert problem.load("digits") and problem.primary.key == "accuracy"


def test_a_comparison_of_them_is_ranked_by_macro_ap(tmp_path):
    probe = Entrant("probe", "anytask.continual:FineTuning", {"hidden": []})
    means = Entrant("means", "anytask.continual:NearestClassMean")
    report, (_, data) = tmp_path / "report.html", loaded()
    done = compare("task-stream", data, [probe, means], seeds=1, baselines=False, report=report)
    assert done.primary.key == "macro_ap" and done.table()["mean"].tolist()[0] > 0
    assert "Average precision on each task" in report.read_text()
    assert [left.name for left in done.plan.left_out] == ["means"]


def test_what_is_saved_for_use_answers_with_a_matrix(tmp_path):
    problem, data = loaded()
    trained = problem.refit(problem.baselines(data)[3], data, 0)
    assert trained.parts[0].predict(X).shape == (200, 6) and set(np.unique(trained.parts[0].predict(X))) <= {0, 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scenario": "permuted"}, "need scenario=class"),
        ({"blur": 0.5}, "blur=0"),
        ({"labels": "local"}, "labels=global"),
        ({"n_tasks": 4}, "2 of 4 tasks hold a single label"),
        ({"order": "0,1,9"}, "order names '9'"),
    ],
)
def test_streams_that_several_labels_cannot_make(options, says):
    with pytest.raises(BadData, match=says):
        loaded(**options)


def test_a_rare_label_is_left_on_both_sides():
    rare = np.eye(4, dtype=int)[np.arange(40) % 3]
    rare[:2, 3] = 1  # beside labels 0 and 1
    for seed in range(5):
        tasks = TaskStream().load((np.eye(40), rare), n_tasks=2, scale="none").stream(seed).tasks
        train = np.concatenate([task.train for task in tasks])
        assert rare[train, 3].any() and rare[tasks[0].test, 3].any()
