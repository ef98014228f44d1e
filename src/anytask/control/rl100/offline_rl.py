"""Critics from a fixed data set, without asking for actions that are not in it: implicit Q-learning.

References
----------
Kostrikov, Nair, Levine, 2022, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv:2110.06169.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.rng import isolated


class Transitions(NamedTuple):
    """Decisions and what came of them, in features.

    ``features`` (N, width), ``actions`` (N, size) flat, ``rewards`` (N,) summed over the chunk, ``discounts`` (N,) what
    the next state's value counts (``gamma^steps``, or 0 after a terminal state), ``next_features`` (N, width).
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    next_features: Tensor

    def take(self, rows: Tensor) -> Transitions:
        """Return some decisions, by number or mask."""
        return Transitions(*(tensor[rows] for tensor in self._asdict().values()))

    @property
    def n(self) -> int:
        """Number of decisions."""
        return len(self.features)


def chunk_return(rewards: Tensor, valid: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return a chunk's discounted reward ``sum_i gamma^i r_i`` and bootstrap factor ``gamma^steps``, each (N,).

    Parameters
    ----------
    rewards : Tensor (N, K)
    valid : Tensor of bool (N, K)
        Steps that were taken; a prefix of each row.
    gamma : float in [0, 1]

    Examples
    --------
    >>> r = torch.tensor([[1.0, 0.5, 0.0, 2.0]])
    >>> R, factor = chunk_return(r, torch.ones(1, 4, dtype=torch.bool), 0.99)
    >>> round(R.item(), 6), round(factor.item(), 6)
    (3.435598, 0.960596)
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], got {gamma!r}")
    powers = gamma ** torch.arange(rewards.shape[1], device=rewards.device, dtype=torch.float64)
    total = (rewards * valid * powers).sum(1)
    return total.float(), (gamma ** valid.sum(1).double()).float()


def expectile_loss(u: Tensor, omega: float = 0.7) -> Tensor:
    """Return ``|omega - 1(u < 0)| u^2``, like ``u``; minimised by the expectile, a mean that leans upwards.

    Examples
    --------
    >>> [round(v, 3) for v in expectile_loss(torch.tensor([0.3, -0.2])).tolist()]
    [0.063, 0.012]
    """
    return torch.where(u < 0, 1 - omega, omega) * u.square()


class EnsembleLinear(nn.Module):
    """``members`` linear layers side by side: (members, n, n_in) -> (members, n, n_out), as one product.

    Examples
    --------
    >>> EnsembleLinear(7, 3, 2)(torch.zeros(7, 5, 3)).shape
    torch.Size([7, 5, 2])
    """

    def __init__(self, members: int, n_in: int, n_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(members, n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, n_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class CriticMLP(nn.Module):
    """``members`` independent perceptrons with one output each, evaluated together.

    Examples
    --------
    >>> CriticMLP(6, (32, 32), members=2)(torch.zeros(5, 6)).shape
    torch.Size([2, 5])
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int] = (512, 512), members: int = 1) -> None:
        super().__init__()
        self.members = members
        widths = [n_inputs, *hidden]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [EnsembleLinear(members, n_in, n_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, EnsembleLinear(members, widths[-1], 1))

    def forward(self, x: Tensor) -> Tensor:  # (n, n_inputs) -> (members, n)
        return self.layers(x.expand(self.members, -1, -1))[..., 0]


class IQL:
    """Implicit Q-learning: V is an expectile of Q over the data's actions, Q learns from V, and neither asks a policy.

    One update on a batch::

        V <- min  E |omega - 1(u < 0)| u^2,     u = min(Q1', Q2')(s, a) - V(s)
        Q <- min  E (Q_i(s, a) - r - gamma^K (1 - terminal) V(s'))^2            for i = 1, 2

    Parameters
    ----------
    feature_width, action_size : int
        Of features and of flat actions.
    hidden : sequence of int, default (512, 512)
    lr : float, default 1.4e-4
        Adam, for all three networks.
    omega : float in [0.5, 1), default 0.7
        The expectile.
    target_rate : float, default 0.005
        How far the target networks Q' move towards Q, every ``target_every``-th update (default 2).
    seed : int, default 0
    device : torch.device or str, default "cpu"

    Attributes
    ----------
    v_net, q_net, q_target : nn.Module
    updates : int

    Examples
    --------
    One state, two actions worth 0 and 1: Q tells them apart, and V leans towards the better one.

    >>> iql = IQL(1, 1, (32,), lr=3e-3, omega=0.9, target_rate=0.05)
    >>> a = torch.tensor([[-1.0], [1.0]]).repeat(32, 1)
    >>> zeros = torch.zeros(64, 1)
    >>> batch = Transitions(zeros, a, (a[:, 0] > 0).float(), torch.zeros(64), zeros)
    >>> for _ in range(400):
    ...     losses = iql.update(batch)
    >>> worse, better = iql.q(zeros[:2], a[:2]).tolist()
    >>> better > worse + 0.5, iql.v(zeros[:1]).item() > (worse + better) / 2 + 0.2
    (True, True)
    """

    def __init__(
        self,
        feature_width: int,
        action_size: int,
        hidden: Sequence[int] = (512, 512),
        *,
        lr: float = 1.4e-4,
        omega: float = 0.7,
        target_rate: float = 0.005,
        target_every: int = 2,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0.5 <= omega < 1:
            raise ValueError(f"omega must lie in [0.5, 1), got {omega!r}")
        if not 0 < target_rate <= 1:
            raise ValueError(f"target_rate must lie in (0, 1], got {target_rate!r}")
        if target_every < 1:
            raise ValueError(f"target_every must be at least 1, got {target_every!r}")
        self.omega, self.target_rate, self.target_every = omega, target_rate, target_every
        with isolated(seed):
            self.v_net = CriticMLP(feature_width, hidden).to(device)
            self.q_net = CriticMLP(feature_width + action_size, hidden, members=2).to(device)
        self.q_target = copy.deepcopy(self.q_net).requires_grad_(False)
        self.optimizer = torch.optim.Adam([*self.v_net.parameters(), *self.q_net.parameters()], lr=lr, fused=True)
        self.updates = 0

    def v(self, features: Tensor) -> Tensor:
        """Return V (n,)."""
        return self.v_net(features)[0]

    def q(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return the smaller of both Q (n,); ``actions`` may be chunks (n, K, d)."""
        return self.q_net(torch.cat([features, actions.flatten(1)], 1)).amin(0)

    def advantage(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return ``min Q - V`` (n,)."""
        return self.q(features, actions) - self.v(features)

    def update(self, batch: Transitions) -> dict[str, float]:
        """Take one step on all networks; return the losses ``v`` and ``q``."""
        sa = torch.cat([batch.features, batch.actions], 1)
        v, v_next = self.v(torch.cat([batch.features, batch.next_features])).chunk(2)
        with torch.no_grad():
            target_q = self.q_target(sa).amin(0)
            y = batch.rewards + batch.discounts * v_next
        v_loss = expectile_loss(target_q - v, self.omega).mean()
        q_loss = F.mse_loss(self.q_net(sa), y.expand(2, -1)) * 2
        self.optimizer.zero_grad(set_to_none=True)
        (v_loss + q_loss).backward()  # disjoint parameters
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.target_every == 0:
            with torch.no_grad():
                torch._foreach_lerp_(list(self.q_target.parameters()), list(self.q_net.parameters()), self.target_rate)
        return {"v": v_loss.item(), "q": q_loss.item()}

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimiser and the number of updates."""
        nets = {name: getattr(self, name).state_dict() for name in ("v_net", "q_net", "q_target")}
        return {**nets, "optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        for name in ("v_net", "q_net", "q_target"):
            getattr(self, name).load_state_dict(state[name])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch would share the moments
        self.updates = state["updates"]
