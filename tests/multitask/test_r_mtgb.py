"""R-MTGB: its blocks against plain boosting, the step on theta, and what it says of the tasks."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.tree import DecisionTreeRegressor

from anytask.multitask import RMTGB
from anytask.multitask.parts.trees import Binned, Grower, contributed, empty_forest, summed

CONTRACT = {"shared_rounds": 4, "partition_rounds": 12, "task_rounds": 4}

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3)).astype(np.float32)
TASK = np.arange(240) % 6
Y = np.where(TASK == 4, -1, 1) * np.sin(2 * X[:, 0]) + 0.3 * X[:, 1]
Z = RNG.normal(size=(100, 3))
EXACT = {"max_bins": None, "standardize": False}


def pooled(rounds, **params):
    return RMTGB(**{"shared_rounds": rounds, "partition_rounds": 0, "task_rounds": 0, **EXACT, **params})


# -- equal to what is known -------------------------------------------------------------------------------------------


def test_the_first_block_is_gradient_boosting():
    own = pooled(60).fit(X, Y, TASK)
    other = GradientBoostingRegressor(init="zero", max_leaf_nodes=2, learning_rate=0.1, n_estimators=60).fit(X, Y)
    np.testing.assert_allclose(own.predict(Z, 0), other.predict(Z), atol=1e-8)


def test_the_third_block_is_gradient_boosting_per_task():
    own = RMTGB(shared_rounds=0, partition_rounds=0, task_rounds=30, **EXACT).fit(X, Y, TASK)
    for task in (0, 4):
        rows = task == TASK
        other = GradientBoostingRegressor(init="zero", max_leaf_nodes=2, learning_rate=0.1, n_estimators=30)
        np.testing.assert_allclose(own.predict(Z, task), other.fit(X[rows], Y[rows]).predict(Z), atol=1e-8)


@pytest.mark.parametrize("how", [{"max_leaf_nodes": 5}, {"max_leaf_nodes": 8, "max_depth": 2},
                                 {"max_leaf_nodes": 6, "min_samples_leaf": 20}], ids=str)  # fmt: skip
def test_a_tree_is_that_of_scikit_learn(how):
    targets = np.stack([Y, X[:, 2] ** 2], axis=1)
    forest = empty_forest(1, how["max_leaf_nodes"], 2)
    seen = Grower(**how).grow(forest, 0, Binned(X, None), targets, None, np.arange(3))
    other = DecisionTreeRegressor(**how, random_state=0).fit(X, targets)
    np.testing.assert_allclose(seen, other.predict(X), atol=1e-9)
    np.testing.assert_allclose(summed(forest, X), seen, atol=1e-12)
    np.testing.assert_allclose(summed(forest, Z.astype(np.float32)), other.predict(Z), atol=1e-9)


@pytest.mark.parametrize("bins", [None, 16])
def test_rows_that_were_not_drawn_get_the_value_that_they_are_predicted(bins):
    rows = np.sort(RNG.choice(240, 60, replace=False))
    forest = empty_forest(1, 6, 1)
    seen = Grower(6).grow(forest, 0, Binned(X, bins), Y[:, None], rows, np.arange(3))
    np.testing.assert_array_equal(summed(forest, X), seen)
    assert (forest["feature"] >= 0).sum() == 5


def test_coarse_bins_hold_about_as_many_rows_each():
    counts = np.bincount(Binned(X, 16).codes[0])
    assert len(counts) == 16 and counts.min() >= 14 and counts.max() <= 16
    x = np.array([[0.0], [0.0], [0.0], [1.0], [2.0]], dtype=np.float32)
    assert len(np.unique(Binned(x, 2).codes[0])) == 2


def test_two_classes_have_an_output_each_whose_probabilities_are_a_softmax():
    labels = (Y > 0).astype(int)
    p = pooled(40).fit(X, labels, TASK).predict_proba(X, 0)
    # With r = indicator - p the two outputs stay opposite: a logit of twice the step, trees fitted to label - p.
    F = np.zeros(240)
    for _ in range(40):
        tree = DecisionTreeRegressor(max_leaf_nodes=2, random_state=0).fit(X, labels - expit(2 * F))
        F += 0.1 * tree.predict(X)
    np.testing.assert_allclose(p[:, 1], expit(2 * F), atol=1e-8)
    right = GradientBoostingClassifier(max_leaf_nodes=2, n_estimators=40).fit(X, labels).score(X, labels)
    assert (p.argmax(1) == labels).mean() > right - 0.1


# -- theta ------------------------------------------------------------------------------------------------------------


def stepped(theta, r, difference, t, **params):
    model = RMTGB(**params)
    model.theta_, model.rows_ = np.array(theta), np.bincount(t)
    model._step_theta(np.asarray(r, dtype=float), np.asarray(difference, dtype=float), np.asarray(t))
    return model.theta_


def test_a_step_on_theta_by_hand():
    # s (1 - s) = 1/4 and r (p_out - p_non) = 1 - 2 = -1: the gradient is 1/4, the step -0.1 / 4.
    difference = [[1.0 - 0.0], [0.0 - 1.0]]
    assert stepped([0.0], [[1.0], [2.0]], difference, [0, 0]) == pytest.approx([-0.025])
    assert stepped([0.0], [[1.0], [2.0]], difference, [0, 0], theta_grad="mean") == pytest.approx([-0.0125])
    assert stepped([0.0], [[1.0], [2.0]], difference, [0, 0], theta_lr=0) == pytest.approx([0.0])
    assert stepped([9.0], [[1e9]], [[1e3]], [0]) == pytest.approx([10.0])


def test_the_step_follows_the_gradient_of_the_summed_loss():
    t, theta = np.arange(12) % 3, np.array([0.3, -0.8, 1.5])
    y, p_meta, p_out, p_non = np.random.default_rng(2).normal(size=(4, 12, 2))

    def loss(theta):
        s = expit(theta)[t][:, None]
        return 0.5 * ((y - p_meta - s * p_out - (1 - s) * p_non) ** 2).sum()

    s = expit(theta)[t][:, None]
    r = y - p_meta - s * p_out - (1 - s) * p_non
    moved = stepped(theta, r, p_out - p_non, t, lr=1.0, max_theta=None)
    numeric = [(loss(theta + e) - loss(theta - e)) / 2e-5 for e in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(theta - moved, numeric, rtol=1e-6)


def test_the_first_round_leaves_theta_at_its_start():
    with pytest.warns(UserWarning, match="partition_rounds=1 leaves theta near its random start"):
        one = RMTGB(partition_rounds=1).fit(X, Y, TASK)
    frozen = RMTGB(theta_lr=0).fit(X, Y, TASK)
    assert np.array_equal(one.theta_, frozen.theta_) and abs(one.theta_).max() < 0.5


def test_swapping_the_groups_changes_no_answer():
    model = RMTGB(**EXACT).fit(X, Y, TASK)
    before, scores = model.predict(Z), model.outlier_score_
    model.theta_, model.out_, model.non_ = -model.theta_, model.non_, model.out_
    np.testing.assert_allclose(model.predict(Z), before, atol=1e-12)
    np.testing.assert_allclose(model.outlier_score_, scores, atol=1e-12)


@pytest.mark.parametrize(("sign", "idle"), [(1, "non_"), (-1, "out_")])
def test_where_all_tasks_are_on_one_side_the_other_ensemble_learns_nothing(sign, idle, monkeypatch):
    monkeypatch.setattr(RMTGB, "_step_theta", lambda self, *rest: None)
    model = RMTGB(**EXACT, max_theta=None)
    monkeypatch.setattr("anytask.multitask.r_mtgb.expit", lambda theta: np.full(theta.shape, float(sign > 0)))
    model.fit(X, Y, TASK)
    assert not getattr(model, idle)["value"].any()
    used = model.out_ if sign > 0 else model.non_
    plain = pooled(160).fit(X, Y, TASK)
    np.testing.assert_allclose(used["value"], plain.meta_["value"][20:], atol=1e-9)


# -- what it says of the tasks ----------------------------------------------------------------------------------------


def test_the_task_that_does_not_belong_is_found_from_every_start():
    for seed in range(3):
        model = RMTGB(seed=seed).fit(X, Y, TASK)
        report = model.outlier_report()
        assert report.task[report.outlier].tolist() == [4] and report.task[0] == 4
        assert model.outlier_score_[4] > 0.8 and np.delete(model.outlier_score_, 4).max() < 0.2
        assert report.rows.tolist() == [40] * 6


def test_without_the_second_block_no_task_is_called_an_outlier():
    model = RMTGB(partition_rounds=0).fit(X, Y, TASK)
    assert (model.outlier_score_ == 0.5).all() and not model.outlier_report().outlier.any()


def test_what_a_task_learns_of_its_own_reaches_no_other():
    with_own, without = (RMTGB(task_rounds=rounds).fit(X, Y, TASK) for rounds in (40, 0))
    other = np.where(TASK == 2, Y + 5 * X[:, 2] ** 2, Y)
    blocks = {"shared_rounds": 0, "partition_rounds": 0, "task_rounds": 30, "standardize": False}
    a, b = (RMTGB(**blocks).fit(X, y, TASK).predict(Z) for y in (Y, other))
    assert np.array_equal(np.delete(a, 2, axis=1), np.delete(b, 2, axis=1)) and abs(a[:, 2] - b[:, 2]).max() > 0.1
    assert np.array_equal(with_own.theta_, without.theta_)
    assert all(np.array_equal(with_own.out_[name], without.out_[name]) for name in with_own.out_)


@pytest.mark.parametrize("blocks", [(30, 0, 0), (0, 0, 30)])
def test_the_training_error_falls_with_each_round_of_the_first_and_the_third_block(blocks):
    errors = []
    for rounds in range(1, 31, 4):
        names = ("shared_rounds", "partition_rounds", "task_rounds")
        model = RMTGB(**{name: min(n, rounds) for name, n in zip(names, blocks)}).fit(X, Y, TASK)
        errors.append(((model.predict(X, TASK) - Y) ** 2).sum())
    assert (np.diff(errors) <= 1e-9).all() and errors[-1] < 0.8 * errors[0]


def test_a_new_task_is_answered_as_the_larger_group():
    model = RMTGB(task_rounds=0).fit(X, Y, TASK)
    with pytest.warns(UserWarning, match="an average task of the larger group"):
        new = model.predict(Z, 77)
    others = np.delete(model.predict(Z), 4, axis=1)
    assert abs(new - others.mean(1)).max() < 0.05 < 0.3 < abs(new - model.predict(Z, 4)).max()


def test_importances_are_those_of_the_task():
    y = np.where(TASK == 4, X[:, 2], X[:, 0])
    model = RMTGB().fit(X, y, TASK)
    assert model.feature_importances(X, 4)[2] > 0.7 and model.feature_importances(X, 0)[0] > 0.7
    assert model.feature_importances(X).sum() == pytest.approx(1)


@pytest.mark.parametrize("leaves", [2, 5])
def test_what_features_contribute_and_the_root_is_the_score(leaves):
    model = RMTGB(max_leaf_nodes=leaves).fit(X, Y, TASK)
    parts = contributed(model.meta_, X).sum(1) + model.meta_["value"][:, 0].sum(0)
    np.testing.assert_allclose(parts, summed(model.meta_, X), atol=1e-12)


def test_tiny_tasks_get_no_trees_of_their_own():
    task = np.where(np.arange(240) < 4, 9, 0)
    model = RMTGB().fit(X, Y, task)
    assert not model.own_["value"][40:].any() and model.own_["value"][:40].any()
    assert RMTGB(min_task_rows=1).fit(X, Y, task).own_["value"][40:].any()


def test_draws_of_rows_and_features_still_learn():
    model = RMTGB(subsample=0.5, max_features=0.5).fit(X, Y, TASK)
    assert ((model.predict(X, TASK) - Y) ** 2).mean() < 0.3 * Y.var()


def test_leaves_are_at_most_as_many_as_rows():
    few = RMTGB(max_leaf_nodes=10**9, shared_rounds=3, partition_rounds=0, task_rounds=0, **EXACT).fit(X, Y, TASK)
    assert few.meta_["feature"].shape == (3, 2 * 240 - 1)


def test_no_rounds_at_all_are_refused():
    with pytest.raises(ValueError, match="nothing to learn"):
        RMTGB(shared_rounds=0, partition_rounds=0, task_rounds=0)
