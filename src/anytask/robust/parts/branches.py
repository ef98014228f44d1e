"""A network with a common stem and one or several branches of their own, trained by SGD on labelled inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from anytask.core.errors import shown
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import group, numbers, of_kind, real, whole
from anytask.core.training import train
from anytask.models.build import backbone_field, build_body
from anytask.parts.views import ViewSettings
from anytask.robust.base import RobustClassifier
from anytask.robust.parts.long_tail import CosineHead


class Branches(nn.Module):
    """From inputs (n, \\*shape) to the logits of each branch (n, K, C)."""

    def __init__(self, stem: nn.Module, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem, self.branches = stem, nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return torch.stack([branch(h) for branch in self.branches], dim=1)


class BranchTraining(RobustClassifier):
    """Base of the classifiers for long tails: a subclass says how many branches there are, and writes :meth:`_loss`.

    Parameters
    ----------
    backbone, hidden, feature_dim
        The stem, as in :func:`~anytask.models.build.build_body`: None is an MLP of widths ``hidden``.
    branch : callable, optional
        ``(d) -> module`` from features (n, d) to features of its own: the late stages, made anew for each branch.
    branch_hidden : sequence of int
        Widths of the layers that are a branch where ``branch`` is None.
    scale : float
        Of the cosines that are the logits.
    views
        Random views that are trained on: :class:`~anytask.parts.views.ViewSettings`.
    steps, batch_size, lr, momentum, weight_decay
        Of SGD with Nesterov's momentum, whose rate falls as a cosine.

    Attributes
    ----------
    prior_ : Tensor of shape (n_classes,)
        Shares of the classes in training, by their weights.
    net_ : Branches
    """

    backbone: Any = backbone_field(None, "the stem, maps inputs to features; None: an MLP of widths hidden")
    hidden: Sequence[int] = numbers((64,), "widths of the stem where it is an MLP", at_least=1, integers=True)
    feature_dim: int = whole(64, "features of a stem that is named")
    branch: Any = of_kind(None, (Callable,), "a callable", "d -> the late stages, for each branch", optional=True)
    branch_hidden: Sequence[int] = numbers((48, 48), "widths of a branch where it is an MLP", at_least=1, integers=True)
    scale: float = real(10.0, "of the cosines that are the logits", above=0)
    views: ViewSettings = group(ViewSettings, "random views that are trained on")
    steps: int = whole(2000, "training steps")
    batch_size: int = whole(64, "inputs in a step")
    lr: float = real(0.01, "highest learning rate of SGD", above=0)
    momentum: float = real(0.9, "of SGD, Nesterov's", above=0, below=1)
    weight_decay: float = real(5e-4, "of SGD", at_least=0)

    # -- what a subclass writes -----------------------------------------------------------------------------------

    def _n_branches(self) -> int:
        return 1

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the loss (n,) of each input, by the logits (n, K, C) of the branches."""
        raise NotImplementedError

    def _chances(self, y: Tensor) -> Tensor | None:
        """Return how often each training input is drawn, relatively; None: each once before any is drawn again."""
        return None

    # -- shared steps ---------------------------------------------------------------------------------------------

    def _build(self) -> None:
        stem, d = build_body(
            self.backbone, self.input_shape_, tuple(self.hidden), self.feature_dim, derive(self.seed, "stem")
        )
        C = len(self.classes_)
        branches = []
        for _ in range(self._n_branches()):
            late, width = self._late(d)
            branches.append(nn.Sequential(late, CosineHead(width, C, self.scale)))
        self.net_ = Branches(stem, branches).to(self._device).eval()

    def _late(self, d: int) -> tuple[nn.Module, int]:
        if self.branch is not None:
            late = copy.deepcopy(self.branch(d))
            if not isinstance(late, nn.Module):
                raise TypeError(f"branch must return a module, got {shown(late)}")
            training = late.training
            try:
                with torch.no_grad():
                    found = late.eval()(torch.zeros(2, d))
            except RuntimeError as error:
                raise ValueError(f"branch made a module that does not read features of shape (n, {d})") from error
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
                got = shown(tuple(found.shape) if isinstance(found, Tensor) else found)
                raise ValueError(f"branch must make modules from (n, {d}) to (n, width), got {got} for n = 2")
            return late.train(training), found.shape[1]
        layers, widths = [], (d, *self.branch_hidden)
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers), widths[-1]

    def _train(self, X: Tensor, y: Tensor, w: Tensor | None, progress: Progress) -> None:
        weights = torch.ones(len(y), device=X.device) if w is None else w
        sums = torch.zeros(len(self.classes_), device=X.device).index_add_(0, y, weights)
        self.prior_ = sums / sums.sum()
        view = self.views.maker(self.input_shape_)
        generator = torch.Generator(X.device).manual_seed(derive(self.seed, "views"))
        chances, left = self._chances(y), [torch.empty(0, dtype=torch.long)]
        size = min(self.batch_size, len(y))

        def draw(step: int) -> tuple[Tensor, Tensor, Tensor]:
            if chances is not None:
                rows = torch.multinomial(chances.cpu(), size, replacement=True)
            else:
                if len(left[0]) < size:
                    left[0] = torch.randperm(len(y))
                rows, left[0] = left[0][:size], left[0][size:]
            return view(X[rows], generator), y[rows], weights[rows]

        def losses(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            x, labels, counts = batch
            return (self._loss(self.net_(x), labels) * counts).sum() / counts.sum()

        sgd = torch.optim.SGD(
            self.net_.parameters(), self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=True
        )
        train(
            self.net_, draw, losses, steps=self.steps, optimizer=sgd, schedule=CosineAnnealingLR(sgd, self.steps),
            progress=progress,
        )  # fmt: skip

    def _scores(self, X: Tensor) -> Tensor:
        return self.net_(X).mean(1)
