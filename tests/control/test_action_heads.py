import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

from anytask.control.parts.action_heads import (
    Categorical,
    CategoricalHead,
    DiagonalGaussian,
    GaussianHead,
    MixedHead,
    make_head,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_agrees_with_torch_distributions():
    mean, log_std = torch.randn(4, 3, generator=generator()), torch.tensor([0.1, -0.5, 0.7])
    ours, theirs = DiagonalGaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    x = torch.randn(4, 3, generator=generator(1))
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x).sum(-1))
    torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
    other = DiagonalGaussian(mean + 0.3, log_std - 0.2)
    expected = torch.distributions.kl_divergence(theirs, torch.distributions.Normal(other.mean, other.log_std.exp()))
    torch.testing.assert_close(ours.kl(other), expected.sum(-1))


def test_categorical_agrees_with_torch_distributions_and_survives_ruled_out_choices():
    logits = torch.randn(5, 4, generator=generator())
    ours, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    a = torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(ours.log_prob(a), theirs.log_prob(a))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    other = torch.distributions.Categorical(logits=logits * 2)
    torch.testing.assert_close(ours.kl(Categorical(logits * 2)), torch.distributions.kl_divergence(theirs, other))
    ruled = Categorical(torch.tensor([[0.0, 0.0, -math.inf]]))
    assert ruled.entropy().item() == pytest.approx(math.log(2))


def test_sampling_by_inversion_draws_from_the_distribution():
    u = (torch.arange(100_000) + 0.5) / 100_000
    gaussian = DiagonalGaussian(torch.full((100_000, 1), 2.0), torch.tensor([math.log(0.5)]))
    x = gaussian.quantile(u[:, None])
    assert x.mean().item() == pytest.approx(2.0, abs=1e-3)
    assert x.std().item() == pytest.approx(0.5, abs=1e-3)
    p = torch.tensor([0.2, 0.0, 0.5, 0.3])
    counts = torch.bincount(Categorical(p.log().expand(100_000, 4)).quantile(u[:, None]), minlength=4)
    torch.testing.assert_close(counts / 100_000, p, atol=2e-5, rtol=0)
    edges = torch.tensor([[0.0], [1.0]])
    assert torch.isfinite(DiagonalGaussian(torch.zeros(2, 1), torch.zeros(1)).quantile(edges)).all()
    assert Categorical(torch.zeros(2, 3)).quantile(edges).tolist() == [0, 2]


def test_sampling_follows_its_own_generator_and_no_other():
    head = MixedHead(3, 4, {1: (-1.0, 1.0)})
    distribution = head(torch.randn(6, 3, generator=generator()))
    before = torch.get_rng_state()
    first, second = distribution.sample(generator(5)), distribution.sample(generator(5))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_mixed_log_probability_is_the_sum_of_its_columns():
    head = MixedHead(3, 4, {0: (-1.0, 0.0, 1.0), 3: (-1.0, 1.0)}, gain=1.0)
    distribution = head(torch.randn(6, 3, generator=generator()))
    actions = distribution.sample(generator(1))
    grasp = distribution.categoricals[0][0].log_prob((actions[:, 0] + 1).long())
    stop = distribution.categoricals[3][0].log_prob((actions[:, 3] > 0).long())
    torch.testing.assert_close(
        distribution.log_prob(actions), grasp + stop + distribution.gaussian.log_prob(actions[:, 1:3])
    )
    assert set(actions[:, 0].tolist()) <= {-1.0, 0.0, 1.0}
    assert distribution.mode.shape == (6, 4)
    assert torch.isfinite(distribution.entropy()).all()


def test_the_raw_sample_counts_and_not_what_a_threshold_makes_of_it():
    # Two Gaussian samples that both mean "grasp" have different densities.
    distribution = GaussianHead(2, 1)(torch.zeros(2, 2))
    a, b = distribution.log_prob(torch.tensor([[0.6], [1.4]])).tolist()
    assert a - b == pytest.approx(0.5 * (1.4**2 - 0.6**2), rel=1e-5)


def test_sequences_and_batches_give_the_same():
    head = MixedHead(3, 2, {0: (0.0, 1.0)}, std="state")
    h, u = torch.randn(4, 5, 3, generator=generator()), torch.rand(4, 5, 2, generator=generator(1))
    whole = head(h)
    actions = whole.quantile(u)
    flat = head(h.flatten(0, 1))
    torch.testing.assert_close(flat.quantile(u.flatten(0, 1)), actions.flatten(0, 1))
    torch.testing.assert_close(flat.log_prob(actions.flatten(0, 1)), whole.log_prob(actions).flatten())


def test_standard_deviations_are_free_or_follow_the_state_within_bounds():
    h = torch.randn(2, 3, generator=generator())
    free = GaussianHead(3, 2, log_std=-1.0)
    assert torch.equal(free(h).log_std, torch.tensor([-1.0, -1.0]))
    state = GaussianHead(3, 2, std="state", log_std=-1.0, gain=1.0)(h).log_std
    assert state.shape == (2, 2)
    assert not torch.equal(state[0], state[1])
    assert GaussianHead(3, 2, log_std=9.0)(h).log_std.tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="std"):
        GaussianHead(3, 2, std="other")


def test_heads_fit_their_spaces():
    box = spaces.Box(-1, 1, (3,), np.float32)
    assert isinstance(make_head(box, 4), GaussianHead)
    assert isinstance(make_head(box, 4, discrete={0: (-1.0, 1.0)}), MixedHead)
    assert isinstance(make_head(spaces.Discrete(3), 4), CategoricalHead)
    two = make_head(spaces.MultiDiscrete([2, 3]), 4)(torch.zeros(7, 4)).sample(generator())
    assert two.shape == (7, 2)
    for space, error in ((spaces.Discrete(3, start=1), ValueError), (spaces.Box(-1, 1, (2, 2)), TypeError)):
        with pytest.raises(error):
            make_head(space, 4)
    with pytest.raises(ValueError, match="column 5"):
        MixedHead(3, 4, {5: (0.0, 1.0)})
    with pytest.raises(ValueError, match="increasing"):
        MixedHead(3, 4, {0: (1.0, 0.0)})
