"""Task-balanced steps and samplers: the brief's numbers, and what a step leaves alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.core.checks import NotFinite
from anytask.multitask.parts.balanced_steps import BalancedAdamW
from anytask.multitask.parts.sampling import TaskSampler, task_ratios

RARE = {"rare": 0.25, "common": 0.75}


def weight(*values):
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def run(scales, steps=6, **how):
    """Weights after steps on two tasks in turn, whose losses are multiplied by ``scales``."""
    w = weight(1.0, -2.0, 0.5)
    optimizer = BalancedAdamW([w], RARE, lr=0.1, **how)
    for step in range(steps):
        task = ("rare", "common")[step % 2]
        optimizer.zero_grad()
        (scales[step % 2] * ((w - (1 + step % 2)) ** 2).sum()).backward()
        optimizer.step(task=task)
    return w.detach()


def test_the_first_step_is_that_of_the_worked_example():
    # g~ = (.6, .8); m^ = g~ / .25 = (2.4, 3.2); n^ = g~^2 / .25 = (1.44, 2.56); m^ / sqrt(n^) = (2, 2) = 1 / sqrt(s_k).
    w = weight(0.0, 0.0)
    optimizer = BalancedAdamW([w], RARE, lr=0.1, eps=0.0, weight_decay=0.0)
    w.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step(task="rare")
    state = optimizer.state[w]
    assert (state["m"] / (1 - 0.9)).tolist() == pytest.approx([2.4, 3.2])
    assert (state["n"] / (1 - 0.999)).tolist() == pytest.approx([1.44, 2.56])
    assert w.tolist() == pytest.approx([-0.2, -0.2])


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_scales_of_losses_change_nothing(a, b):
    assert torch.allclose(run((a, b)), run((1.0, 1.0)), atol=1e-6)
    assert not torch.allclose(run((a, b), normalize=False), run((1.0, 1.0)), atol=1e-6)


def test_one_task_whose_say_is_the_norm_gets_the_steps_of_adamw():
    rng = torch.Generator().manual_seed(0)
    ours, theirs = weight(1.0, 2.0, 3.0), weight(1.0, 2.0, 3.0)
    how = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    a, b = BalancedAdamW([ours], {"only": 1.0}, **how), torch.optim.AdamW([theirs], **how)
    plain = weight(1.0, 2.0, 3.0)
    c = BalancedAdamW([plain], RARE, **how, normalize=False, reweight=False)
    for _ in range(20):
        grad = torch.randn(3, generator=rng, dtype=torch.float64)
        for w in (ours, theirs, plain):
            w.grad = grad.clone()
        a.omega["only"] = float(grad.norm())
        a.step(task="only"), b.step(), c.step(task="rare")
    assert torch.allclose(ours, theirs, atol=1e-10) and torch.allclose(plain, theirs, atol=1e-10)


def test_weights_without_a_gradient_and_their_moments_are_left_alone():
    shared, own = weight(1.0), weight(1.0)
    optimizer = BalancedAdamW([shared, own], RARE, lr=0.1)
    for w in (shared, own):
        w.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step(task="rare")
    before, moments = own.clone(), {name: value * 1 for name, value in optimizer.state[own].items()}
    own.grad = None
    optimizer.step(task="common")
    assert torch.equal(own, before) and optimizer.state[own] == moments
    assert optimizer.state[shared]["step"] == 2


def test_the_reweighting_is_capped_and_a_zero_gradient_moves_nothing():
    w = weight(0.0)
    optimizer = BalancedAdamW([w], {"a": 0.01, "b": 0.99}, lr=0.1, weight_decay=0.0, eps=0.0, cap=4)
    w.grad = torch.ones(1, dtype=torch.float64)
    optimizer.step(task="a")
    assert w.item() == pytest.approx(-0.1 * math.sqrt(4))
    w = weight(1.0)
    optimizer = BalancedAdamW([w], RARE, weight_decay=0.0)
    w.grad = torch.zeros(1, dtype=torch.float64)
    optimizer.step(task="rare")
    assert w.item() == 1.0


def test_a_gradient_that_is_no_number_is_refused_before_anything_moves():
    w, v = weight(1.0), weight(1.0)
    optimizer = BalancedAdamW([v, w], RARE)
    v.grad, w.grad = torch.ones(1, dtype=torch.float64), torch.full((1,), math.nan, dtype=torch.float64)
    with pytest.raises(NotFinite, match="gradient of task 'rare'"):
        optimizer.step(task="rare")
    assert v.item() == w.item() == 1.0 and not optimizer.state


def test_scaled_losses_schedules_and_saved_states_go_with_it():
    def losses(w, optimizer, steps, scaler):
        for step in steps:
            optimizer.zero_grad()
            scaler.scale((w**2).sum()).backward()
            scaler.step(optimizer, task=("rare", "common")[step % 2])
            scaler.update()

    plain, scaled = weight(1.0, 2.0), weight(1.0, 2.0)
    a, b = (BalancedAdamW([w], RARE, lr=0.1, eps=1e-3) for w in (plain, scaled))
    losses(plain, a, range(6), torch.amp.GradScaler("cpu", enabled=False))
    losses(scaled, b, range(3), torch.amp.GradScaler("cpu", init_scale=1024.0))
    c = BalancedAdamW([scaled], RARE, lr=0.1, eps=1e-3)
    c.load_state_dict(b.state_dict())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(c, 2)
    losses(scaled, c, range(3, 6), torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert torch.allclose(plain, scaled, atol=1e-6)
    schedule.step()
    assert c.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"ratios": {"a": 0.5}}, "sum to 0.5"),
        ({"ratios": {}}, "ratios must map"),
        ({"ratios": {"a": math.nan}}, "ratio of 'a' must be"),
        ({"ratios": RARE, "omega": {"other": 1.0}}, "names the task 'other'"),
        ({"ratios": RARE, "omega": {"rare": 0}}, "omega\\['rare'\\] must be"),
        ({"ratios": RARE, "cap": 0.5}, "cap must be"),
        ({"ratios": RARE, "lr": -1}, "lr must be"),
        ({"ratios": RARE, "betas": (0.9, 1.0)}, "betas must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(how, says):
    with pytest.raises(ValueError, match=says):
        BalancedAdamW([weight(1.0)], **how)


def test_a_step_names_a_task_that_there_is():
    w = weight(1.0)
    optimizer = BalancedAdamW([w], RARE)
    with pytest.raises(ValueError, match="no task None"):
        optimizer.step()
    optimizer.task = "rare"
    assert optimizer.step() is None  # no gradient yet
    loss = optimizer.step(lambda: [loss := (w**2).sum(), loss.backward()][0])
    assert loss.item() == 1.0 and w.item() < 1


def test_tasks_are_drawn_by_their_ratios_and_by_the_step_alone():
    ratios = task_ratios({"a": 8000, "b": 200, "c": 10}, temperature=2, most=800)
    roots = np.sqrt([800, 200, 10])
    assert list(ratios.values()) == pytest.approx(roots / roots.sum())
    sampler = TaskSampler(ratios, seed=1)
    drawn = [sampler.task(step) for step in range(2000)]
    share = np.array([drawn.count(task) for task in ratios]) / 2000
    assert np.abs(share - list(ratios.values())).max() < 4 * math.sqrt(0.25 / 2000)
    assert [TaskSampler(ratios, seed=1).task(step) for step in (5, 900)] == [drawn[5], drawn[900]]
    assert drawn != [TaskSampler(ratios, seed=2).task(step) for step in range(2000)]
    counts = np.mean([list(sampler.counts(step, 64).values()) for step in range(300)], axis=0) / 64
    assert np.abs(counts - list(ratios.values())).max() < 0.02
    for how, says in (({"temperature": 0.5}, "temperature"), ({"most": 0}, "most")):
        with pytest.raises(ValueError, match=says):
            task_ratios({"a": 1}, **how)
    with pytest.raises(ValueError, match="size of 'a'"):
        task_ratios({"a": 0})
