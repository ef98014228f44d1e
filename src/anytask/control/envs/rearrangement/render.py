"""Images of a rearrangement world: what a robot's head camera sees, and a view from above.

Rays are cut with boxes exactly (slab by slab), for all environments and pixels at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
        if min(height, width) < 1:
            raise ValueError(f"image_size must be two whole numbers of at least 1, got {size!r}")
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


def _rgb(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def _colors(objects: int, device: torch.device) -> Tensor:
    """Walls, floor, static boxes, then the objects."""
    names = ["#c9d3dc", "#e9e4d8", "#8f9aa5"] + [_OBJECT_COLORS[k % len(_OBJECT_COLORS)] for k in range(objects)]
    return torch.as_tensor(np.stack([_rgb(name) for name in names]), device=device)


class _Canvas:
    """An image in metres: shapes are blended by their distance to each pixel, so that edges are smooth."""

    def __init__(self, bounds: np.ndarray, longest: int) -> None:
        margin = 0.03 * float((bounds[1] - bounds[0]).max())
        low, high = bounds[0] - margin, bounds[1] + margin
        self.pixel = float((high - low).max()) / longest
        width, height = (np.ceil((high - low) / self.pixel)).astype(int)
        self.x = (low[0] + (np.arange(width) + 0.5) * self.pixel)[None, :]
        self.z = (low[1] + (np.arange(height) + 0.5) * self.pixel)[:, None]
        self.image = np.ones((height, width, 3), np.float32)

    def _blend(
        self, low: tuple[float, float], high: tuple[float, float], distance: Any, color: str, alpha: float
    ) -> None:
        """Blend a shape within the corners ``low`` and ``high``; ``distance(x, z)`` is negative inside it."""
        m = 2 * self.pixel
        columns = slice(*np.searchsorted(self.x[0], (low[0] - m, high[0] + m)))
        rows = slice(*np.searchsorted(self.z[:, 0], (low[1] - m, high[1] + m)))
        away = distance(self.x[:, columns], self.z[rows])
        cover = (np.clip(0.5 - away / self.pixel, 0, 1) * alpha)[..., None].astype(np.float32)
        part = self.image[rows, columns]
        part += (_rgb(color) - part) * cover

    def box(self, x: float, z: float, hx: float, hz: float, color: str, alpha: float = 1.0) -> None:
        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            return np.maximum(np.abs(px - x) - hx, np.abs(pz - z) - hz)

        self._blend((x - hx, z - hz), (x + hx, z + hz), away, color, alpha)

    def disc(self, x: float, z: float, r: float, color: str, alpha: float = 1.0, ring: float | None = None) -> None:
        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            distance = np.hypot(px - x, pz - z) - r
            return distance if ring is None else np.abs(distance) - ring / 2

        reach = r + (ring or 0.0)
        self._blend((x - reach, z - reach), (x + reach, z + reach), away, color, alpha)

    def line(self, a: Any, b: Any, width: float, color: str, alpha: float = 1.0) -> None:
        ax, az, dx, dz = a[0], a[1], b[0] - a[0], b[1] - a[1]
        half = max(width / 2, 0.6 * self.pixel)

        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            share = np.clip(((px - ax) * dx + (pz - az) * dz) / max(dx * dx + dz * dz, 1e-12), 0, 1)
            return np.hypot(px - ax - share * dx, pz - az - share * dz) - half

        low, high = (min(a[0], b[0]) - half, min(a[1], b[1]) - half), (max(a[0], b[0]) + half, max(a[1], b[1]) + half)
        self._blend(low, high, away, color, alpha)


def _empty(world: World, number: int, longest: int) -> _Canvas:
    """Return a canvas with the stage alone."""
    stage = world.scene.stages[number]
    bounds = np.asarray(stage.bounds, float)
    canvas = _Canvas(bounds, longest)
    centre, half = bounds.mean(0), (bounds[1] - bounds[0]) / 2
    edge = 0.02 * float(half.max())
    (x, z), (hx, hz) = centre.tolist(), half.tolist()
    canvas.box(x, z, hx + edge, hz + edge, "#4d545c")
    canvas.box(x, z, hx, hz, "#f6f4ee")
    for c, h in sorted(stage.boxes, key=lambda box: box[0][1] + box[1][1]):
        low = world.scene.highest_surface and c[1] + h[1] <= world.scene.highest_surface
        canvas.box(c[0], c[2], h[0], h[2], "#c4b8a5" if low else "#6b747d")
    return canvas


def draw_top_view(
    world: World, row: int, *, tau: float, rays: RangeRays | None = None, longest: int = 320
) -> np.ndarray:
    """Return a view from above (height, width, 3) uint8.

    Obstacles are grey (the lower, the lighter), the robot is blue with a white heading, its gripper a black ring, the
    wanted object orange, the others white, the goal a green circle of radius ``tau``, and the range rays thin lines.
    """
    canvas = _empty(world, int(world.stage[row]), longest)
    x, z, yaw = (float(value[row]) for value in (world.x, world.z, world.yaw))
    if rays is not None:
        one = torch.tensor([row], device=world.device)
        cos, sin = world.yaw[one].cos(), world.yaw[one].sin()
        for k, share in enumerate(rays(world, one, cos, sin)[:, 0].tolist()):
            angle, length = yaw + 2 * math.pi * k / rays.count, share * rays.reach
            canvas.line((x, z), (x + length * math.cos(angle), z - length * math.sin(angle)), 0, "#56b4e9", 0.6)
    goal, target, held = world.goal[row].tolist(), int(world.target[row]), int(world.held[row])
    canvas.disc(goal[0], goal[2], tau, "#009e73", 0.25)
    canvas.disc(goal[0], goal[2], tau, "#009e73", ring=0.025)
    places, halves = world.objects[row].tolist(), world.halves.tolist()

    def draw_object(k: int) -> None:
        (px, _, pz), (hx, _, hz) = places[k], halves[k]
        canvas.box(px, pz, hx + canvas.pixel, hz + canvas.pixel, "#2b3138")
        canvas.box(px, pz, hx, hz, "#d55e00" if k == target else "#ffffff")

    for k in range(len(places)):
        if k != held:
            draw_object(k)
    pose = world.body.pose(world.configuration[row, :, None])
    sx, _, sz = world.body.centers(pose)[:, :, 0].T.tolist()
    radii = world.body.radius[:, 0].tolist()
    body = [k for k, link in enumerate(world.body.links) if link == 0]
    for k in body:
        canvas.disc(sx[k], sz[k], radii[k], "#0072b2")
    e = world.effector[row].tolist()
    path = [(x, z)] if len(pose.origins) == 2 else []
    path += [(float(p[0, 0]), float(p[2, 0])) for p in pose.origins[1:]] + [(e[0], e[2])]
    for a, b in pairwise(path):
        canvas.line(a, b, 0.05 if world.robot.planar else 0.07, "#2b3138", 1.0 if world.robot.planar else 0.8)
    front = max(math.hypot(sx[k] - x, sz[k] - z) + 0.5 * radii[k] for k in body)
    canvas.disc(x + front * math.cos(yaw), z - front * math.sin(yaw), 0.035, "#ffffff")
    if held >= 0:
        draw_object(held)
    canvas.disc(e[0], e[2], max(world.robot.gripper_radius, 0.04), "#111111", ring=0.02)
    return (canvas.image * 255 + 0.5).astype(np.uint8)
