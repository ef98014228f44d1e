"""What a policy is given: observations (tensors or arrays, a batch or a single one, by key or plain), and episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from anytask.core.checks import check_numbers, require_finite_rows
from anytask.core.errors import shown
from anytask.datasets.episodes import OBSERVATION, Episodes


def by_key(obs: Any) -> dict[str, Any]:
    """Return observations by key; what is no mapping has the key ``"observation"``."""
    return dict(obs) if isinstance(obs, Mapping) else {OBSERVATION: obs}


def by_space(space: gymnasium.Space) -> dict[str, gymnasium.Space]:
    """Return the parts of an observation space by key."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else by_key(space)


def shapes_of(space: gymnasium.Space) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an observation by key."""
    return {key: tuple(part.shape or ()) for key, part in by_space(space).items()}


def refuses(episodes: Episodes) -> str | None:
    """Return why a policy of continuous actions cannot learn from such episodes, or None."""
    kind = episodes.actions.dtype
    return None if kind.kind == "f" else f"it learns continuous actions, and those recorded are {kind}"


def require_episodes(episodes: Any, what: str) -> None:
    """Raise a ``TypeError`` or ``ValueError`` unless these are :class:`Episodes` of numbers."""
    if not isinstance(episodes, Episodes):
        read = "anytask.datasets.episode_files.load_episodes reads them from files"
        raise TypeError(f"{what} must be Episodes, got {type(episodes).__name__}; {read}")
    if reason := refuses(episodes):
        raise ValueError(f"{what}: {reason}")
    for key in episodes.keys:
        if 0 in episodes.shape_of(key):
            raise ValueError(f"{what}: observation {key!r} has shape {episodes.shape_of(key)}, which holds no numbers")


def check_fits(
    episodes: Episodes, shapes: Mapping[str, tuple[int, ...]], action_dim: int, what: str = "the episodes"
) -> None:
    """Raise an error unless episodes have continuous actions, and observations of these shapes or more."""
    require_episodes(episodes, what)
    if episodes.action_dim != action_dim:
        raise ValueError(f"{what}: the action dimension is {episodes.action_dim}, and {action_dim} is wanted")
    for key, shape in shapes.items():
        if key not in episodes.keys:
            raise ValueError(f"{what}: observation {key!r} is missing; it has {sorted(episodes.keys)}")
        if episodes.shape_of(key) != shape:
            raise ValueError(f"{what}: observation {key!r} has shape {episodes.shape_of(key)}, {shape} is wanted")


def checked_rows(rows: Any, n: int, device: torch.device) -> Tensor:
    """Return environments as indices (m,), or say that they are not among the ``n`` that there are.

    Examples
    --------
    >>> checked_rows([2], 2, torch.device("cpu"))
    Traceback (most recent call last):
        ...
    ValueError: rows must be indices of environments, from 0 to 1, got [2]
    """
    try:
        found = torch.as_tensor(rows, device=device)
        whole = found.ndim == 1 and not (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool)
        fits = whole and int(found.min()) >= 0 and int(found.max()) < n if found.numel() else found.ndim == 1
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(f"rows must be indices of environments, from 0 to {n - 1}, got {shown(rows)}")
    return found.long()


class Given:
    """Observations as somebody gave them, checked against the shapes that are wanted.

    Parameters
    ----------
    obs : Tensor, array, or mapping of key to these
        A batch (n, ...) or one observation.
    shapes : mapping of str to tuple of int
        Of one observation, by key; further keys are left aside.
    device : torch.device
        Where the policy is.

    Attributes
    ----------
    tensors : dict of str to Tensor (n, ...)
    n : int

    Raises
    ------
    ValueError
        For missing keys, other shapes, no rows or different numbers of them, and numbers that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> given = Given(np.zeros(3), {"observation": (3,)}, torch.device("cpu"))
    >>> given.tensors["observation"].shape, given.answer(torch.ones(1, 2))
    (torch.Size([1, 3]), array([1., 1.], dtype=float32))
    """

    def __init__(self, obs: Any, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        parts = by_key(obs)
        if not set(shapes) <= set(parts):
            raise ValueError(f"observations with the keys {sorted(shapes)} are wanted, got {sorted(parts)}")
        first = parts[next(iter(shapes))]
        self._from = first.device if isinstance(first, Tensor) else None
        tensors = {key: check_numbers(parts[key], f"observation {key!r}").to(device) for key in shapes}
        self._single = all(tuple(x.shape) == tuple(shapes[key]) for key, x in tensors.items())
        self.tensors = {key: x[None] for key, x in tensors.items()} if self._single else tensors
        for key, x in self.tensors.items():
            if x.dim() == 0 or tuple(x.shape[1:]) != tuple(shapes[key]):
                wanted = ", ".join(["n", *map(str, shapes[key])])
                raise ValueError(f"observation {key!r} must have shape ({wanted}), got {tuple(x.shape)}")
            require_finite_rows(x, f"observation {key!r}")
        rows = {key: len(x) for key, x in self.tensors.items()}
        if len(set(rows.values())) > 1:
            raise ValueError(f"observations must have equally many rows, got {rows}")
        self.n = len(next(iter(self.tensors.values())))
        if self.n == 0:
            raise ValueError("at least one observation is wanted, got none")

    def answer(self, actions: Tensor) -> Any:
        """Return actions (n, ...) in the form in which the observations came."""
        actions = actions[0] if self._single else actions
        return actions.cpu().numpy() if self._from is None else actions.to(self._from)
