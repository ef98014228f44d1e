"""The baselines on tables: a model for each task, and LightGBM."""

import numpy as np
import pandas as pd
import pytest

from anytask.multitask import RMTGB, BoostingPerTask, LinearPerTask, NetworkPerTask, SharedTrunk

CONTRACT = {"BoostingPerTask": {"rounds": 12}}
EXEMPT = {"NetworkPerTask": {"test_defaults_learn_what_tasks_differ_in": "SharedTrunk's defaults, a task at a time"}}

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3))
TASK = np.arange(300) % 3
SLOPES = np.array([1.0, -2.0, 4.0])
Y = SLOPES[TASK] * X[:, 0] + TASK


def test_boosting_per_task_is_the_third_block_of_r_mtgb():
    own = BoostingPerTask(rounds=20).fit(X, Y, TASK).predict(X)
    block = RMTGB(shared_rounds=0, partition_rounds=0, task_rounds=20).fit(X, Y, TASK).predict(X)
    np.testing.assert_allclose(own, block, atol=1e-10)


def test_linear_models_find_the_lines_of_their_tasks():
    model = LinearPerTask().fit(X, Y, TASK)
    grid = np.array([[0.0, 5, 5], [1.0, 5, 5]])
    np.testing.assert_allclose(np.diff(model.predict(grid), axis=0)[0], SLOPES, atol=0.02)


@pytest.mark.parametrize("labels", [2, 3])
def test_linear_models_of_classes_know_which_classes_a_task_has(labels):
    y = np.digitize(X[:, 0], [-0.4, 0.4][: labels - 1])
    y = np.where(TASK == 2, 1, y)  # a task of one class
    model = LinearPerTask().fit(X, y, TASK)
    assert (model.predict(X, TASK) == y).mean() > 0.95
    assert model.predict_proba(X, 2)[:, 1].min() > 0.999


@pytest.mark.parametrize("how", ["each", "feature"])
def test_lightgbm_learns_saves_and_loads(how, tmp_path):
    pytest.importorskip("lightgbm", reason="needs the extra multitask")
    from anytask.multitask.baselines import LightGBMTasks

    model = LightGBMTasks(how=how).fit(X, Y, TASK)
    assert ((model.predict(X, TASK) - Y) ** 2).mean() < 0.1 * Y.var()
    model.save(tmp_path)
    assert np.array_equal(LightGBMTasks.load(tmp_path).predict(X), model.predict(X))
    labels = np.where(Y > 0, "up", "down")
    assert (LightGBMTasks(how=how).fit(X, labels, TASK).predict(X, TASK) == labels).mean() > 0.9
    mixed = pd.DataFrame({"y": Y, "label": labels})
    if how == "feature":
        with pytest.raises(ValueError, match="one kind"):
            LightGBMTasks(how=how).fit(X, mixed)
    else:
        assert LightGBMTasks(how=how).fit(X, mixed).predict(X).shape == (300, 2)


def test_a_missing_lightgbm_is_said_with_the_extra(monkeypatch):
    from anytask.multitask.baselines import LightGBMTasks

    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"pip install 'anytask\[multitask\]'"):
        LightGBMTasks()


def test_a_network_for_each_task_is_trained_on_its_rows_alone():
    how = {"epochs": 3, "batch_size": 32, "standardize": False}
    own = NetworkPerTask(**how).fit(X, Y, TASK).predict(X)
    alone = SharedTrunk(**how).fit(X[TASK == 0], Y[TASK == 0]).predict(X)
    np.testing.assert_allclose(own[:, 0], alone, rtol=1e-5, atol=1e-6)
    other = NetworkPerTask(**how).fit(X, np.where(TASK == 2, -Y, Y), TASK).predict(X)
    assert np.array_equal(own[:, :2], other[:, :2]) and not np.allclose(own[:, 2], other[:, 2])
