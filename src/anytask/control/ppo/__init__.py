"""Proximal policy optimization on any Gymnasium environment, from one CartPole to thousands of batched worlds.

A stepper that answers one step late (``env.lag == 1``) is learned from exactly: what a call returns is credited to the
action of the call before; the value of the next observation in line stands for what a time limit cut off; and an action
that was on its way when its episode had already ended does not count. Each round then makes one step more than it
learns from.

In a process group of :mod:`torch.distributed` (for instance under ``torchrun``, backend gloo), every process steps its
own environments, and gradients, advantages' moments and observation statistics are averaged over all of them: the same
as one process with all environments.

Departures: advantages are normalized and gradients clipped, as in all released implementations; no adaptive KL penalty.
Actions are sampled by inversion from one random stream per environment.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import gymnasium
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from anytask.control.adapters import make
from anytask.control.parts.acting import Given, shapes_of
from anytask.control.parts.checkpoint import Checkpoint, training_of
from anytask.control.parts.counter_rng import CounterRandom
from anytask.control.parts.policy_gradient import kl_adaptive_lr, linear_decay, weak_signals
from anytask.control.ppo.network import ActorCritic, Memory, NetworkSettings, bounded, space_from_tree, space_to_tree
from anytask.control.ppo.rounds import ProcessGroup, Run, collect, joined, on_device, update
from anytask.core.checks import check_counts
from anytask.core.errors import check_flags, instance_of, shown
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive, isolated
from anytask.core.rollback import rollback
from anytask.core.settings import choice, flag, group, numbers, real, whole

__all__ = ["PPO"]


class PPO(Estimator):
    """Proximal policy optimization (Schulman et al., 2017): learns a policy by trying, and is that policy.

    Each round steps all parallel environments ``horizon`` times, computes generalized advantages, and makes ``epochs``
    passes of clipped policy-gradient steps over what was collected. Works on every environment that
    :func:`anytask.control.make` takes: continuous, discrete or mixed actions; vectors, images, or dicts of both.

    Pick it when trying is cheap (a simulator, best a batched one) and there are no demonstrations. For demonstrations
    see behavior cloning and RL-100; for rearrangement there is :class:`~anytask.control.galactic.Galactic`, which is
    this learner with the paper's network and settings.

    Parameters
    ----------
    num_envs : int, default 8
        Parallel environments made when :meth:`train` is given an id or a function.
    horizon, epochs, minibatches : int, default 256, 10, 32
        Steps per environment and round, passes over each round, and parts of each pass: of samples, or with a memory of
        whole sequences. The defaults' 2048 samples per round are the paper's for continuous control.
    lr, schedule : float > 0 and {"constant", "linear", "adaptive"}, default 3e-4 and "constant"
        Adam's learning rate (paper); ``"linear"`` goes to 0 over the training, ``"adaptive"`` keeps each round's KL
        divergence near ``target_kl`` within ``lr_bounds``.
    gamma, lambda_, clip, value_clip : float
        Discount 0.99, trace decay 0.95, clip range 0.2 of the probability ratio (paper) and of values (none).
    value_coefficient, entropy_coefficient : float, default 1.0, 0.0
        Weights of ``E (V - R)^2 / 2`` and of the entropy.
    max_grad_norm, normalize_advantages, bootstrap_timeouts, reward_scale, autocast
        See the table of settings.
    network : NetworkSettings or mapping
        Layers, memory, action heads and encoder of images.
    seed, device
        As in :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    network_ : anytask.control.ppo.network.ActorCritic
    history_ : list of dict
        One record per round: ``steps`` so far, ``episodes`` that ended with their mean ``return``, ``length`` and
        ``success`` (NaN where none ended), ``reward_min`` and ``reward_max``, ``advantage_std``, ``policy_loss``,
        ``value_loss``, ``entropy``, ``kl``, ``clip_fraction``, ``explained_variance`` and ``lr``; the losses are those
        of the last pass.
    steps_ : int
        Environment steps taken in training, all environments together.
    throughput_ : dict
        Environment steps per second of the last :meth:`train`: ``simulation`` (rollout collection), ``training``
        (everything). The first round is left out as warm-up where there are more.

    Examples
    --------
    A cart learns to balance its pole, for several times as many steps as at first.

    >>> learner = PPO(num_envs=64, horizon=20, epochs=4, minibatches=4, lr=3e-3, seed=0, device="cpu")
    >>> learner = learner.train("CartPole-v1", 20_000)
    >>> learner.history_[-1]["return"] > 3 * learner.history_[0]["return"]
    True

    References
    ----------
    Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, "Proximal Policy Optimization Algorithms", arXiv:1707.06347.
    """

    num_envs: int = whole(8, "parallel environments that are made for an id or a function")
    horizon: int = whole(256, "steps per environment and round")
    epochs: int = whole(10, "passes over each round")
    minibatches: int = whole(32, "parts of each pass: of samples, or with a memory of whole sequences")
    lr: float = real(3e-4, "Adam's learning rate", above=0)
    schedule: str = choice("constant", ("constant", "linear", "adaptive"), "of lr: falling to 0, or KL-adaptive")
    target_kl: float = real(0.01, "KL divergence per round that the adaptive schedule aims at", above=0)
    lr_bounds: Sequence[float] = numbers((1e-5, 1e-2), "of the adaptive schedule", above=0, length=2)
    gamma: float = real(0.99, "discount", at_least=0, at_most=1)
    lambda_: float = real(0.95, "trace decay of the advantages", at_least=0, at_most=1)
    clip: float = real(0.2, "how far the probability ratio may go", above=0)
    value_clip: float | None = real(None, "the same for values; None: no clipping", above=0, optional=True)
    value_coefficient: float = real(1.0, "weight of the value loss", at_least=0)
    entropy_coefficient: float = real(0.0, "weight of the entropy", at_least=0)
    max_grad_norm: float | None = real(0.5, "norm to which gradients are clipped; None: not", above=0, optional=True)
    normalize_advantages: str | None = choice(
        "minibatch", ("minibatch", "round"), "over each; None: not", optional=True
    )
    bootstrap_timeouts: bool = flag(True, "value what comes after a time limit; False takes it for an end of the task")
    reward_scale: float = real(1.0, "multiplies rewards for learning; reported returns are not scaled", above=0)
    autocast: bool = flag(False, "bfloat16 in the network's inner layers, on CUDA only")
    network: NetworkSettings = group(NetworkSettings, "layers, memory, action heads and encoder of images")

    history_: list[dict[str, float]]
    steps_: int
    throughput_: dict[str, float]
    network_: ActorCritic
    discrete_: Mapping[int, Sequence[float]] | None
    _weights: torch.nn.Parameter  # all of the network's, in one tensor
    _optimizer: torch.optim.Optimizer
    _order: torch.Generator
    _spaces: tuple[gymnasium.Space, gymnasium.Space]
    _acting: tuple[Memory, torch.Generator] | None = None

    def _check_settings(self) -> None:
        low, high = self.lr_bounds
        if self.schedule == "adaptive" and not low <= self.lr <= high:
            raise ValueError(f"lr must lie within its bounds lr_bounds={self.lr_bounds!r}, got {self.lr!r}")

    # -- training -------------------------------------------------------------------------------------------------

    def train(
        self,
        env: str | VectorEnv | gymnasium.Env | Callable[..., Any],
        total_steps: int,
        *,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        callback: Callable[[Self, dict[str, float]], Any] | None = None,
        env_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Learn for ``total_steps`` environment steps, all environments together; called again, learn on.

        Parameters
        ----------
        env : str, callable, gymnasium.vector.VectorEnv or gymnasium.Env
            As in :func:`anytask.control.make`; ids and functions give ``num_envs`` environments with ``env_options``.
        total_steps : int
            Rounded up to whole rounds.
        progress : callable, optional
            Told the finished share after every round.
        checkpoint : path, optional
            A folder in which the whole state of the training is kept. If it holds an unfinished training of this
            learner, that is continued: the same command after a crash loses only the round that was being collected.
            With the batched environments of this package the outcome is bit for bit that of an uninterrupted run; other
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
            If an observation, a reward or a loss is not finite.

        Notes
        -----
        After an error, or an interruption, the learner is what it was after the last round that was finished, or before
        the call. A warning tells when there was little to learn from: fewer than five rounds, no positive reward in a
        task that never succeeded, or advantages that were all the same.
        """
        check_counts(total_steps=total_steps)
        self._check_settings()
        progress = heard(progress)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a callable (learner, record), got {shown(callback)}")
        before, world = dict(vars(self)), self._made(env, env_options)
        try:
            self._settle(world)
            processes = ProcessGroup()
            run = self._begin(world, processes)
            spaces = [space_to_tree(space) for space in self._spaces]
            saved = Checkpoint(checkpoint, training_of(self, spaces=spaces), checkpoint_every, self._device)
            if saved.found is not None:
                self._load_state(saved.found["state"])
                run.take(saved.found["run"], world)
            learned = len(self.history_)
            for record in self._rounds(world, run, processes, total_steps):
                before = dict(vars(self))  # a round that is finished stays
                if processes.rank == 0 and saved.due(run.rounds, last=run.steps >= total_steps):
                    saved.save(state=self._state(), run=run.tree(world))
                progress(min(1.0, run.steps / total_steps))
                if callback is not None and callback(self, record) is False:
                    break
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        finally:
            if world is not env:
                world.close()
        for sentence in weak_signals(self.history_[learned:], len(self.history_)):
            warnings.warn(sentence, stacklevel=2)
        return self

    def _rounds(
        self, env: VectorEnv, run: Run, processes: ProcessGroup, total_steps: int
    ) -> Iterator[dict[str, float]]:
        """Collect a round, learn from it, and yield its record, until ``total_steps`` were made."""
        net, optimizer = self.network_, self._optimizer
        per_round = env.num_envs * (self.horizon + run.lag) * processes.size
        seconds: list[tuple[float, float]] = []  # of each round: collection, everything
        while run.steps < total_steps:
            start = time.perf_counter()
            batch, episodes = collect(net, env, run, self)
            collected = time.perf_counter() - start
            with rollback(self, skip=frozenset({*self._param_names(), "history_", "throughput_", "_spaces"})):
                now = optimizer.param_groups[0]
                if self.schedule != "adaptive":
                    now["lr"] = linear_decay(self.lr, run.steps / total_steps if self.schedule == "linear" else 0.0)
                record = update(net, self._weights, optimizer, batch, self, self._order, processes)
                if self.schedule == "adaptive":
                    now["lr"] = kl_adaptive_lr(now["lr"], record["kl"], self.target_kl, self.lr_bounds)
                if (stats := net.encoder.stats) is not None:
                    stats.merge(*processes.moments(net.encoder.vector(batch.obs).flatten(0, 1).double()))
            self._acting = None  # what was remembered is another policy's
            run.steps, run.rounds, self.steps_ = run.steps + per_round, run.rounds + 1, self.steps_ + per_round
            self.history_.append({"steps": self.steps_, **episodes, **record})
            seconds.append((collected, time.perf_counter() - start))
            rates = [per_round / statistics.mean(taken) for taken in zip(*(seconds[1:] or seconds), strict=True)]
            self.throughput_ = dict(zip(("simulation", "training"), rates, strict=True))
            yield self.history_[-1]

    def _made(self, env: Any, options: Mapping[str, Any] | None) -> VectorEnv:
        """Return the environment as one that speaks tensors; one that did comes back as it is."""
        instance_of("env_options", Mapping)(options)
        if not options and hasattr(env, "lag"):  # one that is late, or a wrapper around it
            return env
        to_make = isinstance(env, str) or (callable(env) and not isinstance(env, (VectorEnv, gymnasium.Env)))
        return make(env, self.num_envs if to_make else None, device=self._device, **(options or {}))

    def _settle(self, env: VectorEnv) -> None:
        """Build the network for an environment's spaces, or check that they are those it was built for."""
        found = (env.single_observation_space, env.single_action_space)
        if not hasattr(self, "network_"):
            given = self.network.discrete
            named = getattr(env.unwrapped, "discrete_actions", None) if given == "auto" else given
            self.discrete_ = named and {int(c): tuple(map(float, values)) for c, values in named.items()}
            self.history_, self.steps_, self.throughput_ = [], 0, {}
            self._spaces = found
            self._build()
        for kind, own, other in zip(("observations", "actions"), self._spaces, found, strict=True):
            if own != other:
                raise ValueError(f"this policy was trained with {kind} {own}, and the environment has {other}")

    def _build(self) -> None:
        settings = copy.deepcopy(self.network).set_params(discrete=self.discrete_)
        seed = derive(self.seed, "trunk") % 2**31
        with isolated(derive(self.seed, "network")):
            network = ActorCritic(*self._spaces, settings, autocast=self.autocast, seed=seed)
        self.network_ = network.to(self._device)
        self._join()
        self._order = torch.Generator().manual_seed(derive(self.seed, "order"))

    def _join(self) -> None:
        self._weights = joined(self.network_)
        fused = self._device.type in ("cpu", "cuda")
        self._optimizer = torch.optim.Adam([self._weights], lr=self.lr, eps=1e-5, fused=fused)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "network_" in state:  # in a copy or a pickle, the weights are apart from the tensor that is trained
            learned = self._optimizer.state_dict()
            self._join()
            self._optimizer.load_state_dict(learned)

    def _begin(self, env: VectorEnv, processes: ProcessGroup) -> Run:
        n = env.num_envs
        # The worlds and noise of several processes are numbered on from each other, as if they were one batch.
        obs, _ = env.reset(seed=derive(self.seed, "worlds", self.steps_) % 2**31 + processes.rank * n)
        streams = torch.arange(n) + processes.rank * n + derive(self.seed, "actions", self.steps_) % 2**40
        lag = int(getattr(env, "lag", 0))
        return Run(on_device(obs, self._device), self.network_.memory(n), CounterRandom(streams), lag)

    # -- acting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return actions for a batch of observations (tensors, or arrays), or one action for one observation.

        A policy with a memory keeps one per row; call :meth:`reset` where episodes start. With ``deterministic=False``
        actions are sampled from the policy's own generator. Continuous actions are clamped to the action space.
        """
        check_flags(deterministic=deterministic)
        self._check_fitted()
        net, (observation_space, action_space) = self.network_, self._spaces
        given = Given(obs, shapes_of(observation_space), self._device)
        if self._acting is None or len(self._acting[0].starts) != given.n:
            generator = torch.Generator(self._device).manual_seed(derive(self.seed, "act", given.n))
            self._acting = net.memory(given.n), generator
        net.eval()
        memory, generator = self._acting
        features, state = net.features(memory.with_previous(given.tensors), memory.state, memory.starts)
        distribution = net.head(features)
        actions = distribution.mode if deterministic else distribution.sample(generator)
        self._acting = Memory(state, net.previous_of(actions), torch.zeros_like(memory.starts)), generator
        return given.answer(bounded(actions, action_space))

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget what is remembered of the rows ``rows`` (m,), or of all."""
        if self._acting is not None:  # the generator goes on, so that sampled episodes differ
            self._acting[0].forget(rows)

    # -- state ----------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {
            "spaces": [space_to_tree(space) for space in self._spaces],
            "optimizer": self._optimizer.state_dict(),
            "order": self._order.get_state(),
            **super()._state(),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        self._spaces = tuple(space_from_tree(space) for space in state["spaces"])  # type: ignore[assignment]
        super()._load_state(state)
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"].cpu())
        self._acting = None
