"""What every continual learner must be compared with: no remedy, everything kept, replay, distillation, class means."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from anytask.continual.base import ContinualClassifier, parameter_count
from anytask.continual.parts.distillation import Snapshot, kl_distillation
from anytask.continual.parts.sgd import mode, sgd_step, train_on
from anytask.continual.parts.stream import Reservoir, content_keys
from anytask.core.rng import derive, isolated
from anytask.models.build import Backbone, build_backbone

__all__ = ["ExperienceReplay", "FineTuning", "JointTraining", "LwF", "NearestClassMean"]


class GrowingClassifier(nn.Module):
    """A body, and a linear head with one row per class seen so far.

    Parameters
    ----------
    body : torch.nn.Module
        Maps (n, \\*input_shape) to (n, n_features).
    n_features : int
        Width of the features.
    seed : int
        Seed of the head's rows; the row of a class does not depend on when or with which others it came.
    """

    def __init__(self, body: nn.Module, n_features: int, seed: int) -> None:
        super().__init__()
        self.body, self.n_features, self.seed = body, n_features, seed
        self.weight = nn.Parameter(torch.empty(0, n_features))
        self.bias = nn.Parameter(torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:  # (n, *input_shape) -> (n, classes)
        return nn.functional.linear(self.body(x), self.weight, self.bias)

    def grow(self, n: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Add rows until there are ``n``; the optimiser's momentum of the rows that were there is kept."""
        have, bound = len(self.weight), 1 / math.sqrt(self.n_features)  # nn.Linear's initialisation
        rows = []
        for code in range(have, n):
            generator = torch.Generator().manual_seed(derive(self.seed, "head", code))
            rows.append((torch.rand(self.n_features + 1, generator=generator) * 2 - 1) * bound)
        if not rows:
            return
        new = torch.stack(rows).to(self.weight)  # (n - have, n_features + 1)
        for name, extra in (("weight", new[:, :-1]), ("bias", new[:, -1])):
            old = getattr(self, name)
            grown = nn.Parameter(torch.cat([old.detach(), extra]))
            setattr(self, name, grown)
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["params"] = [grown if p is old else p for p in group["params"]]
                state = optimizer.state.pop(old, {})
                if state.get("momentum_buffer") is not None:
                    pad = torch.zeros_like(extra)
                    optimizer.state[grown] = {**state, "momentum_buffer": torch.cat([state["momentum_buffer"], pad])}


class _Network(ContinualClassifier):
    """One network with a growing head, trained by SGD on every mini-batch: what all baselines but the means share."""

    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "test"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"batch_size": 128, "epochs": 10, "buffer": 5000},
        "small": {"batch_size": 16, "epochs": 10, "buffer": 500},
    }

    def _build(self, input_shape: tuple[int, ...]) -> None:
        self.network_ = self._fresh_network()
        self.optimizer_ = self._fresh_optimizer(self.network_)
        self.steps_ = 0

    def _fresh_network(self) -> GrowingClassifier:
        s, seed = self._settings(), derive(self.seed, "network")
        body, width = build_body(s.backbone, self.input_shape_, s.hidden, s.n_features, seed)
        return GrowingClassifier(body, width, seed).to(self.device_)

    def _fresh_optimizer(self, network: nn.Module) -> torch.optim.SGD:
        s = self._settings()
        return torch.optim.SGD(network.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        s = self._settings()
        for rows in self._minibatches(len(X)):
            self._observe(X[rows], y[rows], s)
            self.steps_ += 1

    def _observe(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        self._grow(y)
        sgd_step(self.network_, self.optimizer_, lambda: cross_entropy(self.network_(X), y), len(X))

    def _grow(self, y: Tensor) -> None:
        # Per mini-batch, not per chunk: how the stream is cut must not decide which outputs a step sees.
        self.network_.grow(int(y.max()) + 1, self.optimizer_)

    @torch.no_grad()
    def _scores(self, X: Tensor, task: object) -> Tensor:
        with mode(self.network_, training=False):
            return self._mask_to_task(self.network_(X), task)

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        if not s.lr > 0 or not 0 <= s.momentum < 1 or s.weight_decay < 0:
            raise ValueError(
                f"lr must be positive, momentum in [0, 1), weight_decay at least 0; got {s.lr!r}, {s.momentum!r}, "
                f"{s.weight_decay!r}"
            )

    def _state(self) -> dict[str, Any]:
        return {
            "network": dict(self.network_.state_dict()),
            "optimizer": self.optimizer_.state_dict(),
            "steps": self.steps_,
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        self.network_.grow(len(state["network"]["bias"]), self.optimizer_)
        self.network_.load_state_dict(state["network"])
        self.optimizer_.load_state_dict(state["optimizer"])
        self.steps_ = state["steps"]

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: its network."""
        self._check_fitted()
        n = parameter_count(self.network_)
        return {"trainable_parameters": n, "stored_parameters": n, "stored_samples": 0}


class FineTuning(_Network):
    """Train one network on whatever comes: the lower bound, which forgets.

    Use it to see how much a remedy against forgetting gains on your stream.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        The body, whose output is the features under a linear head with one row per label seen (see
        :func:`build_body`). ``None``: an MLP.
    hidden : sequence of int, default (64, 64)
        Hidden widths of the default body.
    n_features : int, optional
        Width of the features of a named or called body (default 512).
    lr, momentum, weight_decay : float, defaults 0.05, 0.9, 5e-4
        SGD. The learning rate was chosen among 0.01, 0.02, 0.05, 0.1 and 0.2 by the accuracy on held-out training rows
        of a stationary task.
    preset, epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`; batches of 128 (``"paper"``) or 16 (``"small"``).

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
    >>> model = FineTuning(preset="small").partial_fit(x[:320], y[:320])
    >>> before = (model.predict(x[:320]) == y[:320]).mean()
    >>> after = (model.partial_fit(x[320:], y[320:]).predict(x[:320]) == y[:320]).mean()
    >>> bool(after < before - 0.4)
    True
    """

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        hidden: Sequence[int] = (64, 64),
        n_features: int | None = None,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.hidden = hidden
        self.n_features = n_features
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device


class JointTraining(_Network):
    """Keep everything and train from scratch on all of it whenever predictions are wanted: the upper bound.

    It gets as many optimiser steps as the stream has had mini-batches, so it has the same gradient budget as the
    learners it is compared with, and no forgetting.

    Parameters
    ----------
    backbone, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    preset, epochs, batch_size, seed, device
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
    >>> model = JointTraining(preset="small").partial_fit(x[:160], y[:160]).partial_fit(x[160:], y[160:])
    >>> model.predict(np.eye(4)).tolist(), model.cost()["stored_samples"]
    ([0, 1, 2, 3], 4)
    """

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        hidden: Sequence[int] = (64, 64),
        n_features: int | None = None,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.hidden = hidden
        self.n_features = n_features
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def _build(self, input_shape: tuple[int, ...]) -> None:
        super()._build(input_shape)
        self._all = Reservoir(None, self.seed)
        self._trained_at = -1

    def _observe(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        self._all.add(X, y, keys=content_keys(X, y))

    def _scores(self, X: Tensor, task: object) -> Tensor:
        self._train()
        return super()._scores(X, task)

    def _train(self) -> None:
        if self._trained_at == self.steps_:
            return
        s, network = self._settings(), self._fresh_network()
        X, y = (t.to(self.device_) for t in self._all.data())
        network.grow(int(y.max()) + 1)
        seed = derive(self.seed, "joint order")
        with isolated(seed):
            optimizer = self._fresh_optimizer(network)
            train_on(network, optimizer, X, y, cross_entropy, batch_size=s.batch_size, steps=self.steps_, seed=seed)
        self.network_, self.optimizer_, self._trained_at = network, optimizer, self.steps_

    def _state(self) -> dict[str, Any]:
        self._train()
        return {**super()._state(), "all": self._all.state()}

    def _load_state(self, state: dict[str, Any]) -> None:
        super()._load_state(state)
        self._all.load_state(state["all"])
        self._trained_at = self.steps_

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: its network and every distinct sample."""
        self._check_fitted()
        n = sum(p.numel() for p in self.network_.body.parameters()) + len(self._codes) * (self.network_.n_features + 1)
        return {"trainable_parameters": n, "stored_parameters": n, "stored_samples": len(self._all)}


class ExperienceReplay(_Network):
    """Train on every mini-batch together with as many samples from a bounded uniform memory.

    The plainest remedy against forgetting, and hard to beat where samples may be kept.

    Parameters
    ----------
    backbone, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    buffer : int, optional
        Distinct samples kept, a uniform sample of all seen (5000, or 500 in ``"small"``).
    replay_size : int, optional
        Samples replayed per mini-batch; by default as many as the mini-batch has.
    preset, epochs, batch_size, seed, device
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
    >>> models = ExperienceReplay(preset="small", buffer=50), FineTuning(preset="small")
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

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        hidden: Sequence[int] = (64, 64),
        n_features: int | None = None,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        buffer: int | None = None,
        replay_size: int | None = None,
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.hidden = hidden
        self.n_features = n_features
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.buffer = buffer
        self.replay_size = replay_size
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def _build(self, input_shape: tuple[int, ...]) -> None:
        super()._build(input_shape)
        self._memory = Reservoir(self._settings().buffer, derive(self.seed, "memory"))

    def _observe(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        keys, seen = content_keys(X, y), (X, y)
        if len(self._memory):
            generator = torch.Generator().manual_seed(derive(self.seed, "replay", self.steps_))
            X_m, y_m = self._memory.sample(s.replay_size or len(X), generator)
            X, y = torch.cat([X, X_m.to(X)]), torch.cat([y, y_m.to(y)])
        super()._observe(X, y, s)
        self._memory.add(*seen, keys=keys)

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        for name, value in (("buffer", s.buffer), ("replay_size", s.replay_size or 1)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "memory": self._memory.state()}

    def _load_state(self, state: dict[str, Any]) -> None:
        super()._load_state(state)
        self._memory.load_state(state["memory"])

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: its network and the memory."""
        return {**super().cost(), "stored_samples": len(self._memory)}


class LwF(_Network):
    """Learning without forgetting: keep the outputs of the network of the last task's end, on the new data.

    The loss of a mini-batch is CE(f(x), y) + ``lambda_`` * T^2 * KL(softmax(f_old(x) / T) || softmax(f(x) / T)), the
    second term over the labels that ``f_old`` knew. Pick it when task ends are announced and no sample may be kept.

    Parameters
    ----------
    backbone, hidden, n_features, lr, momentum, weight_decay
        As in :class:`FineTuning`.
    lambda_ : float, at least 0, default 1.0
        Weight of the old outputs (the paper's lambda_o; 0 is fine-tuning).
    T : float, positive, default 2.0
        Temperature (the paper's).
    preset, epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    network_ : GrowingClassifier
        The network.
    teacher_ : Snapshot or None
        The frozen network of the last :meth:`end_task`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(64, 4)), np.arange(64) % 2
    >>> model = LwF(preset="small").partial_fit(x, y).end_task().partial_fit(x, y + 2)
    >>> model.teacher_.module.bias.shape, model.network_.bias.shape
    (torch.Size([2]), torch.Size([4]))

    References
    ----------
    Z. Li, D. Hoiem. Learning without Forgetting. 2016, arXiv:1606.09282.

    **Departures from the paper.** One head over all labels instead of one per task; no warm-up of the new head; the
    common T^2 in front of the distillation term, which the paper does not have.
    """

    needs: ClassVar[str] = "boundary"

    def __init__(
        self,
        backbone: Backbone = None,
        *,
        hidden: Sequence[int] = (64, 64),
        n_features: int | None = None,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        lambda_: float = 1.0,
        T: float = 2.0,
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.backbone = backbone
        self.hidden = hidden
        self.n_features = n_features
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.lambda_ = lambda_
        self.T = T
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def _build(self, input_shape: tuple[int, ...]) -> None:
        super()._build(input_shape)
        self.teacher_: Snapshot | None = None

    def end_task(self) -> Self:
        """Take the network as it is for the teacher of the next task."""
        self._check_fitted()
        self.teacher_ = Snapshot(self.network_)
        return self

    def _observe(self, X: Tensor, y: Tensor, s: SimpleNamespace) -> None:
        self._grow(y)
        teacher = self.teacher_
        if teacher is None:
            super()._observe(X, y, s)
            return
        old = teacher(X)  # (n, labels of the old tasks)

        def loss() -> Tensor:
            f = self.network_(X)
            return cross_entropy(f, y) + s.lambda_ * kl_distillation(f[:, : old.shape[1]], old, s.T, scale=True)

        sgd_step(self.network_, self.optimizer_, loss, len(X))

    def _check_params(self) -> None:
        super()._check_params()
        s = self._settings()
        if s.lambda_ < 0 or s.T <= 0:
            raise ValueError(f"lambda_ must be at least 0 and T positive, got {s.lambda_!r} and {s.T!r}")

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "teacher": None if self.teacher_ is None else dict(self.teacher_.module.state_dict()),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        super()._load_state(state)
        if state["teacher"] is not None:
            teacher = self._fresh_network()
            teacher.grow(len(state["teacher"]["bias"]))
            teacher.load_state_dict(state["teacher"])
            self.teacher_ = Snapshot(teacher)

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: its network and the teacher."""
        cost = super().cost()
        teacher = 0 if self.teacher_ is None else parameter_count(self.teacher_.module)
        return {**cost, "stored_parameters": cost["stored_parameters"] + teacher}


class NearestClassMean(ContinualClassifier):
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
    preset, epochs, batch_size, seed, device
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

    needs: ClassVar[str] = "none"
    sees: ClassVar[str] = "test"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"batch_size": 128, "epochs": 1},
        "small": {"batch_size": 16, "epochs": 1},
    }

    def __init__(
        self,
        features: str | nn.Module = "raw",
        *,
        hidden: Sequence[int] = (256,),
        preset: str = "paper",
        epochs: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.hidden = hidden
        self.preset = preset
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.device = device

    def _build(self, input_shape: tuple[int, ...]) -> None:
        s = self._settings()
        if s.features == "raw":
            body: nn.Module = nn.Flatten()
            width = self.n_features_in_
        else:
            backbone = None if s.features == "random" else s.features
            body, width = build_body(backbone, input_shape, s.hidden, None, derive(self.seed, "features"))
        self.encoder_ = body.to(self.device_).eval().requires_grad_(False)
        self.sums_ = np.zeros((0, width))
        self.counts_ = np.zeros(0, dtype=np.int64)

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        codes, more = y.cpu().numpy(), len(self._codes) - len(self.counts_)
        # Row by row: adding up a chunk first would round differently for every way to cut the stream.
        self.sums_ = np.pad(self.sums_, ((0, more), (0, 0)))
        self.counts_ = np.pad(self.counts_, (0, more))
        for rows in self._minibatches(len(X)):
            np.add.at(self.sums_, codes[rows], self._encode_inputs(X[rows]))
        np.add.at(self.counts_, codes, 1)

    @torch.no_grad()
    def _encode_inputs(self, X: Tensor) -> np.ndarray:
        return self.encoder_(X).double().cpu().numpy()  # (n, d)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        means = torch.from_numpy(self.sums_ / self.counts_[:, None])  # (labels, d)
        distances = torch.cdist(torch.from_numpy(self._encode_inputs(X)), means)
        return self._mask_to_task(-distances, task).to(self.device_)

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.features, nn.Module) and self.features not in ("raw", "random"):
            raise ValueError(f"features must be 'raw', 'random' or a torch module, got {self.features!r}")

    def _state(self) -> dict[str, Any]:
        return {"encoder": dict(self.encoder_.state_dict()), "sums": self.sums_, "counts": self.counts_}

    def _load_state(self, state: dict[str, Any]) -> None:
        self.encoder_.load_state_dict(state["encoder"])
        self.sums_, self.counts_ = state["sums"], state["counts"]

    def cost(self) -> dict[str, int]:
        """Return what the model keeps: the frozen network, and one mean per label."""
        self._check_fitted()
        stored = parameter_count(self.encoder_) + self.sums_.size
        return {"trainable_parameters": 0, "stored_parameters": stored, "stored_samples": 0}


def build_body(
    backbone: Backbone, input_shape: tuple[int, ...], hidden: Sequence[int], n_features: int | None, seed: int
) -> tuple[nn.Module, int]:
    """Return a fresh module that maps (n, \\*input_shape) to features (n, d), and d.

    Parameters
    ----------
    backbone : None, str, torch.nn.Module or callable
        ``None``: an MLP of widths ``hidden``, whose last hidden layer is the features. A module: a copy; d is what it
        gives. A name or a callable: see :func:`anytask.models.build.build_backbone`, with ``n_features`` outputs.
    input_shape : tuple of int
        Shape of one input.
    hidden : sequence of int
        Widths of the MLP.
    n_features : int or None
        d for names and callables (default 512).
    seed : int
        Seed of the initialisation.
    """
    if backbone is None:
        if not hidden:
            return nn.Flatten(), math.prod(input_shape)
        mlp = build_backbone(None, input_shape, hidden[-1], seed=seed, hidden=hidden[:-1])
        return nn.Sequential(mlp, nn.ReLU()), hidden[-1]
    width = n_features or 512
    if isinstance(backbone, nn.Module):
        probe = copy.deepcopy(backbone).cpu().eval()
        with torch.no_grad(), isolated(seed):
            try:
                out = probe(torch.zeros(2, *input_shape))
            except Exception as error:
                raise ValueError(f"the backbone fails on inputs of shape {input_shape}: {error}") from error
        if out.ndim != 2:
            raise ValueError(f"the backbone maps 2 inputs to shape {tuple(out.shape)}, wanted (2, n_features)")
        width = out.shape[1]
    return build_backbone(backbone, input_shape, width, seed=seed), width
