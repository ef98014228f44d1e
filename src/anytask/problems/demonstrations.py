"""What the problems with demonstrations share: data that are episodes and a place to play, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anytask.core.errors import BadData
from anytask.datasets.episodes import Episodes
from anytask.problems.base import Entrant, Metric
from anytask.problems.training import TrainingProblem, fingerprint_of


@dataclass(frozen=True)
class EpisodeData:
    """Episodes to learn from, where policies play (None: nowhere), and the options.

    Attributes
    ----------
    episodes : mapping of str to Episodes
        By what they are; none where they are made anew for each seed.
    tells_success : bool
        Whether the environment has a notion of success; where it has none, the return ranks.
    """

    name: str
    env: str | None
    options: Any
    episodes: Mapping[str, Episodes] = field(default_factory=dict)
    tells_success: bool = True

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = {name: episodes.fingerprint for name, episodes in self.episodes.items()}
        return fingerprint_of([self.name, self.env, content], self.options)

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        facts: dict[str, Any] = {"source": self.name, "environment": self.env or "none: held-out episodes"}
        for name, e in self.episodes.items():
            facts[name] = {"episodes": len(e), "steps": e.steps, "observations": list(e.keys)}
        return facts | {"options": self.options.of_a_run(), "fingerprint": self.fingerprint}


def read_episodes(path: Any) -> Episodes:
    """Return the episodes of a file or folder, or episodes as they are."""
    from anytask.datasets.episode_files import load_episodes

    try:
        return path if isinstance(path, Episodes) else load_episodes(path)
    except (ValueError, FileNotFoundError) as error:
        raise BadData(str(error)) from error


def fits(env: str, options: Mapping[str, Any], episodes: Episodes) -> bool:
    """Check that policies of these episodes can play in an environment; return whether it has a notion of success.

    Raises
    ------
    BadData
        If the environment cannot be made, or has other observations or actions than the episodes.
    """
    from anytask.control.adapters import make, tells_success

    try:
        world: Any = make(env, 1, **options)
    except Exception as error:
        raise BadData(f"the environment {env!r} cannot be made: {error}") from error
    space, action, told = world.single_observation_space, world.single_action_space, tells_success(world)
    world.close()
    spaces = space.items() if hasattr(space, "items") else [("observation", space)]
    shown = {key: tuple(part.shape) for key, part in spaces}
    seen = {key: episodes.shape_of(key) for key in episodes.keys}
    if not seen.items() <= shown.items():
        raise BadData(f"{env} shows the observations {shown}, and the demonstrations hold {seen}")
    whole = action.dtype.kind in "iu"
    if action.shape not in ((), (episodes.action_dim,)) or (action.shape == () and episodes.action_dim != 1):
        raise BadData(f"{env} takes {action}, and the demonstrations have {episodes.action_dim} action dimensions")
    if whole == (episodes.actions.dtype.kind == "f"):
        raise BadData(f"{env} takes {action}, and the demonstrations' actions are {episodes.actions.dtype}")
    return told


class DemonstrationProblem(TrainingProblem):
    """Base of the problems with demonstrations."""

    def refuses(self, entrant: Entrant, data: Any) -> str | None:
        """Refuse classes that say by a static method ``refuses(episodes)`` that they cannot learn from these."""
        refuses = getattr(entrant.load(), "refuses", lambda episodes: None)
        own = next(filter(None, map(refuses, data.episodes.values())), None)
        return super().refuses(entrant, data) or own


def films(runs: Sequence[Any], title: str, text: str) -> list[tuple[str, str, Any]]:
    """Return the figure of the film strips that some runs have, one of each entrant, if any."""
    from anytask.control.images import strips

    found = {run.entrant_name: run.details["filmstrip"] for run in runs if "filmstrip" in (run.details or {})}
    return [(title, text, strips(found))] if found else []


def about_returns(metric: Metric) -> Metric:
    """Return a metric of success rates as the same about returns; others as they are."""
    if "Success" not in metric.label:
        return metric
    label = metric.label.replace("Success rate", "Return").replace("Success", "Return")
    return replace(metric, key=metric.key.replace("success", "return"), label=label, unit="reward")
