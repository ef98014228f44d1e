"""Images of a rearrangement world: what a robot's head camera sees, and a view from above.

Rays are cut with boxes exactly (slab by slab), for all environments and pixels at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from anytask.control.envs.raster import Drawing
from anytask.control.envs.rearrangement.sensors import FAR, RangeRays, inverse
from anytask.control.envs.rearrangement.world import World, picker


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
