"""PRD: its losses, their gradients, and what happens at the border of a task."""

import math

import numpy as np
import pytest
import torch

from anytask.continual.prd import PRD, relation_distillation
from anytask.core.checks import NotFinite

CONTRACT = {"feature_dim": 16, "contrastive": {"hidden": (16,), "dim": 8}}
EXEMPT = {"test_training_does_not_depend_on_the_cut": "views are drawn anew in every chunk"}

Z_OLD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
Z = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
P_OLD = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
P = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
CENTRES = 3 * np.random.default_rng(0).normal(size=(6, 10))


def blobs(labels, n=32, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice(labels, n)
    return CENTRES[y] + 0.3 * rng.normal(size=(n, 10)), y


def small(**params):
    return PRD.from_preset("small", **{"schedule": {"first_task_steps": 1}, **params})


def after_two_tasks(**params):
    model = small(**params)
    for task, labels in enumerate([(0, 1), (2, 3)]):
        for chunk in range(5):
            model.partial_fit(*blobs(labels, seed=10 * task + chunk), task=task)
        model.end_task()
    return model


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({}, 0.181513),
        ({"axis": "prototypes"}, 0.047126),
        ({"axis": "prototypes", "relation": "raw"}, 0.064752),
        ({"axis": "prototypes", "heads": [[0, 1]]}, 0.047126),
        ({"axis": "prototypes", "heads": [[0], [1]]}, 0.0),  # one class per old task: nothing to tell apart
    ],
)
def test_distillation_fixed_values(options, value):
    assert relation_distillation(Z, P, Z_OLD, P_OLD, **options).item() == pytest.approx(value, abs=1e-6)


def test_distillation_is_the_mean_over_prototypes_on_the_samples_axis():
    each = [relation_distillation(Z, P[c : c + 1], Z_OLD, P_OLD[c : c + 1]).item() for c in (0, 1)]
    assert each == pytest.approx([0.126840, 0.236187], abs=1e-6)


@pytest.mark.parametrize("axis", ["samples", "prototypes"])
@pytest.mark.parametrize("relation", ["cosine", "raw"])
def test_distillation_is_nothing_right_after_the_snapshot(axis, relation):
    model = after_two_tasks(distillation={"axis": axis, "relation": relation})
    x = torch.from_numpy(blobs((4, 5))[0]).float()
    model.encoder_.eval()
    assert abs(model._distillation(x, model.encoder_(x)).item()) <= 1e-7
    with torch.no_grad():
        for parameter in model.encoder_.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert model._distillation(x, model.encoder_(x)).item() > 1e-6


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_distillation_ignores_the_scale_of_prototypes(factor):
    for axis in ("samples", "prototypes"):
        one = relation_distillation(Z, P, Z_OLD, P_OLD, axis=axis)
        torch.testing.assert_close(relation_distillation(Z, factor * P, Z_OLD, P_OLD / factor, axis=axis), one)


def test_each_loss_reaches_what_it_may_reach():
    model = after_two_tasks()
    model.prototypes_.grow(6, torch.Generator().manual_seed(0))
    x, y = blobs((4, 5))
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    y[:] = 4
    weight, encoder = model.prototypes_.weight, list(model.encoder_.parameters())
    z = model.encoder_(x)
    L_p = model.prototypes_.attraction(z.detach(), y)
    assert torch.autograd.grad(L_p, encoder, allow_unused=True, retain_graph=True) == (None,) * len(encoder)
    (grad,) = torch.autograd.grad(L_p, weight)
    assert (grad[[0, 1, 2, 3, 5]] == 0).all() and grad[4].abs().sum() > 0
    with torch.no_grad():
        encoder[0].add_(0.05)
    L_d = model._distillation(x, model.encoder_(x))
    grads = torch.autograd.grad(L_d, [weight, encoder[0]])
    assert (grads[0][4:] == 0).all() and (grads[0][:4].abs().sum(1) > 0).all() and grads[1].abs().sum() > 0


def test_old_prototypes_move_only_where_distillation_lets_them():
    moved = {}
    for name, params in {
        "all": {},
        "frozen": {"distillation": {"evolve_prototypes": False}},
        "off": {"beta": 0.0},
    }.items():
        model = after_two_tasks(**params)
        before = model.prototypes_.weight.detach().clone()
        for seed in range(3):
            model.partial_fit(*blobs((4, 5), seed=seed), task=2)
        moved[name] = (model.prototypes_.weight[:4] - before).abs().max().item()
        assert (model.losses_["L_d"] > 0) == (name != "off")
    assert moved["all"] > 0 and moved["frozen"] == 0 and moved["off"] == 0


def test_one_step_is_sgd_on_the_sum_of_the_losses():
    model = small(momentum=0.0, weight_decay=0.0, views={"kind": "none"}, alpha=3.0)
    X, y = blobs((0, 1))
    model.partial_fit(X, y)
    before = model.prototypes_.weight.detach().clone()
    x, codes = torch.from_numpy(X).float().repeat(2, 1), torch.from_numpy(model._encode(y)).repeat(2)
    z = model.encoder_(x).detach()
    (grad,) = torch.autograd.grad(3.0 * model.prototypes_.attraction(z, codes), model.prototypes_.weight)
    model.partial_fit(X, y)
    torch.testing.assert_close(model.prototypes_.weight, before - 0.05 * grad)


def test_base_temperature_scales_the_contrastive_loss():
    losses = []
    for base in (None, 0.07):
        losses.append(small(contrastive={"base_temperature": base}).partial_fit(*blobs((0, 1))).losses_["L_sc"])
    assert losses[1] == pytest.approx(losses[0] * 0.1 / 0.07, rel=1e-6)


def test_class_incremental_prediction_within_a_tasks_rows_is_the_task_incremental_one():
    model = after_two_tasks()
    X, _ = blobs((0, 1, 2, 3), n=50, seed=9)
    everything, within = model.predict_proba(X), model.predict_proba(X, task=1)
    np.testing.assert_array_equal(within.argmax(1), 2 + everything[:, 2:].argmax(1))
    np.testing.assert_allclose(within[:, 2:], everything[:, 2:] / everything[:, 2:].sum(1, keepdims=True), rtol=1e-4)
    assert (within[:, :2] == 0).all()


def test_it_learns_both_tasks_and_remembers_the_first():
    model = small()
    for task, labels in enumerate([(0, 1), (2, 3)]):
        for chunk in range(40):
            model.partial_fit(*blobs(labels, seed=100 * task + chunk), task=task)
        model.end_task()
    for task, labels in enumerate([(0, 1), (2, 3)]):
        X, y = blobs(labels, n=200, seed=999)
        assert (model.predict(X, task=task) == y).mean() > 1 / 2 + 0.3  # chance is 1/2


def test_a_class_of_an_ended_task_is_refused_and_leaves_the_model_as_it_was():
    model = after_two_tasks()
    X, _ = blobs((0, 4))
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=r"classes \[0\] belong to a task that has ended"):
        model.partial_fit(*blobs((0, 4)), task=2)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.classes_.tolist() == [0, 1, 2, 3]
    allowed = after_two_tasks(repeated_classes="allow")
    assert allowed.partial_fit(*blobs((0, 4)), task=2).classes_.tolist() == [0, 1, 2, 3, 4]


def test_a_change_of_task_is_a_border_and_without_tasks_end_task_is():
    by_task, by_call = small(), small()
    for task, labels in enumerate([(0, 1), (2, 3)]):
        by_task.partial_fit(*blobs(labels), task=task)
        by_call.partial_fit(*blobs(labels))
        by_call.end_task()
    by_task.end_task()
    assert by_task.heads_ == by_call.heads_ == [[0, 1], [2, 3]]
    assert torch.equal(by_task.prototypes_.weight, by_call.prototypes_.weight)
    by_call.end_task()  # nothing new came
    assert len(by_call.heads_) == 2


def test_the_teacher_stands_still_during_a_task():
    model = after_two_tasks()
    teacher = model.teacher_
    before = [p.clone() for p in teacher.parameters()] + [model.old_prototypes_.clone()]
    model.partial_fit(*blobs((4, 5)), task=2)
    after = [*teacher.parameters(), model.old_prototypes_]
    assert model.teacher_ is teacher and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_chunk_of_one_sample_has_its_second_view_as_positive():
    model = small().partial_fit(*blobs((0, 1), n=1))
    assert math.isfinite(model.losses_["L_sc"])


def test_the_first_task_takes_its_own_number_of_steps():
    once, twice = (small(schedule={"first_task_steps": n}).partial_fit(*blobs((0, 1))) for n in (1, 2))
    assert not torch.equal(once.prototypes_.weight, twice.prototypes_.weight)


def test_the_schedule_lowers_both_rates_apart_and_starts_afresh_with_each_task():
    schedule = {"first_task_steps": 1, "steps_per_epoch": 1, "milestones": (2,), "gamma": 0.1}
    model = small(schedule=schedule, lr=0.02, prototypes_lr=0.05, momentum=0.0, weight_decay=0.0, alpha=1.0)
    rates, moves = [], []
    for task in (0, 1):
        for seed in range(4):
            before = torch.zeros(0) if not hasattr(model, "prototypes_") else model.prototypes_.weight.detach().clone()
            model.partial_fit(*blobs((2 * task, 2 * task + 1), seed=seed), task=task)
            rates.append(model.optimizer_.param_groups[0]["lr"])
            if seed:
                moves.append((model.prototypes_.weight[2 * task :] - before[2 * task :]).norm().item())
    assert rates == pytest.approx([0.02, 0.02, 0.002, 0.002] * 2)
    assert all(first > 4 * later for first, later in zip(moves[::3], moves[1::3]))


def test_a_users_views_are_used():
    calls = []

    def augment(x, generator):
        calls.append(x.shape)
        return x

    small(views={"kind": augment}).partial_fit(*blobs((0, 1), n=100))
    assert calls == [(64, 10), (64, 10), (36, 10), (36, 10)]


def test_views_that_are_no_numbers_are_named_and_leave_no_trace():
    model = small(views={"kind": lambda x, generator: x / 0})
    with pytest.raises(NotFinite, match="a random view of the inputs is NaN or infinite"):
        model.partial_fit(*blobs((0, 1)))
    assert not hasattr(model, "classes_")


def test_fit_is_one_task_and_repeats_with_the_seed():
    X, y = blobs((0, 1, 2), n=90)
    one, two = (small(epochs=3).fit(X, y) for _ in range(2))
    assert one.heads_ == [[0, 1, 2]] and one.score(X, y) > 1 / 3 + 0.3  # chance is 1/3
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert not np.array_equal(one.predict_proba(X), small(epochs=3, seed=1).fit(X, y).predict_proba(X))
