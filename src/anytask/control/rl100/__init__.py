"""RL-100: a diffusion policy from demonstrations, improved by offline, then by short online reinforcement learning.

With ``checkpoint=folder`` each stage saves itself there; call the same methods again after a crash and finished stages
are read back, the interrupted one goes on bit for bit as if nothing had happened (its last ``checkpoint_every`` steps,
or the running roll, are lost). The gate is as good as the critics are: where they are wrong it accepts what fails. Look
at the success of what is delivered, not at the gate.

Departures: no entropy bonus, since the noise of a denoising step is fixed by the schedule, so that the bonus has no
gradient. The encoder stays frozen online too, since recorded chains and the student depend on its features. The default
denoiser is a perceptron; a one-dimensional U-Net or transformer goes in by ``diffusion.denoiser``. Clean actions are
clipped, the predicted noise is kept as it was.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.adapters import make
from anytask.control.parts.acting import Given
from anytask.control.parts.checkpoint import Checkpoint, training_of
from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.parts.policy_gradient import linear_decay, normalize
from anytask.control.rl100.data import ActionRange, Decisions, Memory
from anytask.control.rl100.diffusion import DDIM, Consistency, DenoisingMLP, Flow, Process, averaged
from anytask.control.rl100.offline import (
    IQL,
    CriticMLP,
    EnsembleDynamics,
    GateCheck,
    OPEGate,
    World,
    descend,
    improve_on_chain,
)
from anytask.control.rl100.online import Decided, Learner, Roll, play, update
from anytask.control.rl100.settings import (
    SMALL,
    CriticSettings,
    DiffusionSettings,
    DynamicsSettings,
    EncoderSettings,
    ImitationSettings,
    OfflineSettings,
    OnlineSettings,
    StudentSettings,
)
from anytask.core.checks import check_counts
from anytask.core.cost import parameter_count
from anytask.core.estimator import Estimator
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, flag, free, group, real, whole
from anytask.datasets.episodes import Episodes

__all__ = ["RL100"]

STAGES = ("imitation", "offline", "online", "student")


def _check_stages(stages: Any) -> None:
    if isinstance(stages, str) or not set(stages) <= set(STAGES):
        raise ValueError(f"stages must be among {STAGES}, got {stages!r}")


class Stage(NamedTuple):
    """Where :meth:`RL100.improve` is: the stage just finished, and the episodes played for it so far."""

    name: str
    episodes: int


class RL100(Estimator):
    """RL-100 (Lei et al., 2025).

    Takes a handful of demonstrations and a sparse success reward to a policy that nearly always succeeds, in three
    stages: imitation by a diffusion policy, policy optimization on recorded data behind an evaluation gate, and a short
    phase of playing. A last step distils the many network calls per action into one. Each stage starts from the one
    before, and each can be left out.

    Pick it when demonstrations exist but are not good enough by themselves (too slow, too noisy, too few), when playing
    costs money, and when a control loop wants actions fast. What it sees (states, images, point clouds, several at
    once) is a matter of the encoder alone.

    Parameters
    ----------
    horizon, n_obs, n_executed : int, default 5, 2, 4
        Actions per chunk, observations per window, and actions carried out per chunk. A chunk starts at the window's
        oldest step, so ``horizon >= n_obs - 1 + n_executed``. Single actions: 1, 1, 1.
    gamma, reward_scale, bootstrap_timeouts, max_grad_norm
        Of both reinforcement-learning stages; see the table of settings.
    encoder, diffusion, imitation, critics, dynamics, offline, online, student
        Groups of settings, as objects or mappings; see :mod:`anytask.control.rl100.settings`.
    use : {"teacher", "student"}, default "teacher"
        Who acts. Can be changed at any time.
    best_of : int, default 1
        Draw this many candidates and act by the one with the highest Q.
    stages : sequence of str, default ("imitation", "offline", "online", "student")
        What :meth:`improve` runs.
    seed, device
        As in :class:`~anytask.core.estimator.Estimator`.

    Attributes
    ----------
    encoder_, net_ : ObservationEncoder, nn.Module
        The policy's encoder and denoiser.
    world_ : World or None
        Critics ``iql`` and ``dynamics`` after the offline stage.
    value_, student_ : nn.Module or None
        Value network after the online stage; the student.
    gate_log_ : list of GateCheck
        Every comparison of the last offline stage.
    online_log_ : list of dict
        KL divergence, learning rate, decisions, episodes and success of each online round.

    Examples
    --------
    Demonstrations at mixed speed often run out of time; the offline stage learns from the rewards which ones were fast.

    >>> from anytask.control import demonstrations
    >>> demos = demonstrations("anytask/Reach-v0", 40, speed=(0.25, 1.0), noise=0.3)
    >>> short = {"imitation": {"epochs": 30}, "critics": {"epochs": 5}, "dynamics": {"steps": 50}}
    >>> policy = RL100.from_preset("small", **short, offline={"steps": 20}).fit(demos).improve_offline(demos)
    >>> len(policy.gate_log_), policy.act(torch.zeros(3, 3)).shape
    (2, torch.Size([3, 2]))

    References
    ----------
    Lei et al., 2025, "RL-100: Performant Robotic Manipulation with Real-World Reinforcement Learning",
    arXiv:2510.14830.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": SMALL}

    horizon: int = whole(5, "actions per chunk")
    n_obs: int = whole(2, "observations per window")
    n_executed: int = whole(4, "actions carried out per chunk")
    gamma: float = real(0.99, "discount per environment step", at_least=0, at_most=1)
    reward_scale: float = real(1.0, "multiplies rewards for learning", above=0)
    bootstrap_timeouts: bool = flag(True, "value what comes after a time limit; False: that is a failure")
    max_grad_norm: float = real(0.5, "norm to which gradients are clipped, offline and online", above=0)
    encoder: EncoderSettings = group(EncoderSettings, "from observations to features")
    diffusion: DiffusionSettings = group(DiffusionSettings, "the denoising process and its network")
    imitation: ImitationSettings = group(ImitationSettings, "stage 1")
    critics: CriticSettings = group(CriticSettings, "of stage 2")
    dynamics: DynamicsSettings = group(DynamicsSettings, "of stage 2")
    offline: OfflineSettings = group(OfflineSettings, "stage 2")
    online: OnlineSettings = group(OnlineSettings, "stage 3")
    student: StudentSettings = group(StudentSettings, "the one-step student")
    use: str = choice("teacher", ("teacher", "student"), "who acts")
    best_of: int = whole(1, "candidates of which the one with the highest Q is acted by")
    stages: Sequence[str] = free(STAGES, "stages that improve() runs", _check_stages)

    shapes_: dict[str, tuple[int, ...]]
    action_dim_: int
    stage_: int
    encoder_: ObservationEncoder
    net_: Any
    scale_: ActionRange
    world_: World | None
    value_: Any
    student_: Any
    gate_log_: list[GateCheck]
    online_log_: list[dict[str, float]]
    _parts: frozenset[str] = frozenset()  # optional modules that _build makes
    _memory: Memory
    _generator: torch.Generator

    def _check_settings(self) -> None:
        least = self.n_obs - 1 + self.n_executed
        if self.horizon < least:
            raise ValueError(f"horizon must be at least n_obs - 1 + n_executed = {least}, got {self.horizon}")

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
        """Learn encoder and policy from demonstrations, from scratch, by denoising recorded actions.

        ``L_IL = E ||eps - eps_theta(sqrt(alpha_bar) a + sqrt(1 - alpha_bar) eps, tau, c)||^2`` on features ``c =
        phi(o)`` of a window of observations, with the encoder's regularizers. The encoder is frozen afterwards.

        Parameters
        ----------
        episodes : Episodes
        scale : Episodes, optional
            The data whose ranges scale vectors and actions; by default ``episodes``. When episodes of a policy join the
            demonstrations, give these, so that its largest actions do not widen the range round after round.
        progress : callable, optional
            Told the finished share.
        checkpoint : path, optional
            Folder to save to and to go on from.
        checkpoint_every : int, default 1000
            Optimizer steps between two saves.
        """
        _check_continuous(episodes)
        number = getattr(self, "stage_", 0)
        with self._refit():
            self.stage_ = number
            saved = self._stage("imitation", episodes.fingerprint, checkpoint, checkpoint_every)
            return self._run(saved, lambda: self._imitate(episodes, scale or episodes, saved, portion(progress, 0, 1)))

    def _imitate(self, episodes: Episodes, scale: Episodes, saved: Checkpoint, progress: Progress) -> None:
        self.shapes_ = {k: tuple(episodes.shape_of(k)) for k in sorted(episodes.keys)}
        self.action_dim_, self.gate_log_, self.online_log_ = episodes.action_dim, [], []
        self._build()
        self._set_ranges(scale)
        s, data, both = self.imitation, self._decisions(episodes), nn.ModuleList([self.encoder_, self.net_])
        average = averaged(both, s.ema_decay)
        trained = [p for p in both.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=s.lr, weight_decay=1e-6, fused=True)
        per_epoch, order = -(-data.n // s.batch_size), np.empty(0, dtype=np.int64)
        moving = {"both": both, "average": average, "optimizer": optimizer}
        for step in saved.steps(s.epochs * per_epoch, moving, progress):
            epoch, place = divmod(step, per_epoch)
            if place == 0 or not len(order):
                order = np.random.default_rng(derive(self.seed, "imitation", self.stage_, epoch)).permutation(data.n)
            rows = order[place * s.batch_size : (place + 1) * s.batch_size]
            descend(optimizer, self._imitation_loss(data, rows, self._seeded("imitation", step)), "imitation")
            average.update_parameters(both)
        self.encoder_, self.net_ = average.module  # type: ignore[misc]

    def _imitation_loss(self, data: Decisions, rows: np.ndarray, generator: torch.Generator) -> Tensor:
        c, extra = self.encoder_.regularized(data.window(rows), generator)  # (m, width)
        chunks = data.chunks[torch.as_tensor(rows, device=self._device)]  # (m, horizon, d)
        loss = self.process.loss(self.net_, chunks, c, generator).mean()
        for name, weight in (("reconstruction", self.encoder.beta_reconstruction), ("kl", self.encoder.beta_kl)):
            if name in extra:
                loss = loss + weight * extra[name]
        return loss

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

        Critics Q, V by implicit Q-learning and an ensemble of dynamics, all on features. Then, step after step: draw
        denoising chains from the policy OLD, judge their last states by ``A = min Q - V`` (normalized), and improve the
        candidate on the clipped surrogate, one optimizer step per denoising step, which is a Gaussian policy of its
        own. Every ``gate_every`` steps the candidate's value in the learned world is compared with the best one so far;
        only if it is better does OLD become the candidate. OLD is delivered.

        Parameters
        ----------
        episodes : Episodes
            With rewards: demonstrations, roll-outs of the policy, failures included.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; policy steps between two saves.
        """
        self._check_data(episodes)
        saved = self._stage("offline", episodes.fingerprint, checkpoint, checkpoint_every)
        return self._run(saved, lambda: self._improve_offline(episodes, saved, progress))

    def _improve_offline(self, episodes: Episodes, saved: Checkpoint, progress: Progress | None) -> None:
        s, process = self.offline, self.process
        data = self._decisions(episodes).transitions(
            self._encode, self.gamma, self.reward_scale, self.bootstrap_timeouts
        )
        world, seed = self._new_world(), derive(self.seed, "stage", self.stage_)
        if saved.found is None:
            epochs, batch_size = self.critics.epochs, self.critics.batch_size
            world.iql.fit(data, epochs, batch_size, self._seeded("critics"), portion(progress, 0.0, 0.35))
            if s.gate:
                world.dynamics.fit(data, self.dynamics.steps, progress=portion(progress, 0.35, 0.5))
        old, candidate = (copy.deepcopy(self.net_).requires_grad_(moves) for moves in (False, True))
        optimizer = torch.optim.Adam(candidate.parameters(), lr=s.lr, fused=True)

        def value(net: nn.Module) -> float:
            # From the same start states and with the same random numbers at every check.
            generator = torch.Generator(self._device).manual_seed(derive(seed, "offline", "gate"))
            rows = torch.randint(data.n, (s.gate_states,), generator=generator, device=self._device)
            policy = lambda c: process.sample(net, c, self._chunk, generator).actions[:, self._executed]  # noqa: E731
            return world.value(policy, data.features[rows], s.rollout_length, generator)

        moving = {"old": old, "candidate": candidate, "optimizer": optimizer, "world": world}
        gate = OPEGate(value(old) if saved.found is None else 0.0, s.gate_margin) if s.gate else None
        if gate is not None:
            moving["gate"] = gate
        for step in saved.steps(s.steps, moving, portion(progress, 0.5, 1.0)):
            left = linear_decay(1.0, step / s.steps)
            for parameters in optimizer.param_groups:
                parameters["lr"] = s.lr * left
            generator = torch.Generator(self._device).manual_seed(derive(seed, "offline", "step", step))
            rows = torch.randint(data.n, (s.batch_size,), generator=generator, device=self._device)
            c = data.features[rows]  # (m, width)
            chain = process.sample(old, c, self._chunk, generator)
            with torch.no_grad():
                A = normalize(world.iql.advantage(c, chain.actions[:, self._executed]))  # (m,)
            if s.shuffle_advantages:
                A = A[torch.randperm(len(A), generator=generator, device=A.device)]
            improve_on_chain(process, candidate, optimizer, chain, c, A, s.clip * left, self.max_grad_norm)
            due = (step + 1) % s.gate_every == 0 or step + 1 == s.steps
            if due and (gate is None or gate.offer(value(candidate), step + 1)):
                old.load_state_dict(candidate.state_dict())
        self.net_, self.world_, self.gate_log_ = old, world, [] if gate is None else gate.log

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
        """Play whole episodes with their chains on record and improve, for at most ``episodes`` of them.

        Advantages by GAE, the same surrogate over all denoising steps, a value network that starts from V, and a
        KL-adaptive learning rate. A student that exists is trained along.

        Parameters
        ----------
        env : vector environment, or whatever :func:`anytask.control.make` takes
            An id is played by up to 32 parallel environments.
        episodes : int
            Most episodes to play.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`; rolls between two saves.
        """
        self._check_fitted()
        check_counts(episodes=episodes)
        saved, told = (
            self._stage("online", f"{episodes} episodes", checkpoint, checkpoint_every),
            portion(progress, 0, 1),
        )
        return self._run(saved, lambda: self._improve_online(self._made(env, episodes), episodes, saved, told))

    def _improve_online(self, env: Any, episodes: int, saved: Checkpoint, progress: Progress) -> None:
        s, seed = self.online, derive(self.seed, "stage", self.stage_)
        learner = self._learner()
        moving = {name: part for name, part in vars(learner).items() if part is not None}
        played = saved.resume(moving)
        log: list[dict[str, float]] = [] if saved.found is None else saved.found["log"]
        while played < episodes:
            new, roll = self._play(env, episodes - played, learner.net, s.decisions, "online", len(log))
            played += len(new)
            roll = roll._replace(rewards=roll.rewards * self.reward_scale)
            warmup = 0 if log else s.value_warmup
            facts = update(learner, self.process, roll, self, derive(seed, "online", len(log)), warmup)
            log.append({**facts, "episodes": float(played), "success": float(np.mean(new.attributes["success"]))})
            if saved.due(len(log)) and played < episodes:
                saved.keep(played, moving, log=log)
            progress(played / episodes)
        self.net_, self.value_ = learner.net, learner.value
        self.student_ = None if learner.average is None else learner.average.module
        self.online_log_ = self.online_log_ + log

    def _learner(self) -> Learner:
        s, adam = self.online, torch.optim.Adam
        value = self.value_ or (self._new_value() if self.world_ is None else self.world_.iql.v_net)
        net, value = (copy.deepcopy(part).requires_grad_(True) for part in (self.net_, value))
        learner = Learner(
            net, value, adam(net.parameters(), lr=s.lr, fused=True),
            adam(value.parameters(), lr=s.value_lr, fused=True),
        )  # fmt: skip
        if self.student_ is not None:
            learner.student = copy.deepcopy(self.student_).requires_grad_(True)
            learner.average = averaged(self.student_, self.student.ema_decay)
            trained = learner.student.parameters()
            learner.student_optimizer = torch.optim.AdamW(trained, lr=self.student.lr, fused=True)
        return learner

    def _play(
        self, env: Any, episodes: int, net: nn.Module, min_decisions: int | None, *path: object
    ) -> tuple[Episodes, Roll]:
        process, generator = self.process, self._seeded("play", *path)

        def decide(window: dict[str, Tensor]) -> Decided:
            c = self._encode(window)
            chain = process.sample(net, c, self._chunk, generator)
            return Decided(c, self.scale_.restore(chain.actions[:, self._executed]), chain)

        seed = derive(self.seed, "play", self.stage_, *path) % 2**31
        return play(
            decide, self._encode, env, self.n_obs, episodes=episodes, min_decisions=min_decisions, gamma=self.gamma,
            seed=seed,
        )  # fmt: skip

    def rollouts(self, env: Any, episodes: int) -> Episodes:
        """Play ``episodes`` whole episodes with the stochastic policy, as data for the offline stage."""
        self._check_fitted()
        check_counts(episodes=episodes)
        return self._play(self._made(env, episodes), episodes, self.net_, None, "rollouts")[0]

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

        It learns the teacher's action from the same noise (or by consistency along the teacher's path). If it exists
        before the online stage, it is trained along.

        Parameters
        ----------
        episodes : Episodes
            Only what was seen counts; with the form ``"lcm"`` also what was done.
        progress, checkpoint, checkpoint_every
            As in :meth:`fit`.
        """
        self._check_data(episodes)
        saved, told = (
            self._stage("student", episodes.fingerprint, checkpoint, checkpoint_every),
            portion(progress, 0, 1),
        )
        return self._run(saved, lambda: self._distil(self._decisions(episodes), saved, told))

    def _distil(self, data: Decisions, saved: Checkpoint, progress: Progress) -> None:
        s, process, features = self.student, self.process, data.features(self._encode)
        student = copy.deepcopy(self.student_ or Consistency(self.net_, process)).requires_grad_(True)
        average, optimizer = (
            averaged(student, s.ema_decay),
            torch.optim.AdamW(student.parameters(), lr=s.lr, fused=True),
        )
        moving = {"student": student, "average": average, "optimizer": optimizer}
        for step in saved.steps(s.steps, moving, progress):
            generator = self._seeded("student", step)
            size = (self.imitation.batch_size,)
            rows = torch.randint(len(features), size, generator=generator, device=self._device)
            c = features[rows]  # (m, width)
            if s.form == "same-noise":
                noise = torch.randn((len(c), *self._chunk), generator=generator, device=self._device)
                loss = student.same_noise_loss(process.decide(self.net_, c, self._chunk, noise=noise), noise, c)
            else:
                loss = student.consistency_loss(average.module, self.net_, data.chunks[rows], c, generator)
            descend(optimizer, loss.mean(), "student")
            average.update_parameters(student)
        self.student_ = average.module

    # -- all of it ------------------------------------------------------------------------------------------------

    def improve(
        self,
        env: Any,
        demonstrations: Episodes,
        *,
        rollouts: int = 200,
        online_episodes: int = 256,
        on_stage: Callable[[Stage], object] | None = None,
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
        data, used, tell = demonstrations, 0, on_stage or (lambda stage: None)
        todo = [name for name in ("offline", "student", "online") if name in self.stages]
        todo = [name for name in todo if name != "online" or online_episodes]

        def told(name: str) -> dict[str, Any]:
            at = todo.index(name)
            return {"progress": portion(progress, at / len(todo), (at + 1) / len(todo)), "checkpoint": checkpoint}

        if "offline" in todo:
            if rollouts:
                new = self._kept(lambda: self.rollouts(env, rollouts), checkpoint)
                data, used = Episodes.concatenate([data, new]), rollouts
            self.improve_offline(data, **told("offline"))
            tell(Stage("offline", used))
        if "student" in todo:
            self.distil(data, **told("student"))
            if "online" not in self.stages:
                tell(Stage("student", used))
        if "online" in todo:
            self.improve_online(env, online_episodes, **told("online"))
            used += online_episodes
            tell(Stage("online", used))
            if "student" in todo:
                tell(Stage("student", used))
        return self

    def iterate(
        self,
        collect: Any,
        episodes: Episodes,
        rounds: int = 2,
        episodes_per_round: int = 100,
        *,
        on_round: Callable[[int, Episodes], object] | None = None,
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
        check_counts(rounds=rounds, episodes_per_round=episodes_per_round)
        first = episodes
        play_round = collect if callable(collect) and not hasattr(collect, "step") else _by_rollouts(collect)
        if not self._fitted():
            self.fit(episodes, checkpoint=checkpoint).improve_offline(episodes, checkpoint=checkpoint)
        for m in range(rounds):
            new = self._kept(lambda: play_round(self, episodes_per_round), checkpoint)
            episodes = Episodes.concatenate([episodes, new])
            self.fit(episodes, scale=first, checkpoint=checkpoint)
            self.improve_offline(episodes, checkpoint=checkpoint)
            if on_round is not None:
                on_round(m, episodes)
        return episodes

    # -- acting ---------------------------------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        """The denoising process of the settings."""
        s = self.diffusion
        common = (s.n_steps, s.eta, s.sigma_min, s.sigma_max, s.clip)
        return DDIM(*common, s.n_train) if s.process == "ddim" else Flow(*common)

    @property
    def network_calls(self) -> float:
        """Network calls per action carried out."""
        return (1 if self.use == "student" else self.process.n_steps) / self.n_executed

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return the next action of every parallel environment: a new chunk where the last one is used up.

        Parameters
        ----------
        obs : Tensor or array (n, ...), mapping of key to these, or one unbatched observation
        deterministic : bool, default True
            No noise within the denoising steps; the noise that a chain starts from is drawn either way.
        """
        self._check_fitted()
        given = Given(obs, self.shapes_, self._device)
        self._memory.see(given.tensors)
        rows = (self._memory.left == 0).nonzero()[:, 0]
        if len(rows):
            assert self._memory.window is not None
            self._memory.plan(rows, self._decide({k: w[rows] for k, w in self._memory.window.items()}, deterministic))
        return given.answer(self._memory.next())

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget observations and chunks of the rows ``rows`` (m,), or of all; the latter also restarts the noise."""
        if not self._fitted():
            return
        if rows is None:
            self._begin_acting()
        else:
            self._memory.reset(rows)

    @torch.no_grad()
    def _decide(self, window: dict[str, Tensor], deterministic: bool) -> Tensor:
        c, process = self._encode(window), self.process
        n = len(c)
        if self.best_of > 1:
            c = c.repeat_interleave(self.best_of, 0)
        if self.use == "student":
            if self.student_ is None:
                raise RuntimeError("there is no student yet: call distil() first, or set use='teacher'")
            chunks = self.student_.decide(c, self._chunk, self._generator)
        elif deterministic:
            chunks = process.decide(self.net_, c, self._chunk, self._generator)
        else:
            chunks = process.sample(self.net_, c, self._chunk, self._generator).actions
        chunks = chunks[:, self._executed]  # (n * best_of, n_executed, d)
        if self.best_of > 1:
            if self.world_ is None:
                raise RuntimeError("best_of needs critics: call improve_offline() first")
            best = self.world_.iql.q(c, chunks).reshape(n, self.best_of).argmax(1)
            chunks = chunks.reshape(n, self.best_of, *chunks.shape[1:])[torch.arange(n, device=c.device), best]
        return self.scale_.restore(chunks)

    # -- shared by the stages -------------------------------------------------------------------------------------

    @property
    def _chunk(self) -> tuple[int, int]:
        return self.horizon, self.action_dim_

    @property
    def _executed(self) -> slice:
        return slice(self.n_obs - 1, self.n_obs - 1 + self.n_executed)

    @torch.no_grad()
    def _encode(self, window: Mapping[str, Tensor]) -> Tensor:
        return self.encoder_(window)

    def _build(self) -> None:
        e, device = self.encoder, self._device
        self.encoder_ = ObservationEncoder(
            self.shapes_, self.n_obs, trunks=copy.deepcopy(e.trunks), width=e.width, bottleneck=e.bottleneck,
            reconstruct=e.reconstruct, seed=derive(self.seed, "encoder") % 2**31,
        ).to(device)  # fmt: skip
        with isolated(derive(self.seed, "denoiser")):
            self.net_ = self._new_net().to(device)
        one = torch.ones(self.action_dim_, device=device)
        self.scale_ = ActionRange(-one, one, self.diffusion.action_share)
        self.world_ = self._new_world() if "world_" in self._parts else None
        self.value_ = self._new_value() if "value_" in self._parts else None
        self.student_ = Consistency(self.net_, self.process) if "student_" in self._parts else None

    def _new_net(self) -> nn.Module:
        make_net = self.diffusion.denoiser or (lambda shape, width: DenoisingMLP(shape, width, self.diffusion.hidden))
        return make_net(self._chunk, self.encoder_.width)

    def _new_world(self) -> World:
        c, d, seed = self.critics, self.dynamics, derive(self.seed, "world", self.stage_)
        size = self.encoder_.width, self.n_executed * self.action_dim_
        iql = IQL(*size, c.hidden, lr=c.lr, omega=c.omega, target_rate=c.target_rate, seed=seed)
        dynamics = EnsembleDynamics(*size, members=d.members, elites=d.elites, hidden=d.hidden, seed=seed)
        return World(iql, dynamics).to(self._device)

    def _new_value(self) -> nn.Module:
        with isolated(derive(self.seed, "value", self.stage_)):
            return CriticMLP(self.encoder_.width, self.critics.hidden).to(self._device)

    def _set_ranges(self, episodes: Episodes) -> None:
        ranges = {k: (torch.as_tensor(v.low), torch.as_tensor(v.high)) for k, v in episodes.statistics().items()}
        low, high = (x.to(self._device) for x in ranges.pop("action"))
        self.encoder_.set_ranges(ranges)
        self.scale_ = ActionRange(low, high, self.diffusion.action_share)

    def _decisions(self, episodes: Episodes) -> Decisions:
        return Decisions(episodes, self.n_obs, self.horizon, self.n_executed, self.scale_, self._device)

    def _made(self, env: Any, episodes: int) -> Any:
        if hasattr(env, "num_envs"):
            return env
        return make(env, min(episodes, 32), seed=derive(self.seed, "env") % 2**31, device=str(self._device))

    def _seeded(self, *path: object) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(derive(self.seed, self.stage_, *path))

    def _begin_acting(self) -> None:
        self._memory = Memory(self.n_obs)
        self._generator = torch.Generator(self._device).manual_seed(derive(self.seed, "act"))

    def _check_data(self, episodes: Episodes) -> None:
        self._check_fitted()
        _check_continuous(episodes)
        found = {k: tuple(episodes.shape_of(k)) for k in sorted(episodes.keys)}
        if found != self.shapes_ or episodes.action_dim != self.action_dim_:
            raise ValueError(
                f"the episodes have observations {found} and the action dimension {episodes.action_dim}; the policy "
                f"was fitted to {self.shapes_} and {self.action_dim_}"
            )

    # -- stages on disk -------------------------------------------------------------------------------------------

    def _stage(self, name: str, data: str, checkpoint: str | os.PathLike[str] | None, every: int) -> Checkpoint:
        folder = None if checkpoint is None else Path(checkpoint) / f"{self.stage_:02d}"
        training = training_of(self, leave_out=("use",), stage=name, data=data)
        return Checkpoint(folder, training, every, self._device)

    def _run(self, saved: Checkpoint, learn: Callable[[], None]) -> Self:
        """Run a stage, or read back what it came to before; a failure leaves the policy as it was."""
        with self._update():
            if saved.found is not None and "state" in saved.found:
                self._load_state(saved.found["state"])
                return self
            learn()
            for module in (self.encoder_, self.net_, self.world_, self.value_, self.student_):
                if module is not None:
                    module.requires_grad_(False)  # what follows trains copies
            self.stage_ += 1
            self._begin_acting()
            saved.save(state=self._state())
        return self

    def _kept(self, collect: Callable[[], Episodes], checkpoint: Any) -> Episodes:
        """Return the episodes that were kept in a checkpoint; where there are none, collect them and keep them."""
        from anytask.datasets.episode_files import load_episodes, save_episodes

        path = None if checkpoint is None else Path(checkpoint) / f"played-{self.stage_:02d}.npz"
        if path is not None and path.is_file():
            return load_episodes(path)
        episodes = collect()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_episodes(path, episodes)
        return episodes

    def _load_state(self, state: dict[str, Any]) -> None:
        self._parts = frozenset(state["modules"])
        super()._load_state(state)
        self.gate_log_ = [GateCheck(*check) for check in self.gate_log_]
        for name in self._parts:
            getattr(self, name).requires_grad_(False)
        self._begin_acting()

    def cost(self) -> dict[str, int]:
        """Return trainable parameters (encoder and denoiser) and all stored numbers."""
        return {**super().cost(), "trainable_parameters": parameter_count(self.encoder_, self.net_)}


def _check_continuous(episodes: Episodes) -> None:
    if episodes.actions.dtype.kind != "f":
        raise ValueError(f"RL-100 needs continuous actions, got {episodes.actions.dtype}")


def _by_rollouts(env: Any) -> Callable[[RL100, int], Episodes]:
    return lambda policy, n: policy.rollouts(env, n)
