import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from anytask.continual.parts.importance import accumulated, anchored_penalty, fisher, mas, normalized, pull_back


def test_mas_of_a_linear_map_is_the_mean_of_2_wx_x():
    W, X = torch.randn(3, 4, requires_grad=True), torch.randn(50, 4)
    found = mas(lambda x: x @ W.T, [W], X)[0]
    outputs = X @ W.detach().T  # (n, 3)
    assert torch.allclose(found, (2 * outputs[:, :, None] * X[:, None]).abs().mean(0), atol=1e-5)


def test_fisher_of_a_linear_softmax_is_the_mean_of_squared_errors_times_inputs():
    W, X, y = torch.randn(3, 4, requires_grad=True), torch.randn(50, 4), torch.arange(50) % 3
    errors = (X @ W.detach().T).softmax(1) - nn.functional.one_hot(y, 3)
    expected = (errors[:, :, None] * X[:, None]).square().mean(0)
    assert torch.allclose(fisher(lambda x: x @ W.T, [W], X, y)[0], expected, atol=1e-6)


def test_a_parameter_that_outputs_do_not_depend_on_has_no_importance():
    used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    assert mas(lambda x: x * used, [used, unused], torch.ones(3, 2))[1].tolist() == [0, 0]


def test_importances_get_the_mean_1_over_all_parameters_and_zeros_stay():
    omega = normalized([torch.tensor([1.0, 3.0]), torch.tensor([[8.0], [0.0]])])
    assert torch.cat([o.flatten() for o in omega]).tolist() == pytest.approx([1 / 3, 1, 8 / 3, 0])
    assert normalized([torch.zeros(2)])[0].tolist() == [0, 0]


def test_accumulated_importance_never_falls_and_new_rows_count_by_themselves():
    old, new = torch.rand(2, 3), torch.rand(4, 3)
    total = accumulated([old], [new])[0]
    assert torch.equal(total[:2], old + new[:2]) and torch.equal(total[2:], new[2:])
    assert torch.equal(accumulated([], [new])[0], new)


def test_the_penalty_has_the_gradient_omega_times_the_way_and_none_at_the_anchor():
    theta = torch.tensor([2.0, -1.0, 7.0], requires_grad=True)
    anchor, omega = torch.tensor([0.5, 1.0]), torch.tensor([3.0, 0.5])
    gradient = torch.autograd.grad(anchored_penalty([theta], [anchor], [omega]), theta)[0]
    assert gradient.tolist() == [4.5, -1.0, 0.0]  # the third row came after the anchor
    here = anchor.clone().requires_grad_()
    assert torch.autograd.grad(anchored_penalty([here], [anchor], [omega]), here)[0].abs().max() == 0


@given(st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_pull_solves_the_implicit_step(rate, omega):
    theta, anchor = torch.tensor([3.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    pull_back([theta], [anchor], [torch.tensor([omega], dtype=torch.float64)], rate)
    assert float(theta + rate * omega * (theta - 1)) == pytest.approx(3, rel=1e-8)  # theta' = theta - rate * gradient


@pytest.mark.parametrize(("c", "left"), [(0.0, 0.1), (1e12, 0.3), (3e38, 0.3)])
def test_a_pull_of_strength_0_leaves_every_bit_and_one_without_bound_ends_at_the_anchor(c, left):
    theta, anchor = torch.tensor([0.1]), torch.tensor([0.3])
    pull_back([theta], [anchor], [torch.tensor([c])], 1e6)
    assert torch.equal(theta, torch.tensor([left]))


def test_steps_and_pulls_rest_where_the_loss_and_its_penalty_do():
    # 1/2 (theta - 4)^2 + lambda/2 * Omega * theta^2 is least at 4 / (1 + lambda Omega).
    theta, lr, beta, lambda_ = nn.Parameter(torch.tensor([0.0, 0.0])), 0.1, 0.9, 0.5
    optimizer, omega = torch.optim.SGD([theta], lr, momentum=beta), torch.tensor([2.0, 0.0])
    for _ in range(500):
        theta.grad = theta.detach() - 4
        optimizer.step()
        pull_back([theta], [torch.zeros(2)], [omega], lr * lambda_ / (1 - beta))
    gradient = theta.detach() - 4 + lambda_ * omega * theta.detach()
    assert gradient.abs().max() < 1e-3
