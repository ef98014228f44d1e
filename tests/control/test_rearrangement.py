"""The kinematic simulator: collisions, grasps, drops, sensors, rewards, and that a batch is so many single worlds."""

import importlib.util
import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from anytask.control import evaluate, make
from anytask.control.envs.rearrangement import FetchRearrangement, Rearrangement
from anytask.control.envs.rearrangement.episodes import check_episodes, faults
from anytask.control.envs.rearrangement.scene import ROBOTS, EpisodeList, Scene, built_in_scene
from anytask.control.envs.rearrangement.sensors import step_count

LISTED = ("start", "target", "goal", "objects", "stage")
EMPTY = {"bounds": [[-2, -2], [2, 2]], "objects": [{"name": "box", "half": [0.05, 0.05, 0.05]}]}


def scene(start, thing, goal, boxes=(), objects=None, others=None, **more):
    data = {**EMPTY, "boxes": [{"center": c, "half": h} for c, h in boxes], **more}
    if objects is not None:
        data["objects"] = objects
    positions = {data["objects"][0]["name"]: thing, **(others or {})}
    return data | {"episodes": [{"start": start, "target": 0, "goal": goal, "objects": positions}]}


def world(start=(0, 0, 0), thing=(1.0, 0.05, 1.0), goal=(-1.0, 0.05, 1.0), n=1, reset=True, **options):
    keys = ("boxes", "objects", "others")
    env = Rearrangement(
        n, scene=scene(start, thing, goal, **{k: options.pop(k) for k in keys if k in options}), **options
    )
    if reset:
        env.reset(seed=0)
    return env


def act(env, grasp=0.0, yaw=0.0, forward=0.0, extend=0.0):
    return env.step(torch.tensor([[grasp, yaw, forward, extend]]).expand(env.num_envs, -1))


def moving(steps, n, d, seed=0):
    """Random actions that mostly drive, and grasp and release now and then."""
    a = torch.rand((steps, n, d), generator=torch.Generator().manual_seed(seed)) * 2.2 - 1.1
    a[:, :, 2] += 0.3
    return a


def near_objects(env, seed=0):
    """The list of an environment with the robots moved to their targets, as far as nothing is in the way."""
    rng = np.random.default_rng(seed)
    e = env.episodes
    yaw = rng.uniform(-np.pi, np.pi, len(e))
    place = e.objects[np.arange(len(e)), e.target]
    start = np.stack([place[:, 0] - 0.25 * np.cos(yaw), place[:, 2] + 0.25 * np.sin(yaw), yaw], 1).astype(np.float32)
    moved = EpisodeList(start, e.target, e.goal, e.objects, e.stage)
    return moved[(~faults(env, moved)[0]).numpy().nonzero()[0]]


def in_reach(env):
    """Put every target where the gripper is."""
    env.objects[torch.arange(env.num_envs), env.target] = env.effector


# --- motion -------------------------------------------------------------------------------------------------------


def test_the_base_turns_first_and_then_drives_along_cos_and_minus_sin():
    env = world()
    act(env, yaw=0.5, forward=0.5)
    assert env.yaw.item() == pytest.approx(0.2)
    assert env.x.item() == pytest.approx(0.05 * np.cos(0.2)) and env.z.item() == pytest.approx(-0.05 * np.sin(0.2))


def test_actions_are_clamped_and_joints_stay_within_their_limits():
    env = world()
    act(env, forward=7.0, extend=1.0)
    assert env.x.item() == pytest.approx(0.1) and env.joints.item() == pytest.approx(0.3)
    for _ in range(6):
        act(env, extend=1.0)
    assert env.joints.item() == pytest.approx(0.5)
    assert env.effector[0].tolist() == pytest.approx([0.1 + 0.5, 0.1, 0.0])


def test_the_fetch_moves_each_joint_by_its_own_step():
    robot = ROBOTS["fetch"]
    assert robot.action_dim == 11 and len(robot.spheres) == 29 and len(set(robot.radii)) == 3
    env = FetchRearrangement(1, sliding=False)
    env.reset(seed=0)
    before = env.joints.clone()
    env.step(torch.tensor([[0.0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0]]))
    step = torch.tensor([[0.0196] * 5 + [0.0262, 0.0196]])
    assert torch.allclose(env.joints - before, step, atol=1e-6)


def test_forward_kinematics_of_the_fetch_by_rotation_matrices():
    env = FetchRearrangement(1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        q, yaw = rng.uniform(-1, 1, 7), rng.uniform(-3, 3)

        def turn(axis, angle):
            c, s = np.cos(angle), np.sin(angle)
            r = np.eye(3)
            u, v = (axis + 1) % 3, (axis + 2) % 3
            r[u, u], r[v, v], r[u, v], r[v, u] = c, c, -s, s
            return r

        frame, p = turn(1, yaw), np.array([0.3, 0.0, -0.2])
        for joint, angle in zip(ROBOTS["fetch"].joints, q):
            p = p + frame @ joint.offset
            frame = frame @ turn(joint.axis, joint.sign * angle)
        p = p + frame @ ROBOTS["fetch"].gripper
        pose = env.body.pose(torch.tensor([0.3, -0.2, yaw, *q], dtype=torch.float32)[:, None])
        assert np.allclose(pose.effector[:, 0].numpy(), p, atol=1e-5)
        assert np.allclose(env.body.frame(pose)[:, :, 0].numpy(), frame.T, atol=1e-5)


@pytest.mark.parametrize("robot", ["disc", "fetch"])
def test_a_rejected_motion_leaves_base_and_joints_exactly_as_they_were(robot):
    env = Rearrangement(
        64, robot=robot, sliding=False, task="rearrange", episodes=64, autoreset=False, drop_is_fail=False
    )
    env.reset(seed=0)
    rejected = 0
    for a in moving(30, 64, env.action_dim):
        if robot == "fetch":
            a[:, -1] = 0.0  # never stop
        before = {k: getattr(env, k).clone() for k in ("configuration", "effector", "frame")}
        wanted_yaw = env.yaw + a[:, 1].clamp(-1, 1) * env.robot.yaw_step
        env.step(a)
        still = env.yaw != wanted_yaw
        for key, value in before.items():
            assert torch.equal(getattr(env, key)[still], value[still])
        rejected += int(still.sum())
    assert rejected > 50


def test_driving_into_a_wall_stops_and_sliding_goes_along_it():
    # A wall whose face is at x = 0.5: the disc of radius 0.15 stays left of 0.35, at most a cell's diagonal earlier.
    wall = [((0.6, 0.5, 0.0), (0.1, 0.5, 1.5))]
    ends = {}
    for sliding in (False, True):
        env = world(start=(0, 0, -0.8), boxes=wall, thing=(-1, 0.05, 0), sliding=sliding)
        for _ in range(15):
            act(env, forward=1.0)
        ends[sliding] = env.x.item(), env.z.item()
        assert ends[sliding][0] <= 0.35
    assert ends[True][1] > ends[False][1] + 0.4
    assert ends[True][1] == pytest.approx(1.5 * np.sin(0.8), abs=1e-4)


def test_nothing_ever_enters_an_obstacle():
    env = Rearrangement(128, task="rearrange", episodes=200)
    env.reset(seed=0)
    boxes = env.scene.stages[0].boxes
    for a in moving(60, 128, 4):
        env.step(a)
        center = torch.stack([env.x, torch.full_like(env.x, 0.15), env.z], 1)
        for c, h in boxes:
            gap = ((center - torch.tensor(c)).abs() - torch.tensor(h)).clamp(min=0)
            assert bool((gap.norm(dim=1) >= 0.15 - 1e-5).all())
        assert bool((torch.maximum(env.x.abs(), env.z.abs()) <= 1.35 + 1e-5).all())


def test_a_movable_box_blocks_the_body():
    env = world(thing=(0.4, 0.05, 0.0), sliding=False)
    for _ in range(5):
        act(env, forward=1.0, extend=-1.0)
    # The box begins at 0.35 and is 0.1 high: the sphere at height 0.15 overlaps it from sqrt(0.15^2 - 0.05^2) before.
    assert 0.1 <= env.x.item() < 0.35 - np.sqrt(0.15**2 - 0.05**2)


# --- grasping and dropping ----------------------------------------------------------------------------------------


def test_grasp_snaps_and_the_held_box_is_at_the_gripper_after_every_step():
    env = world(thing=(0.28, 0.05, 0.0), task="rearrange")
    act(env, grasp=0.4)
    assert env.held.item() == -1  # not above 0.5
    act(env, grasp=0.6, extend=0.5)
    assert env.held.item() == 0
    for a in moving(20, 1, 4):
        a[:, 0] = 0.0
        env.step(a)
        assert env.held.item() == 0 and torch.equal(env.objects[:, 0], env.effector)


def test_a_release_falls_on_the_floor_and_on_a_box_under_it():
    for boxes, height in (((), 0.05), ([((0.9, 0.02, 0.0), (0.2, 0.02, 0.2))], 0.09)):
        env = world(thing=(0.28, 0.05, 0.0), task="rearrange", boxes=boxes)
        act(env, grasp=1.0, extend=0.5)
        for _ in range(5):
            act(env, forward=1.0)
        act(env, extend=1.0)
        act(env, grasp=-1.0)
        assert env.held.item() == -1
        assert env.objects[0, 0].tolist() == pytest.approx([0.85, height, 0.0], abs=1e-5)


def test_an_unstable_drop_fails_keeps_the_box_and_is_counted():
    # The box (half extent 0.05) is let go at 0.55 over a slab that begins at 0.58: it overlaps by 0.02, centre off.
    env = world(thing=(0.28, 0.05, 0.0), task="rearrange", boxes=[((0.68, 0.02, 0.0), (0.1, 0.02, 0.2))])
    act(env, grasp=1.0, extend=0.5)
    for _ in range(3):
        act(env, forward=1.0)
    assert env.effector[0, 0].item() == pytest.approx(0.55, abs=1e-5)
    act(env, grasp=-1.0)
    assert env.held.item() == 0 and env.failed_drops.item() == 1
    act(env, grasp=-1.0)
    assert env.failed_drops.item() == 2
    assert torch.equal(env.objects[:, 0], env.effector)


def test_a_box_can_be_put_on_another_box():
    things = [{"name": n, "half": [0.04, 0.03, 0.04]} for n in ("a", "b")]
    env = world(
        thing=(0.26, 0.03, 0.0), objects=things, others={"b": [0.6, 0.03, 0.0]}, task="rearrange", max_episode_steps=99
    )
    act(env, grasp=1.0)
    assert env.held.item() == 0
    for _ in range(2):
        act(env, forward=1.0)
    act(env, extend=1.0, forward=0.0)
    act(env, grasp=-1.0, extend=1.0)
    assert env.held.item() == -1 and env.objects[0, 0].tolist() == pytest.approx([0.6, 0.09, 0.0], abs=1e-5)


def test_what_was_put_down_against_the_body_does_not_hold_the_robot():
    # Let go at 0.2, this box reaches back to 0.12, where the body's sphere is.
    env = world(thing=(0.28, 0.05, 0.0), objects=[{"name": "box", "half": [0.08, 0.05, 0.05]}], task="rearrange")
    act(env, grasp=1.0)
    act(env, grasp=-1.0)
    assert env.held.item() == -1 and env.contact.item()
    act(env, forward=-1.0)
    assert env.x.item() == pytest.approx(-0.1) and not env.contact.item()
    act(env, forward=1.0)
    assert env.x.item() < 0.0  # and now the box is in the way


# --- sensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "wanted"), [(400, (0.2, 1, 1)), (495, (0.01, 0.05, 0.5)), (0, (1, 1, 1))])
def test_step_count_sensor(t, wanted):
    assert step_count(torch.tensor([t]), 500)[:, 0].tolist() == pytest.approx(list(wanted))


def test_sensors_are_in_the_frames_of_base_and_gripper():
    # The robot at (1, 0.5) looks along -z (yaw 90 degrees); the box is 0.7 ahead and 0.2 to its right (+x).
    env = world(start=(1.0, 0.5, np.pi / 2), thing=(1.2, 0.05, -0.2), goal=(-1.0, 0.05, 0.5), rays=0)
    obs, _ = env.reset()
    ahead = [0.7, 0.2, 0.7 - 0.2, 0.2, 0.2, 0.0, 0.0, -2.0, -0.2, -2.0, 0.0, 0.0, 0.2, 1, 1, 1]
    assert obs[0].tolist() == pytest.approx(ahead, abs=1e-5)


def test_the_fetch_senses_in_its_turned_gripper_frame():
    env = FetchRearrangement(8, episodes=20)
    obs, _ = env.reset(seed=1)
    for a in moving(5, 8, 11):
        obs, *_ = env.step(a * 0.5)
    for i in range(8):
        rotation = env.frame[i].numpy()  # rows: the gripper's axes in the world
        d = rotation @ (env.object_start[i] - env.effector[i]).numpy()
        assert np.allclose(obs[i, 3:6].numpy(), d, atol=1e-5)
        assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)


def test_rays_measure_walls_and_boxes():
    env = world(boxes=[((1.0, 0.5, 0.0), (0.1, 0.5, 0.3))], thing=(0.0, 0.05, 0.6), ray_range=4.0)
    obs, _ = env.reset()
    rays = (obs[0, -8:] * 4.0).tolist()
    # Ray k looks 45 k degrees to the left, towards -z: ahead the box, behind and aside the bounds, right the movable.
    diagonal = 2 * np.sqrt(2)
    assert rays == pytest.approx([0.9, diagonal, 2.0, diagonal, 2.0, diagonal, 0.55, diagonal], abs=1e-5)


@settings(max_examples=25, deadline=None)
@example(x=0.0, z=1.0, yaw=3.6e-40)
@given(x=st.floats(-1.3, 1.3), z=st.floats(-1.3, 1.3), yaw=st.floats(-7, 7))
def test_rays_agree_with_marching(x, z, yaw):
    env = RAYS
    env.x[:], env.z[:], env.yaw[:] = x, z, yaw
    rays = env._observe()[0, -8:].double().numpy() * 4.0
    boxes = [(c, h) for c, h in env.scene.stages[0].boxes] + [(env.objects[0, 0].tolist(), env.halves[0].tolist())]

    def solid(px, pz):
        return max(abs(px), abs(pz)) > 1.5 or any(abs(px - c[0]) < h[0] and abs(pz - c[2]) < h[2] for c, h in boxes)

    assume(not any(solid(x + dx, z + dz) for dx in (-1e-4, 1e-4) for dz in (-1e-4, 1e-4)))
    for k, length in enumerate(rays):
        angle = yaw + k * np.pi / 4
        at = [(x + r * np.cos(angle), z - r * np.sin(angle)) for r in np.arange(0, max(length - 2e-3, 0), 0.02)]
        assert not any(solid(*p) for p in at)
        steps = [length + s for s in (2e-3, 5e-3)]
        hit = [solid(x + r * np.cos(angle), z - r * np.sin(angle)) for r in steps]
        # Where a ray only grazes a corner it may be free again behind.
        grazes = [solid(x + r * np.cos(angle + e), z - r * np.sin(angle + e)) for r in steps for e in (-0.02, 0.02)]
        assert any(hit) or any(grazes)


RAYS = Rearrangement(1, episodes=5)
RAYS.reset(seed=0)


def test_depth_is_the_distance_along_the_axis_and_agrees_with_the_geometry():
    wall = [((1.55, 1.0, 0.0), (0.05, 1.0, 1.9))]  # its face at x = 1.5
    env = world(boxes=wall, images=("depth", "rgb"), image_size=(9, 9), robot="fetch", thing=(-1, 0.05, 0))
    obs, _ = env.reset()
    depth = obs["depth"][0, :, :, 0] * 10
    # The middle pixel looks 20 degrees down from x = 0.1, height 1.1: it meets the wall 1.4 m ahead.
    assert depth[4, 4].item() == pytest.approx(1.4 / np.cos(np.radians(20)), abs=1e-4)
    # The lowest pixel meets the floor: the angle below the axis is atan(8 / 9 tan 30).
    down = np.radians(20) + np.arctan(8 / 9 * np.tan(np.radians(30)))
    along = 1.1 / np.sin(down) * np.cos(np.arctan(8 / 9 * np.tan(np.radians(30))))
    assert depth[8, 4].item() == pytest.approx(along, abs=1e-4)
    assert obs["rgb"].shape == (1, 9, 9, 3) and obs["rgb"].min() >= 0 and obs["rgb"].max() <= 1


def test_a_users_renderer_adds_its_observations():
    def heights(env, rows):
        value = env.effector if rows is None else env.effector[rows]
        return {"height": value[:, 1:2].clone()}

    space = {"height": gymnasium.spaces.Box(0, 2, (1,), np.float32)}
    env = Rearrangement(3, render=heights, render_space=space, max_episode_steps=2, episodes=5)
    env.reset(seed=0)
    for _ in range(3):
        obs, *_ = env.step(torch.zeros(3, 4))
        assert env.observation_space.contains({k: v.numpy() for k, v in obs.items()})
    with pytest.raises(ValueError, match="render_space"):
        Rearrangement(1, render=heights)


def test_sensors_that_are_not_numbers_raise():
    env = Rearrangement(3, episodes=5)
    env.reset(seed=0)
    env.goal[1, 0] = float("nan")
    with pytest.raises(ValueError, match="environment 1 is NaN"):
        env.step(torch.zeros(3, 4))


def test_a_gripper_exactly_at_the_object_has_finite_sensors():
    env = world(thing=(0.28, 0.05, 0.0), task="rearrange")
    for _ in range(3):
        obs, *_ = act(env, grasp=1.0)
    assert env.held.item() == 0 and bool(torch.isfinite(obs).all())


def test_without_relative_sensors_object_and_goal_are_unseen():
    for track in (False, True):
        env = Rearrangement(2, relative_sensors=False, rays=0, track_object=track, episodes=5)
        obs, _ = env.reset(seed=0)
        env.goal[:], env.object_start[:], env.objects[:] = 1.0, 0.7, 0.7
        assert torch.equal(env._observe(), obs) and obs.shape == (2, 8)


# --- reward -------------------------------------------------------------------------------------------------------


def judged(env, d_eo, d_og, newly=False, released=False, terminal=False):
    """Judge a transition with distances 1.0 -> d_eo and 2.0 -> d_og, the gripper at the origin."""
    env.elapsed[:] = 10
    env.object_distance[:], env.goal_distance[:] = 1.0, 2.0
    env.effector[:] = 0.0
    env.objects[:, 0] = torch.tensor([d_eo, 0.0, 0.0])
    env.goal[:] = torch.tensor([d_eo, 0.0, d_og])
    env.held[:] = 0 if newly and not terminal else -1
    env.picked[:] = terminal
    return env._judge(torch.zeros(env.action_dim, 1), torch.tensor([newly]), torch.tensor([released]), env.effector.T)


def test_reward_is_the_progress_plus_the_bonus_for_a_new_grasp():
    env = world(task="rearrange")
    reward, ended, _ = judged(env, 0.8, 2.0, newly=True)
    assert reward.item() == pytest.approx(0.2 + 5.0) and not ended.item()


def test_reward_of_a_terminal_success_is_exactly_ten():
    env = world(task="rearrange")
    reward, ended, success = judged(env, 0.8, 0.0, terminal=True)
    assert reward.item() == 10.0 and ended.item() and success.item()


def test_a_failed_end_costs_the_penalty_alone():
    env = world(task="rearrange", failure_penalty=3.0, max_episode_steps=11)
    reward, ended, success = judged(env, 0.8, 2.0)
    assert (reward.item(), ended.item(), success.item()) == (-3.0, True, False)
    env = world(task="rearrange", failure_penalty=3.0, max_episode_steps=11, timeouts_terminate=False)
    reward, ended, _ = judged(env, 0.8, 2.0)
    assert reward.item() == pytest.approx(0.2) and not ended.item()


def test_terms_can_be_switched_off():
    assert judged(world(task="rearrange", progress=0.0), 0.8, 2.0, newly=True)[0].item() == pytest.approx(5.0)
    assert judged(world(task="rearrange", pick_bonus=0.0), 0.8, 2.0, newly=True)[0].item() == pytest.approx(0.2)
    assert judged(world(task="rearrange", slack=0.5), 0.8, 2.0)[0].item() == pytest.approx(-0.3)


def test_the_bonus_is_paid_once_and_not_within_tau_of_the_goal():
    env = world(task="rearrange")
    assert judged(env, 0.8, 0.1, newly=True)[0].item() == pytest.approx(0.2 + 1.9)
    env = world(task="rearrange")
    judged(env, 1.0, 2.0, newly=True)
    assert env.picked.item()
    env.picked[:] = True
    reward = judged(env, 1.0, 2.0, newly=True, terminal=False)[0]
    assert reward.item() == pytest.approx(5.0)  # judged() forgets the pick
    env = world(thing=(0.28, 0.05, 0.0), task="rearrange", progress=0.0)
    rewards = [act(env, grasp=g)[1].item() for g in (0.0, 1.0, -1.0, 1.0, -1.0, 1.0)]
    assert rewards == [0.0, 5.0, 0.0, 0.0, 0.0, 0.0]


def test_the_first_step_after_a_reset_is_not_shaped():
    env = world(thing=(0.28, 0.05, 0.0), task="rearrange", action_penalty=1.0, slack=0.25)
    assert act(env, grasp=1.0, forward=0.5)[1].item() == pytest.approx(-0.25)


def test_the_action_penalty_leaves_out_grasp_and_stop():
    env = FetchRearrangement(1, action_penalty=2.0, progress=0.0, sliding=False, episodes=3)
    env.reset(seed=0)
    env.step(torch.zeros(1, 11))
    reward = env.step(torch.tensor([[0.4, 0.1, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.4]]))[1]
    assert reward.item() == pytest.approx(-2.0 * (0.01 + 0.04), abs=1e-6)


def test_progress_telescopes_to_the_distances_gained():
    env = world(task="rearrange", max_episode_steps=50, timeouts_terminate=False)
    act(env)
    d = env.object_distance.item() + env.goal_distance.item()
    total = sum(act(env, yaw=0.1, forward=0.7)[1].item() for _ in range(10))
    assert total == pytest.approx(d - env.object_distance.item() - env.goal_distance.item(), abs=1e-5)


# --- tasks and ends -----------------------------------------------------------------------------------------------


def carried(**options):
    """A robot that has just grasped its box 0.28 ahead; the goal is 0.4 ahead of it."""
    goal = options.pop("goal", (0.4, 0.05, 0.0))
    env = world(thing=(0.28, 0.05, 0.0), goal=goal, autoreset=False, **options)
    return env, act(env, grasp=1.0)


def test_pick_succeeds_when_the_target_is_held():
    _, (_, reward, terminated, _, infos) = carried(task="pick")
    assert reward.item() == 10.0 and terminated.item() and infos["success"].item()


def test_rearrange_succeeds_when_the_target_was_put_down_within_tau():
    env, (*_, infos) = carried(task="rearrange")
    assert not infos["success"].item()
    act(env, forward=1.0)
    assert env.goal_distance.item() < env.settings.tau and not infos["success"].item()  # still held
    _, reward, terminated, _, infos = act(env, grasp=-1.0)
    assert reward.item() == 10.0 and terminated.item() and infos["success"].item()


@pytest.mark.parametrize(("drop_is_fail", "ends"), [(True, True), (False, False)])
def test_a_release_far_from_the_goal_fails_only_if_a_drop_is_a_failure(drop_is_fail, ends):
    env, _ = carried(task="rearrange", goal=(-1.0, 0.05, 1.0), drop_is_fail=drop_is_fail)
    _, _, terminated, _, infos = act(env, grasp=-1.0)
    assert terminated.item() is ends and not infos["success"].item()


def test_a_wrong_object_fails():
    things = [{"name": n, "half": [0.05, 0.05, 0.05]} for n in ("a", "b")]
    env = world(
        thing=(1.0, 0.05, 1.0), objects=things, others={"b": [0.28, 0.05, 0.0]}, drop_is_fail=True, autoreset=False
    )
    _, reward, terminated, _, infos = act(env, grasp=1.0)
    assert env.held.item() == 1 and terminated.item() and reward.item() == 0.0 and not infos["success"].item()


@pytest.mark.parametrize(("height", "wanted"), [(0.05, True), (0.1, False), (0.0501, True)])
def test_simple_place_judges_where_the_object_was_let_go(height, wanted):
    # The gripper is 0.1 high: 0 < 0.1 - height < 2 tau.
    env, _ = carried(task="simple-place", goal=(0.35, height, 0.0), tau=0.15)
    _, _, terminated, _, infos = act(env, grasp=-1.0, forward=0.5)
    assert infos["success"].item() is wanted
    assert terminated.item() is wanted


def test_the_fetch_has_to_call_stop_and_not_before_its_sixth_step():
    env = FetchRearrangement(1, task="rearrange", episodes=3, autoreset=False)
    env.reset(seed=0)
    stop = torch.zeros(1, 11)
    stop[0, -1] = 1.0
    for _ in range(6):
        assert not env.step(stop)[2].item()  # steps 0 to 5
    _, reward, terminated, _, infos = env.step(stop)
    assert terminated.item() and not infos["success"].item() and reward.item() == 0.0
    env.reset(seed=0)
    for _ in range(6):
        env.step(torch.zeros(1, 11))
    env.objects[0, env.target[0]] = env.goal[0]
    assert not env.step(torch.zeros(1, 11))[4]["success"].item()
    _, reward, _, _, infos = env.step(stop)
    assert infos["success"].item() and reward.item() == 10.0


def test_all_episodes_are_counted_in_the_order_of_the_list():
    class Grasping:
        def act(self, obs, *, deterministic=True):
            return torch.tensor([[1.0, 0, 0, 0]]).expand(len(obs), -1)

    base = Rearrangement(1, episodes=60)
    near = near_objects(base)
    both = EpisodeList(*(np.concatenate([getattr(e, f) for e in (base.episodes[:20], near[:13])]) for f in LISTED))
    played = [
        evaluate(Grasping(), Rearrangement(n, episodes=both, order="once", max_episode_steps=5), "all")
        for n in (1, 7, 64)
    ]
    wanted = played[0]
    for results in played:
        assert len(results) == 33
        assert np.array_equal(results.success, wanted.success) and np.array_equal(results.lengths, wanted.lengths)
    # Whoever stands 0.25 before its box gets it at once.
    assert wanted.success[20:].all() and set(wanted.lengths[20:].tolist()) == {1} and not wanted.success[:20].any()
    with pytest.raises(ValueError, match="once"):
        evaluate(Grasping(), Rearrangement(2, episodes=4), "all")


def test_every_episode_of_a_list_is_played_exactly_once():
    env = Rearrangement(4, order="once", episodes=10, max_episode_steps=6)
    env.reset(seed=0)
    seen, played = [], env.episode.clone()
    for a in moving(40, 4, 4):
        off = env.disabled.clone()
        _, reward, terminated, truncated, _ = env.step(a)
        done = terminated | truncated
        assert not (done & off).any() and not reward[off].any()
        seen += played[done].tolist()
        played = env.episode.clone()
    assert sorted(seen) == list(range(10)) and bool(env.disabled.all())
    env.reset()
    assert not env.disabled.any() and env.episode.tolist() == [0, 1, 2, 3]
    few = Rearrangement(4, order="once", episodes=3)
    few.reset()
    assert few.disabled.tolist() == [False, False, False, True]


# --- a batch is so many single worlds -----------------------------------------------------------------------------


@pytest.mark.parametrize("robot", ["disc", "fetch"])
def test_a_batch_equals_single_worlds_bit_for_bit(robot):
    n, steps = 6, 16
    batch = Rearrangement(n, robot=robot, task="rearrange", max_episode_steps=12, seed=5, episodes=100)
    a = moving(steps, n, batch.action_dim)
    a[:, :, 0] = a[:, :, 0].sign()
    a[0] = torch.eye(batch.action_dim)[0]  # grasp first
    first, _ = batch.reset(seed=5)
    in_reach(batch)
    outputs = [batch.step(x) for x in a]
    grasps = 0
    for i in range(n):
        single = Rearrangement(1, robot=robot, task="rearrange", max_episode_steps=12, episodes=batch.episodes)
        obs, _ = single.reset(seed=5 + i)
        in_reach(single)
        assert torch.equal(obs[0], first[i])
        for t in range(steps):
            results = single.step(a[t, i : i + 1])
            for one, many in zip(results[:4], outputs[t][:4]):
                assert torch.equal(one[0], many[i])
            grasps += int(single.held.item() >= 0)
        for name in Rearrangement.STATE:
            if name != "cursor":
                assert torch.equal(getattr(single, name)[0], getattr(batch, name)[i]), name
    assert grasps >= n


def plain_module():
    path = Path(__file__).parents[2] / "benchmarks" / "rearrangement_plain.py"
    spec = importlib.util.spec_from_file_location("rearrangement_plain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("task", ["rearrange", "simple-place"])
@pytest.mark.parametrize("drop_is_fail", [True, False])
def test_a_plain_single_environment_gives_the_same_numbers(task, drop_is_fail):
    n = 16
    options = {"task": task, "drop_is_fail": drop_is_fail}
    episodes = near_objects(Rearrangement(1, task=task))
    env = Rearrangement(n, episodes=episodes, **options)
    env.reset(seed=1)
    plains = [plain_module().PlainRearrangement(episodes=episodes, **options)] * 1
    plains += [object.__new__(type(plains[0])) for _ in range(n - 1)]
    for p in plains:
        p.__dict__.update(plains[0].__dict__)

    def begin(i):
        plains[i].put([v[i].item() for v in (env.x, env.z, env.yaw)], env.objects[i, 0].tolist(), env.goal[i].tolist())

    for i in range(n):
        begin(i)
    grasps = 0
    for a in moving(70, n, 4):
        obs, reward, terminated, _, infos = env.step(a)
        last = infos.get("final_obs", obs)
        for i, p in enumerate(plains):
            seen, r, ended, _, info = p.step(a[i].numpy())
            assert np.abs(seen - last[i].numpy()).max() < 1e-4 and r == pytest.approx(reward[i].item(), abs=1e-4)
            assert ended == terminated[i].item() and info["success"] == infos["success"][i].item()
            grasps += seen[10] > 0
            if ended:
                begin(i)
    assert grasps > 50


# --- scenes and episodes ------------------------------------------------------------------------------------------


def test_a_json_file_is_read_written_and_read_again(tmp_path):
    path = tmp_path / "room.json"
    path.write_text(
        json.dumps(scene([0, 0, 1], [1, 0.05, 1], [-1, 0.05, 1], boxes=[((0.5, 0.2, -1), (0.1, 0.2, 0.1))]))
    )
    first = Scene.read(path)
    first.write(tmp_path / "again.json")
    second = Scene.read(tmp_path / "again.json")
    assert first.fingerprint == second.fingerprint and len(second.episodes) == 1
    env = make("anytask/Rearrangement-v0", 2, scene=str(path))
    env.reset(seed=0)
    assert env.yaw.tolist() == [1.0, 1.0] and env.goal[0].tolist() == pytest.approx([-1, 0.05, 1])


def test_several_stages_in_one_batch():
    data = {
        "stages": {"hall": {"bounds": [[-1, -1], [1, 1]]}, "cell": {"bounds": [[-0.5, -0.5], [0.5, 0.5]]}},
        "objects": EMPTY["objects"],
        "episodes": [
            {
                "stage": s,
                "start": [0, 0, 0],
                "target": "box",
                "goal": [0.3, 0.05, 0],
                "objects": {"box": [0, 0.05, 0.3]},
            }
            for s in ("hall", "cell")
        ],
    }
    env = Rearrangement(2, scene=data, order="once")
    obs, _ = env.reset()
    assert (obs[:, -8] * 4).tolist() == pytest.approx([1.0, 0.5])
    for _ in range(12):
        env.step(torch.tensor([[0.0, 0, 1, -1]] * 2))
    # The gripper, 0.2 ahead with radius 0.03, meets the wall first.
    assert 0.7 <= env.x[0].item() <= 0.77 and 0.2 <= env.x[1].item() <= 0.27
    assert env.image(1).shape[2] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": [0.6, 0, 0]}, "episode 0: the start pose .* is in collision"),
        ({"start": [1.95, 0, 0]}, "episode 0: the start pose .* is in collision"),
        ({"goal": [0.6, 0.3, 0.0]}, "episode 0: the goal is inside an obstacle"),
        ({"goal": [0.0, 0.01, 0.0]}, "episode 0: the goal is inside an obstacle"),
        ({"thing": [0.6, 0.3, 0.0]}, "episode 0: an object stands inside an obstacle"),
    ],
)
def test_impossible_episodes_are_refused_by_their_number(change, message):
    given_ = {"start": [0, 0, 0], "thing": [1, 0.05, 1], "goal": [-1, 0.05, 1]} | change
    with pytest.raises(ValueError, match=message):
        Rearrangement(1, scene=scene(boxes=[((0.7, 0.5, 0.0), (0.2, 0.5, 0.5))], **given_))


def test_bad_scenes_say_where(tmp_path):
    good = scene([0, 0, 0], [1, 0.05, 1], [-1, 0.05, 1])
    for change, message in (
        ({"episodes": []}, "the list of episodes is empty"),
        ({"objects": []}, "no movable object"),
        ({"walls": 1}, "unknown key 'walls'"),
        ({"bounds": [[1, 1], [0, 0]]}, "bounds of stage"),
        ({"boxes": [{"center": [0, 0], "half": [1, 1, 1]}]}, "box 0 of stage: center must be 3 finite numbers"),
        ({"boxes": [{"center": [0, 0, 0], "half": [1, 0, 1]}]}, "three positive half extents"),
        ({"episodes": [good["episodes"][0] | {"target": "cup"}]}, "episode 0: target 'cup' is not one of"),
        ({"episodes": [good["episodes"][0] | {"stage": "x"}]}, "episode 0: stage 'x'"),
        ({"episodes": [good["episodes"][0] | {"goal": [0, float("nan"), 0]}]}, "episode 0: goal must be 3 finite"),
    ):
        with pytest.raises(ValueError, match=message):
            Rearrangement(1, scene=good | change)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        Rearrangement(1, scene=tmp_path / "bad.json")
    with pytest.raises(ValueError, match="the list of episodes is empty"):
        Rearrangement(1, episodes=Rearrangement(1, episodes=4).episodes[:0])
    with pytest.raises(ValueError, match="too full"):
        Rearrangement(1, scene={**EMPTY, "bounds": [[0, 0], [0.2, 0.2]]})


def test_sampled_episodes_follow_their_seed_and_are_possible():
    a, b, c = (Rearrangement(1, episodes=60, episode_seed=s).episodes for s in (0, 0, 1))
    assert np.array_equal(a.start, b.start) and not np.array_equal(a.start, c.start)
    env = FetchRearrangement(1, episodes=60)
    check_episodes(env, env.episodes)
    tops = {round(c[1] + h[1], 4) for c, h in built_in_scene("flat").stages[0].boxes}
    base = env.episodes.objects[:, :, 1] - env.halves[:, 1].numpy()
    assert {round(float(v), 4) for v in base.ravel()} <= tops


def test_the_image_shows_where_things_are():
    env = world(thing=(1.0, 0.05, 1.0), goal=(-1.0, 0.05, 1.0), rays=0)
    image = env.image(0).astype(int)
    height, width, _ = image.shape

    def at(x, z):
        scale = 4 * 1.06 / max(width, height)
        return image[int((z + 2.12) / scale), int((x + 2.12) / scale)]

    assert np.abs(at(1.0, 1.0) - (0xD5, 0x5E, 0x00)).max() < 3  # the object is orange
    assert at(-1.0, 1.0)[1] > at(-1.0, 1.0)[0]  # the goal is greenish
    assert np.abs(at(-0.1, 0.0) - (0x00, 0x72, 0xB2)).max() < 3  # the robot is blue


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_on_an_accelerator():
    env = FetchRearrangement(64, device="cuda", images=("depth",), task="rearrange")
    obs, _ = env.reset(seed=0)
    for a in moving(20, 64, 11).cuda():
        obs, reward, *_ = env.step(a)
    assert obs["state"].is_cuda and reward.is_cuda
