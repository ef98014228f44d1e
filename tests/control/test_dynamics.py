import functools

import pytest
import torch

from anytask.control.rl100.settings import DynamicsSettings
from anytask.control.rl100.world import EnsembleDynamics, Transitions


def linear_world(n=600, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, a = 2 * torch.rand(n, 2, generator=g) - 1, 2 * torch.rand(n, 2, generator=g) - 1
    return Transitions(s, a, s.sum(1), torch.ones(n), s + 0.2 * a)


@functools.cache
def fitted(**params):
    return EnsembleDynamics(2, 2, DynamicsSettings(hidden=(64,), steps=400, **params)).fit(linear_world())


def test_it_predicts_a_linear_world():
    model, test = fitted(), linear_world(seed=1)
    after = model.step(test.features, test.actions, torch.Generator().manual_seed(0))
    error = lambda a: (a - test.next_features).abs().mean()  # noqa: E731
    assert error(after) < error(test.features) / 3  # of a world that stands still


def test_the_elites_are_the_members_with_the_smallest_errors():
    model = fitted()
    assert model.elites.tolist() == model.errors.argsort()[:5].tolist()


def test_each_row_follows_an_elite_and_never_another_member():
    model = fitted(members=3, elites=1)
    with torch.no_grad():
        # What the others say is made unmistakable.
        for i in set(range(3)) - set(model.elites.tolist()):
            model.net[-1].bias[i] += 1e3
    test = linear_world(seed=1)
    after = model.step(test.features, test.actions, torch.Generator().manual_seed(0))
    assert (after - test.next_features).abs().max() < 1.0


def test_a_roll_out_applies_the_policy_to_what_it_imagines():
    model = fitted()
    start = torch.zeros(5, 2)
    features, actions = model.rollout(start, lambda s: -s + 0.5, 4, torch.Generator().manual_seed(0))
    assert features.shape == (4, 5, 2) and actions.shape == (4, 5, 2)
    assert torch.equal(features[0], start)
    torch.testing.assert_close(actions, -features + 0.5)
    assert features[3].mean().item() == pytest.approx(0.5 * (1 - 0.8**3), abs=0.08)


def test_roll_outs_repeat_with_the_generator():
    model = fitted()
    one, two = (model.rollout(torch.zeros(3, 2), lambda s: s, 3, torch.Generator().manual_seed(4))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_a_restored_model_imagines_the_same():
    model = fitted()
    other = EnsembleDynamics(2, 2, DynamicsSettings(hidden=(64,)), seed=5)
    other.load_state_dict(model.state_dict())
    s, a = torch.zeros(3, 2), torch.ones(3, 2)
    one, two = (m.step(s, a, torch.Generator().manual_seed(0)) for m in (model, other))
    assert torch.equal(one, two)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 10 decisions"):
        EnsembleDynamics(2, 2, DynamicsSettings()).fit(linear_world(5))
