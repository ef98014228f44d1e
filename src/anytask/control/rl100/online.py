"""RL-100's online stage: whole episodes with denoising chains on record, then an update of policy and value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import gae, kl_adaptive_lr, minibatches, ppo_loss, value_loss
from anytask.control.rl100.data import Memory, Transitions, Window
from anytask.control.rl100.diffusion import Chain, Consistency, Process, averaged
from anytask.control.rl100.imitation import Run, descend
from anytask.control.rl100.offline import normalized
from anytask.control.rl100.settings import OnlineSettings, StudentSettings
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
    env : VectorEnv
        In which it plays.
    """

    def __init__(self, decide: Callable[[Window], Decided], memory: Memory, env: VectorEnv) -> None:
        self.decide, self.memory = decide, memory
        # Where a restart takes a step, every other "episode" is that step.
        self.waits = env.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP
        self.running = torch.arange(env.num_envs, device=memory.device)  # number of the episode in each environment
        self.episodes: list[Tensor] = []  # that the decisions in the log belong to, (m,) each
        self.log: list[Decided] = []

    def reset(self, rows: Tensor | None = None) -> None:
        """Begin an episode in the environments ``rows``, or in all."""
        self.memory.reset(rows)
        if rows is not None:
            self.running[rows] += len(self.running)

    def act(self, obs: Any, *, deterministic: bool = True) -> Tensor:
        """Return the next actions, sampled."""

        def decide(rows: Tensor, window: Window) -> Tensor:
            self.episodes.append(self.running[rows])
            self.log.append(self.decide(window))
            return self.log[-1].chunks

        return self.memory.act(obs, decide)

    def recorded(self, episodes: int) -> tuple[Tensor, Chain]:
        """Return features (n, width) and chains of the first ``episodes`` ones, one after another."""
        episode = torch.cat(self.episodes)
        if self.waits:
            turn, row = episode // len(self.running), episode % len(self.running)
            episode = torch.where(turn % 2 == 0, turn // 2 * len(self.running) + row, episodes)
        rows = episode.argsort(stable=True)[: int((episode < episodes).sum())]
        c, chain = joined([(d.features, d.chain) for d in self.log])
        return c[rows], Chain(chain.states[:, rows], chain.log_prob[:, rows])


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

    def __init__(
        self, net: nn.Module, value: nn.Module, student: Consistency | None, s: OnlineSettings, own: StudentSettings
    ) -> None:
        self.net, self.value = (copy.deepcopy(part).requires_grad_(True) for part in (net, value))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=s.lr, fused=True)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=s.value_lr, fused=True)
        self.student: Any = None
        if student is not None:
            self.student, self.average = copy.deepcopy(student).requires_grad_(True), averaged(student, own.ema_decay)
            self.student_optimizer = torch.optim.AdamW(self.student.parameters(), lr=own.lr, fused=True)


def update(
    learner: Learner, process: Process, rollout: Rollout, settings: OnlineSettings, discount: float,
    max_grad_norm: float, student_weight: float, generator: torch.Generator, warmup: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Make ``epochs`` passes over one rollout: of the clipped surrogate, the student's loss, and the value loss.

    Parameters
    ----------
    discount : float
        Per decision.
    generator : torch.Generator
        Of the mini-batches.
    warmup : int
        Passes of the value network before.
    """
    s, t, chain = settings, rollout.transitions, rollout.chain

    def fit_value(returns: Tensor) -> None:
        for rows in minibatches(t.n, size=s.batch_size, generator=generator):
            loss = value_loss(learner.value(t.features[rows])[0], returns[rows])
            descend(learner.value_optimizer, loss, max_grad_norm)

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
            descend(learner.optimizer, surrogate.loss, max_grad_norm)
            kls.append(surrogate.approximate_kl)
            if learner.student is not None:
                loss = learner.student.same_noise_loss(learner.net, states[0], c).mean()
                descend(learner.student_optimizer, student_weight * loss)
                learner.average.update_parameters(learner.student)
        kl = float(torch.stack(kls).mean())
        group = learner.optimizer.param_groups[0]
        group["lr"] = lr = kl_adaptive_lr(group["lr"], kl, s.target_kl, (s.lr_bounds[0], s.lr_bounds[1]))
        fit_value(returns)
    return {"kl": kl, "lr": lr, "decisions": float(t.n)}


def improve_by_playing(
    learner: Learner, play: Callable[[nn.Module, int, int], tuple[Episodes, Rollout]], episodes: int, process: Process,
    settings: OnlineSettings, discount: float, max_grad_norm: float, student_weight: float, run: Run,
) -> list[dict[str, float]]:  # fmt: skip
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
        facts = update(
            learner, process, rollout, settings, discount, max_grad_norm, student_weight,
            run.generator("online", len(log)), 0 if log else settings.value_warmup,
        )  # fmt: skip
        log.append({**facts, "episodes": float(played), "success": float(np.mean(new.attributes["success"]))})
        if run.saved.due(len(log)) and played < episodes:
            run.saved.keep(played, moving, log=log)
        run.progress(played / episodes)
    return log
