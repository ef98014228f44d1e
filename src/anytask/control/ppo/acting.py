"""A trained network as a policy: observations as they are given, actions as they are wanted, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from anytask.control.actor_critic import ActorCritic, by_key


@dataclass
class Memory:
    """What a policy remembers of the n copies it acts in."""

    state: Tensor  # (n, state_dim)
    previous: Tensor | None  # (n, n_previous)
    starts: Tensor  # (n,) bool, whose episode begins
    generator: torch.Generator

    @classmethod
    def fresh(cls, net: ActorCritic, n: int, generator: torch.Generator) -> Memory:
        """Return the memory of n copies at the start of their episodes."""
        device = generator.device
        previous = torch.zeros(n, net.n_previous, device=device) if net.n_previous else None
        starts = torch.ones(n, dtype=torch.bool, device=device)
        return cls(torch.zeros(n, net.state_dim, device=device), previous, starts, generator)

    def forget(self, rows: Tensor) -> None:
        """Start new episodes in the copies ``rows`` (m,)."""
        rows = rows.to(self.starts.device)
        self.starts[rows] = True
        if self.previous is not None:
            self.previous[rows] = 0.0

    def act(self, net: ActorCritic, obs: dict[str, Tensor], deterministic: bool) -> Tensor:
        """Return actions of the network, as it gives them, and remember what it saw and did."""
        features, self.state = net.step(obs, self.previous, self.state, self.starts)
        distribution = net.distribution(features)
        actions = distribution.mode if deterministic else distribution.sample(self.generator)
        self.starts = torch.zeros_like(self.starts)
        if self.previous is not None:
            self.previous = net.previous_of(actions)
        return actions


class Given:
    """Observations as somebody gave them: tensors or arrays, a batch or a single one, checked against their space.

    Parameters
    ----------
    obs : Tensor, array, or mapping of key to these
    space : gymnasium.Space
        Of one observation.
    device : torch.device
        Where the network is.

    Attributes
    ----------
    tensors : dict of str to Tensor (n, ...)
    n : int
    """

    def __init__(self, obs: Any, space: gymnasium.Space, device: torch.device) -> None:
        parts = by_key(obs)
        self._arrays = not isinstance(next(iter(parts.values())), Tensor)
        tensors = {key: torch.as_tensor(np.asarray(x) if self._arrays else x) for key, x in parts.items()}
        shape = shapes(space)
        if set(tensors) != set(shape):
            raise ValueError(f"observations with the keys {sorted(shape)} wanted, got {sorted(tensors)}")
        self._single = all(tuple(x.shape) == shape[key] for key, x in tensors.items())
        if self._single:
            tensors = {key: x[None] for key, x in tensors.items()}
        for key, x in tensors.items():
            if tuple(x.shape[1:]) != shape[key]:
                wanted = ", ".join(map(str, shape[key]))
                raise ValueError(f"{key} must have shape (n, {wanted}), got {tuple(x.shape)}")
        first = next(iter(tensors.values()))
        self._came_from, self.n = first.device, len(first)
        self.tensors = {key: x.to(device) for key, x in tensors.items()}

    def answer(self, actions: Tensor) -> Any:
        """Return actions (n, ...) in the form in which the observations came."""
        actions = actions[0] if self._single else actions
        return actions.cpu().numpy() if self._arrays else actions.to(self._came_from)


def bounded(actions: Tensor, space: gymnasium.Space) -> Tensor:
    """Return actions that lie in the space."""
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(b, device=actions.device) for b in (space.low, space.high))
        return actions.clamp(low, high)
    return actions.long()


def shapes(space: gymnasium.Space) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an observation by key."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else by_key(space)
    return {key: tuple(part.shape or ()) for key, part in parts.items()}
