"""Tasks whose frozen layer is wrong by a change that they share and by one of each: a teacher draws them by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from anytask.core.rng import derive
from anytask.core.settings import flag, whole
from anytask.datasets.inputs import Inputs
from anytask.datasets.target_tables import TargetTable
from anytask.multitask import MTLoRA, SharedTrunk
from anytask.problems.base import Entrant
from anytask.problems.multi_task_training import MultiTaskTraining
from anytask.problems.multi_task_training.data import Instance, MultiTaskData, MultiTaskOptions
from anytask.problems.training import Builtin, Progress


class TeacherOptions(MultiTaskOptions):
    """``n_tasks`` targets of ``per_task`` training and ``tested`` test rows, and the ranks of what is to be learned."""

    n_tasks: int = whole(6, "targets", at_least=2)
    per_task: int = whole(1000, "training rows", at_least=2)
    tested: int = whole(2000, "test rows", at_least=2)
    features: int = whole(16, "inputs, and outputs of the layer")
    common_rank: int = whole(2, "rank of the change that the tasks share", at_least=0)
    own_rank: int = whole(1, "rank of the change of each task", at_least=0)


@dataclass(frozen=True)
class TeacherData(MultiTaskData):
    """``y_t = a_t . GELU((W0 + D + D_t) x)``, of which W0 is known."""

    def instance(self, seed: int) -> Instance:
        """Return inputs and the targets of all tasks."""
        o, rng = self.options, np.random.default_rng(derive(seed, "teacher"))
        d, T, n = o.features, o.n_tasks, o.per_task + o.tested
        X = rng.normal(size=(n, d)).astype(np.float32)

        def change(rank: int) -> np.ndarray:
            U, V = rng.normal(size=(d, rank)), rng.normal(size=(rank, d))
            return 1.5 * U @ V / np.sqrt(d * max(rank, 1))

        D = change(o.common_rank)
        W = self.frozen(seed).weight.detach().double().numpy() + D + np.stack([change(o.own_rank) for _ in range(T)])
        h = nn.functional.gelu(torch.from_numpy(np.einsum("toi,ni->tno", W, X))).numpy()
        y = np.einsum("tno,to->nt", h, rng.normal(size=(T, d)) / np.sqrt(d))
        table = TargetTable(self.source.name, X, _columns(y), None, Inputs((d,)))
        return Instance(table, *np.split(np.arange(n), [o.per_task]))

    def frozen(self, seed: int) -> nn.Linear:
        """Return the layer W0, whose entries have variance 1 / d."""
        d, rng = self.options.features, np.random.default_rng(derive(seed, "frozen layer"))
        layer = nn.Linear(d, d, bias=False)
        layer.weight.data = torch.from_numpy(rng.normal(size=(d, d)) / np.sqrt(d)).float()
        return layer


class Teacher(MultiTaskTraining):
    """Learn several targets with a frozen layer that is nearly right for all of them."""

    key = "teacher"
    options_class = TeacherOptions

    def load(self, source: Any, **options: Any) -> TeacherData:
        """Return the data that seeds draw, with checked options."""
        o = self.check_options(options)
        return TeacherData(Builtin("teacher"), o, kinds={f"t{t}": "regression" for t in range(o.n_tasks)})

    def train(self, entrant: Entrant, data: Any, seed: int, progress: Progress) -> Any:
        """Fit a model, on the frozen layer where it takes a backbone."""
        world, model = data.instance(seed), entrant.make("small", seed=seed)
        if "backbone" in model.get_params(deep=False):
            model.set_params(backbone=nn.Sequential(data.frozen(seed), nn.GELU()))
        return model.fit(*world.shown(world.train), kinds="regression", progress=progress)


class Tuning(MTLoRA):
    """MTLoRA's training without pairs: of the heads alone, or of all weights."""

    full: bool = flag(False, "train the backbone too")

    def _body(self) -> tuple[nn.Module, int]:
        body, width = SharedTrunk._body(self)
        return body.requires_grad_(self.full), width

    _train: Callable[..., None] = SharedTrunk._train
    _features: Callable[..., Any] = SharedTrunk._features
    _steps: Callable[..., Any] = SharedTrunk._steps


def _columns(y: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(y, columns=[f"t{t}" for t in range(y.shape[1])])
