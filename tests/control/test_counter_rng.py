import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anytask.control.parts.counter_rng import CounterRandom

SEEDS = torch.arange(100)


def test_the_integers_are_those_of_splitmix64():
    """Reference in Python's integers: the hash of a key and a counter, with wrap-around at 2^64."""
    mask = 2**64 - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    gamma = 0x9E3779B97F4A7C15
    seed = 12345
    key = mix((seed * gamma + 0xBF58476D1CE4E5B9) & mask)
    wanted = [mix((key + i * gamma) & mask) for i in (1, 2, 3, 4)]
    random = CounterRandom(torch.tensor([seed]))
    got = [int(v) & mask for v in torch.cat([random.bits(3), random.bits(1)], 1)[0]]
    assert got == wanted


@given(st.integers(0, 2**40), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_what_a_copy_draws_does_not_depend_on_the_others(seed, n, k):
    many = CounterRandom(torch.arange(seed, seed + n))
    alone = CounterRandom(torch.tensor([seed + n - 1]))
    for draw in ("uniform", "normal"):
        assert torch.equal(getattr(many, draw)(k)[-1], getattr(alone, draw)(k)[0])


def test_rows_move_their_own_streams_only():
    some, all_ = CounterRandom(SEEDS), CounterRandom(SEEDS)
    rows = torch.tensor([5, 2])
    drawn, wanted = some.uniform(3, rows=rows), all_.uniform(3)
    assert torch.equal(drawn, wanted[rows])
    assert torch.equal(some.uniform(1)[7], CounterRandom(SEEDS).uniform(1)[7])
    assert torch.equal(some.counters[[5, 2, 0]], torch.tensor([4, 4, 1]))


def test_restoring_keys_and_counters_repeats_a_draw():
    random = CounterRandom(SEEDS)
    random.normal(3)
    keys, counters = random.keys.clone(), random.counters.clone()
    first = random.normal(2)
    random.keys, random.counters = keys, counters
    assert torch.equal(first, random.normal(2))


def test_uniform_numbers_are_uniform_within_and_across_streams():
    random = CounterRandom(torch.arange(2000))
    for draw in (random.uniform(1)[:, 0], CounterRandom(torch.tensor([3])).uniform(2000)[0]):
        assert stats.kstest(draw.numpy(), "uniform").pvalue > 1e-3
    scaled = random.uniform(5, -2.0, 3.0)
    assert scaled.dtype == torch.float32 and scaled.min() >= -2 and scaled.max() < 3


def test_normal_numbers_are_normal_and_uncorrelated():
    drawn = CounterRandom(torch.arange(5000)).normal(2).numpy()
    assert np.isfinite(drawn).all()
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 4 / np.sqrt(5000)
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 4 / np.sqrt(5000)  # neighbouring seeds


def test_integers_are_uniform():
    counts = torch.bincount(CounterRandom(torch.arange(7000)).integers(1, 7)[:, 0], minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("seeds", [torch.tensor([0, 1]), torch.tensor([2**62, 2**62 + 1])])
def test_neighboring_seeds_share_nothing(seeds):
    a, b = CounterRandom(seeds).bits(64).tolist()
    assert not set(a) & set(b)
