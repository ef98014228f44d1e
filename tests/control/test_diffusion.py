import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anytask.control.rl100.diffusion import (
    DDIM,
    Consistency,
    DenoisingMLP,
    Flow,
    averaged,
    consistency_coefficients,
    ddim_moments,
    gaussian_log_prob,
    squared_cosine_alpha_bar,
)


def constant(value):
    return lambda a, tau, c: torch.full_like(a, value)


@functools.cache
def trained(make, steps=600):
    """A network fitted to actions 0.5 with a spread of 0.25 (c = 1) and -0.5 with a spread of 0.05 (c = -1)."""
    generator, process = torch.Generator().manual_seed(0), make((1,), 5)
    torch.manual_seed(0)
    net = DenoisingMLP((1,), 1, (64, 64))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        c = torch.randint(2, (256, 1), generator=generator).float() * 2 - 1
        a = 0.5 * c + (0.15 + 0.1 * c) * torch.randn(256, 1, generator=generator)
        loss = process.loss(net, a, c, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


# -- the schedule and the sub-step ------------------------------------------------------------------------------------


def test_schedule_is_the_squared_cosine_up_to_its_capped_last_steps():
    alpha_bar = squared_cosine_alpha_bar(100)

    def f(t):
        return math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 10, 50, 98):
        assert alpha_bar[t].item() == pytest.approx(f(t + 1) / f(0), rel=1e-5)
    assert alpha_bar[99] / alpha_bar[98] == pytest.approx(0.001, rel=1e-4)  # beta is capped at 0.999
    assert (alpha_bar.diff() < 0).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_schedule_and_mean_agree_with_diffusers(recompute):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(100, beta_schedule="squaredcos_cap_v2", clip_sample=True)
    scheduler.set_timesteps(10)
    process = DDIM((1,), 10, eta=0.7, recompute=recompute)
    torch.testing.assert_close(process.alpha_bar, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)
    assert process.timesteps == scheduler.timesteps.tolist()
    a, eps = torch.tensor([[0.3, -1.2]]), torch.tensor([[0.5, 0.1]])
    for k, t in enumerate(scheduler.timesteps):
        zero = torch.zeros_like(a)
        options = {"eta": 0.7, "variance_noise": zero, "use_clipped_model_output": recompute}
        theirs = scheduler.step(eps, int(t), a, **options).prev_sample
        torch.testing.assert_close(process.step(lambda *_: eps, a, k, zero)[0], theirs, rtol=1e-4, atol=1e-5)


def test_one_sub_step_by_hand():
    # alpha_bar = .5, alpha_bar' = .8, eta = 1, a = 1, eps = .5, no clipping of x0.
    x0 = (1 - math.sqrt(0.5) * 0.5) / math.sqrt(0.5)
    assert x0 == pytest.approx(0.914214, abs=1e-6)
    log_probs = []
    for eps, mean in ((0.5, 0.929501), (0.6, 0.862419)):
        x0 = torch.tensor([[(1 - math.sqrt(0.5) * eps) / math.sqrt(0.5)]])
        mu, sigma = ddim_moments(x0, torch.tensor([[eps]]), 0.5, 0.8, 1.0)
        assert mu.item() == pytest.approx(mean, abs=1e-6)
        assert sigma == pytest.approx(0.387298, abs=1e-6)
        log_probs.append(gaussian_log_prob(torch.tensor([[0.7]]), mu, torch.tensor(sigma)).item())
    assert log_probs[0] == pytest.approx(-0.145947, abs=1e-6)
    assert math.exp(log_probs[1] - log_probs[0]) == pytest.approx(1.091591, abs=1e-6)


def test_eta_one_has_the_variance_of_the_posterior_and_eta_zero_none():
    # DDPM's posterior variance is (1 - alpha_bar') / (1 - alpha_bar) * beta with alpha_bar = alpha_bar' (1 - beta).
    _, sigma = ddim_moments(torch.zeros(1), torch.zeros(1), 0.5, 0.8, 1.0)
    assert sigma**2 == pytest.approx(0.2 / 0.5 * (1 - 0.5 / 0.8), rel=1e-6)
    assert ddim_moments(torch.zeros(1), torch.zeros(1), 0.5, 0.8, 0.0)[1] == 0


def test_the_last_sub_step_ends_at_the_clean_action_with_the_smallest_sigma():
    process = DDIM((1,), 5, sigma_min=0.05)
    mean, std = process.step(constant(0.0), torch.tensor([[0.4]]), 4, torch.zeros(1, 1))
    assert mean.item() == pytest.approx(0.4 / math.sqrt(process.alpha_bar[0].item()), rel=1e-5)
    assert std.item() == pytest.approx(0.05)
    assert DDIM((1,), 5, sigma_max=0.2).step(constant(0.0), torch.zeros(1, 1), 0, torch.zeros(1, 1))[
        1
    ] == pytest.approx(0.2)


def gradient_of_the_mean(process, k):
    """Return d mean / d eps of state k = 2 with a predicted noise of -3 (clean action far above 1)."""
    eps = nn.Parameter(torch.tensor(-3.0))
    mean, _ = process.step(lambda a, tau, c: eps.expand_as(a), torch.full((1, 1), 2.0), k, torch.zeros(1, 1))
    return torch.autograd.grad(mean.sum(), eps)[0].item()


@pytest.mark.parametrize("k", range(5))
def test_a_clipped_entry_has_no_gradient_with_recomputed_noise_and_one_of_the_other_sign_with_predicted(k):
    free, kept, recomputed = (
        gradient_of_the_mean(DDIM((1,), 5, sigma_min=0.05, **options), k)
        for options in ({"clip": False}, {}, {"recompute": True})
    )
    assert free < 0 and recomputed == 0
    assert kept == 0 if k == 4 else kept > 0  # the last sub-step adds no noise


def test_recomputed_noise_leads_from_the_clipped_action_to_the_state_and_is_the_predicted_one_without_clipping():
    a, c = torch.tensor([[0.3, -0.2]]), torch.zeros(1, 1)
    kept, recomputed = DDIM((2,), 5), DDIM((2,), 5, recompute=True)
    for k, eps in ((4, 0.0), (3, 0.1)):  # clean actions within [-1, 1]
        torch.testing.assert_close(kept.step(constant(eps), a, k, c), recomputed.step(constant(eps), a, k, c))
    signal, sigma = recomputed.scales(2)
    clean = torch.ones(1, 2)  # clipped
    expected, _ = ddim_moments(clean, (a - signal * clean) / sigma, signal**2, recomputed.scales(3)[0] ** 2, 1.0)
    torch.testing.assert_close(recomputed.step(constant(-9.0), a, 2, c)[0], expected)


def test_noise_that_is_no_number_is_refused():
    process, net, c = DDIM((1,), 3), DenoisingMLP((1,), 2, (8,)), torch.zeros(2, 2)
    noise = torch.tensor([[0.0], [torch.nan]])
    with pytest.raises(ValueError, match="noise that a chain starts from is NaN"):
        process.decide(net, c, noise)
    with pytest.raises(ValueError, match="noise that an action starts from is NaN"):
        Consistency(net, process).decide(c, noise)


# -- chains -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [DDIM((3, 2), 4, sigma_min=0.05), Flow((3, 2), 4, sigma_min=0.05)])
def test_log_prob_of_a_chain_is_the_sum_of_gaussians_over_chunk_and_entries(process):
    net = DenoisingMLP((3, 2), 5, (16,))
    c = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    chain = process.sample(net, c, torch.Generator().manual_seed(1))
    assert chain.states.shape == (5, 7, 3, 2) and chain.log_prob.shape == (4, 7)
    torch.testing.assert_close(process.log_prob(net, chain.states, c).detach(), chain.log_prob)
    mean, std = process.step(net, chain.states[1], 1, c)
    by_entry = torch.distributions.Normal(mean, std).log_prob(chain.states[2]).sum((1, 2))
    torch.testing.assert_close(process.log_prob(net, chain.states, c, k=1), by_entry)
    assert torch.isfinite(chain.log_prob).all()


@pytest.mark.parametrize("process", [DDIM((2,), 4), Flow((2,), 4)])
def test_chains_repeat_with_the_generator_and_leave_the_global_one_alone(process):
    net, c = DenoisingMLP((2,), 3, (16,)), torch.zeros(4, 3)
    state = torch.get_rng_state()
    one, two = (process.sample(net, c, torch.Generator().manual_seed(5)).states for _ in range(2))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), state)
    noise = torch.randn(4, 2, generator=torch.Generator().manual_seed(6))
    decided = [process.decide(net, c, noise) for _ in range(2)]
    assert torch.equal(*decided) and (decided[0].abs() <= 1).all()


@pytest.mark.parametrize("make", [DDIM, Flow])
def test_both_processes_learn_what_a_feature_says_and_how_much_it_spreads(make):
    process = make((1,), 10, sigma_min=0.01)
    net = trained(make)
    c = torch.tensor([[1.0], [-1.0]]).repeat_interleave(400, 0)
    generator = torch.Generator().manual_seed(1)
    for actions in (
        process.sample(net, c, generator).actions,
        process.decide(net, c, process.noise(c, generator)),
    ):
        high, low = actions[:400], actions[400:]
        assert high.mean() > low.mean() + 0.5 and high.std() > 1.5 * low.std()


def test_flow_sub_steps_preserve_the_marginals():
    # With the exact velocity of N(0, s^2) actions, every state has variance (1 - t)^2 + t^2 s^2, with noise or without.
    s, n_steps = 0.5, 200

    def velocity(a, tau, c):
        t = 1 - tau[:, None]
        variance = (1 - t) ** 2 + (t * s) ** 2
        return a * (t * s**2 - (1 - t)) / variance

    for eta in (0.0, 1.0):
        process = Flow((1,), n_steps, eta=eta, sigma_min=1e-6, clip=False)
        states = process.sample(velocity, torch.zeros(20000, 1), torch.Generator().manual_seed(0)).states
        for k in (50, 100, 200):
            t = k / n_steps
            assert states[k].std().item() == pytest.approx(math.sqrt((1 - t) ** 2 + (t * s) ** 2), rel=0.03)


# -- consistency ------------------------------------------------------------------------------------------------------


def test_consistency_coefficients_at_both_ends():
    assert consistency_coefficients(0.0) == (1.0, 0.0)
    c_skip, c_out = consistency_coefficients(0.1, sigma_data=0.5)  # tau / 0.1 = 1
    assert c_skip == pytest.approx(0.25 / 1.25) and c_out == pytest.approx(1 / math.sqrt(1.25))
    assert consistency_coefficients(80.0)[1] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("process", [DDIM((2,), 5), Flow((2,), 5)])
def test_the_student_is_the_identity_at_time_zero_and_copies_the_network(process):
    net = DenoisingMLP((2,), 3, (16,))
    student = Consistency(net, process)
    a, c = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 3)
    assert torch.equal(student(a, process.n_steps, c), a)
    c_skip, c_out = consistency_coefficients(100 * process.time(0))
    torch.testing.assert_close(student(a, 0, c), c_skip * a + c_out * process.split(net, a, 0, c)[0])
    student.net.layers[0].weight.data.add_(1.0)
    assert not torch.equal(student.net.layers[0].weight, net.layers[0].weight)


@pytest.mark.parametrize("form", ["same-noise", "lcm"])
def test_a_student_learns_the_teachers_action_in_one_call(form):
    process = DDIM((1,), 5, sigma_min=0.01)
    teacher = trained(DDIM)
    student = Consistency(teacher, process)
    average = averaged(student, 0.9)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)

    def distance():
        c = torch.tensor([[1.0], [-1.0]]).repeat(200, 1)
        noise = torch.randn(400, 1, generator=torch.Generator().manual_seed(9))
        target = process.decide(teacher, c, noise)
        return (average.module.decide(c, noise) - target).square().mean().item()

    before = distance()
    for _ in range(200):
        c = torch.randint(2, (128, 1), generator=generator).float() * 2 - 1
        if form == "same-noise":
            noise = torch.randn(128, 1, generator=generator)
            loss = student.same_noise_loss(teacher, noise, c).mean()
        else:
            a = 0.5 * c + (0.15 + 0.1 * c) * torch.randn(128, 1, generator=generator)
            loss = student.consistency_loss(average.module, teacher, a, c, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(student)
    assert distance() < (0.1 if form == "same-noise" else 0.7) * before


# -- averages, errors -------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.floats(0.0, 0.99), st.lists(st.floats(-2, 2), min_size=1, max_size=5))
def test_an_average_is_the_weighted_sum_of_what_it_saw(decay, moves):
    layer = nn.Linear(1, 1, bias=False)
    average = averaged(layer, decay)
    expected = layer.weight.item()
    for t, move in enumerate(moves, start=1):
        layer.weight.data.add_(move)
        average.update_parameters(layer)
        share = min(decay, 1 - (1 + t) ** -0.75)
        expected = share * expected + (1 - share) * layer.weight.item()
    assert average.module.weight.item() == pytest.approx(expected, abs=1e-5)
    assert not average.module.weight.requires_grad


def test_one_denoising_step_leaves_a_student_nothing_to_learn():
    with pytest.raises(ValueError, match="at least 2 steps"):
        Consistency(nn.Linear(1, 1), DDIM((1,), 1))
