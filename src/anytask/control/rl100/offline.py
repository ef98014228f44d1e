"""RL-100's offline stage: critics and a world model from data, then gated policy optimisation over denoising steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import linear_decay, normalise, ppo_loss
from anytask.control.rl100.diffusion import Process
from anytask.control.rl100.dynamics import EnsembleDynamics
from anytask.control.rl100.offline_rl import IQL, Transitions
from anytask.core.rng import derive


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

    Attributes
    ----------
    best : float
    log : list of GateCheck

    Examples
    --------
    >>> gate = OPEGate(1.0, margin=0.0)
    >>> [gate.offer(J) for J in (0.9, 1.1, 1.05, 1.2)]
    [False, True, False, True]
    """

    def __init__(self, value: float, margin: float = 0.05) -> None:
        if margin < 0:
            raise ValueError(f"margin must be at least 0, got {margin!r}")
        self.best, self.margin = value, margin
        self.log: list[GateCheck] = []

    def offer(self, value: float, step: int = 0) -> bool:
        """Say whether a candidate of this value passes; if so, it is the best one from now on."""
        accepted = value > self.best + self.margin * abs(self.best)
        self.log.append(GateCheck(step, value, self.best, accepted))
        if accepted:
            self.best = value
        return accepted


class World(NamedTuple):
    """What the offline stage learned about the task: critics, dynamics, and the decisions they came from."""

    iql: IQL
    dynamics: EnsembleDynamics
    data: Transitions


def model_value(
    world: World,
    decide: Callable[[Tensor], Tensor],
    starts: Tensor,
    length: int,
    generator: torch.Generator,
) -> float:
    """Return J: the mean of min Q over imagined roll-outs of ``length`` decisions from the features ``starts``."""
    with torch.no_grad():
        imagined = world.dynamics.rollout(starts, decide, length, generator)
        return world.iql.q(imagined.features.flatten(0, 1), imagined.actions.flatten(0, 1)).mean().item()


class OfflineStage:
    """Improves a policy on a fixed data set; see :meth:`step`.

    Parameters
    ----------
    net : nn.Module
        The policy to improve; copied, not touched.
    process : Process
    world : World
    action_shape : (int, int)
        Of a chunk.
    executed : slice
        Which part of the chunk the critics judge.
    settings : namespace
        ``offline_steps``, ``offline_lr``, ``offline_clip``, ``offline_batch``, ``gate_every``, ``gate_states``,
        ``gate_margin``, ``rollout_length``, ``grad_norm``, ``gate``, ``shuffle_advantages``.
    seed : int

    Attributes
    ----------
    old : nn.Module
        The behaviour policy OLD: the last one that passed the gate, and what is delivered.
    candidate : nn.Module
    gate : OPEGate or None
    steps : int
        Steps done.
    """

    def __init__(
        self,
        net: nn.Module,
        process: Process,
        world: World,
        action_shape: tuple[int, ...],
        executed: slice,
        settings: Any,
        seed: int,
    ) -> None:
        self.process, self.world, self.s, self.seed = process, world, settings, seed
        self.action_shape, self.executed = action_shape, executed
        self.old = copy.deepcopy(net).requires_grad_(False)
        self.candidate = copy.deepcopy(net).requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.candidate.parameters(), lr=settings.offline_lr, fused=True)
        self.steps = 0
        self.gate = OPEGate(self.value(self.old), settings.gate_margin) if settings.gate else None

    def value(self, net: nn.Module) -> float:
        """Return J of a policy, from the same start states and with the same random numbers at every check."""
        generator = self._generator("gate")
        data = self.world.data
        rows = torch.randint(data.n, (self.s.gate_states,), generator=generator, device=data.features.device)
        return model_value(
            self.world,
            lambda c: self.process.sample(net, c, self.action_shape, generator).actions[:, self.executed],
            data.features[rows],
            self.s.rollout_length,
            generator,
        )

    def step(self) -> None:
        """Draw chains from OLD, judge their actions, and take one optimiser step per denoising step, in order."""
        s, data = self.s, self.world.data
        generator = self._generator("step", self.steps)
        left = linear_decay(1.0, self.steps / s.offline_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = s.offline_lr * left
        rows = torch.randint(data.n, (s.offline_batch,), generator=generator, device=data.features.device)
        c = data.features[rows]
        chain = self.process.sample(self.old, c, self.action_shape, generator)
        with torch.no_grad():
            A = normalise(self.world.iql.advantage(c, chain.actions[:, self.executed]))
        if s.shuffle_advantages:
            A = A[torch.randperm(len(A), generator=generator, device=A.device)]
        for k in range(self.process.n_steps):
            log_prob = self.process.log_prob(self.candidate, chain.states, c, k)
            loss = ppo_loss(log_prob, chain.log_prob[k], A, s.offline_clip * left).loss
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.candidate.parameters(), s.grad_norm)
            self.optimizer.step()
        self.steps += 1
        due = self.steps % s.gate_every == 0 or self.steps == s.offline_steps
        if due and (self.gate is None or self.gate.offer(self.value(self.candidate), self.steps)):
            self.old.load_state_dict(self.candidate.state_dict())

    def _generator(self, *path: object) -> torch.Generator:
        return torch.Generator(self.world.data.features.device).manual_seed(derive(self.seed, "offline", *path))

    def state_dict(self) -> dict[str, Any]:
        """Return all that moves."""
        return {
            "old": self.old.state_dict(),
            "candidate": self.candidate.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "gate": None if self.gate is None else {"best": self.gate.best, "log": [list(c) for c in self.gate.log]},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        for name in ("old", "candidate", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.steps = state["steps"]
        if self.gate is not None:
            self.gate.best = state["gate"]["best"]
            self.gate.log = [GateCheck(*c) for c in state["gate"]["log"]]
