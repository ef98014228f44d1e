"""Lists of episodes: sampled in a scene, checked, and put into tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from anytask.control.envs.rearrangement.obstacles import CONTACT
from anytask.control.envs.rearrangement.scene import EpisodeList, Scene
from anytask.control.envs.rearrangement.world import World
from anytask.core.rng import derive


def starts(e: EpisodeList, device: torch.device) -> tuple[Tensor, ...]:
    """Return start (3, E), target (E,), goal (3, E), objects (B, 3, E) and stage (E,) of a list of E episodes."""
    arrays = [np.moveaxis(array, 0, -1) for array in (e.start, e.target, e.goal, e.objects, e.stage)]
    kinds = [np.float32 if array.dtype.kind == "f" else np.int64 for array in arrays]
    return tuple(torch.tensor(array.astype(kind), device=device) for array, kind in zip(arrays, kinds))


def faults(world: World, e: EpisodeList) -> tuple[Tensor, Tensor, Tensor]:
    """Return (E,) each: the start collides, an object stands inside an obstacle, the goal does."""
    start, target, goal, objects, stage = starts(e, world.device)
    hit = world.collides(torch.cat([start, world.body.start.expand(-1, len(e))]), objects, stage)
    halves, obstacles = world.halves[:, :, None], world.obstacles
    inside = torch.zeros_like(hit)
    for b in range(len(objects)):
        inside |= obstacles.overlap(objects[b], halves[b], stage)
        for other in range(b):
            inside |= ((objects[b] - objects[other]).abs() < halves[b] + halves[other] - CONTACT).all(0)
    return hit, inside, obstacles.overlap(goal, world.halves[target].T, stage)


def check_episodes(world: World, e: EpisodeList) -> EpisodeList:
    """Return the list, or say by its number which episode is impossible in the world."""
    if len(e) == 0:
        raise ValueError("the list of episodes is empty")
    wanted = (len(e), len(world.scene.objects), 3)
    if e.objects.shape != wanted:
        raise ValueError(f"objects of the episodes must have shape {wanted}, got {e.objects.shape}")
    hit, inside, goal = faults(world, e)
    for mask, what, points in (
        (hit, "the start pose (x, z, yaw) is in collision", e.start),
        (inside, "an object stands inside an obstacle", e.objects),
        (goal, "the goal is inside an obstacle", e.goal),
    ):
        if bool(mask.any()):
            row = int(mask.nonzero()[0, 0])
            raise ValueError(f"episode {row}: {what}: {np.round(points[row], 4).tolist()}")
    return e


def sample_episodes(world: World, count: int, seed: int = 0, least_way: float = 0.5) -> EpisodeList:
    """Sample episodes: free start poses, objects and goals on surfaces, goals ``least_way`` metres from objects.

    Raises
    ------
    ValueError
        If the scene is so full that hardly any sample fits.
    """
    rng, scene = np.random.default_rng(derive(seed, "episodes")), world.scene
    halves = np.array([o.half for o in scene.objects])
    kept: list[EpisodeList] = []
    have = 0
    for _ in range(40):
        m = max(256, 2 * count)
        stage = rng.integers(len(scene.stages), size=m)
        target = rng.integers(len(halves), size=m)
        bounds = np.array([s.bounds for s in scene.stages])[stage]  # (m, 2, 2)
        place = rng.uniform(bounds[:, 0], bounds[:, 1])
        start = np.concatenate([place, rng.uniform(-np.pi, np.pi, (m, 1))], 1)
        objects = np.stack([_placed(scene, rng, stage, np.tile(half, (m, 1))) for half in halves], 1)
        goal = _placed(scene, rng, stage, halves[target])
        start, goal, objects = (a.astype(np.float32) for a in (start, goal, objects))
        e = EpisodeList(start, target, goal, objects, stage)
        hit, inside, wrong = (mask.cpu().numpy() for mask in faults(world, e))
        way = np.linalg.norm(goal[:, None] - objects, axis=2).min(1)
        e = e[(~(hit | inside | wrong) & (way >= least_way)).nonzero()[0][: count - have]]
        kept, have = [*kept, e], have + len(e)
        if have == count:
            return EpisodeList.joined(kept)
    raise ValueError(f"only {have} of {count} episodes could be sampled in {scene.name}: it is too full")


def _placed(scene: Scene, rng: np.random.Generator, stage: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return centres (m, 3) of boxes that stand on the floor or, in scenes with tables, on a table."""
    out = np.empty((len(stage), 3))
    for k, s in enumerate(scene.stages):
        rows = np.flatnonzero(stage == k)
        (x0, z0), (x1, z1) = s.bounds
        tops = [(c, h) for c, h in s.boxes if c[1] + h[1] <= scene.highest_surface]
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
