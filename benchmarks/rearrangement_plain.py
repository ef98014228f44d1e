"""The small rearrangement task as anyone would write one environment: plain Python and NumPy, no batch.

The reference that the batched simulator is checked and timed against. Scalars are Python floats, the rays NumPy;
collision uses the same column grid and the episodes the same list.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from anytask.control.envs.rearrangement import Rearrangement


class PlainRearrangement(gymnasium.Env):
    """One disc robot among static boxes with one movable box.

    ``model`` is a :class:`Rearrangement` whose scene, episodes and options are taken; without one, it is made from
    ``options``.
    """

    def __init__(self, model: Rearrangement | None = None, **options: Any) -> None:
        model = Rearrangement(1, robot="disc", **options) if model is None else model
        if len(model.scene.objects) != 1 or len(model.scene.stages) != 1:
            raise ValueError("the plain reference knows one movable box and one stage")
        self.model, self.list = model, model.episodes
        self.observation_space, self.action_space = model.single_observation_space, model.single_action_space
        robot, grid, chosen = model.robot, model.obstacles.grid, model.settings
        joint = robot.joints[0]
        self.limit, self.tau, self.task = model.max_episode_steps, chosen.tau, chosen.task
        self.yaw_step, self.forward_step = robot.yaw_step, robot.forward_step
        self.low, self.high, self.joint_step, self.joint_start = joint.low, joint.high, joint.step, joint.start
        self.height = joint.offset[1]
        (_, (_, self.body_height, _), self.body_radius), (_, _, finger) = robot.spheres
        self.half = tuple(map(float, model.halves[0]))
        self.heights = grid.heights.numpy()
        self.origin, self.cell, self.nx, self.nz = grid.origin.tolist(), grid.cell, grid.nx, grid.nz
        self.body_base = grid.base(robot.radii.index(self.body_radius))
        self.finger_base = grid.base(robot.radii.index(finger))
        self.held_base = int(model._bases[-1, 0])
        self.grasp_square = robot.gripper_radius**2
        stage = model.scene.stages[0]
        (self.x0, self.z0), (self.x1, self.z1) = stage.bounds
        self.boxes = [(*c, *h) for c, h in stage.boxes]
        self.angles = np.arange(chosen.rays) * (2 * math.pi / chosen.rays)
        high = [b for b in self.boxes if abs(b[1] - robot.ray_height) <= b[4]]
        self.ray_centers = np.array([(b[0], b[2]) for b in high]).reshape(-1, 2, 1)
        self.ray_halves = np.array([(b[3], b[5]) for b in high]).reshape(-1, 2, 1)
        self.ray_height, self.ray_range = robot.ray_height, chosen.ray_range

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        k = int(self.np_random.integers(len(self.list)))
        self.put(self.list.start[k].tolist(), self.list.objects[k, 0].tolist(), self.list.goal[k].tolist())
        return self.observe(), {}

    def put(self, start: list[float], thing: list[float], goal: list[float]) -> None:
        """Begin an episode."""
        self.x, self.z, self.yaw = start
        self.q = self.joint_start
        self.thing, self.place, self.goal = list(thing), tuple(thing), tuple(goal)
        self.held = self.clear = self.contact = self.picked = False
        self.t, self.failed_drops = 0, 0
        self.reach = self.gripper(self.x, self.z, self.yaw, self.q)
        self.d_eo, self.d_og = math.dist(self.thing, self.reach), math.dist(self.thing, self.goal)

    def gripper(self, x: float, z: float, yaw: float, q: float) -> tuple[float, float, float]:
        return x + q * math.cos(yaw), self.height, z - q * math.sin(yaw)

    def occupied(self, x: float, y: float, z: float, base: int) -> bool:
        i = min(max(int((x - self.origin[0]) / self.cell), 0), self.nx - 1)
        j = min(max(int((z - self.origin[1]) / self.cell), 0), self.nz - 1)
        column = self.heights[base + i * self.nz + j]
        if len(column) == 1:
            return y < column[0]
        return int((y >= column).sum()) % 2 == 0

    def test(self, x: float, z: float, yaw: float, q: float) -> tuple[bool, Any, bool, bool]:
        """Return whether a pose is blocked, the gripper's point, contact with the box, and a hit of what is held."""
        e = self.gripper(x, z, yaw, q)
        blocked = self.occupied(x, self.body_height, z, self.body_base) or self.occupied(*e, self.finger_base)
        contact = hit = False
        if self.held:
            hit = self.occupied(*e, self.held_base)
            blocked = blocked or (hit and self.clear)
        else:
            gaps = [max(abs(p - o) - h, 0.0) for p, o, h in zip((x, self.body_height, z), self.thing, self.half)]
            contact = gaps[0] ** 2 + gaps[1] ** 2 + gaps[2] ** 2 < self.body_radius**2
            blocked = blocked or (contact and not self.contact)
        return blocked, e, contact, hit

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        intent, turn, drive, extend = (min(max(a, -1.0), 1.0) for a in action.tolist())
        yaw = self.yaw + turn * self.yaw_step
        forward = drive * self.forward_step
        x, z = self.x + forward * math.cos(yaw), self.z - forward * math.sin(yaw)
        q = min(max(self.q + extend * self.joint_step, self.low), self.high)
        for pose in (
            (x, z, yaw, q), (x, self.z, yaw, q), (self.x, z, yaw, q), (x, z, yaw, self.q), (self.x, self.z, self.yaw, q)
        ):  # fmt: skip
            blocked, e, contact, hit = self.test(*pose)
            if not blocked:
                self.x, self.z, self.yaw, self.q = pose
                self.reach, self.contact = e, contact
                self.clear = self.clear or not hit
                break
        newly = released = False
        if self.held:
            self.thing = list(self.reach)
            if intent < -0.5:
                released = self.drop()
        elif intent > 0.5:
            gaps = [max(abs(p - o) - h, 0.0) for p, o, h in zip(self.reach, self.thing, self.half)]
            if gaps[0] ** 2 + gaps[1] ** 2 + gaps[2] ** 2 <= self.grasp_square:
                newly = self.held = True
                self.clear = False
                self.thing = list(self.reach)
        reward, ended, success = self.judge(newly, released)
        self.t += 1
        return self.observe(), reward, ended, False, {"success": success}

    def drop(self) -> bool:
        x, y, z = self.reach
        hx, hy, hz = self.half
        support, carried = 0.0, True
        for cx, cy, cz, bx, by, bz in self.boxes:
            if abs(x - cx) < hx + bx and abs(z - cz) < hz + bz:
                if abs(y - cy) < hy + by - 1e-4:
                    carried = False
                top = cy + by
                if top <= y - hy + 1e-4 and top > support:
                    support = top
        if support > 0:
            carried = carried and any(
                abs(x - b[0]) <= b[3] and abs(z - b[2]) <= b[5] and abs(b[1] + b[4] - support) < 1e-4
                for b in self.boxes
            )
        inside = self.x0 <= x - hx and x + hx <= self.x1 and self.z0 <= z - hz and z + hz <= self.z1
        if not (carried and inside):
            self.failed_drops += 1
            return False
        self.thing[1] = support + hy
        self.held = False
        self.contact = self.test(self.x, self.z, self.yaw, self.q)[2]
        return True

    def judge(self, newly: bool, released: bool) -> tuple[float, bool, bool]:
        model = self.model
        d_eo, d_og = math.dist(self.thing, self.reach), math.dist(self.thing, self.goal)
        near = d_og < self.tau
        if self.task == "pick":
            success = self.held
        elif self.task == "rearrange":
            success = near and not self.held and self.picked
        else:
            flat = math.hypot(self.reach[0] - self.goal[0], self.reach[2] - self.goal[2]) < self.tau
            success = released and self.picked and flat and 0 < self.reach[1] - self.goal[1] < 2 * self.tau
        ended = success
        if model.settings.drop_is_fail and released and self.task != "pick":
            ended = ended or not near or self.task == "simple-place"
        if model.settings.timeouts_terminate:
            ended = ended or self.t + 1 >= self.limit
        fresh = newly and not self.picked
        if ended:
            reward = model.success_reward if success else -model.failure_penalty
        elif self.t == 0:
            reward = -model.slack
        else:
            reward = model.progress * (self.d_eo - d_eo + self.d_og - d_og) - model.slack
            if fresh and d_og > self.tau:
                reward += model.pick_bonus
        self.picked = self.picked or fresh
        self.d_eo, self.d_og = d_eo, d_og
        return reward, ended, success

    def observe(self) -> np.ndarray:
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        readings: list[float] = []
        ex, _, ez = self.reach
        place = self.thing if self.model.settings.track_object else self.place
        for px, pz, ox, oz in (
            (place[0], place[2], self.x, self.z), (place[0], place[2], ex, ez), (ex, ez, self.x, self.z),
            (self.goal[0], self.goal[2], self.x, self.z), (self.goal[0], self.goal[2], ex, ez),
        ):  # fmt: skip
            dx, dz = px - ox, pz - oz
            readings += (cos * dx - sin * dz, sin * dx + cos * dz)
        u = (self.limit - self.t) / self.limit
        readings += (float(self.held), float(self.picked), self.q, min(1.0, u), min(1.0, 5 * u), min(1.0, 50 * u))
        return np.concatenate([np.array(readings, np.float32), self.rays()])

    def rays(self) -> np.ndarray:
        angles = self.yaw + self.angles
        direction = np.stack([np.cos(angles), -np.sin(angles)])
        direction[np.abs(direction) < 1e-9] = 1e-9
        inverse = 1.0 / direction  # (2, rays)
        here = np.array([[self.x], [self.z]])
        low, high = np.array([[self.x0], [self.z0]]), np.array([[self.x1], [self.z1]])
        nearest = np.maximum((low - here) * inverse, (high - here) * inverse).min(0)
        centers, halves = self.ray_centers, self.ray_halves
        if not self.held and abs(self.thing[1] - self.ray_height) <= self.half[1]:
            centers = np.concatenate([centers, [[[self.thing[0]], [self.thing[2]]]]])
            halves = np.concatenate([halves, [[[self.half[0]], [self.half[2]]]]])
        middle, wide = (centers - here) * inverse, halves * np.abs(inverse)
        enter, leave = (middle - wide).max(1), (middle + wide).min(1)  # (boxes, rays)
        hit = (leave >= enter) & (leave >= 0)
        nearest = np.minimum(nearest, np.where(hit, np.maximum(enter, 0), np.inf).min(0, initial=np.inf))
        return np.minimum(nearest / self.ray_range, 1.0).astype(np.float32)
