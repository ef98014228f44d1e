"""Bags: drawing, padding, and what is refused, by case and view."""

import numpy as np
import pytest
import torch

from anytask.pretrain.parts.attention import GatedAttention
from anytask.pretrain.parts.bags import Bags, read_bags, read_views


def ragged(*lengths, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, d)).astype(np.float32) if n else None for n in lengths]


def test_padding_keeps_tokens_and_says_which_are_real():
    given = ragged(2, 0, 5, 1)
    bags = read_bags(given)
    x, mask = bags.padded(torch.tensor([3, 2, 1]))
    assert mask.sum(1).tolist() == [1, 5, 0] and not x[~mask].any()
    assert np.array_equal(x[1].numpy(), given[2]) and np.array_equal(x[0, :1].numpy(), given[3])


def test_long_bags_are_drawn_without_replacement_and_short_ones_with():
    bags = Bags.of([torch.arange(9.0)[:, None], None, torch.tensor([[100.0], [200.0]])])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = [bags.sampled(torch.tensor([0, 2, 1]), 4)[..., 0] for _ in range(50)]
    assert all(len(set(draw[0].tolist())) == 4 for draw in draws)
    assert {value for draw in draws for value in draw[0].tolist()} == set(range(9))
    assert {value for draw in draws for value in draw[1].tolist()} == {100.0, 200.0}
    assert not any(draw[2].any() for draw in draws)
    assert {draw[0, 0].item() for draw in draws} > {0.0, 8.0}  # also the first place is any token


def test_batches_hold_each_bag_once_and_bags_of_like_length():
    bags = read_bags(ragged(5, 0, 1, 4, 2, 3))
    rows = [batch.tolist() for batch in bags.batches(2)]
    assert sorted(row for batch in rows for row in batch) == [0, 2, 3, 4, 5] and sorted(rows[0]) == [0, 3]
    assert [len(batch) for batch in read_bags(ragged(100, 76, 75, 2, 2)).batches(9)] == [2, 1, 2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"HE": ragged(2, 1), "ER": [None, np.full((2, 3), np.nan)]}, "case 1 of the view 'ER' contains NaN"),
        ({"HE": ragged(2, 1), "ER": ragged(2)}, "'ER' has 1 cases, and 'HE' has 2"),
        ({"HE": ragged(2, 1), "ER": ragged(2, 1, d=4)}, "'ER' has tokens of 4 features"),
        ({"HE": ragged(2, 1), "ER": [np.ones((0, 3)), None]}, "case 0 of the view 'ER' must have .* None says"),
        ({"HE": [np.ones(3)]}, "case 0 of the view 'HE' must have shape"),
        ({"HE": [np.ones((2, 3)), np.ones((2, 2))]}, "case 1 of the view 'HE' has tokens of 2 features"),
        ({"HE": [None, None]}, "at least one bag"),
        ({3: ragged(1)}, "by texts, got 3"),
        ({}, "at least one view"),
        ([], "0 cases"),
        ("words", "list of arrays"),
        (7, "list of arrays"),
        ([["a", "b"]], "case 0 must be numeric"),
        (np.ones((4, 3)), "case 0 must have shape"),
    ],
)
def test_what_is_no_bags_is_refused_by_case_and_view(given, says):
    with pytest.raises((ValueError, TypeError), match=says):
        read_views(given)


def test_an_array_of_bags_is_a_list_of_them():
    X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    for given in (X, list(X), torch.from_numpy(X), X.tolist(), iter(X)):
        assert torch.equal(read_bags(given).tokens, torch.from_numpy(X.reshape(20, 3)))


def test_pooling_sees_neither_order_nor_copies_nor_what_is_masked():
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pool = GatedAttention(4, heads=3, hidden=5)
    e, all_there = torch.randn(2, 6, 3, 4, generator=rng), torch.ones(2, 6, dtype=torch.bool)
    pooled, weights = pool(e, all_there)
    assert torch.allclose(weights.sum(1), torch.ones(2, 3))
    order = torch.randperm(6, generator=rng)
    assert torch.allclose(pool(e[:, order], all_there)[0], pooled, atol=1e-6)
    assert torch.allclose(pool(e.repeat(1, 2, 1, 1), all_there.repeat(1, 2))[0], pooled, atol=1e-6)
    noise = torch.cat([e, 100 * torch.randn(2, 2, 3, 4, generator=rng)], dim=1)
    assert torch.allclose(pool(noise, torch.cat([all_there, ~all_there[:, :2]], dim=1))[0], pooled, atol=1e-6)


def test_the_gates_are_those_of_the_formula():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pool = GatedAttention(2, heads=1, hidden=3).double()
    e = torch.randn(1, 4, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A, B = pool.gates[0, :, :3], pool.gates[0, :, 3:]
    a, b = pool.gate_bias[0, :3], pool.gate_bias[0, 3:]
    right = (torch.tanh(e[0, :, 0] @ A + a) * torch.sigmoid(e[0, :, 0] @ B + b)) @ pool.score[0]
    assert torch.allclose(pool.scores(e)[0, :, 0], right)


def test_a_bag_without_a_token_has_a_finite_gradient():
    pool = GatedAttention(4, heads=1, hidden=2)
    e = torch.ones(1, 2, 1, 4, requires_grad=True)
    pooled, _ = pool(e, torch.zeros(1, 2, dtype=torch.bool))
    pooled.sum().backward()
    assert not pooled.any() and torch.isfinite(e.grad).all()
