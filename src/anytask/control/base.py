"""The control family's protocol: batched environments in tensors, policies, and how one plays the other.

An environment is a :class:`gymnasium.vector.VectorEnv`. Those of this package, :class:`BatchedEnv`, keep
``num_envs`` parallel environments in tensors, so that a step has no loop over them and runs on any device;
:func:`anytask.control.make` brings every other Gymnasium environment into the same form. A policy is anything with
``act(obs)``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from anytask.control.parts.acting import by_key
from anytask.control.parts.counter_rng import CounterRandom
from anytask.core.checks import NotFinite, as_array, check_counts, check_numbers, check_place, require_finite
from anytask.core.devices import resolve_device
from anytask.core.errors import check_word, instance_of, shown
from anytask.core.settings import Settings

__all__ = ["BatchedEnv", "Policy", "SingleEnv"]

Obs: TypeAlias = "Tensor | dict[str, Tensor]"


@runtime_checkable
class Policy(Protocol):
    """What acts: ``obs`` is a tensor (n, ...) or a dict of them, and the actions are (n, action_dim)."""

    def act(self, obs: Obs, *, deterministic: bool = True) -> Tensor:
        """Return one action per environment; with ``deterministic=False`` sampled from the policy's own generator."""
        ...

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget what is remembered (recurrent state, rest of a chunk) of the environments ``rows`` (m,), or of all."""
        ...


class BatchedEnv(gymnasium.vector.VectorEnv):
    """``num_envs`` parallel environments that live in tensors and are stepped together.

    A subclass keeps its state in tensors with ``num_envs`` on the first axis, names them in ``STATE``, and writes four
    short methods: :meth:`_restart`, :meth:`_advance`, :meth:`_observe` and :meth:`_draw`. This class does the rest:
    spaces, seeds, time limits, automatic resets, episode statistics, and saving and restoring the state of the world.

    Parameters
    ----------
    num_envs : int
        Environments.
    observation_space, action_space : gymnasium.Space
        Of one environment: a Box, or a Dict of Boxes for observations.
    max_episode_steps : int
        An episode that has not ended by itself is truncated after this many steps.
    device : str or torch.device, default "cpu"
        Where the tensors live.
    seed : int, default 0
        Environment ``i`` draws from the stream of ``seed + i``, alike however many environments there are.
    autoreset : bool, default True
        Restart finished environments within the same step (Gymnasium's ``SAME_STEP``): the observation returned is the
        first of the next episode, and ``infos["final_obs"]`` holds the last one. Without it (``DISABLED``) the caller
        resets them by ``reset(options={"reset_mask": mask})`` before the next step.
    render_mode : None or "rgb_array"

    Attributes
    ----------
    elapsed, returns, limits : Tensor (n,)
        Steps and sum of rewards of the running episodes, and the steps after which they are truncated.
    ended : Tensor (n,) of bool
        Environments that are over and wait for a reset; only without ``autoreset``.

    Notes
    -----
    ``step`` returns tensors: observations (n, ...), rewards (n,) float32, terminations and truncations (n,) bool, and
    ``infos`` with ``success`` (n,) bool and, where an episode ended, ``final_obs`` (like the observations; valid in the
    rows of ``_final_obs``) and ``episode`` = ``{"r": return, "l": length}`` (n,).
    """

    env_id: ClassVar[str | None] = None  # Gymnasium id of the class, for the environments of this package
    settings_class: ClassVar[type[Settings]] = Settings  # what can be chosen, as keywords of the constructor
    STATE: ClassVar[tuple[str, ...]] = ()  # attributes that hold the world's state, each (n, ...)
    #: Called when episodes have ended, before anything restarts.
    before_restart: Callable[[], object] | None = None
    #: State that rewards or success depend on although no observation shows it, each with the reason.
    UNOBSERVED: ClassVar[Mapping[str, str]] = {
        "limits": "the first episodes that stagger() cuts short end unannounced, so that resets spread over time"
    }
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.spaces.Box,
        max_episode_steps: int,
        *,
        device: str | torch.device = "cpu",
        seed: int = 0,
        autoreset: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_counts(num_envs=num_envs, max_episode_steps=max_episode_steps)
        instance_of("observation_space", gymnasium.Space, optional=False)(observation_space)
        instance_of("action_space", gymnasium.spaces.Box, optional=False)(action_space)
        instance_of("autoreset", bool, optional=False)(autoreset)
        if render_mode is not None:
            check_word(render_mode, ("rgb_array",), "render_mode")
        self.num_envs, self.max_episode_steps = int(num_envs), int(max_episode_steps)
        self.device = resolve_device(device)
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self.autoreset, self.render_mode = autoreset, render_mode
        mode = AutoresetMode.SAME_STEP if autoreset else AutoresetMode.DISABLED
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        self.action_dim = int(np.prod(action_space.shape))
        self._low = torch.as_tensor(action_space.low, device=self.device)
        self._high = torch.as_tensor(action_space.high, device=self.device)
        self.limits = torch.full((self.num_envs,), self.max_episode_steps, device=self.device)
        self.elapsed = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self.returns = torch.zeros(self.num_envs, device=self.device)
        self.ended = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.random = self._streams(seed)
        self._started = False

    def _streams(self, seed: int | Sequence[int]) -> CounterRandom:
        seeds = np.atleast_1d(as_array(seed, "seed"))
        if seeds.dtype.kind not in "iu" or ((seeds < 0) | (seeds >= 2**62)).any():
            wanted = "a whole number of at least 0 and below 2**62 (or one per environment)"
            raise ValueError(f"seed must be {wanted}, got {shown(seed)}")
        if np.ndim(seed) == 0:
            # A batch of one with seed 7 and the eighth environment of a batch with seed 0 are the same world.
            return CounterRandom(torch.arange(int(seeds[0]), int(seeds[0]) + self.num_envs, device=self.device))
        if seeds.shape != (self.num_envs,):
            raise ValueError(f"{self.num_envs} seeds are wanted, one per environment, got {seeds.shape}")
        return CounterRandom(torch.as_tensor(seeds.astype(np.int64), device=self.device))

    @abstractmethod
    def _restart(self, rows: Tensor) -> None:
        """Put the environments ``rows`` (m,) at the start of an episode, with ``self.random`` and ``rows=rows``."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Apply clamped actions (n, action_dim); return reward (n,), terminated (n,) bool and success (n,) bool."""

    @abstractmethod
    def _observe(self, rows: Tensor | None = None) -> Obs:
        """Return fresh tensors: the observations of all environments, or of ``rows`` (m,)."""

    def _draw(self, row: int) -> np.ndarray:
        """Return an image (height, width, 3) uint8 of environment ``row``."""
        raise NotImplementedError(f"{type(self).__name__} draws no images")

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode in every environment, or in those of ``options["reset_mask"]`` (n,) bool.

        A ``seed`` starts the streams of the environments that are reset anew; without one they go on.
        """
        mask = reset_options(options).get("reset_mask")
        if mask is None:
            rows = torch.arange(self.num_envs, device=self.device)
        else:
            mask = torch.as_tensor(as_array(mask, "reset_mask"), device=self.device)
            if mask.dtype != torch.bool or mask.shape != (self.num_envs,):
                kind = f"{mask.dtype} of shape {tuple(mask.shape)}"
                raise ValueError(f"reset_mask must be boolean of shape ({self.num_envs},), got {kind}")
            rows = mask.nonzero()[:, 0]
            if not self._started and len(rows) < self.num_envs:
                raise ValueError("the first reset starts every environment, and takes no reset_mask")
        if seed is not None:
            fresh = self._streams(seed)
            self.random.keys[rows], self.random.counters[rows] = fresh.keys[rows], fresh.counters[rows]
        self._begin(rows)
        self._started = True
        return self._shown(), {}

    def _begin(self, rows: Tensor) -> None:
        self.elapsed[rows], self.returns[rows], self.ended[rows] = 0, 0.0, False
        self.limits[rows] = self.max_episode_steps
        self._restart(rows)

    def stagger(self) -> None:
        """Cut environment ``i``'s running episode to ``limit - i % limit`` steps, so that resets spread over time.

        Call it after :meth:`reset`; the episodes after the first are of full length.
        """
        cut = torch.arange(self.num_envs, device=self.device) % self.max_episode_steps
        self.limits = self.max_episode_steps - cut

    def step(self, actions: Any) -> tuple[Obs, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all environments; see the class notes for what is returned."""
        outcome = self._advance(self._accepted(actions))
        rewards, terminated, truncated, infos = self._counted(*outcome)
        obs = self._shown()
        if "_final_obs" in infos:
            infos["final_obs"] = obs
            if self.before_restart is not None:
                self.before_restart()
            if self.autoreset:
                rows = infos["_final_obs"].nonzero()[:, 0]
                self._begin(rows)
                obs = replaced(obs, rows, self._shown(rows))
        return obs, rewards, terminated, truncated, infos

    def _shown(self, rows: Tensor | None = None) -> Obs:
        """Return the observations of all environments, or of ``rows`` (m,), if they are finite numbers."""
        obs = self._observe(rows)
        for key, x in by_key(obs).items():
            # One sum finds whatever is not finite.
            if x.is_floating_point() and not bool(torch.isfinite(x.sum())):
                for row in (~torch.isfinite(x)).flatten(1).any(1).nonzero()[:1, 0].tolist():
                    number = row if rows is None else int(rows[row])
                    raise NotFinite(
                        f"observation {key!r} of environment {number} is NaN or infinite: {x[row].tolist()}"
                    )
        return obs

    def _accepted(self, actions: Any) -> Tensor:
        """Return the actions as a step takes them, or say why there can be no step."""
        if not self._started:
            raise RuntimeError("call reset() before step()")
        if not self.autoreset and bool(self.ended.any()):
            over = self.ended.nonzero()[:, 0].tolist()
            raise RuntimeError(f"episodes {over} are over: reset them (options={{'reset_mask': mask}})")
        return self._checked(actions)

    def _counted(
        self, rewards: Tensor, terminated: Tensor, success: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        """Count a step that was made: rewards, terminations, truncations, and infos but for the final observations."""
        require_finite(rewards, f"a reward of {type(self).__name__}")
        self.elapsed += 1
        self.returns += rewards
        truncated = (self.elapsed >= self.limits) & ~terminated
        infos: dict[str, Any] = {"success": success}
        done = terminated | truncated
        if bool(done.any()):
            infos |= {"_final_obs": done, "_episode": done}
            infos["episode"] = {"r": self.returns.clone(), "l": self.elapsed.clone()}
            if not self.autoreset:
                self.ended = done
        return rewards, terminated, truncated, infos

    def _checked(self, actions: Any) -> Tensor:
        actions = check_numbers(actions, "actions").to(self.device, torch.float32)
        return checked_actions(actions, self.single_action_space, self.num_envs).clamp(self._low, self._high)

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """Return one image per environment with ``render_mode="rgb_array"``, else None."""
        if self.render_mode is None:
            return None
        return tuple(self._draw(row) for row in range(self.num_envs))

    def image(self, row: int = 0) -> np.ndarray:
        """Return an image (height, width, 3) uint8 of one environment, whatever the render mode."""
        return self._draw(check_place(row, self.num_envs, "environments"))

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the state of all worlds: positions, clocks and random streams."""
        return {name: value.clone() for name, value in self._state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        own = self._state()
        instance_of("state", Mapping, optional=False)(state)
        if missing := set(own) ^ set(state):
            raise ValueError(f"this is the state of another environment: {sorted(missing)} do not match")
        for name, value in own.items():
            if value.shape != state[name].shape:
                raise ValueError(f"{name} has shape {tuple(state[name].shape)}, and {tuple(value.shape)} is wanted")
        for name, value in own.items():
            value.copy_(state[name])
        self._started = True

    def _state(self) -> dict[str, Tensor]:
        common = {"elapsed": self.elapsed, "returns": self.returns, "limits": self.limits, "ended": self.ended}
        streams = {"keys": self.random.keys, "counters": self.random.counters}
        return common | streams | {name: getattr(self, name) for name in self.STATE}


def reset_options(options: Any) -> Mapping[str, Any]:
    """Return the options of a reset, or say that they are no mapping."""
    instance_of("options", Mapping)(options)
    return options or {}


def checked_actions(actions: Any, space: gymnasium.Space, n: int) -> Any:
    """Return finite actions (n, ...) in the shape of the space; they may be given as flat rows.

    Parameters
    ----------
    actions : Tensor or ndarray
    space : gymnasium.Space
        Of one action.
    n : int

    Examples
    --------
    >>> checked_actions(np.zeros((3, 1)), gymnasium.spaces.Box(-1, 1, ()), 3).shape
    (3,)
    """
    wanted = (n, *(space.shape or ()))
    if tuple(actions.shape) not in (wanted, (n, math.prod(wanted[1:]))):
        raise ValueError(f"actions must have shape {wanted}, got {tuple(actions.shape)}")
    rows = torch.isfinite(torch.as_tensor(actions)).reshape(n, -1).all(1)
    if not bool(rows.all()):
        row = int((~rows).nonzero()[0, 0])
        raise ValueError(f"actions must be finite numbers, got {actions[row].tolist()} in row {row}")
    return actions.reshape(wanted)


def replaced(obs: Obs, rows: Tensor, fresh: Any) -> Obs:
    """Return a copy of ``obs`` whose ``rows`` are ``fresh``; ``obs`` itself is kept as the final observation."""
    if isinstance(obs, dict):
        return {key: value.index_copy(0, rows, fresh[key]) for key, value in obs.items()}
    return obs.index_copy(0, rows, fresh)


class SingleEnv(gymnasium.Env):
    """A :class:`BatchedEnv` of one as a :class:`gymnasium.Env` on arrays, for whatever takes one environment.

    Parameters
    ----------
    batched : BatchedEnv class or callable
        Called as ``batched(num_envs=1, seed=..., autoreset=False, render_mode=..., **options)``.
    render_mode : None or "rgb_array"
    **options
        What the environment takes.
    """

    def __init__(self, batched: Any, render_mode: str | None = None, **options: Any) -> None:
        instance_of("batched", Callable, optional=False, wanted="a class of environments or a function")(batched)
        self.batched: BatchedEnv = batched(num_envs=1, autoreset=False, render_mode=render_mode, **options)
        self.observation_space = self.batched.single_observation_space
        self.action_space = self.batched.single_action_space
        self.metadata = {k: v for k, v in self.batched.metadata.items() if k != "autoreset_mode"}
        self.render_mode = render_mode
        self._seeded = "seed" in options

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; return the observation and an empty dict."""
        reset_options(options)
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0):
            raise ValueError(f"seed must be an integer of at least 0, or None, got {shown(seed)}")
        super().reset(seed=None if seed is None else int(seed))
        # Like Gymnasium's own, an environment that was never seeded draws a seed once.
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))
        self._seeded = True
        obs, info = self.batched.reset(seed=seed, options=options)
        return _first(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step once; return observation, reward, terminated, truncated, and ``{"success": bool}``."""
        obs, reward, terminated, truncated, info = self.batched.step(check_numbers(action, "action")[None])
        known = {"success": bool(info["success"][0])}
        return _first(obs), float(reward[0]), bool(terminated[0]), bool(truncated[0]), known

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """Return an image (height, width, 3) uint8 with ``render_mode="rgb_array"``, else None."""
        return None if self.render_mode is None else self.batched.image()


def _first(obs: Obs) -> Any:
    if isinstance(obs, dict):
        return {key: value[0].cpu().numpy() for key, value in obs.items()}
    return obs[0].cpu().numpy()
