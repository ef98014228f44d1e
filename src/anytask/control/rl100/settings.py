"""RL-100's settings: the presets that fill them in, and what they may be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "horizon": 5, "n_obs": 2, "n_executed": 4, "n_train": 100, "n_steps": 10, "sigma_min": 0.0067,
        "action_share": 1.0, "hidden": (1024, 1024, 1024), "lr": 1.4e-4, "batch_size": 256,
        "imitation_epochs": 3000, "ema_decay": 0.9999, "critic_hidden": (512, 512), "critic_lr": 1.4e-4,
        "critic_epochs": 400, "critic_batch": 256, "gamma": 0.99, "omega": 0.7, "target_rate": 0.005,
        "dynamics_hidden": (200, 200, 200), "dynamics_steps": 20000, "offline_steps": 8000, "offline_lr": 1e-5,
        "offline_clip": 0.25, "offline_batch": 512, "gate_every": 50, "gate_states": 512, "gate_margin": 0.05,
        "rollout_length": 20, "online_batch": 2048, "online_epochs": 10, "minibatch": 128, "online_clip": 0.2,
        "bootstrap_timeouts": True, "online_lr": 3e-6, "online_lr_bounds": (5e-7, 1e-5), "kl_target": 0.02,
        "value_lr": 0.0003, "value_warmup": 0, "distil_steps": 10000, "distil_lr": 1.4e-4, "student_ema": 0.999,
    },
    "small": {
        "horizon": 1, "n_obs": 1, "n_executed": 1, "n_train": 100, "n_steps": 5, "sigma_min": 0.05,
        "action_share": 0.8, "hidden": (128, 128), "lr": 0.001, "batch_size": 256, "imitation_epochs": 300,
        "ema_decay": 0.995, "critic_hidden": (128, 128), "critic_lr": 0.001, "critic_epochs": 120,
        "critic_batch": 256, "gamma": 0.99, "omega": 0.7, "target_rate": 0.005, "dynamics_hidden": (64, 64),
        "dynamics_steps": 400, "offline_steps": 300, "offline_lr": 3e-5, "offline_clip": 0.1,
        "offline_batch": 256, "gate_every": 10, "gate_states": 128, "gate_margin": 0.0, "rollout_length": 20,
        "online_batch": 512, "online_epochs": 10, "minibatch": 128, "online_clip": 0.2, "online_lr": 3e-5,
        "online_lr_bounds": (3e-6, 0.0003), "kl_target": 0.02, "bootstrap_timeouts": True, "value_lr": 0.001,
        "value_warmup": 10, "distil_steps": 500, "distil_lr": 0.001, "student_ema": 0.995,
    },
}  # fmt: skip


def at_least(least: float, **named: Any) -> None:
    """Raise a ``ValueError`` unless every named value is a whole number of at least ``least``."""
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check(s: SimpleNamespace) -> None:
    """Raise a ``ValueError`` that names the first setting out of range."""
    whole = (
        "horizon", "n_obs", "n_executed", "n_train", "n_steps", "batch_size", "imitation_epochs", "critic_epochs",
        "critic_batch", "dynamics_members", "dynamics_elites", "dynamics_steps", "offline_steps", "offline_batch",
        "gate_every", "gate_states", "rollout_length", "online_batch", "online_epochs", "minibatch", "distil_steps",
        "best_of",
    )  # fmt: skip
    at_least(1, **{name: getattr(s, name) for name in whole})
    at_least(0, value_warmup=s.value_warmup)
    if s.horizon < s.n_obs - 1 + s.n_executed:
        raise ValueError(
            f"horizon must be at least n_obs - 1 + n_executed = {s.n_obs - 1 + s.n_executed}, got {s.horizon}"
        )
    positive = ("lr", "critic_lr", "offline_lr", "offline_clip", "online_clip", "online_lr", "kl_target", "value_lr",
                "grad_norm", "distil_lr", "reward_scale")  # fmt: skip
    for name in positive:
        if not getattr(s, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(s, name)!r}")
    for name in ("beta_reconstruction", "beta_kl", "gate_margin", "lambda_cd"):
        if not getattr(s, name) >= 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(s, name)!r}")
    for name in ("gamma", "lambda_"):
        if not 0 <= getattr(s, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(s, name)!r}")
    if not 0 < s.action_share <= 1:
        raise ValueError(f"action_share must lie in (0, 1], got {s.action_share!r}")
    choices = {
        "process": ("ddim", "flow"), "student_form": ("same-noise", "lcm"), "use": ("teacher", "student"),
    }  # fmt: skip
    for name, allowed in choices.items():
        if getattr(s, name) not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {getattr(s, name)!r}")
    known = ("imitation", "offline", "online", "student")
    if unknown := set(s.stages) - set(known):
        raise ValueError(f"stages must be among {known}, got {sorted(unknown)}")
