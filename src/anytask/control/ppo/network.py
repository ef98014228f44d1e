"""The network of a policy-gradient learner for any Gymnasium spaces: observations to actions and value.

Vectors are joined (and normalized by running statistics, if wanted), images go through a convolutional trunk, then a
core with or without a memory, an action head and a linear value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.parts.acting import by_space, shapes_of
from anytask.control.parts.action_heads import flat, make_head
from anytask.control.parts.observation_encoders import as_images, build_trunk, image_shape, is_image
from anytask.control.parts.recurrent import ACTIVATIONS, MLPCore, RecurrentCore
from anytask.control.parts.running_stats import RunningStats
from anytask.core.settings import Settings, choice, flag, free, numbers, of_kind, real, whole

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
        at = slice(None) if rows is None else rows.to(self.starts.device)
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
