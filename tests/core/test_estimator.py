"""Estimators: presets, saving and loading, refit and update that can fail."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from anytask.core.cost import cost_of
from anytask.core.estimator import Estimator
from anytask.core.persistence import load_tree
from anytask.core.settings import free, real


class Mean(Estimator):
    """A network that adds a mean, and a tensor, an array and a table of values beside it."""

    PRESETS: ClassVar = {"big": {"scale": 5.0}}

    scale: float = real(2.0, "factor", above=0)
    net: object = free(None, "a module, or None for a linear one")
    lambda_: float = real(1.0, "a setting whose name ends in an underscore")

    def fit(self, X, fail=False):
        with self._refit():
            self.n_features_in_ = X.shape[1]
            self._build()
            self.mean_ = torch.from_numpy(X.mean(0)).to(self._device)
            self.seen_ = {"rows": len(X), "first": X[0]}
            if fail:
                raise RuntimeError("no")
        return self

    def partial_fit(self, X, fail=False):
        with self._update():
            self.mean_ += 1
            self.seen_["rows"] += len(X)
            with torch.no_grad():
                self.net_.weight.add_(1)
            if fail:
                raise RuntimeError("no")
        return self

    def _build(self):
        self.net_ = self.net or nn.Linear(self.n_features_in_, 1)
        self._cache = object()

    def answer(self, X):
        return (self.net_(torch.from_numpy(X)) * self.scale + self.mean_.sum()).detach().numpy()


X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_presets_fill_in_what_is_not_given():
    assert Mean.from_preset("big").scale == 5 and Mean.from_preset("big", scale=1).scale == 1
    with pytest.raises(ValueError, match="Mean has no preset 'tiny'; presets: big"):
        Mean.from_preset("tiny")


def test_a_saved_model_answers_alike(tmp_path):
    model = Mean(scale=3.0).fit(X).partial_fit(X)
    model.save(tmp_path)
    loaded = Mean.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(loaded.answer(X), model.answer(X))
    assert loaded.scale == 3 and loaded.seen_["rows"] == 10 and loaded.n_features_in_ == 3
    assert "device" not in load_tree(tmp_path)["params"]


def test_before_fit_there_is_nothing_to_save_or_count(tmp_path):
    for call in (lambda m: m.save(tmp_path), lambda m: m.cost()):
        with pytest.raises(NotFittedError, match="has not been fitted"):
            call(Mean())
    assert not list(tmp_path.iterdir())


def test_a_module_has_to_be_passed_again(tmp_path):
    net = nn.Linear(3, 1)
    Mean(net=net).fit(X).save(tmp_path)
    with pytest.raises(ValueError, match=r"net \(a Linear\) could not be saved: pass it again"):
        Mean.load(tmp_path)
    assert Mean.load(tmp_path, net=nn.Linear(3, 1)).answer(X).shape == (5, 1)


def test_another_class_is_refused_by_name(tmp_path):
    class Other(Mean):
        pass

    Mean().fit(X).save(tmp_path)
    with pytest.raises(ValueError, match=r"holds a .*Mean, not a .*Other"):
        Other.load(tmp_path)


def test_weights_that_do_not_fit_are_refused_with_the_folder(tmp_path):
    Mean().fit(X).save(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path)):
        Mean.load(tmp_path, net=nn.Linear(4, 2))


def test_a_failed_fit_or_update_leaves_everything_as_it_was():
    model = Mean().fit(X)
    before, net, seen = model.answer(X), model.net_, model.seen_
    with pytest.raises(RuntimeError):
        model.fit(X + 1, fail=True)
    with pytest.raises(RuntimeError):
        model.partial_fit(X, fail=True)
    assert model.net_ is net and model.seen_ is seen and model.seen_["rows"] == 5
    np.testing.assert_array_equal(model.answer(X), before)


def test_cost_counts_the_fitted_state():
    assert Mean().fit(X).cost() == {"trainable_parameters": 4, "stored_parameters": 4 + 3 + 3}
    shared = nn.Linear(2, 2)
    assert cost_of(shared, [shared])["stored_parameters"] == 6


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5, None, ""])
def test_an_impossible_device_is_refused_at_construction(device):
    with pytest.raises(ValueError, match="device must be"):
        Mean(device=device)
