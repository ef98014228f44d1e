"""The data of visuomotor: a user's demonstrations, or those of a built-in world, and where policies play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from anytask.core.rng import derive
from anytask.core.settings import choice, path, real, text, whole
from anytask.datasets.episodes import Episodes
from anytask.problems.demonstrations import EpisodeData
from anytask.problems.options import Options, mapping

#: Built-in name -> environment.
WORLDS = {"reach": "anytask/Reach-v0", "walled-reach": "anytask/WalledReach-v0", "fetch-reach": "FetchReach-v4"}
_FETCH_STEPS = 10  # twice what the expert needs at full speed, so that slow demonstrations come too late


class VisuomotorOptions(Options):
    """Where policies play, and how much."""

    read_only: ClassVar[tuple[str, ...]] = ("env", "demonstrations")

    env: str | None = text(
        None, "Gymnasium id in which policies play, where the data are a folder or file of episodes", optional=True
    )
    demonstrations: Any = path(None, "the demonstrations, where the data are a Gymnasium id", optional=True)
    env_options: Any = mapping("what the environment is made with, as a mapping")
    observation: str = choice("state", ("state", "pixels"), "of the built-in worlds: what is observed")
    demos: int = whole(80, "demonstrations of the built-in worlds")
    slowest: float = real(
        0.25, "smallest speed of their demonstrator; each episode draws one between it and 1", above=0, at_most=1
    )
    noise: float = real(0.3, "standard deviation of the noise on its actions", at_least=0)
    rollouts: int = whole(200, "episodes that may be played for learning from records", at_least=0)
    online_episodes: int = whole(256, "episodes that may be played while learning", at_least=0)
    eval_episodes: int = whole(100, "episodes of each try-out")
    num_envs: int = whole(64, "parallel environments")
    params: Any = mapping("constructor arguments for all entrants, as a mapping; an entrant's own come first")
    preset: str | None = text(
        None, "preset of entrants that have it (none: small for the built-in worlds, else paper)", optional=True
    )


@dataclass(frozen=True)
class VisuomotorData(EpisodeData):
    """Demonstrations, or the built-in world that makes them anew for each seed, and where policies play."""

    env: str

    @property
    def env_options(self) -> dict[str, Any]:
        """What the environment is made with."""
        own: dict[str, Any] = {} if self.episodes else {"observation": self.options.observation}
        if self.name == "fetch-reach":
            own = {"max_episode_steps": _FETCH_STEPS}
        return own | dict(self.options.env_options or {})

    def demonstrations(self, seed: int) -> Episodes:
        """Return the demonstrations of one seed; alike for every entrant."""
        if self.episodes:
            return self.episodes["demonstrations"]
        from anytask.control.envs.experts import demonstrations

        o = self.options
        return demonstrations(
            self.env, o.demos, speed=(o.slowest, 1.0), noise=o.noise, gap="random",
            seed=derive(seed, "demonstrations") % 2**31, **self.env_options,
        )  # fmt: skip
