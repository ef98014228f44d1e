"""Mobile rearrangement in an approximate kinematic simulator: drive, reach, grasp, carry and put down, in tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor

from anytask.control.base import BatchedEnv, Obs
from anytask.control.envs.rearrangement.columns import ColumnGrid
from anytask.control.envs.rearrangement.render import Camera, draw_top_view, range_rays
from anytask.control.envs.rearrangement.scene import ROBOTS, EpisodeList, Robot, Scene, built_in_scene
from anytask.core.rng import derive

if TYPE_CHECKING:
    from anytask.control.rollout import EpisodeResults

__all__ = ["FetchRearrangement", "Rearrangement", "play_all"]

TASKS = ("pick", "rearrange", "simple-place")
_CONTACT = 1e-4  # metres by which boxes may overlap and still only touch


class Pose(NamedTuple):
    """Where the links of m robots are in the world, the base first."""

    origins: list[Tensor]  # each (3, m)
    axes: list[list[Tensor]]  # per link its x, y and z axis, each (3, m), or (3, 1) where all agree
    effector: Tensor  # (3, m) centre of the grasping sphere


class _Test(NamedTuple):
    blocked: Tensor  # (m,) the pose may not be taken
    contact: Tensor  # (B, m) objects that the body overlaps
    held_hit: Tensor  # (m,) the held object overlaps something


class Rearrangement(BatchedEnv):
    """A robot drives, reaches, grasps a movable box, carries it and puts it down; no dynamics, only geometry.

    Pick it to train or test mobile manipulation policies by millions of steps: a step of a thousand copies takes about
    a millisecond per thousand copies of the small robot on one core. One code serves two scales. ``robot="disc"``
    (registered as ``anytask/Rearrangement-v0``) is a disc of radius 0.15 m with a telescopic gripper in a walled
    3 x 3 m arena, four actions and eight range rays. ``robot="fetch"`` (``anytask/FetchRearrangement-v0``) is a mobile
    base with a seven-joint arm made of 29 spheres, eleven actions, among tables.

    A step clamps the action to [-1, 1] and reads it as grasp (above 0.5 grasp, below -0.5 release), change of yaw,
    forward motion, change of every joint and, for the Fetch, stop (above 0.5, after the fifth step). The pose so
    reached is taken if no sphere of the robot, and nothing that it holds, collides; otherwise, with ``sliding``, the
    first free one of: the motion along x alone, along z alone, without the arm, with the arm alone; else the robot
    stays exactly where it was. A grasp snaps the box that the gripper touches to the gripper. A released box falls onto
    the first support under it; if that would not hold it, the drop fails and the box stays in the gripper.

    Observations are ``R_b^T (object - p)``, ``R_e^T (object - e)``, ``R_b^T (e - p)``, ``R_b^T (goal - p)``,
    ``R_e^T (goal - e)`` (b: the base at p; e: the gripper), whether something is held, the joints, the remaining time u
    as (u, 5 u, 50 u) clipped to 1, and the range rays.

    The reward is ``progress * (d_eo' - d_eo + d_og' - d_og) + pick_bonus [first held, d_og > tau] - action_penalty
    |a - a'|^2 - slack`` with the distances from gripper to object and from object to goal and primes for the step
    before; on an episode's last step it is replaced by ``success_reward`` or ``-failure_penalty``.

    Parameters
    ----------
    num_envs : int, default 1
        Copies.
    robot : str or Robot, default "disc"
        ``"disc"``, ``"fetch"`` or your own.
    scene : None, str, path, mapping or Scene, optional
        ``"arena"``, ``"flat"``, a JSON file (see :meth:`Scene.read`) or a :class:`Scene`. Default: ``"arena"`` for
        planar robots, ``"flat"`` for others.
    episodes : int or EpisodeList, optional
        Default: those of the scene, and where it has none 4,000 sampled ones; a number samples so many.
    episode_seed : int, default 0
        Of the sampled episodes: another number gives episodes nobody trained on.
    order : {"random", "once"}
        Draw an episode from the list at every restart, or play the list exactly once: copy i takes the episodes i,
        i + num_envs, ... and is switched off when there are no more (rewards 0, no ends; see :attr:`disabled`).
    task : {"pick", "rearrange", "simple-place"}
        Success is: the target is held; or it stands within ``tau`` of the goal, not held, and stop was called (robots
        without a stop action need not); or it was released with a horizontal error under ``tau`` and less than
        ``2 tau`` above the goal.
    max_episode_steps : int, optional
        Default 500; 60 for planar robots.
    tau : float, default 0.15
        Success distance in metres (0.15 in the published runs, 0.1 in their configuration file).
    rays : int, optional
        Range rays around the robot. Default: 8 for planar robots, else 0.
    ray_range : float, default 4.0
        Metres at which a ray reads 1.
    images : tuple of {"depth", "rgb"}, optional
        Images of the head camera; observations become a dictionary of ``state`` and these (height, width, channels).
    image_size : (int, int), default (32, 32)
        Height and width; the paper's are (128, 128).
    render : callable, optional
        Your own renderer: ``render(env, rows) -> {key: (m, ...) tensor}`` of the copies ``rows`` (None: all), with
        ``render_space`` naming its spaces. Reads the state tensors of ``env``.
    render_space : mapping of str to gymnasium.Space, optional
    sliding : bool, default True
    relative_sensors : bool, default True
        Without, the observations lack the four vectors to object and goal.
    track_object : bool, optional
        Sense where the target is now instead of where it stood at the start (the paper's). Default: for planar robots.
    progress, pick_bonus, success_reward, failure_penalty, slack, action_penalty : float
        Defaults 1, 5, 10, 0, 0, 0 (the paper's).
    drop_is_fail : bool, optional
        End the episode as failed when a wrong object is held, or the object is released away from the goal (the
        paper's). Default: for all but planar robots, which may pick up again what they dropped.
    timeouts_terminate : bool, default True
        Treat the time limit as a failure, as the paper's code does; otherwise it truncates, and the step is rewarded
        like any other.
    cell : float, default 0.02
        Cell of the collision grid, in metres.
    device, seed, autoreset, render_mode
        See :class:`~anytask.control.BatchedEnv`.

    Attributes
    ----------
    configuration : Tensor, shape (n, 3 + joints)
        All that moves by itself; ``x``, ``z``, ``yaw`` (n,) and ``joints`` (n, joints) are its columns.
    effector : Tensor, shape (n, 3)
        The gripper's point; a held object's centre is there.
    objects : Tensor, shape (n, B, 3)
        Centres of the movable boxes.
    held : Tensor of int64, shape (n,)
        Number of the held object, -1 for none.
    target, episode : Tensor of int64, shape (n,)
    goal, object_start : Tensor, shape (n, 3)
    failed_drops : Tensor of int64, shape (n,)
        In the running episode.
    disabled : Tensor of bool, shape (n,)
        Copies whose list is exhausted.

    Raises
    ------
    ValueError
        For a start pose in collision, a goal or an object inside an obstacle, an empty list, with the episode's number;
        and for observations that are not finite.

    Examples
    --------
    >>> env = Rearrangement(num_envs=4)
    >>> obs, _ = env.reset(seed=0)
    >>> obs, reward, terminated, truncated, infos = env.step(torch.zeros(4, 4))
    >>> obs.shape, reward.tolist()
    (torch.Size([4, 23]), [0.0, 0.0, 0.0, 0.0])

    Notes
    -----
    Berges, Szot, Chaplot, Gokaslan, Mottaghi, Batra and Undersander, 2023, "Galactic: Scaling End-to-End Reinforcement
    Learning for Rearrangement at 100k Steps-Per-Second", arXiv 2306.07552.

    Departures from the paper: stages and objects are axis-aligned boxes, and objects keep their orientation while they
    are carried. Objects are few, so a sphere is tested against all of them instead of through a broad-phase grid. The
    pick bonus is paid once per episode: with ``drop_is_fail`` that is the same, and without it nobody can earn it
    again and again. What overlaps already, such as an object just put down beside the gripper, does not block the
    motion that parts it.
    """

    env_id = "anytask/Rearrangement-v0"
    STATE: ClassVar[tuple[str, ...]] = (
        "configuration", "effector", "frame", "objects", "held", "held_clear", "contact", "picked", "target",
        "goal", "object_start", "stage", "episode", "cursor", "disabled", "last_action", "object_distance",
        "goal_distance", "failed_drops",
    )  # fmt: skip

    def __init__(
        self,
        num_envs: int = 1,
        *,
        robot: str | Robot = "disc",
        scene: str | Path | Mapping[str, Any] | Scene | None = None,
        episodes: int | EpisodeList | None = None,
        episode_seed: int = 0,
        order: str = "random",
        task: str = "pick",
        max_episode_steps: int | None = None,
        tau: float = 0.15,
        rays: int | None = None,
        ray_range: float = 4.0,
        images: tuple[str, ...] = (),
        image_size: tuple[int, int] = (32, 32),
        render: Callable[[Rearrangement, Tensor | None], dict[str, Tensor]] | None = None,
        render_space: Mapping[str, gymnasium.Space] | None = None,
        sliding: bool = True,
        relative_sensors: bool = True,
        track_object: bool | None = None,
        progress: float = 1.0,
        pick_bonus: float = 5.0,
        success_reward: float = 10.0,
        failure_penalty: float = 0.0,
        slack: float = 0.0,
        action_penalty: float = 0.0,
        drop_is_fail: bool | None = None,
        timeouts_terminate: bool = True,
        cell: float = 0.02,
        device: str | torch.device = "cpu",
        seed: int = 0,
        autoreset: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(robot, str):
            if robot not in ROBOTS:
                raise ValueError(f"unknown robot {robot!r}; built in are {', '.join(ROBOTS)}")
            robot = ROBOTS[robot]
        for name, value, known in (("task", task, TASKS), ("order", order, ("random", "once"))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if unknown := set(images) - {"depth", "rgb"}:
            raise ValueError(f"images may be 'depth' and 'rgb', got {min(unknown)!r}")
        if not tau > 0:
            raise ValueError(f"tau must be a positive distance in metres, got {tau!r}")
        self.robot, self.task, self.order, self.tau = robot, task, order, float(tau)
        self.rays = (8 if robot.planar else 0) if rays is None else int(rays)
        self.ray_range, self.images, self.sliding = float(ray_range), tuple(images), sliding
        self.relative_sensors = relative_sensors
        self.track_object = robot.planar if track_object is None else track_object
        self.progress, self.pick_bonus = progress, pick_bonus
        self.success_reward, self.failure_penalty = success_reward, failure_penalty
        self.slack, self.action_penalty = slack, action_penalty
        self.drop_is_fail = not robot.planar if drop_is_fail is None else drop_is_fail
        self.timeouts_terminate = timeouts_terminate
        self._render = render
        if scene is None:
            scene = "arena" if robot.planar else "flat"
        if isinstance(scene, str) and not scene.endswith(".json"):
            scene = built_in_scene(scene)
        self.scene = scene if isinstance(scene, Scene) else Scene.read(scene)

        width = 3 - robot.planar
        sensors = width * (5 if relative_sensors else 1) + 1 + len(robot.joints) + 3 + self.rays
        space: gymnasium.Space = gymnasium.spaces.Box(-np.inf, np.inf, (sensors,), np.float32)
        if self.images or render is not None:
            parts: dict[str, gymnasium.Space] = {"state": space}
            for name in self.images:
                parts[name] = gymnasium.spaces.Box(0.0, 1.0, (*image_size, 3 if name == "rgb" else 1), np.float32)
            if render is not None and not render_space:
                raise ValueError("render needs render_space, the spaces of what it returns by key")
            space = gymnasium.spaces.Dict(parts | dict(render_space or {}))
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (robot.action_dim,), np.float32)
        steps = (60 if robot.planar else 500) if max_episode_steps is None else max_episode_steps
        super().__init__(
            num_envs, space, action_space, steps, device=device, seed=seed, autoreset=autoreset, render_mode=render_mode
        )
        self._build(cell)
        self._camera = Camera(robot.camera, image_size, device=self.device) if self.images else None
        self._use(self._listed(episodes, episode_seed))

    # --- building -------------------------------------------------------------------------------------------------

    def _build(self, cell: float) -> None:
        """Put robot, stages and objects into tensors."""
        robot, device, n = self.robot, self.device, self.num_envs
        stages, things = self.scene.stages, self.scene.objects
        column: Any = {"device": device, "dtype": torch.float32}
        self._joint_low = torch.tensor([[j.low] for j in robot.joints], **column)  # (J, 1)
        self._joint_high = torch.tensor([[j.high] for j in robot.joints], **column)
        self._steps = torch.tensor([[robot.yaw_step], *([j.step] for j in robot.joints)], **column)  # (1 + J, 1)
        self._joint_start = torch.tensor([[j.start] for j in robot.joints], **column)
        #: No joint turns: the gripper's frame is the base's.
        self._aligned = all(joint.slides for joint in robot.joints)
        # What of a motion is tried in turn: x alone, z alone, without the arm, the arm alone; (3 + J, 4, 1) from new.
        parts = torch.ones(3 + len(robot.joints), 4, 1, dtype=torch.bool, device=device)
        parts[1, 0], parts[0, 1], parts[3:, 2], parts[:3, 3] = False, False, False, False
        self._less = parts
        self._preference = torch.tensor([[4], [3], [2], [1]], device=device)
        self._up = torch.tensor([[0.0], [1.0], [0.0]], **column)
        # The body's spheres come first: those of the last link touch objects freely.
        last = len(robot.joints)
        spheres = sorted(robot.spheres, key=lambda s: s[0] == last)
        self._body = sum(link != last for link, _, _ in spheres)
        self._sphere_links = [link for link, _, _ in spheres]
        self._sphere_link = torch.tensor(self._sphere_links, device=device)
        self._sphere_offset = torch.tensor([offset for _, offset, _ in spheres], **column).T[:, :, None].contiguous()
        self._sphere_radius = torch.tensor([[r] for _, _, r in spheres], **column)
        self._body_square = self._sphere_radius[: self._body] ** 2
        # On links that only yaw, up is up, and an offset along it a constant.
        upright = [all(j.slides or j.axis == 1 for j in robot.joints[:link]) for link in self._sphere_links]
        self._lift = torch.tensor([[o[1] if up else 0.0] for (_, o, _), up in zip(spheres, upright)], **column)
        self._sphere_offset[1, :, 0][torch.tensor(upright, device=device)] = 0.0
        self._offset_axes = [axis for axis in range(3) if bool(self._sphere_offset[axis].any())]
        self.grid = ColumnGrid(stages, robot.radii, cell, device)
        radius_of = [robot.radii.index(r) for _, _, r in spheres]
        own_base = [self.grid.base(k) for k in radius_of]
        self._sphere_base = torch.tensor(own_base, device=device)[:, None]
        self._stage_size = self.grid.base(0, 1)

        self.halves = torch.tensor([thing.half for thing in things], **column)  # (B, 3)
        self._half = self.halves[:, :, None].contiguous()
        covers = [_cover(thing.half, robot.radii) for thing in things]
        most = max(len(centres) for centres, _ in covers)
        padded = [np.concatenate([c, np.repeat(c[:1], most - len(c), 0)]) for c, _ in covers]
        self._cover = torch.tensor(np.array(padded), **column)  # (B, M, 3)
        # Per object, the first cells of the robot's spheres and of those that cover the object: (S + M, B).
        bases = [own_base + [self.grid.base(k)] * most for _, k in covers]
        self._bases = torch.tensor(bases, device=device).T.contiguous()
        self._numbers = torch.arange(len(things), device=device)[:, None]  # (B, 1)

        count = max(1, max(len(s.boxes) for s in stages))
        boxes = np.zeros((len(stages), count, 2, 3), np.float32)
        boxes[:, :, 0, 1] = -1e3  # stages with fewer boxes have the others far below the floor
        for k, stage in enumerate(stages):
            if len(stage.boxes):
                boxes[k, : len(stage.boxes)] = np.array(stage.boxes, np.float32)
        self.box_centres = torch.tensor(boxes[:, :, 0], **column)  # (G, Q, 3)
        self.box_halves = torch.tensor(boxes[:, :, 1], **column)
        self.bounds = torch.tensor(np.array([s.bounds for s in stages], np.float32), **column)  # (G, 2, 2)

        angles = torch.arange(self.rays, dtype=torch.float64)[:, None] * (2 * torch.pi / max(self.rays, 1))
        self._ray_cos, self._ray_sin = (v.to(**column) for v in (angles.cos(), angles.sin()))
        high = (self.box_centres[0, :, 1] - robot.ray_height).abs() <= self.box_halves[0, :, 1]
        self._ray_boxes = [v[0][high][:, :, None] for v in (self.box_centres, self.box_halves)]

        def world(*shape: int, dtype: torch.dtype = torch.float32, fill: float = 0) -> Tensor:
            # Copies are the last axis in memory, where arithmetic runs along it, and the first for everybody else.
            return torch.full((*shape, n), fill, device=device, dtype=dtype).movedim(-1, 0)

        long, flag = torch.int64, torch.bool
        self.configuration = world(3 + last)
        self.effector, self.frame, self.objects = world(3), world(3, 3), world(len(things), 3)
        self.held, self.target, self.stage = world(dtype=long, fill=-1), world(dtype=long), world(dtype=long)
        self.held_clear, self.picked = world(dtype=flag), world(dtype=flag)
        self.contact = world(len(things), dtype=flag)
        self.goal, self.object_start, self.last_action = world(3), world(3), world(self.action_dim)
        self.object_distance, self.goal_distance = world(), world()
        self.episode, self.failed_drops, self.disabled = world(dtype=long), world(dtype=long), world(dtype=flag)
        self.cursor = torch.arange(n, device=device)

    def _listed(self, episodes: int | EpisodeList | None, seed: int) -> EpisodeList:
        if episodes is None:
            episodes = 4000 if self.scene.episodes is None else self.scene.episodes
        if isinstance(episodes, EpisodeList):
            self._check(episodes)
            return episodes
        if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 1:
            raise ValueError(f"episodes must be a number of at least 1 or an EpisodeList, got {episodes!r}")
        return self.sample_episodes(int(episodes), seed)

    def _use(self, episodes: EpisodeList) -> None:
        """Make ``episodes`` the list that restarts draw from."""
        self.episodes = episodes
        dtype, device = torch.float32, self.device
        self._starts = torch.as_tensor(episodes.start, dtype=dtype, device=device).T.contiguous()
        self._goals = torch.as_tensor(episodes.goal, dtype=dtype, device=device).T.contiguous()
        self._objects = torch.as_tensor(episodes.objects, dtype=dtype, device=device).permute(1, 2, 0).contiguous()
        self._targets = torch.as_tensor(episodes.target, device=device)
        self._stages = torch.as_tensor(episodes.stage, device=device)

    def _faults(self, e: EpisodeList) -> tuple[Tensor, Tensor, Tensor]:
        """Return (E,) each: the start collides, an object stands inside an obstacle, the goal does."""
        device = self.device
        start = torch.as_tensor(e.start, dtype=torch.float32, device=device).T
        objects = torch.as_tensor(e.objects, dtype=torch.float32, device=device).permute(1, 2, 0)
        goal = torch.as_tensor(e.goal, dtype=torch.float32, device=device).T
        stage, target = torch.as_tensor(e.stage, device=device), torch.as_tensor(e.target, device=device)
        pose = self._pose(torch.cat([start, self._joint_start.expand(-1, len(e))]))
        centres = self._sphere_centres(pose)
        hit = self.grid.occupied(centres, self._sphere_base + stage * self._stage_size).any(0)
        hit |= self._touched(centres, objects).any(0)
        inside = torch.zeros_like(hit)
        for b in range(len(objects)):
            inside |= self._in_obstacle(objects[b], self._half[b], stage)
            for other in range(b):
                reach = self._half[b] + self._half[other] - _CONTACT
                inside |= ((objects[b] - objects[other]).abs() < reach).all(0)
        return hit, inside, self._in_obstacle(goal, self.halves[target].T, stage)

    def _in_obstacle(self, centre: Tensor, half: Tensor, stage: Tensor) -> Tensor:
        """Test whether boxes (3, m) overlap the floor, the outside or a static box."""
        boxes, halves = self.box_centres[stage].permute(1, 2, 0), self.box_halves[stage].permute(1, 2, 0)
        bounds = self.bounds[stage]
        out = centre[1] < half[1] - _CONTACT
        for axis, side in ((0, 0), (2, 1)):
            out |= centre[axis] - half[axis] < bounds[:, 0, side] - _CONTACT
            out |= centre[axis] + half[axis] > bounds[:, 1, side] + _CONTACT
        return out | ((centre - boxes).abs() < half + halves - _CONTACT).all(1).any(0)

    def _check(self, e: EpisodeList) -> None:
        if len(e) == 0:
            raise ValueError("the list of episodes is empty")
        wanted = (len(e), len(self.scene.objects), 3)
        if e.objects.shape != wanted:
            raise ValueError(f"objects of the episodes must have shape {wanted}, got {e.objects.shape}")
        hit, inside, goal = self._faults(e)
        for mask, what, points in (
            (hit, "the start pose (x, z, yaw) is in collision", e.start),
            (inside, "an object stands inside an obstacle", e.objects),
            (goal, "the goal is inside an obstacle", e.goal),
        ):
            if bool(mask.any()):
                row = int(mask.nonzero()[0, 0])
                raise ValueError(f"episode {row}: {what}: {np.round(points[row], 4).tolist()}")

    def sample_episodes(self, count: int, seed: int = 0, least_way: float = 0.5) -> EpisodeList:
        """Sample episodes: free start poses, objects and goals on surfaces, goals ``least_way`` metres from objects.

        Raises
        ------
        ValueError
            If the scene is so full that hardly any sample fits.
        """
        rng = np.random.default_rng(derive(seed, "episodes"))
        halves = np.array([o.half for o in self.scene.objects])
        kept: list[EpisodeList] = []
        have = 0
        for _ in range(40):
            m = max(256, 2 * count)
            stage = rng.integers(len(self.scene.stages), size=m)
            target = rng.integers(len(halves), size=m)
            bounds = np.array([s.bounds for s in self.scene.stages])[stage]  # (m, 2, 2)
            place = rng.uniform(bounds[:, 0], bounds[:, 1])
            start = np.concatenate([place, rng.uniform(-np.pi, np.pi, (m, 1))], 1)
            objects = np.stack([self._placed(rng, stage, np.tile(half, (m, 1))) for half in halves], 1)
            goal = self._placed(rng, stage, halves[target])
            start, goal, objects = (a.astype(np.float32) for a in (start, goal, objects))
            e = EpisodeList(start, target, goal, objects, stage)
            hit, inside, wrong = (mask.cpu().numpy() for mask in self._faults(e))
            way = np.linalg.norm(goal[:, None] - objects, axis=2).min(1)
            e = e[(~(hit | inside | wrong) & (way >= least_way)).nonzero()[0][: count - have]]
            kept, have = [*kept, e], have + len(e)
            if have == count:
                return EpisodeList(
                    *(np.concatenate([getattr(e, f) for e in kept]) for f in EpisodeList.__dataclass_fields__)
                )
        raise ValueError(f"only {have} of {count} episodes could be sampled in {self.scene.name}: it is too full")

    def _placed(self, rng: np.random.Generator, stage: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Return centres (m, 3) of boxes that stand on the floor or, in scenes with tables, on a table."""
        out = np.empty((len(stage), 3))
        for k, s in enumerate(self.scene.stages):
            rows = np.flatnonzero(stage == k)
            (x0, z0), (x1, z1) = s.bounds
            tops = [(c, h) for c, h in s.boxes if c[1] + h[1] <= self.scene.highest_surface]
            surfaces = [(c[0] - h[0], c[2] - h[2], c[0] + h[0], c[2] + h[2], c[1] + h[1]) for c, h in tops]
            table = np.array(surfaces or [(x0, z0, x1, z1, 0.0)])
            area = (table[:, 2] - table[:, 0]) * (table[:, 3] - table[:, 1])
            a = table[rng.choice(len(table), size=len(rows), p=area / area.sum())]
            h = half[rows]
            u = rng.uniform(size=(len(rows), 2))
            out[rows, 0] = a[:, 0] + h[:, 0] + u[:, 0] * (a[:, 2] - a[:, 0] - 2 * h[:, 0])
            out[rows, 2] = a[:, 1] + h[:, 2] + u[:, 1] * (a[:, 3] - a[:, 1] - 2 * h[:, 2])
            out[rows, 1] = a[:, 4] + h[:, 1]
        return out

    # --- geometry -------------------------------------------------------------------------------------------------

    @property
    def x(self) -> Tensor:
        """Where the bases are along x, (n,)."""
        return self.configuration.T[0]

    @property
    def z(self) -> Tensor:
        """Where the bases are along z, (n,)."""
        return self.configuration.T[1]

    @property
    def yaw(self) -> Tensor:
        """Where the bases look, in radians, (n,)."""
        return self.configuration.T[2]

    @property
    def joints(self) -> Tensor:
        """Angles or lengths of the joints, (n, joints)."""
        return self.configuration[:, 3:]

    def _pose(self, configuration: Tensor, cos: Tensor | None = None, sin: Tensor | None = None) -> Pose:
        """Forward kinematics of m robots from (3 + J, m), with the cosine and sine of the yaw where they are known."""
        x, z, yaw = configuration[:3].unbind(0)
        if cos is None or sin is None:
            cos, sin = yaw.cos(), yaw.sin()
        zero = torch.zeros_like(x)
        axes = [torch.stack([cos, zero, -sin]), self._up, torch.stack([sin, zero, cos])]
        p = torch.stack([x, zero, z])
        origins, frames = [p], [axes]
        turns = configuration[3:]
        if not self._aligned:
            turns = turns.contiguous()
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

    def _frame(self, pose: Pose) -> Tensor:
        """Return (3, 3, m): the axes of the gripper, each a row."""
        return torch.stack([axis.expand_as(pose.effector) for axis in pose.axes[-1]])

    def _sphere_centres(self, pose: Pose) -> Tensor:
        """Return the centres (S, 3, m) of the robot's spheres."""
        centres = self._by_sphere(pose.origins)
        for axis in self._offset_axes:
            values = [frame[axis].expand_as(pose.effector) for frame in pose.axes]
            centres += self._by_sphere(values).mul_(self._sphere_offset[axis][:, None])
        centres[:, 1] += self._lift
        return centres

    def _by_sphere(self, values: list[Tensor]) -> Tensor:
        if len(self._sphere_links) <= 2 * len(values):
            return torch.stack([values[link] for link in self._sphere_links])
        return torch.stack(values).index_select(0, self._sphere_link)

    def _touched(self, centres: Tensor, objects: Tensor) -> Tensor:
        """Return (B, m): the body's spheres (S, 3, m) overlap the object; ``objects`` is (B, 3, m)."""
        gap = centres[: self._body] - objects[:, None]  # (B, S, 3, m)
        gap = gap.abs_().sub_(self._half[:, None]).clamp_(min=0.0)
        a, b, c = gap.mul_(gap).unbind(2)
        touched = (a + b).add_(c) < self._body_square
        return touched[:, 0] if self._body == 1 else touched.any(1)

    def _tested(self, pose: Pose, rows: Tensor | None = None) -> _Test:
        """Test poses of all copies, or of the copies ``rows``, against stage, objects and what is held."""
        objects, held, contact = self.objects.movedim(0, -1), self.held, self.contact.T
        clear, stage = self.held_clear, self.stage
        several = len(self.scene.stages) > 1
        if rows is not None:
            objects, contact = objects.index_select(-1, rows), contact.index_select(-1, rows)
            held, clear = held[rows], clear[rows]
            stage = stage[rows] if several else stage
        centres, e = self._sphere_centres(pose), pose.effector
        own = len(centres)
        # What is held is a union of spheres towards the stage, and a box towards other boxes.
        if len(objects) == 1:
            which, spheres, base = None, e + self._cover[0][:, :, None], self._bases
        else:
            which = held.clamp(min=0)
            spheres = e + self._cover[which].permute(1, 2, 0)  # (M, 3, m)
            base = self._bases.index_select(1, which)
        if several:
            base = base + stage * self._stage_size
        occupied = self.grid.occupied(torch.cat([centres, spheres]), base)
        blocked = occupied[:own].any(0)
        is_held = self._numbers == held
        touched = self._touched(centres, objects) & ~is_held
        meets = touched & ~contact
        hit = occupied[own] if len(spheres) == 1 else occupied[own:].any(0)
        if which is None:
            blocked |= meets[0]
            hit = hit & is_held[0]
        else:
            blocked |= meets.any(0)
            reach = self._half + self.halves[which].T - _CONTACT  # (B, 3, m)
            hit |= (((objects - e).abs_() < reach).all(1) & ~is_held).any(0)
            hit &= held >= 0
        blocked |= hit & clear
        return _Test(blocked, touched, hit)

    # --- one step -------------------------------------------------------------------------------------------------

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        commands = actions.T.contiguous()  # (action_dim, n)
        self._move(commands)
        newly, released, fallen_from = self._grasp_and_release(commands[0])
        return self._judge(commands, newly, released, fallen_from)

    def _move(self, commands: Tensor) -> None:
        now = self.configuration.T  # (3 + J, n)
        last = len(now)
        turned = now[2:] + torch.cat([commands[1:2], commands[3:last]]) * self._steps  # yaw and joints
        yaw = turned[0]
        cos, sin = yaw.cos(), yaw.sin()
        forward = commands[2] * self.robot.forward_step
        joints = torch.minimum(torch.maximum(turned[1:], self._joint_low), self._joint_high)
        new = torch.cat([torch.stack([now[0] + forward * cos, now[1] - forward * sin, yaw]), joints])  # (3 + J, n)
        pose = self._pose(new, cos, sin)
        test = self._tested(pose)
        values = [new, pose.effector, test.contact, test.held_hit]
        olds = [now, self.effector.T, self.contact.T, None]
        if not self._aligned:
            values.append(self._frame(pose))
            olds.append(self.frame.movedim(0, -1))
        rows = test.blocked.nonzero()[:, 0]
        if len(rows):
            less, free = self._reduced(rows, now, new) if self.sliding else (values, None)
            for value, old, reduced in zip(values, olds, less):
                # A held object that stays where it was is neither clear of obstacles now nor was it tested.
                kept = torch.ones_like(rows, dtype=torch.bool) if old is None else old.index_select(-1, rows)
                if free is not None:
                    kept = torch.where(free, reduced, kept)
                value.index_copy_(-1, rows, kept)
        self.configuration, self.effector, self.contact = new.T, values[1].T, values[2].T
        if not self._aligned:
            self.frame = values[4].movedim(-1, 0)
        self.held_clear = self.held_clear | ~values[3]

    def _reduced(self, rows: Tensor, now: Tensor, new: Tensor) -> tuple[list[Tensor], Tensor]:
        """Try less than the whole motion; return what the first free pose gives, and (m,) whether there was one."""
        m = len(rows)
        now, new = now.index_select(-1, rows)[:, None], new.index_select(-1, rows)[:, None]
        tries = torch.where(self._less, new, now).flatten(1)  # (3 + J, 4 m)
        pose = self._pose(tries)
        test = self._tested(pose, rows.repeat(4))
        best, first = ((~test.blocked).view(4, m) * self._preference).max(0)
        pick = first * m + torch.arange(m, device=rows.device)
        values = [tries, pose.effector, test.contact, test.held_hit]
        if not self._aligned:
            values.append(self._frame(pose))
        return [value.index_select(-1, pick) for value in values], best > 0

    def _grasp_and_release(self, intent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (n,) newly held, (n,) released, and (3, n) where the released objects were let go."""
        e, objects = self.effector.T, self.objects.movedim(0, -1)
        before = self.held
        gap = (objects - e).abs_().sub_(self._half).clamp_(min=0.0)
        a, b, c = gap.mul_(gap).unbind(1)
        square = (a + b).add_(c)  # (B, n)
        near, which = (square[0], 0) if len(objects) == 1 else square.min(0)
        newly = (intent > 0.5) & (before < 0) & (near <= self.robot.gripper_radius**2)
        held = torch.where(newly, which, before)
        self.held_clear = self.held_clear & ~newly
        objects = torch.where((self._numbers == held)[:, None], e, objects)
        released = (intent < -0.5) & (before >= 0)
        rows = released.nonzero()[:, 0]
        self.held, self.objects = held, objects.movedim(-1, 0)
        if len(rows):
            released[rows] = self._drop(rows)
        return newly, released, e

    def _drop(self, rows: Tensor) -> Tensor:
        """Let the held objects of the copies ``rows`` fall; return (m,) whether something holds them."""
        e = self.effector.T.index_select(-1, rows)
        which = self.held[rows]
        half = self.halves[which].T  # (3, m)
        objects = self.objects.movedim(0, -1).index_select(-1, rows)
        stage = self.stage[rows]
        centres = torch.cat([self.box_centres[stage].permute(1, 2, 0), objects])  # (Q + B, 3, m)
        halves = torch.cat([self.box_halves[stage].permute(1, 2, 0), self._half.expand_as(objects)])
        gap = (e - centres).abs()
        above = (gap[:, 0] < half[0] + halves[:, 0]) & (gap[:, 2] < half[2] + halves[:, 2])
        above[-len(objects) :] &= self._numbers != which
        top = centres[:, 1] + halves[:, 1]
        under = above & (top <= e[1] - half[1] + _CONTACT)
        height = torch.where(under, top, 0.0).amax(0)
        carries = under & (top >= height - _CONTACT) & (gap[:, 0] <= halves[:, 0]) & (gap[:, 2] <= halves[:, 2])
        stable = carries.any(0) | (height == 0.0)
        inside = above & (gap[:, 1] < half[1] + halves[:, 1] - _CONTACT)
        bounds = self.bounds[stage]
        for axis, side in ((0, 0), (2, 1)):
            stable &= (e[axis] - half[axis] >= bounds[:, 0, side]) & (e[axis] + half[axis] <= bounds[:, 1, side])
        stable &= ~inside.any(0)
        done, which = rows[stable], which[stable]
        self.objects[done, which, 1] = (height + half[1])[stable]
        self.held[done] = -1
        self.failed_drops = self.failed_drops.index_add(0, rows, (~stable).long())
        pose = self._pose(self.configuration.T.index_select(-1, done))
        now = self.objects.movedim(0, -1).index_select(-1, done)
        self.contact[done, which] = self._touched(self._sphere_centres(pose), now).T[
            torch.arange(len(done), device=self.device), which
        ]
        return stable

    def _judge(
        self, commands: Tensor, newly: Tensor, released: Tensor, let_go: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return reward, terminated and success (n,), and remember what the next step's reward needs."""
        held, target, goal = self.held, self.target, self.goal.T
        place = _chosen(self.objects.movedim(0, -1), target)
        d_eo, d_og = _lengths(place, self.effector.T, goal)
        first = self.elapsed == 0
        right = held == target
        stop = (commands[-1] > 0.5) & (self.elapsed > 5) if self.robot.stops else torch.zeros_like(first)
        near = d_og < self.tau
        if self.task == "pick":
            success = right
        elif self.task == "rearrange":
            success = near & (held < 0)
            if self.robot.stops:
                success = success & stop
            else:
                success = success & self.picked
        else:
            over = let_go - goal
            flat = (over[0] * over[0] + over[2] * over[2]).sqrt() < self.tau
            success = released & self.picked & flat & (over[1] > 0) & (over[1] < 2 * self.tau)
        ended = success | stop
        if self.drop_is_fail:
            wrong = (held >= 0) & ~right
            ended = ended | wrong
            if self.task == "simple-place":
                ended = ended | released
            elif self.task == "rearrange":
                ended = ended | (released & ~near)
        if self.timeouts_terminate:
            ended = ended | (self.elapsed + 1 >= self.limits)
        fresh = newly & right & ~self.picked
        reward = (self.object_distance - d_eo + self.goal_distance - d_og) * self.progress
        reward = reward + (fresh & (d_og > self.tau)) * self.pick_bonus
        if self.action_penalty:
            change = (commands - self.last_action.T)[1 : 3 + len(self.robot.joints)]
            reward = reward - self.action_penalty * sum(c * c for c in change)
        reward = torch.where(first, 0.0, reward) - self.slack
        final = success * (self.success_reward + self.failure_penalty) - self.failure_penalty
        reward = torch.where(ended, final, reward)
        self.picked = self.picked | fresh
        self.object_distance, self.goal_distance, self.last_action = d_eo, d_og, commands.T
        if self.order == "once":
            on = ~self.disabled
            reward, ended, success = reward * on, ended & on, success & on
        return reward, ended, success

    # --- restarts and observations --------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode in every copy (then the list begins anew), or in those of ``options["reset_mask"]``."""
        if (options or {}).get("reset_mask") is None:
            self.cursor = torch.arange(self.num_envs, device=self.device)
            self.limits = torch.where(self.disabled, self.max_episode_steps, self.limits)
            self.disabled = torch.zeros_like(self.disabled)
        return super().reset(seed=seed, options=options)

    def _restart(self, rows: Tensor) -> None:
        if self.order == "once":
            index = self.cursor[rows]
            self.cursor[rows] = index + self.num_envs
            over = index >= len(self.episodes)
            self.disabled[rows] = over
            self.limits[rows[over]] = torch.iinfo(torch.int64).max
            index = index.clamp(max=len(self.episodes) - 1)
        else:
            index = self.random.integers(1, len(self.episodes), rows=rows)[:, 0]
        start, goal = self._starts.index_select(-1, index), self._goals.index_select(-1, index)
        objects, target = self._objects.index_select(-1, index), self._targets[index]
        configuration = torch.cat([start, self._joint_start.expand(-1, len(rows))])
        pose = self._pose(configuration)
        place = _chosen(objects, target)
        self.configuration[rows], self.effector[rows] = configuration.T, pose.effector.T
        if not self._aligned:
            self.frame[rows] = self._frame(pose).movedim(-1, 0)
        self.objects[rows], self.target[rows], self.goal[rows] = objects.movedim(-1, 0), target, goal.T
        self.object_start[rows], self.stage[rows], self.episode[rows] = place.T, self._stages[index], index
        self.held[rows], self.held_clear[rows], self.contact[rows], self.picked[rows] = -1, False, False, False
        self.last_action[rows], self.failed_drops[rows] = 0.0, 0
        self.object_distance[rows], self.goal_distance[rows] = _lengths(place, pose.effector, goal)

    def _observe(self, rows: Tensor | None = None) -> Obs:
        state = self._sensors(rows)
        # One sum finds whatever is not finite.
        if not bool(torch.isfinite(state.sum())):
            bad = int((~torch.isfinite(state)).any(1).nonzero()[0, 0])
            copy = bad if rows is None else int(rows[bad])
            raise ValueError(f"the sensors of copy {copy} are not finite numbers: {state[bad].tolist()}")
        if self._camera is None and self._render is None:
            return state
        obs = {"state": state}
        if self._camera is not None:
            obs |= self._camera.images(self, rows, self.images)
        if self._render is not None:
            obs |= self._render(self, rows)
        return obs

    def _sensors(self, rows: Tensor | None) -> Tensor:
        def of(value: Tensor) -> Tensor:
            return value if rows is None else value.index_select(-1, rows)

        configuration, e, goal = of(self.configuration.T), of(self.effector.T), of(self.goal.T)
        x, z, yaw = configuration[:3].unbind(0)
        cos, sin = yaw.cos(), yaw.sin()
        p = torch.stack([x, torch.zeros_like(x), z])
        planar = self.robot.planar
        parts: list[Tensor] = []
        if self.relative_sensors:
            if self.track_object:
                place = _chosen(of(self.objects.movedim(0, -1)), of(self.target))
            else:
                place = of(self.object_start.T)
            if self._aligned:
                ways = torch.stack([place, place, e, goal, goal]).sub_(torch.stack([p, e, p, p, e]))
                parts.append(_turned(ways, cos, sin, planar).flatten(0, 1))
            else:
                from_base = _turned(torch.stack([place, e, goal]).sub_(p), cos, sin, planar)
                frame = of(self.frame.movedim(0, -1))
                a, b, c = (torch.stack([place, goal]).sub_(e)[:, None] * (frame[::2] if planar else frame)).unbind(2)
                from_gripper = a + b + c
                parts += [from_base[0], from_gripper[0], from_base[1], from_base[2], from_gripper[1]]
        else:
            parts.append(_turned((e - p)[None], cos, sin, planar)[0])
        parts += [(of(self.held) >= 0).to(torch.float32)[None], configuration[3:]]
        parts.append(step_count(of(self.elapsed), self.max_episode_steps))
        if self.rays:
            parts.append(range_rays(self, rows, cos, sin))
        return torch.cat(parts).T.contiguous()

    def _draw(self, row: int) -> np.ndarray:
        return draw_top_view(self, row)


class FetchRearrangement(Rearrangement):
    """:class:`Rearrangement` with the Fetch robot unless told otherwise; ``anytask/FetchRearrangement-v0``."""

    env_id = "anytask/FetchRearrangement-v0"

    def __init__(self, num_envs: int = 1, *, robot: str | Robot = "fetch", **options: Any) -> None:
        super().__init__(num_envs, robot=robot, **options)


def step_count(elapsed: Tensor, limit: int) -> Tensor:
    """Return the remaining share u of an episode as (3, n): min(1, u), min(1, 5 u) and min(1, 50 u)."""
    u = (limit - elapsed).to(torch.float32) / limit
    return torch.stack([u, 5 * u, 50 * u]).clamp_(max=1.0)


def _turned(ways: Tensor, cos: Tensor, sin: Tensor, planar: bool) -> Tensor:
    """Return vectors (k, 3, n) in the frame of a base with this yaw: ahead, up, aside, or without up if planar."""
    dx, up, dz = ways.unbind(1)
    ahead, aside = (cos * dx).sub_(sin * dz), (sin * dx).add_(cos * dz)
    return torch.stack([ahead, aside] if planar else [ahead, up, aside], 1)


def _moved(p: Tensor, axes: list[Tensor], offset: list[Any]) -> Tensor:
    for axis in range(3):
        if isinstance(offset[axis], Tensor) or offset[axis]:
            p = p + axes[axis] * offset[axis]
    return p


def _lengths(place: Tensor, effector: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances (m,) from the object to the gripper and to the goal."""
    ways = place - torch.stack([effector, goal])
    # Not a sum over an axis: its order may depend on the number of copies, and then so would the last bit.
    a, b, c = ways.mul_(ways).unbind(1)
    to_effector, to_goal = (a + b).add_(c).sqrt_().unbind(0)
    return to_effector, to_goal


def _chosen(objects: Tensor, which: Tensor) -> Tensor:
    """Return (3, m) the positions of the objects ``which`` (m,) out of (B, 3, m)."""
    if len(objects) == 1:
        return objects[0]
    return objects.gather(0, which.expand(1, 3, -1))[0]


def _cover(half: tuple[float, float, float], radii: tuple[float, ...]) -> tuple[np.ndarray, int]:
    """Cover a box by spheres of one working radius: centres (k, 3) and the radius' number."""
    fitting = [k for k, r in enumerate(radii) if r <= min(half) + 1e-9]
    number = max(fitting, key=lambda k: radii[k]) if fitting else int(np.argmin(radii))
    r = radii[number]
    lines = []
    for h in half:
        reach = max(h - r, 0.0)
        lines.append(np.linspace(-reach, reach, 1 + int(np.ceil(reach / r))) if reach > 0 else np.zeros(1))
    return np.stack(np.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3), number


def play_all(
    policy: Any, env: Rearrangement, *, deterministic: bool = True, progress: Callable[[float], None] | None = None
) -> EpisodeResults:
    """Play every episode of a list exactly once, and return what was reached, in the order of the list.

    Parameters
    ----------
    policy : Policy
        ``act(obs)``, and ``reset(rows)`` if it remembers.
    env : Rearrangement
        Made with ``order="once"``, in any number of copies.
    deterministic : bool, default True
    progress : callable, optional
        Called with the finished share in [0, 1].

    Examples
    --------
    >>> class Still:
    ...     def act(self, obs, *, deterministic=True):
    ...         return torch.zeros(len(obs), 4)
    >>> results = play_all(Still(), Rearrangement(8, episodes=20, order="once"))
    >>> len(results), results.success_rate, set(results.lengths.tolist())
    (20, 0.0, {60})
    """
    from anytask.control.rollout import EpisodeResults

    if getattr(env, "order", None) != "once":
        raise ValueError("to play every episode once, make the environment with order='once'")
    total = len(env.episodes)
    table = torch.full((total, 3), float("nan"), dtype=torch.float64)
    forget = getattr(policy, "reset", None)
    obs, _ = env.reset()
    if forget is not None:
        forget()
    while not bool(env.disabled.all()):
        playing = env.episode.clone()
        with torch.no_grad():
            actions = policy.act(obs, deterministic=deterministic)
        obs, _, terminated, truncated, infos = env.step(actions)
        rows = (terminated | truncated).nonzero()[:, 0]
        if len(rows):
            columns = (infos["success"], infos["episode"]["r"], infos["episode"]["l"])
            table[playing[rows].cpu()] = torch.stack([c[rows].double() for c in columns], 1).cpu()
            if forget is not None:
                forget(rows)
            if progress is not None:
                progress(1.0 - float(table[:, 0].isnan().double().mean()))
    success, returns, lengths = table.numpy().T
    return EpisodeResults(success, returns, lengths.astype(int))
