"""Many MuJoCo worlds at once on native threads, for controls that are known beforehand.

Where the loop is open (scoring candidate action sequences, model-free search, replaying recorded controls), no Python
is needed between steps: :class:`MujocoRollout` hands all sequences to ``mujoco.rollout``. For a policy that looks at
every observation, use :func:`anytask.control.make`.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from anytask.core.checks import check_counts

try:
    import mujoco
    import mujoco.rollout
except ImportError as error:  # pragma: no cover - exercised in a process of its own
    raise ImportError("MuJoCo is missing: pip install 'anytask[control]'") from error

#: A world's time, positions, velocities, activations and what else its next step depends on.
_FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS
#: Numbers that one call returns at most, 8 bytes each.
_MOST_NUMBERS = 2**25


class MujocoRollout(AbstractContextManager):
    """Step one MuJoCo model through many given sequences of controls, in C threads.

    Parameters
    ----------
    model : mujoco.MjModel, str or path, or gymnasium.Env
        A model, an MJCF file or text, the id of a Gymnasium environment built on MuJoCo (such as ``"Hopper-v5"``) or
        such an environment.
    frame_skip : int or None
        Physics steps per control; None is the environment's own, 1 for a bare model.
    threads : int or None
        Native threads; None is one per processor. With 0 everything runs in the calling thread.

    Attributes
    ----------
    state_size : int
        Numbers in a state: time, positions, velocities and activations, in MuJoCo's order (``mjSTATE_FULLPHYSICS``).
    control_size : int
        Actuators.

    Notes
    -----
    The results are those of a loop over ``mj_step`` to the last bit. The warm start of the constraint solver is part of
    that: every sequence starts from zero, as after ``mj_resetData``.

    Examples
    --------
    >>> ball = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"
    >>> with MujocoRollout(ball, threads=0) as world:
    ...     start = np.tile(world.initial_state(), (3, 1))
    ...     start[:, 3] = [1.0, 2.0, 3.0]  # heights
    ...     states = world.rollout(start, np.zeros((3, 50, 0)))
    >>> states.shape, np.round(states[:, -1, 3] - start[:, 3], 3).tolist()
    ((3, 50, 14), [-0.05, -0.05, -0.05])
    """

    def __init__(self, model: Any, *, frame_skip: int | None = None, threads: int | None = None) -> None:
        self.model, own = _model(model)
        self.frame_skip = own if frame_skip is None else frame_skip
        self.threads = (os.cpu_count() or 1) if threads is None else threads
        check_counts(frame_skip=self.frame_skip)
        if self.threads != 0:  # which is the calling thread
            check_counts(threads=self.threads)
        self.state_size, self.control_size = mujoco.mj_stateSize(self.model, _FULL), self.model.nu
        self._pool = mujoco.rollout.Rollout(nthread=self.threads)
        self._data = [mujoco.MjData(self.model) for _ in range(max(self.threads, 1))]

    def initial_state(self) -> np.ndarray:
        """Return the state (state_size,) that the model starts in."""
        return self.state_of(mujoco.MjData(self.model))

    def state_of(self, world: Any) -> np.ndarray:
        """Return the state (state_size,) of a ``mujoco.MjData``, or of a Gymnasium environment built on MuJoCo."""
        data = world if isinstance(world, mujoco.MjData) else world.unwrapped.data
        state = np.empty(self.state_size)
        mujoco.mj_getState(self.model, data, state, _FULL)
        return state

    def rollout(self, states: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Return the states after every control.

        Parameters
        ----------
        states : array (n, state_size) or (state_size,)
            Where the sequences start; one state serves all.
        controls : array (n, T, control_size)
            One control is held for ``frame_skip`` physics steps.

        Returns
        -------
        ndarray (n, T, state_size) of float64

        Raises
        ------
        ValueError
            For other shapes or numbers that are not finite.
        RuntimeError
            After :meth:`close`.
        """
        if self._pool is None:
            raise RuntimeError("this MujocoRollout is closed")
        controls = np.asarray(controls, float)
        if controls.ndim != 3 or controls.shape[2] != self.control_size or 0 in controls.shape[:2]:
            raise ValueError(f"controls must have shape (n, T, {self.control_size}), got {controls.shape}")
        n, steps, _ = controls.shape
        states = np.asarray(states, float)
        if states.shape not in ((self.state_size,), (n, self.state_size)):
            raise ValueError(f"states must have shape ({n}, {self.state_size}), got {states.shape}")
        for name, values in (("states", states), ("controls", controls)):
            if not np.isfinite(values).all():
                row = int(np.nonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0][0])
                raise ValueError(f"{name} must be finite numbers, and row {row} is not")
        start = np.ascontiguousarray(np.broadcast_to(states, (n, self.state_size)))
        out = np.empty((n, steps, self.state_size))
        # MuJoCo returns every physics step; in parts, so that they never fill the memory.
        part = max(_MOST_NUMBERS // (steps * self.frame_skip * self.state_size), 1)
        for first in range(0, n, part):
            rows = slice(first, first + part)
            out[rows] = self._rollout(start[rows], np.repeat(controls[rows], self.frame_skip, axis=1))
        return out

    def _rollout(self, start: np.ndarray, held: np.ndarray) -> np.ndarray:
        n, length = held.shape[:2]
        control = {"control": held} if self.control_size else {}
        warm = np.zeros((n, self.model.nv))
        out, _ = self._pool.rollout([self.model], self._data, start, nstep=length, initial_warmstart=warm, **control)
        return np.asarray(out).reshape(n, -1, self.frame_skip, self.state_size)[:, :, -1]

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __exit__(self, *exception: object) -> None:
        self.close()


def _model(source: Any) -> tuple[mujoco.MjModel, int]:
    """Return a model and the physics steps per control that come with it."""
    if isinstance(source, mujoco.MjModel):
        return source, 1
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if text.lstrip().startswith("<"):
            return mujoco.MjModel.from_xml_string(text), 1
        if text.endswith((".xml", ".mjcf")):
            if not os.path.isfile(text):
                raise FileNotFoundError(f"no MJCF file at {text}")
            return mujoco.MjModel.from_xml_path(text), 1
        if text.endswith(".mjb"):
            return mujoco.MjModel.from_binary_path(text), 1
        import gymnasium

        from anytask.control.adapters import find_spec

        env = gymnasium.make(find_spec(text))
        try:
            return _model(env)
        finally:
            env.close()
    inner = getattr(source, "unwrapped", source)
    model = getattr(inner, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise TypeError(
            f"model must be a MuJoCo model, an MJCF file or text, or an environment on MuJoCo, got {inner!r}"
        )
    skip = getattr(inner, "frame_skip", None) or getattr(inner, "n_substeps", None) or 1
    return model, int(skip)
