"""Every encoder of the pretraining family, run through the family's protocol."""

import copy
import inspect

import numpy as np
import pytest
import torch
from cases import cases
from cases import everyone as each_of
from hard import BAD_LABELS, refused, same
from pretrain_worlds import WORLDS, numbers
from protocol import (
    bad_settings_are_refused_by_name,
    copies_answer_alike,
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model,
    saved_models_answer_alike,
    the_seed_settles_everything,
)
from sklearn.exceptions import NotFittedError

from anytask.core.checks import NotFinite
from anytask.pretrain import PretrainEstimator

CASES = cases(
    "pretrain",
    lambda cls: isinstance(cls, type) and issubclass(cls, PretrainEstimator) and cls is not PretrainEstimator,
    {"seed": 3, "epochs": 2, "steps": 4, "batch_size": 8, "device": "cpu"},
)
everyone = each_of(CASES)


def make(name, **params):
    case = CASES[name]
    params = {**case.params, **params}
    return case.cls.from_preset("small", **params) if "small" in case.cls.PRESETS else case.cls(**params)


def world(name):
    return WORLDS[CASES[name].cls.takes]


def fitted(name, **params):
    return make(name, **params).fit(world(name).X)


@everyone
def test_every_input_gets_a_finite_vector(name):
    model, data = fitted(name), world(name)
    H = numbers(model.transform(data.query))
    assert H.ndim == 2 and len(H) == data.n and np.isfinite(H).all() and H.dtype == np.float64
    assert np.array_equal(numbers(make(name).fit_transform(data.X)), numbers(model.transform(data.X)))


@everyone
def test_labels_are_not_looked_at(name):
    data = world(name)
    a = make(name).fit(data.X, np.arange(len(data.X))).transform(data.query)
    assert np.array_equal(numbers(a), numbers(fitted(name).transform(data.query)))


@everyone
def test_the_features_of_an_input_do_not_depend_on_the_others(name):
    model, data = fitted(name), world(name)
    alone, among = numbers(model.transform(data.one)), numbers(model.transform(data.query))
    np.testing.assert_allclose(alone, among[: len(alone)], rtol=1e-4, atol=1e-5)


@everyone
def test_pipelines_of_any_labels_get_the_features(name):
    data = world(name)
    expected = numbers(make(name).fit_transform(data.X))
    for y in (np.linspace(0, 1, len(data.X)), ["a"] * len(data.X), None):
        assert np.array_equal(numbers(make(name).fit_transform(data.X, y)), expected)


def never(share):
    pytest.fail("trained before all of the data were checked")


SEMI = [name for name in CASES if "unlabeled" in inspect.signature(CASES[name].cls.fit).parameters]


@pytest.mark.parametrize("name", SEMI)
def test_further_inputs_of_every_kind_are_learned_from(name):
    X = world(name).X
    expected = numbers(fitted(name).transform(X))
    for kind, convert in world(name).same.items():
        H = make(name).fit(X[:20], unlabeled=convert(X[20:])).transform(X)
        np.testing.assert_allclose(H, expected, rtol=1e-4, atol=1e-5, err_msg=kind)
        H = make(name).fit(convert(X[:20]), unlabeled=X[20:]).transform(X)
        np.testing.assert_allclose(H, expected, rtol=1e-4, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", SEMI)
def test_bad_further_inputs_and_labels_are_refused_before_anything_is_trained(name):
    model, data, y = make(name), world(name), np.arange(40) % 2
    bad = {
        kind: (spoil, says.replace("X", "unlabeled")) for kind, (spoil, says) in data.bad.items() if kind != "nothing"
    }
    refused(lambda U: model.fit(data.X, unlabeled=U, progress=never), data.X, bad)
    with pytest.raises(ValueError, match="unlabeled holds inputs of shape"):
        model.fit(data.X, unlabeled=data.other, progress=never)
    numeric = hasattr(model, "fit_head")  # which takes numbers that are not whole
    bad = {kind: case for kind, case in BAD_LABELS.items() if not (numeric and kind == "continuous")}
    refused(lambda labels: model.fit(data.X, labels, progress=never), y, bad)
    assert not model.__sklearn_is_fitted__()


def given_networks():
    """Return the settings that take a network of small inputs, by case; groups of settings are looked into."""
    found = {}
    for name in CASES:
        params = make(name).get_params()
        unused = params.get("model", "contrastive") != "contrastive" or params.get("size") is not None
        if not unused:
            found.update((name, path) for path in params if path.rpartition("__")[2] == "backbone")
    return found


NETWORKS = given_networks()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_users_give_are_copied_and_their_features_do_not_vary(name):
    data, path = world(name), NETWORKS[name]
    width = CASES[name].params.get("n_components", 6)
    given = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.5),
        torch.nn.Linear(8, width),
    ).train()  # fmt: skip
    before = copy.deepcopy(given.state_dict())

    def fit(network):
        return make(name).set_params(**{path: network}).fit(data.X)

    model = fit(given)
    assert given.training and same(given.state_dict(), before)
    assert np.array_equal(numbers(model.transform(data.query)), numbers(model.transform(data.query)))
    spoiled = copy.deepcopy(given)
    spoiled[1].weight.data[0, 0] = np.nan
    with pytest.raises(NotFinite, match=r"weight"):
        fit(spoiled)
    frozen = copy.deepcopy(given).requires_grad_(False)
    if path == "backbone":  # beside which there are other weights, or none is trained
        assert np.isfinite(numbers(fit(frozen).transform(data.query))).all()
        return
    with pytest.raises(ValueError, match="no weight to train"):
        fit(frozen)


@everyone
def test_bad_data_is_refused_in_one_line_and_leaves_no_trace(name):
    model, data = fitted(name), world(name)
    before = copy.deepcopy(model._state())
    refused(model.fit, data.X, data.bad)
    refused(model.transform, data.X, data.bad)
    if data.other is not None:
        with pytest.raises(ValueError, match=r"feature|shape|dimension"):
            model.transform(data.other)
    assert same(model._state(), before)


@everyone
def test_inputs_of_every_kind_are_learned_alike(name):
    data = world(name)
    expected = numbers(fitted(name).transform(data.X))
    for kind, convert in data.same.items():
        H = make(name).fit(convert(data.X)).transform(convert(data.X))
        assert isinstance(H, torch.Tensor) == ("tensor" in kind), kind
        np.testing.assert_allclose(numbers(H), expected, rtol=1e-4, atol=1e-5, err_msg=kind)


@everyone
def test_unfitted_use_is_refused(name, tmp_path):
    model = make(name)
    for call in (lambda: model.transform(world(name).query), lambda: model.save(tmp_path), model.cost):
        with pytest.raises(NotFittedError, match=type(model).__name__):
            call()


@everyone
def test_data_in_which_nothing_varies_give_finite_features(name):
    data = world(name)
    if data.constant is None:
        return
    assert np.isfinite(numbers(make(name).fit(data.constant).transform(data.constant))).all()


@everyone
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unusual_data_are_learned_from(name):
    for kind, X in world(name).odd.items():
        assert np.isfinite(numbers(make(name).fit(X).transform(world(name).query))).all(), kind


@everyone
def test_models_copies_and_seeds(name, tmp_path):
    def answer(model):
        return numbers(model.transform(world(name).query))

    model = fitted(name)
    saved_models_answer_alike(model, answer, tmp_path)
    copies_answer_alike(model, answer)
    the_seed_settles_everything(lambda: answer(fitted(name)))


@everyone
def test_progress_and_interruption(name):
    model, data = make(name), world(name)
    progress_ends_at_one_and_an_interrupted_fit_leaves_the_model(
        lambda progress: model.fit(data.X, progress=progress), lambda model: numbers(model.transform(data.query))
    )


@everyone
def test_every_bad_setting_is_refused_by_name(name):
    bad_settings_are_refused_by_name(make(name))


@everyone
def test_training_that_diverges_is_refused(name):
    if hasattr(make(name), "lr"):
        with pytest.raises(NotFinite, match=r"loss|weight|after"), np.errstate(all="ignore"):
            make(name, lr=1e30).fit(world(name).X)


@everyone
def test_settings_that_shape_the_model_cannot_be_changed_behind_its_back(name):
    model = fitted(name)
    shaping = [setting for setting in model._shaping() if isinstance(getattr(model, setting, None), int)]
    for setting in shaping[:3]:
        changed = copy.deepcopy(model)
        before = getattr(changed, setting)
        setattr(changed, setting, not before if isinstance(before, bool) else before + 1)
        with pytest.raises(ValueError, match=f"{setting} shapes the fitted model"):
            changed.transform(world(name).query)
