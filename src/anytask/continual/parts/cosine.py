"""Learners with one prototype per class in front of a trained encoder: what PRD and its baseline share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from anytask.continual.base import ContinualClassifier, Embedding
from anytask.continual.parts.prototypes import Prototypes
from anytask.continual.parts.sgd import ScheduleSettings, tune
from anytask.core.checks import require_finite
from anytask.core.rng import derive
from anytask.core.settings import flag, group, numbers, real, whole
from anytask.models.build import backbone_field, build_backbone
from anytask.parts.views import ViewSettings

#: The values tested on a few hundred samples per task.
SMALL: Mapping[str, Any] = {
    "feature_dim": 64, "hidden": (128,), "lr": 0.02, "prototypes_lr": 0.05, "batch_size": 64, "epochs": 15,
}  # fmt: skip


class TaskSchedule(ScheduleSettings):
    """Learning rates over the steps of a task, and how long the first one is trained.

    Parameters
    ----------
    steps_per_epoch, milestones, gamma, warmup_epochs
        As in :class:`~anytask.continual.parts.sgd.ScheduleSettings`.
    first_task_steps : int
        Steps per mini-batch until the first task ends: PRD's paper trains it 220 epochs and the others 100. Give 1 if
        your stream shows the first task longer itself.
    """

    first_task_steps: int = whole(2, "steps per mini-batch, each on fresh views, until the first task ends")


class CosineClassifier(Embedding, ContinualClassifier):
    """An encoder and one prototype per class, trained on two random views of every input; a system writes ``_loss``.

    The encoder is trained by SGD, the prototypes by SGD without momentum and weight decay. A task lasts to the next
    :meth:`end_task`, which starts the optimizer afresh.

    Attributes
    ----------
    encoder_ : torch.nn.Module
    prototypes_ : anytask.continual.parts.prototypes.Prototypes
        One row per label, in order of appearance.
    first_task_ : bool
        Whether no task has ended yet.
    steps_ : int
        Steps in the task under way, which ``schedule`` counts.
    """

    steps_ = 0  # of models saved before there was a schedule
    sees: ClassVar[str] = "test"
    STRUCTURE: ClassVar[tuple[str, ...]] = ("backbone", "feature_dim", "hidden", "relu")

    backbone: Any = backbone_field(None, "the encoder; None for an MLP")
    feature_dim: int = whole(512, "width of features and prototypes")
    hidden: Sequence[int] = numbers((512, 512), "hidden widths of the default encoder", at_least=1, integers=True)
    relu: bool = flag(True, "ReLU on the encoder's output, as after a residual block")
    views: ViewSettings = group(ViewSettings, "how random views are made")
    tau: float = real(0.1, "temperature of cosines", above=0)
    lr: float = real(0.01, "learning rate of the networks", above=0)
    momentum: float = real(0.9, "momentum of the networks", at_least=0, below=1)
    weight_decay: float = real(1e-4, "weight decay of the networks", at_least=0)
    prototypes_lr: float = real(0.01, "learning rate of the prototypes", at_least=0)
    schedule: TaskSchedule = group(TaskSchedule, "learning rates over the steps of a task")
    epochs: int = whole(100, "passes of fit over its data")

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of views x (2B, \\*input_shape) with codes y (2B,)."""
        raise NotImplementedError

    def _networks(self) -> list[nn.Module]:
        """Return what SGD trains."""
        return [self.encoder_]

    def _start(self) -> None:
        self.first_task_ = True
        self.steps_ = 0

    def _build(self) -> None:
        self.views.maker(self.input_shape_)  # refused before anything is trained
        seed = derive(self.seed, "encoder")
        encoder = build_backbone(self.backbone, self.input_shape_, self.feature_dim, seed=seed, hidden=self.hidden)
        self.encoder_: nn.Module = nn.Sequential(encoder, nn.ReLU()) if self.relu else encoder
        self.encoder_.to(self._device)
        self.prototypes_ = Prototypes(self.feature_dim).to(self._device)
        self.prototypes_.grow(len(self.labels_))
        self.optimizer_ = self._fresh_optimizer()

    def _fresh_optimizer(self) -> torch.optim.SGD:
        return torch.optim.SGD([p for net in self._networks() for p in net.parameters()], **self._sgd())

    def _sgd(self) -> dict[str, Any]:
        return {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        self.prototypes_.grow(len(self.labels_))
        augment = self.views.maker(self.input_shape_)
        for net in self._networks():
            net.train()
        for number, part in enumerate(self._minibatches(len(X))):
            generator = torch.Generator(X.device).manual_seed(derive(self.seed, "views", self.n_chunks_, number))
            for _ in range(self.schedule.first_task_steps if self.first_task_ else 1):
                views = torch.cat([augment(X[part], generator), augment(X[part], generator)])  # (2B, *input_shape)
                self._step(require_finite(views, "a random view of the inputs"), y[part].repeat(2))

    def _step(self, x: Tensor, y: Tensor) -> None:
        tune(self.optimizer_, **{**self._sgd(), "lr": self.schedule.rate(self.lr, self.steps_)})
        loss, P = self._loss(x, y), self.prototypes_.weight
        require_finite(loss.detach(), f"the loss in chunk {self.n_chunks_}", "lower lr, or scale the inputs")
        self.optimizer_.zero_grad()
        P.grad = None
        loss.backward()
        self.optimizer_.step()
        if P.grad is not None:
            with torch.no_grad():
                P.sub_(self.schedule.rate(self.prototypes_lr, self.steps_) * P.grad)
        P.grad = None
        self.steps_ += 1

    def end_task(self) -> Self:
        """Go over to one step per mini-batch, with a fresh optimizer."""
        if self.__sklearn_is_fitted__():
            self.first_task_, self.steps_ = False, 0
            self.optimizer_ = self._fresh_optimizer()
        return self

    def _scores(self, X: Tensor, task: object) -> Tensor:
        return self._mask_to_task(self.prototypes_(self._embed(X)) / self.tau, task)

    def _embed(self, X: Tensor) -> Tensor:
        self.encoder_.eval()
        return self.encoder_(X)
