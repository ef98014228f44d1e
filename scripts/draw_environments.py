"""Draw the filmstrips of docs/environments.md: one episode of every environment, as small PNG files.

    python scripts/draw_environments.py [NAME ...]

The MuJoCo ones need off-screen rendering (``MUJOCO_GL=egl``, set here if nothing else is); without it the others are
still drawn. The pictures are committed, so that building the documentation needs none of this.
"""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from anytask.control import ScriptedReach, filmstrip, make, record
from anytask.control.base import Obs

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
log = logging.getLogger("draw")


def reach(env_id: str, *, noise: float = 0.25, speed: float = 0.8, seed: int = 0, **options: Any) -> Image.Image:
    """A noisy demonstrator in one of the reach worlds."""
    env = make(env_id, 1, render_mode="rgb_array", **options)
    expert = ScriptedReach(env, noise=noise, speed=speed, seed=seed)
    return record(expert, env, seed=seed, deterministic=False).filmstrip(6)


def as_the_policy_sees_it() -> Image.Image:
    """The observations of the three reach worlds, 32 pixels wide, in the middle of an episode."""
    frames, labels = [], []
    for name in ("Reach", "WalledReach", "WaypointReach"):
        env = make(f"anytask/{name}-v0", 1, observation="pixels")
        obs, _ = env.reset(seed=0)
        expert = ScriptedReach(env)
        for _ in range(5):
            obs, *_ = env.step(expert.act(obs))
        frames.append(obs[0].numpy())
        labels.append(name)
    return filmstrip(frames, 3, labels=labels)


class DiscDriver:
    """Drives the disc robot straight to the object, and with it straight to the goal; walls are not its business."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def act(self, obs: Obs, *, deterministic: bool = True) -> torch.Tensor:
        """Turn towards what is wanted, drive, stretch the gripper, and grasp or let go where it is."""
        env = self.env
        held = bool(env.held[0] >= 0)
        wanted = env.goal[0] if held else env.objects[0, int(env.target[0])]
        dx, dz = float(wanted[0] - env.x[0]), float(wanted[2] - env.z[0])
        error = math.remainder(math.atan2(-dz, dx) - float(env.yaw[0]), 2 * math.pi)
        far = math.hypot(dx, dz)
        ahead = np.clip((far - 0.32) / 0.1, -1, 1) if abs(error) < 0.5 else 0.0
        stretch = np.clip((far - float(env.joints[0, 0])) / 0.1, -1, 1) if far < 0.6 else -1.0
        miss = math.hypot(float(wanted[0] - env.effector[0, 0]), float(wanted[2] - env.effector[0, 2]))
        grasp = 0.0 if miss > 0.06 else (-1.0 if held else 1.0)
        return torch.tensor([[grasp, np.clip(error / 0.4, -1, 1), ahead, stretch]], dtype=torch.float32)


def rearrangement() -> Image.Image:
    """The disc robot in the arena, in the first episode that has no wall in the way."""
    for seed in range(100):
        env = make("anytask/Rearrangement-v0", 1, task="rearrange", render_mode="rgb_array")
        film = record(DiscDriver(env), env, seed=seed)
        if film.success == 1.0:
            return film.filmstrip(6)
    raise RuntimeError("no episode can be driven straight")


def fetch_rearrangement() -> Image.Image:
    """The Fetch robot drives and moves its arm at random."""
    env = make("anytask/FetchRearrangement-v0", 1, render_mode="rgb_array", max_episode_steps=60)
    # Neither grasp nor stop, which would end the episode.
    policy = Wandering(env.single_action_space.shape[0], fixed={0: 0.0, -1: -1.0, 2: 0.7})
    return record(policy, env, seed=1).filmstrip(6)


class Wandering:
    """Random actions that change slowly, so that something is seen to move."""

    def __init__(self, size: int, *, fixed: dict[int, float] | None = None, seed: int = 0) -> None:
        self.rng, self.action, self.fixed = np.random.default_rng(seed), np.zeros(size), fixed or {}

    def act(self, obs: Obs, *, deterministic: bool = True) -> torch.Tensor:
        """Return the last action, moved a little."""
        self.action = 0.9 * self.action + 0.6 * self.rng.standard_normal(len(self.action))
        for place, value in self.fixed.items():
            self.action[place] = value
        return torch.tensor(self.action[None].clip(-1, 1), dtype=torch.float32)


class TowardsGoal:
    """Moves the gripper of the Fetch arm straight to its goal."""

    def act(self, obs: Obs, *, deterministic: bool = True) -> torch.Tensor:
        """Return the offset to the goal, stretched."""
        assert isinstance(obs, dict)
        offset = 3 * (obs["desired_goal"] - obs["achieved_goal"])
        return torch.cat([offset, torch.zeros(len(offset), 1)], 1).clamp(-1, 1)


def fetch_reach() -> Image.Image:
    """The Fetch arm of Gymnasium-Robotics, through MuJoCo's own renderer."""
    return record(TowardsGoal(), "FetchReach-v4", seed=3, max_episode_steps=25, width=240, height=240).filmstrip(6)


def ant() -> Image.Image:
    """Gymnasium's Ant, through MuJoCo's own renderer."""
    options = {"max_episode_steps": 60, "width": 240, "height": 240}
    return record(Wandering(8), "Ant-v5", seed=0, **options).filmstrip(6)


STRIPS: dict[str, Callable[[], Image.Image]] = {
    "reach": lambda: reach("anytask/Reach-v0"),
    "walled-reach": lambda: reach("anytask/WalledReach-v0", noise=0.15, speed=1.0),
    "waypoint-reach": lambda: reach("anytask/WaypointReach-v0", speed=1.0, task="A", seed=2),
    "reach-pixels": as_the_policy_sees_it,
    "rearrangement": rearrangement,
    "fetch-rearrangement": fetch_rearrangement,
    "fetch-reach": fetch_reach,
    "ant": ant,
}
#: Those that MuJoCo draws.
MUJOCO = ("fetch-reach", "ant")


def save_image(path: Path, image: Image.Image, most_bytes: int = 100_000) -> int:
    """Write a PNG file of at most ``most_bytes`` bytes, with fewer colors if need be, and return its size in bytes."""
    for colors in (None, 256, 64, 16):
        small = image.convert("RGB")
        if colors is not None:
            small = small.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        data = io.BytesIO()
        small.save(data, format="PNG", optimize=True)
        if data.tell() <= most_bytes:
            path.write_bytes(data.getvalue())
            return data.tell()
    raise ValueError(f"an image of {image.width} x {image.height} doesn't fit into {most_bytes} bytes")


def main(names: list[str]) -> None:
    """Draw the strips of these names, or all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("MUJOCO_GL", "egl")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names or list(STRIPS):
        try:
            strip = STRIPS[name]()
        except Exception:
            if name not in MUJOCO:
                raise
            log.exception("%s was not drawn: MuJoCo has no off-screen renderer here", name)
            continue
        size = save_image(FOLDER / f"{name}.png", strip)
        log.info("%s.png: %d x %d, %d bytes", name, *strip.size, size)


if __name__ == "__main__":
    main(sys.argv[1:])
