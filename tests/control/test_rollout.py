import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from anytask.control import ScriptedReach, SingleEnv, collect, evaluate, make, record
from anytask.control.envs import ENVIRONMENTS
from anytask.control.envs.reach import Reach
from anytask.control.rollout import EpisodeResults
from anytask.datasets.episode_files import load_episodes, save_episodes


class Coin(gymnasium.Env):
    """Fails after 1 step or succeeds after 9, evenly: whoever counts the first episodes that end counts failures."""

    observation_space = spaces.Box(-1e9, 1e9, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.good, self.t = bool(self.np_random.random() < 0.5), 0
        self.number = getattr(self, "number", -1) + 1
        return self._look(), {}

    def _look(self):
        return np.array([self.number, self.t], np.float32)

    def step(self, action):
        self.t += 1
        done = self.t == (9 if self.good else 1)
        return self._look(), float(action[0]), done, False, {"success": self.good and done}


class Memory:
    """Acts by how many steps of the episode it has seen, in hundredths, and keeps what was asked of it."""

    def __init__(self, n):
        self.count, self.asked, self.resets = torch.zeros(n), set(), []

    def reset(self, rows=None):
        self.resets.append(None if rows is None else rows.tolist())
        if rows is None:
            self.count.zero_()
        else:
            self.count[rows] = 0

    def act(self, obs, *, deterministic=True):
        self.asked.add(deterministic)
        self.count += 1
        return self.count[:, None] / 100


def test_short_episodes_are_not_counted_more_often():
    results = evaluate(Memory(10), make(Coin, 10), 400, seed=1)
    assert len(results) == 400
    assert abs(results.success_rate - 0.5) < 3 * 0.5 / 20  # three standard errors; the first 400 to end hold about 0.45
    assert set(results.lengths) == {1, 9}
    assert np.array_equal(results.success == 1, results.lengths == 9)


def test_results_come_in_the_order_of_rounds_and_environments_and_are_complete():
    policy = Memory(3)
    results = evaluate(policy, make(Coin, 3), 7, seed=0)
    again = evaluate(Memory(3), make(Coin, 3), 7, seed=0)
    assert np.array_equal(results.lengths, again.lengths)
    # A step's reward is its number within the episode in hundredths: the policy was told of every start.
    assert np.allclose(results.returns, [n * (n + 1) / 200 for n in results.lengths], atol=1e-6)
    assert policy.resets[0] is None and policy.asked == {True}


def test_collected_episodes_are_those_that_were_played():
    shares = []
    data = collect(Memory(3), make(Coin, 3), 7, seed=0, progress=shares.append)
    results = evaluate(Memory(3), make(Coin, 3), 7, seed=0)
    assert np.array_equal(data.lengths, results.lengths)
    assert np.array_equal(data.attributes["success"], results.success)
    assert shares[-1] == 1.0 and shares == sorted(shares)
    for i in range(7):
        episode = data[i]
        n = len(episode)
        seen = episode.observations["observation"]
        assert seen[:, 1].tolist() == list(range(n + 1)) and len(set(seen[:, 0])) == 1
        assert np.allclose(episode.actions[:, 0] * 100, np.arange(1, n + 1))
        assert np.allclose(episode.rewards, episode.actions[:, 0])
        assert episode.terminated and not episode.truncated
    rounds = [int(data[i].observations["observation"][0, 0]) for i in range(7)]
    assert np.array_equal(np.array(rounds) - rounds[0], [0, 0, 0, 1, 1, 1, 2])


def test_collected_actions_are_those_the_environment_took():
    class Loud(Memory):
        def act(self, obs, *, deterministic=True):
            return torch.full((len(obs), 1), 5.0)

    assert collect(Loud(2), make(Coin, 2), 2).actions.max() == 1.0


def test_data_sets_are_sampled_and_evaluations_are_not():
    policy = Memory(1)
    collect(policy, make(Coin, 1), 1)
    assert policy.asked == {False}


def test_dict_and_image_observations_keep_their_keys_and_types():
    env = make("anytask/Reach-v0", 2, observation="pixels")
    data = collect(ScriptedReach(env), env, 2)
    assert data.observations["observation"].dtype == np.uint8
    goals = make("FetchReach-v4", 1, max_episode_steps=2)

    class Still:
        def act(self, obs, *, deterministic=True):
            return torch.zeros(1, 4)

    data = collect(Still(), goals, 1)
    assert set(data.observations) == {"observation", "achieved_goal", "desired_goal"}
    assert data.attributes["env_id"] == "FetchReach-v4" and data.truncated[-1] and not data.terminated.any()


class Idle:
    """Does nothing in any world."""

    def __init__(self, width):
        self.width = width

    def act(self, obs, *, deterministic=True):
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return torch.zeros(len(first), self.width)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_saved_episodes_find_their_environment_again(env_id, tmp_path):
    env = make(env_id, 1, max_episode_steps=2)
    data = collect(Idle(env.action_dim), env, 1)
    for name in ("data.npz", "data.hdf5", "minari"):
        save_episodes(tmp_path / name, data)
        again = make(load_episodes(tmp_path / name).attributes["env_id"], 1)
        assert type(again) is type(env)


def test_episodes_say_where_they_were_played_however_the_environment_was_made():
    id_, options = "anytask/Reach-v0", {"max_episode_steps": 2}
    ways = [id_, make(id_, 2), gymnasium.make_vec(id_, num_envs=2), gymnasium.make(id_), Reach, SingleEnv(Reach)]
    for way in ways:
        given = options if isinstance(way, (str, type)) else {}
        assert collect(Idle(2), way, 1, **given).attributes["env_id"] == id_
    assert collect(Idle(1), make(Coin, 1), 1).attributes["env_id"] == "Coin"


def test_discrete_actions_are_kept_whole():
    class Left:
        def act(self, obs, *, deterministic=True):
            return torch.zeros(len(obs), dtype=torch.int64)

    data = collect(Left(), "CartPole-v1", 3)
    assert data.actions.dtype == np.int64 and len(data) == 3
    assert evaluate(Left(), "CartPole-v1", 5).success_rate == 0.0


def test_equal_seeds_give_every_policy_the_same_starts():
    a = collect(Constant(0.5), "anytask/Reach-v0", 6, seed=3)
    b = collect(Constant(-0.5), "anytask/Reach-v0", 6, seed=3)
    assert np.array_equal(a.observations["observation"][a.starts], b.observations["observation"][b.starts])


class Constant:
    def __init__(self, value):
        self.value = value

    def act(self, obs, *, deterministic=True):
        return torch.full((len(obs), 2), self.value)


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match="str has none"):
        evaluate("policy", "anytask/Reach-v0")
    with pytest.raises(ValueError, match="at least 1"):
        collect(Constant(0), "anytask/Reach-v0", 0)
    with pytest.raises(ValueError, match="autoreset=True"):
        evaluate(Constant(0), Reach(2, autoreset=False))


def test_wilsons_interval_is_that_of_the_textbook():
    # Brown, Cai and DasGupta (2001): n = 10, no success: upper end z^2 / (n + z^2) = 0.2775.
    none = EpisodeResults(np.zeros(10), np.zeros(10), np.ones(10, int))
    assert none.interval()[0] == 0.0 and none.interval()[1] == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    unknown = EpisodeResults(np.full(3, np.nan), np.zeros(3), np.ones(3, int))
    assert unknown.summary().startswith("success unknown")
    with pytest.raises(ValueError, match="confidence"):
        none.interval(1.0)


def test_a_recording_shows_the_first_and_the_last_moment(tmp_path):
    env = make("anytask/Reach-v0", 2, render_mode="rgb_array")
    film = record(ScriptedReach(env), env, seed=1)
    assert len(film.frames) == len(film.rewards) + 1 and film.success == 1.0 and film.rewards[-1] == 1.0
    assert not np.array_equal(film.frames[-1], film.frames[-2])
    assert env.autoreset  # as it was
    assert film.filmstrip(4).width == 4 * 164 + 4
    film.save(tmp_path / "film.gif", fps=5)
    assert (tmp_path / "film.gif").read_bytes()[:3] == b"GIF"


def test_a_recording_where_another_environment_ends_first_goes_on():
    class Uneven:
        def __init__(self, env):
            self.env, self.steps = env, []

        def act(self, obs, *, deterministic=True):
            away = self.env.position.new_tensor([0.7, 0.7]) - self.env.position
            return away * torch.tensor([[0.8], [5.0]])

    env = make("anytask/Reach-v0", 2, render_mode="rgb_array")
    film = record(Uneven(env), env)
    assert film.success == 1.0 and len(film.rewards) > 9


def test_foreign_environments_are_recorded_to_the_end():
    class Drawn(Coin):
        metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

        def __init__(self, render_mode=None):
            self.render_mode = render_mode

        def render(self):
            return np.full((8, 8, 3), self.t, np.uint8)

    film = record(Memory(1), Drawn, seed=1)
    assert [int(frame[0, 0, 0]) for frame in film.frames] == list(range(len(film.rewards) + 1))
    made = record(Memory(1), make(Drawn, 1, render_mode="rgb_array"), seed=1)
    assert len(made.frames) == len(made.rewards) + 1
    same_step = SyncVectorEnv([lambda: Drawn("rgb_array")], autoreset_mode=AutoresetMode.SAME_STEP)
    done = record(Memory(1), same_step, seed=1)
    assert len(done.frames) == len(done.rewards)  # it restarts within the step, so the last image is gone
