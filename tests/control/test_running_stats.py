import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.parts.running_stats import RunningStats


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_batches_in_any_split_give_the_moments_of_all(sizes, seed):
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed)).double() * 4 + 1000
    stats = RunningStats((3,))
    for part in x.split(sizes):
        stats.update(part)
    torch.testing.assert_close(stats.mean, x.mean(0))
    torch.testing.assert_close(stats.variance, x.var(0, unbiased=False), rtol=1e-7, atol=1e-9)
    assert stats.count.item() == len(x)


def test_merging_two_is_seeing_both():
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    a, b, both = RunningStats((2,)), RunningStats((2,)), RunningStats((2,))
    a.update(x[:7])
    b.update(x[7:].reshape(13, 1, 2))  # any leading axes
    both.update(x)
    a.merge(b.count, b.mean, b.m2)
    torch.testing.assert_close(a.mean, both.mean)
    torch.testing.assert_close(a.m2, both.m2)


def test_before_anything_was_seen_nothing_changes_and_constants_do_not_blow_up():
    stats = RunningStats((2,), eps=0.0)
    x = torch.tensor([[3.0, -1.0]])
    assert torch.equal(stats.normalize(x), x)
    stats = RunningStats((2,))
    stats.update(torch.ones(5, 2))
    assert torch.isfinite(stats.normalize(x)).all()
    assert stats.normalize(x, clip=10.0).abs().max() <= 10


def test_the_state_is_all_there_is():
    stats, other = RunningStats((2,)), RunningStats((2,))
    stats.update(torch.from_numpy(np.arange(10.0).reshape(5, 2)))
    other.load_state_dict(stats.state_dict())
    x = torch.randn(3, 2)
    assert torch.equal(stats.normalize(x), other.normalize(x))


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        RunningStats((3,)).update(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="wanted"):
        RunningStats((3,)).update(torch.zeros(0, 3))
