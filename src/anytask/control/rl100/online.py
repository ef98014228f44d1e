"""RL-100's online stage: whole episodes with denoising chains on record, then an update of policy and value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anytask.control.parts.acting import by_key
from anytask.control.parts.policy_gradient import gae, kl_adaptive_lr, minibatches, normalize, ppo_loss, value_loss
from anytask.control.rl100.data import Memory
from anytask.control.rl100.diffusion import Chain, Process
from anytask.control.rl100.offline import descend
from anytask.datasets.episodes import Episode, Episodes


class Decided(NamedTuple):
    """Features c (m, width), chunks in the environment's units (m, n_executed, d), and their denoising chain."""

    features: Tensor
    chunks: Tensor
    chain: Chain


class Roll(NamedTuple):
    """Decisions of whole episodes, in columns: (T, E) with E episodes, padded after each end (``valid`` is False).

    ``features`` (T, E, width), ``states`` (S + 1, T, E, horizon, d), ``log_prob`` (S, T, E), ``rewards``,
    ``terminated``, ``truncated`` and ``valid`` (T, E), ``steps`` (T, E) environment steps of each decision, and
    ``final_features`` (T, E, width) where an episode was truncated.
    """

    features: Tensor
    states: Tensor
    log_prob: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    valid: Tensor
    steps: Tensor
    final_features: Tensor


def play(
    decide: Callable[[dict[str, Tensor]], Decided],
    encode: Callable[[dict[str, Tensor]], Tensor],
    env: Any,
    n_obs: int,
    *,
    episodes: int,
    min_decisions: int | None = None,
    gamma: float = 0.99,
    seed: int = 0,
) -> tuple[Episodes, Roll]:
    """Play whole episodes in a vector environment; return them as data, and as a roll for policy gradients.

    Parameters
    ----------
    decide : callable
        Maps windows, key -> (m, n_obs, \\*shape), to what is done next.
    encode : callable
        Maps windows to features.
    env : vector environment
        In the protocol of :class:`~anytask.control.base.BatchedEnv`; it is reset with ``seed``.
    n_obs : int
    episodes : int
        Most episodes to start; each environment begins another one while there are some left.
    min_decisions : int, optional
        Begin no further episodes once this many decisions were taken.
    gamma : float
        Discount within a chunk.
    """
    n = env.num_envs
    obs = by_key(env.reset(seed=seed)[0])
    device = next(iter(obs.values())).device
    memory = Memory(n_obs)
    playing = torch.arange(n) < episodes
    started, t = int(playing.sum()), 0
    began = [0] * n  # the step at which each environment's episode began
    seen: list[dict[str, Tensor]] = []
    acted: list[tuple[Tensor, Tensor]] = []  # actions and rewards, each (n, ...)
    done: list[_Ended] = []
    decided: list[Decided] = []
    current = torch.zeros(n, dtype=torch.int64)  # number of each environment's running decision
    own: list[list[int]] = [[] for _ in range(n)]  # the decisions of each environment's running episode
    R, steps = torch.zeros(0), torch.zeros(0, dtype=torch.int64)  # by decision: reward so far, environment steps
    finals: dict[int, Tensor] = {}  # features in which a truncated episode's last decision ended
    while bool(playing.any()):
        memory.see(obs)
        assert memory.window is not None
        rows = (playing.to(device) & (memory.left == 0)).nonzero()[:, 0]
        if len(rows):
            decided.append(decide({k: w[rows] for k, w in memory.window.items()}))
            memory.plan(rows, decided[-1].chunks)
            current[rows.cpu()] = torch.arange(len(R), len(R) + len(rows))
            for row in rows.tolist():
                own[row].append(int(current[row]))
            R, steps = torch.cat([R, torch.zeros(len(rows))]), torch.cat([steps, steps.new_zeros(len(rows))])
        actions = memory.next()
        seen.append(obs)
        following, reward, terminated, truncated, infos = env.step(actions)
        obs, t = by_key(following), t + 1
        reward, terminated, truncated = reward.cpu(), terminated.cpu(), truncated.cpu()
        acted.append((actions.cpu(), reward))
        running = current[playing]
        R[running] += gamma ** steps[running] * reward[playing]
        steps[running] += 1
        over = terminated | truncated
        ended = (playing & over).nonzero()[:, 0]
        if len(ended):
            final = by_key(infos["final_obs"])
            features = encode(memory.after(final, ended.to(device)))
            for i, row in enumerate(ended.tolist()):
                finals[int(current[row])] = features[i]
                last = {k: v[row].cpu() for k, v in final.items()}
                flags = bool(terminated[row]), bool(truncated[row]), float(infos["success"][row])
                done.append(_Ended(row, range(began[row], t), own[row], last, *flags))
                own[row], began[row] = [], t
                if started < episodes and (min_decisions is None or len(R) < min_decisions):
                    started += 1
                else:
                    playing[row] = False
        memory.reset(over.nonzero()[:, 0].to(device))
    return _episodes(done, seen, acted), _roll(done, decided, R, steps, finals)


class _Ended(NamedTuple):
    """One finished episode: where its steps and decisions are, and how it ended."""

    copy: int
    steps: range
    decisions: list[int]
    final: dict[str, Tensor]
    terminated: bool
    truncated: bool
    success: float


def _episodes(done: list[_Ended], seen: list[dict[str, Tensor]], acted: list[tuple[Tensor, Tensor]]) -> Episodes:
    out = []
    for e in done:
        observations = {
            k: torch.stack([*(seen[t][k][e.copy].cpu() for t in e.steps), e.final[k]]).numpy() for k in e.final
        }
        actions, rewards = (torch.stack([acted[t][i][e.copy] for t in e.steps]).numpy() for i in (0, 1))
        facts = {"success": e.success}
        out.append(Episode(observations, actions, rewards, e.terminated, e.truncated, facts))
    return Episodes.from_list(out)


def _roll(done: list[_Ended], decided: list[Decided], R: Tensor, steps: Tensor, finals: dict[int, Tensor]) -> Roll:
    T, E = max(len(e.decisions) for e in done), len(done)
    index = torch.zeros((T, E), dtype=torch.int64)
    valid, terminated, truncated = (torch.zeros((T, E), dtype=torch.bool) for _ in range(3))
    features = torch.cat([d.features for d in decided])
    final_features = torch.zeros((T, E, features.shape[1]), device=features.device)
    for column, e in enumerate(done):
        m = len(e.decisions)
        index[:m, column], valid[:m, column] = torch.tensor(e.decisions), True
        terminated[m - 1, column], truncated[m - 1, column] = e.terminated, e.truncated
        terminated[m:, column] = True  # padding is worth nothing
        final_features[m - 1, column] = finals[e.decisions[-1]]
    device = features.device
    at = index.to(device)
    return Roll(
        features[at],
        torch.cat([d.chain.states for d in decided], 1)[:, at],
        torch.cat([d.chain.log_prob for d in decided], 1)[:, at],
        R[index].masked_fill(~valid, 0.0).to(device),
        terminated.to(device),
        truncated.to(device),
        valid.to(device),
        steps[index].to(device),
        final_features,
    )


@dataclass
class Learner:
    """What moves in the online stage: policy, value network (n, width) -> (1, n), and a student if any."""

    net: Any
    value: Any
    optimizer: Any
    value_optimizer: Any
    student: Any = None
    average: Any = None
    student_optimizer: Any = None


@torch.no_grad()
def advantages(
    roll: Roll, value: nn.Module, n_executed: int, gamma: float, lambda_: float, bootstrap_timeouts: bool
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (T, E) of a roll's decisions.

    The discount per decision is ``gamma^K``, K = ``n_executed``; where a clock cut a chunk short after j steps, the
    value of what was seen then counts ``gamma^j``.
    """
    values = value(roll.features.flatten(0, 1))[0].reshape(roll.rewards.shape).masked_fill(~roll.valid, 0.0)
    final = value(roll.final_features.flatten(0, 1))[0].reshape(roll.rewards.shape)
    return gae(
        roll.rewards, values, roll.terminated, roll.truncated, torch.zeros_like(values[0]),
        gamma=gamma**n_executed, lambda_=lambda_, bootstrap_timeouts=bootstrap_timeouts,
        final_values=final * gamma ** (roll.steps - n_executed).to(final.dtype),
    )  # fmt: skip


def update(learner: Learner, process: Process, roll: Roll, policy: Any, seed: int, warmup: int) -> dict[str, float]:
    """Make ``epochs`` passes over one roll: of the clipped surrogate, the student's loss, and the value loss.

    Parameters
    ----------
    learner : Learner
    process : Process
    roll : Roll
    policy : RL100
        Whose settings hold.
    seed : int
        Of the mini-batches.
    warmup : int
        Passes of the value network before.
    """
    s, valid = policy.online, roll.valid
    worth = policy.n_executed, policy.gamma, s.lambda_, policy.bootstrap_timeouts
    c, states, old = roll.features[valid], roll.states[:, valid], roll.log_prob[:, valid]
    generator = torch.Generator(c.device).manual_seed(seed)

    def fit_value(returns: Tensor) -> None:
        for rows in minibatches(len(c), size=s.batch_size, generator=generator):
            loss = value_loss(learner.value(c[rows])[0], returns[rows])
            descend(learner.value_optimizer, loss, "online", policy.max_grad_norm)

    for _ in range(warmup):
        fit_value(advantages(roll, learner.value, *worth)[1][valid])
    A, returns = (x[valid] for x in advantages(roll, learner.value, *worth))
    A, kl, lr = normalize(A), 0.0, s.lr
    for _ in range(s.epochs):
        kls = []
        for rows in minibatches(len(c), size=s.batch_size, generator=generator):
            log_prob = process.log_prob(learner.net, states[:, rows], c[rows])  # (n_steps, m)
            surrogate = ppo_loss(log_prob, old[:, rows], A[rows], s.clip)
            descend(learner.optimizer, surrogate.loss, "online", policy.max_grad_norm)
            kls.append(surrogate.approximate_kl)
            if learner.student is not None:
                _teach(learner, process, states[0, rows], c[rows], policy.student.weight)
        kl = float(torch.stack(kls).mean())
        for group in learner.optimizer.param_groups:
            group["lr"] = lr = kl_adaptive_lr(group["lr"], kl, s.target_kl, (s.lr_bounds[0], s.lr_bounds[1]))
        fit_value(returns)
    return {"kl": kl, "lr": lr, "decisions": float(len(c))}


def _teach(learner: Learner, process: Process, noise: Tensor, c: Tensor, weight: float) -> None:
    target = process.decide(learner.net, c, tuple(noise.shape[1:]), noise=noise)
    loss = weight * learner.student.same_noise_loss(target, noise, c).mean()
    descend(learner.student_optimizer, loss, "student")
    learner.average.update_parameters(learner.student)
