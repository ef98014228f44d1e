"""How a rearrangement robot sees, and how people see it: range rays, head camera and a picture from above.

Rays are cut with boxes exactly (slab by slab), for all copies and pixels at once.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from anytask.control.envs.rearrangement import Rearrangement

_FAR = 1e6
_LEAST = 1e-9  # the least component of a direction, so that none divides by zero


def range_rays(env: Rearrangement, rows: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the distances (rays, m) from the base to what stands at the rays' height, over ``env.ray_range``.

    ``cos`` and ``sin`` (m,) are of the yaw of the copies ``rows``, or of all.
    """

    def of(value: Tensor) -> Tensor:
        return value if rows is None else value.index_select(-1, rows)

    x, z = of(env.x), of(env.z)
    ca, sa = env._ray_cos, env._ray_sin  # (R, 1)
    ix, iz = _inverse((ca * cos).sub_(sa * sin)), _inverse((-ca * sin).sub_(sa * cos))  # (R, m)
    if len(env.scene.stages) > 1:
        stage = of(env.stage)
        bounds = env.bounds[stage].permute(1, 2, 0)  # (2, 2, m)
        middle, half = env.box_centres[stage].permute(1, 2, 0), env.box_halves[stage].permute(1, 2, 0)
    else:
        bounds, middle, half = env.bounds[0][:, :, None], env._ray_boxes[0], env._ray_boxes[1]
    # From inside the bounds the way out is the farther of each pair of walls, and the nearer pair.
    wx, wz = bounds[:, 0] - x, bounds[:, 1] - z  # (2, m)
    nearest = torch.maximum(wx[0] * ix, wx[1] * ix)
    nearest = torch.minimum(nearest, torch.maximum(wz[0] * iz, wz[1] * iz))
    objects, width = of(env.objects.movedim(0, -1)), len(x)
    # What is carried hides nothing: the ray begins under it.
    free = env._numbers != of(env.held)
    middle = torch.cat([middle.expand(-1, -1, width), objects])  # (K, 3, m)
    half = torch.cat([half.expand(-1, -1, width), env._half.expand(-1, -1, width)])
    hx, hy, hz = half.unbind(1)
    at_height = (middle[:, 1] - env.robot.ray_height).abs_() <= hy
    at_height[-len(objects) :] &= free
    ax, az = (middle[:, 0] - x)[:, None] * ix, (middle[:, 2] - z)[:, None] * iz  # (K, R, m)
    rx, rz = hx[:, None] * ix.abs(), hz[:, None] * iz.abs()
    enter, leave = torch.maximum(ax - rx, az - rz).clamp_(min=0.0), torch.minimum(ax.add_(rx), az.add_(rz))
    hit = (leave >= enter) & at_height[:, None]
    nearest = torch.minimum(nearest, torch.where(hit, enter, _FAR).amin(0))
    return nearest.mul_(1.0 / env.ray_range).clamp_(max=1.0)


def _inverse(direction: Tensor) -> Tensor:
    return torch.where(direction.abs() < _LEAST, _LEAST, direction).reciprocal_()


class Camera:
    """The head camera: depth and colour of every pixel of every copy.

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

    def images(self, env: Rearrangement, rows: Tensor | None, kinds: tuple[str, ...]) -> dict[str, Tensor]:
        """Return ``depth`` (m, height, width, 1) in [0, 1] and ``rgb`` (m, height, width, 3), as named in ``kinds``."""

        def of(value: Tensor) -> Tensor:
            return value if rows is None else value.index_select(-1, rows)

        yaw, stage = of(env.yaw), of(env.stage)
        cos, sin = yaw.cos(), yaw.sin()
        ahead, up, aside = self.position
        eye = (of(env.x) + cos * ahead + sin * aside, up, of(env.z) - sin * ahead + cos * aside)
        inverse = (
            _inverse(cos * self.ahead + sin * self.aside),
            _inverse(self.up),
            _inverse(cos * self.aside - sin * self.ahead),
        )
        bounds = env.bounds[stage].permute(1, 2, 0)
        walls = [
            torch.maximum((bounds[0, s] - eye[a]) * inverse[a], (bounds[1, s] - eye[a]) * inverse[a])
            for a, s in ((0, 0), (2, 1))
        ]
        depth = torch.minimum(walls[0], walls[1])
        coloured = "rgb" in kinds
        # What a pixel shows, and how bright the side is: tops 1, sides across x 0.8, sides across z 0.66.
        what = torch.zeros(depth.shape if coloured else (0,), dtype=torch.int64, device=depth.device)
        shade = torch.where(walls[0] < walls[1], 0.80, 0.66) if coloured else depth
        floor = torch.where(inverse[1] < 0, -up * inverse[1], _FAR)
        if coloured:
            shade, what = torch.where(floor < depth, 1.0, shade), torch.where(floor < depth, 1, what)
        depth = torch.minimum(depth, floor)
        boxes, halves = env.box_centres[stage].permute(1, 2, 0), env.box_halves[stage].permute(1, 2, 0)
        objects, own = of(env.objects.movedim(0, -1)), env.halves[:, :, None]
        things = [(boxes[k], halves[k], 2) for k in range(len(boxes))]
        things += [(objects[k], own[k], 3 + k) for k in range(len(objects))]
        for c, h, colour in things:
            cuts = [((c[a] - eye[a]) * inverse[a], h[a] * inverse[a].abs()) for a in range(3)]
            enters = [middle - wide for middle, wide in cuts]
            enter = torch.maximum(torch.maximum(enters[0], enters[1]), enters[2])
            leaves = [middle + wide for middle, wide in cuts]
            leave = torch.minimum(torch.minimum(leaves[0], leaves[1]), leaves[2])
            hit = (leave >= enter) & (enter > 0) & (enter < depth)
            if coloured:
                side = torch.where(enter == enters[1], 1.0, torch.where(enter == enters[0], 0.80, 0.66))
                shade, what = torch.where(hit, side, shade), torch.where(hit, colour, what)
            depth = torch.where(hit, enter, depth)
        out: dict[str, Tensor] = {}
        for kind in kinds:
            if kind == "depth":
                picture = (depth.clamp(0.0, self.farthest) / self.farthest)[:, None]
            else:
                picture = (_colours(len(objects), env.device)[what] * shade[..., None]).movedim(-1, 1)
            out[kind] = picture.permute(2, 0, 1).reshape(-1, *self.size, picture.shape[1]).contiguous()
        return out


_OBJECT_COLOURS = ("#d55e00", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#7b4b94")


def _rgb(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255


def _colours(objects: int, device: torch.device) -> Tensor:
    """Walls, floor, static boxes, then the objects."""
    names = ["#c9d3dc", "#e9e4d8", "#8f9aa5"] + [_OBJECT_COLOURS[k % len(_OBJECT_COLOURS)] for k in range(objects)]
    return torch.as_tensor(np.stack([_rgb(name) for name in names]), device=device)


class _Canvas:
    """A picture in metres: shapes are blended by their distance to each pixel, so that edges are smooth."""

    def __init__(self, bounds: np.ndarray, longest: int) -> None:
        margin = 0.03 * float((bounds[1] - bounds[0]).max())
        low, high = bounds[0] - margin, bounds[1] + margin
        self.pixel = float((high - low).max()) / longest
        width, height = (np.ceil((high - low) / self.pixel)).astype(int)
        self.x = (low[0] + (np.arange(width) + 0.5) * self.pixel)[None, :]
        self.z = (low[1] + (np.arange(height) + 0.5) * self.pixel)[:, None]
        self.image = np.ones((height, width, 3), np.float32)

    def _blend(
        self, low: tuple[float, float], high: tuple[float, float], distance: Any, colour: str, alpha: float
    ) -> None:
        """Blend a shape within the corners ``low`` and ``high``; ``distance(x, z)`` is negative inside it."""
        m = 2 * self.pixel
        columns = slice(*np.searchsorted(self.x[0], (low[0] - m, high[0] + m)))
        rows = slice(*np.searchsorted(self.z[:, 0], (low[1] - m, high[1] + m)))
        away = distance(self.x[:, columns], self.z[rows])
        cover = (np.clip(0.5 - away / self.pixel, 0, 1) * alpha)[..., None].astype(np.float32)
        part = self.image[rows, columns]
        part += (_rgb(colour) - part) * cover

    def box(self, x: float, z: float, hx: float, hz: float, colour: str, alpha: float = 1.0) -> None:
        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            return np.maximum(np.abs(px - x) - hx, np.abs(pz - z) - hz)

        self._blend((x - hx, z - hz), (x + hx, z + hz), away, colour, alpha)

    def disc(self, x: float, z: float, r: float, colour: str, alpha: float = 1.0, ring: float | None = None) -> None:
        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            distance = np.hypot(px - x, pz - z) - r
            return distance if ring is None else np.abs(distance) - ring / 2

        reach = r + (ring or 0.0)
        self._blend((x - reach, z - reach), (x + reach, z + reach), away, colour, alpha)

    def line(self, a: Any, b: Any, width: float, colour: str, alpha: float = 1.0) -> None:
        ax, az, dx, dz = a[0], a[1], b[0] - a[0], b[1] - a[1]
        half = max(width / 2, 0.6 * self.pixel)

        def away(px: np.ndarray, pz: np.ndarray) -> np.ndarray:
            share = np.clip(((px - ax) * dx + (pz - az) * dz) / max(dx * dx + dz * dz, 1e-12), 0, 1)
            return np.hypot(px - ax - share * dx, pz - az - share * dz) - half

        low, high = (min(a[0], b[0]) - half, min(a[1], b[1]) - half), (max(a[0], b[0]) + half, max(a[1], b[1]) + half)
        self._blend(low, high, away, colour, alpha)


def _empty(env: Rearrangement, number: int, longest: int) -> _Canvas:
    """Return a canvas with the stage alone."""
    stage = env.scene.stages[number]
    bounds = np.asarray(stage.bounds, float)
    canvas = _Canvas(bounds, longest)
    centre, half = bounds.mean(0), (bounds[1] - bounds[0]) / 2
    edge = 0.02 * float(half.max())
    (x, z), (hx, hz) = centre.tolist(), half.tolist()
    canvas.box(x, z, hx + edge, hz + edge, "#4d545c")
    canvas.box(x, z, hx, hz, "#f6f4ee")
    for c, h in sorted(stage.boxes, key=lambda box: box[0][1] + box[1][1]):
        low = env.scene.highest_surface and c[1] + h[1] <= env.scene.highest_surface
        canvas.box(c[0], c[2], h[0], h[2], "#c4b8a5" if low else "#6b747d")
    return canvas


def draw_top_view(env: Rearrangement, row: int, longest: int = 320) -> np.ndarray:
    """Return a picture from above (height, width, 3) uint8.

    Obstacles are grey (the lower, the lighter), the robot is blue with a white heading, its gripper a black ring, the
    wanted object orange, the others white, the goal a green circle of radius ``tau``, and the range rays thin lines.
    """
    canvas = _empty(env, int(env.stage[row]), longest)
    x, z, yaw = (float(value[row]) for value in (env.x, env.z, env.yaw))
    if env.rays:
        one = torch.tensor([row], device=env.device)
        cos, sin = env.yaw[one].cos(), env.yaw[one].sin()
        for k, share in enumerate(range_rays(env, one, cos, sin)[:, 0].tolist()):
            angle, length = yaw + 2 * math.pi * k / env.rays, share * env.ray_range
            canvas.line((x, z), (x + length * math.cos(angle), z - length * math.sin(angle)), 0, "#56b4e9", 0.6)
    goal, target, held = env.goal[row].tolist(), int(env.target[row]), int(env.held[row])
    canvas.disc(goal[0], goal[2], env.tau, "#009e73", 0.25)
    canvas.disc(goal[0], goal[2], env.tau, "#009e73", ring=0.025)
    places, halves = env.objects[row].tolist(), env.halves.tolist()

    def draw_object(k: int) -> None:
        (px, _, pz), (hx, _, hz) = places[k], halves[k]
        canvas.box(px, pz, hx + canvas.pixel, hz + canvas.pixel, "#2b3138")
        canvas.box(px, pz, hx, hz, "#d55e00" if k == target else "#ffffff")

    for k in range(len(places)):
        if k != held:
            draw_object(k)
    pose = env._pose(env.configuration[row, :, None])
    sx, _, sz = env._sphere_centres(pose)[:, :, 0].T.tolist()
    radii = env._sphere_radius[:, 0].tolist()
    body = [k for k, link in enumerate(env._sphere_links) if link == 0]
    for k in body:
        canvas.disc(sx[k], sz[k], radii[k], "#0072b2")
    e = env.effector[row].tolist()
    path = [(x, z)] if len(pose.origins) == 2 else []
    path += [(float(p[0, 0]), float(p[2, 0])) for p in pose.origins[1:]] + [(e[0], e[2])]
    for a, b in pairwise(path):
        canvas.line(a, b, 0.05 if env.robot.planar else 0.07, "#2b3138", 1.0 if env.robot.planar else 0.8)
    front = max(math.hypot(sx[k] - x, sz[k] - z) + 0.5 * radii[k] for k in body)
    canvas.disc(x + front * math.cos(yaw), z - front * math.sin(yaw), 0.035, "#ffffff")
    if held >= 0:
        draw_object(held)
    canvas.disc(e[0], e[2], max(env.robot.gripper_radius, 0.04), "#111111", ring=0.02)
    return (canvas.image * 255 + 0.5).astype(np.uint8)
