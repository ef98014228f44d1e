import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import mse_loss

from anytask.continual.parts.pruning import apply_masks, magnitude_masks, prunable
from anytask.continual.parts.sgd import sgd_step, train_on
from anytask.models.build import MLP


@given(st.floats(0, 0.999), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_number_of_zeros_is_round_rho_p(rho, seed):
    torch.manual_seed(seed)
    network = MLP((5,), 3, (7,))
    masks = magnitude_masks(network, rho)
    p = 5 * 7 + 7 * 3
    assert sum(int((~m).sum()) for m in masks.values()) == round(rho * p)


def test_ties_do_not_change_the_number_of_zeros():
    layer = nn.Linear(10, 1)
    nn.init.constant_(layer.weight, 0.5)
    assert int((~magnitude_masks(layer, 0.3)["weight"]).sum()) == 3


def test_layers_compete_with_one_another():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.constant_(network[0].weight, 1.0)
    nn.init.constant_(network[1].weight, -0.1)
    masks = magnitude_masks(network, 0.5)
    assert masks["0.weight"].all() and not masks["1.weight"].any()


def test_biases_and_norms_are_left_alone():
    network = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(4, 2))
    assert list(prunable(network)) == ["0.weight", "3.weight"]


def test_masked_weights_stay_zero_under_momentum_and_weight_decay_and_the_others_move():
    torch.manual_seed(0)
    network = MLP((4,), 2, (8,))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    x, y = torch.randn(32, 4), torch.randn(32, 2)
    train_on(network, optimizer, x, y, mse_loss, batch_size=8, steps=5, seed=0)  # fills the momentum buffers
    masks = magnitude_masks(network, 0.8)
    apply_masks(network, masks)
    before = {name: w.clone() for name, w in prunable(network).items()}
    for _ in range(10):
        sgd_step(network, optimizer, lambda: mse_loss(network(x), y), len(x), masks)
        for name, w in prunable(network).items():
            assert (w[~masks[name]] == 0).all()
    assert all((w[masks[name]] != before[name][masks[name]]).all() for name, w in prunable(network).items())


@pytest.mark.parametrize("rho", [-0.1, 1.0])
def test_rho_out_of_range(rho):
    with pytest.raises(ValueError, match="rho must be in"):
        magnitude_masks(nn.Linear(2, 2), rho)


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="nothing to prune: ReLU"):
        magnitude_masks(nn.ReLU(), 0.5)
