"""What imitation systems share: a policy trained on an expert's episodes and, by a rule of its own, on other data."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from torch import Tensor, nn

from anytask.control.parts.imitation import BehaviourCloning, Head, Source
from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive
from anytask.datasets.episodes import Episodes, Statistics

Progress = Callable[[float], None] | None


class Imitator:
    """Base of the imitation systems: ``fit(episodes, prior)``, then a policy.

    A system says in :meth:`_sources` what its policy is trained on. Whatever that is, the policy sees equally many
    windows: ``2 * batch_size`` per gradient step, in equal shares.

    Parameters
    ----------
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None. "paper": robot arms; other values for images and for numbers alone. "small": a
        few thousand steps of few numbers, or of pictures of about 32 pixels.
    head, core, hidden, window, modes, min_std, evaluation, trunks, trunk_width, crop, lr, batch_size, steps
        Of the policy, as in :class:`~anytask.control.parts.imitation.BehaviourCloning`.
    policy : callable, optional
        Makes another policy: an object with ``fit(sources, statistics=..., progress=...)`` for a list of
        :class:`~anytask.control.parts.imitation.Source`, ``act`` and ``reset`` (and ``train``, ``state`` and
        ``load_state`` where it is to be corrected or saved).
    seed : int, default 0
    device : str, default "auto"

    Attributes
    ----------
    policy_ : BehaviourCloning
    statistics_ : dict
        What observations and actions are normalised with: those of the prior data where there are any.
    """

    #: Whether :meth:`fit` reads the attribute ``relevant`` of the prior data, which a system may not have.
    needs_labels: ClassVar[bool] = False
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "core": "lstm", "hidden": (400, 400), "lr": 1e-4, "batch_size": 100, "steps": 200_000,
            "trunks": None, "trunk_width": 128, "crop": None,
        },
        "paper with images": {
            "hidden": (1000, 1000), "batch_size": 16, "steps": 300_000, "trunks": "spatial-softmax",
        },
        "small": {
            "core": "mlp", "hidden": (128, 128), "lr": 1e-3, "batch_size": 64, "steps": 1500,
            "trunks": None, "trunk_width": 64, "crop": None,
        },
        "small with images": {},
    }  # fmt: skip

    def __init__(
        self,
        *,
        preset: str = "paper",
        head: Head | nn.Module = "gmm",
        core: str | nn.Module | None = None,
        hidden: Sequence[int] | None = None,
        window: int | None = None,
        modes: int = 5,
        min_std: float = 1e-4,
        evaluation: Literal["low-noise", "mode"] = "low-noise",
        trunks: Any = None,
        trunk_width: int | None = None,
        crop: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        policy: Callable[[], Any] | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        if preset not in ("paper", "small"):
            raise ValueError(f"preset must be 'paper' or 'small', got {preset!r}")
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
        for name, number in (("lr", lr),):
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be above 0, got {number!r}")
        for name, count in (("batch_size", batch_size), ("steps", steps), ("window", window), ("modes", modes)):
            if count is not None and (not isinstance(count, (int, np.integer)) or count < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        self.preset, self.head, self.core, self.hidden, self.window = preset, head, core, hidden, window
        self.modes, self.min_std, self.evaluation = modes, min_std, evaluation
        self.trunks, self.trunk_width, self.crop = trunks, trunk_width, crop
        self.lr, self.batch_size, self.steps, self.policy = lr, batch_size, steps, policy
        self.seed, self.device = int(seed), device

    policy_: Any
    statistics_: dict[str, Statistics]
    _shapes: dict[str, tuple[int, ...]]
    _action_dim: int

    # -- what users call ------------------------------------------------------------------------------------------

    def fit(self, episodes: Episodes, prior: Episodes | None = None, progress: Progress = None) -> Self:
        """Learn a policy.

        Parameters
        ----------
        episodes : Episodes
            Demonstrations of the task by an expert.
        prior : Episodes, optional
            Other behaviour, much of which may be useless.
        progress : callable, optional
            Called with the finished share.

        Raises
        ------
        ValueError
            If the two do not have the same observation keys, shapes and number of actions, or the system needs prior
            data and has none.
        """
        if not isinstance(episodes, Episodes) or not (prior is None or isinstance(prior, Episodes)):
            raise TypeError("fit takes Episodes; anytask.datasets.episode_files.load_episodes reads them from files")
        if prior is not None:
            check_alike(episodes, prior)
        before = dict(vars(self))
        try:
            self.statistics_ = (prior or episodes).statistics()
            self._shapes = {k: episodes.shape_of(k) for k in sorted(episodes.keys)}
            self._action_dim = episodes.action_dim
            self._fit(episodes, prior, progress)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions (n, d) for observations (n, ...) or key -> (n, ...)."""
        self._check_fitted()
        return self.policy_.act(obs, deterministic=deterministic)

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget what is remembered of the copies ``rows`` (m,), or of all."""
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
        """Return trainable and stored parameters."""
        self._check_fitted()
        net = getattr(self.policy_, "net_", None)
        n = 0 if net is None else sum(p.numel() for p in net.parameters() if p.requires_grad)
        return {"trainable_parameters": n, "stored_parameters": n}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted system to ``folder`` as safetensors + JSON; the prior data are not part of it."""
        self._check_fitted()
        params = {name: _saved(getattr(self, name)) for name in self._parameters()}
        save_tree(
            folder,
            {
                "class": f"{type(self).__module__}:{type(self).__qualname__}",
                "params": params,
                "shapes": {k: list(v) for k, v in self._shapes.items()},
                "action_dim": self._action_dim,
                "statistics": {k: list(v) for k, v in self.statistics_.items()},
                "state": self._state(),
            },
        )

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path
        device : str
            Where it is to live.
        **params
            Constructor arguments that cannot be saved (modules, callables): pass them again.
        """
        tree = load_tree(folder)
        name = f"{cls.__module__}:{cls.__qualname__}"
        if tree.get("class") != name:
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a {name}")
        settings = {k: v for k, v in tree["params"].items() if k not in params and k != "device"}
        for key, value in settings.items():
            if "again" in value:
                raise ValueError(f"{key} (a {value['again']}) was not saved: pass it again, load(folder, {key}=...)")
        model = cls(**{k: v["value"] for k, v in settings.items()}, **params, device=device)
        model._shapes = {k: tuple(v) for k, v in tree["shapes"].items()}
        model._action_dim = tree["action_dim"]
        model.statistics_ = {k: Statistics(*v) for k, v in tree["statistics"].items()}
        model._load_state(tree["state"])
        return model

    # -- what a system writes -------------------------------------------------------------------------------------

    def _sources(self, episodes: Episodes, prior: Episodes | None, progress: Progress) -> list[Source]:
        """Return what the policy learns from; each source has the same share of every batch."""
        raise NotImplementedError

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _fit(self, episodes: Episodes, prior: Episodes | None, progress: Progress) -> None:
        sources = self._sources(episodes, prior, part_of(progress, 0.0, 0.5))
        self.policy_ = self._make_policy(len(sources))
        self.policy_.fit(sources, statistics=self.statistics_, progress=part_of(progress, 0.5, 1.0))

    def _make_policy(self, n_sources: int) -> Any:
        if self.policy is not None:
            return self.policy()
        s = self._settings()
        return BehaviourCloning(
            s.head, s.core, s.hidden,
            window=s.window, modes=s.modes, min_std=s.min_std, evaluation=s.evaluation, trunks=s.trunks,
            trunk_width=s.trunk_width, crop=s.crop, lr=s.lr, batch_size=max(1, 2 * s.batch_size // n_sources),
            steps=s.steps, seed=derive(self.seed, "policy") % 2**31, device=self.device,
        )  # fmt: skip

    @classmethod
    def _parameters(cls) -> list[str]:
        """Names of all constructor arguments, those that a subclass hands on included."""
        names = dict.fromkeys(
            name
            for base in cls.__mro__[:-1]
            for name, p in inspect.signature(base).parameters.items()
            if p.kind is p.KEYWORD_ONLY
        )
        return list(names)

    def _settings(self) -> SimpleNamespace:
        """The constructor's parameters, ``None`` filled in from the preset for the observations at hand."""
        preset = dict(self.PRESETS[self.preset])
        if any(len(shape) == 3 for shape in self._shapes.values()):
            preset |= self.PRESETS[f"{self.preset} with images"]
        params = {name: getattr(self, name) for name in self._parameters()}
        return SimpleNamespace(**{k: preset.get(k) if v is None else v for k, v in params.items()})

    def _state(self) -> dict[str, Any]:
        return {"policy": self.policy_.state()}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.policy_ = self._make_policy(2)
        self.policy_.load_state(state["policy"])

    def _check_fitted(self) -> None:
        if not hasattr(self, "policy_"):
            raise RuntimeError(f"this {type(self).__name__} has not been trained yet: call fit")


def part_of(progress: Progress, start: float, end: float) -> Progress:
    """Return a callback that reports its own 0..1 as ``start``..``end`` of ``progress``."""
    if progress is None:
        return None
    return lambda share: progress(start + (end - start) * share)


def check_alike(episodes: Episodes, prior: Episodes) -> None:
    """Raise a ``ValueError`` unless both have the same observation keys, shapes and numbers per action."""
    if set(episodes.keys) != set(prior.keys):
        raise ValueError(f"the expert has the observations {sorted(episodes.keys)}, the prior {sorted(prior.keys)}")
    for key in episodes.keys:
        if episodes.shape_of(key) != prior.shape_of(key):
            shapes = f"{episodes.shape_of(key)} by the expert, {prior.shape_of(key)} in the prior data"
            raise ValueError(f"observation {key!r} has the shape {shapes}")
    if episodes.action_dim != prior.action_dim:
        raise ValueError(f"actions have {episodes.action_dim} numbers by the expert, {prior.action_dim} in the prior")


def _saved(value: Any) -> dict[str, Any]:
    try:
        json.dumps(value)
    except TypeError:
        return {"again": type(value).__name__}
    return {"value": value}
