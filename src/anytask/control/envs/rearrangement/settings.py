"""What can be chosen of a rearrangement environment: its world, its sensors, its task and its reward."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from anytask.control.envs.rearrangement.scene import ROBOTS, EpisodeList, Robot, Scene
from anytask.core.settings import Settings, choice, flag, free, numbers, of_kind, real, texts, whole

__all__ = ["FetchSettings", "RearrangementSettings"]

TASKS = ("pick", "rearrange", "simple-place")


def _robot(value: Any) -> None:
    if not (isinstance(value, Robot) or (isinstance(value, str) and value in ROBOTS)):
        raise ValueError(f"unknown robot {value!r}; built in are {', '.join(ROBOTS)}")


def _episodes(value: Any) -> None:
    count = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1
    if not (value is None or count or isinstance(value, EpisodeList)):
        raise ValueError(f"episodes must be a number of at least 1 or an EpisodeList, got {value!r}")


class _WorldSettings(Settings):
    """Where the robots are and how they move."""

    robot: Any = free("disc", "'disc', 'fetch' or a Robot", _robot)
    scene: Any = of_kind(
        None, (str, os.PathLike, Mapping, Scene), "a name, a JSON file, a mapping or a Scene",
        "'arena', 'flat', or what a scene is read from; None: by robot, planar ones 'arena'", optional=True,
    )  # fmt: skip
    episodes: Any = free(
        None, "an EpisodeList, or how many to sample; None: those of the scene, else 4,000 sampled ones", _episodes
    )
    episode_seed: int = whole(0, "seed of the sampled episodes", at_least=0)
    order: str = choice(
        "random",
        ("random", "once"),
        "draw an episode at every restart, or play the list exactly once: environment i takes the episodes i,"
        " i + num_envs, ... and is then switched off (rewards 0, no ends)",
    )
    sliding: bool = flag(True, "where a motion collides, try parts of it")
    cell: float = real(0.02, "cell of the collision grid, in metres", above=0)


class _SensorSettings(Settings):
    """What is observed."""

    rays: int | None = whole(
        None, "range rays around the robot; None: 8 for planar robots, else 0", at_least=0, optional=True
    )
    ray_range: float = real(4.0, "metres at which a ray reads 1", above=0)
    relative_sensors: bool = flag(True, "sense the four vectors from base and gripper to object and goal")
    track_object: bool | None = flag(
        None, "sense where the target is, not where it stood at first (the paper's); None: planar robots", optional=True
    )
    observe_picked: bool = flag(True, "sense whether the target was ever grasped, on which bonus and success depend")
    images: Sequence[str] = texts((), "images of the head camera", options=("depth", "rgb"))
    image_size: Sequence[int] = numbers(
        (32, 32), "height and width in pixels; the paper's are (128, 128)", at_least=1, integers=True, length=2
    )
    render: Any = of_kind(
        None, (Callable,), "a callable", "own renderer: render(env, rows) -> {key: (m, ...) tensor}; rows None: all",
        optional=True,
    )  # fmt: skip
    render_space: Any = of_kind(
        None, (Mapping,), "a mapping", "spaces of what the own renderer returns, by key", optional=True
    )


class _RewardSettings(Settings):
    """What is to be done, and what it pays."""

    task: str = choice(
        "pick",
        TASKS,
        "success is: the target is held; it stands within tau of the goal, not held, and stop was called (robots"
        " without a stop action need not); it was released within tau of the goal horizontally, less than 2 tau above",
    )
    tau: float = real(0.15, "success distance in metres (0.15 in the published runs, 0.1 in their file)", above=0)
    max_episode_steps: int | None = whole(None, "time limit; None: 60 for planar robots, else 500", optional=True)
    progress: float = real(1.0, "per metre that gripper comes nearer to object, and object to goal")
    pick_bonus: float = real(5.0, "for the first grasp of the target in an episode, farther than tau from the goal")
    success_reward: float = real(10.0, "for the last step of a success")
    failure_penalty: float = real(0.0, "for the last step of a failure")
    slack: float = real(0.0, "cost of every step")
    action_penalty: float = real(0.0, "cost of the squared change of the motion commands")
    drop_is_fail: bool | None = flag(
        None,
        "end as failed when a wrong object is held or the object is released away from the goal (the paper's);"
        " None: for all but planar robots, which may pick up again what they dropped",
        optional=True,
    )
    timeouts_terminate: bool = flag(True, "the time limit is a failure, as in the paper's code, and no truncation")


class RearrangementSettings(_WorldSettings, _SensorSettings, _RewardSettings):
    """The options of :class:`~anytask.control.envs.rearrangement.Rearrangement`, all keywords of ``make``.

    Examples
    --------
    >>> RearrangementSettings(tau=0)
    Traceback (most recent call last):
        ...
    ValueError: tau must be a number above 0, got 0
    >>> RearrangementSettings().of_robot().max_episode_steps, FetchSettings().of_robot().max_episode_steps
    (60, 500)
    """

    def _check_settings(self) -> None:
        if self.render is not None and not self.render_space:
            raise ValueError("render needs render_space, the spaces of what it returns by key")

    def of_robot(self) -> Self:
        """Return the settings with the robot in place of its name, and its own values in place of None."""
        robot = ROBOTS[self.robot] if isinstance(self.robot, str) else self.robot
        planar = robot.planar
        own = {
            "scene": "arena" if planar else "flat",
            "rays": 8 if planar else 0,
            "track_object": planar,
            "max_episode_steps": 60 if planar else 500,
            "drop_is_fail": not planar,
        }
        return type(self)(**vars(self) | {k: v for k, v in own.items() if getattr(self, k) is None} | {"robot": robot})


class FetchSettings(RearrangementSettings):
    """The same with the Fetch robot unless told otherwise."""

    robot = "fetch"
