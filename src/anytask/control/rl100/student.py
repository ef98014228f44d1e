"""RL-100's last step: a student learns to do with one network call what the teacher does with many."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from anytask.control.rl100.diffusion import EMA, Consistency, Process
from anytask.core.rng import derive


class StudentStage:
    """Distils a teacher into a one-step student; see :meth:`step`.

    Parameters
    ----------
    teacher : nn.Module
        The policy's denoiser; stays as it is.
    student : Consistency
        Where to begin; it is copied.
    process : Process
    features : Tensor (n, width)
        Of what was seen.
    chunks : Tensor (n, horizon, d)
        What was done there; used by ``student_form="lcm"`` alone.
    settings : namespace
        RL-100's.
    number : int
        Which stage of the training this is; its random numbers depend on it.

    Attributes
    ----------
    steps : int
        Optimiser steps taken.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: Consistency,
        process: Process,
        features: Tensor,
        chunks: Tensor,
        settings: SimpleNamespace,
        number: int,
    ) -> None:
        self.teacher, self.process, self.settings, self.number = teacher, process, settings, number
        self.features, self.chunks = features, chunks
        self.student = copy.deepcopy(student).requires_grad_(True)
        self.average = EMA(self.student, settings.student_ema)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=settings.distil_lr, fused=True)
        self.steps = 0

    @property
    def moving(self) -> dict[str, Any]:
        """What changes from step to step, for a checkpoint."""
        return {"student": self.student, "average": self.average, "optimizer": self.optimizer}

    @property
    def learned(self) -> Consistency:
        """The student, averaged over the steps."""
        return self.average.module  # type: ignore[return-value]

    def step(self) -> None:
        """One optimiser step: towards the teacher's action from the same noise, or to consistency along its path."""
        s, device, shape = self.settings, self.features.device, self.chunks.shape[1:]
        generator = torch.Generator(device).manual_seed(derive(s.seed, self.number, "student", self.steps))
        rows = torch.randint(len(self.features), (s.batch_size,), generator=generator, device=device)
        c = self.features[rows]
        if s.student_form == "same-noise":
            noise = torch.randn((len(c), *shape), generator=generator, device=device)
            target = self.process.decide(self.teacher, c, tuple(shape), noise=noise)
            loss = self.student.same_noise_loss(target, noise, c).mean()
        else:
            loss = self.student.consistency_loss(self.learned, self.teacher, self.chunks[rows], c, generator).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.student)
        self.steps += 1
