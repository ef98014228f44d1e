"""RL-100's online stage: play whole episodes with denoising chains on record, then improve policy and value."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anytask.control.parts.policy_gradient import AdaptiveKL, gae, minibatches, normalise, ppo_loss, value_loss
from anytask.control.rl100.data import Memory, as_dict
from anytask.control.rl100.diffusion import EMA, Chain, Consistency, Process
from anytask.core.rng import derive
from anytask.datasets.episodes import Episode, Episodes


class Decided(NamedTuple):
    """What a policy decides for some copies: features c (m, width), chunks in the world's units (m, n_executed, d),
    and the denoising chain where there is one."""

    features: Tensor
    chunks: Tensor
    chain: Chain | None


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


class Played(NamedTuple):
    """Whole episodes, as data and (where the policy gave chains) as a roll for policy gradients."""

    episodes: Episodes
    roll: Roll | None


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
) -> Played:
    """Play whole episodes in a vector environment and record everything that learning needs.

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
        Most episodes to start; each copy begins another one while there are some left.
    min_decisions : int, optional
        Begin no further episodes once this many decisions were taken.
    gamma : float
        Discount within a chunk.
    """
    n = env.num_envs
    obs = as_dict(env.reset(seed=seed)[0])
    device = next(iter(obs.values())).device
    memory = Memory(n_obs)
    playing = torch.arange(n) < episodes
    started, t = int(playing.sum()), 0
    began = [0] * n  # the step at which each copy's episode began
    seen: list[dict[str, Tensor]] = []
    acted: list[tuple[Tensor, Tensor]] = []  # actions and rewards, each (n, ...)
    done: list[_Ended] = []
    decided: list[Decided] = []
    current = torch.zeros(n, dtype=torch.int64)  # number of each copy's running decision
    own: list[list[int]] = [[] for _ in range(n)]  # the decisions of each copy's running episode
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
        obs, t = as_dict(following), t + 1
        reward, terminated, truncated = reward.cpu(), terminated.cpu(), truncated.cpu()
        acted.append((actions.cpu(), reward))
        running = current[playing]
        R[running] += gamma ** steps[running] * reward[playing]
        steps[running] += 1
        over = terminated | truncated
        ended = (playing & over).nonzero()[:, 0]
        if len(ended):
            final = as_dict(infos["final_obs"])
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
    return Played(_episodes(done, seen, acted), _roll(done, decided, R, steps, finals))


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


def _roll(
    done: list[_Ended], decided: list[Decided], R: Tensor, steps: Tensor, finals: dict[int, Tensor]
) -> Roll | None:
    chains = [d.chain for d in decided if d.chain is not None]
    if len(chains) < len(decided):
        return None
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
        torch.cat([chain.states for chain in chains], 1)[:, at],
        torch.cat([chain.log_prob for chain in chains], 1)[:, at],
        R[index].masked_fill(~valid, 0.0).to(device),
        terminated.to(device),
        truncated.to(device),
        valid.to(device),
        steps[index].to(device),
        final_features,
    )


class OnlineStage:
    """Improves a policy and its value network on rolls of its own; see :meth:`update`.

    Parameters
    ----------
    net : nn.Module
        The policy; copied.
    value : nn.Module
        Maps features (n, width) to (1, n); copied. RL-100 starts from the offline V.
    process : Process
    action_shape, settings, seed
        As for the offline stage; of the settings ``online_epochs``, ``minibatch``, ``online_clip``, ``online_lr``,
        ``kl_target``, ``online_lr_bounds``, ``value_lr``, ``value_warmup``, ``lambda_``, ``gamma``, ``n_executed``,
        ``bootstrap_timeouts``, ``grad_norm``, ``lambda_cd``, ``student_ema``, ``distil_lr``.
    student : Consistency, optional
        Trained along on the teacher as it changes.

    Attributes
    ----------
    net, value : nn.Module
    rate : AdaptiveKL
    rounds : int
    """

    def __init__(
        self,
        net: nn.Module,
        value: nn.Module,
        process: Process,
        action_shape: tuple[int, ...],
        settings: Any,
        seed: int,
        student: Consistency | None = None,
    ) -> None:
        self.process, self.s, self.seed, self.action_shape = process, settings, seed, action_shape
        self.net = copy.deepcopy(net).requires_grad_(True)
        self.value = copy.deepcopy(value).requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=settings.online_lr, fused=True)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=settings.value_lr, fused=True)
        self.rate = AdaptiveKL(settings.online_lr, settings.kl_target, tuple(settings.online_lr_bounds))
        self.student = None if student is None else copy.deepcopy(student).requires_grad_(True)
        self.average = None if student is None else EMA(student, settings.student_ema)
        self.student_optimizer = (
            None
            if self.student is None
            else torch.optim.AdamW(self.student.parameters(), lr=settings.distil_lr, fused=True)
        )
        self.rounds = 0

    def advantages(self, roll: Roll) -> tuple[Tensor, Tensor]:
        """Return advantages and returns (T, E) of a roll's decisions.

        The discount per decision is ``gamma^K``; where a clock cut a chunk short after j steps, the value of what was
        seen then counts ``gamma^j``.
        """
        s = self.s
        with torch.no_grad():
            values = self.value(roll.features.flatten(0, 1))[0].reshape(roll.rewards.shape)
            final = self.value(roll.final_features.flatten(0, 1))[0].reshape(roll.rewards.shape)
        final = final * s.gamma ** (roll.steps - s.n_executed).to(final.dtype)
        values = values.masked_fill(~roll.valid, 0.0)
        nothing = torch.zeros(roll.rewards.shape[1], device=values.device)
        return gae(
            roll.rewards, values, roll.terminated, roll.truncated, nothing,
            gamma=s.gamma**s.n_executed, lambda_=s.lambda_, final_values=final,
            bootstrap_timeouts=s.bootstrap_timeouts,
        )  # fmt: skip

    def update(self, roll: Roll) -> dict[str, float]:
        """Improve on one roll: ``online_epochs`` passes of the clipped surrogate, the value loss, and the student's."""
        s, valid = self.s, roll.valid
        c, states, old = roll.features[valid], roll.states[:, valid], roll.log_prob[:, valid]
        generator = torch.Generator(c.device).manual_seed(derive(self.seed, "online", self.rounds))
        if self.rounds == 0:
            for _ in range(s.value_warmup):
                self._fit_value(c, self.advantages(roll)[1][valid], generator)
        A, returns = self.advantages(roll)
        A, returns = normalise(A[valid]), returns[valid]
        kl = torch.zeros(())
        for _ in range(s.online_epochs):
            kls = []
            for rows in minibatches(len(c), size=s.minibatch, generator=generator):
                log_prob = self.process.log_prob(self.net, states[:, rows], c[rows])
                surrogate = ppo_loss(log_prob, old[:, rows], A[rows], s.online_clip)
                self.optimizer.zero_grad(set_to_none=True)
                surrogate.loss.backward()
                nn.utils.clip_grad_norm_(self.net.parameters(), s.grad_norm)
                self.optimizer.step()
                kls.append(surrogate.approximate_kl)
                self._teach(states[0, rows], c[rows])
            kl = torch.stack(kls).mean()
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate.update(float(kl))
            self._fit_value(c, returns, generator)
        self.rounds += 1
        return {"kl": float(kl), "lr": self.rate.lr, "decisions": float(len(c))}

    def _fit_value(self, c: Tensor, returns: Tensor, generator: torch.Generator) -> None:
        for rows in minibatches(len(c), size=self.s.minibatch, generator=generator):
            loss = value_loss(self.value(c[rows])[0], returns[rows])
            self.value_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.value.parameters(), self.s.grad_norm)
            self.value_optimizer.step()

    def _teach(self, noise: Tensor, c: Tensor) -> None:
        if self.student is None or self.average is None or self.student_optimizer is None:
            return
        target = self.process.decide(self.net, c, self.action_shape, noise=noise)
        loss = self.s.lambda_cd * self.student.same_noise_loss(target, noise, c).mean()
        self.student_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.student_optimizer.step()
        self.average.update(self.student)

    def state_dict(self) -> dict[str, Any]:
        """Return all that moves."""
        parts: Mapping[str, Any] = {
            "net": self.net, "value": self.value, "optimizer": self.optimizer, "rate": self.rate,
            "value_optimizer": self.value_optimizer, "student": self.student, "average": self.average,
            "student_optimizer": self.student_optimizer,
        }  # fmt: skip
        return {k: v.state_dict() for k, v in parts.items() if v is not None} | {"rounds": self.rounds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        for name, value in state.items():
            if name != "rounds":
                getattr(self, name).load_state_dict(value)
        self.rounds = state["rounds"]
