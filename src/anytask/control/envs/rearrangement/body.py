"""A robot's body in tensors: forward kinematics, and the spheres that stand for it in collisions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from anytask.control.envs.rearrangement.scene import Robot


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
