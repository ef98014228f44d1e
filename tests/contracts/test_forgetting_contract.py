"""Every way to forget of the continual family, run through ``forget(model, forget=, retain=)``."""

import copy
import inspect

import pytest
import torch
from cases import cases, everyone, speaks
from hard import BAD_INPUTS, refused
from protocol import the_seed_settles_everything
from torch import nn

from anytask.core.settings import Settings

CASES = cases(
    "continual",
    lambda cls: issubclass(cls, Settings) and speaks(cls, "forget"),
    {"epochs": 2, "seed": 3, "vae": {"epochs": 1}},
)
everyone = everyone(CASES)
Y = torch.arange(30) % 3
X = 2 * torch.eye(6)[Y] + 0.3 * torch.randn(30, 6, generator=torch.Generator().manual_seed(0))


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def forgotten(name, model=None, n=10, labels=Y, x=X, retain=None, **params):
    """The model after its first n rows are to be forgotten."""
    system = CASES[name].make(**params)
    named = {"forget_labels": labels[:n], "retain_labels": labels[n:]}
    more = {k: v for k, v in named.items() if k in inspect.signature(system.forget).parameters}
    return system.forget(
        classifier() if model is None else model, forget=x[:n], retain=x[n:] if retain is None else retain, **more
    )


def moved(a, b):
    return any(not torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


@everyone
def test_the_given_model_stays_and_another_comes_back_without_gradients(name):
    model = classifier()
    given, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    out = forgotten(name, model)
    assert out is not model and out.training == model.training
    assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in out.parameters()] == flags and all(p.grad is None for p in out.parameters())
    assert moved(out, model) == (name != "Untouched")


@pytest.mark.parametrize(("n", "params"), [(1, {}), (29, {}), (10, {"batch_size": 1})], ids=str)
@pytest.mark.parametrize("name", [name for name in CASES if name != "Untouched"])
def test_single_rows_are_learned_from(name, n, params):
    assert moved(forgotten(name, n=n, **params), forgotten(name, n=n, **params, seed=3, epochs=1))


@everyone
def test_the_seed_settles_everything(name):
    model = classifier()
    the_seed_settles_everything(lambda: forgotten(name, model)(X).detach())


@everyone
def test_bad_inputs_and_models_are_refused_and_leave_the_model(name):
    model = classifier()
    given = copy.deepcopy(model.state_dict())
    refused(lambda bad: forgotten(name, model, n=10, x=_Sliced(bad), retain=X[10:]), X[:10].numpy(), {
        kind: (spoil, says.replace("X ", "forget ")) for kind, (spoil, says) in BAD_INPUTS.items()
    })  # fmt: skip
    with pytest.raises(ValueError, match="frozen"):
        forgotten(name, classifier().requires_grad_(False))
    with pytest.raises(ValueError, match="maps no inputs of shape"):
        forgotten(name, model, x=X[:, :5])
    with pytest.raises(ValueError, match="maps no inputs of shape"):
        forgotten(name, classifier().double())
    assert all(torch.equal(value, given[key]) for key, value in model.state_dict().items())


class _Sliced:
    """Inputs that are given whole, however they are cut."""

    def __init__(self, x):
        self.x = x

    def __getitem__(self, rows):
        return self.x


WITH_LABELS = [name for name, case in CASES.items() if "forget_labels" in inspect.signature(case.cls.forget).parameters]


@pytest.mark.parametrize("name", WITH_LABELS)
def test_labels_are_places_among_the_logits(name):
    model = forgotten(name)
    for labels in (Y.int(), Y.numpy(), Y.to(torch.uint8)):
        assert not moved(model, forgotten(name, labels=labels))
    for labels in (Y + 1, Y - 1, Y.float(), Y > 0, Y.numpy().astype(str)):
        with pytest.raises(ValueError, match="labels must hold places among the 3 logits, from 0 to 2"):
            forgotten(name, labels=labels)
