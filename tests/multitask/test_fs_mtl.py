"""FS-MTL: the brief's numbers, what a step leaves alone, and when it is the plain one."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anytask.multitask import FSMTL, SharedTrunk
from anytask.multitask.parts.task_steps import TaskSteps, perturbation, total
from anytask.multitask.shared_trunk import BALANCERS, aggregate_of


class Point(nn.Module):
    """A weight alone."""

    def __init__(self, *values):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=torch.float64))


H = torch.tensor([[[4.0, 0], [0, 1]], [[1.0, 0], [0, 9]]], dtype=torch.float64)
C = torch.tensor([[1.0, 0], [-2, 0.25]], dtype=torch.float64)


def quadratics(theta):
    for matrix, center in zip(H, C):
        yield 0.5 * (theta - center) @ matrix @ (theta - center)


def pcgrad(G):
    """Project a gradient off the other of two where they are against each other, and add."""
    g, h = G
    dot = g @ h
    return g + h if dot >= 0 else (g - dot / (h @ h) * h) + (h - dot / (g @ g) * g)


@pytest.mark.parametrize(
    ("aggregate", "split", "direction"),
    [
        (pcgrad, True, (-4.215162, -7.795171)),
        (pcgrad, False, (-5.116763, -7.739210)),
        (total, True, (-3.667818, -5.613342)),
        (total, False, (-3.667818, -5.613342)),
    ],
)
def test_directions_of_two_quadratics_are_those_of_the_worked_example(aggregate, split, direction):
    point = Point(0.0, 0.0)
    sgd = torch.optim.SGD(point.parameters(), lr=1.0)
    told = TaskSteps(point, [nn.Identity()] * 2, sgd, aggregate, rho=0.5, split=split).step(
        partial(quadratics, point.weight)
    )
    assert told == pytest.approx([2.0, 0.5 * (4 + 9 / 16)])
    assert (-point.weight).tolist() == pytest.approx(direction, abs=1e-5)


def test_an_aggregator_of_torchjd_goes_in():
    aggregation = pytest.importorskip("torchjd.aggregation", reason="needs the extra multitask")
    point = Point(0.0, 0.0)
    sgd = torch.optim.SGD(point.parameters(), lr=1.0)
    TaskSteps(point, [nn.Identity()] * 2, sgd, aggregation.PCGrad(), rho=0.5).step(partial(quadratics, point.weight))
    assert (-point.weight).tolist() == pytest.approx((-4.215162, -7.795171), abs=1e-5)


def network(seed=0, dropout=0.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout))
        return trunk, [nn.Linear(8, 2), nn.Linear(8, 2)]


def batch():
    rng = torch.Generator().manual_seed(1)
    return torch.randn(16, 5, generator=rng), torch.randint(2, (2, 16), generator=rng)


def losses(trunk, heads, X, Y):
    z = trunk(X)
    for head, y in zip(heads, Y):
        yield F.cross_entropy(head(z), y)


def stepped(lr=0.1, dropout=0.0, steps=1, Y=None, **how):
    trunk, heads = network(dropout=dropout)
    X, truth = batch()
    sgd = torch.optim.SGD([*trunk.parameters(), *(w for head in heads for w in head.parameters())], lr=lr)
    tool = TaskSteps(trunk, heads, sgd, **how)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for _ in range(steps):
            tool.step(partial(losses, trunk, heads, X, truth if Y is None else Y))
    return {name: value.clone() for name, value in nn.ModuleList([trunk, *heads]).state_dict().items()}


def plain(steps=1):
    trunk, heads = network()
    X, Y = batch()
    sgd = torch.optim.SGD([*trunk.parameters(), *(w for head in heads for w in head.parameters())], lr=0.1)
    for _ in range(steps):
        sgd.zero_grad()
        sum(losses(trunk, heads, X, Y)).backward()
        sgd.step()
    return nn.ModuleList([trunk, *heads]).state_dict()


def test_without_a_radius_a_step_is_the_plain_one():
    for name, value in plain(steps=3).items():
        assert torch.allclose(stepped(steps=3)[name], value, atol=1e-6)


def test_the_change_of_the_gradients_vanishes_with_the_radius():
    near, here = stepped(rho=1e-4), stepped()
    assert all(torch.allclose(near[name], here[name], atol=1e-4) for name in here)


@pytest.mark.parametrize("how", [{}, {"adaptive": True}, {"joint": True}, {"split": False}])
def test_without_a_rate_only_statistics_of_one_forward_pass_move(how):
    trunk, heads = network()
    trunk(batch()[0])
    once = nn.ModuleList([trunk, *heads]).state_dict()
    after = stepped(lr=0.0, rho=0.5, dropout=0.3, **how)
    assert all(torch.equal(once[name], after[name]) for name in once)


def test_a_head_learns_from_its_own_task_alone():
    _, Y = batch()
    other = stepped(rho=0.2, Y=torch.stack([Y[0], 1 - Y[1]]))
    before = stepped(rho=0.2)
    assert torch.equal(before["1.weight"], other["1.weight"]) and torch.equal(before["1.bias"], other["1.bias"])
    assert not torch.equal(before["2.weight"], other["2.weight"])


def test_second_passes_see_the_same_dropout():
    # With another mask the change of the gradient would not vanish with the radius.
    near, here = stepped(rho=1e-4, dropout=0.5), stepped(dropout=0.5)
    assert all(torch.allclose(near[name], here[name], atol=1e-4) for name in here)


@pytest.mark.parametrize("adaptive", [False, True])
def test_perturbations_have_their_radius_and_zero_gradients_none(adaptive):
    rng = torch.Generator().manual_seed(0)
    group = [(torch.randn(n, generator=rng), torch.randn(n, generator=rng)) for n in (3, 4)]
    found = perturbation(group, 0.3, adaptive)
    scaled = [eps / w.abs() if adaptive else eps for eps, (w, _) in zip(found, group)]
    assert math.isclose(torch.cat(scaled).norm().item(), 0.3, rel_tol=1e-5)
    assert all(not eps.any() for eps in perturbation([(w, 0 * g) for w, g in group], 0.3, adaptive))


def test_a_task_without_a_gradient_moves_nothing():
    point = Point(1.0, 1.0)
    sgd = torch.optim.SGD(point.parameters(), lr=1.0)
    TaskSteps(point, [nn.Identity()], sgd, rho=0.5).step(lambda: [0 * point.weight.sum()])
    assert point.weight.tolist() == [1, 1]


def test_losses_and_heads_are_counted_and_weights_are_not_shared():
    trunk, heads = network()
    sgd = torch.optim.SGD(trunk.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="2 heads, and losses\\(\\) gave 1"):
        TaskSteps(trunk, heads, sgd).step(lambda: list(losses(trunk, heads, *batch()))[:1])
    with pytest.raises(ValueError, match="share weights"):
        TaskSteps(trunk, [heads[0], heads[0]], sgd)


def test_without_a_radius_the_estimator_is_the_shared_trunk():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(100, 4)), rng.normal(size=(100, 2))
    plain, flat = (model.fit(X, Y) for model in (SharedTrunk(epochs=3), FSMTL(rho=0, epochs=3)))
    assert np.array_equal(plain.predict(X), flat.predict(X))


def test_the_end_of_training_is_flatter():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 10)).astype(np.float32)
    Y = np.stack([X[:, 0] > 0, rng.random(200) > 0.5], axis=1).astype(int)  # the second is to be learned by heart
    rises = []
    for rho in (0, 0.2):
        model = FSMTL(rho=rho, epochs=80).fit(X, Y)
        cells = torch.from_numpy(X), torch.arange(200).repeat(2), torch.arange(2).repeat_interleave(200)
        losses = partial(model._losses, *cells, torch.from_numpy(Y.T.reshape(-1)))
        steps = TaskSteps(model.trunk_, list(model.heads_), torch.optim.SGD(model.trunk_.parameters(), lr=0), rho=0.1)
        here = steps.step(losses)
        model.trunk_.eval()
        groups = [steps._gradients(i, loss, keep=True) for i, loss in enumerate(losses())]
        rise = []
        for i, (shared, own) in enumerate(groups):
            pairs = [*zip(steps.shared, shared)], [*zip(steps.own[i], own)]
            eps = [(w, e) for group in pairs for (w, _), e in zip(group, perturbation(group, 0.1))]
            with torch.no_grad():
                for w, e in eps:
                    w.add_(e)
                rise.append(list(losses())[i].item() - here[i])
                for w, e in eps:
                    w.sub_(e)
        rises.append(np.mean(rise))
    assert 0 < rises[1] < 0.7 * rises[0]


def test_columns_of_numbers_and_of_classes_with_gaps_are_learned_together():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)).astype(np.float32)
    Y = np.empty((300, 2), dtype=object)
    Y[:, 0], Y[:, 1] = 100 * X[:, 0], np.where(X[:, 1] > 0, "up", "down")
    Y[::3, 0] = None
    for balancer in ("sum", "uncertainty"):
        answers = SharedTrunk(balancer=balancer, epochs=60, lr=3e-3).fit(X[:200], Y[:200]).predict(X[200:])
        assert np.abs(answers[:, 0].astype(float) - 100 * X[200:, 0]).mean() < 40
        assert (answers[:, 1] == Y[200:, 1]).mean() > 0.8


@pytest.mark.parametrize("balancer", BALANCERS)
def test_a_task_without_rows_in_a_batch_has_no_say_in_its_direction(balancer):
    if balancer not in ("sum", "uncertainty"):
        pytest.importorskip("torchjd", reason="needs the extra multitask")
    G = torch.tensor([[1.0, 2, 3], [0, 0, 0], [3, 2, -1]])
    assert torch.equal(aggregate_of(balancer)(G), aggregate_of(balancer)(G[[0, 2]]))
    assert aggregate_of(balancer)(G).norm() > 1 and not aggregate_of(balancer)(0 * G).any()


def test_second_passes_leave_layers_in_evaluation_mode_alone():
    # Their statistics normalize, and would be the batch's if they were not tracked.
    norm = nn.InstanceNorm1d(3, track_running_stats=True).eval()
    trunk, (X, _) = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (3, 4)), norm), batch()
    told = []

    def loss():
        told.append(trunk(X).square().mean())
        return told[-1:]

    sgd = torch.optim.SGD(trunk.parameters(), lr=0.1)
    TaskSteps(trunk, [nn.Identity()], sgd, rho=1e-6).step(loss)
    assert told[1].item() == pytest.approx(told[0].item(), rel=1e-4)


def test_inputs_that_are_large_and_hardly_differ_are_scaled():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    X = np.stack([1.7e9 + 1e4 * y, np.full(200, 1e30)], axis=1)
    model = SharedTrunk(epochs=30, lr=3e-3).fit(X, y)
    assert ((model.predict(X) - y) ** 2).mean() < 0.1


@pytest.mark.parametrize(("rows", "max_steps", "steps"), [(40, 17, 15), (40, 2, 3), (5, 17, 6), (40, None, 18)])
def test_steps_are_bounded_in_whole_passes(rows, max_steps, steps, monkeypatch):
    made = []
    monkeypatch.setattr(TaskSteps, "step", lambda self, losses: made.append(1))
    X = np.random.default_rng(0).normal(size=(rows, 2))
    SharedTrunk(epochs=6, batch_size=16, max_steps=max_steps).fit(X, X[:, 0])
    assert len(made) == steps
