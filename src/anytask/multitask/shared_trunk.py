"""One network for all tasks: a trunk that they share, a linear head for each, and a way to balance their gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.core.checks import require_finite_weights
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, numbers, real, whole
from anytask.models.build import backbone_field, build_body
from anytask.multitask.base import Cells, MultiTaskEstimator
from anytask.multitask.parts.task_steps import Aggregate, TaskSteps, total

__all__ = ["SharedTrunk"]

#: Ways to balance tasks: aggregators of torchjd by their names there, with their settings; and those without it.
_AGGREGATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "upgrad": ("UPGrad", {}), "mgda": ("MGDA", {}), "pcgrad": ("PCGrad", {}), "cagrad": ("CAGrad", {"c": 0.4}),
    "imtl-g": ("IMTLG", {}),
}  # fmt: skip
BALANCERS = ("sum", "uncertainty", *_AGGREGATORS)


class SharedTrunk(MultiTaskEstimator):
    """A network for several tasks at once, with a trunk that they share and a head of each.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        The trunk, from inputs to features: None for a perceptron, or what
        :func:`~anytask.models.build.build_backbone` takes. Parts of a module whose weights are all frozen
        (``requires_grad=False``) stay as they are, running statistics and dropout too.
    hidden : tuple of int, default (128, 64)
        Widths of the perceptron.
    n_features : int or None
        Width of the features of a backbone that is named.
    scale_inputs : bool, default True
        Shift and scale each value of an input to mean 0 and deviation 1 over the training rows.
    balancer : {"sum", "uncertainty", "upgrad", "mgda", "pcgrad", "cagrad", "imtl-g"}, default "sum"
        How the tasks' gradients become one: their sum; weights ``exp(-s_t)`` that are learned with the loss
        ``sum_t exp(-s_t) L_t + s_t`` (Kendall et al., 2018); or an aggregator of torchjd.
    lr, epochs, batch_size
        Of Adam, passes over the rows, rows of a mini-batch.
    max_steps : int or None, default 20000
        At most so many updates, in whole passes, one at least: of more than 6,400 rows the defaults make fewer than 200
        passes (of 100,000 rows 12). None: no bound.
    standardize, seed, device
        See :class:`~anytask.multitask.base.MultiTaskEstimator`.

    Raises
    ------
    ImportError
        If torchjd, of which the balancer is, is missing.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 4))
    >>> Y = np.stack([X[:, 0] + X[:, 1], X[:, 0] - X[:, 1]], axis=1)
    >>> model = SharedTrunk(epochs=30, lr=3e-3).fit(X[:200], Y[:200])
    >>> bool(np.abs(model.predict(X[200:]) - Y[200:]).mean() < 0.5)
    True
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {}}

    backbone: Any = backbone_field(None, "the trunk, from inputs to features")
    hidden: Sequence[int] = numbers((128, 64), "widths of the perceptron", at_least=1, integers=True)
    n_features: int | None = whole(None, "width of a named backbone's features", optional=True)
    scale_inputs: bool = flag(True, "bring the values of inputs to mean 0 and deviation 1")
    balancer: str = choice("sum", BALANCERS, "how the tasks' gradients become one")
    lr: float = real(1e-3, "learning rate of Adam", above=0)
    epochs: int = whole(200, "passes over the rows")
    batch_size: int = whole(64, "rows of a mini-batch")
    max_steps: int | None = whole(20000, "at most so many updates, in whole passes; None: no bound", optional=True)

    def _check_settings(self) -> None:
        aggregate_of(self.balancer)

    def _build(self) -> None:
        body, width = self._body()
        self.trunk_ = Trunk(Scaled(self.input_shape_), body).to(self._device).eval()
        learned = self.balancer == "uncertainty"
        outputs = map(self._width, range(len(self.tasks_)))
        self.heads_ = nn.ModuleList(Head(width, n, learned) for n in outputs).to(self._device)

    def _body(self) -> tuple[nn.Module, int]:
        """Return the trunk behind the scaling of inputs, and the width of its features."""
        seed = derive(self.seed, "trunk")
        return build_body(self.backbone, self.input_shape_, self.hidden, self.n_features, seed)

    def _train(self, cells: Cells, progress: Progress) -> None:
        labelled, starts = cells.row.unique(), torch.arange(len(cells.X) + 1, device=cells.row.device)
        starts = torch.searchsorted(cells.row, starts)  # of each row's cells
        if self.scale_inputs:
            cast(Scaled, self.trunk_[0]).fit(cells.X[labelled])
        weights = [weight for module in (self.trunk_, self.heads_) for weight in module.parameters()]
        batches, epochs = -(-len(labelled) // self.batch_size), self.epochs
        if self.max_steps is not None:
            epochs = max(1, min(epochs, self.max_steps // batches))
        optimizer = self._optimizer([weight for weight in weights if weight.requires_grad], epochs * batches)
        steps = self._steps(optimizer, aggregate_of(self.balancer))
        self.trunk_.train()
        for epoch in range(1, epochs + 1):
            for rows in labelled[torch.randperm(len(labelled), device=starts.device)].split(self.batch_size):
                if len(rows) > 1 or self.batch_size == 1 or len(labelled) == 1:  # a last row has no statistics
                    steps.step(partial(self._losses, *_batch(cells, starts, rows)))
            progress(epoch / epochs)
        self.trunk_.eval()
        require_finite_weights([self.trunk_, self.heads_], "after training")

    def _optimizer(self, weights: list[nn.Parameter], n_steps: int) -> torch.optim.Optimizer:
        return torch.optim.Adam(weights, self.lr)

    def _steps(self, optimizer: torch.optim.Optimizer, aggregate: Aggregate) -> TaskSteps:
        return TaskSteps(self.trunk_, list(self.heads_), optimizer, aggregate)

    def _features(self, X: Tensor, codes: Sequence[int]) -> list[Tensor]:
        """Return what the head of each of the tasks reads (n, d): here the same for all."""
        return [self.trunk_(X)] * len(codes)

    def _losses(self, x: Tensor, place: Tensor, task: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Give each task's mean loss over its labelled cells: ``y`` of the row ``place`` of x; 0 where it has none."""
        every = self._features(x, range(len(self.tasks_)))  # (b, d) each
        for code, (head, z) in enumerate(zip(cast(Iterable[Head], self.heads_), every)):
            own = task == code
            if not own.any():
                yield 0 * z.sum()
                continue
            out, truth = head(z[place[own]]), y[own]
            numbers_ = self.classes_[code] is None
            loss = (out[:, 0] - truth).square().mean() if numbers_ else F.cross_entropy(out, truth.long())
            yield head.weighted(loss)

    def _outputs(self, X: Tensor, codes: list[int]) -> list[Tensor]:
        return [self.heads_[code](z) for code, z in zip(codes, self._features(X, codes))]


class Trunk(nn.Sequential):
    """Scaled inputs through a network, whose parts with frozen weights alone stay in evaluation mode.

    Their running statistics and dropout stand still.
    """

    def train(self, mode: bool = True) -> Trunk:
        """Set the mode of all parts but those."""
        super().train(mode)
        for module in self.modules() if mode else ():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()
        return self


class Scaled(nn.Module):
    """Shift and scale the values of inputs: by nothing until it is fitted."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def fit(self, X: Tensor) -> None:
        """Take the mean and the deviation of X; constant values are shifted alone."""
        wide = X.double()  # squares of large numbers have room
        mean, scale = wide.mean(0), wide.std(0, correction=0)
        self.mean, self.scale = mean.float(), torch.where(scale > 1e-6 * wide.abs().amax(0), scale, 1.0).float()

    def forward(self, x: Tensor) -> Tensor:
        """Return inputs of mean 0 and deviation 1."""
        return (x - self.mean) / self.scale


class Head(nn.Linear):
    """A linear head; with ``learned``, the logarithm s of its task's variance beside it."""

    def __init__(self, width: int, outputs: int, learned: bool) -> None:
        super().__init__(width, outputs)
        self.log_variance = nn.Parameter(torch.zeros(())) if learned else None

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs (n, k) for features (n, d), those of a backbone in half precision too."""
        return super().forward(z.float())

    def weighted(self, loss: Tensor) -> Tensor:
        """Return ``exp(-s) loss + s``, or the loss itself."""
        return loss if self.log_variance is None else (-self.log_variance).exp() * loss + self.log_variance


def aggregate_of(balancer: str) -> Aggregate:
    """Return what takes the tasks' gradients (T, d) to one; of torchjd for all but "sum" and "uncertainty"."""
    if balancer not in _AGGREGATORS:
        return total
    name, settings = _AGGREGATORS[balancer]
    try:
        from torchjd import aggregation

        aggregator: Any = getattr(aggregation, name)(**settings)
    except ImportError as error:
        raise ImportError(f"balancer={balancer!r} needs torchjd: pip install 'anytask[multitask]'") from error

    def aggregate(gradients: Tensor) -> Tensor:
        there = gradients[gradients.any(1)]  # a task that has no row in a batch has no say in its direction
        return aggregator(there) if len(there) else gradients.sum(0)

    return aggregate


def _batch(cells: Cells, starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the inputs of some rows, and of each of their cells the place among these, the task and the target."""
    first, n = starts[rows], starts[rows + 1] - starts[rows]
    place = torch.arange(len(rows), device=rows.device).repeat_interleave(n)
    inside = torch.arange(len(place), device=rows.device) - (n.cumsum(0) - n)[place]
    cell = first[place] + inside
    return cells.X[rows], place, cells.task[cell], cells.y[cell].float()
