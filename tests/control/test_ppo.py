import copy
import math
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from anytask.control import evaluate
from anytask.control.base import BatchedEnv
from anytask.control.parts.observation_encoders import SmallCNN
from anytask.control.parts.policy_gradient import weak_signals
from anytask.control.ppo import PPO
from anytask.control.ppo.network import ActorCritic, Encoder, NetworkSettings, space_from_tree, space_to_tree
from anytask.control.ppo.rounds import ProcessGroup, collect
from anytask.control.stepping import OverlappedStepper

pytestmark = pytest.mark.filterwarnings("ignore:the policy was updated", "ignore:no reward above 0")

CONTRACT = {
    "num_envs": 4, "horizon": 8, "minibatches": 2, "network": {"hidden": (8,)},
    "PPO-memory": {"network": {"hidden": (8,), "core": "gru", "core_width": 8, "previous_action": True}},
}  # fmt: skip

SMALL = {"num_envs": 4, "horizon": 8, "epochs": 2, "minibatches": 2, "network": {"hidden": (16,)}, "device": "cpu"}


class Echo(BatchedEnv):
    """The reward is the first column of the action; episodes end after 3 to 6 steps, by the copy's own clock."""

    STATE = ("length", "cut")

    def __init__(self, num_envs=1, *, cut=True, huge_from=None, **options):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        super().__init__(num_envs, box, spaces.Box(-1, 1, (2,), np.float32), 6, **options)
        self.huge_from, self.steps = huge_from, 0
        self.length = torch.zeros(num_envs, dtype=torch.int64)
        self.cut = torch.full((num_envs,), cut)

    def _restart(self, rows):
        self.length[rows] = 3 + self.random.integers(1, 4, rows=rows)[:, 0]
        if bool(self.cut[0]):
            self.limits[rows] = self.length[rows]

    def _advance(self, actions):
        self.steps += 1
        reward = actions[:, 0].clone()
        if self.huge_from is not None and self.steps >= self.huge_from:
            reward[0] = 1e30  # whose square is no float32
        ended = (self.elapsed + 1 >= self.length) & ~self.cut
        return reward, ended, actions[:, 0] > 0

    def _observe(self, rows=None):
        rows = torch.arange(self.num_envs) if rows is None else rows
        return torch.stack([self.elapsed[rows].float(), self.length[rows].float()], 1)


class Cue(BatchedEnv):
    """The first observation is a sign, and the action two steps later has to repeat it: needs a memory."""

    STATE = ("cue",)

    def __init__(self, num_envs=1, **options):
        box = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(num_envs, box, spaces.Box(-1, 1, (1,), np.float32), 3, **options)
        self.cue = torch.zeros(num_envs)

    def _restart(self, rows):
        self.cue[rows] = self.random.integers(1, 2, rows=rows)[:, 0].float() * 2 - 1

    def _advance(self, actions):
        last = self.elapsed == 2
        right = actions[:, 0].sign() == self.cue
        return (right & last).float(), last.clone(), right

    def _observe(self, rows=None):
        rows = torch.arange(self.num_envs) if rows is None else rows
        cue = torch.where(self.elapsed[rows] == 0, self.cue[rows], 0.0)
        return torch.stack([cue, self.elapsed[rows].float() / 3], 1)


def small(**settings):
    return PPO(**{**SMALL, **settings, "network": {**SMALL["network"], **settings.get("network", {})}})


def weights(learner):
    return {name: value.clone() for name, value in learner.network_.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def one_round(env, **settings):
    learner = small(**{"gamma": 0.0, **settings})
    learner._settle(env)
    run = learner._begin(env, ProcessGroup())
    return learner, run, collect(learner.network_, env, run, learner)[0]


# -- what is learned from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [False, True])
def test_every_action_is_credited_with_its_own_reward(late):
    # With gamma = 0 the return of a step is its reward, which in this world is the action itself.
    env = OverlappedStepper(Echo(4)) if late else Echo(4)
    _, _, batch = one_round(env)
    torch.testing.assert_close(batch.returns, batch.actions[..., 0].clamp(-1, 1))


def test_late_observations_stand_one_step_behind():
    _, _, plain = one_round(Echo(4))
    _, run, late = one_round(OverlappedStepper(Echo(4)))
    assert run.lag == 1
    first = plain.obs["observation"][0]
    assert torch.equal(late.obs["observation"][0], first)
    assert torch.equal(late.obs["observation"][1], first)  # nothing new had come back yet
    # An action chosen on the last state before an end was sent when the next episode had begun: it does not count.
    clock, length = late.obs["observation"].unbind(-1)
    assert torch.equal(late.counted == 0, clock == length - 1)
    assert torch.equal(late.starts[2:], clock[2:] == 0)


@pytest.mark.parametrize("late", [False, True])
def test_where_a_round_is_cut_does_not_change_what_a_step_is_worth(late):
    rounds = []
    for horizon in (8, 9):
        env = OverlappedStepper(Echo(4)) if late else Echo(4)
        rounds.append(one_round(env, horizon=horizon, gamma=0.5, lambda_=0.0)[2])
    torch.testing.assert_close(rounds[0].returns, rounds[1].returns[:8])


@pytest.mark.parametrize("late", [False, True])
def test_time_outs_are_worth_what_would_have_come(late):
    env = OverlappedStepper(Echo(4)) if late else Echo(4)
    learner, _, batch = one_round(env, gamma=0.5, lambda_=0.0)
    A = batch.returns - batch.actions[..., 0].clamp(-1, 1)  # gamma times the value of what comes next
    net = learner.network_
    if late:
        torch.testing.assert_close(A[:-1], 0.5 * batch.values[1:])
        return
    clock, length = batch.obs["observation"].unbind(-1)
    final = torch.stack([clock + 1, length], -1)  # also where the clock then runs out
    with torch.no_grad():
        obs = {"observation": final}
        following = net.value(net.features(obs, torch.zeros(4, 0), torch.zeros(8, 4))[0], obs)
    torch.testing.assert_close(A, 0.5 * following)


def test_without_bootstrapping_and_at_true_ends_nothing_comes_after():
    for env, settings in ((Echo(4), {"bootstrap_timeouts": False}), (Echo(4, cut=False), {})):
        _, _, batch = one_round(env, gamma=0.5, lambda_=0.0, **settings)
        clock, length = batch.obs["observation"].unbind(-1)
        last = clock == length - 1
        assert last.any()
        torch.testing.assert_close(batch.returns[last], batch.actions[..., 0].clamp(-1, 1)[last])


def test_the_probabilities_of_a_round_are_those_of_the_policy_that_played_it():
    for network in ({}, {"core": "gru"}, {"core": "lstm", "previous_action": True}, {"discrete": {0: (-1.0, 1.0)}}):
        learner, _, batch = one_round(Echo(4), network=network)
        net = learner.network_
        with torch.no_grad():
            h, _ = net.features(batch.obs, batch.state[0], batch.starts)
            torch.testing.assert_close(net.head(h).log_prob(batch.actions), batch.log_prob)
            torch.testing.assert_close(net.value(h, batch.obs), batch.values)


def test_the_noise_of_a_copy_does_not_depend_on_how_many_there_are():
    _, _, few = one_round(Echo(2))
    _, _, many = one_round(Echo(5))
    torch.testing.assert_close(few.actions, many.actions[:, :2])


def test_rewards_are_scaled_for_learning_only():
    _, _, batch = one_round(Echo(4), reward_scale=3.0)
    torch.testing.assert_close(batch.returns, 3 * batch.actions[..., 0].clamp(-1, 1))
    learner = PPO(**SMALL, reward_scale=3.0).train(Echo(4), 64)
    assert abs(learner.history_[0]["return"]) <= 6


# -- learning ---------------------------------------------------------------------------------------------------------


def test_it_learns_the_best_action():
    learner = PPO(num_envs=32, horizon=16, epochs=4, minibatches=2, lr=1e-2, network={"hidden": (16,)}, device="cpu")
    learner.train(Echo(32), 8000)
    assert learner.history_[-1]["success"] > learner.history_[0]["success"] + 0.2
    rewarded, other = learner.act(torch.tensor([[1.0, 5.0]]))[0]
    assert rewarded > other + 0.3
    assert learner.steps_ == learner.history_[-1]["steps"] == 8192


def test_only_a_memory_repeats_what_is_no_longer_seen():
    success = {}
    for core in ("gru", "none"):
        network = {"hidden": (16,), "core": core, "core_width": 16, "share": True, "discrete": {0: (-1.0, 1.0)}}
        settings = {"num_envs": 64, "horizon": 12, "epochs": 4, "minibatches": 4, "lr": 1e-2, "seed": 1}
        learner = PPO(**settings, network=network, device="cpu").train(Cue(64), 9_000)
        success[core] = np.mean([record["success"] for record in learner.history_[-5:]])
    assert success["gru"] > success["none"] + 0.3


def test_schedules_set_the_rate():
    linear = small(lr=1e-3, schedule="linear").train(Echo(4), 128)
    assert [r["lr"] for r in linear.history_] == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    adaptive = small(lr=1e-3, schedule="adaptive", target_kl=1e9).train(Echo(4), 96)
    assert [r["lr"] for r in adaptive.history_] == pytest.approx([1e-3, 1.5e-3, 2.25e-3])


def test_observations_are_normalized_by_what_was_seen_before():
    learner = small(network={"normalize_observations": True}).train(Echo(4), 32)
    stats = learner.network_.encoder.stats
    assert stats.count.item() == 32
    assert 3 <= stats.mean[1] <= 6
    assert learner.network_.critic_encoder.stats is stats


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1", "anytask/Reach-v0"])
def test_any_gymnasium_id_goes_in(env):
    learner = PPO(**SMALL).train(env, 64)
    assert [record["steps"] for record in learner.history_] == [32, 64]
    shape = gymnasium.make(env).observation_space.shape
    single = learner.act(np.zeros(shape, np.float32))
    assert isinstance(single, np.ndarray)
    assert gymnasium.make(env).action_space.contains(single if single.shape else int(single))


class Pictures(gymnasium.Env):
    observation_space = spaces.Dict({
        "rgb": spaces.Box(0, 255, (16, 16, 3), np.uint8),
        "depth": spaces.Box(0, 1, (16, 16, 1), np.float32),
        "pose": spaces.Box(-1, 1, (3,), np.float32),
    })  # fmt: skip
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return {
            "rgb": np.full((16, 16, 3), 9, np.uint8),
            "depth": np.ones((16, 16, 1), np.float32),
            "pose": np.zeros(3, np.float32),
        }

    def step(self, action):
        assert self.action_space.contains(np.asarray(action))
        self.t += 1
        return self.observe(), 1.0, self.t == 5, False, {}


def test_pictures_and_vectors_together():
    learner = small(network={"core": "gru", "core_width": 8, "previous_action": True, "embedding": 4}).train(
        Pictures, 64
    )
    assert learner.network_.encoder.groups == [["depth", "rgb"]]  # stacked to four channels
    assert learner.history_[-1]["return"] == 5
    obs = {key: torch.as_tensor(x)[None].repeat_interleave(2, 0) for key, x in Pictures().reset()[0].items()}
    assert learner.act(obs).shape == (2, 2)
    pixels = PPO(**SMALL).train("anytask/Reach-v0", 32, env_options={"observation": "pixels"})
    assert pixels.network_.critic_encoder is None  # pictures are encoded once, for action and value


# -- acting -----------------------------------------------------------------------------------------------------------


def test_acting_remembers_each_row_and_forgets_where_told():
    learner = small(network={"core": "gru", "core_width": 8, "previous_action": True}).train(Echo(4), 32)
    learner.network_.head.linear.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    obs = torch.tensor([[1.0, 5.0], [1.0, 5.0]])
    first = learner.act(obs)
    assert torch.equal(first[0], first[1])
    learner.act(torch.tensor([[4.0, 2.0], [1.0, 5.0]]))
    later = learner.act(obs)
    assert not torch.equal(later[0], later[1])
    learner.reset(torch.tensor([0]))
    again = learner.act(obs)
    torch.testing.assert_close(again[0], first[0])
    learner.reset()
    torch.testing.assert_close(learner.act(obs), first)
    sampled = learner.act(obs, deterministic=False)
    assert not torch.equal(sampled[0], sampled[1])


def test_acting_refuses_what_it_cannot_see():
    learner = PPO(**SMALL).train(Echo(4), 32)
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        learner.act(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="keys"):
        learner.act({"other": torch.zeros(5, 2)})


class Tracking(gymnasium.Env):
    """Takes actions of any space, and refuses those that do not lie in it."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action))
        self.t += 1
        return np.zeros(2, np.float32), float(np.mean(action)), False, self.t == 5, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (), np.float32),
        spaces.Box(-0.1, 0.3, (2, 2), np.float64),
        spaces.Box(0, 3, (2,), np.int64),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([2, 3], start=[1, -1]),
    ],
    ids=str,
)
def test_actions_of_every_space_are_learned_acted_saved_and_evaluated(space, tmp_path):
    learner = small(network={"core": "gru", "previous_action": True}).train(lambda: Tracking(space), 64)
    for deterministic in (True, False):
        actions = learner.act(np.zeros((9, 2), np.float32), deterministic=deterministic)
        assert all(space.contains(np.asarray(action, space.dtype)) for action in actions)
        assert len(evaluate(learner, lambda: Tracking(space), 3, deterministic=deterministic)) == 3
    learner.reset()
    learner.save(tmp_path)
    one = np.zeros(2, np.float32)
    assert np.array_equal(PPO.load(tmp_path, device="cpu").act(one), learner.act(one))


def test_one_step_is_a_whole_round_even_of_fewer_sequences_than_mini_batches():
    learner = PPO(num_envs=3, horizon=64, epochs=1, network={"core": "gru"}, device="cpu")
    assert learner.minibatches > 3 and learner.train("CartPole-v1", 1).steps_ == 3 * 64


# -- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"schedule": "adaptive", "network": {"core": "gru", "normalize_observations": True}}]
)
def test_saving_keeps_policy_and_learner(tmp_path, settings):
    learner = small(**settings).train(Echo(4), 64)
    learner.save(tmp_path)
    other = PPO.load(tmp_path, device="cpu")
    obs = torch.rand(6, 2)
    assert torch.equal(learner.act(obs), other.act(obs))
    assert other.history_ == learner.history_
    learner.train(Echo(4), 64)
    other.train(Echo(4), 64)
    assert same(weights(learner), weights(other))


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupted_training_goes_on_bit_for_bit(tmp_path, late):
    def world():
        return OverlappedStepper(Echo(4)) if late else Echo(4)

    settings = {"network": {"core": "gru", "previous_action": True}, "schedule": "linear"}
    whole = small(**settings).train(world(), 240)
    stopped = small(**settings)

    def stop(learner, record):
        if len(learner.history_) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.train(world(), 240, checkpoint=tmp_path, callback=stop)
    resumed = small(**settings).train(world(), 240, checkpoint=tmp_path)
    assert [r["steps"] for r in resumed.history_] == [r["steps"] for r in whole.history_]
    assert same(weights(whole), weights(resumed))
    np.testing.assert_equal(resumed.history_, whole.history_)
    # A training that is over is not begun again.
    assert same(weights(small(**settings).train(world(), 240, checkpoint=tmp_path)), weights(whole))


KILLED = """
    import os, signal, sys, torch
    torch.set_num_threads(1)
    from anytask.control import make
    from anytask.control.parts.policy_gradient import weak_signals
from anytask.control.ppo import PPO
    world = make("anytask/Reach-v0", 16, device="cpu")
    if sys.argv[3:]:  # the number of calls after which the process kills itself
        step, left = world.step, iter(range(int(sys.argv[3])))
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)
        world.step = lambda actions: step(actions) if next(left, None) is not None else die()
    network = {"core": "gru", "core_width": 16}
    learner = PPO(num_envs=16, horizon=64, epochs=4, minibatches=4, network=network, device="cpu")
    steps = 12 * 1024
    tell = lambda _, record: print(record["steps"], flush=True)
    learner.train(world, steps, checkpoint=sys.argv[1], callback=tell)
    learner.save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_loses_only_its_current_round(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(KILLED))

    def command(name):
        return [sys.executable, str(script), str(tmp_path / name), str(tmp_path / f"{name}-end")]

    subprocess.run(command("whole"), check=True, capture_output=True)
    killed = subprocess.run([*command("killed"), str(5 * 64 + 30)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed-end").exists()
    out = subprocess.run(command("killed"), check=True, capture_output=True, text=True).stdout.split()
    assert int(out[0]) == 6 * 1024  # it went on with the round in which it was killed, and did not begin anew
    one, two = (PPO.load(tmp_path / f"{name}-end", device="cpu") for name in ("whole", "killed"))
    assert same(weights(one), weights(two))


def test_checkpoints_of_other_trainings_are_refused(tmp_path):
    PPO(**SMALL).train(Echo(4), 32, checkpoint=tmp_path / "a")
    with pytest.raises(ValueError, match="its params differs"):
        small(lr=1e-2).train(Echo(4), 64, checkpoint=tmp_path / "a")
    PPO(**SMALL).train(Echo(4), 32).save(tmp_path / "b")
    with pytest.raises(ValueError, match="no checkpoint"):
        PPO(**SMALL).train(Echo(4), 64, checkpoint=tmp_path / "b")
    assert PPO.load(tmp_path / "a", device="cpu").steps_ == 32  # a checkpoint is a saved policy, too


def test_trunks_given_as_modules_have_to_be_given_again(tmp_path):
    trunk = SmallCNN((32, 32, 3), width=8)
    settings = {"num_envs": 2, "horizon": 2, "epochs": 1, "minibatches": 1, "device": "cpu"}
    learner = PPO(**settings, network={"trunk": trunk}).train(
        "anytask/Reach-v0", 4, env_options={"observation": "pixels"}
    )
    learner.save(tmp_path)
    with pytest.raises(ValueError, match="trunk"):
        PPO.load(tmp_path)
    obs = torch.randint(0, 255, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(PPO.load(tmp_path, network={"trunk": trunk}, device="cpu").act(obs), learner.act(obs))


def test_a_loss_that_is_not_finite_stops_and_leaves_the_policy_as_it_was():
    learner = PPO(**SMALL)
    seen = []
    with pytest.raises(FloatingPointError, match="round 2"):
        learner.train(Echo(4, huge_from=17), 200, callback=lambda found, _: seen.append(weights(found)))
    assert len(seen) == len(learner.history_) == 2
    assert same(weights(learner), seen[-1])
    learner.train(Echo(4), 32)
    assert all(torch.isfinite(value).all() for value in weights(learner).values())


@pytest.mark.parametrize(
    ("env", "says"),
    [(lambda: Echo(4, cut=False), None), (lambda: Silent(4), "no reward above 0"), (lambda: Silent(4, cost=1), None)],
)
def test_a_training_says_where_there_was_nothing_to_learn_from(env, says, recwarn):
    small(horizon=4).train(env(), 16 * 5)
    assert [str(w.message) for w in recwarn] == [] if says is None else any(says in str(w.message) for w in recwarn)


def test_few_rounds_and_equal_advantages_are_told():
    with pytest.warns(UserWarning, match="in 2 rounds only"):
        small().train(Echo(4), 64)
    flat = {"reward_min": 0.0, "reward_max": 1.0, "advantage_std": 0.0, "success": math.nan}
    assert len(weak_signals([flat] * 9, 9)) == 1 and "advantages" in weak_signals([flat] * 9, 9)[0]


class Silent(Echo):
    """Earns nothing, or costs by its actions, and never succeeds as far as anybody knows."""

    def __init__(self, num_envs=1, *, cost=0.0):
        super().__init__(num_envs)
        self.cost = cost

    def _advance(self, actions):
        reward, ended, _ = super()._advance(actions)
        return -self.cost * reward.square(), ended, torch.full((len(reward),), math.nan)


def test_another_world_must_have_the_same_spaces():
    learner = PPO(**SMALL).train(Echo(4), 32)
    with pytest.raises(ValueError, match="observations"):
        learner.train("Pendulum-v1", 32)
    learner.train(Echo(8), 64)
    assert learner.steps_ == 96


def test_progress_callbacks_and_throughput():
    shares, records = [], []

    def callback(learner, record):
        records.append(record)
        return len(records) < 2

    learner = PPO(**SMALL).train(Echo(4), 128, progress=shares.append, callback=callback)
    assert shares == [0.25, 0.5]
    assert learner.throughput_["simulation"] > learner.throughput_["training"] > 0
    assert learner.cost()["trainable_parameters"] == sum(p.numel() for p in learner.network_.parameters())


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="total_steps"):
        PPO(**SMALL).train(Echo(4), 0)
    with pytest.raises(ValueError, match="share=True"):
        PPO(network={"core": "gru", "share": False})
    with pytest.raises(ValueError, match="lr_bounds"):
        PPO(schedule="adaptive", lr=1.0)
    with pytest.raises(ValueError, match="blind"):
        small(network={"blind": (2,)}).train(Echo(4), 32)


# -- the network ------------------------------------------------------------------------------------------------------


def test_blind_columns_change_nothing():
    learner = small(network={"blind": (1,)}).train(Echo(4), 32)
    obs = torch.rand(5, 2)
    changed = obs.clone()
    changed[:, 1] = 7.0
    assert torch.equal(learner.act(obs), learner.act(changed))


def test_weights_are_views_of_one_tensor():
    learner = small(network={"core": "gru"}).train(Echo(4), 32)
    before = weights(learner)
    learner._weights.data.mul_(2.0)
    for name, p in learner.network_.named_parameters():
        torch.testing.assert_close(p.data, 2 * before[name])
        assert p.grad is not None


def test_spaces_survive_a_file():
    box = spaces.Box(np.array([-1.0, -np.inf], np.float32), np.array([1.0, np.inf], np.float32))
    space = spaces.Dict({"a": box, "b": spaces.Discrete(3), "c": spaces.Box(0, 255, (4, 4, 3), np.uint8)})
    assert space_from_tree(space_to_tree(space)) == space
    multi = spaces.MultiDiscrete([2, 3], start=[1, -1])
    assert space_from_tree(space_to_tree(multi)) == multi
    with pytest.raises(TypeError):
        space_to_tree(spaces.Text(3))


def test_encoders_refuse_other_spaces():
    with pytest.raises(TypeError, match="Boxes"):
        Encoder(spaces.Text(3), 0, NetworkSettings())
    assert Encoder(spaces.Discrete(5), 0, NetworkSettings()).width == 5
    net = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), NetworkSettings(hidden=(8,)))
    assert net.head.n_columns == 1


# -- several processes ------------------------------------------------------------------------------------------------

WORKER = """
    import sys, torch
    torch.set_num_threads(1)
    from anytask.control.parts.policy_gradient import weak_signals
from anytask.control.ppo import PPO
    rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    network = {"normalize_observations": True}
    learner = PPO(num_envs=4, horizon=16, epochs=2, minibatches=1, lr=1e-2, device="cpu", network=network)
    learner.train("anytask/Reach-v0", 512)
    assert learner.steps_ == 512
    learner.save(f"{out}-{rank}")
    torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_both_batches(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    out = tmp_path / "policy"
    workers = [
        subprocess.Popen([sys.executable, str(script), str(rank), str(tmp_path / "store"), str(out)])
        for rank in range(2)
    ]
    assert [worker.wait() for worker in workers] == [0, 0]
    one = PPO(
        num_envs=8, horizon=16, epochs=2, minibatches=1, lr=1e-2, device="cpu", network={"normalize_observations": True}
    )
    one.train("anytask/Reach-v0", 512)
    found = [weights(PPO.load(Path(f"{out}-{rank}"), device="cpu")) for rank in range(2)]
    assert same(*found)
    for name, value in weights(one).items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))])
def test_copies_and_pickles_learn_on_as_the_original_does(copied):
    policy = PPO(**SMALL).train("anytask/Reach-v0", 32)
    twin = copied(policy)
    before = policy.network_.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    for one in (policy, twin):
        one.train("anytask/Reach-v0", 32)
    trained, again = policy.network_.state_dict(), twin.network_.state_dict()
    assert any(not torch.equal(trained[name], before[name]) for name in before)
    assert all(torch.equal(trained[name], again[name]) for name in trained)


def test_a_callback_that_cannot_be_called_and_options_that_are_none_are_refused_before_a_round():
    policy = PPO(**SMALL)
    for wrong in ({"callback": 3}, {"progress": 3}, {"env_options": "a"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            policy.train("anytask/Reach-v0", 32, **wrong)
    assert not hasattr(policy, "network_")
