"""Derived seeds differ, repeat, and leave the global generator alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.core.rng import derive, isolated


@given(seed=st.integers(0, 2**40), path=st.lists(st.text() | st.integers(), max_size=3))
def test_derived_seeds_are_63_bit_and_repeat(seed, path):
    assert 0 <= derive(seed, *path) < 2**63
    assert derive(seed, *path) == derive(seed, *path)


def test_paths_of_different_shape_differ():
    assert len({derive(0, "ab"), derive(0, "a", "b"), derive(0, "b", "a"), derive(1, "ab"), derive(0)}) == 5


def test_isolated_repeats_and_restores():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with isolated(1):
        first = torch.rand(2)
    with isolated(1):
        second = torch.rand(2)
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected)
