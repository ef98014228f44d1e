"""The network of a policy-gradient learner for any Gymnasium spaces: observations to actions and value.

Vectors are joined (and normalised by running statistics, if wanted), pictures go through a convolutional trunk, then a
core with or without a memory, an action head and a linear value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.parts.action_heads import Distribution, MixedHead, make_head
from anytask.control.parts.observation_encoders import as_images, build_trunk, image_shape, is_image
from anytask.control.parts.recurrent import MLPCore, RecurrentCore
from anytask.control.parts.running_stats import RunningStats

PLAIN = "observation"  # the key of an observation that is no dict


def by_key(obs: Any) -> dict[str, Tensor]:
    """Return an observation as a dict of tensors."""
    return dict(obs) if isinstance(obs, Mapping) else {PLAIN: obs}


class HalfResNet(nn.Module):
    """A ResNet-18 (transformers' own) of half the width with group normalisation, and a compression layer.

    Parameters
    ----------
    shape : tuple of int
        Of one picture, channels first or last; RGB and depth together have 4 channels.
    width : int, default 512
        Width of the features.

    Examples
    --------
    >>> HalfResNet((4, 64, 64), width=8)(torch.zeros(1, 4, 64, 64)).shape
    torch.Size([1, 8])
    """

    def __init__(self, shape: tuple[int, ...], width: int = 512) -> None:
        super().__init__()
        from transformers import ResNetConfig, ResNetModel

        channels, height, breadth = image_shape(shape)
        config = ResNetConfig(
            num_channels=channels, embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[2, 2, 2, 2],
            layer_type="basic",
        )  # fmt: skip
        self.width = width
        self.resnet = _group_normalised(ResNetModel(config))
        cells = math.ceil(height / 32) * math.ceil(breadth / 32)
        # Squeezed to about 2048 numbers before the linear layer, so that its size does not follow the picture's.
        squeezed = max(1, round(2048 / cells))
        self.compression = nn.Sequential(
            nn.Conv2d(256, squeezed, 3, padding=1, bias=False), nn.GroupNorm(1, squeezed), nn.ReLU(), nn.Flatten(),
            nn.Linear(squeezed * cells, width), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.compression(self.resnet(pixel_values=as_images(x)).last_hidden_state)


def _group_normalised(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(child.num_features // 16, child.num_features))
        else:
            _group_normalised(child)
    return module


class Encoder(nn.Module):
    """Observations (b, ...) and, if wanted, the previous action (b, n_previous) to features (b, width).

    Parameters
    ----------
    space : gymnasium.Space
        Box or Discrete, or a Dict of them.
    n_previous : int
        Columns of the previous action; 0 to do without.
    trunk : None, str, module or callable
        For images, as in :func:`anytask.control.parts.observation_encoders.build_trunk`, or ``"half-resnet18"``.
        Images of one size are stacked (RGB and depth), where that makes 1, 3 or 4 channels.
    trunk_width : int, optional
        Width of the picture features.
    embedding : int, default 0
        Width of linear embeddings of the vectors and of the previous action; 0 takes them as they are.
    blind : sequence of int, default ()
        Columns of the joined vectors that always read 0.
    normalise : bool
        Normalise vectors by running statistics, :attr:`stats`.
    """

    seen: Tensor | None

    def __init__(
        self,
        space: gymnasium.Space,
        n_previous: int = 0,
        *,
        trunk: Any = None,
        trunk_width: int | None = None,
        embedding: int = 0,
        normalise: bool = False,
        blind: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {PLAIN: space}
        for key, part in parts.items():
            if not isinstance(part, (spaces.Box, spaces.Discrete)):
                raise TypeError(f"observations must be Boxes, Discretes or a Dict of them, got {part} for {key!r}")
        shapes = {key: tuple(part.shape or ()) for key, part in parts.items()}
        images = [key for key, shape in shapes.items() if is_image(shape)]
        self.parts = parts
        self.vectors = [key for key in parts if key not in images]
        self.groups = _stacks({key: image_shape(shapes[key]) for key in images})
        if trunk == "half-resnet18":
            trunk = HalfResNet if trunk_width is None else lambda shape: HalfResNet(shape, trunk_width)
        self.trunks = nn.ModuleList(
            build_trunk(trunk, _stacked_shape(group, shapes), seed=seed + i, width=trunk_width)
            for i, group in enumerate(self.groups)
        )
        n_vector = sum(_flat_size(parts[key]) for key in self.vectors)
        self.stats = RunningStats((n_vector,)) if normalise and n_vector else None
        if any(not 0 <= column < n_vector for column in blind):
            raise ValueError(f"blind names columns {sorted(blind)} of {n_vector} in the vector observation")
        seen = torch.ones(n_vector)
        seen[list(blind)] = 0.0
        self.register_buffer("seen", seen if blind else None, persistent=False)
        self.embed = nn.Linear(n_vector, embedding) if embedding and n_vector else None
        self.embed_previous = nn.Linear(n_previous, embedding) if embedding and n_previous else None
        self.n_previous = n_previous
        self.width = sum(int(t.width) for t in self.trunks)  # type: ignore[arg-type, misc]
        for size, layer in ((n_vector, self.embed), (n_previous, self.embed_previous)):
            self.width += size if layer is None else layer.out_features

    def vector(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Return the vector observations joined, (..., n_vector), before normalisation."""
        found = []
        for key in self.vectors:
            part = self.parts[key]
            if isinstance(part, spaces.Discrete):
                found.append(F.one_hot(obs[key].long() - int(part.start), int(part.n)).float())
            else:
                found.append(obs[key].float().flatten(obs[key].dim() - len(part.shape or ())))
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def forward(self, obs: Mapping[str, Tensor], previous: Tensor | None = None) -> Tensor:
        found = []
        for group, trunk in zip(self.groups, self.trunks, strict=True):
            pictures = [obs[key] for key in group]
            found.append(trunk(pictures[0] if len(group) == 1 else torch.cat([as_images(p) for p in pictures], 1)))
        if self.vectors:
            x = self.vector(obs)
            if self.stats is not None:
                x = self.stats.normalise(x, clip=10.0)
            if self.seen is not None:
                x = x * self.seen
            found.append(x if self.embed is None else self.embed(x))
        if self.n_previous:
            assert previous is not None
            found.append(previous if self.embed_previous is None else self.embed_previous(previous))
        return found[0] if len(found) == 1 else torch.cat(found, -1)


def _flat_size(space: gymnasium.Space) -> int:
    return int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or ())


def _stacks(shapes: Mapping[str, tuple[int, int, int]]) -> list[list[str]]:
    sizes = {shape[1:] for shape in shapes.values()}
    if len(shapes) > 1 and len(sizes) == 1 and sum(shape[0] for shape in shapes.values()) in (3, 4):
        return [list(shapes)]
    return [[key] for key in shapes]


def _stacked_shape(group: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if len(group) == 1:
        return shapes[group[0]]
    found = [image_shape(shapes[key]) for key in group]
    return (sum(shape[0] for shape in found), *found[0][1:])


class ActorCritic(nn.Module):
    """Encoder, core, action head and value; with ``share=False`` the value has an encoder and layers of its own.

    Time-major throughout: observations (T, n, ...), previous actions (T, n, columns), memory (n, state_dim).

    Parameters
    ----------
    observation_space, action_space : gymnasium.Space
        Of one copy.
    hidden : sequence of int
        Layers with activations between encoder and core.
    core : {"none", "gru", "lstm"}
        What remembers.
    core_width : int
    share : bool
        One encoder and core for action and value. A core with a memory needs it.
    discrete : mapping of int to sequence of float, optional
        Columns of a Box action that take a few values only.
    previous_action : bool
        Feed the last action taken.
    std, log_std
        Of Gaussian actions, as in :class:`anytask.control.parts.action_heads.GaussianHead`.
    """

    def __init__(
        self,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        core: str = "none",
        core_width: int = 64,
        share: bool = False,
        discrete: Mapping[int, Sequence[float]] | None = None,
        previous_action: bool = False,
        std: str = "free",
        log_std: float = 0.0,
        trunk: Any = None,
        trunk_width: int | None = None,
        embedding: int = 0,
        normalise: bool = False,
        blind: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if core != "none" and not share:
            raise ValueError("a core with a memory serves action and value alike: share=True")
        self.action_space = action_space
        self.n_previous = previous_columns(action_space) if previous_action else 0
        settings: dict[str, Any] = {"trunk": trunk, "trunk_width": trunk_width, "embedding": embedding}
        settings |= {"normalise": normalise, "blind": blind}
        self.encoder = Encoder(observation_space, self.n_previous, seed=seed, **settings)
        self.mlp = MLPCore(self.encoder.width, hidden, activation)
        self.core = None if core == "none" else RecurrentCore(self.mlp.width, core_width, core)
        width = self.mlp.width if self.core is None else self.core.width
        self.state_dim = 0 if self.core is None else self.core.state_dim
        self.head = make_head(action_space, width, discrete=discrete, std=std, log_std=log_std)
        self.critic_encoder = None
        if not share:
            settings["normalise"] = False  # the statistics are the same, and live in the actor's encoder
            self.critic_encoder = Encoder(observation_space, self.n_previous, seed=seed + 100, **settings)
            self.critic_encoder.stats = self.encoder.stats
            self.critic_mlp = MLPCore(self.critic_encoder.width, hidden, activation)
        self.value_layer = nn.Linear(width if share else self.critic_mlp.width, 1)
        nn.init.orthogonal_(self.value_layer.weight)
        nn.init.zeros_(self.value_layer.bias)

    def features(
        self, obs: Mapping[str, Tensor], previous: Tensor | None, state: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the actor's features (T, n, width) and the memory after them."""
        T, n = next(iter(obs.values())).shape[:2]
        h = self.mlp.layers(self.encoder(_flat(obs), None if previous is None else previous.flatten(0, 1)))
        h = h.reshape(T, n, -1)
        return (h, state) if self.core is None else self.core(h, state, starts)

    def step(
        self, obs: Mapping[str, Tensor], previous: Tensor | None, state: Tensor, starts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the features (n, width) of one step, and the memory after it."""
        h = self.mlp.layers(self.encoder(obs, previous))
        return (h, state) if self.core is None else self.core.step(h, state, starts)

    def distribution(self, features: Tensor) -> Distribution:
        """Return the distribution over actions."""
        return self.head(features)

    def value(self, features: Tensor, obs: Mapping[str, Tensor], previous: Tensor | None) -> Tensor:
        """Return values, of the shape of the leading axes: from the actor's features, or the critic's own layers."""
        if self.critic_encoder is None:
            return self.value_layer(features)[..., 0].float()
        leading = features.shape[:-1]
        flat = {key: x.reshape(-1, *x.shape[len(leading) :]) for key, x in obs.items()}
        inner = self.critic_encoder(flat, None if previous is None else previous.reshape(-1, previous.shape[-1]))
        return self.value_layer(self.critic_mlp.layers(inner))[..., 0].float().reshape(leading)

    def previous_of(self, actions: Tensor) -> Tensor:
        """Return raw actions as the numbers (..., n_previous) that are fed back."""
        if isinstance(self.action_space, spaces.Discrete):
            return F.one_hot(actions.long(), int(self.action_space.n)).float()
        if isinstance(self.action_space, spaces.Box):
            # What the world will make of it; a raw sample can be far out.
            low, high = (
                torch.as_tensor(b, device=actions.device) for b in (self.action_space.low, self.action_space.high)
            )
            return actions.clamp(low, high)
        return actions

    @property
    def columns(self) -> int:
        """Uniform numbers that sampling one action takes."""
        return int(self.head.n_columns)

    @property
    def mixed(self) -> bool:
        """Whether some columns of the actions are discrete."""
        return isinstance(self.head, MixedHead)


def _flat(obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: x.flatten(0, 1) for key, x in obs.items()}


def previous_columns(action_space: gymnasium.Space) -> int:
    """Return how many numbers say which action was taken."""
    return int(action_space.n) if isinstance(action_space, spaces.Discrete) else math.prod(action_space.shape or ())


def space_to_tree(space: gymnasium.Space) -> dict[str, Any]:
    """Describe a space in plain values and arrays, for :func:`anytask.core.persistence.save_tree`."""
    if isinstance(space, spaces.Dict):
        return {"kind": "dict", "spaces": {key: space_to_tree(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "multi-discrete", "nvec": np.asarray(space.nvec)}
    if isinstance(space, spaces.Box):
        bounds = {}
        for name, value in (("low", space.low), ("high", space.high)):
            # Pictures have one bound for all pixels.
            bounds[name] = value.flat[0] if value.size and (value == value.flat[0]).all() else value
        return {"kind": "box", **bounds, "shape": tuple(space.shape), "dtype": np.dtype(space.dtype or "f4").str}
    raise TypeError(f"spaces must be Box, Discrete, MultiDiscrete or a Dict of them, got {space}")


def space_from_tree(tree: Mapping[str, Any]) -> gymnasium.Space:
    """Return the space that :func:`space_to_tree` described."""
    if tree["kind"] == "dict":
        return spaces.Dict({key: space_from_tree(part) for key, part in tree["spaces"].items()})
    if tree["kind"] == "discrete":
        return spaces.Discrete(tree["n"], start=tree["start"])
    if tree["kind"] == "multi-discrete":
        return spaces.MultiDiscrete(tree["nvec"])
    dtype, shape = np.dtype(tree["dtype"]), tuple(tree["shape"])
    low, high = (np.broadcast_to(np.asarray(tree[name], dtype), shape).copy() for name in ("low", "high"))
    return spaces.Box(low, high, shape, dtype.type)
