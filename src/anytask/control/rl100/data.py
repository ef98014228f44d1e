"""How RL-100 sees data and time: windows of observations, chunks of actions, and what is remembered while acting."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.rl100.offline import Transitions, chunk_return
from anytask.datasets.episodes import Episodes


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
    """

    def __init__(
        self, episodes: Episodes, n_obs: int, horizon: int, n_executed: int, scale: ActionRange, device: torch.device
    ) -> None:
        self.episodes, self.n_obs, self.n_executed, self.device = episodes, n_obs, n_executed, device
        self.n = episodes.steps
        self._step = np.arange(self.n) - episodes.starts[episodes.episode_of]
        self.chunks = scale.normalize(torch.as_tensor(episodes.actions, device=device))[
            torch.as_tensor(episodes.windows(horizon, before=n_obs - 1).rows, device=device)
        ]  # (n, horizon, d)

    def window(self, rows: np.ndarray, later: np.ndarray | int = 0) -> dict[str, Tensor]:
        """Return key -> (m, n_obs, \\*shape): windows of decisions, or of the moments ``later`` steps after them."""
        e = self.episodes
        episode = e.episode_of[rows]
        steps = (self._step[rows] + later)[:, None] - np.arange(self.n_obs - 1, -1, -1)
        steps = np.maximum(steps, 0)
        length = e.lengths[episode][:, None]
        final = steps >= length  # only the newest one can be
        at = (e.starts[episode][:, None] + np.minimum(steps, length - 1)).ravel()
        out = {}
        for key, value in e.observations.items():
            seen = np.asarray(value[at]).reshape(*steps.shape, *value.shape[1:])
            if final.any():
                whose = np.broadcast_to(episode[:, None], steps.shape)[final]
                seen = seen.copy()
                seen[final] = np.asarray(e.final_observations[key])[whose]
            out[key] = torch.as_tensor(seen, device=self.device)
        return out

    def features(self, encode: Callable[[dict[str, Tensor]], Tensor], later: np.ndarray | int = 0) -> Tensor:
        """Return the features (n, width) of all decisions, or of the moments ``later`` (n,) steps after them."""
        parts = []
        with torch.no_grad():
            for rows in np.array_split(np.arange(self.n), max(1, -(-self.n // 1024))):
                parts.append(encode(self.window(rows, later if isinstance(later, int) else later[rows])))
        return torch.cat(parts)

    def transitions(
        self,
        encode: Callable[[dict[str, Tensor]], Tensor],
        gamma: float,
        reward_scale: float = 1.0,
        bootstrap_timeouts: bool = True,
    ) -> Transitions:
        """Return every decision with the discounted reward of its executed chunk and the features after it."""
        e = self.episodes
        windows = e.windows(self.n_executed)
        rewards = torch.as_tensor(e.rewards[windows.rows] * reward_scale, device=self.device)
        R, factor = chunk_return(rewards, torch.as_tensor(windows.valid, device=self.device), gamma)
        steps = windows.valid.sum(1)
        ends = e.terminated if bootstrap_timeouts else e.terminated | e.truncated
        ended = torch.as_tensor(ends[windows.rows].any(1), device=self.device)
        first = self.n_obs - 1
        return Transitions(
            self.features(encode),
            self.chunks[:, first : first + self.n_executed].flatten(1),
            R,
            factor * (~ended).float(),
            self.features(encode, steps),
        )


class Memory:
    """What is remembered of each parallel environment: its last ``n_obs`` observations, the rest of its chunk."""

    def __init__(self, n_obs: int) -> None:
        self.n_obs = n_obs
        self.window: dict[str, Tensor] | None = None  # key -> (n, n_obs, *shape)
        self.fresh = torch.ones(0, dtype=torch.bool)  # (n,), no observation yet
        self.queue = torch.empty(0)  # (n, n_executed, d)
        self.left = torch.zeros(0, dtype=torch.int64)  # (n,), actions left in the queue

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the rows ``rows``, or everything."""
        if rows is None:
            self.__init__(self.n_obs)  # type: ignore[misc]
        elif len(self.fresh):
            self.fresh[rows], self.left[rows] = True, 0

    def see(self, obs: Mapping[str, Tensor]) -> None:
        """Take in the next observations."""
        n = len(next(iter(obs.values())))
        if self.window is None or len(self.fresh) != n:
            device = next(iter(obs.values())).device
            self.window = {k: v[:, None].repeat(1, self.n_obs, *[1] * (v.dim() - 1)) for k, v in obs.items()}
            self.left = torch.zeros(n, dtype=torch.int64, device=device)
        else:
            moved = {k: torch.cat([w[:, 1:], obs[k][:, None]], 1) for k, w in self.window.items()}
            if self.n_obs > 1 and bool(self.fresh.any()):
                for k, w in moved.items():
                    w[self.fresh] = obs[k][self.fresh][:, None]
            self.window = moved
        self.fresh = torch.zeros_like(self.left, dtype=torch.bool)

    def after(self, obs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Return the windows of ``rows`` as they would be after one more observation, without taking it in."""
        assert self.window is not None
        return {k: torch.cat([w[rows, 1:], obs[k][rows][:, None]], 1) for k, w in self.window.items()}

    def plan(self, rows: Tensor, chunks: Tensor) -> None:
        """Queue chunks (m, n_executed, d) for the rows ``rows``."""
        if self.queue.shape != (len(self.left), *chunks.shape[1:]):
            self.queue = chunks.new_zeros(len(self.left), *chunks.shape[1:])
        self.queue[rows] = chunks
        self.left[rows] = chunks.shape[1]

    def next(self) -> Tensor:
        """Return the next actions (n, d)."""
        length = self.queue.shape[1]
        place = (length - self.left).clamp_max(length - 1)
        self.left = (self.left - 1).clamp_min(0)
        if length == 1:
            return self.queue[:, 0].clone()
        return self.queue.gather(1, place[:, None, None].expand(-1, 1, self.queue.shape[2]))[:, 0]
