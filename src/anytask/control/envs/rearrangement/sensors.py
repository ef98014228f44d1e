"""What a rearrangement robot senses: vectors to object and goal, grasp, joints, time, and range rays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anytask.control.envs.rearrangement.settings import RearrangementSettings
from anytask.control.envs.rearrangement.world import World, chosen, picker

FAR = 1e6  # metres that no ray goes
_LEAST = 1e-9  # the least component of a direction, so that none divides by zero


def sensor_count(settings: RearrangementSettings) -> int:
    """Return how many numbers :meth:`Sensors.read` gives."""
    robot, width = settings.robot, 3 - settings.robot.planar
    vectors = width * (5 if settings.relative_sensors else 1)
    return vectors + 1 + settings.observe_picked + len(robot.joints) + 3 + (settings.rays or 0)


class Sensors:
    """The vector of sensors, as the settings have it.

    Parameters
    ----------
    settings : RearrangementSettings
        Those :meth:`~RearrangementSettings.of_robot`.
    world : World

    Attributes
    ----------
    rays : RangeRays or None
    """

    def __init__(self, settings: RearrangementSettings, world: World) -> None:
        self.relative, self.track = settings.relative_sensors, settings.track_object
        self.picked = settings.observe_picked
        self.rays = RangeRays(world, settings.rays, settings.ray_range) if settings.rays else None

    def read(self, world: World, rows: Tensor | None, picked: Tensor, elapsed: Tensor, limit: int) -> Tensor:
        """Return (m, sensors) of the environments ``rows``, or of all.

        The columns are vectors in the base's frame (ahead, up, aside; without up for planar robots) from base to
        object, from gripper to object, from base to gripper, from base to goal, and from gripper to goal, those of the
        gripper in its own frame; whether something is held; whether the target was ever grasped; the joints; the
        remaining time; the rays.
        """
        of = picker(rows)
        configuration, e, goal = of(world.configuration.T), of(world.effector.T), of(world.goal.T)
        x, z, yaw = configuration[:3].unbind(0)
        cos, sin = yaw.cos(), yaw.sin()
        p = torch.stack([x, torch.zeros_like(x), z])
        planar = world.robot.planar
        parts: list[Tensor] = []
        if self.relative:
            if self.track:
                place = chosen(of(world.objects.movedim(0, -1)), of(world.target))
            else:
                place = of(world.object_start.T)
            from_base = _turned(torch.stack([place, e, goal]).sub_(p), cos, sin, planar)
            frame = of(world.frame.movedim(0, -1))
            a, b, c = (torch.stack([place, goal]).sub_(e)[:, None] * (frame[::2] if planar else frame)).unbind(2)
            from_gripper = (a + b).add_(c)
            parts += [from_base[0], from_gripper[0], from_base[1], from_base[2], from_gripper[1]]
        else:
            parts.append(_turned((e - p)[None], cos, sin, planar)[0])
        parts.append((of(world.held) >= 0).to(torch.float32)[None])
        if self.picked:
            parts.append(of(picked).to(torch.float32)[None])
        parts += [configuration[3:], step_count(of(elapsed), limit)]
        if self.rays is not None:
            parts.append(self.rays(world, rows, cos, sin))
        return torch.cat(parts).T.contiguous()


class RangeRays:
    """Distances from the base to what stands around it at the rays' height, cut with boxes exactly, slab by slab.

    Parameters
    ----------
    world : World
    count : int
        Rays, evenly around the robot, the first one ahead.
    reach : float
        Metres at which a ray reads 1.
    """

    def __init__(self, world: World, count: int, reach: float) -> None:
        self.count, self.reach = count, reach
        angles = torch.arange(count, dtype=torch.float64)[:, None] * (2 * torch.pi / count)
        column: Any = {"device": world.device, "dtype": torch.float32}
        self._cos, self._sin = (v.to(**column) for v in (angles.cos(), angles.sin()))  # (R, 1)
        # Of a single stage only the boxes that a ray can meet.
        centers, halves = world.obstacles.centers[0], world.obstacles.halves[0]
        high = (centers[:, 1] - world.robot.ray_height).abs() <= halves[:, 1]
        self._boxes = [v[high][:, :, None] for v in (centers, halves)]

    def __call__(self, world: World, rows: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the distances (R, m) over ``reach``; ``cos`` and ``sin`` (m,) are of the yaw."""
        of = picker(rows)
        x, z = of(world.x), of(world.z)
        ca, sa = self._cos, self._sin
        ix, iz = inverse((ca * cos).sub_(sa * sin)), inverse((-ca * sin).sub_(sa * cos))  # (R, m)
        if world.obstacles.several:
            bounds, middle, half = world.obstacles.of(of(world.stage))
        else:
            bounds, (middle, half) = world.obstacles.bounds[0][:, :, None], self._boxes
        # From inside the bounds the way out is the farther of each pair of walls, and the nearer pair.
        wx, wz = bounds[:, 0] - x, bounds[:, 1] - z  # (2, m)
        nearest = torch.maximum(wx[0] * ix, wx[1] * ix)
        nearest = torch.minimum(nearest, torch.maximum(wz[0] * iz, wz[1] * iz))
        objects, width = of(world.objects.movedim(0, -1)), len(x)
        # What is carried hides nothing: the ray begins under it.
        free = world.numbers != of(world.held)
        middle = torch.cat([middle.expand(-1, -1, width), objects])  # (K, 3, m)
        half = torch.cat([half.expand(-1, -1, width), world.halves[:, :, None].expand(-1, -1, width)])
        hx, hy, hz = half.unbind(1)
        at_height = (middle[:, 1] - world.robot.ray_height).abs_() <= hy
        at_height[-len(objects) :] &= free
        ax, az = (middle[:, 0] - x)[:, None] * ix, (middle[:, 2] - z)[:, None] * iz  # (K, R, m)
        rx, rz = hx[:, None] * ix.abs(), hz[:, None] * iz.abs()
        enter, leave = torch.maximum(ax - rx, az - rz).clamp_(min=0.0), torch.minimum(ax.add_(rx), az.add_(rz))
        hit = (leave >= enter) & at_height[:, None]
        nearest = torch.minimum(nearest, torch.where(hit, enter, FAR).amin(0))
        return nearest.mul_(1.0 / self.reach).clamp_(max=1.0)


def step_count(elapsed: Tensor, limit: int) -> Tensor:
    """Return the remaining share u of an episode as (3, n): min(1, u), min(1, 5 u) and min(1, 50 u)."""
    u = (limit - elapsed).to(torch.float32) / limit
    return torch.stack([u, 5 * u, 50 * u]).clamp_(max=1.0)


def inverse(direction: Tensor) -> Tensor:
    """Return 1 / direction, finite where it is 0."""
    return torch.where(direction.abs() < _LEAST, _LEAST, direction).reciprocal_()


def _turned(ways: Tensor, cos: Tensor, sin: Tensor, planar: bool) -> Tensor:
    """Return vectors (k, 3, n) in the frame of a base with this yaw: ahead, up, aside, or without up if planar."""
    dx, up, dz = ways.unbind(1)
    ahead, aside = (cos * dx).sub_(sin * dz), (sin * dx).add_(cos * dz)
    return torch.stack([ahead, aside] if planar else [ahead, up, aside], 1)
