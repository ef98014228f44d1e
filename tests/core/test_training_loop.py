"""The training loop: accumulation, clipping, selection, finiteness, progress."""

import pytest
import torch
from torch import nn

from anytask.core.checks import NotFinite
from anytask.core.training import train


def line(weight=0.0, lr=0.1):
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, weight)
    return net, torch.optim.SGD(net.parameters(), lr=lr)


X = torch.tensor([[1.0], [2.0]])


def test_losses_that_are_yielded_add_up_to_one_step():
    def both(x):
        return (net(x) - 1).square().sum()

    def one_by_one(x):
        for row in x:
            yield (net(row) - 1).square().sum()

    weights = []
    for losses in (both, one_by_one):
        net, sgd = line()
        curve = train(net, lambda step: X, losses, steps=1, optimizer=sgd)
        weights.append(net.weight.item())
        assert curve == [2.0]
    # d/dw sum (w x - 1)^2 at w = 0 is -2 (1 + 2) = -6; one step of 0.1 gives 0.6
    assert weights == pytest.approx([0.6, 0.6])


def test_gradients_are_clipped_to_the_norm():
    net, sgd = line()
    train(net, lambda step: X, lambda x: (net(x) - 1).square().sum(), steps=1, optimizer=sgd, max_grad_norm=2.0)
    assert net.weight.item() == pytest.approx(0.2)


def test_the_best_weights_are_kept_and_the_later_of_equals():
    net, sgd = line()
    scores, seen = iter([1.0, 3.0, 3.0, 2.0]), []

    def select():
        assert not net.training
        seen.append(net.weight.item())
        return next(scores)

    train(net, lambda step: X, lambda x: -net(x).sum(), steps=4, optimizer=sgd, select=select, select_every=1)
    assert net.weight.item() == seen[2] != seen[3]


def test_a_loss_that_is_not_finite_names_its_step():
    net, sgd = line()

    def loss(step):
        return net(X).sum() * (float("nan") if step == 2 else 1.0)

    with pytest.raises(NotFinite, match="the loss of warm-up at step 2 is NaN or infinite"):
        train(net, lambda step: step, loss, steps=3, optimizer=sgd, stage="warm-up")


def test_weights_that_overflow_are_an_error_even_after_the_last_step():
    net, sgd = line(lr=1e38)
    with pytest.raises(NotFinite, match="weight after training"):
        train(net, lambda step: X, lambda x: 1e3 * net(x).sum(), steps=1, optimizer=sgd)


def test_progress_ends_at_one_and_batches_are_drawn_in_order():
    net, sgd = line()
    shares, steps = [], []

    def draw(step):
        steps.append(step)
        return X

    train(net, draw, lambda x: net(x).sum(), steps=4, optimizer=sgd, progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0] and steps == [1, 2, 3, 4]


def test_data_that_end_end_the_training():
    net, sgd = line()
    batches, shares = iter([X, X]), []
    curve = train(
        net, lambda step: next(batches), lambda x: (net(x) - 1).square().sum(), steps=9, optimizer=sgd,
        progress=shares.append,
    )  # fmt: skip
    assert len(curve) == 2 and shares[-1] == 1.0 and not net.training


def test_gradients_that_a_caller_switched_off_flow_in_training_and_inference_mode_is_refused():
    net, sgd = line()
    with torch.no_grad():
        train(net, lambda step: X, lambda x: (net(x) - 1).square().sum(), steps=1, optimizer=sgd)
        assert net.weight.item() == pytest.approx(0.6) and not torch.is_grad_enabled()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        train(net, lambda step: X, lambda x: (net(x) - 1).square().sum(), steps=1, optimizer=sgd)
