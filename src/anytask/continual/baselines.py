"""What every continual learner must be compared with: no remedy, everything kept, replay, distillation, class means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anytask.continual.base import ContinualClassifier, Embedding
from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.label_matrices import label_loss, label_matrix, numbered
from anytask.continual.parts.sgd import mode, sgd_step, train_on, tune
from anytask.continual.parts.stream import Reservoir, content_keys
from anytask.core.checks import require_finite
from anytask.core.rng import derive, isolated
from anytask.core.settings import flag, free, numbers, real, whole
from anytask.models.build import backbone_field, build_body
from anytask.parts.distillation import Snapshot, kl_distillation

__all__ = ["ExperienceReplay", "FineTuning", "JointTraining", "LwF", "NearestClassMean"]


class GrowingClassifier(GrowingHead):
    """A body under a growing linear head.

    Parameters
    ----------
    body : torch.nn.Module
        Maps (n, \\*input_shape) to (n, n_features).
    n_features, seed
        As in :class:`~anytask.continual.parts.growing.GrowingHead`.
    """

    def __init__(self, body: nn.Module, n_features: int, seed: int) -> None:
        super().__init__(n_features, seed)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:  # (n, *input_shape) -> (n, classes)
        return super().forward(self.body(x))


class _Network(Embedding, ContinualClassifier):
    """One network with a growing head, trained by SGD on every mini-batch: what all baselines but the means share."""

    sees: ClassVar[str] = "test"
    multilabel: ClassVar[bool] = True
    STRUCTURE: ClassVar[tuple[str, ...]] = ("backbone", "hidden", "n_features", "frozen")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"batch_size": 16}}

    backbone: Any = backbone_field(None, "the body; None for an MLP")
    frozen: bool = flag(False, "train the head alone")
    hidden: Sequence[int] = numbers((64, 64), "hidden widths of the default body", at_least=1, integers=True)
    n_features: int = whole(512, "width of the features of a named or called body")
    lr: float = real(0.05, "learning rate of SGD", above=0)
    momentum: float = real(0.9, "momentum of SGD", at_least=0, below=1)
    weight_decay: float = real(5e-4, "weight decay of SGD", at_least=0)

    def _start(self) -> None:
        self.steps_ = 0
        self.label_sets_: list[list[int]] = []  # that a memory has met

    def _build(self) -> None:
        self.network_ = self._fresh_network(len(self.labels_))
        self.optimizer_ = torch.optim.SGD(self.network_.parameters(), **self._sgd())

    def _fresh_network(self, n_classes: int) -> GrowingClassifier:
        seed = derive(self.seed, "network")
        body, width = build_body(self.backbone, self.input_shape_, self.hidden, self.n_features, seed)
        if self.frozen:
            body = Snapshot(body)
        network = GrowingClassifier(body, width, seed).to(self._device)
        network.grow(n_classes)
        return network

    def _sgd(self) -> dict[str, Any]:
        return {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay}

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        tune(self.optimizer_, **self._sgd())
        for rows in self._minibatches(len(X)):
            self._observe(X[rows], y[rows])
            self.steps_ += 1

    def _observe(self, X: Tensor, y: Tensor) -> None:
        # Grown per mini-batch, not per chunk: how the stream is cut must not decide which outputs a step sees.
        self.network_.grow(y.shape[1] if y.dim() == 2 else int(y.max()) + 1, self.optimizer_)
        sgd_step(self.network_, self.optimizer_, lambda: self._loss(X, y), len(X))

    def _loss(self, X: Tensor, y: Tensor) -> Tensor:
        return label_loss(self.network_(X), y)

    def _tags(self, y: Tensor) -> Tensor:
        """Return what a memory keeps of labels: codes as they are, rows of a matrix by their numbers."""
        return numbered(y, self.label_sets_) if self.multilabel_ else y

    def _labels(self, tags: Tensor) -> Tensor:
        return label_matrix(tags, self.label_sets_, len(self.labels_)) if self.multilabel_ else tags

    @torch.no_grad()
    def _scores(self, X: Tensor, task: object) -> Tensor:
        with mode(self.network_, training=False):
            return self._mask_to_task(self.network_(X), task)

    def _embed(self, X: Tensor) -> Tensor:
        with mode(self.network_, training=False):
            return self.network_.body(X)


class FineTuning(_Network):
    """Train one network on whatever comes: the lower bound, which forgets.

    Use it to see how much a remedy against forgetting gains on your stream.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        The body, whose output is the features under a linear head with one row per label seen (see
        :func:`build_body`). ``None``: an MLP.
    frozen : bool, default False
        Whether the head alone is trained: a linear probe.
    hidden : sequence of int, default (64, 64)
        Hidden widths of the default body; none for the inputs as they are.
    n_features : int, default 512
        Width of the features of a named or called body.
    lr, momentum, weight_decay : float, defaults 0.05, 0.9, 5e-4
        SGD. The learning rate was chosen among 0.01, 0.02, 0.05, 0.1 and 0.2 by the accuracy on held-out training rows
        of a stationary task.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`; batches of 16 in the preset ``small``.

    Attributes
    ----------
    network_ : GrowingClassifier
        The network.
    steps_ : int
        Optimiser steps so far.

    Examples
    --------
    After a second task the first is forgotten:

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(640, 4)) * 0.3
    >>> y = np.arange(640) % 2 + 2 * (np.arange(640) >= 320)
    >>> x[np.arange(640), y] += 2
    >>> model = FineTuning.from_preset("small").partial_fit(x[:320], y[:320])
    >>> before = (model.predict(x[:320]) == y[:320]).mean()
    >>> after = (model.partial_fit(x[320:], y[320:]).predict(x[:320]) == y[:320]).mean()
    >>> bool(after < before - 0.4)
    True
    """


class JointTraining(_Network):
    """Keep everything and train from scratch on all of it whenever predictions are wanted: the upper bound.

    It gets as many optimiser steps as the stream has had mini-batches, so it has the same gradient budget as the
    learners it is compared with, and no forgetting.

    Parameters
    ----------
    backbone, frozen, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    network_ : GrowingClassifier
        The network of the last training.
    steps_ : int
        Mini-batches seen so far.

    Examples
    --------
    >>> x = np.repeat(np.eye(4), 80, axis=0)
    >>> y = np.repeat(np.arange(4), 80)
    >>> model = JointTraining.from_preset("small").partial_fit(x[:160], y[:160]).partial_fit(x[160:], y[160:])
    >>> model.predict(np.eye(4)).tolist(), model.cost()["stored_samples"]
    ([0, 1, 2, 3], 4)
    """

    def _start(self) -> None:
        super()._start()
        self.trained_at_ = 0

    def _build(self) -> None:
        self.network_ = self._fresh_network(len(self.labels_))
        self.samples_ = Reservoir(None, self.seed)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        tags = self._tags(y)
        for rows in self._minibatches(len(X)):
            self.samples_.add(X[rows], tags[rows], keys=content_keys(X[rows], tags[rows]))
            self.steps_ += 1

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self._catch_up()
        return super()._scores(X, task)

    def _embed(self, X: Tensor) -> Tensor:
        self._catch_up()
        return super()._embed(X)

    def _check_answers(self, X: Tensor, task: object) -> None:
        """Nothing to check: the network is trained when a prediction is asked for."""

    def _catch_up(self) -> None:
        if self.trained_at_ == self.steps_:
            return
        network = self._fresh_network(len(self.labels_))
        X, tags = (t.to(self._device) for t in self.samples_.data())
        y, seed = self._labels(tags), derive(self.seed, "joint order")
        stage = f"training on all {len(X)} samples (inputs of up to {float(X.abs().max()):.3g})"
        with isolated(seed):
            optimizer = torch.optim.SGD(network.parameters(), **self._sgd())
            train_on(
                network, optimizer, X, y, label_loss,
                batch_size=self.batch_size, steps=self.steps_, seed=seed, stage=stage,
            )  # fmt: skip
        self.network_, self.trained_at_ = network, self.steps_

    def _state(self) -> Any:
        self._catch_up()
        return super()._state()

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: its network and every distinct sample."""
        self._check_fitted()
        self._catch_up()
        return super().cost()


class ExperienceReplay(_Network):
    """Train on every mini-batch together with as many samples from a bounded uniform memory.

    The plainest remedy against forgetting, and hard to beat where samples may be kept.

    Parameters
    ----------
    backbone, frozen, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    buffer : int, default 5000
        Distinct samples kept, a uniform sample of all seen.
    replay_size : int or None, default None
        Samples replayed per mini-batch; None for as many as the mini-batch has.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    network_ : GrowingClassifier
        The network.
    steps_ : int
        Optimiser steps so far.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(640, 4)) * 0.3
    >>> y = np.arange(640) % 2 + 2 * (np.arange(640) >= 320)
    >>> x[np.arange(640), y] += 2
    >>> models = ExperienceReplay.from_preset("small", buffer=50), FineTuning.from_preset("small")
    >>> for model in models:
    ...     _ = model.partial_fit(x[:320], y[:320]).partial_fit(x[320:], y[320:])
    >>> replayed, forgotten = ((model.predict(x) == y).mean() for model in models)
    >>> bool(replayed > forgotten + 0.2)
    True

    References
    ----------
    D. Rolnick, A. Ahuja, J. Schwarz, T. Lillicrap, G. Wayne. Experience Replay for Continual Learning. 2019,
    arXiv:1811.11682.
    """

    STRUCTURE: ClassVar[tuple[str, ...]] = (*_Network.STRUCTURE, "buffer")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"batch_size": 16, "buffer": 500}}

    buffer: int = whole(5000, "distinct samples kept")
    replay_size: int | None = whole(None, "samples replayed per mini-batch; None for as many as it has", optional=True)

    def _build(self) -> None:
        super()._build()
        self.memory_ = Reservoir(self.buffer, derive(self.seed, "memory"))

    def _observe(self, X: Tensor, y: Tensor) -> None:
        tags = self._tags(y)
        keys, seen = content_keys(X, tags), (X, tags)
        if len(self.memory_):
            generator = torch.Generator().manual_seed(derive(self.seed, "replay", self.steps_))
            X_m, y_m = self.memory_.sample(self.replay_size or len(X), generator)
            X, y = torch.cat([X, X_m.to(X)]), torch.cat([y, self._labels(y_m.to(tags))])
        super()._observe(X, y)
        self.memory_.add(*seen, keys=keys)


class LwF(_Network):
    """Learning without forgetting: keep the outputs of the network of the last task's end, on the new data.

    The loss of a mini-batch is CE(f(x), y) + ``lambda_`` * T^2 * KL(softmax(f_old(x) / T) || softmax(f(x) / T)), the
    second term over the labels that ``f_old`` knew. Pick it when task ends are announced and no sample may be kept.

    Parameters
    ----------
    backbone, frozen, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    lambda_ : float, at least 0, default 1.0
        Weight of the old outputs (the paper's lambda_o; 0 is fine-tuning).
    T : float, positive, default 2.0
        Temperature (the paper's).
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    network_ : GrowingClassifier
        The network.
    teacher_ : Snapshot or None
        The frozen network of the last :meth:`end_task`, and ``n_old_`` labels that it knew.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(64, 4)), np.arange(64) % 2
    >>> model = LwF.from_preset("small").partial_fit(x, y).end_task().partial_fit(x, y + 2)
    >>> model.teacher_.module.bias.shape, model.network_.bias.shape
    (torch.Size([2]), torch.Size([4]))

    References
    ----------
    Z. Li, D. Hoiem. Learning without Forgetting. 2016, arXiv:1606.09282.

    **Departures from the paper.** One head over all labels instead of one per task; no warm-up of the new head; the
    common T^2 in front of the distillation term, which the paper does not have.
    """

    needs: ClassVar[str] = "boundary"
    multilabel: ClassVar[bool] = False

    lambda_: float = real(1.0, "weight of the old outputs", at_least=0)
    T: float = real(2.0, "temperature of the old outputs", above=0)

    def _start(self) -> None:
        super()._start()
        self.n_old_ = 0

    def _build(self) -> None:
        super()._build()
        self.teacher_ = Snapshot(self._fresh_network(self.n_old_)) if self.n_old_ else None

    def end_task(self) -> Self:
        """Take the network as it is for the teacher of the next task."""
        self._check_fitted()
        self.teacher_, self.n_old_ = Snapshot(self.network_), len(self.labels_)
        return self

    def _loss(self, X: Tensor, y: Tensor) -> Tensor:
        f = self.network_(X)
        if self.teacher_ is None:
            return cross_entropy(f, y)
        old = self.teacher_(X)  # (n, n_old_)
        return cross_entropy(f, y) + self.lambda_ * kl_distillation(f[:, : self.n_old_], old, self.T, scale=True)


def _check_features(features: Any) -> None:
    if not isinstance(features, nn.Module) and not (isinstance(features, str) and features in ("raw", "random")):
        raise ValueError(f"features must be 'raw', 'random' or a torch module, got {features!r}")


class NearestClassMean(Embedding, ContinualClassifier):
    """Keep the mean of every class, on raw inputs or on the features of a frozen network, and take the nearest.

    It cannot forget and does not care how the stream is ordered: order and chunk sizes change nothing but rounding, and
    on raw inputs not even that for chunk sizes. Pick it first; a learner it beats has gained nothing from learning.

    Parameters
    ----------
    features : {"raw", "random"} or torch.nn.Module, default "raw"
        Raw inputs; a random, untrained MLP of widths ``hidden``; or a trained module that maps inputs to (n, d), which
        is copied, frozen, and used in evaluation mode.
    hidden : sequence of int, default (256,)
        Widths of the random network; the last is d.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`; one epoch is enough, for means.

    Attributes
    ----------
    sums_ : ndarray of shape (labels, d), float64
        Sum of the features of each label, in order of appearance.
    counts_ : ndarray of shape (labels,)
        How many there were.

    Examples
    --------
    >>> x, y = np.array([[0.0, 0], [0, 2], [8, 8], [8, 6]]), np.array(["low", "low", "high", "high"])
    >>> model = NearestClassMean().partial_fit(x[:2], y[:2]).partial_fit(x[2:], y[2:])
    >>> model.predict([[1.0, 1.0], [7.0, 9.0]]).tolist()
    ['low', 'high']
    """

    sees: ClassVar[str] = "test"
    STRUCTURE: ClassVar[tuple[str, ...]] = ("features", "hidden")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"small": {"batch_size": 16}}

    features: Any = free("raw", "'raw', 'random', or a trained module that maps inputs to (n, d)", _check_features)
    hidden: Sequence[int] = numbers((256,), "widths of the random network", at_least=1, integers=True)
    epochs: int = whole(1, "passes of fit over its data; one is enough, for means")

    def _start(self) -> None:
        self.sums_ = np.zeros((0, 0))
        self.counts_ = np.zeros(0, dtype=np.int64)

    def _build(self) -> None:
        body: nn.Module = nn.Flatten()
        if self.features != "raw":
            backbone = None if self.features == "random" else self.features
            body, _ = build_body(backbone, self.input_shape_, self.hidden, 0, derive(self.seed, "features"))
        self.encoder_ = body.to(self._device).eval().requires_grad_(False)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        codes, n = y.cpu().numpy(), len(self.labels_)
        # Row by row: adding up a chunk first would round differently for every way to cut the stream.
        for rows in self._minibatches(len(X)):
            z = self._encode_inputs(X[rows])
            self.sums_ = np.pad(self.sums_.reshape(-1, z.shape[1]), ((0, n - len(self.sums_)), (0, 0)))
            np.add.at(self.sums_, codes[rows], z)
        self.counts_ = np.pad(self.counts_, (0, n - len(self.counts_))) + np.bincount(codes, minlength=n)
        require_finite(self.sums_, "the sum of the features")

    def _embed(self, X: Tensor) -> Tensor:
        return self.encoder_(X)

    @torch.no_grad()
    def _encode_inputs(self, X: Tensor) -> np.ndarray:
        return self.encoder_(X).double().cpu().numpy()  # (n, d)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        means = torch.from_numpy(self.sums_ / self.counts_[:, None])  # (labels, d)
        distances = torch.cdist(torch.from_numpy(self._encode_inputs(X)), means)
        return self._mask_to_task(-distances, task).to(self._device)
