"""RL-100's stages: imitation by denoising, improvement behind a gate, improvement by playing, and the student."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.checkpoint import Checkpoint
from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.parts.policy_gradient import (
    gae,
    kl_adaptive_lr,
    linear_decay,
    minibatches,
    normalize,
    ppo_loss,
    value_loss,
)
from anytask.control.rl100.diffusion import Chain, Consistency, averaged
from anytask.control.rl100.world import Decisions, GateCheck, Memory, OPEGate, Transitions, Window, World
from anytask.core.checks import require_finite
from anytask.core.errors import check_flags
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive
from anytask.datasets.episodes import Episodes


@dataclass(frozen=True)
class Run:
    """One stage on its way: what it saves, whom it tells, and where its random numbers come from."""

    saved: Checkpoint
    progress: Progress
    seed: tuple[int, int]  # the policy's, and the number of the stage
    device: torch.device

    def generator(self, *path: object) -> torch.Generator:
        """Return random numbers of their own for a step or a part of the stage."""
        return torch.Generator(self.device).manual_seed(derive(*self.seed, *path))

    def steps(self, total: int, moving: Mapping[str, Any], start: float = 0.0) -> Iterator[int]:
        """Yield the steps that are still to do; they make up the share from ``start`` on of the stage."""
        return self.saved.steps(total, moving, portion(self.progress, start, 1.0))


def imitate(policy: Any, data: Decisions, run: Run) -> tuple[ObservationEncoder, nn.Module]:
    """Train the policy's encoder and denoiser on recorded chunks; return the averages of both."""
    s, encoder, net, process, (seed, stage) = policy.imitation, policy.encoder_, policy.net_, policy.process, run.seed
    per_epoch = -(-data.n // s.batch_size)
    betas = {"reconstruction": policy.encoder.beta_reconstruction, "kl": policy.encoder.beta_kl}

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(derive(seed, "imitation", stage, epoch)).permutation(data.n)

    def loss(step: int, average: nn.Module) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        rows = order(epoch)[place * s.batch_size : (place + 1) * s.batch_size]
        generator = run.generator("imitation", step)
        c, extra = encoder.regularized(data.window(rows), generator)  # (m, width)
        total = process.loss(net, data.chunks[torch.as_tensor(rows, device=run.device)], c, generator).mean()
        for name in sorted(extra, reverse=True):
            total = total + betas[name] * extra[name]
        return total

    both = nn.ModuleList([encoder, net])
    steps = s.epochs * per_epoch
    return tuple(_averaged_training(both, "both", loss, steps, s, run, weight_decay=1e-6))


def distil_student(policy: Any, data: Decisions, run: Run) -> Consistency:
    """Train a copy of the policy's one-step student, or a new one, on recorded decisions; return its average.

    With the form ``"lcm"`` it also learns from what was done.
    """
    settings, teacher = policy.student, policy.net_
    student = copy.deepcopy(policy.student_ or Consistency(teacher, policy.process)).requires_grad_(True)
    features = data.features(policy.encoder_, np.arange(data.n))  # (n, width)

    def loss(step: int, average: nn.Module) -> Tensor:
        generator = run.generator("student", step)
        rows = torch.randint(data.n, (policy.imitation.batch_size,), generator=generator, device=run.device)
        c = features[rows]  # (m, width)
        if settings.form == "lcm":
            return student.consistency_loss(average, teacher, data.chunks[rows], c, generator).mean()
        return student.same_noise_loss(teacher, student.process.noise(c, generator), c).mean()

    return _averaged_training(student, "student", loss, settings.steps, settings, run)


def _averaged_training(
    module: nn.Module, name: str, loss: Callable[[int, nn.Module], Tensor], steps: int, settings: Any, run: Run,
    weight_decay: float = 1e-2,
) -> Any:  # fmt: skip
    """Train a module by AdamW on ``loss(step, average)``, and return its moving average."""
    average = averaged(module, settings.ema_decay)
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=weight_decay, fused=True)
    for step in run.steps(steps, {name: module, "average": average, "optimizer": optimizer}):
        descend(optimizer, loss(step, average.module))
        average.update_parameters(module)
    return average.module


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float = math.inf) -> None:
    """Take one optimizer step on a loss () whose gradient is finite."""
    advice = "lower the lr, or check the scale of the data"
    require_finite(loss, "the loss", advice)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    require_finite(nn.utils.clip_grad_norm_(weights, max_grad_norm), "the gradient", advice)
    optimizer.step()


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

        check_flags(deterministic=deterministic)

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
        learned: Any = copy.deepcopy([policy.net_, value, policy.student_])
        self.net, self.value, self.student = learned
        for part in filter(None, learned):
            part.requires_grad_(True)
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
