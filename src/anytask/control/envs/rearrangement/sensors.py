"""What a rearrangement robot senses: vectors, grasp, joints, time, range rays and camera images; and a view from above.

Rays are cut with boxes exactly (slab by slab), for all environments and pixels at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from anytask.control.envs.raster import Drawing
from anytask.control.envs.rearrangement.settings import RearrangementSettings
from anytask.control.envs.rearrangement.world import World, chosen, picker


class Camera:
    """The head camera: depth and color of every pixel in every environment.

    Parameters
    ----------
    position : (float, float, float)
        In the base's frame: ahead, up, aside, in metres.
    size : (int, int)
        Height and width in pixels.
    view : float, default 60
        Horizontal field of view in degrees (the paper's).
    pitch : float, default 20
        Degrees by which it looks down (the paper's).
    farthest : float, default 10
        Depth in metres that reads 1.
    """

    def __init__(
        self,
        position: tuple[float, float, float],
        size: tuple[int, int],
        view: float = 60.0,
        pitch: float = 20.0,
        farthest: float = 10.0,
        device: str | torch.device = "cpu",
    ) -> None:
        height, width = size
        self.position, self.size, self.farthest = position, (int(height), int(width)), float(farthest)
        half = math.tan(math.radians(view) / 2)
        right = (torch.arange(width) + 0.5) / width * 2 - 1
        down = ((torch.arange(height) + 0.5) / height * 2 - 1) * (height / width)
        v, u = torch.meshgrid(-half * down, half * right, indexing="ij")
        c, s = math.cos(math.radians(pitch)), math.sin(math.radians(pitch))
        # With 1 along the optical axis, the parameter of a point on the ray is its depth.
        directions = torch.stack([c + s * v, c * v - s, u]).reshape(3, -1, 1)
        self.ahead, self.up, self.aside = directions.to(device)  # (pixels, 1)

    def images(self, world: World, rows: Tensor | None, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Return ``depth`` (m, height, width, 1) in [0, 1] and ``rgb`` (m, height, width, 3), as named in ``kinds``."""
        of = picker(rows)
        yaw = of(world.yaw)
        cos, sin = yaw.cos(), yaw.sin()
        ahead, up, aside = self.position
        eye = (of(world.x) + cos * ahead + sin * aside, up, of(world.z) - sin * ahead + cos * aside)
        slopes = (
            inverse(cos * self.ahead + sin * self.aside),
            inverse(self.up),
            inverse(cos * self.aside - sin * self.ahead),
        )
        bounds, boxes, halves = world.obstacles.of(of(world.stage))
        walls = [
            torch.maximum((bounds[0, s] - eye[a]) * slopes[a], (bounds[1, s] - eye[a]) * slopes[a])
            for a, s in ((0, 0), (2, 1))
        ]
        depth = torch.minimum(walls[0], walls[1])
        colored = "rgb" in kinds
        # What a pixel shows, and how bright the side is: tops 1, sides across x 0.8, sides across z 0.66.
        what = torch.zeros(depth.shape if colored else (0,), dtype=torch.int64, device=depth.device)
        shade = torch.where(walls[0] < walls[1], 0.80, 0.66) if colored else depth
        floor = torch.where(slopes[1] < 0, -up * slopes[1], FAR)
        if colored:
            shade, what = torch.where(floor < depth, 1.0, shade), torch.where(floor < depth, 1, what)
        depth = torch.minimum(depth, floor)
        objects, own = of(world.objects.movedim(0, -1)), world.halves[:, :, None]
        things = [(boxes[k], halves[k], 2) for k in range(len(boxes))]
        things += [(objects[k], own[k], 3 + k) for k in range(len(objects))]
        for c, h, color in things:
            cuts = [((c[a] - eye[a]) * slopes[a], h[a] * slopes[a].abs()) for a in range(3)]
            enters = [middle - wide for middle, wide in cuts]
            enter = torch.maximum(torch.maximum(enters[0], enters[1]), enters[2])
            leaves = [middle + wide for middle, wide in cuts]
            leave = torch.minimum(torch.minimum(leaves[0], leaves[1]), leaves[2])
            hit = (leave >= enter) & (enter > 0) & (enter < depth)
            if colored:
                side = torch.where(enter == enters[1], 1.0, torch.where(enter == enters[0], 0.80, 0.66))
                shade, what = torch.where(hit, side, shade), torch.where(hit, color, what)
            depth = torch.where(hit, enter, depth)
        out: dict[str, Tensor] = {}
        for kind in kinds:
            if kind == "depth":
                image = (depth.clamp(0.0, self.farthest) / self.farthest)[:, None]
            else:
                image = (_colors(len(objects), world.device)[what] * shade[..., None]).movedim(-1, 1)
            out[kind] = image.permute(2, 0, 1).reshape(-1, *self.size, image.shape[1]).contiguous()
        return out


_OBJECT_COLORS = ("#d55e00", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#7b4b94")


def _colors(objects: int, device: torch.device) -> Tensor:
    """Walls, floor, static boxes, then the objects."""
    names = ["#c9d3dc", "#e9e4d8", "#8f9aa5"] + [_OBJECT_COLORS[k % len(_OBJECT_COLORS)] for k in range(objects)]
    return torch.tensor([ImageColor.getrgb(name) for name in names], device=device) / 255


def _empty(world: World, number: int, longest: int) -> Drawing:
    """Return a drawing of the stage alone."""
    stage, highest = world.scene.stages[number], world.scene.highest_surface
    bounds = np.asarray(stage.bounds, float)
    center, half = bounds.mean(0), (bounds[1] - bounds[0]) / 2
    margin = 0.06 * half.max()
    drawing = Drawing(bounds[0] - margin, bounds[1] + margin, longest, up=False)
    drawing.box(center, half + 0.02 * half.max(), "#4d545c")
    drawing.box(center, half, "#f6f4ee")
    for c, h in sorted(stage.boxes, key=lambda box: box[0][1] + box[1][1]):
        low = highest and c[1] + h[1] <= highest
        drawing.box(c[::2], h[::2], "#c4b8a5" if low else "#6b747d")
    return drawing


def draw_top_view(
    world: World, row: int, *, tau: float, rays: RangeRays | None = None, longest: int = 320
) -> np.ndarray:
    """Return a view from above (height, width, 3) uint8.

    Obstacles are grey (the lower, the lighter), the robot is blue with a white heading, its gripper a black ring, the
    wanted object orange, the others white, the goal a green circle of radius ``tau``, and the range rays thin lines.
    """
    drawing, robot = _empty(world, int(world.stage[row]), longest), world.robot
    x, z, yaw = world.configuration[row, :3].tolist()

    def ahead(length: float, angle: float = 0.0) -> tuple[float, float]:
        return x + length * math.cos(yaw + angle), z - length * math.sin(yaw + angle)

    if rays is not None:
        one = torch.tensor([row], device=world.device)
        shares = rays(world, one, world.yaw[one].cos(), world.yaw[one].sin())[:, 0].tolist()
        for k, share in enumerate(shares):
            drawing.line([(x, z), ahead(share * rays.reach, 2 * math.pi * k / rays.count)], 0, "#56b4e9", 0.6)
    goal, target, held = world.goal[row].tolist()[::2], int(world.target[row]), int(world.held[row])
    drawing.disc(goal, tau, "#009e73", 0.25)
    drawing.disc(goal, tau, "#009e73", ring=0.025)
    places, halves = world.objects[row].tolist(), world.halves.tolist()

    def draw_object(k: int) -> None:
        half = halves[k][::2]
        drawing.box(places[k][::2], [h + drawing.pixel for h in half], "#2b3138")
        drawing.box(places[k][::2], half, "#d55e00" if k == target else "#ffffff")

    for k in range(len(places)):
        if k != held:
            draw_object(k)
    pose = world.body.pose(world.configuration[row, :, None])
    spheres = world.body.centers(pose)[:, ::2, 0].tolist()
    base = [(at, r) for at, r, link in zip(spheres, world.body.radius[:, 0].tolist(), world.body.links) if link == 0]
    for at, radius in base:
        drawing.disc(at, radius, "#0072b2")
    effector = world.effector[row].tolist()[::2]
    joints = [p[::2, 0].tolist() for p in pose.origins[1:]]
    path = [*([(x, z)] if len(joints) == 1 else []), *joints, effector]
    drawing.line(path, 0.05 if robot.planar else 0.07, "#2b3138", 1.0 if robot.planar else 0.8)
    drawing.disc(ahead(max(math.dist(at, (x, z)) + 0.5 * radius for at, radius in base)), 0.035, "#ffffff")
    if held >= 0:
        draw_object(held)
    drawing.disc(effector, max(robot.gripper_radius, 0.04), "#111111", ring=0.02)
    return drawing.pixels()


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
