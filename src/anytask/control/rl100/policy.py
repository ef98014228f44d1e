"""What RL-100 trains: a diffusion policy with its encoder, critics and student; how it acts, and how it is kept."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor, nn

from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.rl100.data import ActionRange, Memory, as_dict
from anytask.control.rl100.diffusion import DDIM, Consistency, DenoisingMLP, Flow, Process
from anytask.control.rl100.dynamics import EnsembleDynamics
from anytask.control.rl100.offline import GateCheck, World
from anytask.control.rl100.offline_rl import IQL, CriticMLP
from anytask.core.persistence import load_tree, save_tree
from anytask.core.rng import derive, isolated
from anytask.datasets.episodes import Episodes


class DiffusionPolicy:
    """Acts by denoising chunks of actions on features of a window of observations.

    It has the parts that learning fills in and no learning of its own; :class:`~anytask.control.rl100.RL100` adds the
    stages, and says what the parameters and attributes are.
    """

    params: dict[str, Any]  # as given to the constructor
    settings: SimpleNamespace  # filled in from the preset
    device_: torch.device
    use: str
    encoder_: ObservationEncoder
    net_: nn.Module
    scale_: ActionRange
    world_: World | None
    value_: nn.Module | None
    student_: Consistency | None
    _action_dim: int
    _chunk_shape: tuple[int, int]
    _executed: slice

    def _forget(self) -> None:
        self.shapes_: dict[str, tuple[int, ...]] | None = None
        self.world_, self.value_, self.student_ = None, None, None
        self.gate_log_: list[GateCheck] = []
        self.online_log_: list[dict[str, float]] = []
        self._stage = 0
        self._begin_acting()

    def _begin_acting(self) -> None:
        self._memory = Memory(self.settings.n_obs)
        self._generator = torch.Generator(self.device_).manual_seed(derive(self.settings.seed, "act"))

    @cached_property
    def process(self) -> Process:
        """The denoising process of the settings."""
        s = self.settings
        options = {"eta": s.eta, "sigma_min": s.sigma_min, "sigma_max": s.sigma_max, "clip": s.clip}
        return DDIM(s.n_steps, n_train=s.n_train, **options) if s.process == "ddim" else Flow(s.n_steps, **options)

    @property
    def network_calls(self) -> float:
        """Network calls per action carried out."""
        calls = 1 if self.use == "student" else self.settings.n_steps
        return calls / self.settings.n_executed

    # -- acting ---------------------------------------------------------------------------------------------------

    def act(self, obs: Any, *, deterministic: bool = True) -> Any:
        """Return the next action of every copy: a new chunk where the last one is used up.

        Parameters
        ----------
        obs : Tensor (n, ...), mapping of key to these, or one unbatched array
            An array of one observation gives an array (d,).
        deterministic : bool, default True
            No noise within the denoising steps; the noise that a chain starts from is drawn either way.
        """
        self._check_fitted()
        given = as_dict(obs)
        batched = {k: torch.as_tensor(v, device=self.device_) for k, v in given.items()}
        assert self.shapes_ is not None
        single = all(k in batched and batched[k].dim() == len(shape) for k, shape in self.shapes_.items())
        if single:
            batched = {k: v[None] for k, v in batched.items()}
        self._memory.see({k: batched[k] for k in self.shapes_ if k in batched})
        rows = (self._memory.left == 0).nonzero()[:, 0]
        if len(rows):
            assert self._memory.window is not None
            self._memory.plan(rows, self._decide({k: w[rows] for k, w in self._memory.window.items()}, deterministic))
        actions = self._memory.next()
        if single:
            return actions[0].cpu().numpy() if not isinstance(next(iter(given.values())), Tensor) else actions[0]
        return actions

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget observations and chunks of the copies ``rows`` (m,), or of all; the latter also restarts the noise."""
        if rows is None:
            self._begin_acting()
        else:
            self._memory.reset(rows)

    @torch.no_grad()
    def _decide(self, window: dict[str, Tensor], deterministic: bool) -> Tensor:
        s, c = self.settings, self._encode(window)
        n, process, shape = len(c), self.process, self._chunk_shape
        if s.best_of > 1:
            c = c.repeat_interleave(s.best_of, 0)
        if self.use == "student":
            if self.student_ is None:
                raise RuntimeError("there is no student yet: call distil() first, or set use='teacher'")
            chunks = self.student_.decide(c, shape, self._generator)
        elif deterministic:
            chunks = process.decide(self.net_, c, shape, self._generator)
        else:
            chunks = process.sample(self.net_, c, shape, self._generator).actions
        chunks = chunks[:, self._executed]
        if s.best_of > 1:
            if self.world_ is None:
                raise RuntimeError("best_of needs critics: call improve_offline() first")
            best = self.world_.iql.q(c, chunks).reshape(n, s.best_of).argmax(1)
            chunks = chunks.reshape(n, s.best_of, *chunks.shape[1:])[torch.arange(n, device=c.device), best]
        return self.scale_.restore(chunks)

    # -- construction ---------------------------------------------------------------------------------------------

    def _build(self, shapes: Mapping[str, tuple[int, ...]], action_dim: int) -> None:
        s = self.settings
        self.shapes_ = {k: tuple(v) for k, v in sorted(shapes.items())}
        self._action_dim = action_dim
        self._chunk_shape = (s.horizon, action_dim)
        self._executed = slice(s.n_obs - 1, s.n_obs - 1 + s.n_executed)
        self.encoder_ = ObservationEncoder(
            self.shapes_, s.n_obs, trunks=copy.deepcopy(s.encoder), width=s.encoder_width, bottleneck=s.bottleneck,
            reconstruct=s.reconstruct, seed=derive(s.seed, "encoder") % 2**31,
        ).to(self.device_)  # fmt: skip
        with isolated(derive(s.seed, "denoiser")):
            if s.denoiser is None:
                net: nn.Module = DenoisingMLP(self._chunk_shape, self.encoder_.width, s.hidden)
            else:
                net = s.denoiser(self._chunk_shape, self.encoder_.width)
        self.net_ = net.to(self.device_)
        zero = torch.zeros(action_dim, device=self.device_)
        self.scale_ = ActionRange(zero - 1, zero + 1, s.action_share)

    def _set_ranges(self, episodes: Episodes) -> None:
        ranges = {k: (torch.as_tensor(v.low), torch.as_tensor(v.high)) for k, v in episodes.statistics().items()}
        low, high = (x.to(self.device_) for x in ranges.pop("action"))
        self.encoder_.set_ranges(ranges)
        self.scale_ = ActionRange(low, high, self.settings.action_share)

    def _encode(self, window: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            return self.encoder_(window)

    def _world(self, data: Any) -> World:
        s = self.settings
        width, size = self.encoder_.width, s.n_executed * self._action_dim
        seed = derive(s.seed, "world", self._stage)
        iql = IQL(
            width, size, s.critic_hidden, lr=s.critic_lr, omega=s.omega, target_rate=s.target_rate, seed=seed,
            device=self.device_,
        )  # fmt: skip
        dynamics = EnsembleDynamics(
            width, size, members=s.dynamics_members, elites=s.dynamics_elites, hidden=s.dynamics_hidden, seed=seed,
            device=self.device_,
        )  # fmt: skip
        return World(iql, dynamics, data)

    def _value_net(self) -> CriticMLP:
        with isolated(derive(self.settings.seed, "value", self._stage)):
            return CriticMLP(self.encoder_.width, self.settings.critic_hidden).to(self.device_)

    def _check_fitted(self) -> None:
        if self.shapes_ is None:
            raise RuntimeError("this policy has learned nothing yet: call fit(episodes) first")

    # -- state ----------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        world = self.world_
        return {
            "shapes": self.shapes_,
            "action_dim": self._action_dim,
            "range": [self.scale_.low, self.scale_.high],
            "encoder": self.encoder_.state_dict(),
            "net": self.net_.state_dict(),
            "iql": None if world is None else world.iql.state_dict(),
            "dynamics": None if world is None else world.dynamics.state_dict(),
            "value": None if self.value_ is None else self.value_.state_dict(),
            "student": None if self.student_ is None else self.student_.state_dict(),
            "gate_log": [list(check) for check in self.gate_log_],
            "online_log": self.online_log_,
            "stage": self._stage,
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        state = on_device(state, self.device_)
        self._build(state["shapes"], state["action_dim"])
        low, high = state["range"]
        self.scale_ = ActionRange(low, high, self.settings.action_share)
        self.encoder_.load_state_dict(state["encoder"])
        self.net_.load_state_dict(state["net"])
        self.world_, self.value_, self.student_ = None, None, None
        if state["iql"] is not None:
            self.world_ = self._world(None)
            self.world_.iql.load_state_dict(state["iql"])
            self.world_.dynamics.load_state_dict(state["dynamics"])
        if state["value"] is not None:
            self.value_ = self._value_net()
            self.value_.load_state_dict(state["value"])
        if state["student"] is not None:
            self.student_ = Consistency(self.net_, self.process)
            self.student_.load_state_dict(state["student"])
        for module in (self.encoder_, self.net_, self.student_, self.value_):
            if module is not None:
                module.requires_grad_(False)
        self.gate_log_ = [GateCheck(*check) for check in state["gate_log"]]
        self.online_log_, self._stage = state["online_log"], state["stage"]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write settings, networks and logs into ``folder``."""
        self._check_fitted()
        own = {k: v for k, v in self.params.items() if k != "denoiser" and (k != "encoder" or _plain(v))}
        save_tree(folder, {"params": {**own, "use": self.use}, "state": self._state()})

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **params: Any) -> Self:
        """Read what :meth:`save` wrote. Give ``encoder`` and ``denoiser`` again if they were modules or functions."""
        saved = load_tree(folder)
        policy = cls(**{**saved["params"], **params})
        policy._load_state(saved["state"])
        return policy

    def cost(self) -> dict[str, int]:
        """Return trainable parameters (encoder and denoiser) and all stored numbers."""
        self._check_fitted()
        world = [] if self.world_ is None else [self.world_.iql.v_net, self.world_.iql.q_net, self.world_.dynamics.net]
        modules = [self.encoder_, self.net_, *world, *(m for m in (self.value_, self.student_) if m is not None)]
        counts = [sum(p.numel() for p in m.parameters()) for m in modules]
        return {"trainable_parameters": sum(counts[:2]), "stored_parameters": sum(counts)}


def on_device(tree: Any, device: torch.device) -> Any:
    """Return nested state with its tensors on ``device``."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {k: on_device(v, device) for k, v in tree.items()}
    return [on_device(v, device) for v in tree] if isinstance(tree, list) else tree


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_plain(v) for v in value.values())
    return value is None or isinstance(value, str)
