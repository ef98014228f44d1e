"""Every system of the robust family, run through the family's protocol."""

import copy
import inspect

import numpy as np
import pytest
import torch
from cases import cases
from cases import everyone as each_of
from hard import BAD_INPUTS, BAD_LABELS, SAME, refused, same
from protocol import (
    bad_settings_are_refused_by_name,
    copies_answer_alike,
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model,
    saved_models_answer_alike,
    the_seed_settles_everything,
)
from sklearn.exceptions import NotFittedError

from anytask.core.checks import NotFinite
from anytask.parts.planar_groups import Rotations
from anytask.robust import SLA, FewShotHead, RobustClassifier

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 1, 4, 4)).astype(np.float32)
Y = np.arange(30) % 3
SMALL = {"seed": 3, "steps": 4, "batch_size": 8}
CASES = cases(
    "robust",
    lambda cls: isinstance(cls, type) and issubclass(cls, RobustClassifier) and cls is not RobustClassifier,
    SMALL,
)
everyone = each_of(CASES)


@pytest.fixture(scope="module")
def trained():
    return SLA.from_preset("small", **SMALL).fit(X, Y)


@pytest.fixture
def make(trained):
    def made(name, **params):
        cls, params = CASES[name].cls, {**CASES[name].params, **params}
        given = (trained,) if cls is FewShotHead else ()
        return cls.from_preset("small", **params) if "small" in cls.PRESETS else cls(*given, **params)

    return made


@everyone
def test_probabilities_have_one_column_per_label_and_sum_to_one(name, make):
    model = make(name).fit(X, np.array(["c", "a", "b"])[Y])
    p = model.predict_proba(X[:7])
    assert p.shape == (7, 3) and np.allclose(p.sum(1), 1) and (p >= 0).all()
    assert model.classes_.tolist() == ["a", "b", "c"] and set(model.predict(X)) <= {"a", "b", "c"}
    tensor = model.predict_proba(torch.from_numpy(X[:7]))
    assert isinstance(tensor, torch.Tensor) and np.allclose(tensor.numpy(), p)


@everyone
def test_bad_data_is_refused_in_one_line_and_leaves_no_trace(name, make):
    model = make(name).fit(X, Y)
    before = copy.deepcopy(model._state())
    refused(lambda bad: model.fit(bad, Y), X, BAD_INPUTS)
    refused(lambda bad: model.fit(X, bad), Y, BAD_LABELS)
    refused(model.predict_proba, X, BAD_INPUTS)
    with pytest.raises(ValueError, match="one class only"):
        model.fit(X, Y * 0)
    assert same(model._state(), before)


@everyone
def test_inputs_and_labels_of_every_kind_are_learned_alike(name):
    inputs = np.round(8 * X.reshape(30, 16)) / 8  # exact in half precision, and flat, as tables are
    views = {"views": {"kind": "none", "image_shape": (1, 4, 4)}}
    cls, params = CASES[name].cls, CASES[name].params
    if cls is FewShotHead:
        params = {**params, "model": SLA.from_preset("small", **SMALL, **views).fit(inputs, Y)}
    params = {**params, **(views if "views" in cls._param_names() else {})}
    preset = cls.PRESETS.get("small", {})
    expected = cls(**{**preset, **params}).fit(inputs, Y).predict_proba(inputs)
    for kind, convert in SAME.items():
        model = cls(**{**preset, **params}).fit(convert(inputs), convert(Y))
        p = model.predict_proba(convert(inputs))
        assert isinstance(p, torch.Tensor) == ("tensor" in kind), kind
        assert np.array_equal(np.asarray(p), expected), kind
        assert np.asarray(model.predict(convert(inputs))).tolist() == model.classes_[expected.argmax(1)].tolist(), kind


@everyone
def test_a_nan_in_any_entry_is_refused_with_its_row(name, make):
    model = make(name).fit(X, Y)
    for row, place in ((0, (0, 0, 0)), (29, (0, 3, 3)), (7, (0, 1, 2))):
        spoiled = X.copy()
        spoiled[(row, *place)] = np.nan
        for call in (lambda s=spoiled: model.fit(s, Y), lambda s=spoiled: model.predict(s)):
            with pytest.raises(ValueError, match=f"row {row}"):
                call()


@everyone
def test_unfitted_use_and_other_shapes(name, make, tmp_path):
    model = make(name)
    for call in (lambda: model.predict(X), lambda: model.save(tmp_path), model.cost):
        with pytest.raises(NotFittedError, match=type(model).__name__):
            call()
    with pytest.raises(ValueError, match="shape"):
        model.fit(X, Y).predict(X[:, :, :3])


@everyone
def test_saved_models_copies_and_seeds(name, make, tmp_path, trained):
    def answer(model):
        return model.predict_proba(X)

    given = {"transforms": Rotations(90, closed=False)} if "transforms" in CASES[name].cls._param_names() else {}
    again = {"model": trained} if CASES[name].cls is FewShotHead else {}
    saved_models_answer_alike(make(name).fit(X, Y), answer, tmp_path, **again)
    copies_answer_alike(make(name, **given).fit(X, Y), answer)
    the_seed_settles_everything(lambda: answer(make(name).fit(X, Y)))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if hasattr(case.cls, "adapt")])
def test_who_adapts_takes_inputs_without_labels_and_keeps_what_it_learned(name, make, tmp_path):
    model = make(name)
    with pytest.raises(NotFittedError, match=type(model).__name__):
        model.adapt(X)
    model.fit(X, Y)
    network = copy.deepcopy(model.net_.state_dict())
    assert model.adapt(X[:9]) is model and same(model.net_.state_dict(), network)
    saved_models_answer_alike(model, lambda m: m.predict_proba(X), tmp_path)
    before = copy.deepcopy(model._state())
    refused(model.adapt, X, BAD_INPUTS)
    with pytest.raises(ValueError, match=r"shape|features"):
        model.adapt(X[:, :, :3])
    assert same(model._state(), before)
    assert np.isfinite(model.adapt(X[:1]).predict_proba(X)).all()


@everyone
def test_progress_ends_at_one_and_a_failure_half_way_leaves_the_model(name, make):
    model = make(name)
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model(
        lambda progress: model.fit(X, Y, progress=progress), lambda model: model.predict_proba(X)
    )


@everyone
def test_training_that_diverges_is_refused(name, make):
    if not {"lr", "steps"} <= set(make(name).get_params()):
        return
    with pytest.raises(NotFinite, match=r"loss|weight|after"):
        make(name, lr=1e30, steps=40).fit(X * 1e4, Y)


@everyone
def test_every_bad_setting_is_refused_by_name(name, make):
    bad_settings_are_refused_by_name(make(name))


@everyone
def test_small_values_learn(name, make):
    rng = np.random.default_rng(1)
    base = rng.normal(size=(3, 1, 4, 4))
    labels = np.arange(60) % 3
    inputs = (base[labels] + 0.2 * rng.normal(size=(60, 1, 4, 4))).astype(np.float32)
    model = make(name, **({"steps": 60, "batch_size": 30} if hasattr(make(name), "steps") else {}))
    assert (model.fit(inputs[:30], labels[:30]).predict(inputs[30:]) == labels[30:]).mean() > 0.7


@everyone
def test_weights_say_how_much_each_input_counts(name, make):
    even = make(name).fit(X, Y).predict_proba(X)
    for weights in (np.ones(30), torch.full((30,), 7.0)):  # only ratios matter
        assert np.allclose(make(name).fit(X, Y, sample_weight=weights).predict_proba(X), even, atol=1e-4)
    half = np.where(np.arange(30) < 15, 1.0, 0.0)  # rows of weight 0 are not there
    rows = make(name).fit(X[:15], Y[:15]).predict_proba(X)
    assert np.allclose(make(name).fit(X, Y, sample_weight=half).predict_proba(X), rows, atol=1e-4)
    uneven = make(name).fit(X, Y, sample_weight=np.where(np.arange(30) < 15, 100.0, 0.01)).predict_proba(X)
    assert abs(uneven - even).max() > 1e-3


@everyone
def test_bad_weights_are_refused_in_one_line(name, make):
    model = make(name).fit(X, Y)
    before = copy.deepcopy(model._state())
    for bad in (-np.ones(30), np.zeros(30), np.ones(29), np.full(30, np.nan), np.ones((30, 1)), ["a"] * 30):
        with pytest.raises((ValueError, TypeError), match="sample_weight"):
            model.fit(X, Y, sample_weight=bad)
    assert same(model._state(), before)


@everyone
def test_no_use_of_inputs_sees_settings_changed_behind_the_models_back(name, make):
    def wants_a_fit(use):
        try:
            getattr(make(name), use)(X)
        except NotFittedError:
            return True
        return False

    model = make(name).fit(X, Y)
    shaping = [one for one in model.get_params(deep=False) if one in ("steps", "lr", "experts", "scale")]
    uses = {
        use: call
        for use, call in inspect.getmembers(model, inspect.ismethod)
        if not use.startswith("_") and use not in ("fit", "fit_predict")
        and [p.name for p in inspect.signature(call).parameters.values() if p.default is p.empty] == ["X"]
        and wants_a_fit(use)
    }  # fmt: skip
    assert "predict_proba" in uses
    for setting in shaping:
        changed = copy.deepcopy(model)
        old = getattr(changed, setting)
        setattr(changed, setting, old[:1] if setting == "experts" else 2 * old)
        for use in uses:
            with pytest.raises(ValueError, match=f"{setting} shapes the fitted model"):
                getattr(changed, use)(X)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "branch" in case.cls._param_names()])
@pytest.mark.parametrize(
    "branch",
    [
        lambda d: None, lambda d: torch.nn.Linear(d + 1, 4), lambda d: torch.nn.Flatten(0),
        lambda d: torch.nn.Unflatten(1, (2, d // 2)), lambda d: torch.nn.LSTM(d, 4),
    ],
)  # fmt: skip
def test_branches_that_do_not_give_features_are_refused_by_name(name, branch, make):
    with pytest.raises((TypeError, ValueError), match="branch m"):
        make(name, branch=branch).fit(X, Y)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "branch" in case.cls._param_names()])
def test_statistics_of_given_layers_stay_where_models_are_used(name, make):
    def norm(d):
        return torch.nn.Sequential(torch.nn.Linear(d, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5))

    stem = torch.nn.Sequential(torch.nn.Flatten(), norm(16))
    model = make(name, backbone=stem, branch=norm).fit(X, Y)
    assert not stem[1][1].running_mean.any()  # copied
    before = copy.deepcopy(model.net_.state_dict())
    if hasattr(model, "adapt"):
        model.adapt(X[:7])
    assert np.array_equal(model.predict_proba(X), model.predict_proba(X))
    assert same(model.net_.state_dict(), before)
