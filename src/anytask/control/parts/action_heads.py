"""Action heads: what turns a policy's features into a distribution over actions, and its log-probability and entropy.

Distributions take the action as it was sampled. What a world makes of it (clamping, a threshold) is not their business:
a policy gradient is right only for the probability of the raw sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import gymnasium

_LOG_2PI = math.log(2 * math.pi)
_TAIL = 2.0**-24  # what a float32 uniform number can resolve


class Distribution(Protocol):
    """A batch of distributions over actions. Leading axes are the batch; ``()`` below stands for them."""

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw one action each."""
        ...

    def quantile(self, u: Tensor) -> Tensor:
        """Return the actions that uniform numbers ``u`` (..., columns) in [0, 1) stand for: sampling by inversion."""
        ...

    @property
    def mode(self) -> Tensor:
        """The most probable actions."""
        ...

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-probabilities (log-densities) of raw actions, ()."""
        ...

    def entropy(self) -> Tensor:
        """Entropies in nats, ()."""
        ...


class DiagonalGaussian:
    """``N(mean, diag exp(2 log_std))`` over (..., d).

    Examples
    --------
    >>> standard = DiagonalGaussian(torch.zeros(1, 2), torch.zeros(2))
    >>> round(standard.log_prob(torch.zeros(1, 2)).item(), 4), round(standard.entropy().item(), 4)
    (-1.8379, 2.8379)
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean, log_std

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def quantile(self, u: Tensor) -> Tensor:
        z = math.sqrt(2) * torch.erfinv(2 * u.clamp(_TAIL, 1 - _TAIL) - 1)
        return self.mean + self.log_std.exp() * z

    @property
    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, actions: Tensor) -> Tensor:
        z = (actions - self.mean) * (-self.log_std).exp()
        return (-0.5 * (z.square() + _LOG_2PI) - self.log_std).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * (1 + _LOG_2PI)).expand_as(self.mean).sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """Return ``KL(self || other)``, ()."""
        ratio = (2 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return (0.5 * (ratio + shift - 1) - self.log_std + other.log_std).sum(-1)


class Categorical:
    """One of k choices with the given logits (..., k); actions are int64 ().

    Examples
    --------
    >>> coin = Categorical(torch.zeros(1, 2))
    >>> round(coin.log_prob(torch.tensor([1])).item(), 4), round(coin.entropy().item(), 4)
    (-0.6931, 0.6931)
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.log_softmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        shape = (*self.log_p.shape[:-1], 1)
        u = torch.rand(shape, generator=generator, device=self.log_p.device, dtype=self.log_p.dtype)
        return self.quantile(u)

    def quantile(self, u: Tensor) -> Tensor:
        below = self.log_p.exp().cumsum(-1)[..., :-1]  # the last bound is 1 by definition, whatever rounding says
        return (u >= below).sum(-1)

    @property
    def mode(self) -> Tensor:
        return self.log_p.argmax(-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        return self.log_p.gather(-1, actions[..., None].long())[..., 0]

    def entropy(self) -> Tensor:
        # A choice that is ruled out by a logit of -inf adds 0, not NaN.
        return -(self.log_p.exp() * self.log_p.clamp_min(torch.finfo(self.log_p.dtype).min)).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Return ``KL(self || other)``, ()."""
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum(-1)


class Mixed:
    """Independent columns of one float action (..., d): Gaussian ones, and ones with a few values each.

    Parameters
    ----------
    gaussian : DiagonalGaussian or None
        Of the columns ``continuous``, in their order.
    continuous : sequence of int
    categoricals : mapping of int to (Categorical, Tensor of shape (k,))
        Column -> distribution and the values that its k choices stand for, in increasing order.
    """

    def __init__(
        self,
        gaussian: DiagonalGaussian | None,
        continuous: Sequence[int],
        categoricals: Mapping[int, tuple[Categorical, Tensor]],
    ) -> None:
        self.gaussian, self.continuous, self.categoricals = gaussian, list(continuous), dict(categoricals)
        self.n_columns = len(self.continuous) + len(self.categoricals)

    def _join(self, continuous: Tensor | None, choices: Mapping[int, Tensor]) -> Tensor:
        columns: list[Any] = [None] * self.n_columns
        for place, column in enumerate(self.continuous):
            assert continuous is not None
            columns[column] = continuous[..., place]
        for column, (_, values) in self.categoricals.items():
            columns[column] = values[choices[column]]
        return torch.stack(columns, -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        continuous = None if self.gaussian is None else self.gaussian.sample(generator)
        return self._join(continuous, {c: d.sample(generator) for c, (d, _) in self.categoricals.items()})

    def quantile(self, u: Tensor) -> Tensor:
        continuous = None if self.gaussian is None else self.gaussian.quantile(u[..., self.continuous])
        return self._join(continuous, {c: d.quantile(u[..., c : c + 1]) for c, (d, _) in self.categoricals.items()})

    @property
    def mode(self) -> Tensor:
        continuous = None if self.gaussian is None else self.gaussian.mode
        return self._join(continuous, {c: d.mode for c, (d, _) in self.categoricals.items()})

    def log_prob(self, actions: Tensor) -> Tensor:
        terms = [] if self.gaussian is None else [self.gaussian.log_prob(actions[..., self.continuous])]
        for column, (distribution, values) in self.categoricals.items():
            # Halfway between two values is the border, so that rounding in storage cannot change the choice.
            borders = (values[1:] + values[:-1]) / 2
            terms.append(distribution.log_prob(torch.bucketize(actions[..., column].contiguous(), borders)))
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor:
        terms = [] if self.gaussian is None else [self.gaussian.entropy()]
        return torch.stack([*terms, *(d.entropy() for d, _ in self.categoricals.values())]).sum(0)


class GaussianHead(nn.Module):
    """Features (..., n_in) to a :class:`DiagonalGaussian` over ``n_actions`` columns.

    Parameters
    ----------
    n_in, n_actions : int
    std : {"free", "state"}, default "free"
        One learned log standard deviation per column whatever the state, or one that the features decide.
    log_std : float, default 0.0
        Where log standard deviations start.
    bounds : (float, float), default (-5.0, 2.0)
        What they are kept within.
    gain : float, default 0.01
        Scale of the orthogonal initial weights; small ones let all states start alike.
    """

    def __init__(
        self,
        n_in: int,
        n_actions: int,
        *,
        std: str = "free",
        log_std: float = 0.0,
        bounds: tuple[float, float] = (-5.0, 2.0),
        gain: float = 0.01,
    ) -> None:
        super().__init__()
        if std not in ("free", "state"):
            raise ValueError(f"std must be 'free' or 'state', got {std!r}")
        self.n_actions, self.std, self.bounds = n_actions, std, bounds
        self.linear = _linear(n_in, n_actions if std == "free" else 2 * n_actions, gain)
        if std == "free":
            self.log_std = nn.Parameter(torch.full((n_actions,), float(log_std)))
        else:
            nn.init.constant_(self.linear.bias[n_actions:], float(log_std))

    @property
    def n_columns(self) -> int:
        """Uniform numbers that one action takes."""
        return self.n_actions

    def forward(self, features: Tensor) -> DiagonalGaussian:
        out = self.linear(features).float()
        if self.std == "free":
            return DiagonalGaussian(out, self.log_std.clamp(*self.bounds))
        mean, log_std = out.chunk(2, -1)
        return DiagonalGaussian(mean, log_std.clamp(*self.bounds))


class CategoricalHead(nn.Module):
    """Features (..., n_in) to a :class:`Categorical` over ``n_choices`` actions."""

    n_columns = 1

    def __init__(self, n_in: int, n_choices: int, *, gain: float = 0.01) -> None:
        super().__init__()
        self.n_choices = n_choices
        self.linear = _linear(n_in, n_choices, gain)

    def forward(self, features: Tensor) -> Categorical:
        return Categorical(self.linear(features).float())


class MixedHead(nn.Module):
    """Features (..., n_in) to a :class:`Mixed` distribution: some columns of the action have a few values only.

    Parameters
    ----------
    n_in, n_columns : int
        Width of features and of actions.
    discrete : mapping of int to sequence of float
        Column -> the values it can take: two for a Bernoulli choice, such as ``{0: (-1.0, 1.0)}`` for a gripper that
        the world opens below a threshold and closes above one. The other columns are Gaussian.
    std, log_std, bounds, gain
        As in :class:`GaussianHead`.

    Examples
    --------
    >>> head = MixedHead(4, 3, {0: (-1.0, 1.0)})
    >>> actions = head(torch.zeros(5, 4)).sample(torch.Generator().manual_seed(0))
    >>> actions.shape, actions[:, 0].unique().tolist()
    (torch.Size([5, 3]), [-1.0, 1.0])
    """

    def __init__(
        self,
        n_in: int,
        n_columns: int,
        discrete: Mapping[int, Sequence[float]],
        *,
        std: str = "free",
        log_std: float = 0.0,
        bounds: tuple[float, float] = (-5.0, 2.0),
        gain: float = 0.01,
    ) -> None:
        super().__init__()
        for column, values in discrete.items():
            if not 0 <= column < n_columns:
                raise ValueError(f"discrete names column {column} of an action with {n_columns} columns")
            if len(values) < 2 or any(b <= a for a, b in itertools.pairwise(values)):
                raise ValueError(f"the values of column {column} must be two or more in increasing order, got {values}")
        self.n_columns = n_columns
        self.continuous = [c for c in range(n_columns) if c not in discrete]
        self.sizes = {column: len(discrete[column]) for column in sorted(discrete)}
        n_continuous = len(self.continuous)
        self.gaussian = (
            GaussianHead(n_in, n_continuous, std=std, log_std=log_std, bounds=bounds, gain=gain)
            if n_continuous
            else None
        )
        self.logits = _linear(n_in, sum(self.sizes.values()), gain) if self.sizes else None
        for column in self.sizes:
            self.register_buffer(f"values_{column}", torch.tensor(tuple(discrete[column]), dtype=torch.float32), False)

    def forward(self, features: Tensor) -> Mixed:
        gaussian = None if self.gaussian is None else self.gaussian(features)
        parts: dict[int, tuple[Categorical, Tensor]] = {}
        if self.logits is not None:
            logits = self.logits(features).float().split(list(self.sizes.values()), -1)
            for column, part in zip(self.sizes, logits, strict=True):
                parts[column] = (Categorical(part), getattr(self, f"values_{column}"))
        return Mixed(gaussian, self.continuous, parts)


def make_head(
    space: gymnasium.Space,
    n_in: int,
    *,
    discrete: Mapping[int, Sequence[float]] | None = None,
    std: str = "free",
    log_std: float = 0.0,
) -> GaussianHead | CategoricalHead | MixedHead:
    """Return the head that fits an action space: Box, Discrete (from 0) or MultiDiscrete.

    ``discrete`` names columns of a Box that take a few values only, as in :class:`MixedHead`.
    """
    from gymnasium.spaces import Box, Discrete, MultiDiscrete

    if isinstance(space, Discrete):
        if space.start != 0:
            raise ValueError(f"discrete actions must start at 0, got {space}")
        return CategoricalHead(n_in, int(space.n))
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        return MixedHead(n_in, len(space.nvec), {i: tuple(range(int(k))) for i, k in enumerate(space.nvec)})
    if isinstance(space, Box) and space.shape is not None and len(space.shape) == 1:
        if discrete:
            return MixedHead(n_in, space.shape[0], discrete, std=std, log_std=log_std)
        return GaussianHead(n_in, space.shape[0], std=std, log_std=log_std)
    raise TypeError(f"actions must be a Box of one axis, Discrete or MultiDiscrete, got {space}")


def _linear(n_in: int, n_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
