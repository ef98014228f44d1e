"""RL-100's imitation by denoising, and its one-step student: what averages the weights of a supervised training."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytask.control.parts.checkpoint import Checkpoint
from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.rl100.data import Decisions
from anytask.control.rl100.diffusion import Consistency, averaged
from anytask.core.checks import require_finite
from anytask.core.progress import Progress, portion
from anytask.core.rng import derive


@dataclass(frozen=True)
class Run:
    """One stage on its way: what it saves, whom it tells, and where its random numbers come from."""

    saved: Checkpoint
    progress: Progress
    seed: tuple[int, int]  # the policy's, and the number of the stage
    device: torch.device

    def generator(self, *path: object) -> torch.Generator:
        """Return random numbers of their own for a step or a part of the stage."""
        return torch.Generator(self.device).manual_seed(derive(*self.seed, *path))

    def steps(self, total: int, moving: Mapping[str, Any], start: float = 0.0) -> Iterator[int]:
        """Yield the steps that are still to do; they make up the share from ``start`` on of the stage."""
        return self.saved.steps(total, moving, portion(self.progress, start, 1.0))


def imitate(policy: Any, data: Decisions, run: Run) -> tuple[ObservationEncoder, nn.Module]:
    """Train the policy's encoder and denoiser on recorded chunks; return the averages of both."""
    s, encoder, net, process, (seed, stage) = policy.imitation, policy.encoder_, policy.net_, policy.process, run.seed
    per_epoch = -(-data.n // s.batch_size)
    betas = {"reconstruction": policy.encoder.beta_reconstruction, "kl": policy.encoder.beta_kl}

    @functools.lru_cache(maxsize=1)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng(derive(seed, "imitation", stage, epoch)).permutation(data.n)

    def loss(step: int, average: nn.Module) -> Tensor:
        epoch, place = divmod(step, per_epoch)
        rows = order(epoch)[place * s.batch_size : (place + 1) * s.batch_size]
        generator = run.generator("imitation", step)
        c, extra = encoder.regularized(data.window(rows), generator)  # (m, width)
        total = process.loss(net, data.chunks[torch.as_tensor(rows, device=run.device)], c, generator).mean()
        for name in sorted(extra, reverse=True):
            total = total + betas[name] * extra[name]
        return total

    both = nn.ModuleList([encoder, net])
    steps = s.epochs * per_epoch
    return tuple(_averaged_training(both, "both", loss, steps, s, run, weight_decay=1e-6))


def distil_student(policy: Any, data: Decisions, run: Run) -> Consistency:
    """Train a copy of the policy's one-step student, or a new one, on recorded decisions; return its average.

    With the form ``"lcm"`` it also learns from what was done.
    """
    settings, teacher = policy.student, policy.net_
    student = copy.deepcopy(policy.student_ or Consistency(teacher, policy.process)).requires_grad_(True)
    features = data.features(policy.encoder_, np.arange(data.n))  # (n, width)

    def loss(step: int, average: nn.Module) -> Tensor:
        generator = run.generator("student", step)
        rows = torch.randint(data.n, (policy.imitation.batch_size,), generator=generator, device=run.device)
        c = features[rows]  # (m, width)
        if settings.form == "lcm":
            return student.consistency_loss(average, teacher, data.chunks[rows], c, generator).mean()
        return student.same_noise_loss(teacher, student.process.noise(c, generator), c).mean()

    return _averaged_training(student, "student", loss, settings.steps, settings, run)


def _averaged_training(
    module: nn.Module, name: str, loss: Callable[[int, nn.Module], Tensor], steps: int, settings: Any, run: Run,
    weight_decay: float = 1e-2,
) -> Any:  # fmt: skip
    """Train a module by AdamW on ``loss(step, average)``, and return its moving average."""
    average = averaged(module, settings.ema_decay)
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=weight_decay, fused=True)
    for step in run.steps(steps, {name: module, "average": average, "optimizer": optimizer}):
        descend(optimizer, loss(step, average.module))
        average.update_parameters(module)
    return average.module


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_grad_norm: float = math.inf) -> None:
    """Take one optimizer step on a loss () whose gradient is finite."""
    advice = "lower the lr, or check the scale of the data"
    require_finite(loss, "the loss", advice)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    require_finite(nn.utils.clip_grad_norm_(weights, max_grad_norm), "the gradient", advice)
    optimizer.step()
