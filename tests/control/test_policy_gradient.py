import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.parts.policy_gradient import (
    gae,
    kl_adaptive_lr,
    linear_decay,
    minibatches,
    normalize,
    ppo_loss,
    value_loss,
    weighted_mean,
)

NEVER = torch.zeros(3, dtype=torch.bool)


def test_gae_of_three_steps_that_end():
    # delta = (0.2 + .99*2 - 1, 5.2 + .99*4 - 2, 10 - 4) = (1.18, 7.16, 6); A_2 = 6, A_1 = 7.16 + .9405*6 = 12.803,
    # A_0 = 1.18 + .9405*12.803 = 13.2212215.
    r, V = torch.tensor([0.2, 5.2, 10.0]), torch.tensor([1.0, 2.0, 4.0])
    end = torch.tensor([False, False, True])
    A, returns = gae(r, V, end, NEVER, torch.tensor(99.0), gamma=0.99, lambda_=0.95)
    torch.testing.assert_close(A, torch.tensor([13.2212215, 12.803, 6.0]))
    torch.testing.assert_close(returns, A + V)


def test_time_outs_are_bootstrapped_from_the_final_observation_or_not_at_all():
    r, V = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 3.0, 5.0])
    cut, finals = torch.tensor([False, True, False]), torch.tensor([math.nan, 7.0, math.nan])
    last = torch.tensor(11.0)
    A, _ = gae(r, V, NEVER, cut, last, gamma=0.5, lambda_=1.0, final_values=finals)
    # A_2 = 1 + .5*11 - 5 = 1.5; A_1 = 1 + .5*7 - 3 = 1.5, and nothing of A_2; A_0 = 1 + .5*3 - 2 + .5*1.5 = 1.25.
    torch.testing.assert_close(A, torch.tensor([1.25, 1.5, 1.5]))
    A, _ = gae(r, V, NEVER, cut, last, gamma=0.5, lambda_=1.0, bootstrap_timeouts=False)
    torch.testing.assert_close(A, torch.tensor([-0.5, -2.0, 1.5]))
    with pytest.raises(ValueError, match="final_values"):
        gae(r, V, NEVER, cut, last, gamma=0.5, lambda_=1.0)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_lambda_one_gives_discounted_returns_and_zero_gives_one_step_errors(seed, gamma, chance):
    generator = torch.Generator().manual_seed(seed)
    T, n = 7, 3
    r, V = torch.randn(T, n, generator=generator).double(), torch.randn(T, n, generator=generator).double()
    last = torch.randn(n, generator=generator).double()
    end = torch.rand(T, n, generator=generator) < chance
    never = torch.zeros_like(end)
    after = last
    expected = torch.empty(T, n).double()
    for t in reversed(range(T)):
        after = r[t] + gamma * after.masked_fill(end[t], 0.0)
        expected[t] = after
    _, returns = gae(r, V, end, never, last, gamma=gamma, lambda_=1.0)
    torch.testing.assert_close(returns, expected)
    A, _ = gae(r, V, end, never, last, gamma=gamma, lambda_=0.0)
    following = torch.cat([V[1:], last[None]]).masked_fill(end, 0.0)
    torch.testing.assert_close(A, r + gamma * following - V)


def test_gae_agrees_with_stable_baselines():
    buffers = pytest.importorskip("stable_baselines3.common.buffers")
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    T, n = 16, 4
    box = spaces.Box(-1, 1, (1,))
    buffer = buffers.RolloutBuffer(T, box, box, device="cpu", gae_lambda=0.9, gamma=0.97, n_envs=n)
    buffer.rewards = rng.normal(size=(T, n)).astype(np.float32)
    buffer.values = rng.normal(size=(T, n)).astype(np.float32)
    done = rng.random((T, n)) < 0.2
    # There, an entry says whether the step before ended an episode.
    buffer.episode_starts[1:] = done[:-1]
    last = rng.normal(size=n).astype(np.float32)
    buffer.compute_returns_and_advantage(torch.from_numpy(last), done[-1])
    end = torch.from_numpy(done)
    A, returns = gae(
        torch.from_numpy(buffer.rewards), torch.from_numpy(buffer.values), end, torch.zeros_like(end),
        torch.from_numpy(last), gamma=0.97, lambda_=0.9,
    )  # fmt: skip
    np.testing.assert_allclose(A.numpy(), buffer.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(returns.numpy(), buffer.returns, rtol=1e-4, atol=1e-5)


def test_gae_refuses_what_does_not_fit():
    r = torch.zeros(3)
    with pytest.raises(ValueError, match=r"values must have the shape"):
        gae(r, torch.zeros(2), NEVER, NEVER, torch.tensor(0.0), gamma=0.9, lambda_=0.9)
    with pytest.raises(ValueError, match="last_value"):
        gae(r, r, NEVER, NEVER, torch.zeros(1), gamma=0.9, lambda_=0.9)


def test_a_ratio_of_one_gives_the_plain_policy_gradient():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    actions, A = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    log_prob = logits.log_softmax(-1)[range(5), actions]
    (got,) = torch.autograd.grad(ppo_loss(log_prob, log_prob.detach(), A).loss, logits, retain_graph=True)
    (expected,) = torch.autograd.grad(-(log_prob * A).mean(), logits)
    torch.testing.assert_close(got, expected)


def test_clipping_stops_the_gradient_only_where_it_would_go_further():
    log_prob = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    A = torch.tensor([1.0, -1.0, -1.0, 1.0])
    surrogate = ppo_loss(log_prob, torch.zeros(4), A, 0.2)
    # min(rho A, clip(rho) A): 1.2, -0.8 (both clipped), -1.5, 0.5 (both free).
    torch.testing.assert_close(surrogate.loss, torch.tensor(-(1.2 - 0.8 - 1.5 + 0.5) / 4))
    (gradient,) = torch.autograd.grad(surrogate.loss, log_prob)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, 1.5, -0.5]) / 4)
    assert surrogate.clip_fraction.item() == 1.0
    rho = torch.tensor([1.5, 0.5, 1.5, 0.5])
    torch.testing.assert_close(surrogate.approximate_kl, (rho - 1 - rho.log()).mean())


def test_sub_steps_share_the_advantage_and_keep_their_own_ratios():
    new, old = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)) * 0.3
    A = torch.arange(6.0) - 2
    each = torch.stack([ppo_loss(new[k], old[k], A).loss for k in range(4)])
    torch.testing.assert_close(ppo_loss(new, old, A).loss, each.mean())
    w = torch.tensor([1.0, 0, 0, 1, 0, 0])
    kept = ppo_loss(new[:, [0, 3]], old[:, [0, 3]], A[[0, 3]])
    weighted = ppo_loss(new, old, A, weights=w)
    torch.testing.assert_close(weighted.loss, kept.loss)
    torch.testing.assert_close(weighted.approximate_kl, kept.approximate_kl)
    with pytest.raises(ValueError, match="do not fit"):
        ppo_loss(new, old, A[:5])
    with pytest.raises(ValueError, match="differ"):
        ppo_loss(new, old[0], A)


def test_value_loss_is_clipped_to_the_worse_of_two():
    V, R, old = torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([3.5])
    assert value_loss(V, R).item() == 2.0
    assert value_loss(V, R, old_values=old, clip=0.2).item() == pytest.approx(0.5 * 2.3**2)
    with pytest.raises(ValueError, match="old_values"):
        value_loss(V, R, clip=0.2)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_normalized_advantages_do_not_depend_on_scale_and_shift(values, scale, shift):
    x = torch.tensor(values, dtype=torch.float64)
    if x.std() < 1e-3:
        return
    torch.testing.assert_close(normalize(x * scale + shift), normalize(x), rtol=1e-4, atol=1e-4)


def test_equal_advantages_and_padding_say_nothing():
    assert normalize(torch.full((4,), 3.0)).tolist() == [0, 0, 0, 0]
    assert normalize(torch.tensor([5.0])).tolist() == [0]
    assert weighted_mean(torch.ones(3), torch.zeros(3)).item() == 0.0


def test_the_adaptive_rate_stays_within_its_bounds():
    bounds, rates = (5e-4, 2e-3), [1e-3]
    for kl in (1.0, 1.0, 1.0, *[0.0] * 5, 0.02):  # the last one is within the tolerance
        rates.append(kl_adaptive_lr(rates[-1], kl, 0.01, bounds))
    assert rates[1:4] == pytest.approx([1e-3 / 1.5, 5e-4, 5e-4])
    assert rates[-2:] == [2e-3, 2e-3]


def test_linear_decay_ends_at_its_end():
    assert [linear_decay(3.0, d) for d in (0, 0.5, 1, 2)] == [3.0, 1.5, 0.0, 0.0]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_minibatches_visit_every_item_once(n, pieces, seed):
    count = min(n, pieces)
    found = list(minibatches(n, count=count, generator=torch.Generator().manual_seed(seed)))
    assert len(found) == count
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert sorted(torch.cat(found).tolist()) == list(range(n))
    assert [len(p) for p in minibatches(n, size=pieces, generator=torch.Generator())][:-1] == [pieces] * (
        (n - 1) // pieces
    )


def test_minibatches_refuse_what_cannot_be_cut():
    for wrong in ({}, {"count": 1, "size": 1}, {"count": 4}, {"size": 0}):
        with pytest.raises(ValueError):
            list(minibatches(3, **wrong, generator=torch.Generator()))
