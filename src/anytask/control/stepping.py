"""Step an environment in the background, so that its physics and its rendering run at the same time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from torch import Tensor

from anytask.control.base import BatchedEnv, Obs, replaced, reset_options
from anytask.core.errors import instance_of

__all__ = ["OverlappedStepper"]

_Results = tuple[Any, Any, Any, Any, dict[str, Any]]
_OUTCOME = ("reward", "terminated", "success")  # of the physics of a step


class OverlappedStepper(VectorWrapper):
    """A vector environment that answers one step late, and works while nobody waits for it.

    ``step(a_t)`` waits for the physics of the state s_t, which the call before started; counts rewards and ends of s_t
    and restarts what is over; starts the physics of a_t in a thread; and, while that runs, computes the sensors and
    images of s_t and returns them. So observation, reward and ends belong to the action *before* the one just sent:
    what call t + 1 returns is, to the last bit, what the environment itself returns at call t for the same actions. The
    first call after ``reset`` returns the first observation once more, rewards 0 and no ends.

    Pick it where rendering and physics cost alike (images; physics on the CPU and rendering on a GPU; a real robot). A
    policy then acts on what it saw one step before, and a learner has to credit rewards to the action before;
    :class:`~anytask.control.ppo.PPO` does so by :attr:`lag`. Without it, step the environment itself: that is the
    synchronous mode.

    Parameters
    ----------
    env : VectorEnv
        Of a :class:`~anytask.control.BatchedEnv` the physics alone runs in the background, on a copy of its state; any
        other environment makes whole steps there. Its observations must depend on its state alone, without random
        numbers drawn in ``_observe``.

    Attributes
    ----------
    lag : int
        1: the steps by which results are late.

    Raises
    ------
    TypeError
        If ``env`` is not a vector environment.
    ValueError
        If it doesn't restart by itself.
    RuntimeError
        From ``step`` after an error in the background, until ``reset``. The error itself is raised by the first call
        that waits for the step in which it happened.

    Examples
    --------
    >>> from anytask.control import make
    >>> plain, late = make("anytask/Reach-v0", 4), OverlappedStepper(make("anytask/Reach-v0", 4))
    >>> (obs, _), (first, _) = plain.reset(seed=0), late.reset(seed=0)
    >>> moved, *_ = plain.step(torch.ones(4, 2))
    >>> again, *_ = late.step(torch.ones(4, 2))
    >>> seen, *_ = late.step(torch.zeros(4, 2))
    >>> torch.equal(again, obs), torch.equal(seen, moved)
    (True, True)
    >>> late.close()
    """

    def __init__(self, env: VectorEnv) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"env must be a vector environment, got {type(env).__name__}; make one by control.make")
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("the environment must restart within the step: make it with autoreset=True")
        super().__init__(env)
        self.lag = 1
        self._split = isinstance(env, BatchedEnv) and bool(env.STATE)
        threads = torch.get_num_threads()
        # A new thread has its own number of threads for its tensor operations.
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(
            1, thread_name_prefix="physics", initializer=torch.set_num_threads, initargs=(threads,)
        )
        self._pending: Future[Any] | None = None
        self._first: Obs | None = None
        self._broken = False

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start episodes in all environments; what is under way is thrown away."""
        if reset_options(options).get("reset_mask") is not None:
            raise ValueError("a stepper restarts by itself, and takes no reset_mask")
        self._abandon()
        obs, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._first, self._broken = obs, False
        return obs, infos

    def step(self, actions: Any) -> _Results:
        """Send actions, and return what the actions of the call before led to."""
        if self._pool is None:
            raise RuntimeError("the stepper is closed")
        if self._broken:
            raise RuntimeError("the step before failed in the background: call reset()")
        if self._first is None and self._pending is None:
            raise RuntimeError("call reset() before step()")
        env: Any = self.env
        work, given = (env._advance, env._accepted(actions)) if self._split else (env.step, actions)
        outcome = self._nothing_yet() if self._pending is None else self._waited()
        if self._first is not None or not self._split:
            self._first = None
            self._launch(work, given)
            return outcome
        rewards, terminated, truncated, infos = env._counted(*outcome)
        last, rows = _snapshot(env), None
        then = last
        if "_final_obs" in infos:
            rows = infos["_final_obs"].nonzero()[:, 0]
            env._begin(rows)
            then = _snapshot(env)
        self._launch(work, given)
        obs = last._shown()
        if rows is not None:
            infos["final_obs"] = obs
            obs = replaced(obs, rows, then._shown(rows))
        return obs, rewards, terminated, truncated, infos

    def state(self) -> dict[str, Tensor]:
        """Return the state of all worlds and, where a step is under way, what it led to."""
        if not self._split:
            raise AttributeError(f"{type(self.env).__name__} cannot be copied")
        led_to = () if self._pending is None else self._pending.result()
        pending = {f"pending_{name}": value.clone() for name, value in zip(_OUTCOME, led_to)}
        return self.env.state() | pending  # type: ignore[attr-defined]

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        if not self._split:
            raise AttributeError(f"{type(self.env).__name__} cannot be restored")
        instance_of("state", Mapping, optional=False)(state)
        self._abandon()
        state, env = dict(state), self.env
        pending = [state.pop(f"pending_{name}").clone() for name in _OUTCOME if f"pending_{name}" in state]
        env.restore(state)  # type: ignore[attr-defined]
        self._broken, self._first = False, None if pending else env._shown()  # type: ignore[attr-defined]
        if pending:
            self._pending = Future()
            self._pending.set_result(tuple(pending))

    def close(self, **kwargs: Any) -> None:
        """Wait for the step under way, end the thread and close the environment."""
        if self._pool is not None:
            self._abandon()
            self._pool.shutdown(wait=True)
            self._pool = None
            self.env.close(**kwargs)

    def _launch(self, work: Callable[[Any], Any], actions: Any) -> None:
        assert self._pool is not None
        self._pending = self._pool.submit(work, actions)

    def _waited(self) -> Any:
        assert self._pending is not None
        pending, self._pending = self._pending, None
        try:
            return pending.result()
        except BaseException:
            self._broken = True
            raise

    def _abandon(self) -> None:
        """Let a step under way come to its end, whatever that is."""
        if self._pending is not None:
            self._pending.exception()
            self._pending = None

    def _nothing_yet(self) -> _Results:
        device = getattr(self.env, "device", "cpu")
        nothing = torch.zeros(self.num_envs, dtype=torch.bool, device=device)
        return self._first, nothing.float(), nothing, nothing.clone(), {"success": nothing.clone()}


def _snapshot(env: BatchedEnv) -> BatchedEnv:
    """Return a copy of the environment to look at, whose state doesn't move on with the physics."""
    still = copy.copy(env)
    for name in ("elapsed", "returns", "limits", "ended", *env.STATE):
        setattr(still, name, getattr(env, name).clone())
    return still
