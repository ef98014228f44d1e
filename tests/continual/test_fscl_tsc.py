"""TSC: what moves in which step, and that each of its parts can be switched off."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from anytask.continual import TSC, FineTuning
from anytask.continual.fscl_tsc import follow
from anytask.continual.parts.importance import anchored_penalty

SMALL = {"hidden": (16,), "n_features": 8, "batch_size": 20, "seed": 0}


def rows(labels, n=20, seed=0, dim=6):
    """Return n rows of these classes, whose centers are the same for every call."""
    centers = 2 * np.random.default_rng(9).normal(size=(20, dim))
    y = np.array(labels)[np.arange(n) % len(labels)]
    return (centers[y] + 0.5 * np.random.default_rng([seed, *labels]).normal(size=(n, dim))).astype(np.float32), y


def based(**params):
    return TSC(**{**SMALL, **params}).partial_fit(*rows((0, 1, 2, 3), 400)).end_task()


def learned(model, *tasks, passes=5):
    for labels in tasks:
        for _ in range(passes):
            model.partial_fit(*rows(labels))
        model.end_task()
    return model


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_slow_update_of_the_worked_example():
    theta_S = torch.tensor([1.0, 1.0])
    follow([theta_S], [torch.tensor([2.0, 0.0])], [torch.tensor([0.0, 3.0])], eta=0.5, m=1.0)
    assert theta_S.tolist() == [1.5, 0.875]


def test_the_base_makes_both_weights_and_the_importances_of_mean_1():
    model = based()
    assert equal(weights(model.slow_), weights(model.fast_)) and not model.base_
    assert np.mean(np.concatenate([o.numpy().ravel() for o in model.importance_])) == pytest.approx(1, rel=1e-5)


def test_with_eta_0_slow_weights_never_move():
    model = based(slow={"eta": 0.0})
    before = weights(model.slow_)
    learned(model, (4, 5), (6, 7), (8, 9))
    assert equal(weights(model.slow_), before) and not equal(weights(model.fast_), before)


def test_with_eta_1_and_m_0_slow_weights_are_the_fast_ones_after_each_task():
    model = based(slow={"eta": 1.0, "m": 0.0})
    for labels in ((4, 5), (6, 7)):
        learned(model, labels)
        assert equal(weights(model.slow_), weights(model.fast_))


def test_slow_weights_move_only_when_a_task_ends_and_less_where_importance_is_large():
    model = based(slow={"eta": 0.5, "m": 2.0})
    slow, omega = weights(model.slow_), [o.clone() for o in model.importance_]
    for _ in range(5):
        model.partial_fit(*rows((4, 5)))
    assert equal(weights(model.slow_), slow)
    fast = weights(model.fast_)
    model.end_task()
    for s, f, o, after in zip(slow, fast, omega, weights(model.slow_)):
        assert torch.allclose(after, s + 0.5 * (f - s) / (1 + 2 * o), atol=1e-6)  # Omega before this task's


@pytest.mark.parametrize(("init", "start"), [("slow", "slow_"), ("fast", "fast_")])
def test_step_0_starts_fast_weights_where_it_is_told_and_holds_them_there(init, start):
    model = learned(based(fast={"init": init}), (4, 5))
    expected = weights(getattr(model, start))
    model.partial_fit(*rows((6, 7)))
    assert equal(model.reference_, expected)
    penalty = anchored_penalty([p.requires_grad_() for p in expected], model.reference_, model.importance_)
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(penalty, expected))  # at the start of step 1


def test_without_bound_the_penalty_leaves_free_only_what_has_no_importance():
    model = based(fast={"lambda_": 1e30})
    free = torch.zeros_like(model.importance_[0], dtype=torch.bool)
    free[::2] = True
    model.importance_ = [o.clamp(min=1e-3) for o in model.importance_]
    model.importance_[0][free] = 0
    model.partial_fit(*rows((4, 5)))
    slow, fast = weights(model.slow_), weights(model.fast_)
    assert equal(slow[1:], fast[1:]) and torch.equal(slow[0][~free], fast[0][~free])
    assert (slow[0] != fast[0])[free].any()


def test_gradient_steps_on_the_penalty_come_near_to_implicit_ones_where_both_are_stable():
    moved = {}
    for penalty, lambda_ in (("gradient", 0.2), ("implicit", 0.2), ("implicit", 0.0)):
        model = based(fast={"penalty": penalty, "lambda_": lambda_})
        for _ in range(40):
            model.partial_fit(*rows((4, 5)))
        ways = zip(model.importance_, weights(model.fast_), model.reference_)
        moved[penalty, lambda_] = sum(float((o * (f - r).square()).sum()) for o, f, r in ways)
    assert moved["gradient", 0.2] == pytest.approx(moved["implicit", 0.2], rel=0.3)
    assert moved["implicit", 0.2] < moved["implicit", 0.0] / 1.5


@pytest.mark.parametrize("competitors", ["task", "all"])
def test_vectors_of_old_classes_are_bit_identical_after_a_new_task(competitors):
    model = based(fast={"competitors": competitors})
    before = [w.detach().clone() for w in model.vectors_]
    learned(model, (4, 5))
    assert equal(before, [w.detach() for w in model.vectors_][:4]) and len(model.vectors_) == 6


def test_competitors_are_the_classes_of_the_task_or_all_seen():
    # One class a task: alone it has nothing to learn, among all it has.
    for competitors, moves in (("task", False), ("all", True)):
        model = based(fast={"competitors": competitors})
        before = weights(model.slow_)
        model.partial_fit(*rows((4,)))
        assert equal(before, weights(model.fast_)) != moves


def test_new_vectors_are_the_unit_means_of_unit_features_or_random():
    x, y = rows((4, 5), 10)
    for imprint in (True, False):
        model = based(lr=0.0, fast={"imprint": imprint})
        model.partial_fit(x, y)
        with torch.no_grad():
            z = nn.functional.normalize(model.slow_.eval()(torch.from_numpy(x)), dim=1)
        expected = nn.functional.normalize(torch.stack([z[y == c].mean(0) for c in (4, 5)]), dim=1)
        got = torch.stack([w.detach() for w in model.vectors_][4:])
        assert torch.allclose(got, expected, atol=1e-6) == imprint
        assert torch.allclose(got.norm(dim=1), torch.ones(2))


def test_importance_never_falls_and_stays_that_of_the_base_without_meta_plasticity():
    for accumulate in (True, False):
        model = based(importance={"accumulate": accumulate})
        before = [o.clone() for o in model.importance_]
        learned(model, (4, 5))
        assert all((new >= old).all() for new, old in zip(model.importance_, before))
        assert equal(model.importance_, before) != accumulate


@pytest.mark.parametrize("kind", ["mas", "fisher"])
def test_importances_of_both_kinds_are_brought_to_one_scale_or_left(kind):
    means = []
    for normalize in (True, False):
        model = based(importance={"kind": kind, "normalize": normalize})
        means.append(np.mean(np.concatenate([o.numpy().ravel() for o in model.importance_])))
    assert means[0] == pytest.approx(1, rel=1e-5) and abs(means[1] - 1) > 1e-3


def test_momentum_does_not_leak_into_the_next_task():
    one, two = (learned(based(), (4, 5)) for _ in range(2))
    for _ in range(30):  # a longer task, whose results are then undone
        two.partial_fit(*rows((6, 7)))
    two.end_task()
    for name in ("slow_", "fast_"):
        getattr(two, name).load_state_dict(getattr(one, name).state_dict())
    two.importance_ = [o.clone() for o in one.importance_]
    for model in (one, two):
        model.partial_fit(*rows((8, 9)))
    assert equal(weights(one.fast_), weights(two.fast_))


def test_batch_statistics_and_frozen_parameters_stay_as_the_base_left_them():
    torch.manual_seed(0)
    encoder = nn.Linear(6, 12).requires_grad_(False)
    model = based(backbone=nn.Sequential(encoder, nn.BatchNorm1d(12), nn.Linear(12, 5)))
    assert model.slow_[1].num_batches_tracked == 20  # 400 rows in mini-batches of 20
    before = copy.deepcopy(model.slow_.state_dict())
    learned(model, (4, 5), (6, 7))
    for network in (model.slow_, model.fast_):
        kept = network.state_dict()
        assert all(torch.equal(kept[k], before[k]) for k in before if k.startswith("0.") or "running" in k)
    assert not torch.equal(model.slow_[2].weight, before["2.weight"]) and len(model.importance_) == 4


def test_fast_weights_answer_and_slow_weights_give_features():
    model = learned(based(), (4, 5))
    x, _ = rows((0, 1, 2, 3, 4, 5), 60, seed=3)
    answers, features = model.predict(x), model.embed(x)
    with torch.no_grad():
        for p in model.slow_.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    assert np.array_equal(model.predict(x), answers) and not np.allclose(model.embed(x), features)


def test_few_shot_tasks_are_remembered_that_fine_tuning_forgets():
    model, other = based(), FineTuning.from_preset("small")
    x, y = rows((4, 5, 6, 7), 80, seed=3)
    learned(other.partial_fit(*rows((0, 1, 2, 3), 400)).end_task(), (4, 5), (6, 7), (8, 9), passes=12)
    learned(model, (4, 5), (6, 7), (8, 9), passes=12)
    assert (model.predict(x) == y).mean() > (other.predict(x) == y).mean() + 0.3


def test_what_cannot_be_learned_is_said():
    model = learned(based(), (4, 5))
    before = copy.deepcopy(model._state())
    with pytest.raises(ValueError, match=r"classes \[4, 1\] belong to a task that has ended"):
        model.partial_fit(*rows((4, 1)))
    assert str(model._state()) == str(before)
    with pytest.raises(ValueError, match="the base is missing: the first task has one class"):
        TSC(**SMALL).partial_fit(*rows((0,))).end_task()
    assert model.end_task() is model  # nothing came since
