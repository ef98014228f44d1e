"""Every system of the continual family, run through the family's protocol."""

import random

import numpy as np
import pytest
import torch
from cases import cases
from cases import everyone as each_of
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from anytask.continual import ContinualClassifier

SMALL = {"preset": "small", "batch_size": 8, "epochs": 2, "hidden": (8,), "seed": 3}
CASES = cases("continual", lambda cls: issubclass(cls, ContinualClassifier) and cls is not ContinualClassifier, SMALL)
WITH_TEST_TASK = [name for name, case in CASES.items() if case.cls.sees == "test"]
everyone = each_of(CASES)


def chunk(task=0, n=32, seed=0, dim=4):
    """Two classes per task, labels 2t and 2t + 1."""
    rng = np.random.default_rng([seed, task])
    y = np.tile([0, 1], n)[:n] + 2 * task
    x = rng.normal(size=(n, dim)).astype(np.float32) * 0.3
    x[np.arange(n), y % dim] += 2
    return x, y


def feed(model, tasks=(0, 1), labels=lambda y: y, seed=0):
    for t in tasks:
        x, y = chunk(t, seed=seed)
        model.partial_fit(x, labels(y), task=t)
        model.end_task()
    return model


def ask(model, x, task=0):
    return model.predict_proba(x, task=task if model.needs == "test" else None)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@everyone
def test_predictions_have_one_column_per_label_and_sum_to_one(name):
    model = feed(CASES[name].make())
    x, y = chunk(0)
    p = ask(model, x)
    assert p.shape == (len(x), 4) and np.allclose(p.sum(1), 1, atol=1e-5) and (p >= 0).all()
    assert model.classes_.tolist() == [0, 1, 2, 3] and model.n_features_in_ == 4
    labels = model.predict(x, task=0 if model.needs == "test" else None)
    assert labels.shape == y.shape and set(labels) <= {0, 1, 2, 3}


BAD = {
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, "0 sample"),
    "nan": (lambda x, y: (np.where(np.arange(len(x))[:, None] == 5, np.nan, x), y), ValueError, "row 5"),
    "inf": (lambda x, y: (np.where(np.arange(len(x))[:, None] == 7, np.inf, x), y), ValueError, "row 7"),
    "lengths": (lambda x, y: (x, y[:-1]), ValueError, "32 rows and y has 31"),
    "features": (lambda x, y: (x[:, :3], y), ValueError, "3 features.* expecting 4"),
    "one dimension": (lambda x, y: (x[:, 0], y), ValueError, "shape"),
    "mixed labels": (lambda x, y: (x, np.array(["a", 1] * 16, dtype=object)), TypeError, "mixes kinds"),
    "other labels": (lambda x, y: (x, y.astype(str)), TypeError, "keep to one kind"),
    "continuous labels": (lambda x, y: (x, y + 0.5), ValueError, "continuous"),
    "words": (lambda x, y: (np.full(x.shape, "a"), y), ValueError, "numeric"),
}


@everyone
@pytest.mark.parametrize("kind", BAD)
def test_bad_chunks_are_refused_at_the_door_and_leave_no_trace(name, kind):
    spoil, error, says = BAD[kind]
    model = feed(CASES[name].make(), tasks=(0,))
    x, y = chunk(1)
    before = ask(model, x)
    with pytest.raises(error, match=says):
        model.partial_fit(*spoil(x, y), task=1)
    assert np.array_equal(ask(model, x), before) and model.n_chunks_ == 1


@everyone
def test_bad_queries(name):
    model = CASES[name].make()
    x, y = chunk(0)
    with pytest.raises(NotFittedError, match=type(model).__name__):
        model.predict(x, task=0)
    with pytest.raises(NotFittedError):
        model.save("nowhere")
    feed(model, tasks=(0,))
    with pytest.raises(ValueError, match="row 2"):
        ask(model, np.where(np.arange(len(x))[:, None] == 2, np.nan, x))
    with pytest.raises(ValueError, match="3 features"):
        ask(model, x[:, :3])
    if model.sees == "test":
        with pytest.raises(ValueError, match="'new' was never trained"):
            model.predict(x, task="new")
    if model.needs in ("train", "test"):
        with pytest.raises(ValueError, match="needs to know the task"):
            model.partial_fit(x, y)
    if model.needs == "test":
        with pytest.raises(ValueError, match="needs to know the task at test"):
            model.predict(x)


@pytest.mark.parametrize("name", WITH_TEST_TASK)
def test_a_given_task_rules_out_the_classes_of_the_others(name):
    model = feed(CASES[name].make())
    p = model.predict_proba(chunk(0)[0], task=1)
    assert (p[:, :2] == 0).all() and np.allclose(p.sum(1), 1, atol=1e-5)


@everyone
def test_save_and_load_predict_and_learn_on_alike(name, tmp_path):
    model = feed(CASES[name].make())
    x, _ = chunk(0, seed=9)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert np.array_equal(ask(loaded, x), ask(model, x))
    for m in (model, loaded):
        feed(m, tasks=(2,))
    assert np.array_equal(ask(loaded, x), ask(model, x))
    assert loaded.classes_.tolist() == [0, 1, 2, 3, 4, 5]


@everyone
def test_the_seed_settles_everything(name):
    x, _ = chunk(0, seed=9)
    a, b = (ask(feed(CASES[name].make()), x) for _ in range(2))
    assert np.array_equal(a, b)


@everyone
def test_another_seed_gives_other_predictions(name):
    x, _ = chunk(0, seed=9)
    assert not np.array_equal(*(ask(feed(CASES[name].make(seed=seed)), x) for seed in (3, 4)))


@everyone
def test_global_generators_and_threads_are_left_alone(name, tmp_path):
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()  # noqa: NPY002
    model = feed(CASES[name].make())
    ask(model, chunk(0)[0])
    model.save(tmp_path)
    type(model).load(tmp_path)
    model.fit(*chunk(0), task=0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2:] == (random.getstate(), torch.get_num_threads())


@everyone
def test_dtypes_and_tensors_agree(name):
    x, y = chunk(0)
    q = chunk(0, seed=9)[0]
    reference = ask(CASES[name].make().partial_fit(x, y, task=0), q)
    for convert in (
        lambda a: a.astype(np.float64),
        lambda a: torch.from_numpy(a.astype(np.float64)),
        lambda a: a.tolist(),
    ):
        model = CASES[name].make().partial_fit(convert(x), y, task=0)
        assert np.array_equal(ask(model, q), reference)
    model = CASES[name].make().partial_fit(torch.from_numpy(x), torch.from_numpy(y), task=0)
    p = ask(model, torch.from_numpy(q))
    assert isinstance(p, torch.Tensor) and np.allclose(p.numpy(), reference, atol=1e-6)


@everyone
def test_string_labels_learn_what_numbers_learn(name):
    names = np.array(["d", "a", "ccc", "bb"])
    numbers, words = feed(CASES[name].make()), feed(CASES[name].make(), labels=lambda y: names[y])
    x, _ = chunk(1, seed=9)
    assert words.classes_.tolist() == ["a", "bb", "ccc", "d"]
    assert np.allclose(
        ask(words, x, 1)[:, [3, 0, 2, 1]], ask(numbers, x, 1), atol=1e-6
    )  # the softmax sums in another order


@everyone
def test_labels_may_appear_late_inside_a_task(name):
    x, y = chunk(0)
    model = CASES[name].make()
    model.partial_fit(x[y == 0], y[y == 0], task=0).partial_fit(x, y, task=0)
    assert ask(model, x).shape == (32, 2)


@everyone
def test_training_does_not_depend_on_the_cut(name):
    x, y = (np.concatenate(v) for v in zip(chunk(0), chunk(1)))
    whole, cut = CASES[name].make().partial_fit(x, y, task=0), CASES[name].make()
    for rows in np.split(np.arange(64), [8, 24, 56]):
        cut.partial_fit(x[rows], y[rows], task=0)
    assert np.array_equal(ask(whole, x), ask(cut, x))


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
@everyone
def test_a_failure_half_way_leaves_the_model_bit_identical(name, error, monkeypatch):
    model = feed(CASES[name].make(), tasks=(0, 1))
    x, y = chunk(2)
    before, p = feed(CASES[name].make(), tasks=(0, 1))._state(), ask(model, x)
    step, calls = torch.optim.SGD.step, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", failing)
        with pytest.raises(type(error)):
            model.partial_fit(x, y, task=2)
    assert same(model._state(), before) and np.array_equal(ask(model, x), p)
    assert model.classes_.tolist() == [0, 1, 2, 3] and model.n_chunks_ == 2
    assert same(feed(model, tasks=(2,))._state(), feed(CASES[name].make(), (0, 1, 2))._state())


@everyone
def test_a_failure_in_learn_leaves_the_predictions(name, monkeypatch):
    model = feed(CASES[name].make(), tasks=(0,))
    x, y = chunk(1)
    p, learn = ask(model, x), type(model)._learn

    def failing(self, *args):
        learn(self, *args)
        raise RuntimeError("late")

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_learn", failing)
        with pytest.raises(RuntimeError, match="late"):
            model.partial_fit(x, y, task=1)
    assert np.array_equal(ask(model, x), p) and model.classes_.tolist() == [0, 1]
    fresh = CASES[name].make()
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "_learn", failing)
        with pytest.raises(RuntimeError, match="late"):
            fresh.partial_fit(x, y, task=1)
    assert not hasattr(fresh, "input_shape_")


@everyone
def test_clone_copies_the_parameters_and_nothing_else(name):
    model = feed(CASES[name].make(), tasks=(0,))
    copy = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "classes_")


@everyone
def test_cost_counts(name):
    cost = feed(CASES[name].make()).cost()
    assert {"trainable_parameters", "stored_parameters", "stored_samples"} <= set(cost)
    assert all(isinstance(v, int) and v >= 0 for v in cost.values()) and cost["stored_parameters"] > 0


@everyone
def test_preset_and_seed_are_checked(name):
    x, y = chunk(0)
    for wrong in ({"preset": "huge"}, {"seed": -1}, {"batch_size": 0}, {"epochs": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            CASES[name].make(**wrong).partial_fit(x, y, task=0)


@pytest.mark.parametrize("name", ["TAME", "FineTuning", "ExperienceReplay", "NearestClassMean"])
def test_scikit_learns_own_checks(name):
    exempt = {
        "check_estimators_partial_fit_n_features": "passes partial_fit(classes=...), see below",
        "check_n_features_in_after_fitting": "passes partial_fit(classes=...); this family takes labels as they come",
        "check_methods_sample_order_invariance": "asks 1e-7 of float32 networks; with their precision see below",
        "check_methods_subset_invariance": "asks 1e-7 of float32 networks; with their precision see below",
    }
    params = {"n_classes": None} if name == "TAME" else {}
    results = check_estimator(CASES[name].make(**params), expected_failed_checks=exempt, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, {k: str(v)[:200] for k, v in failed.items()}


@everyone
def test_rows_are_answered_by_themselves(name):
    model = feed(CASES[name].make())
    x, _ = chunk(seed=1)
    together = ask(model, x)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_allclose(ask(model, x[order]), together[order], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([ask(model, row[None]) for row in x]), together, rtol=0, atol=1e-5)


def test_what_a_system_is_exempt_from_is_a_test_of_this_contract():
    assert {test for case in CASES.values() for test in case.exempt} <= set(globals())
