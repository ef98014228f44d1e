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

from anytask.control.adapters import TensorVectorEnv, make
from anytask.control.base import Policy
from anytask.control.envs import id_of
from anytask.control.parts.acting import by_key
from anytask.core.checks import check_counts
from anytask.core.errors import check_flags
from anytask.core.progress import Progress, heard
from anytask.core.settings import check_number

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
        from scipy.stats import binomtest

        check_number(confidence, "confidence", above=0, below=1)
        if np.isnan(self.success_rate):
            return np.nan, np.nan
        low, high = binomtest(int(self.success.sum()), len(self)).proportion_ci(confidence, method="wilson")
        return float(low), float(high)

    def summary(self) -> str:
        """Say it in one line."""
        low, high = self.interval()
        rate = "success unknown" if np.isnan(low) else f"success {self.success_rate:.0%} ({low:.0%} to {high:.0%})"
        return f"{rate}, return {self.returns.mean():.4g}, {self.lengths.mean():.1f} steps, {len(self)} episodes"


class _Step(NamedTuple):
    obs: dict[str, Tensor]  # before the step
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    infos: dict[str, Any]


class _Played(NamedTuple):
    """One episode: the one of this number in environment ``row``, in the steps from ``start`` to before ``stop``."""

    round: int
    row: int
    start: int
    stop: int
    success: float
    total: float
    length: int


def _steps(
    policy: Policy, env: VectorEnv, seed: int, deterministic: bool, look: Callable[[], object] | None = None
) -> Iterator[_Step]:
    """Play on and on, and tell the policy where an episode begins; ``look`` is called before every action."""
    forget = getattr(policy, "reset", None) or (lambda rows=None: None)
    obs, _ = env.reset(seed=seed)
    forget()
    while True:
        if look is not None:
            look()
        with torch.no_grad():
            actions = policy.act(obs, deterministic=deterministic)
        after, rewards, terminated, truncated, infos = env.step(actions)
        yield _Step(by_key(obs), actions, rewards, terminated, truncated, infos)
        begins = terminated | truncated | infos.get("_reset", torch.zeros_like(terminated))
        if bool(begins.any()):
            forget(begins.nonzero()[:, 0])
        obs = after


def _episodes(
    policy: Policy, env: VectorEnv, episodes: int, seed: int, deterministic: bool, progress: Progress | None
) -> Iterator[tuple[_Step, list[_Played]]]:
    """Yield every step and the episodes that ended in it, until there are so many.

    Each environment plays a number that is set beforehand, so that short episodes are not counted more often.
    """
    base, more = divmod(episodes, env.num_envs)
    quotas = np.full(env.num_envs, base) + (np.arange(env.num_envs) < more)
    counts, first, found = np.zeros(env.num_envs, int), np.zeros(env.num_envs, int), 0
    for t, step in enumerate(_steps(policy, env, seed, deterministic), start=1):
        ended = []
        if "_reset" in step.infos:  # a step that only restarts an episode is none of it
            first[step.infos["_reset"].cpu().numpy()] = t
        if (done := step.infos.get("_episode")) is not None:
            columns = (step.infos["success"], step.infos["episode"]["r"], step.infos["episode"]["l"])
            table = torch.stack([c[done].to(torch.float64) for c in columns], 1).tolist()
            for row, (success, total, length) in zip(done.nonzero()[:, 0].tolist(), table):
                if counts[row] < quotas[row]:
                    ended.append(_Played(int(counts[row]), row, int(first[row]), t, success, total, int(length)))
                    counts[row] += 1
                first[row] = t
            found += len(ended)
            heard(progress)(found / episodes)
        yield step, ended
        if found == episodes:
            return


@contextmanager
def _prepared(policy: Any, env: Any, episodes: int, seed: int, options: dict[str, Any]) -> Iterator[VectorEnv]:
    """Give the environment in tensors; what was made here is closed afterwards."""
    check_counts(episodes=episodes)
    if not callable(getattr(policy, "act", None)):
        raise TypeError(f"a policy has a method act(obs), and {type(policy).__name__} has none")
    num_envs = None if isinstance(env, VectorEnv) else 1 if isinstance(env, Env) else min(int(episodes), _NUM_ENVS)
    vector = make(env, num_envs, seed=seed, **options)
    try:
        if vector.metadata.get("autoreset_mode") == AutoresetMode.DISABLED:
            raise ValueError("the environment must restart by itself: make it with autoreset=True")
        yield vector
    finally:
        if not isinstance(env, (VectorEnv, Env)):
            vector.close()


def evaluate(
    policy: Policy,
    env: Any,
    episodes: int | str = 100,
    *,
    seed: int = 0,
    deterministic: bool = True,
    progress: Progress | None = None,
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
    episodes : int or "all", default 100
        So many; or every episode of the environment's list once, in its order, by any number of parallel environments
        (:class:`~anytask.control.envs.rearrangement.Rearrangement` made with ``order="once"``).
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

    Notes
    -----
    The best action is not always the better policy: where exploration was part of what was learned, as for
    :class:`~anytask.control.galactic.Galactic`, sampled actions reach more (``deterministic=False``).

    Examples
    --------
    >>> from anytask.control.envs.experts import ScriptedReach
    >>> env = make("anytask/WalledReach-v0", 32)
    >>> evaluate(ScriptedReach(env), env, episodes=50).success_rate
    1.0
    """
    check_flags(deterministic=deterministic)
    if episodes == "all":
        if getattr(env, "order", None) != "once":
            raise ValueError("to play every episode of a list once, make the environment with order='once'")
        episodes = len(env.episodes)
    count: Any = episodes
    with _prepared(policy, env, count, seed, options) as vector:
        ended = [e for _, found in _episodes(policy, vector, count, seed, deterministic, progress) for e in found]
    _, _, _, _, success, returns, lengths = zip(*sorted(ended))
    return EpisodeResults(np.array(success), np.array(returns), np.array(lengths, int))


def collect(
    policy: Policy,
    env: Any,
    episodes: int,
    *,
    seed: int = 0,
    deterministic: bool = False,
    progress: Progress | None = None,
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
    check_flags(deterministic=deterministic)
    with _prepared(policy, env, episodes, seed, options) as vector:
        return played(policy, vector, episodes, seed, deterministic, progress)[0]


def played(
    policy: Policy, env: VectorEnv, episodes: int, seed: int, deterministic: bool, progress: Progress | None = None
) -> tuple[Episodes, np.ndarray]:
    """Return what :func:`collect` does, and (T, 2) of which call of ``act``, and of which row in it, each step is."""
    from anytask.datasets.episodes import Episodes

    blocks: list[dict[str, np.ndarray]] = []  # one step of all environments each, (n, ...)
    found: list[tuple[_Played, dict[str, np.ndarray]]] = []  # with the last observation
    space = env.single_action_space
    for step, ended in _episodes(policy, env, episodes, seed, deterministic, progress):
        seen = {f"obs/{key}": value for key, value in step.obs.items()}
        seen |= {name: getattr(step, name) for name in ("rewards", "terminated", "truncated")}
        blocks.append({name: value.cpu().numpy() for name, value in seen.items()})
        actions = torch.as_tensor(step.actions).detach().cpu().numpy()
        blocks[-1]["actions"] = np.clip(actions, space.low, space.high) if isinstance(space, Box) else actions
        if ended:
            last = {key: value.cpu().numpy() for key, value in by_key(step.infos["final_obs"]).items()}
            found += [(e, {key: value[e.row] for key, value in last.items()}) for e in ended]
    found.sort(key=lambda one: one[0])
    places = np.array([(t, e.row) for e, _ in found for t in range(e.start, e.stop)])

    def joined(name: str) -> np.ndarray:
        return np.stack([blocks[t][name][row] for t, row in places])

    keys = list(found[0][1])
    data = Episodes(
        observations={key: joined(f"obs/{key}") for key in keys},
        final_observations={key: np.stack([last[key] for _, last in found]) for key in keys},
        lengths=np.array([e.stop - e.start for e, _ in found]),
        attributes={"env_id": _name(env), "success": np.array([e.success for e, _ in found])},
        **{name: joined(name) for name in ("actions", "rewards", "terminated", "truncated")},
    )
    return data, places


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
        Before every step, and at last where the episode ended (but for a vector environment of the user's that restarts
        within the step).
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
    check_flags(deterministic=deterministic)
    if not isinstance(env, (VectorEnv, Env)):
        options = {"render_mode": "rgb_array", **options}
    with _prepared(policy, env, 1, seed, options) as vector:
        world: Any = vector if isinstance(vector, TensorVectorEnv) else vector.unwrapped
        frames, last, rewards = list[np.ndarray](), list[np.ndarray](), []
        world.before_restart = lambda: last.append(world.image(0))
        try:
            for step in _steps(policy, vector, seed, deterministic, lambda: frames.append(world.image(0))):
                rewards.append(float(step.rewards[0]))
                if bool((step.terminated | step.truncated)[0]):
                    return Recording(frames + last[-1:], rewards, float(step.infos["success"][0]))
        finally:
            world.before_restart = None
    raise AssertionError  # episodes end
