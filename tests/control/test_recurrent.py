import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.parts.recurrent import MLPCore, RecurrentCore


def unrolled(core, x, state, starts):
    outputs = []
    for t in range(len(x)):
        y, state = core(x[t], state, starts[t])
        outputs.append(y)
    return torch.stack(outputs), state


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@given(
    st.integers(0, 1000), st.integers(1, 9), st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.integers(1, 2)
)
@settings(max_examples=25, deadline=None)
def test_a_sequence_with_starts_is_its_step_by_step_unrolling(cell, seed, T, n, chance, layers):
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    core = RecurrentCore(3, 4, cell, layers).double()
    x, starts = torch.randn(T, n, 3, generator=g).double(), torch.rand(T, n, generator=g) < chance
    state = torch.randn(n, core.state_dim, generator=g).double()
    y, after = core(x, state, starts)
    y_slow, after_slow = unrolled(core, x, state, starts)
    torch.testing.assert_close(y, y_slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after, after_slow, rtol=1e-12, atol=1e-12)


def test_gradients_do_not_cross_a_start():
    core = RecurrentCore(2, 3)
    x = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 0] = True
    y, _ = core(x, torch.zeros(2, core.state_dim), starts)
    (gradient,) = torch.autograd.grad(y[3].sum(), x)
    assert gradient[:2, 0].abs().sum() == 0
    assert gradient[2:, 0].abs().sum() > 0
    assert gradient[:2, 1].abs().sum() > 0


def test_the_state_goes_on_where_no_episode_starts():
    core = RecurrentCore(2, 3, "lstm")
    x = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0))
    starts = torch.zeros(6, 2, dtype=torch.bool)
    starts[4, 1] = True
    whole, after = core(x, torch.zeros(2, core.state_dim), starts)
    first, middle = core(x[:3], torch.zeros(2, core.state_dim), starts[:3])
    second, end = core(x[3:], middle, starts[3:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, after)
    plain, _ = core(x, torch.zeros(2, core.state_dim), torch.zeros_like(starts))
    torch.testing.assert_close(plain[:4], whole[:4])


def test_layers_without_a_memory_take_any_leading_axes():
    core = MLPCore(3, (8, 5), "relu")
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    assert core(x).shape == (4, 2, 5)
    torch.testing.assert_close(core(x[1]), core(x)[1])
    assert MLPCore(3, ()).width == 3
