"""Two digits on one canvas, each a task; the labels of the second are partly wrong in training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from anytask.core.rng import derive
from anytask.core.settings import real
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import load_labelled
from anytask.datasets.target_tables import TargetTable
from anytask.multitask import SharedTrunk
from anytask.multitask.parts.task_steps import Aggregate, TaskSteps
from anytask.problems.multi_task_training import MultiTaskTraining
from anytask.problems.multi_task_training.data import Instance, MultiTaskData, MultiTaskOptions
from anytask.problems.training import Builtin


class OverlaidOptions(MultiTaskOptions):
    """``per_task`` training and ``tested`` test canvases, and how many of the second digit's labels are wrong."""

    noise: float = real(0.5, "share of the second digit's training labels that are drawn anew", at_least=0, at_most=1)


@dataclass(frozen=True)
class OverlaidData(MultiTaskData):
    """Canvases that a seed draws."""

    def instance(self, seed: int) -> Instance:
        """Return canvases with a digit in the upper left and one in the lower right corner, the lighter on top."""
        o, rng = self.options, np.random.default_rng(derive(seed, "overlaid"))
        images, labels = _digits(self.source.name)  # (n, side, side) in [0, 1]
        side, order = images.shape[1], rng.permutation(len(labels))
        pools = zip(np.split(order, [len(order) // 2]), (o.per_task, o.tested))  # of training, and of the test
        pairs = np.concatenate([rng.choice(pool, (n, 2)) for pool, n in pools])  # (n, 2): which digits
        X = np.zeros((len(pairs), 3 * side // 2, 3 * side // 2), np.float32)
        X[:, :side, :side] = images[pairs[:, 0]]
        lower = X[:, side // 2 :, side // 2 :]
        np.maximum(lower, images[pairs[:, 1]], out=lower)
        y = labels[pairs]
        wrong = np.flatnonzero(rng.random(o.per_task) < o.noise)
        y[wrong, 1] = rng.integers(10, size=len(wrong))
        X, Y = X.reshape(len(X), -1), pd.DataFrame(y, columns=["upper", "lower"])
        table = TargetTable(self.source.name, X, Y, None, Inputs((X.shape[1],)))
        return Instance(table, *np.split(np.arange(len(X)), [o.per_task]))


class Overlaid(MultiTaskTraining):
    """Name both digits of a canvas, though half of the second's training labels are drawn at random."""

    key = "overlaid"
    options_class = OverlaidOptions

    def load(self, source: Any, **options: Any) -> OverlaidData:
        """Return canvases of the images of a labelled data set, with checked options."""
        kinds = dict.fromkeys(("upper", "lower"), "classification")
        return OverlaidData(Builtin(source), self.check_options(options), kinds=kinds)


@lru_cache(maxsize=2)
def _digits(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, side, side) in [0, 1] and labels (n,)."""
    plain = load_labelled(name)
    images = np.asarray(plain.X[np.arange(len(plain.y))], dtype=np.float32)[:, 0]
    return images / images.max(), np.asarray(plain.y)


class SharpnessAware(SharedTrunk):
    """One sharpness-aware step on the sum of the losses: all tasks are perturbed alike."""

    rho: float = real(0.1, "radius of the perturbation", at_least=0)

    def _steps(self, optimizer: torch.optim.Optimizer, aggregate: Aggregate) -> TaskSteps:
        return TaskSteps(self.trunk_, [self.heads_], optimizer, aggregate, rho=self.rho)

    def _losses(self, x: Tensor, place: Tensor, task: Tensor, y: Tensor) -> Iterator[Tensor]:
        yield torch.stack(list(super()._losses(x, place, task, y))).sum()
