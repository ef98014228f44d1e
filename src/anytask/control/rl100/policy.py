"""What RL-100 trains: a policy that acts in chunks by denoising, with what is built, saved and remembered for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Env
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from torch import Tensor, nn

from anytask.control.adapters import make
from anytask.control.parts.acting import check_fits, refuses
from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.rl100 import settings
from anytask.control.rl100.diffusion import DDIM, Consistency, DenoisingMLP, Flow, Process
from anytask.control.rl100.world import ActionRange, CriticMLP, Decisions, GateCheck, Memory, Window, World
from anytask.core.checks import require_finite
from anytask.core.cost import parameter_count
from anytask.core.errors import check_flags
from anytask.core.estimator import Estimator
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, group, whole
from anytask.datasets.episodes import Episodes


class ChunkPolicy(Estimator):
    """A policy that acts in chunks by denoising; parameters and attributes as in :class:`~anytask.control.rl100.RL100`.

    A subclass trains what :meth:`_build` makes.
    """

    horizon: int = whole(5, "actions per chunk")
    n_obs: int = whole(2, "observations per window")
    n_executed: int = whole(4, "actions carried out per chunk")
    encoder: settings.EncoderSettings = group(settings.EncoderSettings, "from observations to features")
    diffusion: settings.DiffusionSettings = group(settings.DiffusionSettings, "the denoising process and its network")
    critics: settings.CriticSettings = group(settings.CriticSettings, "of stage 2")
    dynamics: settings.DynamicsSettings = group(settings.DynamicsSettings, "of stage 2")
    use: str = choice("teacher", ("teacher", "student"), "who acts")
    best_of: int = whole(1, "candidates of which the one with the highest Q is acted by")

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
    action_bounds_: Tensor | None = None  # (2, d), of the environment in which it played
    _parts: frozenset[str] = frozenset()  # optional modules that _build makes
    _memory: Memory
    _generator: torch.Generator

    def _check_settings(self) -> None:
        least = self.n_obs - 1 + self.n_executed
        if self.horizon < least:
            raise ValueError(f"horizon must be at least n_obs - 1 + n_executed = {least}, got {self.horizon}")

    # -- acting ---------------------------------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        """The denoising process of the settings."""
        self._check_fitted()
        s = self.diffusion
        common = ((self.horizon, self.action_dim_), s.n_steps, s.eta, s.sigma_min, s.sigma_max, s.clip)
        return Flow(*common) if s.process == "flow" else DDIM(*common, s.noise == "recomputed", s.n_train)

    @property
    def network_calls(self) -> float:
        """Network calls per action carried out."""
        return (1 if self.use == "student" else self.process.n_steps) / self.n_executed

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return the next action of every parallel environment: a new chunk where the last one is used up.

        Actions stay within the action space of the environment that the policy played in; before it played in one,
        within the range of the recorded actions. A failure changes nothing.

        Parameters
        ----------
        obs : Tensor or array (n, ...), mapping of key to these, or one unbatched observation
        deterministic : bool, default True
            No noise within the denoising steps; the noise that a chain starts from is drawn either way.
        """
        check_flags(deterministic=deterministic)
        self._check_fitted()
        before = self._generator.get_state()
        try:
            return self._memory.act(obs, lambda _, window: self._decide(window, deterministic))
        except BaseException:
            self._generator.set_state(before)
            raise

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget observations and chunks of the rows ``rows`` (m,), or of all; the latter also restarts the noise."""
        if not self._fitted():
            return
        if rows is None:
            self._memory = self._new_memory()
            self._generator = torch.Generator(self._device).manual_seed(derive(self.seed, "act"))
        else:
            self._memory.reset(rows)

    @torch.no_grad()
    def _decide(self, window: Window, deterministic: bool) -> Tensor:
        c, process = self.encoder_(window).repeat_interleave(self.best_of, 0), self.process  # (m * best_of, width)
        if self.use == "student":
            if self.student_ is None:
                raise RuntimeError("there is no student yet: call distil() first, or set use='teacher'")
            chunks = self.student_.decide(c, process.noise(c, self._generator))
        elif deterministic:
            chunks = process.decide(self.net_, c, process.noise(c, self._generator))
        else:
            chunks = process.sample(self.net_, c, self._generator).actions
        chunks = chunks[:, self._executed]  # (m * best_of, n_executed, d)
        if self.best_of > 1:
            if self.world_ is None:
                raise RuntimeError("best_of needs critics: call improve_offline() first")
            best = self.world_.iql.q(c, chunks).reshape(-1, self.best_of).argmax(1)
            chunks = chunks.unflatten(0, (-1, self.best_of))[torch.arange(len(best), device=c.device), best]
        return self._sent(chunks)

    def _sent(self, chunks: Tensor) -> Tensor:
        """Return actions in [-1, 1] as the environment takes them."""
        low, high = (self.scale_.low, self.scale_.high) if self.action_bounds_ is None else self.action_bounds_
        return require_finite(self.scale_.restore(chunks), f"an action of the {self.use}").clamp(low, high)

    # -- for those who train it -----------------------------------------------------------------------------------

    @property
    def _executed(self) -> slice:
        return slice(self.n_obs - 1, self.n_obs - 1 + self.n_executed)

    def _build(self) -> None:
        e, device = self.encoder, self._device
        self.encoder_ = ObservationEncoder(
            self.shapes_, self.n_obs, trunks=e.trunks, width=e.width, bottleneck=e.bottleneck,
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
        if self.diffusion.denoiser is not None:
            return self.diffusion.denoiser(self.process.shape, self.encoder_.width)
        return DenoisingMLP(self.process.shape, self.encoder_.width, self.diffusion.hidden)

    def _new_world(self) -> World:
        size, seed = self.n_executed * self.action_dim_, derive(self.seed, "world", self.stage_)
        return World(self.encoder_.width, size, self.critics, self.dynamics, seed).to(self._device)

    def _new_value(self) -> nn.Module:
        with isolated(derive(self.seed, "value", self.stage_)):
            return CriticMLP(self.encoder_.width, self.critics.hidden).to(self._device)

    def _new_memory(self) -> Memory:
        return Memory(self.shapes_, self.n_obs, self._device)

    def _decisions(self, episodes: Episodes) -> Decisions:
        return Decisions(episodes, self.n_obs, self.horizon, self.n_executed, self.scale_, self._device)

    def _vector_env(self, env: Any, episodes: int) -> Any:
        """Return the environment in which to play, and keep the bounds of its actions."""
        n = None if isinstance(env, VectorEnv) else 1 if isinstance(env, Env) else min(episodes, 32)
        env = make(env, n, seed=derive(self.seed, "env") % 2**31, device=str(self._device))
        space = env.single_action_space
        if not isinstance(space, Box) or int(np.prod(space.shape)) != self.action_dim_:
            raise ValueError(f"the policy has {self.action_dim_} continuous action dimensions, and {env} takes {space}")
        bounds = np.stack([space.low.ravel(), space.high.ravel()]).astype(np.float32)
        self.action_bounds_ = torch.as_tensor(bounds, device=self._device)
        return env

    refuses = staticmethod(refuses)

    def _check_data(self, episodes: Episodes) -> None:
        self._check_fitted()
        check_fits(episodes, self.shapes_, self.action_dim_)

    # -- saving ---------------------------------------------------------------------------------------------------

    def _load_state(self, state: dict[str, Any]) -> None:
        self._parts = frozenset(state["modules"])
        super()._load_state(state)
        self.gate_log_ = [GateCheck(*check) for check in self.gate_log_]
        for name in self._parts:
            getattr(self, name).requires_grad_(False)
        self.reset()

    def cost(self) -> dict[str, int]:
        """Return trainable parameters (encoder and denoiser) and all stored numbers."""
        return {**super().cost(), "trainable_parameters": parameter_count(self.encoder_, self.net_)}
