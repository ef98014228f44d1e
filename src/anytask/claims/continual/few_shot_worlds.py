"""Rows of few-shot tasks whose classes differ in what the base did not teach, and what TSC is compared with there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from anytask.continual.fscl_tsc import TSC
from anytask.datasets.labelled import load_labelled
from anytask.problems.base import Entrant
from anytask.problems.task_stream import TaskStream
from anytask.problems.task_stream.stream import Stream, StreamData

N_BASE, N_CLASSES, PER_CLASS = 20, 100, 80


def latent_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (n, 64) and labels; the latent means of the first :data:`N_BASE` classes use 5 of 12 dimensions."""
    rng = np.random.default_rng([51, seed])
    means = rng.normal(size=(N_CLASSES, 12))
    means[:N_BASE, 5:] = 0
    means[N_BASE:, :5] *= 0.4
    y = np.repeat(np.arange(N_CLASSES), PER_CLASS)
    z = means[y] + 0.35 * rng.normal(size=(len(y), 12))
    A, B = rng.normal(size=(12, 96)) * 1.5 / np.sqrt(12), rng.normal(size=(96, 64)) * 1.5 / np.sqrt(96)
    nuisance = rng.normal(size=(len(y), 30)) @ rng.normal(size=(30, 64))
    return np.tanh(z @ A) @ B + 0.6 * nuisance, y


@dataclass(frozen=True)
class Worlds(StreamData):
    """A world of its own for each seed."""

    def stream(self, seed: int) -> Stream:
        """Return the stream of this seed."""
        return Stream(replace(self, source=load_labelled(latent_classes(seed))), seed)


class LatentClasses(TaskStream):
    """Meet classes whose differences the base did not teach, a few rows of a few classes at a time."""

    key = "latent-classes"
    data_class = Worlds

    def load(self, source: Any, **options: Any) -> Any:
        """Return the world of seed 0 with checked options; other seeds make others."""
        return super().load(latent_classes(0), base=[str(c) for c in range(N_BASE)], **options)


class TurnedNegatives(TaskStream):
    """Meet digits at four quarter turns, which make four classes of each, a random half of them light on dark."""

    key = "turned-negatives"

    def load(self, source: Any, **options: Any) -> Any:
        """Return square images with values in [0, 1] at four quarter turns, half inverted, with checked options."""
        labelled = load_labelled(source)
        X = np.asarray(labelled.X[np.arange(len(labelled.y))])
        turned = np.concatenate([np.rot90(X, k, axes=(-2, -1)) for k in range(4)])
        half = np.random.default_rng(0).random(len(turned)) < 0.5
        turned[half] = 1 - turned[half]
        return super().load((turned, np.array([f"{c} turned {k}" for k in range(4) for c in labelled.y])), **options)


class JointTSC(TSC):
    """The network and classifier of TSC, trained on the rows of all few-shot tasks so far: full batches of all kept."""

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        if not self.base_:
            self.memory_.add(X, y)
            X, y = (part.to(self._device) for part in self.memory_.data())
            order = y.argsort(stable=True)
            X, y = X[order], y[order]
        super()._learn(X, y, task)

    def _end_task(self) -> None:
        if self.base_:
            super()._end_task()
        self.slow_.load_state_dict(self.fast_.state_dict())


def variant(name: str, role: Any = "ablation", **params: Any) -> Entrant:
    """Return TSC with these parameters under a name."""
    return Entrant(name, "anytask.continual:TSC", params, role, "fscl-tsc" if role == "system" else None)


_ONE = {"slow": {"eta": 1.0, "m": 0.0}}  # slow weights are the fast ones
#: Learners that keep one set of weights, first those with TSC's network and classifier.
RIVALS = (
    variant("imprinting", "baseline", lr=0.0),
    variant("fine-tuning", "baseline", fast={"init": "fast", "lambda_": 0.0}, **_ONE),
    variant("mas (one set of weights)", "baseline", fast={"init": "fast"}, **_ONE),
    variant("ewc (one set of weights)", "baseline", fast={"init": "fast"}, importance={"kind": "fisher"}, **_ONE),
    *(Entrant(f"{c.lower()} (linear head)", f"anytask.continual:{c}", {}, "baseline") for c in ("MAS", "EWC", "LwF")),
)
PLAIN = Entrant("nearest mean", "anytask.continual:NearestClassMean", {}, "baseline")
JOINT = Entrant("joint training", f"{__name__}:JointTSC", {"batch_size": 1000, "fast": {"lambda_": 0.0}}, "baseline")
