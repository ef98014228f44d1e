"""The kinematic world: bodies drive, reach, grasp, carry and drop in n parallel scenes. No task, no reward."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from anytask.control.envs.rearrangement.obstacles import CONTACT, Obstacles, cover
from anytask.control.envs.rearrangement.scene import Robot, Scene


class Pose(NamedTuple):
    """Where the links of m robots are in the world, the base first."""

    origins: list[Tensor]  # each (3, m)
    axes: list[list[Tensor]]  # per link its x, y and z axis, each (3, m), or (3, 1) where all agree
    effector: Tensor  # (3, m) centre of the grasping sphere


class Body:
    """Links, joints and spheres of a robot.

    Parameters
    ----------
    robot : Robot
    device : torch.device

    Attributes
    ----------
    links : list of int
        The link of each sphere. Those of the last link, which touch objects freely, come last.
    solid : int
        How many spheres come before these.
    radius : Tensor (S, 1)
    low, high, start : Tensor (J, 1)
        Limits of the joints, and where they are at the start.
    steps : Tensor (1 + J, 1)
        Most change of yaw and joints per step.
    """

    def __init__(self, robot: Robot, device: torch.device) -> None:
        self.robot = robot
        column: Any = {"device": device, "dtype": torch.float32}
        self.low = torch.tensor([[j.low] for j in robot.joints], **column)
        self.high = torch.tensor([[j.high] for j in robot.joints], **column)
        self.start = torch.tensor([[j.start] for j in robot.joints], **column)
        self.steps = torch.tensor([[robot.yaw_step], *([j.step] for j in robot.joints)], **column)
        last = len(robot.joints)
        self.spheres = sorted(robot.spheres, key=lambda s: s[0] == last)
        self.links = [link for link, _, _ in self.spheres]
        self.solid = sum(link != last for link in self.links)
        self.radius = torch.tensor([[r] for _, _, r in self.spheres], **column)
        self.solid_square = self.radius[: self.solid] ** 2
        self._link = torch.tensor(self.links, device=device)
        self._offset = torch.tensor([offset for _, offset, _ in self.spheres], **column).T[:, :, None].contiguous()
        # On links that only yaw, up is up, and an offset along it a constant.
        upright = [all(j.slides or j.axis == 1 for j in robot.joints[:link]) for link in self.links]
        self._lift = torch.tensor([[o[1] if up else 0.0] for (_, o, _), up in zip(self.spheres, upright)], **column)
        self._offset[1, :, 0][torch.tensor(upright, device=device)] = 0.0
        self._offset_axes = [axis for axis in range(3) if bool(self._offset[axis].any())]
        self._up = torch.tensor([[0.0], [1.0], [0.0]], **column)

    def pose(self, configuration: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Pose:
        """Forward kinematics of m robots from (3 + J, m), with the cosine and sine of the yaw where they are known."""
        x, z, yaw = configuration[:3].unbind(0)
        if cos is None or sin is None:
            cos, sin = yaw.cos(), yaw.sin()
        zero = torch.zeros_like(x)
        axes = [torch.stack([cos, zero, -sin]), self._up, torch.stack([sin, zero, cos])]
        p = torch.stack([x, zero, z])
        origins, frames = [p], [axes]
        turns = configuration[3:].contiguous()
        cosines, sines = turns.cos(), turns.sin()
        for k, joint in enumerate(self.robot.joints):
            offset: list[Any] = list(joint.offset)
            if joint.slides:
                offset[joint.axis] = offset[joint.axis] + turns[k]
            p = _moved(p, axes, offset)
            axes = list(axes)
            if not joint.slides:
                # Turning about one local axis mixes the two others.
                u, v = (joint.axis + 1) % 3, (joint.axis + 2) % 3
                c, s = cosines[k], sines[k] * joint.sign
                axes[u], axes[v] = c * axes[u] + s * axes[v], c * axes[v] - s * axes[u]
            origins.append(p)
            frames.append(axes)
        return Pose(origins, frames, _moved(p, axes, list(self.robot.gripper)))

    def frame(self, pose: Pose) -> Tensor:
        """Return (3, 3, m): the axes of the gripper, each a row."""
        return torch.stack([axis.expand_as(pose.effector) for axis in pose.axes[-1]])

    def centers(self, pose: Pose) -> Tensor:
        """Return the centres (S, 3, m) of the spheres."""
        centers = self._by_sphere(pose.origins)
        for axis in self._offset_axes:
            values = [frame[axis].expand_as(pose.effector) for frame in pose.axes]
            centers += self._by_sphere(values).mul_(self._offset[axis][:, None])
        centers[:, 1] += self._lift
        return centers

    def _by_sphere(self, values: list[Tensor]) -> Tensor:
        if len(self.links) <= 2 * len(values):
            return torch.stack([values[link] for link in self.links])
        return torch.stack(values).index_select(0, self._link)


def _moved(p: Tensor, axes: list[Tensor], offset: list[Any]) -> Tensor:
    for axis in range(3):
        if isinstance(offset[axis], Tensor) or offset[axis]:
            p = p + axes[axis] * offset[axis]
    return p


class _Test(NamedTuple):
    blocked: Tensor  # (m,) the pose may not be taken
    contact: Tensor  # (B, m) objects that the body overlaps
    held_hit: Tensor  # (m,) the held object overlaps something


class World:
    """State of ``num_envs`` parallel scenes with one robot each, and what moves it.

    Tensors have their environments on the last axis in memory, where arithmetic runs along it, and on the first one
    for everybody else.

    Parameters
    ----------
    robot : Robot
    scene : Scene
    num_envs : int
    cell : float
        Cell of the collision grid, in metres.
    sliding : bool
        Try parts of a motion that collides.
    device : torch.device

    Attributes
    ----------
    configuration : Tensor (n, 3 + J)
        All that moves by itself; ``x``, ``z``, ``yaw`` (n,) and ``joints`` (n, J) are its columns.
    effector : Tensor (n, 3)
        The gripper's point; a held object's centre is there.
    frame : Tensor (n, 3, 3)
        The gripper's axes, each a row.
    objects : Tensor (n, B, 3)
        Centres of the movable boxes, whose half extents are ``halves`` (B, 3).
    held : Tensor (n,) of int64
        Number of the held object, -1 for none.
    held_clear : Tensor (n,) of bool
        The held object has been free of obstacles since it was grasped.
    contact : Tensor (n, B) of bool
        The body overlaps the object, which was put down there; that does not block the motion that parts them.
    stage, target : Tensor (n,) of int64
        Numbers of the stage, and of the wanted object.
    goal, object_start : Tensor (n, 3)
        Where the wanted object shall go, and where it stood at first.
    failed_drops : Tensor (n,) of int64
        In the running episode.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        "configuration", "effector", "frame", "objects", "held", "held_clear", "contact", "target", "goal",
        "object_start", "stage", "failed_drops",
    )  # fmt: skip

    def __init__(
        self, robot: Robot, scene: Scene, num_envs: int, *, cell: float, sliding: bool, device: torch.device
    ) -> None:
        self.robot, self.scene, self.sliding, self.device = robot, scene, sliding, device
        self.num_envs, self.body = num_envs, Body(robot, device)
        self.obstacles = Obstacles(scene, robot, cell, device)
        column: Any = {"device": device, "dtype": torch.float32}
        grid, last = self.obstacles.grid, len(robot.joints)
        # What of a motion is tried in turn: x alone, z alone, without the arm, the arm alone; (3 + J, 4, 1) from new.
        parts = torch.ones(3 + last, 4, 1, dtype=torch.bool, device=device)
        parts[1, 0], parts[0, 1], parts[3:, 2], parts[:3, 3] = False, False, False, False
        self._less = parts
        self._preference = torch.tensor([[4], [3], [2], [1]], device=device)

        own_base = [grid.base(robot.radii.index(r)) for _, _, r in self.body.spheres]
        self._sphere_base = torch.tensor(own_base, device=device)[:, None]
        self.halves = torch.tensor([thing.half for thing in scene.objects], **column)  # (B, 3)
        self._half = self.halves[:, :, None].contiguous()
        covers = [cover(thing.half, robot.radii) for thing in scene.objects]
        most = max(len(centers) for centers, _ in covers)
        padded = [np.concatenate([c, np.repeat(c[:1], most - len(c), 0)]) for c, _ in covers]
        self._cover = torch.tensor(np.array(padded), **column)  # (B, M, 3)
        # Per object, the first cells of the robot's spheres and of those that cover the object: (S + M, B).
        bases = [own_base + [grid.base(k)] * most for _, k in covers]
        self._bases = torch.tensor(bases, device=device).T.contiguous()
        self.numbers = torch.arange(len(scene.objects), device=device)[:, None]  # (B, 1)

        things, long, flag = len(scene.objects), torch.int64, torch.bool
        self.configuration = self._tensor(3 + last)
        self.effector, self.frame, self.objects = self._tensor(3), self._tensor(3, 3), self._tensor(things, 3)
        self.held, self.target = self._tensor(dtype=long, fill=-1), self._tensor(dtype=long)
        self.stage, self.failed_drops = self._tensor(dtype=long), self._tensor(dtype=long)
        self.held_clear, self.contact = self._tensor(dtype=flag), self._tensor(things, dtype=flag)
        self.goal, self.object_start = self._tensor(3), self._tensor(3)

    def _tensor(self, *shape: int, dtype: torch.dtype = torch.float32, fill: float = 0) -> Tensor:
        return torch.full((*shape, self.num_envs), fill, device=self.device, dtype=dtype).movedim(-1, 0)

    @property
    def x(self) -> Tensor:
        """Where the bases are along x, (n,)."""
        return self.configuration.T[0]

    @property
    def z(self) -> Tensor:
        """Where the bases are along z, (n,)."""
        return self.configuration.T[1]

    @property
    def yaw(self) -> Tensor:
        """Where the bases look, in radians, (n,)."""
        return self.configuration.T[2]

    @property
    def joints(self) -> Tensor:
        """Angles or lengths of the joints, (n, J)."""
        return self.configuration[:, 3:]

    # --- collisions -----------------------------------------------------------------------------------------------

    def touched(self, centers: Tensor, objects: Tensor) -> Tensor:
        """Return (B, m): the body's spheres (S, 3, m) overlap the object; ``objects`` is (B, 3, m)."""
        gap = centers[: self.body.solid] - objects[:, None]  # (B, S, 3, m)
        gap = gap.abs_().sub_(self._half[:, None]).clamp_(min=0.0)
        a, b, c = gap.mul_(gap).unbind(2)
        touched = (a + b).add_(c) < self.body.solid_square
        return touched[:, 0] if self.body.solid == 1 else touched.any(1)

    def collides(self, configuration: Tensor, objects: Tensor, stage: Tensor) -> Tensor:
        """Return (m,): a robot in ``configuration`` (3 + J, m) overlaps an obstacle or an object (B, 3, m)."""
        centers = self.body.centers(self.body.pose(configuration))
        hit = self.obstacles.grid.occupied(centers, self._sphere_base + stage * self.obstacles.stage_size).any(0)
        return hit | self.touched(centers, objects).any(0)

    def _tested(self, pose: Pose, rows: Tensor | None = None) -> _Test:
        """Test poses of all environments, or of ``rows``, against stage, objects and what is held."""
        objects, held, contact = self.objects.movedim(0, -1), self.held, self.contact.T
        clear, stage, several = self.held_clear, self.stage, self.obstacles.several
        if rows is not None:
            objects, contact = objects.index_select(-1, rows), contact.index_select(-1, rows)
            held, clear = held[rows], clear[rows]
            stage = stage[rows] if several else stage
        centers, e = self.body.centers(pose), pose.effector
        own = len(centers)
        # What is held is a union of spheres towards the stage, and a box towards other boxes.
        if len(objects) == 1:
            which, spheres, base = None, e + self._cover[0][:, :, None], self._bases
        else:
            which = held.clamp(min=0)
            spheres = e + self._cover[which].permute(1, 2, 0)  # (M, 3, m)
            base = self._bases.index_select(1, which)
        if several:
            base = base + stage * self.obstacles.stage_size
        occupied = self.obstacles.grid.occupied(torch.cat([centers, spheres]), base)
        blocked = occupied[:own].any(0)
        is_held = self.numbers == held
        touched = self.touched(centers, objects) & ~is_held
        meets = touched & ~contact
        hit = occupied[own] if len(spheres) == 1 else occupied[own:].any(0)
        if which is None:
            blocked |= meets[0]
            hit = hit & is_held[0]
        else:
            blocked |= meets.any(0)
            reach = self._half + self.halves[which].T - CONTACT  # (B, 3, m)
            hit |= (((objects - e).abs_() < reach).all(1) & ~is_held).any(0)
            hit &= held >= 0
        blocked |= hit & clear
        return _Test(blocked, touched, hit)

    # --- motion ---------------------------------------------------------------------------------------------------

    def move(self, commands: Tensor) -> None:
        """Turn, drive and move the joints by commands (action_dim, n) in [-1, 1], as far as nothing is in the way."""
        now = self.configuration.T  # (3 + J, n)
        last = len(now)
        turned = now[2:] + torch.cat([commands[1:2], commands[3:last]]) * self.body.steps  # yaw and joints
        yaw = turned[0]
        cos, sin = yaw.cos(), yaw.sin()
        forward = commands[2] * self.robot.forward_step
        joints = torch.minimum(torch.maximum(turned[1:], self.body.low), self.body.high)
        new = torch.cat([torch.stack([now[0] + forward * cos, now[1] - forward * sin, yaw]), joints])  # (3 + J, n)
        pose = self.body.pose(new, cos, sin)
        test = self._tested(pose)
        values = [new, pose.effector, test.contact, test.held_hit, self.body.frame(pose)]
        olds = [now, self.effector.T, self.contact.T, None, self.frame.movedim(0, -1)]
        rows = test.blocked.nonzero()[:, 0]
        if len(rows):
            less, free = self._reduced(rows, now, new) if self.sliding else (values, None)
            for value, old, reduced in zip(values, olds, less):
                # A held object that stays where it was is neither clear of obstacles now nor was it tested.
                kept = torch.ones_like(rows, dtype=torch.bool) if old is None else old.index_select(-1, rows)
                if free is not None:
                    kept = torch.where(free, reduced, kept)
                value.index_copy_(-1, rows, kept)
        self.configuration, self.effector, self.contact = new.T, values[1].T, values[2].T
        self.frame = values[4].movedim(-1, 0)
        self.held_clear = self.held_clear | ~values[3]

    def _reduced(self, rows: Tensor, now: Tensor, new: Tensor) -> tuple[list[Tensor], Tensor]:
        """Try less than the whole motion; return what the first free pose gives, and (m,) whether there was one."""
        m = len(rows)
        now, new = now.index_select(-1, rows)[:, None], new.index_select(-1, rows)[:, None]
        tries = torch.where(self._less, new, now).flatten(1)  # (3 + J, 4 m)
        pose = self.body.pose(tries)
        test = self._tested(pose, rows.repeat(4))
        best, first = ((~test.blocked).view(4, m) * self._preference).max(0)
        pick = first * m + torch.arange(m, device=rows.device)
        values = [tries, pose.effector, test.contact, test.held_hit, self.body.frame(pose)]
        return [value.index_select(-1, pick) for value in values], best > 0

    def grasp_and_release(self, intent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Grasp where ``intent`` (n,) is above 0.5 and something is near, release where it is below -0.5.

        Returns (n,) newly held, (n,) released, and (3, n) where the released objects were let go.
        """
        e, objects = self.effector.T, self.objects.movedim(0, -1)
        before = self.held
        gap = (objects - e).abs_().sub_(self._half).clamp_(min=0.0)
        a, b, c = gap.mul_(gap).unbind(1)
        square = (a + b).add_(c)  # (B, n)
        near, which = (square[0], 0) if len(objects) == 1 else square.min(0)
        newly = (intent > 0.5) & (before < 0) & (near <= self.robot.gripper_radius**2)
        held = torch.where(newly, which, before)
        self.held_clear = self.held_clear & ~newly
        objects = torch.where((self.numbers == held)[:, None], e, objects)
        released = (intent < -0.5) & (before >= 0)
        rows = released.nonzero()[:, 0]
        self.held, self.objects = held, objects.movedim(-1, 0)
        if len(rows):
            released[rows] = self._drop(rows)
        return newly, released, e

    def _drop(self, rows: Tensor) -> Tensor:
        """Let the held objects of the environments ``rows`` fall; return (m,) whether something holds them."""
        e = self.effector.T.index_select(-1, rows)
        which = self.held[rows]
        half = self.halves[which].T  # (3, m)
        objects = self.objects.movedim(0, -1).index_select(-1, rows)
        bounds, boxes, box_halves = self.obstacles.of(self.stage[rows])
        centers = torch.cat([boxes, objects])  # (Q + B, 3, m)
        halves = torch.cat([box_halves, self._half.expand_as(objects)])
        gap = (e - centers).abs()
        above = (gap[:, 0] < half[0] + halves[:, 0]) & (gap[:, 2] < half[2] + halves[:, 2])
        above[-len(objects) :] &= self.numbers != which
        top = centers[:, 1] + halves[:, 1]
        under = above & (top <= e[1] - half[1] + CONTACT)
        height = torch.where(under, top, 0.0).amax(0)
        carries = under & (top >= height - CONTACT) & (gap[:, 0] <= halves[:, 0]) & (gap[:, 2] <= halves[:, 2])
        stable = carries.any(0) | (height == 0.0)
        inside = above & (gap[:, 1] < half[1] + halves[:, 1] - CONTACT)
        for axis, side in ((0, 0), (2, 1)):
            stable &= (e[axis] - half[axis] >= bounds[0, side]) & (e[axis] + half[axis] <= bounds[1, side])
        stable &= ~inside.any(0)
        done, which = rows[stable], which[stable]
        self.objects[done, which, 1] = (height + half[1])[stable]
        self.held[done] = -1
        self.failed_drops = self.failed_drops.index_add(0, rows, (~stable).long())
        pose = self.body.pose(self.configuration.T.index_select(-1, done))
        now = self.objects.movedim(0, -1).index_select(-1, done)
        self.contact[done, which] = self.touched(self.body.centers(pose), now).T[
            torch.arange(len(done), device=self.device), which
        ]
        return stable

    def put(self, rows: Tensor, start: Tensor, objects: Tensor, target: Tensor, goal: Tensor, stage: Tensor) -> None:
        """Begin anew in the environments ``rows`` (m,): robots at ``start`` (3, m), ``objects`` (B, 3, m)."""
        configuration = torch.cat([start, self.body.start.expand(-1, len(rows))])
        pose = self.body.pose(configuration)
        self.configuration[rows], self.effector[rows] = configuration.T, pose.effector.T
        self.frame[rows] = self.body.frame(pose).movedim(-1, 0)
        self.objects[rows], self.target[rows], self.goal[rows] = objects.movedim(-1, 0), target, goal.T
        self.object_start[rows], self.stage[rows] = chosen(objects, target).T, stage
        self.held[rows], self.held_clear[rows], self.contact[rows], self.failed_drops[rows] = -1, False, False, 0


def chosen(objects: Tensor, which: Tensor) -> Tensor:
    """Return (3, m) the positions of the objects ``which`` (m,) out of (B, 3, m)."""
    if len(objects) == 1:
        return objects[0]
    return objects.gather(0, which.expand(1, 3, -1))[0]


def picker(rows: Tensor | None) -> Any:
    """Return what selects ``rows`` of the last axis of a tensor, or all."""
    return (lambda value: value) if rows is None else (lambda value: value.index_select(-1, rows))
