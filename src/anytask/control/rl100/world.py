"""What RL-100 makes of recorded episodes: windows and chunks, and critics and a learned world in feature space.

References
----------
Kostrikov, Nair, Levine, 2022, "Offline Reinforcement Learning with Implicit Q-Learning", arXiv:2110.06169.
Chua, Calandra, McAllister, Levine, 2018, "Deep Reinforcement Learning in a Handful of Trials using Probabilistic
Dynamics Models", arXiv:1805.12114.
Janner, Fu, Zhang, Levine, 2019, "When to Trust Your Model: Model-Based Policy Optimization", arXiv:1906.08253.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.parts.acting import Given, checked_rows
from anytask.control.rl100.settings import CriticSettings, DynamicsSettings
from anytask.core.checks import require_finite
from anytask.core.progress import Progress
from anytask.core.rng import derive, isolated
from anytask.core.training import train
from anytask.datasets.episodes import Episodes

# Windows, key -> (m, n_obs, *shape).
Window = Mapping[str, Tensor]


class ActionRange(nn.Module):
    """Maps actions between their own units and [-1, 1]; the data's extremes lie at ``-share`` and ``share``.

    Examples
    --------
    >>> scale = ActionRange(torch.tensor([0.0]), torch.tensor([4.0]), share=0.5)
    >>> scale.normalize(torch.tensor([[4.0]])).item(), scale.restore(torch.tensor([[1.0]])).item()
    (0.5, 6.0)
    """

    low: Tensor  # (d,)
    high: Tensor  # (d,)

    def __init__(self, low: Tensor, high: Tensor, share: float) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.share = share

    def _middle_and_half(self) -> tuple[Tensor, Tensor]:
        return (self.low + self.high) / 2, (self.high - self.low) / 2 / self.share

    def normalize(self, actions: Tensor) -> Tensor:
        """Return actions in [-1, 1]; what lies outside is clipped, and what never varied is 0."""
        middle, half = self._middle_and_half()
        return torch.where(half > 1e-8, (actions - middle) / half.clamp_min(1e-8), 0.0).clamp(-1.0, 1.0)

    def restore(self, actions: Tensor) -> Tensor:
        """Return actions in their own units."""
        middle, half = self._middle_and_half()
        return middle + half * actions


class Transitions(NamedTuple):
    """Decisions and what came of them, in features.

    ``features`` (n, width), ``actions`` (n, size) flat, ``rewards`` (n,) summed over the chunk, ``discounts`` (n,) what
    the next state's value counts (``gamma^steps``, or 0 after a terminal state), ``next_features`` (n, width).
    """

    features: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor
    next_features: Tensor

    def take(self, rows: Tensor) -> Transitions:
        """Return some decisions, by number or mask."""
        return Transitions(*(tensor[rows] for tensor in self))

    @property
    def n(self) -> int:
        """Number of decisions."""
        return len(self.features)


def chunk_return(rewards: Tensor, valid: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return a chunk's discounted reward ``sum_i gamma^i r_i`` and bootstrap factor ``gamma^steps``, each (n,).

    Parameters
    ----------
    rewards : Tensor (n, K)
    valid : Tensor of bool (n, K)
        Steps that were taken; a prefix of each row.
    gamma : float in [0, 1]

    Examples
    --------
    >>> r = torch.tensor([[1.0, 0.5, 0.0, 2.0]])
    >>> R, factor = chunk_return(r, torch.ones(1, 4, dtype=torch.bool), 0.99)
    >>> round(R.item(), 6), round(factor.item(), 6)
    (3.435598, 0.960596)
    """
    powers = gamma ** torch.arange(rewards.shape[1], device=rewards.device, dtype=torch.float64)
    return (rewards * valid * powers).sum(1).float(), (gamma ** valid.sum(1).double()).float()


class Decisions:
    """The decisions that a data set holds, one per step: the window before it, the chunk from it, and what came of it.

    With ``n_obs`` observations in a window, a chunk starts at the window's oldest step, and its ``n_executed`` actions
    from the newest step on are carried out.

    Parameters
    ----------
    episodes : Episodes
    n_obs, horizon, n_executed : int
    scale : ActionRange
    device : torch.device

    Attributes
    ----------
    step : ndarray (n,)
        Of each decision within its episode.
    chunks : Tensor (n, horizon, d)
        Actions in [-1, 1].
    """

    def __init__(
        self, episodes: Episodes, n_obs: int, horizon: int, n_executed: int, scale: ActionRange, device: torch.device
    ) -> None:
        self.episodes, self.n_obs, self.n_executed, self.device = episodes, n_obs, n_executed, device
        self.n = episodes.steps
        self.step = np.arange(self.n) - episodes.starts[episodes.episode_of]
        rows = episodes.windows(horizon, before=n_obs - 1).rows
        actions = scale.normalize(torch.as_tensor(episodes.actions, device=device))  # (n, d)
        self.chunks = actions[torch.as_tensor(rows, device=device)]

    def window(self, rows: np.ndarray, later: np.ndarray | int = 0) -> dict[str, Tensor]:
        """Return key -> (m, n_obs, \\*shape): windows of decisions, or of the moments ``later`` steps after them."""
        e = self.episodes
        episode = np.repeat(e.episode_of[rows], self.n_obs)
        steps = (self.step[rows] + later)[:, None] - np.arange(self.n_obs - 1, -1, -1)
        steps = np.maximum(steps, 0).ravel()  # (m * n_obs,)
        after = steps >= e.lengths[episode]  # the final observation; only the newest one can be
        at = e.starts[episode] + np.minimum(steps, e.lengths[episode] - 1)
        out = {}
        for key, value in e.observations.items():
            seen = np.array(value[at])
            seen[after] = np.asarray(e.final_observations[key])[episode[after]]
            out[key] = torch.as_tensor(seen.reshape(len(rows), self.n_obs, *seen.shape[1:]), device=self.device)
        return out

    def steps(self, every: int) -> np.ndarray:
        """Return the numbers of the decisions at every ``every``-th step of each episode."""
        return np.flatnonzero(self.step % every == 0)

    @torch.no_grad()
    def features(self, encode: Callable[[Window], Tensor], rows: np.ndarray, later: np.ndarray | int = 0) -> Tensor:
        """Return the features (m, width) of decisions, or of the moments ``later`` (m,) steps after them."""
        later = np.broadcast_to(later, rows.shape)
        parts = np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // 1024)))
        c = torch.cat([encode(self.window(rows[part], later[part])) for part in parts])
        return require_finite(c, "a feature of what was seen")

    def transitions(
        self, encode: Callable[[Window], Tensor], rows: np.ndarray, gamma: float, bootstrap_timeouts: bool = True
    ) -> Transitions:
        """Return decisions with the discounted reward of their executed chunk and the features after it."""
        e = self.episodes
        steps, valid = (x[rows] for x in e.windows(self.n_executed))  # (m, n_executed)
        rewards = torch.as_tensor(e.rewards[steps], device=self.device)
        R, factor = chunk_return(rewards, torch.as_tensor(valid, device=self.device), gamma)
        ends = e.terminated if bootstrap_timeouts else e.terminated | e.truncated
        ended = torch.as_tensor(ends[steps].any(1), device=self.device)
        first = self.n_obs - 1
        return Transitions(
            self.features(encode, rows),
            self.chunks[torch.as_tensor(rows, device=self.device), first : first + self.n_executed].flatten(1),
            R,
            factor * (~ended).float(),
            self.features(encode, rows, valid.sum(1)),
        )


class Memory:
    """What is remembered of each parallel environment: its last ``n_obs`` observations, the rest of its chunk.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of one observation, by key.
    n_obs : int
    device : torch.device
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], n_obs: int, device: torch.device) -> None:
        self.shapes, self.n_obs, self.device = shapes, n_obs, device
        self.reset()

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the environments ``rows`` (m,), or everything."""
        if rows is None:
            self.window: dict[str, Tensor] = {}  # key -> (n, n_obs, *shape)
            self.queue = torch.empty(0, device=self.device)  # (n, n_executed, d)
            self.left = torch.zeros(0, dtype=torch.int64, device=self.device)  # (n,) actions left; -1: just begun
        elif len(self.left):
            self.left[checked_rows(rows, len(self.left), self.left.device)] = -1

    @torch.no_grad()
    def act(self, obs: Any, decide: Callable[[Tensor, Window], Tensor]) -> Any:
        """Take in the next observations and return the next actions (n, d); a failure changes nothing.

        Where a chunk is used up, ``decide(rows, window)`` returns the next one: (m, n_executed, d) for the m
        environments ``rows`` and their windows.
        """
        given = Given(obs, self.shapes, self.device)
        window = {k: v[:, None].repeat(1, self.n_obs, *[1] * (v.dim() - 1)) for k, v in given.tensors.items()}
        left, queue = torch.full((given.n,), -1, device=self.device), self.queue
        if len(self.left) == given.n:
            left = self.left
            for k, alone in window.items():
                fresh = (left < 0).reshape(-1, *[1] * (alone.dim() - 1))
                window[k] = torch.where(fresh, alone, torch.cat([self.window[k][:, 1:], alone[:, :1]], 1))
        rows = (left <= 0).nonzero()[:, 0]
        if len(rows):
            chunks = decide(rows, {k: w[rows] for k, w in window.items()})
            queue = chunks if len(rows) == given.n else queue.index_copy(0, rows, chunks)
            left = left.index_fill(0, rows, chunks.shape[1])
        self.window, self.queue, self.left = window, queue, left - 1
        return given.answer(queue[torch.arange(given.n, device=self.device), queue.shape[1] - left])


def expectile_loss(u: Tensor, omega: float = 0.7) -> Tensor:
    """Return ``|omega - 1(u < 0)| u^2``, like ``u``; minimized by the expectile, a mean that leans upwards.

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


def ensemble_mlp(members: int, widths: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """Return ``members`` independent perceptrons (members, n, widths[0]) -> (members, n, widths[-1])."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [EnsembleLinear(members, n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


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
        self.layers = ensemble_mlp(members, [n_inputs, *hidden, 1], nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:  # (n, n_inputs) -> (members, n)
        return self.layers(x.expand(self.members, -1, -1))[..., 0]


class IQL(nn.Module):
    """Implicit Q-learning: V is an expectile of Q over the data's actions, Q learns from V, and neither asks a policy.

    One update on a batch::

        V <- min  E |omega - 1(u < 0)| u^2,     u = min(Q1', Q2')(s, a) - V(s)
        Q <- min  E (Q_i(s, a) - r - gamma^K (1 - terminal) V(s'))^2            for i = 1, 2

    Parameters
    ----------
    feature_width, action_size : int
        Of features and of flat actions.
    settings : CriticSettings
    seed : int, default 0

    Examples
    --------
    One state, two actions worth 0 and 1: Q tells them apart, and V leans towards the better one.

    >>> settings = CriticSettings(hidden=(32,), lr=3e-3, omega=0.9, target_rate=0.05, epochs=400, batch_size=64)
    >>> a = torch.tensor([[-1.0], [1.0]]).repeat(32, 1)
    >>> zeros = torch.zeros(64, 1)
    >>> data = Transitions(zeros, a, (a[:, 0] > 0).float(), torch.zeros(64), zeros)
    >>> iql = IQL(1, 1, settings).fit(data, torch.Generator().manual_seed(0))
    >>> worse, better = iql.q(zeros[:2], a[:2]).tolist()
    >>> better > worse + 0.5, iql.v(zeros[:1]).item() > (worse + better) / 2 + 0.2
    (True, True)
    """

    def __init__(self, feature_width: int, action_size: int, settings: CriticSettings, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        with isolated(seed):
            self.v_net = CriticMLP(feature_width, settings.hidden)
            self.q_net = CriticMLP(feature_width + action_size, settings.hidden, members=2)
        self.q_target = copy.deepcopy(self.q_net).requires_grad_(False)

    def v(self, features: Tensor) -> Tensor:
        """Return V (n,)."""
        return self.v_net(features)[0]

    def q(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return the smaller of both Q (n,); ``actions`` may be chunks (n, K, d)."""
        return self.q_net(torch.cat([features, actions.flatten(1)], 1)).amin(0)

    def advantage(self, features: Tensor, actions: Tensor) -> Tensor:
        """Return ``min Q - V`` (n,)."""
        return self.q(features, actions) - self.v(features)

    def losses(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Return the losses () of V and of Q, which have no parameters in common."""
        sa = torch.cat([batch.features, batch.actions], 1)
        v, v_next = self.v(torch.cat([batch.features, batch.next_features])).chunk(2)
        with torch.no_grad():
            target_q = self.q_target(sa).amin(0)
            y = batch.rewards + batch.discounts * v_next
        return expectile_loss(target_q - v, self.settings.omega).mean(), F.mse_loss(self.q_net(sa), y.expand(2, -1)) * 2

    @torch.no_grad()
    def track(self, update: int) -> None:
        """Move the target networks after every second update."""
        if update % 2 == 0:
            for target, q in zip(self.q_target.parameters(), self.q_net.parameters(), strict=True):
                target.lerp_(q, self.settings.target_rate)

    def fit(self, data: Transitions, generator: torch.Generator, progress: Progress | None = None) -> Self:
        """Train all networks on random batches, ``epochs`` times as many as the data have."""
        c, n, device = self.settings, data.n, data.features.device

        def draw(step: int) -> Transitions:
            return data.take(torch.randint(n, (min(c.batch_size, n),), generator=generator, device=device))

        optimizer = torch.optim.Adam([*self.v_net.parameters(), *self.q_net.parameters()], lr=c.lr, fused=True)
        train(
            self, draw, self.losses, steps=c.epochs * -(-n // c.batch_size), optimizer=optimizer,
            after_step=self.track, stage="the critics", progress=progress,
        )  # fmt: skip
        return self


class EnsembleDynamics(nn.Module):
    """``members`` perceptrons that predict the change of the features as a Gaussian; the ``elites`` best ones are used.

    Each member sees its own resampling of the data. After training, the members with the lowest error on held-out
    decisions are the elites, and a roll-out draws one of them for every step and row. Imagined futures do not end: a
    terminal state's value must be told by the critic alone.

    Parameters
    ----------
    feature_width, action_size : int
    settings : DynamicsSettings
    seed : int, default 0

    Attributes
    ----------
    errors : Tensor (members,)
        Held-out mean squared error of each member, in units of the features' changes.
    elites : Tensor of int (elites,)

    Examples
    --------
    A point that moves by its action.

    >>> generator = torch.Generator().manual_seed(0)
    >>> s, a = (2 * torch.rand((512, 1), generator=generator) - 1 for _ in range(2))
    >>> data = Transitions(s, a, torch.zeros(512), torch.ones(512), s + 0.3 * a)
    >>> world = EnsembleDynamics(1, 1, DynamicsSettings(hidden=(64,), steps=300)).fit(data)
    >>> features, actions = world.rollout(torch.zeros(4, 1), lambda s: torch.ones(4, 1), 3, generator)
    >>> [round(v, 1) for v in features[:, 0, 0].tolist()]
    [0.0, 0.3, 0.6]
    """

    errors: Tensor
    elites: Tensor
    x_scale: Tensor  # (2, width + size), mean and deviation of inputs
    y_scale: Tensor  # (2, width), of targets

    def __init__(self, feature_width: int, action_size: int, settings: DynamicsSettings, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.seed = settings, seed
        n_inputs, members = feature_width + action_size, settings.members
        with isolated(seed):
            self.net = ensemble_mlp(members, [n_inputs, *settings.hidden, 2 * feature_width], nn.SiLU)
        self.register_buffer("x_scale", torch.zeros(2, n_inputs))
        self.register_buffer("y_scale", torch.zeros(2, feature_width))
        self.register_buffer("errors", torch.zeros(members))
        self.register_buffer("elites", torch.arange(settings.elites))

    def fit(self, data: Transitions, progress: Progress | None = None) -> Self:
        """Train all members on nine decisions in ten, and choose the elites by the others."""
        if data.n < 10:
            raise ValueError(f"a dynamics model needs at least 10 decisions, got {data.n}")
        device, members, steps = data.features.device, self.settings.members, self.settings.steps
        generator = torch.Generator(device).manual_seed(derive(self.seed, "dynamics"))
        order = torch.randperm(data.n, generator=generator, device=device)
        held, kept = order.tensor_split([max(1, round(0.1 * data.n))])
        x, y = torch.cat([data.features, data.actions.flatten(1)], 1), data.next_features - data.features
        self.x_scale, self.y_scale = (torch.stack([z[kept].mean(0), z[kept].std(0).clamp_min(1e-4)]) for z in (x, y))
        x, y = (x - self.x_scale[0]) / self.x_scale[1], (y - self.y_scale[0]) / self.y_scale[1]
        own = kept[torch.randint(len(kept), (members, len(kept)), generator=generator, device=device)]

        def draw(step: int) -> Tensor:
            columns = torch.randint(len(kept), (members, 256), generator=generator, device=device)
            return own.gather(1, columns)  # (members, 256)

        def loss(rows: Tensor) -> Tensor:
            mean, log_variance = self._predict(x[rows])
            return ((mean - y[rows]).square() * (-log_variance).exp() + log_variance).mean((1, 2)).sum()

        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, weight_decay=1e-5, fused=True)
        train(self, draw, loss, steps=steps, optimizer=optimizer, stage="the dynamics", progress=progress)
        with torch.no_grad():
            mean, _ = self._predict(x[held].expand(members, -1, -1))
            self.errors = (mean - y[held]).square().mean((1, 2))
        self.elites = self.errors.argsort(stable=True)[: len(self.elites)]
        return self

    @torch.no_grad()
    def step(self, features: Tensor, actions: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return sampled next features (n, width), each row by an elite drawn for it."""
        x = (torch.cat([features, actions.flatten(1)], 1) - self.x_scale[0]) / self.x_scale[1]
        mean, log_variance = self._predict(x.expand(self.settings.members, -1, -1))
        n, device = len(features), features.device
        member = self.elites[torch.randint(len(self.elites), (n,), generator=generator, device=device)]
        row = torch.arange(n, device=device)
        noise = torch.randn(features.shape, generator=generator, device=device)
        y = mean[member, row] + (0.5 * log_variance[member, row]).exp() * noise
        return features + (y * self.y_scale[1] + self.y_scale[0])

    def rollout(
        self, features: Tensor, policy: Callable[[Tensor], Tensor], length: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Imagine decisions from each row of ``features``, of a ``policy`` that maps features to actions.

        Returns
        -------
        features : Tensor (length, n, width)
            Before each decision.
        actions : Tensor (length, n, size)
        """
        seen, done = [], []
        for _ in range(length):
            seen.append(features)
            done.append(policy(features).flatten(1))
            features = self.step(features, done[-1], generator)
        return torch.stack(seen), torch.stack(done)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(x).chunk(2, -1)
        # Soft bounds: log-variances stay in (-10, 1) and keep a gradient.
        log_variance = 1.0 - F.softplus(1.0 - raw)
        return mean, -10.0 + F.softplus(log_variance + 10.0)


class World(nn.Module):
    """What the offline stage learned about the task: critics ``iql`` and ``dynamics``."""

    def __init__(
        self, feature_width: int, action_size: int, critics: CriticSettings, dynamics: DynamicsSettings, seed: int
    ) -> None:
        super().__init__()
        self.iql = IQL(feature_width, action_size, critics, seed)
        self.dynamics = EnsembleDynamics(feature_width, action_size, dynamics, seed)

    @torch.no_grad()
    def value(
        self, policy: Callable[[Tensor], Tensor], starts: Tensor, length: int, generator: torch.Generator
    ) -> float:
        """Return J: the mean of min Q over imagined roll-outs of ``length`` decisions from the features ``starts``."""
        features, actions = self.dynamics.rollout(starts, policy, length, generator)
        return self.iql.q(features.flatten(0, 1), actions.flatten(0, 1)).mean().item()


class GateCheck(NamedTuple):
    """One comparison at the gate: after how many steps, the candidate's value, the best one before, the verdict."""

    step: int
    value: float
    best: float
    accepted: bool


class OPEGate:
    """Lets a candidate policy through only if its estimated value beats that of the best one so far.

    The estimate comes from learned critics and a learned world, so the gate is as good as they are, and no guarantee.

    Parameters
    ----------
    value : float
        Estimated value of the policy to begin with.
    margin : float >= 0, default 0.05
        A candidate must be better by this share of the best value's magnitude.

    Examples
    --------
    >>> gate = OPEGate(1.0, margin=0.0)
    >>> [gate.offer(J) for J in (0.9, 1.1, 1.05, 1.2)]
    [False, True, False, True]
    """

    def __init__(self, value: float, margin: float = 0.05) -> None:
        self.best, self.margin = require_finite(value, "the value of the policy to begin with"), margin
        self.log: list[GateCheck] = []

    def offer(self, value: float, step: int = 0) -> bool:
        """Say whether a candidate of this value passes; if so, it is the best one from now on."""
        require_finite(value, f"the candidate's value at step {step}", "lower the critics' or its own lr")
        accepted = value > self.best + self.margin * abs(self.best)
        self.log.append(GateCheck(step, value, self.best, accepted))
        self.best = value if accepted else self.best
        return accepted

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the log."""
        return {"best": self.best, "log": [list(check) for check in self.log]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.best, self.log = state["best"], [GateCheck(*check) for check in state["log"]]
