"""What imitation systems share: a policy trained on an expert's episodes and, by a rule of its own, on other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor

from anytask.control.parts.acting import refuses, require_episodes
from anytask.control.parts.imitation import BehaviorCloning, CloningSettings, Source
from anytask.core.cost import cost_of
from anytask.core.errors import check_flags
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.core.settings import group, of_kind
from anytask.datasets.episodes import Episodes, Statistics


class Imitator(Estimator):
    """Base of the imitation systems: ``fit(episodes, prior)``, then a policy.

    A system says in :meth:`_sources` what its policy is trained on. Whatever that is, the policy sees equally many
    windows: ``2 * batch_size`` per gradient step, in equal shares.

    The defaults are the published values for robot arms observed in numbers; preset "images": those for images;
    "small": a few thousand steps of few numbers, or of images of about 32 pixels.

    Parameters
    ----------
    cloning : CloningSettings or mapping
        Of the policy, as in :class:`~anytask.control.parts.imitation.BehaviorCloning`.
    policy : callable, optional
        Makes another policy: an object with ``fit(sources, statistics=..., progress=...)`` for a list of
        :class:`~anytask.control.parts.imitation.Source`, ``act`` and ``reset``.
    seed, device
        As in :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    policy_ : BehaviorCloning
    statistics_ : dict
        What observations and actions are normalised with: those of the prior data where there are any.
    """

    #: Whether :meth:`fit` needs prior data.
    needs_prior: ClassVar[bool] = True
    #: Whether :meth:`fit` reads the attribute ``relevant`` of the prior data, which a system may not have.
    needs_labels: ClassVar[bool] = False
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "images": {
            "cloning": {"hidden": (1000, 1000), "batch_size": 16, "steps": 300_000, "trunks": "spatial-softmax"},
        },
        "small": {
            "cloning": {
                "core": "mlp", "hidden": (128, 128), "lr": 1e-3, "batch_size": 64, "steps": 1500, "trunk_width": 64,
            },
        },
    }  # fmt: skip

    cloning: CloningSettings = group(CloningSettings, "the policy and its training")
    policy: Callable[[], Any] | None = of_kind(
        None, (Callable,), "a callable", "makes another policy; None: behavior cloning", optional=True
    )

    policy_: Any
    statistics_: dict[str, Statistics]
    shapes_: dict[str, tuple[int, ...]]
    action_dim_: int

    # -- what users call ------------------------------------------------------------------------------------------

    refuses = staticmethod(refuses)

    def fit(self, episodes: Episodes, prior: Episodes | None = None, progress: Progress | None = None) -> Self:
        """Learn a policy.

        Parameters
        ----------
        episodes : Episodes
            Demonstrations of the task by an expert.
        prior : Episodes, optional
            Other behaviour, much of which may be useless.
        progress : callable, optional
            Told the finished share.

        Raises
        ------
        ValueError
            If the two do not have the same observation keys, shapes and number of actions, or the system needs prior
            data and has none.
        """
        require_episodes(episodes, "the episodes")
        if prior is not None:
            require_episodes(prior, "the prior")
        if prior is None and self.needs_prior:
            raise ValueError(f"{type(self).__name__} needs prior data: fit(episodes, prior=...)")
        if prior is not None and (difference := episodes.unlike(prior)):
            raise ValueError(f"the prior has {difference} of the expert's episodes")
        with self._refit():
            self.statistics_ = (prior or episodes).statistics()
            self.shapes_ = {k: tuple(episodes.shape_of(k)) for k in sorted(episodes.keys)}
            self.action_dim_ = episodes.action_dim
            self._fit(episodes, prior, progress)
        return self

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions (n, d) for observations (n, ...) or key -> (n, ...)."""
        check_flags(deterministic=deterministic)
        self._check_fitted()
        return self.policy_.act(obs, deterministic=deterministic)

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget what is remembered of the rows ``rows`` (m,), or of all."""
        if hasattr(self, "policy_"):
            self.policy_.reset(rows)

    def log_prob(self, episodes: Episodes) -> np.ndarray:
        """Return the log-density of each recorded action (T,) under the policy."""
        self._check_fitted()
        return self.policy_.log_prob(episodes)

    def predict(self, episodes: Episodes) -> np.ndarray:
        """Return what the policy would do (T, d) at every recorded step."""
        self._check_fitted()
        return self.policy_.predict(episodes)

    def cost(self) -> dict[str, int]:
        """Return how many numbers are trained (the policy's) and stored."""
        self._check_fitted()
        return cost_of([getattr(self, name) for name in self._fitted()], getattr(self.policy_, "net_", None))

    # -- what a system writes -------------------------------------------------------------------------------------

    def _sources(self, episodes: Episodes, prior: Any, progress: Progress | None) -> list[Source]:
        """Return what the policy learns from; each source has the same share of every batch."""
        raise NotImplementedError

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _fit(self, episodes: Episodes, prior: Any, progress: Progress | None) -> None:
        sources = self._sources(episodes, prior, portion(progress, 0.0, 0.5))
        self.policy_ = self._new_policy(len(sources))
        self.policy_.fit(sources, statistics=self.statistics_, progress=portion(progress, 0.5, 1.0))

    def _new_policy(self, n_sources: int) -> Any:
        if self.policy is not None:
            return self.policy()
        batch_size = max(1, 2 * self.cloning.batch_size // n_sources)
        shared = {"batch_size": batch_size, "seed": derive(self.seed, "policy") % 2**31, "device": self.device}
        return BehaviorCloning(**{**self.cloning.get_params(deep=False), **shared})

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        return {**state, "policy": state["values"].pop("policy_")._state()}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        super()._load_state(state)
        self.statistics_ = {key: Statistics(*values) for key, values in self.statistics_.items()}
        self.policy_ = self._new_policy(2)
        self.policy_._load_state(state["policy"])
