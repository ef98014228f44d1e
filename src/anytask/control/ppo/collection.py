"""One round of proximal policy optimization: rollout collection, and the advantages of what was collected.

:func:`collect` steps the parallel environments, :func:`with_advantages` makes of it what is learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.parts.acting import by_key
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import gae
from anytask.control.ppo.network import ActorCritic, Memory


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
class Rollout:
    """T steps in n parallel environments, before anything is known of their worth."""

    obs: dict[str, Tensor]  # (T, n, ...)
    previous: Tensor | None  # (T, n, n_previous)
    actions: Tensor  # (T, n, ...)
    features: Tensor  # (T, n, width)
    starts: Tensor  # (T, n) bool
    rewards: Tensor  # (T, n), of these actions
    terminated: Tensor  # (T, n) bool
    truncated: Tensor  # (T, n) bool
    counted: Tensor | None  # (T, n), 0 where an action came after the end of its episode
    state: Tensor  # (n, state_dim), before the first step
    last: Tensor | None  # (n,), with a lag: value of the observation after the last one
    timeouts: list[tuple[Any, ...]]  # of cut episodes: steps, rows, obs, previous and state
    episodes: dict[str, float]  # how the episodes that ended went


@dataclass
class Batch:
    """What is learned from: one round, (T, n, ...), or samples of it, (m, ...)."""

    obs: dict[str, Tensor]
    previous: Tensor | None
    actions: Tensor
    starts: Tensor
    log_prob: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    counted: Tensor | None
    state: Tensor  # (n, state_dim), before the first step

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor but the state changed."""
        changed: dict[str, Any] = {"state": self.state}
        for name, value in vars(self).items():
            if isinstance(value, dict):
                changed[name] = {key: change(x) for key, x in value.items()}
            elif name != "state":
                changed[name] = None if value is None else change(value)
        return Batch(**changed)

    def at(self, index: Tensor | slice) -> Batch:
        """Return some of the samples (m, ...)."""
        return self.map(lambda x: x[index])

    def sequences(self, rows: Tensor) -> Batch:
        """Return the whole sequences (T, m, ...) of some environments."""
        return replace(self.map(lambda x: x[:, rows]), state=self.state[rows])


@torch.no_grad()
def collect(net: ActorCritic, env: VectorEnv, run: Run, horizon: int, bootstrap_timeouts: bool = True) -> Rollout:
    """Step all n environments ``horizon`` times (T); an environment that answers late is stepped once more."""
    T, n, lag, memory, device = horizon, env.num_envs, run.lag, run.memory, run.memory.state.device
    net.eval()
    kept: list[tuple[Any, ...]] = []  # obs, previous, actions, features, starts
    results: list[tuple[Tensor, Tensor, Tensor]] = []  # reward, terminated, truncated
    timeouts: list[tuple[Any, ...]] = []
    ended: list[Tensor] = []
    last, initial = None, memory.state.clone()
    u = run.noise.uniform((T + lag) * net.columns).reshape(n, T + lag, net.columns).to(device)
    for t in range(T + lag):
        features, state = net.step(run.obs, memory.previous, memory.state, memory.starts)
        actions = net.distribution(features).quantile(u[:, t])
        if t < T:
            kept.append((run.obs, memory.previous, actions, features, memory.starts))
        else:  # late: the value of this observation follows the round's last reward
            last = net.value(features, run.obs, memory.previous)
        obs, *result, infos = env.step(_outward(actions, env))
        reward, terminated, truncated = (x.to(device) for x in result)
        results.append((reward, terminated, truncated))
        done = terminated | truncated
        fed = net.previous_of(actions) if net.n_previous else None
        run.obs = on_device(obs, device)
        run.memory = memory = Memory(
            state, fed if fed is None or lag else fed.masked_fill(done[:, None], 0.0), starts=done
        )
        if "_final_obs" in infos:
            ended.append(_how_they_went(infos))
            rows = (truncated & ~terminated).nonzero()[:, 0]
            if not lag and bootstrap_timeouts and len(rows):
                final = {key: x[rows] for key, x in on_device(infos["final_obs"], device).items()}
                previous = None if fed is None else fed[rows]
                timeouts.append((torch.full_like(rows, t), rows, final, previous, state[rows]))
    seen, fed_back, acted, found, starts = zip(*kept, strict=True)
    rewards, terminated, truncated = (torch.stack(x) for x in zip(*results[lag:], strict=True))
    return Rollout(
        obs={key: torch.stack([o[key] for o in seen]) for key in seen[0]},
        previous=torch.stack(fed_back) if net.n_previous else None,
        actions=torch.stack(acted),
        features=torch.stack(found),
        starts=torch.stack(starts),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        # With a lag, call t tells whether the episode was over when the action of call t was already on its way.
        counted=None if not lag else (~torch.stack([r[1] | r[2] for r in results[:T]])).float(),
        state=initial,
        last=last,
        timeouts=timeouts,
        episodes=_record(ended),
    )


@torch.no_grad()
def with_advantages(
    net: ActorCritic,
    rollout: Rollout,
    run: Run,
    *,
    gamma: float,
    lambda_: float,
    reward_scale: float = 1.0,
    bootstrap_timeouts: bool = True,
) -> Batch:
    """Return a rollout that ends at ``run`` with values, advantages and the log-probabilities of its actions."""
    r = rollout
    values = net.value(r.features, r.obs, r.previous)  # (T, n)
    if r.last is None:
        m = run.memory
        last, finals = _value(net, run.obs, m.previous, m.state, m.starts), _final_values(net, r.timeouts, values)
    else:
        last, finals = r.last, torch.cat([values[1:], r.last[None]])
    advantages, returns = gae(
        r.rewards * reward_scale, values, r.terminated, r.truncated, last,
        gamma=gamma, lambda_=lambda_, final_values=finals, bootstrap_timeouts=bootstrap_timeouts,
    )  # fmt: skip
    log_prob = net.distribution(r.features).log_prob(r.actions)
    return Batch(
        r.obs, r.previous, r.actions, r.starts, log_prob, values, advantages, returns, r.counted, r.state
    )  # fmt: skip


def on_device(obs: Any, device: torch.device) -> dict[str, Tensor]:
    """Return an observation as a dict of tensors on the learner's device."""
    return {key: x.to(device) for key, x in by_key(obs).items()}


def _outward(actions: Tensor, env: Any) -> Tensor:
    # The environment clamps by itself; the raw sample stays with the learner.
    if not isinstance(env.single_action_space, spaces.Box):
        actions = actions.long()
    return actions.to(getattr(env, "device", "cpu"))


def _value(net: ActorCritic, obs: dict[str, Tensor], previous: Tensor | None, state: Tensor, starts: Tensor) -> Tensor:
    return net.value(net.step(obs, previous, state, starts)[0], obs, previous)


def _final_values(net: ActorCritic, timeouts: list[tuple[Any, ...]], values: Tensor) -> Tensor:
    """Return the values (T, n) of the observations that time limits ended with, all evaluated at once."""
    finals = torch.zeros_like(values)
    if timeouts:
        steps, rows, observations, previous, state = zip(*timeouts, strict=True)
        obs = {key: torch.cat([o[key] for o in observations]) for key in observations[0]}
        fed, going_on = torch.cat(previous) if net.n_previous else None, torch.zeros_like(torch.cat(rows)).bool()
        finals[torch.cat(steps), torch.cat(rows)] = _value(net, obs, fed, torch.cat(state), going_on)
    return finals


def _how_they_went(infos: dict[str, Any]) -> Tensor:
    """Return returns, lengths and successes (3, m) of the episodes that ended at a step."""
    rows = infos["_final_obs"].nonzero()[:, 0]
    success = infos.get("success")
    known = torch.full((len(rows),), math.nan) if success is None else success[rows].float().cpu()
    return torch.stack([infos["episode"]["r"][rows].float().cpu(), infos["episode"]["l"][rows].float().cpu(), known])


def _record(ended: list[Tensor]) -> dict[str, float]:
    found = torch.cat(ended, 1) if ended else torch.zeros(3, 0)
    means = found.double().nanmean(1).tolist()  # NaN where none ended
    return {"episodes": found.shape[1], **dict(zip(("return", "length", "success"), means, strict=True))}
