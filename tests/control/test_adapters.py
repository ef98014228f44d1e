import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from anytask.control import PPO, BatchedEnv, Galactic, collect, evaluate, make
from anytask.control.adapters import TensorVectorEnv
from anytask.control.envs.reach import Reach
from anytask.control.ppo.rounds import ProcessGroup
from anytask.control.ppo.rounds import collect as collect_round


class Countdown(gymnasium.Env):
    """Ends after ``steps`` steps; the observation tells how many are left and which episode this is."""

    def __init__(self, steps=2, space="box", info=None, render_mode=None):
        self.steps, self.kind, self.info, self.episode = steps, space, info, 0
        self.render_mode = render_mode
        box = spaces.Box(-50, 50, (1,), np.float64)
        self.observation_space = {
            "box": box,
            "dict": spaces.Dict({"left": box, "image": spaces.Box(0, 255, (4, 4, 3), np.uint8)}),
            "nested": spaces.Dict({"a": spaces.Dict({"left": box}), "b": spaces.Discrete(3)}),
            "discrete": spaces.Discrete(8),
            "tuple": spaces.Tuple([box, spaces.Discrete(3)]),
            "sequence": spaces.Sequence(box),
        }[space]
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _look(self):
        left = np.array([float(self.left)])
        return {
            "box": left,
            "dict": {"left": left, "image": np.full((4, 4, 3), self.left, np.uint8)},
            "nested": {"a": {"left": left}, "b": 1},
            "discrete": self.left,
            "tuple": (left, 2),
            "sequence": (left,),
        }[self.kind]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.episode = self.steps, self.episode + 1
        return self._look(), {}

    def step(self, action):
        self.left -= 1
        info = {} if self.info is None else {self.info: self.left == 0}
        return self._look(), 1.0, self.left == 0, False, info

    def render(self):
        return np.full((8, 8, 3), self.left, np.uint8)


def test_cartpole_takes_whole_numbers_and_gives_float32():
    env = make("CartPole-v1", 3, seed=4)
    obs, _ = env.reset()
    reference = gymnasium.make("CartPole-v1")
    assert np.array_equal(obs[1].numpy(), reference.reset(seed=5)[0])
    assert obs.dtype == torch.float32 and env.single_action_space == spaces.Discrete(2)
    after, reward, *_ = env.step(torch.tensor([0, 1, 0]))
    assert np.array_equal(after[1].numpy(), reference.step(1)[0]) and reward.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="whole numbers"):
        env.step(torch.zeros(3))
    with pytest.raises(ValueError, match="lie in Discrete"):
        env.step(torch.tensor([0, 2, 0]))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        env.step(torch.tensor([0, 1]))


def test_cartpole_episodes_end_within_the_step_and_are_counted():
    env = make("CartPole-v1", 2)
    env.reset()
    returns = torch.zeros(2)
    for _ in range(60):
        obs, reward, terminated, truncated, infos = env.step(torch.zeros(2, dtype=torch.int64))
        returns += reward
        if terminated.any():
            row = int(terminated.nonzero()[0, 0])
            assert infos["episode"]["r"][row] == infos["episode"]["l"][row] == returns[row]
            assert infos["final_obs"][row].abs().max() > 0.2 > obs[row].abs().max()
            # The return is far below spec.reward_threshold (475).
            assert infos["success"][row] == 0.0
            assert infos["success"].isnan().tolist() == (~(terminated | truncated)).tolist()
            return
    raise AssertionError("pushing to one side ends an episode")


def test_pendulum_gets_its_actions_clamped_and_never_tells_success():
    env, reference = make("Pendulum-v1", 1, max_episode_steps=3), gymnasium.make("Pendulum-v1")
    env.reset(seed=1)
    reference.reset(seed=1)
    for _ in range(3):
        _, reward, _, truncated, infos = env.step([[50.0]])
        wanted, wanted_reward, *_ = reference.step(np.array([2.0], np.float32))
        assert reward.item() == pytest.approx(float(wanted_reward), rel=1e-6)
    assert truncated.all() and np.array_equal(infos["final_obs"][0].numpy(), wanted.astype(np.float32))
    assert infos["success"].isnan().all()
    with pytest.raises(ValueError, match="row 0"):
        env.step([[float("nan")]])


def test_dict_observations_stay_dicts_with_images_in_uint8():
    env = make(lambda: Countdown(space="dict"), 2)
    obs, _ = env.reset()
    assert obs["left"].dtype == torch.float32 and obs["image"].dtype == torch.uint8
    assert env.single_observation_space["left"].dtype == np.float32
    env.step(torch.zeros(2, 2))
    obs, *_, infos = env.step(torch.zeros(2, 2))
    assert infos["final_obs"]["left"].ravel().tolist() == [0, 0] and obs["left"].ravel().tolist() == [2, 2]
    assert infos["final_obs"]["image"][0, 0, 0].tolist() == [0, 0, 0]


def test_dict_observations_can_be_joined():
    env = make(lambda: Countdown(space="dict"), 2, flatten=True)
    obs, _ = env.reset()
    assert obs.shape == (2, 49) == env.observation_space.shape and obs[0, 0] == 2
    env.step(torch.zeros(2, 2))
    *_, infos = env.step(torch.zeros(2, 2))
    assert infos["final_obs"].shape == (2, 49) and infos["final_obs"][0, 0] == 0


@pytest.mark.parametrize(
    ("space", "first"), [("nested", [2.0, 0, 1, 0]), ("discrete", [0, 0, 1, 0, 0, 0, 0, 0]), ("tuple", [2.0, 0, 0, 1])]
)
def test_other_observations_become_one_vector(space, first):
    env = make(lambda: Countdown(space=space), 2)
    obs, _ = env.reset()
    assert obs.tolist() == [first, first] and obs.dtype == torch.float32
    assert env.single_observation_space.shape == (len(first),)
    env.step(torch.zeros(2, 2))
    assert env.step(torch.zeros(2, 2))[4]["final_obs"].shape == (2, len(first))


def test_observations_without_a_shape_are_refused():
    with pytest.raises(TypeError, match="no fixed shape"):
        make(lambda: Countdown(space="sequence"), 1)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_environments_of_any_mode_play_alike(mode):
    lengths = [2, 3, 5]
    vector = SyncVectorEnv([lambda s=s: Countdown(s) for s in lengths], autoreset_mode=mode)
    env = make(vector)
    obs, _ = env.reset()
    left = np.array(lengths)
    for _ in range(12):
        assert obs.ravel().tolist() == left.tolist()
        obs, reward, terminated, _, infos = env.step(torch.zeros(3, 2))
        left = left - 1
        assert reward.tolist() == [1, 1, 1]  # no step is lost to a reset
        assert terminated.tolist() == (left == 0).tolist()
        if terminated.any():
            assert infos["final_obs"][terminated].ravel().tolist() == [0.0] * int(terminated.sum())
            assert infos["episode"]["l"][terminated].tolist() == [s for s, n in zip(lengths, left) if n == 0]
        left = np.where(left == 0, lengths, left)


def test_a_vector_environment_whose_reset_moves_everybody_is_refused():
    class Whole(gymnasium.vector.VectorEnv):
        metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
        num_envs, spec = 2, None
        single_observation_space = spaces.Box(-9, 9, (1,), np.float32)
        observation_space = spaces.Box(-9, 9, (2, 1), np.float32)
        single_action_space = spaces.Discrete(2)
        action_space = spaces.MultiDiscrete([2, 2])

        def reset(self, *, seed=None, options=None):
            return np.zeros((2, 1), np.float32), {}

        def step(self, actions):
            return np.ones((2, 1), np.float32), np.zeros(2), np.array([True, False]), np.zeros(2, bool), {}

    env = make(Whole())
    env.reset()
    with pytest.raises(RuntimeError, match="SAME_STEP"):
        env.step(torch.tensor([0, 0]))


class Native(gymnasium.vector.VectorEnv):
    """Restarts in the step after an episode's end alone, whatever masks a reset is given."""

    def __init__(self, lengths=(2, 3, 5)):
        self.inner = SyncVectorEnv([lambda s=s: Countdown(s, info="success") for s in lengths])
        self.metadata, self.num_envs = {"autoreset_mode": AutoresetMode.NEXT_STEP}, len(lengths)
        self.single_observation_space, self.observation_space = (
            self.inner.single_observation_space,
            self.inner.observation_space,
        )
        self.single_action_space, self.action_space = self.inner.single_action_space, self.inner.action_space

    def reset(self, *, seed=None, options=None):
        return self.inner.reset(seed=seed)

    def step(self, actions):
        return self.inner.step(actions)


def test_where_a_restart_takes_a_step_that_step_is_marked_and_earns_nothing():
    env = make(Native())
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    obs, _ = env.reset()
    left, over = np.array([2, 3, 5]), np.zeros(3, bool)
    for _ in range(14):
        assert obs.ravel().tolist() == left.tolist()
        obs, reward, terminated, _, infos = env.step(torch.zeros(3, 2))
        assert infos["_reset"].tolist() == over.tolist() and reward.tolist() == (~over).tolist()
        left = np.where(over, [2, 3, 5], left - 1)
        over = left == 0
        assert terminated.tolist() == over.tolist()
        if over.any():
            assert infos["final_obs"][over].ravel().tolist() == [0.0] * over.sum()
            assert infos["episode"]["l"][over].tolist() == np.array([2, 3, 5])[over].tolist()


def test_episodes_are_the_same_whenever_their_environment_restarts():
    class Counting:
        def reset(self, rows=None):
            self.count = torch.zeros(3) if rows is None else self.count.index_fill(0, rows, 0)

        def act(self, obs, *, deterministic=True):
            self.count += 1
            return self.count[:, None].repeat(1, 2) / 10

    waiting, plain = (collect(Counting(), env, 7) for env in (Native(), Native().inner))
    assert waiting.lengths.tolist() == plain.lengths.tolist() == [2, 3, 5, 2, 3, 5, 2]
    for name in ("actions", "rewards", "terminated"):
        assert np.array_equal(getattr(waiting, name), getattr(plain, name))
    assert np.array_equal(waiting.observations["observation"], plain.observations["observation"])
    assert np.array_equal(waiting.final_observations["observation"], np.zeros((7, 1)))
    a, b = (evaluate(Counting(), env, 7) for env in (Native(), Native().inner))
    assert a.success_rate == 1.0 and np.array_equal(a.lengths, b.lengths) and np.array_equal(a.returns, b.returns)


@pytest.mark.filterwarnings("ignore:the policy was updated")
def test_the_step_that_restarts_is_left_out_of_learning():
    settings = {"horizon": 12, "epochs": 1, "minibatches": 1, "gamma": 1.0, "lambda_": 1.0, "device": "cpu"}
    learner = PPO(**settings, network={"core": "gru"})
    env = make(Native())
    learner._settle(env)
    batch, record = collect_round(learner.network_, env, learner._begin(env, ProcessGroup()), learner)
    left = batch.obs["observation"][..., 0]
    assert torch.equal(batch.counted == 0, left == 0)  # nothing is done in the last state of an episode
    assert torch.equal(batch.starts[1:], (left[:-1] == 0) | (left[1:] == 0))
    assert torch.equal(batch.starts[1:] & (left[1:] > 0), left[:-1] == 0)
    # Every step earns 1, so that what is to come is what is left; the last episodes are cut by the round's end.
    torch.testing.assert_close(batch.returns[:4][left[:4] > 0], left[:4][left[:4] > 0])
    assert record["episodes"] == 4 + 3 + 2 and record["length"] == pytest.approx((4 * 2 + 3 * 3 + 2 * 5) / 9)
    native = gymnasium.make_vec("CartPole-v1", num_envs=8, vectorization_mode="vector_entry_point")
    assert len(Galactic.from_preset("small", device="cpu", horizon=8).train(native, 320).evaluate(native, 3)) == 3


@pytest.mark.parametrize("key", ["success", "is_success"])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_success_is_what_the_step_itself_says(key, mode):
    env = make(SyncVectorEnv([lambda: Countdown(2, info=key), lambda: Countdown(3, info=key)], autoreset_mode=mode))
    env.reset()
    assert env.step(torch.zeros(2, 2))[4]["success"].tolist() == [0.0, 0.0]
    assert env.step(torch.zeros(2, 2))[4]["success"].tolist() == [1.0, 0.0]
    assert env.step(torch.zeros(2, 2))[4]["success"].tolist() == [0.0, 1.0]


def test_a_robot_of_another_package_is_found_by_its_id():
    env = make("FetchReach-v4", 2, max_episode_steps=2)
    obs, _ = env.reset(seed=0)
    assert set(obs) == {"observation", "achieved_goal", "desired_goal"} and obs["observation"].shape == (2, 10)
    assert all(value.dtype == torch.float32 for value in obs.values())
    env.step(torch.zeros(2, 4))
    *_, truncated, infos = env.step(torch.zeros(2, 4))
    assert truncated.all() and infos["success"].tolist() == [0.0, 0.0]
    assert infos["final_obs"]["achieved_goal"].shape == (2, 3)
    env.close()


def test_processes_of_their_own_play_the_same():
    here, there = make("CartPole-v1", 2, seed=1), make("CartPole-v1", 2, seed=1, asynchronous=True)
    try:
        assert torch.equal(here.reset()[0], there.reset()[0])
        for _ in range(12):
            a, b = (env.step(torch.ones(2, dtype=torch.int64)) for env in (here, there))
            assert torch.equal(a[0], b[0]) and torch.equal(a[2], b[2])
            assert ("final_obs" not in a[4]) or torch.equal(a[4]["final_obs"], b[4]["final_obs"])
    finally:
        there.close()


def test_batched_environments_come_back_as_they_are():
    env = Reach(3)
    assert make(env) is env and make(env, 3) is env
    assert isinstance(make("anytask/Reach-v0", 2), BatchedEnv) and isinstance(make(Reach, 2), Reach)
    assert make("anytask.control:anytask/Reach-v0", 2, observation="pixels").settings.observation == "pixels"
    wrapped = make(make("CartPole-v1", 2))
    assert isinstance(wrapped, TensorVectorEnv) and not isinstance(wrapped.vector, TensorVectorEnv)
    with pytest.raises(ValueError, match="num_envs=3, and num_envs=4"):
        make(env, 4)
    with pytest.raises(ValueError, match="already made"):
        make(env, task="A")


def test_one_environment_stays_one():
    assert make(Countdown()).num_envs == 1
    with pytest.raises(ValueError, match="num_envs=1"):
        make(Countdown(), 2)


def test_what_is_no_environment_is_refused():
    with pytest.raises(ValueError, match="no environment that Gymnasium knows"):
        make("NoSuchWorld-v0", 1)
    with pytest.raises(TypeError, match="got int"):
        make(7, 1)
    with pytest.raises(TypeError, match=r"must make a gymnasium\.Env, and made a str"):
        make(lambda: "world", 1)
    with pytest.raises(ValueError, match="at least 1"):
        make("CartPole-v1", 0)
    with pytest.raises(RuntimeError, match="reset"):
        make("CartPole-v1", 1).step(torch.tensor([0]))


def test_images_come_from_each_environment():
    env = make(Countdown, 2, render_mode="rgb_array")
    env.reset()
    assert env.image(1)[0, 0, 0] == 2
    with pytest.raises(RuntimeError, match="rgb_array"):
        none = make(SyncVectorEnv([Countdown]))
        none.vector.render = lambda: None
        none.image()


@pytest.mark.parametrize(("wrong", "said"), [("left", "observation"), ("reward", "reward")])
def test_numbers_that_an_environment_gives_are_finite_or_refused_as_its_own(wrong, said):
    class Broken(Countdown):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return (obs * np.nan, reward, *rest) if wrong == "left" else (obs, np.inf, *rest)

    env = make(Broken, 2)
    env.reset()
    with pytest.raises(ValueError, match=f"{said} that the environment gave is NaN or infinite"):
        env.step(torch.zeros(2, 2))


class Thermostat(gymnasium.Env):
    """Takes a single number, not a vector of one."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), float(action), self.left == 0, False, {}


def test_a_single_number_per_action_may_come_as_a_column():
    class Half:
        def __init__(self, *shape):
            self.shape = shape

        def act(self, obs, *, deterministic=True):
            return torch.full((len(obs), *self.shape), 0.5)

    env = make(Thermostat, 2)
    for policy in (Half(), Half(1)):
        assert evaluate(policy, env, 2).returns.tolist() == [1.5, 1.5]
        assert collect(policy, env, 2).actions.shape == (6, 1)
    with pytest.raises(ValueError, match="actions must have shape"):
        evaluate(Half(2), env, 2)
