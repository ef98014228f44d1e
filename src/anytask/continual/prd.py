"""PRD: prototype-sample relation distillation, continual classification without storing a single old sample.

Departures from the paper: rates follow a schedule only where ``schedule`` says how long an epoch is, since
a stream does not. (In the released code the schedule overwrites the prototypes' rate with the network's; here the two
stay apart.) Default encoder
and views fit the inputs at hand; the paper uses a ResNet-18 and random crops, flips, color jitter and gray on images.
The preset ``small`` takes kappa = 0.2, chosen among 0.1, 0.2, 0.3 and 0.5 on held-out training digits: with the paper's
1, the softmax of cosines over a batch is nearly flat and L_d small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.parts.cosine import SMALL, CosineClassifier
from anytask.core.settings import Settings, choice, flag, group, numbers, real, whole
from anytask.models.build import MLP
from anytask.parts.contrastive import supcon
from anytask.parts.distillation import Snapshot, kl_distillation

__all__ = ["PRD"]


class DistillationSettings(Settings):
    """How the relation of samples and old prototypes is held.

    Parameters
    ----------
    kappa : float > 0, default 1.0
        Temperature.
    axis : {"samples", "prototypes"}, default "samples"
        What the softmax runs over: the samples of the batch, for each old prototype (the paper), or the classes of each
        old task, for each sample, summed over old tasks (the released code).
    relation : {"cosine", "raw"}, default "cosine"
        ``rel(z, P)``: the cosine, or ``z . P / ||P||`` with the norm of the feature left in (the released code).
    teacher_mode : {"eval", "train"}, default "eval"
        Mode f_old runs in; the released code leaves it in train mode, with dropout and moving batch statistics.
    evolve_prototypes : bool, default True
        Let ``L_d`` move old prototypes; False freezes them (an ablation).
    """

    kappa: float = real(1.0, "temperature of L_d", above=0)
    axis: str = choice("samples", ("samples", "prototypes"), "what the softmax in L_d runs over")
    relation: str = choice("cosine", ("cosine", "raw"), "cosine, or with the norm of the feature left in")
    teacher_mode: str = choice("eval", ("eval", "train"), "mode the old encoder runs in")
    evolve_prototypes: bool = flag(True, "let L_d move old prototypes")


class ContrastiveSettings(Settings):
    """The projection head g, used by ``L_sc`` alone, and the scale of that loss.

    Parameters
    ----------
    hidden, dim : sequence of int, int
        Hidden widths of g, and the width of projections.
    base_temperature : float, optional
        ``L_sc`` is multiplied by ``tau / base_temperature`` (released code: 0.07); None for not at all.
    """

    hidden: Sequence[int] = numbers((512, 512), "hidden widths of the projection head", at_least=1, integers=True)
    dim: int = whole(128, "width of projections")
    base_temperature: float | None = real(
        None, "multiplies L_sc by tau / base_temperature; None for not at all", above=0, optional=True
    )


class PRD(CosineClassifier):
    """Prototype-Sample Relation Distillation (Asadi et al., 2023).

    Learns tasks with new classes one after another and keeps one prototype vector per class instead of old samples: a
    supervised contrastive loss shapes the encoder f, prototypes are pulled to the features of their class, and when
    later tasks move the encoder, the relation of the old prototypes to the *new* samples is kept as it was. Pick it
    when old data may not be kept, when the end of a task is known in training, and when classes do not come back. It is
    strongest when the task of a query is known (``predict(X, task=...)``); without it, all classes seen compete.

    Per mini-batch (two random views each), ``z = f(x)``, projections ``u = g(z) / ||g(z)||``, prototypes P:

    1. ``L_sc``: supervised contrastive loss on u at temperature tau.
    2. ``L_p = mean_i 1 - cos(stopgrad(z_i), P_{y_i})``.
    3. ``L_d``, from the second task on: divergence from the softmax of ``rel(f_old(x_i), P_old_c) / kappa`` to that of
       ``rel(f(x_i), P_c) / kappa`` for old classes c, with f_old, P_old as they were at the end of the last task.

    and one step on ``L_sc + alpha L_p + beta L_d``. A task lasts to the next :meth:`end_task`; a chunk with another
    ``task`` than the one before also ends it.

    Parameters
    ----------
    backbone, feature_dim, hidden, relu
        The encoder f (:func:`anytask.models.build.build_backbone`; ``"resnet18"`` is the paper's) with ``feature_dim``
        outputs (paper: 512), hidden widths of the default, and whether a ReLU follows.
    tau : float > 0
        Temperature of ``L_sc``.
    alpha, beta : float >= 0
        Weights of ``L_p`` and ``L_d`` (4-8 and 4-12 in the paper when no task is given at test); 0 switches off.
    views, contrastive, distillation
        :class:`~anytask.parts.views.ViewSettings`, :class:`ContrastiveSettings` and :class:`DistillationSettings`.
    repeated_classes : {"error", "allow"}
        What to do when a class of an ended task comes back. Allowed, it is learned like a new one, starting from its
        prototype, while ``L_d`` still holds that prototype to the old relation.
    lr, momentum, weight_decay, prototypes_lr, schedule
        SGD on f and g, and the rate of P, which has neither momentum nor weight decay; both rates follow the
        :class:`~anytask.continual.parts.cosine.TaskSchedule`, counted from the start of each task.

    Attributes
    ----------
    encoder_, projection_, prototypes_, teacher_, old_prototypes_, losses_
        f, g, P; f_old and P_old, None in the first task; ``L_sc``, ``L_p`` and ``L_d`` of the last step.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centers = 3 * rng.normal(size=(4, 10))
    >>> model = PRD.from_preset("small")
    >>> for task, labels in enumerate([(0, 1), (2, 3)]):
    ...     y = rng.choice(labels, 1280)
    ...     _ = model.partial_fit(centers[y] + 0.3 * rng.normal(size=(1280, 10)), y, task=task)
    >>> bool((model.predict(centers[:2], task=0) == [0, 1]).all())
    True

    References
    ----------
    Asadi, Davari, Mudur, Aljundi, Belilovsky, 2023, "Prototype-Sample Relation Distillation", ICML, arXiv:2303.14771.
    """

    needs: ClassVar[str] = "boundary"
    STRUCTURE: ClassVar[tuple[str, ...]] = (
        *CosineClassifier.STRUCTURE, "contrastive.hidden", "contrastive.dim", "distillation.teacher_mode"
    )  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {**SMALL, "contrastive": {"hidden": (64,), "dim": 32}, "distillation": {"kappa": 0.2}}
    }

    contrastive: ContrastiveSettings = group(ContrastiveSettings, "the projection head, and the scale of L_sc")
    alpha: float = real(2.0, "weight of L_p", at_least=0)
    beta: float = real(4.0, "weight of L_d", at_least=0)
    distillation: DistillationSettings = group(DistillationSettings, "how L_d is computed")
    repeated_classes: str = choice("error", ("error", "allow"), "what to do when a class of an ended task comes back")

    # -- construction ---------------------------------------------------------------------------------------------

    def _networks(self) -> list[nn.Module]:
        return [self.encoder_, self.projection_]

    def _start(self) -> None:
        super()._start()
        self.old_prototypes_: Tensor | None = None
        self.heads_: list[list[int]] = []  # the classes of each ended task
        self.current_: set[int] = set()  # the classes of the task under way
        self.task_: object = None
        self.losses_: dict[str, float] = {}

    def _build(self) -> None:
        head = self.contrastive
        self.projection_ = MLP((self.feature_dim,), head.dim, head.hidden).to(self._device)
        super()._build()
        self.teacher_: Snapshot | None = None if self.old_prototypes_ is None else self._snapshot()

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        if task is not None and self.current_ and task != self.task_:
            self.end_task()
        classes = y.unique().tolist()
        self._refuse_repeats(classes)
        self.task_ = task
        self.current_.update(classes)
        super()._learn(X, y, task)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.encoder_(x)  # (2B, d)
        u = self.projection_(z)
        losses = {
            "L_sc": supcon(u, y, self.tau, base_temperature=self.contrastive.base_temperature),
            "L_p": self.prototypes_.attraction(z.detach(), y),
            "L_d": self._distillation(x, z) if self.teacher_ is not None and self.beta > 0 else z.new_zeros(()),
        }
        self.losses_ = {name: value.item() for name, value in losses.items()}
        return losses["L_sc"] + self.alpha * losses["L_p"] + self.beta * losses["L_d"]

    def _distillation(self, x: Tensor, z: Tensor) -> Tensor:
        s, P_old, teacher = self.distillation, self.old_prototypes_, self.teacher_
        assert P_old is not None
        assert teacher is not None
        P = self.prototypes_.weight[: len(P_old)]
        return relation_distillation(
            z, P if s.evolve_prototypes else P.detach(), teacher(x), P_old,
            kappa=s.kappa, axis=s.axis, relation=s.relation, heads=self.heads_,
        )  # fmt: skip

    def end_task(self) -> Self:
        """Take the snapshot (f_old, P_old) that the next tasks are held to; nothing if no data came since the last."""
        if self.__sklearn_is_fitted__() and self.current_:
            self.heads_.append(sorted(self.current_))
            self.current_ = set()
            self.old_prototypes_ = self.prototypes_.weight.detach().clone()
            self.teacher_ = self._snapshot()
            super().end_task()
        return self

    def refuses(self, stream: Any) -> str | None:
        """Return why it cannot learn from a stream with these facts, or None if it can."""
        if stream.repeats and self.repeated_classes == "error":
            return "classes come back in later tasks, and PRD learns each once (repeated_classes='allow' lifts this)"
        return None

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.encoder_, train_mode=self.distillation.teacher_mode == "train")

    def _refuse_repeats(self, classes: list[int]) -> None:
        old = {c for head in self.heads_ for c in head} - self.current_
        back = sorted(old.intersection(classes))
        if back and self.repeated_classes == "error":
            raise ValueError(
                f"classes {[self.labels_[c] for c in back]} belong to a task that has ended: PRD learns each class in "
                "one task (repeated_classes='allow' lifts this)"
            )


def relation_distillation(
    z: Tensor,
    P: Tensor,
    z_old: Tensor,
    P_old: Tensor,
    *,
    kappa: float = 1.0,
    axis: str = "samples",
    relation: str = "cosine",
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
        As in :class:`DistillationSettings`.
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
