import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.distributions import Categorical, Normal

from anytask.control.ppo.network import ActionDistribution, ActionHead, make_head


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spread(head):
    """Give the head weights of size 1, so that features matter."""
    for p in head.parameters():
        p.data.normal_(generator=generator(3))
    return head


def test_sampling_by_inversion_draws_from_the_distribution():
    u = (torch.arange(20_000) + 0.5) / 20_000
    x = ActionDistribution((1,), Normal(torch.full((20_000, 1), 2.0), 0.5)).quantile(u[:, None])
    assert x.mean().item() == pytest.approx(2.0, abs=1e-3)
    assert x.std().item() == pytest.approx(0.5, abs=1e-3)
    p = torch.tensor([0.2, 0.0, 0.5, 0.3])
    one_of_four = {0: (Categorical(logits=p.log().expand(20_000, 4), validate_args=False), torch.arange(4.0))}
    counts = torch.bincount(ActionDistribution((), None, one_of_four).quantile(u[:, None]).long(), minlength=4)
    torch.testing.assert_close(counts / 20_000, p, atol=1e-4, rtol=0)
    edges = torch.tensor([[0.0], [1.0]])
    assert torch.isfinite(ActionDistribution((1,), Normal(torch.zeros(2, 1), 1.0)).quantile(edges)).all()
    three = {0: (Categorical(logits=torch.zeros(2, 3)), torch.arange(3.0))}
    assert ActionDistribution((), None, three).quantile(edges).tolist() == [0, 2]


def test_choices_that_are_ruled_out_leave_the_entropy_finite():
    ruled = Categorical(logits=torch.tensor([[0.0, 0.0, -math.inf]]), validate_args=False)
    assert ActionDistribution((), None, {0: (ruled, torch.arange(3.0))}).entropy().item() == pytest.approx(math.log(2))


def test_sampling_follows_its_own_generator_and_no_other():
    distribution = ActionHead(3, (4,), {1: (-1.0, 1.0)})(torch.randn(6, 3, generator=generator()))
    before = torch.get_rng_state()
    first, second = distribution.sample(generator(5)), distribution.sample(generator(5))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_mixed_log_probability_is_the_sum_of_its_columns():
    head = spread(ActionHead(3, (4,), {0: (-1.0, 0.0, 1.0), 3: (-1.0, 1.0)}))
    distribution = head(torch.randn(6, 3, generator=generator()))
    actions = distribution.sample(generator(1))
    grasp = distribution.choices[0][0].log_prob((actions[:, 0] + 1).long())
    stop = distribution.choices[3][0].log_prob((actions[:, 3] > 0).long())
    moves = distribution.gaussian.log_prob(actions[:, 1:3]).sum(-1)
    torch.testing.assert_close(distribution.log_prob(actions), grasp + stop + moves)
    assert set(actions[:, 0].tolist()) <= {-1.0, 0.0, 1.0}
    assert distribution.mode.shape == (6, 4)
    assert torch.isfinite(distribution.entropy()).all()


def test_the_raw_sample_counts_and_not_what_a_threshold_makes_of_it():
    # Two Gaussian samples that both mean "grasp" have different densities.
    distribution = ActionHead(2, (1,))(torch.zeros(2, 2))
    a, b = distribution.log_prob(torch.tensor([[0.6], [1.4]])).tolist()
    assert a - b == pytest.approx(0.5 * (1.4**2 - 0.6**2), rel=1e-5)


def test_sequences_and_batches_give_the_same():
    head = spread(ActionHead(3, (2,), {0: (0.0, 1.0)}, std="state"))
    h, u = torch.randn(4, 5, 3, generator=generator()), torch.rand(4, 5, 2, generator=generator(1))
    whole = head(h)
    actions = whole.quantile(u)
    flat = head(h.flatten(0, 1))
    torch.testing.assert_close(flat.quantile(u.flatten(0, 1)), actions.flatten(0, 1))
    torch.testing.assert_close(flat.log_prob(actions.flatten(0, 1)), whole.log_prob(actions).flatten())


def test_standard_deviations_are_free_or_follow_the_state_within_bounds():
    h = torch.randn(2, 3, generator=generator())
    assert torch.equal(ActionHead(3, (2,), log_std=-1.0)(h).gaussian.stddev, torch.full((2, 2), -1.0).exp())
    state = spread(ActionHead(3, (2,), std="state"))(h).gaussian.stddev
    assert state.shape == (2, 2)
    assert not torch.equal(state[0], state[1])
    assert ActionHead(3, (2,), log_std=9.0)(h).gaussian.stddev.log().tolist() == [[2.0, 2.0]] * 2


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(-1, 1, (2, 2), np.float32),
        spaces.Discrete(3),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.MultiDiscrete([2, 3], start=[5, -1]),
    ],
    ids=str,
)
def test_actions_of_every_head_lie_in_their_space(space):
    distribution = make_head(space, 4)(torch.zeros(50, 4))
    actions = distribution.sample(generator())
    assert actions.shape == (50, *space.shape) == distribution.mode.shape
    assert distribution.log_prob(actions).shape == distribution.entropy().shape == (50,)
    if not isinstance(space, spaces.Box):
        assert all(space.contains(action.long().numpy()) for action in [*actions, *distribution.mode])
        assert len(actions.unique(dim=0)) >= 3  # all kinds of choices are drawn


def test_other_spaces_and_columns_are_refused():
    with pytest.raises(TypeError, match="Text"):
        make_head(spaces.Text(3), 4)
    with pytest.raises(ValueError, match="column 5"):
        ActionHead(3, (4,), {5: (0.0, 1.0)})
    with pytest.raises(ValueError, match="increasing"):
        ActionHead(3, (4,), {0: (1.0, 0.0)})


@pytest.mark.parametrize(
    ("head", "names"),
    [
        (ActionHead(2, (3,)), {"log_std": "log_std", "linear": "linear"}),
        (make_head(spaces.Discrete(3), 2), {"linear": "logits"}),
        (
            ActionHead(2, (3,), {0: (0.0, 1.0)}),
            {"gaussian.log_std": "log_std", "gaussian.linear": "linear", "logits": "logits"},
        ),
    ],
)
def test_weights_saved_under_earlier_names_are_read(head, names):
    own = {name: value.clone() for name, value in head.state_dict().items()}
    earlier = {
        name.replace(now, old, 1): value
        for old, now in names.items()
        for name, value in own.items()
        if name.startswith(now)
    }
    assert len(earlier) == len(own)
    spread(head).load_state_dict(earlier)
    assert all(torch.equal(value, own[name]) for name, value in head.state_dict().items())
