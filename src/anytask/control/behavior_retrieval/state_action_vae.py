"""Embeddings of single transitions (observation, action): a multi-modal VAE, and a time-contrastive encoder.

Both have the same two methods, ``loss(obs, action, ...)`` for training and ``embed(obs, action)``, so that either goes
into a method that compares transitions. The action is one more modality beside the observation keys.

References
----------
Kingma, Welling, 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.parts.observation_encoders import as_images, build_trunks, image_shape
from anytask.core.rng import derive, isolated
from anytask.datasets.episodes import is_image
from anytask.models.build import MLP
from anytask.parts.contrastive import info_nce
from anytask.parts.vae import ConvDecoder, diagonal_gaussian_kl

ACTION = "action"
Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"


class TransitionTrunks(nn.Module):
    """One trunk per observation key, and the action as it is, joined.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Observation key -> shape; vectors are expected to be normalized, images are bytes or in [0, 1].
    action_dim : int
    trunks : default None
        Of images, or per key, as in :func:`~anytask.control.parts.observation_encoders.build_trunk`; without a name of
        their own vectors pass unchanged.
    trunk_width : int, default 128
        Width of image features.
    seed : int
    """

    def __init__(
        self, shapes: Shapes, action_dim: int, *, trunks: Any = None, trunk_width: int | None = 128, seed: int = 0
    ) -> None:
        super().__init__()
        self.keys = list(shapes)
        of = trunks if isinstance(trunks, Mapping) else {k: trunks for k, s in shapes.items() if is_image(s)}
        self.trunks = build_trunks(shapes, of, (derive(seed, "trunk", i) for i in range(len(shapes))), trunk_width)
        self.width = self.trunks.width + action_dim

    def forward(self, obs: Mapping[str, Tensor], action: Tensor) -> Tensor:  # -> (n, width)
        return torch.cat([self.trunks([obs[key] for key in self.keys]), action], -1)


class StateActionVAE(nn.Module):
    """A VAE over all observation keys and the action, with a standard normal prior.

    ``q(z|o,a) = N(m, diag exp v)``: trunks, joined, then a perceptron. The decoder rebuilds every modality: images by
    transposed convolutions, vectors and the action by linear layers. It sees single transitions and predicts no future.

    Parameters
    ----------
    shapes, action_dim
        As in :class:`TransitionTrunks`.
    latent_dim : int, default 14
    hidden : sequence of int, default (300, 400)
        Layers of the perceptrons on both sides of z.
    beta : float, default 1e-4
        Weight of the divergence.
    decoder_channels : int, default 256
        Maps that the image decoder starts from.
    seed, **trunks
        As in :class:`TransitionTrunks`.

    Examples
    --------
    >>> vae = StateActionVAE({"place": (2,), "camera": (16, 16, 3)}, action_dim=2, latent_dim=4, hidden=(32,))
    >>> obs = {"place": torch.zeros(5, 2), "camera": torch.zeros(5, 16, 16, 3, dtype=torch.uint8)}
    >>> vae.embed(obs, torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self, shapes: Shapes, action_dim: int, *, latent_dim: int = 14, hidden: Sequence[int] = (300, 400),
        beta: float = 1e-4, decoder_channels: int = 256, seed: int = 0, **trunks: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shapes, self.beta = {k: tuple(v) for k, v in shapes.items()}, beta
        self.trunks = TransitionTrunks(self.shapes, action_dim, seed=seed, **trunks)
        with isolated(derive(seed, "vae")):
            self.encoder = MLP((self.trunks.width,), 2 * latent_dim, hidden)
            self.decoder = MLP((latent_dim,), hidden[-1], hidden[:-1])
            self.outputs = nn.ModuleList(_output(hidden[-1], s, decoder_channels) for s in self.shapes.values())
            self.action_output = nn.Linear(hidden[-1], action_dim)

    def posterior(self, obs: Mapping[str, Tensor], action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (n, latent_dim) of q(z|o,a)."""
        m, v = self.encoder(self.trunks(obs, action)).chunk(2, -1)
        return m, v.clamp(-10.0, 10.0)

    def decode(self, z: Tensor) -> dict[str, Tensor]:
        """Return every modality rebuilt, the action under ``"action"``; images as (n, channels, height, width)."""
        h = F.relu(self.decoder(z))
        named = zip(self.shapes.items(), self.outputs)
        out = {k: layer(h) if is_image(shape) else layer(h).reshape(-1, *shape) for (k, shape), layer in named}
        return out | {ACTION: self.action_output(h)}

    def loss(
        self, obs: Mapping[str, Tensor], action: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts: the mean squared error per modality, and ``"kl"`` in nats."""
        m, v = self.posterior(obs, action)
        z = m + (0.5 * v).exp() * torch.randn(m.shape, generator=generator, device=m.device)
        wanted = {k: as_images(obs[k]) if is_image(shape) else obs[k].float() for k, shape in self.shapes.items()}
        wanted[ACTION] = action
        parts = {key: F.mse_loss(rebuilt, wanted[key]) for key, rebuilt in self.decode(z).items()}
        zero = torch.zeros_like(m)
        kl = diagonal_gaussian_kl(m, v, zero, zero).mean()
        return torch.stack(list(parts.values())).sum() + self.beta * kl, parts | {"kl": kl}

    def embed(self, obs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """Return the latent mean m(o, a), (n, latent_dim)."""
        return self.posterior(obs, action)[0]


class TimeContrastive(nn.Module):
    """An encoder under which transitions soon after one another are alike, and other transitions of a batch are not.

    InfoNCE on cosines between a transition and one of the same episode, a geometrically distributed number of steps
    later.

    Parameters
    ----------
    shapes, action_dim
        As in :class:`TransitionTrunks`.
    latent_dim : int, default 14
    hidden : sequence of int, default (300, 400)
    temperature : float > 0, default 0.1
    seed, **trunks
        As in :class:`TransitionTrunks`.

    Examples
    --------
    >>> encoder = TimeContrastive({"place": (2,)}, action_dim=2, latent_dim=4, hidden=(32,))
    >>> encoder.embed({"place": torch.zeros(5, 2)}, torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self, shapes: Shapes, action_dim: int, *, latent_dim: int = 14, hidden: Sequence[int] = (300, 400),
        temperature: float = 0.1, seed: int = 0, **trunks: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.temperature = temperature
        self.trunks = TransitionTrunks(shapes, action_dim, seed=seed, **trunks)
        with isolated(derive(seed, "contrastive")):
            self.encoder = MLP((self.trunks.width,), latent_dim, hidden)

    def loss(
        self, obs: Mapping[str, Tensor], action: Tensor, later_obs: Mapping[str, Tensor], later_action: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return InfoNCE of (n) transitions and those that follow them."""
        loss = info_nce(self.embed(obs, action), self.embed(later_obs, later_action), temperature=self.temperature)
        return loss, {"info_nce": loss}

    def embed(self, obs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        """Return the embedding (n, latent_dim), of any length."""
        return self.encoder(self.trunks(obs, action))


class PlainFeatures(nn.Module):
    """No training: frozen image features and vectors as they are, for pretrained vision models as the embedder.

    Parameters
    ----------
    shapes, **trunks
        As in :class:`TransitionTrunks`; without images (or trunks) this is the observation itself.
    """

    def __init__(self, shapes: Shapes, **trunks: Any) -> None:
        super().__init__()
        self.trunks = TransitionTrunks(shapes, 0, **trunks).requires_grad_(False)

    def embed(self, obs: Mapping[str, Tensor], action: Tensor) -> Tensor:
        return self.trunks(obs, action[:, :0])


def _output(width: int, shape: tuple[int, ...], channels: int) -> nn.Module:
    return ConvDecoder(width, image_shape(shape), channels) if is_image(shape) else nn.Linear(width, math.prod(shape))
