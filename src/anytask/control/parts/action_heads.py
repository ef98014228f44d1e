"""Action heads: what turns a policy's features into a distribution over actions, and its log-probability and entropy.

Distributions take the action as it was sampled. What a world makes of it (clamping, a threshold) is not their business:
a policy gradient is right only for the probability of the raw sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

_TAIL = 2.0**-24  # what a float32 uniform number can resolve
_LOG_STD = (-5.0, 2.0)  # what log standard deviations are kept within
_GAIN = 0.01  # of the orthogonal initial weights: small ones let all states start alike


class ActionDistribution:
    """Independent columns of a batch of actions: Gaussian ones, and ones that take a few values each.

    Leading axes are the batch, ``(...)`` below. Sampling is inversion, so that one uniform number per column decides.

    Parameters
    ----------
    shape : tuple of int
        Of one action; its columns are its numbers in order, one for a shape of ``()``.
    gaussian : Normal of shape (..., k), or None
        Of the columns that ``choices`` does not name, in their order.
    choices : mapping of int to (Categorical, Tensor of shape (m,))
        Column -> distribution and the values that its m choices stand for, in increasing order.

    Examples
    --------
    >>> standard = ActionDistribution((2,), Normal(torch.zeros(1, 2), torch.ones(1, 2)))
    >>> round(standard.log_prob(torch.zeros(1, 2)).item(), 4), round(standard.entropy().item(), 4)
    (-1.8379, 2.8379)
    >>> coin = ActionDistribution((), None, {0: (Categorical(logits=torch.zeros(1, 2)), torch.tensor([0, 1]))})
    >>> coin.sample(torch.Generator().manual_seed(0)).shape, round(coin.log_prob(torch.tensor([1])).item(), 4)
    (torch.Size([1]), -0.6931)
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        gaussian: Normal | None,
        choices: Mapping[int, tuple[Categorical, Tensor]] | None = None,
    ) -> None:
        self.shape, self.gaussian, self.choices = shape, gaussian, choices or {}
        self._like = next(iter(self.choices.values()))[0].logits if gaussian is None else gaussian.loc
        self.n_columns = len(self.choices) + (0 if gaussian is None else gaussian.loc.shape[-1])
        free = [c for c in range(self.n_columns) if c not in self.choices]
        self._free: Any = free if self.choices else slice(None)

    def _action(self, free: Tensor | None, chosen: Mapping[int, Tensor]) -> Tensor:
        """Join the Gaussian columns (..., k) and the numbers (...) of the choices to actions (..., \\*shape)."""
        columns = free
        if columns is None or chosen:
            columns = self._like.new_empty(*self._like.shape[:-1], self.n_columns)
            if free is not None:
                columns[..., self._free] = free
            for c, number in chosen.items():
                columns[..., c] = self.choices[c][1][number]
        return columns.unflatten(-1, self.shape) if self.shape else columns[..., 0]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action each."""
        like = self._like
        return self.quantile(torch.rand(*like.shape[:-1], self.n_columns, generator=generator, device=like.device))

    def quantile(self, u: Tensor) -> Tensor:
        """Return the actions that uniform numbers ``u`` (..., n_columns) in [0, 1) stand for."""
        free = None if self.gaussian is None else self.gaussian.icdf(u[..., self._free].clamp(_TAIL, 1 - _TAIL))
        # The last bound of a choice is 1 by definition, whatever rounding says.
        bounds = {c: d.probs.cumsum(-1)[..., :-1] for c, (d, _) in self.choices.items()}
        return self._action(free, {c: (u[..., c : c + 1] >= below).sum(-1) for c, below in bounds.items()})

    @property
    def mode(self) -> Tensor:
        """The most probable actions."""
        free = None if self.gaussian is None else self.gaussian.mean
        return self._action(free, {c: d.probs.argmax(-1) for c, (d, _) in self.choices.items()})

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-probabilities (log-densities) of raw actions, (...)."""
        columns = flat(actions, len(self.shape))
        terms = [] if self.gaussian is None else [self.gaussian.log_prob(columns[..., self._free]).sum(-1)]
        for c, (distribution, values) in self.choices.items():
            # Halfway between two values is the border, so that rounding in storage cannot change the choice.
            borders = (values[1:] + values[:-1]) / 2
            terms.append(distribution.log_prob(torch.bucketize(columns[..., c].contiguous(), borders)))
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor:
        """Return the entropies in nats, (...)."""
        terms = [] if self.gaussian is None else [self.gaussian.entropy().sum(-1)]
        return torch.stack([*terms, *(d.entropy() for d, _ in self.choices.values())]).sum(0)


class ActionHead(nn.Module):
    """Features (..., n_in) to an :class:`ActionDistribution`.

    Parameters
    ----------
    n_in : int
    shape : tuple of int
        Of one action.
    discrete : mapping of int to sequence of float
        Column -> the values it can take: two for a Bernoulli choice, such as ``{0: (-1.0, 1.0)}`` for a gripper that
        the world opens below a threshold and closes above one. The other columns are Gaussian.
    std : {"free", "state"}, default "free"
        One learned log standard deviation per column whatever the state, or one that the features decide.
    log_std : float, default 0.0
        Where log standard deviations start.

    Examples
    --------
    >>> head = ActionHead(4, (3,), {0: (-1.0, 1.0)})
    >>> actions = head(torch.zeros(5, 4)).sample(torch.Generator().manual_seed(0))
    >>> actions.shape, actions[:, 0].unique().tolist()
    (torch.Size([5, 3]), [-1.0, 1.0])
    """

    def __init__(
        self,
        n_in: int,
        shape: tuple[int, ...],
        discrete: Mapping[int, Sequence[float]] | None = None,
        *,
        std: str = "free",
        log_std: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape, self.n_columns = tuple(shape), math.prod(shape)
        self.values = {c: tuple(map(float, (discrete or {})[c])) for c in sorted(discrete or {})}
        for c, values in self.values.items():
            if not 0 <= c < self.n_columns:
                raise ValueError(f"discrete names column {c} of an action with {self.n_columns} columns")
            if not values or any(b <= a for a, b in itertools.pairwise(values)):
                raise ValueError(f"the values of column {c} must be in increasing order, got {values}")
            self.register_buffer(f"values_{c}", torch.tensor(values), persistent=False)
        k, sizes = self.n_columns - len(self.values), [len(v) for v in self.values.values()]
        self.log_std = nn.Parameter(torch.full((k,), float(log_std))) if k and std == "free" else None
        self.linear = _linear(n_in, k if std == "free" else 2 * k) if k else None
        if self.linear is not None and self.log_std is None:
            nn.init.constant_(self.linear.bias[k:], float(log_std))
        self.logits = _linear(n_in, sum(sizes)) if sizes else None

    def forward(self, features: Tensor) -> ActionDistribution:
        gaussian, choices = None, {}
        if self.linear is not None:
            out = self.linear(features).float()
            mean, log_std = (out, self.log_std) if self.log_std is not None else out.chunk(2, -1)
            gaussian = Normal(mean, log_std.clamp(*_LOG_STD).exp(), validate_args=False)
        if self.logits is not None:
            parts = self.logits(features).float().split([len(v) for v in self.values.values()], -1)
            for c, logits in zip(self.values, parts, strict=True):
                choices[c] = Categorical(logits=logits, validate_args=False), getattr(self, f"values_{c}")
        return ActionDistribution(self.shape, gaussian, choices)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Take the names under which saved policies have these weights: of two nested heads, or of a sole one."""
        sole = "logits" if self.linear is None else "linear"
        for name in [name for name in state_dict if name.startswith(prefix)]:
            now = name.removeprefix(prefix).removeprefix("gaussian.")
            state_dict[prefix + (now.replace("linear", sole))] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def flat(x: Tensor, axes: int) -> Tensor:
    """Return ``x`` with its last ``axes`` axes, or a new one, as one."""
    return x.reshape(*x.shape[: x.dim() - axes], -1)


def make_head(
    space: gymnasium.Space,
    n_in: int,
    *,
    discrete: Mapping[int, Sequence[float]] | None = None,
    std: str = "free",
    log_std: float = 0.0,
) -> ActionHead:
    """Return the head that fits an action space: Box, Discrete or MultiDiscrete of any shape.

    ``discrete`` names columns of a Box that take a few values only, as in :class:`ActionHead`.
    """
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
        first, count = np.ravel(space.start).tolist(), np.ravel(counts).tolist()
        discrete = {c: range(a, a + n) for c, (a, n) in enumerate(zip(first, count, strict=True))}
    elif not isinstance(space, spaces.Box):
        raise TypeError(f"actions must be a Box, Discrete or MultiDiscrete, got {space}")
    return ActionHead(n_in, tuple(space.shape or ()), discrete, std=std, log_std=log_std)


def _linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, _GAIN)
    nn.init.zeros_(layer.bias)
    return layer
