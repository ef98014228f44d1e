"""Settings: ranges, choices, groups, and scikit-learn's parameter protocol."""

import inspect

import numpy as np
import pytest
from sklearn.base import clone

from anytask.core.settings import (
    Settings,
    choice,
    flag,
    free,
    group,
    numbers,
    positional,
    real,
    settings_of,
    text,
    whole,
)


def even(value):
    if value % 2:
        raise ValueError(f"pairs must be even, got {value!r}")


class Optimizer(Settings):
    lr: float = real(0.1, "learning rate", above=0, at_most=1)
    milestones: tuple = numbers((60, 120), "epochs", integers=True, at_least=1)

    def _check_settings(self):
        if len(self.milestones) > 3:
            raise ValueError("at most 3 milestones")


class Learner(Settings):
    fitted_: int  # annotated without a default: no setting
    steps: int = whole(10, "iterations")
    lambda_: float = real(0.5, "weight", at_least=0, below=1)
    mode: str = choice("fast", ("fast", "slow"), "how")
    nesterov: bool = flag(False, "look ahead")
    name: str = text("net", "a name")
    cap: int = whole(None, "at most this many; None: all", optional=True)
    pairs: int = free(2, "even", even)
    optimizer: Optimizer = group(Optimizer, "of the network")


class Child(Learner):
    steps: int = whole(20, "iterations")


BAD = [
    *[("steps", v) for v in (0, -1, 2.5, True, "x", None, [], np.nan)],
    *[("lambda_", v) for v in (1, -0.1, np.nan, np.inf, "", None, False)],
    *[("mode", v) for v in ("quick", None, 1)],
    *[("nesterov", v) for v in (1, None, "yes")],
    *[("name", v) for v in ("", None, 3)],
    *[("cap", v) for v in (0, "x", 1.5)],
    ("pairs", 3),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name_whenever_it_is_set(name, value):
    learner = Learner()
    for call in (
        lambda: Learner(**{name: value}),
        lambda: learner.set_params(**{name: value}),
        lambda: setattr(learner, name, value),
    ):
        with pytest.raises(ValueError, match=f"^{name} must be .*got"):
            call()
    assert learner.get_params() == Learner().get_params() | {"optimizer": learner.optimizer}


def test_messages_say_what_is_wanted():
    with pytest.raises(ValueError, match=r"lambda_ must be a number of at least 0 and below 1, got 1"):
        Learner(lambda_=1)
    with pytest.raises(ValueError, match=r"mode must be one of 'fast', 'slow', got 'quick'"):
        Learner(mode="quick")
    with pytest.raises(ValueError, match=r"cap must be an integer of at least 1, or None, got 0"):
        Learner(cap=0)


def test_numpy_numbers_are_numbers():
    learner = Learner(steps=np.int64(3), lambda_=np.float32(0.25), optimizer={"milestones": np.array([1, 2])})
    assert learner.steps == 3 and learner.lambda_ == 0.25


def test_a_subclass_inherits_settings_and_may_change_defaults():
    assert Child().steps == 20 and Child().mode == "fast" and Learner().steps == 10


def test_clone_and_parameters_follow_scikit_learn():
    learner = Learner(steps=3, optimizer={"lr": 0.5})
    copy = clone(learner)
    assert copy is not learner and copy.optimizer is not learner.optimizer
    assert copy.steps == 3 and copy.get_params()["optimizer__lr"] == 0.5
    assert "fitted_" not in learner.get_params()


def test_two_objects_share_no_group():
    one, other = Learner(), Learner()
    one.optimizer.lr = 0.9
    assert other.optimizer.lr == 0.1


def test_set_params_changes_all_or_nothing():
    learner = Learner()
    with pytest.raises(ValueError, match="lr must be"):
        learner.set_params(steps=5, optimizer__lr=7)
    assert learner.steps == 10 and learner.optimizer.lr == 0.1
    with pytest.raises(ValueError, match="at most 3 milestones"):
        Learner(optimizer={"milestones": (1, 2, 3, 4)})


def test_a_group_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="optimizer must be an Optimizer or a mapping"):
        Learner(optimizer=3)


def test_settings_are_listed_with_those_of_groups():
    listed = {s.name: s for s in settings_of(Child)}
    assert listed["steps"].default == 20 and listed["steps"].wanted == "an integer of at least 1"
    assert listed["optimizer.lr"].help == "learning rate"
    assert "optimizer" not in listed and listed["optimizer.milestones"].default == (60, 120)


def test_checkers_see_keywords_with_defaults_and_what_may_be_given_by_place():
    class Method(Settings):
        lm: str = positional(free, "the model", kw_only=False)
        k: int = positional(whole, "how many", default=8, kw_only=False)
        cap: int = whole(3, "at most")

    assert repr(inspect.signature(Method)) == "<Signature (lm: str, k: int = 8, *, cap: int = 3) -> None>"
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        Method("tiny", 0)
    told = Settings.__dataclass_transform__
    assert told["kw_only_default"] and told["field_specifiers"] == (positional,)
