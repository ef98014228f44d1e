"""RL-100's offline stage: critics and a learned world in feature space, a gate, and steps on denoising chains.

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
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.control.parts.policy_gradient import linear_decay, normalize, ppo_loss
from anytask.control.rl100.data import Transitions
from anytask.control.rl100.imitation import Run, descend
from anytask.control.rl100.settings import CriticSettings, DynamicsSettings
from anytask.core.checks import require_finite
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive, isolated
from anytask.core.training import train


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


def improve_behind_gate(policy: Any, world: World, data: Transitions, run: Run) -> tuple[nn.Module, list[GateCheck]]:
    """Improve a policy on denoising chains drawn for recorded states; return what the gate let through, and its log.

    Parameters
    ----------
    policy : RL100
        Its denoiser is where the improvement begins.
    world : World
        Its critics and dynamics are fitted here, unless the checkpoint has them.
    data : Transitions
    """
    s, process, executed = policy.offline, policy.process, policy._executed
    seed = derive(run.seed[0], "stage", run.seed[1])
    if run.saved.found is None:
        world.iql.fit(data, run.generator("critics"), portion(run.progress, 0.0, 0.35))
        if s.gate:
            world.dynamics.fit(data, portion(run.progress, 0.35, 0.5))
    old, candidate = (copy.deepcopy(policy.net_).requires_grad_(moves) for moves in (False, True))
    optimizer = torch.optim.Adam(candidate.parameters(), lr=s.lr, fused=True)

    def states(n: int, generator: torch.Generator) -> Tensor:
        return data.features[torch.randint(data.n, (n,), generator=generator, device=run.device)]  # (n, width)

    def value(net: nn.Module) -> float:
        # From the same start states and with the same random numbers at every check.
        generator = torch.Generator(run.device).manual_seed(derive(seed, "offline", "gate"))

        def act(c: Tensor) -> Tensor:
            return process.sample(net, c, generator).actions[:, executed]

        return world.value(act, states(s.gate_states, generator), s.rollout_length, generator)

    moving = {"old": old, "candidate": candidate, "optimizer": optimizer, "world": world}
    gate = OPEGate(value(old) if run.saved.found is None else 0.0, s.gate_margin) if s.gate else None
    if gate is not None:
        moving["gate"] = gate
    for step in run.steps(s.steps, moving, 0.5):
        left = linear_decay(1.0, step / s.steps)
        optimizer.param_groups[0]["lr"] = s.lr * left
        generator = torch.Generator(run.device).manual_seed(derive(seed, "offline", "step", step))
        c = states(s.batch_size, generator)
        chain = process.sample(old, c, generator)
        with torch.no_grad():
            A = normalized(world.iql.advantage(c, chain.actions[:, executed]))  # (n,)
        if s.shuffle_advantages:
            A = A[torch.randperm(len(A), generator=generator, device=run.device)]
        for k in range(process.n_steps):  # one optimizer step per denoising step, in order
            log_prob = process.log_prob(candidate, chain.states, c, k)  # (n,)
            descend(optimizer, ppo_loss(log_prob, chain.log_prob[k], A, s.clip * left).loss, policy.max_grad_norm)
        due = (step + 1) % s.gate_every == 0 or step + 1 == s.steps
        if due and (gate is None or gate.offer(value(candidate), step + 1)):
            old.load_state_dict(candidate.state_dict())
    return old, [] if gate is None else gate.log


def normalized(A: Tensor) -> Tensor:
    """Return finite advantages (n,) with mean 0 and standard deviation 1; warn where they all are the same."""
    require_finite(A, "an advantage", "check the scale of the rewards, or lower the critics' lr")
    if len(A) < 2 or bool(A.std() <= 1e-6 * A.abs().max()):
        warnings.warn("the advantages are flat: nothing tells good actions from bad ones", stacklevel=2)
    return normalize(A)
