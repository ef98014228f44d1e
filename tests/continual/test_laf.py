"""LAF: its losses, what moves and what does not, and that a class is forgotten."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from anytask.continual.laf import LAF, _distance, _reconstruction, extractor_unlearning, representation_alignment
from anytask.continual.parts.split_model import Embedder
from anytask.continual.unlearning import RandomLabels, RetrainedModel
from anytask.parts.distillation import Snapshot
from anytask.parts.vae import diagonal_gaussian_kl

torch.set_num_threads(1)
QUICK = {"epochs": 2, "vae": {"epochs": 1}}


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 5),
        nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
    )  # fmt: skip


def rows(n, seed=0):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [5.0, 20.0])
def test_at_the_start_the_alignment_is_minus_b_log_b(temperature):
    zero = torch.zeros(32)
    expected = -32 * math.log(32)  # no distance yet: log(1 / 32) for each of 32
    assert representation_alignment(zero, zero, temperature).item() == pytest.approx(expected, abs=1e-4)


def test_the_unlearning_loss_is_bounded_by_e_minus_1_per_sample():
    far, near = torch.full((8,), 1e6), torch.zeros(8)
    assert extractor_unlearning(far, near).item() == pytest.approx(8 * (math.e - 1), rel=1e-4)
    assert extractor_unlearning(near, far).item() == pytest.approx(-8 * (math.e - 1), rel=1e-4)


def test_the_divergence_of_the_auto_encoder():
    mu, log_variance = torch.tensor([[0.3]]), torch.tensor([[2 * math.log(0.5)]])
    zero = torch.zeros(1, 1)
    assert diagonal_gaussian_kl(mu, log_variance, zero, zero).item() == pytest.approx(0.363147, abs=1e-6)


def test_descending_the_alignment_keeps_remaining_embeddings_and_moves_forgotten_ones():
    c, k = torch.tensor([0.2], requires_grad=True), torch.tensor([0.1, 0.3], requires_grad=True)
    representation_alignment(c, k, 5.0).backward()
    assert (c.grad > 0).all() and (k.grad < 0).all()


def test_errors_of_a_reconstruction_are_summed_over_dimensions():
    zeros = torch.zeros(2, 3)
    V = SimpleNamespace(posterior=lambda e: (None, zeros, zeros), decode=lambda z, c: z * 0, mean_of=lambda out: out)
    e = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]])
    assert _reconstruction(V, e)[0].tolist() == [9.0, 9.0]


def test_the_alignment_has_no_gradient_at_the_start_and_the_unlearning_loss_has():
    g = Embedder(classifier().eval(), "4")
    g_0 = Snapshot(g)
    V = LAF(vae={"epochs": 1})._fit_vae(g.all(rows(40)), lambda share: None)

    def size(loss):
        return sum(grad.norm().item() for grad in torch.autograd.grad(loss, list(g.model[:4].parameters())))

    s, u = rows(8), rows(8, 1)
    unlearning = extractor_unlearning(_reconstruction(V, g(s))[0], _reconstruction(V, g(u))[0])
    alignment = representation_alignment(_distance(g(s), g_0(s)), _distance(g(u), g_0(u)), 20.0)
    assert size(alignment) < 1e-4 < 1e-2 < size(unlearning)


def test_only_the_extractor_moves_and_the_given_model_stays():
    model = classifier().train()
    given = copy.deepcopy(model.state_dict())
    out = LAF(head="4", lr_forget=1e-2, **QUICK).forget(model, forget=rows(20), retain=rows(70, 1))
    assert all(torch.equal(v, given[name]) for name, v in model.state_dict().items()) and model.training
    moved = {name for name, v in out.state_dict().items() if not torch.equal(v, given[name])}
    assert "0.weight" in moved and not any(name.startswith("4.") or "running" in name for name in moved)
    assert out.training


def test_a_repair_moves_the_classifier_alone():
    model, X = classifier(), rows(64)
    before = copy.deepcopy(model.state_dict())
    out = LAF(head="4").repair(model, X, torch.arange(64) % 3)
    moved = {name for name, v in out.state_dict().items() if not torch.equal(v, before[name])}
    assert moved == {"4.0.weight", "4.0.bias", "4.1.weight", "4.1.bias"}
    assert all(p.requires_grad for p in out.parameters())


def test_the_same_seed_forgets_alike_and_progress_ends_at_1():
    told = []
    laf = LAF(seed=3, **QUICK)
    once = laf.forget(classifier(), forget=rows(5), retain=rows(40, 1), progress=told.append)
    again = laf.forget(classifier(), forget=rows(5).numpy(), retain=rows(40, 1).numpy())
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters()))
    assert told[-1] == 1.0 and told == sorted(told) and len(laf.losses_) == 2


def test_a_class_of_digits_is_forgotten_and_the_others_are_kept():
    X, y = load_digits(return_X_y=True)
    X, y = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 10))
    )
    adam = torch.optim.Adam(model.parameters(), 2e-3)
    train, test = torch.arange(1300), torch.arange(1300, len(X))
    for _ in range(20):
        for batch in torch.randperm(1300).split(32):
            adam.zero_grad()
            F.cross_entropy(model(X[batch]), y[batch]).backward()
            adam.step()
    out = LAF.from_preset("small", head="3").forget(
        model, forget=X[train][y[train] == 0], retain=X[train][y[train] > 0]
    )

    def right(net, rows):
        return (net(X[rows]).argmax(1) == y[rows]).float().mean().item()

    forgotten, kept = train[y[train] == 0], test[y[test] > 0]
    assert right(out, forgotten) < right(model, forgotten) - 0.7
    assert right(out, kept) > right(model, kept) - 0.1


@pytest.mark.parametrize(
    ("params", "forget", "retain", "says"),
    [
        ({}, rows(0), rows(9), "minimum of 1"),
        ({}, rows(9), rows(9)[:, :5], "differ in shape"),
        ({"head": "nowhere"}, rows(9), rows(9), "no head 'nowhere'"),
        ({}, rows(9), rows(9) * np.nan, "NaN"),
    ],
)
def test_what_it_cannot_forget_is_said(params, forget, retain, says):
    with pytest.raises(ValueError, match=says):
        LAF(**params, **QUICK).forget(classifier(), forget=forget, retain=retain)


def test_an_embedding_is_what_the_head_is_given():
    model, x = classifier().eval(), rows(4)
    assert torch.equal(Embedder(model, "4")(x), model[:4](x))
    assert torch.equal(Embedder(model)(x), model[4][0](model[:4](x)))  # the last linear layer is the head
    with pytest.raises(ValueError, match=r"tensor of shape \(4, 6, 1\)"):
        Embedder(nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Linear(1, 2)))(x)


@pytest.mark.parametrize(
    ("model", "params", "says"),
    [
        (classifier, {"lr_forget": 0.0, "lr_align": 0.0}, "both 0"),
        (lambda: nn.Sequential(nn.Linear(6, 3)), {}, "no weight before the head"),
        (
            lambda: nn.Sequential(nn.Linear(6, 4).requires_grad_(False), nn.Linear(4, 3)),
            {},
            "no weight before the head",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.Threshold(1e9, 0.0), nn.Linear(4, 3)), {}, "of forget, row 0, is 0"),
    ],
)
def test_a_model_that_cannot_forget_is_named(model, params, says):
    with pytest.raises(ValueError, match=says):
        LAF(**params, **QUICK).forget(model(), forget=rows(4), retain=rows(9, 1))


def test_one_remaining_row_has_a_scale_and_a_repair_keeps_what_is_frozen():
    model = classifier()
    model[0].requires_grad_(False)
    assert LAF(**{**QUICK, "vae": {"epochs": 1, "standardize": True}}).forget(model, forget=rows(4), retain=rows(1, 1))
    out = LAF(head="4").repair(model, rows(9), torch.arange(9) % 3)
    assert [p.requires_grad for p in out.parameters()] == [p.requires_grad for p in model.parameters()]


def test_what_cannot_be_trained_anew_or_mislabeled_is_said():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.ones(6)), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(x * self.scale)

    parts = {"forget": rows(4), "retain": rows(9), "forget_labels": [0] * 4, "retain_labels": [0] * 9}
    with pytest.raises(ValueError, match=r"Scaled.*reset_parameters"):
        RetrainedModel(epochs=1).forget(Scaled(), **parts)
    with pytest.raises(ValueError, match="one class"):
        RandomLabels(epochs=1).forget(Scaled(), **parts)
