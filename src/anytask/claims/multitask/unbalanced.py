"""Three regressions on one narrow layer, with losses of very different scales, drawn unequally often."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

from anytask.core.estimator import Preset
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, flag, real, whole
from anytask.multitask import BalancedAdamW, TaskSampler
from anytask.multitask.parts.task_steps import TaskSteps
from anytask.multitask.shared_trunk import Head, aggregate_of
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, TrainingProblem

#: What each task's loss is multiplied by, and how often it is drawn.
SCALES, RATIOS = (100.0, 1.0, 0.01), {0: 0.6, 1: 0.3, 2: 0.1}


class UnbalancedOptions(Options):
    """Rows of each task."""

    trained: int = whole(2000, "training rows of each task")
    tested: int = whole(1000, "test rows of each task")


@dataclass(frozen=True)
class Rows:
    """Inputs (3, n, 20) and targets (3, n) of the tasks."""

    X: np.ndarray
    Y: np.ndarray


@dataclass(frozen=True)
class UnbalancedData(LoadedData):
    """Rows that a seed draws."""

    def instance(self, seed: int) -> tuple[Rows, Rows]:
        """Return rows to train on and to test on, targets of mean 0 and deviation 1."""
        o, rng = self.options, np.random.default_rng(derive(seed, "unbalanced"))
        X = rng.normal(size=(3, o.trained + o.tested, 20)).astype(np.float32)
        A, c = rng.normal(size=(3, 3, 20)) / np.sqrt(20), rng.normal(size=(3, 3))
        Y = np.einsum("kj,knj->kn", c, np.tanh(2 * np.einsum("kjd,knd->knj", A, X)))
        Y = ((Y - Y.mean(1, keepdims=True)) / Y.std(1, keepdims=True)).astype(np.float32)
        return Rows(X[:, : o.trained], Y[:, : o.trained]), Rows(X[:, o.trained :], Y[:, o.trained :])


class Unbalanced(TrainingProblem):
    """Learn three regressions with one network; their losses' scales and how often they are drawn are given."""

    key = "unbalanced"
    title = "Unbalanced regressions"
    metrics = (
        Metric("error", "Mean squared error by the variance, mean over the tasks", higher_is_better=False),
        Metric("worst", "That of the worst task", higher_is_better=False),
    )
    needs = ("fit(X, Y)",)
    options_class = UnbalancedOptions

    def load(self, source: Any, **options: Any) -> UnbalancedData:
        """Return the tasks, with checked options."""
        return UnbalancedData(Builtin(source), self.check_options(options))

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return none."""
        return ()

    def train(self, entrant: Entrant, data: UnbalancedData, seed: int, progress: Callable[[float], object]) -> Any:
        """Fit a model to the training rows."""
        rows = data.instance(seed)[0]
        return entrant.make(seed=seed).fit(rows.X, rows.Y)

    def test(
        self, entrant: Entrant, trained: Any, data: UnbalancedData, seed: int, progress: Callable[[float], object]
    ) -> Outcome:
        """Measure the error of each task."""
        rows = data.instance(seed)[1]
        errors = np.square(trained.predict(rows.X) - rows.Y).mean(1) / rows.Y.var(1)
        progress(1.0)
        return Outcome({"error": float(errors.mean()), "worst": float(errors.max())}, {"errors": errors.tolist()})


class OneLayer(Preset):
    """A layer of 8 units that three tasks share, a linear head of each, and a way to train them."""

    how: str = choice("tbgn", ("tbgn", "adamw", "uncertainty", "imtl-g"), "one task a step, or all, by a balancer")
    normalize: bool = flag(True, "of tbgn: gradients of one length")
    reweight: bool = flag(True, "of tbgn: moments weighted by 1 / s_k")
    max_grad_norm: float | None = real(None, "of adamw: norm to which gradients are clipped", above=0, optional=True)
    lr: float = real(3e-3, "learning rate at the start of a cosine", above=0)
    steps: int = whole(1500, "steps")
    alike: bool = flag(False, "draw all tasks equally often instead")
    batch_size: int = whole(64, "rows in a step")

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Train on rows of each task."""
        inputs, targets = torch.from_numpy(X), torch.from_numpy(Y)
        with isolated(derive(self.seed, "init")):
            self.trunk_ = nn.Sequential(nn.Linear(20, 8), nn.Tanh())
            heads = [Head(8, 1, self.how == "uncertainty") for _ in SCALES]
        self.heads_ = nn.ModuleList(heads)
        weights = [*self.trunk_.parameters(), *self.heads_.parameters()]
        optimizer: Any = torch.optim.AdamW(weights, self.lr)
        ratios = dict.fromkeys(RATIOS, 1 / 3) if self.alike else RATIOS
        if self.how == "tbgn":
            optimizer = BalancedAdamW(weights, ratios, self.lr, normalize=self.normalize, reweight=self.reweight)
        mixed = TaskSteps(self.trunk_, heads, optimizer, aggregate_of(self.how))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        sampler = TaskSampler(ratios, derive(self.seed, "tasks"))

        def losses(drawn: dict[int, Tensor]) -> Iterator[Tensor]:
            for k, rows in drawn.items():
                off = heads[k](self.trunk_(inputs[k, rows]))[:, 0] - targets[k, rows]
                yield heads[k].weighted(SCALES[k] * off.square().mean())

        with isolated(derive(self.seed, "train")):
            for step in range(self.steps):
                if self.how in ("tbgn", "adamw"):
                    k = sampler.task(step)
                    optimizer.zero_grad()
                    next(losses({k: torch.randint(X.shape[1], (self.batch_size,))})).backward()
                    if self.max_grad_norm is not None:
                        nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
                    optimizer.step(**({"task": k} if self.how == "tbgn" else {}))
                else:  # as many rows, of all tasks
                    counts = sampler.counts(step, self.batch_size)
                    drawn = {k: torch.randint(X.shape[1], (max(1, n),)) for k, n in counts.items()}
                    mixed.step(partial(losses, drawn))
                schedule.step()
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the answers (3, n)."""
        with torch.no_grad():
            z = self.trunk_(torch.from_numpy(X))
            return torch.stack([head(z[k])[:, 0] for k, head in enumerate(self.heads_)]).numpy()


class Linear(Preset):
    """The plain reference: least squares for each task."""

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit each task."""
        self.models_ = [LinearRegression().fit(*pair) for pair in zip(X, Y)]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the answers (3, n)."""
        return np.stack([model.predict(x) for model, x in zip(self.models_, X)])
