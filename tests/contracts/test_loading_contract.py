"""Saved folders that somebody changed: loading says so, and names the folder."""

import copy

import numpy as np
import pytest
import torch
from cases import cases
from damaged import damaged_files_are_refused

from anytask.continual import ContinualClassifier
from anytask.core.persistence import load_tree, save_tree
from anytask.evaluate.baselines import LinearClassifier
from anytask.robust import SLA, Spreading

SMALL = {"batch_size": 8, "epochs": 1, "hidden": (8,), "seed": 3}
CONTINUAL = cases(
    "continual", lambda cls: issubclass(cls, ContinualClassifier) and cls is not ContinualClassifier, SMALL
)
RNG = np.random.default_rng(0)
ROWS, LABELS = RNG.normal(size=(16, 4)).astype(np.float32), np.arange(16) % 2


def images():
    return RNG.normal(size=(16, 1, 4, 4)).astype(np.float32)


def saved(name, folder):
    if name in CONTINUAL:
        cls = CONTINUAL[name].cls
        model = cls.from_preset("small", **CONTINUAL[name].params).partial_fit(ROWS, LABELS, task=0)
        model.save(folder)
        return cls
    X = images() if name == "SLA" else ROWS
    made = {"SLA": SLA.from_preset("small", steps=2), "Spreading": Spreading(), "LinearClassifier": LinearClassifier()}
    made[name].fit(X, LABELS).save(folder)
    return type(made[name])


EVERYONE = [*CONTINUAL, "SLA", "Spreading", "LinearClassifier"]


def dicts(tree, path=()):
    """Give the place of every mapping of a saved tree, three floors down."""
    if isinstance(tree, dict) and len(path) <= 3:
        yield path
        for key, inner in tree.items():
            yield from dicts(inner, (*path, key))


def load_refused(cls, folder):
    with pytest.raises(ValueError, match="model") as refused:
        cls.load(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("name", EVERYONE)
def test_trees_with_missing_renamed_and_further_keys_are_refused(name, tmp_path):
    folder = tmp_path / "model"
    cls = saved(name, folder)
    whole = load_tree(folder)
    for path in dicts(whole):
        for change in ("missing", "renamed", "further"):
            tree = copy.deepcopy(whole)
            at = tree
            for key in path:
                at = at[key]
            if change == "further" and path in (("state", "modules"), ("state", "values")):
                at["predict"] = torch.zeros(1)
            elif at and change != "further" and path[:1] not in ((), ("params",)):  # a missing setting is the default
                key = next(iter(at))
                value = at.pop(key)
                if change == "renamed":
                    at[f"{key}x" if isinstance(key, str) else -99] = value
            elif not path and change != "further":
                at.pop("state")
            else:
                continue
            if path[:2] == ("state", "values") and len(path) > 2:
                continue  # what is inside of a plain value is the model's own, and no other load can know it
            save_tree(folder, tree)
            load_refused(cls, folder)


@pytest.mark.parametrize("name", EVERYONE)
def test_truncated_missing_swapped_and_linked_files_are_refused(name, tmp_path):
    folder = tmp_path / "model"
    cls = saved(name, folder)
    damaged_files_are_refused(lambda: cls.load(folder), folder)


def test_a_state_sets_fitted_attributes_alone(tmp_path):
    model = LinearClassifier().fit(ROWS, LABELS)
    for name in ("predict", "__class__", "_private_", "seed"):
        state = model._state()
        state["values"][name] = torch.zeros(1)
        with pytest.raises(ValueError, match="names no fitted attribute"):
            LinearClassifier()._load_state(state)
