import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.control.rl100.settings import CriticSettings
from anytask.control.rl100.world import IQL, CriticMLP, Transitions, chunk_return, expectile_loss


def batch(n=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    s, a, r = torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g), torch.rand(n, generator=g)
    return Transitions(s, a, r, torch.full((n,), 0.9), torch.randn(n, 3, generator=g))


def test_chunk_return_by_hand():
    R, factor = chunk_return(torch.tensor([[1.0, 0.5, 0.0, 2.0]]), torch.ones(1, 4, dtype=torch.bool), 0.99)
    assert R.item() == pytest.approx(1 + 0.5 * 0.99 + 2 * 0.99**3, abs=1e-6) and R.item() == pytest.approx(3.435598)
    assert factor.item() == pytest.approx(0.960596, abs=1e-6)


@given(st.integers(1, 6), st.floats(0.0, 1.0))
def test_padding_counts_neither_in_the_return_nor_in_the_factor(steps, gamma):
    valid = (torch.arange(6) < steps)[None]
    R, factor = chunk_return(torch.ones(1, 6), valid, gamma)
    assert R.item() == pytest.approx(sum(gamma**i for i in range(steps)), rel=1e-5)
    assert factor.item() == pytest.approx(gamma**steps, rel=1e-5, abs=1e-12)


def test_expectile_by_hand():
    assert expectile_loss(torch.tensor([0.3, -0.2])).tolist() == pytest.approx([0.063, 0.012], abs=1e-6)
    u = torch.linspace(-1, 1, 11)
    torch.testing.assert_close(expectile_loss(u, 0.5), 0.5 * u.square())


def test_members_are_independent_and_equal_their_own_layers():
    critic = CriticMLP(4, (8,), members=2)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    first, last = critic.layers[0], critic.layers[-1]
    for i, out in enumerate(critic(x)):
        h = torch.relu(x @ first.weight[i] + first.bias[i])
        torch.testing.assert_close(out, (h @ last.weight[i] + last.bias[i])[:, 0])


def test_the_two_losses_by_hand():
    iql, b = IQL(3, 2, CriticSettings(hidden=(16,))), batch()
    sa = torch.cat([b.features, b.actions], 1)
    with torch.no_grad():
        u = iql.q_target(sa).amin(0) - iql.v(b.features)
        y = b.rewards + b.discounts * iql.v(b.next_features)
        q = iql.q_net(sa)
    v_loss, q_loss = iql.losses(b)
    assert v_loss.item() == pytest.approx(expectile_loss(u).mean().item(), rel=1e-5)
    assert q_loss.item() == pytest.approx(((q - y) ** 2).mean(1).sum().item(), rel=1e-5)


def test_targets_move_every_second_update_by_the_rate():
    iql = IQL(3, 2, CriticSettings(hidden=(16,), target_rate=0.25))
    start = iql.q_target.layers[0].weight.clone()
    iql.track(1)
    assert torch.equal(iql.q_target.layers[0].weight, start)
    iql.q_net.layers[0].weight.data += 1.0
    iql.track(2)
    torch.testing.assert_close(iql.q_target.layers[0].weight, start + 0.25 * (iql.q_net.layers[0].weight - start))


def test_a_terminal_state_is_worth_its_reward_alone():
    g = torch.Generator().manual_seed(0)
    s = torch.zeros(64, 1)
    b = Transitions(s, torch.rand(64, 1, generator=g), torch.full((64,), 0.5), torch.zeros(64), s + 9)
    iql = IQL(1, 1, CriticSettings(hidden=(32,), lr=3e-3, epochs=300, batch_size=64)).fit(b, g)
    assert iql.q(b.features, b.actions).mean().item() == pytest.approx(0.5, abs=0.1)


def test_advantage_is_the_smaller_q_minus_v_and_takes_chunks():
    iql, b = IQL(3, 4, CriticSettings(hidden=(16,))), batch()
    chunk = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(3))
    flat = torch.cat([b.features, chunk.flatten(1)], 1)
    torch.testing.assert_close(iql.advantage(b.features, chunk), iql.q_net(flat).amin(0) - iql.v_net(b.features)[0])
