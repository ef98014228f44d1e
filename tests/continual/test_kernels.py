"""Kernels and kernel ridge regression."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.continual.gkcl.kernels import FeatureKernel, Frequencies, gaussian, kernel_ridge, laplacian, polynomial
from anytask.core.rng import isolated

S = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
Y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
Q = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
SEEDS = st.integers(0, 2**31 - 1)


linear = FeatureKernel()


def random_fourier(d, L, sigma=1.0, seed=0):
    with isolated(seed):
        return Frequencies(d, L, variational=False).fixed(sigma)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kernels_of_two_vectors():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    assert linear(a, b).item() == 2.0
    assert polynomial(a, b).item() == 27.0
    assert laplacian(a, b).item() == pytest.approx(torch.exp(torch.tensor(-0.5)).item())  # ||a-b||_1 = 2
    assert gaussian(a, b, sigma=2.0).item() == pytest.approx(torch.exp(torch.tensor(-0.25)).item())  # ||a-b||^2 = 2


@pytest.mark.parametrize("primal", [False, True, None])
def test_linear_ridge_fixed_value_in_both_forms(primal):
    assert kernel_ridge(linear, S, Y, 0.11, primal=primal)(Q)[0].tolist() == pytest.approx(
        [0.932766, 0.996495], abs=1e-6
    )


@settings(deadline=None)
@given(SEEDS, st.floats(0.05, 5.0))
def test_order_and_duplication_of_the_support(seed, lambda_):
    support, targets, queries = draw(seed, 6, 3), draw(seed + 1, 6, 2), draw(seed + 2, 4, 3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for kernel in (linear, gaussian, laplacian):
        one = kernel_ridge(kernel, support, targets, lambda_, primal=False)(queries)
        shuffled = kernel_ridge(kernel, support[order], targets[order], lambda_, primal=False)(queries)
        twice = kernel_ridge(kernel, support.repeat(2, 1), targets.repeat(2, 1), 2 * lambda_, primal=False)(queries)
        torch.testing.assert_close(shuffled, one)
        torch.testing.assert_close(twice, one)


def test_ridge_limits():
    independent = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(kernel_ridge(linear, independent, Y, 1e-9)(independent), Y)
    assert kernel_ridge(linear, S, Y, 1e12)(Q).abs().max() < 1e-9


def test_random_fourier_features_approach_the_gaussian_kernel_as_the_root_of_their_number():
    a, sigma = draw(0, 12, 4), 1.7
    exact = gaussian(a, a, sigma)
    error = {}
    for L in (100, 10000):
        error[L] = (random_fourier(4, L, sigma)(a, a) - exact).square().mean().sqrt().item()
    assert error[10000] < 2 / 10000**0.5
    assert 4 < error[100] / error[10000] < 25  # sqrt(10000 / 100) = 10


def test_primal_and_dual_agree_for_random_features():
    kernel = random_fourier(3, 8)
    support, targets, queries = draw(1, 20, 3), draw(2, 20, 2), draw(3, 5, 3)
    primal = kernel_ridge(kernel, support, targets, 0.1)
    assert primal.support is None and primal.coefficients.shape == (8, 2)
    torch.testing.assert_close(primal(queries), kernel_ridge(kernel, support, targets, 0.1, primal=False)(queries))


def test_gradients_reach_support_and_ridge():
    support, lambda_ = S.clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, r: kernel_ridge(linear, s, Y, r, primal=False)(Q), (support, lambda_))


def test_gaussian_kernel_has_finite_gradients_at_equal_points():
    a = torch.zeros(2, 2, requires_grad=True)
    gaussian(a, a).sum().backward()
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((linear, S[:0], Y[:0], 0.1), "support has 0"),
        ((linear, S, Y[:2], 0.1), "2 targets"),
        ((linear, S, Y, 0.0), "above 0"),
        ((gaussian, S, Y, 0.1), "primal"),
        ((linear, S * torch.nan, Y, 0.1), "kernel of the support is NaN or infinite: its features have diverged"),
    ],
)
def test_bad_input_is_named(args, message):
    with pytest.raises(ValueError, match=message):
        kernel_ridge(*args, primal=True if message == "primal" else None)
