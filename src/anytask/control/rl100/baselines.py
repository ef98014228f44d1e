"""What RL-100 is compared with: the same machinery around a Gaussian policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anytask.control.rl100 import RL100, STAGES
from anytask.control.rl100.diffusion import DenoisingMLP, Net, Process, gaussian_log_prob
from anytask.core.settings import texts

__all__ = ["GaussianBC"]


class GaussianNet(nn.Module):
    """A perceptron from features to the mean of a Gaussian, with one learned standard deviation per action entry."""

    def __init__(self, action_shape: tuple[int, ...], width: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.mean = DenoisingMLP(action_shape, width, hidden)
        self.log_std = nn.Parameter(torch.full(action_shape, -1.0))

    def forward(self, a: Tensor, tau: Tensor, c: Tensor) -> Tensor:
        return self.mean(torch.zeros_like(a), torch.zeros_like(tau), c)


class GaussianProcess(Process):
    """A "chain" of one sub-step: the action is Gaussian around what the network says, whatever the noise before."""

    def loss(self, net: Net, a: Tensor, c: Tensor, generator: torch.Generator | None = None) -> Tensor:
        mean, std = self.step(net, a, 0, c)
        return -gaussian_log_prob(a, mean, std) / a[0].numel()

    def time(self, k: int) -> float:
        return float(1 - k)

    def scales(self, k: int) -> tuple[float, float]:
        return float(k), float(1 - k)

    def split(self, net: Net, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        return net(a, torch.full((len(a),), self.time(k), device=a.device), c), a

    def _next(self, clean: Tensor, noise: Tensor, a: Tensor, k: int, eta: float) -> tuple[Tensor, float]:
        return clean, 1.0

    def step(self, net: Any, a: Tensor, k: int, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(net, a, k, c)[0], net.log_std.exp().clamp_min(self.sigma_min)


class GaussianBC(RL100):
    """Behavior cloning with a Gaussian policy, then proximal policy optimization: the usual fine-tuning.

    Everything but the policy's form is RL-100's: encoder, features, value network, optimizer, learning-rate control and
    budget. Its stages are imitation and online; settings of the
    denoising process do not matter but for ``sigma_min`` and ``hidden``.

    Examples
    --------
    >>> from anytask.control import demonstrations
    >>> demos = demonstrations("anytask/Reach-v0", 20)
    >>> policy = GaussianBC.from_preset("small", imitation={"epochs": 20}).fit(demos)
    >>> policy.act(torch.zeros(2, 3)).shape, policy.network_calls
    (torch.Size([2, 2]), 1.0)
    """

    stages: Sequence[str] = texts(("imitation", "online"), "stages that improve() runs", options=STAGES)

    @property
    def process(self) -> Process:
        """The Gaussian."""
        return GaussianProcess((self.horizon, self.action_dim_), 1, sigma_min=self.diffusion.sigma_min, clip=False)

    def _new_net(self) -> nn.Module:
        return GaussianNet(self.process.shape, self.encoder_.width, self.diffusion.hidden)
