"""What does not move: the static boxes of a scene's stages in tensors, and collision tests against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from anytask.control.envs.rearrangement.columns import ColumnGrid
from anytask.control.envs.rearrangement.scene import Robot, Scene

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
