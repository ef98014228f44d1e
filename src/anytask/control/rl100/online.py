"""RL-100's online stage: whole episodes with denoising chains on record, then an update of policy and value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import gae, kl_adaptive_lr, minibatches, ppo_loss, value_loss
from anytask.control.rl100.data import Memory, Transitions, Window
from anytask.control.rl100.diffusion import Chain, averaged
from anytask.control.rl100.imitation import Run, descend
from anytask.control.rl100.offline import normalized
from anytask.datasets.episodes import Episodes


class Decided(NamedTuple):
    """Features c (m, width), chunks in the environment's units (m, n_executed, d), and their denoising chains."""

    features: Tensor
    chunks: Tensor
    chain: Chain


class Recorder:
    """A policy that plays, and keeps its chains.

    Parameters
    ----------
    decide : callable
        Maps windows to what is done next.
    memory : Memory
    num_envs : int
        Parallel environments in which it plays.
    """

    def __init__(self, decide: Callable[[Window], Decided], memory: Memory, num_envs: int) -> None:
        self.decide, self.memory, self.reset = decide, memory, memory.reset
        self.log: list[Decided] = []
        self.numbers = torch.zeros(num_envs, dtype=torch.int64, device=memory.device)  # of the decisions carried out
        self.made = 0
        self.acted: list[Tensor] = []  # the numbers at each call, (n,)

    def act(self, obs: Any, *, deterministic: bool = True) -> Tensor:
        """Return the next actions, sampled."""

        def decide(rows: Tensor, window: Window) -> Tensor:
            self.numbers[rows] = self.made + torch.arange(len(rows), device=rows.device)
            self.made += len(rows)
            self.log.append(self.decide(window))
            return self.log[-1].chunks

        actions = self.memory.act(obs, decide)
        self.acted.append(self.numbers.clone())
        return actions

    def recorded(self, calls: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Chain]:
        """Return features (m, width) and chains of what was carried out in ``rows`` (m,) at the ``calls`` (m,)."""
        at = torch.stack(self.acted)[torch.as_tensor(calls), torch.as_tensor(rows)]
        c, chain = joined([(d.features, d.chain) for d in self.log])
        return c[at], Chain(chain.states[:, at], chain.log_prob[:, at])


class Rollout(NamedTuple):
    """Decisions of whole episodes, one after another: ``last`` (n,) is True at the end of each episode."""

    transitions: Transitions
    last: Tensor
    chain: Chain


def joined(parts: list[tuple[Tensor, Chain]]) -> tuple[Tensor, Chain]:
    """Return the features and chains of several recordings, one after another."""
    chains = zip(*(chain for _, chain in parts), strict=True)
    return torch.cat([c for c, _ in parts]), Chain(*(torch.cat(tensors, 1) for tensors in chains))


@torch.no_grad()
def advantages(
    t: Transitions, last: Tensor, value: nn.Module, discount: float, lambda_: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (n,) of decisions, whole episodes one after another.

    Parameters
    ----------
    t : Transitions
        Where the clock cut a chunk short after j steps, the value of what was seen then counts ``gamma^j``.
    last : Tensor of bool (n,)
        Whether a decision was the last of its episode.
    discount : float
        Per decision, ``gamma^K``.
    """
    v, v_next = value(torch.cat([t.features, t.next_features]))[0].chunk(2)
    rewards = t.rewards + t.discounts * v_next * last
    never = torch.zeros_like(last)
    return gae(rewards, v, last, never, v.new_zeros(()), gamma=discount, lambda_=lambda_)


class Learner:
    """What moves in the online stage: copies of policy, value network (n, width) -> (1, n), and student if any."""

    def __init__(self, policy: Any, value: nn.Module) -> None:
        s, own = policy.online, policy.student
        self.net, self.value, self.student = (
            None if part is None else copy.deepcopy(part).requires_grad_(True)
            for part in (policy.net_, value, policy.student_)
        )
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=s.lr, fused=True)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=s.value_lr, fused=True)
        if self.student is not None:
            self.average = averaged(policy.student_, own.ema_decay)
            self.student_optimizer = torch.optim.AdamW(self.student.parameters(), lr=own.lr, fused=True)


def update(
    policy: Any, learner: Learner, rollout: Rollout, generator: torch.Generator, warmup: int = 0
) -> dict[str, float]:
    """Make ``epochs`` passes over one rollout: of the clipped surrogate, the student's loss, and the value loss.

    Parameters
    ----------
    policy : RL100
        Whose settings and process count.
    generator : torch.Generator
        Of the mini-batches.
    warmup : int
        Passes of the value network before.
    """
    s, t, chain, process = policy.online, rollout.transitions, rollout.chain, policy.process
    discount = policy.gamma**policy.n_executed  # per decision

    def fit_value(returns: Tensor) -> None:
        for rows in minibatches(t.n, size=s.batch_size, generator=generator):
            loss = value_loss(learner.value(t.features[rows])[0], returns[rows])
            descend(learner.value_optimizer, loss, policy.max_grad_norm)

    for _ in range(warmup):
        fit_value(advantages(t, rollout.last, learner.value, discount, s.lambda_)[1])
    A, returns = advantages(t, rollout.last, learner.value, discount, s.lambda_)
    A, kl, lr = normalized(A), 0.0, s.lr
    for _ in range(s.epochs):
        kls = []
        for rows in minibatches(t.n, size=s.batch_size, generator=generator):
            c, states = t.features[rows], chain.states[:, rows]  # (m, width), (n_steps + 1, m, horizon, d)
            log_prob = process.log_prob(learner.net, states, c)  # (n_steps, m)
            surrogate = ppo_loss(log_prob, chain.log_prob[:, rows], A[rows], s.clip)
            descend(learner.optimizer, surrogate.loss, policy.max_grad_norm)
            kls.append(surrogate.approximate_kl)
            if learner.student is not None:
                loss = learner.student.same_noise_loss(learner.net, states[0], c).mean()
                descend(learner.student_optimizer, policy.student.weight * loss)
                learner.average.update_parameters(learner.student)
        kl = float(torch.stack(kls).mean())
        group = learner.optimizer.param_groups[0]
        group["lr"] = lr = kl_adaptive_lr(group["lr"], kl, s.target_kl, (s.lr_bounds[0], s.lr_bounds[1]))
        fit_value(returns)
    return {"kl": kl, "lr": lr, "decisions": float(t.n)}


def improve_by_playing(
    policy: Any,
    learner: Learner,
    play: Callable[[nn.Module, int, int], tuple[Episodes, Rollout]],
    episodes: int,
    run: Run,
) -> list[dict[str, float]]:
    """Play and update until ``episodes`` ones were played; return the facts on each round.

    Parameters
    ----------
    play : callable
        ``play(net, episodes, round)`` returns at most ``episodes`` of the policy ``net``, and their decisions.
    """
    moving = {name: part for name, part in vars(learner).items() if part is not None}
    played, found = run.saved.resume(moving), run.saved.found
    log: list[dict[str, float]] = [] if found is None else found["log"]
    while played < episodes:
        new, rollout = play(learner.net, episodes - played, len(log))
        played += len(new)
        warmup = 0 if log else policy.online.value_warmup
        facts = update(policy, learner, rollout, run.generator("online", len(log)), warmup)
        log.append({**facts, "episodes": float(played), "success": float(np.mean(new.attributes["success"]))})
        if run.saved.due(len(log)) and played < episodes:
            run.saved.keep(played, moving, log=log)
        run.progress(played / episodes)
    return log
