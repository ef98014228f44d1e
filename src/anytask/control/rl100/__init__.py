"""RL-100: a diffusion policy from demonstrations, improved by offline, then by short online reinforcement learning."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.rl100.data import Decisions
from anytask.control.rl100.diffusion import Consistency
from anytask.control.rl100.imitation import ImitationStage
from anytask.control.rl100.offline import OfflineStage, World
from anytask.control.rl100.online import Decided, OnlineStage, Played, play
from anytask.control.rl100.policy import DiffusionPolicy, on_device
from anytask.control.rl100.settings import PRESETS, at_least, check
from anytask.control.rl100.stages import StageRecord, kept
from anytask.control.rl100.student import StudentStage
from anytask.core.devices import resolve_device
from anytask.core.rng import derive
from anytask.core.rollback import rollback
from anytask.datasets.episodes import Episodes

__all__ = ["RL100"]

Progress = Callable[[float], None]


class Stage(NamedTuple):
    """Where :meth:`RL100.improve` is: the stage just finished, and the episodes played for it so far."""

    name: str
    episodes: int


class RL100(DiffusionPolicy):
    """RL-100 (Lei et al., 2025).

    Takes a handful of demonstrations and a sparse success reward to a policy that nearly always succeeds, in three
    stages: imitation by a diffusion policy, policy optimisation on recorded data behind an evaluation gate, and a short
    phase of playing. A last step distils the many network calls per action into one. Each stage starts from the one
    before, and each can be left out.

    Pick it when demonstrations exist but are not good enough by themselves (too slow, too noisy, too few), when playing
    costs money, and when a control loop wants actions fast. What it sees (states, pictures, point clouds, several at
    once) is a matter of the encoder alone.

    1. :meth:`fit`: ``L_IL = E ||eps - eps_theta(sqrt(alpha_bar) a + sqrt(1 - alpha_bar) eps, tau, c)||^2`` on features
       ``c = phi(o)`` of a window of observations, with the encoder's regularisers. The encoder is frozen afterwards.
    2. :meth:`improve_offline`: critics Q, V by implicit Q-learning and an ensemble of dynamics, all on features. Then,
       step after step: draw denoising chains from the policy OLD, judge their last states by ``A = min Q - V``
       (normalised), and improve the candidate on the clipped surrogate, one optimiser step per denoising step, which is
       a Gaussian policy of its own. Every ``gate_every`` steps the candidate's value in the learned world is compared
       with the best one so far; only if it is better does OLD become the candidate. OLD is delivered.
    3. :meth:`improve_online`: whole episodes are played with their chains on record; advantages by GAE, the same
       surrogate over all denoising steps, a value network that starts from V, a learning rate led by the KL divergence.
    4. :meth:`distil`: a one-step student learns the teacher's action from the same noise (or by consistency along the
       teacher's path). If it exists before the online stage, it is trained along.

    Parameters
    ----------
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None. "paper": the released configuration for point clouds. "small": a few hundred
        short episodes with a few numbers as observations.
    encoder : None, str, module, callable or mapping of key to these, default None
        Trunks as in :func:`anytask.control.parts.observation_encoders.build_trunk`; by the shape of the observations.
    encoder_width, bottleneck : int, optional
        As in :class:`~anytask.control.parts.observation_encoders.ObservationEncoder`.
    reconstruct : bool, default False
        Regularise the encoder by reconstruction of what it sees.
    beta_reconstruction, beta_kl : float, defaults 1 and 1e-3
        Weights of the encoder's regularisers; the second is the paper's.
    horizon, n_obs, n_executed : int
        Actions per chunk, observations per window, and actions carried out per chunk. A chunk starts at the window's
        oldest step, so ``horizon >= n_obs - 1 + n_executed``. Paper: 5, 2, 4. Single actions: 1, 1, 1.
    process : {"ddim", "flow"}, default "ddim"
        Noise prediction, or flow matching with a stochastic sampler.
    n_train, n_steps : int
        Training steps of the schedule, and denoising steps per action. Paper: 100, 10.
    eta : float, default 1.0
        Noise in stochastic chains.
    sigma_min, sigma_max : float
        Bounds on a denoising step's standard deviation. Paper: 0.0067, none or 0.8.
    clip : bool, default True
        Clip predicted clean actions to [-1, 1] within the chain.
    action_share : float in (0, 1]
        The data's extreme actions lie at this share of [-1, 1]. Clipped entries have no gradient, so "small" leaves
        room; the paper uses the whole interval.
    denoiser : callable, optional
        ``denoiser(action_shape, width)`` makes the network; by default a
        :class:`~anytask.control.rl100.diffusion.DenoisingMLP` with ``hidden`` layers.
    hidden : sequence of int
    lr, batch_size, imitation_epochs, ema_decay
        Imitation, AdamW. Paper: 1.4e-4, 256, 3000.
    critic_hidden, critic_lr, critic_epochs, critic_batch, gamma, omega, target_rate
        Implicit Q-learning. Paper: two layers of 512, 1.4e-4, 400, 256, 0.99, 0.7, 0.005.
    reward_scale : float, default 1.0
        Rewards are multiplied by it, offline and online.
    bootstrap_timeouts : bool
        Value what comes after a time limit, offline and online, as in the paper. False suits tasks whose limit is a
        part of them and is observed: running out of time is then a failure.
    dynamics_hidden, dynamics_members, dynamics_elites, dynamics_steps
        The ensemble. Paper: 7 members, 5 elites.
    offline_steps, offline_lr, offline_clip, offline_batch : int, float, float, int
        Rate and clip range fall linearly to 0. Paper: 8000, 1e-5, 0.25, 512.
    gate : bool, default True
        Without the gate every check passes (an ablation).
    gate_every, gate_states, gate_margin, rollout_length
        Every so many steps, so many roll-outs of the learned world are compared, each this many decisions long. Paper:
        50, one batch, 0.05, 20.
    shuffle_advantages : bool, default False
        Shuffle A over the batch (an ablation that must hurt).
    online_batch : int
        Decisions per roll, whole episodes played out. Paper: 2048.
    online_epochs, minibatch, online_clip, online_lr, online_lr_bounds, kl_target, value_lr, lambda_, value_warmup
        Online stage. Paper: 10, 128, 0.2, 3e-6, (5e-7, 1e-5), 0.02, 3e-4, 0.95, 0. ``value_warmup`` are passes of the
        value network over the first roll before the policy moves.
    grad_norm : float, default 0.5
    distil_steps, distil_lr, student_ema, lambda_cd
        The student; ``lambda_cd`` weighs its loss when it is trained along.
    student_form : {"same-noise", "lcm"}, default "same-noise"
    use : {"teacher", "student"}, default "teacher"
        Who acts. Can be changed at any time.
    best_of : int, default 1
        Draw this many candidates and act by the one with the highest Q.
    stages : sequence of str, default ("imitation", "offline", "online", "student")
        What :meth:`improve` runs.
    seed : int, default 0
    device : str, default "auto"

    Attributes
    ----------
    encoder_ : ObservationEncoder
    net_ : nn.Module
        The policy's denoiser.
    world_ : World or None
        Critics ``iql`` and ``dynamics`` after the offline stage.
    value_ : nn.Module or None
        Value network after the online stage.
    student_ : Consistency or None
    gate_log_ : list of GateCheck
        Every comparison of the last offline stage.
    online_log_ : list of dict
        KL divergence, learning rate, decisions, episodes and success of each online round.

    Raises
    ------
    ValueError
        For settings out of range, data that do not fit the policy, and a checkpoint of other data.

    Examples
    --------
    Demonstrations at mixed speed often run out of time; the offline stage learns from the rewards which ones were fast.

    >>> from anytask.control import demonstrations, evaluate
    >>> demos = demonstrations("anytask/Reach-v0", 40, speed=(0.25, 1.0), noise=0.3)
    >>> policy = RL100(preset="small", imitation_epochs=30, critic_epochs=5, dynamics_steps=50, offline_steps=20)
    >>> _ = policy.fit(demos).improve_offline(demos)
    >>> len(policy.gate_log_), policy.act(torch.zeros(3, 3)).shape
    (2, torch.Size([3, 2]))

    Notes
    -----
    With ``checkpoint=folder`` each stage saves itself there; call the same methods again after a crash and finished
    stages are read back, the interrupted one goes on bit for bit as if nothing had happened (its last
    ``checkpoint_every`` steps, or the running roll, are lost).

    The gate is as good as the critics are: where they are wrong it accepts what fails. Look at the success of what is
    delivered, not at the gate.

    Departures from the paper
    -------------------------
    No entropy bonus: the noise of a denoising step is fixed by the schedule, so that the bonus has no gradient. The
    encoder stays frozen in the online stage too, since recorded chains and the student depend on its features. The
    default denoiser is a perceptron; a one-dimensional U-Net or transformer goes in by ``denoiser``. Clean actions are
    clipped, the predicted noise is kept as it was.

    References
    ----------
    Lei et al., 2025, "RL-100: Performant Robotic Manipulation with Real-World Reinforcement Learning",
    arXiv:2510.14830.
    """

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def __init__(
        self,
        *,
        preset: Literal["paper", "small"] = "paper",
        encoder: Any = None,
        encoder_width: int | None = None,
        bottleneck: int | None = None,
        reconstruct: bool = False,
        beta_reconstruction: float = 1.0,
        beta_kl: float = 1e-3,
        horizon: int | None = None,
        n_obs: int | None = None,
        n_executed: int | None = None,
        process: Literal["ddim", "flow"] = "ddim",
        n_train: int | None = None,
        n_steps: int | None = None,
        eta: float = 1.0,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        clip: bool = True,
        action_share: float | None = None,
        denoiser: Callable[[tuple[int, ...], int], nn.Module] | None = None,
        hidden: Sequence[int] | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        imitation_epochs: int | None = None,
        ema_decay: float | None = None,
        critic_hidden: Sequence[int] | None = None,
        critic_lr: float | None = None,
        critic_epochs: int | None = None,
        critic_batch: int | None = None,
        gamma: float | None = None,
        omega: float | None = None,
        target_rate: float | None = None,
        reward_scale: float = 1.0,
        bootstrap_timeouts: bool | None = None,
        dynamics_hidden: Sequence[int] | None = None,
        dynamics_members: int = 7,
        dynamics_elites: int = 5,
        dynamics_steps: int | None = None,
        offline_steps: int | None = None,
        offline_lr: float | None = None,
        offline_clip: float | None = None,
        offline_batch: int | None = None,
        gate: bool = True,
        gate_every: int | None = None,
        gate_states: int | None = None,
        gate_margin: float | None = None,
        rollout_length: int | None = None,
        shuffle_advantages: bool = False,
        online_batch: int | None = None,
        online_epochs: int | None = None,
        minibatch: int | None = None,
        online_clip: float | None = None,
        online_lr: float | None = None,
        online_lr_bounds: tuple[float, float] | None = None,
        kl_target: float | None = None,
        value_lr: float | None = None,
        lambda_: float = 0.95,
        value_warmup: int | None = None,
        grad_norm: float = 0.5,
        distil_steps: int | None = None,
        distil_lr: float | None = None,
        student_ema: float | None = None,
        student_form: Literal["same-noise", "lcm"] = "same-noise",
        lambda_cd: float = 1.0,
        use: Literal["teacher", "student"] = "teacher",
        best_of: int = 1,
        stages: Sequence[str] = ("imitation", "offline", "online", "student"),
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        given = {k: v for k, v in locals().items() if k != "self"}
        if preset not in self.PRESETS:
            raise ValueError(f"preset must be one of {sorted(self.PRESETS)}, got {preset!r}")
        self.params = given
        filled = {k: self.PRESETS[preset].get(k) if v is None else v for k, v in given.items()}
        self.settings = SimpleNamespace(**filled)
        check(self.settings)
        self.use = use
        self.device_ = resolve_device(device)
        self._forget()

    # -- stage 1: imitation ---------------------------------------------------------------------------------------

    def fit(
        self,
        episodes: Episodes,
        *,
        scale: Episodes | None = None,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> Self:
        """Learn encoder and policy from demonstrations, from scratch.

        Parameters
        ----------
        episodes : Episodes
        scale : Episodes, optional
            The data whose ranges scale vectors and actions; by default ``episodes``. When episodes of a policy join the
            demonstrations, give these, so that its largest actions do not widen the range round after round.
        progress : callable, optional
            Called with the finished share in [0, 1].
        checkpoint : path, optional
            Folder to save to and to go on from; see the notes of the class.
        checkpoint_every : int, default 1000
            Optimiser steps between two saves.
        """
        with rollback(self):
            number = self._stage
            self._forget()
            self._stage = number
            return self._imitate(episodes, scale or episodes, progress, checkpoint, checkpoint_every)

    def _imitate(
        self, episodes: Episodes, scale: Episodes, progress: Progress | None, checkpoint: Any, every: int
    ) -> Self:
        s = self.settings
        if episodes.actions.dtype.kind != "f":
            raise ValueError(f"RL-100 needs continuous actions, got {episodes.actions.dtype}")
        self._build({key: episodes.shape_of(key) for key in episodes.keys}, episodes.action_dim)
        self._set_ranges(scale)
        record = self._record("imitation", episodes.fingerprint, checkpoint, every)
        if record.finished is not None:
            return self._restore(record.finished)
        stage = ImitationStage(
            self.encoder_, self.net_, self.process, self._decisions(episodes), s, self._stage, self.device_
        )
        stage.steps = self._resumed(record, stage.moving)
        while stage.steps < stage.total:
            stage.step()
            self._tick(record, stage.steps, stage.total, stage.moving, progress)
        self.encoder_, self.net_ = stage.learned
        return self._finish(record)

    # -- stage 2: offline -----------------------------------------------------------------------------------------

    def improve_offline(
        self,
        episodes: Episodes,
        *,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 100,
    ) -> Self:
        """Fit critics and dynamics to recorded episodes and improve the policy behind the gate; the encoder is frozen.

        Parameters
        ----------
        episodes : Episodes
            With rewards: demonstrations, roll-outs of the policy, failures included.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; policy steps between two saves.
        """
        self._check_fitted()
        self._check_data(episodes)
        with rollback(self):
            return self._improve_offline(episodes, progress, checkpoint, checkpoint_every)

    def _improve_offline(self, episodes: Episodes, progress: Progress | None, checkpoint: Any, every: int) -> Self:
        s = self.settings
        record = self._record("offline", episodes.fingerprint, checkpoint, every)
        if record.finished is not None:
            return self._restore(record.finished)
        data = self._decisions(episodes).transitions(self._encode, s.gamma, s.reward_scale, s.bootstrap_timeouts)
        world = self._world(data)
        if record.partial is None:
            self._fit_world(world, _share(progress, 0.0, 0.5))
        else:
            world.iql.load_state_dict(record.partial["iql"])
            world.dynamics.load_state_dict(record.partial["dynamics"])
        stage = OfflineStage(
            self.net_, self.process, world, self._chunk_shape, self._executed, s, derive(s.seed, "stage", self._stage)
        )
        moving = {"stage": stage, "iql": world.iql, "dynamics": world.dynamics}
        self._resumed(record, {"stage": stage})
        while stage.steps < s.offline_steps:
            stage.step()
            self._tick(record, stage.steps, s.offline_steps, moving, _share(progress, 0.5, 1.0))
        self.net_, self.world_ = stage.old, world
        self.gate_log_ = [] if stage.gate is None else stage.gate.log
        return self._finish(record)

    def _fit_world(self, world: World, progress: Progress | None) -> None:
        s, n = self.settings, world.data.n
        steps = s.critic_epochs * -(-n // s.critic_batch)
        generator = self._seeded("critics")
        for step in range(steps):
            rows = torch.randint(n, (min(s.critic_batch, n),), generator=generator, device=self.device_)
            world.iql.update(world.data.take(rows))
            if progress is not None and step % 50 == 0:
                progress(0.7 * step / steps)
        if s.gate:
            world.dynamics.fit(world.data, s.dynamics_steps, progress=_share(progress, 0.7, 1.0))

    # -- stage 3: online ------------------------------------------------------------------------------------------

    def improve_online(
        self,
        env: Any,
        episodes: int,
        *,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
    ) -> Self:
        """Play and improve, for at most ``episodes`` whole episodes.

        Parameters
        ----------
        env : vector environment, or whatever :func:`anytask.control.make` takes
            An id is played by up to 32 copies.
        episodes : int
            Most episodes to play.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; rolls between two saves.
        """
        self._check_fitted()
        at_least(1, episodes=episodes)
        with rollback(self, skip=frozenset({"world_"})):
            return self._improve_online(self._made(env, episodes), episodes, progress, checkpoint, checkpoint_every)

    def _improve_online(self, env: Any, episodes: int, progress: Progress | None, checkpoint: Any, every: int) -> Self:
        s = self.settings
        record = self._record("online", f"{episodes} episodes", checkpoint, every)
        if record.finished is not None:
            return self._restore(record.finished)
        value = self.value_ or (self._value_net() if self.world_ is None else self.world_.iql.v_net)
        stage = OnlineStage(
            self.net_, value, self.process, self._chunk_shape, s, derive(s.seed, "stage", self._stage), self.student_
        )
        moving = {"stage": stage}
        played = self._resumed(record, moving)
        log: list[dict[str, float]] = record.partial["log"] if record.partial is not None else []
        while played < episodes:
            result = self._play(env, episodes - played, stage.net, s.online_batch, "online", stage.rounds)
            assert result.roll is not None
            played += len(result.episodes)
            facts = stage.update(result.roll._replace(rewards=result.roll.rewards * s.reward_scale))
            success = float(np.mean(result.episodes.attributes["success"]))
            log.append({**facts, "episodes": float(played), "success": success})
            if record.due(stage.rounds) and played < episodes:
                record.save({"step": played, "log": log, **_states(moving)})
            if progress is not None:
                progress(played / episodes)
        self.net_, self.value_ = stage.net.requires_grad_(False), stage.value.requires_grad_(False)
        if stage.average is not None:
            self.student_ = stage.average.module  # type: ignore[assignment]
        self.online_log_ = self.online_log_ + log
        return self._finish(record)

    def _play(self, env: Any, episodes: int, net: nn.Module, min_decisions: int | None, *path: object) -> Played:
        process, generator = self.process, self._seeded("play", *path)

        def decide(window: dict[str, Tensor]) -> Decided:
            c = self._encode(window)
            chain = process.sample(net, c, self._chunk_shape, generator)
            return Decided(c, self.scale_.restore(chain.actions[:, self._executed]), chain)

        seed = derive(self.settings.seed, "play", self._stage, *path) % 2**31
        gamma = self.settings.gamma
        return play(
            decide, self._encode, env, self.settings.n_obs, episodes=episodes, min_decisions=min_decisions,
            gamma=gamma, seed=seed,
        )  # fmt: skip

    def rollouts(self, env: Any, episodes: int) -> Episodes:
        """Play ``episodes`` whole episodes with the stochastic policy, as data for the offline stage."""
        self._check_fitted()
        at_least(1, episodes=episodes)
        with torch.no_grad():
            return self._play(self._made(env, episodes), episodes, self.net_, None, "rollouts").episodes

    # -- the one-step student -------------------------------------------------------------------------------------

    def distil(
        self,
        episodes: Episodes,
        *,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> Self:
        """Train a student that acts with one network call, on the observations of ``episodes``; see ``use``.

        Parameters
        ----------
        episodes : Episodes
            Only what was seen counts; with ``student_form="lcm"`` also what was done.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`.
        """
        self._check_fitted()
        self._check_data(episodes)
        with rollback(self, skip=frozenset({"world_", "value_"})):
            return self._distil(episodes, progress, checkpoint, checkpoint_every)

    def _distil(self, episodes: Episodes, progress: Progress | None, checkpoint: Any, every: int) -> Self:
        s = self.settings
        record = self._record("student", episodes.fingerprint, checkpoint, every)
        if record.finished is not None:
            return self._restore(record.finished)
        data = self._decisions(episodes)
        student = self.student_ or Consistency(self.net_, self.process)
        stage = StudentStage(self.net_, student, self.process, data.features(self._encode), data.chunks, s, self._stage)
        stage.steps = self._resumed(record, stage.moving)
        while stage.steps < s.distil_steps:
            stage.step()
            self._tick(record, stage.steps, s.distil_steps, stage.moving, progress)
        self.student_ = stage.learned
        return self._finish(record)

    # -- all of it ------------------------------------------------------------------------------------------------

    def improve(
        self,
        env: Any,
        demonstrations: Episodes,
        *,
        rollouts: int = 200,
        online_episodes: int = 256,
        on_stage: Callable[[Stage], None] | None = None,
        progress: Progress | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Run the stages that ``stages`` names after imitation, with a budget of episodes.

        The offline stage sees the demonstrations and ``rollouts`` episodes of the imitation policy. The student is
        distilled before the online stage and trained along in it; without an online stage it is distilled last.

        Parameters
        ----------
        env : vector environment, or whatever :func:`anytask.control.make` takes
        demonstrations : Episodes
        rollouts, online_episodes : int
            Most episodes to play for the offline and for the online stage.
        on_stage : callable, optional
            Called after every stage, for instance to evaluate the policy as it is then.
        progress, checkpoint
            As in :meth:`fit`.
        """
        self._check_fitted()
        data, used = demonstrations, 0
        todo = [name for name in ("offline", "student", "online") if name in self.settings.stages]

        def share(name: str) -> Progress | None:
            at = todo.index(name)
            return _share(progress, at / len(todo), (at + 1) / len(todo))

        if "offline" in todo:
            if rollouts:
                new = self._kept(lambda: self.rollouts(env, rollouts), checkpoint)
                data = Episodes.concatenate([data, new])
                used += rollouts
            self.improve_offline(data, progress=share("offline"), checkpoint=checkpoint)
            _tell(on_stage, "offline", used)
        if "student" in todo:
            self.distil(data, progress=share("student"), checkpoint=checkpoint)
            if "online" not in todo:
                _tell(on_stage, "student", used)
        if "online" in todo and online_episodes:
            self.improve_online(env, online_episodes, progress=share("online"), checkpoint=checkpoint)
            used += online_episodes
            _tell(on_stage, "online", used)
            if "student" in todo:
                _tell(on_stage, "student", used)
        return self

    def iterate(
        self,
        collect: Any,
        episodes: Episodes,
        rounds: int = 2,
        episodes_per_round: int = 100,
        *,
        on_round: Callable[[int, Episodes], None] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Episodes:
        """Run the outer loop: play, merge what was played into the data, imitate all of it from scratch, improve again.

        Parameters
        ----------
        collect : environment, or callable
            An environment as in :meth:`rollouts`, or ``collect(policy, n) -> Episodes``, for instance from a robot.
        episodes : Episodes
            The data to begin with.
        rounds, episodes_per_round : int, defaults 2 and 100
        on_round : callable, optional
            Called with the round's number and the merged data.
        checkpoint : path, optional
            As in :meth:`fit`; what was played is kept there too, and not played again after a crash.

        Returns
        -------
        Episodes
            The merged data.
        """
        at_least(1, rounds=rounds, episodes_per_round=episodes_per_round)
        first = episodes
        if self.shapes_ is None:
            self.fit(episodes, checkpoint=checkpoint).improve_offline(episodes, checkpoint=checkpoint)
        by_callback = callable(collect) and not hasattr(collect, "step")
        for m in range(rounds):

            def play_round() -> Episodes:
                return collect(self, episodes_per_round) if by_callback else self.rollouts(collect, episodes_per_round)

            episodes = Episodes.concatenate([episodes, self._kept(play_round, checkpoint)])
            self.fit(episodes, scale=first, checkpoint=checkpoint)
            self.improve_offline(episodes, checkpoint=checkpoint)
            if on_round is not None:
                on_round(m, episodes)
        return episodes

    # -- shared by the stages ------------------------------------------------------------------------------------

    def _decisions(self, episodes: Episodes) -> Decisions:
        s = self.settings
        return Decisions(episodes, s.n_obs, s.horizon, s.n_executed, self.scale_, self.device_)

    def _made(self, env: Any, episodes: int) -> Any:
        from anytask.control.adapters import make

        if hasattr(env, "num_envs"):
            return env
        return make(env, min(episodes, 32), seed=derive(self.settings.seed, "env") % 2**31, device=str(self.device_))

    def _seeded(self, *path: object) -> torch.Generator:
        return torch.Generator(self.device_).manual_seed(derive(self.settings.seed, self._stage, *path))

    def _check_data(self, episodes: Episodes) -> None:
        assert self.shapes_ is not None
        found = {k: episodes.shape_of(k) for k in sorted(episodes.keys)}
        if found != self.shapes_ or episodes.action_dim != self._action_dim:
            raise ValueError(
                f"the episodes have observations {found} and {episodes.action_dim} numbers per action; the policy was "
                f"fitted to {self.shapes_} and {self._action_dim}"
            )

    def _kept(self, make: Callable[[], Episodes], checkpoint: Any) -> Episodes:
        path = None if checkpoint is None else Path(checkpoint) / f"played-{self._stage:02d}.npz"
        return kept(make, path)

    def _record(self, name: str, content: str, checkpoint: Any, every: int) -> StageRecord:
        plain = {k: repr(v) for k, v in self.params.items() if k not in ("encoder", "denoiser", "device", "use")}
        digest = hashlib.sha256(json.dumps([content, plain]).encode()).hexdigest()[:32]
        return StageRecord(checkpoint, self._stage, name, digest, every)

    def _resumed(self, record: StageRecord, moving: Mapping[str, Any]) -> int:
        if record.partial is None:
            return 0
        for name, thing in moving.items():
            thing.load_state_dict(on_device(record.partial[name], self.device_))
        return int(record.partial["step"])

    def _tick(
        self, record: StageRecord, step: int, total: int, moving: Mapping[str, Any], progress: Progress | None
    ) -> None:
        if record.due(step) and step < total:
            record.save({"step": step, **_states(moving)})
        if progress is not None and (step % 25 == 0 or step == total):
            progress(step / total)

    def _finish(self, record: StageRecord) -> Self:
        """Freeze what was learned; what follows trains copies."""
        for module in (self.encoder_, self.net_, self.student_):
            if module is not None:
                module.requires_grad_(False)
        self._stage += 1
        self._begin_acting()
        if record.folder is not None:
            record.save(self._state(), finished=True)
        return self

    def _restore(self, state: dict[str, Any]) -> Self:
        self._load_state(state)
        self._begin_acting()
        return self


def _share(progress: Progress | None, start: float, stop: float) -> Progress | None:
    return None if progress is None else lambda done: progress(start + (stop - start) * done)


def _tell(on_stage: Callable[[Stage], None] | None, name: str, episodes: int) -> None:
    if on_stage is not None:
        on_stage(Stage(name, episodes))


def _states(moving: Mapping[str, Any]) -> dict[str, Any]:
    return {name: thing.state_dict() for name, thing in moving.items()}
