"""One of TAME's experts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anytask.continual.parts.stream import LossShiftDetector, Reservoir

_PARTS = ("network", "optimizer", "detector", "samples")


@dataclass(eq=False)
class Expert:
    """One expert: a network with its own optimizer, loss statistics, label slots and pruning buffer.

    Attributes
    ----------
    network : torch.nn.Module
        Maps (n, \\*input_shape) to (n, C).
    optimizer : torch.optim.SGD
        Holds this network's parameters only.
    detector : LossShiftDetector
        The smoothed loss s over all mini-batches and the window w over those in which the expert was active.
    r : float or None
        Smoothed loss over the mini-batches in which the expert was active.
    steps : int
        Optimizer steps so far; the learning-rate schedule counts these.
    slots : ndarray of shape (C, labels seen)
        How often each label code met each of the C outputs while the expert was active.
    masks : dict of bool tensors
        Weights that survived pruning; empty before it.
    samples : Reservoir
        The expert's own (x, y), kept for retraining after pruning.
    """

    network: nn.Module
    optimizer: torch.optim.SGD
    detector: LossShiftDetector
    samples: Reservoir
    slots: np.ndarray
    r: float | None = None
    steps: int = 0
    masks: dict[str, Tensor] = field(default_factory=dict)
    _kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def count(self, slots: np.ndarray, codes: np.ndarray) -> None:
        """Note which label code met which output."""
        more = max(0, int(codes.max()) + 1 - self.slots.shape[1])
        self.slots = np.pad(self.slots, ((0, 0), (0, more)))
        np.add.at(self.slots, (slots, codes), 1)

    @property
    def changed(self) -> bool:
        """Whether the chunk under way has trained it."""
        return self._kept is not None

    def about_to_change(self) -> None:
        """Remember the weights, once per chunk, so that a failed chunk can put them back.

        Experts that a chunk leaves alone are never copied, however many there are.
        """
        if self._kept is None:
            weights = {name: t.detach().clone() for name, t in self.network.state_dict().items()}
            self._kept = weights, copy.deepcopy(self.optimizer.state_dict())

    def stays_changed(self) -> None:
        """Drop the weights of before: the chunk has not failed."""
        self._kept = None

    def __snapshot__(self) -> Callable[[], None]:
        light = {k: v for k, v in vars(self).items() if k not in ("network", "optimizer")}
        parts = self.detector.__snapshot__(), self.samples.__snapshot__()
        light["_kept"] = self._kept = None

        def undo() -> None:
            if self._kept is not None:
                self.network.load_state_dict(self._kept[0])
                self.optimizer.load_state_dict(self._kept[1])
            vars(self).update(light)
            for part in parts:
                part()

        return undo

    def state_dict(self) -> dict[str, Any]:
        """Return everything :meth:`load_state_dict` needs."""
        parts = {name: getattr(self, name).state_dict() for name in _PARTS}
        return {**parts, "r": self.r, "steps": self.steps, "slots": self.slots, "masks": dict(self.masks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.r, self.steps, self.slots = state["r"], state["steps"], state["slots"]
        device = next(self.network.parameters()).device
        self.masks = {name: mask.to(device) for name, mask in state["masks"].items()}
