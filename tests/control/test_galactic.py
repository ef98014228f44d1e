import numpy as np
import pytest
import torch
from gymnasium import spaces

from anytask.control import evaluate, make
from anytask.control.base import BatchedEnv
from anytask.control.envs.rearrangement.scene import ROBOTS
from anytask.control.galactic import Galactic
from anytask.control.stepping import OverlappedStepper

torch.set_num_threads(1)  # more of them sum in another order when the machine is busy
pytestmark = pytest.mark.filterwarnings("ignore:the policy was updated", "ignore:no reward above 0")

CONTRACT = {
    "num_envs": 4, "horizon": 8, "minibatches": 2, "network": {"hidden": (8,)},
    "Galactic-memory": {"network": {"hidden": (8,), "core": "gru", "core_width": 8}},
}  # fmt: skip

ARENA = "anytask/Rearrangement-v0"
TINY = {"num_envs": 8, "horizon": 4, "epochs": 1, "minibatches": 2, "device": "cpu"}


def tiny(**settings):
    return Galactic.from_preset("small", **{**TINY, **settings})


class Weigh(BatchedEnv):
    """A world of the user's: two terms of reward by name, two columns of which one is a switch."""

    discrete_actions = {0: (-1, 1)}  # noqa: RUF012

    def __init__(self, num_envs=1, **options):
        box = spaces.Box(-1, 1, (2,), np.float32)
        super().__init__(num_envs, box, box, 5, **options)
        self.switch_bonus, self.other = 1.0, 2.0
        self.bonuses = []

    def _restart(self, rows):
        pass

    def _advance(self, actions):
        self.bonuses.append(self.switch_bonus)
        on = actions[:, 0] > 0
        return on * self.switch_bonus, torch.zeros_like(on), on

    def _observe(self, rows=None):
        return torch.zeros(self.num_envs if rows is None else len(rows), 2)


class Seen(BatchedEnv):
    """A robot of eleven columns with a camera."""

    discrete_actions = ROBOTS["fetch"].discrete_actions

    def __init__(self, num_envs=1, **options):
        parts = {"rgb": spaces.Box(0, 1, (32, 32, 3)), "depth": spaces.Box(0, 1, (32, 32, 1))}
        space = spaces.Dict({"state": spaces.Box(-1, 1, (5,)), **parts})
        super().__init__(num_envs, space, spaces.Box(-1, 1, (11,), np.float32), 5, **options)

    def _restart(self, rows):
        pass

    def _advance(self, actions):
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return actions[:, 0].clone(), never, never.clone()

    def _observe(self, rows=None):
        n = self.num_envs if rows is None else len(rows)
        return {"depth": torch.ones(n, 32, 32, 1), "rgb": torch.ones(n, 32, 32, 3), "state": torch.zeros(n, 5)}


def test_the_paper_s_values_are_the_defaults():
    p, net = Galactic(), Galactic().network
    assert (p.num_envs, p.horizon, p.epochs, p.minibatches) == (128, 64, 1, 2)
    assert (p.lr, p.schedule, p.max_grad_norm, p.entropy_coefficient) == (3.5e-4, "linear", 2.0, 0.001)
    assert (p.gamma, p.lambda_, p.clip, p.bootstrap_timeouts) == (0.99, 0.95, 0.2, False)
    assert (net.core, net.core_width, net.trunk, net.trunk_width) == ("gru", 512, "half-resnet18", 512)
    assert p.overlapped and p.stagger
    assert not tiny().overlapped


def test_the_paper_s_network_takes_pictures_sensors_and_eleven_columns():
    robot = Galactic(num_envs=2, horizon=2, epochs=1, device="cpu").train(Seen(2), 8)
    net = robot.network_
    assert net.encoder.groups == [["depth", "rgb"]]
    assert net.core.width == 512
    assert net.encoder.embed_previous.out_features == 32
    # Release, keep or grasp; stop or not.
    assert net.head.values == {0: (-1, 0, 1), 10: (-1, 1)} and net.head.linear.out_features == 9
    assert robot.history_[-1]["steps"] == 2 * (2 + 1) * 2  # overlapped: one step more than is learned from, two rounds


def test_first_episodes_are_cut_one_after_another():
    env = make(ARENA, 8)
    robot = tiny()
    robot._settle(env)
    robot._begin(env, _group())
    assert env.limits.tolist() == [60 - i for i in range(8)]
    together = tiny(stagger=False)
    together._settle(env)
    together._begin(env, _group())
    assert env.limits.tolist() == [60] * 8


def test_columns_with_few_values_come_from_the_world():
    robot = tiny().train(Weigh(8), 32)
    assert robot.discrete_ == {0: (-1.0, 1.0)}
    assert set(robot.act(torch.zeros(8, 2), deterministic=False)[:, 0].tolist()) <= {-1.0, 1.0}
    plain = tiny(network={"discrete": None}).train(Weigh(8), 32)
    assert not plain.network_.head.values
    assert tiny().train("Pendulum-v1", 32).discrete_ is None


def test_reward_terms_are_replaced_while_learning_and_put_back():
    world = Weigh(8)
    tiny(reward={"switch_bonus": 0.0}).train(world, 64)
    assert set(world.bonuses) == {0.0}
    assert world.switch_bonus == 1.0
    with pytest.raises(ValueError, match="pick_bonus"):
        tiny(reward={"pick_bonus": 0.0}).train(world, 64)


def test_overlapped_and_plain_stepping_learn_alike():
    # The sign is all there is to learn, and a step of delay does not change it.
    for overlapped in (False, True):
        robot = tiny(num_envs=32, horizon=16, epochs=4, lr=1e-2, overlapped=overlapped).train(Weigh(32), 5000)
        assert robot.history_[-1]["return"] > robot.history_[0]["return"] + 1.2  # of 5; chance is 2.5


def test_all_episodes_are_played_once():
    robot = tiny(num_envs=512, horizon=1).train(ARENA, 512)
    assert len(robot.evaluate(ARENA, max_episode_steps=3)) == 4000
    env = make(ARENA, 6, episodes=16, order="once", max_episode_steps=8)
    results = robot.evaluate(env)
    assert len(results) == 16
    assert (results.lengths <= 8).all()
    assert len(robot.evaluate(ARENA, 12)) == 12
    with pytest.raises(ValueError, match="once"):
        robot.evaluate(make(ARENA, 2))


def test_policies_are_evaluated_wherever_they_learn():
    robot = tiny().train("CartPole-v1", 32)
    assert len(robot.evaluate("CartPole-v1")) == 100
    assert len(robot.evaluate(make("CartPole-v1", 3), 5)) == 5
    assert robot.evaluate("CartPole-v1", 4, max_episode_steps=3).lengths.tolist() == [3] * 4


def test_transfer_to_another_stepping_and_to_another_world():
    robot = tiny(num_envs=16, horizon=16, epochs=4, lr=1e-2).train(Weigh(16), 4000)
    moved = robot.transfer(Weigh(16), OverlappedStepper(Weigh(16)), 32)
    assert moved.here.success_rate == moved.there.success_rate == 1.0
    assert moved.drop == 0.0
    assert moved.summary().startswith("here: success 100%")
    with pytest.raises(ValueError, match="observations"):
        robot.transfer(Weigh(16), "Pendulum-v1", 4)


def test_saving_keeps_settings_and_columns(tmp_path):
    network = {"core": "gru", "core_width": 8, "blind": (0, 1)}
    robot = tiny(network=network, reward={"pick_bonus": 1.0}).train(ARENA, 32, env_options={"episodes": 50})
    robot.save(tmp_path)
    other = Galactic.load(tmp_path, device="cpu")
    assert repr(other) == repr(robot) and other.discrete_ == robot.discrete_
    saved, loaded = robot.network_.state_dict(), other.network_.state_dict()
    assert saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)
    env = make(ARENA, 4, episodes=50)
    obs, _ = env.reset(seed=1)
    for _ in range(3):  # the memory comes in with the second action
        a, b = (policy.act(obs) for policy in (robot, other))
        assert torch.equal(a, b)
        obs, *_ = env.step(a)
    a, b = (evaluate(policy, env, 8, seed=1) for policy in (robot, other))
    assert a.returns.tolist() == b.returns.tolist()


def _group():
    from anytask.control.ppo.rounds import ProcessGroup

    return ProcessGroup()
