"""CLR: one frozen convolutional network, and per task a filter for each of its channels.

Departures from the paper: without a task oracle an input is sent to the task whose mean of the anchor's features is
nearest (``router``; with ``predict(X, task=...)`` the oracle is used as in the paper). In a stream the rate falls only
where ``schedule`` says how long an epoch is, and there is no early stopping; :meth:`CLR.add_task` does both as
published. Where no pretrained network is at hand, ``anchor="first task"`` trains the network on the first task and
freezes it when the next one comes: the first task is then the anchor's own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.base import ContinualClassifier, _task_key
from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.reprogramming import Reprogrammed, reprogram
from anytask.continual.parts.sgd import ScheduleSettings, tune
from anytask.continual.parts.task_parameters import TaskParameters
from anytask.core.checks import require_finite
from anytask.core.errors import shown
from anytask.core.progress import Progress, heard
from anytask.core.rng import derive
from anytask.core.settings import choice, flag, group, numbers, real, whole
from anytask.models.build import backbone_field, build_body
from anytask.parts.distillation import Snapshot

__all__ = ["CLR"]

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


class RateSettings(ScheduleSettings):
    """The rate falls to a tenth every 20 epochs, where ``steps_per_epoch`` says how long these are."""

    milestones = (20.0, 40.0)
    gamma = 0.1


class CLR(ContinualClassifier):
    """Channel-wise Lightweight Reprogramming (Ge et al., 2023).

    A pretrained convolutional network, the *anchor*, is frozen for good. A task gets a 3 x 3 filter for each channel of
    its convolutions, normalization weights and statistics of its own, and a linear head: less than 1 % of a ResNet.
    Nothing is forgotten by construction, tasks may come in any order, come back, and be removed. Pick it for images
    when the task is known in training, and at test or recognizable by its looks; the stronger the anchor, the better.
    With few rows of each task, compare a linear probe (``placement="none", norm="frozen"``), which was as good or
    better on a real anchor.

    Parameters
    ----------
    backbone, n_features
        The anchor, from images to features (:func:`anytask.models.build.build_body`): a module of yours, a
        network's name, or a Hugging Face checkpoint (paper: ResNet-50); ``n_features`` for networks without a width of
        their own, and for a random linear layer above the features of those that have one.
    anchor : {"given", "first task"}
        Whether the backbone comes pretrained, or is trained on the first task and frozen when the second comes.
    image_shape : sequence of int, optional
        (height, width) or (channels, height, width) of flat inputs.
    placement : {"spatial", "all", "matched", "none"}
        Which convolutions get filters (:func:`reprogram`); "none" leaves normalization and head (an ablation).
    kernel : int, odd
        Edge of the filters.
    mixed : bool
        Add the filtered channels to the unfiltered ones, scaled by a learned factor, instead of replacing them.
    norm : {"adapt", "frozen"}
        Whether a task learns normalization weights and statistics of its own.
    momentum : float in (0, 1]
        Share of each batch in a task's running statistics, whatever the anchor has: EfficientNet's 0.01 would leave
        them behind what a few hundred steps learn.
    lr, lambda_, schedule
        Adam, begun anew for each task; weight of the sum of the norms ``||p||_2`` of filters, normalization weights and
        head; the rate over a task's steps.
    router : {"means", "none"}
        Who finds the task of an input when none is told: the nearest mean of anchor features, or nobody.
    router_rows : int
        Rows of a task, from its first on, that enter its mean.
    patience, validation : int, float
        Of :meth:`add_task`: passes without a better accuracy on a held-out share after which it stops.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    anchor_ : Snapshot
        The frozen network; ``None`` while it is trained on the first task.
    tasks_ : list
        Tasks in the order of their coming; ``own_`` and ``heads_`` are what they have learned.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(240) % 2
    >>> X = 0.3 * rng.normal(size=(240, 8, 8))
    >>> X[:, 2:4] += 2 * y[:, None, None]  # a bar, across or down
    >>> X[:, :, 2:4] += 2 * (1 - y[:, None, None])
    >>> model = CLR.from_preset("small", epochs=5)
    >>> for task, images in enumerate([X, -X]):
    ...     _ = model.add_task(images, y, task)
    >>> before = model.predict(X, task=0)
    >>> _ = model.add_task(X.transpose(0, 2, 1), y, "turned")
    >>> bool((model.predict(X, task=0) == before).all()), model.route(-X[:3]).tolist()
    (True, [1, 1, 1])

    References
    ----------
    Ge, Li, Li, Nayyeri, Xu, Itti, 2023, "CLR: Channel-wise Lightweight Reprogramming for Continual Learning", ICCV,
    arXiv:2307.11386.
    """

    sees: ClassVar[str] = "test"
    STRUCTURE: ClassVar[tuple[str, ...]] = (
        "backbone", "n_features", "anchor", "image_shape", "placement", "kernel", "mixed", "norm", "momentum"
    )  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"backbone": "small-cnn", "n_features": 64, "anchor": "first task", "lr": 5e-3, "batch_size": 64}
    }

    backbone: Any = backbone_field("efficientnet-lite0", "the anchor, from images to features")
    n_features: int | None = whole(None, "width of the features of an anchor that has none of its own", optional=True)
    anchor: str = choice("given", ("given", "first task"), "whether the anchor is pretrained, or by the first task")
    image_shape: Sequence[int] | None = numbers(
        None, "(height, width) or (channels, height, width) of flat inputs", at_least=1, integers=True, optional=True
    )
    placement: str = choice("spatial", ("spatial", "all", "matched", "none"), "which convolutions get filters")
    kernel: int = whole(3, "edge of the filters, odd")
    mixed: bool = flag(False, "add the filtered channels instead of replacing the unfiltered ones")
    norm: str = choice("adapt", ("adapt", "frozen"), "whether tasks have normalization of their own")
    momentum: float = real(0.1, "share of each batch in a task's running statistics", above=0, at_most=1)
    epochs: int = whole(60, "passes of fit and add_task over their data; partial_fit makes one")
    batch_size: int = whole(32, "rows of a mini-batch")
    lr: float = real(1e-3, "learning rate of Adam", above=0)
    lambda_: float = real(1e-5, "weight of the norms of a task's parameters", at_least=0)
    schedule: RateSettings = group(RateSettings, "learning rate over the steps of a task")
    router: str = choice("means", ("means", "none"), "who finds the task of an input when none is told")
    router_rows: int = whole(1000, "rows of a task that enter its mean")
    patience: int = whole(21, "passes without a better accuracy after which add_task stops")
    validation: float = real(0.1, "share of a task's rows that add_task holds out", above=0, below=1)

    def _check_settings(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a filter has a middle, got {self.kernel}")
        if self.placement == "none" and self.norm == "frozen" and self.mixed:
            raise ValueError("mixed=True adds filtered channels, and placement='none' has none")

    @property
    def needs(self) -> str:  # type: ignore[override]
        """The least that it must be told of the task: in training, and with ``router="none"`` at test as well."""
        return "test" if self.router == "none" else "train"

    # -- construction ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.tasks_: list[Any] = []
        self.codes_: list[list[int]] = []  # the codes of each task's outputs, in the order of their coming
        self.sums_: list[Tensor] = []  # of anchor features over each task's rows, (d,) float64
        self.counts_: list[int] = []
        self.current_: int | None = None  # the task whose optimizer is kept
        self.steps_ = 0  # of that task
        self.frozen_ = self.anchor == "given"

    def _build(self) -> None:
        seed = derive(self.seed, "anchor")
        network, self._width = build_body(self.backbone, self._image_shape(), (), self.n_features, seed)
        self.network_: nn.Module | None = network.to(self._device)
        self.anchor_: Snapshot | None = None
        self.own_, self.heads_ = nn.ModuleList(), nn.ModuleList()
        if self.frozen_:
            self._freeze()
        for i, codes in enumerate(self.codes_):
            self._add_modules(i).grow(len(codes))
        self.optimizer_ = None if self.current_ is None else self._fresh_optimizer()

    def _freeze(self) -> None:
        """Make the network the anchor, with the filters that leave it as it is."""
        network, self.network_ = copy.deepcopy(self.network_), None
        assert network is not None
        if self.placement != "none":
            reprogram(network, self.placement, self.kernel, self.mixed)
        if self.norm == "adapt":
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = self.momentum
        self.anchor_, self.frozen_ = Snapshot(network.to(self._device)), True

    def _add_modules(self, i: int) -> GrowingHead:
        head = GrowingHead(self._width, derive(self.seed, "head", str(self.tasks_[i]))).to(self._device)
        self.heads_.append(head)
        if self.anchor_ is not None:
            self.own_.append(TaskParameters(self.anchor_.module, self._own_names()))
        return head

    def _own_names(self) -> list[str]:
        """Return the names of what each task has copies of: filters, and normalization with its statistics."""
        assert self.anchor_ is not None
        kinds = (Reprogrammed, *_NORMS) if self.norm == "adapt" else (Reprogrammed,)
        owners = [(name, m) for name, m in self.anchor_.module.named_modules() if isinstance(m, kinds)]
        tensors = [(name, inner) for name, m in owners for inner in (*m._parameters, *m._buffers)]
        held = self.anchor_.module.state_dict()
        return [full for name, inner in tensors if (full := f"{name}.{inner}".lstrip(".")) in held]

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([p for module in self._learning() for p in module.parameters()], self.lr)

    def _learning(self) -> list[nn.Module]:
        """Return the modules of the current task."""
        i = self.current_
        assert i is not None
        return [self.heads_[i], self.own_[i] if self.network_ is None else self.network_]

    def _image_shape(self) -> tuple[int, ...]:
        """Return (channels, height, width) of an input."""
        if reason := self._no_images(self.input_shape_):
            raise ValueError(reason)
        shape = tuple(self.image_shape or self.input_shape_)
        return (1, *shape) if len(shape) == 2 else shape

    def _no_images(self, input_shape: tuple[int, ...]) -> str | None:
        shape = self.image_shape or input_shape
        if len(shape) in (2, 3) and np.prod(shape) == np.prod(input_shape):
            return None
        return (
            "CLR takes images (channels, height, width) or (height, width), got inputs of shape "
            f"{tuple(input_shape)}: pass image_shape for flat ones"
        )

    def refuses(self, stream: Any) -> str | None:
        """Return why it cannot learn from a stream with these facts, or None if it can."""
        return self._no_images(stream.input_shape)

    # -- training -------------------------------------------------------------------------------------------------

    def add_task(
        self, X: ArrayLike | Tensor, y: ArrayLike | Tensor, task: object, *, progress: Progress | None = None
    ) -> Self:
        """Learn one more task as published: ``epochs`` passes, a falling rate, early stopping, the best pass kept.

        A share ``validation`` of the rows is held out by class to judge the passes; where a class has a single row, or
        too few rows would be left, nothing is held out, and the passes are judged by the rows that were learned.

        Parameters
        ----------
        X, y, task
            As in :meth:`partial_fit`; a task that was not there before.
        progress : callable, optional
            Told the finished share.
        """
        X_, y_ = self._check_chunk(X, y, task)
        if self.__sklearn_is_fitted__() and _task_key(task) in self.tasks_:
            raise ValueError(f"task {task!r} was learned before: remove it first, or go on with partial_fit")
        rng, progress = np.random.default_rng(derive(self.seed, "add", str(task))), heard(progress)
        rows, held = _split(y_, self.validation, rng)
        schedule = clone(self.schedule).set_params(steps_per_epoch=-(-len(rows) // self.batch_size))
        best, kept, stale = -1.0, None, 0
        with self._refit() if not self.__sklearn_is_fitted__() else self._update():
            self._schedule: ScheduleSettings | None = schedule
            try:
                for epoch in range(1, self.epochs + 1):
                    order = rng.permutation(rows)
                    self.partial_fit(X_[torch.from_numpy(order)], y_[order], task=task)
                    accuracy = float(np.mean(np.asarray(self.predict(X_[held], task=task)) == y_[held]))
                    stale = 0 if accuracy > best else stale + 1
                    if accuracy > best:
                        best, kept = accuracy, [copy.deepcopy(m.state_dict()) for m in self._learning()]
                    if stale > self.patience:
                        break
                    progress(epoch / self.epochs)
            finally:
                self._schedule = None
            for module, state in zip(self._learning(), kept or []):
                module.load_state_dict(state)
            if not self.frozen_:  # the pass that was kept is another network than that of the last mean
                self._note(X_.to(self._device))
        progress(1.0)
        return self

    def remove_task(self, task: object) -> Self:
        """Take out what was learned for a task; the anchor and all other tasks stay as they are."""
        self._check_fitted()
        key = _task_key(task)
        if key not in self.tasks_:
            raise ValueError(f"task {task!r} was never learned; tasks: {self.tasks_}")
        if self.network_ is not None:
            raise ValueError(f"task {task!r} trains the anchor (anchor='first task'), and is the only one")
        i = self.tasks_.index(key)
        for column in (self.tasks_, self.codes_, self.sums_, self.counts_, self.own_, self.heads_):
            del column[i]
        del self.task_codes_[key]
        if self.current_ is not None:
            if self.current_ == i:
                self.current_ = self.optimizer_ = None
            elif self.current_ > i:
                self.current_ -= 1
        return self

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        self._open(task)
        for rows in self._minibatches(len(X)):
            self._observe(self._images(X[rows]), y[rows])
        self._note(X)

    def _open(self, task: object) -> None:
        """Go on with a task, or begin one from filters that leave the anchor as it is; with an optimizer of its own."""
        if task not in self.tasks_:
            if self.tasks_ and self.network_ is not None:
                self._freeze()
                self.own_.append(TaskParameters(self.anchor_.module, self._own_names()))  # type: ignore[union-attr]
            self.tasks_.append(task)
            self.codes_.append([])
            self.sums_.append(torch.zeros(self._width, dtype=torch.float64, device=self._device))
            self.counts_.append(0)
            self._add_modules(len(self.tasks_) - 1)
        if self.current_ != self.tasks_.index(task):
            self.current_, self.steps_ = self.tasks_.index(task), 0
            self.optimizer_ = self._fresh_optimizer()

    def _observe(self, x: Tensor, y: Tensor) -> None:
        i, optimizer = self.current_, self.optimizer_
        assert i is not None
        assert optimizer is not None
        codes, head = self.codes_[i], cast(GrowingHead, self.heads_[i])
        codes += [code for code in dict.fromkeys(y.tolist()) if code not in codes]
        head.grow(len(codes), optimizer)
        target = torch.tensor([codes.index(code) for code in y.tolist()], device=x.device)
        schedule = getattr(self, "_schedule", None) or self.schedule
        tune(optimizer, lr=schedule.rate(self.lr, self.steps_))
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            self._set_training(len(x))
            try:
                loss = F.cross_entropy(head(self._features(i, x)), target) + self.lambda_ * self._norms()
            finally:
                self._network.eval()
            loss.backward()
        optimizer.step()
        self.steps_ += 1

    def _norms(self) -> Tensor | float:
        """Return the sum of ``||p||_2`` over the task's filters, normalization weights and head, where it is not 0."""
        named = [(n, p) for module in self._learning() for n, p in module.named_parameters()]
        return sum((p.norm() for n, p in named if not n.endswith("/A") and bool(p.any())), 0.0)

    def _set_training(self, n: int) -> None:
        """Let normalization take the statistics of a batch of n; a frozen anchor's other layers stay as in a test."""
        self._network.train(not self.frozen_)
        for layer in self._network.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train(n > 1 and (not self.frozen_ or self.norm == "adapt"))

    @torch.no_grad()
    def _note(self, X: Tensor) -> None:
        """Take the first rows of the task into its mean; while the anchor is trained, those of the last chunk."""
        i = self.current_
        assert i is not None
        if not self.frozen_:
            self.sums_[i], self.counts_[i] = torch.zeros_like(self.sums_[i]), 0
        rows = X[: max(0, self.router_rows - self.counts_[i])]
        if self.router == "means" and len(rows):
            self.sums_[i] = self.sums_[i] + torch.cat(list(self._parts(rows, self._network))).double().sum(0)
            self.counts_[i] += len(rows)

    # -- prediction -----------------------------------------------------------------------------------------------

    def route(self, X: ArrayLike | Tensor) -> np.ndarray:
        """Return the task (n,) whose mean of anchor features is nearest to each input."""
        X_ = self._check_query(X)
        with torch.no_grad():
            found = torch.cat([self._route(part.to(self._device)) for part in X_.split(4096)]).tolist()
        kinds = {type(task) for task in self.tasks_}
        return np.array([self.tasks_[i] for i in found], dtype=None if len(kinds) == 1 else object)

    def _route(self, X: Tensor) -> Tensor:
        if not self.tasks_:
            raise ValueError("all tasks were removed: learn one before an input is sent to any")
        if len(self.tasks_) == 1:
            return torch.zeros(len(X), dtype=torch.long, device=X.device)
        if self.router == "none":
            raise ValueError("nobody finds the task of an input: pass predict(X, task=...), or router='means'")
        if not all(self.counts_):
            raise ValueError("a task was learned with router='none', so it has no mean: pass predict(X, task=...)")
        means = torch.stack([total / count for total, count in zip(self.sums_, self.counts_)])  # (T, d)
        z = torch.cat(list(self._parts(X, self._network))).double()
        return torch.cdist(require_finite(z, "an anchor feature"), means).argmin(1)

    def _scores(self, X: Tensor, task: object) -> Tensor:
        scores = torch.full((len(X), len(self.labels_)), -torch.inf, device=X.device)
        route = self._route(X) if task is None else torch.full((len(X),), self.tasks_.index(task), device=X.device)
        for i in route.unique().tolist():
            rows = (route == i).nonzero()[:, 0]
            z = torch.cat(list(self._parts(X[rows], lambda x, i=i: self._features(i, x))))
            scores[rows[:, None], torch.tensor(self.codes_[i], device=X.device)] = self.heads_[i](z)
        return scores

    def _features(self, i: int, x: Tensor) -> Tensor:
        """Return the features (n, d) of images, by a task's own parameters."""
        return self._network(x) if self.network_ is not None else self.own_[i](self._network, x)

    @property
    def _network(self) -> nn.Module:
        return self.network_ if self.anchor_ is None else self.anchor_.module  # type: ignore[return-value]

    def _parts(self, X: Tensor, features: Any) -> Iterator[Tensor]:
        """Give the features of inputs, a few images at a time: a network at full size does not take thousands."""
        self._network.eval()
        return (features(self._images(part)) for part in X.split(max(self.batch_size, 16)))

    def _images(self, X: Tensor) -> Tensor:
        return X.reshape(len(X), *self._image_shape())

    # -- what it costs --------------------------------------------------------------------------------------------

    def added(self, task: object) -> dict[str, float]:
        """Return how many numbers a task has of its own: ``filters``, ``normalization``, ``head``, and the ``share``
        of the anchor's parameters that filters and normalization make."""
        self._check_fitted()
        key = _task_key(task)
        if key not in self.tasks_:
            raise ValueError(f"task {shown(task)} was never trained; known tasks: {self.tasks_}")
        i = self.tasks_.index(key)
        own = {} if self.network_ is not None else dict(self.own_[i].named_parameters())
        filters = sum(p.numel() for name, p in own.items() if name.endswith(("/R", "/A")))
        rest = sum(p.numel() for p in own.values()) - filters
        anchor = sum(p.numel() for n, p in self._network.named_parameters() if not n.endswith((".R", ".A")))
        head = sum(p.numel() for p in self.heads_[i].parameters())
        share = (filters + rest) / anchor
        return {"filters": filters, "normalization": rest, "head": head, "share": share}


def _split(y: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to learn from and the rows held out, by class where every class has two."""
    rows, counts = np.arange(len(y)), np.unique(y, return_counts=True)[1]
    held = max(round(share * len(y)), len(counts))
    if counts.min() < 2 or len(y) - held < len(counts):
        return rows, rows
    seed = int(rng.integers(2**31))
    first, second = train_test_split(rows, test_size=held, stratify=y, random_state=seed)
    return first, second
