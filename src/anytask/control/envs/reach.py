"""Flat worlds for policy learning: a point that walks to a goal, around walls, or by way of a way-point.

Three environments that cost almost nothing (a few million steps a second on one core) and still have what makes control
hard: a sparse reward and a clock (:class:`Reach`), two ways around a wall of which a mean is neither
(:class:`WalledReach`), and tasks that share a part of their way (:class:`WaypointReach`). All environments live in
tensors, and each is seen as numbers or as an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from torch import Tensor

from anytask.control.base import BatchedEnv, Obs
from anytask.control.envs.raster import Canvas, Drawing
from anytask.core.colors import PALETTE
from anytask.core.settings import Settings, choice, real, whole

_GROUND, _WALL, _FRAME = "#f8f9fa", "#4a525c", "#c8ced4"
_AGENT, _CLOCK, _GOAL, _WAY = PALETTE[:4]
_IMAGE = 256  # pixels along the edge of an image for people


class ReachSettings(Settings):
    """The options of :class:`Reach`, all keywords of ``make``."""

    observation: str = choice(
        "state", ("state", "pixels"), "numbers (float32), or an image (uint8) that shows the same"
    )
    start_width: float = real(0.25, "starts lie in a square of half this edge, in world units", at_least=0)
    action_noise: float = real(0.0, "standard deviation of the world's Gaussian noise on every action", at_least=0)
    max_episode_steps: int = whole(20, "time limit")
    image_size: int = whole(32, "pixels along the edge of an observed image", at_least=8)


class WalledReachSettings(ReachSettings):
    """The options of :class:`WalledReach`."""

    crash_cost: float = real(0.0, "taken from the reward of every step in which a wall stopped the point", at_least=0)


class WaypointReachSettings(ReachSettings):
    """The options of :class:`WaypointReach`."""

    start_width = 0.6
    max_episode_steps = 50
    task: str = choice("A", ("A", "B", "C", "D"), "whose goal counts")


class PlanarReach(BatchedEnv):
    """What the reach environments share: a point in a square, a sparse reward, walls that stop it, and its images.

    As an image (``observation="pixels"``) an observation is (``image_size``, ``image_size``, 3) of uint8, and the time
    that has passed is a bar along its lower edge.

    Parameters
    ----------
    num_envs : int, default 1
        Parallel environments.
    device, seed, autoreset, render_mode
        As in :class:`~anytask.control.base.BatchedEnv`.
    **options
        Fields of ``settings_class``.

    Attributes
    ----------
    settings : Settings
        The options.
    position : Tensor (n, 2)
        Where the points are.
    """

    STATE: ClassVar[tuple[str, ...]] = ("position",)
    settings_class: ClassVar[type[Settings]] = ReachSettings
    arena: ClassVar[float] = 1.0  # half the edge of the square world
    step_length: ClassVar[float] = 0.2  # world units that an action of 1 moves along an axis
    radius: ClassVar[float] = 0.2  # of the goal
    start: ClassVar[tuple[float, float]] = (0.0, 0.0)
    clock: ClassVar[bool] = True  # whether the state tells the share of the time that has passed
    walls: ClassVar[tuple[tuple[float, float, float, float], ...]] = ()  # boxes (x low, y low, x high, y high)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        autoreset: bool = True,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.settings: Any = self.settings_class(**options)
        size = self.settings.image_size
        pixels = self.settings.observation == "pixels"
        if pixels:
            space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        else:
            edge = np.full(2, self.arena, np.float32)
            low, high = (np.append(-edge, 0.0), np.append(edge, 1.0)) if self.clock else (-edge, edge)
            space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        super().__init__(
            num_envs,
            space,
            gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
            self.settings.max_episode_steps,
            device=device,
            seed=seed,
            autoreset=autoreset,
            render_mode=render_mode,
        )
        self.position = torch.zeros(self.num_envs, 2, device=self.device)
        self._start = torch.tensor(self.start, device=self.device)
        self._goal = torch.tensor(self.goal, device=self.device)
        self._walls = torch.tensor(self.walls, device=self.device).reshape(-1, 4)
        self._backdrop = self._scene(size) if pixels else None
        # The way of every point is kept for images only.
        steps = self.max_episode_steps + 1 if render_mode else 0
        self._trail = torch.zeros(self.num_envs, steps, 2, device=self.device)

    @property
    def goal(self) -> tuple[float, float]:
        """Where the goal is, in world units."""
        raise NotImplementedError

    def _restart(self, rows: Tensor) -> None:
        offset = self.random.uniform(2, -self.settings.start_width, self.settings.start_width, rows=rows)
        self.position[rows] = (self._start + offset).clamp(-self.arena, self.arena)
        if self.render_mode:
            self._trail[rows, 0] = self.position[rows]

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.settings.action_noise:
            actions = (actions + self.settings.action_noise * self.random.normal(2)).clamp(-1, 1)
        self._move(actions)
        if self.render_mode:
            place = (self.elapsed + 1).clamp_max(self._trail.shape[1] - 1)
            self._trail[torch.arange(self.num_envs, device=self.device), place] = self.position
        success = self.distance() < self.radius
        return success.to(torch.float32), success, success

    def _move(self, actions: Tensor) -> None:
        self.position = (self.position + self.step_length * actions).clamp(-self.arena, self.arena)

    def distance(self) -> Tensor:
        """Return the distance (n,) of every point to its goal."""
        dx, dy = (self.position - self._goal).unbind(1)
        return (dx * dx + dy * dy).sqrt()

    def _observe(self, rows: Tensor | None = None) -> Obs:
        position = self.position if rows is None else self.position[rows]
        share = (self.elapsed if rows is None else self.elapsed[rows]) / self.max_episode_steps
        if self._backdrop is not None:
            canvas = Canvas(len(position), self.settings.image_size, self.arena, self._backdrop, device=self.device)
            canvas.disc(position, 0.09 * self.arena, _AGENT)
            if self.clock:
                canvas.bar(share, 1, _CLOCK)
            return canvas.pixels()
        return torch.cat([position, share[:, None]], 1) if self.clock else position.clone()

    def _scene(self, size: int) -> Canvas:
        """Return the image of what never moves."""
        canvas = Canvas(1, size, self.arena, _GROUND, margin=0.1 * self.arena, device=self.device)
        for x, y in self._goals():
            canvas.disc(torch.tensor([[x, y]], device=self.device), self.radius, _GOAL, 0.35)
            canvas.ring((x, y), self.radius, 0.05 * self.arena, _GOAL)
        for x0, y0, x1, y1 in self.walls:
            canvas.box((x0, y0), (x1, y1), _WALL)
        return canvas

    def _goals(self) -> Sequence[tuple[float, float]]:
        return [self.goal]

    def _draw(self, row: int) -> np.ndarray:
        edge, here = self.arena, self.position[row].tolist()
        unit = edge / 100
        drawing = Drawing((-edge, -edge), (edge, edge), _IMAGE, _GROUND)
        for goal in self._goals():
            drawing.disc(goal, self.radius, _GOAL, 0.35)
            drawing.disc(goal, self.radius, _GOAL, ring=5 * unit)
        for x0, y0, x1, y1 in self.walls:
            drawing.box(((x0 + x1) / 2, (y0 + y1) / 2), ((x1 - x0) / 2, (y1 - y0) / 2), _WALL)
        self._decorate(drawing)
        if self.render_mode:
            way = self._trail[row, : int(self.elapsed[row]) + 1].tolist()
            drawing.line(way, 2.2 * unit, _AGENT, 0.5)
            for point in way[:-1]:
                drawing.disc(point, 2 * unit, _AGENT, 0.8)
        drawing.disc(here, 6 * unit, "#ffffff")
        drawing.disc(here, 4.8 * unit, _AGENT)
        drawing.line([(-edge, -edge), (edge, -edge), (edge, edge), (-edge, edge), (-edge, -edge)], 2 * unit, _FRAME)
        length = 2 * edge * int(self.elapsed[row]) / self.max_episode_steps
        drawing.box((length / 2 - edge, 2 * unit - edge), (length / 2, 2 * unit), _CLOCK)
        return drawing.pixels()

    def _decorate(self, drawing: Drawing) -> None:
        """Add to an image for people what an observation doesn't show."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state()`` returned; images show the way from here on."""
        super().restore(state)
        if self.render_mode:
            self._trail[:] = self.position[:, None]


class Reach(PlanarReach):
    """Walk from the lower left to a goal at the upper right within 20 steps; the reward is 1 on arrival, else 0.

    The smallest world in which speed matters: a demonstrator at half speed arrives late, so copying demonstrations of
    mixed speed falls short, and learning from the reward has something to win. Episodes end on arrival.

    Observation: x, y in [-1, 1] and the share of the time that has passed. Action: 0.2 world units a step per axis at
    full throttle, clamped to [-1, 1].

    Options are those of :class:`ReachSettings`; starts lie within 0.25 of (-0.7, -0.7).

    Examples
    --------
    >>> env = Reach(num_envs=3, seed=0)
    >>> obs, _ = env.reset()
    >>> obs.shape
    torch.Size([3, 3])
    >>> for _ in range(7):
    ...     obs, reward, terminated, truncated, infos = env.step([[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
    >>> reward.tolist(), infos["success"].tolist(), bool(infos["final_obs"][0, 0] > 0.5)
    ([1.0, 0.0, 0.0], [True, False, False], True)
    """

    env_id = "anytask/Reach-v0"
    start = (-0.7, -0.7)

    @property
    def goal(self) -> tuple[float, float]:
        """The upper right."""
        return 0.7, 0.7


class WalledReach(PlanarReach):
    """Walk around a wall through one of two gaps, both about as far; the reward is 1 on arrival, else 0.

    Hard for critics and for policies with one mode: between the gaps two opposite actions are right and their mean runs
    into the wall, and values differ sharply between both sides of a thin wall. Walls stop a move along the axis that
    would enter them; sliding along them is possible.

    Observation and action are those of :class:`Reach`. Starts lie within 0.25 of (-0.7, 0), the goal is at (0.7, 0).

    Options are those of :class:`WalledReachSettings`.

    Examples
    --------
    >>> env = WalledReach(num_envs=1)
    >>> _ = env.reset()
    >>> for _ in range(10):
    ...     obs, *_ = env.step([[1.0, 0.0]])
    >>> bool(obs[0, 0] < -0.05)  # it stands before the wall
    True
    """

    env_id = "anytask/WalledReach-v0"
    settings_class = WalledReachSettings
    start = (-0.7, 0.0)
    # The outer walls end beyond the edge of the world, so that there is no way along it.
    walls = ((-0.05, -0.38, 0.05, 0.38), (-0.05, 0.62, 0.05, 1.1), (-0.05, -1.1, 0.05, -0.62))
    #: Centres of the gaps.
    gaps: ClassVar[tuple[tuple[float, float], ...]] = ((0.0, 0.5), (0.0, -0.5))
    _substeps = 5  # shorter than the wall is thick, so that no move passes through

    @property
    def goal(self) -> tuple[float, float]:
        """Opposite the start, behind the middle wall."""
        return 0.7, 0.0

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rewards, terminated, success = super()._advance(actions)
        return rewards - self.settings.crash_cost * self._crashed.to(torch.float32), terminated, success

    def _move(self, actions: Tensor) -> None:
        stride = actions * (self.step_length / self._substeps)
        x, y = self.position.unbind(1)
        self._crashed = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        for _ in range(self._substeps):
            ahead = (x + stride[:, 0]).clamp(-self.arena, self.arena)
            blocked = self._inside(ahead, y)
            x = torch.where(blocked, x, ahead)
            self._crashed |= blocked
            ahead = (y + stride[:, 1]).clamp(-self.arena, self.arena)
            blocked = self._inside(x, ahead)
            y = torch.where(blocked, y, ahead)
            self._crashed |= blocked
        self.position = torch.stack([x, y], 1)

    def _inside(self, x: Tensor, y: Tensor) -> Tensor:
        low_x, low_y, high_x, high_y = self._walls.unbind(1)  # each (walls,)
        x, y = x[:, None], y[:, None]
        return ((x > low_x) & (x < high_x) & (y > low_y) & (y < high_y)).any(1)


class WaypointReach(PlanarReach):
    """Four tasks in one world, two of which share the first part of their way.

    Tasks ``"A"`` and ``"B"`` lead over a way-point at the right and then part; ``"C"`` and ``"D"`` lead straight to
    goals at the left. The observation is the place alone, the same in all tasks: data of the other tasks show different
    actions in the same places, except that B is as good as A up to the way-point. The reward is 1 on arrival at the
    task's goal, which ends the episode; the other goals are ground like any other.

    Observation: x, y in [-2, 2]. Action: 0.1 world units a step per axis at full throttle. Starts lie within 0.6 of the
    centre (``start_width=0.05`` gives the narrow starts of a few careful demonstrations), limit 50 steps.

    Options are those of :class:`WaypointReachSettings`, the task among them.

    Examples
    --------
    >>> env = WaypointReach(num_envs=2, task="C", start_width=0.05)
    >>> obs, _ = env.reset()
    >>> bool((obs.abs() <= 0.05).all()), env.goal
    (True, (-1.5, 1.0))
    """

    env_id = "anytask/WaypointReach-v0"
    settings_class = WaypointReachSettings
    arena = 2.0
    step_length = 0.1
    clock = False
    #: Task -> place of its goal.
    goals: ClassVar[dict[str, tuple[float, float]]] = {
        "A": (1.6, 1.0),
        "B": (1.6, -1.0),
        "C": (-1.5, 1.0),
        "D": (-1.5, -1.0),
    }
    #: On the way of tasks A and B.
    waypoint: ClassVar[tuple[float, float]] = (1.0, 0.0)

    @property
    def goal(self) -> tuple[float, float]:
        """The task's goal."""
        return self.goals[self.settings.task]

    def _goals(self) -> Sequence[tuple[float, float]]:
        return list(self.goals.values())

    def _decorate(self, drawing: Drawing) -> None:
        drawing.disc(self.goal, 1.25 * self.radius, _AGENT, ring=0.035 * self.arena)
        drawing.disc(self.waypoint, 0.09 * self.arena / 2, _WAY, ring=0.02 * self.arena)
        for name, (x, y) in self.goals.items():
            drawing.text((x, 1.45 * y), name, _WALL, 24)  # beside the goal, so that the point doesn't cover it
