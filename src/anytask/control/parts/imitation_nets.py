"""Networks for behavior cloning: trunks per observation key, a core over the window, and a head over actions."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from anytask.control.parts.observation_encoders import as_images, build_trunks, image_shape, joined_width
from anytask.core.rng import derive, isolated
from anytask.datasets.episodes import Statistics, is_image


def check_head(head: Any) -> None:
    """Say so if ``head`` is neither a head's name nor a module."""
    if not isinstance(head, nn.Module) and not (isinstance(head, str) and head in ("gmm", "gaussian", "mse")):
        raise ValueError(f"head must be 'gmm', 'gaussian', 'mse' or a module, got {head!r}")


def check_core(core: Any) -> None:
    """Say so if ``core`` is neither a core's name nor a module with ``width``."""
    if isinstance(core, nn.Module) and not hasattr(core, "width"):
        raise ValueError(f"a core needs the attribute width, and {type(core).__name__} has none")
    if not isinstance(core, nn.Module) and not (isinstance(core, str) and core in ("lstm", "mlp")):
        raise ValueError(f"core must be 'mlp', 'lstm' or a module, got {core!r}")


class MixtureHead(nn.Module):
    """A Gaussian mixture over actions: ``p(a|h) = sum_k w_k N(a; mu_k, diag sigma_k^2)``.

    Parameters
    ----------
    width : int
        Of the features h.
    action_dim : int
    modes : int, default 5
    min_std : float, default 1e-4
        Added to the softplus that makes sigma; also the sigma of low-noise evaluation.
    """

    def __init__(self, width: int, action_dim: int, modes: int = 5, min_std: float = 1e-4) -> None:
        super().__init__()
        self.modes, self.action_dim, self.min_std = modes, action_dim, min_std
        self.out = nn.Linear(width, modes * (1 + 2 * action_dim))

    def parameters_of(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights (..., k), means (..., k, d) and standard deviations (..., k, d)."""
        k, d = self.modes, self.action_dim
        logits, mean, raw = self.out(h).split([k, k * d, k * d], -1)
        shape = (*h.shape[:-1], k, d)
        return logits.log_softmax(-1), mean.reshape(shape), F.softplus(raw).reshape(shape) + self.min_std

    def log_prob(self, h: Tensor, a: Tensor) -> Tensor:
        """Return the log-density (...,) of actions (..., d)."""
        return mixture_log_prob(a, *self.parameters_of(h))

    def loss(self, h: Tensor, a: Tensor) -> Tensor:
        return -self.log_prob(h, a)

    def act(self, h: Tensor, how: str, generator: torch.Generator | None) -> Tensor:
        log_weight, mean, std = self.parameters_of(h)
        if how == "mode":  # the mean of the most probable component
            chosen = log_weight.argmax(-1, keepdim=True)
        else:
            flat = log_weight.exp().reshape(-1, self.modes)
            chosen = torch.multinomial(flat, 1, generator=generator).reshape(*log_weight.shape[:-1], 1)
        pick = chosen[..., None].expand(*chosen.shape, self.action_dim)
        mean, std = mean.gather(-2, pick).squeeze(-2), std.gather(-2, pick).squeeze(-2)
        if how == "mode":
            return mean
        if how == "low-noise":
            std = torch.full_like(std, self.min_std)
        return mean + std * torch.randn(mean.shape, generator=generator, device=mean.device)


class MSEHead(nn.Module):
    """A single action: the mean, trained with the squared error (a Gaussian of unit variance)."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, action_dim)

    def log_prob(self, h: Tensor, a: Tensor) -> Tensor:
        return Normal(self.out(h), 1.0, validate_args=False).log_prob(a).sum(-1)

    def loss(self, h: Tensor, a: Tensor) -> Tensor:
        return (a - self.out(h)).square().mean(-1)

    def act(self, h: Tensor, how: str, generator: torch.Generator | None) -> Tensor:
        return self.out(h)


def mixture_log_prob(a: Tensor, log_weight: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``log sum_k w_k N(a; mu_k, diag sigma_k^2)``.

    Parameters
    ----------
    a : Tensor (..., d)
    log_weight : Tensor (..., k)
    mean, std : Tensor (..., k, d)

    Examples
    --------
    >>> one = mixture_log_prob(torch.zeros(1), torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1))
    >>> round(one.item(), 6)  # -log sqrt(2 pi)
    -0.918939
    """
    component = Normal(mean, std, validate_args=False).log_prob(a[..., None, :]).sum(-1)  # (..., k)
    return torch.logsumexp(log_weight + component, -1)


# -- networks ---------------------------------------------------------------------------------------------------------


class PolicyNet(nn.Module):
    """Trunks per observation key -> core over the window -> head. Normalizes observations and actions itself.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one observation, by key.
    action_dim : int
    settings : CloningSettings
        Trunks, crop, core and head.
    seed : int
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], action_dim: int, settings: Any, *, seed: int) -> None:
        super().__init__()
        s = settings
        self.shapes = {k: tuple(v) for k, v in shapes.items()}
        self.crop = s.crop
        seen = {key: self._seen_shape(key, shape) for key, shape in self.shapes.items()}
        seeds = (derive(seed, "trunk", i) for i in range(len(seen)))
        self.trunks = build_trunks(seen, s.trunks, seeds, s.trunk_width)
        for i, shape in enumerate(self.shapes.values()):
            if not is_image(shape):
                self.register_buffer(f"mean_{i}", torch.zeros(shape))
                self.register_buffer(f"std_{i}", torch.ones(shape))
        self.register_buffer("action_mean", torch.zeros(action_dim))
        self.register_buffer("action_std", torch.ones(action_dim))
        with isolated(derive(seed, "core")):
            self.core: Any = _core(s.core, joined_width(self.trunks), s.hidden)
            self.recurrent = isinstance(self.core, nn.LSTM)
            out: Any = self.core.hidden_size if self.recurrent else self.core.width
            self.head: Any = _head(s.head, out, action_dim, s.modes, s.min_std)

    def _seen_shape(self, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not is_image(shape) or self.crop is None:
            return shape
        c, h, w = image_shape(shape)
        if not 1 <= self.crop <= min(h, w):
            raise ValueError(f"crop must be in 1..{min(h, w)} for images {key!r} of {h} x {w} pixels, got {self.crop}")
        return (c, self.crop, self.crop)

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Take mean and standard deviation of vectors and actions; what never varies is only centered."""
        vectors = {str(i): key for i, (key, shape) in enumerate(self.shapes.items()) if not is_image(shape)}
        for name, key in vectors.items():
            getattr(self, f"mean_{name}").copy_(torch.as_tensor(statistics[key].mean))
            getattr(self, f"std_{name}").copy_(torch.as_tensor(statistics[key].scale))
        self.action_mean.copy_(torch.as_tensor(statistics["action"].mean))
        self.action_std.copy_(torch.as_tensor(statistics["action"].scale))

    def normalized(self, a: Tensor) -> Tensor:
        """Return actions in units of their standard deviation."""
        return (a - self.action_mean) / self.action_std

    def features(self, obs: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Return features (n, width) of observations key -> (n, \\*shape); crops at random if given a generator."""
        out = []
        for i, (key, shape) in enumerate(self.shapes.items()):
            x = obs[key]
            if is_image(shape):
                x = as_images(x)
                x = x if self.crop is None else _cropped(x, self.crop, generator)
            else:
                x = (x.float() - getattr(self, f"mean_{i}")) / getattr(self, f"std_{i}")
            out.append(self.trunks[i](x))
        return torch.cat(out, -1)

    def forward(self, window: Mapping[str, Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Return the head's input (n, length, width) for windows key -> (n, length, \\*shape)."""
        n, length = next(iter(window.values())).shape[:2]
        f = self.features({k: v.flatten(0, 1) for k, v in window.items()}, generator)
        if self.recurrent:
            return self.core(f.reshape(n, length, -1))[0]
        return self.core(f).reshape(n, length, -1)


class _MLPCore(nn.Module):
    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        super().__init__()
        pairs = itertools.pairwise([width, *hidden])
        self.layers = nn.Sequential(*(layer for n_in, n_out in pairs for layer in (nn.Linear(n_in, n_out), nn.ReLU())))
        self.width = hidden[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _core(core: str | nn.Module, width: int, hidden: Sequence[int]) -> nn.Module:
    if isinstance(core, nn.Module):
        return copy.deepcopy(core)
    if core == "mlp":
        return _MLPCore(width, hidden)
    return nn.LSTM(width, hidden[0], num_layers=len(hidden), batch_first=True)


def _head(head: str | nn.Module, width: int, action_dim: int, modes: int, min_std: float) -> nn.Module:
    if isinstance(head, nn.Module):
        return copy.deepcopy(head)
    if head == "mse":
        return MSEHead(width, action_dim)
    return MixtureHead(width, action_dim, modes if head == "gmm" else 1, min_std)


def _cropped(x: Tensor, size: int, generator: torch.Generator | None) -> Tensor:
    """Crop images (n, c, h, w): each at a random place, or all in the center without a generator."""
    h, w = x.shape[-2:]
    if generator is None:
        top, left = (h - size) // 2, (w - size) // 2
        return x[..., top : top + size, left : left + size]
    tops = torch.randint(h - size + 1, (len(x), 1), generator=generator, device=x.device)
    lefts = torch.randint(w - size + 1, (len(x), 1), generator=generator, device=x.device)
    span = torch.arange(size, device=x.device)
    n = torch.arange(len(x), device=x.device)[:, None, None]
    return x[n, :, (tops + span)[:, :, None], (lefts + span)[:, None, :]].movedim(-1, 1)
