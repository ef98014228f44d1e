"""The network of a policy-gradient learner for any Gymnasium spaces: observations to actions and value.

Vectors are joined (and normalized by running statistics, if wanted), images go through a convolutional trunk, then a
core with or without a memory, an action head and a linear value. Distributions take the action as it was sampled: what
a world makes of it (clamping, a threshold) is not their business, since a policy gradient is right only for the
probability of the raw sample.

References
----------
Chan, Golub, LeVeque, 1983, "Algorithms for Computing the Sample Variance: Analysis and Recommendations".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F

from anytask.control.parts.acting import by_space, checked_rows, shapes_of
from anytask.control.parts.observation_encoders import as_images, build_trunk, image_shape, is_image
from anytask.control.parts.recurrent import ACTIVATIONS, MLPCore, RecurrentCore
from anytask.core.settings import Settings, choice, flag, free, numbers, of_kind, real, whole


class RunningStats(nn.Module):
    """Running mean and variance of values of one shape, kept in float64.

    Parameters
    ----------
    shape : tuple of int
        Of one value.

    Attributes
    ----------
    count, mean, m2 : Tensor
        Number of values, their mean, and the sum of squared deviations from it; all a ``state_dict`` holds.

    Examples
    --------
    >>> stats = RunningStats((2,))
    >>> stats.merge(torch.tensor(2.0), torch.tensor([2.0, 20.0]), torch.tensor([2.0, 200.0]))
    >>> stats.normalize(torch.tensor([2.0, 40.0]), clip=10.0)
    tensor([0., 2.])
    """

    count: Tensor  # ()
    mean: Tensor  # shape
    m2: Tensor  # shape

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        for name, size in (("count", ()), ("mean", shape), ("m2", shape)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def variance(self) -> Tensor:
        """Population variance; ones before anything was seen."""
        return self.m2 / self.count if self.count > 0 else torch.ones_like(self.m2)

    @torch.no_grad()
    def merge(self, count: Tensor, mean: Tensor, m2: Tensor) -> None:
        """Take in values of which only number, mean and sum of squared deviations are known."""
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * (count / total)
        self.m2 += m2 + delta.square() * (self.count * count / total)
        self.count.copy_(total)

    def normalize(self, x: Tensor, clip: float) -> Tensor:
        """Return ``(x - mean) / sqrt(variance + 1e-8)`` in the dtype of ``x``, cut to [-clip, clip]."""
        mean, scale = self.mean.to(x.dtype), (self.variance + 1e-8).rsqrt().to(x.dtype)
        return ((x - mean) * scale).clamp(-clip, clip)


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


PREVIOUS = "previous action"  # its key among the observations
TRUNK = ((str, nn.Module, Callable), "a name, a module or a callable")


def check_discrete(discrete: Any) -> None:
    """Say so if ``discrete`` names no values by columns."""
    if not (discrete is None or isinstance(discrete, Mapping) or (isinstance(discrete, str) and discrete == "auto")):
        raise ValueError(f"discrete must be 'auto', None or a mapping of columns to values, got {discrete!r}")


class NetworkSettings(Settings):
    """The network of :class:`~anytask.control.ppo.PPO`.

    ``discrete`` maps columns of continuous actions that take a few values only to these, such as ``{0: (-1.0, 1.0)}``;
    ``trunk`` is as in :func:`anytask.control.parts.observation_encoders.build_trunk`.
    """

    hidden: Sequence[int] = numbers((64, 64), "layers between encoder and core", at_least=1, integers=True)
    activation: str = choice("tanh", tuple(ACTIVATIONS), "activation of these layers")
    core: str = choice("none", ("none", "gru", "lstm"), "memory, for worlds that are not seen in full")
    core_width: int = whole(64, "width of the memory")
    share: Any = flag("auto", "one network for actions and values; auto: with a memory or images", words=("auto",))
    discrete: Any = free(None, "values of discrete action columns; auto: what the environment names", check_discrete)
    previous_action: bool = flag(False, "feed the last action back")
    std: str = choice("free", ("free", "state"), "exploration alike everywhere, or as the state decides")
    log_std: float = real(0.0, "log standard deviation of continuous actions at the start")
    trunk: Any = of_kind(None, *TRUNK, "encoder of images; None: by their shape", optional=True)
    trunk_width: int | None = whole(None, "width of image features; None: the trunk's own", optional=True)
    embedding: int = whole(0, "width of linear embeddings of vectors and of the last action; 0: none", at_least=0)
    blind: Sequence[int] = numbers((), "columns of the joined vectors that always read 0", at_least=0, integers=True)
    normalize_observations: bool = flag(False, "by mean and variance of all vectors seen up to the round before")

    def _check_settings(self) -> None:
        if self.core != "none" and self.share is False:
            raise ValueError("a core with a memory serves action and value alike: share=True")


@dataclass
class Memory:
    """What a policy remembers of n parallel environments."""

    state: Tensor  # (n, state_dim)
    previous: Tensor | None  # (n, n_previous), the last action
    starts: Tensor  # (n,) bool, whose episode begins

    def with_previous(self, obs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return observations with the last action beside them, if it is fed back."""
        return obs if self.previous is None else {**obs, PREVIOUS: self.previous}

    def forget(self, rows: Tensor | None) -> None:
        """Start new episodes in the rows ``rows`` (m,), or in all: the state before a start does not count."""
        at = slice(None) if rows is None else checked_rows(rows, len(self.starts), self.starts.device)
        self.starts[at] = True
        if self.previous is not None:
            self.previous[at] = 0.0


class Encoder(nn.Module):
    """Observations (..., \\*shape) and, if wanted, the previous action (..., n_previous) to features (..., width).

    Parameters
    ----------
    space : gymnasium.Space
        Box or Discrete, or a Dict of them. Images of one size are stacked (RGB and depth), where that makes 1, 3 or 4
        channels.
    n_previous : int
        Columns of the previous action; 0 to do without.
    settings : NetworkSettings
    seed : int
        Of the trunks; the other layers draw from the global generator.

    Attributes
    ----------
    stats : RunningStats or None
        What vectors are normalized by.
    """

    seen: Tensor | None

    def __init__(self, space: gymnasium.Space, n_previous: int, settings: NetworkSettings, *, seed: int = 0) -> None:
        super().__init__()
        s, self.n_previous, self.parts = settings, n_previous, by_space(space)
        for key, part in self.parts.items():
            if not isinstance(part, (spaces.Box, spaces.Discrete)):
                raise TypeError(f"observations must be Boxes, Discretes or a Dict of them, got {part} for {key!r}")
        images = {key: image_shape(shape) for key, shape in shapes_of(space).items() if is_image(shape)}
        self.vectors = [key for key in self.parts if key not in images]
        channels = sum(shape[0] for shape in images.values())
        one_size = len({shape[1:] for shape in images.values()}) == 1
        stacked = len(images) > 1 and one_size and channels in (3, 4)
        self.groups = [list(images)] if stacked else [[key] for key in images]
        seen_as = {g[0]: (channels, *images[g[0]][1:]) if stacked else self.parts[g[0]].shape for g in self.groups}
        self.trunks = nn.ModuleList(
            build_trunk(s.trunk, shape or (), seed=seed + i, width=s.trunk_width)
            for i, shape in enumerate(seen_as.values())
        )
        n_vector = sum(flat_size(self.parts[key]) for key in self.vectors)
        self.stats = RunningStats((n_vector,)) if s.normalize_observations and n_vector else None
        if any(column >= n_vector for column in s.blind):
            raise ValueError(f"blind names columns {sorted(s.blind)} of {n_vector} in the vector observation")
        seen = torch.ones(n_vector)
        seen[list(s.blind)] = 0.0
        self.register_buffer("seen", seen if len(s.blind) else None, persistent=False)
        self.embed = nn.Linear(n_vector, s.embedding) if s.embedding and n_vector else None
        self.embed_previous = nn.Linear(n_previous, s.embedding) if s.embedding and n_previous else None
        self.width = sum(int(t.width) for t in self.trunks)  # type: ignore[arg-type, misc]
        for size, layer in ((n_vector, self.embed), (n_previous, self.embed_previous)):
            self.width += size if layer is None else layer.out_features

    def vector(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the vector observations joined, (..., n_vector), before normalization."""
        found = []
        for key in self.vectors:
            part = self.parts[key]
            if isinstance(part, spaces.Discrete):
                found.append(F.one_hot(obs[key].long() - int(part.start), int(part.n)).float())
            else:
                found.append(flat(obs[key].float(), len(part.shape or ())))
        return torch.cat(found, -1)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        found = []
        for group, trunk in zip(self.groups, self.trunks, strict=True):
            leading = obs[group[0]].shape[:-3]
            images = [obs[key].flatten(0, -4) for key in group]
            joined = images[0] if len(group) == 1 else torch.cat([as_images(x) for x in images], 1)
            found.append(trunk(joined).unflatten(0, leading))
        if self.vectors:
            x = self.vector(obs)
            if self.stats is not None:
                x = self.stats.normalize(x, clip=10.0)
            if self.seen is not None:
                x = x * self.seen
            found.append(x if self.embed is None else self.embed(x))
        if self.n_previous:
            previous = obs[PREVIOUS]
            found.append(previous if self.embed_previous is None else self.embed_previous(previous))
        return torch.cat(found, -1)


class ActorCritic(nn.Module):
    """Encoder, core, action head and value; where they share nothing the value has an encoder and layers of its own.

    Parameters
    ----------
    observation_space, action_space : gymnasium.Space
        Of one environment.
    settings : NetworkSettings
        ``discrete`` is a mapping or None here.
    autocast : bool
        bfloat16 in the inner layers, on CUDA only.
    seed : int
        Of the trunks; the other layers draw from the global generator.

    Attributes
    ----------
    head : ActionHead
        Maps features to the distribution over actions.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        settings: NetworkSettings,
        *,
        autocast: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        s = settings
        images = any(is_image(shape) for shape in shapes_of(observation_space).values())
        share = s.core != "none" or images if s.share == "auto" else s.share
        self.action_space, self.autocast = action_space, autocast
        self.n_previous = flat_size(action_space) if s.previous_action else 0
        self.encoder = Encoder(observation_space, self.n_previous, s, seed=seed)
        self.mlp = MLPCore(self.encoder.width, s.hidden, s.activation)
        self.core = None if s.core == "none" else RecurrentCore(self.mlp.width, s.core_width, s.core)
        width = self.mlp.width if self.core is None else self.core.width
        self.state_dim = 0 if self.core is None else self.core.state_dim
        self.head = make_head(action_space, width, discrete=s.discrete, std=s.std, log_std=s.log_std)
        self.critic_encoder = None
        if not share:
            self.critic_encoder = Encoder(observation_space, self.n_previous, s, seed=seed + 100)
            self.critic_encoder.stats = self.encoder.stats  # the statistics are the same, and live in the actor's
            self.critic_mlp = MLPCore(self.critic_encoder.width, s.hidden, s.activation)
        self.value_layer = nn.Linear(width if share else self.critic_mlp.width, 1)
        nn.init.orthogonal_(self.value_layer.weight)
        nn.init.zeros_(self.value_layer.bias)

    def _precision(self) -> Any:
        device = self.value_layer.weight.device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast and device == "cuda")

    def memory(self, n: int) -> Memory:
        """Return the memory of n environments at the start of their episodes."""
        device = self.value_layer.weight.device
        previous = torch.zeros(n, self.n_previous, device=device) if self.n_previous else None
        starts = torch.ones(n, dtype=torch.bool, device=device)
        return Memory(torch.zeros(n, self.state_dim, device=device), previous, starts)

    def features(self, obs: Mapping[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actor's features and the memory (n, state_dim) after them.

        ``obs`` is what :meth:`Memory.with_previous` returns, of one step (n, ...) or a sequence (T, n, ...), ``starts``
        (n,) or (T, n) tells where episodes begin, and ``state`` (n, state_dim) is the memory before the first step.
        """
        with self._precision():
            h = self.mlp(self.encoder(obs))
            return (h, state) if self.core is None else self.core(h, state, starts)

    def value(self, features: Tensor, obs: Mapping[str, Tensor]) -> Tensor:
        """Return values, of the shape of the leading axes: from the actor's features, or the critic's own layers."""
        with self._precision():
            if self.critic_encoder is not None:
                features = self.critic_mlp(self.critic_encoder(obs))
            return self.value_layer(features)[..., 0].float()

    def previous_of(self, actions: Tensor) -> Tensor | None:
        """Return raw actions as the numbers (..., n_previous) that are fed back, if they are."""
        space = self.action_space
        if not self.n_previous:
            return None
        if isinstance(space, spaces.Discrete):
            return F.one_hot(actions.long() - int(space.start), int(space.n)).float()
        # What the world will make of it; a raw sample can be far out.
        return flat(bounded(actions, space).float(), len(space.shape or ()))


def bounded(actions: Tensor, space: gymnasium.Space) -> Tensor:
    """Return actions that lie in the space."""
    if isinstance(space, spaces.Box):
        low, high = (torch.as_tensor(b, device=actions.device) for b in (space.low, space.high))
        return actions.clamp(low, high).to(low.dtype)
    return actions.long()


def flat_size(space: gymnasium.Space) -> int:
    """Return how many numbers a value of the space is, one per choice of a Discrete."""
    return int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or ())


def space_to_tree(space: gymnasium.Space) -> dict[str, Any]:
    """Describe a space in plain values and arrays, for :func:`anytask.core.persistence.save_tree`."""
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": {key: space_to_tree(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multi-discrete", "nvec": np.asarray(space.nvec), "start": np.asarray(space.start)}
    if isinstance(space, spaces.Box):
        # Images have one bound for all pixels.
        low, high = (b.flat[0] if b.size and (b == b.flat[0]).all() else b for b in (space.low, space.high))
        return {"kind": "box", "low": low, "high": high, "shape": space.shape, "dtype": np.dtype(space.dtype).str}
    raise TypeError(f"spaces must be Box, Discrete, MultiDiscrete or a Dict of them, got {space}")


def space_from_tree(tree: Mapping[str, Any]) -> gymnasium.Space:
    """Return the space that :func:`space_to_tree` described."""
    if tree["kind"] == "dict":
        return spaces.Dict({key: space_from_tree(part) for key, part in tree["spaces"].items()})
    if tree["kind"] == "discrete":
        return spaces.Discrete(tree["n"], start=tree["start"])
    if tree["kind"] == "multi-discrete":
        return spaces.MultiDiscrete(tree["nvec"], start=tree.get("start"))
    dtype, shape = np.dtype(tree["dtype"]), tuple(tree["shape"])
    low, high = (np.broadcast_to(np.asarray(tree[name], dtype), shape).copy() for name in ("low", "high"))
    return spaces.Box(low, high, shape, dtype.type)
