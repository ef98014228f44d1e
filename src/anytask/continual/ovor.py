"""OVOR: prompts of a frozen transformer trained on and on, and heads that answer weakly outside their own classes.

Departures from the paper: the passes with virtual outliers come when a task ends (:meth:`OVOR.end_task`), on rows of
that task that are kept until then and no longer. Each task has a head of its own instead of rows of one matrix, so that
another task's cannot move. Offsets are added to the features at the edge, as the text says; the released code draws
them around the origin (``center="origin"``). The rate follows the paper's cosine where ``rate`` says how long a task
is.

The published bounds of the energy and width of the offsets fit the logits and features of one encoder. On others the
bounds may be out of reach, or met by everything, and offsets of deviation 1 in hundreds of dimensions bury a vector of
length 1. ``outliers.units="task"`` counts bounds in the spread of the logits of the task's own rows, and offsets in the
deviation of their features; -2 and -0.5 are then the preset's bounds for logits of about 4. The spread is that of the
head when the passes begin: after few steps of training it is small, and so are the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from attrs import evolve
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.continual.parts.growing import GrowingHead
from anytask.continual.parts.prompt_schemes import SCHEMES, PromptPerTask, PromptScheme
from anytask.continual.parts.stream import Reservoir
from anytask.continual.parts.task_heads import TaskHeads
from anytask.continual.parts.virtual_outliers import energy_hinges, logit_spread, virtual_outliers
from anytask.core.rng import derive
from anytask.core.settings import Settings, choice, group, numbers, real, whole
from anytask.models.build import backbone_field, build_body
from anytask.parts.frozen_transformer import FrozenTransformer

__all__ = ["OVOR"]


class PromptSettings(Settings):
    """The prompts, as prefixes of keys and values in blocks of the transformer.

    Parameters
    ----------
    scheme : {"one", "none", "pool", "per task", "mixture"}
        One set for everything (OnePrompt), none, or those of L2P, DualPrompt and CODA-Prompt
        (:mod:`anytask.continual.parts.prompt_schemes`).
    general, general_length : sequence of int, int
        The first blocks' prompts, keys and values together; DualPrompt shares them among tasks.
    expert, expert_length : sequence of int, int
        The later blocks' prompts.
    """

    scheme: str = choice("one", ("one", "none", *list(SCHEMES)[1:]), "which prompts an input gets")
    general: Sequence[int] = numbers((0, 1), "blocks with short prompts", at_least=0, integers=True)
    general_length: int = whole(10, "their length, keys and values together; even")
    expert: Sequence[int] = numbers((2, 3, 4), "blocks with long prompts", at_least=0, integers=True)
    expert_length: int = whole(40, "their length; even")

    def _check_settings(self) -> None:
        if self.general_length % 2 or self.expert_length % 2:
            raise ValueError("general_length and expert_length must be even: half are keys, half are values")

    @property
    def lengths(self) -> dict[int, int]:
        """Block -> length."""
        general = dict.fromkeys(self.general, self.general_length)
        return general | dict.fromkeys(self.expert, self.expert_length)


class OutlierSettings(Settings):
    """Virtual outlier regularization: the passes of a head over features of its task and virtual outliers.

    Parameters
    ----------
    epochs : int
        Passes when a task ends; 0 for none.
    lambda_ : float
        Weight of the energy hinges; 0 leaves plain passes of the head.
    delta_in, delta_out : float
        Bounds of the energy -logsumexp inside (pushed below) and outside (pushed above).
    units : {"absolute", "task"}
        Whether bounds and offsets are energies and features, as published, which fit one encoder's scale, or are
        multiples of what the task's own rows have when the passes begin: bounds of the
        :func:`~anytask.continual.parts.virtual_outliers.logit_spread`, ``cov`` of the features' standard deviation.
    cov, k, select, sample_from, per_class, center
        Of :func:`~anytask.continual.parts.virtual_outliers.virtual_outliers`, and how many there are for each class.
    rows : int, optional
        Most rows of a task that are kept until it ends; None for all.
    """

    epochs: int = whole(10, "passes when a task ends", at_least=0)
    lambda_: float = real(0.1, "weight of the energy hinges", at_least=0)
    delta_in: float = real(-15.0, "bound of the energy inside")
    delta_out: float = real(-3.0, "bound of the energy outside")
    units: str = choice("absolute", ("absolute", "task"), "of bounds and offsets: as they are, or the task's own scale")
    cov: float = real(0.1, "standard deviation of the offsets", above=0)
    k: int = whole(50, "whose neighbor's distance is loneliness")
    select: int = whole(50, "features at the edge")
    sample_from: int = whole(600, "offsets of each")
    per_class: int = whole(40, "outliers for each class of the task")
    center: str = choice("boundary", ("boundary", "origin"), "what offsets are added to")
    batch_size: int = whole(128, "features of a mini-batch")
    rows: int | None = whole(None, "rows of a task that are kept until it ends; None for all", optional=True)


class CosineRate(Settings):
    """A rate that falls along a cosine to almost nothing over a task.

    Parameters
    ----------
    steps_per_epoch : int, optional
        Mini-batches in a pass; None for a constant rate.
    epochs : int
        Passes over a task, those with outliers included.

    Examples
    --------
    >>> rate = CosineRate(steps_per_epoch=1, epochs=50)
    >>> rate(1.0, 0), round(rate(1.0, 49), 6)
    (1.0, 0.015707)
    """

    steps_per_epoch: int | None = whole(None, "mini-batches in a pass; None for a constant rate", optional=True)
    epochs: int = whole(50, "passes over a task", at_least=2)

    def __call__(self, lr: float, steps: int) -> float:
        if self.steps_per_epoch is None:
            return lr
        epoch = min(steps // self.steps_per_epoch, self.epochs - 1)
        return lr * math.cos(99 * math.pi * epoch / (200 * (self.epochs - 1)))


class OVOR(TaskHeads):
    """OnePrompt with virtual outlier regularization (Huang et al., 2024).

    Learns new classes task by task on a frozen pretrained transformer, without storing old samples, and tells all
    classes apart without being told the task. One set of prompts serves all tasks; when a task ends its head is trained
    a little more on virtual outliers, so that it does not claim what belongs to others. Pick it when a good pretrained
    encoder of images or texts exists, classes keep coming, and old data may not be kept; where the encoder is poor,
    nothing helps, and where each class is one cloud of features,
    :class:`~anytask.continual.NearestClassMean` is simpler and more accurate.

    Parameters
    ----------
    backbone : None, str or torch.nn.Module
        A folder or name of an encoder of transformers (paper: ViT-B/16), or such an encoder. Any other module, and
        ``None`` for random features of width ``hidden``, are frozen features for ``prompts.scheme="none"``.
    hidden : int
        Width of the random features.
    pool : {"first", "mean"}
        The feature of an input: its first token (images), or the mean of its tokens (texts).
    prompts, outliers, rate
        :class:`PromptSettings`, :class:`OutlierSettings`, :class:`CosineRate`.
    lr : float
        Adam, begun anew for each task.
    repeated_classes : {"error", "allow"}
        What to do when a class of an ended task comes back: allowed, it also gets a row in the new task's head, which
        answers for it from then on.
    epochs, batch_size, seed, device
        See :class:`~anytask.continual.base.ContinualClassifier`.

    Attributes
    ----------
    prompts_, heads_ : torch.nn.Module, torch.nn.ModuleList
        What is learned: the prompts, and a head for each task.
    active_ : dict of str to float
        Shares of features inside and outside whose energy was on the wrong side of its bound in the last pass.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> centers = 3 * rng.normal(size=(4, 10))
    >>> model = OVOR.from_preset("small")
    >>> for labels in [(0, 1), (2, 3)]:
    ...     y = rng.choice(labels, 640)
    ...     _ = model.partial_fit(centers[y] + 0.3 * rng.normal(size=(640, 10)), y).end_task()
    >>> model.predict(centers).tolist()
    [0, 1, 2, 3]

    References
    ----------
    Huang, Chen, Hsu, 2024, "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental
    Learning", ICLR, arXiv:2402.04129.
    """

    lifted_by: ClassVar[str] = " (repeated_classes='allow' lifts this)"
    STRUCTURE: ClassVar[tuple[str, ...]] = (
        "backbone", "hidden", "pool", "prompts.scheme", "prompts.general", "prompts.general_length", "prompts.expert",
        "prompts.expert_length", "outliers.rows",
    )  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "backbone": None, "prompts": {"scheme": "none"}, "lr": 0.01, "batch_size": 32,
            "outliers": {"lambda_": 1.0, "delta_in": -8.0, "delta_out": -2.0, "cov": 1.0},
        }
    }  # fmt: skip

    backbone: Any = backbone_field("google/vit-base-patch16-224", "an encoder of transformers, or frozen features")
    hidden: int = whole(128, "width of the random features")
    pool: str = choice("first", ("first", "mean"), "the first token, or the mean of the tokens")
    prompts: PromptSettings = group(PromptSettings, "which prompts an input gets, and where")
    outliers: OutlierSettings = group(OutlierSettings, "the passes with virtual outliers")
    rate: CosineRate = group(CosineRate, "the learning rate over a task")
    batch_size: int = whole(128, "rows of a mini-batch")
    lr: float = real(1e-3, "learning rate of Adam", above=0)
    repeated_classes: str = choice("error", ("error", "allow"), "what to do when a class of an ended task comes back")

    # -- construction ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        super()._start()
        self.active_: dict[str, float] = {}

    def _build(self) -> None:
        encoder = self._pretrained()
        self.prompts_: PromptScheme | None = None
        if getattr(encoder, "_supports_attention_backend", False):
            self.network_ = FrozenTransformer(encoder)
            self._width = self.network_.width
            self.prompts_ = None if self.prompts.scheme == "none" else self._fresh_prompts(self.network_)
        elif self.prompts.scheme != "none":
            raise ValueError("prompts need an encoder of transformers: prompts={'scheme': 'none'} for other features")
        else:
            seed = derive(self.seed, "backbone")
            body, self._width = build_body(encoder, self.input_shape_, (self.hidden,), None, seed)
            self.network_ = body.eval().requires_grad_(False)
        self.memory_ = Reservoir(self.outliers.rows, derive(self.seed, "rows"))
        super()._build()

    def _fresh_prompts(self, network: FrozenTransformer) -> PromptScheme:
        lengths = self.prompts.lengths
        if beyond := [block for block in lengths if block >= network.depth]:
            raise ValueError(f"prompts for blocks {beyond}, and the encoder has {network.depth}, from 0 on")
        kind = SCHEMES[self.prompts.scheme]
        more = {"general": self.prompts.general} if kind is PromptPerTask else {}
        return kind(lengths, network.width, **more).to(self._device)

    def _add_task(self) -> GrowingHead:
        if self.prompts_ is not None:
            self.prompts_.begin_task()
            self.prompts_.to(self._device)
        return super()._add_task()

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        prompts = [] if self.prompts_ is None else [p for p in self.prompts_.parameters() if p.requires_grad]
        return torch.optim.Adam([*prompts, *self.heads_[-1].parameters()], self.lr)

    # -- training -------------------------------------------------------------------------------------------------

    def _learn(self, X: Tensor, y: Tensor, task: object) -> None:
        super()._learn(X, y, task)
        if self.outliers.epochs:
            self.memory_.add(X, y)

    def _observe(self, x: Tensor, y: Tensor) -> None:
        """Phase A: prompts and head by the cross-entropy over the classes of the task."""
        head, target = self._targets(y)
        z, extra = self._features(x, training=True)
        self._step(F.cross_entropy(head(z), target) + extra)

    def _rate(self) -> float:
        return self.rate(self.lr, self.steps_)

    def _end_task(self) -> None:
        """Phase B: the head alone, by cross-entropy and energy hinges, on features that stay as they are."""
        s = self.outliers
        if s.epochs and len(self.memory_):
            X, y = (part.to(self._device) for part in self.memory_.data())
            head, target = self._targets(y)
            with torch.no_grad():
                Z = torch.cat([self._features(x)[0] for x in X.split(max(self.batch_size, 16))])
                if s.units == "task":
                    spread, deviation = float(logit_spread(head(Z))), float(Z.var(0, correction=0).mean().sqrt())
                    cov = s.cov * max(deviation, 1e-9)
                    s = evolve(cast(Any, s), delta_in=s.delta_in * spread, delta_out=s.delta_out * spread, cov=cov)
            for epoch in range(s.epochs):
                generator = torch.Generator().manual_seed(derive(self.seed, "pass", len(self.heads_), epoch))
                self._pass(s, head, Z, target, generator)
        self.memory_.clear()
        super()._end_task()

    def _pass(
        self, s: OutlierSettings, head: GrowingHead, Z: Tensor, target: Tensor, generator: torch.Generator
    ) -> None:
        batches = torch.randperm(len(Z), generator=generator).split(s.batch_size)
        outside = virtual_outliers(
            Z, s.per_class * len(self.codes_[-1]), k=s.k, select=s.select, sample_from=s.sample_from, cov=s.cov,
            center=s.center, generator=generator,
        )  # fmt: skip
        outside = outside[torch.randperm(len(outside), generator=generator)]
        share = max(1, len(outside) // len(batches))
        wrong = {"inside": 0.0, "outside": 0.0}
        for i, rows in enumerate(batches):
            inside, around = head(Z[rows]), head(outside[i * share % len(outside) :][:share])
            s_in, s_out = -inside.logsumexp(1), -around.logsumexp(1)
            hinges = energy_hinges(s_in, s_out, s.delta_in, s.delta_out)
            self._step(F.cross_entropy(inside, target[rows]) + s.lambda_ * hinges)
            wrong["inside"] += float((s_in > s.delta_in).float().mean()) / len(batches)
            wrong["outside"] += float((s_out < s.delta_out).float().mean()) / len(batches)
        self.active_ = wrong

    # -- prediction -----------------------------------------------------------------------------------------------

    def _features(self, x: Tensor, training: bool = False) -> tuple[Tensor, Tensor | float]:
        """Return the features (n, d) of inputs under their prompts, and what the prompts add to the loss."""
        if not isinstance(self.network_, FrozenTransformer):
            with torch.no_grad():
                return self.network_(x), 0.0
        if self.prompts_ is None:
            with torch.no_grad():
                return self.network_(x).pooled(self.pool), 0.0
        query = None
        if self.prompts_.asks:
            with torch.no_grad():
                query = self.network_(x).pooled(self.pool)
        prompts, extra = self.prompts_(query, training)
        prefixes = {block: self.network_.as_prefix(prompt) for block, prompt in prompts.items()}
        return self.network_(x, prefixes).pooled(self.pool), extra

    def _scores(self, X: Tensor, task: object) -> Tensor:
        scores = torch.full((len(X), len(self.labels_)), -torch.inf, device=X.device)
        Z = torch.cat([self._features(x)[0] for x in X.split(max(self.batch_size, 16))])
        for codes, head in zip(self.codes_, self.heads_):
            scores[:, codes] = head(Z)
        return self._mask_to_task(scores, task)

    def _trained(self) -> Iterator[nn.Module]:
        return (module for module in (self.prompts_, self.heads_) if module is not None)

    def _repeatable(self) -> bool:
        return self.repeated_classes == "allow"
