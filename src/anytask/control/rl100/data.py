"""How RL-100 sees data and time: windows of observations, chunks of actions, and what is remembered while acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.acting import Given
from anytask.core.checks import require_finite
from anytask.datasets.episodes import Episodes

# Windows, key -> (m, n_obs, *shape).
Window = Mapping[str, Tensor]


class ActionRange(nn.Module):
    """Maps actions between their own units and [-1, 1]; the data's extremes lie at ``-share`` and ``share``.

    Examples
    --------
    >>> scale = ActionRange(torch.tensor([0.0]), torch.tensor([4.0]), share=0.5)
    >>> scale.normalize(torch.tensor([[4.0]])).item(), scale.restore(torch.tensor([[1.0]])).item()
    (0.5, 6.0)
    """

    low: Tensor  # (d,)
    high: Tensor  # (d,)

    def __init__(self, low: Tensor, high: Tensor, share: float) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.share = share

    def _middle_and_half(self) -> tuple[Tensor, Tensor]:
        return (self.low + self.high) / 2, (self.high - self.low) / 2 / self.share

    def normalize(self, actions: Tensor) -> Tensor:
        """Return actions in [-1, 1]; what lies outside is clipped, and what never varied is 0."""
        middle, half = self._middle_and_half()
        return torch.where(half > 1e-8, (actions - middle) / half.clamp_min(1e-8), 0.0).clamp(-1.0, 1.0)

    def restore(self, actions: Tensor) -> Tensor:
        """Return actions in their own units."""
        middle, half = self._middle_and_half()
        return middle + half * actions


class Transitions(NamedTuple):
    """Decisions and what came of them, in features.

    ``features`` (n, width), ``actions`` (n, size) flat, ``rewards`` (n,) summed over the chunk, ``discounts`` (n,) what
    the next state's value counts (``gamma^steps``, or 0 after a terminal state), ``next_features`` (n, width).
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    next_features: Tensor

    def take(self, rows: Tensor) -> Transitions:
        """Return some decisions, by number or mask."""
        return Transitions(*(tensor[rows] for tensor in self))

    @property
    def n(self) -> int:
        """Number of decisions."""
        return len(self.features)


def chunk_return(rewards: Tensor, valid: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return a chunk's discounted reward ``sum_i gamma^i r_i`` and bootstrap factor ``gamma^steps``, each (n,).

    Parameters
    ----------
    rewards : Tensor (n, K)
    valid : Tensor of bool (n, K)
        Steps that were taken; a prefix of each row.
    gamma : float in [0, 1]

    Examples
    --------
    >>> r = torch.tensor([[1.0, 0.5, 0.0, 2.0]])
    >>> R, factor = chunk_return(r, torch.ones(1, 4, dtype=torch.bool), 0.99)
    >>> round(R.item(), 6), round(factor.item(), 6)
    (3.435598, 0.960596)
    """
    powers = gamma ** torch.arange(rewards.shape[1], device=rewards.device, dtype=torch.float64)
    return (rewards * valid * powers).sum(1).float(), (gamma ** valid.sum(1).double()).float()


class Decisions:
    """The decisions that a data set holds, one per step: the window before it, the chunk from it, and what came of it.

    With ``n_obs`` observations in a window, a chunk starts at the window's oldest step, and its ``n_executed`` actions
    from the newest step on are carried out.

    Parameters
    ----------
    episodes : Episodes
    n_obs, horizon, n_executed : int
    scale : ActionRange
    device : torch.device

    Attributes
    ----------
    step : ndarray (n,)
        Of each decision within its episode.
    chunks : Tensor (n, horizon, d)
        Actions in [-1, 1].
    """

    def __init__(
        self, episodes: Episodes, n_obs: int, horizon: int, n_executed: int, scale: ActionRange, device: torch.device
    ) -> None:
        self.episodes, self.n_obs, self.n_executed, self.device = episodes, n_obs, n_executed, device
        self.n = episodes.steps
        self.step = np.arange(self.n) - episodes.starts[episodes.episode_of]
        rows = episodes.windows(horizon, before=n_obs - 1).rows
        actions = scale.normalize(torch.as_tensor(episodes.actions, device=device))  # (n, d)
        self.chunks = actions[torch.as_tensor(rows, device=device)]

    def window(self, rows: np.ndarray, later: np.ndarray | int = 0) -> dict[str, Tensor]:
        """Return key -> (m, n_obs, \\*shape): windows of decisions, or of the moments ``later`` steps after them."""
        e = self.episodes
        episode = np.repeat(e.episode_of[rows], self.n_obs)
        steps = (self.step[rows] + later)[:, None] - np.arange(self.n_obs - 1, -1, -1)
        steps = np.maximum(steps, 0).ravel()  # (m * n_obs,)
        after = steps >= e.lengths[episode]  # the final observation; only the newest one can be
        at = e.starts[episode] + np.minimum(steps, e.lengths[episode] - 1)
        out = {}
        for key, value in e.observations.items():
            seen = np.array(value[at])
            seen[after] = np.asarray(e.final_observations[key])[episode[after]]
            out[key] = torch.as_tensor(seen.reshape(len(rows), self.n_obs, *seen.shape[1:]), device=self.device)
        return out

    def steps(self, every: int) -> np.ndarray:
        """Return the numbers of the decisions at every ``every``-th step of each episode."""
        return np.flatnonzero(self.step % every == 0)

    @torch.no_grad()
    def features(self, encode: Callable[[Window], Tensor], rows: np.ndarray, later: np.ndarray | int = 0) -> Tensor:
        """Return the features (m, width) of decisions, or of the moments ``later`` (m,) steps after them."""
        later = np.broadcast_to(later, rows.shape)
        parts = np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // 1024)))
        c = torch.cat([encode(self.window(rows[part], later[part])) for part in parts])
        return require_finite(c, "a feature of what was seen")

    def transitions(
        self, encode: Callable[[Window], Tensor], rows: np.ndarray, gamma: float, bootstrap_timeouts: bool = True
    ) -> Transitions:
        """Return decisions with the discounted reward of their executed chunk and the features after it."""
        e = self.episodes
        steps, valid = (x[rows] for x in e.windows(self.n_executed))  # (m, n_executed)
        rewards = torch.as_tensor(e.rewards[steps], device=self.device)
        R, factor = chunk_return(rewards, torch.as_tensor(valid, device=self.device), gamma)
        ends = e.terminated if bootstrap_timeouts else e.terminated | e.truncated
        ended = torch.as_tensor(ends[steps].any(1), device=self.device)
        first = self.n_obs - 1
        return Transitions(
            self.features(encode, rows),
            self.chunks[torch.as_tensor(rows, device=self.device), first : first + self.n_executed].flatten(1),
            R,
            factor * (~ended).float(),
            self.features(encode, rows, valid.sum(1)),
        )


class Memory:
    """What is remembered of each parallel environment: its last ``n_obs`` observations, the rest of its chunk.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one observation, by key.
    n_obs : int
    device : torch.device
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], n_obs: int, device: torch.device) -> None:
        self.shapes, self.n_obs, self.device = shapes, n_obs, device
        self.reset()

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the environments ``rows`` (m,), or everything."""
        if rows is None:
            self.window: dict[str, Tensor] = {}  # key -> (n, n_obs, *shape)
            self.queue = torch.empty(0, device=self.device)  # (n, n_executed, d)
            self.left = torch.zeros(0, dtype=torch.int64, device=self.device)  # (n,) actions left; -1: just begun
        elif len(self.left):
            self.left[rows] = -1

    @torch.no_grad()
    def act(self, obs: Any, decide: Callable[[Tensor, Window], Tensor]) -> Any:
        """Take in the next observations and return the next actions (n, d); a failure changes nothing.

        Where a chunk is used up, ``decide(rows, window)`` returns the next one: (m, n_executed, d) for the m
        environments ``rows`` and their windows.
        """
        given = Given(obs, self.shapes, self.device)
        if given.n == 0:
            raise ValueError("at least one observation is wanted, got none")
        window = {k: v[:, None].repeat(1, self.n_obs, *[1] * (v.dim() - 1)) for k, v in given.tensors.items()}
        left, queue = torch.full((given.n,), -1, device=self.device), self.queue
        if len(self.left) == given.n:
            left = self.left
            for k, alone in window.items():
                fresh = (left < 0).reshape(-1, *[1] * (alone.dim() - 1))
                window[k] = torch.where(fresh, alone, torch.cat([self.window[k][:, 1:], alone[:, :1]], 1))
        rows = (left <= 0).nonzero()[:, 0]
        if len(rows):
            chunks = decide(rows, {k: w[rows] for k, w in window.items()})
            queue = chunks if len(rows) == given.n else queue.index_copy(0, rows, chunks)
            left = left.index_fill(0, rows, chunks.shape[1])
        self.window, self.queue, self.left = window, queue, left - 1
        return given.answer(queue[torch.arange(given.n, device=self.device), queue.shape[1] - left])
