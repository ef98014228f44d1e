"""What does not move: the static boxes of a scene's stages in tensors, and collision tests against them.

A column grid tells by one cell look-up and one comparison whether a sphere of one of a few radii is free of a stage.
For each radius the stage is cut into square cells of the ground plane. A cell holds the sorted heights at which the
center of such a sphere changes between occupied and free anywhere above it, so that thousands of spheres are tested by
one gather. Where a cell is cut by an obstacle's edge the whole cell counts as occupied: a test may call a sphere
colliding up to one cell's diagonal too early, and never too late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytask.control.envs.rearrangement.scene import Robot, Scene, Stage

#: Intervals that are merged at a time.
_MOST = 2_000_000


class ColumnGrid:
    """Collision look-ups of spheres against one or more stages of axis-aligned boxes.

    Parameters
    ----------
    stages : sequence of Stage
        Each with its bounds and static boxes; their floors lie at height 0 and what is outside the bounds is solid.
    radii : sequence of float
        The working set of sphere radii, in metres.
    cell : float, default 0.02
        Side of a cell, in metres.
    device : str or torch.device, default "cpu"

    Attributes
    ----------
    heights : Tensor of shape (cells of all stages and radii, k)
        Sorted heights at which a column turns free, occupied, free, ... (it starts occupied: the floor), padded with
        infinity.

    Examples
    --------
    >>> stage = Stage(bounds=((-1, -1), (1, 1)), boxes=[((0.0, 0.5, 0.0), (0.2, 0.1, 0.2))])  # a table top
    >>> grid = ColumnGrid([stage], radii=[0.1])
    >>> centers = torch.zeros(1, 3, 3)
    >>> centers[0, 1] = torch.tensor([0.2, 0.45, 0.8])  # heights: under, in and over the table top
    >>> grid.occupied(centers, grid.base(0)).tolist()
    [[False, True, False]]
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        radii: Sequence[float],
        cell: float = 0.02,
        device: str | torch.device = "cpu",
    ) -> None:
        if not cell > 0 or not radii or min(radii) <= 0:
            raise ValueError(f"cell and radii must be positive lengths in metres, got {cell!r} and {list(radii)!r}")
        bounds = np.array([s.bounds for s in stages], np.float64)  # (stages, 2, 2)
        self.cell, self.radii = float(cell), tuple(float(r) for r in radii)
        # One ring of solid cells around everything: an index clamped to the grid finds "outside" there.
        self.origin = bounds[:, 0].min(0) - cell
        shape = np.ceil((bounds[:, 1].max(0) - bounds[:, 0].min(0)) / cell - 1e-9).astype(int) + 2
        self.nx, self.nz = int(shape[0]), int(shape[1])
        columns = [self._columns(stage, r) for stage in stages for r in self.radii]
        width = max(c.shape[1] for c in columns)
        padded = [np.pad(c, ((0, 0), (0, width - c.shape[1])), constant_values=np.inf) for c in columns]
        self.heights = torch.as_tensor(np.concatenate(padded).astype(np.float32), device=device)
        self._corner = torch.as_tensor(self.origin / cell, dtype=torch.float32, device=device)[:, None]
        self._last = torch.tensor([[self.nx - 1.0], [self.nz - 1.0]], device=device)
        self._single = self.heights[:, 0].contiguous() if width == 1 else None

    def base(self, radius: int, stage: int = 0) -> int:
        """Return the number of the first cell of a radius (its place in the working set) in a stage."""
        return (stage * len(self.radii) + radius) * self.nx * self.nz

    def occupied(self, centers: Tensor, base: Tensor | int) -> Tensor:
        """Test spheres by their centers (s, 3, m): (s, m); ``base`` is :meth:`base` of their radii and stages."""
        cells = (centers[:, ::2] * (1.0 / self.cell)).sub_(self._corner).clamp_(min=0.0)
        i, j = torch.minimum(cells, self._last).long().unbind(1)
        index = (i * self.nz).add_(j).add_(base)
        height = centers[:, 1]
        if self._single is not None:
            return height < self._single[index]
        return (height.unsqueeze(-1) >= self.heights[index]).sum(-1) % 2 == 0

    def _columns(self, stage: Stage, radius: float) -> np.ndarray:
        """Return the switching heights of every cell for one radius: (nx * nz, k)."""
        (x0, z0), (x1, z1) = stage.bounds
        edge = 1e-6  # what merely touches is free
        near = self.origin[1] + self.cell * np.arange(self.nz)
        outside_z = (near < z0 + radius - edge) | (near + self.cell > z1 - radius + edge)
        slabs = []
        # Slabs of cells at a time: the intervals of all boxes over all cells of a large stage would not fit in memory.
        step = max(1, _MOST // (self.nz * (len(stage.boxes) + 1)))
        for begin in range(0, self.nx, step):
            left = self.origin[0] + self.cell * np.arange(begin, min(begin + step, self.nx))
            outside_x = (left < x0 + radius - edge) | (left + self.cell > x1 - radius + edge)
            outside = (outside_x[:, None] | outside_z[None, :]).ravel()
            low = [np.full(len(outside), -np.inf)]
            high = [np.where(outside, np.inf, radius - edge)]
            for (cx, cy, cz), (hx, hy, hz) in stage.boxes:
                # Least distance in the plane between the cell's rectangle and the box.
                gap_x = np.maximum(np.maximum(left - (cx + hx), (cx - hx) - (left + self.cell)), 0)
                gap_z = np.maximum(np.maximum(near - (cz + hz), (cz - hz) - (near + self.cell)), 0)
                rest = (radius - edge) ** 2 - (gap_x[:, None] ** 2 + gap_z[None, :] ** 2).ravel()
                if (hit := rest > 0).any():
                    reach = np.sqrt(np.maximum(rest, 0))
                    low.append(np.where(hit, cy - hy - reach, np.inf))
                    high.append(np.where(hit, cy + hy + reach, np.inf))
            slabs.append(_merged(np.stack(low, 1), np.stack(high, 1)))
        width = max(slab.shape[1] for slab in slabs)
        return np.concatenate(
            [np.pad(slab, ((0, 0), (0, width - slab.shape[1])), constant_values=np.inf) for slab in slabs]
        )


def _merged(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Merge the intervals (cells, m) of each row; return the ends after the first start, in order: (cells, k).

    One of each row begins at -inf; places without an interval hold one from inf to inf.
    """
    heights = np.concatenate([low, high], 1)
    order = np.argsort(heights, axis=1, kind="stable")  # where two touch, the start comes before the end
    heights = np.take_along_axis(heights, order, 1)
    inside = np.where(order < low.shape[1], 1, -1).cumsum(1)  # how many intervals hold what is above each height
    switches = (inside == 0) | ((inside == 1) & (np.roll(inside, 1, 1) == 0))
    both = np.sort(np.where(switches, heights, np.inf), axis=1)[:, 1:]  # without the start at -inf
    used = np.flatnonzero(np.isfinite(both).any(0))
    return both[:, : int(used.max()) + 1 if len(used) else 1]


CONTACT = 1e-4  # metres by which boxes may overlap and still only touch


class Obstacles:
    """The static boxes of all stages of a scene.

    Parameters
    ----------
    scene : Scene
    robot : Robot
        Whose working set of radii spheres are tested with.
    cell : float
        Cell of the collision grid, in metres.
    device : torch.device

    Attributes
    ----------
    bounds : Tensor (G, 2, 2)
        Of each stage.
    centers, halves : Tensor (G, Q, 3)
        Boxes of each stage.
    grid : ColumnGrid
    """

    def __init__(self, scene: Scene, robot: Robot, cell: float, device: torch.device) -> None:
        column: Any = {"device": device, "dtype": torch.float32}
        self.grid = ColumnGrid(scene.stages, robot.radii, cell, device)
        self.stage_size = self.grid.base(0, 1)
        self.several = len(scene.stages) > 1
        count = max(1, max(len(s.boxes) for s in scene.stages))
        boxes = np.zeros((len(scene.stages), count, 2, 3), np.float32)
        boxes[:, :, 0, 1] = -1e3  # stages with fewer boxes have the others far below the floor
        for k, stage in enumerate(scene.stages):
            if len(stage.boxes):
                boxes[k, : len(stage.boxes)] = np.array(stage.boxes, np.float32)
        self.centers = torch.tensor(boxes[:, :, 0], **column)
        self.halves = torch.tensor(boxes[:, :, 1], **column)
        self.bounds = torch.tensor(np.array([s.bounds for s in scene.stages], np.float32), **column)

    def of(self, stage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return bounds (2, 2, m), centres and half extents (Q, 3, m) of the stages (m,)."""
        boxes = self.centers[stage].permute(1, 2, 0), self.halves[stage].permute(1, 2, 0)
        return self.bounds[stage].permute(1, 2, 0), *boxes

    def overlap(self, center: Tensor, half: Tensor, stage: Tensor) -> Tensor:
        """Test whether boxes (3, m) overlap the floor, the outside or a static box: (m,)."""
        bounds, boxes, halves = self.of(stage)
        out = center[1] < half[1] - CONTACT
        for axis, side in ((0, 0), (2, 1)):
            out |= center[axis] - half[axis] < bounds[0, side] - CONTACT
            out |= center[axis] + half[axis] > bounds[1, side] + CONTACT
        return out | ((center - boxes).abs() < half + halves - CONTACT).all(1).any(0)


def cover(half: tuple[float, float, float], radii: tuple[float, ...]) -> tuple[np.ndarray, int]:
    """Cover a box by spheres of one working radius: centres (k, 3) and the radius' number."""
    fitting = [k for k, r in enumerate(radii) if r <= min(half) + 1e-9]
    number = max(fitting, key=lambda k: radii[k]) if fitting else int(np.argmin(radii))
    r = radii[number]
    lines = []
    for h in half:
        reach = max(h - r, 0.0)
        lines.append(np.linspace(-reach, reach, 1 + int(np.ceil(reach / r))) if reach > 0 else np.zeros(1))
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3), number
