"""RL-100's settings, in groups; the defaults are the released configuration for point clouds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anytask.control.parts.observation_encoders import trunk_field
from anytask.core.settings import Settings, choice, flag, numbers, of_kind, real, whole

#: A few hundred short episodes with a few numbers as observations.
SMALL: dict[str, Any] = {
    "horizon": 1, "n_obs": 1, "n_executed": 1,
    "diffusion": {"n_steps": 5, "sigma_min": 0.05, "action_share": 0.8, "hidden": (128, 128)},
    "imitation": {"lr": 0.001, "epochs": 300, "ema_decay": 0.995},
    "critics": {"hidden": (128, 128), "lr": 0.001, "epochs": 120},
    "dynamics": {"hidden": (64, 64), "steps": 400},
    "offline": {
        "steps": 300, "lr": 3e-5, "clip": 0.1, "batch_size": 256, "gate_every": 10, "gate_states": 128,
        "gate_margin": 0.0,
    },
    "online": {"decisions": 512, "lr": 3e-5, "lr_bounds": (3e-6, 0.0003), "value_lr": 0.001, "value_warmup": 10},
    "student": {"steps": 500, "lr": 0.001, "ema_decay": 0.995},
}  # fmt: skip


class EncoderSettings(Settings):
    """The encoder, as in :class:`~anytask.control.parts.observation_encoders.ObservationEncoder`."""

    trunks: Any = trunk_field(None, "trunk of all observations, or per key")
    width: int | None = whole(None, "width of trunks that have a choice; None: their own", optional=True)
    bottleneck: int | None = whole(None, "width of a variational bottleneck; None: no bottleneck", optional=True)
    reconstruct: bool = flag(False, "regularize by reconstruction of what is seen")
    beta_reconstruction: float = real(1.0, "weight of the reconstruction", at_least=0)
    beta_kl: float = real(1e-3, "weight of the bottleneck's divergence", at_least=0)


class DiffusionSettings(Settings):
    """The policy: a denoising process, and the network ``denoiser(action_shape, width)`` makes."""

    process: str = choice("ddim", ("ddim", "flow"), "noise prediction, or flow matching with a stochastic sampler")
    n_train: int = whole(100, "training steps of the schedule")
    n_steps: int = whole(10, "denoising steps per action")
    eta: float = real(1.0, "noise in stochastic chains; at most 1 for ddim", at_least=0)
    sigma_min: float = real(0.0067, "least standard deviation of a denoising step", above=0)
    sigma_max: float | None = real(None, "largest one; None: no bound", above=0, optional=True)
    clip: bool = flag(True, "clip predicted clean actions to [-1, 1] within the chain")
    noise: str = choice(
        "predicted", ("predicted", "recomputed"),
        "that ddim adds to a clipped action: as predicted, or recomputed from it (clipped entries have no gradient)",
    )  # fmt: skip
    action_share: float = real(1.0, "share of [-1, 1] at which the data's extreme actions lie", above=0, at_most=1)
    denoiser: Any = of_kind(
        None, (Callable,), "a callable (action_shape, width) -> module",
        "makes the network; None: a perceptron with the hidden layers", optional=True,
    )  # fmt: skip
    hidden: Sequence[int] = numbers((1024, 1024, 1024), "hidden layers of the perceptron", at_least=1, integers=True)

    def _check_settings(self) -> None:
        if self.process == "ddim" and self.eta > 1:
            raise ValueError(f"eta must be in [0, 1] for ddim, got {self.eta!r}")
        if self.process == "ddim" and self.n_train < self.n_steps:
            raise ValueError(f"n_train must be at least n_steps = {self.n_steps}, got {self.n_train}")
        if self.sigma_max is not None and self.sigma_max < self.sigma_min:
            raise ValueError(f"sigma_max must be at least sigma_min = {self.sigma_min}, got {self.sigma_max!r}")


class ImitationSettings(Settings):
    """Imitation by AdamW."""

    epochs: int = whole(3000, "passes over the demonstrations")
    batch_size: int = whole(256, "decisions per step, in the student's training too")
    lr: float = real(1.4e-4, "learning rate", above=0)
    ema_decay: float = real(0.9999, "largest decay of the averaged weights, which are delivered", at_least=0, below=1)


class CriticSettings(Settings):
    """Implicit Q-learning."""

    hidden: Sequence[int] = numbers((512, 512), "hidden layers", at_least=1, integers=True)
    epochs: int = whole(400, "passes over the data")
    batch_size: int = whole(256, "decisions per step")
    lr: float = real(1.4e-4, "learning rate", above=0)
    omega: float = real(0.7, "expectile of V", at_least=0.5, below=1)
    target_rate: float = real(0.005, "how far target networks move at every second step", above=0, at_most=1)


class DynamicsSettings(Settings):
    """The ensemble that predicts the next features."""

    hidden: Sequence[int] = numbers((200, 200, 200), "hidden layers", at_least=1, integers=True)
    members: int = whole(7, "networks that are trained")
    elites: int = whole(5, "best ones, which are used")
    steps: int = whole(20_000, "optimizer steps")

    def _check_settings(self) -> None:
        if self.elites > self.members:
            raise ValueError(f"elites must lie in 1..members = {self.members}, got {self.elites}")


class OfflineSettings(Settings):
    """Gated policy optimization on recorded data; learning rate and clip range fall linearly to 0."""

    steps: int = whole(8000, "batches")
    batch_size: int = whole(512, "decisions per batch")
    lr: float = real(1e-5, "learning rate at the start", above=0)
    clip: float = real(0.25, "clip range at the start", above=0)
    gate: bool = flag(True, "let a candidate through only if its estimated value beats the best one (off: an ablation)")
    gate_every: int = whole(50, "batches between two checks")
    gate_states: int = whole(512, "roll-outs of the learned world per check")
    gate_margin: float = real(0.05, "least improvement, as a share of the best value", at_least=0)
    rollout_length: int = whole(20, "decisions per roll-out")
    shuffle_advantages: bool = flag(False, "shuffle advantages over the batch (an ablation that must hurt)")


class OnlineSettings(Settings):
    """Policy optimization on whole episodes of the policy's own."""

    decisions: int = whole(2048, "decisions per round, episodes played out")
    epochs: int = whole(10, "passes over each round")
    batch_size: int = whole(128, "decisions per mini-batch")
    clip: float = real(0.2, "clip range", above=0)
    lr: float = real(3e-6, "learning rate at the start", above=0)
    lr_bounds: Sequence[float] = numbers((5e-7, 1e-5), "of the KL-adaptive learning rate", above=0, length=2)
    target_kl: float = real(0.02, "KL divergence per pass that it aims at", above=0)
    lambda_: float = real(0.95, "trace decay of the advantages", at_least=0, at_most=1)
    value_lr: float = real(3e-4, "learning rate of the value network", above=0)
    value_warmup: int = whole(0, "its passes over the first round before the policy moves", at_least=0)

    def _check_settings(self) -> None:
        if not self.lr_bounds[0] <= self.lr <= self.lr_bounds[1]:
            raise ValueError(f"lr must lie within its bounds lr_bounds={self.lr_bounds!r}, got {self.lr!r}")


class StudentSettings(Settings):
    """The one-step student."""

    steps: int = whole(10_000, "optimizer steps")
    lr: float = real(1.4e-4, "learning rate", above=0)
    ema_decay: float = real(0.999, "largest decay of the averaged weights, which are delivered", at_least=0, below=1)
    form: str = choice("same-noise", ("same-noise", "lcm"), "teacher's action from the same noise, or consistency")
    weight: float = real(1.0, "of its loss when it is trained along with the policy", at_least=0)
