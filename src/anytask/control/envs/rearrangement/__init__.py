"""Mobile rearrangement in an approximate kinematic simulator: drive, reach, grasp, carry and put down, in tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from anytask.control.base import BatchedEnv, Obs, reset_options
from anytask.control.envs.rearrangement.episodes import check_episodes, sample_episodes, starts
from anytask.control.envs.rearrangement.scene import EpisodeList, Scene, built_in_scene
from anytask.control.envs.rearrangement.sensors import Camera, Sensors, draw_top_view, sensor_count
from anytask.control.envs.rearrangement.settings import TASKS, FetchSettings, RearrangementSettings
from anytask.control.envs.rearrangement.world import World, chosen
from anytask.core.settings import Settings

__all__ = ["TASKS", "FetchRearrangement", "Rearrangement"]


class Rearrangement(World, BatchedEnv):
    """A robot drives, reaches, grasps a movable box, carries it and puts it down; no dynamics, only geometry.

    Pick it to train or test mobile manipulation policies by millions of steps: a step of a thousand environments takes
    about a millisecond per thousand of the small robot on one core. One code serves two scales. ``robot="disc"``
    (``anytask/Rearrangement-v0``) is a disc of radius 0.15 m with a telescopic gripper in a walled 3 x 3 m arena, four
    actions and eight range rays. ``robot="fetch"`` (``anytask/FetchRearrangement-v0``) is a mobile base with a
    seven-joint arm made of 29 spheres, eleven actions, among tables.

    An action, clamped to [-1, 1], is grasp (above 0.5 grasp, below -0.5 release), change of yaw, forward motion, change
    of every joint and, for the Fetch, stop (above 0.5, after the fifth step). The pose so reached is taken if no sphere
    of the robot, and nothing that it holds, collides; otherwise, with ``sliding``, the first free one of: the motion
    along x alone, along z alone, without the arm, with the arm alone; else the robot stays exactly where it was. A
    grasp snaps the box that the gripper touches to the gripper. A released box falls onto the first support under it;
    if that would not hold it, the drop fails and the box stays in the gripper.

    Observations are ``R_b^T (object - p)``, ``R_e^T (object - e)``, ``R_b^T (e - p)``, ``R_b^T (goal - p)``,
    ``R_e^T (goal - e)`` (b: the base at p; e: the gripper), whether something is held, whether the target was grasped
    in this episode, the joints, the remaining time u as (u, 5 u, 50 u) clipped to 1, and the range rays; with images or
    an own renderer a dictionary of these as ``state`` and of (height, width, channels) arrays.

    The reward is ``progress * (d_eo' - d_eo + d_og' - d_og) + pick_bonus [first held, d_og > tau] - action_penalty
    |a - a'|^2 - slack`` with the distances from gripper to object and from object to goal and primes for the step
    before; on an episode's last step it is replaced by ``success_reward`` or ``-failure_penalty``. The state behind it
    is that of :class:`~anytask.control.envs.rearrangement.world.World`.

    Parameters
    ----------
    num_envs : int, default 1
        Parallel environments.
    device, seed, autoreset, render_mode
        See :class:`~anytask.control.BatchedEnv`.
    **options
        Fields of :class:`~anytask.control.envs.rearrangement.settings.RearrangementSettings`.

    Attributes
    ----------
    settings : RearrangementSettings
        The options, with the robot's own values where they were None.
    episodes : EpisodeList
        What restarts draw from.
    episode : Tensor of int64, shape (n,)
        Number of the running episode in the list.
    picked : Tensor of bool, shape (n,)
        The target was grasped in this episode.
    disabled : Tensor of bool, shape (n,)
        Environments whose list is exhausted (``order="once"``).
    discrete_actions : dict
        The columns of an action that take a few values, with these.
    progress, pick_bonus, success_reward, failure_penalty, slack, action_penalty : float
        The settings' weights of the reward; may be set at any time.

    Raises
    ------
    ValueError
        For a start pose in collision, a goal or an object inside an obstacle, an empty list, with the episode's number;
        and for observations that are not finite.

    Examples
    --------
    >>> env = Rearrangement(num_envs=4)
    >>> obs, _ = env.reset(seed=0)
    >>> obs, reward, terminated, truncated, infos = env.step(torch.zeros(4, 4))
    >>> obs.shape, reward.tolist()
    (torch.Size([4, 24]), [0.0, 0.0, 0.0, 0.0])

    Notes
    -----
    Berges, Szot, Chaplot, Gokaslan, Mottaghi, Batra and Undersander, 2023, "Galactic: Scaling End-to-End Reinforcement
    Learning for Rearrangement at 100k Steps-Per-Second", arXiv 2306.07552.

    Departures from the paper: stages and objects are axis-aligned boxes, and objects keep their orientation while they
    are carried. Objects are few, so a sphere is tested against all of them instead of through a broad-phase grid. The
    pick bonus is paid once per episode, and whether it was is observed: with ``drop_is_fail`` that is the same, and
    without it nobody can earn it again and again. What overlaps already, such as an object just put down beside the
    gripper, does not block the motion that parts it.
    """

    env_id = "anytask/Rearrangement-v0"
    settings_class: ClassVar[type[Settings]] = RearrangementSettings
    STATE: ClassVar[tuple[str, ...]] = (
        *World.STATE, "picked", "episode", "cursor", "disabled", "last_action", "object_distance", "goal_distance",
    )  # fmt: skip
    UNOBSERVED: ClassVar[Mapping[str, str]] = {
        **BatchedEnv.UNOBSERVED,
        "object_distance": "the distance from gripper to object one step before, as it was sensed then",
        "goal_distance": "the distance from object to goal one step before, as it was sensed then",
        "last_action": "the policy's own action one step before, which it may be given as an input",
        "held_clear": "whether the held box still overlaps what it was grasped out of, which hinders no motion",
        "contact": "whether the body still overlaps a box that was put down, which hinders no motion",
        "disabled": "with order='once', environments that have no episode left: nothing is learned or counted there",
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        autoreset: bool = True,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.settings: Any = self.settings_class(**options).of_robot()
        s, robot = self.settings, self.settings.robot
        scene = built_in_scene(s.scene) if isinstance(s.scene, str) and not s.scene.endswith(".json") else s.scene
        scene = scene if isinstance(scene, Scene) else Scene.read(scene)
        BatchedEnv.__init__(
            self,
            num_envs,
            self._space(),
            gymnasium.spaces.Box(-1.0, 1.0, (robot.action_dim,), np.float32),
            s.max_episode_steps,
            device=device,
            seed=seed,
            autoreset=autoreset,
            render_mode=render_mode,
        )
        World.__init__(self, robot, scene, self.num_envs, cell=s.cell, sliding=s.sliding, device=self.device)
        self.discrete_actions = robot.discrete_actions
        self._sensors = Sensors(s, self)
        self.order = s.order
        self.progress, self.pick_bonus, self.success_reward = s.progress, s.pick_bonus, s.success_reward
        self.failure_penalty, self.slack, self.action_penalty = s.failure_penalty, s.slack, s.action_penalty
        self._camera = Camera(robot.camera, s.image_size, device=self.device) if s.images else None
        flag, long = torch.bool, torch.int64
        self.picked, self.disabled, self.episode = (self._tensor(dtype=kind) for kind in (flag, flag, long))
        self.last_action = self._tensor(self.action_dim)
        self.object_distance, self.goal_distance = self._tensor(), self._tensor()
        self.cursor = torch.arange(self.num_envs, device=self.device)
        self.episodes: EpisodeList = self._listed()
        self._starts = starts(self.episodes, self.device)

    def _space(self) -> gymnasium.Space:
        s = self.settings
        state = gymnasium.spaces.Box(-np.inf, np.inf, (sensor_count(s),), np.float32)
        if not s.images and s.render is None:
            return state
        parts: dict[str, gymnasium.Space] = {"state": state}
        for name in s.images:
            parts[name] = gymnasium.spaces.Box(0.0, 1.0, (*s.image_size, 3 if name == "rgb" else 1), np.float32)
        return gymnasium.spaces.Dict(parts | dict(s.render_space or {}))

    def _listed(self) -> EpisodeList:
        wanted = self.settings.episodes
        if wanted is None:
            wanted = 4000 if self.scene.episodes is None else self.scene.episodes
        if isinstance(wanted, EpisodeList):
            return check_episodes(self, wanted)
        return sample_episodes(self, int(wanted), self.settings.episode_seed)

    # --- restarts -------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode everywhere (then the list begins anew), or where ``options["reset_mask"]`` says."""
        if reset_options(options).get("reset_mask") is None:
            self.cursor = torch.arange(self.num_envs, device=self.device)
            self.limits = torch.where(self.disabled, self.max_episode_steps, self.limits)
            self.disabled = torch.zeros_like(self.disabled)
        return super().reset(seed=seed, options=options)

    def _restart(self, rows: Tensor) -> None:
        if self.order == "once":
            index = self.cursor[rows]
            self.cursor[rows] = index + self.num_envs
            over = index >= len(self.episodes)
            self.disabled[rows] = over
            self.limits[rows[over]] = torch.iinfo(torch.int64).max
            index = index.clamp(max=len(self.episodes) - 1)
        else:
            index = self.random.integers(1, len(self.episodes), rows=rows)[:, 0]
        start, target, goal, objects, stage = (value.index_select(-1, index) for value in self._starts)
        self.put(rows, start, objects, target, goal, stage)
        self.episode[rows], self.picked[rows], self.last_action[rows] = index, False, 0.0
        place, effector = chosen(objects, target), self.effector.T.index_select(-1, rows)
        self.object_distance[rows], self.goal_distance[rows] = _lengths(place, effector, goal)

    # --- one step -------------------------------------------------------------------------------------------------

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        commands = actions.T.contiguous()  # (action_dim, n)
        self.move(commands)
        newly, released, let_go = self.grasp_and_release(commands[0])
        return self._judge(commands, newly, released, let_go)

    def _judge(
        self, commands: Tensor, newly: Tensor, released: Tensor, let_go: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, terminated and success (n,), and remember what the next step's reward needs."""
        place = chosen(self.objects.movedim(0, -1), self.target)
        d_eo, d_og = _lengths(place, self.effector.T, self.goal.T)
        near, right = d_og < self.settings.tau, self.held == self.target
        first = self.elapsed == 0
        stop = (commands[-1] > 0.5) & (self.elapsed > 5) if self.robot.stops else torch.zeros_like(first)
        success = self._succeeded(near, right, stop, released, let_go)
        ended = success | stop
        if self.settings.drop_is_fail:
            ended = ended | ((self.held >= 0) & ~right)
            if self.settings.task == "simple-place":
                ended = ended | released
            elif self.settings.task == "rearrange":
                ended = ended | (released & ~near)
        if self.settings.timeouts_terminate:
            ended = ended | (self.elapsed + 1 >= self.limits)
        fresh = newly & right & ~self.picked
        reward = (self.object_distance - d_eo + self.goal_distance - d_og) * self.progress
        reward = reward + (fresh & (d_og > self.settings.tau)) * self.pick_bonus
        if self.action_penalty:
            change = (commands - self.last_action.T)[1 : 3 + len(self.robot.joints)]
            reward = reward - self.action_penalty * sum(c * c for c in change)
        reward = torch.where(first, 0.0, reward) - self.slack
        final = success * (self.success_reward + self.failure_penalty) - self.failure_penalty
        reward = torch.where(ended, final, reward)
        self.picked = self.picked | fresh
        self.object_distance, self.goal_distance, self.last_action = d_eo, d_og, commands.T
        if self.order == "once":
            on = ~self.disabled
            reward, ended, success = reward * on, ended & on, success & on
        return reward, ended, success

    def _succeeded(self, near: Tensor, right: Tensor, stop: Tensor, released: Tensor, let_go: Tensor) -> Tensor:
        """Return (n,) whether the task is done."""
        if self.settings.task == "pick":
            return right
        if self.settings.task == "rearrange":
            return near & (self.held < 0) & (stop if self.robot.stops else self.picked)
        over = let_go - self.goal.T
        tau = self.settings.tau
        flat = (over[0] * over[0] + over[2] * over[2]).sqrt() < tau
        return released & self.picked & flat & (over[1] > 0) & (over[1] < 2 * tau)

    # --- observations ---------------------------------------------------------------------------------------------

    def _observe(self, rows: Tensor | None = None) -> Obs:
        state = self._sensors.read(self, rows, self.picked, self.elapsed, self.max_episode_steps)
        if self._camera is None and self.settings.render is None:
            return state
        obs = {"state": state}
        if self._camera is not None:
            obs |= self._camera.images(self, rows, self.settings.images)
        if self.settings.render is not None:
            obs |= self.settings.render(self, rows)
        return obs

    def _draw(self, row: int) -> np.ndarray:
        return draw_top_view(self, row, tau=self.settings.tau, rays=self._sensors.rays)


class FetchRearrangement(Rearrangement):
    """:class:`Rearrangement` with the Fetch robot unless told otherwise; ``anytask/FetchRearrangement-v0``."""

    env_id = "anytask/FetchRearrangement-v0"
    settings_class: ClassVar[type[Settings]] = FetchSettings
    UNOBSERVED: ClassVar[Mapping[str, str]] = {
        **Rearrangement.UNOBSERVED,
        "objects": "the paper's robot senses where the target stood at the start; track_object=True senses where it is",
        "target": "the number of the target alone: where it stood at the start is observed",
    }


def _lengths(place: Tensor, effector: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (m,) from the object to the gripper and to the goal."""
    ways = place - torch.stack([effector, goal])
    # Not a sum over an axis: its order may depend on the number of environments, and then so would the last bit.
    a, b, c = ways.mul_(ways).unbind(1)
    to_effector, to_goal = (a + b).add_(c).sqrt_().unbind(0)
    return to_effector, to_goal
