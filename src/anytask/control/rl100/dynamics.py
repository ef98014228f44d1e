"""A learned world in feature space: an ensemble that predicts the next features, and roll-outs through it.

References
----------
Chua, Calandra, McAllister, Levine, 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic
Dynamics Models", arXiv:1805.12114.
Janner, Fu, Zhang, Levine, 2019, "When to Trust Your Model: Model-Based Policy Optimization", arXiv:1906.08253.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.rl100.offline_rl import EnsembleLinear, Transitions
from anytask.core.rng import derive, isolated


class Rollout(NamedTuple):
    """An imagined future: ``features`` (length, n, width) before each decision, ``actions`` (length, n, size), and
    ``rewards`` (length, n), zeros unless the model predicts them."""

    features: Tensor
    actions: Tensor
    rewards: Tensor


class EnsembleDynamics:
    """``members`` perceptrons that predict the change of the features as a Gaussian; the ``elites`` best ones are used.

    Each member sees its own resampling of the data. After training, the members with the lowest error on held-out
    decisions are the elites, and a roll-out draws one of them for every step and row.

    Parameters
    ----------
    feature_width, action_size : int
    members, elites : int, defaults 7 and 5
    hidden : sequence of int, default (200, 200)
    lr : float, default 1e-3
        Adam, with ``weight_decay`` 1e-5.
    predict_reward : bool, default False
        Also predict the chunk's reward.
    seed : int, default 0
    device : torch.device or str, default "cpu"

    Attributes
    ----------
    elite_indices : list of int
    errors : list of float
        Held-out mean squared error of each member, in units of the features' changes.

    Examples
    --------
    A point that moves by its action.

    >>> generator = torch.Generator().manual_seed(0)
    >>> s, a = (2 * torch.rand((512, 1), generator=generator) - 1 for _ in range(2))
    >>> data = Transitions(s, a, torch.zeros(512), torch.ones(512), s + 0.3 * a)
    >>> world = EnsembleDynamics(1, 1, hidden=(64,)).fit(data, steps=300)
    >>> future = world.rollout(torch.zeros(4, 1), lambda s: torch.ones(4, 1), 3, generator)
    >>> [round(v, 1) for v in future.features[:, 0, 0].tolist()]
    [0.0, 0.3, 0.6]

    Notes
    -----
    Imagined futures do not end: a terminal state's value must be told by the critic alone.
    """

    def __init__(
        self,
        feature_width: int,
        action_size: int,
        *,
        members: int = 7,
        elites: int = 5,
        hidden: Sequence[int] = (200, 200),
        lr: float = 1e-3,
        predict_reward: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= elites <= members:
            raise ValueError(f"elites must lie in 1..members = {members}, got {elites}")
        self.feature_width, self.members, self.elites = feature_width, members, elites
        self.predict_reward, self.seed = predict_reward, seed
        self.n_outputs = feature_width + int(predict_reward)
        widths = [feature_width + action_size, *hidden]
        with isolated(seed):
            layers: list[nn.Module] = []
            for n_in, n_out in itertools.pairwise(widths):
                layers += [EnsembleLinear(members, n_in, n_out), nn.SiLU()]
            self.net = nn.Sequential(*layers, EnsembleLinear(members, widths[-1], 2 * self.n_outputs)).to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=lr, weight_decay=1e-5, fused=True)
        # Scales of inputs and of targets, set by the data.
        self.scales = torch.zeros(2, widths[0], device=device), torch.zeros(2, self.n_outputs, device=device)
        self.elite_indices = list(range(elites))
        self.errors: list[float] = []

    def fit(
        self,
        data: Transitions,
        steps: int = 2000,
        batch_size: int = 256,
        holdout: float = 0.1,
        progress: Callable[[float], None] | None = None,
    ) -> EnsembleDynamics:
        """Train all members and choose the elites.

        Parameters
        ----------
        data : Transitions
        steps : int, default 2000
            Optimiser steps.
        batch_size : int, default 256
            Rows per member and step.
        holdout : float in (0, 0.5], default 0.1
            Share of the decisions that no member is trained on.
        """
        if data.n < 10:
            raise ValueError(f"a dynamics model needs at least 10 decisions, got {data.n}")
        generator = torch.Generator(data.features.device).manual_seed(derive(self.seed, "dynamics"))
        device = data.features.device
        order = torch.randperm(data.n, generator=generator, device=device)
        n_held = max(1, round(holdout * data.n))
        held, train = order[:n_held], order[n_held:]
        x, y = self._inputs(data.features, data.actions), self._targets(data)
        self.scales = tuple(  # type: ignore[assignment]
            torch.stack([z[train].mean(0), z[train].std(0).clamp_min(1e-4)]) for z in (x, y)
        )
        x, y = self._scale(x, 0), self._scale(y, 1)
        own = train[torch.randint(len(train), (self.members, len(train)), generator=generator, device=device)]
        for step in range(steps):
            columns = torch.randint(len(train), (self.members, batch_size), generator=generator, device=device)
            rows = own.gather(1, columns)  # (members, batch)
            mean, log_variance = self._predict(x[rows])
            loss = ((mean - y[rows]).square() * (-log_variance).exp() + log_variance).mean((1, 2)).sum()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            if progress is not None and step % 50 == 0:
                progress(step / steps)
        with torch.no_grad():
            mean, _ = self._predict(x[held].expand(self.members, -1, -1))
            self.errors = (mean - y[held]).square().mean((1, 2)).tolist()
        self.elite_indices = sorted(range(self.members), key=self.errors.__getitem__)[: self.elites]
        return self

    def step(
        self, features: Tensor, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return sampled next features (n, width) and rewards (n,), each row by an elite drawn for it."""
        with torch.no_grad():
            x = self._scale(self._inputs(features, actions), 0)
            mean, log_variance = self._predict(x.expand(self.members, -1, -1))
            n, device = len(features), features.device
            pick = torch.randint(len(self.elite_indices), (n,), generator=generator, device=device)
            member, row = torch.tensor(self.elite_indices, device=device)[pick], torch.arange(n, device=device)
            noise = torch.randn((n, self.n_outputs), generator=generator, device=device)
            y = mean[member, row] + (0.5 * log_variance[member, row]).exp() * noise
            y = y * self.scales[1][1] + self.scales[1][0]
            reward = y[:, self.feature_width] if self.predict_reward else torch.zeros(n, device=device)
            return features + y[:, : self.feature_width], reward

    def rollout(
        self,
        features: Tensor,
        policy: Callable[[Tensor], Tensor],
        length: int,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Imagine ``length`` decisions from each row of ``features``; ``policy`` maps features to actions."""
        seen, done, rewards = [], [], []
        for _ in range(length):
            actions = policy(features)
            seen.append(features)
            done.append(actions.flatten(1))
            features, reward = self.step(features, actions, generator)
            rewards.append(reward)
        return Rollout(torch.stack(seen), torch.stack(done), torch.stack(rewards))

    def _inputs(self, features: Tensor, actions: Tensor) -> Tensor:
        return torch.cat([features, actions.flatten(1)], 1)

    def _targets(self, data: Transitions) -> Tensor:
        change = data.next_features - data.features
        return torch.cat([change, data.rewards[:, None]], 1) if self.predict_reward else change

    def _scale(self, z: Tensor, which: int) -> Tensor:
        return (z - self.scales[which][0]) / self.scales[which][1]

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(x).chunk(2, -1)
        # Soft bounds: log-variances stay in (-10, 1) and keep a gradient.
        log_variance = 1.0 - F.softplus(1.0 - raw)
        return mean, -10.0 + F.softplus(log_variance + 10.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the networks, the scales and the elites; the optimiser starts afresh."""
        return {
            "net": self.net.state_dict(),
            "scales": list(self.scales),
            "elites": self.elite_indices,
            "errors": self.errors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.net.load_state_dict(state["net"])
        self.scales = tuple(state["scales"])
        self.elite_indices, self.errors = state["elites"], state["errors"]
