"""PRD: prototype-sample relation distillation, continual classification without storing a single old sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier, parameter_count
from anytask.continual.parts.distillation import Snapshot, kl_distillation
from anytask.continual.parts.prototypes import Prototypes
from anytask.continual.parts.views import Augment, make_augment
from anytask.core.rng import derive
from anytask.models.build import MLP, Backbone, build_backbone
from anytask.parts.contrastive import supcon

__all__ = ["PRD"]


class PRD(ContinualClassifier):
    """Prototype-Sample Relation Distillation (Asadi et al., 2023).

    Learns tasks with new classes one after another and keeps one prototype vector per class instead of old samples: a
    supervised contrastive loss shapes the encoder f, prototypes are pulled to the features of their class, and when
    later tasks move the encoder, the relation of the old prototypes to the *new* samples is kept as it was. Old
    prototypes drift along with the representation instead of going stale.

    Pick it when old data may not be kept, when the end of a task is known in training, and when classes do not come
    back. It is strongest when the task of a query is known (``predict(X, task=...)``); without it, all classes seen
    compete.

    Per mini-batch of B samples (two random views each, 2B inputs x_i), features ``z = f(x)``, projections
    ``u = g(z) / ||g(z)||``, prototypes P:

    1. ``L_sc``: supervised contrastive loss on u at temperature tau.
    2. ``L_p = mean_i 1 - cos(stopgrad(z_i), P_{y_i})``.
    3. ``L_d``, from the second task on: divergence from the softmax of ``rel(f_old(x_i), P_old_c) / kappa`` to that of
       ``rel(f(x_i), P_c) / kappa`` for old classes c, with f_old, P_old as they were at the end of the last task.

    and one step on ``L = L_sc + alpha L_p + beta L_d``.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable, default None
        The encoder f, as in :func:`anytask.models.build.build_backbone` with ``feature_dim`` outputs: None for a
        multi-layer perceptron, ``"resnet18"`` for the paper's.
    preset : {"paper", "small"}, default "paper"
        Fills in what is left at None. "paper": 20-task Split-CIFAR100 and MiniImageNet; "small": a few hundred samples
        per task.
    feature_dim : int
        Width d of features and prototypes. Paper: 512.
    hidden : sequence of int
        Hidden widths of the default encoder (ours; the paper uses a ResNet-18).
    relu : bool, default True
        ReLU on the encoder's output, as after a residual block; False for encoders that end in an activation.
    projection_hidden, projection_dim : sequence of int, int
        The projection head g, used by ``L_sc`` alone. Paper: (512, 512), 128.
    augment : str or callable, default "auto"
        How views are made, as in :func:`anytask.continual.parts.views.make_augment`, or ``augment(x, generator) -> x``.
    image_shape : sequence of int, optional
        Shape that flat inputs are read as for shifts and flips, such as (8, 8).
    noise_scale : float >= 0, default 0.1
        Standard deviation of the noise in views, in the units of the inputs.
    max_shift : int >= 0, default 1
        Largest shift in views, in pixels.
    tau : float > 0
        Temperature of ``L_sc``. Paper: 0.1.
    base_temperature : float, optional
        Multiplies ``L_sc`` by ``tau / base_temperature``; the released code does so with 0.07.
    alpha, beta : float >= 0
        Weights of ``L_p`` and ``L_d``. Paper: 2 and 4; 4-8 and 4-12 when no task is given at test. ``beta=0`` switches
        distillation off.
    kappa : float > 0
        Temperature of ``L_d``. Paper: 1. The softmax of cosines over a batch is then nearly flat and L_d small, hence
        0.2 in "small" (chosen among 0.1, 0.2, 0.3 and 0.5 on held-out training digits).
    axis : {"samples", "prototypes"}, default "samples"
        What the softmax in ``L_d`` runs over: the samples of the batch, for each old prototype (the paper), or the
        classes of each old task, for each sample, summed over old tasks (the released code).
    relation : {"cosine", "raw"}, default "cosine"
        ``rel(z, P)``: the cosine, or ``z . P / ||P||`` with the norm of the feature left in (the released code).
    teacher_mode : {"eval", "train"}, default "eval"
        Mode f_old runs in; the released code leaves it in train mode, with dropout and moving batch statistics.
    evolve_prototypes : bool, default True
        Let ``L_d`` move old prototypes; False freezes them (an ablation).
    repeated_classes : {"error", "allow"}, default "error"
        What to do when a class of an ended task comes back. Allowed, it is learned like a new one, starting from its
        prototype, while ``L_d`` still holds that prototype to the old relation.
    lr, momentum, weight_decay : float
        SGD on f and g. Paper: 0.01, 0.9, 1e-4.
    prototypes_lr : float
        SGD on P, without momentum and weight decay. Paper: 0.01.
    first_task_steps : int >= 1
        Steps per mini-batch, each on fresh views, until the first task ends. The paper trains the first task 220
        epochs and the others 100; a stream that shows all tasks equally often is matched by 2. Give 1 if your stream
        shows the first task longer itself.
    batch_size, epochs, seed, device
        As in :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    encoder_, projection_ : torch.nn.Module
        f and g.
    prototypes_ : anytask.continual.parts.prototypes.Prototypes
        P, one row per class in order of appearance.
    teacher_ : dict or None
        ``"encoder"``: f_old, a frozen copy; ``"prototypes"``: P_old.
    losses_ : dict
        ``L_sc``, ``L_p`` and ``L_d`` of the last step.

    Raises
    ------
    ValueError
        From ``partial_fit``: for a class of an ended task (see ``repeated_classes``), and what the base class checks.

    Examples
    --------
    Two tasks of two classes; the second is learned without the first one's samples.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centres = 3 * rng.normal(size=(4, 10))
    >>> model = PRD(preset="small", seed=0)
    >>> for task, labels in enumerate([(0, 1), (2, 3)]):
    ...     for _ in range(40):
    ...         y = rng.choice(labels, 32)
    ...         _ = model.partial_fit(centres[y] + 0.3 * rng.normal(size=(32, 10)), y, task=task)
    ...     _ = model.end_task()
    >>> y = rng.choice([0, 1], 200)
    >>> bool((model.predict(centres[y] + 0.3 * rng.normal(size=(200, 10)), task=0) == y).mean() > 1 / 2 + 0.3)  # chance
    True

    Notes
    -----
    A task lasts from the first chunk after :meth:`end_task` to the next :meth:`end_task`; a chunk with another ``task``
    than the one before also ends it. Optimisers start afresh with each task.

    Departures from the paper
    -------------------------
    No schedule of the learning rate, since a stream does not say how long a task lasts. (In the released code the
    schedule overwrites the prototypes' rate with the network's; here the two stay apart.) Default encoder and views fit
    the inputs at hand; the paper uses a ResNet-18 and random crops, flips, colour jitter and grey on images.

    References
    ----------
    Asadi, Davari, Mudur, Aljundi, Belilovsky, 2023, "Prototype-Sample Relation Distillation: Towards Replay-Free
    Continual Learning", ICML, arXiv:2303.14771.
    """

    needs: ClassVar[str] = "boundary"
    sees: ClassVar[str] = "test"
    PRESETS: ClassVar = {
        "paper": {
            "feature_dim": 512, "hidden": (512, 512), "projection_hidden": (512, 512), "projection_dim": 128,
            "tau": 0.1, "alpha": 2.0, "beta": 4.0, "kappa": 1.0, "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4,
            "prototypes_lr": 0.01, "first_task_steps": 2, "batch_size": 128, "epochs": 100,
        },
        "small": {
            "feature_dim": 64, "hidden": (128,), "projection_hidden": (64,), "projection_dim": 32,
            "tau": 0.1, "alpha": 2.0, "beta": 4.0, "kappa": 0.2, "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4,
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
        projection_hidden: Sequence[int] | None = None,
        projection_dim: int | None = None,
        augment: str | Augment = "auto",
        image_shape: Sequence[int] | None = None,
        noise_scale: float = 0.1,
        max_shift: int = 1,
        tau: float | None = None,
        base_temperature: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        kappa: float | None = None,
        axis: Literal["samples", "prototypes"] = "samples",
        relation: Literal["cosine", "raw"] = "cosine",
        teacher_mode: Literal["eval", "train"] = "eval",
        evolve_prototypes: bool = True,
        repeated_classes: Literal["error", "allow"] = "error",
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
        self.projection_hidden = projection_hidden
        self.projection_dim = projection_dim
        self.augment = augment
        self.image_shape = image_shape
        self.noise_scale = noise_scale
        self.max_shift = max_shift
        self.tau = tau
        self.base_temperature = base_temperature
        self.alpha = alpha
        self.beta = beta
        self.kappa = kappa
        self.axis = axis
        self.relation = relation
        self.teacher_mode = teacher_mode
        self.evolve_prototypes = evolve_prototypes
        self.repeated_classes = repeated_classes
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.prototypes_lr = prototypes_lr
        self.first_task_steps = first_task_steps
        self.batch_size = batch_size
        self.epochs = epochs
        self.seed = seed
        self.device = device

    encoder_: nn.Module
    projection_: nn.Module
    prototypes_: Prototypes
    teacher_: dict[str, Any] | None
    losses_: dict[str, float]
    _heads: list[list[int]]  # the classes of each ended task
    _current: set[int]  # the classes of the task under way
    _task: object
    _optimizer: torch.optim.Optimizer

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        s = self._settings()
        if task is not None and self._current and task != self._task:
            self.end_task()
        classes = y.unique().tolist()
        self._refuse_repeats(classes)
        self._task = task
        self._current.update(classes)
        self.prototypes_.grow(classes)
        steps = s.first_task_steps if self.teacher_ is None else 1
        augment = self._augment()
        for number, part in enumerate(self._minibatches(len(X))):
            generator = torch.Generator(X.device).manual_seed(derive(self.seed, "views", self.n_chunks_, number))
            for _ in range(steps):
                views = torch.cat([augment(X[part], generator), augment(X[part], generator)])  # (2B, *input_shape)
                self._step(views, y[part].repeat(2), s)

    def _step(self, x: Tensor, y: Tensor, s: Any) -> None:
        self.encoder_.train()
        self.projection_.train()
        z = self.encoder_(x)  # (2B, d)
        L_sc = supcon(self.projection_(z), y, s.tau, base_temperature=s.base_temperature)
        L_p = self.prototypes_.attraction(z.detach(), y)
        loss = L_sc + s.alpha * L_p
        L_d = self._distillation(x, z, self.teacher_, s) if self.teacher_ is not None and s.beta > 0 else None
        if L_d is not None:
            loss = loss + s.beta * L_d
        P = self.prototypes_.weight
        self._optimizer.zero_grad()
        P.grad = None
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            P.sub_(s.prototypes_lr * P.grad)
        P.grad = None
        self.losses_ = {"L_sc": L_sc.item(), "L_p": L_p.item(), "L_d": 0.0 if L_d is None else L_d.item()}

    def _distillation(self, x: Tensor, z: Tensor, teacher: dict[str, Any], s: Any) -> Tensor:
        z_old, P_old = teacher["encoder"](x), teacher["prototypes"]
        P = self.prototypes_.weight[: len(P_old)]
        return relation_distillation(
            z, P if s.evolve_prototypes else P.detach(), z_old, P_old,
            kappa=s.kappa, axis=s.axis, relation=s.relation, heads=self._heads,
        )  # fmt: skip

    def end_task(self) -> PRD:
        """Take the snapshot (f_old, P_old) that the next tasks are held to; nothing if no data came since the last."""
        if hasattr(self, "input_shape_") and self._current:
            self._heads.append(sorted(self._current))
            self._current = set()
            self._take_snapshot(self.prototypes_.weight.detach().clone())
            self._optimizer = self._make_optimizer()
        return self

    def _take_snapshot(self, prototypes: Tensor) -> None:
        self.teacher_ = {
            "encoder": Snapshot(self.encoder_, train_mode=self.teacher_mode == "train"),
            "prototypes": prototypes,
        }

    def _refuse_repeats(self, classes: list[int]) -> None:
        old = {c for head in self._heads for c in head} - self._current
        back = sorted(old.intersection(classes))
        if back and self.repeated_classes == "error":
            labels = list(self._codes)
            raise ValueError(
                f"classes {[labels[c] for c in back]} belong to a task that has ended: PRD learns each class in one "
                "task (repeated_classes='allow' lifts this)"
            )

    # -- inference ------------------------------------------------------------------------------------------------

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self.encoder_.eval()
        return self._mask_to_task(self.prototypes_(self.encoder_(X)) / self._settings().tau, task)

    # -- construction, state ----------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        for name in ("tau", "kappa", "lr"):
            if not getattr(s, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(s, name)!r}")
        for name in ("alpha", "beta", "momentum", "weight_decay", "prototypes_lr", "noise_scale", "max_shift"):
            if not getattr(s, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(s, name)!r}")
        if s.base_temperature is not None and not s.base_temperature > 0:
            raise ValueError(f"base_temperature must be above 0 or None, got {s.base_temperature!r}")
        for name in ("feature_dim", "projection_dim", "first_task_steps"):
            if int(getattr(s, name)) != getattr(s, name) or getattr(s, name) < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {getattr(s, name)!r}")
        choices = {
            "axis": ("samples", "prototypes"), "relation": ("cosine", "raw"),
            "teacher_mode": ("eval", "train"), "repeated_classes": ("error", "allow"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(s, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(s, name)!r}")

    def _build(self, input_shape: tuple[int, ...]) -> None:
        s = self._settings()
        self._augment()
        seed = derive(s.seed, "encoder")
        encoder = build_backbone(s.backbone, input_shape, s.feature_dim, seed=seed, hidden=s.hidden)
        self.encoder_ = nn.Sequential(encoder, nn.ReLU()) if s.relu else encoder
        self.encoder_.to(self.device_)
        self.projection_ = MLP((s.feature_dim,), s.projection_dim, s.projection_hidden).to(self.device_)
        self.prototypes_ = Prototypes(s.feature_dim).to(self.device_)
        self.teacher_ = None
        self.losses_ = {}
        self._heads, self._current, self._task = [], set(), None
        self._optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        s = self._settings()
        params = [*self.encoder_.parameters(), *self.projection_.parameters()]
        return torch.optim.SGD(params, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)

    def _augment(self) -> Augment:
        shape = None if self.image_shape is None else tuple(self.image_shape)
        return make_augment(
            self.augment, self.input_shape_, shape, noise_scale=self.noise_scale, max_shift=self.max_shift
        )

    def cost(self) -> dict[str, int]:
        """Return trainable parameters, and all stored numbers: the model, and the snapshot it is held to."""
        self._check_fitted()
        trainable = parameter_count(self.encoder_, self.projection_, self.prototypes_)
        teacher = 0
        if self.teacher_ is not None:
            teacher = parameter_count(self.teacher_["encoder"].module) + self.teacher_["prototypes"].numel()
        return {"trainable_parameters": trainable, "stored_parameters": trainable + teacher, "stored_samples": 0}

    def _state(self) -> Any:
        teacher = self.teacher_
        return {
            "encoder": self.encoder_.state_dict(),
            "projection": self.projection_.state_dict(),
            "prototypes": self.prototypes_.weight,
            "teacher": None
            if teacher is None
            else {"encoder": teacher["encoder"].module.state_dict(), "prototypes": teacher["prototypes"]},
            "optimizer": self._optimizer.state_dict(),
            "heads": self._heads,
            "current": self._current,
            "task": self._task,
            "losses": self.losses_,
        }

    def _load_state(self, state: Any) -> None:
        teacher = state["teacher"]
        self.prototypes_.grow(range(len(state["prototypes"])))
        if teacher is not None:
            self.encoder_.load_state_dict(teacher["encoder"])
            self._take_snapshot(teacher["prototypes"].to(self.device_))
        self.encoder_.load_state_dict(state["encoder"])
        self.projection_.load_state_dict(state["projection"])
        self.prototypes_.load_state_dict({"weight": state["prototypes"]})
        self._optimizer.load_state_dict(state["optimizer"])
        self._heads, self._current = state["heads"], state["current"]
        self._task, self.losses_ = state["task"], state["losses"]


def relation_distillation(
    z: Tensor,
    P: Tensor,
    z_old: Tensor,
    P_old: Tensor,
    *,
    kappa: float = 1.0,
    axis: Literal["samples", "prototypes"] = "samples",
    relation: Literal["cosine", "raw"] = "cosine",
    heads: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Return L_d: how far the relation of samples and old prototypes has moved from what the old model says it is.

    Parameters
    ----------
    z, z_old : Tensor of shape (n, d)
        New and old features of the same inputs.
    P, P_old : Tensor of shape (c, d)
        New and old prototypes of the old classes.
    kappa, axis, relation
        As in :class:`PRD`.
    heads : sequence of sequences of int, optional
        Rows of P that belong to each old task (``axis="prototypes"``); one task by default.

    Examples
    --------
    >>> z_old, z = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[1, 0.5], [0, 1], [1, -1]])
    >>> P_old, P = torch.tensor([[2.0, 0], [0, 3]]), torch.tensor([[1.0, 1], [0, 1]])
    >>> round(relation_distillation(z, P, z_old, P_old).item(), 6)
    0.181513
    """
    S_old, S_new = _relation(z_old, P_old, relation), _relation(z, P, relation)  # (n, c)
    if axis == "samples":
        return kl_distillation(S_new, S_old, kappa, dim=0)
    groups = [list(range(P.shape[0]))] if heads is None else [list(head) for head in heads]
    return torch.stack([kl_distillation(S_new[:, head], S_old[:, head], kappa, dim=1) for head in groups]).sum()


def _relation(z: Tensor, P: Tensor, relation: str) -> Tensor:
    P = F.normalize(P, dim=1, eps=1e-8)
    return (F.normalize(z, dim=1, eps=1e-8) if relation == "cosine" else z) @ P.T
