"""The base of all batched environments, on a world small enough to reckon with: a counter that ends at its goal."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from anytask.control.base import BatchedEnv, Policy, SingleEnv


class Walk(BatchedEnv):
    """Starts at a random place in 0..2, moves by its action, and ends at 5 or beyond with reward 1."""

    STATE = ("place",)

    def __init__(self, num_envs=1, limit=4, as_dict=False, **options):
        box = gymnasium.spaces.Box(-100.0, 100.0, (1,), np.float32)
        space = gymnasium.spaces.Dict({"place": box, "clock": box}) if as_dict else box
        super().__init__(num_envs, space, gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32), limit, **options)
        self.as_dict, self.place = as_dict, torch.zeros(self.num_envs, device=self.device)

    def _restart(self, rows):
        self.place[rows] = self.random.integers(1, 3, rows=rows)[:, 0].to(torch.float32)

    def _advance(self, actions):
        self.place = self.place + actions[:, 0]
        success = self.place >= 5
        return success.to(torch.float32), success, success

    def _observe(self, rows=None):
        place = self.place[:, None].clone() if rows is None else self.place[rows][:, None]
        if not self.as_dict:
            return place
        clock = (self.elapsed if rows is None else self.elapsed[rows])[:, None].to(torch.float32)
        return {"place": place, "clock": clock}


def put(env, *places):
    env.reset()
    env.place = torch.tensor([float(p) for p in places])
    return env


def test_an_episode_that_reaches_its_goal_terminates_and_starts_again_in_the_same_step():
    env = put(Walk(2), 3, 0)
    obs, reward, terminated, truncated, infos = env.step([[2.0], [1.0]])
    assert reward.tolist() == [1.0, 0.0] and terminated.tolist() == [True, False] and not truncated.any()
    assert infos["success"].tolist() == [True, False]
    assert infos["_final_obs"].tolist() == infos["_episode"].tolist() == [True, False]
    assert infos["final_obs"][0].item() == 5.0
    assert obs[0].item() in (0.0, 1.0, 2.0) and obs[1].item() == 1.0
    assert infos["episode"]["r"][0] == 1.0 and infos["episode"]["l"][0] == 1
    assert env.elapsed.tolist() == [0, 1]


def test_the_time_limit_truncates_unless_the_step_terminates():
    env = put(Walk(2, limit=2), 0, 2)
    env.step([[0.0], [1.0]])
    _, _, terminated, truncated, infos = env.step([[0.0], [2.0]])
    assert terminated.tolist() == [False, True] and truncated.tolist() == [True, False]
    assert infos["episode"]["l"].tolist() == [2, 2]


def test_running_steps_tell_nothing_of_an_end():
    _, _, _, _, infos = put(Walk(2), 0, 0).step([[0.0], [0.0]])
    assert set(infos) == {"success"}


def test_dict_observations_keep_the_last_and_show_the_first():
    env = put(Walk(2, as_dict=True), 4, 0)
    obs, *_, infos = env.step([[2.0], [1.0]])
    assert infos["final_obs"]["place"][0].item() == 6.0 and infos["final_obs"]["clock"][0].item() == 1.0
    assert obs["clock"].tolist() == [[0.0], [1.0]]
    assert obs["place"][0].item() <= 2.0


def test_bad_actions_are_refused_with_their_place_and_nothing_moves():
    env = put(Walk(2), 0, 0)
    with pytest.raises(ValueError, match=r"shape \(2, 1\), got \(2,\)"):
        env.step(torch.zeros(2))
    with pytest.raises(ValueError, match=r"finite numbers, got \[nan\] in row 1"):
        env.step([[0.0], [float("nan")]])
    assert env.place.tolist() == [0.0, 0.0] and env.elapsed.tolist() == [0, 0]


def test_actions_of_a_policy_under_training_carry_no_gradient_into_the_world():
    env = put(Walk(1), 0)
    obs, reward, *_ = env.step(torch.ones(1, 1, requires_grad=True))
    assert not obs.requires_grad and not reward.requires_grad and not env.place.requires_grad


def test_without_autoreset_the_caller_resets_by_mask():
    env = put(Walk(3, autoreset=False), 4, 0, 4)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    obs, *_, infos = env.step([[1.0], [1.0], [1.0]])
    assert obs.ravel().tolist() == [5.0, 1.0, 5.0] and infos["final_obs"].ravel().tolist() == [5.0, 1.0, 5.0]
    with pytest.raises(RuntimeError, match=r"episodes \[0, 2\] are over"):
        env.step([[1.0], [1.0], [1.0]])
    obs, _ = env.reset(options={"reset_mask": np.array([True, False, True])})
    assert obs[1].item() == 1.0 and obs[0].item() <= 2.0
    assert env.elapsed.tolist() == [0, 1, 0]
    env.step([[0.0], [0.0], [0.0]])


def test_a_mask_must_fit():
    env = Walk(2)
    with pytest.raises(ValueError, match="first reset"):
        env.reset(options={"reset_mask": [True, False]})
    env.reset()
    with pytest.raises(ValueError, match="boolean of shape"):
        env.reset(options={"reset_mask": [True]})
    with pytest.raises(ValueError, match="int64"):
        env.reset(options={"reset_mask": torch.tensor([1, 0])})


def test_seeding_some_environments_leaves_the_streams_of_the_others():
    env = Walk(3)
    env.reset(seed=0)
    before = env.random.counters.clone()
    keys = env.random.keys.clone()
    env.reset(seed=50, options={"reset_mask": [False, True, False]})
    assert torch.equal(env.random.keys[[0, 2]], keys[[0, 2]]) and not torch.equal(env.random.keys[1], keys[1])
    assert torch.equal(env.random.counters[[0, 2]], before[[0, 2]])


def test_a_seed_per_environment_is_the_seed_of_a_single_one():
    def starts(seed, n):
        env = Walk(n)
        return [env.reset(seed=seed)[0].ravel().tolist(), *(env.reset()[0].ravel().tolist() for _ in range(5))]

    many, one = starts([7, 3], 2), starts(3, 1)
    assert [row[1] for row in many] == [row[0] for row in one]


@pytest.mark.parametrize("seed", [-1, 1.5, [1, 2, 3], [0, -1]])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        Walk(2).reset(seed=seed)


def test_staggered_starts_cut_the_first_episode_only():
    env = Walk(6, limit=4)
    env.reset()
    env.stagger()
    assert env.limits.tolist() == [4, 3, 2, 1, 4, 3]
    lengths = [[] for _ in range(6)]
    for _ in range(8):
        *_, infos = env.step(torch.zeros(6, 1))
        for row in infos.get("_episode", torch.zeros(6)).nonzero()[:, 0].tolist():
            lengths[row].append(int(infos["episode"]["l"][row]))
    assert [found[0] for found in lengths] == [4, 3, 2, 1, 4, 3]
    assert {length for found in lengths for length in found[1:]} == {4}


def test_a_state_of_another_world_is_refused():
    env = Walk(2)
    env.reset()
    state = env.state()
    with pytest.raises(ValueError, match="place"):
        env.restore({k: v for k, v in state.items() if k != "place"})
    with pytest.raises(ValueError, match="shape"):
        Walk(3).restore(state)


def test_a_world_without_images_says_so():
    env = Walk(1)
    env.reset()
    assert env.render() is None
    with pytest.raises(NotImplementedError, match="draws no images"):
        env.image()


def test_a_single_environment_speaks_arrays():
    env = SingleEnv(Walk, as_dict=True)
    obs, info = env.reset(seed=3)
    assert isinstance(obs["place"], np.ndarray) and obs["place"].shape == (1,) and info == {}
    obs, reward, terminated, truncated, info = env.step(np.array([1.0], np.float32))
    assert type(reward) is float and type(terminated) is bool and type(truncated) is bool and info == {"success": False}


def test_an_unseeded_single_environment_draws_its_seed_once_and_a_given_one_is_kept():
    starts = [tuple(float(env.reset()[0][0]) for _ in range(12)) for env in (SingleEnv(Walk) for _ in range(4))]
    assert len(set(starts)) > 1
    given = [tuple(float(env.reset()[0][0]) for _ in range(12)) for env in (SingleEnv(Walk, seed=5) for _ in range(3))]
    assert len(set(given)) == 1


def test_anything_with_act_and_reset_is_a_policy():
    class Still:
        def act(self, obs, *, deterministic=True):
            return torch.zeros(len(obs), 1)

        def reset(self, rows=None):
            pass

    assert isinstance(Still(), Policy)
