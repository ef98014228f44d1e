"""A policy plays: :func:`evaluate` it, :func:`collect` episodes from it, :func:`record` one episode to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import Env
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from anytask.control.adapters import TensorVectorEnv, make, make_to_watch
from anytask.control.base import BatchedEnv, Obs, Policy
from anytask.control.envs import id_of

if TYPE_CHECKING:
    import os

    from PIL import Image

    from anytask.datasets.episodes import Episodes

__all__ = ["EpisodeResults", "collect", "evaluate", "record"]

#: Parallel environments where the caller names an environment by its id.
_NUM_ENVS = 64


@dataclass(frozen=True)
class EpisodeResults:
    """What a policy reached in ``E`` episodes.

    Attributes
    ----------
    success : ndarray (E,)
        1.0 or 0.0 at each episode's end, NaN where the environment does not tell.
    returns : ndarray (E,)
        Sum of rewards.
    lengths : ndarray (E,) of int
        Steps.

    Examples
    --------
    >>> results = EpisodeResults(np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 0, 1, 1]), np.array([7, 20, 8, 9]))
    >>> results.success_rate
    0.75
    >>> print(results.summary())
    success 75% (30% to 95%), return 0.75, 11.0 steps, 4 episodes
    """

    success: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.returns)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded; NaN where the environment does not tell."""
        return float(self.success.mean())

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Wilson's interval of the success rate, which is honest near 0 and 1 and with few episodes."""
        from scipy.stats import norm

        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
        n, share, z = len(self), self.success_rate, float(norm.ppf(0.5 + confidence / 2))
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
        return max(centre - half, 0.0), min(centre + half, 1.0)

    def summary(self) -> str:
        """Say it in one line."""
        low, high = self.interval()
        rate = "success unknown" if np.isnan(low) else f"success {self.success_rate:.0%} ({low:.0%} to {high:.0%})"
        return f"{rate}, return {self.returns.mean():.4g}, {self.lengths.mean():.1f} steps, {len(self)} episodes"


class _Step(NamedTuple):
    obs: Obs  # before the step
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    infos: dict[str, Any]


def _steps(policy: Policy, env: VectorEnv, seed: int, deterministic: bool) -> Iterator[_Step]:
    """Play on and on, and tell the policy where an episode begins."""
    forget = getattr(policy, "reset", None)
    obs, _ = env.reset(seed=seed)
    if forget is not None:
        forget()
    while True:
        with torch.no_grad():
            actions = policy.act(obs, deterministic=deterministic)
        after, rewards, terminated, truncated, infos = env.step(actions)
        yield _Step(obs, actions, rewards, terminated, truncated, infos)
        rows = (terminated | truncated).nonzero()[:, 0]
        if forget is not None and len(rows):
            forget(rows)
        obs = after


@contextmanager
def _prepared(policy: Any, env: Any, episodes: int, seed: int, options: dict[str, Any]) -> Iterator[VectorEnv]:
    """Give the environment in tensors; what was made here is closed afterwards."""
    if isinstance(episodes, bool) or not isinstance(episodes, (int, np.integer)) or episodes < 1:
        raise ValueError(f"episodes must be a whole number of at least 1, got {episodes!r}")
    if not callable(getattr(policy, "act", None)):
        raise TypeError(f"a policy has a method act(obs), and {type(policy).__name__} has none")
    num_envs = None if isinstance(env, VectorEnv) else 1 if isinstance(env, Env) else min(int(episodes), _NUM_ENVS)
    vector = make(env, num_envs, seed=seed, **options)
    try:
        if vector.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("the environment must restart by itself: make it with autoreset=True")
        yield vector
    finally:
        if not isinstance(env, (VectorEnv, Env)):
            vector.close()


def _quotas(episodes: int, num_envs: int) -> np.ndarray:
    """Return how many episodes each environment plays, so that short episodes are not counted more often."""
    base, more = divmod(episodes, num_envs)
    return np.full(num_envs, base) + (np.arange(num_envs) < more)


def evaluate(
    policy: Policy,
    env: Any,
    episodes: int = 100,
    *,
    seed: int = 0,
    deterministic: bool = True,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> EpisodeResults:
    """Return what a policy reaches in ``episodes`` episodes.

    How many episodes each parallel environment plays is set beforehand, and the rest is not counted: counting the first
    ``episodes`` that end would favour short ones, which are the successful ones in one world and the falls in another.

    Parameters
    ----------
    policy : Policy
        Anything with ``act(obs, deterministic=...)``, and ``reset(rows)`` if it remembers.
    env : VectorEnv, or whatever :func:`~anytask.control.make` takes
        An id is played by up to 64 parallel environments.
    episodes : int, default 100
    seed : int, default 0
        Of the episodes: equal seeds give equal starts to every policy.
    deterministic : bool, default True
        Ask the policy for its best action, or let it sample.
    progress : callable or None
        Called with the finished share in [0, 1].
    **options
        Handed to the environment where ``env`` is not made yet.

    Raises
    ------
    TypeError
        If the policy has no ``act``.
    ValueError
        If the environment does not restart by itself.

    Examples
    --------
    >>> from anytask.control.envs.experts import ScriptedReach
    >>> env = make("anytask/WalledReach-v0", 32)
    >>> evaluate(ScriptedReach(env), env, episodes=50).success_rate
    1.0
    """
    with _prepared(policy, env, episodes, seed, options) as vector:
        return _evaluate(policy, vector, int(episodes), seed, deterministic, progress)


def _evaluate(
    policy: Policy, env: VectorEnv, episodes: int, seed: int, deterministic: bool, progress: Callable | None
) -> EpisodeResults:
    quotas = _quotas(episodes, env.num_envs)
    counts = np.zeros(env.num_envs, int)
    found: list[tuple[int, int, float, float, int]] = []  # (round, environment, success, return, length)
    for step in _steps(policy, env, seed, deterministic):
        done = step.infos.get("_episode")
        if done is not None:
            rows = done.nonzero()[:, 0]
            columns = (step.infos["success"], step.infos["episode"]["r"], step.infos["episode"]["l"])
            table = torch.stack([c[rows].to(torch.float64) for c in columns], 1).tolist()
            for row, (success, total, length) in zip(rows.tolist(), table):
                if counts[row] < quotas[row]:
                    found.append((int(counts[row]), row, success, total, int(length)))
                    counts[row] += 1
            if progress is not None:
                progress(len(found) / episodes)
            if len(found) == episodes:
                break
    found.sort(key=lambda item: item[:2])
    _, _, success, returns, lengths = zip(*found)
    return EpisodeResults(np.array(success), np.array(returns), np.array(lengths, int))


def collect(
    policy: Policy,
    env: Any,
    episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = False,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Episodes:
    """Return the episodes that a policy plays, complete and in order, as a data set.

    Parameters
    ----------
    policy, env, seed, progress, **options
        As in :func:`evaluate`.
    episodes : int
        How many; each environment plays the same number (or one more), whatever their lengths.
    deterministic : bool, default False
        Data sets want variety: the policy samples.

    Returns
    -------
    Episodes
        Observations under their keys (``"observation"`` where there is one tensor), the actions as the environment
        took them (clamped to its bounds), and in ``attributes`` ``env_id`` (the Gymnasium id; of an
        environment without one the name of its class) and ``success`` (E,).

    Examples
    --------
    >>> from anytask.control.envs.experts import ScriptedReach
    >>> env = make("anytask/Reach-v0", 8)
    >>> data = collect(ScriptedReach(env, noise=0.3), env, 10)
    >>> len(data), data.observations["observation"].shape[1:], data.actions.shape[1:]
    (10, (3,), (2,))
    """
    with _prepared(policy, env, episodes, seed, options) as vector:
        return _collect(policy, vector, int(episodes), seed, deterministic, progress)


def _collect(
    policy: Policy, env: VectorEnv, episodes: int, seed: int, deterministic: bool, progress: Callable | None
) -> Episodes:
    from anytask.datasets.episodes import Episodes

    quotas = _quotas(episodes, env.num_envs)
    counts, first = np.zeros(env.num_envs, int), np.zeros(env.num_envs, int)
    blocks: list[dict[str, np.ndarray]] = []  # one step of all environments each, (n, ...)
    found: list[_Played] = []
    for step in _steps(policy, env, seed, deterministic):
        blocks.append(_block(step, env))
        done = step.infos.get("_episode")
        if done is None:
            continue
        finals = {key: value.cpu().numpy() for key, value in _named(step.infos["final_obs"]).items()}
        success = step.infos["success"].to(torch.float64).tolist()
        for row in done.nonzero()[:, 0].tolist():
            if counts[row] < quotas[row]:
                final = {key: value[row] for key, value in finals.items()}
                found.append(_Played(int(counts[row]), row, int(first[row]), len(blocks), final, success[row]))
                counts[row] += 1
            first[row] = len(blocks)
        if progress is not None:
            progress(len(found) / episodes)
        if len(found) == episodes:
            break
    found.sort(key=lambda played: (played.round, played.row))
    times = np.concatenate([np.arange(played.start, played.stop) for played in found])
    rows = np.concatenate([np.full(played.stop - played.start, played.row) for played in found])

    def joined(key: str) -> np.ndarray:
        return np.stack([blocks[time][key][row] for time, row in zip(times, rows)])

    return Episodes(
        observations={key: joined(f"obs/{key}") for key in found[0].final},
        actions=joined("action"),
        rewards=joined("reward"),
        terminated=joined("terminated"),
        truncated=joined("truncated"),
        final_observations={key: np.stack([played.final[key] for played in found]) for key in found[0].final},
        lengths=np.array([played.stop - played.start for played in found]),
        attributes={"env_id": _name(env), "success": np.array([played.success for played in found])},
    )


class _Played(NamedTuple):
    """One episode among the steps: those of environment ``row`` from ``start`` to before ``stop``."""

    round: int
    row: int
    start: int
    stop: int
    final: dict[str, np.ndarray]
    success: float


def _named(obs: Obs) -> dict[str, Tensor]:
    return obs if isinstance(obs, dict) else {"observation": obs}


def _block(step: _Step, env: VectorEnv) -> dict[str, np.ndarray]:
    """Return one step of all environments as arrays (n, ...)."""
    block = {f"obs/{key}": value.cpu().numpy() for key, value in _named(step.obs).items()}
    actions = torch.as_tensor(step.actions).detach().cpu().numpy()
    space = env.single_action_space
    block["action"] = np.clip(actions, space.low, space.high) if isinstance(space, Box) else actions
    block |= {"reward": step.rewards.cpu().numpy(), "terminated": step.terminated.cpu().numpy()}
    return block | {"truncated": step.truncated.cpu().numpy()}


def _name(env: VectorEnv) -> str:
    single = next(iter(getattr(env.unwrapped, "envs", [])), env)
    spec = env.spec or single.spec
    return spec.id if spec is not None else id_of(single) or type(single.unwrapped).__name__


@dataclass(frozen=True)
class Recording:
    """Images of one episode.

    Attributes
    ----------
    frames : list of ndarray (height, width, 3) uint8
        Before every step, and at last where the episode ended (but for a vector environment of another make that
        restarts within the step).
    rewards : list of float
        One per step.
    success : float
        1.0, 0.0 or NaN.
    """

    frames: list[np.ndarray]
    rewards: list[float]
    success: float

    def filmstrip(self, images: int = 6, **options: Any) -> Image.Image:
        """Return evenly spaced images side by side; see :func:`~anytask.control.images.filmstrip`."""
        from anytask.control.images import filmstrip

        return filmstrip(self.frames, images, **options)

    def save(self, path: str | os.PathLike[str], fps: float = 10.0) -> None:
        """Write a film that any browser plays: ``.gif``, ``.webp`` or ``.png`` (animated)."""
        from anytask.control.images import save_film

        save_film(path, self.frames, fps)


def record(policy: Policy, env: Any, *, seed: int = 0, deterministic: bool = True, **options: Any) -> Recording:
    """Play one episode and keep its images.

    Parameters
    ----------
    policy : Policy
        If it is bound to a world, that world is ``env``.
    env : VectorEnv, or whatever :func:`~anytask.control.make` takes
        Of a vector environment the first one is shown. A Gymnasium id is made with ``render_mode="rgb_array"``;
        MuJoCo's needs a display or ``MUJOCO_GL=egl`` in the environment of the process.
    seed : int, default 0
    deterministic : bool, default True
    **options
        Handed to the environment where ``env`` is not made yet.

    Raises
    ------
    RuntimeError
        If the environment draws nothing.

    Examples
    --------
    >>> from anytask.control.envs.experts import ScriptedReach
    >>> env = make("anytask/Reach-v0", 1, render_mode="rgb_array")
    >>> film = record(ScriptedReach(env), env)
    >>> len(film.frames), film.frames[0].shape, film.success
    (10, (256, 256, 3), 1.0)
    """
    if not callable(getattr(policy, "act", None)):
        raise TypeError(f"a policy has a method act(obs), and {type(policy).__name__} has none")
    if isinstance(env, VectorEnv):
        return _record(policy, make(env, **options), seed, deterministic)
    vector = make_to_watch(env, seed=seed, **({} if isinstance(env, Env) else {"render_mode": "rgb_array"}), **options)
    try:
        return _record(policy, vector, seed, deterministic)
    finally:
        if not isinstance(env, Env):
            vector.close()


def _record(policy: Policy, env: VectorEnv, seed: int, deterministic: bool) -> Recording:
    world: Any = env if isinstance(env, TensorVectorEnv) else env.unwrapped
    frames: list[np.ndarray] = []
    rewards: list[float] = []
    obs, _ = env.reset(seed=seed)
    forget = getattr(policy, "reset", None) or (lambda rows=None: None)
    forget()
    # A world that restarts within the step has no last image to give, so it is asked to wait.
    own = isinstance(world, BatchedEnv)
    restarts = own and world.autoreset
    if own:
        world.autoreset = False
    else:
        world.before_restart = lambda: frames.append(world.image(0))
    try:
        while True:
            frames.append(world.image(0))
            with torch.no_grad():
                actions = policy.act(obs, deterministic=deterministic)
            obs, reward, terminated, truncated, infos = env.step(actions)
            rewards.append(float(reward[0]))
            done = terminated | truncated
            if bool(done[0]):
                if own:
                    frames.append(world.image(0))
                return Recording(frames, rewards, float(infos["success"][0]))
            if bool(done.any()):
                if own:
                    obs, _ = env.reset(options={"reset_mask": done})
                forget(done.nonzero()[:, 0])
    finally:
        if own:
            world.autoreset = restarts
        else:
            world.before_restart = None
