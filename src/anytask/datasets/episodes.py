"""Episodes of behaviour: what was seen, done and rewarded at every step, in arrays that lie one after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

#: The key under which an observation that is a single array is kept.
OBSERVATION = "observation"
#: How many channels an image may have.
CHANNELS = (1, 3, 4)
_PER_STEP = ("actions", "rewards", "terminated", "truncated")


def is_image(shape: Sequence[int]) -> bool:
    """Say whether observations of this shape are images: three axes, of which the last or the first is the channels."""
    return len(shape) == 3 and (shape[-1] in CHANNELS or shape[0] in CHANNELS)


class Windows(NamedTuple):
    """Runs of consecutive steps: ``rows`` (N, length) into the steps; ``valid`` (N, length) is False where padded."""

    rows: np.ndarray
    valid: np.ndarray


class Statistics(NamedTuple):
    """Mean, standard deviation, smallest and largest value of one key, each (d,) or of one step's shape."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def scale(self) -> np.ndarray:
        """The standard deviation to divide by: 1 for what never varies, which is then only centered."""
        return np.where(self.std > 1e-6, self.std, np.ones_like(self.std))


@dataclass(frozen=True)
class Episode:
    """One episode of ``T`` steps.

    Parameters
    ----------
    observations : array or mapping of key to array, (T + 1, ...)
        What was seen before every step and after the last one. With ``T`` rows (the last one was not recorded) the last
        row stands for the missing one.
    actions : array (T, d) or (T,)
    rewards : array (T,), optional
        Zeros by default.
    terminated, truncated : bool
        How the episode ended. Truncated by default, which is what a recording that just stops is.
    attributes : mapping
        Facts on the episode: ``success``, ``task``, ...
    final_observations : mapping of key to array (...), optional
        The observation after the last step, where ``observations`` has ``T`` rows.
    """

    observations: Any
    actions: Any
    rewards: ArrayLike | None = None
    terminated: bool = False
    truncated: bool | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    final_observations: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, eq=False)
class Episodes:
    """A data set of ``E`` episodes with ``T`` steps in all.

    Steps of all episodes lie one after another, so a data set is a handful of arrays, whatever the lengths of its
    episodes. Use :meth:`from_list` to build one, or :func:`anytask.datasets.episode_files.load_episodes` to read one.

    Parameters
    ----------
    observations : mapping of key to array (T, ...)
        The observation before each step. An observation that is a single array has the one key ``"observation"``.
        Floats become float32; integers (images in uint8) stay as they are. An array may live in a file: anything with
        ``shape``, ``dtype`` and ``[rows]`` will do.
    actions : array (T, d)
        Floats become float32, integers (discrete actions) int64; (T,) becomes (T, 1).
    rewards : array (T,)
    terminated, truncated : array (T,) of bool
        True at most at the last step of an episode.
    final_observations : mapping of key to array (E, ...)
        The observation after the last step of each episode.
    lengths : array (E,) of int
        Steps per episode, at least 1 each.
    attributes : mapping
        Facts on the data. An array whose first axis is ``E`` long holds a fact per episode (``success``, ``task``) and
        goes along when episodes are selected; anything else (``env_id``, ``name``) is a fact on all of them.

    Raises
    ------
    ValueError
        If lengths do not fit together, a number is not finite, or an episode ends before its last step; the message
        names the key, the episode and the step.

    Examples
    --------
    >>> walk = Episode(observations=[[0.0], [1.0], [3.0]], actions=[[1.0], [2.0]], attributes={"task": "far"})
    >>> stay = Episode(observations=[[5.0], [5.0]], actions=[[0.0]], attributes={"task": "near"})
    >>> episodes = Episodes.from_list([walk, stay])
    >>> len(episodes), episodes.steps, episodes.starts, episodes.next_observations().ravel()
    (2, 3, array([0, 2]), array([1., 3., 5.], dtype=float32))
    >>> episodes.windows(2).rows.tolist()  # the last steps are padded by repetition
    [[0, 1], [1, 1], [2, 2]]
    >>> episodes.select(episodes.attributes["task"] == "near").actions
    array([[0.]], dtype=float32)
    """

    observations: Mapping[str, Any]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observations: Mapping[str, Any]
    lengths: np.ndarray
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fixed = {
            "observations": {str(k): _seen(v, str(k)) for k, v in self.observations.items()},
            "final_observations": {str(k): _seen(v, str(k)) for k, v in self.final_observations.items()},
            "actions": _actions(self.actions),
            "rewards": _floats(_array(self.rewards, "rewards")),
            "terminated": _flags(self.terminated, "terminated"),
            "truncated": _flags(self.truncated, "truncated"),
            "lengths": _whole(self.lengths),
            "attributes": dict(self.attributes),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)
        self._check()

    # -- shape ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Steps of all episodes together, T."""
        return int(self.lengths.sum())

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the observations."""
        return tuple(self.observations)

    @property
    def action_dim(self) -> int:
        """Action dimension."""
        return self.actions.shape[1]

    @cached_property
    def starts(self) -> np.ndarray:
        """First step of each episode, (E,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.int64)

    @cached_property
    def ends(self) -> np.ndarray:
        """Last step of each episode, (E,)."""
        return self.starts + self.lengths - 1

    @cached_property
    def episode_of(self) -> np.ndarray:
        """Episode of each step, (T,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def shape_of(self, key: str) -> tuple[int, ...]:
        """Shape of one observation."""
        return tuple(self.observations[key].shape[1:])

    def is_image(self, key: str) -> bool:
        """Whether a key holds images."""
        return is_image(self.shape_of(key))

    # -- content --------------------------------------------------------------------------------------------------

    def next_observations(self, key: str = OBSERVATION, rows: np.ndarray | slice | None = None) -> np.ndarray:
        """Return what was seen after each step, (T, ...), or after the steps ``rows``."""
        steps = np.arange(self.steps)[slice(None) if rows is None else rows]
        last = steps == self.ends[self.episode_of[steps]]
        out = np.asarray(self.observations[key][np.minimum(steps + 1, self.steps - 1)]).copy()
        out[last] = np.asarray(self.final_observations[key])[self.episode_of[steps[last]]]
        return out

    def __getitem__(self, i: int) -> Episode:
        """Return episode ``i``, with its last observation."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"episode {i} of {len(self)}")
        one = self.select([i])
        return Episode(
            {key: np.concatenate([value, one.final_observations[key]]) for key, value in one.observations.items()},
            one.actions, one.rewards, bool(one.terminated[-1]), bool(one.truncated[-1]),
            {name: v[i] if self._per_episode(v) else v for name, v in self.attributes.items()},
        )  # fmt: skip

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def select(self, episodes: ArrayLike) -> Self:
        """Return the episodes of these numbers, in this order, or those of a mask (E,)."""
        chosen = np.asarray(episodes)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"a mask over episodes must have shape ({len(self)},), got {chosen.shape}")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64).reshape(-1)
        if len(chosen) == 0:
            raise ValueError("no episode was selected")
        if chosen.min() < -len(self) or chosen.max() >= len(self):
            raise ValueError(f"episodes are numbered 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}")
        chosen = chosen % len(self)
        rows = np.concatenate([np.arange(self.starts[i], self.ends[i] + 1) for i in chosen])
        return replace(
            self,
            observations={k: np.asarray(v[rows]) for k, v in self.observations.items()},
            final_observations={k: np.asarray(v[chosen]) for k, v in self.final_observations.items()},
            lengths=self.lengths[chosen],
            attributes={k: v[chosen] if self._per_episode(v) else v for k, v in self.attributes.items()},
            **{name: getattr(self, name)[rows] for name in _PER_STEP},
        )

    def windows(self, length: int, *, before: int = 0, pad: bool = True, steps: np.ndarray | None = None) -> Windows:
        """Return runs of ``length`` steps that never leave an episode.

        Parameters
        ----------
        length : int, at least 1
        before : int, default 0
            How many of them lie before the step that the window belongs to: row ``t`` covers the steps ``t - before``
            to ``t - before + length - 1``.
        pad : bool, default True
            One window per step, those that stick out filled by repeating the episode's first or last step (``valid`` is
            False there). Without it, only windows that fit.
        steps : array (N,), optional
            The windows of these steps alone.

        Returns
        -------
        Windows
            ``rows`` and ``valid``, each (N, length); with ``pad`` there is one per step, in the order of the steps.
        """
        if length < 1 or not 0 <= before < length:
            raise ValueError(f"length must be at least 1 and before in 0..length - 1, got {length} and {before}")
        at = np.arange(self.steps) if steps is None else steps
        raw = at[:, None] + np.arange(length) - before
        of = self.episode_of[at]
        rows = np.clip(raw, self.starts[of][:, None], self.ends[of][:, None])
        valid = rows == raw
        if not pad:
            whole = valid.all(1)
            rows, valid = rows[whole], valid[whole]
        return Windows(rows, valid)

    def statistics(self) -> dict[str, Statistics]:
        """Return mean, standard deviation, low and high per key and of ``"action"``; images are left out."""
        return statistics_of([self])

    @cached_property
    def returns(self) -> np.ndarray:
        """Sum of the rewards of each episode, (E,)."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.starts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the whole content."""
        digest = hashlib.sha256()
        arrays = {f"o/{k}": v for k, v in self.observations.items()}
        arrays |= {f"f/{k}": v for k, v in self.final_observations.items()}
        arrays |= {n: getattr(self, n) for n in (*_PER_STEP, "lengths")}
        for name, value in sorted(arrays.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            for start in range(0, len(value), 4096):  # what lives in a file is read piece by piece
                digest.update(np.ascontiguousarray(value[start : start + 4096]).tobytes())
        facts = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.attributes.items()}
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:32]

    # -- building -------------------------------------------------------------------------------------------------

    @classmethod
    def from_list(
        cls,
        episodes: Sequence[Episode],
        attributes: Mapping[str, Any] | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Build a data set from single episodes.

        Parameters
        ----------
        episodes : sequence of Episode
            Facts that only some of them have are filled with NaN (numbers) or "" (text).
        attributes : mapping, optional
            Facts on all of them.
        names : sequence of str, optional
            What errors call the episodes: by default "episode 0" and so on.

        Raises
        ------
        ValueError, TypeError
            For no episodes, an episode without steps, lengths or shapes that do not match, and numbers that are not
            finite; the message names the episode.
        """
        parts: list[Episodes] = []
        names = [f"episode {i}" for i in range(len(episodes))] if names is None else names
        for episode, name in zip(episodes, names, strict=True):
            try:
                parts.append(cls._of(episode))
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{name}: {error}") from error
        return cls._joined(parts, names, attributes or {})

    @classmethod
    def _of(cls, episode: Episode) -> Episodes:
        """Return a data set of one episode."""
        n, seen = len(episode), episode.observations
        if n == 0:
            raise ValueError("there are no steps, and an episode needs at least one action")
        rows = {str(k): _seen(v, k) for k, v in (seen if isinstance(seen, Mapping) else {OBSERVATION: seen}).items()}
        for key, value in rows.items():
            if len(value) not in (n, n + 1):
                raise ValueError(f"{n} actions and {len(value)} rows of {key!r}: {n + 1} are wanted")
        given = {str(k): np.asarray(v)[None] for k, v in episode.final_observations.items()}
        if unknown := set(given) - set(rows):
            raise ValueError(f"final observations {sorted(unknown)} are of no key of the observations")
        at_end = np.arange(n) == n - 1
        truncated = not episode.terminated if episode.truncated is None else episode.truncated
        return cls(
            {k: v if len(v) == n else v[:n] for k, v in rows.items()},
            episode.actions,
            np.zeros(n) if episode.rewards is None else episode.rewards,  # type: ignore[arg-type]
            at_end & bool(episode.terminated),
            at_end & bool(truncated),
            {k: given[k] if k in given else v[-1:] for k, v in rows.items()},
            np.array([n]),
            {name: np.asarray([value]) for name, value in episode.attributes.items()},
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Episodes]) -> Self:
        """Return the episodes of several data sets with the same keys and shapes, one after another.

        Facts on all episodes of a part are kept where every part agrees.
        """
        return cls._joined(parts, [f"data set {i}" for i in range(len(parts))], {})

    @classmethod
    def _joined(cls, parts: Sequence[Episodes], names: Sequence[str], attributes: Mapping[str, Any]) -> Self:
        if not parts:
            raise ValueError("a data set needs at least one episode")
        for part, name in zip(parts, names):
            if difference := parts[0].unlike(part):
                raise ValueError(f"{name} has {difference} in {names[0]}")
        facts = dict(attributes)
        for fact in dict.fromkeys(fact for part in parts for fact in part.attributes):
            values = [part.attributes.get(fact) for part in parts]
            if any(part._per_episode(v) for part, v in zip(parts, values)):
                facts[fact] = _column([v for part, value in zip(parts, values) for v in part._spread(value)])
            elif all(repr(v) == repr(values[0]) for v in values):
                facts[fact] = values[0]
        keys = parts[0].keys
        return cls(
            observations={k: _stack([part.observations[k] for part in parts]) for k in keys},
            final_observations={k: np.concatenate([part.final_observations[k] for part in parts]) for k in keys},
            attributes=facts,
            **{n: np.concatenate([getattr(part, n) for part in parts]) for n in (*_PER_STEP, "lengths")},
        )

    def unlike(self, other: Episodes) -> str | None:
        """Return what another data set has instead of these observation keys, shapes or actions; None if it fits.

        Examples
        --------
        >>> walk = Episodes.from_list([Episode([[0.0], [1.0]], [[1.0]])])
        >>> walk.unlike(Episodes.from_list([Episode([[0.0], [1.0]], [[1.0, 2.0]])]))
        'the action dimension 2 instead of 1'
        """
        if set(self.keys) != set(other.keys):
            return f"observations {sorted(other.keys)} instead of {sorted(self.keys)}"
        for key in self.keys:
            if self.shape_of(key) != other.shape_of(key):
                return f"observation {key!r} of shape {other.shape_of(key)} instead of {self.shape_of(key)}"
        if self.action_dim != other.action_dim:
            return f"the action dimension {other.action_dim} instead of {self.action_dim}"
        return None

    # -- checks ---------------------------------------------------------------------------------------------------

    def _per_episode(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.ndim >= 1 and len(value) == len(self)

    def _spread(self, value: Any) -> list[Any]:
        return list(value) if self._per_episode(value) else [value] * len(self)

    def _check(self) -> None:
        if self.lengths.ndim != 1 or len(self.lengths) == 0:
            raise ValueError("a data set needs at least one episode")
        if int(self.lengths.min()) < 1:
            raise ValueError(f"episode {int(self.lengths.argmin())} has no steps")
        if not self.observations:
            raise ValueError("a data set needs at least one observation key")
        if set(self.observations) != set(self.final_observations):
            given = sorted(self.final_observations)
            raise ValueError(f"final_observations has the keys {given}, observations {sorted(self.observations)}")
        total = self.steps
        for name in _PER_STEP:
            value = getattr(self, name)
            if len(value) != total or (name != "actions" and value.ndim != 1):
                raise ValueError(f"{name} has the shape {value.shape}, and the episodes have {total} steps in all")
        for key, value in self.observations.items():
            final, wanted = self.final_observations[key], (len(self), *value.shape[1:])
            if len(value) != total:
                raise ValueError(f"observations {key!r} has {len(value)} rows, and the episodes have {total} steps")
            if tuple(final.shape) != wanted:
                got = tuple(final.shape)
                raise ValueError(f"final_observations {key!r} has the shape {got}, and {wanted} is wanted")
            _check_finite(value, f"observations {key!r}", self._place)
            _check_finite(final, f"observations {key!r}", "what was seen after episode {}".format)
        _check_finite(self.actions, "actions", self._place)
        _check_finite(self.rewards, "rewards", self._place)
        early = (self.terminated | self.truncated).copy()
        early[self.ends] = False
        if early.any():
            raise ValueError(f"{self._place(int(early.argmax()))} is marked as an end, and more steps follow")

    def _place(self, step: int) -> str:
        i = int(self.episode_of[step])
        return f"step {step - int(self.starts[i])}" + (f" of episode {i}" if len(self) > 1 else "")


def statistics_of(parts: Sequence[Episodes]) -> dict[str, Statistics]:
    """Return the statistics of several data sets as if they were one, of the keys that all of them have."""
    keys = [k for k in parts[0].keys if all(k in part.keys for part in parts) and not parts[0].is_image(k)]
    tables = {k: [part.observations[k] for part in parts] for k in keys} | {"action": [p.actions for p in parts]}
    out = {}
    for key, values in tables.items():
        x = np.concatenate([np.asarray(value[:], dtype=np.float64) for value in values])
        out[key] = Statistics(*(f(0).astype(np.float32) for f in (x.mean, x.std, x.min, x.max)))
    return out


def _check_finite(value: Any, what: str, place: Callable[[int], str]) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        bad = ~np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
        if bad.any():
            raise ValueError(f"{what} must be finite numbers, and {place(int(bad.argmax()))} is not")


def _array(value: Any, what: str) -> np.ndarray:
    if np.ma.is_masked(value):
        raise ValueError(f"{what} must be numbers, and some are masked: fill them first")
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{what} must be numbers, got {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{what} must have one row per step, got a single number")
    return array


def _floats(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large is found as infinite
        return array.astype(np.float32)


def _seen(value: Any, key: str) -> Any:
    in_file = not isinstance(value, np.ndarray) and all(hasattr(value, n) for n in ("shape", "dtype", "__getitem__"))
    if in_file and not hasattr(value, "detach"):
        return value
    array = _array(value, f"observations {key!r}")
    array = array[:, None] if array.ndim == 1 else array
    return _floats(array) if array.dtype.kind in "fb" else array


def _actions(value: Any) -> np.ndarray:
    array = _array(value, "actions")
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"actions must have the shape (steps, action dimension), got {array.shape}")
    return _floats(array) if array.dtype.kind == "f" else array.astype(np.int64)


def _whole(value: Any) -> np.ndarray:
    array = _array(value, "lengths")
    if array.dtype.kind not in "iu":
        raise TypeError(f"lengths must be whole numbers, got {array.dtype}")
    return array.astype(np.int64)


def _flags(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be booleans")
    return array.astype(bool)


def _stack(values: list[Any]) -> Any:
    if hasattr(values[0], "joined") and all(type(value) is type(values[0]) for value in values):
        return values[0].joined(values)
    return np.concatenate([np.asarray(value[:]) for value in values])


def _column(values: list[Any]) -> np.ndarray:
    """Return one fact per episode as an array; what is missing (None) becomes NaN or the empty text."""
    known = [v for v in values if v is not None]
    if len(known) == len(values):
        return np.asarray(values)
    if known and isinstance(known[0], (str, np.str_)):
        return np.asarray(["" if v is None else str(v) for v in values])
    return np.asarray([np.nan if v is None else float(v) for v in values])
