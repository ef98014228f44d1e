"""Proximal policy optimisation on any Gymnasium environment, from one CartPole to thousands of batched worlds."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.actor_critic import ActorCritic, space_from_tree, space_to_tree
from anytask.control.adapters import make
from anytask.control.parts.action_heads import Distribution
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import (
    AdaptiveKL,
    Surrogate,
    linear_decay,
    minibatches,
    ppo_loss,
    value_loss,
    weighted_mean,
)
from anytask.control.ppo.acting import Given, Memory, bounded, shapes
from anytask.control.ppo.process_group import ProcessGroup, joined
from anytask.control.ppo.rounds import Batch, Clock, Run, on_device, play_round, valued
from anytask.control.ppo.state import alike, given_again, has_checkpoint, read_checkpoint, writable
from anytask.core.devices import resolve_device
from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback

__all__ = ["PPO"]

_log = logging.getLogger(__name__)


class PPO:
    """Proximal policy optimisation (Schulman et al., 2017): learns a policy by trying, and is that policy.

    Each round plays ``horizon`` steps in all copies of the environment, computes generalised advantages, and makes
    ``epochs`` passes of clipped policy-gradient steps over what was played. Works on every environment that
    :func:`anytask.control.make` takes: continuous, discrete or mixed actions; vectors, pictures, or dicts of both.

    Pick it when trying is cheap (a simulator, best a batched one) and there are no demonstrations. For demonstrations
    see behaviour cloning and RL-100; for rearrangement there is :class:`~anytask.control.galactic.Galactic`, which is
    this learner with the paper's network and settings.

    Parameters
    ----------
    n_envs : int, default 8
        Copies made when :meth:`train` is given an id or a function.
    horizon : int, default 256
        Steps per copy and round. The defaults' 2048 samples per round are the paper's for continuous control.
    epochs : int, default 10
        Passes over each round's samples (paper).
    minibatches : int, default 32
        Parts of each pass: of samples, or with a memory of whole sequences (then at most the number of copies).
    lr : float > 0, default 3e-4
        Adam's learning rate (paper).
    schedule : {"constant", "linear", "adaptive"}, default "constant"
        ``"linear"`` goes to 0 over the training; ``"adaptive"`` keeps each round's KL divergence near ``target_kl``
        within ``lr_bounds``.
    target_kl : float, default 0.01
    lr_bounds : (float, float), default (1e-5, 1e-2)
    gamma, lambda_ : float in [0, 1], default 0.99, 0.95
        Discount and trace decay (paper).
    clip : float, default 0.2
        How far the probability ratio may go (paper).
    value_clip : float or None, default None
        The same for values; none by default.
    value_coefficient, entropy_coefficient : float, default 1.0, 0.0
        Weights of ``E (V - R)^2 / 2`` and of the entropy.
    max_grad_norm : float or None, default 0.5
    normalise_advantages : {"minibatch", "round", None}, default "minibatch"
    bootstrap_timeouts : bool, default True
        Value what comes after a time limit; False takes a time-out for an end of the task.
    reward_scale : float, default 1.0
        Multiplies rewards for learning; reported returns are not scaled.
    normalise_observations : bool, default False
        By running mean and variance of all vectors seen up to the round before.
    hidden : sequence of int, default (64, 64)
        Layers between encoder and core.
    activation : {"tanh", "relu", "elu"}, default "tanh"
    core : {"none", "gru", "lstm"}, default "none"
        Memory, for worlds that are not seen in full.
    core_width : int, default 64
    share : bool or None, default None
        One network for actions and values; None shares it with a memory or pictures.
    discrete : mapping of int to sequence of float, optional
        Columns of continuous actions that are to take a few values only, such as ``{0: (-1.0, 1.0)}``.
    previous_action : bool, default False
        Feed the last action back.
    std, log_std
        Exploration of continuous actions: ``"free"`` or ``"state"``-dependent, starting at ``exp(log_std)``.
    trunk, trunk_width, embedding
        Encoder of pictures, its width, and linear embeddings of vectors, as in
        :class:`anytask.control.actor_critic.Encoder`.
    blind : sequence of int, default ()
        Columns of the joined vector observation that the policy does not get to see (to test what sensors are for).
    autocast : bool, default False
        bfloat16 in the network's inner layers, on CUDA only.
    seed : int, default 0
    device : str, default "auto"

    Attributes
    ----------
    network_ : anytask.control.actor_critic.ActorCritic
    history_ : list of dict
        One record per round: ``steps`` so far, ``episodes`` that ended with their mean ``return``, ``length`` and
        ``success`` (NaN where none ended), ``policy_loss``, ``value_loss``, ``entropy``, ``kl``, ``clip_fraction``,
        ``explained_variance`` and ``lr``; the losses are those of the last pass.
    steps_ : int
        Environment steps taken in training, all copies together.
    throughput_ : dict
        Environment steps per second of the last :meth:`train`: ``simulation`` (playing, the policy included),
        ``training`` (everything). The first round is left out as warm-up where there are more.

    Raises
    ------
    FloatingPointError
        From :meth:`train`, if a loss is not finite; the policy is then what it was before that round.

    Examples
    --------
    A cart learns to balance its pole, for several times as many steps as at first.

    >>> learner = PPO(n_envs=64, horizon=20, epochs=4, minibatches=4, lr=3e-3, seed=0, device="cpu")
    >>> learner = learner.train("CartPole-v1", 20_000)
    >>> learner.history_[-1]["return"] > 3 * learner.history_[0]["return"]
    True

    Notes
    -----
    A stepper that answers one step late (``env.lag == 1``) is learned from exactly: what a call returns is credited to
    the action of the call before; the value of the next observation in line stands for what a time limit cut off; and
    an action that was on its way when its episode had already ended does not count. Each round then plays one step
    more than it learns from.

    In a process group of :mod:`torch.distributed` (for instance under ``torchrun``, backend gloo), every process plays
    its own copies, and gradients, advantages' moments and observation statistics are averaged over all of them: the
    same as one process with all copies.

    Departures from the paper
    -------------------------
    Advantages are normalised and gradients clipped, as in all released implementations; no adaptive KL penalty. Actions
    are sampled by inversion from one random stream per copy.

    References
    ----------
    Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
    """

    #: Constructor arguments that cannot be written to a file unless they are plain values.
    _OBJECTS: ClassVar[tuple[str, ...]] = ("trunk",)

    def __init__(
        self,
        *,
        n_envs: int = 8,
        horizon: int = 256,
        epochs: int = 10,
        minibatches: int = 32,
        lr: float = 3e-4,
        schedule: str = "constant",
        target_kl: float = 0.01,
        lr_bounds: tuple[float, float] = (1e-5, 1e-2),
        gamma: float = 0.99,
        lambda_: float = 0.95,
        clip: float = 0.2,
        value_clip: float | None = None,
        value_coefficient: float = 1.0,
        entropy_coefficient: float = 0.0,
        max_grad_norm: float | None = 0.5,
        normalise_advantages: str | None = "minibatch",
        bootstrap_timeouts: bool = True,
        reward_scale: float = 1.0,
        normalise_observations: bool = False,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        core: str = "none",
        core_width: int = 64,
        share: bool | None = None,
        discrete: Mapping[int, Sequence[float]] | None = None,
        previous_action: bool = False,
        std: str = "free",
        log_std: float = 0.0,
        trunk: Any = None,
        trunk_width: int | None = None,
        embedding: int = 0,
        blind: Sequence[int] = (),
        autocast: bool = False,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        _check(given)
        self.params: dict[str, Any] = given
        for name, value in given.items():
            setattr(self, name, value)
        self.history_: list[dict[str, float]] = []
        self.steps_ = 0
        self.throughput_: dict[str, float] = {}
        self._acting: Memory | None = None

    # What __init__ sets by name, for readers and type checkers.
    n_envs: int
    horizon: int
    epochs: int
    minibatches: int
    lr: float
    schedule: str
    target_kl: float
    lr_bounds: tuple[float, float]
    gamma: float
    lambda_: float
    clip: float
    value_clip: float | None
    value_coefficient: float
    entropy_coefficient: float
    max_grad_norm: float | None
    normalise_advantages: str | None
    bootstrap_timeouts: bool
    reward_scale: float
    normalise_observations: bool
    seed: int
    device: str
    autocast: bool
    network_: ActorCritic
    device_: torch.device
    _weights: torch.nn.Parameter  # all of the network's, in one tensor
    _optimizer: torch.optim.Optimizer
    _rate: AdaptiveKL
    _order: torch.Generator
    _spaces: tuple[gymnasium.Space, gymnasium.Space]

    # -- training -------------------------------------------------------------------------------------------------

    def train(
        self,
        env: str | VectorEnv | gymnasium.Env | Callable[..., Any],
        total_steps: int,
        *,
        progress: Callable[[float], None] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[Self, dict[str, float]], Any] | None = None,
        env_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Learn for ``total_steps`` environment steps, all copies together; called again, learn on.

        Parameters
        ----------
        env : str, callable, gymnasium.vector.VectorEnv or gymnasium.Env
            As in :func:`anytask.control.make`; ids and functions give ``n_envs`` copies with ``env_options``.
        total_steps : int
            Rounded up to whole rounds.
        progress : callable, optional
            Called with the finished share in [0, 1] after every round.
        checkpoint : path, optional
            A folder in which the whole state of the training is kept. If it holds an unfinished training of this
            learner, that is continued: the same command after a crash loses only the round that was being played. With
            the batched environments of this package the outcome is bit for bit that of an uninterrupted run; other
            environments cannot be put back into their state, and start new episodes.
        checkpoint_every : int, default 1
            Rounds between writes.
        callback : callable, optional
            Called as ``callback(learner, record)`` after every round; returning False ends the training.

        Raises
        ------
        ValueError
            For spaces other than those learned so far, or a checkpoint of another learner.
        FloatingPointError
            If a loss is not finite.
        """
        for name, value in (("total_steps", total_steps), ("checkpoint_every", checkpoint_every)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        group = ProcessGroup()
        world = self._made(env, env_options)
        try:
            self._settle(world)
            run = self._begin(world, group)
            if checkpoint is not None and has_checkpoint(checkpoint):
                self._resume(checkpoint, run, world)
            self._rounds(world, run, group, total_steps, progress, checkpoint, checkpoint_every, callback)
        finally:
            self._acting = None
            if world is not env:
                world.close()
        return self

    def _made(self, env: Any, options: Mapping[str, Any] | None) -> VectorEnv:
        """Return the environment as one that speaks tensors; one that did comes back as it is."""
        if isinstance(env, VectorEnv) and not options:
            # Wrappers around one that speaks tensors do so too.
            return env if getattr(env, "lag", None) is not None else make(env)
        return make(env, self.n_envs if _makes(env) else None, device=resolve_device(self.device), **(options or {}))

    def _rounds(
        self,
        env: VectorEnv,
        run: Run,
        group: ProcessGroup,
        total_steps: int,
        progress: Callable[[float], None] | None,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int,
        callback: Callable[[Self, dict[str, float]], Any] | None,
    ) -> None:
        per_round = env.num_envs * (self.horizon + run.lag) * group.size
        clock = Clock()
        while run.steps < total_steps:
            done = run.steps / total_steps
            clock.start()
            batch, record = self._play(env, run)
            clock.played()
            lr = linear_decay(self.lr, done) if self.schedule == "linear" else self._rate.lr
            with rollback(self, skip=frozenset({"params", "history_", "throughput_", "_spaces"})):
                record |= self._improve(batch, lr, group)
                if self.schedule == "adaptive":
                    self._rate.update(record["kl"])
                if self.network_.encoder.stats is not None:
                    self._see(batch, group)
            run.steps += per_round
            run.rounds += 1
            self.steps_ += per_round
            self.history_.append({"steps": self.steps_, **record})
            clock.learned(per_round)
            self.throughput_ = clock.rates()
            last = run.steps >= total_steps
            if checkpoint is not None and group.rank == 0 and (last or run.rounds % checkpoint_every == 0):
                save_tree(checkpoint, {**self._tree(), "run": run.tree(env)})
            if progress is not None:
                progress(min(1.0, run.steps / total_steps))
            if callback is not None and callback(self, self.history_[-1]) is False:
                break

    def _settle(self, env: VectorEnv) -> None:
        """Build the network for an environment's spaces, or check that they are those it was built for."""
        found = (env.single_observation_space, env.single_action_space)
        if not hasattr(self, "network_"):
            self._build(*found)
        for kind, own, other in zip(("observations", "actions"), self._spaces, found, strict=True):
            if not alike(own, other):
                raise ValueError(f"this policy was trained with {kind} {own}, and the environment has {other}")

    def _build(self, observation_space: gymnasium.Space, action_space: gymnasium.Space) -> None:
        p = self.params
        pictures = _has_pictures(observation_space)
        share = p["share"] if p["share"] is not None else (p["core"] != "none" or pictures)
        names = ("hidden", "activation", "core", "core_width", "discrete", "previous_action", "std", "log_std", "blind")
        with isolated(derive(self.seed, "network")):
            network = ActorCritic(
                observation_space,
                action_space,
                share=share,
                trunk=copy.deepcopy(p["trunk"]),
                trunk_width=p["trunk_width"],
                embedding=p["embedding"],
                normalise=self.normalise_observations,
                seed=derive(self.seed, "trunk") % 2**31,
                **{name: p[name] for name in names},
            )
        self.device_ = resolve_device(self.device)
        self.network_ = network.to(self.device_)
        self._spaces = (observation_space, action_space)
        self._weights = joined(self.network_)
        fused = self.device_.type in ("cpu", "cuda")
        self._optimizer = torch.optim.Adam([self._weights], lr=self.lr, eps=1e-5, fused=fused)
        bounds = self.lr_bounds if self.schedule == "adaptive" else (self.lr, self.lr)
        self._rate = AdaptiveKL(self.lr, self.target_kl, bounds)
        self._order = torch.Generator().manual_seed(derive(self.seed, "order"))

    def _begin(self, env: VectorEnv, group: ProcessGroup) -> Run:
        n = env.num_envs
        # The worlds and noise of several processes are numbered on from each other, as if they were one batch.
        obs, _ = env.reset(seed=derive(self.seed, "worlds", self.steps_) % 2**31 + group.rank * n)
        streams = torch.arange(n) + group.rank * n + derive(self.seed, "actions", self.steps_) % 2**40
        device = self.device_
        previous = torch.zeros(n, self.network_.n_previous, device=device) if self.network_.n_previous else None
        return Run(
            obs=on_device(obs, device),
            previous=previous,
            state=torch.zeros(n, self.network_.state_dim, device=device),
            starts=torch.ones(n, dtype=torch.bool, device=device),
            noise=CounterRandom(streams),
            lag=int(getattr(env, "lag", 0)),
        )

    def _play(self, env: VectorEnv, run: Run) -> tuple[Batch, dict[str, float]]:
        """Play one round; return what is learned from it, and how the episodes that ended in it went."""
        net, cut = self.network_, self.bootstrap_timeouts
        played = play_round(net, env, run, self.horizon, precision=self._precision, bootstrap_timeouts=cut)
        batch = valued(
            net, played, run,
            precision=self._precision, gamma=self.gamma, lambda_=self.lambda_, reward_scale=self.reward_scale,
            bootstrap_timeouts=cut,
        )  # fmt: skip
        return batch, played.episodes

    def _improve(self, batch: Batch, lr: float, group: ProcessGroup) -> dict[str, float]:
        """Make ``epochs`` passes of gradient steps over one round; return the means of what they measured."""
        self.network_.train()
        for settings in self._optimizer.param_groups:
            settings["lr"] = lr
        if self.normalise_advantages == "round":
            batch.advantages = group.normalise(batch.advantages, batch.counted)
        sequences = self.network_.core is not None
        whole = batch if sequences else batch.flattened()
        measured = []
        for epoch in range(self.epochs):
            for part in self._parts(whole, sequences):
                loss, terms = self._loss(part, group)
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the loss became {value} in round {len(self.history_)}: lower lr (now {lr:g}) or reward_scale,"
                        " or look for extreme observations; the policy is as it was before this round"
                    )
                self._optimizer.zero_grad(set_to_none=False)  # the network's gradients are views of one tensor
                loss.backward()
                group.average(self._weights)
                if self.max_grad_norm is not None:
                    torch.nn.utils.clip_grad_norm_(self._weights, self.max_grad_norm)
                self._optimizer.step()
                if epoch == self.epochs - 1:
                    measured.append(terms.measured())
        means = group.mean(torch.stack(measured).mean(0)).tolist()
        spread = batch.returns.var()
        explained = 1 - (batch.returns - batch.values).var() / spread if spread > 0 else torch.tensor(math.nan)
        names = ("policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
        return {**dict(zip(names, means, strict=True)), "explained_variance": explained.item(), "lr": lr}

    def _parts(self, whole: Batch, sequences: bool) -> Iterator[Batch]:
        """Cut a round into minibatches: of whole sequences if there is a memory, else of samples."""
        n = whole.actions.shape[1] if sequences else len(whole.actions)
        pieces = minibatches(n, count=min(self.minibatches, n), generator=self._order)
        if sequences or self.network_.encoder.groups:
            for rows in pieces:
                yield whole.take(rows.to(self.device_), sequences)
            return
        # Vectors are small: shuffled once, they need no gathering per minibatch.
        order = list(pieces)
        shuffled = whole.take(torch.cat(order).to(self.device_), sequences)
        begin = 0
        for piece in order:
            yield shuffled.between(begin, begin + len(piece))
            begin += len(piece)

    def _loss(self, part: Batch, group: ProcessGroup) -> tuple[Tensor, _Terms]:
        net = self.network_
        with self._precision():
            if net.core is None:
                features, _ = net.step(part.obs, part.previous, part.state, part.starts)
            else:
                features, _ = net.features(part.obs, part.previous, part.state, part.starts)
            values = net.value(features, part.obs, part.previous)
        distribution = net.distribution(features)
        A = part.advantages
        if self.normalise_advantages == "minibatch":
            A = group.normalise(A, part.counted)
        surrogate = ppo_loss(distribution.log_prob(part.actions), part.log_prob, A, self.clip, weights=part.counted)
        fit = value_loss(values, part.returns, old_values=part.values, clip=self.value_clip, weights=part.counted)
        loss = surrogate.loss + self.value_coefficient * fit
        if self.entropy_coefficient:
            loss = loss - self.entropy_coefficient * weighted_mean(distribution.entropy(), part.counted)
        return loss, _Terms(surrogate, fit, distribution, part.counted)

    def _see(self, batch: Batch, group: ProcessGroup) -> None:
        """Take a round's observations into the running statistics."""
        stats = self.network_.encoder.stats
        assert stats is not None
        x = self.network_.encoder.vector(batch.obs).flatten(0, 1).double()
        total, mean, m2 = group.moments(x)
        stats.merge(total, mean, m2)

    # -- acting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions for a batch of observations (tensors, or arrays), or one action for one observation.

        A policy with a memory keeps one per row; call :meth:`reset` where episodes start. With ``deterministic=False``
        actions are sampled from the policy's own generator. Continuous actions are clamped to the action space.
        """
        self._check_trained()
        net, (observation_space, action_space) = self.network_, self._spaces
        given = Given(obs, observation_space, self.device_)
        if self._acting is None or len(self._acting.starts) != given.n:
            generator = torch.Generator(self.device_).manual_seed(derive(self.seed, "act", given.n))
            self._acting = Memory.fresh(net, given.n, generator)
        net.eval()
        with self._precision():
            actions = self._acting.act(net, given.tensors, deterministic)
        return given.answer(bounded(actions, action_space))

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget what is remembered of the copies ``rows`` (m,), or of all."""
        if self._acting is None:
            return
        if rows is None:
            # The generator goes on, so that sampled episodes differ.
            self._acting = Memory.fresh(self.network_, len(self._acting.starts), self._acting.generator)
        else:
            self._acting.forget(rows)

    def _precision(self) -> Any:
        on = self.autocast and self.device_.type == "cuda"
        return torch.autocast(self.device_.type, dtype=torch.bfloat16, enabled=on)

    def _check_trained(self) -> None:
        if not hasattr(self, "network_"):
            raise RuntimeError(f"this {type(self).__name__} has not been trained yet: call train(env, total_steps)")

    # -- state ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write policy and learner to ``folder`` as safetensors + JSON."""
        self._check_trained()
        save_tree(folder, self._tree())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "auto", **params: Any) -> Self:
        """Read what :meth:`save` or a checkpoint wrote; it acts the same, and trains on.

        Constructor arguments that cannot be saved (a ``trunk`` given as a module) have to be passed again.
        """
        tree = load_tree(folder)
        if tree.get("class") != cls.__name__:
            raise ValueError(f"{folder} holds a {tree.get('class')}, not a {cls.__name__}")
        learner = cls(**{**given_again(tree["params"], params), "device": device})
        learner._build(*(space_from_tree(space) for space in tree["spaces"]))
        learner._take(tree)
        return learner

    def _tree(self) -> dict[str, Any]:
        return {
            "class": type(self).__name__,
            "params": writable(self.params, self._OBJECTS),
            "spaces": [space_to_tree(space) for space in self._spaces],
            "network": self.network_.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rate": self._rate.state_dict(),
            "order": self._order.get_state(),
            "history": self.history_,
            "steps": self.steps_,
        }

    def _take(self, tree: dict[str, Any]) -> None:
        self.network_.load_state_dict(tree["network"])
        self._optimizer.load_state_dict(tree["optimizer"])
        self._rate.load_state_dict(tree["rate"])
        self._order.set_state(tree["order"].cpu())
        self.history_, self.steps_ = tree["history"], tree["steps"]
        self._acting = None

    def _resume(self, folder: str | os.PathLike[str], run: Run, env: VectorEnv) -> None:
        tree = read_checkpoint(folder, self._tree())
        self._take(tree)
        run.take(tree["run"], env, self.device_)
        _log.info("continuing the training in %s at %d steps", folder, run.steps)

    def cost(self) -> dict[str, int]:
        """Return the number of trainable and of stored parameters."""
        self._check_trained()
        n = sum(p.numel() for p in self.network_.parameters())
        return {"trainable_parameters": n, "stored_parameters": n}


@dataclass
class _Terms:
    """What one minibatch's loss was made of."""

    surrogate: Surrogate
    fit: Tensor
    distribution: Distribution
    counted: Tensor | None

    @torch.no_grad()
    def measured(self) -> Tensor:
        """Policy loss, value loss, entropy, KL divergence and clipped share, (5,)."""
        s, entropy = self.surrogate, weighted_mean(self.distribution.entropy(), self.counted)
        return torch.stack([s.loss.detach(), self.fit.detach(), entropy, s.approximate_kl, s.clip_fraction])


def _check(p: Mapping[str, Any]) -> None:
    for name in ("n_envs", "horizon", "epochs", "minibatches", "core_width"):
        if isinstance(p[name], bool) or not isinstance(p[name], (int, np.integer)) or p[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {p[name]!r}")
    for name in ("lr", "clip", "target_kl", "reward_scale"):
        if not p[name] > 0:
            raise ValueError(f"{name} must be above 0, got {p[name]!r}")
    for name in ("value_clip", "max_grad_norm"):
        if p[name] is not None and not p[name] > 0:
            raise ValueError(f"{name} must be above 0 or None, got {p[name]!r}")
    for name in ("value_coefficient", "entropy_coefficient"):
        if not p[name] >= 0:
            raise ValueError(f"{name} must be at least 0, got {p[name]!r}")
    for name in ("gamma", "lambda_"):
        if not 0 <= p[name] <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {p[name]!r}")
    choices = {
        "schedule": ("constant", "linear", "adaptive"),
        "normalise_advantages": ("minibatch", "round", None),
        "core": ("none", "gru", "lstm"),
        "std": ("free", "state"),
    }
    for name, allowed in choices.items():
        if p[name] not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {p[name]!r}")
    if isinstance(p["seed"], bool) or not isinstance(p["seed"], (int, np.integer)) or p["seed"] < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {p['seed']!r}")


def _makes(env: Any) -> bool:
    """Whether an environment is still to be made, in as many copies as wanted."""
    return isinstance(env, str) or (callable(env) and not isinstance(env, (VectorEnv, gymnasium.Env)))


def _has_pictures(space: gymnasium.Space) -> bool:
    from anytask.control.parts.observation_encoders import is_image

    return any(is_image(shape) for shape in shapes(space).values())
