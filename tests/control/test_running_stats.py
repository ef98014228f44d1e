import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.ppo.network import RunningStats


def moments(x):
    """Return number, mean and sum of squared deviations of the rows."""
    return torch.tensor(float(len(x))), x.mean(0), (x - x.mean(0)).square().sum(0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_batches_in_any_split_give_the_moments_of_all(sizes, seed):
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)).double() * 4 + 1000
    stats = RunningStats((3,))
    for part in x.split(sizes):
        stats.merge(*moments(part))
    torch.testing.assert_close(stats.mean, x.mean(0))
    torch.testing.assert_close(stats.variance, x.var(0, unbiased=False), rtol=1e-7, atol=1e-9)
    assert stats.count.item() == len(x)


def test_before_anything_was_seen_nothing_changes_and_constants_do_not_blow_up():
    stats = RunningStats((2,))
    x = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(stats.normalize(x, clip=10.0), x)
    stats.merge(*moments(torch.ones(5, 2)))
    assert stats.normalize(x, clip=10.0).tolist() == [[10.0, -10.0]]


def test_the_state_is_all_there_is():
    stats, other = RunningStats((2,)), RunningStats((2,))
    stats.merge(*moments(torch.arange(10.0).reshape(5, 2).double()))
    other.load_state_dict(stats.state_dict())
    x = torch.randn(3, 2)
    assert torch.equal(stats.normalize(x, clip=9.0), other.normalize(x, clip=9.0))
    assert stats.normalize(torch.tensor([4.0, 5.0]), clip=9.0).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
