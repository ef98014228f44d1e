"""The data of rearrangement: a scene with its episodes, or any Gymnasium environment, and where entrants learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import choice, flag, text, whole
from anytask.problems.options import Options, mapping
from anytask.problems.training import Builtin, LoadedData

#: Built-in name -> environment steps of a training.
BUILT_IN = {"pick": 300_000, "rearrange": 3_000_000, "simple-place": 3_000_000}
_LEAST_LISTED = 8  # episodes of a user's list from which on a quarter is held out


class RearrangementOptions(Options):
    """How long entrants learn, and how they are tested."""

    total_steps: int | None = whole(
        None, "environment steps of a training (none: 300,000 for pick, 3,000,000 for others)", optional=True
    )
    num_envs: int = whole(512, "parallel environments to learn in")
    episodes: int = whole(300, "test episodes")
    task: str = choice("rearrange", tuple(BUILT_IN), "what is to be done in a scene of your own")
    robot: str = choice("disc", ("disc", "fetch"), "who does it")
    preset: str = text("small", "preset of entrants that have it and name no other")
    deterministic: bool = flag(
        True, "test the best action; False: a sampled one, with which Galactic reaches .1-.2 more"
    )
    env_options: Any = mapping("more options of the environment, as a mapping")


@dataclass(frozen=True)
class RearrangementData(LoadedData):
    """What is learned and tested: the source is a scene, or a the id of an environment."""

    @property
    def listed(self) -> Any:
        """The episodes that a scene names; None where they are sampled."""
        return getattr(self.source, "episodes", None)

    def facts(self) -> dict[str, Any]:
        """Return stages, objects and where the episodes come from."""
        if isinstance(self.source, Builtin):
            return {}
        told = "sampled, other ones in training and test"
        if self.listed is not None:
            held_out = len(self.listed) // 4 if len(self.listed) >= _LEAST_LISTED else 0
            told = f"{len(self.listed)} listed, {held_out or 'none'} held out for the test"
        names = [thing.name for thing in self.source.objects]
        return {"stages": len(self.source.stages), "objects": names, "episodes": told}

    def training_world(self, seed: int, hold_out: bool = True) -> Any:
        """Return the environment that an entrant learns in; alike for every entrant."""
        at = derive(seed, "training worlds") % 2**31
        return self.world(self.options.num_envs, at, self.episodes(seed, "train" if hold_out else "all"))

    def test_world(self, seed: int) -> Any:
        """Return the environment of the test, with episodes that nobody trained on."""
        if isinstance(self.source, Builtin):
            return self.world(min(self.options.episodes, 64), derive(seed, "test worlds") % 2**31, {})
        return self.world(min(self.options.episodes, 512), 0, {**self.episodes(seed, "test"), "order": "once"})

    def episodes(self, seed: int, part: str) -> dict[str, Any]:
        if self.listed is None:
            count = self.options.episodes if part == "test" else 4000
            return {"episodes": count, "episode_seed": derive(seed, "test" if part == "test" else "train")}
        if len(self.listed) < _LEAST_LISTED or part == "all":
            return {"episodes": self.listed}
        order = np.random.default_rng(derive(0, "held out")).permutation(len(self.listed))
        held_out, others = np.split(order, [len(self.listed) // 4])
        return {"episodes": self.listed[np.sort(held_out if part == "test" else others)]}

    def world(self, n: int, seed: int, episodes: Mapping[str, Any]) -> Any:
        from anytask.control import make
        from anytask.control.envs.rearrangement import Rearrangement

        o = self.options
        if isinstance(self.source, Builtin):
            return make(self.source.name, n, seed=seed, **(o.env_options or {}))
        given = {"robot": o.robot, "task": o.task, **(o.env_options or {})}
        return Rearrangement(n, scene=self.source, seed=seed, **given, **episodes)
