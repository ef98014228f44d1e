"""Scripted experts of the reach worlds and of FetchReach, from perfect to poor, and demonstrations by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.base import Obs
from anytask.control.envs.reach import PlanarReach, WalledReach, WaypointReach
from anytask.control.parts.acting import Given, checked_rows
from anytask.control.parts.counter_rng import CounterRandom
from anytask.core.checks import check_counts
from anytask.core.errors import check_flags, instance_of, shown
from anytask.core.rng import derive
from anytask.core.settings import check_number

if TYPE_CHECKING:
    from anytask.datasets.episodes import Episodes

__all__ = ["ScriptedFetchReach", "ScriptedReach", "demonstrations"]


class _Scripted:
    """Straight to the next place, at a speed that each episode draws, with Gaussian noise."""

    def __init__(
        self, env: VectorEnv, unit: float, speed: float | tuple[float, float], noise: float, seed: int, device: Any
    ) -> None:
        instance_of("env", VectorEnv, optional=False, wanted="what control.make returns")(env)
        pair = tuple(speed) if isinstance(speed, Sequence) and not isinstance(speed, (str, bytes)) else (speed, speed)
        low, high = (check_number(end, "speed", above=0, at_most=1) for end in pair[:2])
        if len(pair) != 2 or low > high:
            raise ValueError(f"speed must be a number in (0, 1], or a pair in rising order, got {shown(speed)}")
        self.env: Any = env
        self.unit, self.speed, self.noise = unit, (low, high), check_number(noise, "noise", at_least=0)
        n, start = env.num_envs, derive(seed, "scripted reach") % 2**40
        self.random = CounterRandom(torch.arange(start, start + n, device=device))
        self._factor, self._sides = torch.ones(n, device=device), torch.ones(n, device=device)
        self.reset()

    def reset(self, rows: Tensor | None = None) -> None:
        """Draw the speed and the gap of the next episode in the environments ``rows``, or of all."""
        n, device = len(self._factor), self._factor.device
        rows = torch.arange(n, device=device) if rows is None else checked_rows(rows, n, device)
        drawn = self.random.uniform(2, rows=rows)
        low, high = self.speed
        self._factor[rows] = low + (high - low) * drawn[:, 0]
        self._sides[rows] = (drawn[:, 1] < 0.5).to(torch.float32) * 2 - 1

    def _towards(self, offset: Tensor, deterministic: bool) -> Tensor:
        """Return actions (n, k) along offsets (n, k), at most of length 1 before the noise."""
        check_flags(deterministic=deterministic)
        length = (offset**2).sum(1).sqrt()
        full = length.clamp_min(self.unit)  # nearer than one step: as far as there is to go
        actions = offset / full[:, None] * self._factor[:, None]
        if self.noise and not deterministic:
            actions = actions + self.noise * self.random.normal(offset.shape[1])
        return actions.clamp(-1, 1)


class ScriptedReach(_Scripted):
    """A policy that knows the way in any of the reach worlds, and how well it walks can be chosen.

    It reads the place of the point from the world itself, so it walks alike whether the world shows numbers or
    images. In :class:`~anytask.control.envs.reach.WalledReach` it goes through a gap, in tasks A and B of
    :class:`~anytask.control.envs.reach.WaypointReach` over the way-point.

    Parameters
    ----------
    env : PlanarReach, or a Gymnasium environment around it
        The world it walks in.
    speed : float or (float, float), default 1.0
        Factor on the length of every action, in (0, 1]; of a pair, each episode draws its own uniformly between both.
    noise : float, default 0.0
        Standard deviation of Gaussian noise on every action. Left out by ``act(deterministic=True)``.
    gap : {"nearest", "random"}, default "nearest"
        Which gap of a wall an episode takes.
    task : {"A", "B", "C", "D"} or None
        Of the way-point world; None is the world's own.
    seed : int, default 0

    Examples
    --------
    >>> from anytask.control.envs.reach import Reach
    >>> env = Reach(num_envs=1)
    >>> obs, _ = env.reset()
    >>> expert, success = ScriptedReach(env), False
    >>> while not success:
    ...     obs, reward, terminated, truncated, infos = env.step(expert.act(obs))
    ...     success = bool(infos["success"])
    >>> int(infos["episode"]["l"])
    9
    """

    def __init__(
        self,
        env: VectorEnv | gymnasium.Env,
        *,
        speed: float | tuple[float, float] = 1.0,
        noise: float = 0.0,
        gap: Literal["nearest", "random"] = "nearest",
        task: str | None = None,
        seed: int = 0,
    ) -> None:
        world: Any = getattr(env, "unwrapped", env)
        world = getattr(world, "batched", world)
        if not isinstance(world, PlanarReach):
            raise TypeError(f"env must be one of the reach worlds, got {type(world).__name__}")
        if not isinstance(gap, str) or gap not in ("nearest", "random"):
            raise ValueError(f"gap must be 'nearest' or 'random', got {shown(gap)}")
        if isinstance(world, WaypointReach):
            if task is not None and not (isinstance(task, str) and task in world.goals):
                raise ValueError(f"task must be one of {sorted(world.goals)}, got {shown(task)}")
            self._task = task or world.settings.task
        elif task is not None:
            raise ValueError(f"{type(world).__name__} has one task, got task={task!r}")
        self.gap = gap
        super().__init__(world, world.step_length, speed, noise, seed, world.device)

    def act(self, obs: Obs, *, deterministic: bool = True) -> Tensor:
        """Return actions (n, 2) towards the next place on the way, at most of length 1 before the noise."""
        here = self.env.position
        return self._towards(self._target(here) - here, deterministic)

    def _target(self, here: Tensor) -> Tensor:
        """Return where each point heads next, (n, 2)."""
        world = self.env
        goal = torch.tensor(world.goal, device=world.device)
        if isinstance(world, WaypointReach):
            goal = torch.tensor(world.goals[self._task], device=world.device)
            if self._task in "CD":
                return goal.expand_as(here)
            way = torch.tensor(world.waypoint, device=world.device)
            # Whoever stands right of it has passed it, so the way is a matter of the place alone.
            passed = here[:, 0] >= way[0] - world.radius / 2
            return torch.where(passed[:, None], goal, way)
        if isinstance(world, WalledReach):
            sides = self._sides if self.gap == "random" else torch.where(here[:, 1] >= 0, 1.0, -1.0)
            low_x, high_x = world.walls[0][0], world.walls[0][2]
            gap_y = abs(world.gaps[0][1]) * sides
            before = here[:, 0] < high_x
            aligned = (here[:, 1] - gap_y).abs() < 0.08
            # First to the mouth of the gap, then through it.
            ahead = torch.where(aligned, high_x + 0.15, low_x - 0.05)
            mouth = torch.stack([ahead.to(here.dtype), gap_y], 1)
            return torch.where(before[:, None], mouth, goal)
        return goal.expand_as(here)


class ScriptedFetchReach(_Scripted):
    """A policy that leads the gripper of Gymnasium-Robotics' FetchReach to its goal, or another way.

    Parameters
    ----------
    env : VectorEnv
        As :func:`anytask.control.make` returns it.
    speed, noise, seed
        As in :class:`ScriptedReach`.
    turn : float, default 0.0
        Degrees about the vertical by which it heads off the goal: 180 leads away from it, 90 around it.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        speed: float | tuple[float, float] = 1.0,
        noise: float = 0.0,
        turn: float = 0.0,
        seed: int = 0,
    ) -> None:
        turn = check_number(turn, "turn")
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        self._turned = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
        super().__init__(env, 0.1, speed, noise, seed, "cpu")  # a whole action moves the gripper some centimetres

    def act(self, obs: Any, *, deterministic: bool = True) -> Tensor:
        """Return actions (n, 4) with the fingers at rest."""
        given = Given(obs, dict.fromkeys(("desired_goal", "achieved_goal"), (3,)), self._turned.device).tensors
        actions = self._towards((given["desired_goal"] - given["achieved_goal"]) @ self._turned, deterministic)
        return torch.cat([actions, torch.zeros_like(actions[:, :1])], 1)


def demonstrations(
    env: str,
    episodes: int,
    *,
    speed: float | tuple[float, float] = 1.0,
    noise: float = 0.0,
    gap: Literal["nearest", "random"] = "nearest",
    turn: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Episodes:
    """Return episodes of a scripted expert in a reach world or in FetchReach, successful or not.

    Parameters
    ----------
    env : str
        The id of a reach world or of FetchReach.
    episodes : int
        How many.
    speed, noise, gap, turn
        Of the demonstrator, :class:`ScriptedReach` or :class:`ScriptedFetchReach`.
    seed : int, default 0
        Of the starts and of the demonstrator.
    **options
        Of the world, such as ``task="A"``, ``start_width=0.05`` or ``observation="pixels"``.

    Returns
    -------
    Episodes
        With the actions that were taken, noise included.

    Examples
    --------
    >>> data = demonstrations("anytask/Reach-v0", 20, speed=(0.25, 1.0), noise=0.3)
    >>> len(data), bool(0.5 < data.attributes["success"].mean() < 1.0)
    (20, True)
    """
    from anytask.control.adapters import make
    from anytask.control.rollout import collect

    check_counts(episodes=episodes)
    instance_of("env", str, optional=False)(env)
    fetch = env.startswith("FetchReach")
    world = make(env, min(episodes, 8 if fetch else 64), seed=seed, **options)
    shared: dict[str, Any] = {"speed": speed, "noise": noise, "seed": seed}
    walker = ScriptedFetchReach(world, turn=turn, **shared) if fetch else ScriptedReach(world, gap=gap, **shared)
    played = collect(walker, world, episodes, seed=seed)
    world.close()
    return played
