"""One round of proximal policy optimization: rollout collection, advantages, and passes of clipped gradient steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from anytask.control.parts.acting import by_key
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import gae, minibatches, ppo_loss, value_loss, weighted_mean
from anytask.control.ppo.network import ActorCritic, Memory, bounded
from anytask.core.checks import require_finite
from anytask.core.training import gradients


@dataclass
class Run:
    """Where a training stands between two rounds, beside the learner itself."""

    obs: dict[str, Tensor]
    memory: Memory
    noise: CounterRandom
    lag: int
    steps: int = 0
    rounds: int = 0

    def tree(self, env: Any) -> dict[str, Any]:
        """Return all of it for a checkpoint, the environment's state included where it has one."""
        world = env.state() if hasattr(env, "state") and hasattr(env, "restore") else None
        noise = (self.noise.keys, self.noise.counters)
        return {**vars(self), "memory": vars(self.memory), "noise": noise, "world": world}

    def take(self, tree: dict[str, Any], env: Any) -> None:
        """Go on from what :meth:`tree` returned."""
        self.steps, self.rounds = tree["steps"], tree["rounds"]
        self.noise.keys, self.noise.counters = (x.cpu() for x in tree["noise"])
        if tree["world"] is None:
            return  # the environment starts new episodes, which were begun already
        env.restore({key: value.to(getattr(env, "device", "cpu")) for key, value in tree["world"].items()})
        self.obs, self.memory = tree["obs"], Memory(**tree["memory"])


@dataclass
class Batch:
    """What is learned from: T steps of n environments; samples of it are sequences of one step."""

    obs: Mapping[str, Tensor]  # (T, n, ...), the previous action among them if it is fed back
    actions: Tensor  # (T, n, ...), as they were sampled
    starts: Tensor  # (T, n) bool, where episodes begin
    log_prob: Tensor  # (T, n)
    values: Tensor  # (T, n)
    advantages: Tensor  # (T, n)
    returns: Tensor  # (T, n)
    counted: Tensor  # (T, n), 0 where an action moved nothing: it came after the end of its episode; else 1
    state: Tensor  # (1, n, state_dim), the memory before the first step; without a memory (T, n, 0)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        obs = {key: change(x) for key, x in self.obs.items()}
        return Batch(obs=obs, **{name: change(x) for name, x in vars(self).items() if name != "obs"})


@torch.no_grad()
def collect(net: ActorCritic, env: VectorEnv, run: Run, settings: Any) -> tuple[Batch, dict[str, float]]:
    """Step all n environments ``horizon`` times (T), and return what is learned from, and how the episodes went.

    An environment that answers late (``run.lag`` of 1) is stepped once more.

    Parameters
    ----------
    net : ActorCritic
    env : VectorEnv
        In tensors.
    run : Run
        Goes on to where the round ends.
    settings : PPO
    """
    s, n, device, T = settings, env.num_envs, run.memory.state.device, settings.horizon
    total, at_home = T + run.lag, getattr(env, "device", "cpu")
    net.eval()
    initial = run.memory.state[None] if net.core is not None else run.memory.state.new_zeros(T, n, 0)
    seen: list[tuple[Mapping[str, Tensor], Tensor, Tensor]] = []  # observations, features, starts; one more than T
    acted: list[Tensor] = []
    results: list[tuple[Tensor, ...]] = []  # reward, terminated, truncated, and whether the action moved nothing
    cut: list[tuple[Any, ...]] = []  # of truncated episodes: step, rows, last observation, memory
    ended: list[Tensor] = []  # returns, lengths and successes (3, m)
    u = run.noise.uniform(total * net.head.n_columns).reshape(n, total, -1).to(device)
    for t in range(total):
        obs, memory = run.memory.with_previous(run.obs), run.memory
        features, state = net.features(obs, memory.state, memory.starts)
        seen.append((obs, features, memory.starts))
        acted.append(net.head(features).quantile(u[:, t]))
        following, *result, infos = env.step(bounded(acted[-1], net.action_space).to(at_home))
        reward, terminated, truncated = (x.to(device) for x in result)
        idle = infos["_reset"].to(device) if "_reset" in infos else torch.zeros_like(terminated)
        results.append((reward, terminated, truncated, idle))
        starts = terminated | truncated | idle
        fed = net.previous_of(acted[-1])
        run.obs = on_device(following, device)
        run.memory = Memory(state, fed if fed is None or run.lag else fed.masked_fill(starts[:, None], 0.0), starts)
        if "_final_obs" in infos:
            done = infos["_final_obs"]
            went = (infos["episode"]["r"], infos["episode"]["l"], infos["success"])
            ended.append(torch.stack([x[done].double().cpu() for x in went]))
            rows = (truncated & ~terminated).nonzero()[:, 0]
            if not run.lag and s.bootstrap_timeouts and len(rows):
                last = Memory(state, fed, starts).with_previous(on_device(infos["final_obs"], device))
                cut.append((torch.full_like(rows, t), rows, {key: x[rows] for key, x in last.items()}, state[rows]))
    if not run.lag:
        obs = run.memory.with_previous(run.obs)
        seen.append((obs, net.features(obs, run.memory.state, run.memory.starts)[0], run.memory.starts))
    all_obs = {key: torch.stack([o[key] for o, _, _ in seen]) for key in seen[0][0]}
    features, starts = torch.stack([f for _, f, _ in seen]), torch.stack([b for _, _, b in seen])
    rewards, terminated, truncated, idle = (torch.stack(x[run.lag :]) for x in zip(*results, strict=True))
    values = net.value(features, all_obs)  # (T + 1, n)
    finals = values[1:] if run.lag else _final_values(net, cut, values[1:])
    advantages, returns = gae(
        rewards * s.reward_scale, values[:T], terminated, truncated, values[T], gamma=s.gamma, lambda_=s.lambda_,
        final_values=finals, bootstrap_timeouts=s.bootstrap_timeouts,
    )  # fmt: skip
    # With a lag, call t tells whether the episode was over when the action of call t was already on its way.
    moved = ~(torch.stack([r[1] | r[2] for r in results[:T]]) if run.lag else idle)
    actions = torch.stack(acted[:T])
    batch = Batch(
        obs={key: x[:T] for key, x in all_obs.items()},
        actions=actions,
        starts=starts[:T],
        log_prob=net.head(features[:T]).log_prob(actions),
        values=values[:T],
        advantages=advantages,
        returns=returns,
        counted=moved.float(),
        state=initial,
    )
    means = torch.cat(ended, 1).nanmean(1).tolist() if ended else [math.nan] * 3
    record = {"episodes": sum(x.shape[1] for x in ended), "return": means[0], "length": means[1], "success": means[2]}
    record |= {"reward_min": rewards.min().item(), "reward_max": rewards.max().item()}
    return batch, {**record, "advantage_std": advantages.std().item()}


def _final_values(net: ActorCritic, cut: list[tuple[Any, ...]], like: Tensor) -> Tensor:
    """Return the values (T, n) of the observations that time limits ended with, all evaluated at once."""
    finals = torch.zeros_like(like)
    if cut:
        steps, rows, observations, states = zip(*cut, strict=True)
        obs = {key: torch.cat([o[key] for o in observations]) for key in observations[0]}
        at = torch.cat(steps), torch.cat(rows)
        features, _ = net.features(obs, torch.cat(states), torch.zeros_like(at[1], dtype=torch.bool))
        finals[at] = net.value(features, obs)
    return finals


def on_device(obs: Any, device: torch.device) -> dict[str, Tensor]:
    """Return an observation as a dict of tensors on the learner's device."""
    return {key: x.to(device) for key, x in by_key(obs).items()}


class ProcessGroup:
    """The processes of :mod:`torch.distributed` that learn together, if there is a process group; else this one alone.

    Attributes
    ----------
    rank, size : int
        Which process this is, and of how many.

    Examples
    --------
    >>> alone = ProcessGroup()
    >>> alone.size, [x.tolist() for x in alone.moments(torch.tensor([[1.0], [3.0]]))]
    (1, [2.0, [2.0], [2.0]])
    """

    def __init__(self) -> None:
        on = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank = torch.distributed.get_rank() if on else 0
        self.size = torch.distributed.get_world_size() if on else 1

    def _sum(self, x: Tensor) -> Tensor:
        if self.size > 1:
            torch.distributed.all_reduce(x)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the processes, which takes the place of ``x``."""
        return x if self.size == 1 else self._sum(x).div_(self.size)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return number, mean and sum of squared deviations of the rows (m, ...) of all processes."""
        count, total = self._sum(x.new_tensor(float(len(x)))), self._sum(x.sum(0))
        mean = total / count.clamp_min(1)
        return count, mean, self._sum((x - mean).square().sum(0))

    def normalize(self, advantages: Tensor, weights: Tensor) -> Tensor:
        """Return advantages with mean 0 and deviation 1 over the samples of all processes that count."""
        count, mean, m2 = self.moments(advantages[weights > 0].double())
        std = (m2 / (count - 1).clamp_min(1)).sqrt()
        return ((advantages - mean) / (std + 1e-8)).to(advantages.dtype)


def loss_terms(net: ActorCritic, batch: Batch, settings: Any) -> tuple[Tensor, Tensor]:
    """Return the loss () of a batch (T, m, ...), and what it was made of (5,), without gradients.

    These are policy loss, value loss, entropy, KL divergence and share of clipped ratios.
    """
    s, b = settings, batch
    features, _ = net.features(b.obs, b.state[0], b.starts)
    distribution = net.head(features)
    surrogate = ppo_loss(distribution.log_prob(b.actions), b.log_prob, b.advantages, s.clip, weights=b.counted)
    values = net.value(features, b.obs)
    fit = value_loss(values, b.returns, old_values=b.values, clip=s.value_clip, weights=b.counted)
    entropy = weighted_mean(distribution.entropy(), b.counted)
    loss = surrogate.loss + s.value_coefficient * fit - s.entropy_coefficient * entropy
    terms = (surrogate.loss, fit, entropy, surrogate.approximate_kl, surrogate.clip_fraction)
    return loss, torch.stack([term.detach() for term in terms])


@gradients()
def update(
    net: ActorCritic,
    weights: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Any,
    order: torch.Generator,
    group: ProcessGroup,
) -> dict[str, float]:
    """Make ``epochs`` passes of gradient steps over one round (T, n, ...); return the means of the last one's terms.

    Parameters
    ----------
    net : ActorCritic
    weights : Parameter
        All of the network's, in one tensor; see :func:`joined`.
    optimizer
        Of ``weights``, at the learning rate of this round.
    batch : Batch
    settings : PPO
    order : torch.Generator
        Of the mini-batches: of whole sequences if there is a memory, else of samples.
    group : ProcessGroup
    """
    s, lr = settings, optimizer.param_groups[0]["lr"]
    net.train()
    if s.normalize_advantages == "round":
        batch = replace(batch, advantages=group.normalize(batch.advantages, batch.counted))
    samples = batch if net.core is not None else batch.map(lambda x: x.flatten(0, 1)[None])
    n = samples.actions.shape[1]
    for _ in range(s.epochs):
        measured = []
        for rows in minibatches(n, count=min(s.minibatches, n), generator=order):
            part = samples.map(partial(torch.index_select, dim=1, index=rows.to(weights.device)))
            if s.normalize_advantages == "minibatch":
                part.advantages = group.normalize(part.advantages, part.counted)
            loss, terms = loss_terms(net, part, s)
            advice = f"lower lr (now {lr:g}) or reward_scale, or look for extreme observations"
            require_finite(loss, f"the loss in round {len(s.history_)}", advice)
            optimizer.zero_grad(set_to_none=False)  # the network's gradients are views of one tensor
            loss.backward()
            group.mean(weights.grad)  # type: ignore[arg-type]
            if s.max_grad_norm is not None:
                nn.utils.clip_grad_norm_(weights, s.max_grad_norm)
            optimizer.step()
            measured.append(terms)
    means = group.mean(torch.stack(measured).mean(0)).tolist()
    spread = batch.returns.var()
    explained = 1 - (batch.returns - batch.values).var() / spread if spread > 0 else torch.tensor(math.nan)
    names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
    return {**dict(zip(names, means, strict=True)), "explained_variance": explained.item(), "lr": lr}


def joined(network: nn.Module) -> nn.Parameter:
    """Move all weights of a network and their gradients into one tensor each, of which its own become views.

    An optimizer step, clipping and averaging over processes are then a few operations, however many layers there are.
    """
    own = list(network.parameters())
    starts, total = [], 0
    for p in own:
        starts.append(total)
        total += -(-p.numel() // 16) * 16  # each begins at a multiple of 64 bytes
    joined = nn.Parameter(own[0].new_zeros(total))
    joined.grad = torch.zeros_like(joined)
    for p, start in zip(own, starts, strict=True):
        view = joined.data[start : start + p.numel()].view_as(p)
        view.copy_(p.data)
        p.data, p.grad = view, joined.grad[start : start + p.numel()].view_as(p)
    return joined
