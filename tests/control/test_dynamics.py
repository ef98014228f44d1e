import pytest
import torch

from anytask.control.rl100.dynamics import EnsembleDynamics
from anytask.control.rl100.offline_rl import Transitions


def linear_world(n=600, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, a = 2 * torch.rand(n, 2, generator=g) - 1, 2 * torch.rand(n, 2, generator=g) - 1
    return Transitions(s, a, s.sum(1), torch.ones(n), s + 0.2 * a)


def fitted(**params):
    return EnsembleDynamics(2, 2, hidden=(64,), **params).fit(linear_world(), steps=400)


def test_it_predicts_a_linear_world_and_its_reward():
    model, test = fitted(predict_reward=True), linear_world(seed=1)
    after, reward = model.step(test.features, test.actions, torch.Generator().manual_seed(0))
    error = lambda a, b: (a - b).abs().mean()  # noqa: E731
    # Against a world that stands still and pays nothing.
    assert error(after, test.next_features) < error(test.features, test.next_features) / 3
    assert error(reward, test.rewards) < error(0, test.rewards) / 3


def test_the_elites_are_the_members_with_the_smallest_errors():
    model = fitted()
    assert len(model.errors) == 7 and len(model.elite_indices) == 5
    worst = sorted(range(7), key=model.errors.__getitem__)[5:]
    assert not set(worst) & set(model.elite_indices)


def test_each_row_follows_an_elite_and_never_another_member():
    model = fitted(members=3, elites=1)
    with torch.no_grad():
        # What the others say is made unmistakable.
        for i in set(range(3)) - set(model.elite_indices):
            model.net[-1].bias[i] += 1e3
    test = linear_world(seed=1)
    after, _ = model.step(test.features, test.actions, torch.Generator().manual_seed(0))
    assert (after - test.next_features).abs().max() < 1.0


def test_a_roll_out_applies_the_policy_to_what_it_imagines():
    model = fitted()
    start = torch.zeros(5, 2)
    imagined = model.rollout(start, lambda s: -s + 0.5, 4, torch.Generator().manual_seed(0))
    assert imagined.features.shape == (4, 5, 2) and imagined.actions.shape == (4, 5, 2)
    assert torch.equal(imagined.features[0], start)
    torch.testing.assert_close(imagined.actions, -imagined.features + 0.5)
    assert imagined.features[3].mean().item() == pytest.approx(0.5 * (1 - 0.8**3), abs=0.08)
    assert (imagined.rewards == 0).all()


def test_roll_outs_repeat_with_the_generator():
    model = fitted()
    one, two = (
        model.rollout(torch.zeros(3, 2), lambda s: s, 3, torch.Generator().manual_seed(4)).features for _ in range(2)
    )
    assert torch.equal(one, two)


def test_a_restored_model_imagines_the_same():
    model = fitted()
    other = EnsembleDynamics(2, 2, hidden=(64,), seed=5)
    other.load_state_dict(model.state_dict())
    s, a = torch.zeros(3, 2), torch.ones(3, 2)
    one, two = (m.step(s, a, torch.Generator().manual_seed(0))[0] for m in (model, other))
    assert torch.equal(one, two) and other.elite_indices == model.elite_indices


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="elites"):
        EnsembleDynamics(2, 2, members=3, elites=4)
    with pytest.raises(ValueError, match="at least 10 decisions"):
        EnsembleDynamics(2, 2).fit(linear_world(5))
