import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from anytask.continual import EWC, MAS, FineTuning

CONTRACT = {"rows": 20}
NET = {"hidden": (16,), "batch_size": 16}
both = pytest.mark.parametrize("cls", [EWC, MAS])


def task(k, n=160):
    rng = np.random.default_rng(k)
    y = np.arange(n) % 2
    x = 0.3 * rng.normal(size=(n, 8)).astype(np.float32)
    x[np.arange(n), 2 * k + y] += 2
    return x, y + 2 * k


@both
def test_lambda_0_is_fine_tuning(cls):
    models = [cls(**NET, lambda_=0.0), FineTuning(**NET)]
    p = [m.partial_fit(*task(0)).end_task().partial_fit(*task(1)).predict_proba(task(0)[0]) for m in models]
    assert np.array_equal(*p)


@both
def test_what_mattered_moves_less_the_larger_lambda_is(cls):
    moved = []
    for lambda_ in (0.0, 1.0, 1e9):
        model = cls(**NET, lambda_=lambda_).partial_fit(*task(0)).end_task()
        omega, before = model.importance_[-2], model.anchors_[-2]  # of the hidden layer's weights
        after = dict(model.partial_fit(*task(1)).network_.named_parameters())
        weight = next(p for p in after.values() if p.shape == before.shape)
        moved.append(float((omega * (weight.detach() - before).square()).sum()))
    assert moved[0] > 2 * moved[1] > 2 * moved[2] and moved[2] < 1e-9


@both
def test_importances_add_up_over_tasks_and_rows_are_forgotten(cls):
    model = cls(**NET).partial_fit(*task(0)).end_task()
    first = [omega.clone() for omega in model.importance_]
    model.end_task()  # nothing came since
    assert all(torch.equal(a, b) for a, b in zip(first, model.importance_))
    model.partial_fit(*task(1))
    assert model.cost()["stored_samples"] == 160
    model.end_task()
    assert all((new[: len(old)] >= old).all() for new, old in zip(model.importance_, first))
    assert model.cost()["stored_samples"] == 0
    assert sum(float(omega.mean() * omega.numel()) for omega in model.importance_) == pytest.approx(
        sum(p.numel() for p in model.network_.parameters()) + sum(omega.numel() for omega in first), rel=1e-4
    )


@both
def test_it_remembers_where_the_task_is_told_what_fine_tuning_forgets(cls):
    X, y = load_digits(return_X_y=True)
    X, kept = (X / 16).astype(np.float32), {}
    for learner in (FineTuning, cls):
        model = learner.from_preset("small", seed=0)
        for task in range(5):
            rows = np.flatnonzero(y // 2 == task)
            for _ in range(3):
                model.partial_fit(X[rows], y[rows], task=task)
            model.end_task()
        kept[learner] = np.mean([(model.predict(X[y // 2 == k], task=k) == y[y // 2 == k]).mean() for k in range(4)])
    assert kept[cls] > kept[FineTuning] + 0.2


@both
def test_a_head_on_a_frozen_body_has_importances_of_its_own(cls):
    model = cls(**NET, frozen=True).partial_fit(*task(0)).end_task().partial_fit(*task(1)).end_task()
    assert [omega.shape for omega in model.importance_] == [(4, 16), (4,)]
