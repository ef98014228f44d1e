"""Cosine fine-tuning: the plain baseline of prototype methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier, parameter_count
from anytask.continual.parts.prototypes import Prototypes
from anytask.continual.parts.views import Augment, make_augment
from anytask.core.rng import derive
from anytask.models.build import Backbone, build_backbone

__all__ = ["CosineFineTuning"]


class CosineFineTuning(ContinualClassifier):
    """Cross-entropy on cosines with one prototype per class, and nothing against forgetting.

    The baseline for systems with a cosine classifier: same encoder, views and optimiser as
    :class:`~anytask.continual.prd.PRD`, so a difference between the two is due to PRD's losses.

    Parameters
    ----------
    backbone, feature_dim, hidden, relu, augment, image_shape, noise_scale, max_shift, lr, momentum, weight_decay, \
prototypes_lr, first_task_steps
        As in :class:`~anytask.continual.prd.PRD`. The first task is what comes before the first :meth:`end_task`.
    preset : {"paper", "small"}, default "paper"
        The values PRD has under the same name.
    tau : float > 0, default 0.1
        Temperature of the softmax over cosines.
    competitors : {"all", "batch"}, default "all"
        Which classes the softmax runs over in training: all seen so far, or those of the mini-batch, which keeps new
        classes from pushing old prototypes away.
    batch_size, epochs, seed, device
        As in :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    encoder_ : torch.nn.Module
    prototypes_ : anytask.continual.parts.prototypes.Prototypes

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> X = np.eye(2)[y] @ rng.normal(size=(2, 10)) * 3 + rng.normal(size=(400, 10))
    >>> bool(CosineFineTuning(preset="small", epochs=3).fit(X, y).score(X, y) > 0.5 + 0.3)  # chance is 0.5
    True
    """

    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "test"
    PRESETS: ClassVar = {
        "paper": {
            "feature_dim": 512, "hidden": (512, 512), "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4,
            "prototypes_lr": 0.01, "first_task_steps": 2, "batch_size": 128, "epochs": 100,
        },
        "small": {
            "feature_dim": 64, "hidden": (128,), "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4,
            "prototypes_lr": 0.05, "first_task_steps": 2, "batch_size": 64, "epochs": 15,
        },
    }  # fmt: skip

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        preset: str = "paper",
        feature_dim: int | None = None,
        hidden: Sequence[int] | None = None,
        relu: bool = True,
        augment: str | Augment = "auto",
        image_shape: Sequence[int] | None = None,
        noise_scale: float = 0.1,
        max_shift: int = 1,
        tau: float = 0.1,
        competitors: Literal["all", "batch"] = "all",
        lr: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        prototypes_lr: float | None = None,
        first_task_steps: int | None = None,
        batch_size: int | None = None,
        epochs: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.preset = preset
        self.feature_dim = feature_dim
        self.hidden = hidden
        self.relu = relu
        self.augment = augment
        self.image_shape = image_shape
        self.noise_scale = noise_scale
        self.max_shift = max_shift
        self.tau = tau
        self.competitors = competitors
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.prototypes_lr = prototypes_lr
        self.first_task_steps = first_task_steps
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.device = device

    def _check_params(self) -> None:
        super()._check_params()
        if not self.tau > 0:
            raise ValueError(f"tau must be above 0, got {self.tau!r}")
        if self.competitors not in ("all", "batch"):
            raise ValueError(f"competitors must be 'all' or 'batch', got {self.competitors!r}")

    def _build(self, input_shape: tuple[int, ...]) -> None:
        s = self._settings()
        seed = derive(s.seed, "encoder")
        encoder = build_backbone(s.backbone, input_shape, s.feature_dim, seed=seed, hidden=s.hidden)
        self.encoder_: nn.Module = nn.Sequential(encoder, nn.ReLU()) if s.relu else encoder
        self.encoder_.to(self.device_)
        self.prototypes_ = Prototypes(s.feature_dim).to(self.device_)
        self._first = True
        self._augment()
        self._optimizer = self._make_optimizer()

    def _augment(self) -> Augment:
        shape = None if self.image_shape is None else tuple(self.image_shape)
        return make_augment(
            self.augment, self.input_shape_, shape, noise_scale=self.noise_scale, max_shift=self.max_shift
        )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        s = self._settings()
        return torch.optim.SGD(self.encoder_.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        s = self._settings()
        self.prototypes_.grow(y.unique().tolist())
        augment = self._augment()
        self.encoder_.train()
        for number, part in enumerate(self._minibatches(len(X))):
            generator = torch.Generator(X.device).manual_seed(derive(self.seed, "views", self.n_chunks_, number))
            for _ in range(s.first_task_steps if self._first else 1):
                views = torch.cat([augment(X[part], generator), augment(X[part], generator)])  # (2B, *input_shape)
                self._step(views, y[part].repeat(2), s)

    def _step(self, x: Tensor, y: Tensor, s: Any) -> None:
        logits = self.prototypes_(self.encoder_(x)) / s.tau
        if s.competitors == "batch":
            absent = torch.ones(logits.shape[1], dtype=torch.bool, device=x.device)
            absent[y] = False
            logits = logits.masked_fill(absent, -torch.inf)
        loss = F.cross_entropy(logits, y)
        P = self.prototypes_.weight
        self._optimizer.zero_grad()
        P.grad = None
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            P.sub_(s.prototypes_lr * P.grad)
        P.grad = None

    def end_task(self) -> CosineFineTuning:
        """Go over to one step per mini-batch, and start the optimiser afresh, as PRD does."""
        if hasattr(self, "input_shape_"):
            self._first = False
            self._optimizer = self._make_optimizer()
        return self

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self.encoder_.eval()
        return self._mask_to_task(self.prototypes_(self.encoder_(X)) / self.tau, task)

    def cost(self) -> dict[str, int]:
        """Return the numbers in the encoder and the prototypes; nothing else is kept."""
        self._check_fitted()
        n = parameter_count(self.encoder_, self.prototypes_)
        return {"trainable_parameters": n, "stored_parameters": n, "stored_samples": 0}

    def _state(self) -> Any:
        return {
            "encoder": self.encoder_.state_dict(),
            "prototypes": self.prototypes_.weight,
            "optimizer": self._optimizer.state_dict(),
            "first": self._first,
        }

    def _load_state(self, state: Any) -> None:
        self.prototypes_.grow(range(len(state["prototypes"])))
        self.encoder_.load_state_dict(state["encoder"])
        self.prototypes_.load_state_dict({"weight": state["prototypes"]})
        self._optimizer.load_state_dict(state["optimizer"])
        self._first = state["first"]
