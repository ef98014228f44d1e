"""What systems have to beat: other ways to use a few demonstrations and a large data set, and acting at random."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from anytask.control.imitator import Imitator
from anytask.control.parts.acting import Given, checked_rows, require_episodes
from anytask.control.parts.imitation import Source
from anytask.core.errors import check_flags
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.rollback import rollback
from anytask.core.settings import real
from anytask.datasets.episodes import Episodes

__all__ = [
    "ExpertOnly",
    "GoalConditioned",
    "MixedData",
    "OracleSelection",
    "PretrainFinetune",
    "PriorOnly",
    "RandomSubset",
]


class ExpertOnly(Imitator):
    """Imitate the demonstrations alone.

    Parameters are those of :class:`~anytask.control.imitator.Imitator`.

    Examples
    --------
    >>> from anytask.datasets.episodes import Episode
    >>> expert = Episodes.from_list([Episode(np.arange(6.0)[:, None], np.ones((5, 1)))])
    >>> policy = ExpertOnly.from_preset("small", cloning={"steps": 200}, device="cpu").fit(expert)
    >>> bool(policy.act(np.array([2.0], dtype=np.float32))[0] > 0)
    True
    """

    needs_prior: ClassVar[bool] = False

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        return [Source(episodes)]


class MixedData(Imitator):
    """Imitate demonstrations and the whole prior data in equal shares, without choosing."""

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        return [Source(episodes), Source(prior)]


class PriorOnly(Imitator):
    """Imitate the prior data alone: what they are worth without demonstrations."""

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        return [Source(prior)]


class RandomSubset(Imitator):
    """Imitate demonstrations and a random part of the prior data in equal shares.

    Parameters
    ----------
    share : float in (0, 1], default 0.25
        Of the prior transitions.
    **params
        Those of :class:`~anytask.control.imitator.Imitator`.
    """

    share: float = real(0.25, "share of the prior transitions", above=0, at_most=1)

    selected_: np.ndarray

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        rng = np.random.default_rng(derive(self.seed, "subset"))
        self.selected_ = np.zeros(prior.steps, dtype=bool)
        self.selected_[rng.permutation(prior.steps)[: math.ceil(self.share * prior.steps)]] = True
        return [Source(episodes), Source(prior, self.selected_)]


class OracleSelection(Imitator):
    """Imitate demonstrations and those prior transitions that truly help, in equal shares: the upper end of the scale.

    Reads the attribute ``relevant`` of the prior data: booleans per episode or per step.
    """

    needs_labels: ClassVar[bool] = True
    selected_: np.ndarray

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        self.selected_ = relevant_steps(prior)
        return [Source(episodes), Source(prior, self.selected_)]


class _InTurn(Imitator):
    """Base of those that imitate one data set after another."""

    finetune_share: float

    def _train_in_turn(self, first: Episodes, then: Episodes, progress: Progress | None) -> None:
        self.policy_ = self._new_policy(1)
        self.policy_.build(self.shapes_, self.action_dim_, self.statistics_)
        early = max(1, round((1 - self.finetune_share) * self.policy_.steps))
        self.policy_.train(first, early, portion(progress, 0.0, 1 - self.finetune_share))
        if self.finetune_share:
            late = max(1, self.policy_.steps - early)
            self.policy_.train(then, late, portion(progress, 1 - self.finetune_share, 1.0))


class PretrainFinetune(_InTurn):
    """Imitate the prior data first, then the demonstrations.

    Parameters
    ----------
    finetune_share : float in (0, 1), default 0.5
        Part of the gradient steps that is kept for the demonstrations.
    **params
        Those of :class:`~anytask.control.imitator.Imitator`.
    """

    finetune_share: float = real(0.5, "part of the gradient steps for the demonstrations", above=0, below=1)

    def _fit(self, episodes: Episodes, prior: Any, progress: Progress | None) -> None:
        self._train_in_turn(prior, episodes, progress)


class GoalConditioned(_InTurn):
    """Goal-conditioned behaviour cloning: learn from all data how they reached where they ended, then ask for the
    expert's ends.

    In training, the goal of every step is the last observation of its own episode. When acting, each episode is given
    the last observation of one of the demonstrations.

    Parameters
    ----------
    finetune_share : float in [0, 1), default 0.0
        Part of the gradient steps that is spent on the demonstrations alone, after the others.
    **params
        Those of :class:`~anytask.control.imitator.Imitator`.
    """

    finetune_share: float = real(
        0.0, "part of the gradient steps for the demonstrations alone, after the others", at_least=0, below=1
    )

    goals_: dict[str, np.ndarray]
    _chosen: Tensor | None
    _generator: torch.Generator

    def _fit(self, episodes: Episodes, prior: Any, progress: Progress | None) -> None:
        everything = with_goals(Episodes.concatenate([prior, episodes]))
        expert = with_goals(episodes)
        self.statistics_ = everything.statistics()
        self.shapes_ = {k: everything.shape_of(k) for k in sorted(everything.keys)}
        self.goals_ = {k: np.asarray(v[:]) for k, v in episodes.final_observations.items()}
        self._train_in_turn(everything, expert, progress)
        self.reset()

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        check_flags(deterministic=deterministic)
        self._check_fitted()
        given = Given(obs, {name: goals.shape[1:] for name, goals in self.goals_.items()}, self._device)
        with rollback(self, skip=frozenset(vars(self)) - {"_chosen", "_generator"}):
            if self._chosen is None or len(self._chosen) != given.n:
                self._chosen = self._draw(given.n)
            asked = {f"goal/{name}": torch.from_numpy(goals)[self._chosen] for name, goals in self.goals_.items()}
            return given.answer(self.policy_.act({**given.tensors, **asked}, deterministic=deterministic))

    def reset(self, rows: Tensor | None = None) -> None:
        super().reset(rows)
        if rows is None:
            self._generator = torch.Generator().manual_seed(derive(self.seed, "goals"))
            self._chosen = None
        elif getattr(self, "_chosen", None) is not None:
            assert self._chosen is not None
            rows = checked_rows(rows, len(self._chosen), torch.device("cpu"))
            self._chosen[rows] = self._draw(len(rows))

    def log_prob(self, episodes: Episodes) -> np.ndarray:
        return self.policy_.log_prob(self._asked(episodes))

    def predict(self, episodes: Episodes) -> np.ndarray:
        return self.policy_.predict(self._asked(episodes))

    def _asked(self, episodes: Episodes) -> Episodes:
        """Episodes with the demonstrations' ends as goals, in turn; their own ends would be told what happens."""
        self._check_fitted()
        require_episodes(episodes, "the episodes")
        turn = np.arange(len(episodes)) % len(next(iter(self.goals_.values())))
        return with_goals(episodes, {k: v[turn] for k, v in self.goals_.items()})

    def _draw(self, n: int) -> Tensor:
        return torch.randint(len(next(iter(self.goals_.values()))), (n,), generator=self._generator)

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self.reset()


class RandomPolicy:
    """Actions drawn evenly from the action space.

    Parameters
    ----------
    seed : int, default 0
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def train(self, env: Any, total_steps: int, progress: Progress | None = None) -> RandomPolicy:
        """Look at the action space, and learn nothing."""
        self.space = copy.deepcopy(env.single_action_space)
        self.space.seed(derive(self.seed, "random policy") % 2**31)
        return self

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return random actions (n, ...), whatever is asked for."""
        check_flags(deterministic=deterministic)
        first = next(iter(obs.values())) if isinstance(obs, dict) else obs
        return torch.as_tensor(np.stack([self.space.sample() for _ in range(len(first))]), device=first.device)


def with_goals(episodes: Episodes, goals: Mapping[str, np.ndarray] | None = None) -> Episodes:
    """Return the episodes with one more observation per key, ``goal/KEY``: the last observation of the episode.

    Parameters
    ----------
    episodes : Episodes
    goals : mapping of key to array (E, ...), optional
        Other goals, one per episode.
    """
    ends = {f"goal/{k}": np.asarray(v[:]) for k, v in (goals or episodes.final_observations).items()}
    seen = {k: v[episodes.episode_of] if v.ndim < 4 else _PerEpisode(v, episodes.episode_of) for k, v in ends.items()}
    return replace(
        episodes,
        observations={**episodes.observations, **seen},
        final_observations={**episodes.final_observations, **ends},
    )


class _PerEpisode:
    """One row per step that is kept once per episode."""

    def __init__(self, values: np.ndarray, episode_of: np.ndarray) -> None:
        self.values, self.episode_of = values, episode_of
        self.shape, self.dtype = (len(episode_of), *values.shape[1:]), values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.values[self.episode_of[rows]]


def relevant_steps(prior: Episodes) -> np.ndarray:
    """Return the attribute ``relevant`` of prior data per step (T,), where it is given per episode or per step."""
    labels = prior.attributes.get("relevant")
    if labels is None:
        raise ValueError("the prior data have no attribute 'relevant' that says which of them help")
    array = np.asarray(labels, dtype=bool)
    if array.shape == (len(prior),) and len(prior) != prior.steps:
        array = array[prior.episode_of]
    if array.shape != (prior.steps,):
        raise ValueError(f"relevant must hold one value per episode or step, got the shape {array.shape}")
    if not array.any():
        raise ValueError("no prior transition is marked as relevant")
    return array
