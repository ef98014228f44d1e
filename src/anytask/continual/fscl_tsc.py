"""TSC: fast weights that remember a long row of few-shot tasks, slow weights that get better at new ones.

Only the abstract could be read, and no code was published: this is a reconstruction that does what the abstract says.
What it leaves open is a setting: where fast weights start, what holds them and how strongly, which classes compete, how
slow weights follow, and what importances are. Class vectors are imprinted from the first mini-batch that holds a class:
from its whole support where a mini-batch holds the task. The penalty of step 1 is taken by implicit steps, since
accumulated importances make gradient steps diverge after some tasks (``fast.penalty="gradient"`` takes those). The base
is learned with Adam, in mini-batches and not in episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier, Embedding
from anytask.continual.parts.importance import accumulated, anchored_penalty, fisher, mas, normalized, pull_back
from anytask.continual.parts.sgd import mode, sgd_step, tune
from anytask.continual.parts.stream import Reservoir
from anytask.core.rng import derive
from anytask.core.settings import Settings, choice, flag, group, numbers, real, whole
from anytask.models.build import backbone_field, build_backbone, output_shape
from anytask.parts.contrastive import cosine_scores

__all__ = ["TSC"]


class FastSettings(Settings):
    """Steps 0 and 1: where fast weights start in a task, and what they learn.

    Parameters
    ----------
    init : {"slow", "fast"}
        From the slow weights (interdependence), or from where the last task left them.
    lambda_ : float
        Strength of the penalty that holds them at their start; 0 switches it off.
    penalty : {"implicit", "gradient"}
        How it is taken; see :func:`~anytask.continual.parts.importance.pull_back`.
    competitors : {"task", "all"}
        Classes that the softmax runs over: those of the task, or all seen. Vectors of old classes never move.
    imprint : bool
        Begin a class vector at the mean of its features, not at random.
    """

    init: str = choice("slow", ("slow", "fast"), "where fast weights start in a task")
    lambda_: float = real(0.2, "strength of the penalty that holds them there", at_least=0)
    penalty: str = choice("implicit", ("implicit", "gradient"), "implicit steps, which never diverge, or gradients")
    competitors: str = choice("task", ("task", "all"), "classes that the softmax runs over")
    imprint: bool = flag(True, "begin a class vector at the mean of its features")


class SlowSettings(Settings):
    """Step 2: how slow weights follow fast ones when a task ends.

    Parameters
    ----------
    eta : float in [0, 1]
        Share of the way; 0 leaves them as the base did.
    m : float
        How much less those of large importance follow; 0 for all alike.
    """

    eta: float = real(0.5, "share of the way to the fast weights", at_least=0, at_most=1)
    m: float = real(0.2, "how much less those of large importance go", at_least=0)


class ImportanceSettings(Settings):
    """Meta-plasticity: what makes a parameter stiff.

    Parameters
    ----------
    kind : {"mas", "fisher"}
        How far it moves the outputs, or the information that labels have on it.
    normalize : bool
        Bring the mean over all parameters to 1 for each task.
    accumulate : bool
        Add every task's importances; otherwise those of the base stay.
    rows : int, optional
        Most rows of a task that are kept until it ends, to estimate from; None for all.
    """

    kind: str = choice("mas", ("mas", "fisher"), "how importances are estimated")
    normalize: bool = flag(True, "bring their mean to 1 for each task")
    accumulate: bool = flag(True, "add those of every task to those of the base")
    rows: int | None = whole(2000, "rows kept until a task ends, to estimate from; None for all", optional=True)


class TSC(Embedding, ContinualClassifier):
    """Two-step consolidation for few-shot continual learning (2021), a reconstruction from its abstract.

    The first task is the base, with many rows; then come tasks of a few rows of new classes each. Fast weights classify
    among all classes seen, without being told the task. Slow weights (:meth:`embed`) serve tasks to come: compare an
    input's features with the class means of a new support set. Pick it when the few-shot tasks need features that the
    base did not teach, task ends are announced and old rows may not be kept; where the base suffices, class means on
    frozen features do.

    With ``f`` the network, logits ``scale * cos(f(x), w_c)`` and importances ``Omega``:

    0. ``theta_F <- theta_S``; new class vectors ``w_c`` are imprinted.
    1. SGD on the cross-entropy over the task's classes ``+ lambda/2 sum_i Omega_i (theta_F,i - theta_ref,i)^2``, where
       ``theta_ref`` is where they started. A mini-batch is a step: ``epochs`` and ``batch_size`` say how many.
    2. When the task ends, ``theta_S,i += eta (theta_F,i - theta_S,i) / (1 + m Omega_i)``, and ``Omega`` grows by the
       importances of the task. No gradient on few rows touches ``theta_S``.

    Parameters
    ----------
    backbone, n_features, hidden
        The network f (:func:`anytask.models.build.build_backbone`), the width of its features unless it is a module,
        and hidden widths of the default MLP. Parameters that require no gradient stay as they are.
    scale : float > 0
        Of the cosines.
    base_lr : float > 0
        Adam on the base.
    lr, momentum : float
        SGD of step 1, begun anew for each task; ``lr=0`` leaves imprinted vectors and the base's features.
    fast, slow, importance
        :class:`FastSettings`, :class:`SlowSettings` and :class:`ImportanceSettings`.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    slow_, fast_ : torch.nn.Module
        f with ``theta_S`` and ``theta_F``. Batch statistics are those of the base.
    vectors_ : torch.nn.ParameterList
        ``w_c``, in order of appearance.
    importance_ : list of Tensor
        ``Omega``, by the trained parameters of f.

    Examples
    --------
    >>> import numpy as np
    >>> centers = 3 * np.random.default_rng(0).normal(size=(6, 10))
    >>> model = TSC.from_preset("small").fit(centers[np.arange(400) % 4], np.arange(400) % 4)
    >>> model.partial_fit(centers[[4, 5, 4, 5]], [4, 5, 4, 5]).end_task().predict(centers).tolist()
    [0, 1, 2, 3, 4, 5]

    References
    ----------
    "Few-shot Continual Learning: a Brain-inspired Approach", 2021, arXiv:2104.09034 (source: abstract).
    """

    needs: ClassVar[str] = "boundary"
    sees: ClassVar[str] = "boundary"
    STRUCTURE: ClassVar[tuple[str, ...]] = ("backbone", "n_features", "hidden", "importance.rows")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"batch_size": 16}}

    backbone: Any = backbone_field(None, "the network; None for an MLP")
    n_features: int = whole(64, "width of the features")
    hidden: Sequence[int] = numbers((128,), "hidden widths of the default network", at_least=1, integers=True)
    scale: float = real(10.0, "scale of the cosines", above=0)
    base_lr: float = real(2e-3, "learning rate of Adam on the base", above=0)
    lr: float = real(0.01, "learning rate of SGD on few-shot tasks; 0 imprints alone", at_least=0)
    momentum: float = real(0.9, "momentum of SGD", at_least=0, below=1)
    fast: FastSettings = group(FastSettings, "where fast weights start, and what they learn")
    slow: SlowSettings = group(SlowSettings, "how slow weights follow")
    importance: ImportanceSettings = group(ImportanceSettings, "what makes a parameter stiff")

    # -- construction ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.base_ = True  # whether the base is still to be learned
        self.codes_: list[int] = []  # the classes of the task under way; none between tasks
        self.reference_: list[Tensor] = []
        self.importance_: list[Tensor] = []

    def _build(self) -> None:
        self.slow_, self.fast_ = self._fresh_network(), self._fresh_network()
        self.vectors_ = nn.ParameterList(torch.zeros(self._width, device=self._device) for _ in self.labels_)
        self.memory_ = Reservoir(self.importance.rows, derive(self.seed, "rows"))
        self.optimizer_ = self._fresh_optimizer() if self.codes_ else None

    def _fresh_network(self) -> nn.Module:
        width = None if isinstance(self.backbone, nn.Module) else self.n_features
        seed = derive(self.seed, "network")
        network = build_backbone(self.backbone, self.input_shape_, width, seed=seed, hidden=self.hidden)
        self._width = output_shape(network, self.input_shape_)[-1]
        return network.to(self._device)

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        learning = [*_trained(self._network), *(self.vectors_[code] for code in self.codes_)]
        if self.base_:
            return torch.optim.Adam(learning, self.base_lr)
        return torch.optim.SGD(learning, self.lr, momentum=self.momentum)

    @property
    def _network(self) -> nn.Module:
        return self.slow_ if self.base_ else self.fast_

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        for rows in self._minibatches(len(X)):
            self._observe(X[rows], y[rows])
        self.memory_.add(X, y)
        self._check_answers(X, task)  # all rows: pulled back, weights that diverge stay finite for long

    def _observe(self, x: Tensor, y: Tensor) -> None:
        """Step 1 on a mini-batch, after step 0 on the first of a task; on the base, a step of Adam."""
        if not self.codes_:
            self._begin_task()
        self._take_in_classes(x, y)
        self.optimizer_ = optimizer = self.optimizer_ or self._fresh_optimizer()
        network = self._network
        tune(optimizer, **({"lr": self.base_lr} if self.base_ else {"lr": self.lr, "momentum": self.momentum}))
        # As for a single row, batch norm keeps its statistics on the few rows of a task.
        sgd_step(network, optimizer, lambda: self._loss(x, y), len(x) if self.base_ else 1)
        if self.fast.penalty == "implicit":
            rate = self.lr * self.fast.lambda_ / (1 - self.momentum)
            pull_back(_trained(network), self.reference_, self.importance_, rate)

    def _begin_task(self) -> None:
        """Step 0: slow weights make fast ones, which are held where they start."""
        if not self.base_:
            if self.fast.init == "slow":
                self.fast_.load_state_dict(self.slow_.state_dict())
            self.reference_ = [p.detach().clone() for p in _trained(self.fast_)]

    def _take_in_classes(self, x: Tensor, y: Tensor) -> None:
        """Give new classes their vectors."""
        new = [code for code in dict.fromkeys(y.tolist()) if code not in self.codes_]
        if back := [self.labels_[code] for code in new if code < len(self.vectors_)]:
            raise ValueError(f"classes {back} belong to a task that has ended: TSC learns each class in one task")
        if not new:
            return
        with torch.no_grad(), mode(self._network, training=False):
            z = F.normalize(self._network(x), dim=1)
        for code in new:
            w = z[y == code].mean(0)
            if not self.fast.imprint:
                generator = torch.Generator().manual_seed(derive(self.seed, "vector", code))
                w = torch.randn(w.shape, generator=generator).to(w)
            self.codes_.append(code)
            self.vectors_.append(nn.Parameter(F.normalize(w, dim=0)))
            if self.optimizer_ is not None:
                self.optimizer_.param_groups[0]["params"].append(self.vectors_[code])

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        codes = self.codes_ if self.fast.competitors == "task" else range(len(self.vectors_))
        W = torch.stack([w if c in self.codes_ else w.detach() for c in codes for w in [self.vectors_[c]]])
        target = torch.tensor([codes.index(code) for code in y.tolist()], device=y.device)
        loss = F.cross_entropy(self._logits(self._network, x, W), target)
        if self.fast.penalty == "gradient" and self.fast.lambda_:
            penalty = anchored_penalty(_trained(self._network), self.reference_, self.importance_)
            loss = loss + self.fast.lambda_ * penalty
        return loss

    def end_task(self) -> Self:
        """Consolidate what the task taught, and forget its rows; nothing if no data came since the last.

        Raises
        ------
        ValueError
            If the first task, the base, held one class only.
        """
        if self.__sklearn_is_fitted__() and self.codes_:
            if self.base_ and len(self.codes_) < 2:
                raise ValueError("the base is missing: the first task has one class, and needs many rows of several")
            with self._ending():
                self._end_task()
        return self

    def _end_task(self) -> None:
        """Step 2, by the importances so far, to which those of the task are then added."""
        if self.base_:
            self.fast_.load_state_dict(self.slow_.state_dict())
        else:
            follow(_trained(self.slow_), _trained(self.fast_), self.importance_, self.slow.eta, self.slow.m)
        if self.base_ or self.importance.accumulate:
            self.importance_ = accumulated(self.importance_, self._estimate())
        self.memory_.clear()
        self.base_, self.codes_, self.reference_, self.optimizer_ = False, [], [], None

    def _estimate(self) -> list[Tensor]:
        """Return the importances of the fast weights for the rows of the task."""
        X, y = (part.to(self._device) for part in self.memory_.data())
        W, parameters = self._all_vectors(), _trained(self.fast_)
        with mode(self.fast_, training=False):
            if self.importance.kind == "mas":
                new = mas(lambda x: self._logits(self.fast_, x, W), parameters, X)
            else:
                new = fisher(lambda x: self._logits(self.fast_, x, W), parameters, X, y)
        return normalized(new) if self.importance.normalize else new

    # -- prediction -----------------------------------------------------------------------------------------------

    def _logits(self, network: nn.Module, x: Tensor, W: Tensor) -> Tensor:
        """Return scaled cosines (n, classes) of features with class vectors (classes, d)."""
        return self.scale * cosine_scores(network(x), W)

    def _all_vectors(self) -> Tensor:
        return torch.stack([w.detach() for w in self.vectors_])  # (classes, d)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        with mode(self._network, training=False):
            return self._logits(self._network, X, self._all_vectors())

    def _embed(self, X: Tensor) -> Tensor:
        with mode(self.slow_, training=False):
            return self.slow_(X)

    def refuses(self, stream: Any) -> str | None:
        """Return why it cannot learn from a stream with these facts, or None if it can."""
        return "classes come back in later tasks, and TSC learns each in one task" if stream.repeats else None


def _trained(network: nn.Module) -> list[Tensor]:
    return [p for p in network.parameters() if p.requires_grad]


@torch.no_grad()
def follow(slow: Sequence[Tensor], fast: Sequence[Tensor], importance: Sequence[Tensor], eta: float, m: float) -> None:
    """Step 2: ``theta_S += eta (theta_F - theta_S) / (1 + m Omega)``, in place.

    Examples
    --------
    >>> theta_S = torch.tensor([1.0, 1.0])
    >>> follow([theta_S], [torch.tensor([2.0, 0.0])], [torch.tensor([0.0, 3.0])], eta=0.5, m=1.0)
    >>> theta_S.tolist()
    [1.5, 0.875]
    """
    for s, f, omega in zip(slow, fast, importance):
        s.lerp_(f, eta / (1 + m * omega))
