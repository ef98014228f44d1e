"""RL-100's first stage: encoder and denoiser learn from demonstrations by denoising recorded actions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from anytask.control.parts.observation_encoders import ObservationEncoder
from anytask.control.rl100.data import Decisions
from anytask.control.rl100.diffusion import EMA, Process
from anytask.core.rng import derive


class ImitationStage:
    """Trains an encoder and a denoiser together; see :meth:`step`.

    Parameters
    ----------
    encoder, net : ObservationEncoder, nn.Module
        Trained in place; what is delivered, :attr:`learned`, are their moving averages.
    process : Process
    data : Decisions
    settings : namespace
        RL-100's.
    number : int
        Which stage of the training this is; its random numbers depend on it.

    Attributes
    ----------
    steps, total : int
        Optimiser steps taken, and to take.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        net: nn.Module,
        process: Process,
        data: Decisions,
        settings: SimpleNamespace,
        number: int,
        device: torch.device,
    ) -> None:
        self.encoder, self.net, self.process, self.data, self.settings = encoder, net, process, data, settings
        self.number, self.device = number, device
        both = nn.ModuleList([encoder, net]).requires_grad_(True)
        trained = [p for p in both.parameters() if p.requires_grad]
        self.both, self.average = both, EMA(both, settings.ema_decay)
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=1e-6, fused=True)
        self.per_epoch = -(-data.n // settings.batch_size)
        self.steps, self.total = 0, settings.imitation_epochs * self.per_epoch
        self._order = np.empty(0, dtype=np.int64)

    @property
    def moving(self) -> dict[str, Any]:
        """What changes from step to step, for a checkpoint."""
        return {"both": self.both, "average": self.average, "optimizer": self.optimizer}

    @property
    def learned(self) -> tuple[ObservationEncoder, nn.Module]:
        """Encoder and denoiser, averaged over the steps."""
        averaged: Any = self.average.module
        return averaged[0], averaged[1]

    def step(self) -> None:
        """One optimiser step on ``L_IL`` and the encoder's regularisers, over a batch of the epoch's permutation."""
        s, data = self.settings, self.data
        epoch, place = divmod(self.steps, self.per_epoch)
        if place == 0 or len(self._order) == 0:
            self._order = np.random.default_rng(derive(s.seed, "imitation", self.number, epoch)).permutation(data.n)
        rows = self._order[place * s.batch_size : (place + 1) * s.batch_size]
        generator = torch.Generator(self.device).manual_seed(derive(s.seed, self.number, "imitation", self.steps))
        c, extra = self.encoder.regularised(data.window(rows), generator)
        chunks = data.chunks[torch.as_tensor(rows, device=self.device)]
        loss = self.process.loss(self.net, chunks, c, generator).mean()
        for name, weight in (("reconstruction", s.beta_reconstruction), ("kl", s.beta_kl)):
            if name in extra:
                loss = loss + weight * extra[name]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.both)
        self.steps += 1
