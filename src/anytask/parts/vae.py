"""A conditional variational auto-encoder whose prior is a learnable Gaussian per class; classes can be added.

References
----------
Kingma, Welling, 2014, "Auto-Encoding Variational Bayes", arXiv:1312.6114.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.models.build import MLP

#: Log-variances of the class prior are kept in this range, so that no class can collapse.
LOG_VARIANCE_RANGE = (-6.0, 3.0)


class ConditionalVAE(nn.Module):
    """A VAE with label-conditioned decoder and prior ``p(z|y) = N(m_y, diag(exp v_y))``.

    Parameters
    ----------
    trunk : nn.Module
        Maps inputs (n, \\*input_shape) to ``h`` (n, trunk_dim).
    trunk_dim : int
    input_shape : tuple of int
        What the decoder gives back.
    latent_dim : int
        Width of z.
    decoder_width : int
        Width of the decoder's first layer, where the label enters.
    decoder : callable, optional
        ``decoder(decoder_width, input_shape)`` returns the rest of the decoder, ending in one number per value (logits
        for a Bernoulli likelihood). By default an :class:`~anytask.models.build.MLP` with ``decoder_hidden`` layers.
    decoder_hidden : sequence of int, default ()
    prior : {"class", "standard"}, default "class"
        Learnable Gaussian per class, or N(0, I) for all.
    label : {"concat", "gate"}, default "concat"
        The label joins z as a one-hot vector, or multiplies the decoder's first layer with a gate in (0, 1).
    likelihood : {"bernoulli", "gaussian"}, default "bernoulli"
        Of the inputs: in [0, 1], or real with unit variance.

    Attributes
    ----------
    n_classes : int
        Classes so far; :meth:`grow` adds more. Each has parameters of its own, which no other class's loss moves.

    Examples
    --------
    >>> vae = ConditionalVAE(MLP((8,), 6), 6, (8,), latent_dim=2, decoder_width=6)
    >>> new = vae.grow(3)
    >>> vae.sample(torch.tensor([0, 2, 2, 1]), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 8])
    """

    def __init__(
        self,
        trunk: nn.Module,
        trunk_dim: int,
        input_shape: tuple[int, ...],
        *,
        latent_dim: int,
        decoder_width: int,
        decoder: Callable[[int, tuple[int, ...]], nn.Module] | None = None,
        decoder_hidden: Sequence[int] = (),
        prior: Literal["class", "standard"] = "class",
        label: Literal["concat", "gate"] = "concat",
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
    ) -> None:
        super().__init__()
        self.input_shape, self.latent_dim, self.decoder_width = input_shape, latent_dim, decoder_width
        self.prior, self.label, self.likelihood = prior, label, likelihood
        self.trunk = trunk
        self.mu = nn.Linear(trunk_dim, latent_dim)
        self.log_variance = nn.Linear(trunk_dim, latent_dim)
        self.first = nn.Linear(latent_dim, decoder_width)
        n_values = math.prod(input_shape)
        self.rest = decoder(decoder_width, input_shape) if decoder else MLP((decoder_width,), n_values, decoder_hidden)
        self.m = nn.ParameterList()  # prior means, (latent_dim,) each
        self.v = nn.ParameterList()  # prior log-variances, (latent_dim,) each
        self.label_in = nn.ParameterList()  # the columns that a one-hot label would pick, (decoder_width,) each

    @property
    def n_classes(self) -> int:
        return len(self.label_in)

    def grow(self, n: int) -> list[nn.Parameter]:
        """Add classes up to ``n`` and return their parameters, for the optimiser. Draws from the global generator."""
        before, like = self.n_classes, self.first.weight
        for _ in range(before, n):
            column = torch.empty(self.decoder_width).uniform_(-1, 1).to(like) / math.sqrt(self.latent_dim)
            self.label_in.append(nn.Parameter(column))
            if self.prior == "class":
                self.m.append(nn.Parameter(torch.randn(self.latent_dim).to(like)))
                self.v.append(nn.Parameter(torch.zeros(self.latent_dim).to(like)))
        return self.class_parameters(before)

    def class_parameters(self, first: int = 0) -> list[nn.Parameter]:
        """Return the parameters of the classes from ``first`` on, class by class."""
        lists = (self.label_in, self.m, self.v) if self.prior == "class" else (self.label_in,)
        return [parameter for own in zip(*lists) for parameter in own][len(lists) * first :]

    def prior_of(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (n, latent_dim) of the prior of classes y (n,)."""
        if self.prior == "standard":
            zero = self.first.weight.new_zeros(len(y), self.latent_dim)
            return zero, zero
        return torch.stack(list(self.m))[y], torch.stack(list(self.v)).clamp(*LOG_VARIANCE_RANGE)[y]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return trunk features h, mean and log-variance of q(z|x)."""
        h = self.trunk(x)
        return h, self.mu(h), self.log_variance(h).clamp(-10.0, 10.0)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the decoder's output (n, number of values) before the likelihood's link function."""
        column = torch.stack(list(self.label_in))[y]
        inner = self.first(z)
        hidden = (inner + column).relu() if self.label == "concat" else inner.relu() * column.sigmoid()
        return self.rest(hidden).flatten(1)

    def mean_of(self, output: Tensor) -> Tensor:
        """Turn the decoder's output into inputs (n, \\*input_shape)."""
        output = output.sigmoid() if self.likelihood == "bernoulli" else output
        return output.reshape(-1, *self.input_shape)

    def sample(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return one generated input per class index in y (n,): z from the class's prior, then the decoder's mean."""
        m, v = self.prior_of(y)
        eps = torch.randn(m.shape, generator=generator, device=m.device, dtype=m.dtype)
        return self.mean_of(self.decode(m + (0.5 * v).exp() * eps, y))

    def loss(
        self,
        x: Tensor,
        y: Tensor,
        generator: torch.Generator | None = None,
        posterior: tuple[Tensor, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return (-log p(x|z,y), KL(q(z|x) || p(z|y))), each (n,); the first up to a constant, summed over values.

        ``posterior`` takes the result of :meth:`posterior`, where it is known already.
        """
        _, mu, log_variance = self.posterior(x) if posterior is None else posterior
        eps = torch.randn(mu.shape, generator=generator, device=mu.device, dtype=mu.dtype)
        output, flat = self.decode(mu + (0.5 * log_variance).exp() * eps, y), x.flatten(1)
        if self.likelihood == "bernoulli":
            reconstruction = F.binary_cross_entropy_with_logits(output, flat, reduction="none").sum(1)
        else:
            reconstruction = 0.5 * (output - flat).square().sum(1)
        return reconstruction, diagonal_gaussian_kl(mu, log_variance, *self.prior_of(y))


def diagonal_gaussian_kl(m_q: Tensor, log_var_q: Tensor, m_p: Tensor, log_var_p: Tensor) -> Tensor:
    """Return ``KL(N(m_q, exp log_var_q) || N(m_p, exp log_var_p))``, summed over the last axis.

    Examples
    --------
    >>> m, v = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25]).log()
    >>> round(diagonal_gaussian_kl(m, v, torch.tensor([0.5, 0.5]), torch.zeros(2)).item(), 6)
    0.568147
    """
    log_ratio = log_var_q - log_var_p
    return 0.5 * (log_ratio.exp() - log_ratio - 1 + (m_q - m_p).square() / log_var_p.exp()).sum(-1)


class ConvDecoder(nn.Module):
    """Transposed convolutions from a vector to an image (channels, height, width); pass the class as ``decoder=``.

    Starts at 4 x 4 with ``channels`` maps and halves them each time the image doubles; what is larger than the image is
    cut off.
    """

    def __init__(self, width: int, image_shape: tuple[int, ...], channels: int = 512) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise ValueError(f"a convolutional decoder makes images (channels, height, width), got {image_shape}")
        self.image_shape, self.channels = image_shape, channels
        self.start = nn.Linear(width, channels * 16)
        layers: list[nn.Module] = []
        size = 4
        while size < max(image_shape[1:]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(channels, max(channels // 2, 16), 4, stride=2, padding=1)]
            channels, size = max(channels // 2, 16), size * 2
        self.up = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(channels, image_shape[0], 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:  # (n, width) -> (n, channels, height, width)
        image = self.up(self.start(h).reshape(-1, self.channels, 4, 4))
        return image[:, :, : self.image_shape[1], : self.image_shape[2]]
