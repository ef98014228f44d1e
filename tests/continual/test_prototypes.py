"""Cosine prototypes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.continual.parts.prototypes import Prototypes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_growing_keeps_rows_and_their_order():
    prototypes = Prototypes(4)
    prototypes.grow(2, generator())
    before = prototypes.weight.detach().clone()
    for n in (3, 1):  # and never shrinks
        prototypes.grow(n, generator(1))
        assert torch.equal(prototypes.weight[:2], before) and prototypes.weight.shape == (3, 4)
    assert prototypes.weight.abs().max() <= 0.5  # 1 / sqrt(4)


@settings(deadline=None)
@given(st.floats(0.01, 100.0), st.integers(0, 1000))
def test_scores_and_attraction_ignore_the_scale_of_prototypes_and_the_gradient_is_orthogonal(factor, seed):
    prototypes = Prototypes(3).double()
    prototypes.grow(2, generator(seed))
    z, rows = torch.randn(5, 3, generator=generator(seed), dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0])
    scores, attraction = prototypes(z).detach(), prototypes.attraction(z, rows)
    attraction.backward()
    assert (prototypes.weight.grad * prototypes.weight).sum(1).abs().max() < 1e-12
    with torch.no_grad():
        prototypes.weight[1] *= factor
    torch.testing.assert_close(prototypes(z), scores)
    torch.testing.assert_close(prototypes.attraction(z, rows), attraction)


def test_attraction_reaches_the_rows_of_the_batch_alone_and_zero_features_are_defined():
    prototypes = Prototypes(3)
    prototypes.grow(3, generator())
    prototypes.attraction(torch.randn(2, 3, generator=generator()), torch.tensor([0, 2])).backward()
    assert (prototypes.weight.grad[1] == 0).all() and prototypes.weight.grad[0].abs().sum() > 0
    assert (prototypes(torch.zeros(1, 3)) == 0).all()
