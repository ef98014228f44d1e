"""Every estimator of the multi-task family, run through the family's protocol."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases
from cases import everyone as each_of
from hard import BAD_INPUTS, BAD_LABELS, SAME, SAME_LABELS, refused, same
from protocol import (
    bad_settings_are_refused_by_name,
    copies_answer_alike,
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model,
    saved_models_answer_alike,
    the_seed_settles_everything,
)
from sklearn.exceptions import NotFittedError
from transformers import ViTConfig, ViTForImageClassification

from anytask.core.checks import NotFinite
from anytask.multitask import MultiTaskEstimator

RNG = np.random.default_rng(0)
N = 36
X = np.round(8 * RNG.normal(size=(N, 4))).astype(np.float32) / 8  # exact in half precision
TASK = np.arange(N) % 3
Y = np.round(8 * (X[:, 0] * (1 + TASK) + X[:, 1])) / 8
LABELS = (np.median(Y) < Y).astype(int)
MATRIX = np.stack([Y, -Y, X[:, 2].astype(float)], axis=1)
CASES = cases(
    "multitask",
    lambda cls: isinstance(cls, type) and issubclass(cls, MultiTaskEstimator) and cls is not MultiTaskEstimator,
    {"seed": 3, "steps": 8, "epochs": 2, "batch_size": 16, "device": "cpu"},
)
everyone = each_of(CASES)
with_backbone = each_of({name: case for name, case in CASES.items() if "backbone" in case.cls._param_names()})
with_batches = each_of({name: case for name, case in CASES.items() if "batch_size" in case.cls._param_names()})
#: Targets beside labels of rows that cannot be used here.
BAD_TARGETS = {
    "lengths": BAD_LABELS["lengths"],
    "no dimension": BAD_LABELS["no dimension"],
    "three dimensions": (lambda y: y[:, None, None], "shape"),
    "mixed": (lambda y: np.array(["a", *y[1:].tolist()], dtype=object), "mixes kinds"),
    "infinite": (lambda y: np.where(np.arange(len(y)) == 3, np.inf, y.astype(float)), "row 3"),
    "nothing labelled": (lambda y: np.full(len(y), np.nan), "no target"),
    **{kind: BAD_LABELS[kind] for kind in ("masked", "sparse", "meta", "complex")},
    "dates": (lambda y: np.full(y.shape, np.datetime64("2020-01-01")), "numbers or strings"),
    "nothing": (lambda y: None, "y is None"),
    "dates with a time zone": (
        lambda y: pd.Series(pd.date_range("2020", periods=len(y), tz="UTC")),
        "numbers or strings: Timestamp",
    ),
    "too large": (lambda y: np.where(np.arange(len(y)) % 2, 1e200, -1e200), "mean or deviation"),
}
BAD_TASKS = {
    **{kind: (spoil, "task|labels") for kind, (spoil, _) in BAD_LABELS.items()},
    "integers that are too large": (lambda y: y.astype(np.uint64) + 2**63, "beyond 63 bits"),
}


def make(name, **params):
    case = CASES[name]
    params = {**case.params, **params}
    return case.cls.from_preset("small", **params) if "small" in case.cls.PRESETS else case.cls(**params)


def answer(model):
    return model.predict(X)


def several(name):
    """The matrix, of mixed kinds where the system learns them."""
    table = pd.DataFrame(MATRIX, columns=["price", "cost", "churn"])
    return table if make(name).alike else table.assign(churn=np.where(LABELS > 0, "yes", "no"))


@everyone
def test_rows_with_a_task_each_are_learned_and_answered(name):
    for ids in (TASK, np.array(["c", "a", "b"])[TASK], TASK.astype(float), [7, -1, 10**9] @ np.eye(3)[TASK].T):
        model = make(name).fit(X, Y, ids)
        assert model.tasks_.tolist() == sorted(set(np.asarray(ids).tolist()))
        answers, every = model.predict(X, ids), model.predict(X)
        assert answers.shape == (N,) and every.shape == (N, 3) and answers.dtype == np.float64
        own = np.searchsorted(model.tasks_, ids)
        np.testing.assert_allclose(every[np.arange(N), own], answers, rtol=1e-5, atol=1e-6)
        one = model.tasks_[1].item()
        np.testing.assert_allclose(model.predict(X, one), every[:, 1], rtol=1e-5, atol=1e-6)


@everyone
def test_the_names_of_tasks_do_not_matter(name):
    a = make(name).fit(X, Y, TASK).predict(X, TASK)
    named = np.array(["a", "b", "c"])[TASK]  # in the same order
    assert np.array_equal(make(name).fit(X, Y, named).predict(X, named), a)


@everyone
def test_classes_are_learned_beside_tasks(name):
    labels = np.array(["no", "yes"])[LABELS]
    model = make(name).fit(X, labels, TASK)
    assert all(one.tolist() == ["no", "yes"] for one in model.classes_)
    p = model.predict_proba(X, TASK)
    assert p.shape == (N, 2) and np.allclose(p.sum(1), 1) and (p >= 0).all()
    assert model.predict(X, TASK).tolist() == np.array(["no", "yes"])[p.argmax(1)].tolist()
    assert model.predict(X).shape == (N, 3) and len(model.predict_proba(X)) == 3
    with pytest.raises(ValueError, match="is regression"):
        make(name).fit(X, Y, TASK).predict_proba(X, 0)


@everyone
def test_a_matrix_of_targets_is_learned_by_its_columns(name):
    model = make(name).fit(X, several(name))
    assert model.tasks_.tolist() == ["price", "cost", "churn"]
    every = model.predict(X)
    assert every.shape == (N, 3)
    for place, column in enumerate(model.tasks_.tolist()):
        alone = model.predict(X, column)
        if model.kinds_[place] == "regression":
            np.testing.assert_allclose(every[:, place].astype(float), alone, rtol=1e-5, atol=1e-6)
        else:
            assert every[:, place].tolist() == alone.tolist() and set(alone) <= {"yes", "no"}


@everyone
def test_kinds_of_tasks_that_do_not_go_together_are_said(name):
    mixed = pd.DataFrame({"price": Y, "churn": LABELS})
    if make(name).alike:
        with pytest.raises(ValueError, match="tasks of one kind: 'churn' is classification and 'price' regression"):
            make(name).fit(X, mixed)
        assert make(name).fit(X, mixed, kinds="regression").kinds_ == ("regression",) * 2
        churn = mixed.assign(price=np.where(Y > 0, 2, 1))
        assert [one.tolist() for one in make(name).fit(X, churn).classes_] == [[0, 1, 2]] * 2
    else:
        assert make(name).fit(X, mixed).kinds_ == ("regression", "classification")
    assert make(name).fit(X, mixed[["churn"]], kinds=["regression"]).predict(X).dtype == np.float64
    for kinds in ("ranking", ["regression"], {"age": "regression"}, 3):
        with pytest.raises(ValueError, match="kinds"):
            make(name).fit(X, mixed, kinds=kinds)


@everyone
def test_missing_targets_are_not_labelled(name):
    gaps = MATRIX.copy()
    gaps[::2, 0] = gaps[1::3, 2] = np.nan
    answers = make(name).fit(X, gaps).predict(X)
    assert np.isfinite(answers).all()
    filled = np.where(np.isnan(gaps), 1e3, gaps)
    assert not np.allclose(make(name).fit(X, filled).predict(X), answers)
    rows = np.where(np.arange(N) < 30, Y, np.nan)
    a = make(name).fit(X, rows, TASK).predict(X, TASK)
    b = make(name).fit(X[:30], Y[:30], TASK[:30]).predict(X, TASK)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="no row of task 2 has a target"):
        make(name).fit(X, np.where(TASK == 2, np.nan, Y), TASK)
    words = pd.Series(np.where(LABELS > 0, "yes", "no")).where(np.arange(N) < 30)
    assert set(make(name).fit(X, words, TASK).predict(X, TASK)) <= {"yes", "no"}


@everyone
def test_one_task_is_enough(name):
    model = make(name).fit(X, Y)
    assert model.predict(X).shape == (N,) and model.tasks_.tolist() == [0]
    np.testing.assert_allclose(model.predict(X, 0), model.predict(X))
    assert make(name).fit(X, Y, ["only"] * N).predict(X).shape == (N, 1)
    assert make(name).fit(X, Y[:, None]).predict(X).shape == (N, 1)
    assert make(name).fit(X, LABELS).predict_proba(X).shape == (N, 2)


@everyone
def test_a_task_with_one_row_is_answered(name):
    task = np.where(np.arange(N) == 5, "rare", "common")
    for y in (Y, LABELS):
        model = make(name).fit(X, y, task)
        assert np.isfinite(model.predict(X, "rare")).all()
    assert np.isfinite(make(name).fit(X[5:6], Y[5:6], ["rare"]).predict(X, "rare")).all()


@everyone
def test_a_task_that_is_missing_at_predict_does_not_move_the_others(name):
    model = make(name).fit(X, Y, TASK)
    every, kept = model.predict(X, TASK), TASK != 0
    np.testing.assert_allclose(model.predict(X[kept], TASK[kept]), every[kept], rtol=1e-5, atol=1e-6)


@everyone
def test_an_unknown_task_is_warned_of_or_refused(name):
    model = make(name).fit(X, Y, TASK)
    task = np.where(np.arange(N) < 4, 99, TASK)
    if model.new_tasks:
        with pytest.warns(UserWarning, match=r"Not trained on task 99 \(its tasks: \[0, 1, 2\]\)"):
            answers = model.predict(X, task)
        assert np.isfinite(answers).all()
        np.testing.assert_allclose(answers[4:], model.predict(X[4:], TASK[4:]), rtol=1e-5, atol=1e-6)
    else:
        with pytest.raises(ValueError, match=r"not trained on task 99; its tasks: \[0, 1, 2\]"):
            model.predict(X, task)
    with pytest.raises(ValueError, match="not trained on task 3"):
        make(name).fit(X, MATRIX).predict(X, 3)
    with pytest.raises(TypeError, match="keep to one kind"):
        model.predict(X, "a")


@everyone
def test_bad_data_is_refused_in_one_line_and_leaves_no_trace(name):
    model = make(name).fit(X, Y, TASK)
    before = copy.deepcopy(model._state())
    refused(lambda bad: model.fit(bad, Y, TASK), X, BAD_INPUTS)
    refused(lambda bad: model.fit(X, bad, TASK), LABELS, BAD_TARGETS)
    refused(lambda bad: model.fit(X, bad), LABELS, BAD_TARGETS)
    refused(lambda bad: model.fit(X, Y, bad), TASK, BAD_TASKS)
    refused(lambda bad: model.predict(bad, 0), X, BAD_INPUTS)
    refused(lambda bad: model.predict(X, bad), TASK, {k: v for k, v in BAD_TASKS.items() if k != "no dimension"})
    for bad, says in ((MATRIX, "with a task for each row"), (LABELS * 0, "one class only")):
        with pytest.raises(ValueError, match=says):
            model.fit(X, bad, TASK)
    with pytest.raises(ValueError, match="columns of y name the tasks"):
        model.fit(X, pd.DataFrame(MATRIX, columns=["a", "a", "b"]))
    assert same(model._state(), before)


@everyone
def test_labels_that_the_task_gives_away_are_warned_of(name):
    with pytest.warns(UserWarning, match="the task alone says the label"):
        make(name).fit(X, np.array(["a", "b", "a"])[TASK], TASK)


@everyone
def test_inputs_and_targets_of_every_kind_are_learned_alike(name):
    expected = make(name).fit(X, Y, TASK).predict(X, TASK)
    for kind, convert in SAME.items():
        model = make(name).fit(convert(X), convert(Y), convert(TASK))
        answers = model.predict(convert(X), convert(TASK))
        assert isinstance(answers, torch.Tensor) == ("tensor" in kind), kind
        np.testing.assert_allclose(np.asarray(answers), expected, rtol=1e-5, atol=1e-6, err_msg=kind)


@everyone
def test_labels_and_tasks_of_every_kind_are_learned_alike(name):
    one_or_two = TASK % 2
    expected = make(name).fit(X, LABELS, one_or_two).predict(X, one_or_two)
    for kind, convert in SAME_LABELS.items():
        model = make(name).fit(X, convert(LABELS), convert(one_or_two), kinds="classification")
        assert model.predict(X, convert(one_or_two)).tolist() == expected.tolist(), kind
    assert make(name).fit(X, pd.Series(LABELS, dtype="category"), TASK).kinds_[0] == "classification"


@everyone
def test_large_integers_stay_apart_beside_gaps(name):
    labels = pd.array([None, *(int(label) + 2**60 for label in LABELS[1:])], dtype="Int64")
    for y in (labels, pd.Series(labels)):
        assert make(name).fit(X, y, TASK).classes_[0].tolist() == [2**60, 2**60 + 1]
    model = make(name).fit(X, Y, 2**60 + TASK)
    assert model.tasks_.tolist() == [2**60, 2**60 + 1, 2**60 + 2]
    assert np.array_equal(model.predict(X, 2**60 + TASK), make(name).fit(X, Y, TASK).predict(X, TASK))


@everyone
def test_labels_that_are_rather_names_of_the_rows_are_warned_of(name):
    with pytest.warns(UserWarning, match="36 classes in 36 rows, which are hardly to be learned: '1,5' is no number"):
        make(name).fit(X, np.array(["1,5", *map(str, range(1, N))]), np.zeros(N, dtype=int))


class Backbone(torch.nn.Sequential):
    """Features with statistics of their own, and noise while they are trained."""

    def __init__(self):
        layers = torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5)
        super().__init__(*layers)


def backbone(input_shape, n_outputs):
    return Backbone()


@with_backbone
def test_batch_norm_and_dropout_rest_after_training_and_after_loading(name, tmp_path):
    model = make(name, backbone=backbone).fit(X, Y, TASK)
    answers = model.predict(X)
    assert np.array_equal(model.predict(X), answers)
    model.save(tmp_path)
    assert np.array_equal(type(model).load(tmp_path, backbone=backbone, device="cpu").predict(X), answers)


@with_backbone
def test_a_frozen_backbone_is_left_as_it_is(name):
    frozen = Backbone().requires_grad_(False)
    model = make(name, backbone=frozen).fit(X, Y, TASK)
    kept = [value for weights in model._state()["modules"].values() for value in weights.values()]
    for key, value in frozen.state_dict().items():
        assert any(torch.equal(value, one) for one in kept if one.shape == value.shape), key
    a, b = (make(name, backbone=frozen, epochs=epochs).fit(X, Y, TASK).predict(X) for epochs in (1, 2))
    assert not np.allclose(a, b)  # the heads learn


@with_backbone
def test_backbones_that_cannot_be_used_are_refused(name):
    hurt = Backbone()
    hurt[0].weight.data[1, 2] = np.nan
    for bad, says in (
        (hurt, "0.weight of the backbone is NaN"), (torch.nn.LSTM(4, 4), "returns a tuple"),
        (lambda *shapes: None, "must return a torch module"), (torch.nn.Linear(4, 4, device="meta"), "no values"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=says):
            make(name, backbone=bad).fit(X, Y, TASK)


@with_backbone
def test_encoders_of_transformers_are_taken_without_their_heads_and_trained_in_single_precision(name):
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    network = ViTForImageClassification(ViTConfig(**size, image_size=4, patch_size=2, num_channels=1)).half()
    images = X.reshape(-1, 1, 2, 2).repeat(2, axis=2).repeat(2, axis=3)
    answers = make(name, backbone=network).fit(images, Y, TASK).predict(images, TASK)
    assert np.isfinite(answers).all() and next(network.parameters()).dtype == torch.float16


@with_batches
def test_batches_of_one_row_are_learned_from(name):
    a, b = (make(name, batch_size=1, epochs=epochs).fit(X, Y, TASK).predict(X) for epochs in (1, 2))
    assert not np.allclose(a, b)


@everyone
def test_unfitted_use_and_other_shapes(name, tmp_path):
    model = make(name)
    for call in (lambda: model.predict(X), lambda: model.save(tmp_path), model.cost):
        with pytest.raises(NotFittedError, match=type(model).__name__):
            call()
    with pytest.raises(ValueError, match="features"):
        model.fit(X, Y, TASK).predict(X[:, :3], TASK)
    assert model.cost()["stored_parameters"] > 0


@everyone
def test_save_and_load_give_the_same_answers(name, tmp_path):
    labels = np.array(["no", "yes"])[LABELS]
    for place, (y, task) in enumerate([(Y, TASK), (labels, np.array(["a", "b", "c"])[TASK]), (several(name), None)]):
        model, folder = make(name).fit(X, y, task), tmp_path / str(place)
        saved_models_answer_alike(model, answer, folder)
        loaded = type(model).load(folder, device="cpu")
        assert loaded.tasks_.tolist() == model.tasks_.tolist() and loaded.kinds_ == model.kinds_


@everyone
def test_copies_and_seeds(name):
    copies_answer_alike(make(name).fit(X, Y, TASK), answer)
    the_seed_settles_everything(lambda: answer(make(name).fit(X, Y, TASK)))


@everyone
def test_progress_ends_at_one_and_a_failure_half_way_leaves_the_model(name):
    model = make(name)
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model(
        lambda progress: model.fit(X, Y, TASK, progress=progress), answer
    )


@everyone
def test_training_that_diverges_is_refused(name):
    if hasattr(make(name), "lr"):
        with pytest.raises(NotFinite, match=r"loss|weight|after|leaf"), np.errstate(all="ignore"):
            make(name, lr=1e30, standardize=False).fit(X * 1e4, Y * 1e30, TASK)


@everyone
def test_every_bad_setting_is_refused_by_name(name):
    bad_settings_are_refused_by_name(make(name))


@everyone
def test_the_order_of_rows_does_not_matter_to_what_is_learned(name):
    order = np.random.default_rng(5).permutation(N)
    drawn = "batch_size" in make(name).get_params()  # mini-batches depend on it, sums in their last bits
    settings, atol = ({"batch_size": N}, 1e-3) if drawn else ({}, 1e-6)
    a = make(name, **settings).fit(X, Y, TASK).predict(X)
    b = make(name, **settings).fit(X[order], Y[order], TASK[order]).predict(X)
    np.testing.assert_allclose(b, a, atol=atol)


@everyone
def test_defaults_learn_what_tasks_differ_in(name):
    rng = np.random.default_rng(1)
    x, task = rng.normal(size=(400, 3)), np.arange(400) % 2
    y = 10 + 5 * np.where(task > 0, -1, 1) * x[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case = CASES[name]
        model = case.cls(seed=3, **{key: value for key, value in case.params.items() if key == "device"})
        model.fit(x[:300], y[:300], task[:300])
    error = ((model.predict(x[300:], task[300:]) - y[300:]) ** 2).mean() / y.var()
    assert error < 0.5
