"""Denoising as a policy: generative models of actions whose sampling chain has an exact log-probability.

A *process* turns noise into an action in ``n_steps`` sub-steps, each of them a Gaussian given the one before. So a
chain has a log-probability, and policy gradients apply to it sub-step by sub-step. Two processes share one interface:
:class:`DDIM` predicts noise on a squared-cosine schedule, :class:`Flow` predicts velocity on straight paths. The
network is any module called as ``net(a, tau, c)`` with noisy actions a (n, \\*shape), times tau (n,) in
[0, 1] (1 is pure noise) and features c (n, width); :class:`DenoisingMLP` is a small one.

References
----------
Nichol, Dhariwal, 2021, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672 (the schedule).
Song, Meng, Ermon, 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502.
Lipman et al., 2023, "Flow Matching for Generative Modeling", arXiv:2210.02747.
Song, Dhariwal, Chen, Sutskever, 2023, "Consistency Models", arXiv:2303.01469.
Luo et al., 2023, "Latent Consistency Models", arXiv:2310.04378.
"""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from anytask.core.checks import require_finite

#: net(a, tau, c) -> prediction of the shape of a.
Net = Callable[[Tensor, Tensor, Tensor], Tensor]


def squared_cosine_alpha_bar(n: int = 100) -> Tensor:
    """Return ``alpha_bar`` (n,) of the squared-cosine schedule: the share of signal variance left at each step.

    Examples
    --------
    >>> alpha_bar = squared_cosine_alpha_bar(100)
    >>> [round(alpha_bar[t].item(), 4) for t in (0, 50, 99)]
    [0.9994, 0.4783, 0.0]
    """
    t = torch.arange(n + 1, dtype=torch.float64) / n
    signal = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    beta = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    return (1 - beta).cumprod(0).float()


class Chain(NamedTuple):
    """A sampled chain: ``states`` (n_steps + 1, n, \\*shape), noise first, and ``log_prob`` (n_steps, n)."""

    states: Tensor
    log_prob: Tensor

    @property
    def actions(self) -> Tensor:
        """The last state, (n, \\*shape), within [-1, 1]."""
        return self.states[-1].clamp(-1.0, 1.0)


def gaussian_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log N(x; mean, std^2) summed over all axes but the first, (n,).

    As ``torch.distributions.Normal`` has it, in a third of the time.

    Examples
    --------
    >>> round(gaussian_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor(1.0)).item(), 6)
    -1.837877
    """
    log_density = -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    return log_density.expand(x.shape).flatten(1).sum(1)


@dataclass
class Process(ABC):
    """The interface of :class:`DDIM` and :class:`Flow`: sub-step ``k`` takes state k to k + 1, k = 0 .. n_steps - 1.

    Parameters
    ----------
    shape : tuple of int
        Of an action, (d,) or (horizon, d).
    n_steps : int
        Sub-steps, and so network calls, per action.
    eta : float >= 0
        Size of the noise in stochastic chains; 0 makes all noise come from ``sigma_min``.
    sigma_min, sigma_max : float
        Bounds on the standard deviation of a sub-step. ``sigma_min > 0`` keeps log-probabilities finite, the last
        sub-step included.
    clip : bool
        Clip the predicted clean action to [-1, 1] inside the chain.
    recompute : bool
        Recompute the noise from a clipped clean action, so that a clipped entry has no gradient. Without it the noise
        stays as predicted, and at a clipped entry more of it raises the next state, where it lowers it elsewhere.
    """

    shape: tuple[int, ...]
    n_steps: int = 10
    eta: float = 1.0
    sigma_min: float = 0.0067
    sigma_max: float | None = None
    clip: bool = True
    recompute: bool = False

    @abstractmethod
    def loss(self, net: Net, a: Tensor, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the training loss (n,) of clean actions a, at one random time each, averaged over action entries."""

    @abstractmethod
    def time(self, k: int) -> float:
        """Return tau in [0, 1] of state k."""

    @abstractmethod
    def scales(self, k: int) -> tuple[float, float]:
        """Return what state k is made of: a clean action times the first, plus noise times the second."""

    @abstractmethod
    def split(self, net: Net, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clean action and the noise that the network sees in state k, not clipped."""

    @abstractmethod
    def _next(self, clean: Tensor, noise: Tensor, a: Tensor, k: int, eta: float) -> tuple[Tensor, float]:
        """Return the mean of state k + 1 given state k = ``a``, and the standard deviation before its bounds."""

    def between(self, clean: Tensor, noise: Tensor, k: int) -> Tensor:
        """Return state k of a clean action and a noise."""
        signal, sigma = self.scales(k)
        return signal * clean + sigma * noise

    def moments(self, net: Net, a: Tensor, k: int, c: Tensor, eta: float) -> tuple[Tensor, float]:
        """Return the mean of state k + 1 given state k = ``a``, and the standard deviation before its bounds."""
        clean, noise = self.split(net, a, k, c)
        if self.clip:
            clean = clean.clamp(-1.0, 1.0)
        if self.recompute:
            signal, sigma = self.scales(k)  # sigma > 0 in all states but the last
            noise = (a - signal * clean) / sigma
        return self._next(clean, noise, a, k, eta)

    def step(self, net: Net, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (n, \\*shape) and standard deviation () of state k + 1 given state k = ``a``."""
        mean, sigma = self.moments(net, a, k, c, self.eta)
        return mean, torch.tensor(min(max(sigma, self.sigma_min), self.sigma_max or math.inf), device=a.device)

    def noise(self, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the noise (n, \\*shape) that a chain starts from, for each row of c."""
        return _noise((len(c), *self.shape), c, generator)

    @torch.no_grad()
    def sample(self, net: Net, c: Tensor, generator: torch.Generator | None = None) -> Chain:
        """Draw a stochastic chain for each row of c, without gradients."""
        states, log_probs = [self.noise(c, generator)], []
        for k in range(self.n_steps):
            mean, std = self.step(net, states[-1], k, c)
            states.append(mean + std * _noise(mean.shape, c, generator))
            log_probs.append(gaussian_log_prob(states[-1], mean, std))
        return Chain(torch.stack(states), torch.stack(log_probs))

    def log_prob(self, net: Net, states: Tensor, c: Tensor, k: int | None = None) -> Tensor:
        """Return the log-probability of sub-step ``k`` (n,), or of all (n_steps, n), with gradients into net and c.

        Parameters
        ----------
        states : Tensor (n_steps + 1, n, \\*shape)
            As in :attr:`Chain.states`.
        """
        if k is None:
            return torch.stack([self.log_prob(net, states, c, k) for k in range(self.n_steps)])
        mean, std = self.step(net, states[k], k, c)
        return gaussian_log_prob(states[k + 1], mean, std)

    @torch.no_grad()
    def decide(self, net: Net, c: Tensor, noise: Tensor) -> Tensor:
        """Return actions (n, \\*shape) in [-1, 1] of chains from ``noise``, without any in the sub-steps."""
        a = require_finite(noise, "the noise that a chain starts from")
        for k in range(self.n_steps):
            a, _ = self.moments(net, a, k, c, 0.0)
        return a.clamp(-1.0, 1.0)


@dataclass
class DDIM(Process):
    """Noise-predicting diffusion with ``n_steps`` DDIM sub-steps out of ``n_train`` of the squared-cosine schedule.

    With sub-step times tau_0 > tau_1 > ... and alpha_bar' that of the next time (1 after the last)::

        x0    = (a - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)          # clipped to [-1, 1] by choice
        sigma = eta sqrt((1 - alpha_bar') / (1 - alpha_bar) (1 - alpha_bar / alpha_bar'))
        a'    ~ N(sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar' - sigma^2) eps, clip(sigma, sigma_min, sigma_max)^2)

    ``eta`` = 1 is the ancestral sampler of DDPM, 0 is deterministic but for ``sigma_min``.

    Examples
    --------
    A network that knows the answer 0.3 finds it in any number of steps.

    >>> process = DDIM((1,), n_steps=4)
    >>> def net(a, tau, c):
    ...     alpha_bar = process.alpha_bar[(tau * 100).round().long()][:, None]
    ...     return (a - alpha_bar.sqrt() * 0.3) / (1 - alpha_bar).sqrt()
    >>> process.decide(net, torch.zeros(2, 1), torch.tensor([[-1.0], [1.0]])).ravel().tolist()
    [0.30000001192092896, 0.30000001192092896]
    """

    n_train: int = 100

    def __post_init__(self) -> None:
        self.alpha_bar = squared_cosine_alpha_bar(self.n_train)
        stride = self.n_train // self.n_steps
        #: Indices into the training schedule of states 0 .. n_steps - 1, falling to 0.
        self.timesteps = [stride * (self.n_steps - 1 - k) for k in range(self.n_steps)]
        self._signals = [*self.alpha_bar[self.timesteps].tolist(), 1.0]  # alpha_bar of states 0 .. n_steps

    def time(self, k: int) -> float:
        return self.timesteps[k] / self.n_train if k < self.n_steps else 0.0

    def loss(self, net: Net, a: Tensor, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        t = torch.randint(self.n_train, (len(a),), generator=generator, device=a.device)
        eps = _noise(a.shape, a, generator)
        alpha_bar = self.alpha_bar.to(a.device)[t].reshape(-1, *[1] * (a.dim() - 1))
        noisy = alpha_bar.sqrt() * a + (1 - alpha_bar).sqrt() * eps
        return (net(noisy, t / self.n_train, c) - eps).square().flatten(1).mean(1)

    def scales(self, k: int) -> tuple[float, float]:
        return math.sqrt(self._signals[k]), math.sqrt(1 - self._signals[k])

    def split(self, net: Net, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        eps = net(a, _times(self.time(k), a), c)
        signal, sigma = self.scales(k)
        return (a - sigma * eps) / signal, eps

    def _next(self, clean: Tensor, noise: Tensor, a: Tensor, k: int, eta: float) -> tuple[Tensor, float]:
        return ddim_moments(clean, noise, self._signals[k], self._signals[k + 1], eta)


def ddim_moments(x0: Tensor, eps: Tensor, alpha_bar: float, alpha_bar_next: float, eta: float) -> tuple[Tensor, float]:
    """Return mean and standard deviation of the next state from a clean action x0 and a noise eps."""
    variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    direction = math.sqrt(max(1 - alpha_bar_next - variance, 0.0))
    return math.sqrt(alpha_bar_next) * x0 + direction * eps, math.sqrt(variance)


@dataclass
class Flow(Process):
    """Flow matching on straight paths ``a_s = (1 - s) noise + s action`` with a stochastic sampler.

    The network predicts the velocity ``action - noise``. In steps of 1 / n_steps the chain follows the stochastic
    equation that has the same marginals as the flow, with diffusion ``g^2 = eta^2 (1 - s)``: the score is
    ``-noise / (1 - s)``, so the drift is ``v - eta^2 noise / 2``, finite everywhere.

    Examples
    --------
    >>> process = Flow((1,), n_steps=4)
    >>> def net(a, tau, c):
    ...     return (0.3 - a) / tau[:, None]
    >>> process.decide(net, torch.zeros(1, 1), torch.ones(1, 1)).item()
    0.30000001192092896
    """

    recompute: bool = True  # its noise is what leads from the clean action to the state

    def time(self, k: int) -> float:
        return 1 - k / self.n_steps

    def loss(self, net: Net, a: Tensor, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        tau = torch.rand((len(a),), generator=generator, device=a.device)
        noise = _noise(a.shape, a, generator)
        share = tau.reshape(-1, *[1] * (a.dim() - 1))
        return (net(share * noise + (1 - share) * a, tau, c) - (a - noise)).square().flatten(1).mean(1)

    def scales(self, k: int) -> tuple[float, float]:
        return 1 - self.time(k), self.time(k)

    def split(self, net: Net, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        tau, velocity = self.time(k), net(a, _times(self.time(k), a), c)
        return a + tau * velocity, a - (1 - tau) * velocity

    def _next(self, clean: Tensor, noise: Tensor, a: Tensor, k: int, eta: float) -> tuple[Tensor, float]:
        h = 1 / self.n_steps
        return a + h * (clean - noise - eta**2 / 2 * noise), eta * math.sqrt(self.time(k) * h)


def _noise(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=like.device, dtype=torch.float32)


def _times(tau: float, a: Tensor) -> Tensor:
    return torch.full((len(a),), tau, device=a.device)


class DenoisingMLP(nn.Module):
    """A perceptron on (noisy action, time, features) that predicts something of the action's shape.

    Parameters
    ----------
    action_shape : sequence of int
        (d,) or (chunk, d).
    width : int
        Of the features c.
    hidden : sequence of int, default (256, 256, 256)

    Examples
    --------
    >>> DenoisingMLP((4, 2), 6)(torch.zeros(5, 4, 2), torch.zeros(5), torch.zeros(5, 6)).shape
    torch.Size([5, 4, 2])
    """

    frequencies: Tensor

    def __init__(self, action_shape: Sequence[int], width: int, hidden: Sequence[int] = (256, 256, 256)) -> None:
        super().__init__()
        self.action_shape = tuple(action_shape)
        size = math.prod(self.action_shape)
        widths = [size + 32 + width, *hidden]  # 32: sine and cosine of tau at each frequency
        layers = [m for n_in, n_out in itertools.pairwise(widths) for m in (nn.Linear(n_in, n_out), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], size))
        self.register_buffer("frequencies", 100.0 ** (torch.arange(16) / 15), persistent=False)

    def forward(self, a: Tensor, tau: Tensor, c: Tensor) -> Tensor:
        angles = tau[:, None] * self.frequencies
        h = torch.cat([a.flatten(1), angles.sin(), angles.cos(), c], 1)
        return self.layers(h).reshape(-1, *self.action_shape)


class Consistency(nn.Module):
    """A one-step student: ``f(a, tau) = c_skip(tau) a + c_out(tau) x0(a, tau)``, the identity at tau = 0.

    Parameters
    ----------
    net : nn.Module
        A denoiser like the teacher's; copied.
    process : Process
        The teacher's.

    Examples
    --------
    >>> student = Consistency(DenoisingMLP((1,), 2), DDIM((1,), 5))
    >>> student.decide(torch.zeros(3, 2), torch.ones(3, 1)).shape
    torch.Size([3, 1])
    """

    def __init__(self, net: nn.Module, process: Process) -> None:
        super().__init__()
        if process.time(0) == 0:
            raise ValueError(f"a student needs a process of at least 2 steps, got n_steps={process.n_steps}")
        self.net = copy.deepcopy(net).requires_grad_(True)
        self.process = process

    def forward(self, a: Tensor, k: int, c: Tensor) -> Tensor:
        """Return the clean action that the student sees in state k, not clipped."""
        # The time is counted in hundredths, as in a schedule of 100 steps.
        c_skip, c_out = consistency_coefficients(100 * self.process.time(k))
        return a if c_out == 0 else c_skip * a + c_out * self.process.split(self.net, a, k, c)[0]

    def same_noise_loss(self, teacher: Net, noise: Tensor, c: Tensor) -> Tensor:
        """Return the squared distance (n,) to the action that the teacher makes from the same ``noise``."""
        return (self(noise, 0, c) - self.process.decide(teacher, c, noise)).square().flatten(1).mean(1)

    def consistency_loss(
        self, average: Any, teacher: Net, a: Tensor, c: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the squared distance (n,) between neighbors on the teacher's path.

        A clean action ``a`` is brought to a random state k; the teacher takes one deterministic sub-step to k + 1, and
        the averaged student says what it sees there.
        """
        noisy = sum(self.process.time(k) > 0 for k in range(self.process.n_steps))  # at time 0 nothing is to learn
        k = int(torch.randint(noisy, (), generator=generator, device=a.device))
        state = self.process.between(a, _noise(a.shape, a, generator), k)
        with torch.no_grad():
            after, _ = self.process.moments(teacher, state, k, c, 0.0)
            target = after if k + 1 == self.process.n_steps else average(after, k + 1, c)
        return (self(state, k, c) - target).square().flatten(1).mean(1)

    @torch.no_grad()
    def decide(self, c: Tensor, noise: Tensor) -> Tensor:
        """Return actions (n, \\*shape) in [-1, 1] that start from ``noise``, by one network call."""
        return self(require_finite(noise, "the noise that an action starts from"), 0, c).clamp(-1.0, 1.0)


def consistency_coefficients(tau: float, sigma_data: float = 0.5) -> tuple[float, float]:
    """Return (c_skip, c_out) of a consistency function at schedule time tau >= 0.

    Examples
    --------
    >>> consistency_coefficients(0.0)
    (1.0, 0.0)
    """
    s = tau / 0.1
    total = s**2 + sigma_data**2
    return sigma_data**2 / total, s / math.sqrt(total)


def averaged(module: nn.Module, decay: float = 0.9999) -> AveragedModel:
    """Return an exponential moving average of a module, with a decay that grows while there is little to average.

    The decay at update t is ``min(decay, 1 - (1 + t) ** -0.75)``; it begins with the weights of ``module``.

    Examples
    --------
    >>> layer = nn.Linear(1, 1)
    >>> average = averaged(layer, decay=0.25)
    >>> before = average.module.weight.item()
    >>> _ = layer.weight.data.add_(2.0)
    >>> average.update_parameters(layer)
    >>> round(average.module.weight.item() - before, 5)
    1.5
    """

    def mix(mine: Any, theirs: Any, t: Any) -> None:
        torch._foreach_lerp_(mine, theirs, 1 - min(decay, 1 - (1 + int(t)) ** -0.75))

    average = AveragedModel(module, multi_avg_fn=mix).requires_grad_(False)
    average.n_averaged += 1  # torch would copy the weights at the first update
    return average
