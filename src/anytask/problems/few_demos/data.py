"""The data of few-demos: a user's expert and prior episodes, or those of a world with four ways to behave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, of_kind, real, text, whole
from anytask.datasets.episodes import Episodes
from anytask.problems.demonstrations import EpisodeData, read_episodes
from anytask.problems.options import Options, mapping

_SOURCE = (str, Path, Episodes)
#: Built-in name -> environment.
WORLDS = {"waypoints": "anytask/WaypointReach-v0", "fetch-reach": "FetchReach-v4"}
_FETCH_STEPS = 15


class FewDemosOptions(Options):
    """Where episodes come from, how long is trained, and where policies are tried out."""

    read_only: ClassVar[tuple[str, ...]] = ("env", "expert", "prior")

    env: str | None = text(
        None, "Gymnasium id in which policies are tried out (none: held-out expert episodes)", optional=True
    )
    env_options: Any = mapping("what the environment is made with, as a mapping")
    expert: Any = of_kind(
        None, _SOURCE, "a path or Episodes", "the expert's, where they are not DATA/expert.*", optional=True
    )
    prior: Any = of_kind(
        None, _SOURCE, "a path or Episodes", "the prior ones, where they are not DATA/prior.*", optional=True
    )
    episodes: int = whole(200, "episodes per trial")
    held_out: float = real(
        0.25, "share of the expert's episodes that is held out where there is no environment", above=0, below=1
    )
    preset: str = choice("small", ("small", "images", "paper"), "settings of every entrant that names no other")
    steps: int | None = whole(None, "gradient steps of every policy (none: the preset's)", optional=True)
    embedder_steps: int | None = whole(
        None, "gradient steps of what embeds transitions (none: the preset's)", optional=True
    )
    observation: str = choice("state", ("state", "pixels"), "waypoints: what is observed")
    demos: int = whole(3, "waypoints: demonstrations")
    prior_episodes: int = whole(40, "waypoints: prior episodes per task")
    expert_start: float = real(0.05, "waypoints: where demonstrations start, half the edge of a square", at_least=0)
    expert_noise: float = real(0.0, "waypoints: noise on the expert's actions", at_least=0)
    prior_start: float = real(0.6, "waypoints: where prior episodes start", at_least=0)
    prior_noise: float = real(0.25, "waypoints: noise on the actions of the prior", at_least=0)
    prior_joined: int = whole(1, "waypoints: prior episodes in one recording, of tasks in random order")
    test_start: float = real(0.6, "waypoints: where trials start", at_least=0)
    test_noise: float = real(0.15, "waypoints: noise on the policy's actions", at_least=0)


class Instance(NamedTuple):
    """What one seed's run sees."""

    expert: Episodes
    prior: Episodes
    held_out: Episodes | None = None


@dataclass(frozen=True)
class FewDemosData(EpisodeData):
    """An expert's episodes and prior ones, or the built-in world that makes both anew for each seed."""

    @property
    def env_options(self) -> dict[str, Any]:
        """What the environment is made with."""
        o = self.options
        if self.episodes:
            return dict(o.env_options or {})
        if self.name == "fetch-reach":
            return {"max_episode_steps": _FETCH_STEPS}
        return {"task": "A", "start_width": o.test_start, "action_noise": o.test_noise, "observation": o.observation}

    @property
    def labelled(self) -> bool:
        """Whether it is known which prior transitions help."""
        return not self.episodes or "relevant" in self.episodes["prior"].attributes

    def instance(self, seed: int, hold_out: bool = True) -> Instance:
        """Return the episodes of one seed; alike for every entrant."""
        if not self.episodes:
            return (_fetch_reach if self.name == "fetch-reach" else _waypoints)(self.options, seed)
        expert, prior = self.episodes["expert"], self.episodes["prior"]
        if self.env is not None or not hold_out:
            return Instance(expert, prior)
        order = np.random.default_rng(derive(seed, "few-demos")).permutation(len(expert))
        n = max(1, round(self.options.held_out * len(order)))
        return Instance(expert.select(order[n:]), prior, expert.select(order[:n]))


def read(source: Any, name: str, path: Any) -> Episodes:
    """Return the episodes at a path, or of the one file or folder ``name.*`` in the folder ``source``."""
    if path is None:
        folder = Path(str(source))
        if not folder.is_dir():
            raise BadData(f"{source!r} is neither {' nor '.join(WORLDS)} nor a folder with expert.* and prior.*")
        found = sorted(p for p in folder.iterdir() if p.stem == name and (p.is_dir() or p.suffix))
        if len(found) != 1:
            what = ", ".join(p.name for p in found) or "none"
            raise BadData(f"{folder} must hold one {name}.npz, {name}.hdf5 or folder {name}; found: {what}")
        path = found[0]
    return read_episodes(path)


def _waypoints(o: FewDemosOptions, seed: int) -> Instance:
    """Return demonstrations of task A from nearly one place, and noisy episodes of all four tasks from anywhere."""
    from anytask.control.envs.experts import demonstrations

    world = WORLDS["waypoints"]
    expert = demonstrations(
        world, o.demos, task="A", start_width=o.expert_start, noise=o.expert_noise, observation=o.observation,
        seed=derive(seed, "expert") % 2**31,
    )  # fmt: skip
    parts, relevant = [], []
    for task in "ABCD":
        made: dict[str, Any] = {
            "task": task, "start_width": o.prior_start, "noise": o.prior_noise,
            "seed": derive(seed, "prior", task) % 2**31,
        }  # fmt: skip
        parts.append(demonstrations(world, o.prior_episodes, observation=o.observation, **made))
        # Where the point was is needed to say which transitions help, images or not.
        places = parts[-1] if o.observation == "state" else demonstrations(world, o.prior_episodes, **made)
        relevant.append(_helps(task, places))
    prior = Episodes.concatenate(parts)
    facts = {"relevant": np.concatenate(relevant), "task": np.repeat(list("ABCD"), o.prior_episodes)}
    prior = replace(prior, attributes={**prior.attributes, **facts})
    return Instance(expert, prior if o.prior_joined == 1 else _recordings(prior, o.prior_joined, seed))


def _recordings(prior: Episodes, size: int, seed: int) -> Episodes:
    """Join ``size`` episodes each, in random order, as a robot is recorded that is put back to work: nothing tells
    where one ends, or what it was for."""
    order = np.random.default_rng(derive(seed, "recordings")).permutation(len(prior))
    rows = np.concatenate([np.arange(prior.starts[i], prior.ends[i] + 1) for i in order])
    some, first = prior.select(order), np.arange(0, len(prior), size)
    last = np.append(first[1:], len(prior)) - 1
    at_end = np.isin(np.arange(prior.steps), some.ends[last])
    return replace(
        some,
        terminated=some.terminated & at_end,
        truncated=some.truncated & at_end,
        final_observations={k: v[last] for k, v in some.final_observations.items()},
        lengths=np.add.reduceat(some.lengths, first),
        attributes={"relevant": prior.attributes["relevant"][rows]},
    )


def _fetch_reach(o: FewDemosOptions, seed: int) -> Instance:
    """Return demonstrations of a way to the goal, and noisy episodes of which a quarter goes there and others turn off.

    What is demonstrated is to reach a goal that is told; the others do something else with the same goals in sight.
    """
    from anytask.control.envs.experts import demonstrations

    def made(episodes: int, noise: float, turn: int, name: str) -> Episodes:
        at = derive(seed, name, turn) % 2**31
        options: dict[str, Any] = {"max_episode_steps": _FETCH_STEPS}
        return demonstrations(WORLDS["fetch-reach"], episodes, noise=noise, turn=turn, seed=at, **options)

    turns = (0, 90, 180, 270)
    expert = made(o.demos, o.expert_noise, 0, "expert")
    prior = Episodes.concatenate([made(o.prior_episodes, o.prior_noise, turn, "prior") for turn in turns])
    task = np.repeat(turns, o.prior_episodes)
    return Instance(expert, replace(prior, attributes={**prior.attributes, "relevant": task == 0, "task": task}))


def _helps(task: str, episodes: Episodes) -> np.ndarray:
    """All of task A helps task A, and task B does up to the way-point that they share; (T,)."""
    from anytask.control.envs.reach import WaypointReach

    if task != "B":
        return np.full(episodes.steps, task == "A")
    before = episodes.observations["observation"][:, 0] < WaypointReach.waypoint[0] - WaypointReach.radius / 2
    # Once past it, B's way is its own, even where noise carries it back.
    return np.concatenate([np.logical_and.accumulate(part) for part in np.split(before, episodes.starts[1:])])
