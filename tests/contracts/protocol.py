"""What estimators of every family promise, as checks that a family's contract calls with its own way to fit and ask."""

import copy
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from anytask.core.settings import settings_of


def bad_settings_are_refused_by_name(model: Any) -> None:
    """Every setting says what it wants, and a value that is refused changes nothing."""
    before = str(model.get_params())
    for setting in settings_of(type(model)):
        assert setting.help
        if setting.wanted:
            path = setting.name.split(".")
            with pytest.raises(ValueError, match=f"{path[-1]} must be"):
                model.set_params(**{"__".join(path): object()})
    assert str(model.get_params()) == before
    twin = clone(model)
    assert str(twin.get_params()) == before and not twin.__sklearn_is_fitted__()


def the_seed_settles_everything(answer: Callable[[], Any]) -> None:
    """Two fits of one seed answer alike, also where gradients are off, and leave the global generators alone."""
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    a = answer()
    with torch.no_grad():
        b = answer()
    assert np.array_equal(a, b)
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


def copies_answer_alike(model: Any, answer: Callable[[Any], Any]) -> None:
    """Copies and pickles of a fitted model are that model."""
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(answer(twin), answer(model))


def saved_models_answer_alike(model: Any, answer: Callable[[Any], Any], folder: Any, /, **again: Any) -> None:
    """What is loaded is what was saved."""
    model.save(folder)
    assert np.array_equal(answer(type(model).load(folder, device="cpu", **again)), answer(model))


def progress_ends_at_one_and_an_interrupted_fit_leaves_the_model(
    fit: Callable[..., Any], answer: Callable[[Any], Any]
) -> None:
    """``fit(progress=...)`` is told rising shares, and an exception out of it puts the model back."""
    told: list[float] = []
    model = fit(progress=told.append)
    assert told == sorted(told) and told[-1] == pytest.approx(1)
    before = answer(model)

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(progress=interrupt)
    assert np.array_equal(answer(model), before)
