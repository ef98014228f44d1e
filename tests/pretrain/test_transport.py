"""Optimal transport: exact plans, POT's linear programs, and what turning a cloud changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.pretrain.parts.transport import cosine_cost, gromov_wasserstein, ipot, wasserstein

E = torch.eye(2, dtype=torch.float64)[None]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_plans_of_the_worked_examples():
    C = double([[[0, 1], [1, 0]]])
    plan = ipot(C, 0.5, 30)
    assert torch.allclose(plan, E / 2) and (C * plan).sum() < 1e-12
    C = double([[[0.1, 0.6, 0.9], [0.5, 0.2, 0.7]]])
    plan = ipot(C, 0.5, 30)
    assert (C * plan).sum().item() == pytest.approx(0.366684, abs=1e-6)
    assert torch.allclose(plan.sum(1), double(1 / 3), atol=1e-8) and torch.allclose(plan.sum(2), double(0.5), atol=1e-3)


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 6))
@settings(max_examples=8, deadline=None)
def test_plans_cost_what_the_exact_ones_do(seed, n, m):
    ot = pytest.importorskip("ot", reason="needs the extra graphs")
    C = torch.rand(3, n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = (C * ipot(C, 0.05, 200)).sum((1, 2))
    exact = [ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), one.numpy()) for one in C]
    np.testing.assert_allclose(found, exact, atol=5e-3)


@given(st.integers(0, 10**6), st.floats(-50, 50))
@settings(max_examples=8, deadline=None)
def test_a_constant_on_all_costs_changes_no_plan(seed, shift):
    C = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(ipot(C + shift, 0.1, 20), ipot(C, 0.1, 20), atol=1e-8)


def test_small_beta_and_large_costs_neither_underflow_nor_lose_mass():
    C = (10 * torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))).requires_grad_()  # exp(1e4) and more
    plan = ipot(C, 1e-3, 30)
    assert torch.allclose(plan.sum(1), torch.full((4, 7), 1 / 7), rtol=0.05)
    (plan * C).sum().backward()
    assert torch.isfinite(C.grad).all()


def test_a_batch_is_its_members():
    C = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ipot(C, 0.5, 30), torch.cat([ipot(one[None], 0.5, 30) for one in C]), atol=1e-6)


def test_costs_near_the_smallest_are_zero():
    assert torch.allclose(cosine_cost(E, E), double([[[0, 0.9], [0.9, 0]]]))
    found = cosine_cost(E, double([[[1, 0], [-1, 0], [0, 2]]]))
    assert torch.allclose(found, double([[[0, 1.8, 0.8], [0.8, 0.8, 0]]]))


def test_distances_inside_a_cloud_do_not_see_that_it_was_turned():
    X = double([[[1, 0], [0.6, 0.8], [0, 1]]])
    turned = X @ double([[0, 1], [-1, 0]])
    assert gromov_wasserstein(cosine_cost(X, X), cosine_cost(turned, turned)).item() == pytest.approx(0, abs=1e-10)
    assert wasserstein(cosine_cost(X, turned)).item() > 0.3


def test_two_equally_far_points_stay_at_the_saddle():
    assert gromov_wasserstein(cosine_cost(E, E), cosine_cost(E, E)).item() == pytest.approx(0.405, abs=1e-6)


def test_value_of_gromov_wasserstein_is_that_of_its_plan():
    ot = pytest.importorskip("ot", reason="needs the extra graphs")
    rng = torch.Generator().manual_seed(0)
    X, Y = (torch.randn(1, n, 3, dtype=torch.float64, generator=rng) for n in (5, 4))
    costs = [cosine_cost(Z, Z) for Z in (X, Y)]
    Cs, Ct = (C[0].numpy() for C in costs)
    base = (Cs**2).mean(1)[:, None] + (Ct**2).mean(1)[None]
    plan = np.full((5, 4), 1 / 20)
    for _ in range(5):
        cost = base - 2 * Cs @ plan @ Ct.T
        plan = ipot(torch.from_numpy(cost)[None], 0.1, 20)[0].numpy()
    const, hC1, hC2 = ot.gromov.init_matrix(Cs, Ct, np.full(5, 0.2), np.full(4, 0.25), "square_loss")
    assert gromov_wasserstein(*costs).item() == pytest.approx(ot.gromov.gwloss(const, hC1, hC2, plan), abs=1e-8)


def test_gradients_are_those_of_differences():
    rng = torch.Generator().manual_seed(0)
    C = torch.rand(1, 3, 4, dtype=torch.float64, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(lambda C: wasserstein(C, 0.5, 5), C)
    Cs, Ct = (torch.rand(1, n, n, dtype=torch.float64, generator=rng) for n in (3, 4))
    plan = torch.full((1, 3, 4), 1 / 12, dtype=torch.float64)  # without rounds the plan is the start

    def value(Cs):
        return gromov_wasserstein(Cs, Ct, rounds=0)

    assert torch.autograd.gradcheck(value, Cs.requires_grad_())
    pairs = (Cs[:, :, None, :, None] - Ct[:, None, :, None, :]).square()  # (1, n, m, n, m)
    right = (pairs * plan[:, :, :, None, None] * plan[:, None, None]).sum()
    assert value(Cs).item() == pytest.approx(right.item())
