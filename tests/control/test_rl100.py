import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from anytask.control import demonstrations, evaluate, make
from anytask.control.parts.policy_gradient import normalise, ppo_loss
from anytask.control.rl100 import RL100
from anytask.control.rl100.baselines import GaussianBC
from anytask.control.rl100.data import ActionRange, Decisions, Memory
from anytask.control.rl100.offline import OfflineStage, OPEGate
from anytask.control.rl100.offline_rl import CriticMLP
from anytask.control.rl100.online import OnlineStage, Roll
from anytask.datasets.episodes import Episode, Episodes

CONTRACT = {
    "hidden": (16,), "imitation_epochs": 2, "critic_hidden": (8,), "critic_epochs": 1,
    "dynamics_hidden": (8,), "dynamics_steps": 2, "offline_steps": 2, "gate_every": 1, "gate_states": 4,
    "online_batch": 8, "online_epochs": 1, "value_warmup": 1, "distil_steps": 2, "horizon": 3, "n_obs": 2,
    "n_executed": 2, "RL100-student": {"use": "student"},
}  # fmt: skip
EXEMPT = {"test_a_copy_that_was_reset_acts_as_one_that_has_just_begun": "draws the noise that it denoises"}

REACH = "anytask/Reach-v0"
TINY = {
    "preset": "small", "hidden": (32,), "imitation_epochs": 6, "critic_hidden": (32,), "critic_epochs": 3,
    "dynamics_hidden": (16,), "dynamics_steps": 20, "offline_steps": 8, "offline_batch": 64, "gate_every": 4,
    "gate_states": 16, "rollout_length": 3, "distil_steps": 10, "online_batch": 100, "online_epochs": 2,
    "n_steps": 3, "device": "cpu",
}  # fmt: skip
CHUNKS = {**TINY, "horizon": 4, "n_obs": 2, "n_executed": 3}


@pytest.fixture(scope="module")
def demos():
    torch.set_num_threads(1)
    return demonstrations(REACH, 30, speed=(0.25, 1.0), noise=0.3, seed=7)


@pytest.fixture(scope="module")
def offline(demos):
    return RL100(**TINY).fit(demos).improve_offline(demos)


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
    encode = lambda window: window["observation"].flatten(1)  # noqa: E731
    t = data.transitions(encode, 0.99)
    assert t.rewards[0].item() == pytest.approx(3.435598, abs=1e-6)
    assert t.discounts[0].item() == pytest.approx(0.960596, abs=1e-6)
    assert t.next_features[:, 0].tolist() == [4, 5, 5, 5, 5, 102, 102]
    # The first episode ended in the world; the second was cut by the clock after 2 and 1 more steps.
    assert t.discounts[1:].tolist() == pytest.approx([0, 0, 0, 0, 0.99**2, 0.99], abs=1e-6)
    assert data.transitions(encode, 0.99, bootstrap_timeouts=False).discounts[5:].tolist() == [0, 0]
    assert data.transitions(encode, 0.99, reward_scale=2.0).rewards[4].item() == 8


def test_memory_fills_fresh_windows_and_forgets_single_copies():
    memory = Memory(2)
    memory.see({"o": torch.tensor([[1.0], [5.0]])})
    memory.plan(torch.tensor([0, 1]), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]))
    assert memory.next()[:, 0].tolist() == [1, 3]
    memory.reset(torch.tensor([1]))
    memory.see({"o": torch.tensor([[2.0], [6.0]])})
    assert memory.window["o"][..., 0].tolist() == [[1, 2], [6, 6]] and memory.left.tolist() == [1, 0]


# -- offline ----------------------------------------------------------------------------------------------------------


def test_the_gate_passes_only_what_beats_the_best():
    gate = OPEGate(1.0, margin=0.05)
    assert [gate.offer(J) for J in (0.9, 1.1, 1.05, 1.2)] == [False, True, False, True]
    assert [c.best for c in gate.log] == [1.0, 1.0, 1.1, 1.1]
    assert not OPEGate(1.0, margin=0.2).offer(1.15)
    assert not OPEGate(-1.0, margin=0.05).offer(-0.96)  # the margin is a share of the magnitude


def test_at_the_old_policy_ratios_are_one_and_the_gradient_is_the_policy_gradient(offline):
    net, process = offline.net_, offline.process
    c = offline._encode({"observation": start_observations(32)[:, None]})
    chain = process.sample(net, c, (1, 2), torch.Generator().manual_seed(0))
    A = normalise(torch.randn(32, generator=torch.Generator().manual_seed(1)))
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
    policy = RL100(**TINY, encoder="mlp").fit(demos)
    before = weights(policy.encoder_)
    net = weights(policy.net_)
    policy.improve_offline(demos).distil(demos).improve_online(make(REACH, 8), 8)
    assert same(weights(policy.encoder_), before)
    assert not any(p.requires_grad for p in policy.encoder_.parameters())
    assert not same(weights(policy.net_), net)


def test_what_the_gate_refuses_is_not_delivered(demos):
    policy = RL100(**TINY, gate_margin=1e9).fit(demos)
    before = weights(policy.net_)
    policy.improve_offline(demos)
    assert same(weights(policy.net_), before) and not any(c.accepted for c in policy.gate_log_)
    ungated = RL100(**TINY, gate=False).fit(demos)
    assert same(weights(ungated.net_), before)
    ungated.improve_offline(demos)
    assert not same(weights(ungated.net_), before) and ungated.gate_log_ == []


def test_one_offline_step_moves_the_candidate_alone_and_rate_and_clip_fall(offline):
    stage = OfflineStage(offline.net_, offline.process, offline.world_, (1, 2), slice(0, 1), offline.settings, 0)
    old, critics = weights(stage.old), weights(offline.world_.iql.q_net)
    rates = []
    for _ in range(3):
        stage.step()
        rates.append(stage.optimizer.param_groups[0]["lr"])
    assert same(weights(stage.old), old) and not same(weights(stage.candidate), old)
    assert same(weights(offline.world_.iql.q_net), critics)
    lr = offline.settings.offline_lr
    assert rates == pytest.approx([lr, lr * 7 / 8, lr * 6 / 8])


def test_the_gates_estimate_repeats(offline):
    stage = OfflineStage(offline.net_, offline.process, offline.world_, (1, 2), slice(0, 1), offline.settings, 0)
    assert stage.value(stage.old) == stage.value(stage.candidate) == stage.gate.best


def test_policy_optimisation_follows_the_critic(demos):
    # A critic that likes large first actions.
    class Liking:
        def advantage(self, c, a):
            return a.flatten(1)[:, 0]

        def q(self, c, a):
            return a.flatten(1)[:, 0]

    params = {**TINY, "offline_steps": 60, "offline_lr": 1e-3, "gate": False}
    means = {}
    for shuffled in (False, True):
        policy = RL100(**{**params, "shuffle_advantages": shuffled}).fit(demos)
        data = policy._decisions(demos).transitions(policy._encode, 0.99)
        world = policy._world(data)._replace(iql=Liking())
        stage = OfflineStage(policy.net_, policy.process, world, (1, 2), slice(0, 1), policy.settings, 0)
        before = policy.process.sample(stage.old, data.features, (1, 2), torch.Generator().manual_seed(0))
        while stage.steps < 60:
            stage.step()
        after = policy.process.sample(stage.candidate, data.features, (1, 2), torch.Generator().manual_seed(0))
        means[shuffled] = (after.actions - before.actions)[:, 0, 0].mean().item()
    assert means[False] > abs(means[True]) + 0.1


# -- online -----------------------------------------------------------------------------------------------------------


def test_a_roll_holds_whole_episodes_in_columns(demos):
    policy = RL100(**CHUNKS).fit(demos)
    played = policy._play(make(REACH, 4), 10, policy.net_, None, "test")
    e, roll = played.episodes, played.roll
    assert len(e) == 10 and set(e.lengths) <= set(range(1, 21))
    assert (roll.steps * roll.valid).sum(0).tolist() == e.lengths.tolist()
    assert roll.valid.sum(0).tolist() == [-(-n // 3) for n in e.lengths]
    last = roll.valid.sum(0) - 1
    columns = torch.arange(10)
    ended = np.array([e.terminated[i] for i in e.ends])
    assert roll.terminated[last, columns].tolist() == ended.tolist()
    assert roll.truncated[last, columns].tolist() == (~ended).tolist()
    # A chunk's reward is discounted from its first step.
    for i in range(10):
        n = int(e.lengths[i])
        inside = (n - 1) % 3
        expected = e.rewards[e.ends[i]] * 0.99**inside
        assert roll.rewards[last[i], i].item() == pytest.approx(expected, abs=1e-6)
    # The recorded log-probabilities are those of the recorded chains.
    again = policy.process.log_prob(policy.net_, roll.states[:, roll.valid], roll.features[roll.valid])
    torch.testing.assert_close(again, roll.log_prob[:, roll.valid])
    # The data set shows the actions that were sent.
    sent = policy.scale_.restore(roll.states[-1].clamp(-1, 1))[:, :, policy._executed]
    torch.testing.assert_close(torch.from_numpy(e.actions[e.starts[0]]), sent[0, 0, 0])


def test_advantages_bootstrap_cut_chunks_by_the_steps_they_took(demos):
    policy = RL100(**{**CHUNKS, "bootstrap_timeouts": True}).fit(demos)
    width = policy.encoder_.width
    value = CriticMLP(width, (8,))
    with torch.no_grad():
        for parameter in value.parameters():
            parameter.zero_()
        value.layers[-1].bias.fill_(2.0)  # V = 2 everywhere
    stage = OnlineStage(policy.net_, value, policy.process, (4, 2), policy.settings, 0)
    no, yes = torch.tensor([[False]]), torch.tensor([[True]])
    zeros, one = torch.zeros(1, 1, width), torch.ones(1, 1)
    states, log_prob = torch.zeros(4, 1, 1, 4, 2), torch.zeros(3, 1, 1)
    for terminated, truncated, steps, expected in (
        (yes, no, 3, 1 - 2),
        (no, yes, 3, 1 + 0.99**3 * 2 - 2),
        (no, yes, 1, 1 + 0.99 * 2 - 2),
    ):
        roll = Roll(zeros, states, log_prob, one, terminated, truncated, yes, torch.tensor([[steps]]), zeros)
        assert stage.advantages(roll)[0].item() == pytest.approx(expected, abs=1e-5)


def test_the_budget_of_episodes_is_kept_and_logged(offline, demos):
    policy = RL100(**TINY).fit(demos)
    policy.improve_online(make(REACH, 4), 11)
    assert policy.online_log_[-1]["episodes"] == 11
    assert all(5e-7 <= r["lr"] <= 1e-2 and r["kl"] >= 0 for r in policy.online_log_)
    assert policy.value_ is not None and policy.world_ is None  # no offline stage before


def test_the_value_network_starts_from_the_offline_v(offline, monkeypatch):
    seen = {}

    class Stop(Exception):
        pass

    def init(self, net, value, *args):
        seen["value"] = value
        raise Stop

    monkeypatch.setattr(OnlineStage, "__init__", init)
    with pytest.raises(Stop):
        offline.improve_online(make(REACH, 2), 4)
    assert seen["value"] is offline.world_.iql.v_net


# -- the student, acting ----------------------------------------------------------------------------------------------


def test_the_student_needs_a_fraction_of_the_network_calls(offline, demos):
    policy = RL100(**TINY).fit(demos)
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
    policy = RL100(**TINY).fit(demos).distil(demos)
    before = weights(policy.student_)
    policy.improve_online(make(REACH, 8), 8)
    assert not same(weights(policy.student_), before)
    still = RL100(**TINY, student_form="lcm").fit(demos).distil(demos)
    assert not same(weights(still.student_), before)


def test_chunks_are_carried_out_before_the_next_decision(demos):
    policy = RL100(**CHUNKS).fit(demos)
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
    policy = RL100(**TINY).fit(demos).improve_offline(demos)
    obs = start_observations(64)
    c = policy._encode({"observation": obs[:, None]})
    values = []
    for policy.settings.best_of in (16, 1):
        policy.reset()
        actions = policy.act(obs, deterministic=False)
        values.append(policy.world_.iql.q(c, policy.scale_.normalise(actions)[:, None]))
    # Of 17 drawn alike, the best is among the 16 in 16/17 of the states; with no choice it would be 1/2.
    assert (values[0] > values[1]).float().mean() > 1 / 2 + 0.2
    with pytest.raises(RuntimeError, match="best_of needs critics"):
        RL100(**TINY, best_of=4).fit(demos).act(start_observations())


# -- all of it, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"process": "flow"}, {"bottleneck": 4, "reconstruct": True, "encoder": "mlp"}])
def test_all_stages_run_in_order_with_other_parts(demos, params):
    told = []
    policy = RL100(**CHUNKS, **params).fit(demos)
    policy.improve(make(REACH, 8), demos, rollouts=8, online_episodes=8, on_stage=told.append)
    assert [(s.name, s.episodes) for s in told] == [("offline", 8), ("online", 16), ("student", 16)]
    assert 0 <= evaluate(policy, REACH, 10).success_rate <= 1


def test_pictures_and_vectors_go_in_together(demos):
    rng = np.random.default_rng(0)
    episodes = Episodes.from_list([
        Episode(
            {"image": rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), "joints": rng.normal(size=(6, 3))},
            rng.normal(size=(5, 2)), np.ones(5), terminated=True,
        )
        for _ in range(4)
    ])  # fmt: skip
    policy = RL100(**CHUNKS).fit(episodes).improve_offline(episodes)
    obs = {"image": torch.zeros(2, 16, 16, 3, dtype=torch.uint8), "joints": torch.zeros(2, 3)}
    assert policy.act(obs).shape == (2, 2)


def test_the_outer_loop_merges_and_imitates_from_scratch(demos):
    policy, seen = RL100(**TINY), []
    merged = policy.iterate(
        make(REACH, 4), demos, rounds=2, episodes_per_round=5, on_round=lambda m, e: seen.append(len(e))
    )
    assert seen == [35, 40] and len(merged) == 40
    # From scratch: the same as a fresh policy's fit in that stage, whatever was learned before.
    fresh = RL100(**TINY)
    fresh._stage = policy._stage
    again = policy.fit(merged, scale=demos)
    assert same(weights(again.net_), weights(fresh.fit(merged, scale=demos).net_))
    by_callback = RL100(**TINY)
    assert len(by_callback.iterate(lambda p, n: demos.select(range(n)), demos, rounds=1, episodes_per_round=3)) == 33


def test_saved_and_loaded_it_acts_alike_and_goes_on(offline, demos, tmp_path):
    offline.reset()
    offline.save(tmp_path)
    loaded = RL100.load(tmp_path)
    obs = start_observations()
    assert torch.equal(loaded.act(obs), offline.act(obs))
    offline.reset()
    assert loaded.gate_log_ == offline.gate_log_ and loaded.cost() == offline.cost()
    loaded.distil(demos)
    assert same(weights(loaded.encoder_), weights(offline.encoder_))


def test_interrupted_stages_go_on_bit_for_bit(demos, tmp_path):
    whole = RL100(**TINY).fit(demos).improve_offline(demos).distil(demos).improve_online(make(REACH, 8), 30)
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
            run(RL100(**TINY), stage)
    resumed = run(RL100(**TINY))
    for name in ("net_", "encoder_", "student_", "value_"):
        assert same(weights(getattr(resumed, name)), weights(getattr(whole, name))), name
    assert resumed.gate_log_ == whole.gate_log_ and resumed.online_log_ == whole.online_log_
    again = run(RL100(**TINY))  # everything is read back
    assert same(weights(again.net_), weights(whole.net_))
    with pytest.raises(ValueError, match="other data or settings"):
        RL100(**TINY, seed=1).fit(demos, checkpoint=tmp_path)


@pytest.mark.slow
def test_a_killed_process_loses_nothing_but_its_last_steps(demos, tmp_path):
    code = f"""
        import os, signal, torch
        torch.set_num_threads(1)
        from anytask.control import demonstrations
        from anytask.control.rl100 import RL100
        demos = demonstrations("{REACH}", 30, speed=(0.25, 1.0), noise=0.3, seed=7)
        policy = RL100(**{TINY!r})
        kill = lambda done: done > 0.6 and os.kill(os.getpid(), signal.SIGKILL)
        policy.fit(demos, checkpoint="{tmp_path}", checkpoint_every=2)
        policy.improve_offline(demos, checkpoint="{tmp_path}", checkpoint_every=2, progress=kill)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == -9
    resumed = RL100(**TINY).fit(demos, checkpoint=tmp_path).improve_offline(demos, checkpoint=tmp_path)
    assert same(weights(resumed.net_), weights(RL100(**TINY).fit(demos).improve_offline(demos).net_))


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


def test_the_seed_alone_decides(demos):
    state = torch.get_rng_state()
    one, two, other = (RL100(**TINY, seed=s).fit(demos).improve_offline(demos) for s in (3, 3, 4))
    assert same(weights(one.net_), weights(two.net_)) and not same(weights(one.net_), weights(other.net_))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "params",
    [{"horizon": 2, "n_obs": 2, "n_executed": 2}, {"n_steps": 0}, {"gamma": 1.5}, {"action_share": 0.0},
     {"process": "ddpm"}, {"stages": ["imitation", "onlin"]}, {"offline_lr": 0.0}, {"gate_margin": -0.1},
     {"student_form": "mse"}, {"best_of": 0}, {"preset": "large"}],
)  # fmt: skip
def test_bad_settings_are_named(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        RL100(**{**TINY, **params})


def test_bad_data_are_refused_at_the_door(offline, demos):
    with pytest.raises(RuntimeError, match="call fit"):
        RL100(**TINY).act(start_observations())
    other = Episodes.from_list([Episode(np.zeros((3, 5)), np.zeros((2, 2)))])
    with pytest.raises(ValueError, match="the policy was"):
        offline.improve_offline(other)
    whole = Episodes.from_list([Episode(np.zeros((3, 3)), np.array([0, 1]))])
    with pytest.raises(ValueError, match="continuous actions"):
        RL100(**TINY).fit(whole)
    with pytest.raises(ValueError, match="episodes must be"):
        offline.improve_online(make(REACH, 2), 0)


def test_gaussian_cloning_uses_the_same_machinery(demos):
    policy = GaussianBC(**{**TINY, "n_steps": 1}).fit(demos)
    before = weights(policy.net_)
    assert policy.network_calls == 1
    policy.improve(make(REACH, 8), demos, rollouts=0, online_episodes=8)
    assert not torch.equal(before["log_std"], policy.net_.log_std)
    assert policy.gate_log_ == [] and policy.online_log_[-1]["episodes"] == 8
