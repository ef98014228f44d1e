import copy
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from anytask.control import demonstrations, evaluate, make
from anytask.control.base import SingleEnv
from anytask.control.envs.reach import Reach as ReachEnv
from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.parts.policy_gradient import normalize, ppo_loss
from anytask.control.rl100 import RL100
from anytask.control.rl100.baselines import GaussianBC
from anytask.control.rl100.diffusion import DDIM, Consistency
from anytask.control.rl100.stages import Learner, advantages, normalized
from anytask.control.rl100.world import (
    IQL,
    ActionRange,
    CriticMLP,
    Decisions,
    EnsembleDynamics,
    Memory,
    OPEGate,
    Transitions,
)
from anytask.core.settings import merged
from anytask.datasets.episodes import Episode, Episodes

CONTRACT = {
    "diffusion": {"hidden": (16,)}, "imitation": {"epochs": 2}, "critics": {"hidden": (8,), "epochs": 1},
    "dynamics": {"hidden": (8,), "steps": 2}, "offline": {"steps": 2, "gate_every": 1, "gate_states": 4},
    "online": {"decisions": 8, "epochs": 1, "value_warmup": 1}, "student": {"steps": 2},
    "horizon": 3, "n_obs": 2, "n_executed": 2, "RL100-student": {"use": "student"},
}  # fmt: skip
EXEMPT = {"test_a_copy_that_was_reset_acts_as_one_that_has_just_begun": "draws the noise that it denoises"}

# Trainings of a few steps say that they are short.
pytestmark = pytest.mark.filterwarnings("ignore:no reward above 0", "ignore:the policy was updated in")
REACH = "anytask/Reach-v0"
TINY = {
    "diffusion": {"hidden": (32,), "n_steps": 3}, "imitation": {"epochs": 6}, "device": "cpu",
    "critics": {"hidden": (32,), "epochs": 3}, "dynamics": {"hidden": (16,), "steps": 20}, "student": {"steps": 10},
    "offline": {"steps": 8, "batch_size": 64, "gate_every": 4, "gate_states": 16, "rollout_length": 3},
    "online": {"decisions": 100, "epochs": 2},
}  # fmt: skip
CHUNKS = {"horizon": 4, "n_obs": 2, "n_executed": 3}


def tiny(cls=RL100, **params):
    return cls.from_preset("small", **merged(TINY, params))


@pytest.fixture(scope="module")
def demos():
    torch.set_num_threads(1)
    return demonstrations(REACH, 30, speed=(0.25, 1.0), noise=0.3, seed=7)


@pytest.fixture(scope="module")
def offline(demos):
    return tiny().fit(demos).improve_offline(demos)


@pytest.fixture(scope="module")
def distilled(demos):
    return tiny().fit(demos).improve_offline(demos).distil(demos)


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def start_observations(n=6, seed=0):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)) - 0.7


# -- data and time ----------------------------------------------------------------------------------------------------


def counting():
    """Two episodes whose observation is the step and whose action is ten times that: one of 5 steps, one of 2."""
    return Episodes.from_list([
        Episode(np.arange(6.0)[:, None], 10 * np.arange(5.0)[:, None], [1, 0.5, 0, 2, 4], terminated=True),
        Episode(np.arange(3.0)[:, None] + 100, [[0.0], [40.0]], [8, 16], truncated=True),
    ])  # fmt: skip


def test_a_window_ends_at_its_step_and_a_chunk_starts_at_the_windows_oldest():
    scale = ActionRange(torch.tensor([0.0]), torch.tensor([40.0]), 1.0)
    data = Decisions(counting(), 2, 4, 3, scale, torch.device("cpu"))
    assert data.window(np.array([0, 3, 5]))["observation"][..., 0].tolist() == [[0, 0], [2, 3], [100, 100]]
    # Three steps later; in the second episode the final observation, two steps later.
    assert data.window(np.array([0, 5]), np.array([3, 2]))["observation"][..., 0].tolist() == [[2, 3], [101, 102]]
    assert scale.restore(data.chunks[3])[:, 0].tolist() == pytest.approx([20, 30, 40, 40])


def test_transitions_discount_within_the_chunk_and_bootstrap_after_it():
    scale = ActionRange(torch.tensor([0.0]), torch.tensor([40.0]), 1.0)
    data = Decisions(counting(), 1, 4, 4, scale, torch.device("cpu"))
    encode, rows = lambda window: window["observation"].flatten(1), np.arange(7)
    t = data.transitions(encode, rows, 0.99)
    assert t.rewards[0].item() == pytest.approx(3.435598, abs=1e-6)
    assert t.discounts[0].item() == pytest.approx(0.960596, abs=1e-6)
    assert t.next_features[:, 0].tolist() == [4, 5, 5, 5, 5, 102, 102]
    # The first episode ended in the world; the second was cut by the clock after 2 and 1 more steps.
    assert t.discounts[1:].tolist() == pytest.approx([0, 0, 0, 0, 0.99**2, 0.99], abs=1e-6)
    assert data.transitions(encode, rows, 0.99, bootstrap_timeouts=False).discounts[5:].tolist() == [0, 0]
    # Every fourth step of each episode: 0 and 4 of the first, the first of the second.
    assert data.steps(4).tolist() == [0, 4, 5]
    for some, every in zip(data.transitions(encode, data.steps(4), 0.99), t, strict=True):
        torch.testing.assert_close(some, every[[0, 4, 5]])


def test_memory_fills_fresh_windows_and_forgets_single_copies():
    memory, asked = Memory({"o": (1,)}, 2, torch.device("cpu")), []

    def decide(rows, window):
        asked.append((rows.tolist(), window["o"][..., 0].tolist()))
        return window["o"][:, :1] * torch.tensor([10.0, 100.0])[:, None]  # (m, 2, 1)

    assert memory.act({"o": torch.tensor([[1.0], [5.0]])}, decide)[:, 0].tolist() == [10, 50]
    memory.reset(torch.tensor([1]))
    assert memory.act({"o": torch.tensor([[2.0], [6.0]])}, decide)[:, 0].tolist() == [100, 60]
    assert memory.act({"o": torch.tensor([[3.0], [7.0]])}, decide)[:, 0].tolist() == [20, 600]
    assert asked == [([0, 1], [[1, 1], [5, 5]]), ([1], [[6, 6]]), ([0], [[2, 3]])]


# -- offline ----------------------------------------------------------------------------------------------------------


def test_the_gate_passes_only_what_beats_the_best():
    gate = OPEGate(1.0, margin=0.05)
    assert [gate.offer(J) for J in (0.9, 1.1, 1.05, 1.2)] == [False, True, False, True]
    assert [c.best for c in gate.log] == [1.0, 1.0, 1.1, 1.1]
    assert not OPEGate(1.0, margin=0.2).offer(1.15)
    assert not OPEGate(-1.0, margin=0.05).offer(-0.96)  # the margin is a share of the magnitude


def test_at_the_old_policy_ratios_are_one_and_the_gradient_is_the_policy_gradient(offline):
    net, process = offline.net_, offline.process
    c = offline.encoder_({"observation": start_observations(32)[:, None]})
    chain = process.sample(net, c, torch.Generator().manual_seed(0))
    A = normalize(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    parameters = [p.requires_grad_(True) for p in net.parameters()]
    try:
        log_prob = process.log_prob(net, chain.states, c)
        surrogate = ppo_loss(log_prob, chain.log_prob, A)
        torch.testing.assert_close(surrogate.ratio, torch.ones_like(surrogate.ratio), atol=1e-5, rtol=0)
        assert surrogate.loss.item() == pytest.approx(0, abs=1e-6)
        ours = torch.autograd.grad(surrogate.loss, parameters)
        plain = torch.autograd.grad(-(process.log_prob(net, chain.states, c) * A).mean(), parameters)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    finally:
        net.requires_grad_(False)


def test_the_encoder_is_frozen_bit_for_bit_in_every_later_stage(demos):
    policy = tiny(encoder={"trunks": "mlp"}).fit(demos)
    before = weights(policy.encoder_)
    net = weights(policy.net_)
    policy.improve_offline(demos).distil(demos).improve_online(make(REACH, 8), 8)
    assert same(weights(policy.encoder_), before)
    assert not any(p.requires_grad for p in policy.encoder_.parameters())
    assert not same(weights(policy.net_), net)


def test_what_the_gate_refuses_is_not_delivered(demos):
    policy = tiny(offline={"gate_margin": 1e9}).fit(demos)
    before = weights(policy.net_)
    policy.improve_offline(demos)
    assert same(weights(policy.net_), before) and not any(c.accepted for c in policy.gate_log_)
    ungated = tiny(offline={"gate": False}).fit(demos)
    assert same(weights(ungated.net_), before)
    ungated.improve_offline(demos)
    assert not same(weights(ungated.net_), before) and ungated.gate_log_ == []


def test_policy_optimization_follows_the_critic(demos, monkeypatch):
    # A critic that likes large first actions.
    monkeypatch.setattr(IQL, "advantage", lambda self, c, a: a.flatten(1)[:, 0])
    means = {}
    for shuffled in (False, True):
        policy = tiny(offline={"steps": 60, "lr": 1e-3, "gate": False, "shuffle_advantages": shuffled}).fit(demos)
        c = policy._transitions(demos).features
        before = policy.process.sample(policy.net_, c, torch.Generator().manual_seed(0))
        policy.improve_offline(demos)
        after = policy.process.sample(policy.net_, c, torch.Generator().manual_seed(0))
        means[shuffled] = (after.actions - before.actions)[:, 0, 0].mean().item()
    assert means[False] > abs(means[True]) + 0.1


# -- online -----------------------------------------------------------------------------------------------------------


def test_a_roll_holds_whole_episodes_one_after_another(demos):
    policy = tiny(**CHUNKS, online={"decisions": 30}).fit(demos)
    e, (t, last, chain) = policy._rollout(make(REACH, 4), policy.net_, 10, 0)
    # Four parallel environments play an episode each, again and again, until there are 30 decisions or 10 episodes.
    assert len(e) in (4, 8, 10) and (t.n >= 30 or len(e) == 10) and set(e.lengths) <= set(range(1, 21))
    counts = -(-e.lengths // 3)
    ends = counts.cumsum() - 1
    assert last.nonzero()[:, 0].tolist() == ends.tolist() and t.n == counts.sum()
    terminated = e.terminated[e.ends]
    inside = (e.lengths - 1) % 3  # place of the last step in its chunk
    torch.testing.assert_close(t.discounts[ends], torch.tensor(0.99 ** (inside + 1.0) * ~terminated).float())
    # A chunk's reward is discounted from its first step.
    torch.testing.assert_close(t.rewards[ends], torch.tensor(e.rewards[e.ends] * 0.99**inside).float())
    # The recorded features and log-probabilities are those of the recorded chains.
    torch.testing.assert_close(t.features, policy._transitions(e, 3).features)
    torch.testing.assert_close(policy.process.log_prob(policy.net_, chain.states, t.features), chain.log_prob)
    # The data set shows the actions that were sent, and these are the chains' own.
    sent = policy._sent(chain.actions[:, policy._executed])
    torch.testing.assert_close(torch.from_numpy(e.actions[policy._decisions(e).steps(3)]), sent[:, 0])


class Native(gymnasium.vector.VectorEnv):
    """Restarts in the step after an episode's end."""

    def __init__(self, n):
        single = lambda: gymnasium.wrappers.TimeLimit(SingleEnv(ReachEnv), 5)  # noqa: E731
        self.inner, self.num_envs = gymnasium.vector.SyncVectorEnv([single] * n), n
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}
        for name in ("single_observation_space", "observation_space", "single_action_space", "action_space"):
            setattr(self, name, getattr(self.inner, name))

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed)

    def step(self, actions):
        return self.inner.step(actions)


def test_the_step_that_restarts_an_episode_is_no_decision(demos):
    policy = tiny(**CHUNKS).fit(demos)
    env = make(Native(3))
    e, c, chain = policy._play(env, policy.net_, 8, "test")
    torch.testing.assert_close(c, policy._transitions(e, 3).features)
    sent = policy._sent(chain.actions[:, policy._executed])
    torch.testing.assert_close(torch.from_numpy(e.actions[policy._decisions(e).steps(3)]), sent[:, 0].clamp(-1, 1))


def test_advantages_bootstrap_cut_chunks_by_the_steps_they_took():
    value = CriticMLP(2, (8,))
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.zero_()
        value.layers[-1].bias.fill_(2.0)  # V = 2 everywhere
    # Terminated; cut by the clock after three steps and after one; two decisions of one episode.
    discounts = torch.tensor([0, 0.99**3, 0.99, 0.99**3, 0])
    t = Transitions(torch.zeros(5, 2), torch.zeros(5, 1), torch.ones(5), discounts, torch.zeros(5, 2))
    last = torch.tensor([True, True, True, False, True])
    A, returns = advantages(t, last, value, 0.99**3, 0.95)
    first = 1 + 0.99**3 * 2 - 2
    assert A.tolist() == pytest.approx([-1, first, 1 + 0.99 * 2 - 2, first + 0.99**3 * 0.95 * -1, -1], abs=1e-5)
    torch.testing.assert_close(returns, A + 2)


def test_the_budget_of_episodes_is_kept_and_logged(offline, demos):
    policy = tiny().fit(demos)
    policy.improve_online(make(REACH, 4), 11)
    assert policy.online_log_[-1]["episodes"] == 11
    assert all(5e-7 <= r["lr"] <= 1e-2 and r["kl"] >= 0 for r in policy.online_log_)
    assert policy.value_ is not None and policy.world_ is None  # no offline stage before


def test_the_value_network_starts_from_the_offline_v(offline, monkeypatch):
    v_net, seen = offline.world_.iql.v_net, []
    before, made = weights(v_net), Learner.__init__
    monkeypatch.setattr(Learner, "__init__", lambda self, *given: seen.append(given[1]) or made(self, *given))
    copy.deepcopy(offline).improve_online(make(REACH, 4), 4)
    assert same(weights(seen[0]), before) and same(weights(v_net), before)


# -- the student, acting ----------------------------------------------------------------------------------------------


def test_the_student_needs_a_fraction_of_the_network_calls(offline, demos):
    policy = tiny().fit(demos)
    with pytest.raises(RuntimeError, match="no student yet"):
        policy.use = "student"
        policy.act(start_observations())
    policy.use = "teacher"
    policy.distil(demos)
    calls = {"teacher": 0, "student": 0}
    for use, net in (("teacher", policy.net_), ("student", policy.student_.net)):
        hook = net.register_forward_hook(lambda *_, use=use: calls.__setitem__(use, calls[use] + 1))
        policy.use = use
        policy.act(start_observations())
        hook.remove()
    assert calls == {"teacher": 3, "student": 1}
    assert policy.network_calls == 1


def test_the_student_is_trained_along_with_its_teacher(demos):
    policy = tiny().fit(demos).distil(demos)
    before = weights(policy.student_)
    policy.improve_online(make(REACH, 8), 8)
    assert not same(weights(policy.student_), before)
    still = tiny(student={"form": "lcm"}).fit(demos).distil(demos)
    assert not same(weights(still.student_), before)


def test_chunks_are_carried_out_before_the_next_decision(demos):
    policy = tiny(**CHUNKS).fit(demos)
    calls = []
    original = policy._decide
    policy._decide = lambda window, deterministic: (
        calls.append(len(window["observation"])) or original(window, deterministic)
    )
    obs = start_observations()
    actions = [policy.act(obs) for _ in range(7)]
    assert calls == [6, 6, 6] and actions[0].shape == (6, 2)
    policy.reset(torch.tensor([2, 4]))
    policy.act(obs)
    assert calls[3:] == [2]  # only the two that forgot


def test_acting_repeats_after_a_reset_and_takes_one_array(offline):
    obs = start_observations()
    offline.reset()
    one = offline.act(obs)
    offline.reset()
    assert torch.equal(offline.act(obs), one)
    offline.reset()
    single = offline.act(obs[0].numpy())
    assert isinstance(single, np.ndarray) and single.shape == (2,)
    sampled = [offline.act(obs, deterministic=False) for _ in range(2)]
    assert not torch.equal(*sampled)
    offline.reset()


def test_the_best_of_many_has_a_higher_q(demos):
    policy = tiny().fit(demos).improve_offline(demos)
    obs = start_observations(64)
    c = policy.encoder_({"observation": obs[:, None]})
    values = []
    for policy.best_of in (16, 1):
        policy.reset()
        actions = policy.act(obs, deterministic=False)
        values.append(policy.world_.iql.q(c, policy.scale_.normalize(actions)[:, None]))
    # Of 17 drawn alike, the best is among the 16 in 16/17 of the states; with no choice it would be 1/2.
    assert (values[0] > values[1]).float().mean() > 1 / 2 + 0.2
    with pytest.raises(RuntimeError, match="best_of needs critics"):
        tiny(best_of=4).fit(demos).act(start_observations())


# -- all of it, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [{"diffusion": {"process": "flow"}}, {"encoder": {"bottleneck": 4, "reconstruct": True, "trunks": "mlp"}}],
)
def test_all_stages_run_in_order_with_other_parts(demos, params):
    told = []
    policy = tiny(**CHUNKS, **params).fit(demos)
    policy.improve(make(REACH, 8), demos, rollouts=8, online_episodes=8, on_stage=told.append)
    told_offline = []
    tiny(**CHUNKS, **params).fit(demos).improve(
        None, demos, rollouts=0, online_episodes=0, on_stage=told_offline.append
    )
    assert [(s.name, s.episodes) for s in told_offline] == [("offline", 0), ("student", 0)]
    assert [(s.name, s.episodes) for s in told] == [("offline", 8), ("online", 16), ("student", 16)]
    assert 0 <= evaluate(policy, REACH, 10).success_rate <= 1


def test_images_and_vectors_go_in_together(demos):
    rng = np.random.default_rng(0)
    episodes = Episodes.from_list([
        Episode(
            {"image": rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), "joints": rng.normal(size=(6, 3))},
            rng.normal(size=(5, 2)), np.ones(5), terminated=True,
        )
        for _ in range(4)
    ])  # fmt: skip
    policy = tiny(**CHUNKS).fit(episodes).improve_offline(episodes)
    obs = {"image": torch.zeros(2, 16, 16, 3, dtype=torch.uint8), "joints": torch.zeros(2, 3)}
    assert policy.act(obs).shape == (2, 2)


def test_the_outer_loop_merges_and_imitates_from_scratch(demos):
    policy, seen = tiny(), []
    merged = policy.iterate(
        make(REACH, 4), demos, rounds=2, episodes_per_round=5, on_round=lambda m, e: seen.append(len(e))
    )
    assert seen == [35, 40] and len(merged) == 40
    # From scratch: the same as a fresh policy's fit in that stage, whatever was learned before.
    fresh = tiny()
    fresh.stage_ = policy.stage_
    again = policy.fit(merged, scale=demos)
    assert same(weights(again.net_), weights(fresh.fit(merged, scale=demos).net_))
    by_callback = tiny()
    assert len(by_callback.iterate(lambda p, n: demos.select(range(n)), demos, rounds=1, episodes_per_round=3)) == 33


def test_saved_and_loaded_it_acts_alike_and_goes_on(offline, demos, tmp_path):
    offline.reset()
    offline.save(tmp_path)
    loaded = RL100.load(tmp_path, device="cpu")
    obs = start_observations()
    assert torch.equal(loaded.act(obs), offline.act(obs))
    offline.reset()
    assert loaded.gate_log_ == offline.gate_log_ and loaded.cost() == offline.cost()
    loaded.distil(demos)
    assert same(weights(loaded.encoder_), weights(offline.encoder_))


def test_interrupted_stages_go_on_bit_for_bit(demos, tmp_path):
    whole = tiny().fit(demos).improve_offline(demos).distil(demos).improve_online(make(REACH, 8), 30)
    fatal = {"fit": 0.5, "improve_offline": 0.9, "distil": 0.6, "improve_online": 0.4}

    def run(policy, stop=None):
        def progress(stage):
            def inner(done):
                if stage == stop and done >= fatal[stage]:
                    raise KeyboardInterrupt

            return inner

        often = {"checkpoint": tmp_path, "checkpoint_every": 2}
        policy.fit(demos, progress=progress("fit"), **often)
        policy.improve_offline(demos, progress=progress("improve_offline"), **often)
        policy.distil(demos, progress=progress("distil"), **often)
        policy.improve_online(make(REACH, 8), 30, progress=progress("improve_online"), checkpoint=tmp_path)
        return policy

    for stage in fatal:
        with pytest.raises(KeyboardInterrupt):
            run(tiny(), stage)
    resumed = run(tiny())
    for name in ("net_", "encoder_", "student_", "value_"):
        assert same(weights(getattr(resumed, name)), weights(getattr(whole, name))), name
    assert resumed.gate_log_ == whole.gate_log_ and resumed.online_log_ == whole.online_log_
    again = run(tiny())  # everything is read back
    assert same(weights(again.net_), weights(whole.net_))
    with pytest.raises(ValueError, match="its params differs"):
        tiny(seed=1).fit(demos, checkpoint=tmp_path)


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_its_last_steps(demos, tmp_path):
    code = f"""
        import os, signal, torch
        torch.set_num_threads(1)
        from anytask.control import demonstrations
        from anytask.control.rl100 import RL100
        demos = demonstrations("{REACH}", 30, speed=(0.25, 1.0), noise=0.3, seed=7)
        policy = RL100.from_preset('small', **{TINY!r})
        kill = lambda done: done > 0.6 and os.kill(os.getpid(), signal.SIGKILL)
        policy.fit(demos, checkpoint="{tmp_path}", checkpoint_every=2)
        policy.improve_offline(demos, checkpoint="{tmp_path}", checkpoint_every=2, progress=kill)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == -9
    resumed = tiny().fit(demos, checkpoint=tmp_path).improve_offline(demos, checkpoint=tmp_path)
    assert same(weights(resumed.net_), weights(tiny().fit(demos).improve_offline(demos).net_))


def test_a_failed_stage_leaves_the_policy_as_it_was(offline, demos):
    before, log = weights(offline.net_), list(offline.gate_log_)

    def fail(done):
        raise RuntimeError("no")

    for stage in (offline.fit, offline.improve_offline, offline.distil):
        with pytest.raises(RuntimeError, match="no"):
            stage(demos, progress=fail)
    with pytest.raises(RuntimeError, match="no"):
        offline.improve_online(make(REACH, 4), 4, progress=fail)
    assert same(weights(offline.net_), before) and offline.gate_log_ == log and offline.student_ is None


@pytest.mark.parametrize(
    ("params", "named"),
    [({"horizon": 2, "n_obs": 2, "n_executed": 2}, "horizon"), ({"diffusion": {"eta": 2.0}}, "eta"),
     ({"diffusion": {"n_steps": 200}}, "n_train"), ({"diffusion": {"sigma_max": 0.01}}, "sigma_max"),
     ({"dynamics": {"elites": 8}}, "elites"), ({"online": {"lr": 1.0}}, "lr_bounds")],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_named(params, named):
    with pytest.raises(ValueError, match=named):
        tiny(**params)


class Spoiled(torch.nn.Module):
    """A denoiser whose predictions are no numbers from some call on, or only their gradient."""

    def __init__(self, shape, width, after=3, gradient=False):
        super().__init__()
        self.layer, self.shape = torch.nn.Linear(width, shape[0] * shape[1]), shape
        self.left, self.gradient = after, gradient

    def forward(self, a, tau, c):
        out = self.layer(c).reshape(-1, *self.shape)
        self.left -= self.training
        if self.left >= 0:
            return out
        # The root of 0 is 0, with an infinite slope.
        return out + (out - out.detach()).clamp_min(0).sqrt() if self.gradient else out * torch.nan


@pytest.mark.parametrize(("gradient", "what"), [(False, "the loss"), (True, "the gradient")])
def test_numbers_that_are_none_end_imitation_by_name_and_leave_the_policy_as_it_was(demos, gradient, what):
    policy = tiny(diffusion={"denoiser": lambda shape, width: Spoiled(shape, width, after=100)}).fit(demos)
    before = weights(policy.net_)
    policy.diffusion.denoiser = lambda shape, width: Spoiled(shape, width, gradient=gradient)
    with pytest.raises(FloatingPointError, match=f"imitation stage: {what} is NaN"):
        policy.fit(demos)
    assert same(weights(policy.net_), before) and policy.stage_ == 1


def spoil(monkeypatch, cls, method, value=torch.nan):
    """Multiply what a method returns by NaN."""
    old = getattr(cls, method)
    monkeypatch.setattr(cls, method, lambda *args, **given: old(*args, **given) * value)


@pytest.mark.parametrize(
    ("cls", "method", "stage", "what"),
    [
        (IQL, "v", "offline", "the loss of the critics at step 1"),
        (EnsembleDynamics, "step", "offline", "the value of the policy to begin with"),
        (IQL, "advantage", "offline", "an advantage"),
        (DDIM, "log_prob", "offline", "the loss"),
        (ObservationEncoder, "forward", "offline", "a feature of what was seen"),
        (ObservationEncoder, "forward", "student", "a feature of what was seen"),
        (Consistency, "forward", "student", "the loss"),
        (DDIM, "decide", "student", "the loss"),
        (ObservationEncoder, "forward", "online", "an action of the teacher"),
        (CriticMLP, "forward", "online", "the loss"),
        (DDIM, "log_prob", "online", "the loss"),
        (Consistency, "forward", "online", "the loss"),
    ],
)
def test_numbers_that_are_none_end_a_stage_by_name_and_leave_the_policy_as_it_was(
    demos, distilled, monkeypatch, cls, method, stage, what
):
    policy = copy.deepcopy(distilled)
    before = {name: weights(getattr(policy, name)) for name in ("net_", "student_", "world_", "scale_")}
    spoil(monkeypatch, cls, method)
    learn = {"offline": policy.improve_offline, "student": policy.distil}
    with pytest.raises(FloatingPointError, match=f"{stage} stage: {what} .*NaN"):
        policy.improve_online(make(REACH, 4), 4) if stage == "online" else learn[stage](demos)
    monkeypatch.undo()
    assert all(same(weights(getattr(policy, name)), before[name]) for name in before)
    assert policy.stage_ == distilled.stage_ and policy.action_bounds_ is None
    assert torch.equal(policy.act(start_observations()), distilled.act(start_observations()))
    distilled.reset()


def test_weights_that_are_no_numbers_are_not_delivered(demos, distilled, monkeypatch):
    policy = copy.deepcopy(distilled)
    spoil(monkeypatch, AveragedModel, "update_parameters", 1)
    monkeypatch.setattr(
        AveragedModel, "update_parameters", lambda self, net: next(self.parameters()).data.fill_(torch.inf)
    )
    with pytest.raises(FloatingPointError, match=r"student stage: .* at the end is NaN"):
        policy.distil(demos)
    assert same(weights(policy.student_), weights(distilled.student_))


class Broken(ReachEnv):
    """A world that shows, rewards or ends in what is no number after a few steps."""

    broken = ""

    def _advance(self, actions):
        reward, terminated, success = super()._advance(actions)
        bad = reward * torch.nan if self.broken == "reward" else reward
        return bad, terminated | (self.elapsed >= 2), success

    def _observe(self, rows=None):
        obs = super()._observe(rows)
        spoiled = self.broken == "observation" or (self.broken == "final" and bool((self.elapsed >= 3).any()))
        return obs * torch.nan if spoiled and rows is None else obs


@pytest.mark.parametrize(
    ("broken", "what"), [("observation", "observation"), ("reward", "reward of Broken"), ("final", "NaN|finite")]
)
def test_a_world_that_breaks_ends_the_online_stage_by_name(distilled, broken, what):
    policy, world = copy.deepcopy(distilled), Broken(4)
    world.broken = broken
    with pytest.raises(ValueError, match=f"online stage: .*({what})"):
        policy.improve_online(world, 8)
    assert same(weights(policy.net_), weights(distilled.net_)) and policy.action_bounds_ is None


def test_signals_that_teach_nothing_warn(demos, distilled):
    policy = copy.deepcopy(distilled)
    worthless = replace(demos, rewards=np.zeros(demos.steps))
    with pytest.warns(UserWarning, match="no reward above 0 in 30 episodes"):
        policy.improve_offline(worthless)
    with pytest.warns(UserWarning, match="updated in 4 steps only"):
        tiny(offline={"steps": 4}).fit(demos).improve_offline(demos)
    with pytest.warns(UserWarning, match="updated in 1 round only"):
        policy.improve_online(make(REACH, 4), 4)
    with pytest.warns(UserWarning, match="advantages are flat"):
        assert normalized(torch.full((8,), 0.3)).abs().max() < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distilled_again = copy.deepcopy(distilled)
        distilled_again.improve_offline(demos)


def test_a_failed_act_changes_neither_memory_nor_random_numbers(demos):
    policy = tiny(**CHUNKS, diffusion={"sigma_min": 0.05}).fit(demos)
    obs = start_observations(4)

    def acts(fail):
        policy.reset()
        out = []
        for step in range(5):
            if fail and step in (0, 1, 3):
                for wrong in (obs[:, :2], obs * torch.nan, {"other": obs}, obs[:0], obs[None]):
                    with pytest.raises(ValueError):
                        policy.act(wrong, deterministic=False)
                policy.use = "student"  # there is none: this fails after the observation was taken in
                if step in (0, 3):
                    with pytest.raises(RuntimeError, match="no student"):
                        policy.act(obs)
                policy.use = "teacher"
            out.append(policy.act(obs + step, deterministic=False))
        return torch.stack(out)

    assert torch.equal(acts(fail=True), acts(fail=False))
    with torch.no_grad():
        next(policy.net_.parameters()).fill_(torch.nan)
    policy.reset()
    with pytest.raises(FloatingPointError, match="an action of the teacher is NaN"):
        policy.act(obs)


@pytest.mark.parametrize("use", ["teacher", "student"])
def test_actions_stay_within_the_space_of_the_world_it_plays_in(demos, use):
    # Whatever is predicted, is far too large.
    policy = tiny(diffusion={"denoiser": lambda shape, width: Far(shape, width)}).fit(demos).distil(demos)
    policy.use, seen = use, demos.actions
    actions = policy.act(start_observations(64)).numpy()
    assert (actions >= seen.min(0)).all() and (actions <= seen.max(0)).all() and np.abs(actions).max() > 0.9
    world = make(REACH, 4)
    for space in (world.single_action_space, gymnasium.spaces.Box(-0.5, 2.0, (2,))):
        world.single_action_space = space
        policy.rollouts(world, 2)
        policy.reset()
        actions = policy.act(start_observations(64), deterministic=False).numpy()
        assert all(space.contains(action) for action in actions)
        assert np.abs(actions).max() > 0.45
    with pytest.raises(ValueError, match="takes Discrete"):
        policy.improve_online("CartPole-v1", 2)


class Far(torch.nn.Module):
    """A denoiser that sees actions far outside wherever it looks."""

    def __init__(self, shape, width):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(-20.0))

    def forward(self, a, tau, c):
        return self.scale * a.sign()


def test_checkpoints_without_the_choice_of_noise_go_on(demos, tmp_path):
    tiny().fit(demos, checkpoint=tmp_path)
    assert '"noise"' not in (tmp_path / "00" / "state.json").read_text()
    with pytest.raises(ValueError, match="its params differs"):
        tiny(diffusion={"noise": "recomputed"}).fit(demos, checkpoint=tmp_path)


def test_bad_data_are_refused(offline, demos):
    other = Episodes.from_list([Episode(np.zeros((3, 5)), np.zeros((2, 2)))])
    with pytest.raises(ValueError, match="is wanted"):
        offline.improve_offline(other)
    whole = Episodes.from_list([Episode(np.zeros((3, 3)), np.array([0, 1]))])
    with pytest.raises(ValueError, match="continuous actions"):
        tiny().fit(whole)
    with pytest.raises(ValueError, match="episodes must be"):
        offline.improve_online(make(REACH, 2), 0)
    for wrong, named in (({"rollouts": -1}, "rollouts"), ({"online_episodes": 1.5}, "online_episodes")):
        with pytest.raises(ValueError, match=f"{named} must be"):
            offline.improve(make(REACH, 2), demos, **wrong)
    with pytest.raises(ValueError, match="continuous action dimensions"):
        offline.improve("CartPole-v1", demos)
    for wrong in ({"stages": None}, {"stages": ["online", "encore"]}, {"diffusion": {"denoiser": "unet"}}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong.get("diffusion", wrong)))):
            tiny(**wrong)


def test_gaussian_cloning_uses_the_same_machinery(demos):
    policy = tiny(GaussianBC).fit(demos)
    before = weights(policy.net_)
    assert policy.network_calls == 1
    policy.improve(make(REACH, 8), demos, rollouts=0, online_episodes=8)
    assert not torch.equal(before["log_std"], policy.net_.log_std)
    assert policy.gate_log_ == [] and policy.online_log_[-1]["episodes"] == 8
