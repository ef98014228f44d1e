"""Any environment as a batch in tensors: :func:`make`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from anytask.control.base import BatchedEnv, Obs, checked_actions, replaced, reset_options
from anytask.control.envs import ENVIRONMENTS, batched_class
from anytask.control.parts.acting import by_key
from anytask.core.checks import check_counts, require_finite
from anytask.core.devices import resolve_device
from anytask.core.errors import shown

__all__ = ["make"]


def make(
    env: str | VectorEnv | gymnasium.Env | Callable[..., Any],
    num_envs: int | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    asynchronous: bool = False,
    flatten: bool = False,
    **options: Any,
) -> VectorEnv:
    """Return ``num_envs`` parallel environments of any kind, which step together and speak tensors.

    What comes back keeps the protocol of :class:`~anytask.control.base.BatchedEnv`: ``reset`` and ``step`` in tensors,
    automatic resets within the step, ``infos["success"]``, and at an episode's end ``infos["final_obs"]`` and
    ``infos["episode"]``.

    Parameters
    ----------
    env : str, callable, gymnasium.vector.VectorEnv or gymnasium.Env
        A Gymnasium id (this package's own are batched; every other one runs as that many single environments, one after
        another), a function that makes one :class:`gymnasium.Env`, a vector environment of any autoreset mode, or one
        environment. A :class:`~anytask.control.base.BatchedEnv` comes back as it is.
    num_envs : int or None
        Parallel environments; None is 1, or as many as a given vector environment has.
    seed : int, default 0
        Environment ``i`` is seeded with ``seed + i`` by the first ``reset()``.
    device : str or torch.device, default "cpu"
        Where the tensors are.
    asynchronous : bool, default False
        Run single environments in processes of their own. Pays off only where a step takes milliseconds.
    flatten : bool, default False
        Join the parts of a Dict observation to one vector.
    **options
        Handed to the environment, e.g. ``max_episode_steps`` or ``render_mode``.

    Raises
    ------
    ImportError
        If the id belongs to a package that is not installed.
    ValueError, TypeError
        If ``env`` is none of these, or its spaces cannot be made tensors; from ``step`` for actions, and from ``reset``
        and ``step`` for observations and rewards of the environment, that are NaN or infinite.

    Notes
    -----
    Floating observations become float32, images stay uint8, discrete observations become one-hot vectors, Dict
    observations stay dicts (nested ones and tuples are joined to one vector). Continuous actions are clamped to their
    bounds; of a discrete action space ``step`` takes whole numbers (n,).

    Success of an environment that is not of this package: what its info calls ``success`` or ``is_success`` in the
    step; where there is no such entry, at an episode's end whether its return reached ``spec.reward_threshold``; where
    there is none either, NaN.

    Examples
    --------
    >>> env = make("CartPole-v1", 4)
    >>> obs, _ = env.reset()
    >>> obs, reward, terminated, truncated, infos = env.step(torch.ones(4, dtype=torch.int64))
    >>> obs.shape, obs.dtype, reward.tolist()
    (torch.Size([4, 4]), torch.float32, [1.0, 1.0, 1.0, 1.0])
    """
    if num_envs is not None:
        check_counts(num_envs=num_envs)
    if isinstance(env, VectorEnv):
        if options:
            raise ValueError(f"a vector environment is already made, and takes no {sorted(options)}")
        if num_envs not in (None, env.num_envs):
            raise ValueError(
                f"the vector environment has num_envs={env.num_envs}, and num_envs={num_envs} is asked for"
            )
        if isinstance(env.unwrapped, BatchedEnv) or isinstance(env, TensorVectorEnv):
            return env
        return TensorVectorEnv(env, seed=seed, device=device, flatten=flatten)
    n = 1 if num_envs is None else int(num_envs)
    if (batched := batched_class_of(env)) is not None:
        return batched(n, seed=seed, device=resolve_device(device), **options)
    if isinstance(env, gymnasium.Env) and n != 1:
        raise ValueError("one environment is num_envs=1; give a function that makes environments")
    single = _single(env, options)
    kind: Any = AsyncVectorEnv if asynchronous else SyncVectorEnv
    # The adapter restarts them, so that the last image of an episode can be taken before.
    vector = kind([single] * n, autoreset_mode=AutoresetMode.DISABLED)
    return TensorVectorEnv(vector, seed=seed, device=device, flatten=flatten)


def batched_class_of(env: Any) -> type[BatchedEnv] | None:
    """Return the batched class that an id stands for, or that is given; None for any other environment."""
    if isinstance(env, str):
        name = env.removeprefix("anytask.control:")
        return batched_class(name) if name in ENVIRONMENTS else None
    return env if isinstance(env, type) and issubclass(env, BatchedEnv) else None


def _single(env: Any, options: dict[str, Any]) -> Callable[[], gymnasium.Env]:
    """Return a function that makes one environment."""
    create = env
    if isinstance(env, str):
        spec = find_spec(env)
        create = lambda **kwargs: gymnasium.make(spec, **kwargs)  # noqa: E731
    elif isinstance(env, gymnasium.Env):
        if options:
            raise ValueError(f"the environment is already made, and takes no {sorted(options)}")
        return lambda: env
    elif not callable(env):
        raise TypeError(f"env must be an id, an environment or a function that makes one, got {type(env).__name__}")

    def single() -> gymnasium.Env:
        made = create(**options)
        if not isinstance(made, gymnasium.Env):
            raise TypeError(f"the function must make a gymnasium.Env, and made a {type(made).__name__}")
        return made

    return single


def find_spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Return the spec of an id, after registering the packages that it may belong to."""
    # The namespaces whose packages register their ids only on demand.
    known = {"gymnasium_robotics": "control", "myosuite": "myo"}
    error: Exception | None = None
    for package in (None, *known):
        if package is not None:
            if importlib.util.find_spec(package) is None:
                continue
            gymnasium.register_envs(importlib.import_module(package))
        try:
            module, _, name = env_id.rpartition(":")
            if module:
                importlib.import_module(module)
            return gymnasium.spec(name)
        except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound) as reason:
            error = error or reason
        except (gymnasium.error.Error, ImportError, ValueError) as reason:
            raise ValueError(f"{shown(env_id)} is no environment that Gymnasium knows: {reason}") from reason
    missing = [f"{p}: pip install 'anytask[{extra}]'" for p, extra in known.items() if not importlib.util.find_spec(p)]
    hint = f" (not installed here: {'; '.join(missing)})" if missing else ""
    raise ValueError(f"{shown(env_id)} is no environment that Gymnasium knows{hint}: {error}")


class TensorVectorEnv(VectorEnv):
    """A vector environment of arrays in the protocol of :class:`~anytask.control.base.BatchedEnv`; see :func:`make`.

    Parameters
    ----------
    vector : gymnasium.vector.VectorEnv
        Of autoreset mode SAME_STEP; of mode DISABLED if its ``reset`` honours ``options["reset_mask"]``, through which
        finished environments are then restarted within the step (Gymnasium's own over single environments do, and are
        restarted so in any other mode); or of mode NEXT_STEP.
    seed : int, default 0
    device : str or torch.device, default "cpu"
    flatten : bool, default False

    Raises
    ------
    TypeError
        For an action or observation space that has no tensors.
    RuntimeError
        If finished environments cannot be restarted by mask and do not restart by themselves.

    Notes
    -----
    An environment that can only restart in the step after an episode's end (NEXT_STEP) keeps that mode: the observation
    at the end is the final one, the next step's actions move nothing in the environments of ``infos["_reset"]`` (n,)
    bool and earn 0, and the first observation of the next episode comes with it. Learning and evaluation in this
    package leave that step out.
    """

    def __init__(
        self, vector: VectorEnv, *, seed: int = 0, device: str | torch.device = "cpu", flatten: bool = False
    ) -> None:
        self.vector, self.num_envs, self.device = vector, vector.num_envs, resolve_device(device)
        self._seed: int | None = seed
        self.spec, self.render_mode = vector.spec, vector.render_mode
        self._space = vector.single_observation_space
        plain = isinstance(self._space, spaces.Dict) and all(isinstance(s, spaces.Box) for s in self._space.values())
        self._as_dict = plain and not flatten
        self.single_observation_space = _tensor_space(self._space, self._as_dict)
        self.single_action_space = vector.single_action_space
        if not isinstance(self.single_action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
            raise TypeError(f"actions must be Box, Discrete or MultiDiscrete, got {self.single_action_space}")
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = vector.action_space
        self._mode = vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        by_mask = isinstance(vector.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
        self._waits = self._mode == AutoresetMode.NEXT_STEP and not by_mask
        mode = AutoresetMode.NEXT_STEP if self._waits else AutoresetMode.SAME_STEP
        self.metadata = {**vector.metadata, "autoreset_mode": mode}
        self._over = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)  # and to restart in the next step
        self.elapsed = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self.returns = torch.zeros(self.num_envs, device=self.device)
        #: Called when episodes have ended, before anything restarts (not in mode SAME_STEP).
        self.before_restart: Callable[[], None] | None = None
        self._started = False
        # Single environments of a vector environment carry the spec that it may lack itself.
        inner = self.spec or getattr(next(iter(getattr(vector, "envs", [])), None), "spec", None)
        self._threshold = None if inner is None else inner.reward_threshold
        self.max_episode_steps = None if inner is None else inner.max_episode_steps

    @property
    def unwrapped(self) -> VectorEnv:
        """The vector environment of arrays."""
        return self.vector.unwrapped

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start an episode in every environment."""
        reset_options(options)
        if seed is None:
            seed, self._seed = self._seed, None
        self._seed = None
        obs, infos = self.vector.reset(seed=seed, options=options)
        self.elapsed.zero_()
        self.returns.zero_()
        self._over.zero_()
        self._started = True
        return self._tensors(obs), infos

    def step(self, actions: Any) -> tuple[Obs, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all environments; what is returned is that of :class:`~anytask.control.base.BatchedEnv`."""
        if not self._started:
            raise RuntimeError("call reset() before step()")
        raw, reward, ended, cut, given = self.vector.step(self._checked(actions))
        reward = require_finite(np.array(reward, np.float32), "a reward that the environment gave")
        rewards = torch.as_tensor(reward, device=self.device).masked_fill(self._over, 0.0)
        terminated = torch.as_tensor(np.array(ended, bool), device=self.device)
        truncated = torch.as_tensor(np.array(cut, bool), device=self.device) & ~terminated
        idle, self._over = self._over, torch.zeros_like(self._over)
        self.elapsed += (~idle).long()
        self.returns += rewards
        done = terminated | truncated
        rows = done.nonzero()[:, 0]
        obs = self._tensors(raw)
        infos: dict[str, Any] = {"success": self._success(given, done), "env": given}
        if self._waits:
            infos["_reset"] = idle
        if len(rows):
            infos |= {"_final_obs": done, "_episode": done, "final_obs": obs}
            infos["episode"] = {"r": self.returns.clone(), "l": self.elapsed.clone()}
            if self._mode == AutoresetMode.SAME_STEP:
                finals = [given["final_obs"][row] for row in rows.tolist()]
                infos["final_obs"] = replaced(obs, rows, self._tensors_of(finals))
            else:
                if self.before_restart is not None:
                    self.before_restart()
                obs = obs if self._waits else self._restarted(obs, done)
            self._over = done if self._waits else self._over
            self.elapsed[rows], self.returns[rows] = 0, 0.0
        return obs, rewards, terminated, truncated, infos

    def _restarted(self, kept: Obs, done: Tensor) -> Obs:
        """Reset the finished environments by mask, and make sure that the others have not moved."""
        raw, _ = self.vector.reset(options={"reset_mask": done.cpu().numpy()})
        fresh = self._tensors(raw)
        before, after = by_key(kept), by_key(fresh)
        if not all(torch.equal(before[key][~done], after[key][~done]) for key in before):
            raise RuntimeError(
                f"{type(self.vector.unwrapped).__name__} has autoreset mode {self._mode} and its reset() moves others"
                " than those of reset_mask: make it with autoreset_mode=SAME_STEP"
            )
        return fresh

    def _success(self, infos: dict[str, Any], done: Tensor) -> Tensor:
        known, ended = np.full(self.num_envs, np.nan, np.float32), done.cpu().numpy()
        # SAME_STEP puts the last step's own info aside, and in its place stands that of the reset.
        own = ~ended if self._mode == AutoresetMode.SAME_STEP else ended | True
        for source, rows in ((infos, own), (infos.get("final_info") or {}, ended)):
            for key in ("is_success", "success"):
                if key in source:
                    there = rows & np.array(source.get(f"_{key}", True), bool)
                    known[there] = [bool(value) for value in np.asarray(source[key])[there]]
        if self._threshold is not None:
            unknown = np.isnan(known) & ended
            known[unknown] = (self.returns.cpu().numpy() >= self._threshold)[unknown]
        return torch.as_tensor(known, device=self.device)

    def _checked(self, actions: Any) -> np.ndarray:
        space = self.single_action_space
        given = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        given = checked_actions(given, space, self.num_envs)
        if isinstance(space, spaces.Box):
            return np.clip(given, space.low, space.high).astype(space.dtype)
        if given.dtype.kind not in "iu":
            raise TypeError(f"actions of {space} must be whole numbers, got {given.dtype}")
        assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
        start: Any = space.start
        count: Any = space.n if isinstance(space, spaces.Discrete) else space.nvec
        if ((given < start) | (given >= start + count)).any():
            raise ValueError(f"actions must lie in {space}, got values from {given.min()} to {given.max()}")
        return given.astype(space.dtype)

    def _tensors(self, obs: Any) -> Obs:
        """Turn a batch of observations into tensors."""
        if self._as_dict:
            return {key: self._tensor(value) for key, value in obs.items()}
        if isinstance(self._space, spaces.Box):
            return self._tensor(obs)
        return self._tensors_of(list(gymnasium.vector.utils.iterate(self.vector.observation_space, obs)))

    def _tensors_of(self, single: list[Any]) -> Obs:
        """Turn observations of single environments into tensors (m, ...)."""
        if self._as_dict:
            return {key: self._tensor(np.stack([obs[key] for obs in single])) for key in self._space}  # type: ignore[attr-defined]
        if isinstance(self._space, spaces.Box):
            return self._tensor(np.stack(single))
        return self._tensor(np.stack([np.asarray(spaces.flatten(self._space, obs), np.float32) for obs in single]))

    def _tensor(self, values: Any) -> Tensor:
        values = np.array(values)
        if values.dtype != np.uint8:
            values = require_finite(values.astype(np.float32), "an observation that the environment gave")
        return torch.as_tensor(values, device=self.device)

    def render(self) -> Any:
        """Return what the vector environment draws: one image per environment."""
        return self.vector.render()

    def image(self, row: int = 0) -> np.ndarray:
        """Return an image (height, width, 3) uint8 of one environment; needs ``render_mode="rgb_array"``."""
        images: Any = self.vector.render()
        if images is None:
            raise RuntimeError("this environment draws nothing: make it with render_mode='rgb_array'")
        return np.asarray(images[row])

    def close_extras(self, **kwargs: Any) -> None:
        """Close the vector environment."""
        self.vector.close(**kwargs)


def _tensor_space(space: gymnasium.Space, as_dict: bool) -> gymnasium.Space:
    if as_dict:
        assert isinstance(space, spaces.Dict)
        return spaces.Dict({key: _tensor_space(part, False) for key, part in space.items()})
    if not isinstance(space, spaces.Box):
        if not space.is_np_flattenable:
            raise TypeError(f"observations of {space} have no fixed shape as a tensor")
        space = spaces.flatten_space(space)
    assert isinstance(space, spaces.Box)
    if space.dtype in (np.uint8, np.float32):
        return space
    return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)


def tells_success(env: VectorEnv) -> bool:
    """Whether episodes of ``env``, as :func:`make` returns it, can be told to have succeeded; resets and steps it once.

    Examples
    --------
    >>> tells_success(make("anytask/Reach-v0", 1)), tells_success(make("Pendulum-v1", 1))
    (True, False)
    """
    env.reset()
    action = np.stack([env.single_action_space.sample() for _ in range(env.num_envs)])
    infos = env.step(action)[4]
    known = bool(np.isfinite(float(infos["success"][0])))
    return known or getattr(env.spec, "reward_threshold", None) is not None
