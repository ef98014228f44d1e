import math

import numpy as np
import pytest
import torch

from anytask.control import ScriptedReach, demonstrations, evaluate, make
from anytask.control.envs.reach import Reach, WalledReach, WaypointReach


def put(env, *places):
    """Start an environment with its copies at these places."""
    env.reset()
    env.position = torch.tensor(places, dtype=torch.float32)
    return env


def test_an_action_moves_a_fifth_per_axis_and_the_clock_runs():
    env = put(Reach(2), (0.0, 0.0), (0.9, -0.9))
    obs, reward, *_ = env.step([[1.0, -0.5], [1.0, -1.0]])
    assert torch.allclose(obs, torch.tensor([[0.2, -0.1, 1 / 20], [1.0, -1.0, 1 / 20]]))
    assert reward.tolist() == [0.0, 0.0]


def test_the_reward_comes_inside_the_radius_only():
    # 0.7 - 0.5 is the radius itself, which is outside; a hundredth more is inside.
    env = put(Reach(2), (0.5, 0.7), (0.5, 0.7))
    _, reward, terminated, _, infos = env.step([[-0.01, 0.0], [0.05, 0.0]])
    assert reward.tolist() == [0.0, 1.0] and terminated.tolist() == [False, True] == infos["success"].tolist()


def test_an_episode_lasts_twenty_steps():
    env = Reach(1)
    env.reset()
    ends = [bool(env.step([[0.0, 0.0]])[3][0]) for _ in range(20)]
    assert ends == [False] * 19 + [True]
    longer = Reach(1, max_episode_steps=30)
    longer.reset()
    assert longer.step([[0.0, 0.0]])[0][0, 2].item() == pytest.approx(1 / 30)


@pytest.mark.parametrize(("world", "center", "width"), [(Reach, (-0.7, -0.7), 0.25), (WalledReach, (-0.7, 0), 0.25),
                                                        (WaypointReach, (0, 0), 0.6)])  # fmt: skip
def test_starts_fill_their_square(world, center, width):
    env = world(4000)
    env.reset()
    offset = (env.position - torch.tensor(center)) / width
    assert offset.abs().max() <= 1 and offset.max() > 0.99 and offset.min() < -0.99
    assert abs(float(offset.mean())) < 4 / math.sqrt(3 * 8000)
    narrow = world(100, start_width=0.05)
    narrow.reset()
    assert (narrow.position - torch.tensor(center)).abs().max() <= 0.0501


def test_noise_of_the_world_has_its_standard_deviation():
    env = put(WaypointReach(20_000, action_noise=0.15), *[(0.0, 0.0)] * 20_000)
    env.step(torch.zeros(20_000, 2))
    # 20,000 x 2 draws: the standard error of a standard deviation is 0.35% of it.
    assert float(env.position.std()) == pytest.approx(0.1 * 0.15, rel=0.02)


def test_walls_stop_and_let_slide():
    env = put(WalledReach(3), (-0.1, 0.0), (-0.1, 0.5), (-0.06, 0.0))
    env.step([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert -0.1 < env.position[0, 0] <= -0.05  # stopped before the wall
    assert torch.allclose(env.position[1], torch.tensor([0.1, 0.5]))  # through the gap
    assert env.position[2, 0] <= -0.05 and env.position[2, 1] == pytest.approx(0.2, abs=1e-6)  # along the wall


def test_no_move_passes_through_a_wall():
    env = WalledReach(2000, seed=5)
    env.reset()
    for t in range(20):
        before = env.position.clone()
        obs, *_, infos = env.step(torch.rand(2000, 2, generator=torch.Generator().manual_seed(t)) * 4 - 2)
        ended = infos.get("_final_obs", torch.zeros(2000, dtype=torch.bool))
        after = torch.where(ended[:, None], infos.get("final_obs", obs)[:, :2], obs[:, :2])
        assert not env._inside(after[:, 0], after[:, 1]).any()
        crossed = (before[:, 0] < 0) & (after[:, 0] > 0)
        gap = lambda y: (y.abs() - 0.5).abs() <= 0.12 + 0.2  # noqa: E731
        assert gap(before[crossed, 1]).all() and gap(after[crossed, 1]).all()


def test_a_crash_costs_what_it_should():
    env = put(WalledReach(2, crash_cost=0.25), (-0.06, 0.0), (-0.6, 0.0))
    assert env.step([[1.0, 0.0], [1.0, 0.0]])[1].tolist() == [-0.25, 0.0]


def test_the_mean_of_both_ways_runs_into_the_wall():
    up, down = (ScriptedReach(put(WalledReach(1), (-0.7, y)), gap="nearest") for y in (1e-3, -1e-3))
    mean = (up.act(None) + down.act(None)) / 2
    assert abs(float(mean[0, 1])) < 0.01 and float(mean[0, 0]) > 0


def test_only_the_goal_of_the_task_counts():
    for task, (x, y) in WaypointReach.goals.items():
        env = put(WaypointReach(4, task=task), *WaypointReach.goals.values())
        reward = env.step(torch.zeros(4, 2))[1]
        assert reward.tolist() == [float(place == (x, y)) for place in WaypointReach.goals.values()]


def test_tasks_a_and_b_share_their_way_to_the_waypoint_and_c_and_d_none_of_it():
    env = put(WaypointReach(3), (0.0, 0.3), (0.5, -0.2), (1.2, 0.1))
    a, b, c, d = (ScriptedReach(env, task=task).act(None) for task in "ABCD")
    assert torch.equal(a[:2], b[:2]) and a[2, 1] > 0 > b[2, 1]
    assert (a[:2, 0] > 0).all() and (c[:, 0] < 0).all() and (d[:, 0] < 0).all()


@pytest.mark.parametrize("world", ["anytask/Reach-v0", "anytask/WalledReach-v0", "anytask/WaypointReach-v0"])
@pytest.mark.parametrize("observation", ["state", "pixels"])
def test_experts_always_arrive(world, observation):
    env = make(world, 50, observation=observation)
    assert evaluate(ScriptedReach(env), env, 50).success_rate == 1.0


def test_every_task_of_the_waypoint_world_can_be_done_with_noise_from_wide_starts():
    for task in "ABCD":
        data = demonstrations("anytask/WaypointReach-v0", 40, task=task, noise=0.25)
        assert data.attributes["success"].mean() > 0.95


def test_demonstrations_of_mixed_speed_fall_short():
    data = demonstrations("anytask/Reach-v0", 300, speed=(0.25, 1.0), noise=0.3)
    # Arrival takes about 1.8 world units in 20 steps of 0.2 x speed: a quarter of the speeds, below 0.45, is too slow.
    assert 0.6 < data.attributes["success"].mean() < 0.9
    assert demonstrations("anytask/Reach-v0", 50).attributes["success"].mean() == 1.0


def test_a_demonstrator_draws_one_speed_per_episode():
    env = make("anytask/Reach-v0", 200)
    env.reset()
    expert = ScriptedReach(env, speed=(0.25, 1.0))
    first = expert.act(None).norm(dim=1)
    assert torch.allclose(first, expert.act(None).norm(dim=1))
    assert first.min() >= 0.25 - 1e-6 and first.max() <= 1 + 1e-6 and first.std() > 0.15
    expert.reset(torch.tensor([3]))
    changed = expert.act(None).norm(dim=1) != first
    assert changed.nonzero().ravel().tolist() == [3]


def test_noise_is_left_out_where_the_best_action_is_asked():
    env = make("anytask/Reach-v0", 500)
    env.reset()
    clean, noisy = ScriptedReach(env), ScriptedReach(env, noise=0.1)
    assert torch.equal(clean.act(None), noisy.act(None, deterministic=True))
    assert float((noisy.act(None, deterministic=False) - clean.act(None)).std()) == pytest.approx(0.1, rel=0.1)


def test_random_gaps_are_taken_evenly():
    env = make("anytask/WalledReach-v0", 400)
    env.reset()
    up = ScriptedReach(env, gap="random").act(None)[:, 1] > 0
    assert 150 < int(up.sum()) < 250
    assert evaluate(ScriptedReach(env, gap="random"), env, 400).success_rate == 1.0


def test_experts_of_one_gymnasium_environment_work_too():
    import gymnasium

    env = gymnasium.make("anytask/Reach-v0")
    obs, _ = env.reset(seed=0)
    expert, done = ScriptedReach(env), False
    while not done:
        obs, reward, terminated, truncated, info = env.step(expert.act(obs)[0].numpy())
        done = terminated or truncated
    assert reward == 1.0 and info["success"]


def test_images_show_where_the_point_is():
    env = put(Reach(3, observation="pixels"), (-0.5, 0.5), (0.0, 0.0), (-0.5, 0.5))
    obs = env._observe()
    blue = (obs.to(int) - torch.tensor([0, 114, 178])).abs().sum(-1) < 60  # (copies, rows, columns)
    center = [[float(v) for v in mask.nonzero().to(torch.float32).mean(0)] for mask in blue]
    # x = -0.5 is a quarter of the width from the left, y = 0.5 a quarter of the height from above: pixel edge 8.
    assert center[0] == pytest.approx([7.5, 7.5]) and center[1] == pytest.approx([15.5, 15.5])
    assert torch.equal(obs[0], obs[2])


def test_images_show_the_time_where_the_state_does():
    def bar(env):
        env.reset()
        env.elapsed[:] = 10
        obs = env._observe()[0, -1]
        return int(((obs[:, 0] > 200) & (obs[:, 2] < 60)).sum())

    assert bar(Reach(1, observation="pixels")) == 16 and bar(WaypointReach(1, observation="pixels")) == 0


def test_images_of_all_tasks_are_alike():
    a, b = (make("anytask/WaypointReach-v0", 4, task=task, observation="pixels").reset()[0] for task in "AB")
    assert torch.equal(a, b)


def test_a_trace_belongs_to_its_episode():
    env = Reach(1, render_mode="rgb_array", max_episode_steps=5)
    env.reset()
    fresh = env.image()
    for _ in range(4):
        env.step([[1.0, 0.0]])
    far = env.image()
    env.restore(env.state())
    assert (far != fresh).any() and (env.image() != far).any()
    env.step([[0.0, 0.0]])  # over, and begun again
    blue = lambda image: int((np.abs(image.astype(int) - [0, 114, 178]).sum(-1) < 60).sum())  # noqa: E731
    assert blue(env.image()) < 1.2 * blue(fresh) < blue(far)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"speed": 0}, "speed"), ({"speed": (0.9, 0.1)}, "speed"), ({"noise": -1}, "noise"), ({"gap": "left"}, "gap"),
     ({"task": "A"}, "one task")],
)  # fmt: skip
def test_bad_experts_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ScriptedReach(Reach(1), **options)
    with pytest.raises(ValueError, match="one of"):
        ScriptedReach(WaypointReach(1), task="E")
    with pytest.raises(TypeError, match="reach worlds"):
        ScriptedReach(make("CartPole-v1", 1))
